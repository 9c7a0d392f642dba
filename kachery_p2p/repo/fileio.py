"""Files and folders: reads and writes at an offset, durable writes, stamps that show a change.

Nothing here knows of CIDs. The write order (package docstring) is made of `newfile.NewFile`, `sync_folder`
and the catalog.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.unixfs import NO_ATTRIBUTES, Attributes
from kachery_p2p.errors import FileChanged, IsADirectory, NotAFile
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import describe as describe
from kachery_p2p.repo.limits import WRITE_BACK_BYTES
from kachery_p2p.wire import Buffer

CLOEXEC = getattr(os, "O_CLOEXEC", 0)
BINARY = getattr(os, "O_BINARY", 0)

#: What the group of a shared data directory may at least do with a stored file.
READABLE = 0o440


class Stamp(NamedTuple):
    """What tells a file from itself changed: size in bytes, times in nanoseconds, inode number.

    Numbers are kept in 64 signed bits, as SQLite does.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, st: os.stat_result) -> Stamp:
        return cls(st.st_size, st.st_mtime_ns, st.st_ctime_ns, signed(st.st_ino))


def signed(number: int) -> int:
    """An inode number as it is kept: in 64 signed bits."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


# --- reading and writing at an offset --------------------------------------------------------------------------------

if hasattr(os, "preadv"):

    def read_at(fd: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns how much there was, less than asked only at the file's end."""
        got = os.preadv(fd, [buffer], offset)
        if got == len(buffer) or got == 0:
            return got
        while got < len(buffer):
            more = os.preadv(fd, [buffer[got:]], offset + got)
            if more == 0:
                break
            got += more
        return got

    def write_at(fd: int, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`."""
        done = os.pwrite(fd, data, offset)
        if done == len(data):
            return
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

else:  # Windows has no positional reads, and older macOS no preadv: seek, one at a time.
    _seeking = threading.Lock()

    def read_at(fd: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns how much there was, less than asked only at the file's end."""
        got = 0
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            while got < len(buffer):
                part = os.read(fd, len(buffer) - got)
                if not part:
                    break
                buffer[got : got + len(part)] = part
                got += len(part)
        return got

    def write_at(fd: int, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            while view:
                view = view[os.write(fd, view) :]


def read_bytes_at(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, or fewer at the file's end."""
    if hasattr(os, "pread"):
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
    buffer = bytearray(length)
    got = read_at(fd, memoryview(buffer), offset)
    return bytes(buffer[:got])


# --- making things durable -------------------------------------------------------------------------------------------

#: macOS's fsync leaves data in the drive's cache; only this reaches the platter.
_FULL_SYNC: int | None = None
if sys.platform == "darwin":
    import fcntl as _fcntl

    _FULL_SYNC = _fcntl.F_FULLFSYNC


def sync_fd(fd: int) -> None:
    """Bring an open file to the disk: its data, and what is needed to find them."""
    if _FULL_SYNC is not None:
        import fcntl

        try:
            fcntl.fcntl(fd, _FULL_SYNC)
            return
        except OSError:
            # Network file systems do not know it.
            pass
    os.fsync(fd)


def sync_folder(path: Path | str) -> None:
    """Bring a folder's entries to the disk.

    Folders above it that were made just before need no sync of their own: the file systems this runs on (ext4, XFS,
    Btrfs, ZFS, APFS) order what happens to names, and NFS writes it through.
    """
    if os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems do not sync folders at all, because they write them through.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


class WriteBack:
    """Makes the system write a growing file out while it grows, so that the last fsync has little left to do.

    A thread syncs the file's data each time `WRITE_BACK_BYTES` more were written. `close` returns when the thread has
    ended, and raises the OSError it met: Linux tells a failed write-back only once, so the last fsync may not see it.
    A forked child has neither the thread nor the file; there `close` does nothing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._process = os.getpid()
        self._new = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failed: OSError | None = None

    def wrote(self, count: int) -> None:
        """Say that `count` more bytes were written."""
        with self._wake:
            self._new += count
            if self._new < WRITE_BACK_BYTES:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kachery-write-back", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        if os.getpid() != self._process:
            return  # nor may the lock be waited for: the thread may have had it when the child was made
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _run(self) -> None:
        data_sync = getattr(os, "fdatasync", os.fsync)
        while True:
            with self._wake:
                while self._new < WRITE_BACK_BYTES and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                self._new = 0
            try:
                data_sync(self._fd)
            except OSError as error:
                self._failed = error
                return


# --- copies ----------------------------------------------------------------------------------------------------------


def clone_file(source_fd: int, target_fd: int) -> bool:
    """Make the target share the source's blocks (a reflink), where the file system can. Costs no room and no time."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    ficlone = 0x40049409
    try:
        fcntl.ioctl(target_fd, ficlone, source_fd)
    except OSError:
        return False
    return True


def attributes_of(status: os.stat_result) -> Attributes:
    """What is preserved of a file or folder. As Kubo has it, a mode that allows nothing is none."""
    return Attributes(stat.S_IMODE(status.st_mode) or None, status.st_mtime_ns)


# --- the files people name -------------------------------------------------------------------------------------------


class SourceFile:
    """A file to be stored or linked, open for reading. `check` tells whether it is still what it was.

    The size that the system states is not always that of the content: it is 0 for files of /proc and of FUSE mounts
    that do not know it beforehand, and a whole page for those of /sys. `misstated` tells, once the end was looked for.
    """

    def __init__(self, path: Path, *, preserve: bool = False) -> None:
        """Open `path`; `preserve` keeps its permissions and its time of modification in `attributes`.

        Raises:
            FileMissing, IsADirectory, NotAFile, NoPermission: it is not a file that can be read.
        """
        self.path = path
        with explained("reading", path):
            # Opening a device or a named pipe may block or have effects, so look before.
            kind = os.stat(path).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectory(f"{path} is a folder; name a file in it, or store it as a folder.")
            if not stat.S_ISREG(kind):
                raise NotAFile(f"{path} is {describe(kind)}, not a file, so it cannot be stored or linked.")
            self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | CLOEXEC | BINARY)
            try:
                status = os.fstat(self.fd)
                self.stamp = Stamp.of(status)
                self.attributes = attributes_of(status) if preserve else NO_ATTRIBUTES
            except BaseException:
                os.close(self.fd)
                raise

    def check(self) -> None:
        """See that the open file, and the path, are still as when it was opened.

        Raises:
            FileChanged: they are not.
        """
        try:
            now = os.stat(self.path)
        except OSError:
            raise self.changed() from None
        if Stamp.of(os.fstat(self.fd)) != self.stamp or Stamp.of(now) != self.stamp:
            raise self.changed()

    def misstated(self) -> bool:
        """Whether the content ends elsewhere than the stated size says, though nothing about the file has changed.

        Such a file can only be read from its beginning to its end, and has no size before that.
        """
        size = self.stamp.size
        with explained("reading", self.path):
            try:
                ends_there = not read_bytes_at(self.fd, 1, size)
                ends_there = ends_there and (size == 0 or bool(read_bytes_at(self.fd, 1, size - 1)))
            except OSError as error:
                if error.errno != errno.ESPIPE:
                    raise
                # It cannot be read at an offset at all, which is the same to whoever stores it.
                ends_there = False
            return not ends_there and os.fstat(self.fd).st_size == size

    def stream(self, piece: int) -> Iterator[bytes]:
        """All of the content from the beginning, once, in pieces of at most `piece` bytes; the size does not count."""
        while True:
            with explained("reading", self.path):
                data = os.read(self.fd, piece)
            if not data:
                return
            yield data

    def changed(self) -> FileChanged:
        return FileChanged(
            f"{self.path} changed while it was being read, so what was read is neither its old nor its new content. "
            "Wait until whoever writes it is done, then store it again."
        )

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


Progress = Callable[[int, int], None]
