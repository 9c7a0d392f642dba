"""Going through the list of another node, page by page, newest first. No input or output.

`created` is unique in a list, and grows. So a look at what is new goes from the newest pin down to where the last look
began; and a look at everything goes down to the oldest, and shows by what it did not meet what was deleted. Pins that
are made while a look is under way are newer than where it began: the next one meets them. Pins that are deleted
meanwhile shift nothing, since pages are asked for by time, not by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Cursor:
    """How far a look is. Times are those of the list, in microseconds since 1970.

    Attributes:
        after: all that is not newer was met by earlier looks; 0 for a look at everything.
        top: the newest that this look has met; 0 before its first page.
        before: where it goes on; None at its beginning.
    """

    after: int = 0
    top: int = 0
    before: int | None = None


def bounds(cursor: Cursor) -> Mapping[str, int]:
    """What the next page is asked for by, beside its length."""
    found: dict[str, int] = {}
    if cursor.after:
        found["after"] = cursor.after
    if cursor.before is not None:
        found["before"] = cursor.before
    return found


def advance(cursor: Cursor, page: Sequence[int], more: bool) -> Cursor:
    """Where a look is after a page.

    Args:
        cursor: where it was.
        page: when the pins on it were made.
        more: whether there are more behind it.

    Returns:
        A cursor without `before` where the look has ended: the next one begins with it.
    """
    top = max([cursor.top, *page])
    if more and page:
        return replace(cursor, top=top, before=min(page))
    return Cursor(after=max(cursor.after, top))
