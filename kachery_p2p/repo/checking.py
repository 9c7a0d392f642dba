"""Finding whole files, and hashing them again when there is reason to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from kachery_p2p.dag.builder import FileBuilder
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.profiles import RANDOM_16K, UNIXFS_V0_2015, UNIXFS_V1_2025, Profile
from kachery_p2p.errors import DamagedFile, FileChanged, KacheryError, MalformedDag
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import CHANGED, MISSING, OK, WRAP_FILE, WRAP_NONE
from kachery_p2p.repo.fileio import SourceFile, Stamp
from kachery_p2p.repo.hashing import FileReader, TooShort, in_order, leaf_hashes
from kachery_p2p.repo.leaves import Leaf, MissingNode, find_wrap, walk_leaves
from kachery_p2p.repo.limits import FOUND_RIGHT, SMALL_FILE, TASK_BYTES
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.placing import NodeSpool, Placer, profile_from_text, wrap_by_profile
from kachery_p2p.repo.serving import unchanged
from kachery_p2p.repo.small import SmallFiles

T = TypeVar("T")


class Problem(NamedTuple):
    """Something wrong with a stored or linked file, or with a block of the catalog.

    `what` is 'changed' (a linked file is not what it was), 'damaged' (our copy, or a block, has wrong bytes),
    'missing', or 'unknown' (it cannot be told, for the reason given in `detail`, a sentence).
    """

    cid: CID
    path: Path
    what: str
    detail: str


class Row(NamedTuple):
    """A file of the catalog."""

    file: int
    path: bytes
    linked: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    state: int


ROW_COLUMNS = "f.id, f.path, f.linked, f.size, f.mtime_ns, f.ctime_ns, f.inode, f.state"


class Checker:
    """Finds files by root, checks them, and adopts those that the catalog does not know."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._layout = placer.layout
        self._catalog = placer.catalog
        self._reader = placer.reader
        self._small = SmallFiles(placer)
        self._took_in = False
        #: Files of a directory that can only be read which do not have the stamp that its catalog says, as after it was
        #: copied, and were hashed and found right: the stamps that they had then.
        self._found_right: dict[int, Stamp] = {}

    def find(self, cid: CID) -> Path | None:
        """See Repo.find_file."""
        return self._find(cid, self._small.unpack, lambda path: path)

    def size(self, cid: CID) -> int | None:
        """See Repo.file_size."""

        def packed(cid: CID) -> int | None:
            data = self.packed(cid)
            return None if data is None else len(data)

        return self._find(cid, packed, lambda path: path.stat().st_size)

    def packed(self, cid: CID) -> bytes | None:
        """The bytes of a packed file, if it is one and they are right."""
        place = self._reader.packs.file(cid)
        return None if place is None else self._reader.packs.read(cid.multihash, place)

    def _find(self, cid: CID, packed: Callable[[CID], T | None], found: Callable[[Path], T]) -> T | None:
        """What `found` gives of the path of a file of its own, or else what `packed` gives.

        Raises:
            DamagedFile: as for Repo.find_file.
        """
        problems: list[Problem] = []
        own = False
        for row in self.rows(cid):
            own = own or not row.linked
            full = self._reader.absolute(row.path, row.linked)
            try:
                status = os.stat(full)
            except OSError:
                if row.state != MISSING:
                    self._reader.mark(row.file, MISSING)
                if not row.linked and not self._layout.read_only:
                    Named(self._layout).forget(cid)  # bytes that were removed by hand are gone, then
                # That our own copy is not there only means that it must be loaded again.
                if row.linked:
                    problems.append(self.problem(cid, row, "missing"))
                continue
            same = unchanged(status, *row[2:7])
            if (same and row.state == OK) or self._found_right.get(row.file) == Stamp.of(status):
                if not self._catalog.read_only or os.access(full, os.R_OK):
                    return found(Path(os.fsdecode(full)))
                same = False
            # A file found changed before, and not touched since, need not be hashed again to know.
            problem = (
                self.problem(cid, row, "changed" if row.linked else "damaged")
                if same and row.state == CHANGED
                else self.check(cid, row)
            )
            if problem is None:
                return found(Path(os.fsdecode(full)))
            problems.append(problem)
        if self._catalog.in_memory and not self._took_in:
            self._took_in = True
            self._placer.packer.take_in()
        answer = packed(cid)
        if answer is not None:
            return answer
        if not own:
            path = self._layout.path_for(cid)
            if os.path.isfile(path):
                with self._placer.lock.adding():
                    problem = self.adopt(cid, path)
                if problem is None:
                    return found(path)
                problems.insert(0, problem)
        if problems:
            raise DamagedFile(problems[0].detail)
        return None

    def rows(self, cid: CID) -> list[Row]:
        """The files of a root, our own first."""
        return [
            Row._make(row)
            for row in self._catalog.all(
                f"SELECT {ROW_COLUMNS} FROM roots r JOIN files f ON f.root = r.id WHERE r.key = ? ORDER BY f.linked",
                (bytes(cid.to_v1()),),
            )
        ]

    def check(
        self,
        cid: CID,
        row: Row,
        progress: Callable[[int], None] | None = None,
        marks: list[tuple[int, int, Stamp | None]] | None = None,
    ) -> Problem | None:
        """Hash one file again, on both cores, and bring its row up to date, where it is not.

        Args:
            cid: of the file.
            row: of the file.
            progress: called with numbers of bytes.
            marks: where what changes in the row is put, for the caller to give to `BlockReader.mark_all`. Without it
                the row is written at once.
        """

        def note(state: int, stamp: Stamp | None = None) -> None:
            if state == OK and stamp is not None and self._catalog.read_only:
                if len(self._found_right) >= FOUND_RIGHT:
                    self._found_right.clear()
                self._found_right[row.file] = stamp
            if state == row.state and (stamp is None or tuple(stamp) == row[3:7]):
                return
            if marks is None:
                self._reader.mark(row.file, state, stamp)
            else:
                marks.append((row.file, state, stamp))

        path = Path(os.fsdecode(self._reader.absolute(row.path, row.linked)))
        try:
            with SourceFile(path) as source:
                right = source.stamp.size == self._root_size(cid, row) and bool(
                    self._has_content(cid, source, progress)
                )
                source.check()
                stamp = source.stamp
        except MissingNode as error:
            return self.problem(cid, row, "unknown", f"the catalog has lost the inner node {error.cid}")
        except MalformedDag as error:
            return self.problem(cid, row, "unknown", str(error))
        except FileChanged:
            return self.problem(cid, row, "unknown", "it is being changed right now")
        except FileNotFoundError:
            note(MISSING)
            return self.problem(cid, row, "missing")
        except KacheryError as error:
            return self.problem(cid, row, "unknown", str(error))
        if not right:
            note(CHANGED, stamp)
            return self.problem(cid, row, "changed" if row.linked else "damaged")
        note(OK, stamp)
        return None

    def adopt(self, cid: CID, path: Path, *, linked: bool = False, likely: Profile | None = None) -> Problem | None:
        """Take a file at its place under `ipfs/`, or one that was linked, into the catalog, if its bytes are right.

        `likely` is the profile that it was probably cut by.
        """
        # Before anything of it is here: nobody may see what is for some only.
        self._placer.access.found.rows_for(cid)
        with SourceFile(path) as source:
            try:
                profile = self._has_content(cid, source, likely=likely)
            except (MissingNode, MalformedDag):
                profile = False
            if profile is False and linked:
                return Problem(
                    cid,
                    path,
                    "changed",
                    f"The linked file {path} is not {cid} any more. Link it again if it is wanted.",
                )
            if profile is False:
                known = self._catalog.get_node(cid.multihash) is not None
                detail = (
                    f"{path} does not have the bytes that its name {cid} promises. {way_out(cid)}"
                    if known or cid.codec == RAW
                    else f"{path} is not in the catalog, and its CID is not one of its bytes under any known profile: "
                    f"either it is damaged, or it was cut in an unknown way. {way_out(cid)}"
                )
                return Problem(cid, path, "damaged" if known or cid.codec == RAW else "unknown", detail)
            wrap = wrap_by_profile(profile) if isinstance(profile, Profile) else WrapFinder(source.fd)
            self._placer.record(
                cid,
                source.stamp.size,
                path,
                linked=linked,
                # What was written down of it is kept, though its nodes were there and so nothing was tried.
                profile=profile if isinstance(profile, Profile) else likely,
                wrap=wrap,
                stamp=source.stamp,
                durable=linked,
            )
            source.check()
        return None

    # --- inside ------------------------------------------------------------------------------------------------------

    def _root_size(self, cid: CID, row: Row) -> int:
        found = self._catalog.one("SELECT size FROM roots WHERE key = ?", (bytes(cid.to_v1()),))
        return row.size if found is None else found[0]

    def _hashes(self, cid: CID, source: SourceFile, progress: Callable[[int], None] | None = None) -> bool | None:
        """Whether an open file has the bytes of a root, as the inner nodes in the catalog say.

        None when it cannot be told: a dag-pb block that is not in the catalog is taken for a leaf, but may as well be a
        small inner node that was lost.

        Raises:
            MissingNode: one of them is too large for a leaf.
        """
        size = source.stamp.size
        leaves = walk_leaves(cid, size, self._reader.node)
        read = FileReader(source.fd, min(size, SMALL_FILE))

        def work(group: list[Leaf]) -> tuple[int, bool | None]:
            done = 0
            for leaf in group:
                data = read(leaf.offset, leaf.length)
                if len(data) != leaf.length:
                    return done, False
                if leaf.inline is not None:
                    if data != leaf.inline:
                        return done, False
                elif find_wrap(leaf.cid.multihash, leaf.cid.codec, data) is None:
                    return done, None if leaf.cid.codec == DAG_PB else False
                done += leaf.length
            return done, True

        with explained("reading", source.path):
            for done, right in in_order(work, _groups(leaves)):
                if not right:
                    return right
                if progress is not None:
                    progress(done)
        return True

    def _has_content(
        self,
        cid: CID,
        source: SourceFile,
        progress: Callable[[int], None] | None = None,
        likely: Profile | None = None,
    ) -> Profile | bool:
        """The same, also when the catalog has lost inner nodes.

        Then they are taken from their record, or made again, if the `likely` profile or another that is known gives
        this CID (which is then the answer).

        Raises:
            MissingNode: nothing gives it.
        """
        lost: MissingNode | None = None
        while True:
            try:
                right = self._hashes(cid, source, progress)
            except MissingNode as error:
                lost, right = error, None
            if right is not None:
                return right
            if not self._placer.restore_nodes(cid):
                break
        if lost is None and self._placer.nodes.has(cid) and self._reader.node(cid.multihash) is not None:
            # No node is missing.
            return False
        profile = self._rebuilt(cid, source, likely)
        if profile is not None:
            return profile
        if lost is not None:
            raise lost
        if self._reader.node(cid.multihash) is None and self._catalog.get_node(cid.multihash) is not None:
            # It is the node that went bad; of the file nothing can be said.
            raise MissingNode(cid)
        return False

    def _rebuilt(self, cid: CID, source: SourceFile, likely: Profile | None = None) -> Profile | None:
        """The profile under which a file has that CID, its inner nodes now in the catalog; None when there is none."""
        size = source.stamp.size
        for profile in self._known_profiles(cid, likely):
            with NodeSpool(self._layout.temporary) as nodes, explained("reading", source.path):
                builder = FileBuilder(profile, nodes.add)
                read = FileReader(source.fd, min(profile.chunk_size, size))
                try:
                    for multihash, length in leaf_hashes(read, size, profile):
                        builder.add_leaf(multihash, length)
                except TooShort:
                    raise source.changed() from None
                if builder.finish().cid.to_v1() == cid.to_v1():
                    if not self._catalog.read_only:
                        self._catalog.put_blocks(nodes, durable=True, access=self._placer.access.found.rows_for(cid))
                    return profile
        return None

    def _known_profiles(self, cid: CID, likely: Profile | None) -> list[Profile]:
        """Profiles that a file may have been cut by, the likely ones first: each that is tried reads it once."""
        profiles = [UNIXFS_V0_2015, UNIXFS_V1_2025] if cid.version == 0 else [UNIXFS_V1_2025, UNIXFS_V0_2015]
        if cid.version == 1:
            profiles.append(RANDOM_16K)
        if likely is not None:
            profiles = [likely, *(profile for profile in profiles if profile != likely)]
        for (text,) in self._catalog.all("SELECT DISTINCT profile FROM roots WHERE profile IS NOT NULL LIMIT 32"):
            profile = profile_from_text(text)
            if profile is not None and profile not in profiles:
                profiles.append(profile)
        return profiles

    def problem(self, cid: CID, row: Row, what: str, why: str = "") -> Problem:
        """What is wrong with a file, in words."""
        path = Path(os.fsdecode(self._reader.absolute(row.path, row.linked)))
        if what == "unknown":
            detail = f"{path} ({cid}) cannot be checked: {why}."
        elif not row.linked:
            detail = (
                f"{path} is damaged: it does not have the bytes that its name {cid} promises. {way_out(cid)}"
                if what == "damaged"
                else f"{path} is not there any more: somebody deleted it by hand. {way_out(cid)}"
            )
        elif what == "missing":
            detail = (
                f"The linked file {path} is not there any more, and {cid} was served from it. Put it back, or forget "
                f"it: kachery-cloud rm ipfs://{cid}"
            )
        else:
            detail = (
                f"The linked file {path} has changed since it was linked as {cid}. Put the old content back; or link "
                f"it again, which gives the new content its own CID, and forget the old one: kachery-cloud rm "
                f"ipfs://{cid}"
            )
        return Problem(cid, path, what, detail)


def way_out(cid: CID) -> str:
    """What to do about a file that is damaged or missing: two sentences."""
    return (
        f"Load it again, which fetches only what is wrong: kachery-cloud repair ipfs://{cid}. Or remove it: "
        f"kachery-cloud rm ipfs://{cid}"
    )


class WrapFinder:
    """Tells in which wrap a leaf is, from the bytes of its file; the wrap found last is tried first."""

    def __init__(self, fd: int) -> None:
        self._read = FileReader(fd, SMALL_FILE)
        self._likely = WRAP_FILE

    def __call__(self, leaf: Leaf) -> int:
        if leaf.cid.codec == RAW:
            return WRAP_NONE
        data = self._read(leaf.offset, leaf.length)
        wrap = find_wrap(leaf.cid.multihash, leaf.cid.codec, data, self._likely)
        if wrap is None:
            raise DamagedFile(
                f"The bytes at {leaf.offset} are not those of the block {leaf.cid}. Load the file again; what is right "
                "is kept."
            )
        self._likely = wrap
        return wrap


def _groups(leaves: Iterable[Leaf]) -> Iterator[list[Leaf]]:
    """Leaves in groups of about one hashing task."""
    waiting = iter(leaves)
    group: list[Leaf] = []
    size = 0
    for leaf in waiting:
        group.append(leaf)
        size += leaf.length
        if size >= TASK_BYTES or len(group) >= 1024:
            yield group
            group, size = [], 0
    if group:
        yield group
