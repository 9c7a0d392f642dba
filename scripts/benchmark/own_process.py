"""What runs in a process of our own (`own.Own`): stores and loads through the public API, driven by JSON lines.

It imports nothing of `scripts`, and keeps to what the API has had since the benchmark began: an older checkout can be
measured by it, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


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
