"""What is being made for the user, beside the place that it will have: `.NAME.<8 hex digits>.part`.

A part is a folder with a mark in it, which the process that makes it has locked. So a later load tells what a killed
process left (the mark is there, and its lock is free) from what is still being written, and from what is not ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from kachery_p2p.oserrors import explained
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.locks import LockedFile

_MARK_NAME = ".kachery-cloud-part"
_MARK = b"Made by kachery-cloud while it loads. It can be removed when no load is running.\n"
_NAME = re.compile(r"\..{1,60}\.[0-9a-f]{8}\.part", re.DOTALL)


def _remove_tree(path: Path) -> None:
    import shutil  # which brings in every compression there is

    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def part_beside(target: Path) -> Iterator[Path]:
    """A path, on the file system of `target`, to make a file or a folder at and then rename it to `target`.

    What is there at the end is removed; so is what killed processes left in the folder.

    Raises:
        NoPermission, DiskFull: it cannot be made.
        FileMissing: the folder of `target` is not there.
    """
    remove_left_overs(target.parent)
    with explained("writing", target):
        folder, mark = _make(target)
    try:
        yield folder / "new"
    finally:
        mark.close()
        _remove_tree(folder)


def is_part(path: Path) -> bool:
    """Whether that is a part, which somebody makes something in."""
    return _NAME.fullmatch(path.name) is not None and os.path.lexists(path / _MARK_NAME)


def remove_left_overs(folder: Path) -> int:
    """Remove the parts in a folder whose makers have died. Returns how many."""
    removed = 0
    try:
        with os.scandir(folder) as entries:
            parts = [Path(e.path) for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return 0  # writing there says what is wrong
    for part in parts:
        if _is_left_over(part):
            _remove_tree(part)
            removed += not part.exists()
    return removed


def _make(target: Path) -> tuple[Path, LockedFile]:
    while True:
        folder = target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}.part")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        fd = -1
        try:
            fd = os.open(folder / _MARK_NAME, flags, 0o600)
            # Without locks on this file system it is not taken for a left-over either.
            with contextlib.suppress(OSError):
                lock_fd(fd)
            os.write(fd, _MARK)
            # Before it was locked another load may have taken it for a left-over.
            if os.fstat(fd).st_nlink > 0:
                return folder, LockedFile(fd)
        except FileNotFoundError:
            pass
        except BaseException:
            if fd >= 0:
                os.close(fd)
            _remove_tree(folder)
            raise
        if fd >= 0:
            os.close(fd)
        # Another load removed it; unless it was the folder above that went.
        target.parent.stat()


def _is_left_over(part: Path) -> bool:
    """Whether it is ours, and its maker is gone."""
    try:
        fd = os.open(part / _MARK_NAME, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return os.read(fd, len(_MARK) + 1) == _MARK and lock_fd(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
