"""Looking after a repo: verify, quarantine, remove, sweep, adopt what is unknown, rebuild a broken catalog."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..dag.cid import CID, DAG_PB, RAW, read_cid, verify_block
from ..dag.pb import decode_node
from ..errors import InvalidCID, KacheryError, MalformedDag, RepoError, UnsupportedCID
from .catalog import DIRECTORY, SCHEMA_VERSION
from .checking import ROW_COLUMNS, Checker, Problem, Row
from .fileio import Progress, explained
from .limits import ORPHAN_SECONDS, SQL_KEYS
from .placing import Placer, add_root, forget_file


class Maintenance:
    """The slow and rare operations of one repo."""

    def __init__(self, placer: Placer, checker: Checker) -> None:
        self._placer = placer
        self._checker = checker
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader

    def verify(self, cids: Iterable[CID] | None, progress: Progress | None) -> list[Problem]:
        """See Repo.verify."""
        problems: list[Problem] = []
        work: list[tuple[CID, Row]] = []
        if cids is None:
            problems += self._check_blocks()
            for key, version, *row in self._catalog.all(
                f"SELECT r.key, r.version, {ROW_COLUMNS} FROM roots r JOIN files f ON f.root = r.id ORDER BY f.id"
            ):
                work.append((cid_of(key, version), Row._make(row)))
        else:
            for cid in cids:
                for member in self._members(cid, problems):
                    rows = self._checker.rows(member)
                    work += [(member, row) for row in rows]
                    path = self._layout.path_for(member)
                    if not rows and path.is_file():
                        problem = self._checker.adopt(member, path)
                        problems += [problem] if problem is not None else []
                    elif not rows:
                        problems.append(Problem(member, path, "missing", f"{member} is not stored here."))
        total = sum(row.size for _, row in work)
        done = 0

        def hashed(count: int) -> None:
            nonlocal reached
            reached += count
            if progress is not None:
                progress(min(reached, total), total)

        for cid, row in work:
            reached = done
            problem = self._checker.check(cid, row, hashed)
            if problem is not None:
                problems.append(problem)
            done += row.size
            if progress is not None:
                progress(done, total)
        return problems

    def quarantine(self, cid: CID) -> Path | None:
        """See Repo.quarantine."""
        path = self._layout.path_for(cid)
        for row in self._checker.rows(cid):
            if not row.linked:
                path = Path(os.fsdecode(self._reader.absolute(row.path, 0)))
        return self._placer.set_aside(path) if os.path.lexists(path) else None

    def remove(self, cid: CID) -> bool:
        """See Repo.remove."""
        rows = self._checker.rows(cid)
        own = [Path(os.fsdecode(self._reader.absolute(row.path, 0))) for row in rows if not row.linked]
        with self._catalog.write() as db:
            for row in rows:
                forget_file(db, row.file)
            known = db.execute("DELETE FROM roots WHERE key = ?", (bytes(cid.to_v1()),)).rowcount > 0
        for row in rows:
            self._reader.files.drop(row.file)
        removed = False
        for path in {*own, self._layout.path_for(cid)}:
            with explained("removing", path):
                try:
                    os.unlink(path)
                    removed = True
                except FileNotFoundError:
                    pass
        return known or removed

    def sweep(self, min_age: float = ORPHAN_SECONDS) -> tuple[int, int]:
        """See Repo.sweep."""
        reached: set[bytes] = set()
        waiting = [cid_of(key, 1).multihash for (key,) in self._catalog.all("SELECT key FROM roots")]
        for name in os.listdir(self._layout.partial):
            try:
                waiting.append(CID.parse(name).multihash)
            except KacheryError:
                continue
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
            if multihash not in reached
        ]
        for start in range(0, len(orphans), SQL_KEYS):
            with self._catalog.write() as db:
                db.executemany(
                    "DELETE FROM blocks WHERE multihash = ? AND added < ?",
                    [(multihash, before) for multihash, _ in orphans[start : start + SQL_KEYS]],
                )
        return len(orphans), sum(size for _, size in orphans)

    def adopt_unknown(self, progress: Progress | None = None) -> list[Problem]:
        """See Repo.adopt_unknown."""
        known = {path for (path,) in self._catalog.all("SELECT path FROM files WHERE linked = 0")}
        unknown = [path for path in self._stored_files() if self._layout.relative(path) not in known]
        problems: list[Problem] = []
        sizes = {path: path.stat().st_size for path in unknown}
        total, done = sum(sizes.values()), 0
        for path in unknown:
            try:
                cid = CID.parse(path.name)
            except KacheryError:
                cid = None
            if cid is not None and self._layout.path_for(cid) == path:
                problem = self._checker.adopt(cid, path)
                if problem is not None:
                    problems.append(problem)
            done += sizes[path]
            if progress is not None:
                progress(done, total)
        return problems

    def salvage(self, old: Path) -> list[Problem]:
        """Take over from a damaged catalog what proves itself: blocks, links and directory roots."""
        problems: list[Problem] = []
        try:
            db = sqlite3.connect(f"file:{old}?mode=ro", uri=True)
        except sqlite3.Error:
            return problems
        try:
            version = next(_rows(db, "PRAGMA user_version"), (0,))[0]
            if version != SCHEMA_VERSION:
                return problems
            self._catalog.put_blocks(
                (
                    (multihash, data)
                    for multihash, data in _rows(db, "SELECT multihash, data FROM blocks")
                    if _right(multihash, data)
                ),
                durable=True,
            )
            with self._catalog.write(durable=True) as new:
                for key, kind_version, size in _rows(
                    db, f"SELECT key, version, size FROM roots WHERE kind = {DIRECTORY}"
                ):
                    try:
                        add_root(new, cid_of(key, kind_version), DIRECTORY, size, None)
                    except (InvalidCID, UnsupportedCID, TypeError):
                        continue
            for key, kind_version, path in _rows(
                db, "SELECT r.key, r.version, f.path FROM roots r JOIN files f ON f.root = r.id WHERE f.linked = 1"
            ):
                try:
                    cid = cid_of(key, kind_version)
                    problem = self._checker.adopt(cid, Path(os.fsdecode(path)), linked=True)
                except (KacheryError, TypeError) as why:
                    problems.append(
                        Problem(CID(1, RAW, b"\0\0"), Path(os.fsdecode(path)), "unknown", f"A link was not kept: {why}")
                    )
                    continue
                if problem is not None:
                    problems.append(problem)
        finally:
            db.close()
        return problems

    # --- inside ------------------------------------------------------------------------------------------------------

    def _members(self, cid: CID, problems: list[Problem]) -> Iterator[CID]:
        """The files in and below a directory; the file itself otherwise."""
        row = self._catalog.one("SELECT kind FROM roots WHERE key = ?", (bytes(cid.to_v1()),))
        if row is None or row[0] != DIRECTORY:
            yield cid
            return
        from ..dag.directory import list_directory
        from ..dag.nodes import drive, read_node
        from ..dag.unixfs import Kind

        def fetch(cids: list[CID]) -> list[bytes]:
            blocks = []
            for wanted in cids:
                block = self._reader.node(wanted.multihash)
                if block is None:
                    raise RepoError(f"The directory node {wanted} is missing or damaged.")
                blocks.append(block)
            return blocks

        waiting, seen = [cid], {cid}
        while waiting:
            folder = waiting.pop()
            try:
                entries = drive(list_directory(folder), fetch)
            except KacheryError as why:
                problems.append(
                    Problem(folder, self._catalog.path, "damaged", f"The directory {folder} cannot be read. {why}")
                )
                continue
            for entry in entries:
                below = entry.cid
                if below in seen:
                    continue
                seen.add(below)
                block = (
                    None if below.codec != DAG_PB or self._checker.rows(below) else self._reader.node(below.multihash)
                )
                kind = None
                if block is not None:
                    _, data = read_node(below, block)
                    kind = None if data is None else data.kind
                if kind in (Kind.DIRECTORY, Kind.HAMT_SHARD):
                    waiting.append(below)
                elif kind is not Kind.SYMLINK:
                    yield below

    def _check_blocks(self) -> list[Problem]:
        """Hash what the catalog itself keeps."""
        problems = []
        last = 0
        while True:
            rows = self._catalog.all(
                "SELECT rowid, multihash, data FROM blocks WHERE rowid > ? ORDER BY rowid LIMIT 32", (last,)
            )
            if not rows:
                return problems
            last = rows[-1][0]
            for _, multihash, data in rows:
                if not _right(multihash, data):
                    cid = CID(1, DAG_PB, multihash)
                    problems.append(
                        Problem(
                            cid,
                            self._catalog.path,
                            "damaged",
                            f"The block {cid} in {self._catalog.path} has wrong bytes. Run Repo.rebuild(directory).",
                        )
                    )

    def _stored_files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._layout.ipfs):
            for name in names:
                yield Path(folder, name)


def cid_of(key: bytes, version: int) -> CID:
    """The CID of a root's key, in the version it was asked by."""
    cid, _ = read_cid(key, 0)
    return CID(0, DAG_PB, cid.multihash) if version == 0 else cid


def rebuild(directory: Path, progress: Progress | None = None) -> list[Problem]:
    """See Repo.rebuild."""
    from .layout import Layout
    from .repo import Repo

    layout = Layout(directory)
    layout.make()
    kept = layout.damaged / f"{layout.catalog.name}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"
    with explained("moving the catalog", layout.catalog):
        for suffix in ("", "-wal", "-shm"):
            old = layout.catalog.with_name(layout.catalog.name + suffix)
            if os.path.lexists(old):
                os.replace(old, kept.with_name(kept.name + suffix))
    with Repo.open(directory) as repo:
        problems = repo._maintenance.salvage(kept) if kept.exists() else []
        return problems + repo.adopt_unknown(progress=progress)


def _right(multihash: object, data: object) -> bool:
    if not isinstance(multihash, bytes) or not isinstance(data, bytes):
        return False
    try:
        return verify_block(multihash, data)
    except (InvalidCID, UnsupportedCID):
        return False


def _rows(db: sqlite3.Connection, sql: str) -> Iterator[tuple]:
    """As many rows as a damaged database gives."""
    try:
        yield from db.execute(sql)
    except sqlite3.Error:
        return
