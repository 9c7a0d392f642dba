"""What SQLite says, in words for people and with a class of its own."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from kachery_p2p.errors import DamagedRepo, DiskFull, KacheryError, NoPermission, RepoError

#: Blocks that must be free for a disk not to be called full.
_FULL_BLOCKS = 64


def explain(
    error: sqlite3.Error | OSError,
    subject: str,
    *,
    folder: Path | None,
    unharmed: str,
    repair: str,
    busy_seconds: float,
) -> KacheryError:
    """The named error for what SQLite, or the system, said.

    Args:
        error: what it said.
        subject: the database, as in "the catalog /data/catalog.sqlite".
        folder: where it lies; None for one in memory.
        unharmed: after "no room on the disk": what is safe all the same.
        repair: after "is damaged": what to do.
        busy_seconds: how long another process was waited for.
    """
    text = str(error)
    if "is full" in text or "No space" in text or ("disk I/O error" in text and _disk_is_full(folder)):
        return DiskFull(f"There is no room on the disk for {subject}. Free some space and try again; {unharmed}.")
    if "unable to open" in text and _no_more_files():
        return RepoError(
            f"This process has too many files open, so {subject} cannot be opened. Raise the limit (`ulimit -n`)."
        )
    if any(sign in text for sign in ("readonly", "read-only", "unable to open", "ermission", "not permitted")):
        return NoPermission(
            f"{subject[0].upper()}{subject[1:]} cannot be opened for writing ({text}). Check who owns the data "
            "directory and its permissions, or use another one (KACHERY_CLOUD_DIR)."
        )
    if is_busy(error):
        return RepoError(
            f"Another process has been writing {subject} for more than {busy_seconds:.0f} seconds. See whether one "
            "hangs, then try again."
        )
    if not is_damage(error):
        return RepoError(f"{subject[0].upper()}{subject[1:]} cannot be used: {text}.")
    return DamagedRepo(f"{subject[0].upper()}{subject[1:]} is damaged ({text}). {repair}")


def only_read(directory: Path) -> NoPermission:
    """The error for writing to a data directory that can only be read."""
    return NoPermission(
        f"The data directory {directory} can only be read by this user, so nothing can be stored or loaded into it. "
        "Name another one in KACHERY_CLOUD_DIR, or ask its owner for the right to write to it."
    )


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite's says that the file is not sound, or not SQLite's."""
    return any(sign in str(error) for sign in ("malformed", "not a database", "no such table", "no such column"))


def is_busy(error: BaseException) -> bool:
    """Whether an error of SQLite's says that another process is in the way."""
    return isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "busy" in str(error))


def _disk_is_full(folder: Path | None) -> bool:
    if folder is None or not hasattr(os, "statvfs"):
        return False
    try:
        return os.statvfs(folder).f_bavail < _FULL_BLOCKS
    except OSError:
        return False


def _no_more_files() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def needs_recovery(error: BaseException) -> bool:
    """Whether a read failed because the index of the write-ahead log is not right, and only a writer may mend it.

    So it is when whoever wrote was killed in the middle (SQLITE_READONLY_RECOVERY; Python before 3.11 tells no code).
    """
    return isinstance(error, sqlite3.OperationalError) and "readonly database" in str(error)
