"""Signed requests that were taken, for as long as they could come again: a table of `lab.sqlite`.

It is in the file, not in memory, so that a node that was restarted takes none a second time.
"""

from __future__ import annotations

import hashlib

from kachery_cloud.lab import limits
from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_cloud.lab.signed_requests import Signed
from kachery_p2p.pinning.server.requests import Refusal

TABLES = Tables(
    "nonces",
    (
        """
        CREATE TABLE nonces (hash BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
        CREATE INDEX nonces_by_until ON nonces (until)
        """,
    ),
)
#: One in so many additions takes away those that have had their time.
_SWEEP = 64


class Nonces:
    """Which signed requests were taken. Safe to use from many threads and by many processes.

    Args:
        database: of the lab.
        most: that are remembered.
    """

    def __init__(self, database: LabDatabase, *, most: int = limits.MAX_NONCES) -> None:
        self._database = database
        self._most = most
        self._added = 0
        database.use(TABLES)

    def take(self, signed: Signed) -> bool:
        """Take a request; whether it is new.

        Raises:
            Refusal: there are more than can be remembered, so that it could not be told.
        """
        key = hashlib.sha256(f"{signed.peer} {signed.nonce}".encode("utf-8", "surrogatepass")).digest()
        now = self._database.wall()
        with self._database.write(durable=False) as db:
            if self._added % _SWEEP == 0:
                db.execute("DELETE FROM nonces WHERE until < ?", (now,))
                (count,) = db.execute("SELECT count(*) FROM nonces").fetchone()
                if count + _SWEEP > self._most:
                    raise Refusal(
                        503, "TOO_MANY_REQUESTS", "Too many signed requests came. Try again.", {"retry-after": "60"}
                    )
            self._added += 1
            # A request is taken until CLOCK_SECONDS after it was made, by our clock.
            until = signed.created + limits.CLOCK_SECONDS + 1
            return db.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", (key, until)).rowcount == 1
