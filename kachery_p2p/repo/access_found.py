"""Blocks that come from where nobody says for whom they are: files without rows, and directories of others beneath."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.access_interface import Access
from kachery_p2p.repo.access_records import AccessRecord
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.claim_rows import OF_LAYER, access_of_block, add_claims, is_claimed, make_public, new_access


class Found:
    """Restricts them. Part of `RootAccess`."""

    def __init__(self, access: Access, catalog: Catalog) -> None:
        self._access = access
        self._catalog = catalog

    def rows_for(self, cid: CID) -> tuple[int, ...]:
        """What a file is claimed by that lies here without rows, or of which some were lost, before they are written.

        One that the catalog knows has the claims of its root. Of another one nobody knows for whom it is, if anything
        was ever restricted here and `access.txt` does not tell: it is for nobody else.
        """
        if self._catalog.read_only:
            return ()
        row = self._catalog.one(
            "SELECT EXISTS (SELECT 1 FROM roots WHERE key = ?), EXISTS (SELECT 1 FROM claims WHERE multihash = ?)",
            (bytes(cid.to_v1()), cid.multihash),
        )
        if row == (0, 0) and self._access.records.begun():
            with self._catalog.write() as db:
                self.claim(db, [cid])
        return tuple(access for (access,) in self._catalog.all(_ACCESS_OF, (cid.multihash,)))

    def claim(self, db: sqlite3.Connection, cids: Sequence[CID]) -> None:
        """The same for several files of one block, in a transaction of the caller's, before their rows are written."""
        if not self._access.records.begun():
            return
        records: dict[bytes, AccessRecord] | None = None
        rows: dict[str, int] = {}
        for cid in cids:
            key = bytes(cid.to_v1())
            known = db.execute("SELECT 1 FROM roots WHERE key = ?", (key,)).fetchone()
            if known is not None or access_of_block(db, cid.multihash) or not is_claimed(cid.multihash):
                continue
            if records is None:
                records = self._access.records.read()[0]
            record = records.get(key)
            audience = PRIVATE if record is None or record.audience is None else record.audience
            if audience.everyone:
                continue
            text = str(audience)
            if text not in rows:
                rows[text] = new_access(db, text)
            add_claims(db, (rows[text],), [cid.multihash])

    def settle(self, listed: Sequence[CID]) -> None:
        """See to roots that were listed again: they are for whom `access.txt` says, or else for whom their blocks are.

        Args:
            listed: those that were listed just now; others may have been, when that was interrupted.
        """
        if self._catalog.read_only or not self._access.any_restricted():
            return
        records = self._access.records.read()[0]
        again = {bytes(cid.to_v1()) for cid in listed}
        for row, cid in self._access.rows_of_roots():
            key = bytes(cid.to_v1())
            if key in again:
                record = records.get(key)
                if record is not None and record.audience is not None:
                    with self._catalog.write() as db:
                        db.execute("UPDATE access SET audience = ? WHERE id = ?", (str(record.audience), row))
                        if record.audience.everyone:
                            make_public(db, row)
                            continue
                self._access.cover((row,), cid)
        for cid in list(self._access.public_roots()):
            audience = self._access.audiences([cid.multihash]).get(cid.multihash)
            if audience is None:
                continue
            key = bytes(cid.to_v1())
            record = records.get(key)
            if record is not None and record.audience == PUBLIC:
                self._access.widen(cid)
                continue
            if record is not None and record.audience is not None:
                audience = record.audience
            with self._catalog.write() as db:
                row = new_access(db, str(audience), key)
            self._access.cover((row,), cid)

    def as_in_layers(self, beneath: Mapping[bytes, Audience]) -> None:
        """Blocks are to be put here that are restricted in a layer: they are for whom they are there, too.

        Args:
            beneath: the blocks, and for whom each is there.
        """
        by_audience: dict[Audience, list[bytes]] = {}
        for multihash, audience in beneath.items():
            by_audience.setdefault(audience, []).append(multihash)
        for audience, multihashes in by_audience.items():
            self._access.begin()
            key = OF_LAYER + str(audience).encode()
            with self._catalog.write() as db:
                row = db.execute("SELECT id FROM access WHERE key = ?", (key,)).fetchone()
                number = new_access(db, str(audience), key) if row is None else row[0]
                add_claims(db, (number,), multihashes)


_ACCESS_OF = "SELECT access FROM claims WHERE multihash = ?"
