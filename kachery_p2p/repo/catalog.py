"""The catalog: which bytes of which file are which block. SQLite, in WAL mode, one connection per thread.

    roots    what the user stored or loaded: key (binary CIDv1), the CID version it was asked by, kind, size, profile
    files    where the bytes of a root lie: own copy (path relative to the directory) or linked (absolute path), with
             the stamp the file had when it was hashed. Numbers are never used twice: open files are kept by them
    leaves   multihash -> (file, offset, length, wrap): a leaf block is that part of the file, as it is (wrap 0) or
             inside a dag-pb UnixFS node (wrap 1: of kind File, 2: of kind Raw). One row per file and leaf, also when
             the leaf occurs in the file many times
    packed   files of one block that lie in a pack (packs.py): their bytes are `length` bytes at `offset` of it
    packs    how far each pack is catalogued
    seen     which root a file of the user's had when it was hashed, and its stamp then (seen.py). It may be lost
    kept     roots that the user stored, linked or loaded by themselves (inventory.py); what is in folders is not there
    labels   what these are called
    parts    files that were read through a folder of which only a part is here (folder_parts.py)
    going    roots that are being removed (removal.py): not finished yet, and not to be listed any more
    access   for whom roots are that are not public (access.py), and row 0 for everyone, which is missing as long as a
             program that does not know of it may be the node
    claims   multihash -> access: the blocks that not everyone may have
    blocks   multihash -> the block itself: inner nodes, directory nodes, symlinks, and leaves wrapped in a way that
             the two wraps above do not give back

Transactions are short: nothing is hashed, and no data is synced, while one is open. `synchronous=NORMAL`: the loss of
power may take the last commits with it (never the death of a process), but what they said can be found again: a file
under `ipfs/` has its CID as its name. A commit that cannot be found again is made `durable`.

`kachery_p2p.sqlite` says how forks and other processes are dealt with.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import DamagedRepo, HashMismatch
from kachery_p2p.repo.claim_rows import EVERYONE, any_claims, claim_node
from kachery_p2p.repo.limits import APART_SECONDS, BUSY_SECONDS, LOOKED_THROUGH_BYTES, NODE_BATCH, WAL_BYTES, WAL_PAGES
from kachery_p2p.sqlite import Settings, SQLiteFile
from kachery_p2p.sqlite_schema import make_schema
from kachery_p2p.wire import Buffer

CATALOG_NAME = "catalog.sqlite"
SCHEMA_VERSION = 5
#: Of a version whose data directories have no second place (records.py), and no packs.
_WITHOUT_RECORDS = 1
#: Of versions that lack some of `_LATER_TABLES`. The other tables are the same in all.
_WITHOUT_LATER = (2, 3)
#: Of the version that lacks only `access` and `claims`, which are empty then.
_WITHOUT_ACCESS = 4
_TO_FILL = (_WITHOUT_RECORDS, *_WITHOUT_LATER)
_OLDER = (*_TO_FILL, _WITHOUT_ACCESS)
_APPLICATION_ID = 0x6B636831

#: Values of `files.state`.
OK = 0
CHANGED = 1
MISSING = 2

#: Values of `roots.kind`.
FILE = 1
DIRECTORY = 2

#: Values of `leaves.wrap`.
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
)
"""
#: Tables that an older catalog lacks. They are made when it is opened.
_LATER_TABLES = {
    "packed": """(
    root INTEGER PRIMARY KEY REFERENCES roots(id),
    pack INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    wrap INTEGER NOT NULL
)""",
    "packs": "(id INTEGER PRIMARY KEY, size INTEGER NOT NULL)",
    "seen": """(
    id INTEGER PRIMARY KEY,
    place BLOB NOT NULL,
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    dag_size INTEGER NOT NULL,
    UNIQUE (place, name),
    UNIQUE (key, id)
)""",
    "kept": """(
    key BLOB PRIMARY KEY,
    how INTEGER NOT NULL,
    added REAL NOT NULL,
    used REAL NOT NULL,
    whole INTEGER
)""",
    "labels": """(
    key BLOB NOT NULL,
    label TEXT NOT NULL,
    given INTEGER NOT NULL,
    added REAL NOT NULL,
    PRIMARY KEY (key, label)
)""",
    "going": "(key BLOB PRIMARY KEY)",
    "parts": """(
    root BLOB NOT NULL,
    root_version INTEGER NOT NULL,
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (root, key)
)""",
    "access": "(id INTEGER PRIMARY KEY, key BLOB UNIQUE, audience TEXT NOT NULL, added REAL NOT NULL)",
    "claims": """(
    multihash BLOB NOT NULL,
    access INTEGER NOT NULL,
    PRIMARY KEY (multihash, access)
) WITHOUT ROWID""",
    "formerly": "(multihash BLOB PRIMARY KEY, audience TEXT NOT NULL, gone REAL NOT NULL)",
}
#: Those of them that begin empty, so that nothing need be found out where they are missing.
_BEGIN_EMPTY = {"parts", "access", "claims", "formerly"}
_LATER_INDEX = "CREATE INDEX IF NOT EXISTS claims_by_access ON claims (access)"
_EVERYONE_ROW = f"INSERT OR IGNORE INTO access (id, key, audience, added) VALUES ({EVERYONE}, NULL, 'public', 0)"


class Catalog(SQLiteFile):
    """The catalog of one data directory. Safe to use from many threads, by many processes, and over forks."""

    path: Path

    def __init__(
        self,
        path: Path,
        holds_data: Callable[[], bool] = lambda: False,
        *,
        read_only: bool = False,
        apart: bool = False,
        in_memory: bool = False,
    ) -> None:
        """Open the catalog, making it when it is missing.

        Args:
            path: of its file.
            holds_data: says whether there must have been one.
            read_only: it is not written to, and not made.
            apart: then it may be in use on another machine.
            in_memory: it is empty, and leaves nothing behind.

        Raises:
            RepoError: the file is lost, damaged, not a catalog, or made by a newer version.
            NoPermission, DiskFull: the system does not allow it.
        """
        settings = Settings(
            name="the catalog",
            unharmed="nothing that was stored is harmed",
            repair=(
                "Stop all programs that use this directory and bring everything back with: kachery-cloud repair. The "
                "stored files are hashed again, and the damaged catalog is kept."
            ),
            prepare=lambda db: _prepare(db, path, holds_data),
            busy_seconds=APART_SECONDS if apart else BUSY_SECONDS,
            version=SCHEMA_VERSION,
            older=_OLDER,
            lacking=_LATER_TABLES,
            pragmas=(f"wal_autocheckpoint={WAL_PAGES}", f"journal_size_limit={WAL_BYTES}"),
            readable=True,
            per_thread=True,
        )
        self._looked_through = False
        super().__init__(path, settings, read_only=read_only, apart=apart, in_memory=in_memory)
        try:
            self.one("PRAGMA user_version")
        except BaseException:
            self.close()
            raise

    # --- rows that several modules write -----------------------------------------------------------------------------

    def put_blocks(
        self, blocks: Iterable[tuple[bytes, bytes]], *, durable: bool = False, access: Sequence[int] = ()
    ) -> None:
        """Keep blocks (multihash, data) that the caller has verified, claimed by some rows of `access`."""
        with self.write(durable=durable) as db:
            insert_blocks(db, blocks, access)

    def get_node(self, multihash: bytes) -> bytes | None:
        """A block kept in the catalog itself, or None. Not hashed again here."""
        row = self.one("SELECT data FROM blocks WHERE multihash = ?", (multihash,))
        return None if row is None else row[0]

    def has_node(self, multihash: bytes) -> bool:
        """Whether a block is kept in the catalog itself."""
        return self.one("SELECT 1 FROM blocks WHERE multihash = ?", (multihash,)) is not None

    def look_through(self) -> None:
        """Have SQLite look for damage, the first time that this is asked.

        A lookup in a page with wrong bytes may find nothing, and no error. A large catalog is not looked through.

        Raises:
            DamagedRepo: it is damaged.
        """
        if self._looked_through or self.read_only or self.in_memory:
            return
        self._looked_through = True
        if os.path.getsize(self.path) <= LOOKED_THROUGH_BYTES:
            (said,) = self.one("PRAGMA quick_check(1)")
            if said != "ok":
                self._looked_through = False
                raise self._explain(sqlite3.DatabaseError(f"malformed: {said.splitlines()[-1]}"))

    @property
    def needs_records(self) -> bool:
        """Whether it was made by a version that wrote no second place."""
        return self._version() == _WITHOUT_RECORDS

    @property
    def needs_taking_over(self) -> bool:
        """Whether it was made by an older version, and what that did not write down has not been found out yet."""
        return not self.in_memory and self._version() in _TO_FILL

    def taken_over(self) -> None:
        """Note that all of it has been found out: a durable commit writes the version, too."""
        with self.write(durable=True):
            pass

    @property
    def keeps_older_out(self) -> bool:
        """Whether no program that does not know of audiences is the node, or can open it.

        One that has it open since before writes its own version now and then.
        """
        row = self.one(
            "SELECT EXISTS (SELECT 1 FROM access WHERE id = ?), (SELECT user_version FROM pragma_user_version)",
            (EVERYONE,),
        )
        return row == (1, SCHEMA_VERSION)

    def keep_older_out(self) -> None:
        """Note that no such program is the node now. By its version, none opens the catalog from here on."""
        with self.write(durable=True) as db:
            db.execute(_EVERYONE_ROW)

    def _version(self) -> int:
        return self.one("PRAGMA user_version")[0]


def _prepare(db: sqlite3.Connection, path: Path, holds_data: Callable[[], bool]) -> None:
    """Make the schema, or check that it is ours."""

    def is_new() -> bool:
        return db.execute("PRAGMA user_version").fetchone()[0] == 0

    # In this order: a process that has stored something had made its catalog before.
    if is_new() and holds_data() and is_new():
        raise DamagedRepo(
            f"The catalog {path} is missing or empty, but {path.parent} has files that it listed. Stop all programs "
            "that use this directory and bring everything back with: kachery-cloud repair"
        )
    tables = "; ".join(f"CREATE TABLE {name} {columns}" for name, columns in _LATER_TABLES.items())
    statements = f"{_SCHEMA}; {tables}; {_LATER_INDEX}; {_EVERYONE_ROW}; PRAGMA application_id={_APPLICATION_ID}"
    make_schema(db, statements, SCHEMA_VERSION, path, "a catalog", older=_OLDER)
    _add_later_tables(db)
    # Reads a page of each table, so that a damaged file is noticed now and not in the middle of a load.
    for table in ("roots", "files", "leaves", "blocks", *_LATER_TABLES):
        db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()


def _add_later_tables(db: sqlite3.Connection) -> None:
    """Make the tables that an older catalog does not have.

    It says by its version that they are still to be filled. `taken_over` writes the new one, and programs of the older
    version refuse it from then on.
    """

    def lacking() -> list[str]:
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return [name for name in _LATER_TABLES if name not in there]

    if not lacking():
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        made = lacking()
        for name in made:
            db.execute(f"CREATE TABLE {name} {_LATER_TABLES[name]}")
        db.execute(_LATER_INDEX)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version >= _WITHOUT_ACCESS and not _BEGIN_EMPTY.issuperset(made):  # of a program between two releases
            db.execute(f"PRAGMA user_version={_WITHOUT_LATER[-1]}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def checked_block(cid: CID, data: Buffer) -> tuple[bytes, bytes]:
    """A block as the catalog keeps it.

    Raises:
        HashMismatch: the bytes are not those of the CID.
    """
    if not verify_block(cid.multihash, data):
        raise HashMismatch(f"{len(data)} bytes were given for the block {cid}, but they do not have its hash.")
    return cid.multihash, bytes(data)


def insert_blocks(db: sqlite3.Connection, blocks: Iterable[tuple[bytes, bytes]], access: Sequence[int] = ()) -> None:
    """Keep verified blocks, in a transaction of the caller's. One whose row went bad is put right.

    They are claimed for some rows of `access`, and what they link to for whom they are themselves (claim_rows.py).
    """
    now = time.time()
    claimed = access or any_claims(db)
    rest = iter(blocks)
    while some := list(islice(rest, NODE_BATCH)):
        if claimed:
            for multihash, data in some:
                claim_node(db, access, multihash, data)
        db.executemany(
            "INSERT INTO blocks (multihash, data, added) VALUES (?, ?, ?) "
            "ON CONFLICT (multihash) DO UPDATE SET data = excluded.data WHERE data <> excluded.data",
            [(multihash, data, now) for multihash, data in some],
        )
