"""Keeping a data directory under a limit: what nobody stored, linked, pinned or named goes, least recently used first.

That is what was only loaded: by programs of this machine, for a gateway, in part or whole. It came from somebody else,
and can be loaded again. What goes is removed as the user would remove it (removal.py), root by root, so a process that
is killed in the middle leaves nothing half removed, and what is being loaded stays.

When a root was used last is known coarsely: to the hour for what programs of this machine read, to a minute or so for
what peers and gateways were given (`Inventory.served`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from heapq import merge

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import RepoBusy
from kachery_p2p.repo.catalog import MISSING, Catalog
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.kept_rows import LOADED, KeptRoot
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import CANDIDATES, LEFTOVER_SECONDS
from kachery_p2p.repo.removal import Removal
from kachery_p2p.repo.root_keys import cid_of

#: Removes one root; the bytes that are free then.
Remove = Callable[[KeptRoot], int]


@dataclass(frozen=True)
class Evicted:
    """A root that went.

    Attributes:
        cid: of it.
        freed: bytes that are free now, or will be when its pack is compacted.
        used: when it was last used, as far as is known; seconds since 1970.
    """

    cid: CID
    freed: int
    used: float


class Eviction:
    """Makes room in one data directory."""

    def __init__(self, layout: Layout, catalog: Catalog, inventory: Inventory, removal: Removal) -> None:
        self._layout = layout
        self._catalog = catalog
        self._inventory = inventory
        self._removal = removal

    def bytes_here(self) -> int:
        """Bytes that the data directory takes now, without what is linked. Quick: not every file is looked at."""
        (own,) = self._catalog.one(
            "SELECT coalesce(sum(size), 0) FROM "
            f"(SELECT DISTINCT inode, size FROM files WHERE linked = 0 AND state <> {MISSING})"
        )
        layout = self._layout
        flat = (layout.packs, layout.partial, layout.temporary, layout.damaged)
        return own + sum(_bytes_in(folder) for folder in map(str, flat)) + _bytes_in(str(layout.directory))

    def cached_bytes(self) -> int:
        """Bytes of what may go, as the catalog has them: about, for files that several folders have count for each."""
        (loaded,) = self._catalog.one(
            f"SELECT coalesce(sum(r.size), 0) FROM kept k JOIN roots r ON r.key = k.key WHERE {_MAY_GO}"
        )
        return loaded + _bytes_in(str(self._layout.partial))

    def order(self, now: float, pinned: Set[bytes] = frozenset(), rest: float = 0.0) -> Iterator[KeptRoot]:
        """What may go, as it is now: what no list has, and then the least recently used first.

        Args:
            now: seconds since 1970.
            pinned: keys (binary CIDv1) of what stays all the same, since it is to be pinned elsewhere.
            rest: seconds for which what was used stays.
        """
        for cid, size, added in self._removal.leftovers():
            if added < now - LEFTOVER_SECONDS:
                yield KeptRoot(cid, False, LOADED, size, size, added, added, copied=True)
        parts = sorted((root.used, root.key, root.cid.version) for root in self._inventory.in_part())
        for used, key, version in merge(self._loaded(), parts):
            if used > now - rest:
                return
            root = None if key in pinned else self._inventory.get(cid_of(key, version))
            if root is not None and _may_go(root) and root.used <= now - rest:
                yield root

    def _loaded(self) -> Iterator[tuple[float, bytes, int]]:
        """What was only loaded, by its last use: when that was, key and version. Some thousand are read at a time."""
        last: tuple[float, bytes] = (-1.0, b"")
        while rows := self._catalog.all(
            "SELECT k.used, k.key, r.version FROM kept k JOIN roots r ON r.key = k.key "
            f"WHERE {_MAY_GO} AND (k.used, k.key) > (?, ?) ORDER BY k.used, k.key LIMIT {CANDIDATES}",
            last,
        ):
            yield from rows
            last = rows[-1][:2]

    def evict(
        self,
        most: int,
        *,
        now: float,
        rest: float,
        pinned: Set[bytes] = frozenset(),
        remove: Remove | None = None,
        roots: int | None = None,
    ) -> list[Evicted]:
        """Remove until so many bytes are free, or nothing more may go.

        Args:
            most: bytes that are to become free.
            now: seconds since 1970.
            rest: seconds for which what was used stays.
            pinned: see `order`.
            remove: how a root is removed; None for `Removal.remove`.
            roots: that are removed at most.

        Returns:
            What went. What is being loaded, or was used meanwhile, stays.
        """
        gone: list[Evicted] = []
        freed = 0
        for root in self.order(now, pinned, rest):
            if freed >= most or (roots is not None and len(gone) >= roots):
                break
            try:
                size = self._remove(root) if remove is None else remove(root)
            except RepoBusy as busy:
                if busy.storing:
                    break  # nothing goes meanwhile, and each would be waited for
                continue  # it is being loaded, or was used just now
            freed += size
            gone.append(Evicted(root.cid, size, root.used))
        return gone

    def _remove(self, root: KeptRoot) -> int:
        done = self._removal.remove(root, more=True)
        return done.freed + done.packed


#: Of a row of `kept`: that it was only loaded, and that the user gave it no name.
_MAY_GO = f"k.how = {LOADED} AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.key = k.key AND l.given)"


def _may_go(root: KeptRoot) -> bool:
    return root.how & ~LOADED == 0 and not root.given and root.copied and root.here > 0


def _bytes_in(folder: str) -> int:
    """Bytes that the files in a folder take, without those in folders below it."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_file(follow_symlinks=False):
                    total += min(status.st_size, getattr(status, "st_blocks", 1 << 40) * 512)
    except FileNotFoundError:
        return 0
    return total
