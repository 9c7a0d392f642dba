"""A real Kubo 0.22 node in this process, driven by JSON lines: `python -m scripts.peers.kubo_peer --repo DIR`.

Runs in the environment that `scripts/peers/install` makes. See peer.py for the protocol and `COMMANDS` for the
requests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from scripts.peers.kubo_config import add_options, configure
from scripts.peers.libkubo import KuboError, LibKubo

_CALL_SECONDS = 600.0

Request = dict[str, Any]
Command = Callable[[LibKubo, Request], dict[str, Any]]


class Output:
    """Answers to whoever started us; one line each, from any thread."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any]) -> None:
        """Writes one message."""
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def main() -> None:
    """Starts the node and serves requests until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repo", type=Path, required=True, help="repo folder, made when absent")
    add_options(parser)
    options = parser.parse_args()
    repo: Path = options.repo.resolve()
    repo.mkdir(parents=True, exist_ok=True)
    if options.swarm_key:
        shutil.copyfile(options.swarm_key, repo / "swarm.key")
    requests, answers = _take_stdio()
    os.chdir(repo)  # libkubo opens ./kubo.log
    os.environ["IPFS_PATH"] = str(repo)
    output = Output(answers)
    kubo = LibKubo(repo)
    try:
        fresh = not (repo / "config").exists()
        if fresh:
            kubo.create()
        configure(repo, options, fresh=fresh)
        kubo.run()
    except KuboError as error:
        output.say({"event": "fatal", "error": str(error)})
        sys.exit(1)
    output.say(
        {
            "event": "ready",
            "impl": "Kubo 0.22.0",
            "pid": os.getpid(),
            "peer_id": kubo.peer_id(),
            "addrs": kubo.addrs(),
        }
    )
    for line in requests:
        request = json.loads(line)
        if request["cmd"] == "stop":
            break
        threading.Thread(target=_serve, args=(kubo, request, output), daemon=True).start()
    kubo.close()
    # Go's threads would hold up an ordinary exit, and calls still running would hold it up for ever.
    os._exit(0)


def _take_stdio() -> tuple[TextIO, TextIO]:
    """Moves requests and answers off descriptors 0 and 1, because libkubo prints there."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return requests, answers


def _serve(kubo: LibKubo, request: Request, output: Output) -> None:
    """Answers one request. Past its time-out the answer is an error, while the Go call goes on: it cannot be ended."""
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result.update(ok=True, result=COMMANDS[request["cmd"]](kubo, request))
        except KeyError as error:
            result.update(ok=False, error=f"unknown command or missing argument: {error}")
        except (KuboError, OSError, ValueError) as error:
            result.update(ok=False, error=f"{request['cmd']}: {error}")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(request.get("timeout", _CALL_SECONDS))
    if worker.is_alive():
        output.say({"id": request["id"], "ok": False, "error": f"{request['cmd']}: timed out"})
    else:
        output.say({"id": request["id"], **result})


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _id(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"peer_id": kubo.peer_id(), "addrs": kubo.addrs()}


def _connect(kubo: LibKubo, request: Request) -> dict[str, Any]:
    kubo.connect(request["addr"])
    return {}


def _peers(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"peers": kubo.peers()}


def _find_peer(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"addrs": kubo.find_peer(request["peer"], int(request.get("seconds", 10)))}


def _add(kubo: LibKubo, request: Request) -> dict[str, Any]:
    began = time.monotonic()
    cid = kubo.add(request["path"], only_hash=request.get("only_hash", False))
    return {"cid": cid, "seconds": time.monotonic() - began}


def _get(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"seconds": _timed(lambda: kubo.get(request["cid"], request["dest"]))}


def _pin(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"seconds": _timed(lambda: kubo.pin(request["cid"]))}


def _unpin(kubo: LibKubo, request: Request) -> dict[str, Any]:
    kubo.unpin(request["cid"])
    return {}


def _pins(kubo: LibKubo, request: Request) -> dict[str, Any]:
    return {"pins": kubo.pins()}


COMMANDS: dict[str, Command] = {
    "id": _id,
    "connect": _connect,
    "peers": _peers,
    "find_peer": _find_peer,
    "add": _add,
    "get": _get,
    "pin": _pin,
    "unpin": _unpin,
    "pins": _pins,
}


if __name__ == "__main__":
    main()
