"""For the tests of the doctor: what it says, and set-ups that it looks at."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.workstation import Workstation


def examine(station: Workstation, *options: str) -> dict[str, Any]:
    """What the doctor says: its outcomes by the names of the checks."""
    done = station.run("kachery-cloud-node", *options, "doctor", "--json", check=False)
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1), done.stderr
    assert done.stderr == ""
    return {**{each["name"]: each for each in said["checks"]}, "ok": said["ok"]}


def grave(said: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """What is wrong, by the names of the checks."""
    found = {
        name: [each for each in outcome["findings"] if each["grave"]] for name, outcome in said.items() if name != "ok"
    }
    return {name: findings for name, findings in found.items() if findings}


def only(said: Mapping[str, Any], name: str, *words: str) -> dict[str, str]:
    """The one thing that is wrong, which a check has found, with these words in what it says."""
    found = grave(said)
    assert list(found) == [name], found
    assert not said["ok"]
    assert not [each for key, each in said.items() if key != "ok" and each["failed"]], said
    (finding,) = found[name]
    text = " ".join(finding[part] for part in ("what", "why", "todo"))
    assert all(finding[part] for part in ("what", "why", "todo"))
    for word in words:
        assert word in text, text
    return finding


def listing(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a folder: size, time of change, mode."""
    found: dict[str, tuple[int, int, int]] = {}
    for folder, _, names in os.walk(directory):
        for path in [Path(folder), *(Path(folder, name) for name in names)]:
            status = os.lstat(path)
            found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return found


def prepared(make: Callable[[], Workstation]) -> Workstation:
    """A workstation with a key, and something that is stored."""
    station = make()
    station.run("kachery-cloud-init")
    station.call("say(kcl.store_text('x' * 50_000, local=True))")
    return station


@contextmanager
def service(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
