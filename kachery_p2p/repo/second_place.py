"""Keeping the second place (records.py) as complete as the catalog, and making the catalog anew from it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, verify_block
from kachery_p2p.dag.nodes import node_kind
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import InvalidCID, KacheryError, MalformedDag, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import DIRECTORY, SCHEMA_VERSION
from kachery_p2p.repo.checking import Checker, Problem, way_out
from kachery_p2p.repo.damaged import is_sound, open_damaged
from kachery_p2p.repo.fileio import Progress, sync_fd, sync_folder
from kachery_p2p.repo.labels import LabelRecord
from kachery_p2p.repo.layout import files_below
from kachery_p2p.repo.leaves import MissingNode, walk_leaves
from kachery_p2p.repo.limits import SQL_KEYS
from kachery_p2p.repo.placing import Placer, add_root, profile_from_text
from kachery_p2p.repo.records import LinkRecord
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.tree import read_tree

REPAIR = "kachery-cloud repair"

_NO_CID = CID(1, RAW, b"\0\0")
_LOOSE_BATCH = 4096


class SecondPlace:
    """The second place of one repo."""

    def __init__(self, placer: Placer, checker: Checker) -> None:
        self._placer = placer
        self._checker = checker
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._nodes = placer.nodes
        self._links = placer.links

    # --- writing it -------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Write it for all that the catalog of an older version has. Done again from the beginning when interrupted."""
        self._write_missing(set(), anew=True)

    def _write_missing(self, covered: set[bytes], *, anew: bool = False) -> None:
        """Write what is not there, or all of it `anew`; `covered` are the nodes that are known to be there."""
        written: list[Path] = []
        own = self._own()
        for key, version, kind, size in self._catalog.all("SELECT key, version, kind, size FROM roots ORDER BY id"):
            cid = cid_of(key, version)
            if cid.codec != DAG_PB:
                continue
            nodes = self._nodes_of(cid, kind, size)
            if nodes and (kind == DIRECTORY or key in own) and (anew or not self._nodes.has(cid)):
                written.append(self._nodes.keep(cid, self._reader.each_node(nodes), sync=False))
            covered.update(nodes)
        loose = [key for (key,) in self._catalog.all("SELECT multihash FROM blocks") if key not in covered]
        for start in range(0, len(loose), _LOOSE_BATCH):
            nodes = loose[start : start + _LOOSE_BATCH]
            written.append(self._nodes.keep_loose(self._reader.each_node(nodes)))
        # One after the other: the first makes the file system write all of them.
        for path in written:
            with explained("writing", path):
                fd = os.open(path, os.O_RDONLY)
                try:
                    sync_fd(fd)
                finally:
                    os.close(fd)
        for folder in {path.parent for path in written}:
            sync_folder(folder)
        known = set(self._links.read()[0])
        self._links.keep([link for link in self._catalogued_links() if link not in known])

    def _own(self) -> set[bytes]:
        """The keys of files with a copy of ours, and of linked ones whose profile is not known.

        The nodes of the other linked files are made again by their profile.
        """
        rows = self._catalog.all(
            "SELECT r.key FROM roots r JOIN files f ON f.root = r.id AND (f.linked = 0 OR r.profile IS NULL)"
        )
        return {key for (key,) in rows}

    def _nodes_of(self, cid: CID, kind: int, size: int) -> list[bytes]:
        """The nodes of a root, as far as the catalog has them."""
        if kind == DIRECTORY:
            return list(read_tree(cid, self._reader.nodes).nodes)
        nodes: list[bytes] = []
        try:
            for _ in walk_leaves(cid, size, self._reader.node, nodes):
                pass
        except (MissingNode, MalformedDag, UnsupportedCID):
            # `verify` tells of it; what is there is worth keeping.
            pass
        return nodes

    def _catalogued_links(self) -> list[LinkRecord]:
        return [
            LinkRecord(cid_of(key, version), os.fsdecode(path), profile)
            for key, version, profile, path in self._catalog.all(
                "SELECT r.key, r.version, r.profile, f.path FROM roots r JOIN files f ON f.root = r.id "
                "WHERE f.linked = 1 ORDER BY f.id"
            )
        ]

    # --- comparing it with the catalog ------------------------------------------------------------------------------

    def check(self) -> list[Problem]:
        """What the catalog or the second place has lost. Files and links that are as they were are taken in again."""
        problems: list[Problem] = []
        kinds = {bytes(key): kind for key, kind in self._catalog.all("SELECT key, kind FROM roots")}
        for path in self._nodes.paths():
            record = self._nodes.read(path)
            if not record.whole:
                detail = (
                    f"{path}, which keeps a copy of blocks of the catalog, is damaged. Write it anew with: {REPAIR}"
                )
                problems.append(Problem(record.root or _NO_CID, path, "damaged", detail))
            if record.root is None:
                continue
            key = bytes(record.root.to_v1())
            if key not in kinds and _is_folder(record.root, dict(record.nodes).get(record.root.multihash)):
                detail = f"The catalog has lost the directory {record.root}. Bring it back with: {REPAIR}"
                problems.append(Problem(record.root, self._catalog.path, "missing", detail))
            elif key in kinds:
                lost = self._lost([multihash for multihash, _ in record.nodes])
                if lost:
                    detail = f"The catalog has lost {lost} blocks of {record.root}. Bring them back with: {REPAIR}"
                    problems.append(Problem(record.root, self._catalog.path, "missing", detail))
        problems += self._check_unwritten(kinds)
        problems += self._check_links()
        return problems

    def _lost(self, multihashes: Sequence[bytes]) -> int:
        """How many of these blocks the catalog does not have, right or wrong."""
        found = 0
        wanted = list(dict.fromkeys(multihashes))
        for start in range(0, len(wanted), SQL_KEYS):
            keys = wanted[start : start + SQL_KEYS]
            marks = ",".join("?" * len(keys))
            found += self._catalog.one(f"SELECT count(*) FROM blocks WHERE multihash IN ({marks})", keys)[0]
        return len(wanted) - found

    def _check_unwritten(self, kinds: dict[bytes, int]) -> Iterator[Problem]:
        """Roots whose nodes are in the catalog alone; but those of linked files, which their profile makes again."""
        own = self._own()
        for key, kind in kinds.items():
            cid = cid_of(key, 1)
            if cid.codec != DAG_PB or self._nodes.has(cid):
                continue
            if kind == DIRECTORY or (key in own and self._catalog.get_node(cid.multihash) is not None):
                detail = f"The blocks of {cid} are in the catalog alone: their copy is missing. Write it with: {REPAIR}"
                yield Problem(cid, self._nodes.path_for(cid), "missing", detail)

    def _check_links(self) -> list[Problem]:
        links, damaged = self._links.read()
        problems = []
        if damaged:
            detail = f"{damaged} lines in {self._links.folder}, which keeps the list of linked files, are damaged."
            problems.append(Problem(_NO_CID, self._links.folder, "damaged", f"{detail} Write it anew with: {REPAIR}"))
        known = {(bytes(link.cid.to_v1()), link.path) for link in self._catalogued_links()}
        for link in links:
            if (bytes(link.cid.to_v1()), link.path) not in known:
                problems += self._bring_back_link(link)
        return problems

    # --- making the catalog anew ------------------------------------------------------------------------------------

    def bring_back(self, old: Path, progress: Progress | None) -> list[Problem]:
        """Fill an empty catalog from the second place, the files, and what an old catalog still gives and proves.

        Returns:
            What could not be brought back.
        """
        folders: dict[bytes, CID] = {}
        covered: set[bytes] = set()
        for path in list(self._nodes.paths()):
            record = self._nodes.read(path)
            self._catalog.put_blocks(record.nodes)
            covered.update(multihash for multihash, _ in record.nodes)
            if record.root is not None:
                folders.setdefault(bytes(record.root.to_v1()), record.root)
            if not record.whole:
                with explained("moving the damaged file", path):
                    os.replace(path, _free_name(self._layout.damaged / path.name))
        links, damaged = self._links.read()
        salvaged = _Old(old)
        with closing(salvaged):
            self._catalog.put_blocks(salvaged.blocks())
            profiles = salvaged.profiles()
            # A row that went bad may name what never was; but where there is no second place, the loss must be said.
            sound = salvaged.sound()
            believe = sound or not folders
            for cid in salvaged.directories():
                if believe or self._reader.node(cid.multihash) is not None:
                    folders.setdefault(bytes(cid.to_v1()), cid)
            listed = {(link.cid, link.path) for link in links}
            if sound or not links:
                links += [link for link in salvaged.links() if (link.cid, link.path) not in listed]
        if damaged:
            # Written anew below, without the lines that could not be read.
            self._links.forget_damaged()
        self._placer.packer.take_in(whole=True)
        problems = self._adopt_files(profiles, links, progress)
        for cid in folders.values():
            problems += self._bring_back_directory(cid)
        self._write_missing(covered)
        return problems

    def _adopt_files(
        self, profiles: dict[bytes, Profile], links: list[LinkRecord], progress: Progress | None
    ) -> list[Problem]:
        problems: list[Problem] = []
        found = [(path.stat(), path) for path in files_below(self._layout.ipfs)]
        # Oldest first, as they are listed.
        found.sort(key=lambda entry: entry[0].st_mtime_ns)
        total, done = sum(status.st_size for status, _ in found), 0
        for status, path in found:
            cid = cid_of_file(self._layout.path_for, path)
            if cid is not None:
                problems += self._adopted(cid, path, likely=profiles.get(bytes(cid.to_v1())))
            done += status.st_size
            if progress is not None:
                progress(done, total)
        for link in links:
            problems += self._bring_back_link(link)
        return problems

    def _adopted(self, cid: CID, path: Path, *, likely: Profile | None, linked: bool = False) -> list[Problem]:
        try:
            problem = self._checker.adopt(cid, path, linked=linked, likely=likely)
        except KacheryError as error:
            what = "missing" if isinstance(error, FileNotFoundError) else "unknown"
            return [Problem(cid, path, what, f"{cid} cannot be brought back: {error}")]
        return [] if problem is None else [problem]

    def _bring_back_link(self, link: LinkRecord) -> list[Problem]:
        return self._adopted(link.cid, Path(link.path), likely=profile_from_text(link.profile), linked=True)

    def _bring_back_directory(self, cid: CID) -> Iterator[Problem]:
        block = self._reader.node(cid.multihash)
        if block is None:
            detail = f"The directory {cid} is lost: its block is nowhere here. {way_out(cid)}"
            yield Problem(cid, self._catalog.path, "missing", detail)
            return
        if not _is_folder(cid, block):
            return
        tree = read_tree(cid, self._reader.nodes)
        for folder, why in tree.broken:
            detail = f"The directory {folder} in {cid} is not all here. {why} {way_out(cid)}"
            yield Problem(cid, self._catalog.path, "damaged", detail)
        size = tree.size(self._placer.root_sizes(list(tree.files)))
        with self._catalog.write() as db:
            add_root(db, cid, DIRECTORY, size, None)


class _Old:
    """A catalog that may be damaged, or not be there: what it still gives. All of it is proved by whoever takes it."""

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection | None = None
        if path.exists():
            try:
                self._db = open_damaged(path)
                self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
            except sqlite3.Error:
                self._db = None

    def sound(self) -> bool:
        """Whether SQLite finds nothing wrong in it."""
        return self._db is not None and is_sound(self._db)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def blocks(self) -> Iterator[tuple[bytes, bytes]]:
        for multihash, data in self._rows("SELECT multihash, data FROM blocks ORDER BY rowid"):
            if right_block(multihash, data):
                yield multihash, data

    def directories(self) -> Iterator[CID]:
        for key, version in self._rows(f"SELECT key, version FROM roots WHERE kind = {DIRECTORY} ORDER BY rowid"):
            cid = _cid_or_none(key, version)
            if cid is not None:
                yield cid

    def profiles(self) -> dict[bytes, Profile]:
        """The profiles that roots were stored by."""
        found = {}
        for key, text in self._rows("SELECT key, profile FROM roots WHERE profile IS NOT NULL ORDER BY rowid"):
            profile = profile_from_text(text) if isinstance(text, str) else None
            if profile is not None and isinstance(key, bytes):
                found[key] = profile
        return found

    def labels(self) -> Iterator[LabelRecord]:
        """What was kept, and how it was called."""
        for key, version, how, added in self._rows(
            "SELECT k.key, r.version, k.how, k.added FROM kept k JOIN roots r ON r.key = k.key ORDER BY k.rowid"
        ):
            cid = _cid_or_none(key, version)
            if cid is not None and isinstance(how, int) and isinstance(added, float) and 0 < how < 8:
                yield LabelRecord(cid, how, added=added)
        for key, label, given, added in self._rows("SELECT key, label, given, added FROM labels ORDER BY rowid"):
            cid = _cid_or_none(key, 1)
            if cid is not None and isinstance(label, str) and isinstance(added, float):
                yield LabelRecord(cid, 0, label, bool(given), added)
        for root, root_version, key, version, added in self._rows(
            "SELECT p.root, p.root_version, p.key, p.version, k.added FROM parts p JOIN kept k ON k.key = p.root "
            "ORDER BY p.rowid"
        ):
            of, cid = _cid_or_none(root, root_version), _cid_or_none(key, version)
            if of is not None and cid is not None and isinstance(added, float):
                yield LabelRecord(cid, 0, added=added, of=of)

    def links(self) -> Iterator[LinkRecord]:
        for key, version, profile, path in self._rows(
            "SELECT r.key, r.version, r.profile, f.path FROM files f JOIN roots r ON f.root = r.id WHERE f.linked = 1 "
            "ORDER BY f.rowid"
        ):
            cid = _cid_or_none(key, version)
            if cid is not None and isinstance(path, bytes) and b"\0" not in path:
                yield LinkRecord(cid, os.fsdecode(path), profile if isinstance(profile, str) else None)

    def _rows(self, sql: str) -> Iterator[tuple]:
        """As many rows as a damaged table gives: from its beginning, and from its end to where that stopped."""
        if self._db is None:
            return
        for order in ("", " DESC"):
            try:
                yield from self._db.execute(sql + order)
                return
            except sqlite3.Error:
                continue


def old_labels(path: Path) -> list[LabelRecord]:
    """What a catalog that may be damaged, or not be there, still says of what the user kept, and of its labels."""
    with closing(_Old(path)) as old:
        return list(old.labels())


def refuse_newer(path: Path) -> bool:
    """Whether a catalog is sound and of a later version, so that it is not for this program to replace."""
    if not path.exists():
        return False
    try:
        with closing(open_damaged(path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            # A version far ahead is a damaged number.
            return SCHEMA_VERSION < version < SCHEMA_VERSION + 100 and db.execute(
                "PRAGMA quick_check(1)"
            ).fetchone() == ("ok",)
    except sqlite3.Error:
        return False


def cid_of_file(path_for, path: Path) -> CID | None:
    """The CID of a file under `ipfs/`; None for one that is not where its name belongs."""
    try:
        cid = CID.parse(path.name)
        return cid if path_for(cid) == path else None
    except KacheryError:
        return None


def right_block(multihash: object, data: object) -> bool:
    """Whether a row of the catalog is a block with its hash."""
    if not isinstance(multihash, bytes) or not isinstance(data, bytes):
        return False
    try:
        return verify_block(multihash, data)
    except (InvalidCID, UnsupportedCID):
        return False


def _cid_or_none(key: object, version: object) -> CID | None:
    if not isinstance(key, bytes) or not isinstance(version, int):
        return None
    try:
        return cid_of(key, version)
    except (InvalidCID, UnsupportedCID, ValueError, IndexError):
        return None


def _is_folder(cid: CID, block: bytes | None) -> bool:
    if block is None:
        return False
    try:
        return node_kind(block, cid) in (DataType.DIRECTORY, DataType.HAMT_SHARD)
    except (MalformedDag, UnsupportedCID):
        return False


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}.{number}")):
        number += 1
    return path.with_name(f"{path.name}.{number}")
