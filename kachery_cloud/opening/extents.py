"""Sets of bytes of a file, as ranges that neither overlap nor touch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Range = tuple[int, int]


class Extents:
    """A set of bytes. All ranges are (start, end), end exclusive.

    Attributes:
        size: how many bytes are in it.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.size = 0

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> int:
        """Put these bytes in, and return how many of them are new."""
        if start >= end:
            return 0
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        before = sum(self._ends[i] - self._starts[i] for i in range(first, last))
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        new = end - start - before
        self.size += new
        return new

    def discard(self, start: int, end: int) -> int:
        """Take these bytes out, and return how many of them were there."""
        if start >= end:
            return 0
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return 0
        inside = sum(self._ends[i] - self._starts[i] for i in range(first, last))
        left = [(self._starts[first], start)] if self._starts[first] < start else []
        right = [(end, self._ends[last - 1])] if self._ends[last - 1] > end else []
        rest = left + right
        self._starts[first:last] = [each[0] for each in rest]
        self._ends[first:last] = [each[1] for each in rest]
        gone = inside - sum(stop - begin for begin, stop in rest)
        self.size -= gone
        return gone

    def clear(self) -> None:
        """Take all out."""
        self._starts.clear()
        self._ends.clear()
        self.size = 0

    def covers(self, start: int, end: int) -> bool:
        """Whether all of these bytes are in it."""
        if start >= end:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]

    def end_from(self, start: int) -> int:
        """Where the range ends that has this byte; the byte itself where none has it."""
        at = bisect_right(self._starts, start) - 1
        return self._ends[at] if at >= 0 and start < self._ends[at] else start

    def missing(self, start: int, end: int) -> list[Range]:
        """The parts of a range that are not in it, in order."""
        found: list[Range] = []
        at = bisect_right(self._ends, start)
        while start < end:
            if at == len(self._starts) or self._starts[at] >= end:
                found.append((start, end))
                break
            if start < self._starts[at]:
                found.append((start, self._starts[at]))
            start = self._ends[at]
            at += 1
        return found
