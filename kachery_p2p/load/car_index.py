"""Which blocks have been met, and where: for CAR files of any size, so on the disk and not in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from kachery_p2p.errors import RepoError
from kachery_p2p.load.limits import INDEX_CACHE_KIB


class BlockIndex:
    """A set of multihashes, each with a place. Used from one thread at a time.

    It is a database that SQLite makes for itself, in memory as long as it is small and else in a file without a name in
    the system's folder for temporary files: some 60 bytes a block, so 120 MB for 2 TB in blocks of 1 MiB. It is of no
    use to a later run, which looks at the data itself.
    """

    def __init__(self) -> None:
        with _explained():
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            for statement in (
                "PRAGMA journal_mode = OFF",
                "PRAGMA synchronous = OFF",
                f"PRAGMA cache_size = -{INDEX_CACHE_KIB}",
                "CREATE TABLE blocks (multihash BLOB PRIMARY KEY, at INTEGER, length INTEGER) WITHOUT ROWID",
                "BEGIN",
            ):
                self._db.execute(statement)

    def add(self, multihash: bytes, at: int = 0, length: int = 0) -> bool:
        """Take a block in, unless it is known already; whether it was new."""
        with _explained():
            found = self._db.execute("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", (multihash, at, length))
            return found.rowcount > 0

    def find(self, multihash: bytes) -> tuple[int, int] | None:
        """The place of a block, (at, length), or None where it is not known."""
        with _explained():
            return self._db.execute("SELECT at, length FROM blocks WHERE multihash = ?", (multihash,)).fetchone()

    def __len__(self) -> int:
        with _explained():
            return self._db.execute("SELECT count(*) FROM blocks").fetchone()[0]

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()

    def __enter__(self) -> BlockIndex:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RepoError(
            f"The list of the blocks of a CAR file cannot be kept in the folder for temporary files: {error}. Free "
            "some space there, or name a folder on another disk in SQLITE_TMPDIR."
        ) from error
