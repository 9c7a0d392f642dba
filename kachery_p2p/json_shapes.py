"""Between dataclasses and JSON: what one process says to another is written and read here, and nowhere else.

A message is a frozen dataclass. Its fields may be:

    str, int, float, bool, None, Literal      as they are in JSON
    tuple[X, ...], tuple[X, Y]                a list
    Mapping[str, X]                           an object with any keys
    another dataclass                         an object with its fields as keys
    a class with `parse`, such as `CID`       text: `str(value)`, and `parse(text)`
    X | Y                                     the first of them that fits
    Annotated[X, Bounds(...)]                 X within bounds
    Any                                       JSON as it is

Reading is strict about what it knows and passes over what it does not know. A field that is missing and has no default,
or whose value is of another kind, is an error that names the field. A field with an unknown name is one of a newer
version, and is ignored.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast

T = TypeVar("T")

_Read = Callable[[Any, str], Any]
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


class WrongShape(ValueError):
    """JSON that is not the message which was expected. Its text names the field, and what must be there."""


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value of a number, and what it is in words: "a number of seconds up to 60"."""

    least: float
    most: float
    words: str


#: `field(default=..., metadata=OMITTED)`: left out of the JSON while it has its default.
OMITTED = {"omitted": True}
#: `field(metadata=FLAT)`: a dataclass or a mapping whose own entries stand in the object itself, beside the other
#: fields. A mapping gets all that no other field has read.
FLAT = {"flat": True}


# --- writing ---------------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A message as plain JSON values.

    Raises:
        TypeError: it holds something that JSON has no form for.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in cast("Sequence[Any]", value)]
    kind: type[object] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if hasattr(kind, "parse"):
        return str(value)
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    found: dict[str, Any] = {}
    for each in dataclasses.fields(value):
        inner = getattr(value, each.name)
        if each.metadata.get("flat"):
            found.update(to_json(inner))
        elif not (each.metadata.get("omitted") and inner == each.default):
            found[each.name] = to_json(inner)
    return found


# --- reading ---------------------------------------------------------------------------------------------------------


def from_json(kind: type[T], value: Any) -> T:
    """Plain JSON values as a message.

    Args:
        kind: its dataclass, or any other of the kinds that a field may have.
        value: what a JSON reader gave.

    Raises:
        WrongShape: the value is not of that kind.
    """
    return _reader(kind)(value, "")


@cache
def _reader(kind: Any) -> _Read:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value, where: value
    if kind in _WORDS:
        return _plain(kind)
    if origin is Annotated:
        return _within(_reader(inner[0]), inner[1])
    if origin is Literal:
        return _one_of(inner)
    if origin in (Union, types.UnionType):
        return _any_of(inner)
    if origin is tuple:
        return _list_of(inner)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_of(_reader(inner[1]))
    if dataclasses.is_dataclass(kind):
        return _message(kind)
    if hasattr(kind, "parse"):
        return _parsed(kind)
    raise TypeError(f"{kind} cannot be read from JSON")


def _wrong(where: str, expected: str) -> WrongShape:
    return WrongShape(f"its {where!r} must be {expected}" if where else f"it must be {expected}")


def _plain(kind: type) -> _Read:
    def read(value: Any, where: str) -> Any:
        # By the very type: True is an int for Python. A whole number is a number, and stays as it is.
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise _wrong(where, _WORDS[kind])
        return value

    return read


def _within(read_number: _Read, bounds: Bounds) -> _Read:
    def read(value: Any, where: str) -> Any:
        try:
            number = read_number(value, where)
            if bounds.least <= number <= bounds.most:
                return number
        except WrongShape:
            pass
        raise _wrong(where, bounds.words)

    return read


def _one_of(words: tuple[Any, ...]) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in words:
            raise _wrong(where, f"one of {', '.join(words)}")
        return value

    return read


def _any_of(kinds: tuple[Any, ...]) -> _Read:
    readers = [_reader(kind) for kind in kinds if kind is not type(None)]
    optional = len(readers) < len(kinds)

    def read(value: Any, where: str) -> Any:
        if value is None and optional:
            return None
        for reader in readers[:-1]:
            try:
                return reader(value, where)
            except WrongShape:
                continue
        return readers[-1](value, where)

    return read


def _list_of(kinds: tuple[Any, ...]) -> _Read:
    endless = kinds[-1] is Ellipsis
    readers = [_reader(kind) for kind in kinds if kind is not Ellipsis]

    def read(value: Any, where: str) -> Any:
        items = cast("Sequence[Any]", value)
        if not isinstance(value, (list, tuple)) or not (endless or len(items) == len(readers)):
            raise _wrong(where, "a list" if endless else f"a list of {len(readers)}")
        each_with = ((each, readers[0 if endless else at]) for at, each in enumerate(items))
        return tuple(reader(each, f"{where}[{at}]") for at, (each, reader) in enumerate(each_with))

    return read


def _mapping_of(read_value: _Read) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object")
        items = cast("Mapping[Any, Any]", value).items()
        return {_key(key, where): read_value(each, _inside(where, key)) for key, each in items}

    return read


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise _wrong(where, "an object whose keys are text")
    return key


def _inside(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _parsed(kind: Any) -> _Read:
    def read(value: Any, where: str) -> Any:
        if isinstance(value, str):
            try:
                return kind.parse(value)
            except ValueError:
                pass
        raise _wrong(where, f"the text of a {kind.__name__}")

    return read


def _message(kind: Any) -> _Read:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    named = [each for each in fields if not each.metadata.get("flat")]
    readers = {each.name: _reader(hints[each.name]) for each in fields}
    flat_fields = [each.name for each in fields if each.metadata.get("flat")]
    flat_messages = {name for name in flat_fields if dataclasses.is_dataclass(hints[name])}
    taken = {*readers, *(inner.name for name in flat_messages for inner in dataclasses.fields(hints[name]))}
    needed = {each.name for each in named if each.default is MISSING and each.default_factory is MISSING}

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object")
        items = cast("Mapping[Any, Any]", value)
        found: dict[str, Any] = {}
        for each in named:
            if each.name in items:
                found[each.name] = readers[each.name](items[each.name], _inside(where, each.name))
            elif each.name in needed:
                raise WrongShape(f"its {_inside(where, each.name)!r} is missing")
        for name in flat_fields:
            rest = items if name in flat_messages else {key: each for key, each in items.items() if key not in taken}
            found[name] = readers[name](rest, where)
        return kind(**found)

    return read
