"""load_pkl's cost follows the size of the file: no small file takes much time or memory, no honest one is refused."""

from __future__ import annotations

import collections
import decimal
import fractions
import pickle
import struct
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError, NotSerializable, UnsafePickle
from kachery_cloud.formats.limits import PickleLimits
from kachery_cloud.formats.unpickling import load_pickle
from tests.helpers.pickle_bombs import BOMBS, HEAD, SECONDS, get, name, plain_dtype, put, text
from tests.helpers.pickles import canonical_pickle

pytest.importorskip("resource", reason="the bounds are enforced by the system (getrlimit)")


def test_no_bomb_goes_off() -> None:
    """Each small file of `pickle_bombs` ends in a value or an error of ours, within CPU seconds and some MiB."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.helpers.pickle_bombs"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    finished = [line[0] for line in lines]
    assert finished == list(BOMBS), f"{list(BOMBS)[len(finished)]} did not end: {done.returncode} {done.stderr[-500:]}"
    for label, size, seconds, grown, _ in lines:
        assert float(seconds) < SECONDS, label
        assert int(grown) < 256 + 128 * int(size) / 2**20, label


@pytest.mark.parametrize(
    "value",
    [
        [[] for _ in range(20_000)],
        [{} for _ in range(20_000)],
        [set() for _ in range(20_000)],
        [frozenset() for _ in range(20_000)],
        [frozenset([None]) for _ in range(20_000)],
        [{None: None} for _ in range(20_000)],
        [collections.OrderedDict() for _ in range(10_000)],
        [bytearray(10) for _ in range(20_000)],
        [np.bool_(True)] * 20_000,
        [np.zeros(1) for _ in range(5000)],
        [range(0)] * 20_000,
        [decimal.Decimal(1)] * 20_000,
        [fractions.Fraction(1)] * 20_000,
        {uuid.UUID(int=i): i for i in range(10_000)},
        {fractions.Fraction(i, 7): i for i in range(10_000)},
        {(1 << 63) + i * 12345: i for i in range(20_000)},
        {i << 50: i for i in range(20_000)},
        {i / 7: i for i in range(20_000)},
        {(i, f"{i % 100}"): i for i in range(10_000)},
        {((i, 1), (2, (i,))) for i in range(10_000)},
        {tuple(range(20_000)): 1, (2**20_000, "x" * 100_000): 2},
        {-1, -2, -3},
        {np.int64(i) for i in range(10_000)},
        [np.dtype([(f"column {i}", "<f8") for i in range(20_000)])],
        list("ab") * 20_000,
    ],
    ids=lambda value: f"{type(value).__name__}-{next(iter(value))!r:.25}",
)
def test_the_densest_honest_values_are_loaded(value: Any) -> None:
    """Whatever store_pkl writes, load_pkl reads, however much is in few bytes. Nearly without the sum that is free for
    any file, so that what holds here holds for any number of them."""
    assert load_pickle(canonical_pickle(value), PickleLimits(free=10_000)) == value


def test_what_would_not_be_loaded_is_not_stored() -> None:
    """Equal buffers are written once. Where they are so many that load_pkl would refuse the file, store_pkl does."""
    some = [bytearray(1 << 20) for _ in range(50)]
    assert load_pickle(canonical_pickle(some)) == some
    for many in ([bytearray(1 << 20) for _ in range(100)], [np.void(bytes(1 << 20)) for _ in range(100)]):
        with pytest.raises(NotSerializable, match="equal to others"):
            canonical_pickle(many)


def test_shared_tuples_stay_shared() -> None:
    """A tuple that holds large bytes, which are read late, is one object however often it occurs."""
    inner = (b"x" * 70_000, 1)
    loaded = load_pickle(pickle.dumps([inner, inner, (inner, inner)]))
    assert loaded[0] is loaded[1] is loaded[2][0] is loaded[2][1]


def array_of(dtype: bytes, data: bytes) -> bytes:
    return (
        name("numpy._core.numeric", "_frombuffer")
        + b"(C"
        + bytes([len(data)])
        + data
        + dtype
        + b"K\x01\x85"
        + (text("C") + b"tR")
    )


def scalar_of(dtype: bytes, data: bytes) -> bytes:
    return name("numpy._core.multiarray", "scalar") + dtype + b"C" + bytes([len(data)]) + data + b"\x86R"


def text_within() -> bytes:
    """A type of 20 bytes with a text field of two characters, twice, at 4."""
    sub = (
        name("numpy", "dtype") + text("V16") + b"\x89\x88\x87R(K\x03" + text("|") + plain_dtype("U2", 8) + b"K\x02\x85"
    )
    sub += b"\x86NNK\x10K\x04K\x08tb"
    fields = b"}" + text("t") + sub + b"K\x04\x86s"
    return (
        name("numpy", "dtype") + text("V20") + b"\x89\x88\x87R(K\x03" + text("|") + b"N" + text("t") + b"\x85" + fields
    ) + b"K\x14K\x01K\x10tb"


@pytest.mark.parametrize("make", [array_of, scalar_of])
@pytest.mark.parametrize("point", [0x110000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (plain_dtype("U1", 4), "<I"),
        (plain_dtype("U1", 4, ">"), ">I"),
        (plain_dtype("U3", 12), "<8xI"),
        (text_within(), "<16xI"),
    ],
    ids=["little", "big", "third", "field"],
)
def test_characters_that_do_not_exist_are_refused(make: Any, point: int, dtype: bytes, form: str) -> None:
    """Code points above U+10FFFF, in arrays, scalars and fields: numpy would fail on each look at them."""
    with pytest.raises(UnsafePickle, match="characters that do not exist"):
        load_pickle(HEAD + make(dtype, struct.pack(form, point)) + b".")
    last = load_pickle(HEAD + make(dtype, struct.pack(form, 0x10FFFF)) + b".")
    assert "\U0010ffff" in repr(np.asarray(last).tolist()).encode().decode("unicode-escape") or "10ffff" in repr(last)


def test_a_state_is_taken_once_by_each_place() -> None:
    """Remembered before it has its state, under several numbers, also odd ones, a value is the finished one after."""
    body = name("uuid", "UUID") + b")\x81" + put(5) + put(7_000_000) + b"q\x00" + b"}" + text("int") + b"K\x05sb"
    loaded = load_pickle(HEAD + body + get(5) + get(7_000_000) + b"h\x00\x87\x86.")
    assert loaded == (uuid.UUID(int=5), (uuid.UUID(int=5),) * 3)


def test_a_type_of_numpy_as_a_key() -> None:
    """Types can be keys."""
    value = {np.dtype("<i4"): 1, np.dtype([("a", "<U3"), ("b", "<f8", (2,))]): 2}
    assert load_pickle(canonical_pickle(value)) == value


VALUES: list[Any] = [
    {"a": np.arange(4, dtype="<i2"), "b": [1.5, "x", (1, None)], "c": {1, 2}, "d": np.float32(2), "e": 10**30},
    [np.zeros(3, np.dtype([("a", "i1"), ("u", "<U3", (2,)), ("b", [("c", "<f8")])], align=True)), np.array(["ab"])],
    [np.str_("abc"), np.datetime64("2020-01-01T00:00:00", "25s"), decimal.Decimal("1.5"), uuid.UUID(int=7)],
    [fractions.Fraction(1, 3), collections.OrderedDict(a=1), slice(1, (2,)), range(3), 1j, bytearray(b"xy")],
    {(1, 2): {2**70: 1}, frozenset([frozenset([1]), (1, 2)]): b"x" * 300, 1.5: None},
]
BLOBS = [canonical_pickle(v) for v in VALUES] + [pickle.dumps(v, p) for v in VALUES for p in (2, 3, 4, 5)]


@given(st.data())
def test_any_change_of_a_pickle_is_harmless(data: st.DataObject) -> None:
    """Bytes flipped, parts cut out, doubled, or taken from other pickles: a value, or an error that is declared."""
    blob = bytearray(data.draw(st.sampled_from(BLOBS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(2, max(2, len(blob) - 1))), data.draw(st.integers(1, 60))
        change = data.draw(st.sampled_from(["flip", "cut", "double", "other", "end"]))
        if change == "flip":
            blob[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
        elif change == "cut":
            del blob[place : place + length]
        elif change == "double":
            start = data.draw(st.integers(2, max(2, len(blob) - 1)))
            blob[place:place] = blob[start : start + length]
        elif change == "other":
            other = data.draw(st.sampled_from(BLOBS))
            start = data.draw(st.integers(2, len(other) - 1))
            blob[place:place] = other[start : start + length]
        else:
            del blob[place:]
    try:
        load_pickle(bytes(blob))
    except FormatError:
        pass
