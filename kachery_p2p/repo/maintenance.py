"""Looking after a repo: verify, quarantine, remove, sweep, adopt what is unknown."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import KacheryError, MalformedDag, UnsupportedCID
from kachery_p2p.repo.catalog import DIRECTORY
from kachery_p2p.repo.checking import ROW_COLUMNS, Checker, Problem, Row, way_out
from kachery_p2p.repo.fileio import Progress, Stamp
from kachery_p2p.repo.layout import files_below
from kachery_p2p.repo.limits import MARK_BATCH, ORPHAN_SECONDS, SQL_KEYS
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.packing import forget_packed
from kachery_p2p.repo.packs import PackPlace
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.second_place import (
    REPAIR,
    SecondPlace,
    cid_of_file,
    right_block,
)
from kachery_p2p.repo.tree import read_tree


class Maintenance:
    """The slow and rare operations of one repo."""

    def __init__(self, placer: Placer, checker: Checker) -> None:
        self._placer = placer
        self._checker = checker
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._named = Named(placer.layout)
        self.second_place = SecondPlace(placer, checker)

    def verify(self, cids: Iterable[CID] | None, progress: Progress | None) -> Iterator[Problem]:
        """See Repo.verify and Repo.each_problem."""
        work: list[tuple[CID, Row]] = []
        if cids is None:
            yield from self._check_blocks()
            yield from self.adopt_unknown()
            yield from self.check_packed()
            if not self._catalog.in_memory:  # else it could not be read, which is no loss
                yield from self.second_place.check()
            for key, version, *row in self._catalog.all(
                f"SELECT r.key, r.version, {ROW_COLUMNS} FROM roots r JOIN files f ON f.root = r.id ORDER BY f.id"
            ):
                work.append((cid_of(key, version), Row._make(row)))
        else:
            for cid in cids:
                members, broken = self._members(cid)
                yield from broken
                packed = self._reader.packs.files(members)
                yield from self.check_packed([member for member in members if bytes(member.to_v1()) in packed])
                for member in members:
                    rows = self._checker.rows(member)
                    work += [(member, row) for row in rows]
                    path = self._layout.path_for(member)
                    if not rows and path.is_file():
                        problem = self._checker.adopt(member, path)
                        if problem is not None:
                            yield problem
                    elif not rows and bytes(member.to_v1()) not in packed:
                        yield Problem(member, path, "missing", f"{member} is not stored here.")
        yield from self._check_all(work, progress)

    def _check_all(self, work: Sequence[tuple[CID, Row]], progress: Progress | None) -> Iterator[Problem]:
        """Hash files, and note what is found."""
        total = sum(row.size for _, row in work)
        done = 0

        def hashed(count: int) -> None:
            nonlocal reached
            reached += count
            if progress is not None:
                progress(min(reached, total), total)

        marks: list[tuple[int, int, Stamp | None]] = []
        try:
            for cid, row in work:
                reached = done
                problem = self._checker.check(cid, row, hashed, marks)
                if problem is not None:
                    yield problem
                if len(marks) >= MARK_BATCH:
                    self._reader.mark_all(marks)
                    marks.clear()
                done += row.size
                if progress is not None:
                    progress(done, total)
        finally:
            # Also when it is interrupted: what was found must not be served meanwhile.
            self._reader.mark_all(marks)
            if not self._layout.read_only:
                self._named.sweep()

    def verify_copies(self, progress: Progress | None) -> list[Problem]:
        """See Repo.verify_copies."""
        problems = [*self._check_blocks(), *self.adopt_unknown(), *self.check_packed()]
        rows = self._catalog.all(
            f"SELECT r.key, r.version, {ROW_COLUMNS} FROM roots r JOIN files f ON f.root = r.id WHERE f.linked = 0 "
            "ORDER BY f.id"
        )
        work = [(cid_of(key, version), Row._make(row)) for key, version, *row in rows]
        return [*problems, *self._check_all(work, progress)]

    def quarantine(self, cid: CID) -> Path | None:
        """See Repo.quarantine."""
        path = self._layout.path_for(cid)
        for row in self._checker.rows(cid):
            if not row.linked:
                path = Path(os.fsdecode(self._reader.absolute(row.path, 0)))
        self._named.forget(cid)
        return self._placer.set_aside(path) if os.path.lexists(path) else None

    def sweep(self, min_age: float = ORPHAN_SECONDS, *, among: Container[bytes] | None = None) -> tuple[int, int]:
        """See Repo.sweep. With `among`, only those of some multihashes are dropped."""
        reached: set[bytes] = set()
        roots = self._catalog.all("SELECT key FROM roots UNION SELECT root FROM parts")
        waiting = [cid_of(key, 1).multihash for (key,) in roots]
        waiting += self.partial_roots()
        while waiting:
            multihash = waiting.pop()
            if multihash in reached:
                continue
            block = self._catalog.get_node(multihash)
            if block is None:
                continue
            reached.add(multihash)
            try:
                waiting += [link.cid.multihash for link in decode_node(block).links if link.cid.codec == DAG_PB]
            except (MalformedDag, UnsupportedCID):
                # A node that cannot be read has no children that could be found through it.
                continue
        before = time.time() - min_age
        orphans = [
            (multihash, size)
            for multihash, size in self._catalog.all(
                "SELECT multihash, length(data) FROM blocks WHERE added < ?", (before,)
            )
            if multihash not in reached and (among is None or multihash in among)
        ]
        for start in range(0, len(orphans), SQL_KEYS):
            with self._catalog.write() as db:
                db.executemany(
                    "DELETE FROM blocks WHERE multihash = ? AND added < ?",
                    [(multihash, before) for multihash, _ in orphans[start : start + SQL_KEYS]],
                )
        return len(orphans), sum(size for _, size in orphans)

    def partial_roots(self) -> list[bytes]:
        """The multihashes of the files that are loaded in part."""
        found: list[bytes] = []
        for name in os.listdir(self._layout.partial):
            with suppress(KacheryError):
                found.append(CID.parse(name).multihash)
        return found

    def adopt_unknown(self, progress: Progress | None = None) -> list[Problem]:
        """See Repo.adopt_unknown."""
        self._placer.packer.take_in(whole=True)
        known = {path for (path,) in self._catalog.all("SELECT path FROM files WHERE linked = 0")}
        unknown = [path for path in files_below(self._layout.ipfs) if self._layout.relative(path) not in known]
        problems: list[Problem] = []
        sizes = {path: path.stat().st_size for path in unknown}
        total, done = sum(sizes.values()), 0
        for path in unknown:
            cid = cid_of_file(self._layout.path_for, path)
            if cid is not None:
                problem = self._checker.adopt(cid, path)
                if problem is not None:
                    problems.append(problem)
            done += sizes[path]
            if progress is not None:
                progress(done, total)
        return problems

    # --- inside ------------------------------------------------------------------------------------------------------

    def _members(self, cid: CID) -> tuple[list[CID], list[Problem]]:
        """The files in and below a directory; the file itself otherwise. And the folders that cannot be read."""
        row = self._catalog.one("SELECT kind FROM roots WHERE key = ?", (bytes(cid.to_v1()),))
        if row is None:  # of a folder that is here in part, that part
            parts = self._catalog.all("SELECT key, version FROM parts WHERE root = ?", (bytes(cid.to_v1()),))
            found = [cid_of(key, version) for key, version in parts]
            return (found and [each for each in found if not self._layout.partial_for(each).exists()]) or [cid], []
        if row[0] != DIRECTORY:
            return [cid], []
        tree = read_tree(cid, self._reader.nodes)
        broken: list[Problem] = []
        for folder, why in tree.broken:
            detail = f"The directory {folder} cannot be read. {why} Bring it back with: {REPAIR}"
            broken.append(Problem(folder, self._catalog.path, "damaged", detail))
        return list(tree.files), broken

    def check_packed(self, cids: Iterable[CID] | None = None) -> list[Problem]:
        """Hash packed files, all of them or some, in the order in which they lie."""
        if cids is None:
            rows = self._catalog.all(
                "SELECT r.key, r.version, p.pack, p.offset, p.length, p.wrap FROM packed p "
                "JOIN roots r ON r.id = p.root ORDER BY p.pack, p.offset"
            )
            files = [(cid_of(key, version), PackPlace(*place)) for key, version, *place in rows]
        else:
            wanted = list(cids)
            places = self._reader.packs.files(wanted)
            found = ((cid, places.get(bytes(cid.to_v1()))) for cid in wanted)
            files = sorted(((cid, place) for cid, place in found if place is not None), key=lambda file: file[1])
        problems = []
        for cid, place in files:
            if self._reader.packs.read(cid.multihash, place) is not None:
                continue
            path = self._reader.packs.path_of(place.pack)
            if self._placer.own_copy(cid) is None:
                detail = f"{path} does not have the bytes of {cid} any more. {way_out(cid)}"
                problems.append(Problem(cid, path, "damaged" if path.exists() else "missing", detail))
            elif not self._catalog.read_only:
                with self._catalog.write() as db:  # it was loaded again, and lies elsewhere now
                    forget_packed(db, cid)
        return problems

    def _check_blocks(self) -> list[Problem]:
        """Hash what the catalog itself keeps."""
        problems: list[Problem] = []
        last = 0
        while (found := self.check_blocks(last, 32)) is not None:
            last = found[0]
            problems += found[2]
        return problems

    def check_blocks(self, after: int, most: int) -> tuple[int, int, list[Problem]] | None:
        """Hash some of what the catalog itself keeps.

        Args:
            after: the row after which to begin; 0 for all of them.
            most: rows.

        Returns:
            The last row, the bytes, and what is wrong; None where there are no more.
        """
        rows = self._catalog.all(
            "SELECT rowid, multihash, data FROM blocks WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, most)
        )
        problems: list[Problem] = []
        for _, multihash, data in rows:
            if not right_block(multihash, data):
                cid = CID(1, DAG_PB, multihash)
                detail = f"The block {cid} in {self._catalog.path} has wrong bytes. Put it right with: {REPAIR}"
                problems.append(Problem(cid, self._catalog.path, "damaged", detail))
        return (rows[-1][0], sum(len(data) for _, _, data in rows), problems) if rows else None
