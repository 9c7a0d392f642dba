"""What another process asks of the node: each parameter is of its kind, or the error says which is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.node.params import Params
from kachery_p2p.errors import NodeError

KINDS = ("file", "bytes")
READ: dict[str, Callable[[Params], object]] = {
    "text": lambda params: params.text("x"),
    "texts": lambda params: params.texts("x"),
    "choice": lambda params: params.choice("x", KINDS),
    "offset": lambda params: params.offset("x"),
    "seconds": lambda params: params.seconds("x"),
    "switch": lambda params: params.switch("x"),
}


@pytest.mark.parametrize(
    ("kind", "given_", "read"),
    [
        ("text", "a", "a"),
        ("texts", None, []),
        ("texts", ["a", "b"], ["a", "b"]),
        ("texts", ("a",), ["a"]),
        ("choice", None, "file"),
        ("choice", "bytes", "bytes"),
        ("offset", None, None),
        ("offset", 0, 0),
        ("offset", 2**63 - 1, 2**63 - 1),
        ("seconds", None, None),
        ("seconds", 1, 1.0),
        ("seconds", 0.5, 0.5),
        ("switch", False, False),
    ],
)
def test_what_is_asked_for_is_read(kind: str, given_: object, read: object) -> None:
    """Also what a process itself gives its own node, without JSON in between."""
    assert READ[kind](Params({"x": given_})) == read


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("text", [None, 1, ["a"], {}, True]),
        ("texts", ["a", {"a": 1}, [1], [None], 7]),
        ("choice", ["other", 1, ["file"], {"file": 1}]),
        ("offset", [-1, 2**63, 1.5, True, "0"]),
        ("seconds", [0, -1, 1e9, float("inf"), float("nan"), True, "5", [1]]),
        ("switch", [None, 0, 1, "true"]),
    ],
)
def test_the_rest_is_one_error(kind: str, wrong: list[object]) -> None:
    """It names the parameter, and what it must be."""
    for value in wrong:
        with pytest.raises(NodeError, match="its 'x' must be"):
            READ[kind](Params({"x": value}))


@given(st.sampled_from(sorted(READ)), st.recursive(st.none() | st.floats() | st.text() | st.integers(), st.lists))
def test_no_value_raises_anything_else(kind: str, value: Any) -> None:
    """Whatever JSON brings."""
    try:
        READ[kind](Params({"x": value}))
    except NodeError:
        pass
