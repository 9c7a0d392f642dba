"""Strangers who write to the user's terminal: the real commands, against servers and peers that send escapes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.profiles import profile
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from scripts.workstation import LISTEN, Workstation
from tests.helpers.patience import PATIENCE
from tests.helpers.terminal_helpers import ATTACK, harmless

ABSENT = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
#: As it fits into a header: no line end, one byte a character.
IN_A_HEADER = "\x1b[2J\x1b]0;owned\x07\x9b31m"
#: The part of the attack by which it is known when it is shown.
SHOWN = "owned"


@contextlib.contextmanager
def rude(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers everything with this; its URL, and the requests that it saw."""
    seen: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(f"{self.command} {self.path}")
            with contextlib.suppress(ConnectionError):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(status, IN_A_HEADER)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def printed(station: Workstation, *command: str) -> str:
    """What a command prints, whatever becomes of it. It must be harmless, and no stack trace."""
    done = station.run(command[0], *command[1:], check=False, timeout=PATIENCE)
    assert harmless(done.stdout), (command, done.stdout)
    assert harmless(done.stderr), (command, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content-type": f"text/{IN_A_HEADER}", "server": IN_A_HEADER}),
        (404, {"content-type": "text/plain", "retry-after": IN_A_HEADER}),
        (302, {"location": f"http://127.0.0.1:1/{IN_A_HEADER}"}),
        (500, {"content-type": "text/plain", "content-disposition": f'attachment; filename="{IN_A_HEADER}"'}),
    ],
)
def test_a_gateway(workstation: Callable[..., Workstation], status: int, headers: dict[str, str]) -> None:
    """Type, reason, redirect and body of its answers: nothing of it acts on the terminal of a load or of `status`."""
    with rude(status, headers, ATTACK.encode()) as (url, seen):
        station = workstation(env={"KACHERY_CLOUD_GATEWAYS": url}).start()
        # Wrong bytes end a load; after the other answers it waits for others.
        wait = "120" if status == 200 else "2"
        shown = printed(station, "kachery-cloud-load", "--verbose", f"ipfs://{ABSENT}", "--timeout", wait)
        printed(station, "kachery-cloud", "info", f"ipfs://{ABSENT}", "--timeout", "2")
        printed(station, "kachery-cloud-status", "--verbose")
        json.loads(printed(station, "kachery-cloud-status", "--json"))
        assert seen
    assert harmless((station.folder / "node.log").read_text(errors="surrogateescape"))
    if "content-type" in headers and status == 200:
        assert "\\x1b[2j" in shown  # what it said is told, so the test would see it act


def test_names_in_a_directory_and_labels(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """Listing, loading and describing a directory whose names, and a URI whose label, are escape sequences."""
    station = workstation()
    with Repo.open(station.directory) as repo:
        file = repo.store_bytes(b"content")
        builder = DirectoryBuilder(profile(), lambda cid, block: repo.put_blocks([(cid, block)]))
        builder.add(ATTACK, file.cid, file.dag_size)
        root = str(builder.finish()[0])
    entry = json.loads(station.run("kachery-cloud", "ls", f"ipfs://{root}", "--json").stdout)["entries"][0]
    assert entry["name"] == ATTACK
    label = entry["uri"].rpartition("/")[2]
    for uri in (f"ipfs://{root}", entry["uri"], f"ipfs://{file.cid}?label={label}", f"ipfs://{ABSENT}?label={label}"):
        for command in (
            ["kachery-cloud", "ls", uri, "--local-only"],
            ["kachery-cloud", "info", uri, "--local-only"],
            ["kachery-cloud", "info", uri, "--local-only", "--json"],
            ["kachery-cloud-load", uri, "--local-only", "--verbose"],
            ["kachery-cloud-load", uri, "--local-only", "--dest", str(tmp_path)],
            ["kachery-cloud-load", uri, "--local-only", "--dest", str(tmp_path / "new"), "--json"],
        ):
            printed(station, *command)
    assert SHOWN in printed(station, "kachery-cloud", "ls", f"ipfs://{root}")
    assert SHOWN in printed(station, "kachery-cloud", "info", f"ipfs://{file.cid}?label={label}", "--local-only")
    assert station.run("kachery-cloud-cat", entry["uri"]).stdout == "content"
    assert not any(path.is_dir() for path in tmp_path.glob("new"))


async def test_a_peer(workstation: Callable[..., Workstation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that calls itself an escape sequence: in `status`, `whereis`, and a load from it."""
    monkeypatch.setattr("kachery_p2p.node.node.AGENT", ATTACK)
    folder = tmp_path / "peer"
    folder.mkdir()
    with Repo.open(folder) as repo:
        stored = repo.store_bytes(b"content")
        node = Node(repo, load_or_create_identity(folder), listen=[LISTEN])
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            address = f"{node.host.addresses()[0].partition('/p2p/')[0]}/p2p/{node.host.peer_id}"
            station = await trio.to_thread.run_sync(workstation().start)
            for command in (
                ["kachery-cloud-load", f"ipfs://{stored.cid}", "--peer", address, "--verbose"],
                ["kachery-cloud-whereis", f"ipfs://{stored.cid}", "--peer", address, "--timeout", "3"],
                ["kachery-cloud-status", "--verbose"],
                ["kachery-cloud-status", "--json"],
            ):
                assert node.host.peer_id in await trio.to_thread.run_sync(printed, station, *command)
            nursery.cancel_scope.cancel()


def test_a_pinning_service(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """Reason and details of a refusal: in the end of a store, in `pins` and in `status`."""
    body = json.dumps({"error": {"reason": f"NO {ATTACK}", "details": ATTACK}}, ensure_ascii=False).encode()
    (tmp_path / "file").write_text("content")
    with rude(403, {"content-type": "application/json"}, body) as (url, seen):
        station = workstation(env={"THE_TOKEN": "a-token"})
        station.run("kachery-cloud-pins", "service", "add", "rude", url, "--token-env", "THE_TOKEN")
        station.start()
        assert SHOWN in printed(station, "kachery-cloud-store", str(tmp_path / "file"), "--service", "rude")
        assert SHOWN in printed(station, "kachery-cloud-pins")
        printed(station, "kachery-cloud-pins", "--json")
        printed(station, "kachery-cloud-status", "--verbose")
        assert seen
    assert harmless((station.folder / "node.log").read_text(errors="surrogateescape"))
