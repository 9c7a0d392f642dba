"""What functions return: objects that show themselves in a notebook, as a table of what they know.

Two kinds have it. A `Record` is also a dict of what it knows, which is what such values were, so `row["size"]` and
`json.dumps(row)` go on working. Frozen dataclasses take `Shown` beside what they are. Lists of both are a
`kachery_cloud.inventory_tables.Table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, TypeVar, cast

from kachery_cloud.amounts import MOST_ROWS, size_text, time_text
from kachery_p2p.text import printable

T = TypeVar("T")

#: Tables within tables; what is deeper is shown as Python does.
_MOST_DEPTH = 4
_NEEDED: Any = object()


class _Made:
    """A default that is made anew for each."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def absent(make: Callable[[], T]) -> T:
    """The default of a key of a `Record` that is a list or a dict: a new one each time."""
    return cast(T, _Made(make))


class Shown:
    """Shows itself in a notebook: each name with what it is."""

    #: Names of seconds since 1970.
    times: ClassVar[Sequence[str]] = ()
    #: Names of bytes.
    sizes: ClassVar[Sequence[str]] = ()

    def _repr_html_(self) -> str:
        return html_of_facts(self)


class _Key:
    """An attribute of a record: what is under its name."""

    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        self._default = default

    def default(self) -> Any:
        """What it is where the dict does not have it; `_NEEDED` where there is no such value."""
        return self._default.make() if isinstance(self._default, _Made) else self._default

    def __get__(self, record: Record | None, owner: type[Record]) -> Any:
        if record is None:
            return self
        try:
            return record[self.name]
        except KeyError:
            raise AttributeError(f"This {owner.__name__} has no {self.name}.") from None

    def __set__(self, record: Record, value: Any) -> None:
        record[self.name] = value


class Record(dict[str, Any], Shown):
    """A dict whose keys are attributes, too.

    A subclass names them as a dataclass does. One with a default may be missing in the dict; as an attribute, and in
    brackets, it is its default then.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, kind in cls.__annotations__.items():
            if not str(kind).startswith("ClassVar"):
                setattr(cls, name, _Key(name, cls.__dict__.get(name, _NEEDED)))

    def __missing__(self, key: str) -> Any:
        known = _keys(type(self)).get(key)
        default = _NEEDED if known is None else known.default()
        if default is _NEEDED:
            raise KeyError(key)
        return default

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def _keys(kind: type[Record]) -> dict[str, _Key]:
    classes = reversed(kind.__mro__)
    return {name: value for each in classes for name, value in vars(each).items() if isinstance(value, _Key)}


def field_types(kind: type[Any]) -> dict[str, str]:
    """The names that objects of a class have, in order, with their types as they are written.

    Args:
        kind: a record, a dataclass, or a named tuple.
    """
    if issubclass(kind, Record):
        written = {name: text for each in reversed(kind.__mro__) for name, text in _annotations(each).items()}
        return {name: written[name] for name in _keys(kind)}
    if is_dataclass(kind):
        return {each.name: _written(each.type) for each in fields(kind)}
    return {name: _annotations(kind).get(name, "Any") for name in kind._fields}


def _annotations(kind: type[Any]) -> dict[str, str]:
    return {name: _written(each) for name, each in getattr(kind, "__annotations__", {}).items()}


def _written(kind: Any) -> str:
    text = getattr(kind, "__forward_arg__", kind)  # as a named tuple keeps it
    return text if isinstance(text, str) else getattr(text, "__name__", str(text))


# --- in a notebook ---------------------------------------------------------------------------------------------------


def html_of_facts(value: Any, depth: int = 0) -> str:
    """What an object knows, as an HTML table: a row for each name that has anything to say.

    All is escaped: words of strangers are among it.
    """
    facts = {name: each for name, each in (_facts(value) or {}).items() if not _is_nothing(each)}
    rows = (f"<tr>{_cell('th', name)}{_value_cell(value, name, each, depth)}</tr>" for name, each in facts.items())
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _facts(value: Any) -> dict[str, Any] | None:
    """What an object knows by names; None for what has no names."""
    if isinstance(value, Mapping):
        return {str(name): each for name, each in value.items()}
    if hasattr(type(value), "parse") or isinstance(value, type):
        return None  # it is known by its text, as a CID is
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    as_dict = getattr(value, "_asdict", None)  # of a named tuple
    return as_dict() if isinstance(value, tuple) and as_dict is not None else None


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def _value_cell(of: Any, name: str, value: Any, depth: int) -> str:
    return f'<td style="text-align: left">{_html(of, name, value, depth)}</td>'


def _html(of: Any, name: str, value: Any, depth: int) -> str:
    shown = getattr(value, "_repr_html_", None)
    if isinstance(value, list) and shown is not None:  # a table that knows its columns
        return shown()
    if depth < _MOST_DEPTH:
        if isinstance(value, (list, tuple)) and value and all(_facts(each) is not None for each in value):
            return _html_of_rows(value, depth + 1)
        if _facts(value) is not None:
            return html_of_facts(value, depth + 1)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_asdict"):
        return "<br>".join(_escaped(_text(of, name, each)) for each in value)
    return _escaped(_text(of, name, value))


def _html_of_rows(rows: Sequence[Any], depth: int) -> str:
    shown = [(row, _facts(row) or {}) for row in rows[:MOST_ROWS]]
    names = dict.fromkeys(name for _, facts in shown for name in facts)
    used = [name for name in names if not all(_is_nothing(facts.get(name)) for _, facts in shown)]
    head = "".join(_cell("th", name) for name in used)
    body = "".join(
        f"<tr>{''.join(_value_cell(row, name, facts.get(name), depth) for name in used)}</tr>" for row, facts in shown
    )
    more = f"<p>and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _text(of: Any, name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name in getattr(of, "times", ()):
            return time_text(value)
        if name in getattr(of, "sizes", ()):
            return size_text(int(value))
    return str(value)


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align: left">{_escaped(text)}</{tag}>'


def _escaped(text: str) -> str:
    import html

    return html.escape(printable(text))
