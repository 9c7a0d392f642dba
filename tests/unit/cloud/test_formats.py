"""Text, JSON and npy: the same value gives the same bytes, and what a format cannot hold is said by name and place."""

from __future__ import annotations

import datetime
import enum
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError, NotSerializable
from kachery_cloud.formats.values import (
    check_array,
    json_bytes,
    json_from_bytes,
    read_npy,
    text_bytes,
    text_from_bytes,
    write_npy,
)

# --- text and JSON -------------------------------------------------------------------------------------------------


def test_text_is_utf8_untouched() -> None:
    """No byte order mark, no translation of line ends, both ways."""
    text = "a\r\nb\nc\rµ\U0001f600\0"
    assert text_bytes(text) == text.encode()
    assert text_from_bytes(text_bytes(text), "x") == text


def test_text_that_is_none_is_refused() -> None:
    """Bytes, and text with half a surrogate pair, are NotSerializable; bytes that are not UTF-8 a FormatError."""
    with pytest.raises(NotSerializable, match="not bytes"):
        text_bytes(b"x")  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match="position 2"):
        text_bytes("ab\ud800")
    with pytest.raises(FormatError, match="byte 1 is 0xff"):
        text_from_bytes(b"a\xff", "ipfs://x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.5, None, True]}, '{"a":[1.5,null,true],"b":1}'),
        ({"é": "ü\n"}, '{"\\u00e9":"\\u00fc\\n"}'),
        ((1, (2, 3)), "[1,[2,3]]"),
        ({10: "a", 9: "b", "1": "c"}, '{"1":"c","10":"a","9":"b"}'),
        ({True: 1, None: 2, 1.5: 3}, '{"1.5":3,"null":2,"true":1}'),
        ({"x": [{2: 0}, "y"], "w": ({1: [{3: 4}]},)}, '{"w":[{"1":[{"3":4}]}],"x":[{"2":0},"y"]}'),
        (10**30, "1" + "0" * 30),
        (-0.0, "-0.0"),
        (np.float64(0.1), "0.1"),
    ],
)
def test_json_has_one_form(value: Any, text: str) -> None:
    """Sorted keys, no blanks, ASCII; keys of other plain types become text and are sorted as text."""
    assert json_bytes(value).decode() == text


def test_storing_json_does_not_change_the_value() -> None:
    """Keys are converted in a copy."""
    value = {"a": {1: [{2: 3}]}}
    json_bytes(value)
    assert value == {"a": {1: [{2: 3}]}}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_is_stable(value: Any) -> None:
    """Loading and storing again gives the same bytes (so: the same URI)."""
    try:
        first = json_bytes(value)
    except NotSerializable:
        return  # {1: ..., "1": ...}, two keys that become the same text
    assert json_bytes(json.loads(first)) == first


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, {"b": math.nan}]}, "nan at ['a'][1]['b']"),
        ([math.inf], "inf at [0]"),
        ({"x": np.float32(1)}, "numpy.float32 at ['x']"),
        ({"x": np.int64(1)}, ".item()"),
        (np.array([1]), ".tolist()"),
        ({(1, 2): 3}, "its key (1, 2) is a tuple"),
        ({"a": {np.int64(1): 3}}, "numpy.int64"),
        ({1: 0, "1": 0}, "become the same text '1'"),
        ([b"x"], "bytes at [0]"),
        ([{1, 2}], "sorted(x)"),
        ([datetime.date(2020, 1, 1)], "str(x)"),
        ([Path("x")], "str(x)"),
        ([Color.RED], "Color"),
        ([object()], "object at [0]"),
        ([10**5000], "digits"),
        ([np.float64("nan")], "nan at [0]"),
        ({math.nan: 1}, "nan"),
    ],
)
def test_json_says_what_it_cannot_hold_and_where(value: Any, says: str) -> None:
    """Each is a NotSerializable whose sentence has the place in the value."""
    with pytest.raises(NotSerializable) as caught:
        json_bytes(value)
    assert says in str(caught.value)


def test_json_that_contains_itself_is_refused() -> None:
    """A cycle, and absurd depth, end in the same named error on every Python version."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(NotSerializable, match="nested more than"):
        json_bytes(cycle)


def test_json_of_others_is_read() -> None:
    """What store_json does not write, but others do: the last of two equal keys counts, NaN is a number, depth within
    Python's stack is fine, escapes may be half a character."""
    assert json_from_bytes(b'{"a": 1, "b": 0, "a": 2}', "x") == {"a": 2, "b": 0}
    assert repr(json_from_bytes(b"[NaN, -Infinity, 1e999]", "x")) == "[nan, -inf, inf]"
    assert json_from_bytes(b"[" * 200 + b"]" * 200, "x") is not None
    assert json_from_bytes(b'"\\ud800"', "x") == "\ud800"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"[-" + b"1" * 5000, b"[" * 2_000_000]
)
def test_what_is_no_json_is_a_format_error(data: bytes) -> None:
    """Also when it tries the parser's stack."""
    with pytest.raises(FormatError):
        json_from_bytes(data, "ipfs://x")


# --- npy -----------------------------------------------------------------------------------------------------------


def arrays() -> list[np.ndarray[Any, Any]]:
    base = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    return [
        base,
        base.transpose(2, 0, 1),
        np.asfortranarray(base),
        base[:, ::2, ::-1],
        np.array(5.0),
        np.zeros((0, 3)),
        np.zeros((3, 0), order="F"),
        np.arange(3, dtype=">i4"),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a"]),
        np.array(["2020-01-01"], dtype="M8[25s]"),
        np.ones(3, dtype=[("a", "<i2"), ("b", ">f4", (2,))]),
        np.ones(3, dtype=[("é", "<i2")]),
        np.ones(2, "c16"),
    ]


@pytest.mark.parametrize("array", arrays(), ids=lambda a: f"{a.dtype}-{a.shape}")
def test_npy_is_what_numpy_saves(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """Byte for byte numpy.save, and back with type, shape, order and writability."""
    expected, got = io.BytesIO(), io.BytesIO()
    np.save(expected, array, allow_pickle=False)
    write_npy(got, check_array(array))
    assert expected.getvalue() == got.getvalue()
    path = tmp_path / "a.npy"
    path.write_bytes(got.getvalue())
    back = read_npy(path, "x")
    assert (back.dtype, back.shape, type(back)) == (array.dtype, array.shape, np.ndarray)
    assert np.array_equal(back, array)
    assert back.flags.writeable
    assert back.flags.f_contiguous == np.load(path).flags.f_contiguous


def test_npy_golden_bytes_hold_under_every_numpy() -> None:
    """The header is the one that numpy 1.26 and 2 write: a change in a later numpy would show here."""
    got = io.BytesIO()
    write_npy(got, check_array(np.array([[1, 2, 3], [4, 5, 6]], dtype="<i2")))
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }"
    assert got.getvalue() == b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + bytes(
        [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]
    )


def test_a_memmap_and_metadata_make_no_difference(tmp_path: Path) -> None:
    """An array that lies in a file, or whose dtype carries notes, is stored as its values."""
    plain = np.arange(100, dtype="<f4")
    mapped = np.memmap(tmp_path / "m", dtype="<f4", mode="w+", shape=(100,))
    mapped[:] = plain
    noted = plain.astype(np.dtype("<f4", metadata={"unit": "mV"}))
    out = [io.BytesIO() for _ in range(3)]
    for buffer, array in zip(out, (plain, mapped, noted), strict=True):
        write_npy(buffer, check_array(array))
    assert out[0].getvalue() == out[1].getvalue() == out[2].getvalue()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([{}, None]), "Python objects"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), "Python objects"),
        (np.ma.masked_array([1, 2], [True, False]), "masked"),
        ([[1], [1, 2]], "store_npy cannot make an array"),
    ],
)
def test_arrays_that_need_a_pickle_are_refused(array: Any, says: str) -> None:
    """NotSerializable with advice."""
    with pytest.raises(NotSerializable, match=says):
        check_array(array)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x93NUMPY",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", b"\0" * 8),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N."),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", b"\0" * 8),
        npy("__import__('os').system('false')"),
        npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        b"PK\x05\x06" + b"\0" * 18,
        b"\x80\x04N.",
    ],
)
def test_files_that_are_no_arrays_are_format_errors(data: bytes, tmp_path: Path) -> None:
    """Cut short, lying about the shape (before memory is taken for it), pickled, or no npy at all."""
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(FormatError):
        read_npy(path, "ipfs://x")
