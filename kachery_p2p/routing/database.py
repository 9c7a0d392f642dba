"""`routing.sqlite` in the data directory: what routing remembers over a restart.

Each part of the package has tables of its own (the address book, received provider records, what was announced when).
Only the node of the directory opens it. All of it can be learned anew, so a damaged file is put aside and a new one
begun; nothing is lost but time.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kachery_p2p.errors import RepoError
from kachery_p2p.repo.damaged import files_of, is_sound, open_damaged
from kachery_p2p.sqlite import Settings, SQLiteFile
from kachery_p2p.sqlite_errors import is_damage

log = logging.getLogger("kachery_p2p.routing")

DATABASE_NAME = "routing.sqlite"


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()


#: The loss of power may take the last records; the death of the process takes none.
_SETTINGS = Settings(
    name="what the node remembers,",
    unharmed="nothing that was stored is harmed",
    repair="Move it away: it is learned anew.",
    prepare=_prepare,
    busy_seconds=10.0,
)


class Database(SQLiteFile):
    """A small SQLite database, safe to use from several threads of one process.

    Args:
        path: the file; None keeps everything in memory (a node without a data directory, and tests).

    Raises:
        RepoError, NoPermission, DiskFull: the file can neither be opened nor made.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, _SETTINGS)
        try:
            self.read("SELECT 1")
        except RepoError as error:
            if path is None or error.__cause__ is None or not is_damage(error.__cause__):
                raise
            aside = path.with_suffix(".damaged")
            log.warning("%s is damaged (%s); it is kept as %s and begun anew", path, error.__cause__, aside.name)
            path.replace(aside)
            for file in files_of(path)[1:]:
                file.unlink(missing_ok=True)
            self.read("SELECT 1")

    def create(self, statements: str) -> None:
        """Make tables (`CREATE TABLE IF NOT EXISTS ...;`)."""
        with self.write() as db:
            for statement in statements.split(";"):
                db.execute(statement)

    def read(self, sql: str, args: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        return self.all(sql, args)


def set_aside_if_damaged(path: Path) -> bool:
    """Put a damaged database aside, so that the next node begins a new one; whether it was damaged.

    For a repair, while no node runs. A node does so by itself where the damage shows when it starts.
    """
    if not path.exists():
        return False
    try:
        with contextlib.closing(open_damaged(path)) as db:
            if path.stat().st_size and is_sound(db):
                return False
    except sqlite3.Error:
        pass  # that is the damage
    for file, aside in zip(files_of(path), files_of(path.with_suffix(".damaged")), strict=True):
        if file.exists():
            file.replace(aside)
    return True
