"""A host that looks for peers by mDNS, in a process of its own: `python -m tests.interop.mdns_node [multiaddr ...]`.

One JSON object a line each way. It says `ready`, `found`, `gone` and `connected` by itself; `{"cmd": "status"}` and
`{"cmd": "connect", "addrs": [...]}` are answered. It leaves in order when its input ends. It looks at the network
interfaces more often than others, so that nobody waits half a minute for it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.mdns import Mdns, limits
from kachery_p2p.transport.host import Host

limits.LOOK_INTERVAL = 0.2


def say(event: str, **message: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({"event": event, **message}) + "\n")
    sys.stdout.flush()


async def answer(request: dict[str, Any], host: Host, mdns: Mdns) -> None:
    """Do as asked."""
    if request["cmd"] == "status":
        say("status", **mdns.status())
    elif request["cmd"] == "connect":
        try:
            await host.connect(request["addrs"][0], request["addrs"], timeout=60)
            say("dialled", error=None)
        except KacheryError as error:
            say("dialled", error=str(error))


async def main(listen: list[str]) -> None:
    """Run until the input ends."""
    host = Host(os.urandom(32), listen or ["/ip4/0.0.0.0/tcp/4001"])
    host.on_connected(lambda peer: say("connected", peer=peer))
    mdns = Mdns(
        peer_id=host.peer_id,
        addresses=host.listen_addresses,
        on_found=lambda peer, addrs: say("found", peer=peer, addrs=addrs),
        on_gone=lambda peer: say("gone", peer=peer),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await nursery.start(mdns.run)
        say("ready", peer=host.peer_id)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            await answer(json.loads(line), host, mdns)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
