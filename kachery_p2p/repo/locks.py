"""Locks between processes that the system drops by itself when their holder dies."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import ClassVar

from kachery_p2p import private
from kachery_p2p.errors import NotAFile
from kachery_p2p.oserrors import NO_ROOM, explained
from kachery_p2p.ownfiles import open_own_file
from kachery_p2p.repo.filelocks import lock_fd, unlock_fd
from kachery_p2p.repo.hosts import Holder, read_holder, write_holder

NODE_LOCK_NAME = "node.lock"
#: There is no room for what is written into the file of a lock. It has the lock all the same.


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

    It is an exclusive lock on the file `node.lock`, in which stands who has it: the process, and its machine. It ends
    with the process, however that ends, and a forked child does not have it.
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
        """Take the lock if it is free; true also when this object has it already.

        Raises:
            NoPermission, DiskFull: the file cannot be made. RepoError: the file system has no locks.
            NotAFile: something else has its name.
        """
        with self._guard:
            if self.held:
                return True
            with explained("locking", self.path):
                private.make_empty(self.path)
                private.fit(self.path)
                fd = open_own_file(self.path, os.O_CREAT | os.O_RDWR)
                got = False
                try:
                    got = lock_fd(fd)
                finally:
                    if not got:
                        os.close(fd)
                if not got:
                    return False
                self._file = LockedFile(fd)
                try:
                    write_holder(fd)
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
            return True

    def holder(self) -> Holder | None:
        """Who had the lock last, or has it; None where nothing says so. Makes nothing."""
        try:
            fd = open_own_file(self.path, os.O_RDONLY)
        except (OSError, NotAFile):
            return None
        try:
            return read_holder(fd)
        finally:
            os.close(fd)

    def is_held(self) -> bool:
        """Whether some process has the lock. Makes nothing.

        Raises:
            NoPermission: it cannot be tried. RepoError: the file system has no locks.
            NotAFile: something else has its name.
        """
        with explained("looking at the lock", self.path):
            try:
                fd = open_own_file(self.path, os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                if not lock_fd(fd):
                    return True
                unlock_fd(fd)
                return False
            finally:
                os.close(fd)

    def release(self) -> None:
        """Give the lock back. Doing so twice, or without having it, does nothing."""
        with self._guard:
            held, self._file = self._file, None
            if held is not None:
                held.close()
