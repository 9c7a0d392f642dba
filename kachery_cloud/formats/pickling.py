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
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

from kachery_cloud.errors import NotSerializable
from kachery_cloud.formats.limits import FREE_COPIES, MAX_COPIES, MAX_DEPTH, MAX_NUMBER_DIGITS
from kachery_cloud.formats.pickle_numpy import (
    MAX_EMPTY_ITEMS,
    array_pieces,
    dtype_key,
    dtype_problem,
    dtype_state,
    leaf_dtypes,
    scalar_bytes,
)
from kachery_cloud.formats.pickle_stream import BATCH, FRAME_TARGET, Global, PickleStream
from kachery_cloud.formats.places import ELEMENT, advice, describe_place, type_name

if TYPE_CHECKING:
    import numpy as np

_ALLOWED = (
    "None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, OrderedDict, set, frozenset, range, "
    "slice, date, time, datetime, timedelta, timezone, Decimal, Fraction, UUID, and numpy arrays, scalars and dtypes"
)


_NDARRAY = Global("numpy", "ndarray")


def dump_pickle(value: Any, file: BinaryIO) -> None:
    """Write the canonical pickle of `value`.

    Raises:
        NotSerializable: it holds something that is not written; the message names the type and its place in the value.
    """
    _Writer(file.write).dump(value)


class _Writer(PickleStream):
    def __init__(self, sink: Callable[[Any], Any]) -> None:
        super().__init__(sink)
        self._objects: dict[int, tuple[int, Any]] = {}  # id -> (memo index, the object, held so the id stays its own)
        self._repeated = 0  # bytes that a reader copies, though they are written once
        self._trail: list[Any] = []  # keys from the root to the value being written, for error messages

    def dump(self, value: Any) -> None:
        self.sink(b"\x80\x04")
        self._save(value)
        self.frame += b"."
        self.flush()
        if self.size + self._repeated > max(FREE_COPIES, MAX_COPIES * self.size):
            raise NotSerializable(
                f"store_pkl cannot write the value: {self._repeated:,} bytes of it are bytearrays or numpy scalars "
                "that are equal to others. They are written once, and load_pkl does not unfold a small file to so many "
                "bytes. Store them as bytes, or as one array."
            )

    # --- values ------------------------------------------------------------------------------------------------

    def _save(self, value: Any) -> None:
        self.boundary()
        save = _SAVERS.get(type(value))
        if save is None:
            save = _numpy_saver(value)
            if save is None:
                raise self._refuse(value)
        save(self, value)

    def _save_bytearray(self, value: bytearray) -> None:
        if not self._seen(value):
            self._note_copy("bytes", bytes(value))
            self._reduce(Global("builtins", "bytearray"), (bytes(value),) if value else ())
            self._objects[id(value)] = (self.memo_size - 1, value)

    def _save_tuple(self, value: tuple[Any, ...]) -> None:
        self._write_tuple(value, self._save)

    def _write_tuple(self, value: tuple[Any, ...], save: Callable[[Any], None]) -> None:
        if not value:
            self.frame += b")"
            return
        if len(value) > 3:
            self.frame += b"("
        for index, item in enumerate(value):
            self._inside(index, item, save)
        self.frame += b"t" if len(value) > 3 else b"\x85\x86\x87"[len(value) - 1 : len(value)]
        self.memoize()

    def _save_list(self, value: list[Any]) -> None:
        if self._seen(value):
            return
        self.frame += b"]"
        self._objects[id(value)] = (self.memoize(), value)
        items = enumerate(value)
        while batch := list(islice(items, BATCH)):
            self.frame += b"(" if len(batch) > 1 else b""
            for index, item in batch:
                self._save_item(index, item)
            self.frame += b"e" if len(batch) > 1 else b"a"

    def _save_dict(self, value: dict[Any, Any]) -> None:
        if self._seen(value):
            return
        self.frame += b"}"
        self._objects[id(value)] = (self.memoize(), value)
        self._write_items(value)

    def _save_ordered_dict(self, value: OrderedDict[Any, Any]) -> None:
        if self._seen(value):
            return
        if vars(value):
            raise self._refuse(value, "has attributes of its own")
        self._reduce(Global("collections", "OrderedDict"), ())
        self._objects[id(value)] = (self.memo_size - 1, value)
        self._write_items(value)

    def _write_items(self, value: dict[Any, Any]) -> None:
        items = iter(value.items())
        while batch := list(islice(items, BATCH)):
            self.frame += b"(" if len(batch) > 1 else b""
            for key, item in batch:
                self._save_item(key, key)
                self._save_item(key, item)
            self.frame += b"u" if len(batch) > 1 else b"s"

    def _save_set(self, value: set[Any]) -> None:
        if self._seen(value):
            return
        self.frame += b"\x8f"
        self._objects[id(value)] = (self.memoize(), value)
        items = iter(self._sorted(value))
        while batch := list(islice(items, BATCH)):
            self.frame += b"("
            for item in batch:
                self._inside(ELEMENT, item, self._save)
            self.frame += b"\x90"

    def _save_frozenset(self, value: frozenset[Any]) -> None:
        self.frame += b"("
        for item in self._sorted(value):
            self._inside(ELEMENT, item, self._save)
        self.frame += b"\x91"
        self.memoize()

    def _sorted(self, value: set[Any] | frozenset[Any]) -> list[Any]:
        """The elements in an order that their values alone decide, whatever their types."""
        keyed: list[tuple[bytes, Any]] = []
        for item in value:
            parts: list[bytes] = []
            # Another writer, because an element's place must not depend on what was written before; its trail is
            # shared so that an error still says where.
            writer = _Writer(lambda data, parts=parts: parts.append(bytes(data)))
            writer._trail = self._trail
            self._inside(ELEMENT, item, writer.dump)
            keyed.append((b"".join(parts), item))
        keyed.sort(key=lambda pair: pair[0])
        return [item for _, item in keyed]

    # --- values made by a call ---------------------------------------------------------------------------------

    def _save_part(self, value: Any) -> None:
        """A value of ours inside a call: tuples and globals, and plain values within."""
        if type(value) is tuple:
            self.boundary()
            self._write_tuple(value, self._save_part)
        elif type(value) is Global:
            self.boundary()
            self.save_global(value)
        else:
            self._save(value)

    def _reduce(self, function: Global, args: tuple[Any, ...]) -> int:
        self._save_part(function)
        self._save_part(args)
        self.frame += b"R"
        return self.memoize()

    def _save_complex(self, value: complex) -> None:
        self._reduce(Global("builtins", "complex"), (value.real, value.imag))

    def _save_range(self, value: range) -> None:
        self._reduce(Global("builtins", "range"), (value.start, value.stop, value.step))

    def _save_slice(self, value: slice) -> None:
        self._reduce(Global("builtins", "slice"), (value.start, value.stop, value.step))

    def _save_datetime(self, value: date | time | timedelta) -> None:
        zone = getattr(value, "tzinfo", None)
        if zone is not None and type(zone) is not timezone:
            raise self._refuse(
                value, f"has the time zone type {type_name(zone)}, use .astimezone(datetime.timezone.utc)"
            )
        arguments = value.__reduce_ex__(4)[1]
        self._reduce(Global("datetime", type(value).__name__), tuple(arguments))

    def _save_timezone(self, value: timezone) -> None:
        self._reduce(Global("datetime", "timezone"), value.__getinitargs__())  # type: ignore[attr-defined]

    def _save_decimal(self, value: Decimal) -> None:
        text = str(value)
        if len(text) > MAX_NUMBER_DIGITS:
            raise self._refuse(value, f"has more than {MAX_NUMBER_DIGITS:,} digits")
        self._note_copy("str", text)
        self._reduce(Global("decimal", "Decimal"), (text,))

    def _save_fraction(self, value: Fraction) -> None:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3 * MAX_NUMBER_DIGITS:
            raise self._refuse(value, f"has more than {MAX_NUMBER_DIGITS:,} digits")
        self._reduce(Global("fractions", "Fraction"), (value.numerator, value.denominator))

    def _note_copy(self, kind: str, data: Any) -> None:
        """The reader copies `data` into a value; count it where it is written as a reference only."""
        if (kind, data) in self.values:
            self._repeated += len(data)

    def _save_uuid(self, value: UUID) -> None:
        # As CPython writes it: an empty object, then its state.
        self._save_part(Global("uuid", "UUID"))
        self.frame += b")\x81"
        self.memoize()
        self.boundary()
        self.frame += b"}"
        self.memoize()
        self.save_str("int")
        self.save_int(value.int)
        self.frame += b"sb"

    # --- numpy -------------------------------------------------------------------------------------------------

    def _save_array(self, array: np.ndarray[Any, Any]) -> None:
        if self._seen(array):
            return
        self._check_dtype(array.dtype, array)
        if not array.itemsize and array.size > MAX_EMPTY_ITEMS:
            raise self._refuse(array, f"has more than {MAX_EMPTY_ITEMS:,} items without bytes")
        reconstruct = Global("numpy.core.multiarray", "_reconstruct")
        self._objects[id(array)] = (self._reduce(reconstruct, (_NDARRAY, (0,), b"b")), array)
        fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
        self.boundary()
        self.frame += b"("
        for part in (1, tuple(int(n) for n in array.shape)):
            self._save_part(part)
        self._save_dtype(array.dtype)
        self.save_bool(fortran)
        self.boundary()
        self.write_bytes(array.nbytes, array_pieces(array.T if fortran else array))
        self.memoize()
        self.frame += b"t"
        self.memoize()
        self.frame += b"b"

    def _save_scalar(self, value: np.generic) -> None:
        dtype = value.dtype
        self._check_dtype(dtype, value)
        self._save_part(Global("numpy.core.multiarray", "scalar"))
        self.boundary()
        self._save_dtype(dtype)
        data = scalar_bytes(value)
        self._note_copy("bytes", data)
        self._save(data)
        self.frame += b"\x86"
        self.memoize()
        self.frame += b"R"
        self.memoize()

    def _save_dtype(self, dtype: np.dtype[Any]) -> None:
        self._check_dtype(dtype, dtype)
        self.boundary()
        key = ("dtype", dtype_key(dtype))
        known = self.values.get(key)
        if known is not None:
            return self.get(known)
        spec, state = dtype_state(dtype)
        self.values[key] = self._reduce(Global("numpy", "dtype"), (spec, False, True))
        self._save_part(state)
        self.frame += b"b"

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
            self.get(known[0])
        return known is not None

    def _save_item(self, key: Any, value: Any) -> None:
        """`_inside`, quicker for the values that large containers are full of."""
        save = _ATOMS.get(type(value))
        if save is None:
            self._inside(key, value, self._save)
            return
        if len(self.frame) >= FRAME_TARGET:
            self.flush()
        save(self, value)

    def _inside(self, key: Any, value: Any, save: Callable[[Any], None]) -> None:
        self._trail.append(key)
        if len(self._trail) > MAX_DEPTH:
            raise NotSerializable(f"The value is nested more than {MAX_DEPTH} deep, which store_pkl does not write.")
        save(value)
        self._trail.pop()

    def _refuse(self, value: Any, why: str = "") -> NotSerializable:
        place = describe_place(self._trail)
        name = type_name(value)
        if why:
            return NotSerializable(f"store_pkl cannot write the {name} {place}: it {why}.")
        return NotSerializable(
            f"store_pkl cannot write the {name} {place}: only plain data is written, so that loading it can never run "
            f"code. Convert it to one of: {_ALLOWED}.{advice(value)}"
        )


#: Values that hold no others, so that nothing in them can go wrong.
_ATOMS: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): _Writer.save_none,
    bool: _Writer.save_bool,
    int: _Writer.save_int,
    float: _Writer.save_float,
    str: _Writer.save_str,
}
_SAVERS: dict[type, Callable[[_Writer, Any], None]] = {
    **_ATOMS,
    complex: _Writer._save_complex,
    bytes: _Writer.save_bytes,
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
