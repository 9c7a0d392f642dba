"""Our own side of the benchmark: a Python process that stores and loads through the public API.

Seen from the benchmark it is one more peer (`Own`), driven by JSON lines; the process itself runs `own_process`. A node
is up before anything is measured, as those of Kubo and Helia are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from scripts.peers.peer import CALL_SECONDS, Peer
from scripts.workstation import KEEP_TO_ITSELF

_PROCESS = Path(__file__).with_name("own_process.py")


class Own(Peer):
    """A process with a data directory of its own."""

    def __init__(
        self, folder: Path, *, address: str = "127.0.0.1", gateway: str = "", checkout: Path | None = None
    ) -> None:
        """Starts it, or joins the node that runs in that folder already.

        Args:
            folder: where it keeps its data.
            address: where its node listens.
            gateway: the URL of an HTTP gateway to load from, besides peers.
            checkout: another one than this, with its environment in `.venv`, whose code is run.

        Raises:
            scripts.peers.PeerError: it does not become ready.
        """
        env = {
            **KEEP_TO_ITSELF,
            "KACHERY_CLOUD_LISTEN": f"/ip4/{address}/tcp/0",
            "KACHERY_CLOUD_DIR": str(folder / "data"),
            "KACHERY_CLOUD_GATEWAYS": gateway or "none",
        }
        python = sys.executable
        if checkout is not None:
            python, env["PYTHONPATH"] = str(checkout / ".venv" / "bin" / "python"), str(checkout)
        # Not by its name, of which there may be another in that checkout.
        command = [python, "-c", f"import runpy; runpy.run_path({str(_PROCESS)!r}, run_name='__main__')"]
        super().__init__(command, folder=folder, temporary=False, disposable=True, env=env)

    def store(self, path: Path, *, link: bool = False) -> tuple[str, float]:
        """Stores or links a file or folder. Returns its URI and the seconds it took."""
        result = self.call("store", path=str(path), link=link)
        return result["uri"], result["seconds"]

    def store_json(self, first: int, count: int, threads: int = 1) -> Future[dict[str, Any]]:
        """Begins to store `count` small values, of which the first has the number `first`, in so many threads."""
        return self.begin("store_json", first=first, count=count, threads=threads)

    def load(
        self, uri: str, *addrs: str, dest: Path | None = None, timeout: float = CALL_SECONDS
    ) -> tuple[Path, float]:
        """Loads a file, or a folder to `dest`, from the peers at `addrs`, or without one from its gateway.

        Returns:
            Where it is, and the seconds it took.
        """
        result = self.begin_load(uri, *addrs, dest=dest, timeout=timeout).result()
        return Path(result["path"]), result["seconds"]

    def begin_load(
        self, uri: str, *addrs: str, dest: Path | None = None, timeout: float = CALL_SECONDS
    ) -> Future[dict[str, Any]]:
        """The same, to be waited for."""
        return self.begin("load", uri=uri, addrs=addrs, dest=str(dest) if dest else None, timeout=timeout)

    def read(self, uri: str, addr: str, ranges: Sequence[tuple[int, int]]) -> float:
        """Reads ranges of a file, one after the other, from the peer at `addr`. Returns the seconds it took."""
        return self.call("read", uri=uri, addrs=[addr], ranges=ranges)["seconds"]

    def bytes_sent(self) -> int:
        """Bytes of blocks that its node has sent so far."""
        return self.call("status")["bytes_sent"]
