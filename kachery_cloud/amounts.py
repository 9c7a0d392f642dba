"""Sizes and times for people, and how much of a list they are shown."""

from __future__ import annotations

import time

#: Rows of a table in a notebook; what is left out is said.
MOST_ROWS = 200
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


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
