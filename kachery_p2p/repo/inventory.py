"""What the user keeps here: which roots were stored, linked or loaded by themselves, when, and what they are called.

The catalog has a root for each file, also for those inside folders. `kept` has a row for each root that somebody asked
for by itself: those are listed, and those are removed. A file that is in a folder, and was not stored by itself, has
none; it goes with the last folder that has it.

`kept.how` is the sum of what was done: 1 stored, 2 linked, 4 loaded, 8 pinned here by others. `used` is when it was
last read by a user of this machine, to the hour, so that reading costs no writing. `whole` says of a folder whether all
that is in it is here; null where that must be looked up again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.access.audience import Audience
from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.nodes import read_node
from kachery_p2p.errors import KacheryError, RemovedMeanwhile
from kachery_p2p.repo.access import Claim
from kachery_p2p.repo.catalog import CHANGED, DIRECTORY, OK
from kachery_p2p.repo.checking import Problem, way_out
from kachery_p2p.repo.fileio import Stamp
from kachery_p2p.repo.folder_parts import FolderParts, part_row
from kachery_p2p.repo.kept_rows import LINKED, LOADED, PINNED, STORED, KeptRoot, Label, clean_label, keep_row, label_row
from kachery_p2p.repo.labels import LabelRecord, LabelRecords
from kachery_p2p.repo.limits import SERVED_SECONDS, SQL_KEYS, USED_NOTES, USED_SECONDS
from kachery_p2p.repo.listing import gone_inside
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.relisting import bring_back, outer_roots, relist, take_over
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import unchanged
from kachery_p2p.repo.tree import StoredTree, read_tree


class _Place(NamedTuple):
    """Where the catalog says a file is, and the stamp that it had; in a pack where the path is None."""

    path: bytes | None
    linked: int
    state: int
    stamp: Stamp


_PACKED = _Place(None, 0, OK, Stamp(0, 0, 0, 0))


class Inventory:
    """What the user keeps in one repo. Safe to use from many threads."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._lock = placer.lock
        self._access = placer.access
        self.records = LabelRecords(placer.layout)
        self.parts = FolderParts(placer)
        #: When the use of a root was last noted, or found noted, by this process.
        self._used: OrderedDict[bytes, float] = OrderedDict()
        self._guard = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: a thread that it does not have may hold the lock."""
        self._guard = threading.Lock()

    # --- what is done -----------------------------------------------------------------------------------------------

    def keep(
        self,
        cid: CID,
        how: int,
        label: Label | None = None,
        *,
        durable: bool = False,
        audience: Audience | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Note that a root which is here was stored, linked or loaded by itself. Cheap when that is noted already.

        The caller has the lock of those who add.

        Args:
            cid: of the root.
            how: what was done, a sum.
            label: what it is called.
            durable: for what nothing else would tell after a loss of power.
            audience: for whom it is; None where nothing was said of that (`RootAccess.before_keeping`).
            claim: what it was stored or loaded under.
        """
        if self._catalog.read_only:
            return
        key, now = bytes(cid.to_v1()), time.time()
        label = clean_label(label)
        row = self._catalog.one(
            "SELECT k.how, k.used, k.whole, (SELECT given FROM labels WHERE key = ?1 AND label = ?2), "
            "EXISTS (SELECT 1 FROM going WHERE key = ?1) FROM (SELECT 1) LEFT JOIN kept k ON k.key = ?1",
            (key, None if label is None else label.text),
        )
        known, used, whole, given, going = row
        new_label = label is not None and (given is None or given < label.given)
        new_how = known is None or how & ~known
        said = claim is not None or (audience is not None and self._access.audience_of(cid) != audience)
        if not (new_how or new_label or going or said or whole == 0 or used < now - USED_SECONDS):
            return
        bind = None
        if not known or going or said:
            bind = self._access.before_keeping(cid, audience, claim, widens=bool(how & (STORED | LINKED | PINNED)))
        if new_label or (new_how and how & LOADED):
            self.records.append([_record(cid, (known or 0) | how, label, now)])
        with self._catalog.write(durable=durable) as db:
            if bind is not None:
                bind(db)
            keep_row(db, key, how, now)
            db.execute("DELETE FROM going WHERE key = ?", (key,))
            if new_label and label is not None:
                label_row(db, key, label, now)
        self._remember(key, now)

    def keep_folder(self, root: CID, claim: Claim | None = None, tree: StoredTree | None = None) -> None:
        """Note that a folder was loaded by itself, under a claim where it is not for everyone.

        The caller has the lock of those who add. Where it has just looked at all nodes of the folder, `tree` is what
        is in it.

        Raises:
            RemovedMeanwhile: a file of it is not here.
        """
        broken, missing, _ = self._lacking(root, tree)
        lacking = broken + len(missing)
        if lacking:
            raise RemovedMeanwhile(f"{lacking} files of {root} were removed while it was loaded. Load it again.")
        self.keep(root, LOADED, durable=True, audience=None if claim is None else claim.audience, claim=claim)

    def name(self, cid: CID, label: Label | None) -> None:
        """Note what is to be loaded is called, before it is here."""
        label = clean_label(label)
        if label is None or self._catalog.read_only:
            return
        key = bytes(cid.to_v1())
        if self._catalog.one("SELECT 1 FROM labels WHERE key = ? AND label = ?", (key, label.text)) is None:
            with self._lock.adding():
                self.records.append([_record(cid, LOADED, label, time.time())])
                with self._catalog.write() as db:
                    label_row(db, key, label, time.time())

    def loaded(self, cid: CID, label: Label | None = None, claim: Claim | None = None) -> None:
        """Note that a root was loaded by itself, where it is whole; under a claim where it is not for everyone."""
        if self._catalog.one("SELECT 1 FROM roots WHERE key = ?", (bytes(cid.to_v1()),)) is not None:
            with self._lock.adding():
                audience = None if claim is None else claim.audience
                self.keep(cid, LOADED, label, audience=audience, claim=claim)

    def loaded_alone(self, cid: CID, label: Label | None = None) -> None:
        """The same of a file, where it is known as a part of folders alone."""
        if self._catalog.one("SELECT 1 FROM parts WHERE key = ?", (bytes(cid.to_v1()),)) is not None:
            self.loaded(cid, label)

    def loaded_part(self, root: CID, file: CID, claim: Claim | None = None) -> None:
        """Note that something of a file was read through a folder, if it is here now and the folder is not.

        Where it was loaded under a claim, that is the folder's from then on.
        """
        if _inline(file) or self._catalog.read_only or (claim is None and self.parts.has(root, file)):
            return
        key = bytes(file.to_v1())
        with self._lock.adding():
            whole = self._catalog.one(f"SELECT 1 FROM roots WHERE key = ? AND kind <> {DIRECTORY}", (key,))
            if whole or self.parts.unfinished(file):
                now = time.time()
                known = self.parts.has(root, file)
                if not known:
                    self.records.append([LabelRecord(file, LOADED, added=now, of=root)])
                with self._catalog.write() as db:
                    if claim is not None:
                        self._access.bind_part(db, claim, root)
                    if not known:
                        part_row(db, root, file, now)

    def pinned(self, cid: CID, before: int) -> None:
        """Note that a root which is here is kept for others, whoever loaded it.

        Args:
            cid: of it.
            before: as what it was kept before it was loaded for them; 0 where it was not. No more stays of that load.
        """
        key, now, how = bytes(cid.to_v1()), time.time(), before | PINNED
        with self._lock.adding():
            self.records.append([_record(cid, how, None, now)])
            with self._catalog.write(durable=True) as db:
                keep_row(db, key, how, now)
                db.execute("UPDATE kept SET how = ? WHERE key = ?", (how, key))
                db.execute("DELETE FROM going WHERE key = ?", (key,))
        with self._guard:
            self._used.pop(key, None)  # whoever uses it next does so as the user

    def pinned_keys(self) -> set[bytes]:
        """What is kept for others, as the catalog has it."""
        rows = self._catalog.all("SELECT k.key FROM kept k JOIN roots r ON r.key = k.key WHERE k.how & ?", (PINNED,))
        return {key for (key,) in rows}

    def unpinned(self, cid: CID) -> None:
        """Note that a root is not kept for others any more, but for whatever else it is here."""
        key = bytes(cid.to_v1())
        with self._lock.adding(), self._catalog.write(durable=True) as db:
            db.execute("UPDATE kept SET how = how & ~? WHERE key = ? AND how <> ?", (PINNED, key, PINNED))

    def use(self, cid: CID) -> None:
        """Note that a root was used now. Costs a row once an hour, and else nothing but a look into memory."""
        if self._catalog.read_only:
            return
        key, now = bytes(cid.to_v1()), time.time()
        with self._guard:
            if now - USED_SECONDS < self._used.get(key, 0.0) <= now:
                return
        row = self._catalog.one("SELECT used, how FROM kept WHERE key = ?", (key,))
        if row is not None and row[1] == PINNED:
            self.loaded(cid)  # it was here for others alone, and is not to go with them
        elif row is not None and not now - USED_SECONDS < row[0] <= now:
            with self._catalog.write() as db:
                db.execute("UPDATE kept SET used = ? WHERE key = ?", (now, key))
        self._remember(key, now)

    def served(self, keys: Iterable[bytes], now: float) -> None:
        """Note that others were given something of these roots (binary CIDv1), those of them that are kept."""
        if self._catalog.read_only:
            return
        with self._catalog.write() as db:
            db.executemany(
                "UPDATE kept SET used = ?1 WHERE key = ?2 AND used < ?3",
                [(now, key, now - SERVED_SECONDS) for key in keys],
            )

    def _remember(self, key: bytes, now: float) -> None:
        with self._guard:
            self._used[key] = now
            self._used.move_to_end(key)
            if len(self._used) > USED_NOTES:
                self._used.popitem(last=False)

    # --- what is here -----------------------------------------------------------------------------------------------

    def get(self, cid: CID) -> KeptRoot | None:
        """One root, if it was stored, linked or loaded by itself, or is being loaded."""
        key = bytes(cid.to_v1())
        for root in (*self._roots(key), *self._in_part(key)):
            return root
        return next((root for root in self._partial() if root.key == key), None)

    def roots(self) -> list[KeptRoot]:
        """All that was stored, linked or loaded by itself, or is being loaded, oldest first."""
        kept = self._roots()
        keys = {root.key for root in kept if root.here}
        partial = [root for root in self._partial() if root.key not in keys]
        partial += self._in_part()
        shown = {root.key for root in partial}
        found = [root for root in kept if root.key not in shown] + partial
        return sorted(found, key=lambda root: root.added)

    def in_part(self) -> list[KeptRoot]:
        """Files and folders of which only a part is here."""
        return [*self._partial(), *self._in_part()]

    def members(self, cid: CID) -> StoredTree:
        """What is in a directory, as far as its nodes are here."""
        return read_tree(cid, self._reader.nodes)

    def files_of(self, root: KeptRoot) -> list[CID]:
        """The files of a folder; of one of which a part is here, those."""
        if root.how:
            return list(self.members(root.cid).files)
        return [cid for folder in self.parts.folders(root.key) for cid in folder.files]

    def folders(self) -> list[tuple[bytes, CID]]:
        """The directories that are kept by themselves: their keys, and their CIDs."""
        rows = self._catalog.all(
            f"SELECT k.key, r.version FROM kept k JOIN roots r ON r.key = k.key WHERE r.kind = {DIRECTORY}"
        )
        return [(key, cid_of(key, version)) for key, version in rows]

    def is_inside(self, cid: CID) -> bool:
        """Whether a file is in a folder that is listed, or of which a part is. Looks through all of these."""
        return bytes(cid.to_v1()) in self._inside()

    def here_among(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of some files, by their keys, that the catalog has whole."""
        found: set[bytes] = set()
        packs = set(self._reader.packs.numbers())
        for start in range(0, len(keys), SQL_KEYS):
            some = list(keys[start : start + SQL_KEYS])
            marks = ",".join("?" * len(some))
            found.update(
                key
                for (key,) in self._catalog.all(
                    "SELECT r.key FROM roots r JOIN files f ON f.root = r.id "
                    f"WHERE r.key IN ({marks}) AND f.state = {OK}",
                    some,
                )
            )
            found.update(
                key
                for key, pack in self._catalog.all(
                    f"SELECT r.key, p.pack FROM roots r JOIN packed p ON p.root = r.id WHERE r.key IN ({marks})", some
                )
                if pack in packs
            )
        return found

    def lacking(self, cid: CID) -> tuple[int, int]:
        """How many files of a directory are not here, or folders of it cannot be read; and how many files it has."""
        broken, missing, count = self._lacking(cid)
        return broken + len(missing), count

    def _lacking(self, cid: CID, tree: StoredTree | None = None) -> tuple[int, set[bytes], int]:
        """The same: folders, the keys of files, and how many there are."""
        tree = tree or self.members(cid)
        keys = [bytes(member.to_v1()) for member in tree.files if not _inline(member)]
        return len(tree.broken), set(keys) - self.here_among(keys), len(tree.files)

    def check(self, named: Sequence[Problem]) -> list[Problem]:
        """What is kept and is not here, or not all of it. What had a label is listed again.

        Args:
            named: problems that are known; a folder that lacks only these files is not named once more.
        """
        self.relist()
        known = {bytes(problem.cid.to_v1()) for problem in named}
        problems: list[Problem] = []
        for key, version in self._catalog.all(
            "SELECT k.key, r.version FROM kept k JOIN roots r ON r.key = k.key LEFT JOIN files f ON f.root = r.id "
            f"LEFT JOIN packed p ON p.root = r.id WHERE r.kind <> {DIRECTORY} AND f.id IS NULL AND p.root IS NULL"
        ):
            cid = cid_of(key, version)
            if key not in known and not _inline(cid):
                detail = f"{cid} is on the list, but no copy of it is here any more. {way_out(cid)}"
                problems.append(Problem(cid, self._catalog.path, "missing", detail))
                known.add(key)
        for _, cid in self.folders():
            broken, missing, count = self._lacking(cid)
            if (broken or missing - known) and bytes(cid.to_v1()) not in known:
                detail = (
                    f"{broken + len(missing)} of the {count} files in the folder {cid} are not here. {way_out(cid)}"
                )
                problems.append(Problem(cid, self._catalog.path, "missing", detail))
        return problems

    def _roots(self, only: bytes | None = None) -> list[KeptRoot]:
        if self._catalog.needs_taking_over:  # another user's, in which nothing can be written down
            return self._guessed(only)
        where, more = ("WHERE k.key = ?", (only,)) if only is not None else ("", ())
        rows = self._catalog.all(
            "SELECT k.key, r.version, r.kind, r.size, k.how, k.added, k.used, k.whole "
            f"FROM kept k JOIN roots r ON r.key = k.key {where} ORDER BY k.added",
            more,
        )
        places = self._places(where, more)
        labels = self._labels(only)
        found: list[KeptRoot] = []
        gone = gone_inside(self._catalog, self._reader) if only is None else set[bytes]()
        for key, version, kind, size, how, added, used, _ in rows:
            root = KeptRoot(
                cid_of(key, version), kind == DIRECTORY, how, size, 0, added, used, tuple(labels.get(key, ()))
            )
            found.append(root if root.directory else self._file(root, places.get(key, ())))
            if not (root.directory or found[-1].whole):
                gone.add(key)
        return [
            self._folder(root, row[-1], gone) if root.directory else root for root, row in zip(found, rows, strict=True)
        ]

    def _folder(self, root: KeptRoot, whole: int | None, gone: Set[bytes]) -> KeptRoot:
        """A folder, with how much of it is here.

        Args:
            root: of it.
            whole: whether all of it is, as the catalog has it; None where that must be looked up.
            gone: the keys of files that the catalog has and that are not where it says.
        """
        if whole is None:
            lacking, _ = self.lacking(root.cid)
            whole = int(lacking == 0)
            if not self._catalog.read_only:
                with self._catalog.write() as db:
                    db.execute("UPDATE kept SET whole = ? WHERE key = ?", (whole, root.key))
        here = root.size or 0
        if not whole or gone:
            files = {bytes(cid.to_v1()): cid for cid in self.members(root.cid).files}
            if not whole or not gone.isdisjoint(files):
                whole = 0
                there = self.here_among(list(files)) - gone
                here = sum(self._placer.root_sizes([files[key] for key in there]).values())
        copied = not root.how & LINKED or bool(root.how & STORED)
        return replace(
            root,
            here=here,
            copied=copied,
            linked=bool(root.how & LINKED),
            whole=bool(whole),
            problem="" if whole else "incomplete",
        )

    def _file(self, root: KeptRoot, places: Sequence[_Place]) -> KeptRoot:
        """A file, with where it is. Looks whether it is there as it was: people remove and change files by hand."""
        path: Path | None = None
        copied = linked = False
        problems: list[str] = []
        for place in sorted(places, key=lambda place: place.linked):
            if place.path is None:
                copied = True
                continue
            full = Path(os.fsdecode(self._reader.absolute(place.path, place.linked)))
            try:
                status = os.stat(full)
            except OSError:
                problems.append("missing")
                continue
            if place.state == CHANGED or not unchanged(status, place.linked, *place.stamp):
                problems.append("changed")
                continue
            path = path or full
            copied = copied or not place.linked
            linked = linked or bool(place.linked)
        whole = copied or linked or _inline(root.cid)
        return replace(
            root,
            here=root.size or 0 if whole else 0,
            path=path,
            copied=copied,
            linked=linked,
            whole=whole,
            problem="" if whole else (problems or ["missing"])[0],
        )

    def _places(self, where: str, more: Sequence[bytes]) -> dict[bytes, list[_Place]]:
        """Where the files are that are kept by themselves."""
        found: dict[bytes, list[_Place]] = {}
        for key, path, linked, state, *stamp in self._catalog.all(
            "SELECT k.key, f.path, f.linked, f.state, f.size, f.mtime_ns, f.ctime_ns, f.inode "
            f"FROM kept k JOIN roots r ON r.key = k.key JOIN files f ON f.root = r.id {where}",
            more,
        ):
            found.setdefault(key, []).append(_Place(path, linked, state, Stamp(*stamp)))
        packs = set(self._reader.packs.numbers())
        for key, pack in self._catalog.all(
            f"SELECT k.key, p.pack FROM kept k JOIN roots r ON r.key = k.key JOIN packed p ON p.root = r.id {where}",
            more,
        ):
            if pack in packs:
                found.setdefault(key, []).append(_PACKED)
        return found

    def _labels(self, only: bytes | None = None) -> dict[bytes, list[Label]]:
        where, more = ("WHERE key = ?", (only,)) if only is not None else ("", ())
        found: dict[bytes, list[Label]] = {}
        for key, text, given in self._catalog.all(
            f"SELECT key, label, given FROM labels {where} ORDER BY given DESC, added DESC", more
        ):
            found.setdefault(key, []).append(Label(text, bool(given)))
        return found

    def _partial(self) -> Iterator[KeptRoot]:
        """Files that are being loaded, or of which only parts were asked for."""
        try:
            names = os.listdir(self._layout.partial)
        except FileNotFoundError:
            return
        inside = self._inside() if names else set()
        labels = self._labels()
        for name in names:
            try:
                cid = CID.parse(name)
                status = os.stat(self._layout.partial / name)
            except (KacheryError, OSError):
                continue
            key = bytes(cid.to_v1())
            here = min(getattr(status, "st_blocks", 0) * 512, status.st_size)
            if key in inside or not here:
                continue
            yield KeptRoot(
                cid,
                False,
                0,
                self._size_of(cid, status.st_size),
                here,
                status.st_ctime,
                max(status.st_atime, status.st_mtime),
                tuple(labels.get(key, ())),
                copied=True,
                whole=False,
                problem="incomplete",
            )

    def _size_of(self, cid: CID, at_least: int) -> int:
        """How large a file is of which a part is here, as its root says; `at_least` where that has not come yet."""
        block = self._reader.node(cid.multihash) if cid.codec == DAG_PB else None
        node = None if block is None else read_node(cid, block)[1]
        return at_least if node is None else max(at_least, node.filesize or 0)

    def _inside(self) -> set[bytes]:
        """The keys of all files in the folders that are kept, or of which a part is here."""
        found = {bytes(cid.to_v1()) for _, folder in self.folders() for cid in self.members(folder).files}
        found.update(key for (key,) in self._catalog.all("SELECT key FROM parts"))
        return found

    def _in_part(self, only: bytes | None = None) -> Iterator[KeptRoot]:
        """Folders of which files were read by their paths."""
        folders = self.parts.folders(only)
        if folders:
            labels = self._labels(only)
            for folder in folders:
                keys = [bytes(cid.to_v1()) for cid in folder.files]
                key = bytes(folder.cid.to_v1())
                yield from self.parts.kept(folder, self.here_among(keys), tuple(labels.get(key, ())))

    # --- what the catalog does not tell -----------------------------------------------------------------------------

    def take_over(self) -> None:
        """See `relisting.take_over`."""
        take_over(self._catalog, self._reader)

    def relist(self) -> None:
        """See `relisting.relist`."""
        if not self._catalog.read_only:
            self._access.found.settle(relist(self._catalog, self.records.read()[0]))

    def bring_back(self, old: Path) -> None:
        """See `relisting.bring_back`."""
        bring_back(self._catalog, self._reader, self.records.read()[0], old)

    def _guessed(self, only: bytes | None) -> list[KeptRoot]:
        """The same where nothing was written down, and nothing can be."""
        found: list[KeptRoot] = []
        for key, how, added, (version, kind, size) in outer_roots(self._catalog, self._reader):
            if only is None or key == only:
                root = KeptRoot(cid_of(key, version), kind == DIRECTORY, how, size, 0, added, added)
                if root.directory:
                    found.append(replace(root, here=size, copied=True, whole=self.lacking(root.cid)[0] == 0))
                    continue
                rows = self._catalog.all(
                    "SELECT f.path, f.linked, f.state, f.size, f.mtime_ns, f.ctime_ns, f.inode FROM files f "
                    "JOIN roots r ON r.id = f.root WHERE r.key = ?",
                    (key,),
                )
                places = [_Place(path, linked, state, Stamp(*stamp)) for path, linked, state, *stamp in rows]
                if self._reader.packs.file(root.cid) is not None:
                    places.append(_PACKED)
                found.append(self._file(root, places))
        return found


def _record(cid: CID, how: int, label: Label | None, now: float) -> LabelRecord:
    return LabelRecord(cid, how, None if label is None else label.text, label is not None and label.given, now)


def _inline(cid: CID) -> bool:
    """Whether the bytes are in the CID itself, or there are none: then it is here everywhere."""
    from kachery_p2p.dag.cid import known_block

    return known_block(cid) is not None
