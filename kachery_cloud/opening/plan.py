"""Which bytes of a file are here, which are on their way, and which will be wanted next. No I/O, and no clock.

What is read ahead is bounded twice: by `most` bytes, and by a part of what was read (`READ_AHEAD_SHARE`). Both count
what was fetched ahead and not read since, so whatever is guessed wrongly is not guessed again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kachery_cloud.opening.extents import Extents, Range
from kachery_cloud.opening.limits import (
    READ_AHEAD,
    READ_AHEAD_SHARE,
    READ_GAP,
    READ_STREAMS,
    STRIDE_AHEAD,
    STRIDE_READS,
)


class Blocks(Protocol):
    """The whole blocks that have bytes of a range. Once they are `here` it is known; else it may be a guess."""

    def __call__(self, start: int, end: int, here: bool = False, /) -> Range: ...


@dataclass
class _Stream:
    """Reads that belong together.

    Attributes:
        start, end: of the last of them.
        read: bytes read one after the other.
        stride: from the beginning of one to that of the next; 0 where they follow each other, or there is only one.
        count: of reads.
    """

    start: int
    end: int
    read: int = 0
    stride: int = 0
    count: int = 1


class Plan:
    """What is known of one open file. Ranges are whole blocks, but for those that are read.

    Args:
        size: of the file.
        blocks: the whole blocks that have bytes of a range.
        most: bytes that are read ahead at most; 0 for none.
    """

    def __init__(self, size: int, blocks: Blocks, most: int = READ_AHEAD) -> None:
        self.size = size
        #: Bytes that are here and verified.
        self.have = Extents()
        #: Bytes that were asked for.
        self.coming = Extents()
        #: Bytes of blocks that were read, and those fetched ahead that were not read yet.
        self.touched = Extents()
        self.unused = Extents()
        self._blocks = blocks
        self._most = most
        self._streams: list[_Stream] = []

    def missing(self, start: int, end: int) -> list[Range]:
        """What is not here of the blocks of a range, as far as the file goes."""
        end = min(end, self.size)
        if self.have.covers(start, end) or start >= end:
            return []
        return self.have.missing(*self._blocks(start, end))

    def to_ask(self, ranges: Sequence[Range]) -> list[Range]:
        """What of these is not on its way. It counts as asked for from now on."""
        asked: list[Range] = []
        for start, end in ranges:
            for part in self.coming.missing(start, end):
                asked.append(part)
                self.coming.add(*part)
        return asked

    def came(self, start: int, end: int) -> None:
        """What was asked for is here."""
        self.coming.discard(start, end)
        self.have.add(*self._blocks(start, end, True))

    def failed(self, start: int, end: int) -> None:
        """What was asked for does not come."""
        self.coming.discard(start, end)
        self.unused.discard(start, end)

    def lost(self) -> None:
        """What was here is so no more; what is on its way will be."""
        self.have.clear()
        self.unused.clear()

    @property
    def whole(self) -> bool:
        return self.have.covers(0, self.size)

    def read(self, start: int, end: int) -> list[Range]:
        """Note that a range is read. Returns what is to be asked for ahead of the next one, none of it asked for yet.

        It counts as asked for from now on.
        """
        end = min(end, self.size)
        if start >= end:
            return []
        block_start, block_end = self._blocks(start, end)
        self.touched.add(block_start, block_end)
        self.unused.discard(block_start, block_end)
        if not self._most:
            return []
        asked: list[Range] = []
        for ahead_start, ahead_end in self._foreseen(self._note(start, end)):
            room = min(self._most, self.touched.size // READ_AHEAD_SHARE) - self.unused.size
            if room <= 0:
                break
            for part in self.have.missing(*self._blocks(ahead_start, ahead_end)):
                for first, last in self.coming.missing(*part):
                    last = self._cut(first, min(last, first + room))
                    if first < last:
                        asked.append((first, last))
                        self.coming.add(first, last)
                        room -= self.unused.add(first, last)
        return asked

    # --- what comes next

    def _cut(self, start: int, end: int) -> int:
        """The end of the last whole block of a range that begins with one."""
        if end <= start:
            return start
        first, last = self._blocks(end - 1, end)
        return end if last == end else max(first, start)

    def _note(self, start: int, end: int) -> _Stream:
        streams = self._streams
        stream = next((each for each in streams if _follows(each, start)), None)
        if stream is None:
            stream = next((each for each in streams if each.stride and start == each.start + each.stride), None)
            if stream is not None:
                stream.count += 1
                stream.start, stream.end = start, end
        else:
            stream.read += max(0, end - stream.end)
            stream.start, stream.end = start, max(end, stream.end)
            stream.count += 1
        if stream is None:
            alone = next((e for e in streams if e.count == 1 and e.end - e.start == end - start), None)
            if alone is not None and start != alone.start:
                stream = alone
                stream.stride, stream.count = start - alone.start, 2
                stream.start, stream.end = start, end
        if stream is None:
            stream = _Stream(start, end, end - start)
        else:
            streams.remove(stream)
        streams.insert(0, stream)
        del streams[READ_STREAMS:]
        return stream

    def _foreseen(self, stream: _Stream) -> list[Range]:
        """The reads that will follow, if they go on as they went."""
        if not stream.stride:
            window = min(self._most, stream.read // 2)
            end = min(self.size, stream.end + window)
            here = self._here_until(stream.end)
            # In large parts: there is time until what is on its way has been read.
            if stream.count < 2 or here >= end or here - stream.end > window // 2:
                return []
            return [(here, end)]
        if stream.count < STRIDE_READS:
            return []
        found: list[Range] = []
        for number in range(1, min(STRIDE_AHEAD, stream.count // 2) + 1):
            start, end = stream.start + number * stream.stride, stream.end + number * stream.stride
            if start < 0 or start >= self.size:
                break
            found.append((start, min(end, self.size)))
        return found

    def _here_until(self, at: int) -> int:
        """Up to where everything is here or on its way."""
        while True:
            until = max(self.have.end_from(at), self.coming.end_from(at))
            if until == at:
                return at
            at = until


def _follows(stream: _Stream, start: int) -> bool:
    return not stream.stride and stream.start <= start <= stream.end + READ_GAP
