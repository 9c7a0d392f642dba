"""What removals would free, one after the other, without removing anything.

A file that several have goes with the last of them, and is counted once: with that one. So each removal is played
through as `Removal.remove` does it, on numbers that were read once. Tidying up before and after is a part of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import UnsupportedCID
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.checking import Checker
from kachery_p2p.repo.compaction import is_wasteful, pack_contents
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.kept_rows import KeptRoot
from kachery_p2p.repo.limits import PACK_BYTES
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.packs import HEADER
from kachery_p2p.repo.partials import Partials, partial_bytes
from kachery_p2p.repo.placing import Placer


class Foresight:
    """Plays removals of one repo through, from how it is now.

    Args:
        counts: how many of the folders that are listed have each file, by its key.
        aside: the damaged copies that were set aside, by the names of their CIDs.
    """

    def __init__(
        self,
        placer: Placer,
        checker: Checker,
        inventory: Inventory,
        partials: Partials,
        *,
        counts: Mapping[bytes, int],
        aside: Mapping[str, Collection[Path]],
    ) -> None:
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._checker = checker
        self._inventory = inventory
        self._named = Named(placer.layout)
        self._counts = Counter(counts)
        self._aside = aside
        self._kept = {key for (key,) in self._catalog.all("SELECT key FROM kept")}
        self._gone: set[bytes] = set()
        #: Names of the same bytes that are gone, by device and inode.
        self._unlinked: Counter[tuple[int, int]] = Counter()
        unneeded = set(partials.unneeded())
        self._partial = {
            cid: partial_bytes(self._layout.partial_for(cid)) for cid in partials.all() if cid not in unneeded
        }
        self._packs = _Packs(
            {
                number: (size, pack_contents(self._catalog, number))
                for number in self._reader.packs.numbers()
                if (size := _size(self._reader.packs.path_of(number))) is not None
            }
        )
        self._packs.compact()

    def remove(self, root: KeptRoot) -> tuple[int, int]:
        """Play the removal of a root through.

        Returns:
            Bytes that would be free then, as `Removed.freed` and `packed` have them together; and how many files of it
            would stay.
        """
        if not root.directory:
            gone, shared = ([], 1) if self._counts[root.key] > 0 else ([root.cid], 0)
        else:
            files = {bytes(cid.to_v1()): cid for cid in self._inventory.files_of(root)}
            gone = [cid for key, cid in files.items() if self._counts[key] <= 1 and key not in self._kept]
            shared = len(files) - len(gone)
            self._counts.subtract(files.keys())
        self._kept.discard(root.key)
        freed = sum(self._partial.pop(cid, 0) for cid in {root.cid, *gone})
        return freed + sum(map(self._take, gone)), shared

    def bytes_left(self) -> int:
        """Bytes of files that would be in the data directory then, after tidying up: as `UsageReader` counts them."""
        self._packs.compact()
        left, seen = 0, set[int]()
        for key, size, inode in self._catalog.all(
            f"SELECT r.key, f.size, f.inode FROM files f JOIN roots r ON r.id = f.root WHERE f.state = {OK} "
            "AND f.linked = 0"
        ):
            if key not in self._gone and inode not in seen:
                seen.add(inode)
                left += size
        for key, length in self._catalog.all("SELECT r.key, p.length FROM packed p JOIN roots r ON r.id = p.root"):
            left += 0 if key in self._gone else length
        return left + sum(self._partial.values()) + self._packs.holes()

    def _take(self, cid: CID) -> int:
        """Bytes that go with a file of which nothing is to stay."""
        key = bytes(cid.to_v1())
        if key in self._gone:
            return 0
        self._gone.add(key)
        packed = self._reader.packs.files([cid]).get(key)
        self._packs.take(key)
        for status in self._names(cid):
            self._unlinked[status.st_dev, status.st_ino] += 1
        return (0 if packed is None else packed.length) + sum(map(self._unlink, sorted(self._copies(cid))))

    def _copies(self, cid: CID) -> set[Path]:
        rows = self._checker.rows(cid)
        found = {Path(os.fsdecode(self._reader.absolute(row.path, 0))) for row in rows if not row.linked}
        with suppress(UnsupportedCID):
            found |= {self._layout.path_for(cid), *self._aside.get(self._layout.name_for(cid), ())}
        return found

    def _names(self, cid: CID) -> Iterator[os.stat_result]:
        """The further names of a copy; a symbolic link is one that nobody counts."""
        with suppress(UnsupportedCID):
            for path in self._named.of(cid):
                with suppress(OSError):
                    yield os.lstat(path)

    def _unlink(self, path: Path) -> int:
        try:
            status = os.lstat(path)
        except OSError:
            return 0
        inode = status.st_dev, status.st_ino
        others = status.st_nlink - self._unlinked[inode] > 1
        self._unlinked[inode] += 1
        return 0 if others else partial_bytes(path)


class _Packs:
    """Packs as removals leave them: of each its size, and the bytes of its sections by the keys of their files."""

    def __init__(self, packs: dict[int, tuple[int, dict[bytes, int]]]) -> None:
        self._packs = packs

    def take(self, key: bytes) -> None:
        """A file goes; a pack that is empty then goes, too."""
        for number in [number for number, (_, files) in self._packs.items() if key in files]:
            _, files = self._packs[number]
            del files[key]
            if not files:
                del self._packs[number]

    def compact(self) -> None:
        """As `compaction.compact`."""
        for number in sorted(self._packs):
            size, files = self._packs[number]
            if not is_wasteful(size, _used(files)):
                continue
            del self._packs[number]
            if files:
                room = (other for other in sorted(self._packs) if self._packs[other][0] < PACK_BYTES)
                target = next(room, number + len(self._packs) + 1)
                there, others = self._packs.get(target, (len(HEADER), {}))
                self._packs[target] = there + sum(files.values()), {**others, **files}

    def holes(self) -> int:
        """Bytes that are of no use."""
        return sum(max(0, size - _used(files)) for size, files in self._packs.values())


def _used(files: Mapping[bytes, int]) -> int:
    return (len(HEADER) if files else 0) + sum(files.values())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
