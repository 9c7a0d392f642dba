"""What `unpickling` may build: the list of allowed names, and how each checks its arguments.

Every function here gets arguments that a stranger wrote. It builds values through public constructors only, after
checking types and sizes exactly; it never calls anything that the pickle names.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

from .errors import UnsafePickle
from .pickling import MAX_NUMBER_DIGITS

if TYPE_CHECKING:
    import numpy as np

# numpy's own limit.
_MAX_DIMENSIONS = 64
# Types nested deeper would only serve to exhaust the stack.
_MAX_DTYPE_DEPTH = 20
# Items that take no bytes cost nothing in the file, so their number is bounded by itself.
_MAX_EMPTY_ITEMS = 10_000


class Reader(Protocol):
    """What a constructor needs of the interpreter."""

    def plain(self, value: Any) -> Any:
        """The value as it goes into containers."""
        ...

    def key(self, value: Any) -> Any:
        """The value as a key of a dict or an element of a set."""
        ...

    def spend(self, count: int) -> None:
        """Account for bytes that are copied out of the file."""
        ...


class Special:
    """Something that only the opcode it is meant for may consume; anywhere else it is refused."""

    __slots__ = ()


class Constructor(Special):
    """A name of the allowlist. `call` is None for a class that is only ever an argument."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[Reader, tuple[Any, ...]], Any] | None) -> None:
        self.name = name
        self.call = call


class Arguments(Special):
    """A tuple that holds a special value: the arguments of a call, or a plain tuple with much in it."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items


class Unbuilt(Special):
    """A value whose state comes later, with BUILD; then it is replaced on the stack and in the memo."""

    __slots__ = ("build", "memo_keys", "name")

    def __init__(self, name: str, build: Callable[[Reader, Any], Any]) -> None:
        self.name = name
        self.build = build
        self.memo_keys: list[int] = []


class Raw(Special):
    """Many bytes, still in the file: most become arrays and need no copy on the way."""

    __slots__ = ("owned", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.owned: bytes | None = None

    def own(self) -> bytes:
        if self.owned is None:
            self.owned = bytes(self.view)
        return self.owned


SPECIALS = {Constructor, Arguments, Unbuilt, Raw}


# --- constructors ----------------------------------------------------------------------------------------------------


def _bad(name: str) -> UnsafePickle:
    return UnsafePickle(f"The pickle gives {name} something that data never does. It was not loaded.")


def _typed(name: str, values: tuple[Any, ...], *kinds: type | tuple[type, ...]) -> tuple[Any, ...]:
    """The arguments, if they are of exactly these types."""
    wanted = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    if len(values) != len(wanted) or not all(type(v) in kind for v, kind in zip(values, wanted, strict=True)):
        raise _bad(name)
    return values


def _new_complex(_: Reader, values: tuple[Any, ...]) -> complex:
    return complex(*_typed("complex", values, (float, int), (float, int)))


def _new_range(_: Reader, values: tuple[Any, ...]) -> range:
    return range(*_typed("range", values, int, int, int))


def _new_slice(reader: Reader, values: tuple[Any, ...]) -> slice:
    if len(values) != 3:
        raise _bad("slice")
    return slice(*(reader.plain(value) for value in values))


def _new_bytearray(reader: Reader, values: tuple[Any, ...]) -> bytearray:
    if not values:
        return bytearray()
    part = values[0].view if type(values[0]) is Raw else _typed("bytearray", values, bytes)[0]
    reader.spend(len(part))
    return bytearray(part)


def _new_set(kind: type) -> Callable[[Reader, tuple[Any, ...]], Any]:
    def build(reader: Reader, values: tuple[Any, ...]) -> Any:
        if not values:
            return kind()
        (items,) = _typed(kind.__name__, values, list)
        return kind([reader.key(item) for item in items])

    return build


def _new_ordered_dict(_: Reader, values: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    _typed("OrderedDict", values)
    return OrderedDict()


def _new_timedelta(_: Reader, values: tuple[Any, ...]) -> timedelta:
    return timedelta(*_typed("timedelta", values, int, int, int))


def _new_timezone(_: Reader, values: tuple[Any, ...]) -> timezone:
    if len(values) == 1:
        return timezone(*_typed("timezone", values, timedelta))
    return timezone(*_typed("timezone", values, timedelta, str))


def _new_date(_: Reader, values: tuple[Any, ...]) -> date:
    (state,) = _typed("date", values, bytes)
    if len(state) != 4:
        raise _bad("date")
    return date(int.from_bytes(state[:2], "big"), state[2], state[3])


def _new_time(_: Reader, values: tuple[Any, ...]) -> time:
    state, zone = (
        _typed("time", values, bytes, timezone) if len(values) == 2 else (*_typed("time", values, bytes), None)
    )
    if len(state) != 6:
        raise _bad("time")
    # The highest bit of the first byte is the fold (PEP 495).
    hour, fold = state[0] & 0x7F, state[0] >> 7
    return time(hour, state[1], state[2], int.from_bytes(state[3:], "big"), zone, fold=fold)


def _new_datetime(_: Reader, values: tuple[Any, ...]) -> datetime:
    state, zone = (
        _typed("datetime", values, bytes, timezone) if len(values) == 2 else (*_typed("datetime", values, bytes), None)
    )
    if len(state) != 10:
        raise _bad("datetime")
    year, (month, day, hour, minute, second) = int.from_bytes(state[:2], "big"), state[2:7]
    micro = int.from_bytes(state[7:], "big")
    return datetime(year, month & 0x7F, day, hour, minute, second, micro, zone, fold=month >> 7)


def _new_decimal(_: Reader, values: tuple[Any, ...]) -> Decimal:
    (text,) = _typed("Decimal", values, str)
    if len(text) > MAX_NUMBER_DIGITS:
        raise _bad("Decimal")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise _bad("Decimal") from None


def _new_fraction(_: Reader, values: tuple[Any, ...]) -> Fraction:
    if len(values) == 1:  # until Python 3.11
        (text,) = _typed("Fraction", values, str)
        match = re.fullmatch(r"(-?\d{1,4000})(?:/(\d{1,4000}))?", text, re.ASCII)
        if not match:
            raise _bad("Fraction")
        values = (int(match[1]), int(match[2] or "1"))
    above, below = _typed("Fraction", values, int, int)
    if max(above.bit_length(), below.bit_length()) > 3 * MAX_NUMBER_DIGITS or below == 0:
        raise _bad("Fraction")
    return Fraction(above, below)


def build_uuid(_: Reader, state: Any) -> UUID:
    if type(state) is not dict or type(state.get("int")) is not int or not state.keys() <= {"int"}:
        raise _bad("UUID")
    return UUID(int=state["int"])


# --- numpy -------------------------------------------------------------------------------------------------------


def _new_array(_: Reader, values: tuple[Any, ...]) -> Unbuilt:
    if (
        len(values) != 3
        or getattr(values[0], "name", "") != "numpy.ndarray"
        or values[1:] not in (((0,), b"b"), ((0,), "b"))
    ):
        raise _bad("numpy's _reconstruct")
    return Unbuilt("numpy.ndarray", _build_array)


def _build_array(reader: Reader, state: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    version, shape, dtype, fortran, data = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    if version != 1 or not isinstance(dtype, np.dtype) or type(fortran) is not bool or type(data) not in (bytes, Raw):
        raise _bad("numpy.ndarray")
    view = data.view if type(data) is Raw else memoryview(cast(bytes, data))
    return _array(reader, shape, dtype, "F" if fortran else "C", view)


def _new_array_from_buffer(reader: Reader, values: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """`_frombuffer(buffer, dtype, shape, order)`, which numpy writes in protocol 5."""
    import numpy as np

    if len(values) not in (4, 5) or not isinstance(values[1], np.dtype) or values[3] not in ("C", "F"):
        raise _bad("numpy's _frombuffer")
    data = values[0].view if type(values[0]) is Raw else values[0]
    if type(data) not in (bytes, bytearray, memoryview):
        raise _bad("numpy's _frombuffer")
    return _array(reader, values[2], values[1], values[3], memoryview(data))


def _array(reader: Reader, shape: Any, dtype: np.dtype[Any], order: Any, data: memoryview) -> np.ndarray[Any, Any]:
    import numpy as np

    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise _bad("numpy.ndarray (its shape)")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(data):
        raise UnsafePickle(
            f"The pickle has an array of shape {shape} and {len(data):,} bytes, which do not fit together."
        )
    if not size:
        if dtype.itemsize == 0 and math.prod(shape) > _MAX_EMPTY_ITEMS:
            raise _bad("numpy.ndarray (items without bytes)")
        return np.zeros(shape, dtype, order=order)
    reader.spend(size)
    # Copied as bytes, so that the padding of structured types stays as it was and storing again gives the same URI.
    # The dtype holds no objects (`_build_dtype`), so any bytes are a valid content.
    content = np.empty(size, "u1")
    content[:] = np.frombuffer(data, "u1")
    return np.ndarray(shape, dtype, content, order=order)


def _new_scalar(_: Reader, values: tuple[Any, ...]) -> Any:
    import numpy as np

    if len(values) != 2 or not isinstance(values[0], np.dtype) or type(values[1]) not in (bytes, Raw):
        raise _bad("numpy's scalar")
    dtype, data = values
    data = data.own() if type(data) is Raw else data
    if dtype.itemsize != len(data) or dtype.subdtype is not None:
        raise _bad("numpy's scalar")
    if not data:
        return np.zeros((), dtype)[()]
    return np.frombuffer(bytearray(data), dtype)[0]


def _new_dtype(_: Reader, values: tuple[Any, ...]) -> Unbuilt:
    spec, *flags = values if values else (None,)
    if type(spec) is not str or flags not in ([False, True], [0, 1]):
        raise _bad("numpy.dtype")
    if spec.startswith("O"):
        raise UnsafePickle("The pickle holds a numpy array of Python objects, which load_pkl does not read.")
    if not re.fullmatch(r"b1|[iu](1|2|4|8)|f(2|4|8|10|12|16)|c(8|16|20|24|32)|[mM]8|[SUV]\d{0,9}", spec, re.ASCII):
        raise _bad("numpy.dtype")
    return Unbuilt("numpy.dtype", lambda reader, state: _build_dtype(spec, state))


def _build_dtype(spec: str, state: Any) -> np.dtype[Any]:
    """The type, made anew by numpy's public constructor from what the state says; numpy's own reading of a state
    checks neither offsets nor sizes."""
    import numpy as np

    if type(state) is not tuple or not 8 <= len(state) <= 9:
        raise _bad("numpy.dtype (its state)")
    version, order, subarray, names, fields, size, _alignment, flags = state[:8]
    if version not in (3, 4) or order not in ("<", ">", "|", "=") or type(size) is not int or type(flags) is not int:
        raise _bad("numpy.dtype (its state)")
    kind = spec[0]
    if subarray is not None:
        dtype = _subarray_dtype(subarray)
    elif names is not None:
        dtype = _structured_dtype(names, fields, size, bool(flags & 0x80))
    elif kind in "mM":
        dtype = np.dtype(kind + "8" + _time_unit(state)).newbyteorder(order)
    elif kind in "SUV":
        count = size // 4 if kind == "U" else size
        if count < 0 or (spec[1:] and int(spec[1:]) != count):
            raise _bad("numpy.dtype (its size)")
        dtype = np.dtype(f"{kind}{count}").newbyteorder(order)
    else:
        dtype = np.dtype(spec).newbyteorder(order)
    if size not in (-1, dtype.itemsize) or dtype.hasobject or _dtype_depth(dtype) > _MAX_DTYPE_DEPTH:
        raise _bad("numpy.dtype (its size)")
    return dtype


def _subarray_dtype(subarray: Any) -> np.dtype[Any]:
    import numpy as np

    base, shape = subarray if type(subarray) is tuple and len(subarray) == 2 else (None, None)
    if not isinstance(base, np.dtype) or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise _bad("numpy.dtype (its subarray)")
    return np.dtype((base, shape))


def _structured_dtype(names: Any, fields: Any, size: int, aligned: bool) -> np.dtype[Any]:
    import numpy as np

    if type(names) is not tuple or type(fields) is not dict or size < 0 or len(names) > len(fields):
        raise _bad("numpy.dtype (its fields)")
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    titles: list[Any] = []
    for name in names:
        field = fields.get(name) if type(name) is str else None
        if type(field) is not tuple or len(field) not in (2, 3):
            raise _bad("numpy.dtype (its fields)")
        kind, offset = field[:2]
        if not isinstance(kind, np.dtype) or type(offset) is not int or not 0 <= offset <= size - kind.itemsize:
            raise _bad("numpy.dtype (its fields)")
        title = field[2] if len(field) == 3 else None
        if title is not None and type(title) is not str:
            raise _bad("numpy.dtype (its titles)")
        formats.append(kind)
        offsets.append(offset)
        titles.append(title)
    description: dict[str, Any] = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
    if any(title is not None for title in titles):
        description["titles"] = titles
    return np.dtype(cast(Any, description), align=aligned)


def _time_unit(state: tuple[Any, ...]) -> str:
    """The unit of a datetime64 or timedelta64, "[25us]"; its last item is (metadata, (unit, count, 1, 1))."""
    try:
        (_, (unit, count, _, _)) = state[8]
    except (IndexError, TypeError, ValueError):
        raise _bad("numpy.dtype (its time unit)") from None
    unit = unit.decode("ascii") if type(unit) is bytes else unit
    if type(unit) is not str or type(count) is not int or not 0 < count < 2**31:
        raise _bad("numpy.dtype (its time unit)")
    if unit == "generic":
        return ""
    if unit not in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"):
        raise _bad("numpy.dtype (its time unit)")
    return f"[{count}{unit}]"


def _dtype_depth(dtype: np.dtype[Any]) -> int:
    if dtype.subdtype is not None:
        return 1 + _dtype_depth(dtype.subdtype[0])
    if dtype.names is not None:
        assert dtype.fields is not None
        return 1 + max((_dtype_depth(dtype.fields[name][0]) for name in dtype.names), default=0)
    return 1


# --- the list --------------------------------------------------------------------------------------------------------


def _make_allowlist() -> dict[tuple[str, str], Constructor]:
    made: dict[tuple[str, str], Constructor] = {}

    def allow(module: str, name: str, call: Callable[[Reader, tuple[Any, ...]], Any] | None) -> None:
        made[module, name] = Constructor(f"{module}.{name}", call)

    # Exact names, so that a dotted name ("x.y") finds nothing. numpy 1 says numpy.core, numpy 2 numpy._core.
    allow("builtins", "complex", _new_complex)
    allow("builtins", "range", _new_range)
    allow("builtins", "slice", _new_slice)
    allow("builtins", "bytearray", _new_bytearray)
    allow("builtins", "set", _new_set(set))
    allow("builtins", "frozenset", _new_set(frozenset))
    allow("collections", "OrderedDict", _new_ordered_dict)
    allow("datetime", "timedelta", _new_timedelta)
    allow("datetime", "timezone", _new_timezone)
    allow("datetime", "date", _new_date)
    allow("datetime", "time", _new_time)
    allow("datetime", "datetime", _new_datetime)
    allow("decimal", "Decimal", _new_decimal)
    allow("fractions", "Fraction", _new_fraction)
    allow("uuid", "UUID", None)
    allow("numpy", "ndarray", None)
    allow("numpy", "dtype", _new_dtype)
    for core in ("numpy.core", "numpy._core"):
        allow(f"{core}.multiarray", "_reconstruct", _new_array)
        allow(f"{core}.multiarray", "scalar", _new_scalar)
        allow(f"{core}.numeric", "_frombuffer", _new_array_from_buffer)
    return made


ALLOWLIST = _make_allowlist()
