"""What must be so before anything in a repo is restricted: no older program serves it, and `access.txt` is there."""

from __future__ import annotations

import os

from kachery_p2p.access.audience import PUBLIC
from kachery_p2p.errors import RepoError
from kachery_p2p.repo.access_records import AccessRecord, AccessRecords
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.claim_rows import parsed
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.root_keys import cid_of


class Beginning:
    """Sees to that, for one repo."""

    def __init__(self, layout: Layout, catalog: Catalog, records: AccessRecords) -> None:
        self._layout = layout
        self._catalog = catalog
        self._records = records
        self._ready = False

    def begin(self) -> None:
        """See to what must be before anything is restricted: no program that knows nothing of it, and `access.txt`.

        Raises:
            RepoError: such a program may be running.
        """
        if not self._catalog.keeps_older_out:
            self.keep_older_out()
            if not self._catalog.keeps_older_out:
                raise RepoError(
                    f"A node of an older version of this program runs in {self._layout.directory}. It would give "
                    "to everyone what is for some. Stop it, and do this again then: kachery-cloud node stop"
                )
        if not self._ready and not self._records.complete():
            self.write_records()
        self._ready = True

    def write_records(self) -> None:
        """Write `access.txt` anew: for whom each root is that is kept now."""
        self._records.begin(
            AccessRecord(cid_of(key, version), PUBLIC if text is None else parsed(text))
            for key, version, text in self._catalog.all(
                "SELECT k.key, coalesce(r.version, 1), a.audience FROM kept k LEFT JOIN roots r ON r.key = k.key "
                "LEFT JOIN access a ON a.key = k.key ORDER BY k.added"
            )
        )

    def keep_older_out(self) -> None:
        """Note in the catalog that no older program is the node, where none is; it cannot become it then."""
        if self._catalog.read_only:
            return
        lock = NodeLock(self._layout.directory)
        holder = lock.holder() if lock.is_held() else None
        if holder is None or (holder.pid == os.getpid() and not holder.is_elsewhere):
            self._catalog.keep_older_out()
