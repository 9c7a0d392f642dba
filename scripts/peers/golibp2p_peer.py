"""A real go-libp2p node with its Kademlia DHT in this process, driven by JSON lines.

    python -m scripts.peers.golibp2p_peer [--host ADDRESS] [--tcp PORT] [--dht lan|wan|PROTOCOL PREFIX] ...

go-libp2p comes as the shared library of the PyPI package `libp2p-go`. Runs in the environment that
`scripts/peers/install` makes for it. See peer.py for the protocol and `COMMANDS` for the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

# The package is `libp2p` here, too: another one than the py-libp2p of the rest of this repository, which is all that
# pyright sees.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportCallIssue=false
from libp2p import (
    DefaultMuxers,
    DefaultSecurity,
    DefaultTransports,
    DisableRelay,
    Host,
    Identity,
    LibP2PError,
    ListenAddrStrings,
    PrivateNetwork,
    SecurityNoise,
    SecurityTls,
)
from libp2p.cid import Cid
from libp2p.crypto import KeyType, crypto_generate_keypair
from libp2p.dht import DHT, DhtModeEnum, Mode, ProtocolExtension, ProtocolPrefix
from libp2p.mdns import MdnsService
from libp2p.peer import AddrInfo, Peer, addr_info_from_p2p_addr
from libp2p.routed_host import RoutedHost

_CALL_SECONDS = 600.0
#: Calls into Go block a thread each and cannot be cancelled.
_THREADS = 64
_MDNS_SERVICE = "_p2p._udp"

Request = dict[str, Any]


class Node:
    """The host, its DHT, and the host that finds addresses by the DHT."""

    def __init__(self, host: Any, dht: Any) -> None:
        self.host = host
        self.dht = dht
        self.routed = RoutedHost(host, dht)

    @property
    def peer_id(self) -> str:
        """Peer ID, base58."""
        return self.host.id.string

    def addrs(self) -> list[str]:
        """Where it listens, each ending in its peer ID."""
        return [f"{addr}/p2p/{self.peer_id}" for addr in self.host.addrs]


Command = Callable[[Node, Request], Awaitable[dict[str, Any]]]


def main() -> None:
    """Starts the node and serves requests until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tcp", type=int, default=0, help="TCP port; 0: a free one")
    parser.add_argument("--dht", default="lan", help="lan, wan, or the protocol prefix of another one")
    parser.add_argument("--dht-mode", choices=["server", "client"], default="server")
    parser.add_argument("--security", choices=["default", "tls", "noise"], default="default")
    parser.add_argument("--swarm-key", type=Path, help="file with the key of a private network")
    parser.add_argument("--mdns", action="store_true")
    options = parser.parse_args()
    answers = _take_stdout()
    asyncio.run(_run(options, answers))
    # Go's threads would hold up an ordinary exit, and calls still running would hold it up for ever.
    os._exit(0)


def _take_stdout() -> TextIO:
    """Moves the answers off descriptor 1, because Go may print there."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


async def _run(options: argparse.Namespace, answers: TextIO) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        node = await _start(options)
    except (LibP2PError, OSError, ValueError) as error:
        say({"event": "fatal", "error": str(error)})
        return
    service = None
    if options.mdns:

        async def discovered(info: Any) -> None:
            say({"event": "discovery", "peer": info.id.string, "addrs": list(info.addrs)})

        service = MdnsService(node.host, _MDNS_SERVICE, discovered)
        service.start()
    ready = {"pid": os.getpid(), "peer_id": node.peer_id, "addrs": node.addrs()}
    say({"event": "ready", "impl": "go-libp2p 0.24.2, go-libp2p-kad-dht 0.20.0", **ready})
    ended = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(request: Request) -> None:
        try:
            command = COMMANDS[request["cmd"]]
            result = await asyncio.wait_for(command(node, request), request.get("timeout", _CALL_SECONDS))
        except KeyError as error:
            say({"id": request["id"], "ok": False, "error": f"unknown command or missing argument: {error}"})
        except asyncio.TimeoutError:
            say({"id": request["id"], "ok": False, "error": f"{request['cmd']}: timed out"})
        except (LibP2PError, OSError, ValueError) as error:
            say({"id": request["id"], "ok": False, "error": f"{request['cmd']}: {error}"})
        else:
            say({"id": request["id"], "ok": True, "result": result})

    def take(line: str) -> None:
        request = json.loads(line)
        if request["cmd"] == "stop":
            ended.set()
            return
        task = loop.create_task(answer(request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(take, line)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()
    if service is not None:
        service.stop()


async def _start(options: argparse.Namespace) -> Node:
    key, _ = crypto_generate_keypair(KeyType.Ed25519, 0)
    settings = [
        Identity(key),
        ListenAddrStrings(f"/ip4/{options.host}/tcp/{options.tcp}"),
        DefaultTransports,
        DefaultMuxers,
        {"tls": SecurityTls, "noise": SecurityNoise}.get(options.security, DefaultSecurity),
        DisableRelay,
    ]
    if options.swarm_key:
        text = options.swarm_key.read_text(encoding="utf-8").split()
        settings.append(PrivateNetwork(bytes.fromhex(text[2]), True))
    host = Host(*settings)
    mode = DhtModeEnum.ModeServer if options.dht_mode == "server" else DhtModeEnum.ModeClient
    protocol = {"lan": ["/ipfs", "/lan"], "wan": ["/ipfs"]}.get(options.dht, [options.dht])
    naming = [ProtocolPrefix(protocol[0]), *(ProtocolExtension(each) for each in protocol[1:])]
    dht = await DHT.new(host, Mode(mode), *naming)
    await dht.bootstrap()
    return Node(host, dht)


async def _id(node: Node, request: Request) -> dict[str, Any]:
    return {"peer_id": node.peer_id, "addrs": node.addrs()}


async def _connect(node: Node, request: Request) -> dict[str, Any]:
    await node.host.connect(addr_info_from_p2p_addr(request["addr"]))
    await node.dht.bootstrap()  # the table is refreshed at once, not at the next interval
    return {}


async def _provide(node: Node, request: Request) -> dict[str, Any]:
    began = time.monotonic()
    await node.dht.provide(Cid.decode(request["cid"]), True)
    return {"seconds": time.monotonic() - began}


async def _find_providers(node: Node, request: Request) -> dict[str, Any]:
    found = await node.dht.find_providers(Cid.decode(request["cid"]))
    return {"providers": [{"id": info.id.string, "addrs": list(info.addrs)} for info in found]}


async def _find_peer(node: Node, request: Request) -> dict[str, Any]:
    """The library exports no lookup of a peer, but connects to one whose addresses the DHT knows."""
    await node.routed.connect(AddrInfo(Peer.decode(request["peer"]), []))
    return {"addrs": list(node.host.peer_store.addrs(request["peer"]))}


async def _put_value(node: Node, request: Request) -> dict[str, Any]:
    await node.dht.put_value(bytes.fromhex(request["key"]), bytes.fromhex(request["value"]))
    return {}


async def _get_value(node: Node, request: Request) -> dict[str, Any]:
    value = await node.dht.get_value(bytes.fromhex(request["key"]))
    return {"value": None if value is None else value.hex()}


COMMANDS: dict[str, Command] = {
    "id": _id,
    "connect": _connect,
    "provide": _provide,
    "find_providers": _find_providers,
    "find_peer": _find_peer,
    "put_value": _put_value,
    "get_value": _get_value,
}


if __name__ == "__main__":
    main()
