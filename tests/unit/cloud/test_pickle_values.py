"""Whatever store_pkl takes comes back the same, down to the bytes, under every version of Python and numpy."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError, NotSerializable
from kachery_cloud.formats.unpickling import load_pickle
from tests.helpers.numpy_types import arrays, contents, dtypes, same_type
from tests.helpers.pickles import canonical_pickle


def comes_back(value: Any) -> Any:
    data = canonical_pickle(value)
    back = load_pickle(data)
    assert type(back) is type(value)
    assert canonical_pickle(back) == data
    return back


@given(dtypes())
def test_any_type_of_numpy_comes_back(dtype: np.dtype[Any]) -> None:
    """Aligned or with gaps, nested, with titles and arrays as fields, fields left out, any byte order and time unit: of
    the type itself, its arrays of no, one and two dimensions, and its scalars."""
    assert same_type(comes_back(dtype), dtype)
    for shape in ((), (1,), (2, 0), (2, 3)):
        array = np.zeros(shape, dtype)
        back = comes_back(array)
        assert same_type(back.dtype, array.dtype)
        assert (back.shape, contents(back)) == (array.shape, contents(array))
    if dtype.subdtype is None:
        scalar = np.zeros(1, dtype)[0]
        assert same_type(comes_back(scalar).dtype, scalar.dtype)


@given(arrays())
def test_any_array_comes_back(array: np.ndarray[Any, Any]) -> None:
    """With its shape, order and content; it can be written to."""
    back = comes_back(array)
    assert same_type(back.dtype, array.dtype)
    assert (back.shape, contents(back)) == (array.shape, contents(array))
    assert back.flags.writeable
    assert back.flags.f_contiguous or not array.flags.f_contiguous


@given(arrays(), st.binary(min_size=1, max_size=9))
def test_what_lies_between_fields_is_not_stored(array: np.ndarray[Any, Any], garbage: bytes) -> None:
    """It is memory that was used for something else. Equal arrays give equal bytes, and tell nothing of it."""
    size = array.nbytes
    dirty = np.frombuffer(bytearray((garbage * (size + 1))[:size]), "u1") if size else np.empty(0, "u1")
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    copy = np.ndarray(array.shape, array.dtype, dirty, order=order)
    fill(copy, array)
    assert canonical_pickle(copy) == canonical_pickle(array)
    if size:
        assert canonical_pickle(copy.reshape(-1)[0]) == canonical_pickle(array.reshape(-1)[0])


def fill(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Copy field by field."""
    if target.dtype.names is None:
        target[...] = source
    else:
        for name in target.dtype.names:
            fill(target[name], source[name])


def family() -> list[np.dtype[Any]]:
    """One type of each kind."""
    aligned = np.dtype([("a", "i1"), ("u", "<U3"), ("b", "<f8")], align=True)
    return [
        aligned,
        np.empty(0, aligned)[["a", "b"]].dtype,
        np.empty(0, aligned)[["a"]].dtype,
        np.dtype([("x", aligned), ("y", np.empty(0, aligned)[["b", "a"]].dtype, (2,))], align=True),
        np.dtype([("x", aligned), ("y", "u1")]),
        np.dtype([(("title", "a"), ">i2"), ("b", "S3")]),
        np.dtype({"names": ["z", "a"], "formats": ["<i2", "<i4"], "offsets": [4, 0], "itemsize": 16}),
        np.dtype({"names": ["z", "a"], "formats": ["<i4", "<i4"], "offsets": [0, 0], "itemsize": 4}),
        np.dtype([("n", [("x", "<M8[25s]"), ("y", ">m8[ns]")], (2, 1))]),
        np.dtype(("<f4", (2, 3))),
        *(np.dtype(text) for text in ("b1", "<c8", ">f2", "<i8", "S4", ">U2", "V3", "M8[D]", "m8[7us]")),
    ]


def test_the_bytes_of_types_are_the_same_everywhere() -> None:
    """One digest over each kind of type, under numpy 1.24 to 2.5. If this fails, the writer must change, never the
    digest: stored URIs depend on it."""
    digest = hashlib.sha256()
    for dtype in family():
        for value in (dtype, np.zeros(2, dtype)):
            data = canonical_pickle(value)
            digest.update(len(data).to_bytes(8, "big") + data)
    assert digest.hexdigest() == "2826cf09a61a0d68b61221ffaca14b24b81302bcdd1d1010c0ca35b62c235ee1"


@pytest.mark.parametrize("dtype", family(), ids=str)
def test_storing_again_gives_the_same_bytes(dtype: np.dtype[Any]) -> None:
    """Under this numpy: the type, an array and a Fortran array of it, and loading what was loaded."""
    for value in (dtype, np.zeros(3, dtype), np.zeros((), dtype), np.asfortranarray(np.zeros((2, 3), dtype))):
        data = canonical_pickle(value)
        assert canonical_pickle(load_pickle(canonical_pickle(load_pickle(data)))) == data


def test_a_duration_without_a_unit() -> None:
    """numpy gives these up. Where it still has them, one that was stored comes back; where not, it is a FormatError."""
    state = (
        b"(K\x04\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00}\x94(C\x07generic\x94K\x01K\x01K\x01t\x94\x86\x94t"
    )
    dtype = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02m8\x89\x88\x87R" + state + b"b"
    data = b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x06scalar\x93" + dtype + b"C\x08\x05" + bytes(7) + b"\x86R."
    try:
        value = load_pickle(data)
    except FormatError:
        return
    assert value.dtype.str == "<m8"
    assert value.tobytes() == b"\x05" + bytes(7)


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        (np.dtype({"names": ["a"], "formats": ["i4"], "titles": [1]}), "title is 1"),
        (np.dtype([("x", [(((1, 2), "a"), "i4")])]), "title is"),
    ],
    ids=["number", "within"],
)
def test_types_that_would_not_come_back_are_refused(dtype: np.dtype[Any], says: str) -> None:
    """At storing, not at loading."""
    with pytest.raises(NotSerializable, match=says):
        canonical_pickle(np.zeros(1, dtype))


def test_a_type_that_is_nested_too_deep_is_refused() -> None:
    """At storing; 20 deep comes back."""
    dtype = np.dtype("<i4")
    for _ in range(19):
        dtype = np.dtype([("a", dtype)])
    comes_back(np.zeros(1, dtype))
    with pytest.raises(NotSerializable, match="nested more than 20 deep"):
        canonical_pickle(np.zeros(1, np.dtype([("a", dtype)])))


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.timezone.utc))
    | st.times()
    | st.timedeltas()
    | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.builds(range, st.integers(), st.integers(), st.integers(1))
)
keys = plain | st.recursive(plain, lambda x: st.lists(x, max_size=3).map(tuple) | st.frozensets(x, max_size=3))
values = st.recursive(
    plain | st.binary(max_size=20).map(bytearray) | keys,
    lambda x: (
        st.lists(x, max_size=4)
        | st.lists(x, max_size=4).map(tuple)
        | st.dictionaries(keys, x, max_size=4)
        | st.dictionaries(keys, x, max_size=4).map(OrderedDict)
        | st.sets(keys, max_size=4)
        | st.builds(slice, x, x, x)
    ),
    max_leaves=20,
)


@given(values)
def test_any_value_comes_back(value: Any) -> None:
    """Each type that store_pkl takes, within each other."""
    assert comes_back(value) == value
