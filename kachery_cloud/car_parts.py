"""A CAR file on its way out, beside the place that it will have: `.NAME.<8 hex digits>.part`.

The same URIs give the same bytes, so an export that was ended goes on: what is there already is compared with what
would be written, byte by byte, and where it differs, or ends, it is written from there. So nothing is taken on trust
that a killed process, or a disk that was pulled out, has left. The digits are of the roots: an export of others is
another file. It has its name only when it is whole, and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from kachery_cloud.errors import FileExists
from kachery_cloud.placing import name_new
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.fileio import read_bytes_at
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.wire import Buffer

#: Bytes gathered before they are written: what stands in front of a block goes out with it.
_BUFFER = 1 << 20
#: Characters of the name of the CAR file that are in that of its part.
_OF_NAME = 60
_FLAGS = os.O_CREAT | os.O_RDWR | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"))


class CarPart:
    """A CAR file that is being written, or written on.

    Attributes:
        found: bytes that were there when it was opened.
        kept: bytes of them that were right, so far.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.found = os.fstat(fd).st_size
        self.kept = 0
        self._gathered: bytearray | None = None

    def write(self, data: Buffer) -> None:
        """Write what comes next, where it is not there yet."""
        view = memoryview(data)
        if self._gathered is None:
            there = min(len(view), self.found - self.kept)
            if there and read_bytes_at(self._fd, there, self.kept) == view[:there]:
                self.kept += there
                view = view[there:]
                if not view:
                    return
            os.ftruncate(self._fd, self.kept)
            os.lseek(self._fd, self.kept, os.SEEK_SET)
            self._gathered = bytearray()
        self._gathered += view
        if len(self._gathered) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand what was gathered to the system."""
        view = memoryview(bytes(self._gathered or b""))
        while view:
            view = view[os.write(self._fd, view) :]
        if self._gathered:
            self._gathered.clear()

    def finish(self) -> None:
        """All of it is written. Bring it to the disk, which may be pulled out the moment that it is said to be done."""
        if self._gathered is None:
            os.ftruncate(self._fd, self.kept)
        self.flush()
        os.fsync(self._fd)


@contextlib.contextmanager
def car_part(target: Path, header: bytes, *, replace: bool) -> Iterator[CarPart]:
    """A CAR file to be written, which has the name `target` at the end. After an error what was written is kept.

    Args:
        target: its name.
        header: how it begins; another export has another.
        replace: whether a file that has the name goes.

    Raises:
        FileExists: something has the name; or another process is writing it.
        NoPermission, DiskFull, FileMissing: it cannot be written.
    """
    path = target.with_name(f".{target.name[:_OF_NAME]}.{hashlib.sha256(header).hexdigest()[:8]}.part")
    with explained("writing", target):
        _remove_others(target, path)
        fd = _open(target, path)
    try:
        with explained("writing", target):
            part = CarPart(fd)
            try:
                yield part
            except BaseException:
                with contextlib.suppress(OSError):  # the disk may be full; what is there is compared the next time
                    part.flush()
                raise
            part.finish()
            _name(path, target, replace)
    finally:
        os.close(fd)


def _open(target: Path, path: Path) -> int:
    """The part, locked by this process."""
    while True:
        fd = os.open(path, _FLAGS, 0o666)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileExists(f"{path} is in the way: something else has the name of the unfinished {target.name}.")
            try:
                mine = lock_fd(fd)
            except OSError:  # this file system has no locks
                mine = True
            if not mine:
                raise FileExists(f"Another process is writing {target} just now.")
            if _is_there(path, fd):
                if os.fstat(fd).st_nlink == 1:
                    return fd
                os.unlink(path)  # it has become a CAR file, and was not removed
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_there(path: Path, fd: int) -> bool:
    """Whether that is still the part: it may have been named, or removed, before it was locked."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _name(path: Path, target: Path, replace: bool) -> None:
    if replace:
        os.replace(path, target)
        return
    try:
        name_new(path, target)
    except FileExistsError:
        raise in_the_way(target) from None
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _remove_others(target: Path, mine: Path) -> None:
    """Remove what exports of other URIs to this name have left: they are given up, and the room may be needed."""
    others = re.compile(re.escape(f".{target.name[:_OF_NAME]}.") + r"[0-9a-f]{8}\.part")
    with os.scandir(target.parent) as entries:
        found = [
            Path(each.path) for each in entries if others.fullmatch(each.name) and each.is_file(follow_symlinks=False)
        ]
    for path in found:
        if path.name == mine.name:
            continue
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
            try:
                if lock_fd(fd):
                    os.unlink(path)
            finally:
                os.close(fd)


def in_the_way(target: Path) -> FileExists:
    """The error where something has the name of a CAR file."""
    return FileExists(
        f"{target} exists already. Choose another name, or have it replaced: --force (in Python overwrite=True)."
    )
