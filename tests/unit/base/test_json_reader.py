"""The one reader of JSON: what it takes, and the one error for all the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.json_reader import MAX_DEPTH, MAX_DIGITS, InvalidJSON, read_json

scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(values)
def test_what_is_json_comes_back(value: Any) -> None:
    """As text and as UTF-8, with a byte order mark, escaped and not."""
    text = json.dumps(value)
    assert read_json(text) == value
    assert read_json(text.encode()) == value
    assert read_json(b"\xef\xbb\xbf" + text.encode()) == value
    assert read_json(bytearray(text.encode())) == value


def test_bounds_are_what_they_say() -> None:
    """So many levels and digits are read, and one more is not."""
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert read_json("9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    wide = [[{}] for _ in range(1000)]
    assert read_json(json.dumps(wide)) == wide
    with pytest.raises(InvalidJSON, match="levels"):
        read_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(InvalidJSON, match="digits"):
        read_json("9" * (MAX_DIGITS + 1))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("[" * 200_000, "levels"),
        ('{"a":' * 200_000, "levels"),
        ('[{"a":' * 40 + "1" + "}]" * 40, "levels"),
        ("7" * 1_000_000, "digits"),
        ("1e999", "too large"),
        ("[NaN]", "NaN is not"),
        ("-Infinity", "Infinity is not"),
        ('{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"", "line 1, column 1"),
        ("{'a': 1}", "line 1, column 2"),
        ('{"a": 1,\n}', r"line \d, column \d"),
        ("[] []", "line 1, column 4"),
        ('"\t"', "line 1"),
    ],
)
def test_the_rest_is_one_error(data: str | bytes, why: str) -> None:
    """A `ValueError` with a short reason, which repeats nothing of what may be a secret."""
    with pytest.raises(InvalidJSON, match=why) as caught:
        read_json(data)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 100


@given(st.binary() | st.text())
def test_no_input_raises_anything_else(data: bytes | str) -> None:
    """Neither bytes nor text."""
    try:
        read_json(data)
    except InvalidJSON:
        pass


def test_numbers_as_text() -> None:
    """Where none is of interest they are not made, however long; that they are numbers is checked all the same."""
    found = read_json(b'{"a": 1e999, "b": [' + b"7" * 100_000 + b"]}", numbers_as_text=True)
    assert found == {"a": "1e999", "b": ["7" * 100_000]}
    with pytest.raises(InvalidJSON):
        read_json("[NaN]", numbers_as_text=True)
