"""Folders of which a part is here, because files in them were read by their paths: a row for the folder, not for each.

`parts` has a row for each file of which something was read through a folder that is not here as a whole. Such a folder
has a row in `kept`, with 0 for `how`, and none in `roots`. It is listed with what is here of it, and removing it takes
that away; when all of it is loaded, it becomes a folder like others, and its rows in `parts` go.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import KacheryError, UnsupportedCID
from kachery_p2p.repo.kept_rows import KeptRoot, Label
from kachery_p2p.repo.labels import LabelRecord
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.root_keys import cid_of


class PartialFolder(NamedTuple):
    """A folder of which a part is here: when that was first loaded and last used, and the files."""

    cid: CID
    added: float
    used: float
    files: tuple[CID, ...]


class FolderParts:
    """The parts of folders that are in one data directory."""

    def __init__(self, placer: Placer) -> None:
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._root_sizes = placer.root_sizes

    def has(self, root: CID, file: CID) -> bool:
        """Whether a file is known as a part of a folder, or that folder is kept as a whole."""
        row = self._catalog.one(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM parts WHERE root = ?1 AND key = ?2) "
            "OR EXISTS (SELECT 1 FROM kept k JOIN roots r ON r.key = k.key WHERE k.key = ?1)",
            (bytes(root.to_v1()), bytes(file.to_v1())),
        )
        return row is not None

    def folders(self, only: bytes | None = None) -> list[PartialFolder]:
        """All such folders, or the one that has this key."""
        where, more = ("AND p.root = ?", (only,)) if only is not None else ("", ())
        found: dict[bytes, tuple[CID, float, float, list[CID]]] = {}
        for root, root_version, added, used, key, version in self._catalog.all(
            "SELECT p.root, p.root_version, k.added, k.used, p.key, p.version FROM parts p "
            "JOIN kept k ON k.key = p.root "
            f"WHERE NOT EXISTS (SELECT 1 FROM roots r WHERE r.key = p.root) {where} ORDER BY p.rowid",
            more,
        ):
            row = found.setdefault(root, (cid_of(root, root_version), added, used, []))
            row[3].append(cid_of(key, version))
        return [PartialFolder(cid, added, used, tuple(files)) for cid, added, used, files in found.values()]

    def unfinished(self, file: CID) -> int:
        """Bytes of a file that are in its partial file; 0 where there is none."""
        try:
            status = os.stat(self._layout.partial_for(file))
        except (OSError, UnsupportedCID):
            return 0
        return min(getattr(status, "st_blocks", 0) * 512, status.st_size)

    def kept(self, folder: PartialFolder, whole: Set[bytes], labels: tuple[Label, ...]) -> Iterator[KeptRoot]:
        """Such a folder as it is listed; not where nothing of it is here any more.

        Args:
            folder: which.
            whole: the keys of those of its files that are here whole.
            labels: of it.
        """
        here = sum(self._root_sizes([cid for cid in folder.files if bytes(cid.to_v1()) in whole]).values())
        here += sum(self.unfinished(cid) for cid in folder.files if bytes(cid.to_v1()) not in whole)
        if here:
            stated = self._stated_size(folder.cid)
            size = None if stated is None else max(stated, here)
            times = folder.added, folder.used
            yield KeptRoot(
                folder.cid, True, 0, size, here, *times, labels, copied=True, whole=False, problem="incomplete"
            )

    def _stated_size(self, root: CID) -> int | None:
        """What the node of a folder says of the bytes in it, a little more than those of its files; None without it."""
        block = self._catalog.get_node(root.multihash) if root.codec == DAG_PB else None
        if block is None:
            return None
        try:
            return sum(link.tsize or 0 for link in decode_node(block).links)
        except KacheryError:
            return None


def part_row(db: sqlite3.Connection, root: CID, file: CID, now: float) -> None:
    """Note that a file is a part of a folder that is here in part, in a transaction of the caller's."""
    key = bytes(root.to_v1())
    db.execute(
        "INSERT INTO kept (key, how, added, used, whole) VALUES (?1, 0, ?2, ?2, 0) "
        "ON CONFLICT (key) DO UPDATE SET used = max(used, excluded.used)",
        (key, now),
    )
    db.execute(
        "INSERT OR IGNORE INTO parts (root, root_version, key, version) VALUES (?, ?, ?, ?)",
        (key, root.version, bytes(file.to_v1()), file.version),
    )


def restore_parts(db: sqlite3.Connection, records: Iterable[LabelRecord], here: set[bytes]) -> None:
    """Take in the parts that were written down beside a catalog which was lost; not of folders that are here whole."""
    for record in records:
        if record.of is not None and bytes(record.of.to_v1()) not in here:
            part_row(db, record.of, record.cid, record.added)
