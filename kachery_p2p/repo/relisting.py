"""Finding out what the user keeps, where the catalog does not tell: of an older version, or one that was lost.

A catalog that is lost takes times with it, and which of the things without a label were loaded: they count as stored
then. Labels, and what was loaded, are in `labels.txt` (labels.py), but for those of the last seconds before a loss of
power.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.catalog import DIRECTORY, Catalog
from kachery_p2p.repo.claim_rows import bind_found
from kachery_p2p.repo.folder_parts import restore_parts
from kachery_p2p.repo.kept_rows import LINKED, STORED, Label, keep_row, label_row
from kachery_p2p.repo.labels import LabelRecord
from kachery_p2p.repo.limits import ROW_BATCH
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.second_place import old_labels
from kachery_p2p.repo.serving import BlockReader
from kachery_p2p.repo.tree import read_tree


def take_over(catalog: Catalog, reader: BlockReader) -> None:
    """Find out what was stored or linked by itself where nothing says so: all that is in no folder.

    Whether it was stored or loaded cannot be told for all, so it counts as stored: that is removed only when it is
    asked for by name.
    """
    known = {key for (key,) in catalog.all("SELECT key FROM kept")}
    missing = [row for row in outer_roots(catalog, reader) if row[0] not in known]
    for start in range(0, len(missing), ROW_BATCH):
        with catalog.write() as db:
            db.executemany(
                "INSERT OR IGNORE INTO kept (key, how, added, used, whole) VALUES (?, ?, ?, ?, NULL)",
                [(key, how, added, added) for key, how, added, _ in missing[start : start + ROW_BATCH]],
            )


def restore(catalog: Catalog, records: Iterable[LabelRecord]) -> None:
    """Take in what was written down beside a catalog which was lost, for the roots that are here.

    A record whose `how` is 0 only tells a label.
    """
    here = {key for (key,) in catalog.all("SELECT key FROM roots")}
    records = list(records)
    with catalog.write() as db:
        restore_parts(db, records, here)
        in_part = {key for (key,) in db.execute("SELECT root FROM parts")}
        for record in records:
            key = bytes(record.cid.to_v1())
            if record.of is None and key in in_part and record.label is not None:
                label_row(db, key, Label(record.label, record.given), record.added)
            if record.of is None and key in here:
                if record.how:
                    bind_found(db, key, record.cid.multihash)
                    keep_row(db, key, record.how, record.added, whole=None)
                if record.label is not None:
                    label_row(db, key, Label(record.label, record.given), record.added)
        db.execute(f"UPDATE kept SET whole = NULL WHERE key IN (SELECT key FROM roots WHERE kind = {DIRECTORY})")


def relist(catalog: Catalog, records: Iterable[LabelRecord]) -> list[CID]:
    """List what was found again after a loss of power and had a label, as that was written down; its roots."""
    kept = {key for (key,) in catalog.all("SELECT key FROM kept UNION SELECT key FROM going")}
    parts = set(catalog.all("SELECT root, key FROM parts"))
    lost = [record for record in records if not _known(record, kept, parts)]
    if lost:
        restore(catalog, lost)
    return [record.cid for record in lost]


def _known(record: LabelRecord, kept: Set[bytes], parts: Set[tuple[bytes, bytes]]) -> bool:
    key = bytes(record.cid.to_v1())
    return key in kept if record.of is None else (bytes(record.of.to_v1()), key) in parts


def bring_back(catalog: Catalog, reader: BlockReader, records: Iterable[LabelRecord], old: Path) -> None:
    """Fill the list of a catalog that is made anew: by `labels.txt`, and what the old catalog still tells."""
    restore(catalog, old_labels(old))
    restore(catalog, records)
    take_over(catalog, reader)


def outer_roots(catalog: Catalog, reader: BlockReader) -> Iterator[tuple[bytes, int, float, tuple[int, int, int]]]:
    """All roots that are in no folder: key, how, when added, and (version, kind, size)."""
    rows = catalog.all(
        "SELECT r.key, r.version, r.kind, r.size, r.added, "
        "(SELECT max(f.linked) FROM files f WHERE f.root = r.id) FROM roots r ORDER BY r.added"
    )
    inside: set[bytes] = {key for (key,) in catalog.all("SELECT key FROM parts")}
    for key, version, kind, _, _, _ in rows:
        if kind == DIRECTORY:
            inside.update(bytes(cid.to_v1()) for cid in read_tree(cid_of(key, version), reader.nodes).files)
    for key, version, kind, size, added, linked in rows:
        if key not in inside:
            yield key, LINKED if linked else STORED, added, (version, kind, size)
