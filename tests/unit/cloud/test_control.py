"""The control socket: how the processes of one directory share one node."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_cloud.node.connection import NodeConnection
from kachery_cloud.node.control import MAX_LINE
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.control_server import PARTS_WAITING
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone
from kachery_cloud.settings.config import load_config
from kachery_p2p.errors import DiskFull, NodeError
from tests.helpers.control_helpers import CALLS, RawClient, Server, answer_to, ask, is_served
from tests.helpers.patience import PATIENCE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    if server.thread.is_alive():
        server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[ControlClient]:
    client = ControlClient(ControlEndpoint.read(server.directory), on_gone=lambda client: None)
    yield client
    client.close()


def test_answers_and_progress_reach_the_one_who_asked(client: ControlClient) -> None:
    """A request gets its own result, and its progress on the way: bytes, how many peers, and what was here before."""
    seen: list[tuple[int, ...]] = []
    assert ask(client, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    assert ask(client, "count", {}, lambda *steps: seen.append(steps)) == "counted"
    assert seen[-1][1:] == (3, 7, 1)
    assert seen == sorted(seen)


def test_parts_come_before_the_answer(client: ControlClient) -> None:
    """In their order, to who asked for them. Those that are too many for a slow reader are in the answer alone."""
    parts: list[str] = []
    answer = client.start(CALLS["list"], {"parts": 3}, part=parts.append)[1].result(PATIENCE)
    assert tuple(parts) == answer == ("part 0", "part 1", "part 2")
    parts.clear()
    answer = client.start(CALLS["list"], {"parts": 3 * PARTS_WAITING}, part=parts.append)[1].result(PATIENCE)
    assert len(answer) == 3 * PARTS_WAITING
    assert tuple(parts) == answer[: len(parts)]
    assert ask(client, "list", {"parts": 2}) == ("part 0", "part 1")


def test_an_older_client_hears_of_no_parts(server: Server) -> None:
    """It does not ask for them, and would take one for the answer."""
    request = {"id": 1, "method": "list", "params": {"parts": 2}}
    with contextlib.closing(RawClient(server.directory)) as older:
        assert older.ask(request) == {"id": 1, "result": ["part 0", "part 1"]}
        assert older.ask({**request, "parts": True})["part"] == "part 0"


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
    request_id, future = client.start(CALLS["hang"], {})
    assert server.begun.wait(PATIENCE)
    client.cancel(request_id)
    with pytest.raises(NodeError, match="cancelled"):
        future.result(PATIENCE)
    assert server.cancelled.wait(PATIENCE)


def test_a_client_that_leaves_takes_its_requests_with_it(server: Server, client: ControlClient) -> None:
    """A killed process leaves no work behind in the node."""
    client.start(CALLS["hang"], {})
    assert server.begun.wait(PATIENCE)
    client.close()
    assert server.cancelled.wait(PATIENCE)


def test_the_node_leaving_is_noticed_at_once(server: Server) -> None:
    """When the node stops, requests under way fail with NodeGone and the client is told."""
    gone = threading.Event()
    client = ControlClient(ControlEndpoint.read(server.directory), on_gone=lambda client: gone.set())
    _, future = client.start(CALLS["hang"], {})
    assert server.begun.wait(PATIENCE)
    server.stop()
    with pytest.raises(NodeGone):
        future.result(PATIENCE)
    assert gone.wait(PATIENCE)
    with pytest.raises(NodeGone):
        client.start(CALLS["echo"], {})
    assert not (server.directory / "node.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_the_owner_can_reach_the_socket(server: Server) -> None:
    """node.json and the socket are 0600."""
    endpoint = ControlEndpoint.read(server.directory)
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
        b"[" * 200_000 + b"\n",
        '{"secret": "\u00e9", "version": 1}\n'.encode(),
        b'{"secret": "\\ud800", "version": 1}\n',
        b'{"secret": null, "version": 1}\n',
        b'{"secret": ' + b"9" * 10_000 + b"}\n",
        b"x" * (MAX_LINE + 2),
    ],
)
def test_who_does_not_know_the_secret_gets_nothing(server: Server, first: bytes) -> None:
    """A web page or another user that reaches the socket gets an empty answer, and the node lives."""
    assert answer_to(server.directory, first) == b""
    assert is_served(server.directory)


def test_a_stale_endpoint_is_said_to_be_gone(tmp_path: Path) -> None:
    """node.json of a killed process, or half of one, means that nobody answers, not a crash."""
    with pytest.raises(NodeGone):
        ControlEndpoint.read(tmp_path)
    (tmp_path / "node.json").write_text('{"pid": 1')
    with pytest.raises(NodeGone):
        ControlEndpoint.read(tmp_path)
    ControlEndpoint(1, "s", str(tmp_path / "none.sock"), None).write(tmp_path)
    with pytest.raises(NodeGone):
        ControlClient(ControlEndpoint.read(tmp_path), on_gone=lambda client: None)


def test_more_requests_than_a_node_takes_wait_for_each_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that starts a hundred loads at once gets all of them: those that are too many wait for the others."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(server.directory))
    monkeypatch.setattr(
        NodeConnection,
        "_try_once",
        lambda self, may_become_node: ControlClient(ControlEndpoint.read(server.directory), on_gone=self._forget),
    )
    connection = NodeConnection(load_config())
    answers: list[str] = []

    def load() -> None:
        answers.append(connection.begin(CALLS["count"], {}).future.result(PATIENCE))

    threads = [threading.Thread(target=load) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    assert answers == ["counted"] * 100
