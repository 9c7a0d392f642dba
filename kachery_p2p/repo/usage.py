"""What takes the room of a data directory, by why it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kachery_p2p.repo.catalog import OK, Catalog
from kachery_p2p.repo.compaction import used_bytes
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.kept_rows import LINKED, LOADED, PINNED, STORED
from kachery_p2p.repo.layout import Layout, files_below
from kachery_p2p.repo.packs import PackReader


@dataclass(frozen=True)
class Usage:
    """Bytes and files of one kind.

    Attributes:
        what: "stored", "loaded", "partial", "unlisted" (of stores and loads that were interrupted, or in no folder any
            more), "holes" (of packs), "damaged" (copies that were set aside), "unfinished" (stores under way),
            "catalog" (with the records beside it), and "linked", which take no room here.
        files: how many.
        bytes: of them.
    """

    what: str
    files: int
    bytes: int


class UsageReader:
    """Adds up what is in one data directory."""

    def __init__(self, layout: Layout, catalog: Catalog, packs: PackReader, inventory: Inventory) -> None:
        self._layout = layout
        self._catalog = catalog
        self._packs = packs
        self._inventory = inventory

    def read(self) -> list[Usage]:
        """All kinds, in the order above."""
        why = self._why()
        found = {what: [0, 0] for what in ("stored", "loaded", "partial", "unlisted")}
        linked = [0, 0]
        seen: set[int] = set()
        for key, is_linked, size, inode in self._catalog.all(
            f"SELECT r.key, f.linked, f.size, f.inode FROM files f JOIN roots r ON r.id = f.root WHERE f.state = {OK}"
        ):
            row = linked if is_linked else found[why.get(key, "unlisted")]
            row[0] += 1
            # Two names of the same bytes take their room once.
            row[1] += 0 if inode in seen and not is_linked else size
            seen.add(inode)
        for key, length in self._catalog.all("SELECT r.key, p.length FROM packed p JOIN roots r ON r.id = p.root"):
            row = found[why.get(key, "unlisted")]
            row[0] += 1
            row[1] += length
        unused = sum(
            max(0, path.stat().st_size - used_bytes(self._catalog, number))
            for number in self._packs.numbers()
            if (path := self._packs.path_of(number)).exists()
        )
        rows = [Usage(what, *counted) for what, counted in found.items()]
        partial = _sum(files_below(self._layout.partial), on_disk=True)
        rows[2] = Usage("partial", *partial)
        rows.append(Usage("holes", 0, unused))
        rows.append(Usage("damaged", *_sum(files_below(self._layout.damaged))))
        rows.append(Usage("unfinished", *_sum(files_below(self._layout.temporary), on_disk=True)))
        rows.append(Usage("catalog", *_sum(self._records())))
        rows.append(Usage("linked", *linked))
        return rows

    def _why(self) -> dict[bytes, str]:
        """Why each file is here: what is stored is not counted as loaded as well."""
        found: dict[bytes, str] = {}
        kept = self._catalog.all("SELECT key, how FROM kept")
        folders = dict(self._inventory.folders())
        for how, what in ((LOADED | PINNED, "loaded"), (STORED | LINKED, "stored")):
            for key, done in kept:
                if done & how:
                    found[key] = what
                    if key in folders:
                        members = self._inventory.members(folders[key]).files
                        found.update((bytes(cid.to_v1()), what) for cid in members)
            if what == "loaded":
                found.update((key, what) for (key,) in self._catalog.all("SELECT key FROM parts"))
        return found

    def _records(self) -> Iterator[Path]:
        directory = self._layout.directory
        for pattern in ("*.sqlite*", "labels.txt"):
            yield from directory.glob(pattern)
        for folder in (self._layout.nodes, self._layout.links):
            yield from files_below(folder)


def _sum(paths: Iterator[Path], *, on_disk: bool = False) -> tuple[int, int]:
    """How many files, and their bytes; with `on_disk`, without their holes."""
    count = size = 0
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        count += 1
        size += min(status.st_size, getattr(status, "st_blocks", 1 << 40) * 512) if on_disk else status.st_size
    return count, size
