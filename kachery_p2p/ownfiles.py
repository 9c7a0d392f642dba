"""Opening the files of a data directory that have names of their own: settings, keys, locks, databases, lists.

Whatever stands at such a name instead (a named pipe, a device, a folder, a file without end) is an error at once: no
command hangs on it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from kachery_p2p.errors import NotAFile

_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))


def check_own_file(path: Path | str) -> None:
    """Look that what has a name, if anything does, is a regular file, before another library opens it.

    Raises:
        NotAFile: it is something else.
    """
    with contextlib.suppress(OSError):  # whoever opens it says why that cannot be done
        _check_kind(path, os.stat(path).st_mode)


def open_own_file(path: Path | str, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a regular file, which forked programs do not inherit.

    Args:
        path: of the file.
        flags: as for `os.open`.
        mode: that it is made with, where `flags` have O_CREAT.

    Raises:
        OSError: as `os.open` does, FileNotFoundError and PermissionError among them.
        NotAFile: it is not a regular file.
    """
    # Opening a device may have effects, so look before; what is opened in the end may be another, so look again.
    check_own_file(path)
    fd = os.open(path, flags | _FLAGS, mode)
    try:
        _check_kind(path, os.fstat(fd).st_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_own_file(path: Path | str, most: int | None = None) -> bytes:
    """All of a regular file, of at most so many bytes where `most` is given.

    Raises:
        OSError: as `open` does, FileNotFoundError and PermissionError among them.
        NotAFile: it is not a regular file, or a larger one.
    """
    fd = open_own_file(path, os.O_RDONLY)
    if most is None:
        with os.fdopen(fd, "rb") as file:
            return file.read()
    try:
        content = b""
        while len(content) <= most and (part := os.read(fd, most + 1 - len(content))):
            content += part
    finally:
        os.close(fd)
    if len(content) > most:
        raise NotAFile(f"{path} has more than {most:,} bytes, so it is not what is meant here.")
    return content


def _check_kind(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFile(f"{path} is {describe(mode)}, not a file.")


def describe(mode: int) -> str:
    """What a thing that is not a file is, in words."""
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a disk device"),
        (stat.S_ISLNK, "a symbolic link"),
    ):
        if test(mode):
            return name
    return "not a regular file"
