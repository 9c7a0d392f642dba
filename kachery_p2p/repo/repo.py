"""The repo: every operation on a data directory, in one place. The package's docstring says what is on the disk."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import DiskFull
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.access_repair import bring_back_access, check_access
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.checking import Checker, Problem
from kachery_p2p.repo.completing import Completer
from kachery_p2p.repo.contents import Contents
from kachery_p2p.repo.decoded import Decoded
from kachery_p2p.repo.fileio import Progress
from kachery_p2p.repo.filenodes import FileNodes
from kachery_p2p.repo.hosts import claim
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.layers import Layer, LayerIsOwn, Layers
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import FOLDER_CACHE, ORPHAN_SECONDS
from kachery_p2p.repo.listing import ListedFile, Listing, RepoStats
from kachery_p2p.repo.maintenance import Maintenance
from kachery_p2p.repo.many import ManyFiles
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.newfile import clean_left_overs
from kachery_p2p.repo.openfiles import OpenFiles
from kachery_p2p.repo.partials import Partials
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.remaking import catalog_to_read, remake_catalog
from kachery_p2p.repo.removal import Removal
from kachery_p2p.repo.serving import BlockReader
from kachery_p2p.repo.stores import Stores

if TYPE_CHECKING:
    from kachery_p2p.dag.paths import FolderKey, FolderNode
    from kachery_p2p.repo.eviction import Eviction
    from kachery_p2p.repo.scrubbing import Scrubber
    from kachery_p2p.repo.usage import UsageReader

log = logging.getLogger("kachery_p2p.repo")


class Repo(Stores):
    """A data directory: stored, linked and half-loaded files, and the blocks they are made of.

    Make one with `Repo.open`; it is a context manager. All methods may be called from any thread, by many processes
    at once, and in a forked child. Blocks are named by their multihash, roots by CID; a CIDv0 and its CIDv1 form are
    one root. What looks files and blocks up is in `Layered`: it looks into the directories of others beneath this one,
    too, where there are any; `own` does not. Every method raises RepoError when the catalog cannot be used,
    NoPermission, and DiskFull when it writes.

    Attributes:
        inventory: what the user keeps here: what was stored, linked or loaded by itself.
        removal: takes it away again.
        maintenance: looks after what is here.
        access: for whom what is here is.
    """

    _open: ClassVar[weakref.WeakSet[Repo]] = weakref.WeakSet()

    def __init__(
        self, layout: Layout, catalog: Catalog, *, read_only: bool = False, layers: Sequence[Path] = ()
    ) -> None:
        self.directory = layout.directory
        self.read_only = read_only
        self._layout = layout
        self._catalog = catalog
        self._reader = BlockReader(layout.directory, catalog)
        self._placer = Placer(layout, catalog, self._reader)
        self._checker = Checker(self._placer)
        own = Contents(catalog, self._reader, self._checker, ManyFiles(self._placer))
        super().__init__(own, self.layers_beneath(layout.directory, layers))
        #: The nodes of folders that were looked into lately; shared by all that read here in this process.
        self.folder_nodes: Decoded[FolderKey, FolderNode] = Decoded(FOLDER_CACHE)
        self.access = self._placer.access
        self.maintenance = Maintenance(self._placer, self._checker)
        self._completer = Completer(self._placer, self._checker)
        self._listing = Listing(catalog, self._reader)
        self.names = Named(layout)
        self.inventory = Inventory(self._placer)
        self._partials = Partials(self._placer, self._checker)
        self.removal = Removal(
            self._placer, self._checker, self.maintenance, self.inventory, self._partials, self._forget_nodes
        )
        self._usage: UsageReader | None = None
        self._eviction: Eviction | None = None
        self._scrubber: Scrubber | None = None
        Repo._open.add(self)

    # What most processes never ask for is imported when it is: a command that loads a small file takes a tenth of a
    # second. Not `cached_property`: until Python 3.11 it has a lock, which a forked child may find taken.

    @property
    def usage(self) -> UsageReader:
        """What takes the room of the disk."""
        if self._usage is None:
            from kachery_p2p.repo.usage import UsageReader

            self._usage = UsageReader(self._layout, self._catalog, self._reader.packs, self.inventory)
        return self._usage

    @property
    def eviction(self) -> Eviction:
        """Keeps it under a limit."""
        if self._eviction is None:
            from kachery_p2p.repo.eviction import Eviction

            self._eviction = Eviction(self._layout, self._catalog, self.inventory, self.removal)
        return self._eviction

    @property
    def scrubber(self) -> Scrubber:
        """Reads all that is here, bit by bit, to compare it with its hashes."""
        if self._scrubber is None:
            from kachery_p2p.repo.scrubbing import Scrubber

            self._scrubber = Scrubber(self._placer, self._checker, self.maintenance)
        return self._scrubber

    @classmethod
    def open(cls, directory: Path | str, *, layers: Sequence[Path] = ()) -> Repo:
        """Open a data directory, making it (mode 0700) when there is none, and clean up after killed processes.

        `layers` are directories of others that are read beneath it; they need not be there (layers.py).

        One that may not be written to is opened for reading alone (`read_only`): nothing is made or noted in it, and
        methods that would write raise NoPermission. Where its catalog may not be read either, files are found by their
        CID, and hashed when they are first asked for.

        Raises:
            NoPermission, DiskFull, NotADirectory: it cannot be made or used.
            RepoError: the catalog is lost, damaged or of a newer format, or another machine uses the directory.
        """
        layout = Layout(Path(directory))
        if layout.only_read():
            return cls(layout, catalog_to_read(layout), read_only=True, layers=layers)
        layout.make()
        claim(layout.directory)
        with explained("cleaning", layout.temporary):
            clean_left_overs(layout.temporary)
        repo = cls(layout, Catalog(layout.catalog, layout.holds_data), layers=layers)
        try:
            repo._placer.lock.look()
            repo.inventory.records.fit()
            repo.access.records.fit()
            if repo._catalog.needs_taking_over:
                if repo._catalog.needs_records:
                    repo.maintenance.second_place.take_over()
                repo.inventory.take_over()
                repo._catalog.taken_over()
            if not repo._catalog.keeps_older_out:
                repo.access.keep_older_out()
            try:
                repo._placer.packer.take_in()
                repo.removal.finish()
            except DiskFull as error:
                # What is catalogued can be read all the same; the next store tries again.
                log.info("%s", error)
        except BaseException:
            repo.close()
            raise
        return repo

    @classmethod
    def open_to_read(cls, directory: Path) -> Repo:
        """Open a data directory so that nothing is made or changed in it, whoever may write to it.

        Raises:
            NoPermission: it may not be read.
            RepoError: it is no data directory, or its catalog is damaged or of a newer format.
        """
        layout = Layout(directory)
        layout.read_alone()
        return cls(layout, catalog_to_read(layout), read_only=True)

    def put_beneath(self, directories: Sequence[Path]) -> None:
        """Read these directories of others beneath this one, instead of those until now."""
        self.layers.close()
        super().__init__(self.own, self.layers_beneath(self.directory, directories))

    @classmethod
    def layers_beneath(
        cls, directory: Path, directories: Sequence[Path], say: Callable[[str], None] = log.warning
    ) -> Layers:
        """Directories of others as they are read beneath one; see `Layer` for `say`."""

        def open_to_read(layer: Path) -> Repo:
            if os.path.isdir(directory) and os.path.samefile(layer, directory):
                raise LayerIsOwn
            return cls.open_to_read(layer)

        return Layers([Layer(layer, open_to_read, say=say) for layer in directories])

    def close(self) -> None:
        """Close the catalog and all files. The repo cannot be used afterwards."""
        self.layers.close()
        Repo._open.discard(self)
        self._reader.files.clear()
        self._reader.packs.close()
        self._catalog.close()

    def __enter__(self) -> Repo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- finding -----------------------------------------------------------------------------------------------------

    def path_for(self, cid: CID) -> Path:
        """Where our own copy of that root is, or would be.

        Raises:
            UnsupportedCID: it is too long for a file name.
        """
        return self._layout.path_for(cid)

    def partial_for(self, cid: CID) -> Path:
        """Where a file is while it is being loaded.

        Raises:
            UnsupportedCID: it is too long for a file name.
        """
        return self._layout.partial_for(cid)

    def list_files(self) -> list[ListedFile]:
        """All that was stored, loaded and linked, oldest first, also what is inside of folders.

        For programs that use a repo by itself. What `kachery_cloud` lists is what the user keeps (`inventory`).
        """
        return self._listing.files()

    def roots(self) -> Iterator[bytes]:
        """The multihashes of all files and directories that were stored, linked or loaded and are whole, oldest first.

        Files inside stored or loaded directories are among them: each has a URI of its own.
        """
        return self._listing.roots()

    def roots_among(self, multihashes: Sequence[bytes]) -> set[bytes]:
        """Those of the multihashes that are of files and directories which are here and whole."""
        return self._listing.roots_among(multihashes)

    def root_keys(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """The same, and the binary CIDv1 of each."""
        return self._listing.root_keys(multihashes)

    def files_with(self, multihashes: Sequence[bytes]) -> dict[bytes, list[tuple[bytes, bool]]]:
        """The files that some leaves are in: the binary CIDv1 of each, and whether it is listed by itself."""
        return self._listing.files_with(multihashes)

    def is_root(self, cid: CID) -> bool:
        """Whether the catalog has it as a file or a directory, whether its bytes are here or not."""
        return bool(self._placer.root_sizes([cid]))

    def keeps_block(self, cid: CID) -> bool:
        """Whether the catalog itself keeps this block, right or wrong."""
        return self._catalog.get_node(cid.multihash) is not None

    def all_multihashes(self) -> Iterator[bytes]:
        """The multihashes of all blocks that are here: roots, inner nodes and leaves."""
        return self._listing.all_multihashes()

    @property
    def stats(self) -> RepoStats:
        """What is here, in numbers."""
        return self._listing.stats()

    # --- making whole ------------------------------------------------------------------------------------------------

    def finish_partial(self, cid: CID) -> bool:
        """Make a file whole of which all bytes are in its partial file, and list it, as the load of it would have.

        Cheap where there is none, or one with holes; else all of it is hashed. It is for whom its blocks are.

        Returns:
            Whether it is whole now.

        Raises:
            RepoBusy: somebody is loading it.
            DiskFull, NoPermission, RepoError: the system does not allow it.
        """
        completer = self._completer
        if self.read_only or not completer.seems_full(cid):
            return False
        inside = self.inventory.is_inside(cid)  # then its blocks have the claims of the folder
        audience = self.access.audience_of(cid)
        with ExitStack() as stack:
            public = audience.everyone or inside
            claim = None if public else stack.enter_context(self.access.claim(audience))
            with self.download(cid, claim) as download:
                if not completer.finish(download):
                    return False
            if not inside:
                self.inventory.loaded(cid, claim=claim)
        return True

    def mend(self, cid: CID) -> bool:
        """Bring our own copy of a file back as far as that needs nobody else.

        One that is damaged is set aside. Where a linked file has the bytes, it is copied.

        Returns:
            Whether all that was here of it is right now: our copy, or where there never was one a linked file.

        Raises:
            RepoBusy: somebody is loading it.
            DiskFull, NoPermission, RepoError: the system does not allow it.
        """
        self._check_writable()
        completer = self._completer
        if completer.is_right(cid):
            return True
        had_copy = completer.had_copy(cid)
        self.quarantine(cid)
        size = completer.linked_size(cid)
        if size is None or not had_copy:
            return size is not None
        with self.download(cid) as download:
            return completer.copy_linked(download, size)

    # --- looking after it --------------------------------------------------------------------------------------------

    def verify(self, cids: Iterable[CID] | None = None, *, progress: Progress | None = None) -> list[Problem]:
        """Hash all files again, or those of some roots (of a directory: the files in it), and say what is wrong.

        Uses both cores. Changes and deletes nothing but the state in the catalog: wrong files are not served any more,
        right ones are again. `progress(done, total)` gets bytes.
        """
        return list(self.each_problem(cids, progress=progress))

    def each_problem(self, cids: Iterable[CID] | None = None, *, progress: Progress | None = None) -> Iterator[Problem]:
        """The same, each as soon as it is found: for whoever may be interrupted."""
        named: list[Problem] = []
        for problem in self.maintenance.verify(cids, progress):
            named.append(problem)
            yield problem
        if cids is None:
            yield from self.inventory.check(named)
            yield from check_access(self.access, self._catalog, self._reader)

    def quarantine(self, cid: CID) -> Path | None:
        """Move our own copy of a root to `damaged/`, so that it can be loaded again.

        What is right in it is then not fetched.

        Returns:
            Its new path, or None when there was no copy.
        """
        self._check_writable()
        return self.maintenance.quarantine(cid)

    def remove(self, cid: CID) -> bool:
        """Forget a root, and delete our own copy of it.

        A linked file is only forgotten. The files in a directory are roots of their own and stay. What users call is
        `removal.remove`, which looks at what else needs it.

        Returns:
            Whether it was there.
        """
        self._check_writable()
        return self.removal.forget(cid)

    def sweep(self, min_age: float = ORPHAN_SECONDS) -> tuple[int, int]:
        """Drop inner nodes that no root and no partial file reaches, and that are older than `min_age` seconds.

        The files themselves are never touched.

        Returns:
            How many were dropped, and their bytes.
        """
        self._check_writable()
        self._forget_nodes()
        return self.maintenance.sweep(min_age)

    def adopt_unknown(self, *, progress: Progress | None = None) -> list[Problem]:
        """Hash and catalogue the files under `ipfs/` that the catalog does not know, as after a loss of power."""
        self._check_writable()
        return self.maintenance.adopt_unknown(progress)

    @classmethod
    def rebuild(cls, directory: Path | str, *, progress: Progress | None = None) -> list[Problem]:
        """Make the catalog anew when it is lost or damaged; the old one is kept in `damaged/`.

        What `nodes/` and `links/` have, and what the old catalog still proves, is taken in; everything under `ipfs/`
        and every linked file is hashed. No other process may use the directory meanwhile. `progress` gets bytes.

        Returns:
            What could not be brought back.

        Raises:
            RepoBusy: a node uses the directory.
        """

        def fill(layout: Layout, catalog: Catalog, old: Path) -> list[Problem]:
            with cls(layout, catalog) as repo:
                problems = repo.maintenance.second_place.bring_back(old, progress)
                repo.inventory.bring_back(old)
                return [*problems, *bring_back_access(repo.access, catalog, repo._reader, old)]

        return remake_catalog(Path(directory), fill)

    def _forget_nodes(self) -> None:
        self.file_nodes.clear()
        self.own.file_nodes.clear()
        self.folder_nodes.clear()

    def _after_fork(self) -> None:
        # A lock of the old ones may be held by a thread that the child does not have.
        self._reader.files = OpenFiles()
        self.own.file_nodes = FileNodes()
        self.file_nodes = FileNodes() if self.layers else self.own.file_nodes
        self.folder_nodes = Decoded(FOLDER_CACHE)
        self._reader.packs.after_fork()
        self._placer.packer.after_fork()
        self.inventory.after_fork()


def _after_fork() -> None:
    for repo in list(Repo._open):
        repo._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
