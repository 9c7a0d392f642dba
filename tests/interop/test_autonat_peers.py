"""AutoNAT with a real Kubo, in network namespaces: it dials us back, and we dial it back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from scripts.lab import Host, Lab, unavailable
from scripts.peers import Kubo
from tests.helpers.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent
PORT = 4001

#: One of our nodes, as far as reachability goes. Arguments: peers to connect to. It prints its status when it changes.
NODE = """
import json, os, sys
import trio
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.nat.reachability import Reachability

async def main():
    host = Host(os.urandom(32), ["/ip4/0.0.0.0/tcp/4001"])
    reach = Reachability(host, map_ports=False)
    host.advertise = reach.advertise
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_input_ends, nursery.cancel_scope)
        await nursery.start(host.run)
        await nursery.start(reach.run)
        for peer in sys.argv[1:]:
            await host.connect(peer)
        last = ""
        while True:
            told = json.dumps({"id": host.addresses()[0], "told": host.transport_addresses(), **reach.status()})
            if told != last:
                last = told
                print(told, flush=True)
            await trio.sleep(0.2)

async def until_input_ends(scope):
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    scope.cancel()

trio.run(main)
"""


class Node:
    """One of our nodes on a machine of the lab."""

    def __init__(self, lab: Lab, host: Host, *peers: str) -> None:
        with host.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-c", NODE, *peers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        lab.end_with(self._process)
        self._lines: Queue[dict[str, Any]] = Queue()
        self.status: dict[str, Any] = {}
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def until(self, fits: Callable[[dict[str, Any]], object], seconds: float = PATIENCE) -> dict[str, Any]:
        """The first status that fits, the present one included."""
        end = time.monotonic() + seconds
        while not (self.status and fits(self.status)):
            try:
                self.status = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"it did not come to that; last: {json.dumps(self.status, indent=1)}") from None
        return self.status


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"no lab here: {reason}")
    with Lab() as made:
        yield made


@pytest.mark.slow
@pytest.mark.usefixtures("_peers_present")
def test_with_kubo(lab: Lab) -> None:
    """Kubo tells a public node of ours that it is public, and one behind a NAT that it is not; and it asks us, too."""
    internet, home = lab.network("11.0.0.0/24"), lab.network("192.168.7.0/24")
    router = lab.router("router", inside=home, outside=internet)
    relay, open_host = lab.host("kubo", internet), lab.host("open", internet)
    hidden_host = lab.host("hidden", home)
    with relay.entered():
        options = {"host": relay.address, "tcp": PORT, "set": ['AutoNAT={"ServiceMode":"enabled"}']}
        server = Kubo(reachability="public", **options)
    other_host = lab.host("other", internet)
    with server, other_host.entered(), Kubo(host=other_host.address, tcp=PORT) as asking:
        open_node = Node(lab, open_host, server.addrs[0])
        hidden_node = Node(lab, hidden_host, server.addrs[0])
        address = f"/ip4/{open_host.address}/tcp/{PORT}"

        status = open_node.until(lambda said: said["state"] != "unknown")
        assert status["why"] == f"1 of 1 peers could dial back {address}"
        assert status["told"][0] == address

        status = hidden_node.until(lambda said: said["state"] != "unknown")
        assert status["state"] == "private"
        assert "1 of 1 peers could not dial back" in status["why"]
        assert router.addresses[1] not in " ".join(status["told"])

        # A Kubo that does not know whether it is public asks the first server it meets, 15 s after its start.
        asking.connect(open_node.status["id"])
        open_node.until(lambda said: said["dial_back_server"]["reached"])


@pytest.mark.slow
def test_among_ourselves(lab: Lab) -> None:
    """The same with our own server, which speaks version 2."""
    internet, home = lab.network("11.0.0.0/24"), lab.network("192.168.7.0/24")
    lab.router("router", inside=home, outside=internet)
    server_host, open_host, hidden_host = lab.host("a", internet), lab.host("b", internet), lab.host("c", home)
    server = Node(lab, server_host)
    # Nobody has checked it, but its address is public: it serves.
    status = server.until(lambda said: said["dial_back_server"]["enabled"])
    assert status["state"] == "unknown"
    open_node, hidden_node = (Node(lab, each, status["id"]) for each in (open_host, hidden_host))
    address = f"/ip4/{open_host.address}/tcp/{PORT}"
    assert open_node.until(lambda said: said["state"] == "public")["told"][0] == address
    assert hidden_node.until(lambda said: said["state"] == "private")["errors"] == []
    # The other way about: whom we dialled back can dial us back.
    assert server.until(lambda said: said["state"] == "public")["why"].startswith("1 of 1")
