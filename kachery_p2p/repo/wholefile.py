"""Writing the small files that are kept in a data directory: settings, keys, tokens, notes.

They are there whole or not at all, after a crash and while several processes write one: who reads never meets half of
one, and of two processes that make the same, one has made it for both.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.errors import RepoError
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, sync_folder

#: Seconds after which nobody writes a small file any more: what is left of it is of a process that was killed.
_LEFT_OVER = 3600.0

_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY | CLOEXEC | BINARY


def write_whole(path: Path, data: bytes, *, secret: bool = False, modified: float | None = None) -> None:
    """Write a file durably, in one step. The one that is there is replaced.

    Args:
        path: of the file. Its folder is there.
        data: what it has.
        secret: mode 0600 also where the directory is shared; otherwise it is 0660 there.
        modified: its time of change, seconds since 1970; now where there is none.

    Raises:
        OSError: it cannot be written. What was there is still there.
    """
    temporary = _beside(path, data, secret)
    try:
        if modified is not None:
            os.utime(temporary, (modified, modified))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, data: bytes, *, secret: bool = False) -> bool:
    """Write a file durably, in one step, unless there is one: then that stands.

    Args:
        path: of the file. Its folder is there.
        data: what it has.
        secret: mode 0600 also where the directory is shared; otherwise it is 0660 there.

    Returns:
        Whether it was written. False: there is one, made before or at this moment by another process.

    Raises:
        OSError: it cannot be written.
        RepoError: another process began to, where the file system has no hard links, and did not finish.
    """
    if os.path.lexists(path):
        return False
    temporary = _beside(path, data, secret)
    try:
        made = _link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return made


def _beside(path: Path, data: bytes, secret: bool) -> Path:
    """A new synced file with `data`, next to `path`."""
    clear_left(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, _FLAGS, private.PRIVATE_FILE) if secret else private.make_file(temporary)
    try:
        with os.fdopen(fd, "wb") as out:
            if secret:
                private.give_to_owner(fd, path.parent)
            out.write(data)
            out.flush()
            os.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def clear_left(path: Path, older: float = _LEFT_OVER) -> None:
    """Remove what processes left that were killed while they wrote a file.

    Args:
        path: of that file.
        older: seconds for which nobody has written to what goes; 0 for who knows that nobody does.
    """
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{16}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and time.time() - entry.stat().st_mtime >= older:
                os.unlink(entry.path)


def _link_new(temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path`, in one step, if nothing has that name; whether it was given."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links: the exclusive empty file decides who may put it there.
        claim = path.with_name(path.name + ".claim")
        try:
            os.close(os.open(claim, _FLAGS, private.PRIVATE_FILE))
        except FileExistsError:
            _wait_for(path, claim)
            return False
        try:
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
        finally:
            claim.unlink(missing_ok=True)
    return True


def _wait_for(path: Path, claim: Path) -> None:
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)  # another process makes the file: nothing that all platforms have tells when it is there
    raise RepoError(f"Another process began to make {path} and did not finish. Remove {claim} and try again.")
