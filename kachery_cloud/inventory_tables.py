"""Lists of typed rows that show themselves: as text, as a table in a notebook, as a pandas DataFrame when asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from kachery_cloud.amounts import MOST_ROWS
from kachery_cloud.amounts import size_text as size_text
from kachery_cloud.amounts import time_text as time_text
from kachery_cloud.errors import KacheryError
from kachery_cloud.records import field_types
from kachery_p2p.text import printable

T = TypeVar("T")

#: What the list of what is here can be sorted by.
SORTS = ("added", "used", "size", "label", "kind")
#: What a column of a DataFrame is, by the type of its field; others are what pandas makes of the values.
_DTYPES = {"bool": "bool", "int": "int64", "float": "float64", "str": "str"}


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column as people see it: its name, its text for a row, and whether that stands on the right."""

    name: str
    text: Callable[[T], str]
    right: bool = False


class Table(list[T]):
    """A list of rows, which shows itself as a table in a notebook."""

    #: What a row is: a dataclass, a named tuple or a `Record`.
    row_type: ClassVar[type[Any]]
    columns: ClassVar[Sequence[Column[Any]]] = ()
    #: Fields that are seconds since 1970.
    times: ClassVar[Sequence[str]] = ()

    def lines(self) -> list[str]:
        """The rows as lines of text, under the names of the columns that have anything to say."""
        return text_table(self, self.columns)

    def to_dataframe(self) -> Any:
        """The rows as a pandas DataFrame, a column for each field, also without rows; times in UTC.

        Raises:
            KacheryError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError:
            raise KacheryError(
                "pandas is not installed in this Python, so there are no DataFrames. Install it with: pip install "
                "pandas"
            ) from None
        kinds = field_types(self.row_type)
        rows = [[_plain(getattr(row, name)) for name in kinds] for row in self]
        frame = pandas.DataFrame(rows, columns=list(kinds))
        if not rows:  # Nothing says what they are, and `frame[frame.complete]` is to be no rows, not no columns.
            frame = frame.astype({name: _DTYPES[kind] for name, kind in kinds.items() if kind in _DTYPES})
        for name in self.times:
            frame[name] = pandas.to_datetime(frame[name], unit="s", utc=True)
        return frame

    def _repr_html_(self) -> str:
        return html_of(self, self.columns)


def _plain(value: Any) -> Any:
    """A CID and a path as text."""
    return str(value) if isinstance(value, os.PathLike) or hasattr(type(value), "parse") else value


def text_table(rows: Sequence[T], columns: Sequence[Column[T]]) -> list[str]:
    """Rows as lines, under the names of the columns that have anything to say."""
    cells = [[printable(column.text(row)) for column in columns] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    widths = {i: max(len(columns[i].name), *(len(row[i]) for row in cells)) for i in used}

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            row[i].rjust(widths[i]) if columns[i].right else row[i].ljust(widths[i]) for i in used
        ).rstrip()

    return [line([column.name.upper() for column in columns]), *map(line, cells)] if cells else []


def html_of(rows: Sequence[T], columns: Sequence[Column[T]]) -> str:
    """Rows as an HTML table, with the columns that have anything to say. Labels come from strangers: all is escaped."""
    import html

    def cell(tag: str, text: str, right: bool) -> str:
        return f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(printable(text))}</{tag}>'

    texts = [[column.text(row) for column in columns] for row in rows[:MOST_ROWS]]
    used = [i for i in range(len(columns)) if not texts or any(row[i] for row in texts)]
    head = "".join(cell("th", columns[i].name, columns[i].right) for i in used)
    body = "".join("<tr>" + "".join(cell("td", row[i], columns[i].right) for i in used) + "</tr>" for row in texts)
    more = f"<p>and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
