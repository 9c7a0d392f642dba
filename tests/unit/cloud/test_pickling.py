"""store_pkl's bytes: equal values give equal bytes under every Python and numpy, and any pickle.load reads them."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import hashlib
import json
import pickle
import tracemalloc
import uuid
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import NotSerializable
from kachery_cloud.formats.unpickling import load_pickle
from tests.helpers.pickles import canonical_pickle

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "seed_uris.json").read_text())


def label(value: Any) -> str:
    # The items of a set have another order in each process; the workers of one run must have one list of tests.
    shown = sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value
    return f"{type(value).__name__}-{shown!r:.9}"


def plain_values() -> list[Any]:
    return [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            255,
            256,
            65535,
            65536,
            -129,
            2**31,
            -(2**31),
            2**64,
            -(2**63),
            2**3000,
            -(2**2047),
        ),
        *(1.5, -0.0, float("inf"), "", "é\ud800", "x" * 300, "y" * 70_000, b"", b"z" * 300, b"z" * 70_000),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], list(range(2500)), {}, {"a": 1}),
        {i: i for i in range(2500)},
        *(set(), {1, "a", None, (1, 2), 2.5, b"q"}, frozenset({1, 2, frozenset({3})}), set(range(1500))),
        *(1 + 2j, range(3, 9, 2), slice(1, None, 2), bytearray(b"abc"), bytearray(), bytearray(b"y" * 70_000)),
        *(dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, 3, 4, 5, 6), dt.time(1, 2, 3, 4, fold=1), dt.timedelta(-1, 3)),
        dt.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc, fold=1),
        dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2), "x")),
        dt.timezone(dt.timedelta(hours=-2)),
        *(decimal.Decimal("1.50"), decimal.Decimal("-Infinity"), fractions.Fraction(-3, 7), uuid.UUID(int=5)),
        collections.OrderedDict([("b", 1), ("a", 2)]),
    ]


def arrays() -> list[np.ndarray[Any, Any]]:
    base = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    large = (np.arange(3000 * 400, dtype="<f8") / 7).reshape(3000, 400)
    return [
        *(base, base.T, base[:, ::2], base[..., ::-1], np.zeros(()), np.zeros((0, 3)), np.arange(5) > 2),
        *(np.arange(3, dtype=">i4"), np.array(["a", "bcd"]), np.array([b"x"]), np.zeros(2, "V7"), np.ones(10, "<c16")),
        *(np.array(["2020-01-01"], "<M8[25s]"), np.array([1], "<m8[ns]"), np.ones(10, "<f2")),
        np.ones(3, dtype=[("a", "<i2"), (("t", "b"), ">f4", (2,))]),
        np.zeros(3, dtype=np.dtype([("a", "i1"), ("u", "<U3"), ("b", "<f8")], align=True)),
        np.zeros(4, dtype={"names": ["z", "a"], "formats": ["<i2", "<i4"], "offsets": [4, 0], "itemsize": 16}),
        np.zeros(2, dtype=[("n", [("x", "<M8[s]")])]),
        *(large, np.asfortranarray(large), large[::2, ::3], large[5], large.T[3]),
    ]


def scalars() -> list[Any]:
    return [
        *(np.float64(1.5), np.int32(3), np.bool_(True), np.str_("ab"), np.str_(""), np.bytes_(b"q"), np.float32("nan")),
        *(np.datetime64("2020-01-01"), np.timedelta64(3, "D"), np.complex64(1j), np.void(b"abc")),
        np.ones(1, dtype=[("a", "<i2"), ("b", "<f8")])[0],
        *(np.dtype("<i4"), np.dtype([("a", "<U3")])),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b) and a.dtype == b.dtype and a.shape == b.shape
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return a == b


def test_the_seed_vector() -> None:
    """The URI that must hold for ever."""
    import base64

    data = canonical_pickle({"example": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)})
    raw_cid = base64.b32encode(b"\x01\x55\x12\x20" + hashlib.sha256(data).digest()).decode().lower().rstrip("=")
    assert next(v for k, v in VECTORS.items() if k.startswith("store_pkl")) == f"ipfs://b{raw_cid}"


def test_the_bytes_are_the_same_under_every_python_and_numpy() -> None:
    """One digest over a value of every kind, computed under Python 3.10 to 3.13 and numpy 1.24, 1.26 and 2.1 to 2.5.

    If this fails on a new version, the writer must change, never the digest: stored URIs depend on it.
    """
    digest = hashlib.sha256()
    for value in (*plain_values(), *arrays(), *scalars()):
        data = canonical_pickle(value)
        digest.update(len(data).to_bytes(8, "big") + data)
    assert digest.hexdigest() == "abb116d356f53fa6154881613d2c16e3d8b0cd866a5e8fbd0506f97394f2f040"


@pytest.mark.parametrize("value", [*plain_values(), *arrays(), *scalars()], ids=label)
def test_every_value_comes_back(value: Any) -> None:
    """Our reader gives an equal value of the same type whose bytes are the same again; Python's reads it too."""
    data = canonical_pickle(value)
    ours = load_pickle(data)
    assert type(ours) is type(value)
    assert same(value, ours)
    assert canonical_pickle(ours) == data
    theirs = pickle.loads(data)
    assert type(theirs) is type(value)
    # Python's reader turns arrays of foreign byte order into native ones; the values stay.
    assert np.array_equal(theirs, value) if isinstance(value, np.ndarray) else same(value, theirs)


@pytest.mark.parametrize("value", [*plain_values(), *arrays(), *scalars()], ids=label)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_ordinary_pickles_are_read(value: Any, protocol: int) -> None:
    """What pickle.dump wrote for the same types, as in older kachery-cloud files, is read, in protocols 3 to 5."""
    back = load_pickle(pickle.dumps(value, protocol=protocol))
    assert type(back) is type(value)
    assert same(value, back)


def test_the_bytes_are_those_of_numpy_1() -> None:
    """For a value without repeats, they are those of pickle.dumps(protocol=4), but for the module name of numpy 2."""
    value = {"example": np.arange(6, dtype=np.int16), "n": 3, "list": [1.5, "text", (1, None)], "big": "q" * 100_000}
    expected = pickle.dumps(value, protocol=4)
    if not np.__version__.startswith("1."):
        # The name is one character longer, and so is the first frame (the 64-bit number after its opcode).
        frame = int.from_bytes(expected[3:11], "little") - 1
        expected = expected[:3] + frame.to_bytes(8, "little") + expected[11:]
        expected = expected.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert canonical_pickle(value) == expected


def test_equal_text_is_written_once_whatever_its_identity() -> None:
    """Interning plays no part: two equal strings that are two objects give the bytes of one object used twice."""
    one = "field name"
    other = "".join(["field ", "name"])
    assert one is not other
    assert canonical_pickle([one, one]) == canonical_pickle([one, other])
    assert canonical_pickle([b"ab" * 9, b"ab" * 9]) == canonical_pickle([bytes(bytearray(b"ab" * 9)), b"ab" * 9])


def test_shared_tuples_and_constants_make_no_difference() -> None:
    """A constant that the compiler shares gives the bytes of two tuples made at run time."""
    t = (1, "a")
    assert canonical_pickle([t, t]) == canonical_pickle([*[tuple(x) for x in ([1, "a"], [1, "a"])]])


def test_dtype_objects_are_compared_by_value() -> None:
    """A dtype made anew is the same dtype, byte order and structure included; others are not."""
    first, second = np.dtype([("a", ">i4")]), np.dtype([("a", ">i4")])
    assert first is not second
    one = [np.zeros(2, first), np.zeros(2, first)]
    two = [np.zeros(2, first), np.zeros(2, second)]
    assert canonical_pickle(one) == canonical_pickle(two)
    assert canonical_pickle(np.zeros(2, ">i4")) != canonical_pickle(np.zeros(2, "<i4"))


def test_metadata_of_a_dtype_is_left_out() -> None:
    """As numpy.save leaves it out: it is no part of the values."""
    noted = np.zeros(3, np.dtype("<f4", metadata={"unit": "mV"}))
    assert canonical_pickle(noted) == canonical_pickle(np.zeros(3, "<f4"))


def test_sets_have_one_order() -> None:
    """The order in which a set was filled, and hash randomisation, make no difference."""
    words = [f"word{i}" for i in range(100)]
    backwards = words[::-1]
    assert canonical_pickle(set(words)) == canonical_pickle(set(backwards))
    assert canonical_pickle({1, 2, 65536, -5}) == canonical_pickle({-5, 65536, 2, 1})


def test_aliases_and_cycles_survive() -> None:
    """A list, dict or array that occurs twice is one object again after loading; a cycle is a cycle."""
    inner: list[Any] = []
    array = np.zeros(2)
    value: dict[str, Any] = {"a": inner, "b": inner, "x": array, "y": array}
    inner.append(value)
    back = load_pickle(canonical_pickle(value))
    assert back["a"] is back["b"]
    assert back["x"] is back["y"]
    assert back["a"][0] is back


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda x: (
            st.lists(x, max_size=5)
            | st.lists(x, max_size=5).map(tuple)
            | st.dictionaries(st.text() | st.integers(), x, max_size=5)
            | st.frozensets(st.integers() | st.text() | st.none(), max_size=5)
        ),
        max_leaves=30,
    )
)
def test_any_plain_value_comes_back(value: Any) -> None:
    """Round trip through our reader and through Python's, and the bytes are stable."""
    data = canonical_pickle(value)
    assert load_pickle(data) == value
    assert pickle.loads(data) == value
    assert canonical_pickle(load_pickle(data)) == data


class Custom:
    pass


class MyDict(dict[str, int]):
    pass


Point = collections.namedtuple("Point", "x y")


def recursive_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [Custom()]}, "Custom at ['a'][0]"),
        ([print], "function print> at [0]"),
        ([Custom], "type at [0]"),
        ({"x": MyDict(a=1)}, "store dict(value) instead"),
        ([Point(1, 2)], "store tuple(value) instead"),
        (collections.defaultdict(list), "defaultdict"),
        (collections.deque([1]), "deque"),
        (np.array([{}]), "Python objects"),
        (np.array([(None,)], dtype=[("a", "O")]), "Python objects"),
        (np.ma.masked_array([1], [True]), ".mask"),
        (np.zeros((1, 1)).view(np.matrix), "matrix"),
        (np.zeros(1, np.longdouble), "differ between machines"),
        (np.random.default_rng(0), "Generator"),
        ([dt.datetime(2020, 1, 1, tzinfo=ZoneInfo("UTC"))], "astimezone"),
        ({Custom(): 1}, "Custom at [<Custom>]"),
        ({frozenset([Color := Custom])}, "type at {...}{...}"),
        (recursive_list(), "nested more than 200 deep"),
        (decimal.Decimal("1" * 70_000), "digits"),
        (open, "open"),
        (lambda: 0, "function"),
        (memoryview(b"x"), "memoryview"),
        (Path("x"), "Path"),
    ],
)
def test_other_types_are_refused_by_name_and_place(value: Any, says: str) -> None:
    """NotSerializable; nothing that would need code on loading is ever written."""
    with pytest.raises(NotSerializable) as caught:
        canonical_pickle(value)
    assert says in str(caught.value)


def test_large_arrays_are_not_copied_as_a_whole(tmp_path: Path) -> None:
    """Writing 64 MiB, contiguous or not, takes a few MiB of memory."""
    from kachery_cloud.formats.pickling import dump_pickle

    array = np.zeros((64, 1 << 20), "u1")
    for value in (array, array[:, ::-1], np.asfortranarray(array)):
        tracemalloc.start()
        with open(tmp_path / "x", "wb") as file:
            dump_pickle(value, file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24 << 20
        assert (tmp_path / "x").stat().st_size > 64 << 20
