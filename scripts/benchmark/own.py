"""Our own side of the benchmark: a Python process that stores and loads through the public API.

Seen from the benchmark it is one more peer (`Own`), driven by JSON lines; the process itself runs
`python -m scripts.benchmark.own`. Its node is up before anything is measured, as those of Kubo and Helia are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from scripts.peers.peer import CALL_SECONDS, Peer
from scripts.workstation import KEEP_TO_ITSELF


class Own(Peer):
    """A process with a data directory of its own."""

    def __init__(self, folder: Path, *, node: bool = True, gateway: str = "") -> None:
        """Starts it.

        Args:
            folder: where it keeps its data.
            node: without it, it works on local data only.
            gateway: the URL of an HTTP gateway to load from, besides peers.

        Raises:
            scripts.peers.PeerError: it does not become ready.
        """
        env = {**KEEP_TO_ITSELF, "KACHERY_CLOUD_DIR": str(folder / "data"), "KACHERY_CLOUD_GATEWAYS": gateway or "none"}
        command = [sys.executable, "-m", "scripts.benchmark.own", *(["--local"] if not node else [])]
        super().__init__(command, folder=folder, temporary=False, disposable=True, env=env)

    def store(self, path: Path, *, link: bool = False) -> tuple[str, float]:
        """Stores or links a file or folder. Returns its URI and the seconds it took."""
        result = self.call("store", path=str(path), link=link)
        return result["uri"], result["seconds"]

    def store_json(self, count: int) -> float:
        """Stores `count` small values one after the other. Returns the seconds it took."""
        return self.call("store_json", count=count)["seconds"]

    def load(
        self, uri: str, addr: str = "", *, dest: Path | None = None, timeout: float = CALL_SECONDS
    ) -> tuple[Path, float]:
        """Loads a file, or a folder to `dest`, from the peer at `addr`, or without one from its gateway.

        Returns:
            Where it is, and the seconds it took.
        """
        result = self.call("load", uri=uri, addr=addr, dest=str(dest) if dest else None, timeout=timeout)
        return Path(result["path"]), result["seconds"]


def main() -> None:
    """Serves requests until the input ends."""
    import kachery_cloud as kcl

    local = "--local" in sys.argv[1:]
    status: dict[str, Any] = {"peer_id": "", "addresses": []} if local else kcl.status(start=True)
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
            _say({"id": request["id"], "ok": True, "result": _answer(kcl, request, local)})
        except kcl.KacheryError as error:
            _say({"id": request["id"], "ok": False, "error": f"{request['cmd']}: {error}"})


def _answer(kcl: Any, request: dict[str, Any], local: bool) -> dict[str, Any]:
    command = request["cmd"]
    if command == "store":
        path = Path(request["path"])
        began = time.monotonic()
        if path.is_dir():
            uri = kcl.store_dir(path, link=request["link"], local=local)
        elif request["link"]:
            uri = kcl.link_file(path, local=local)
        else:
            uri = kcl.store_file(path, local=local)
        return {"uri": uri, "seconds": time.monotonic() - began}
    if command == "store_json":
        began = time.monotonic()
        for number in range(request["count"]):
            kcl.store_json({"trial": number, "values": list(range(20))}, local=local)
        return {"seconds": time.monotonic() - began}
    if command == "load":
        began = time.monotonic()
        providers = [request["addr"]] if request["addr"] else []
        if request["dest"]:
            path = kcl.load_dir(request["uri"], request["dest"], providers=providers)
        else:
            path = kcl.load_file(request["uri"], providers=providers)
        return {"path": path, "seconds": time.monotonic() - began}
    raise ValueError(f"unknown command {command}")


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
