"""Removing roots, so that nothing that is left needs what goes, also where the process is killed in the middle.

    1  the root is taken off the list, and it is written down that it is going (`going`), durably
    2  what only it needs goes: sections of packs are written over, rows are deleted, and then records and files
    3  `going` is emptied

From 1 on it is not listed. Whoever opens the repo, or removes something next, ends what was interrupted. If it is
stored again meanwhile, it is not going any more: what is left of it is looked at as everything is that is here already.

A file goes with the last root that has it: a folder that is removed leaves what other folders have, and what was stored
by itself; a file that a folder has stays where it is, and is only not listed any more. A linked file is forgotten, and
never touched. All of this is done by the one who has the removal lock (removal_lock.py) alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, known_block
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import DiskFull, InvalidCID, MalformedDag, RepoBusy, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.checking import ROW_COLUMNS, Checker, Row
from kachery_p2p.repo.compaction import compact
from kachery_p2p.repo.inventory import Inventory, KeptRoot
from kachery_p2p.repo.kept_rows import forget_kept
from kachery_p2p.repo.labels import LabelRecord
from kachery_p2p.repo.limits import ROW_BATCH, SQL_KEYS
from kachery_p2p.repo.maintenance import Maintenance
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.partials import PartialLock, Partials
from kachery_p2p.repo.placing import Placer, forget_file
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.seen import forget_seen
from kachery_p2p.repo.serving import unchanged

if TYPE_CHECKING:
    from kachery_p2p.repo.foresight import Foresight


@dataclass(frozen=True)
class Removed:
    """What came of a removal.

    Attributes:
        cid: of the root.
        freed: bytes of files that are gone from the disk.
        files: files that are gone.
        packed: bytes that will be free when their pack is compacted.
        shared: files of it that stay, because something else has them.
    """

    cid: CID
    freed: int = 0
    files: int = 0
    packed: int = 0
    shared: int = 0


@dataclass
class _Owners:
    """How many of the kept folders have each file, as long as the list of them is that of `mark`."""

    mark: object = None
    counts: Counter[bytes] = field(default_factory=Counter)


class Removal:
    """Removes roots of one repo."""

    def __init__(
        self,
        placer: Placer,
        checker: Checker,
        maintenance: Maintenance,
        inventory: Inventory,
        partials: Partials,
        changed: Callable[[], None],
    ) -> None:
        self._partials = partials
        self._placer = placer
        self._checker = checker
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._maintenance = maintenance
        self._inventory = inventory
        self._lock = placer.lock
        #: Called before blocks go, so that none is kept in memory.
        self._changed = changed
        self._named = Named(placer.layout)
        self._owners = _Owners()
        #: Nodes of what was removed, by multihash.
        self._loose: set[bytes] = set()

    def remove(self, root: KeptRoot, *, more: bool = False) -> Removed:
        """Remove a root that is as it was when `root` was read.

        Args:
            root: of which.
            more: others follow, and then `tidy`, which looks once for all of them which inner nodes nothing needs.

        Raises:
            RepoBusy: it is being loaded, something is being stored, or it was stored or loaded again meanwhile.
            NoPermission, RepoError: the system does not allow it.
        """
        with self._lock.removing():
            self._finish()
            now = self._inventory.get(root.cid)
            if now is None:
                if not self._placer.root_sizes([root.cid]):
                    return Removed(root.cid)
                now = root  # one that no list has
            if (now.how, now.labels) != (root.how, root.labels):
                raise RepoBusy(f"ipfs://{root.cid} was stored or loaded again just now, so it is not removed.")
            with ExitStack() as locks:
                files = self._unfinished(self._goes(now)[0]) if now.directory else []
                partial = [locks.enter_context(PartialLock(self._layout, cid)) for cid in (root.cid, *files)]
                removed = self._remove(now, more)
                freed = sum(self._unlink(path) or 0 for path in partial if path is not None)
                return replace(removed, freed=removed.freed + freed)

    def drop_begun(self, cid: CID) -> None:
        """Remove the partial file of a load that was begun, and of which nothing has arrived: no list has it.

        Raises:
            RepoBusy: it is being loaded, or something is being stored.
        """
        with self._lock.removing(), PartialLock(self._layout, cid) as path:
            if path is not None and self._inventory.get(cid) is None:
                self._unlink(path)

    def forget(self, cid: CID) -> bool:
        """See Repo.remove."""
        with self._lock.removing():
            self._finish()
            known = self._begin([cid])
            known = bool(self._destroy([cid])[1]) or known
            self._end([cid])
            return known

    def loses(self, root: KeptRoot) -> list[tuple[CID, int]]:
        """The files of which a copy goes with a root, and their sizes; but for those that the user has, unchanged.

        A file that is not right, or not there any more, is no copy.
        """
        if root.how == 0 and not root.directory:
            return [(root.cid, root.here)]
        gone = {bytes(cid.to_v1()): cid for cid in self._goes(root)[0]}
        rows: dict[bytes, list[Row]] = {}
        for start in range(0, len(gone), SQL_KEYS):
            some = list(gone)[start : start + SQL_KEYS]
            for key, *row in self._catalog.all(
                f"SELECT r.key, {ROW_COLUMNS} FROM roots r JOIN files f ON f.root = r.id "
                f"WHERE f.state = {OK} AND r.key IN ({','.join('?' * len(some))})",
                some,
            ):
                rows.setdefault(key, []).append(Row._make(row))
        packed = self._reader.packs.files(list(gone.values()))
        found: list[tuple[CID, int]] = []
        for key, cid in gone.items():
            if known_block(cid) is not None:
                continue
            place = packed.get(key)
            sizes = [place.length] if place is not None else []
            for row in rows.get(key, ()):
                try:
                    status = os.stat(self._reader.absolute(row.path, row.linked))
                except OSError:
                    continue
                if not row.linked:
                    sizes.append(row.size)
                elif unchanged(status, *row[2:7]):
                    break
            else:
                found += [(cid, size) for size in sizes[:1]]
        if root.how == 0:
            found += [(cid, size) for cid in gone.values() if (size := self._inventory.parts.unfinished(cid))]
        return found

    def foresee(self) -> Foresight:
        """What removals would free, and tidying up before and after them, from how it is now."""
        from kachery_p2p.repo.foresight import Foresight

        return Foresight(
            self._placer,
            self._checker,
            self._inventory,
            self._partials,
            counts=self._counts(),
            aside=self._set_aside(),
        )

    def stays(self, root: KeptRoot) -> bool:
        """Whether a root is a file that stays where it is when it is removed, because a folder has it."""
        return not root.directory and root.key in self._counts()

    def sample(self, root: KeptRoot, blocks: int, proofs: int) -> tuple[list[CID], list[CID]]:
        """Blocks of a root chosen by chance, each as likely as any other byte of it: some to ask about, some to get.

        Args:
            root: of which; it is among both.
            blocks: to be asked about at most; all of it where it has no more.
            proofs: to be given, besides the root.
        """
        chance = random.SystemRandom()
        nodes: list[bytes] = []
        leaves: list[CID] = []
        sized = self.loses(root)
        if root.directory:
            nodes += self._inventory.members(root.cid).nodes
        total = sum(size for _, size in sized)
        picked = sized
        if len(sized) > blocks and total:
            picked = [sized[i] for i in set(_weighted(chance, [size for _, size in sized], blocks))]
        each = -(-blocks // max(len(picked), 1))
        packed = self._reader.packs.files([cid for cid, _ in picked])
        for cid, size in picked:
            if bytes(cid.to_v1()) in packed:
                leaves.append(cid)
                continue
            share = max(each, min(blocks, round(blocks * size / total))) if total else each
            leaves += [
                CID(1, DAG_PB if wrap else RAW, multihash)
                for multihash, wrap in self._catalog.all(
                    "SELECT l.multihash, l.wrap FROM leaves l WHERE l.file = (SELECT f.id FROM files f JOIN roots r "
                    f"ON f.root = r.id WHERE r.key = ? AND f.state = {OK} LIMIT 1) ORDER BY random() LIMIT ?",
                    (bytes(cid.to_v1()), share),
                )
            ]
            if cid.codec == DAG_PB and len(nodes) < blocks:
                nodes += self._nodes_of([cid])
        inner = chance.sample(nodes, min(len(nodes), blocks // 4))
        found = {cid.multihash: cid for cid in [*leaves, *(CID(1, DAG_PB, each) for each in inner)]}
        found.pop(root.cid.multihash, None)
        shuffled = list(found.values())
        chance.shuffle(shuffled)
        return [root.cid, *shuffled[:blocks]], [root.cid, *[c for c in shuffled if c in set(leaves)][:proofs]]

    def leftovers(self) -> list[tuple[CID, int, float]]:
        """Files that no kept root has, of stores and loads that were interrupted: CID, bytes, and since when."""
        inside = self._counts()
        return [
            (cid_of(key, version), size, added)
            for key, version, size, added in self._catalog.all(
                "SELECT r.key, r.version, r.size, r.added FROM roots r LEFT JOIN kept k ON k.key = r.key "
                "WHERE k.key IS NULL ORDER BY r.added"
            )
            if key not in inside
        ]

    def tidy(self) -> int:
        """Give back what is of no use: holes in packs, nodes that nothing reaches, partial files and damaged copies.

        Of these two those stay of which nothing else is whole here.

        Returns:
            The bytes that are free now.
        """
        with self._lock.removing():
            self._finish()
            self._changed()
            self._drop_nodes()
            freed = self._partials.drop_unneeded()
            freed += compact(self._placer.packer, self._catalog, self._reader.packs)
            freed += self._maintenance.sweep()[1]
            freed += self._drop_set_aside()
            self._inventory.records.tidy()
            self._placer.access.leaving.look_again()
            self._placer.access.leaving.tidy(self._maintenance.partial_roots())
        return freed

    def let_go(self) -> None:
        """Close what other processes have deleted, so that its room on the disk is free."""
        self._reader.let_go()

    def finish(self) -> None:
        """End what a process that was killed had begun to remove."""
        if self._catalog.read_only or (
            self._catalog.one("SELECT 1 FROM going LIMIT 1") is None and not self._placer.access.leaving.needs_look()
        ):
            return
        # Who stores just now is not waited for: it is done by whoever comes next.
        with suppress(RepoBusy), self._lock.removing(0):
            self._finish()

    # --- inside, with the lock held -------------------------------------------------------------------------------

    def _finish(self) -> None:
        going = [cid_of(key, 1) for (key,) in self._catalog.all("SELECT key FROM going")]
        if not going:
            self._placer.access.leaving.look_again()
            return
        # Something that is listed, or inside a folder that is, may have been written down as going by a row that a loss
        # of power kept while it took others.
        inside = self._counts()
        kept = {key for (key,) in self._catalog.all("SELECT key FROM kept")}
        gone = [cid for cid in going if (key := bytes(cid.to_v1())) not in kept and key not in inside]
        self._loose.update(self._nodes_of(gone))
        self._destroy(gone)
        self._drop_nodes()
        self._end(going)

    def _remove(self, root: KeptRoot, more: bool) -> Removed:
        gone, shared = self._goes(root)
        going = [*gone, root.cid] if root.directory else gone
        keys = [bytes(cid.to_v1()) for cid in self._inventory.files_of(root)] if root.directory else []
        nodes = self._nodes_of(going)
        packed = sum(place.length for place in self._reader.packs.files(going).values())
        try:
            self._begin([root.cid], going)
        except DiskFull:
            # Not even the catalog can grow. What is removed makes room for it; if that is all that happens, the list
            # says that it is missing.
            emptied = sum(self._unlink(path) or 0 for cid in going for path in self._own(cid))
            self._begin([root.cid], going)
        else:
            emptied = 0
        freed, found = self._destroy(going)
        freed += emptied
        self._loose.update(nodes)
        if not more:
            self._drop_nodes()
        self._end(going, more=more)
        self._owners.mark = self._mark()
        if root.directory:
            self._owners.counts -= Counter(keys)  # without those that are in no folder any more
        return Removed(root.cid, freed, len(found - {root.key} if root.directory else found), packed, shared)

    def _goes(self, root: KeptRoot) -> tuple[list[CID], int]:
        """The files that go with a root, and how many of it stay, because something else has them."""
        inside = self._counts()
        if not root.directory:
            return ([], 1) if root.key in inside else ([root.cid], 0)
        keys = {bytes(cid.to_v1()): cid for cid in self._inventory.files_of(root)}
        kept = {key for (key,) in self._catalog.all("SELECT key FROM kept") if key in keys}
        gone = [cid for key, cid in keys.items() if inside[key] <= 1 and key not in kept]
        return gone, len(keys) - len(gone)

    def _begin(self, roots: Sequence[CID], going: Sequence[CID] | None = None) -> bool:
        """Take roots off the list, and write down what goes with them; whether one was on it."""
        known = False
        ending = roots if going is None else going
        self._placer.access.leaving.forget(roots)
        with self._catalog.write(durable=True) as db:
            db.executemany(
                "INSERT OR IGNORE INTO going (key) VALUES (?)",
                [(bytes(cid.to_v1()),) for cid in ending],
            )
            for cid in ending:
                forget_seen(db, bytes(cid.to_v1()))  # first: no store is to find here what goes
            for cid in roots:
                known = forget_kept(db, bytes(cid.to_v1())) or known
                self._placer.access.leaving.going(db, bytes(cid.to_v1()), stays=cid not in ending)
        if known:
            with suppress(DiskFull):  # it speaks of what is not here any more
                self._inventory.records.append([LabelRecord(cid, 0) for cid in roots])
        return known

    def _end(self, going: Sequence[CID], *, more: bool = False) -> None:
        self._placer.access.leaving.gone([bytes(cid.to_v1()) for cid in going], more=more)
        with self._catalog.write() as db:
            db.executemany("DELETE FROM going WHERE key = ?", [(bytes(cid.to_v1()),) for cid in going])

    def _destroy(self, cids: Sequence[CID]) -> tuple[int, set[bytes]]:
        """Delete the rows, records and copies of some roots.

        Returns:
            The bytes that are free now, and the keys of those that were there.
        """
        self._changed()
        rows = {cid: self._checker.rows(cid) for cid in cids}
        found = self._placer.packer.remove(cids)
        for start in range(0, len(cids), ROW_BATCH):
            with self._catalog.write() as db:
                for cid in cids[start : start + ROW_BATCH]:
                    for row in rows[cid]:
                        forget_file(db, row.file)
                    if db.execute("DELETE FROM roots WHERE key = ?", (bytes(cid.to_v1()),)).rowcount:
                        found.add(bytes(cid.to_v1()))
        found |= self._placer.links.forget(cids)
        aside = self._set_aside() if cids else {}
        freed = 0
        for cid in cids:
            own = self._own(cid, rows[cid])
            for row in rows[cid]:
                self._reader.files.drop(row.file)
            with suppress(UnsupportedCID):
                self._placer.nodes.forget(cid)
                # It may lie there without the catalog knowing.
                own |= {self._layout.path_for(cid), *aside.get(self._layout.name_for(cid), ())}
            with explained("removing the names of", self._layout.names):
                self._named.forget(cid)  # another name of the same bytes would keep them
            for path in own:
                size = self._unlink(path)
                if size is not None:
                    freed += size
                    found.add(bytes(cid.to_v1()))
        return freed, found

    def _own(self, cid: CID, rows: Sequence[Row] | None = None) -> set[Path]:
        """Where our copies of a file are."""
        rows = self._checker.rows(cid) if rows is None else rows
        return {Path(os.fsdecode(self._reader.absolute(row.path, 0))) for row in rows if not row.linked}

    def _drop_set_aside(self) -> int:
        """Delete damaged copies of files that are whole here by now; the bytes."""
        freed = 0
        for name, paths in self._set_aside().items():
            with suppress(InvalidCID, UnsupportedCID):
                key = bytes(CID.parse(name).to_v1())
                if self._inventory.here_among([key]):
                    freed += sum(self._unlink(path) or 0 for path in paths)
        return freed

    def _set_aside(self) -> dict[str, list[Path]]:
        """The damaged copies that were set aside, by the names of their CIDs."""
        found: dict[str, list[Path]] = {}
        for name in os.listdir(self._layout.damaged):
            cid, _, number = name.rpartition(".")
            if number.isdigit():
                found.setdefault(cid, []).append(self._layout.damaged / name)
        return found

    def _unlink(self, path: Path) -> int | None:
        """Delete a file, and the folders under `ipfs/` that are empty then; the bytes that are free now."""
        with explained("removing", path):
            try:
                status = os.lstat(path)
                os.unlink(path)
            except FileNotFoundError:
                return None
            folder = path.parent
            with suppress(OSError):  # not empty
                while self._layout.ipfs in folder.parents:
                    os.rmdir(folder)
                    folder = folder.parent
        # Another name of the same bytes keeps them; of a file with holes, only what is written takes room.
        return 0 if status.st_nlink > 1 else min(status.st_size, getattr(status, "st_blocks", 1 << 40) * 512)

    def _nodes_of(self, cids: Sequence[CID]) -> list[bytes]:
        """The nodes of some files and directories, also of those whose rows are gone already."""
        found: dict[bytes, None] = {}
        waiting = [cid.multihash for cid in cids if cid.codec == DAG_PB]
        while waiting:
            multihash = waiting.pop()
            block = None if multihash in found else self._catalog.get_node(multihash)
            if block is not None:
                found[multihash] = None
                with suppress(MalformedDag, UnsupportedCID):
                    waiting += [link.cid.multihash for link in decode_node(block).links if link.cid.codec == DAG_PB]
        return list(found)

    def _drop_nodes(self) -> None:
        """Nodes of what was removed that nothing reaches any more go at once: they would be served else."""
        if self._loose:
            self._maintenance.sweep(-1.0, among=self._loose)
            self._loose = set()

    def _counts(self) -> Counter[bytes]:
        """How many of the kept folders, and of those of which a part is here, have each file."""
        mark = self._mark()
        if mark != self._owners.mark:
            counts: Counter[bytes] = Counter()
            for _, folder in self._inventory.folders():
                counts.update(bytes(cid.to_v1()) for cid in self._inventory.members(folder).files)
            counts.update(key for (key,) in self._catalog.all("SELECT key FROM parts"))
            self._owners = _Owners(mark, counts)
        return self._owners.counts

    def _mark(self) -> object:
        """Another one when the list of what is kept is another one."""
        row = self._catalog.one(
            "SELECT count(*), max(rowid), max(added), sum(how), (SELECT count(*) FROM parts), "
            "(SELECT max(rowid) FROM parts) FROM kept"
        )
        return tuple(row)

    def _unfinished(self, cids: Sequence[CID]) -> list[CID]:
        """Those of some files of which there is a partial file."""
        names = set(os.listdir(self._layout.partial))
        return [cid for cid in cids if str(cid) in names] if names else []


def _weighted(chance: random.Random, weights: Sequence[int], count: int) -> list[int]:
    """Some indices, each as likely as its weight says."""
    return chance.choices(range(len(weights)), weights=weights, k=count)
