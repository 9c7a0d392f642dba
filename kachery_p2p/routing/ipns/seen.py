"""The newest record that was seen of each name, in the routing database.

Whoever is asked for a record may have an old one, or send it on purpose. One that is older than what was seen before is
not believed; and while what was seen is valid it can stand in where nobody answers.
"""

from __future__ import annotations

import logging

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.ipns import limits

log = logging.getLogger("kachery_p2p.routing")


class SeenRecords:
    """Records by name; each has been validated when it came. Times are seconds since the epoch.

    Args:
        db: where they are kept.
        most: how many are.

    Raises:
        RepoError, DiskFull, NoPermission: the database cannot be used.
    """

    def __init__(self, db: Database, most: int = limits.MAX_SEEN) -> None:
        self._db = db
        self._most = most
        db.create("""
            CREATE TABLE IF NOT EXISTS ipns_seen (name BLOB PRIMARY KEY, record BLOB NOT NULL, at REAL NOT NULL);
            CREATE INDEX IF NOT EXISTS ipns_seen_at ON ipns_seen (at);
        """)

    def get(self, name: bytes) -> tuple[bytes, float] | None:
        """The newest record of a name and when it was last heard; None where none was seen."""
        try:
            rows = self._db.read("SELECT record, at FROM ipns_seen WHERE name = ?", (name,))
        except KacheryError as error:
            log.warning("the records of names cannot be read: %s", error)
            return None
        return (rows[0][0], rows[0][1]) if rows else None

    def put(self, name: bytes, record: bytes, now: float) -> None:
        """This is the newest record of a name, as was heard now. Those not heard of for longest make room."""
        try:
            with self._db.write() as db:
                db.execute("INSERT OR REPLACE INTO ipns_seen VALUES (?, ?, ?)", (name, record, now))
                (count,) = db.execute("SELECT count(*) FROM ipns_seen").fetchone()
                db.execute(
                    "DELETE FROM ipns_seen WHERE name IN (SELECT name FROM ipns_seen ORDER BY at LIMIT ?)",
                    (max(0, count - self._most),),
                )
        except KacheryError as error:
            log.warning("the record of a name cannot be remembered: %s", error)
