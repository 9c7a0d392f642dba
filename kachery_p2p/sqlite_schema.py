"""The tables of SQLite databases, and the versions of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from kachery_p2p.errors import RepoError


def make_schema(
    db: sqlite3.Connection, statements: str, version: int, path: Path, what: str, *, older: tuple[int, ...] = ()
) -> None:
    """Make the tables of a new database, in one transaction, and check the `user_version` of one that is there.

    Args:
        db: an open connection.
        statements: the tables, separated by semicolons.
        version: the `user_version` to write.
        path: the file, for errors.
        what: what it is, as in "a catalog".
        older: versions that are right, too.

    Raises:
        RepoError: the file is of another version of this program, or of another program.
    """
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == 0:
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have made it since.
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise RepoError(
                        f"{path} is an SQLite database, but not {what} of this program. Move it away, or use another "
                        "data directory."
                    )
                for statement in statements.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={version}")
                found = version
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    check_version(found, version, path, older)


def check_version(found: int, version: int, path: Path, older: tuple[int, ...] = ()) -> None:
    """Check the version of a database.

    Raises:
        RepoError: it is that of another version of this program.
    """
    if found != version and found not in older:
        raise RepoError(
            f"{path} has format {found}, and this version of the program knows {version}. Install the newer version, "
            "or use another data directory."
        )


def stand_in(db: sqlite3.Connection, tables: Mapping[str, str]) -> bool:
    """Make empty tables, of this connection alone, for those of some tables that a database does not have.

    Args:
        db: a connection that only reads; it is closed when this fails.
        tables: the columns of each.

    Returns:
        Whether there were any.
    """
    try:
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        lacking = {name: columns for name, columns in tables.items() if name not in there}
        if lacking:
            db.execute("PRAGMA temp_store=MEMORY")
        for name, columns in lacking.items():
            db.execute(f"CREATE TEMP TABLE {name} {columns}")
    except BaseException:
        db.close()
        raise
    return bool(lacking)
