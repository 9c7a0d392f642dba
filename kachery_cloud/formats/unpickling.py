"""Reading pickles without ever running code.

`pickle.load` calls whatever the file names, and even with an allowlist of names it hands numpy a state to swallow
whole, which a crafted file can use to read and write outside of arrays. So this module is an interpreter of its own
for the opcodes that data needs (protocols 2 to 5, in band), which knows a short list of constructors. Each of them
checks its arguments and builds the value through public constructors. No class is looked up, no method of a loaded
object is called, `__setstate__` included. Everything else is refused by name.

Memory and time are bounded: counts and lengths are checked against the bytes that are there, and all that is made,
copied, unfolded, hashed or compared is charged to one budget (`pickle_budget.py`).

What is read: all that `pickling.py` writes, and what `pickle.dump` writes for the same types under any version of
numpy, which covers the files of older kachery-cloud releases.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from struct import Struct
from typing import Any

from kachery_cloud.errors import FormatError, UnsafePickle
from kachery_cloud.formats.limits import PICKLE_LIMITS, PickleLimits
from kachery_cloud.formats.pickle_budget import CONTAINER, PickleBudget
from kachery_cloud.formats.pickle_dtypes import Types
from kachery_cloud.formats.pickle_types import ALLOWLIST, SPECIALS, Arguments, Constructor, Raw, Unbuilt, build_uuid

_U16, _U32, _I32, _U64, _F64 = (Struct(code) for code in ("<H", "<I", "<i", "<Q", ">d"))

#: Bytes of this many and more are left in the file until it is clear what they become.
_RAW_SIZE = 65_536
#: Values lie within one another no deeper than this; Python could do nothing with them.
_MAX_MARKS = 100_000


def load_pickle(data: bytes | memoryview, limits: PickleLimits = PICKLE_LIMITS) -> Any:
    """The value of a pickle.

    Args:
        data: the whole file.
        limits: what reading it may cost.

    Raises:
        UnsafePickle: it asks for what is not on the allowlist, or costs too much; the message says what.
        FormatError: it is cut short, or no pickle at all. Neither runs anything.
    """
    view = memoryview(data).cast("B")
    try:
        return _Reader(view, limits).load()
    except (UnsafePickle, FormatError):
        raise
    except MemoryError:
        raise FormatError("There is not enough memory for the value of the pickle.") from None
    except Exception as error:
        # Bytes that are no pickle fail anywhere, in Python or numpy; the place says nothing to the user.
        raise FormatError(f"The file is not a pickle that can be read ({type(error).__name__}: {error}).") from error


class _Reader:
    """The interpreter: a stack, marks and a memo, as `pickletools` describes them."""

    def __init__(self, view: memoryview, limits: PickleLimits) -> None:
        self.view = view
        self.pos = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        # Picklers number what they remember from 0 on; numbers out of this order lie in a table of their own.
        self.memo: list[Any] = []
        self.far_memo: dict[int, Any] = {}
        self.budget = PickleBudget(len(view), limits)
        self.types = Types(self.budget)

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
                return self.plain(self.stack[0])
            # The instructions that large lists are full of, without the calls.
            if code == 0x47:  # BINFLOAT
                self.stack.append(_F64.unpack_from(view, self.pos)[0])
                self.pos += 8
                continue
            if code == 0x4B:  # BININT1
                self.stack.append(view[self.pos])
                self.pos += 1
                continue
            if code == 0x94:  # MEMOIZE
                self.put(len(self.memo) + len(self.far_memo))
                continue
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
        value = form.unpack_from(self.view, self.pos)[0]
        self.pos += form.size
        return value

    # --- the stack ---------------------------------------------------------------------------------------------

    def plain(self, value: Any) -> Any:
        """The value as it goes into containers; refuses what only a constructor may take."""
        kind = type(value)
        if kind not in SPECIALS:
            return value
        if kind is Raw:
            return value.own()
        if kind is Arguments:
            if value.unfolded is None:
                value.unfolded = tuple([self.plain(item) for item in value.items])
            return value.unfolded
        raise UnsafePickle(
            f"The pickle uses {value.name} in a way that data does not. It was not loaded, nothing of it was run."
        )

    def _all_plain(self, values: list[Any]) -> list[Any]:
        if SPECIALS.isdisjoint(map(type, values)):
            return values
        return [self.plain(value) for value in values]

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def make_tuple(self, items: list[Any]) -> None:
        values = tuple(items)
        special = not SPECIALS.isdisjoint(map(type, values))
        self.stack.append(Arguments(values) if special else values)

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if type(value) is Unbuilt:
            value.memo_keys.append(index)
        self.remember(index, value)

    def remember(self, index: int, value: Any) -> None:
        if index < len(self.memo):
            self.memo[index] = value
        elif index == len(self.memo):
            self.memo.append(value)
            self.far_memo.pop(index, None)
        else:
            self.far_memo[index] = value

    def get(self, index: int) -> None:
        try:
            self.stack.append(self.memo[index] if index < len(self.memo) else self.far_memo[index])
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
        if len(self.marks) >= _MAX_MARKS:
            raise FormatError(f"The pickle is nested more than {_MAX_MARKS:,} deep.")
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
        self.stack.append(bytes(part) if count < _RAW_SIZE else Raw(part))

    def op_bytearray(self) -> None:
        part = self.take(self.number(_U64))
        self.stack.append(bytearray(part))

    def op_append(self) -> None:
        value = self.plain(self.stack.pop())
        self._target(list).append(value)

    def op_appends(self) -> None:
        values = self._all_plain(self.pop_mark())
        self._target(list).extend(values)

    def op_list(self) -> None:
        self.budget.spend(CONTAINER)
        self.stack.append([])

    def op_dict(self) -> None:
        self.budget.spend(CONTAINER)
        self.stack.append({})

    def op_set(self) -> None:
        self.budget.spend(CONTAINER)
        self.stack.append(set())

    def op_setitem(self) -> None:
        value = self.plain(self.stack.pop())
        key = self.plain(self.stack.pop())
        target = self._target(dict)
        self.budget.use_keys((key,), target)
        target[key] = value

    def op_setitems(self) -> None:
        values = self._all_plain(self.pop_mark())
        target = self._target(dict)
        if len(values) % 2:
            raise FormatError("The pickle is damaged: a key of a dict has no value.")
        keys = values[0::2]
        self.budget.use_keys(keys, target)
        target.update(zip(keys, values[1::2], strict=True))

    def op_additems(self) -> None:
        values = self._all_plain(self.pop_mark())
        target = self._target(set)
        self.budget.use_keys(values, target)
        target.update(values)

    def op_frozenset(self) -> None:
        values = self._all_plain(self.pop_mark())
        self.budget.spend(CONTAINER)
        self.budget.use_keys(values)
        self.stack.append(frozenset(values))

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
        found = ALLOWLIST.get((module, name))
        if found is None:
            raise UnsafePickle(
                f"The pickle needs {module[:100]}.{name[:100]}, which is not on the list of plain data types that "
                "load_pkl reads. It was not loaded, nothing of it was run."
            )
        self.stack.append(found)

    def op_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is Arguments:
            arguments = arguments.items
        if type(function) is not Constructor or function.call is None or type(arguments) is not tuple:
            raise UnsafePickle(
                "The pickle calls something that is not a constructor of the allowlist. It was not loaded."
            )
        self.stack.append(function.call(self, arguments))

    def op_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if type(kind) is not Constructor or kind.name != "uuid.UUID" or type(arguments) is not tuple or arguments:
            name = kind.name if type(kind) is Constructor else type(kind).__name__
            raise UnsafePickle(f"The pickle makes an object of {name} without its constructor. It was not loaded.")
        self.stack.append(Unbuilt("uuid.UUID", build_uuid))

    def op_build(self) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if type(target) is not Unbuilt:
            raise UnsafePickle(f"The pickle sets the state of a {type(target).__name__}, which data does not do.")
        value = target.build(self, state.items if type(state) is Arguments else state)
        places, target.memo_keys = target.memo_keys, []
        for index in places:
            if (self.memo[index] if index < len(self.memo) else self.far_memo.get(index)) is target:
                self.remember(index, value)
        self.stack.append(value)


def _refused_opcode(code: int, place: int) -> FormatError:
    import pickletools

    known = next((op for op in pickletools.opcodes if op.code == chr(code)), None)
    if known is None:
        return FormatError(
            f"The file is not a pickle, or it is damaged: byte {place} ({code:#04x}) means nothing there."
        )
    return UnsafePickle(
        f"The pickle uses the instruction {known.name} (at byte {place}), which load_pkl does not accept. "
        "It was not loaded, nothing of it was run."
    )


# --- the table of opcodes --------------------------------------------------------------------------------


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
        ord("M"): numeric(_U16),
        ord("J"): numeric(_I32),
        0x8A: lambda r: r.op_long(None),
        0x8B: lambda r: r.op_long(_I32),
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
        ord("]"): _Reader.op_list,
        ord("a"): _Reader.op_append,
        ord("e"): _Reader.op_appends,
        ord("}"): _Reader.op_dict,
        ord("s"): _Reader.op_setitem,
        ord("u"): _Reader.op_setitems,
        0x8F: _Reader.op_set,
        0x90: _Reader.op_additems,
        0x91: _Reader.op_frozenset,
        ord("q"): lambda r: r.put(r.take(1)[0]),
        ord("r"): lambda r: r.put(r.number(_U32)),
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
