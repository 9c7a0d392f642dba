"""Reading all that is here, bit by bit, and comparing it with its hashes, so that what rots on the disk is noticed.

`Scrubber.step` reads some MB from where the last step ended; whoever calls it says when (`kachery_p2p.node.scrub`).
The place is a plain value that can be written down: a process that is killed goes on from the place that it noted last,
also in the middle of a large file. It changes nothing but the state of a file in the catalog, as `Repo.verify` does.

    files    our own and linked ones, in the order of their numbers; inner nodes that the catalog has lost are brought
             back from their record meanwhile, where there is one
    packs    small files
    blocks   what the catalog itself keeps
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.repo.catalog import CHANGED, OK
from kachery_p2p.repo.checking import ROW_COLUMNS, Checker, Problem, Row
from kachery_p2p.repo.fileio import SourceFile
from kachery_p2p.repo.hashing import FileReader
from kachery_p2p.repo.leaves import Leaf, MissingNode, find_wrap, walk_leaves
from kachery_p2p.repo.limits import SCRUB_BYTES, SCRUB_ROWS, SMALL_FILE
from kachery_p2p.repo.maintenance import Maintenance
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import unchanged

Stage = Literal["files", "packs", "blocks"]
_AFTER: dict[Stage, Stage | None] = {"files": "packs", "packs": "blocks", "blocks": None}


@dataclass(frozen=True)
class ScrubPlace:
    """How far all of it has been read.

    Attributes:
        stage: what is being read.
        row: the row that was read last, or that is being read.
        leaves: leaves of that file that are done; 0 where all of it is.
    """

    stage: Stage = "files"
    row: int = 0
    leaves: int = 0


@dataclass(frozen=True)
class Step:
    """What one step came to.

    Attributes:
        place: where the next one begins; None where all has been read.
        bytes: that were compared with their hashes.
        problems: what is wrong.
    """

    place: ScrubPlace | None
    bytes: int = 0
    problems: tuple[Problem, ...] = ()


@dataclass
class _Walk:
    """The file that is being read, between two steps."""

    row: Row
    done: int
    leaves: Iterator[Leaf]


class Scrubber:
    """Reads one repo. Used by one thread at a time."""

    def __init__(self, placer: Placer, checker: Checker, maintenance: Maintenance) -> None:
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._checker = checker
        self._maintenance = maintenance
        self._walk: _Walk | None = None

    def total(self) -> int:
        """Bytes that there are to read."""
        (files,) = self._catalog.one("SELECT coalesce(sum(size), 0) FROM files")
        (packed,) = self._catalog.one("SELECT coalesce(sum(length), 0) FROM packed")
        (blocks,) = self._catalog.one("SELECT coalesce(sum(length(data)), 0) FROM blocks")
        return files + packed + blocks

    def step(
        self, place: ScrubPlace, *, most: int = SCRUB_BYTES, hashed: Callable[[int], None] = lambda count: None
    ) -> Step:
        """Read on.

        Args:
            place: from where on.
            most: bytes, about: a block is read whole.
            hashed: called with bytes while a file is read that must be read whole, since it is not as the catalog says;
                what it raises ends that.
        """
        if place.stage == "files":
            return self._file(place, most, hashed) or self._next(place)
        return (self._packed(place) if place.stage == "packs" else self._blocks(place)) or self._next(place)

    def _next(self, place: ScrubPlace) -> Step:
        after = _AFTER[place.stage]
        return Step(None if after is None else ScrubPlace(after))

    # --- files -------------------------------------------------------------------------------------------------------

    def _file(self, place: ScrubPlace, most: int, hashed: Callable[[int], None]) -> Step | None:
        first = place.row if place.leaves else place.row + 1
        found = self._catalog.one(
            f"SELECT r.key, r.version, r.size, {ROW_COLUMNS} FROM files f JOIN roots r ON r.id = f.root "
            "WHERE f.id >= ? ORDER BY f.id LIMIT 1",
            (first,),
        )
        if found is None:
            return None
        key, version, size, *columns = found
        cid, row = cid_of(key, version), Row._make(columns)
        done = ScrubPlace("files", row.file)
        path = Path(os.fsdecode(self._reader.absolute(row.path, row.linked)))
        begun = place.leaves if row.file == place.row else 0
        try:
            same = unchanged(os.stat(path), *row[2:7])
        except OSError:
            same = False
        if row.state == CHANGED and same:
            return Step(done, 0, tuple(self._known(cid, row)))
        if row.state != OK or not same or size != row.size:
            return self._whole(done, cid, row, hashed)
        try:
            count, leaves, right = self._read(cid, row, path, begun, most)
        except (KacheryError, MissingNode, OSError):
            # Whatever it is, a look at the whole file says it in words, and brings lost nodes back.
            return self._whole(done, cid, row, hashed)
        if not right:
            return self._whole(done, cid, row, hashed)
        return Step(ScrubPlace("files", row.file, leaves) if leaves else done, count)

    def _read(self, cid: CID, row: Row, path: Path, begun: int, most: int) -> tuple[int, int, bool]:
        """Read on in a file that has the stamp of the catalog.

        Returns:
            Bytes, leaves that are done (0 where it ends), and whether they are right.
        """
        walk = self._walk
        if walk is None or (walk.row, walk.done) != (row, begun):
            leaves = walk_leaves(cid, row.size, self._reader.node)
            walk = _Walk(row, begun, islice(leaves, begun, None))
        self._walk = None
        count = 0
        with SourceFile(path) as source:
            read = FileReader(source.fd, min(row.size, SMALL_FILE))
            for leaf in walk.leaves:
                data = read(leaf.offset, leaf.length)
                if len(data) != leaf.length or not _is_right(leaf, data):
                    return count, walk.done, False
                walk.done += 1
                count += leaf.length
                if count >= most:
                    self._walk = walk
                    break
            source.check()
        return count, walk.done if self._walk is not None else 0, True

    def _whole(self, done: ScrubPlace, cid: CID, row: Row, hashed: Callable[[int], None]) -> Step:
        count = 0

        def counted(size: int) -> None:
            nonlocal count
            count += size
            hashed(size)

        self._walk = None
        problem = self._checker.check(cid, row, counted)
        if (
            problem is not None
            and problem.what in ("damaged", "missing")
            and not row.linked
            and self._is_elsewhere(cid)
        ):
            problem = None
        if problem is not None and all(each.file != row.file for each in self._checker.rows(cid)):
            problem = None  # it was removed meanwhile
        return Step(done, count, () if problem is None else (problem,))

    def _known(self, cid: CID, row: Row) -> Iterator[Problem]:
        if not row.linked and self._is_elsewhere(cid):
            return
        yield self._checker.problem(cid, row, "changed" if row.linked else "damaged")

    def _is_elsewhere(self, cid: CID) -> bool:
        """Whether the catalog has another copy of ours that is right, as far as is known."""
        if self._reader.packs.file(cid) is not None:
            return True
        return any(
            row.state == OK and os.path.exists(self._reader.absolute(row.path, row.linked))
            for row in self._checker.rows(cid)
            if not row.linked
        )

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _packed(self, place: ScrubPlace) -> Step | None:
        rows = self._catalog.all(
            "SELECT p.root, r.key, r.version, p.length FROM packed p JOIN roots r ON r.id = p.root WHERE p.root > ? "
            "ORDER BY p.root LIMIT ?",
            (place.row, SCRUB_ROWS),
        )
        if not rows:
            return None
        problems = self._maintenance.check_packed([cid_of(key, version) for _, key, version, _ in rows])
        return Step(ScrubPlace("packs", rows[-1][0]), sum(row[3] for row in rows), tuple(problems))

    def _blocks(self, place: ScrubPlace) -> Step | None:
        found = self._maintenance.check_blocks(place.row, SCRUB_ROWS)
        return None if found is None else Step(ScrubPlace("blocks", found[0]), found[1], tuple(found[2]))


def _is_right(leaf: Leaf, data: memoryview) -> bool:
    """Whether bytes are those of a leaf. A dag-pb leaf in a wrap that is not known counts as wrong: see `_whole`."""
    if leaf.inline is not None:
        return data == leaf.inline
    return find_wrap(leaf.cid.multihash, leaf.cid.codec, data) is not None
