"""What is looked at by who only reads a database that others may be writing to, without SQLite's locks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kachery_p2p.sqlite_forks import Stamp, Stamps

#: "Do not check-point when you close": SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, which Python knows from 3.12 on.
_NO_CHECKPOINT = 1006


def stamps(path: Path) -> Stamps:
    """Size, time and number of a database and of its log: a write changes one of them."""
    found: list[Stamp | None] = []
    for file in (path, path.with_name(path.name + "-wal")):
        try:
            status = os.stat(file)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return found[0], found[1]


def stamps_anew(path: Path) -> Stamps:
    """The same of files that another machine may write to: opening one asks its server how it is now.

    A process that closes a file gives up all its locks on it; so this is not for one that it has open in another way.
    """
    for file in (path, path.with_name(path.name + "-wal")):
        with suppress(OSError):
            os.close(os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
    return stamps(path)


def may_be_read(log: Path) -> bool:
    """Whether a write-ahead log can be read without locks, and is not deleted when it is closed.

    SQLite deletes one in which it finds nothing that is not in the database yet; without locks, it does not see whoever
    is writing to it just now. So it must not be able to, or be told not to. Where neither can be (Python before 3.12,
    and a user who may write there), the log is not read: what was written last is then seen later.
    """
    return hasattr(sqlite3.Connection, "setconfig") or not os.access(log, os.W_OK)


def says_version(path: Path) -> bool:
    """Whether a database says of which version it is without its log: not, before the log was first written back."""
    with open(path, "rb") as file:
        return any(file.read(64)[60:64])


def leave_log(db: sqlite3.Connection) -> None:
    """Let a log be when it is closed."""
    setconfig: Callable[[int, bool], None] | None = getattr(db, "setconfig", None)
    if setconfig is not None:
        setconfig(_NO_CHECKPOINT, True)
