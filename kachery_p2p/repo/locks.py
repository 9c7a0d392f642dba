"""Locks between processes that the system drops by itself when their holder dies."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from pathlib import Path
from typing import ClassVar

from .. import private
from .fileio import explained

NODE_LOCK_NAME = "node.lock"

if sys.platform == "win32":
    import msvcrt

    # Locked bytes cannot be read by others on Windows, so the lock sits far beyond any content.
    _LOCK_AT = 1 << 40

    def lock_fd(fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; false when somebody else has it."""
        os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock_fd(fd: int) -> None:
        """Give the lock of an open file back."""
        os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock_fd(fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; false when somebody else has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock_fd(fd: int) -> None:
        """Give the lock of an open file back, for every process that inherited the descriptor."""
        fcntl.flock(fd, fcntl.LOCK_UN)


class LockedFile:
    """An open file with its exclusive lock held.

    A forked child inherits the descriptor, and with it a share of the lock; it lets go at once (without unlocking
    what the parent holds), so that the lock ends with the process that took it.
    """

    _held: ClassVar[weakref.WeakSet[LockedFile]] = weakref.WeakSet()

    def __init__(self, fd: int) -> None:
        self.fd = fd
        LockedFile._held.add(self)

    def close(self) -> None:
        """Unlock and close. Closing twice, or in a forked child, does nothing."""
        fd, self.fd = self.fd, -1
        LockedFile._held.discard(self)
        if fd >= 0:
            try:
                unlock_fd(fd)
            finally:
                os.close(fd)

    def _drop_in_child(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _after_fork() -> None:
    for held in list(LockedFile._held):
        held._drop_in_child()
    LockedFile._held = weakref.WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class NodeLock:
    """The lock that makes one process the node of a data directory.

    It is an exclusive lock on the file `node.lock`, which holds the process's number for people to read. It ends with
    the process, however that ends, and a forked child does not have it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / NODE_LOCK_NAME
        self._file: LockedFile | None = None
        self._guard = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether this process has the lock through this object."""
        return self._file is not None and self._file.fd >= 0

    def try_acquire(self) -> bool:
        """Take the lock if it is free; true also when this object has it already. Raises NoPermission, DiskFull."""
        with self._guard:
            if self.held:
                return True
            with explained("locking", self.path):
                private.make_empty(self.path)
                private.fit(self.path)
                fd = os.open(self.path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
                got = False
                try:
                    got = lock_fd(fd)
                finally:
                    if not got:
                        os.close(fd)
                if not got:
                    return False
                self._file = LockedFile(fd)
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
                os.write(fd, b"%d\n" % os.getpid())
            return True

    def release(self) -> None:
        """Give the lock back. Doing so twice, or without having it, does nothing."""
        with self._guard:
            held, self._file = self._file, None
            if held is not None:
                held.close()
