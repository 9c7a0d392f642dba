"""`lab.sqlite` in the data directory: one file, in which each part of the lab has tables of its own.

A part says what its tables are with `Tables`, and hands that to `LabDatabase.use`. They are made, or brought up to
date, when the database is used next, in one transaction. The process that serves and the commands of the operator write
side by side.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kachery_p2p.errors import RepoError
from kachery_p2p.sqlite import Rows, Settings, SQLiteFile
from kachery_p2p.sqlite_schema import make_schema

DATABASE_NAME = "lab.sqlite"
_VERSION = 1
_SCHEMA = "CREATE TABLE parts (name TEXT PRIMARY KEY, version INTEGER NOT NULL)"


@dataclass(frozen=True)
class Tables:
    """The tables of one part.

    Attributes:
        part: its name, such as "accounts".
        steps: statements, separated by semicolons: the first step makes the tables, each further one brings those of
            the version before up to date. Their number is the version. A step that was released never changes.
    """

    part: str
    steps: tuple[str, ...]


class LabDatabase:
    """The database. Safe to use from many threads and by many processes.

    All methods raise RepoError when the file cannot be used, DiskFull and NoPermission.

    Args:
        directory: the data directory. The file is made on first use, for its owner alone.
        wall: seconds since 1970.
    """

    def __init__(self, directory: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = directory / DATABASE_NAME
        self.wall = wall
        self._known: dict[str, Tables] = {}
        self._pending: tuple[Tables, ...] = ()
        self._file = SQLiteFile(
            self.path,
            Settings(
                name="the list of the lab's members,",
                unharmed="nothing that is stored is harmed",
                repair="Stop kachery-cloud-node, and put a copy of the file back, or move it away and invite all anew",
                prepare=lambda db: make_schema(db, _SCHEMA, _VERSION, self.path, "a database of a lab"),
                durable=True,
                version=_VERSION,
                per_thread=True,
            ),
        )

    def use(self, tables: Tables) -> None:
        """Have the tables of a part there from now on. Twice does nothing."""
        if tables.part not in self._known:
            self._known[tables.part] = tables
            self._pending = (*self._pending, tables)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        self._prepare()
        return self._file.one(sql, parameters)

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """All rows of a query."""
        self._prepare()
        return self._file.all(sql, parameters)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back when it raises.

        `durable` has it on the disk when this returns.
        """
        self._prepare()
        with self._file.write(durable=durable) as db:
            yield db

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._file.let_go()

    def _prepare(self) -> None:
        pending = self._pending
        if not pending:
            return
        # Two threads, or two processes, may come here at once: the second finds nothing left to do.
        with self._file.write() as db:
            for tables in pending:
                _bring_up_to_date(db, tables, self.path)
        self._pending = tuple(each for each in self._pending if each not in pending)


def _bring_up_to_date(db: sqlite3.Connection, tables: Tables, path: Path) -> None:
    row = db.execute("SELECT version FROM parts WHERE name = ?", (tables.part,)).fetchone()
    found, version = row[0] if row else 0, len(tables.steps)
    if found > version:
        raise RepoError(
            f"{path} has format {found} of {tables.part}, and this version of the program knows {version}. Install the "
            "newer version, or use another data directory."
        )
    for step in tables.steps[found:]:
        for statement in step.split(";"):
            db.execute(statement)
    if found < version:
        db.execute("INSERT OR REPLACE INTO parts (name, version) VALUES (?, ?)", (tables.part, version))
