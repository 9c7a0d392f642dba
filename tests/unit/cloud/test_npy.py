"""store_npy takes arrays and nothing else; load_npy reads what numpy.save writes, and no other header."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError, NotSerializable
from kachery_cloud.formats.npy_header import read_header
from kachery_cloud.formats.values import check_array, read_npy, text_bytes, write_npy
from tests.helpers.numpy_types import arrays, contents, same_type

# numpy reads headers only to this length without being told.
LONG = 1 << 30


def header_file(text: str | bytes, body: bytes = b"", version: tuple[int, int] = (1, 0), length: int = -1) -> bytes:
    data = text if isinstance(text, bytes) else text.encode("utf-8" if version == (3, 0) else "latin-1")
    size = (len(data) if length < 0 else length).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + data + body


def of(descr: str, shape: str = "(1,)", body: bytes = bytes(64)) -> bytes:
    return header_file(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", body)


def stored(array: Any) -> bytes:
    file = io.BytesIO()
    write_npy(file, check_array(array))
    return file.getvalue()


def loaded(data: bytes, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / "array.npy"
    path.write_bytes(data)
    return read_npy(path, "ipfs://x")


@given(array=arrays(packed=True))
def test_any_array_is_as_numpy_saves_and_loads_it(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """Of any type that an npy file can say: the file is numpy.save's, and what is read is what numpy.load reads."""
    try:
        np.lib.format.dtype_to_descr(array.dtype)
    except ValueError:
        with pytest.raises(NotSerializable, match="store_pkl can"):
            check_array(array)
        return
    ours, theirs = stored(array), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.save(theirs, array, allow_pickle=False)
    theirs.seek(0)
    expected = np.load(theirs, max_header_size=LONG)
    if sum(map(len, contents(array))) == array.nbytes:
        assert ours == theirs.getvalue()
    else:  # what lies between fields is whatever was in memory to numpy, and zero to us
        assert len(ours) == len(theirs.getvalue())
    for data in (ours, theirs.getvalue()):
        back = loaded(data, tmp_path)
        assert same_type(back.dtype, expected.dtype)
        assert (back.shape, contents(back)) == (array.shape, contents(array))
        assert (back.flags.f_contiguous, back.flags.writeable) == (expected.flags.f_contiguous, True)
    assert stored(loaded(ours, tmp_path)) == ours


def test_a_type_of_many_fields(tmp_path: Path) -> None:
    """Its header needs version 2 of the format, and names in other scripts version 3; neither makes numpy warn."""
    for names in ([f"column {i}" for i in range(5000)], [f"столбец {i}" for i in range(20)]):
        array = np.zeros(2, [(name, "<f4") for name in names])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = stored(array)
        assert data[6] == (2 if len(names) == 5000 else 3)
        assert loaded(data, tmp_path).dtype == array.dtype
        assert np.load(io.BytesIO(data), max_header_size=LONG).dtype == array.dtype


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("{'descr': '<i2', 'fortran_order': False, 'shape': (2L, 3L), }", "<i2", (2, 3)),
        ("{'shape': (), 'fortran_order': False, 'descr': '|b1'}", "b1", ()),
        ('{"descr": "<f8", "fortran_order": False, "shape": (1,)}   \n', "f8", (1,)),
        ("{'descr':[(u'a','<i2'),('b','<f4',(2L,))],'fortran_order':False,'shape':(1,)}\n", "<i2,(2,)<f4", (1,)),
    ],
)
def test_headers_of_old_and_other_writers(text: str, dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Long integers and prefixes of Python 2, either kind of quotes, any order and spacing, no last comma."""
    back = loaded(header_file(text, bytes(64)), tmp_path)
    expected = np.dtype(dtype)
    assert [back.dtype[n] for n in back.dtype.names or ()] == [expected[n] for n in expected.names or ()]
    assert (back.dtype.itemsize, back.shape) == (expected.itemsize, shape)


REFUSED: dict[str, bytes] = {
    "items without bytes": of("'|V0'", "(4611686018427387904,)"),
    "text without characters": of("'<U0'", "(10000000000,)"),
    "fields without bytes": of("[('a', '|V0')]", "(10000000000,)"),
    "empty field": of("[('a', '<f8', (0,))]", "(10000000000,)"),
    "product of 2^64": of("'|u1'", "(4294967296, 4294967296)"),
    "negative": of("'|u1'", "(-1,)"),
    "two negatives": of("'|u1'", "(-2, -2)"),
    "huge number": of("'|u1'", "(" + "9" * 5000 + ",)"),
    "minus signs": of("'|u1'", "(" + "-" * 60_000 + "1,)"),
    "open brackets": of("(" * 60_000),
    "lists": of("[" * 30_000 + "]" * 30_000),
    "deep type": of("[('a', " * 90 + "'<f8'" + ")]" * 90),
    "objects": of("'|O'"),
    "objects in a field": of("[('a', [('b', '|O', (2,))])]"),
    "truth as a length": of("'|u1'", "(True,)"),
    "sum": of("'|u1'", "(1+2,)"),
    "call": of("__import__('os')"),
    "several types": of("'f8,f8'"),
    "StringDType": of("'StringDType()'"),
    "kind T": of("'|T16'"),
    "time unit": of("'<M8[99999999999999999999us]'"),
    "name twice": of("[('a', '<f8'), ('a', '<f8')]"),
    "title twice": of("[(('t', 'a'), '<f8'), (('t', 'b'), '<f8')]"),
    "shape is a list": of("'|u1'", "[1]"),
    "shape is a number": of("'|u1'", "1"),
    "65 dimensions": of("'|u1'", "(" + "1, " * 65 + ")"),
    "size over 2 GiB": of("'|V2147483648'", "(0,)"),
    "no end of text": of("'|u1"),
    "odd escape": of("[('\\q', '|u1')]"),
    "character that does not exist": of("[('\\Uffffffff', '|u1')]"),
    "a set": header_file("{'descr', 'fortran_order', 'shape'}\n"),
    "another key": header_file("{'descr': '|u1', 'fortran_order': False, 'shape': (), 'x': 1}\n", b"1"),
    "a key twice": header_file("{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': ()}\n", b"1"),
    "a key missing": header_file("{'descr': '|u1', 'shape': ()}\n", b"1"),
    "more after it": header_file("{'descr': '|u1', 'fortran_order': False, 'shape': ()} 1\n", b"1"),
    "NUL": header_file(b"{'descr':'\0'}\n"),
    "not UTF-8": header_file(b"\xff\xff\xff", version=(3, 0)),
    "version": header_file("{}", version=(9, 9)),
    "4 GiB of header": header_file(b" " * 100, version=(2, 0), length=0xFFFFFFFF),
    "too short": of("'<f8'", "(9,)"),
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04N.",
    "text of no characters that exist": of("'<U1'", "(1,)", b"\xff\xff\xff\xff"),
    "such text, the other byte order": of("'>U2'", "(1,)", b"\0\0\0A\0\x11\0\0"),
    "such text in a field": of("[('a', '|u1'), ('b', [('c', '<U2', (2,))])]", "(2,)", bytes(30) + b"\0\0\x11\0"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_other_files_are_format_errors(data: bytes, tmp_path: Path) -> None:
    """Whatever they do to numpy: endless work, and errors of its tokenizer, of zipfile, of memory."""
    with pytest.raises(FormatError, match=r"^ipfs://x is not an npy file that can be read: \S"):
        loaded(data, tmp_path)


def test_memory_is_not_taken_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shape is held against the file before an array is made."""
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(FormatError, match="takes 8,000 bytes; the file has 64"):
        loaded(of("'<f8'", "(1000,)"), tmp_path)


SAMPLES = [
    stored(np.zeros(3, [("a", "<i2"), (("t", "b"), "<U2", (2,))])),
    stored(np.ones((2, 3), ">M8[25s]", order="F")),
]


@given(data=st.data())
def test_any_change_of_a_file_is_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """An array, or a FormatError; where numpy reads the header too, ours says the same."""
    blob = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(blob) - 1))
        if data.draw(st.booleans()):
            blob[place] = data.draw(st.sampled_from(b"'\"()[]{},:0123459LUuTF \\<>|\xff\0"))
        else:
            del blob[place : place + data.draw(st.integers(1, 5))]
    try:
        back = loaded(bytes(blob), tmp_path)
    except FormatError:
        return
    if back.dtype.kind != "m" or "[" in back.dtype.str:  # a duration without a unit is given up by numpy
        header = read_header(io.BytesIO(blob), len(blob))
        assert (back.dtype, back.shape) == (header.dtype, header.shape)
        try:
            theirs = np.load(io.BytesIO(blob))
        except Exception:  # noqa: BLE001 - of any kind
            return
        assert (theirs.dtype, theirs.shape) == (back.dtype, back.shape)


def labelled(module: str) -> Any:
    """Something that numpy makes an array of, from a library of tables that need not be installed here."""

    class Table:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return np.zeros((2, 2))

    Table.__module__ = module
    return Table()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/data/x.npy", "not a str. A file is stored by its path with store_file"),
        (Path("x.npy"), "stored by its path with store_file"),
        (b"abc", "not a bytes"),
        (bytearray(b"abc"), "not a bytearray"),
        (None, "not a NoneType"),
        ({"a": 1}, "not a dict"),
        ({1, 2}, "not a set"),
        (labelled("pandas.core.frame"), "labels would be lost"),
        (labelled("xarray.core.dataarray"), "labels would be lost"),
        ([1, "a"], "text and numbers in one list"),
        ([["a", "b"], ["c", 1.5]], "text and numbers in one list"),
        (object(), "Python objects"),
        (np.zeros(1, {"names": ["z", "a"], "formats": ["<i2", "<i4"], "offsets": [4, 0]}), "store_pkl can"),
        (np.zeros(1_000_001, "V0"), "items without bytes"),
        (np.zeros(1, {"names": ["a"], "formats": ["i4"], "titles": [1]}), "title is 1"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_is_no_array_is_refused(value: Any, says: str) -> None:
    """Also what numpy would make an array of: a path, a table with labels, text among numbers."""
    with pytest.raises(NotSerializable) as caught:
        check_array(value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "value", [[1, 2], (1.5, 2), 5, True, 1j, range(3), ["a", "b"], [[b"x"]], np.float32(1), np.str_("a")]
)
def test_what_is_an_array_to_numpy_is_stored(value: Any) -> None:
    """Numbers, lists and ranges of them, lists of text, scalars, and whatever has the protocol of arrays."""
    assert np.array_equal(np.load(io.BytesIO(stored(value))), np.asarray(value))
    assert np.array_equal(np.load(io.BytesIO(stored(labelled("h5py._hl.dataset")))), np.zeros((2, 2)))


def test_store_text_says_what_a_path_is_for() -> None:
    """A path object is not text; its file is stored with store_file."""
    with pytest.raises(NotSerializable, match="store_file"):
        text_bytes(Path("x"))  # type: ignore[arg-type]
