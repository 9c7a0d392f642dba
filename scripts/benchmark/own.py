"""Our own side of the benchmark: a Python process that stores and loads through the public API.

Seen from the benchmark it is one more peer (`Own`), driven by JSON lines; the process itself runs
`python -m scripts.benchmark.own`. A node is up before anything is measured, as those of Kubo and Helia are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.peers.peer import CALL_SECONDS, Peer
from scripts.workstation import KEEP_TO_ITSELF


class Own(Peer):
    """A process with a data directory of its own."""

    def __init__(self, folder: Path, *, address: str = "127.0.0.1", gateway: str = "") -> None:
        """Starts it, or joins the node that runs in that folder already.

        Args:
            folder: where it keeps its data.
            address: where its node listens.
            gateway: the URL of an HTTP gateway to load from, besides peers.

        Raises:
            scripts.peers.PeerError: it does not become ready.
        """
        env = {
            **KEEP_TO_ITSELF,
            "KACHERY_CLOUD_LISTEN": f"/ip4/{address}/tcp/0",
            "KACHERY_CLOUD_DIR": str(folder / "data"),
            "KACHERY_CLOUD_GATEWAYS": gateway or "none",
        }
        command = [sys.executable, "-m", "scripts.benchmark.own"]
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


def main() -> None:
    """Serves requests until the input ends."""
    import kachery_cloud as kcl

    status = kcl.status(start=True)
    _say(
        {
            "event": "ready",
            "impl": f"kachery-cloud on Python {sys.version.split()[0]}",
            "pid": os.getpid(),
            "peer_id": status["peer_id"],
            "addrs": status["addresses"],
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        if request["cmd"] == "stop":
            return
        try:
            _say({"id": request["id"], "ok": True, "result": _answer(kcl, request)})
        except kcl.KacheryError as error:
            _say({"id": request["id"], "ok": False, "error": f"{request['cmd']}: {error}"})


def _answer(kcl: Any, request: dict[str, Any]) -> dict[str, Any]:
    command = request["cmd"]
    if command == "store":
        path = Path(request["path"])
        began = time.monotonic()
        if path.is_dir():
            uri = kcl.store_dir(path, link=request["link"])
        elif request["link"]:
            uri = kcl.link_file(path)
        else:
            uri = kcl.store_file(path)
        return {"uri": uri, "seconds": time.monotonic() - began}
    if command == "store_json":
        numbers = range(request["first"], request["first"] + request["count"])
        began = time.monotonic()
        with ThreadPoolExecutor(request["threads"]) as threads:
            for _ in threads.map(lambda number: kcl.store_json({"trial": number, "values": list(range(20))}), numbers):
                pass
        return {"seconds": time.monotonic() - began}
    if command == "load":
        began = time.monotonic()
        if request["dest"]:
            path = kcl.load_dir(request["uri"], request["dest"], providers=request["addrs"])
        else:
            path = kcl.load_file(request["uri"], providers=request["addrs"])
        return {"path": path, "seconds": time.monotonic() - began}
    if command == "read":
        began = time.monotonic()
        for start, end in request["ranges"]:
            kcl.load_bytes(request["uri"], start, end, providers=request["addrs"])
        return {"seconds": time.monotonic() - began}
    if command == "status":
        return {"bytes_sent": kcl.status()["bytes_sent"]}
    raise ValueError(f"unknown command {command}")


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
