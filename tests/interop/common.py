"""Names and helpers of the interoperability tests."""

from __future__ import annotations

from scripts.peers import Helia, Kubo
from scripts.workstation import Workstation

V1 = "unixfs-v1-2025"
V0 = "unixfs-v0-2015"


def connect(peer: Kubo | Helia, station: Workstation) -> None:
    """Connects the peer to the workstation's node, from the peer's side."""
    peer.connect(station.addr)


def cid_of(uri: str) -> str:
    """The CID in a URI of ours."""
    return uri.removeprefix("ipfs://").partition("?")[0]
