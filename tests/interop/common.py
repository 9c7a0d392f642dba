"""Names and helpers of the interoperability tests."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.data import sha256_of
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


def contents(top: Path) -> dict[str, str]:
    """Every name below a folder, and what it is: a folder, a link to somewhere, or a file with that sha256."""
    found: dict[str, str] = {}
    for path in top.rglob("*"):
        name = path.relative_to(top).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else sha256_of(path)
    return found
