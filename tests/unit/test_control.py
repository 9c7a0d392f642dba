"""The control socket: how the processes of one directory share one node."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_cloud import control
from kachery_cloud.control import ControlClient, Endpoint, NodeGone, serve_control
from kachery_p2p.errors import DiskFull, NodeError


class Server:
    """A control server with a few methods, in a thread of its own as in real life."""

    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cancelled = threading.Event()
        self.begun = threading.Event()
        ready: Future[None] = Future()

        async def echo(params: dict[str, Any], progress: Any) -> Any:
            return params

        async def count(params: dict[str, Any], progress: Any) -> Any:
            for i in range(3):
                progress(i + 1, 3)
                await trio.sleep(2 / control.PROGRESS_PER_SECOND)  # the pace at which progress is passed on
            return "counted"

        async def fail(params: dict[str, Any], progress: Any) -> Any:
            raise DiskFull("There is no room left on /data.")

        async def crash(params: dict[str, Any], progress: Any) -> Any:
            raise ZeroDivisionError("a bug")

        async def hang(params: dict[str, Any], progress: Any) -> Any:
            self.begun.set()
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()

        methods = {"echo": echo, "count": count, "fail": fail, "crash": crash, "hang": hang}

        async def main() -> None:
            self.token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await nursery.start(serve_control, directory, methods)
                ready.set_result(None)

        self.thread = threading.Thread(target=trio.run, args=(main,))
        self.thread.start()
        ready.result(10)

    def stop(self) -> None:
        self.token.run_sync_soon(self.nursery.cancel_scope.cancel)
        self.thread.join(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    if server.thread.is_alive():
        server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[ControlClient]:
    client = ControlClient(Endpoint.read(server.directory), on_gone=lambda client: None)
    yield client
    client.close()


def ask(client: ControlClient, method: str, params: dict[str, Any], progress: Any = None) -> Any:
    return client.start(method, params, progress)[1].result(10)


def test_answers_and_progress_reach_the_one_who_asked(client: ControlClient) -> None:
    """A request gets its own result, and its progress on the way."""
    seen: list[tuple[int, int]] = []
    assert ask(client, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    assert ask(client, "count", {}, lambda done, total: seen.append((done, total))) == "counted"
    assert seen[-1][1] == 3
    assert seen == sorted(seen)


def test_errors_keep_their_type_and_sentence(client: ControlClient) -> None:
    """A named error of the node is the same named error in the other process; a bug is a NodeError that says so."""
    with pytest.raises(DiskFull, match="no room left on /data"):
        ask(client, "fail", {})
    with pytest.raises(NodeError, match="ZeroDivisionError"):
        ask(client, "crash", {})
    with pytest.raises(NodeError, match="no-such-method"):
        ask(client, "no-such-method", {})
    assert ask(client, "echo", {"still": "here"}) == {"still": "here"}


def test_cancel_ends_the_work_in_the_node(server: Server, client: ControlClient) -> None:
    """Nobody waits any more: the node stops working on it, and says so."""
    request_id, future = client.start("hang", {}, None)
    assert server.begun.wait(10)
    client.cancel(request_id)
    with pytest.raises(NodeError, match="cancelled"):
        future.result(10)
    assert server.cancelled.wait(10)


def test_a_client_that_leaves_takes_its_requests_with_it(server: Server, client: ControlClient) -> None:
    """A killed process leaves no work behind in the node."""
    client.start("hang", {}, None)
    assert server.begun.wait(10)
    client.close()
    assert server.cancelled.wait(10)


def test_the_node_leaving_is_noticed_at_once(server: Server) -> None:
    """When the node stops, requests under way fail with NodeGone and the client is told."""
    gone = threading.Event()
    client = ControlClient(Endpoint.read(server.directory), on_gone=lambda client: gone.set())
    _, future = client.start("hang", {}, None)
    assert server.begun.wait(10)
    server.stop()
    with pytest.raises(NodeGone):
        future.result(10)
    assert gone.wait(10)
    with pytest.raises(NodeGone):
        client.start("echo", {}, None)
    assert not (server.directory / "node.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_the_owner_can_reach_the_socket(server: Server) -> None:
    """node.json and the socket are 0600."""
    endpoint = Endpoint.read(server.directory)
    assert endpoint.path is not None
    assert stat.S_IMODE(os.stat(endpoint.path).st_mode) == 0o600
    assert stat.S_IMODE((server.directory / "node.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "first",
    [
        b'{"secret": "wrong", "version": 1}\n',
        b'{"version": 1}\n',
        b"[]\n",
        b"not json\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff\xfe\n",
        b"x" * (control.MAX_LINE + 2),
    ],
)
def test_who_does_not_know_the_secret_gets_nothing(server: Server, first: bytes) -> None:
    """A web page or another user that reaches the socket gets an empty answer, and the node lives."""
    endpoint = Endpoint.read(server.directory)
    assert endpoint.path is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(endpoint.path)
        try:
            sock.sendall(first)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        except (ConnectionResetError, BrokenPipeError):
            pass  # dropped before it had read all of it: nothing was answered either
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(endpoint.path)
        sock.sendall(json.dumps({"secret": endpoint.secret, "version": 1}).encode() + b"\n")
        assert json.loads(sock.makefile().readline())["ok"] is True


def test_a_long_directory_name_still_gets_a_socket(tmp_path: Path) -> None:
    """A path too long for a Unix socket is no reason to fail."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    server = Server(directory)
    try:
        client = ControlClient(Endpoint.read(directory), on_gone=lambda client: None)
        assert ask(client, "echo", {"x": 1}) == {"x": 1}
        client.close()
    finally:
        server.stop()


def test_a_stale_endpoint_is_said_to_be_gone(tmp_path: Path) -> None:
    """node.json of a killed process, or half of one, means that nobody answers, not a crash."""
    with pytest.raises(NodeGone):
        Endpoint.read(tmp_path)
    (tmp_path / "node.json").write_text('{"pid": 1')
    with pytest.raises(NodeGone):
        Endpoint.read(tmp_path)
    Endpoint(1, "s", str(tmp_path / "none.sock"), None).write(tmp_path)
    with pytest.raises(NodeGone):
        ControlClient(Endpoint.read(tmp_path), on_gone=lambda client: None)
