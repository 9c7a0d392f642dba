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
    """A tuple that holds a special value."""

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


_SPECIALS = {_Constructor, _Arguments, _Unbuilt}


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
        if type(value) in _SPECIALS:
            name = getattr(value, "name", "a class")
            raise UnsafePickle(f"The pickle uses {name} in a way that data does not. It was not loaded, nothing of it was run.")
        return value

    def _all_plain(self, values: list[Any]) -> list[Any]:
        if not _SPECIALS.isdisjoint(map(type, values)):
            for value in values:
                self._plain(value)
        return values

    def _key(self, value: Any) -> Any:
        kind = type(value)
        if kind is tuple or kind is frozenset or kind is slice:
            _check_key(value)
        return self._plain(value)

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

    def op_long(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def op_str(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        self.stack.append(str(self.take(count), "utf-8", "surrogatepass"))

    def op_bytes(self, form: Struct | None) -> None:
        count = self.take(1)[0] if form is None else self.number(form)
        # A view, not a copy: large ones nearly always become arrays. `_own` makes bytes of it where it stays.
        part = self.take(count)
        self.stack.append(bytes(part) if count < 4096 or not self._array_follows() else part)

    def _array_follows(self) -> bool:
        """Whether the bytes just read end an array's state: MEMOIZE or a PUT, then TUPLE."""
        view, pos = self.view, self.pos
        for skip in (1, 2, 5, 0):
            if pos + skip + 1 < len(view) and view[pos + skip] == 0x74:
                return (skip == 0 or view[pos] == {1: 0x94, 2: 0x71, 5: 0x72}[skip]) and len(self.stack) == 4
        return False
