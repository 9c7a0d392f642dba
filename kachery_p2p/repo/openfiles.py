"""Open files kept for serving blocks, so that a block costs one read and not an open, a read and a close."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from kachery_p2p.repo.fileio import BINARY, CLOEXEC
from kachery_p2p.repo.limits import OPEN_FILES


class OpenFile:
    """A file open for reading. It closes when nobody refers to it any more, so nobody reads from a closed one."""

    __slots__ = ("fd",)

    def __init__(self, path: bytes) -> None:
        self.fd = -1
        # Without O_NONBLOCK, a named pipe in the place of a file would never be open.
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | CLOEXEC | BINARY)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class OpenFiles:
    """At most `limit` open files, by catalog number; the one used longest ago makes room."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self._limit = limit
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, number: int, path: bytes) -> OpenFile:
        """The file, open.

        Raises:
            OSError: it cannot be opened.
        """
        with self._guard:
            held = self._files.get(number)
            if held is not None:
                self._files.move_to_end(number)
                return held
        fresh = OpenFile(path)
        with self._guard:
            self._files[number] = fresh
            self._files.move_to_end(number)
            # What falls out must not close while the guard is held: closing on a network drive may take long.
            out = self._files.popitem(last=False)[1] if len(self._files) > self._limit else None
        del out
        return fresh

    def drop(self, number: int) -> None:
        """Forget one file; readers that have it now may finish."""
        with self._guard:
            self._files.pop(number, None)

    def drop_removed(self) -> None:
        """Forget those that were deleted meanwhile: while they are open, their bytes stay on the disk."""
        with self._guard:
            for number, held in list(self._files.items()):
                if os.fstat(held.fd).st_nlink == 0:
                    del self._files[number]

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self._files.clear()
