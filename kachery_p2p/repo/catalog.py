"""The catalog: which bytes of which file are which block. SQLite, in WAL mode, one connection per thread.

    roots    what the user stored or loaded: key (binary CIDv1), the CID version it was asked by, kind, size, profile
    files    where the bytes of a root lie: own copy (path relative to the directory) or linked (absolute path), with
             the stamp the file had when it was hashed. Numbers are never used twice: open files are kept by them
    leaves   multihash -> (file, offset, length, wrap): a leaf block is that part of the file, as it is (wrap 0) or
             inside a dag-pb UnixFS node (wrap 1: of kind File, 2: of kind Raw). One row per file and leaf, also when
             the leaf occurs in the file many times
    blocks   multihash -> the block itself: inner nodes, directory nodes, symlinks, and leaves wrapped in a way that
             the two wraps above do not give back

Transactions are short: nothing is hashed, and no data is synced, while one is open. `synchronous=NORMAL`: the loss of
power may take the last commits with it (never the death of a process), but what they said can be found again: a file
under `ipfs/` has its CID as its name. A commit that cannot be found again is made `durable`.

Connections are not carried over a fork: the child leaves them alone, unclosed, and makes its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DiskFull, KacheryError, NoPermission, RepoError
from .limits import BUSY_SECONDS, FULL_DISK_SECONDS, WAL_BYTES, WAL_PAGES

CATALOG_NAME = "catalog.sqlite"
SCHEMA_VERSION = 2
# Of a version whose data directories have no second place (records.py); the tables are the same.
_WITHOUT_RECORDS = 1
_APPLICATION_ID = 0x6B636831

# files.state
OK = 0
CHANGED = 1
MISSING = 2

# roots.kind
FILE = 1
DIRECTORY = 2

# leaves.wrap
WRAP_NONE = 0
WRAP_FILE = 1
WRAP_RAW = 2

_SCHEMA = """
CREATE TABLE roots (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    size INTEGER NOT NULL,
    profile TEXT,
    added REAL NOT NULL
);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES roots(id),
    path BLOB NOT NULL,
    linked INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    checked REAL NOT NULL,
    state INTEGER NOT NULL,
    UNIQUE (root, path)
);
CREATE INDEX files_by_size ON files (size);
CREATE INDEX files_by_path ON files (path);
CREATE TABLE leaves (
    multihash BLOB NOT NULL,
    file INTEGER NOT NULL REFERENCES files(id),
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    wrap INTEGER NOT NULL,
    PRIMARY KEY (multihash, file)
) WITHOUT ROWID;
CREATE INDEX leaves_by_file ON leaves (file);
CREATE TABLE blocks (
    multihash BLOB PRIMARY KEY,
    data BLOB NOT NULL,
    added REAL NOT NULL
);
"""


class _Connection:
    """A connection that closes when its thread ends, but never in a process that only inherited it."""

    __slots__ = ("__weakref__", "again_at", "db", "durable", "pid")

    def __init__(self, db: sqlite3.Connection, again_at: float | None = None) -> None:
        self.db = db
        self.pid = os.getpid()
        #: Of one that only reads, because the disk was full: when to try an ordinary one again (time.monotonic).
        self.again_at = again_at
        self.durable = False

    def close(self) -> None:
        if self.pid == os.getpid():
            self.db.close()
        else:
            _inherited.append(self.db)

    def __del__(self) -> None:
        self.close()


# SQLite connections may not even be closed after a fork; those of the parent are kept here for ever.
_inherited: list[sqlite3.Connection] = []


class Catalog:
    """The catalog of one data directory. Safe to use from many threads; any number of processes may have it open."""

    def __init__(self, path: Path, holds_data: Callable[[], bool] = lambda: False) -> None:
        """Open the catalog, making it when there is none. `holds_data` says whether there must have been one.

        Raises RepoError when the file is lost, damaged, is no catalog, or was made by a newer version; NoPermission and
        DiskFull.
        """
        self.path = path
        self._holds_data = holds_data
        self._local = threading.local()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._closed = False
        try:
            with self._named_errors():
                self._prepare(self._connection().db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._guard:
            self._closed = True
            for connection in list(self._all):
                connection.close()
            self._all.clear()
        self._local = threading.local()

    def after_fork(self) -> None:
        """Called in a forked child: forget the parent's connections."""
        self._guard = threading.Lock()
        self._all = weakref.WeakSet()

    # --- reading and writing ---------------------------------------------------------------------------------------

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        try:
            return self._connection().db.execute(sql, parameters).fetchone()
        except sqlite3.Error as why:
            raise self._explain(why) from why

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows."""
        try:
            return self._connection().db.execute(sql, parameters).fetchall()
        except sqlite3.Error as why:
            raise self._explain(why) from why

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back when it raises.

        `durable` puts it (and all commits before it) on the disk before this returns.
        """
        connection = self._connection()
        db = connection.db
        if connection.again_at is not None:
            raise self._full()
        with self._named_errors():
            if connection.durable != durable:
                db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                connection.durable = durable
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                if durable:
                    # A commit that changes nothing would sync nothing, not even the commits before it.
                    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            except BaseException:
                # A full disk makes SQLite roll back by itself; then there is nothing left to undo.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            try:
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    # --- rows that several modules write -----------------------------------------------------------------------------

    def put_blocks(self, blocks: Iterable[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        """Keep blocks (multihash, data) that the caller has verified."""
        with self.write(durable=durable) as db:
            insert_blocks(db, blocks)

    def get_node(self, multihash: bytes) -> bytes | None:
        """A block kept in the catalog itself, or None. Not hashed again here."""
        row = self.one("SELECT data FROM blocks WHERE multihash = ?", (multihash,))
        return None if row is None else row[0]

    @property
    def needs_records(self) -> bool:
        """Whether it was made by a version that wrote no second place."""
        return self.one("PRAGMA user_version")[0] == _WITHOUT_RECORDS

    def taken_over(self) -> None:
        """Note that the second place has been written: a durable commit writes the version, too."""
        with self.write(durable=True):
            pass

    # --- inside ------------------------------------------------------------------------------------------------------

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.pid == os.getpid():
            if connection.again_at is None or time.monotonic() < connection.again_at:
                return connection
            connection.close()
        elif connection is not None:
            _inherited.append(connection.db)
        with self._guard:
            if self._closed:
                raise RepoError(f"The repo of {self.path.parent} is closed already.")
        with self._named_errors():
            connection = self._connect()
        self._local.connection = connection
        with self._guard:
            self._all.add(connection)
        return connection

    def _connect(self) -> _Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
            db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException as why:
            db.close()
            if isinstance(why, sqlite3.Error) and isinstance(self._explain(why), DiskFull) and self._is_at_rest():
                return self._connect_to_read()
            raise
        return _Connection(db)

    def _connect_to_read(self) -> _Connection:
        """Without the shared memory for which the disk has no room, what is there can still be read. Nobody else can
        write meanwhile; so an ordinary connection is tried again soon."""
        uri = self.path.resolve().as_uri() + "?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        return _Connection(db, again_at=time.monotonic() + FULL_DISK_SECONDS)

    def _is_at_rest(self) -> bool:
        """Whether all that was committed is in the file itself, and none of it in a log beside it."""
        try:
            return self.path.stat().st_size > 0 and not os.path.getsize(f"{self.path}-wal")
        except FileNotFoundError:
            return self.path.exists()

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the schema, or check that it is ours."""
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            # In this order: a process that has stored something had made its catalog before.
            if self._holds_data() and db.execute("PRAGMA user_version").fetchone()[0] == 0:
                raise RepoError(
                    f"The catalog {self.path} is missing or empty, but {self.path.parent} has files that it listed. "
                    "Stop all programs that use this directory and bring everything back with: kachery-cloud repair"
                )
            self._switch_to_wal(db)
            with self.write(durable=True):
                # Another process may have made it since.
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise RepoError(
                            f"{self.path} is an SQLite database, but not a catalog of this program. Move it away, or "
                            "use another data directory."
                        )
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                    version = SCHEMA_VERSION
        if version not in (_WITHOUT_RECORDS, SCHEMA_VERSION):
            raise RepoError(
                f"{self.path} has format {version}, and this version of the program knows {SCHEMA_VERSION}. Install "
                "the newer version, or use another data directory."
            )
        # Reads a page of each table, so that a damaged file is noticed now and not in the middle of a load.
        for table in ("roots", "files", "leaves", "blocks"):
            db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()

    def _switch_to_wal(self, db: sqlite3.Connection) -> None:
        # Changing the mode does not wait for others, whatever the timeout: so try again while they do the same.
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as why:
                if "locked" not in str(why) or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except KacheryError:
            raise
        except sqlite3.Error as why:
            raise self._explain(why) from why

    def _explain(self, why: sqlite3.Error) -> KacheryError:
        text = str(why)
        if "disk is full" in text or ("disk I/O error" in text and _disk_is_full(self.path.parent)):
            return self._full()
        if "readonly" in text or "read-only" in text or "unable to open" in text:
            return NoPermission(
                f"The catalog {self.path} cannot be opened for writing ({text}). Check who owns the data directory "
                "and its permissions, or use another one."
            )
        if "locked" in text or "busy" in text:
            return RepoError(
                f"Another process has been writing the catalog {self.path} for more than {BUSY_SECONDS:.0f} seconds. "
                "See whether one hangs, then try again."
            )
        if isinstance(why, sqlite3.ProgrammingError):
            return RepoError(f"The repo of {self.path.parent} was closed while it was in use ({text}).")
        if not any(sign in text for sign in ("malformed", "not a database", "no such table", "no such column")):
            return RepoError(f"The catalog {self.path} cannot be used: {text}.")
        return RepoError(
            f"The catalog {self.path} is damaged ({text}). Stop all programs that use this directory and bring "
            "everything back with: kachery-cloud repair. The stored files are hashed again, and the damaged catalog is "
            "kept."
        )

    def _full(self) -> DiskFull:
        return DiskFull(
            f"There is no room on the disk for the catalog {self.path}. Free some space and try again; nothing that "
            "was stored is harmed."
        )


def insert_blocks(db: sqlite3.Connection, blocks: Iterable[tuple[bytes, bytes]]) -> None:
    """Keep verified blocks, in a transaction of the caller's. One whose row went bad is put right."""
    now = time.time()
    db.executemany(
        "INSERT INTO blocks (multihash, data, added) VALUES (?, ?, ?) "
        "ON CONFLICT (multihash) DO UPDATE SET data = excluded.data WHERE data <> excluded.data",
        ((multihash, data, now) for multihash, data in blocks),
    )


def _disk_is_full(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    try:
        return os.statvfs(folder).f_bavail < 64
    except OSError:
        return False
