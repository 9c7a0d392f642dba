"""Databases of a data directory that may be damaged: looking into one, and putting a repaired one into its place.

While a database is in use, `kachery_p2p.sqlite` tells of damage. Here are the ways of a repair, which runs alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from kachery_p2p.errors import NotAFile
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import check_own_file
from kachery_p2p.repo.fileio import sync_folder


def files_of(database: Path) -> list[Path]:
    """An SQLite database and the files that belong to it."""
    return [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]


def open_damaged(database: Path) -> sqlite3.Connection:
    """A connection that only reads, to a file that is there. Whatever is wrong shows in the first query.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    try:
        check_own_file(database)  # SQLite would wait for whoever writes to a named pipe
    except NotAFile as error:
        raise sqlite3.DatabaseError(str(error)) from error
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)


def is_sound(db: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong in it."""
    try:
        return db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
    except sqlite3.Error:
        return False


def fresh_beside(database: Path) -> Path:
    """Where the database is made that will take the place of a damaged one. What an interrupted repair left is gone.

    Raises:
        NoPermission, RepoError: that cannot be removed.
    """
    fresh = database.with_name(f"repaired.{database.name}")
    with explained("removing", fresh):
        for path in files_of(fresh):
            path.unlink(missing_ok=True)
    return fresh


def put_in_place(fresh: Path, database: Path, damaged: Path, what: str) -> Path:
    """Move a damaged database to the folder `damaged`, and the repaired one to its place, where one was made.

    Args:
        fresh: as `fresh_beside` gave it; closed.
        database: the damaged one.
        damaged: the folder.
        what: the database is, as in "the catalog".

    Returns:
        Where the damaged one is kept.

    Raises:
        DiskFull, NoPermission, RepoError: they cannot be moved.
    """
    kept = damaged / f"{database.name}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"
    with explained(f"moving {what}", database):
        # The database goes last but one, and the new one comes last: in between there is none, which is noticed.
        for path, aside in reversed(list(zip(files_of(database), files_of(kept), strict=True))):
            if os.path.lexists(path):
                os.replace(path, aside)
        if fresh.exists():
            os.replace(fresh, database)
        sync_folder(database.parent)
    return kept
