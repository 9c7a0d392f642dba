"""Writing pickles whose bytes depend on the value alone.

`pickle.dumps` gives different bytes for equal values: numpy 2 names its modules otherwise than numpy 1, and strings
that happen to be one object are written once, equal ones that are not are written twice, which differs between Python
versions. A content-addressed store cannot have that, so this writer emits the opcodes of pickle protocol 4 itself, by
these rules:

- Globals carry the module names of numpy 1 (`numpy.core.multiarray`), which numpy 2 reads as well. Descriptions of
  numpy types are those of numpy 1 and leave out `dtype.metadata`.
- `str`, `bytes`, globals and numpy types are written once; every equal one after that is a reference to the first.
- `list`, `dict`, `set`, `bytearray` and arrays are written once per object, so that aliases and cycles survive.
- Everything else (numbers, tuples, frozensets, dates, numpy scalars) is written in full each time. A tuple shared
  many times over is thus written as often.
- Dicts keep their order. The elements of sets are sorted by the bytes of their own pickles.
- Frames are those of CPython's pickler: closed when they reach 64 KiB; strings and bytes of 64 KiB and more lie
  outside of frames.

For values without repeated immutable objects the result is what `pickle.dumps(x, protocol=4)` gives under numpy 1,
and any `pickle.load` reads it. Only the types below are written, and exactly these, no subclasses: reading back must
never need code that is not known here.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from struct import pack
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

from kachery_cloud.errors import NotSerializable
from kachery_cloud.formats.pickle_numpy import (
    MAX_EMPTY_ITEMS,
    array_pieces,
    dtype_key,
    dtype_problem,
    dtype_state,
    leaf_dtypes,
    scalar_bytes,
)

if TYPE_CHECKING:
    import numpy as np

# CPython's numbers (Lib/pickle.py), which decide the bytes.
_FRAME_TARGET = 64 * 1024
_FRAME_MIN = 4
_BATCH = 1000

# Nested deeper than this, a value is a mistake or an attack on the recursion limit; a fixed number, so that a value
# that can be stored on one Python version can be stored on all.
MAX_DEPTH = 200
# Decimals and fractions longer than this take quadratic time to read back.
MAX_NUMBER_DIGITS = 65_536
# Bytes that a reader may copy out of a file into arrays and the like: so many times the file's size, or so many for a
# small one. A file that has one buffer copied over and over again is not written, and not read.
MAX_COPIES = 4
FREE_COPIES = 64 << 20

_ALLOWED = (
    "None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, OrderedDict, set, frozenset, range, "
    "slice, date, time, datetime, timedelta, timezone, Decimal, Fraction, UUID, and numpy arrays, scalars and dtypes"
)


class _Global:
    """A class or function named in the pickle."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


_NDARRAY = _Global("numpy", "ndarray")
_ELEMENT = object()  # stands in a trail for "some element of this set"


def dump_pickle(value: Any, file: BinaryIO) -> None:
    """Write the canonical pickle of `value`. Raises `NotSerializable` naming the type and its place in the value."""
    _Writer(file.write).dump(value)


def canonical_pickle(value: Any) -> bytes:
    """The canonical pickle of `value` as bytes."""
    parts: list[bytes] = []
    _Writer(lambda data: parts.append(bytes(data))).dump(value)
    return b"".join(parts)


class _Writer:
    def __init__(self, sink: Callable[[Any], Any]) -> None:
        self._sink = sink
        self._frame = bytearray()
        self._memo_size = 0
        self._values: dict[Any, int] = {}  # (kind, value) -> memo index, for what is shared by value
        self._objects: dict[int, tuple[int, Any]] = {}  # id -> (memo index, the object, held so the id stays its own)
        self._size = 0  # bytes that went to the sink
        self._repeated = 0  # bytes that a reader copies, though they are written once
        self._trail: list[Any] = []  # keys from the root to the value being written, for error messages

    def dump(self, value: Any) -> None:
        self._sink(b"\x80\x04")
        self._save(value)
        self._frame += b"."
        self._flush()
        if self._size + self._repeated > max(FREE_COPIES, MAX_COPIES * self._size):
            raise NotSerializable(
                f"store_pkl cannot write the value: {self._repeated:,} bytes of it are bytearrays or numpy scalars "
                "that are equal to others. They are written once, and load_pkl does not unfold a small file to so many "
                "bytes. Store them as bytes, or as one array."
            )

    # --- frames and memo ---------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if len(self._frame) >= _FRAME_MIN:
            self._sink(b"\x95" + pack("<Q", len(self._frame)))
        if self._frame:
            self._sink(self._frame)
            self._size += len(self._frame)
            self._frame = bytearray()

    def _boundary(self) -> None:
        if len(self._frame) >= _FRAME_TARGET:
            self._flush()

    def _large(self, header: bytes, payload: Iterable[Any]) -> None:
        self._flush()
        self._sink(header)
        for piece in payload:
            self._sink(piece)
            self._size += memoryview(piece).nbytes

    def _memoize(self) -> int:
        self._frame += b"\x94"
        self._memo_size += 1
        return self._memo_size - 1

    def _get(self, index: int) -> None:
        self._frame += b"h" + bytes((index,)) if index < 256 else b"j" + pack("<I", index)

    # --- values ------------------------------------------------------------------------------------------------

    def _save(self, value: Any) -> None:
        self._boundary()
        save = _SAVERS.get(type(value))
        if save is None:
            save = _numpy_saver(value)
            if save is None:
                raise self._refuse(value)
        save(self, value)

    def _save_none(self, _: None) -> None:
        self._frame += b"N"

    def _save_bool(self, value: bool) -> None:
        self._frame += b"\x88" if value else b"\x89"

    def _save_int(self, value: int) -> None:
        if 0 <= value < 0x100:
            self._frame += b"K" + bytes((value,))
        elif 0 <= value < 0x10000:
            self._frame += b"M" + pack("<H", value)
        elif -0x80000000 <= value < 0x80000000:
            self._frame += b"J" + pack("<i", value)
        else:
            size = (value.bit_length() >> 3) + 1
            data = value.to_bytes(size, "little", signed=True)
            if value < 0 and data[-1] == 0xFF and data[-2] & 0x80:
                data = data[:-1]
            self._frame += b"\x8a" + bytes((len(data),)) if len(data) < 256 else b"\x8b" + pack("<i", len(data))
            self._frame += data

    def _save_float(self, value: float) -> None:
        self._frame += b"G" + pack(">d", value)

    def _save_str(self, value: str) -> None:
        known = self._values.get(("str", value))
        if known is not None:
            return self._get(known)
        data = value.encode("utf-8", "surrogatepass")
        size = len(data)
        if size < 0x100:
            self._frame += b"\x8c" + bytes((size,)) + data
        elif size < _FRAME_TARGET:
            self._frame += b"X" + pack("<I", size) + data
        else:
            self._large(b"X" + pack("<I", size) if size <= 0xFFFFFFFF else b"\x8d" + pack("<Q", size), (data,))
        self._values["str", value] = self._memoize()

    def _save_bytes(self, value: bytes) -> None:
        known = self._values.get(("bytes", value))
        if known is not None:
            return self._get(known)
        self._write_bytes(len(value), (value,))
        self._values["bytes", value] = self._memoize()

    def _write_bytes(self, size: int, pieces: Iterable[Any]) -> None:
        if size >= _FRAME_TARGET:
            self._large(b"B" + pack("<I", size) if size <= 0xFFFFFFFF else b"\x8e" + pack("<Q", size), pieces)
            return
        self._frame += b"C" + bytes((size,)) if size < 0x100 else b"B" + pack("<I", size)
        for piece in pieces:
            self._frame += piece

    def _save_bytearray(self, value: bytearray) -> None:
        if not self._seen(value):
            self._note_copy("bytes", bytes(value))
            self._reduce(_Global("builtins", "bytearray"), (bytes(value),) if value else ())
            self._objects[id(value)] = (self._memo_size - 1, value)

    def _save_tuple(self, value: tuple[Any, ...]) -> None:
        self._write_tuple(value, self._save)

    def _write_tuple(self, value: tuple[Any, ...], save: Callable[[Any], None]) -> None:
        if not value:
            self._frame += b")"
            return
        if len(value) > 3:
            self._frame += b"("
        for index, item in enumerate(value):
            self._inside(index, item, save)
        self._frame += b"t" if len(value) > 3 else b"\x85\x86\x87"[len(value) - 1 : len(value)]
        self._memoize()

    def _save_list(self, value: list[Any]) -> None:
        if self._seen(value):
            return
        self._frame += b"]"
        self._objects[id(value)] = (self._memoize(), value)
        items = enumerate(value)
        while batch := list(islice(items, _BATCH)):
            self._frame += b"(" if len(batch) > 1 else b""
            for index, item in batch:
                self._save_item(index, item)
            self._frame += b"e" if len(batch) > 1 else b"a"

    def _save_dict(self, value: dict[Any, Any]) -> None:
        if self._seen(value):
            return
        self._frame += b"}"
        self._objects[id(value)] = (self._memoize(), value)
        self._write_items(value)

    def _save_ordered_dict(self, value: OrderedDict[Any, Any]) -> None:
        if self._seen(value):
            return
        if vars(value):
            raise self._refuse(value, "has attributes of its own")
        self._reduce(_Global("collections", "OrderedDict"), ())
        self._objects[id(value)] = (self._memo_size - 1, value)
        self._write_items(value)

    def _write_items(self, value: dict[Any, Any]) -> None:
        items = iter(value.items())
        while batch := list(islice(items, _BATCH)):
            self._frame += b"(" if len(batch) > 1 else b""
            for key, item in batch:
                self._save_item(key, key)
                self._save_item(key, item)
            self._frame += b"u" if len(batch) > 1 else b"s"

    def _save_set(self, value: set[Any]) -> None:
        if self._seen(value):
            return
        self._frame += b"\x8f"
        self._objects[id(value)] = (self._memoize(), value)
        items = iter(self._sorted(value))
        while batch := list(islice(items, _BATCH)):
            self._frame += b"("
            for item in batch:
                self._inside(_ELEMENT, item, self._save)
            self._frame += b"\x90"

    def _save_frozenset(self, value: frozenset[Any]) -> None:
        self._frame += b"("
        for item in self._sorted(value):
            self._inside(_ELEMENT, item, self._save)
        self._frame += b"\x91"
        self._memoize()

    def _sorted(self, value: set[Any] | frozenset[Any]) -> list[Any]:
        """The elements in an order that their values alone decide, whatever their types."""
        keyed: list[tuple[bytes, Any]] = []
        for item in value:
            parts: list[bytes] = []
            # Another writer, because an element's place must not depend on what was written before; its trail is
            # shared so that an error still says where.
            writer = _Writer(lambda data, parts=parts: parts.append(bytes(data)))
            writer._trail = self._trail
            self._inside(_ELEMENT, item, writer.dump)
            keyed.append((b"".join(parts), item))
        keyed.sort(key=lambda pair: pair[0])
        return [item for _, item in keyed]

    # --- values made by a call ---------------------------------------------------------------------------------

    def _save_global(self, target: _Global) -> None:
        known = self._values.get((target.module, target.name))
        if known is not None:
            return self._get(known)
        for text in (target.module, target.name):
            self._boundary()
            self._save_str(text)
        self._frame += b"\x93"
        self._values[target.module, target.name] = self._memoize()

    def _save_part(self, value: Any) -> None:
        """A value of ours inside a call: tuples and globals, and plain values within."""
        if type(value) is tuple:
            self._boundary()
            self._write_tuple(value, self._save_part)
        elif type(value) is _Global:
            self._boundary()
            self._save_global(value)
        else:
            self._save(value)

    def _reduce(self, function: _Global, args: tuple[Any, ...]) -> int:
        self._save_part(function)
        self._save_part(args)
        self._frame += b"R"
        return self._memoize()

    def _save_complex(self, value: complex) -> None:
        self._reduce(_Global("builtins", "complex"), (value.real, value.imag))

    def _save_range(self, value: range) -> None:
        self._reduce(_Global("builtins", "range"), (value.start, value.stop, value.step))

    def _save_slice(self, value: slice) -> None:
        self._reduce(_Global("builtins", "slice"), (value.start, value.stop, value.step))

    def _save_datetime(self, value: date | time | timedelta) -> None:
        zone = getattr(value, "tzinfo", None)
        if zone is not None and type(zone) is not timezone:
            raise self._refuse(
                value, f"has the time zone type {_type_name(zone)}, use .astimezone(datetime.timezone.utc)"
            )
        arguments = value.__reduce_ex__(4)[1]
        self._reduce(_Global("datetime", type(value).__name__), tuple(arguments))

    def _save_timezone(self, value: timezone) -> None:
        self._reduce(_Global("datetime", "timezone"), value.__getinitargs__())  # type: ignore[attr-defined]

    def _save_decimal(self, value: Decimal) -> None:
        text = str(value)
        if len(text) > MAX_NUMBER_DIGITS:
            raise self._refuse(value, f"has more than {MAX_NUMBER_DIGITS:,} digits")
        self._note_copy("str", text)
        self._reduce(_Global("decimal", "Decimal"), (text,))

    def _save_fraction(self, value: Fraction) -> None:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3 * MAX_NUMBER_DIGITS:
            raise self._refuse(value, f"has more than {MAX_NUMBER_DIGITS:,} digits")
        self._reduce(_Global("fractions", "Fraction"), (value.numerator, value.denominator))

    def _note_copy(self, kind: str, data: Any) -> None:
        """The reader copies `data` into a value; count it where it is written as a reference only."""
        if (kind, data) in self._values:
            self._repeated += len(data)

    def _save_uuid(self, value: UUID) -> None:
        # As CPython writes it: an empty object, then its state.
        self._save_part(_Global("uuid", "UUID"))
        self._frame += b")\x81"
        self._memoize()
        self._boundary()
        self._frame += b"}"
        self._memoize()
        self._save_str("int")
        self._save_int(value.int)
        self._frame += b"sb"

    # --- numpy -------------------------------------------------------------------------------------------------

    def _save_array(self, array: np.ndarray[Any, Any]) -> None:
        if self._seen(array):
            return
        self._check_dtype(array.dtype, array)
        if not array.itemsize and array.size > MAX_EMPTY_ITEMS:
            raise self._refuse(array, f"has more than {MAX_EMPTY_ITEMS:,} items without bytes")
        reconstruct = _Global("numpy.core.multiarray", "_reconstruct")
        self._objects[id(array)] = (self._reduce(reconstruct, (_NDARRAY, (0,), b"b")), array)
        fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
        self._boundary()
        self._frame += b"("
        for part in (1, tuple(int(n) for n in array.shape)):
            self._save_part(part)
        self._save_dtype(array.dtype)
        self._save_bool(fortran)
        self._boundary()
        self._write_bytes(array.nbytes, array_pieces(array.T if fortran else array))
        self._memoize()
        self._frame += b"t"
        self._memoize()
        self._frame += b"b"

    def _save_scalar(self, value: np.generic) -> None:
        dtype = value.dtype
        self._check_dtype(dtype, value)
        self._save_part(_Global("numpy.core.multiarray", "scalar"))
        self._boundary()
        self._save_dtype(dtype)
        data = scalar_bytes(value)
        self._note_copy("bytes", data)
        self._save(data)
        self._frame += b"\x86"
        self._memoize()
        self._frame += b"R"
        self._memoize()

    def _save_dtype(self, dtype: np.dtype[Any]) -> None:
        self._check_dtype(dtype, dtype)
        self._boundary()
        key = ("dtype", dtype_key(dtype))
        known = self._values.get(key)
        if known is not None:
            return self._get(known)
        spec, state = dtype_state(dtype)
        self._values[key] = self._reduce(_Global("numpy", "dtype"), (spec, False, True))
        self._save_part(state)
        self._frame += b"b"

    def _check_dtype(self, dtype: np.dtype[Any], value: Any) -> None:
        if dtype.hasobject:
            raise self._refuse(value, "holds Python objects; convert it to numbers or text (array.tolist() for a list)")
        problem = dtype_problem(dtype)
        if problem:
            raise self._refuse(value, problem)
        for part in leaf_dtypes(dtype):
            if part.kind not in "biufcSUVmM" or part.isbuiltin == 2 or type(part).__module__.split(".")[0] != "numpy":
                raise self._refuse(value, f"has the type {part}, which is not one of numpy's plain types")
            if part.char in "gG":
                raise self._refuse(
                    value, f"has the type {part}, whose bytes differ between machines; use float64 or complex128"
                )

    # --- places ------------------------------------------------------------------------------------------------

    def _seen(self, value: Any) -> bool:
        known = self._objects.get(id(value))
        if known is not None:
            self._get(known[0])
        return known is not None

    def _save_item(self, key: Any, value: Any) -> None:
        """`_inside`, quicker for the values that large containers are full of."""
        save = _ATOMS.get(type(value))
        if save is None:
            self._inside(key, value, self._save)
            return
        if len(self._frame) >= _FRAME_TARGET:
            self._flush()
        save(self, value)

    def _inside(self, key: Any, value: Any, save: Callable[[Any], None]) -> None:
        self._trail.append(key)
        if len(self._trail) > MAX_DEPTH:
            raise NotSerializable(f"The value is nested more than {MAX_DEPTH} deep, which store_pkl does not write.")
        save(value)
        self._trail.pop()

    def _refuse(self, value: Any, why: str = "") -> NotSerializable:
        place = describe_place(self._trail)
        name = _type_name(value)
        if why:
            return NotSerializable(f"store_pkl cannot write the {name} {place}: it {why}.")
        return NotSerializable(
            f"store_pkl cannot write the {name} {place}: only plain data is written, so that loading it can never run "
            f"code. Convert it to one of: {_ALLOWED}.{_advice(value)}"
        )


def describe_place(trail: list[Any]) -> str:
    """Where in a nested value something lies: "at ['trials'][3]"."""
    if not trail:
        return "given"
    steps: list[str] = []
    for key in trail[:12]:
        text = repr(key) if isinstance(key, (str, int, float, bytes, bool, type(None))) else f"<{type(key).__name__}>"
        steps.append("{...}" if key is _ELEMENT else f"[{text[:60]}]")
    return "at " + "".join(steps) + ("..." if len(trail) > 12 else "")


def _type_name(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__ if not callable(value) or isinstance(value, type) else f"{kind.__qualname__} {value!r}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _advice(value: Any) -> str:
    for base, advice in (
        ("pandas.", "A pandas table can be stored as a file (to_csv, to_parquet) with store_file."),
        ("numpy.ma.", "A masked array can be stored as a dict of its .data and .mask."),
        ("torch.", "A tensor can be stored as an array: tensor.numpy()."),
    ):
        if _type_name(value).startswith(base):
            return " " + advice
    for kind in (tuple, dict, list, set, str, int, float):
        if isinstance(value, kind):
            return f" It is a kind of {kind.__name__}: store {kind.__name__}(value) instead."
    return ""


# Values that hold no others, so that nothing in them can go wrong.
_ATOMS: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): _Writer._save_none,
    bool: _Writer._save_bool,
    int: _Writer._save_int,
    float: _Writer._save_float,
    str: _Writer._save_str,
}
_SAVERS: dict[type, Callable[[_Writer, Any], None]] = {
    **_ATOMS,
    complex: _Writer._save_complex,
    bytes: _Writer._save_bytes,
    bytearray: _Writer._save_bytearray,
    tuple: _Writer._save_tuple,
    list: _Writer._save_list,
    dict: _Writer._save_dict,
    OrderedDict: _Writer._save_ordered_dict,
    set: _Writer._save_set,
    frozenset: _Writer._save_frozenset,
    range: _Writer._save_range,
    slice: _Writer._save_slice,
    date: _Writer._save_datetime,
    time: _Writer._save_datetime,
    datetime: _Writer._save_datetime,
    timedelta: _Writer._save_datetime,
    timezone: _Writer._save_timezone,
    Decimal: _Writer._save_decimal,
    Fraction: _Writer._save_fraction,
    UUID: _Writer._save_uuid,
}


def _numpy_saver(value: Any) -> Callable[[_Writer, Any], None] | None:
    """How to write a value of numpy; None for anything else. numpy is not imported for a value that is not its."""
    if not type(value).__module__.startswith("numpy"):
        return None
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if type(value) in (np.ndarray, np.memmap):
        return _Writer._save_array
    if isinstance(value, np.generic):
        return _Writer._save_scalar
    if isinstance(value, np.dtype):
        return _Writer._save_dtype
    return None
