"""Whatever a connection of the control socket sends ends that connection at most; the node serves the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.endpoint import ControlEndpoint
from kachery_p2p.errors import DiskFull, NodeError
from tests.helpers.control_helpers import CALLS, Server, answer_to, ask, is_served

SETTINGS = settings(max_examples=60)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["echo", "hang", "cancel", 1, -1, 2**70]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
messages = st.dictionaries(st.sampled_from(["id", "method", "params", "cancel", "secret", "version"]), values)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served"))
    yield server
    server.stop()
    assert not server.thread.is_alive()


def test_any_bytes(served: Server) -> None:
    """With and without the secret in front of them."""

    @SETTINGS
    @given(st.lists(st.binary(max_size=200) | st.sampled_from([b"\n", b"{", b"[" * 5000]), max_size=6), st.booleans())
    def run(parts: list[bytes], secret: bool) -> None:
        answer = answer_to(served.directory, *parts, secret=secret)
        assert secret or answer == b""
        assert is_served(served.directory)

    run()


def test_any_json(served: Server) -> None:
    """Messages of every wrong shape; each line that comes back is JSON."""

    @SETTINGS
    @given(st.lists(messages | values, max_size=5), st.booleans())
    def run(sent: list[Any], secret: bool) -> None:
        lines = b"".join(json.dumps(each).encode() + b"\n" for each in sent)
        answer = answer_to(served.directory, lines, secret=secret)
        assert secret or answer == b""
        for line in answer.splitlines():
            json.loads(line)
        assert is_served(served.directory)

    run()


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"cancel": [1]}',
        b'{"cancel": {}}',
        b'{"id": [1], "method": "echo", "params": {}}',
        b'{"id": ' + b"7" * 6000 + b', "method": "echo", "params": {}}',
        b'{"id": 1, "method": ["echo"], "params": {}}',
        b'{"id": 1, "method": "echo", "params": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"id": 1, "method": "' + b"\\u0007" * 100_000 + b'", "params": {}}',
        b'{"id": 1, "method": "echo", "params": {"a": NaN, "a": 1}}',
        b'{"id": 1, "id": 1}',
        b"\xff\xfe",
        b"x" * ((1 << 20) + 1),
    ],
)
def test_lines_that_once_ended_the_node(served: Server, line: bytes) -> None:
    """Behind the secret, too: a program with a fault in it must not take the others' node away."""
    answer_to(served.directory, line + b"\n", secret=True)
    assert served.thread.is_alive()
    assert is_served(served.directory)


def test_answers_that_cannot_be_sent_are_errors(served: Server) -> None:
    """A result that is too long, or no JSON, is an error of that request; the connection and the node go on."""
    client = ControlClient(ControlEndpoint.read(served.directory), on_gone=lambda client: None)
    for what in ("long", "set", "nan"):
        with pytest.raises(NodeError, match="too long, or not of a kind"):
            ask(client, "unsendable", {"what": what})
    with pytest.raises(DiskFull, match="xxx"):
        ask(client, "verbose", {})
    with pytest.raises(NodeError, match="cannot be asked this"):
        client.start(CALLS["echo"], {"a": "x" * (1 << 20)})
    assert ask(client, "echo", {"still": "here"}) == {"still": "here"}
    client.close()


def test_a_progress_bar_that_fails_does_not_keep_the_answer_away(served: Server) -> None:
    """The answer comes, and with it the end of the request."""

    def show(done: int, total: int) -> None:
        raise RuntimeError("no terminal")

    client = ControlClient(ControlEndpoint.read(served.directory), on_gone=lambda client: None)
    assert ask(client, "count", {}, show) == "counted"
    client.close()
