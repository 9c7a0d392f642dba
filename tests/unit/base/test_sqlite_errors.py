"""What SQLite says becomes an error with a class of its own, in words that say what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from kachery_p2p import sqlite_errors
from kachery_p2p.errors import DamagedRepo, DiskFull, KacheryError, NoPermission, RepoError


def explain(why: sqlite3.Error | OSError, folder: Path | None = None) -> KacheryError:
    return sqlite_errors.explain(
        why, "the catalog /x", folder=folder, unharmed="files are safe", repair="Repair it.", busy_seconds=20
    )


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("database or disk is full", DiskFull, "files are safe"),
        ("attempt to write a readonly database", NoPermission, "The catalog /x cannot be opened for writing"),
        ("unable to open database file", NoPermission, "Check who owns the data directory"),
        ("database is locked", RepoError, "for more than 20 seconds"),
        ("database disk image is malformed", DamagedRepo, "Repair it."),
        ("file is not a database", DamagedRepo, "Repair it."),
        ("no such table: leaves", DamagedRepo, "Repair it."),
        ("disk I/O error", RepoError, "cannot be used: disk I/O error"),
        ("something new", RepoError, "cannot be used: something new"),
    ],
)
def test_what_sqlite_says_is_named(text: str, kind: type[KacheryError], says: str, tmp_path: Path) -> None:
    """Each text that SQLite is known to give, and those that are not known."""
    error = explain(sqlite3.OperationalError(text), tmp_path)
    assert type(error) is kind
    assert says in str(error)
    assert "/x" in str(error)


def test_what_the_system_says_is_named() -> None:
    """No room, and no right, while the files beside a database are made."""
    assert type(explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) is DiskFull
    assert type(explain(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))) is NoPermission


def test_too_many_open_files_are_not_taken_for_missing_rights() -> None:
    """SQLite says the same for both; the limit is named where it is the reason."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        error = explain(sqlite3.OperationalError("unable to open database file"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert type(error) is RepoError
    assert "ulimit -n" in str(error)


def test_only_a_lock_is_busy_and_only_damage_is_damage() -> None:
    """A busy database is waited for, a damaged one is repaired; neither is done for the other."""
    locked, damaged = sqlite3.OperationalError("database is locked"), sqlite3.DatabaseError("malformed")
    assert (sqlite_errors.is_busy(locked), sqlite_errors.is_damage(locked)) == (True, False)
    assert (sqlite_errors.is_busy(damaged), sqlite_errors.is_damage(damaged)) == (False, True)
    assert type(sqlite_errors.only_read(Path("/x"))) is NoPermission
