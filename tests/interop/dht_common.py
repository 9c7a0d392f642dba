"""Nodes of our DHT, and CIDs to look for, for the interoperability tests of the DHT."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import trio

from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.transport.host import Host
from scripts.peers import Peer
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import run_dht


async def start_dht(nursery: trio.Nursery, *, listen: str = "/ip4/127.0.0.1/tcp/0", **options: Any) -> tuple[Host, DHT]:
    """A host of ours with its LAN DHT, running."""
    host = Host(os.urandom(32), (listen,))
    await nursery.start(host.run)
    return host, await run_dht(nursery, host, **{"lan": True, **options})


def new_multihash() -> bytes:
    """Of a block that nobody has."""
    return b"\x12\x20" + sha256(os.urandom(32)).digest()


def cid_text(multihash: bytes) -> str:
    """A CIDv1 of a raw block."""
    return "b" + base64.b32encode(b"\x01\x55" + multihash).decode().lower().rstrip("=")


async def announce(dht: DHT, multihash: bytes, *, but: Sequence[Peer] = ()) -> int:
    """Tell the nearest peers, but for some, that we have a block; how many took it."""
    left_out = {peer_bytes(peer.peer_id) for peer in but}
    nearest = [peer for peer in await dht.closest(multihash) if peer.id not in left_out]
    return sum([await dht.deliver(peer, [multihash]) for peer in nearest])


async def providers(dht: DHT, multihash: bytes) -> list[Provider]:
    """All that a search finds."""
    return [provider async for provider in dht.find_providers(multihash)]


async def call(real: Peer, command: str, /, **args: Any) -> dict[str, Any]:
    """A request to a real peer, off the event loop."""
    return await trio.to_thread.run_sync(lambda: real.call(command, timeout=PATIENCE, **args), abandon_on_cancel=True)
