"""Files in which bytes of a file that is being loaded probably lie at their place.

Each block is hashed before it is used.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from kachery_p2p.repo.fileio import BINARY, CLOEXEC, read_bytes_at

#: Hole finding is a hint that not all systems have.
_SEEK_DATA = getattr(os, "SEEK_DATA", None)

#: Does a read, and gives nothing where that cannot be done now.
Guard = Callable[[Callable[[], bytes]], bytes | None]


def is_hole(fd: int, offset: int, length: int) -> bool:
    """Whether the file system knows that nothing was ever written there."""
    if _SEEK_DATA is None or length == 0:
        return False
    try:
        return os.lseek(fd, offset, _SEEK_DATA) >= offset + length
    except OSError as error:
        # No data from there to the end; any other answer means that it cannot tell.
        return error.errno == errno.ENXIO


class LikelyFile:
    """Such a file, open: a copy that was set aside as damaged, or what others have loaded of it."""

    def __init__(self, fd: int, guard: Guard = lambda work: work()) -> None:
        self._fd = fd
        self._guard = guard

    @classmethod
    def open(cls, path: Path) -> LikelyFile | None:
        """Open it; None where that cannot be done."""
        try:
            return cls(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | CLOEXEC | BINARY))
        except OSError:
            return None

    def guarded(self, guard: Guard) -> LikelyFile:
        """The same, read through `guard`. This one is not used any more."""
        return LikelyFile(self._fd, guard)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it; none where nothing was ever written, fewer at its end. Not checked here."""

        def work() -> bytes:
            return b"" if is_hole(self._fd, offset, length) else read_bytes_at(self._fd, length, offset)

        return self._guard(work) or b""

    def close(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
