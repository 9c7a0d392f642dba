"""`routing.sqlite` in the data directory: what routing remembers over a restart.

Each part of the room has tables of its own (the address book, received provider records, what was announced when).
Only the node of the directory opens it. All of it can be learned anew, so a damaged file is put aside and a new one
begun; nothing is lost but time.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kachery_p2p.errors import DiskFull, NoPermission, RepoError

log = logging.getLogger("kachery_p2p.routing")

DATABASE_NAME = "routing.sqlite"


class Database:
    """A small SQLite database, safe to use from several threads of one process.

    Args:
        path: the file; None keeps everything in memory (a node without a data directory, and tests).

    Raises:
        RepoError, NoPermission, DiskFull: the file can neither be opened nor made.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if path is None or isinstance(error, sqlite3.OperationalError):
                raise _named(error, path) from error
            aside = path.with_suffix(".damaged")
            log.warning("%s is damaged (%s); it is kept as %s and begun anew", path, error, aside.name)
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            str(self.path) if self.path else ":memory:", timeout=10.0, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # The loss of power may take the last records; the death of the process takes none.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        if self.path is not None:
            self.path.chmod(0o600)  # whom we met is nobody else's business
        return db

    def create(self, statements: str) -> None:
        """Make tables (`CREATE TABLE IF NOT EXISTS ...;`)."""
        with self._lock, _named_errors(self.path):
            self._db.executescript(statements)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or none when the block raises."""
        with self._lock, _named_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def read(self, sql: str, args: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self._lock, _named_errors(self.path):
            return self._db.execute(sql, args).fetchall()

    def close(self) -> None:
        """Close it. Safe to call twice."""
        with self._lock:
            self._db.close()


def set_aside_if_damaged(path: Path) -> bool:
    """Put a damaged database aside, so that the next node begins a new one; whether it was damaged. For a repair, while
    no node runs: a node does so by itself where the damage shows when it starts."""
    if not path.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            if path.stat().st_size and db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",):
                return False
    except sqlite3.Error:
        pass  # that is the damage
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(path.with_name(f"{path.stem}.damaged{suffix}"))
    return True


@contextlib.contextmanager
def _named_errors(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, path) from error


def _named(error: sqlite3.Error, path: Path | None) -> RepoError | DiskFull | NoPermission:
    text = str(error)
    if "full" in text:
        return DiskFull(f"No room on the disk for {path}.")
    if "readonly" in text or "unable to open" in text:
        return NoPermission(f"{path} cannot be written: {text}.")
    return RepoError(f"{path or 'The routing database'} cannot be used: {text}.")
