"""Blocks out of plain files: what the engine asks for.

A leaf block is a part of a file. It is read, and only then is the file's stamp taken: if it is still the stamp the file
had when it was hashed, the bytes are those that were hashed. If not, the block itself is hashed again, so wrong bytes
are never given out; a file that fails this is marked in the catalog and not used again before a whole check.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.cid import IDENTITY, names_nothing, split_multihash, verify_block
from kachery_p2p.oserrors import explain
from kachery_p2p.repo.catalog import CHANGED, DIRECTORY, MISSING, OK, Catalog
from kachery_p2p.repo.fileio import Stamp, read_at, read_bytes_at
from kachery_p2p.repo.leaves import block_size, leaf_hashes_to, wrap_parts
from kachery_p2p.repo.limits import SQL_KEYS
from kachery_p2p.repo.openfiles import OpenFiles
from kachery_p2p.repo.packs import PackReader

#: A leaf may be in very many files (a block of zeros); a few of them are enough to try.
_PLACES = 8

_FIND_LEAF = (
    "SELECT f.id, f.path, f.linked, f.size, f.mtime_ns, f.ctime_ns, f.inode, l.offset, l.length, l.wrap "
    "FROM leaves l JOIN files f ON f.id = l.file "
    f"WHERE l.multihash = ? AND f.state = {OK} LIMIT {_PLACES}"
)
_FIND_SIZE = (
    "SELECT l.length, l.wrap FROM leaves l JOIN files f ON f.id = l.file "
    f"WHERE l.multihash = ? AND f.state = {OK} "
    "UNION ALL SELECT length(data), -1 FROM blocks WHERE multihash = ? LIMIT 1"
)


class LeafPlace(NamedTuple):
    """Where the catalog says a leaf is."""

    file: int
    path: bytes
    linked: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    offset: int
    length: int
    wrap: int


def unchanged(status: os.stat_result, linked: int, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> bool:
    """Whether a file's status is the recorded stamp.

    The change time counts for linked files only: our own copies get and lose further names (hard links), which changes
    it, while nobody else has business with them.
    """
    now = Stamp.of(status)
    return (
        now.size == size
        and now.mtime_ns == mtime_ns
        and now.inode == inode
        and (not linked or now.ctime_ns == ctime_ns)
    )


class BlockReader:
    """Finds and reads blocks. Safe to use from many threads."""

    def __init__(self, directory: Path, catalog: Catalog) -> None:
        self._prefix = os.fsencode(directory) + os.sep.encode()
        self._catalog = catalog
        self.files = OpenFiles()
        self.packs = PackReader(directory / "packs", catalog)

    def size(self, multihash: bytes) -> int | None:
        """The size in bytes of a block that is here, or None."""
        if multihash[:1] == b"\0":
            return len(split_multihash(multihash)[1])
        if names_nothing(multihash):
            return 0
        row = self._catalog.one(_FIND_SIZE, (multihash, multihash))
        if row is None:
            return self.packs.size(multihash)
        length, wrap = row
        return length if wrap <= 0 else block_size(wrap, length)

    def sizes(self, multihashes: Iterable[bytes]) -> dict[bytes, int]:
        """The sizes of those blocks that are here."""
        found: dict[bytes, int] = {}
        wanted: list[bytes] = []
        for multihash in multihashes:
            if multihash[:1] == b"\0":
                found[multihash] = len(split_multihash(multihash)[1])
            elif names_nothing(multihash):
                found[multihash] = 0
            else:
                wanted.append(multihash)
        for start in range(0, len(wanted), SQL_KEYS):
            keys = wanted[start : start + SQL_KEYS]
            marks = ",".join("?" * len(keys))
            for multihash, length, wrap in self._catalog.all(
                "SELECT l.multihash, l.length, l.wrap FROM leaves l JOIN files f ON f.id = l.file "
                f"WHERE l.multihash IN ({marks}) AND f.state = {OK} GROUP BY l.multihash "
                f"UNION ALL SELECT multihash, length(data), 0 FROM blocks WHERE multihash IN ({marks})",
                keys + keys,
            ):
                found[multihash] = length if wrap == 0 else block_size(wrap, length)
        missing = [multihash for multihash in wanted if multihash not in found]
        return {**found, **self.packs.sizes(missing)} if missing else found

    def get(self, multihash: bytes) -> bytes | None:
        """A block that is here and right, or None."""
        if multihash[0] == IDENTITY:
            return split_multihash(multihash)[1]
        if names_nothing(multihash):
            return b""
        for row in self._catalog.all(_FIND_LEAF, (multihash,)):
            block = self._read(multihash, LeafPlace._make(row))
            if block is not None:
                return block
        return self.node(multihash) or self.packs.block(multihash)

    def leaves(self, multihashes: Sequence[bytes], buffer: memoryview) -> list[memoryview | None]:
        """Blocks that are here and right, read into `buffer` one behind the other, many at a time.

        Leaves that follow each other in a file are one read. None stands for a block that has no room in the buffer, or
        for which more must be done than that: `get` does it.
        """
        found: list[memoryview | None] = [None] * len(multihashes)
        rows = [self._catalog.one(_FIND_LEAF, (multihash,)) for multihash in multihashes]
        places = [None if row is None else LeafPlace._make(row) for row in rows]
        for run in _runs(places, len(buffer)):
            first, last = run[0][1], run[-1][1]
            part, buffer = _cut(buffer, last.offset + last.length - first.offset)
            if self._read_run(first, part):
                for index, place in run:
                    found[index], part = _cut(part, place.length)
        return found

    def _read_run(self, place: LeafPlace, buffer: memoryview) -> bool:
        """Fill `buffer` from where the leaf begins; whether all of it is what the catalog speaks of."""
        try:
            held = self.files.get(place.file, self.absolute(place.path, place.linked))
            got = read_at(held.fd, buffer, place.offset)
            # Only now: what was read before the stamp was taken is what the stamp speaks of.
            status = os.fstat(held.fd)
        except OSError:
            return False
        return got == len(buffer) and status.st_nlink > 0 and unchanged(status, *place[2:7])

    def node(self, multihash: bytes) -> bytes | None:
        """A block that the catalog itself keeps, if it is here and right, or None."""
        data = self._catalog.get_node(multihash)
        # SQLite has no checksums; and these blocks are few and small.
        if data is None or not verify_block(multihash, data):
            return None
        return data

    def nodes(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those blocks that the catalog itself keeps and that are right; many with one lookup."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(multihashes), SQL_KEYS):
            keys = multihashes[start : start + SQL_KEYS]
            marks = ",".join("?" * len(keys))
            for multihash, data in self._catalog.all(
                f"SELECT multihash, data FROM blocks WHERE multihash IN ({marks})", keys
            ):
                if verify_block(multihash, data):
                    found[multihash] = data
        return found

    def each_node(self, multihashes: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """The same one by one, (multihash, block), with few in memory at a time."""
        for start in range(0, len(multihashes), SQL_KEYS):
            yield from self.nodes(multihashes[start : start + SQL_KEYS]).items()

    def blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those blocks that are here and right. For small ones: all are held in memory."""
        found = self.nodes(multihashes)
        found.update(self.packs.blocks([multihash for multihash in multihashes if multihash not in found]))
        for multihash in multihashes:
            if multihash not in found:
                block = self.get(multihash)
                if block is not None:
                    found[multihash] = block
        return found

    def let_go(self) -> None:
        """Close what was deleted meanwhile."""
        self.files.drop_removed()
        self.packs.drop_removed()

    def absolute(self, path: bytes, linked: int) -> bytes:
        """The path of a catalogued file."""
        return path if linked else self._prefix + path

    def mark(self, file: int, state: int, stamp: Stamp | None = None) -> None:
        """Note that a file is changed or missing, with the stamp it was found with."""
        self.mark_all([(file, state, stamp)])

    def mark_all(self, marks: Sequence[tuple[int, int, Stamp | None]]) -> None:
        """The same for many files, in one transaction. Not in a catalog that can only be read."""
        for file, _, _ in marks:
            self.files.drop(file)
        if not marks or self._catalog.read_only:
            return
        with self._catalog.write() as db:
            db.execute(  # it must be looked up again which folders are whole
                "UPDATE kept SET whole = NULL WHERE whole IS NOT NULL AND key IN "
                f"(SELECT key FROM roots WHERE kind = {DIRECTORY})"
            )
            for file, state, stamp in marks:
                db.execute("UPDATE files SET state = ? WHERE id = ?", (state, file))
                if stamp is not None:
                    db.execute(
                        "UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE id = ?", (*stamp, file)
                    )

    def _read(self, multihash: bytes, place: LeafPlace) -> bytes | None:
        path = self.absolute(place.path, place.linked)
        try:
            data, status = self._read_part(place, path)
            if not self._as_recorded(place, data, status):
                # Perhaps it was another file that was kept open; look at what the path names now.
                self.files.drop(place.file)
                data, status = self._read_part(place, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                self.mark(place.file, MISSING)
                return None
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise explain(error, "reading", os.fsdecode(path)) from error
            # Not allowed, a network drive that is away, a bad sector: it cannot be served now, and that is all.
            return None
        if not self._as_recorded(place, data, status) and (
            len(data) != place.length or not leaf_hashes_to(multihash, place.wrap, data)
        ):
            self.mark(place.file, CHANGED, Stamp.of(status))
            return None
        if not place.wrap:
            return data
        head, tail = wrap_parts(place.wrap, place.length)
        return b"".join((head, data, tail))

    def _read_part(self, place: LeafPlace, path: bytes) -> tuple[bytes, os.stat_result]:
        held = self.files.get(place.file, path)
        data = read_bytes_at(held.fd, place.length, place.offset)
        # Only now: what was read before the stamp was taken is what the stamp speaks of.
        status = os.fstat(held.fd)
        if status.st_nlink == 0:
            self.files.drop(place.file)
        return data, status

    @staticmethod
    def _as_recorded(place: LeafPlace, data: bytes, status: os.stat_result) -> bool:
        return len(data) == place.length and unchanged(
            status, place.linked, place.size, place.mtime_ns, place.ctime_ns, place.inode
        )


def _cut(view: memoryview, size: int) -> tuple[memoryview, memoryview]:
    return view[:size], view[size:]


def _runs(places: Sequence[LeafPlace | None], room: int) -> Iterator[list[tuple[int, LeafPlace]]]:
    """Leaves that follow each other in one file, with their indices, as far as there is room for them.

    Those that are wrapped are left out: their blocks are not a part of the file as it is.
    """
    run: list[tuple[int, LeafPlace]] = []
    following: tuple[int, int] | None = None
    for index, place in enumerate(places):
        if place is None or place.wrap or place.length > room:
            continue
        if run and (place.file, place.offset) != following:
            yield run
            run = []
        run.append((index, place))
        following = place.file, place.offset + place.length
        room -= place.length
    if run:
        yield run
