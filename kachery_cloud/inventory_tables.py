"""Lists of typed rows that show themselves: as text, as a table in a notebook, as a pandas DataFrame when asked."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from kachery_cloud.errors import KacheryError
from kachery_p2p.text import printable

T = TypeVar("T")

#: What the list of what is here can be sorted by.
SORTS = ("added", "used", "size", "label", "kind")
#: Rows of a table in a notebook; what is left out is said.
_MOST_ROWS = 200
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column as people see it: its name, its text for a row, and whether that stands on the right."""

    name: str
    text: Callable[[T], str]
    right: bool = False


class Table(list[T]):
    """A list of rows, each a dataclass."""

    columns: ClassVar[Sequence[Column[Any]]] = ()
    #: Fields that are seconds since 1970.
    times: ClassVar[Sequence[str]] = ()

    def lines(self) -> list[str]:
        """The rows as lines of text, under the names of the columns that have anything to say."""
        return text_table(self, self.columns)

    def to_dataframe(self) -> Any:
        """The rows as a pandas DataFrame, a column for each field; times in UTC.

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
        rows = [{each.name: getattr(row, each.name) for each in fields(row)} for row in self]  # type: ignore[arg-type]
        frame = pandas.DataFrame(rows)
        for name in self.times:
            if name in frame:
                frame[name] = pandas.to_datetime(frame[name], unit="s", utc=True)
        return frame

    def _repr_html_(self) -> str:
        return html_of(self, self.columns)


def size_text(size: int | None) -> str:
    """A size for people: three digits, and a unit."""
    if size is None:
        return "?"
    number, unit = float(size), 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    return f"{size} bytes" if unit == 0 else f"{number:.3g} {_UNITS[unit]}"


def time_text(when: float) -> str:
    """A time for people, where they are."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


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

    def cell(tag: str, text: str, right: bool) -> str:
        return f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(printable(text))}</{tag}>'

    texts = [[column.text(row) for column in columns] for row in rows[:_MOST_ROWS]]
    used = [i for i in range(len(columns)) if not texts or any(row[i] for row in texts)]
    head = "".join(cell("th", columns[i].name, columns[i].right) for i in used)
    body = "".join("<tr>" + "".join(cell("td", row[i], columns[i].right) for i in used) + "</tr>" for row in texts)
    more = f"<p>and {len(rows) - _MOST_ROWS:,} more</p>" if len(rows) > _MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
