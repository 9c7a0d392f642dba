"""Between dataclasses and JSON: what is written can be read. What does not fit is one error that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID
from kachery_p2p.json_shapes import FLAT, OMITTED, Bounds, WrongShape, from_json, to_json

CID_TEXT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@dataclass(frozen=True)
class Inner:
    name: str
    size: int | None = None


@dataclass(frozen=True)
class Common:
    here: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    cid: CID
    kind: Literal["file", "bytes"] = "file"
    count: Annotated[int, Bounds(0, 10, "a number up to 10")] = 0
    seconds: float = 1.0
    names: tuple[str, ...] = ()
    pair: tuple[int, int] | None = None
    inner: Mapping[str, Inner] = field(default_factory=dict)
    either: int | Inner | None = None
    note: str = field(default="", metadata=OMITTED)
    common: Common = field(metadata=FLAT)
    rest: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)


LEAST: dict[str, Any] = {"cid": CID_TEXT, "here": True}


def test_a_message_is_read_as_it_was_written() -> None:
    """Through a line of JSON, with all that it may hold."""
    message = Message(
        cid=CID.parse(CID_TEXT),
        kind="bytes",
        count=10,
        seconds=0.5,
        names=("a", "ü\ud800"),
        pair=(1, 2),
        inner={"lan-dht": Inner("x", 3), "": Inner("y")},
        either=Inner("z"),
        note="said",
        common=Common(False, "so"),
        rest={"figures": [1, None, {"a": True}]},
    )
    found = json.loads(json.dumps(to_json(message)))
    assert found["inner"] == {"lan-dht": {"name": "x", "size": 3}, "": {"name": "y", "size": None}}
    assert (found["here"], found["why"], found["figures"], found["cid"]) == (
        False,
        "so",
        [1, None, {"a": True}],
        CID_TEXT,
    )
    assert from_json(Message, found) == message


def test_what_is_not_said_has_its_default() -> None:
    """A field with a default may be missing, of an older version; one that is to be omitted is not written either."""
    message = from_json(Message, LEAST)
    assert message == Message(cid=CID.parse(CID_TEXT), common=Common(True))
    assert "note" not in to_json(message)
    assert to_json(message)["either"] is None


def test_what_is_not_known_is_passed_over() -> None:
    """A newer version may say more."""
    assert from_json(Inner, {"name": "x", "colour": "red"}) == Inner("x")


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("cid", [None, 1, "no CID", "", ["a"]], "its 'cid' must be the text of a CID"),
        ("kind", ["other", 1, ["file"], {"file": 1}, None], "its 'kind' must be one of file, bytes"),
        ("count", [-1, 11, 1.5, True, "0", None, 10**40], "its 'count' must be a number up to 10"),
        ("seconds", [True, "5", [1], None], "its 'seconds' must be a number"),
        ("names", ["a", {"a": 1}, 7, None], "its 'names' must be a list"),
        ("names", [[1], [None]], r"its 'names\[0\]' must be text"),
        ("pair", [[1], [1, 2, 3], 7], "its 'pair' must be a list of 2"),
        ("inner", [[], 1, None], "its 'inner' must be an object"),
        ("inner", [{"x": 1}], "its 'inner.x' must be an object"),
        ("inner", [{"x": {"name": 1}}], "its 'inner.x.name' must be text"),
        ("inner", [{"x": {}}], "its 'inner.x.name' is missing"),
        ("either", [True, 1.5, "x", []], "its 'either' must be an object"),
        ("here", [None, 0, "true"], "its 'here' must be true or false"),
    ],
)
def test_a_value_of_another_kind_is_named(name: str, wrong: list[object], expected: str) -> None:
    """Where it is, and what must be there."""
    for value in wrong:
        with pytest.raises(WrongShape, match=f"^{expected}$"):
            from_json(Message, {**LEAST, name: value})


def test_what_is_missing_is_named() -> None:
    """Without a default it must be there; and a message is an object."""
    for name in LEAST:
        with pytest.raises(WrongShape, match=f"^its '{name}' is missing$"):
            from_json(Message, {key: value for key, value in LEAST.items() if key != name})
    with pytest.raises(WrongShape, match=r"^it must be an object$"):
        from_json(Message, [])


def test_what_has_no_form_in_json_is_refused() -> None:
    """Rather than sent as something else."""
    for value in ({1}, b"bytes", object()):
        with pytest.raises(TypeError, match="has no form in JSON"):
            to_json({"a": [value]})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(CID_TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Message.__dataclass_fields__, "here", "why"]), _JSON))
def test_no_json_raises_anything_else(found: dict[str, Any]) -> None:
    """Whatever comes, and what was read can be written."""
    try:
        message = from_json(Message, {**LEAST, **found})
    except WrongShape:
        return
    to_json(message)
