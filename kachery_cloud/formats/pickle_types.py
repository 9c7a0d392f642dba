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

from kachery_cloud.errors import UnsafePickle
from kachery_cloud.formats.limits import MAX_NUMBER_DIGITS
from kachery_cloud.formats.pickle_budget import CONTAINER, PickleBudget, number_steps
from kachery_cloud.formats.pickle_dtypes import Types, bad, check_text, checked_spec
from kachery_cloud.formats.pickle_numpy import MAX_EMPTY_ITEMS

if TYPE_CHECKING:
    import numpy as np

#: numpy's own limit.
_MAX_DIMENSIONS = 64
#: Units of memory for an array or a scalar without its bytes, and for each dimension.
_ARRAY = 256
_DIMENSION = 16
_SCALAR = 64
#: Of an element in the table of a set.
_SLOT = 32


class ValueReader(Protocol):
    """What a constructor needs of the interpreter."""

    budget: PickleBudget
    types: Types

    def plain(self, value: Any) -> Any:
        """The value as it goes into containers."""
        ...


class Special:
    """Something that only the opcode it is meant for may consume; anywhere else it is refused."""

    __slots__ = ()


class Constructor(Special):
    """A name of the allowlist. `call` is None for a class that is only ever an argument."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[ValueReader, tuple[Any, ...]], Any] | None) -> None:
        self.name = name
        self.call = call


class Arguments(Special):
    """A tuple that holds a special value: the arguments of a call, or a plain tuple with much in it."""

    __slots__ = ("items", "unfolded")

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items
        self.unfolded: tuple[Any, ...] | None = None  # the tuple that it is in a container, once it was there


class Unbuilt(Special):
    """A value whose state comes later, with BUILD; then it is replaced on the stack and in the memo."""

    __slots__ = ("build", "memo_keys", "name")

    def __init__(self, name: str, build: Callable[[ValueReader, Any], Any]) -> None:
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


def _typed(name: str, values: tuple[Any, ...], *kinds: type | tuple[type, ...]) -> tuple[Any, ...]:
    """The arguments, if they are of exactly these types."""
    wanted = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    if len(values) != len(wanted) or not all(type(v) in kind for v, kind in zip(values, wanted, strict=True)):
        raise bad(name)
    return values


def _new_complex(_: ValueReader, values: tuple[Any, ...]) -> complex:
    return complex(*_typed("complex", values, (float, int), (float, int)))


def _new_range(reader: ValueReader, values: tuple[Any, ...]) -> range:
    start, stop, step = _typed("range", values, int, int, int)
    reader.budget.spend(CONTAINER + number_steps(start, stop, step))  # its length is worked out
    return range(start, stop, step)


def _new_slice(reader: ValueReader, values: tuple[Any, ...]) -> slice:
    if len(values) != 3:
        raise bad("slice")
    value = slice(*(reader.plain(value) for value in values))
    reader.budget.weigh(value)  # one within the other, they would exhaust the stack when they are freed
    return value


def _new_bytearray(reader: ValueReader, values: tuple[Any, ...]) -> bytearray:
    if not values:
        return bytearray()
    part = values[0].view if type(values[0]) is Raw else _typed("bytearray", values, bytes)[0]
    reader.budget.copy(CONTAINER, len(part))
    return bytearray(part)


def _new_set(kind: type) -> Callable[[ValueReader, tuple[Any, ...]], Any]:
    def build(reader: ValueReader, values: tuple[Any, ...]) -> Any:
        reader.budget.spend(CONTAINER)
        if not values:
            return kind()
        (items,) = _typed(kind.__name__, values, list)
        reader.budget.spend(_SLOT * len(items))  # one list can be given many times
        reader.budget.use_keys(items)
        return kind(items)

    return build


def _new_ordered_dict(reader: ValueReader, values: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    _typed("OrderedDict", values)
    reader.budget.spend(2 * CONTAINER)
    return OrderedDict()


def _new_timedelta(_: ValueReader, values: tuple[Any, ...]) -> timedelta:
    return timedelta(*_typed("timedelta", values, int, int, int))


def _new_timezone(_: ValueReader, values: tuple[Any, ...]) -> timezone:
    if len(values) == 1:
        return timezone(*_typed("timezone", values, timedelta))
    return timezone(*_typed("timezone", values, timedelta, str))


def _new_date(_: ValueReader, values: tuple[Any, ...]) -> date:
    (state,) = _typed("date", values, bytes)
    if len(state) != 4:
        raise bad("date")
    return date(int.from_bytes(state[:2], "big"), state[2], state[3])


def _new_time(_: ValueReader, values: tuple[Any, ...]) -> time:
    state, zone = (
        _typed("time", values, bytes, timezone) if len(values) == 2 else (*_typed("time", values, bytes), None)
    )
    if len(state) != 6:
        raise bad("time")
    # The highest bit of the first byte is the fold (PEP 495).
    hour, fold = state[0] & 0x7F, state[0] >> 7
    return time(hour, state[1], state[2], int.from_bytes(state[3:], "big"), zone, fold=fold)


def _new_datetime(_: ValueReader, values: tuple[Any, ...]) -> datetime:
    state, zone = (
        _typed("datetime", values, bytes, timezone) if len(values) == 2 else (*_typed("datetime", values, bytes), None)
    )
    if len(state) != 10:
        raise bad("datetime")
    year, (month, day, hour, minute, second) = int.from_bytes(state[:2], "big"), state[2:7]
    micro = int.from_bytes(state[7:], "big")
    return datetime(year, month & 0x7F, day, hour, minute, second, micro, zone, fold=month >> 7)


def _new_decimal(reader: ValueReader, values: tuple[Any, ...]) -> Decimal:
    (text,) = _typed("Decimal", values, str)
    reader.budget.copy(CONTAINER, len(text))
    if len(text) > MAX_NUMBER_DIGITS:
        raise bad("Decimal")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise bad("Decimal") from None


def _new_fraction(reader: ValueReader, values: tuple[Any, ...]) -> Fraction:
    if len(values) == 1:  # until Python 3.11
        (text,) = _typed("Fraction", values, str)
        match = re.fullmatch(r"(-?\d{1,4000})(?:/(\d{1,4000}))?", text, re.ASCII)
        if not match:
            raise bad("Fraction")
        reader.budget.spend(len(text) * len(text) // 16)
        values = (int(match[1]), int(match[2] or "1"))
    above, below = _typed("Fraction", values, int, int)
    if max(above.bit_length(), below.bit_length()) > 3 * MAX_NUMBER_DIGITS or below == 0:
        raise bad("Fraction")
    reader.budget.spend(number_steps(above, below))
    return Fraction(above, below)


def build_uuid(_: ValueReader, state: Any) -> UUID:
    """A UUID from the state that a pickle gives it: a dict with its number as "int"."""
    if type(state) is not dict or type(state.get("int")) is not int or not state.keys() <= {"int"}:
        raise bad("UUID")
    return UUID(int=state["int"])


# --- numpy -------------------------------------------------------------------------------------------------------


def _new_array(_: ValueReader, values: tuple[Any, ...]) -> Unbuilt:
    kind, shape, code = values if len(values) == 3 else (None, None, None)
    if getattr(kind, "name", "") != "numpy.ndarray" or type(shape) is not tuple or type(code) not in (bytes, str):
        raise bad("numpy's _reconstruct")
    if [type(length) for length in shape] != [int] or shape[0] != 0 or code not in (b"b", "b"):
        raise bad("numpy's _reconstruct")
    return Unbuilt("numpy.ndarray", _build_array)


def _build_array(reader: ValueReader, state: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    version, shape, dtype, fortran, data = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    if type(version) is not int or version != 1 or type(fortran) is not bool:
        raise bad("numpy.ndarray")
    if not isinstance(dtype, np.dtype) or type(data) not in (bytes, Raw):
        raise bad("numpy.ndarray")
    view = data.view if type(data) is Raw else memoryview(cast(bytes, data))
    return _array(reader, shape, dtype, "F" if fortran else "C", view)


def _new_array_from_buffer(reader: ValueReader, values: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """`_frombuffer(buffer, dtype, shape, order)`, which numpy writes in protocol 5."""
    import numpy as np

    if len(values) not in (4, 5) or not isinstance(values[1], np.dtype):
        raise bad("numpy's _frombuffer")
    if type(values[3]) is not str or values[3] not in ("C", "F"):
        raise bad("numpy's _frombuffer")
    data = values[0].view if type(values[0]) is Raw else values[0]
    if type(data) not in (bytes, bytearray, memoryview):
        raise bad("numpy's _frombuffer")
    return _array(reader, values[2], values[1], values[3], memoryview(data))


def _array(reader: ValueReader, shape: Any, dtype: np.dtype[Any], order: Any, data: memoryview) -> np.ndarray[Any, Any]:
    import numpy as np

    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise bad("numpy.ndarray (its shape)")
    size = dtype.itemsize * math.prod(shape)
    if size != len(data):
        raise UnsafePickle(
            f"The pickle has an array of shape {shape} and {len(data):,} bytes, which do not fit together."
        )
    if dtype.itemsize == 0 and math.prod(shape) > MAX_EMPTY_ITEMS:
        raise bad("numpy.ndarray (items without bytes)")
    reader.budget.copy(_ARRAY + _DIMENSION * len(shape), size)
    # Copied as bytes, so that the padding of structured types stays as it was and storing again gives the same URI.
    # The dtype holds no objects (`Types.build`), so any bytes are a valid content.
    content = np.empty(size, "u1")
    content[:] = np.frombuffer(data, "u1") if size else 0
    check_text(content, dtype, reader.types, reader.budget.spend)
    return np.ndarray(shape, dtype, content, order=order)


def _new_scalar(reader: ValueReader, values: tuple[Any, ...]) -> Any:
    import numpy as np

    if len(values) != 2 or not isinstance(values[0], np.dtype) or type(values[1]) not in (bytes, Raw):
        raise bad("numpy's scalar")
    dtype, data = values
    data = data.view if type(data) is Raw else data
    if dtype.itemsize != len(data) or dtype.subdtype is not None:
        raise bad("numpy's scalar")
    reader.budget.copy(_SCALAR, len(data))
    if not len(data):
        return np.zeros((), dtype)[()]
    content = bytearray(data)
    check_text(content, dtype, reader.types, reader.budget.spend)
    return np.frombuffer(content, dtype)[0]


def _new_dtype(_: ValueReader, values: tuple[Any, ...]) -> Unbuilt:
    spec, *flags = values if values else (None,)
    if not all(type(flag) in (bool, int) for flag in flags) or flags != [0, 1]:
        raise bad("numpy.dtype")
    checked = checked_spec(spec)
    return Unbuilt("numpy.dtype", lambda reader, state: reader.types.build(checked, state))


# --- the list --------------------------------------------------------------------------------------------------------


def _make_allowlist() -> dict[tuple[str, str], Constructor]:
    made: dict[tuple[str, str], Constructor] = {}

    def allow(module: str, name: str, call: Callable[[ValueReader, tuple[Any, ...]], Any] | None) -> None:
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
