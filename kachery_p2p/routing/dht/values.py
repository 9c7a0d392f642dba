"""Value records that others entrusted to us: IPNS records and public keys, in the routing database.

They come one at a time and are signed, so they are written as they come. A sender has a bounded number of places, the
store, too: the oldest go first.
"""

from __future__ import annotations

import logging

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.limits import StoreLimits
from kachery_p2p.routing.dht.messages import ValueRecord

log = logging.getLogger("kachery_p2p.routing")


class ValueStore:
    """Value records of one DHT; each has been validated. Times are seconds since the epoch.

    Args:
        db: where they are kept.
        name: which DHT: `wan` or `lan`; each has a table of its own.
        bounds: how much is kept.

    Raises:
        RepoError, DiskFull, NoPermission: the database cannot be used.
    """

    def __init__(self, db: Database, name: str = "wan", bounds: StoreLimits = limits.DEFAULTS) -> None:
        if name not in ("wan", "lan"):
            raise ValueError(f"There is no DHT named {name!r}.")
        self._db = db
        self._limits = bounds
        self._table = f"dht_{name}_values"
        db.create(f"""
            CREATE TABLE IF NOT EXISTS {self._table} (
                key BLOB PRIMARY KEY, value BLOB NOT NULL, received TEXT NOT NULL, sender BLOB NOT NULL,
                at REAL NOT NULL);
            CREATE INDEX IF NOT EXISTS {self._table}_at ON {self._table} (at);
            CREATE INDEX IF NOT EXISTS {self._table}_sender ON {self._table} (sender, at);
        """)

    def __len__(self) -> int:
        return self._db.read(f"SELECT count(*) FROM {self._table}")[0][0]

    def put(self, record: ValueRecord, sender: bytes, now: float) -> bool:
        """Keep a record; whether it could be written."""
        table = self._table
        try:
            with self._db.write() as db:
                db.execute(
                    f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)",
                    (record.key, record.value, record.received, sender, now),
                )
                (mine,) = db.execute(f"SELECT count(*) FROM {table} WHERE sender = ?", (sender,)).fetchone()
                db.execute(
                    f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE sender = ? ORDER BY at LIMIT ?)",
                    (sender, max(0, mine - self._limits.max_values_per_sender)),
                )
                (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
                db.execute(
                    f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} ORDER BY at LIMIT ?)",
                    (max(0, count - self._limits.max_values),),
                )
        except KacheryError as error:
            log.warning("a value record is lost: %s", error)
            return False
        return True

    def get(self, key: bytes, now: float) -> ValueRecord | None:
        """The record of a key, unless it has expired."""
        try:
            rows = self._db.read(
                f"SELECT value, received FROM {self._table} WHERE key = ? AND at > ?", (key, now - limits.VALUE_TTL)
            )
        except KacheryError as error:
            log.warning("value records cannot be read: %s", error)
            return None
        return ValueRecord(key, rows[0][0], rows[0][1]) if rows else None

    def purge(self, now: float) -> int:
        """Drop what has expired; how many.

        Raises:
            RepoError, DiskFull, NoPermission: the database cannot be written.
        """
        with self._db.write() as db:
            return db.execute(f"DELETE FROM {self._table} WHERE at <= ?", (now - limits.VALUE_TTL,)).rowcount
