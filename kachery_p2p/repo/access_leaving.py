"""What becomes of claims when roots are removed, and when something was interrupted. See removal.py."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from kachery_p2p.access.audience import Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import DiskFull
from kachery_p2p.repo.access_interface import Access
from kachery_p2p.repo.access_records import AccessRecord
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.claim_rows import access_of_block, narrow_public, parsed, release
from kachery_p2p.repo.dag_blocks import each_block
from kachery_p2p.repo.limits import FORMER_SECONDS, MAX_FORMER, ORPHAN_SECONDS
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import BlockReader


class Leaving:
    """Sees to that. Part of `RootAccess`."""

    def __init__(self, access: Access, catalog: Catalog, reader: BlockReader) -> None:
        self._access = access
        self._catalog = catalog
        self._reader = reader

    def going(self, db: sqlite3.Connection, key: bytes, *, stays: bool) -> None:
        """A root was taken off the list, in a transaction of the caller's; `stays` as a part of others."""
        row = db.execute("SELECT id, audience FROM access WHERE key = ?", (key,)).fetchone()
        multihash = cid_of(key, 1).multihash
        if row is not None:
            # Whoever loads it again by its CID alone must not ask everybody.
            former = (multihash, row[1], time.time())
            db.execute("INSERT OR REPLACE INTO formerly (multihash, audience, gone) VALUES (?, ?, ?)", former)
        else:
            db.execute("DELETE FROM formerly WHERE multihash = ?", (multihash,))
            # A public one: what it shares with others is looked at once more when it is gone.
            db.execute("UPDATE access SET added = 1 WHERE id = 0 AND EXISTS (SELECT 1 FROM claims WHERE access = 0)")
        if row is not None and stays:
            release(db, row[0])

    def formerly(self, multihash: bytes) -> Audience | None:
        """For whom a root was that was removed here lately; None where that is not known, or it was for everybody."""
        row = self._catalog.one(
            "SELECT audience FROM formerly WHERE multihash = ? AND gone >= ?", (multihash, time.time() - FORMER_SECONDS)
        )
        return None if row is None else parsed(row[0])

    def forget(self, cids: Sequence[CID]) -> None:
        """Write down that some roots are not kept any more: what was public of them is not for everyone for ever."""
        if self._access.records.begun():
            with suppress(DiskFull):
                self._access.records.append([AccessRecord(cid, None) for cid in cids], durable=True)

    def gone(self, keys: Sequence[bytes], *, more: bool = False) -> None:
        """The blocks of some roots are gone, but for what others need. `more` follow, and then `look_again`."""
        if self._access.any_restricted() or self._catalog.one("SELECT 1 FROM access WHERE id <> 0 LIMIT 1") is not None:
            with self._catalog.write() as db:
                for key in keys:
                    row = db.execute("SELECT id FROM access WHERE key = ?", (key,)).fetchone()
                    if row is not None and not _is_kept(db, key):
                        release(db, row[0])
        if not more:
            self.look_again()

    def needs_look(self) -> bool:
        """Whether a public root has gone, and it was not looked at yet for whom its blocks are that are still here."""
        return self._catalog.one("SELECT 1 FROM access WHERE id = 0 AND added > 0") is not None

    def look_again(self) -> None:
        """Where a public root has gone, find out which blocks no public root has any more.

        The caller has the lock of who removes.
        """
        if not self.needs_look():
            return
        left = {each for (each,) in self._catalog.all("SELECT multihash FROM claims WHERE access = 0")}
        for root in self._access.public_roots() if left else ():
            for some in each_block(root, self._reader.nodes):
                left.difference_update(some)
        with self._catalog.write(durable=True) as db:
            narrow_public(db, left)
            db.execute("UPDATE access SET added = 0 WHERE id = 0")

    def tidy(self, partial: Collection[bytes]) -> None:
        """Drop claims of what was interrupted long ago and of which nothing is here.

        The caller has the lock of who removes.

        Args:
            partial: multihashes of files that are loaded in part: their claims stay.
        """
        lost = "SELECT DISTINCT access, NULL, '', 0 FROM claims WHERE access NOT IN (SELECT id FROM access)"
        if self._catalog.one(f"{lost} LIMIT 1") is not None:
            with self._catalog.write() as db:  # as of a load that went on when its claim had ended
                db.execute(f"INSERT INTO access (id, key, audience, added) {lost}")
        rows = self._catalog.all(
            "SELECT a.id FROM access a WHERE a.id <> 0 AND a.added < ? AND coalesce(substr(a.key, 1, 1) <> x'00', 1) "
            "AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.key = a.key)",
            (time.time() - ORPHAN_SECONDS,),
        )
        for (row,) in rows:
            with self._catalog.write() as db:
                if not any(row in access_of_block(db, each) for each in partial):
                    release(db, row)
        if not self._catalog.read_only:
            self._access.records.tidy()
            if self._catalog.one("SELECT 1 FROM formerly LIMIT 1") is not None:
                with self._catalog.write() as db:
                    db.execute("DELETE FROM formerly WHERE gone < ?", (time.time() - FORMER_SECONDS,))
                    db.execute(
                        "DELETE FROM formerly WHERE multihash IN "
                        f"(SELECT multihash FROM formerly ORDER BY gone DESC LIMIT -1 OFFSET {MAX_FORMER})"
                    )


def _is_kept(db: sqlite3.Connection, key: bytes) -> bool:
    return db.execute("SELECT 1 FROM kept WHERE key = ?", (key,)).fetchone() is not None
