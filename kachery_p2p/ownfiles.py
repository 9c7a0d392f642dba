"""Reading the small files that are kept in a data directory: settings, keys, where the node listens.

Whatever stands at such a name instead (a named pipe, a device, a folder, a file without end) is an error at once: no
command hangs on it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kachery_p2p.errors import NotAFile

_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))


def read_own_file(path: Path | str, most: int) -> bytes:
    """All of a regular file of at most so many bytes.

    Raises:
        OSError: as `open` does, FileNotFoundError and PermissionError among them.
        NotAFile: it is not a regular file, or a larger one.
    """
    # Opening a device may have effects, so look before; what is opened in the end may be another, so look again.
    _check_kind(path, os.stat(path).st_mode)
    fd = os.open(path, _FLAGS)
    try:
        _check_kind(path, os.fstat(fd).st_mode)
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
