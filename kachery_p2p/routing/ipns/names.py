"""IPNS names in all their forms: `k51...` (a CID of codec libp2p-key in base36), `12D3KooW...`, `Qm...`, `bafz...`."""

from __future__ import annotations

from kachery_p2p.peer_ids import any_peer_id, base36, peer_bytes
from kachery_p2p.routing.dht.records import IPNS


def parse_name(text: str) -> bytes | None:
    """The binary peer ID of a name; None for a text that is not one: a name of the DNS, perhaps."""
    peer = any_peer_id(text)
    return None if peer is None else peer_bytes(peer)


def name_text(name: bytes) -> str:
    """A name as it is written today: a CIDv1 of codec libp2p-key, in base36."""
    return base36(name)


def routing_key(name: bytes) -> bytes:
    """Under which key a name's record is kept in a DHT."""
    return IPNS + name
