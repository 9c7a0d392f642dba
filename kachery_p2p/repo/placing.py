"""Bringing a finished file into its place, and its rows into the catalog. The write order lives here.

    1  the data are in tmp/ (or partial/) and synced
    2  inner nodes are in nodes/, synced: a DAG cut in an unknown way could not be found again from its file alone
    3  the file is renamed into ipfs/, and its folder synced
    4  inner nodes, root, file and leaf rows are committed

Whatever is under ipfs/ is whole. When a process ends between 3 and 4, or the power before the commit of 4 reached the
disk, the file is adopted when it is next asked for (checking.py).
"""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.errors import InvalidProfile, RepoError
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.access import Claim, RootAccess
from kachery_p2p.repo.catalog import CHANGED, DIRECTORY, FILE, OK, WRAP_FILE, WRAP_NONE, Catalog, insert_blocks
from kachery_p2p.repo.claim_rows import add_claims
from kachery_p2p.repo.fileio import Stamp, read_bytes_at, sync_folder
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.leaves import Leaf, MissingNode, walk_leaves
from kachery_p2p.repo.limits import MIB, NODE_SPOOL, ROW_BATCH, SQL_KEYS
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.packing import Packer
from kachery_p2p.repo.records import LinkRecords, NodeRecords
from kachery_p2p.repo.removal_lock import RemovalLock
from kachery_p2p.repo.serving import BlockReader, unchanged

Rows = Iterable[tuple[bytes, int, int, int]]


class NodeSpool:
    """The inner nodes of a DAG being built: in memory while they are few, else in an unnamed file in `tmp/`."""

    def __init__(self, folder: Path) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=NODE_SPOOL, dir=str(folder))  # noqa: SIM115
        self.count = 0

    def add(self, cid: CID, block: bytes) -> None:
        """Keep one node; fits FileBuilder's `on_node`."""
        self._write(cid.multihash, block)

    def take(self, other: NodeSpool) -> None:
        """Keep the nodes of another, too."""
        for multihash, block in other:
            self._write(multihash, block)

    def _write(self, multihash: bytes, block: bytes) -> None:
        self._spool.write(len(multihash).to_bytes(4, "big") + len(block).to_bytes(4, "big"))
        self._spool.write(multihash)
        self._spool.write(block)
        self.count += 1

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        self._spool.seek(0)
        while header := self._spool.read(8):
            multihash = self._spool.read(int.from_bytes(header[:4], "big"))
            yield multihash, self._spool.read(int.from_bytes(header[4:], "big"))

    def close(self) -> None:
        """Forget the nodes."""
        self._spool.close()

    def __enter__(self) -> NodeSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def wrap_of(profile: Profile) -> int:
    """The wrap of the leaves that a profile makes."""
    return WRAP_NONE if profile.raw_leaves else WRAP_FILE


def wrap_by_profile(profile: Profile) -> Callable[[Leaf], int]:
    """The same as a function of the leaf."""
    wrap = wrap_of(profile)
    return lambda leaf: wrap if leaf.cid.codec == DAG_PB else WRAP_NONE


@lru_cache(maxsize=32)
def profile_text(profile: Profile | None) -> str | None:
    """A profile as the catalog keeps it: JSON of its parameters."""
    return None if profile is None else json.dumps(asdict(profile), sort_keys=True)


def profile_from_text(text: str | None) -> Profile | None:
    """The other way; None when it was unknown, or is of parameters this version does not have."""
    if text is None:
        return None
    try:
        return Profile(**json.loads(text))
    except (TypeError, ValueError, InvalidProfile):
        return None


class Placer:
    """Places finished files and records them.

    Attributes:
        access: for whom what is here is.
        claim: what all that is recorded belongs to; None for what is for everyone, or as it was.
    """

    def __init__(self, layout: Layout, catalog: Catalog, reader: BlockReader) -> None:
        self.layout = layout
        self.catalog = catalog
        self.reader = reader
        self.nodes = NodeRecords(layout)
        self.links = LinkRecords(layout)
        self.lock = RemovalLock(layout.directory, read_only=layout.read_only)
        self.access = RootAccess(layout, catalog, reader, self.lock)
        self.packer = Packer(layout, catalog, reader.packs, self.access)
        self.claim: Claim | None = None

    def under(self, claim: Claim | None) -> Placer:
        """The same, for what belongs to a claim."""
        placer = copy.copy(self)
        placer.claim = claim
        return placer

    @property
    def rows(self) -> tuple[int, ...]:
        """What is recorded is claimed by these rows of `access`."""
        return () if self.claim is None else self.claim.rows

    def insert_blocks(self, db: sqlite3.Connection, blocks: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep verified nodes, in a transaction of the caller's."""
        insert_blocks(db, blocks, self.rows)

    def put_blocks(self, blocks: Iterable[tuple[bytes, bytes]]) -> None:
        """The same, in a transaction of their own."""
        self.catalog.put_blocks(blocks, access=self.rows)

    def restore_nodes(self, root: CID) -> bool:
        """Bring the nodes that the catalog has lost of a root back from their record; whether there were any.

        They are for whom the root is.
        """
        recorded = dict(self.nodes.nodes_of(root))
        here = self.reader.nodes(list(recorded))
        lost = [node for node in recorded.items() if node[0] not in here]
        if lost:
            self.catalog.put_blocks(lost, access=self.access.found.rows_for(root))
        return bool(lost)

    def root_sizes(self, cids: Sequence[CID]) -> dict[bytes, int]:
        """The sizes in bytes of those of the roots that are known, by binary CIDv1."""
        found: dict[bytes, int] = {}
        for start in range(0, len(cids), SQL_KEYS):
            keys = [bytes(cid.to_v1()) for cid in cids[start : start + SQL_KEYS]]
            marks = ",".join("?" * len(keys))
            found.update(self.catalog.all(f"SELECT key, size FROM roots WHERE key IN ({marks})", keys))
        return found

    def own_copy(self, cid: CID) -> tuple[Path, int] | None:
        """(path, size) of our own copy of a root if it is there and unchanged; one lookup and one stat."""
        for path, size, mtime_ns, ctime_ns, inode in self.catalog.all(
            "SELECT f.path, f.size, f.mtime_ns, f.ctime_ns, f.inode FROM roots r JOIN files f ON f.root = r.id "
            "WHERE r.key = ? AND f.linked = 0 AND f.state = ?",
            (bytes(cid.to_v1()), OK),
        ):
            full = self.reader.absolute(path, 0)
            try:
                status = os.stat(full)
            except OSError:
                continue
            if unchanged(status, 0, size, mtime_ns, ctime_ns, inode):
                return Path(os.fsdecode(full)), size
        return None

    def place(self, new: NewFile, cid: CID) -> Path:
        """Rename a finished, synced file into `ipfs/`, where it is from then on readable by all.

        If the same bytes are there already they stay, and the new file goes; a damaged copy moves to `damaged/`.
        """
        path = self.layout.path_for(cid)
        with explained("storing", path):
            if os.path.lexists(path):
                if same_bytes(new.fd, path):
                    return path
                self.set_aside(path)
            new.move_to(path)
        return path

    def set_aside(self, path: Path) -> Path:
        """Move a damaged copy to `damaged/<cid>.<number>`, where nothing uses it as that CID any more."""
        with explained("moving the damaged file", path):
            number = 1
            while True:
                target = self.layout.damaged / f"{path.name}.{number}"
                if not os.path.lexists(target):
                    break
                number += 1
            os.replace(path, target)
            sync_folder(path.parent)
        relative = self.layout.relative(path)
        with self.catalog.write() as db:
            for (file,) in db.execute("SELECT id FROM files WHERE path = ? AND linked = 0", (relative,)).fetchall():
                forget_file(db, file)
                self.reader.files.drop(file)
        return target

    def record(
        self,
        cid: CID,
        size: int,
        path: Path,
        *,
        linked: bool,
        profile: Profile | None,
        wrap: Callable[[Leaf], int],
        stamp: Stamp | None = None,
        durable: bool = False,
        nodes: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Commit the rows of a whole file: inner nodes that are not in the catalog yet, root, file, leaves.

        Nothing is written where the catalog can only be read.
        """
        if self.catalog.read_only:
            return
        with self.catalog.write(durable=durable) as db:
            self.insert_blocks(db, nodes)
            self.add_rows(db, cid, size, path, linked=linked, profile=profile, wrap=wrap, stamp=stamp)

    def add_rows(
        self,
        db: sqlite3.Connection,
        cid: CID,
        size: int,
        path: Path,
        *,
        linked: bool,
        profile: Profile | None,
        wrap: Callable[[Leaf], int],
        stamp: Stamp | None = None,
    ) -> None:
        """The rows of `record`, in a transaction of the caller's."""
        if stamp is None:
            # Taken now and not when it was written: another process may have put the same bytes there meanwhile.
            with explained("recording", path):
                stamp = Stamp.of(os.stat(path))
        add_claims(db, self.rows, [cid.multihash])  # its leaves have theirs with the nodes above them
        root, new = add_root(db, cid, FILE, size, profile)
        name = os.fsencode(path) if linked else self.layout.relative(path)
        known = None if new else db.execute("SELECT id FROM files WHERE root = ? AND path = ?", (root, name)).fetchone()
        if linked:
            # The path was linked with other content before, which is not there any more.
            db.execute(
                "UPDATE files SET state = ? WHERE path = ? AND linked = 1 AND root <> ? "
                "AND NOT (size = ? AND mtime_ns = ? AND inode = ?)",
                (CHANGED, name, root, stamp.size, stamp.mtime_ns, stamp.inode),
            )
        now = time.time()
        if known is not None:
            # The leaves of a root are always the same.
            db.execute(
                "UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, checked = ?, state = ? WHERE id = ?",
                (*stamp, now, OK, known[0]),
            )
            return
        file = db.execute(
            "INSERT INTO files (root, path, linked, size, mtime_ns, ctime_ns, inode, checked, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (root, name, int(linked), *stamp, now, OK),
        ).lastrowid
        try:
            leaves = walk_leaves(cid, size, self.catalog.get_node)
            while batch := list(islice(leaves, ROW_BATCH)):
                db.executemany(
                    "INSERT OR IGNORE INTO leaves (multihash, file, offset, length, wrap) VALUES (?, ?, ?, ?, ?)",
                    [
                        (leaf.cid.multihash, file, leaf.offset, leaf.length, wrap(leaf))
                        for leaf in batch
                        if leaf.inline is None
                    ],
                )
        except MissingNode as error:
            raise RepoError(
                f"The inner node {error.cid} of {cid} is not in the catalog, so the file cannot be recorded. "
                "Load it again."
            ) from None


def add_root(db: sqlite3.Connection, cid: CID, kind: int, size: int, profile: Profile | None) -> tuple[int, bool]:
    """The number of a root's row, and whether it was made just now."""
    key = bytes(cid.to_v1())
    row = db.execute("SELECT id, profile FROM roots WHERE key = ?", (key,)).fetchone()
    text = profile_text(profile)
    if row is None:
        made = db.execute(
            "INSERT INTO roots (key, version, kind, size, profile, added) VALUES (?, ?, ?, ?, ?, ?)",
            (key, cid.version, kind, size, text, time.time()),
        )
        assert made.lastrowid is not None
        return made.lastrowid, True
    if row[1] is None and text is not None:
        db.execute("UPDATE roots SET profile = ? WHERE id = ?", (text, row[0]))
    return row[0], False


def forget_file(db: sqlite3.Connection, file: int) -> None:
    """Take a file out of the catalog. Its root stays. It must be looked up again which folders are whole."""
    db.execute(
        "UPDATE kept SET whole = NULL WHERE whole IS NOT NULL "
        f"AND key IN (SELECT key FROM roots WHERE kind = {DIRECTORY})"
    )
    db.execute("DELETE FROM leaves WHERE file = ?", (file,))
    db.execute("DELETE FROM files WHERE id = ?", (file,))


def same_bytes(fd: int, path: Path | str | bytes) -> bool:
    """Whether the file at `path` has the bytes of the open file `fd`."""
    try:
        with open(path, "rb", buffering=0) as other:
            size = os.fstat(fd).st_size
            if os.fstat(other.fileno()).st_size != size:
                return False
            for offset in range(0, size, MIB):
                # bytes, because memoryviews are compared item by item.
                if read_bytes_at(fd, MIB, offset) != read_bytes_at(other.fileno(), MIB, offset):
                    return False
            return True
    except OSError:
        return False
