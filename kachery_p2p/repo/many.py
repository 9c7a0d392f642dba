"""Many small files at once: what is here of them, with a look-up for hundreds."""

from __future__ import annotations

from collections.abc import Sequence

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.packs import PackedFile
from kachery_p2p.repo.placing import Placer


class ManyFiles:
    """Answers for many files together. Safe to use from many threads."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._packs = placer.reader.packs

    def packed(self, cids: Sequence[CID]) -> dict[CID, PackedFile]:
        """Those of the files that lie in packs, as the catalog says. They are not read."""
        places = self._packs.files(cids)
        found = ((cid, places.get(bytes(cid.to_v1()))) for cid in cids)
        return {cid: PackedFile(cid, place, self._packs) for cid, place in found if place is not None}

    def lacking(self, cids: Sequence[CID]) -> set[CID]:
        """Those of the files of which nothing is here that `Repo.file_size` would find.

        Where most are not here, that is told much sooner for all than for each.
        """
        if self._placer.catalog.in_memory:
            return set()  # what packs have is taken in when it is looked for
        known = self._placer.root_sizes(cids)
        unknown = {cid for cid in cids if bytes(cid.to_v1()) not in known}
        return unknown - self._placer.layout.may_hold(unknown)
