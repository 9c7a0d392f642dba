"""Reading pickles without ever running code.

`pickle.load` calls whatever the file names, and even with an allowlist of names it hands numpy a state to swallow
whole, which a crafted file can use to read and write outside of arrays. So this module is an interpreter of its own
for the opcodes that data needs (protocols 2 to 5, in band), which knows a short list of constructors. Each of them
checks its arguments and builds the value through public constructors. No class is looked up, no method of a loaded
object is called, `__setstate__` included. Everything else is refused by name.

Memory is bounded: counts and lengths are checked against the bytes that are there, and arrays that a file makes from
bytes it repeats may take no more than four times the file's size (or 64 MiB).

What is read: all that `pickling.py` writes, and what `pickle.dump` writes for the same types under any version of
numpy, which covers the files of older kachery-cloud releases.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from struct import Struct
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from .errors import FormatError, UnsafePickle
from .pickling import MAX_NUMBER_DIGITS

if TYPE_CHECKING:
    import numpy as np

_U16, _U32, _I32, _U64, _F64 = (Struct(code) for code in ("<H", "<I", "<i", "<Q", ">d"))

# Bytes of this many and more are left in the file until it is clear what they become.
_RAW_SIZE = 65_536
# Bytes of arrays that any file may ask for, however small it is; beyond it they are in proportion to the file.
_FREE_BYTES = 64 << 20
_COPIES = 4
# Hashing a nested tuple recurses in C without a check of the stack; no real key is larger than this.
_MAX_KEY_PARTS = 10_000
_MAX_KEY_DEPTH = 100
# numpy's own limits.
_MAX_DIMENSIONS = 64
# Types nested deeper would only serve to exhaust the stack.
_MAX_DTYPE_DEPTH = 20


def load_pickle(data: bytes | memoryview) -> Any:
    """The value of a pickle.

    Raises `UnsafePickle` where the pickle asks for what is not on the allowlist, naming it, and `FormatError` where
    it is cut short or no pickle at all. Neither runs anything.
    """
    view = memoryview(data).cast("B")
    try:
        return _Reader(view).load()
    except (UnsafePickle, FormatError):
        raise
    except (ValueError, TypeError, IndexError, OverflowError, KeyError, RecursionError, MemoryError) as exc:
        # Bytes that are no pickle fail anywhere; the place says nothing to the user.
        raise FormatError(f"The file is not a pickle that can be read ({type(exc).__name__}: {exc}).") from exc


class _Special:
    """Something that only the opcode it is meant for may consume; anywhere else it is refused."""

    __slots__ = ()


class _Constructor(_Special):
    """A name of the allowlist. `call` is None for a class that is only ever an argument."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[_Reader, tuple[Any, ...]], Any] | None) -> None:
        self.name = name
        self.call = call


class _Arguments(_Special):
    """A tuple that holds a special value: the arguments of a call, or a plain tuple with much in it."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items


class _Unbuilt(_Special):
    """A value whose state comes later, with BUILD; then it is replaced on the stack and in the memo."""

    __slots__ = ("build", "memo_keys", "name")

    def __init__(self, name: str, build: Callable[[_Reader, Any], Any]) -> None:
        self.name = name
        self.build = build
        self.memo_keys: list[int] = []


class _Raw(_Special):
    """Many bytes, still in the file: most become arrays and need no copy on the way."""

    __slots__ = ("owned", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.owned: bytes | None = None

    def own(self) -> bytes:
        if self.owned is None:
            self.owned = bytes(self.view)
        return self.owned


_SPECIALS = {_Constructor, _Arguments, _Unbuilt, _Raw}


class _Reader:
    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.pos = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = max(_FREE_BYTES, _COPIES * len(view))

    def load(self) -> Any:
        view, size, table = self.view, len(self.view), _OPCODES
        if size < 2 or view[0] != 0x80:
            raise FormatError("The file is not a pickle of protocol 2 or later.")
        while self.pos < size:
            code = view[self.pos]
            self.pos += 1
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.marks:
                    raise FormatError("The pickle is damaged: it ends in the middle of a value.")
                return self._plain(self.stack[0])
            handler = table[code]
            if handler is None:
                raise _refused_opcode(code, self.pos - 1)
            handler(self)
        raise FormatError("The pickle is cut short: it has no end mark.")

    # --- reading the file --------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        end = self.pos + count
        if count < 0 or end > len(self.view):
            raise FormatError(f"The pickle is cut short: {count:,} bytes are promised where it ends.")
        part = self.view[self.pos : end]
        self.pos = end
        return part

    def number(self, form: Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def spend(self, count: int) -> None:
        """Account for bytes that are copied out of the file."""
        self.budget -= count
        if self.budget < 0:
            raise UnsafePickle(
                f"The pickle of {len(self.view):,} bytes unfolds to more than {_COPIES} times its size; not loaded."
            )

    # --- the stack ---------------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> Any:
        """The value as it goes into containers; refuses what only a constructor may take."""
        kind = type(value)
        if kind not in _SPECIALS:
            return value
        if kind is _Raw:
            return value.own()
        if kind is _Arguments:
            return tuple([self._plain(item) for item in value.items])
        raise UnsafePickle(
            f"The pickle uses {value.name} in a way that data does not. It was not loaded, nothing of it was run."
        )

    def _all_plain(self, values: list[Any]) -> list[Any]:
        if _SPECIALS.isdisjoint(map(type, values)):
            return values
        return [self._plain(value) for value in values]

    def _key(self, value: Any) -> Any:
        value = self._plain(value)
        if type(value) is tuple or type(value) is slice:
            _check_key(value)
        return value

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def make_tuple(self, items: list[Any]) -> None:
        values = tuple(items)
        special = not _SPECIALS.isdisjoint(map(type, values))
        self.stack.append(_Arguments(values) if special else values)

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if type(value) is _Unbuilt:
            value.memo_keys.append(index)
        self.memo[index] = value

    def get(self, index: int) -> None:
        try:
            self.stack.append(self.memo[index])
        except KeyError:
            raise FormatError(f"The pickle is damaged: it refers to value {index}, which it does not have.") from None

    # --- opcodes -----------------------------------------------------------------------------------------------

    def op_proto(self) -> None:
        version = self.take(1)[0]
        if not 2 <= version <= 5:
            raise FormatError(f"The pickle has protocol {version}; protocols 2 to 5 are read.")

    def op_frame(self) -> None:
        # Frames only help readers of streams; that the bytes are there is checked as each value is read.
        self.take(8)

    def op_mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def op_pop(self) -> None:
        # Only ever written to leave a tuple that contains itself; then a mark may lie on top.
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def op_pop_mark(self) -> None:
        self.pop_mark()

    def op_long(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def op_str(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        self.stack.append(str(self.take(count), "utf-8", "surrogatepass"))

    def op_bytes(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        part = self.take(count)
        self.stack.append(bytes(part) if count < _RAW_SIZE else _Raw(part))

    def op_bytearray(self) -> None:
        part = self.take(self.number(_U64))
        self.stack.append(bytearray(part))

    def op_append(self) -> None:
        value = self._plain(self.stack.pop())
        self._target(list).append(value)

    def op_appends(self) -> None:
        values = self._all_plain(self.pop_mark())
        self._target(list).extend(values)

    def op_setitem(self) -> None:
        value = self._plain(self.stack.pop())
        key = self._key(self.stack.pop())
        self._target(dict)[key] = value

    def op_setitems(self) -> None:
        values = self._all_plain(self.pop_mark())
        target = self._target(dict)
        if len(values) % 2:
            raise FormatError("The pickle is damaged: a key of a dict has no value.")
        for index in range(0, len(values), 2):
            target[self._key(values[index])] = values[index + 1]

    def op_additems(self) -> None:
        values = self._all_plain(self.pop_mark())
        self._target(set).update([self._key(value) for value in values])

    def op_frozenset(self) -> None:
        values = self._all_plain(self.pop_mark())
        self.stack.append(frozenset([self._key(value) for value in values]))

    def _target(self, kind: type) -> Any:
        target = self.stack[-1]
        if type(target) is kind or (kind is dict and type(target) is OrderedDict):
            return target
        raise UnsafePickle(f"The pickle adds items to a {type(target).__name__.lstrip('_')}, which data does not do.")

    def op_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise FormatError("The pickle is damaged: a tuple lacks items.")
        items = self.stack[-count:]
        del self.stack[-count:]
        self.make_tuple(items)

    def op_global(self) -> None:
        end = bytes(self.view[self.pos : self.pos + 512]).split(b"\n", 2)
        if len(end) < 3:
            raise FormatError("The pickle is damaged: the name of a class has no end.")
        self.pos += len(end[0]) + len(end[1]) + 2
        self._find(end[0].decode(), end[1].decode())

    def op_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnsafePickle("The pickle names a class by something that is not text. It was not loaded.")
        self._find(module, name)

    def _find(self, module: str, name: str) -> None:
        found = _ALLOWLIST.get((module, name))
        if found is None:
            raise UnsafePickle(
                f"The pickle needs {module[:100]}.{name[:100]}, which is not on the list of plain data types that "
                "load_pkl reads. It was not loaded, nothing of it was run."
            )
        self.stack.append(found)

    def op_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is _Arguments:
            arguments = arguments.items
        if type(function) is not _Constructor or function.call is None or type(arguments) is not tuple:
            raise UnsafePickle(
                "The pickle calls something that is not a constructor of the allowlist. It was not loaded."
            )
        self.stack.append(function.call(self, arguments))

    def op_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if type(kind) is not _Constructor or kind.name != "uuid.UUID" or arguments != ():
            name = kind.name if type(kind) is _Constructor else type(kind).__name__
            raise UnsafePickle(f"The pickle makes an object of {name} without its constructor. It was not loaded.")
        self.stack.append(_Unbuilt("uuid.UUID", _build_uuid))

    def op_build(self) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if type(target) is not _Unbuilt:
            raise UnsafePickle(f"The pickle sets the state of a {type(target).__name__}, which data does not do.")
        value = target.build(self, state.items if type(state) is _Arguments else state)
        for index in target.memo_keys:
            if self.memo.get(index) is target:
                self.memo[index] = value
        self.stack.append(value)


def _check_key(key: Any) -> None:
    """Refuse keys that could not be hashed within bounds."""
    parts = 0
    level = [key]
    for _ in range(_MAX_KEY_DEPTH):
        level = [part for item in level for part in _key_parts(item)]
        parts += len(level)
        if not level:
            return
        if parts > _MAX_KEY_PARTS:
            break
    raise UnsafePickle(
        "The pickle has a dict key or an element of a set that is too deep or too large. It was not loaded."
    )


def _key_parts(item: Any) -> Any:
    if type(item) is tuple:
        return item
    # A frozenset keeps the hash it was built with, after a check of its own.
    return (item.start, item.stop, item.step) if type(item) is slice else ()


def _refused_opcode(code: int, place: int) -> FormatError:
    from pickletools import code2op

    known = code2op.get(chr(code))
    if known is None:
        return FormatError(
            f"The file is not a pickle, or it is damaged: byte {place} ({code:#04x}) means nothing there."
        )
    return UnsafePickle(
        f"The pickle uses the instruction {known.name} (at byte {place}), which load_pkl does not accept. "
        "It was not loaded, nothing of it was run."
    )


# --- constructors ------------------------------------------------------------------------------------------------


def _bad(name: str) -> UnsafePickle:
    return UnsafePickle(f"The pickle gives {name} something that data never does. It was not loaded.")


def _typed(name: str, values: tuple[Any, ...], *kinds: type | tuple[type, ...]) -> tuple[Any, ...]:
    """The arguments, if they are of exactly these types."""
    wanted = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    if len(values) != len(wanted) or not all(type(v) in kind for v, kind in zip(values, wanted, strict=True)):
        raise _bad(name)
    return values


def _new_complex(_: _Reader, values: tuple[Any, ...]) -> complex:
    return complex(*_typed("complex", values, (float, int), (float, int)))


def _new_range(_: _Reader, values: tuple[Any, ...]) -> range:
    return range(*_typed("range", values, int, int, int))


def _new_slice(reader: _Reader, values: tuple[Any, ...]) -> slice:
    if len(values) != 3:
        raise _bad("slice")
    return slice(*(reader._plain(value) for value in values))


def _new_bytearray(reader: _Reader, values: tuple[Any, ...]) -> bytearray:
    if not values:
        return bytearray()
    part = values[0].view if type(values[0]) is _Raw else _typed("bytearray", values, bytes)[0]
    reader.spend(len(part))
    return bytearray(part)


def _new_set(kind: type) -> Callable[[_Reader, tuple[Any, ...]], Any]:
    def build(reader: _Reader, values: tuple[Any, ...]) -> Any:
        if not values:
            return kind()
        (items,) = _typed(kind.__name__, values, list)
        return kind([reader._key(item) for item in items])

    return build


def _new_ordered_dict(_: _Reader, values: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    _typed("OrderedDict", values)
    return OrderedDict()


def _new_timedelta(_: _Reader, values: tuple[Any, ...]) -> timedelta:
    return timedelta(*_typed("timedelta", values, int, int, int))


def _new_timezone(_: _Reader, values: tuple[Any, ...]) -> timezone:
    if len(values) == 1:
        return timezone(*_typed("timezone", values, timedelta))
    return timezone(*_typed("timezone", values, timedelta, str))


def _new_date(_: _Reader, values: tuple[Any, ...]) -> date:
    (state,) = _typed("date", values, bytes)
    if len(state) != 4:
        raise _bad("date")
    return date(int.from_bytes(state[:2], "big"), state[2], state[3])


def _new_time(_: _Reader, values: tuple[Any, ...]) -> time:
    state, zone = (
        _typed("time", values, bytes, timezone) if len(values) == 2 else (*_typed("time", values, bytes), None)
    )
    if len(state) != 6:
        raise _bad("time")
    # The highest bit of the first byte is the fold (PEP 495).
    hour, fold = state[0] & 0x7F, state[0] >> 7
    return time(hour, state[1], state[2], int.from_bytes(state[3:], "big"), zone, fold=fold)


def _new_datetime(_: _Reader, values: tuple[Any, ...]) -> datetime:
    state, zone = (
        _typed("datetime", values, bytes, timezone) if len(values) == 2 else (*_typed("datetime", values, bytes), None)
    )
    if len(state) != 10:
        raise _bad("datetime")
    year, (month, day, hour, minute, second) = int.from_bytes(state[:2], "big"), state[2:7]
    micro = int.from_bytes(state[7:], "big")
    return datetime(year, month & 0x7F, day, hour, minute, second, micro, zone, fold=month >> 7)


def _new_decimal(_: _Reader, values: tuple[Any, ...]) -> Decimal:
    (text,) = _typed("Decimal", values, str)
    if len(text) > MAX_NUMBER_DIGITS:
        raise _bad("Decimal")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise _bad("Decimal") from None


def _new_fraction(_: _Reader, values: tuple[Any, ...]) -> Fraction:
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


def _build_uuid(_: _Reader, state: Any) -> UUID:
    if type(state) is not dict or type(state.get("int")) is not int or not state.keys() <= {"int"}:
        raise _bad("UUID")
    return UUID(int=state["int"])


# --- numpy -------------------------------------------------------------------------------------------------------


def _new_array(_: _Reader, values: tuple[Any, ...]) -> _Unbuilt:
    if (
        len(values) != 3
        or getattr(values[0], "name", "") != "numpy.ndarray"
        or values[1:] not in (((0,), b"b"), ((0,), "b"))
    ):
        raise _bad("numpy's _reconstruct")
    return _Unbuilt("numpy.ndarray", _build_array)


def _build_array(reader: _Reader, state: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    version, shape, dtype, fortran, data = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    if version != 1 or not isinstance(dtype, np.dtype) or type(fortran) is not bool or type(data) not in (bytes, _Raw):
        raise _bad("numpy.ndarray")
    view = data.view if type(data) is _Raw else memoryview(cast(bytes, data))
    return _array(reader, shape, dtype, "F" if fortran else "C", view)


def _new_array_from_buffer(reader: _Reader, values: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """`_frombuffer(buffer, dtype, shape, order)`, which numpy writes in protocol 5."""
    import numpy as np

    if len(values) not in (4, 5) or not isinstance(values[1], np.dtype) or values[3] not in ("C", "F"):
        raise _bad("numpy's _frombuffer")
    data = values[0].view if type(values[0]) is _Raw else values[0]
    if type(data) not in (bytes, bytearray, memoryview):
        raise _bad("numpy's _frombuffer")
    return _array(reader, values[2], values[1], values[3], memoryview(data))


def _array(reader: _Reader, shape: Any, dtype: np.dtype[Any], order: Any, data: memoryview) -> np.ndarray[Any, Any]:
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
        if dtype.itemsize == 0 and math.prod(shape) > _MAX_KEY_PARTS:
            raise _bad("numpy.ndarray (items without bytes)")
        return np.zeros(shape, dtype, order=order)
    reader.spend(size)
    # Copied as bytes, so that the padding of structured types stays as it was and storing again gives the same URI.
    # The dtype holds no objects (`_build_dtype`), so any bytes are a valid content.
    content = np.empty(size, "u1")
    content[:] = np.frombuffer(data, "u1")
    return np.ndarray(shape, dtype, content, order=order)


def _new_scalar(_: _Reader, values: tuple[Any, ...]) -> Any:
    import numpy as np

    if len(values) != 2 or not isinstance(values[0], np.dtype) or type(values[1]) not in (bytes, _Raw):
        raise _bad("numpy's scalar")
    dtype, data = values
    data = data.own() if type(data) is _Raw else data
    if dtype.itemsize != len(data) or dtype.subdtype is not None:
        raise _bad("numpy's scalar")
    if not data:
        return np.zeros((), dtype)[()]
    return np.frombuffer(bytearray(data), dtype)[0]


def _new_dtype(_: _Reader, values: tuple[Any, ...]) -> _Unbuilt:
    spec, *flags = values if values else (None,)
    if type(spec) is not str or flags not in ([False, True], [0, 1]):
        raise _bad("numpy.dtype")
    if spec.startswith("O"):
        raise UnsafePickle("The pickle holds a numpy array of Python objects, which load_pkl does not read.")
    if not re.fullmatch(r"b1|[iu](1|2|4|8)|f(2|4|8|10|12|16)|c(8|16|20|24|32)|[mM]8|[SUV]\d{0,9}", spec, re.ASCII):
        raise _bad("numpy.dtype")
    return _Unbuilt("numpy.dtype", lambda reader, state: _build_dtype(spec, state))


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


# --- tables ------------------------------------------------------------------------------------------------------


def _make_allowlist() -> dict[tuple[str, str], _Constructor]:
    made: dict[tuple[str, str], _Constructor] = {}

    def allow(module: str, name: str, call: Callable[[_Reader, tuple[Any, ...]], Any] | None) -> None:
        made[module, name] = _Constructor(f"{module}.{name}", call)

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


_ALLOWLIST = _make_allowlist()


def _make_opcodes() -> list[Callable[[_Reader], None] | None]:
    table: list[Callable[[_Reader], None] | None] = [None] * 256

    def constant(make: Callable[[], Any]) -> Callable[[_Reader], None]:
        return lambda r: r.stack.append(make())

    def numeric(form: Struct) -> Callable[[_Reader], None]:
        return lambda r: r.stack.append(r.number(form))

    known: dict[int, Callable[[_Reader], None]] = {
        0x80: _Reader.op_proto,
        0x95: _Reader.op_frame,
        ord("("): _Reader.op_mark,
        ord("0"): _Reader.op_pop,
        ord("1"): _Reader.op_pop_mark,
        ord("N"): constant(lambda: None),
        0x88: constant(lambda: True),
        0x89: constant(lambda: False),
        ord("K"): lambda r: r.stack.append(r.take(1)[0]),
        ord("M"): numeric(_U16),
        ord("J"): numeric(_I32),
        0x8A: lambda r: r.op_long(None),
        0x8B: lambda r: r.op_long(_I32),
        ord("G"): numeric(_F64),
        0x8C: lambda r: r.op_str(None),
        ord("X"): lambda r: r.op_str(_U32),
        0x8D: lambda r: r.op_str(_U64),
        ord("C"): lambda r: r.op_bytes(None),
        ord("B"): lambda r: r.op_bytes(_U32),
        0x8E: lambda r: r.op_bytes(_U64),
        0x96: _Reader.op_bytearray,
        ord(")"): constant(tuple),
        0x85: lambda r: r.op_tuple(1),
        0x86: lambda r: r.op_tuple(2),
        0x87: lambda r: r.op_tuple(3),
        ord("t"): lambda r: r.make_tuple(r.pop_mark()),
        ord("]"): constant(list),
        ord("a"): _Reader.op_append,
        ord("e"): _Reader.op_appends,
        ord("}"): constant(dict),
        ord("s"): _Reader.op_setitem,
        ord("u"): _Reader.op_setitems,
        0x8F: constant(set),
        0x90: _Reader.op_additems,
        0x91: _Reader.op_frozenset,
        ord("q"): lambda r: r.put(r.take(1)[0]),
        ord("r"): lambda r: r.put(r.number(_U32)),
        0x94: lambda r: r.put(len(r.memo)),
        ord("h"): lambda r: r.get(r.take(1)[0]),
        ord("j"): lambda r: r.get(r.number(_U32)),
        ord("c"): _Reader.op_global,
        0x93: _Reader.op_stack_global,
        ord("R"): _Reader.op_reduce,
        0x81: _Reader.op_newobj,
        ord("b"): _Reader.op_build,
    }
    for code, handler in known.items():
        table[code] = handler
    return table


_OPCODES = _make_opcodes()
