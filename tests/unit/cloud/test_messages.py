"""What another process asks of the node: each field is of its kind, or the error says which is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kachery_cloud.node import messages, status_messages
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.endpoint import ControlEndpoint
from kachery_cloud.node.messages import Call
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import NodeError
from kachery_p2p.json_shapes import WrongShape, from_json, to_json
from kachery_p2p.node.messages import LoadRequest, LoadResult, WaitPinnedRequest
from tests.helpers.control_helpers import Server, ask

TEXT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"
CALLS = [each for each in {**vars(messages), **vars(status_messages)}.values() if isinstance(each, Call)]


def test_a_load_as_it_crosses_the_socket() -> None:
    """These names are the protocol: processes of two versions share a node."""
    request = LoadRequest(CID.parse(TEXT), ("a", "b"), "bytes", 1, None, ("/ip4/192.0.2.1/tcp/1",), 7.5)
    assert to_json(request) == {
        "cid": TEXT,
        "path": ["a", "b"],
        "kind": "bytes",
        "start": 1,
        "end": None,
        "providers": ["/ip4/192.0.2.1/tcp/1"],
        "timeout": 7.5,
    }
    assert from_json(LoadRequest, to_json(request)) == request
    assert from_json(LoadResult, {"cid": TEXT, "sources": {}, "seconds": 0.5}) == LoadResult(
        CID.parse(TEXT), seconds=0.5
    )


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("cid", ["", "bafy", 1, None], "the text of a CID"),
        ("path", ["a", [1]], "a list|text"),
        ("kind", ["other", ["file"]], "one of file, bytes, directory, listing, info"),
        ("start", [-1, 2**63, 1.5, True, "0"], "a number of bytes"),
        ("timeout", [0, -1, 1e9, float("inf"), float("nan"), True, "5", None], "a number of seconds up to 86400"),
        ("providers", ["a", [None]], "a list|text"),
    ],
)
def test_a_load_that_makes_no_sense(name: str, wrong: list[object], expected: str) -> None:
    """It is refused before anything is asked of anybody."""
    for value in wrong:
        with pytest.raises(WrongShape, match=rf"its '{name}(\[0\])?' must be ({expected})"):
            from_json(LoadRequest, {"cid": TEXT, name: value})


def test_a_wait_may_have_no_end() -> None:
    """A load may not: without a sign of life it gives up."""
    assert from_json(WaitPinnedRequest, {"cid": TEXT, "verified": True, "timeout": None}).timeout is None
    with pytest.raises(WrongShape, match="its 'verified' must be true or false"):
        from_json(WaitPinnedRequest, {"cid": TEXT, "verified": 1})


def test_every_call_can_be_read_by_both_sides() -> None:
    """Its name is its own, and there is a reader for what it asks and what it answers."""
    assert len({call.name for call in CALLS}) == len(CALLS) == 20
    for call in CALLS:
        for kind in (call.request, call.answer, *([call.part] if call.part else [])):
            with pytest.raises(WrongShape, match="must be"):
                from_json(kind, 5 if kind is str else "not this")


def test_an_answer_of_another_version(tmp_path: Path) -> None:
    """It is an error of that request, which says what to do; the connection goes on."""
    server = Server(tmp_path)
    client = ControlClient(ControlEndpoint.read(tmp_path), on_gone=lambda client: None)
    strange = Call("echo", dict, LoadResult)
    try:
        with pytest.raises(NodeError, match="answer to 'echo' that this version cannot read: its 'cid' is missing"):
            client.start(strange, {"size": 1})[1].result(10)
        assert client.start(strange, {"cid": TEXT, "size": 1, "more": 2})[1].result(10) == LoadResult(
            CID.parse(TEXT), None, 1
        )
        assert ask(client, "echo", {"still": "here"}) == {"still": "here"}
    finally:
        client.close()
        server.stop()
