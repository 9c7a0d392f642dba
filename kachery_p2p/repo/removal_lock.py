"""The lock between those who add something to a data directory and those who remove something from it.

Whoever stores looks first whether the bytes are here already, and may rely on them to the end; whoever removes looks
first whether anything else needs them. So all who add share a lock, for as long as one store takes, and who removes
has it alone, for as long as the bytes of one root take to go. A load of a file shares it for the moment in which the
file becomes whole.

It is on the file `removal.lock`. The system drops it by itself when its holder dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.errors import DiskFull, RepoBusy, RepoError
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file
from kachery_p2p.repo.limits import ADDING_SECONDS, LOCK_POLL_SECONDS, REMOVING_SECONDS
from kachery_p2p.repo.locks import LockedFile

REMOVAL_LOCK_NAME = "removal.lock"


class RemovalLock:
    """That lock of one data directory. Safe to use from many threads and processes.

    Args:
        directory: the data directory.
        read_only: nothing is added and nothing removed.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.path = directory / REMOVAL_LOCK_NAME
        self._directory = directory
        self._unused = read_only or os.name != "posix"
        self._seen: tuple[int, int] | None = None

    def adding(self) -> AbstractContextManager[None]:
        """While this lasts, nothing is removed.

        Raises:
            RepoBusy: something is being removed all the time, or the directory is being moved.
            RepoError: the directory was moved since it was opened.
        """
        return nullcontext() if self._unused else self._held(shared=True, seconds=ADDING_SECONDS)

    def removing(self, seconds: float = REMOVING_SECONDS) -> AbstractContextManager[None]:
        """While this lasts, nothing is added.

        Args:
            seconds: to wait for those who add.

        Raises:
            RepoBusy: something is still being stored after that.
            RepoError: the directory was moved since it was opened.
        """
        return nullcontext() if self._unused else self._held(shared=False, seconds=seconds)

    @contextmanager
    def _held(self, *, shared: bool, seconds: float) -> Iterator[None]:
        from kachery_p2p.repo.filelocks import lock_fd, share_fd

        take = share_fd if shared else lock_fd
        end = 0.0
        held: LockedFile | None = None
        while held is None:
            with explained("locking", self.path):
                fd = self._open()
                try:
                    if take(fd):
                        held = LockedFile(fd)
                        fd = -1
                finally:
                    if fd >= 0:
                        os.close(fd)
            end = end or time.monotonic() + seconds
            if held is None:
                if time.monotonic() >= end:
                    raise self._busy(shared)
                time.sleep(LOCK_POLL_SECONDS)  # the system does not tell when it is free
        try:
            yield
        finally:
            held.close()

    def _open(self) -> int:
        try:
            fd = open_own_file(self.path, os.O_RDWR)
        except FileNotFoundError:
            if self._seen is not None:
                raise self._moved() from None
            private.make_empty(self.path)
            private.fit(self.path)
            fd = open_own_file(self.path, os.O_RDWR)
        status = os.fstat(fd)
        seen = status.st_dev, status.st_ino
        if self._seen is None:
            self._seen = seen
        elif seen != self._seen:
            os.close(fd)
            raise self._moved()
        return fd

    def look(self) -> None:
        """Remember which directory this is, so that it is noticed when it is moved to another disk."""
        if not self._unused:
            with suppress(DiskFull), explained("locking", self.path):  # who adds or removes tries again
                os.close(self._open())
                private.fit(self.path)

    def _busy(self, adding: bool) -> RepoBusy:
        if adding:
            return RepoBusy(
                f"{self._directory} is being moved, or something is being removed from it. Try again when that is done."
            )
        busy = RepoBusy(
            f"Something is being stored in {self._directory}, and what it may rely on must not go meanwhile. Try again "
            "when that is done."
        )
        busy.storing = True
        return busy

    def _moved(self) -> RepoError:
        return RepoError(
            f"The data directory {self._directory} was moved or replaced since this program opened it. Start the "
            "program again."
        )
