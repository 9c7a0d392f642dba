"""The repo: every operation on a data directory, in one place. The package's docstring says what is on the disk."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.errors import DiskFull
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import Catalog, checked_block
from kachery_p2p.repo.checking import Checker, Problem
from kachery_p2p.repo.decoded import Decoded
from kachery_p2p.repo.download import Download
from kachery_p2p.repo.fileio import Progress
from kachery_p2p.repo.filenodes import FileNodes
from kachery_p2p.repo.folders import FolderStorer
from kachery_p2p.repo.hosts import claim
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.kept_rows import LINKED, STORED, Label, label_for
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import FOLDER_CACHE, ORPHAN_SECONDS
from kachery_p2p.repo.listing import ListedFile, Listing, RepoStats
from kachery_p2p.repo.maintenance import Maintenance
from kachery_p2p.repo.many import ManyFiles
from kachery_p2p.repo.named import Named
from kachery_p2p.repo.newfile import NewFile, clean_left_overs
from kachery_p2p.repo.openfiles import OpenFiles
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.remaking import catalog_to_read, remake_catalog
from kachery_p2p.repo.removal import Removal
from kachery_p2p.repo.scanning import FolderOptions
from kachery_p2p.repo.serving import BlockReader
from kachery_p2p.repo.small import SmallFile, SmallFiles, Stored
from kachery_p2p.repo.storing import Storer
from kachery_p2p.repo.tree import StoredTree
from kachery_p2p.repo.usage import UsageReader
from kachery_p2p.repo.whole import WholeFiles
from kachery_p2p.sqlite_errors import only_read
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.dag.paths import FolderKey, FolderNode

log = logging.getLogger("kachery_p2p.repo")


class Repo:
    """A data directory: stored, linked and half-loaded files, and the blocks they are made of.

    Make one with `Repo.open`; it is a context manager. All methods may be called from any thread, by many processes
    at once, and in a forked child. Blocks are named by their multihash, roots by CID; a CIDv0 and its CIDv1 form are
    one root. Every method raises RepoError when the catalog cannot be used, NoPermission, and DiskFull when it writes.

    Attributes:
        inventory: what the user keeps here: what was stored, linked or loaded by itself.
        removal: takes it away again.
        usage: what takes the room of the disk.
        maintenance: looks after what is here.
    """

    _open: ClassVar[weakref.WeakSet[Repo]] = weakref.WeakSet()

    def __init__(self, layout: Layout, catalog: Catalog, *, read_only: bool = False) -> None:
        self.directory = layout.directory
        self.read_only = read_only
        self._layout = layout
        self._catalog = catalog
        self._reader = BlockReader(layout.directory, catalog)
        self._whole = WholeFiles(catalog, self._reader)
        #: The nodes of files and folders that were looked into lately; shared by all that read here in this process.
        self.file_nodes = FileNodes()
        self.folder_nodes: Decoded[FolderKey, FolderNode] = Decoded(FOLDER_CACHE)
        self._placer = Placer(layout, catalog, self._reader)
        #: The same questions for many small files together.
        self.many = ManyFiles(self._placer)
        self._checker = Checker(self._placer)
        self._storer = Storer(self._placer)
        self._small = SmallFiles(self._placer)
        self._folders = FolderStorer(self._placer, self._storer)
        self.maintenance = Maintenance(self._placer, self._checker)
        self._listing = Listing(catalog, self._reader)
        self.names = Named(layout)
        self.inventory = Inventory(self._placer)
        self.removal = Removal(self._placer, self._checker, self.maintenance, self.inventory, self._forget_nodes)
        self.usage = UsageReader(layout, catalog, self._reader.packs, self.inventory)
        Repo._open.add(self)

    @classmethod
    def open(cls, directory: Path | str) -> Repo:
        """Open a data directory, making it (mode 0700) when there is none, and clean up after killed processes.

        One that may not be written to is opened for reading alone (`read_only`): nothing is made or noted in it, and
        methods that would write raise NoPermission. Where its catalog may not be read either, files are found by their
        CID, and hashed when they are first asked for.

        Raises:
            NoPermission, DiskFull, NotADirectory: it cannot be made or used.
            RepoError: the catalog is lost, damaged or of a newer format, or another machine uses the directory.
        """
        layout = Layout(Path(directory))
        if layout.only_read():
            return cls(layout, catalog_to_read(layout), read_only=True)
        layout.make()
        claim(layout.directory)
        with explained("cleaning", layout.temporary):
            clean_left_overs(layout.temporary)
        repo = cls(layout, Catalog(layout.catalog, layout.holds_data))
        try:
            repo._placer.lock.look()
            repo.inventory.records.fit()
            if repo._catalog.needs_taking_over:
                if repo._catalog.needs_records:
                    repo.maintenance.second_place.take_over()
                repo.inventory.take_over()
                repo._catalog.taken_over()
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

    def close(self) -> None:
        """Close the catalog and all files. The repo cannot be used afterwards."""
        Repo._open.discard(self)
        self._reader.files.clear()
        self._reader.packs.close()
        self._catalog.close()

    def __enter__(self) -> Repo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- storing -----------------------------------------------------------------------------------------------------

    def store_file(
        self,
        path: Path | str,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
        rehash: bool = False,
    ) -> Stored:
        """Copy a file into the repo.

        `progress(done, total)` gets bytes. Nothing is written when the same bytes are stored already; nor is it read
        again where it has not changed since, unless `rehash` asks for it (seen.py). A store that fails leaves nothing
        behind. It is listed under `label`, or else under its name.

        Raises:
            FileMissing, IsADirectory, NotAFile, NoPermission: it is not a file that can be read.
            FileChanged, DiskFull, InvalidProfile: it changed meanwhile; no room for the copy; no such profile.
        """
        self._layout.refuse_own_database(path)
        called = label_for(label, path)
        return self._kept(STORED, called, lambda: self._storer.store_file(Path(path), profile, progress, rehash=rehash))

    def link_file(
        self,
        path: Path | str,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
        rehash: bool = False,
    ) -> Stored:
        """Serve a file from where it lies, without a copy. Raises as `store_file`.

        It must then stay as it is; when it does not, that is noticed, and wrong bytes are never given out.
        """
        self._layout.refuse_own_database(path)
        called = label_for(label, path)
        return self._kept(
            LINKED, called, lambda: self._storer.link_file(Path(path), profile, progress, rehash=rehash), durable=True
        )

    def store_bytes(self, data: Buffer, *, profile: str | Profile | None = None, label: str | None = None) -> Stored:
        """Store bytes as a file.

        Raises:
            DiskFull, InvalidProfile: no room for them; no such profile.
        """
        return self._kept(STORED, label_for(label), lambda: self._storer.store_bytes(data, profile))

    def store_value(self, data: Buffer, *, profile: str | Profile | None = None, label: str | None = None) -> Stored:
        """Store bytes of which nobody needs the path now: some KiB go into a pack, with others that come meanwhile.

        `find_file` brings them to the path of the answer when it is asked for it. They are on the disk at once.
        """
        return self._kept(
            STORED, label_for(label), lambda: self._storer.store_bytes(data, profile, packed=True, how=STORED)
        )

    def store_new(
        self,
        new: NewFile,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Stored:
        """Store what was written to a `NewFile` in `tmp/`, by renaming it: content that is too large for memory.

        It may not be written to any more.
        """
        return self._kept(STORED, label_for(label), lambda: self._storer.store_new(new, profile, progress))

    def store_directory(
        self,
        path: Path | str,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        link: bool = False,
        options: FolderOptions | None = None,
        admit: Callable[[int], None] | None = None,
        label: str | None = None,
    ) -> Stored:
        """Store a folder: each file in it is copied, or linked, as a root of its own.

        The path of the answer is that of the folder given. After an error the files that were stored until then stay.
        `link` is short for `options` with that alone. `admit` is called with the bytes of all files before any is read;
        what it raises ends the store.

        Raises:
            NotADirectory, NotAFile, InvalidName: something in it cannot be stored (scanning.py).
        """
        chosen = options or FolderOptions(link=link)
        how, called = LINKED if chosen.link else STORED, label_for(label, path)
        return self._kept(
            how, called, lambda: self._folders.store(Path(path), profile, chosen, progress, admit), durable=True
        )

    def _kept(self, how: int, label: Label | None, store: Callable[[], Stored], *, durable: bool = False) -> Stored:
        """Store something that is listed from then on. Nothing that it relies on is removed meanwhile."""
        self._check_writable()
        with self._placer.lock.adding():
            stored = store()
            self.inventory.keep(stored.cid, how, label, durable=durable)
            return stored

    def hash_file(self, path: Path | str, *, profile: str | Profile | None = None) -> CID:
        """The CID that a file would have, without storing it; not read where it has not changed. Raises as that."""
        return self._storer.hash_file(Path(path), profile)

    def keep_directory(self, root: CID, tree: StoredTree | None = None) -> None:
        """Make a directory that was loaded, all of whose nodes are here, a root like one that was stored.

        It is listed, announced, and survives the loss of the catalog. Where it was just read, `tree` is what it holds.

        Raises:
            RemovedMeanwhile: a node or a file of it is missing.
            DiskFull: there is no room for it.
        """
        with self._placer.lock.adding():
            self._folders.keep_loaded(root, tree)
            self.inventory.keep_folder(root)

    def add_small_files(self, files: Sequence[tuple[CID, Buffer]]) -> None:
        """Keep loaded files that are one block each, many in one transaction; give the file's bytes, not the block's.

        Those of some KiB go into a pack.

        Raises:
            HashMismatch: bytes are not those of their CID. Then nothing is written.
        """
        self._check_writable()
        checked = [SmallFile.checked(cid, data) for cid, data in files]
        with self._placer.lock.adding():
            self._small.add(checked, packed=True)

    # --- finding -----------------------------------------------------------------------------------------------------

    def path_for(self, cid: CID) -> Path:
        """Where our own copy of that root is, or would be.

        Raises:
            UnsupportedCID: it is too long for a file name.
        """
        return self._layout.path_for(cid)

    def find_file(self, cid: CID) -> Path | None:
        """The path of the whole file with that CID, our own copy or a linked one, or None when it is not here. Cheap.

        A file whose size, time or inode is not as recorded is hashed again first, and so is one at its place
        under `ipfs/` that the catalog does not know. One that lies in a pack is brought to its place first. In a
        directory that can only be read, it is copied to a folder of this user's among the temporary ones.

        Raises:
            DamagedFile: the only file of that CID is changed or damaged, or was linked and is missing; says what to do.
        """
        return self._checker.find(cid)

    def file_size(self, cid: CID) -> int | None:
        """The size in bytes of the whole file with that CID, or None when it is not here. Makes no path for it.

        Raises:
            DamagedFile: as for `find_file`.
        """
        return self._checker.size(cid)

    def packed_file(self, cid: CID) -> bytes | None:
        """The bytes of a file that lies in a pack, where it is as good as its path; None for every other file."""
        return self._checker.packed(cid)

    def list_files(self) -> list[ListedFile]:
        """All that was stored, loaded and linked, oldest first."""
        return self._listing.files()

    def roots(self) -> Iterator[bytes]:
        """The multihashes of all files and directories that were stored, linked or loaded and are whole, oldest first.

        Files inside stored or loaded directories are among them: each has a URI of its own.
        """
        return self._listing.roots()

    def roots_among(self, multihashes: Sequence[bytes]) -> set[bytes]:
        """Those of the multihashes that are of files and directories which are here and whole."""
        return self._listing.roots_among(multihashes)

    def all_multihashes(self) -> Iterator[bytes]:
        """The multihashes of all blocks that are here: roots, inner nodes and leaves."""
        return self._listing.all_multihashes()

    @property
    def stats(self) -> RepoStats:
        """What is here, in numbers."""
        return self._listing.stats()

    # --- blocks ------------------------------------------------------------------------------------------------------

    def has_block(self, multihash: bytes) -> int | None:
        """The size in bytes of that block if it is here, else None. Does not look at the disk."""
        return self._reader.size(multihash)

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those of the blocks that are here."""
        return self._reader.sizes(multihashes)

    def get_block(self, multihash: bytes) -> bytes | None:
        """That block, or None. Never wrong bytes: a block of a file that is not as recorded is hashed again."""
        return self._reader.get(multihash)

    def read_leaves(self, multihashes: Sequence[bytes], buffer: memoryview) -> list[memoryview | None]:
        """Those of the blocks that can be read into the buffer as they are, at once; `get_block` has the others."""
        return self._reader.leaves(multihashes, buffer)

    def read_file(self, cid: CID, start: int, end: int) -> bytes | None:
        """Bytes of a file that is here as a whole. Never wrong bytes: None where it is not as it was when hashed."""
        return self._whole.read(cid, start, end)

    def file_part(self, cid: CID) -> bytes | FileNode | None:
        """A block of a file, or None where it is not here. An inner node that the catalog keeps comes decoded.

        Raises:
            MalformedDag: it is no block of a file.
        """
        node = self.file_nodes.get(cid)
        if node is not None and not self._catalog.has_node(cid.multihash):
            return node.block
        if node is None:
            block = self._reader.node(cid.multihash) if cid.codec == DAG_PB else None
            if block is None:
                return self._reader.get(cid.multihash)
            node = self.file_nodes.decode(cid, block)
        # A leaf that the catalog keeps, or a node that has bytes of the file in it, is to be written to its place.
        return node if node.count and not node.data else node.block

    def get_blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that are here, looked up together: for the small ones of directories."""
        return self._reader.blocks(multihashes)

    def get_node(self, multihash: bytes) -> bytes | None:
        """An inner or directory node that the catalog keeps, or None; never a leaf that is part of a file."""
        return self._reader.node(multihash)

    def get_nodes(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that the catalog keeps, looked up together; never a leaf that is part of a file."""
        return self._reader.nodes(multihashes)

    def put_blocks(self, blocks: Iterable[tuple[CID, Buffer]]) -> None:
        """Keep inner nodes, directory nodes and symbolic links, in one transaction.

        Raises:
            HashMismatch: bytes are not those of their CID. Then none is kept.
        """
        self._check_writable()
        self._catalog.put_blocks([checked_block(cid, data) for cid, data in blocks])

    # --- loading -----------------------------------------------------------------------------------------------------

    def download(self, cid: CID, *, timeout: float = 0.0) -> Download:
        """Begin, or go on with, loading a file. Locks its partial file.

        Raises:
            RepoBusy: somebody else still has that lock after `timeout` seconds.
            UnsupportedCID: the CID is too long for a file name.
        """
        self._check_writable()
        return Download(self._placer, self._checker, cid, timeout)

    # --- looking after it --------------------------------------------------------------------------------------------

    def verify(self, cids: Iterable[CID] | None = None, *, progress: Progress | None = None) -> list[Problem]:
        """Hash all files again, or those of some roots (of a directory: the files in it), and say what is wrong.

        Uses both cores. Changes and deletes nothing but the state in the catalog: wrong files are not served any more,
        right ones are again. `progress(done, total)` gets bytes.
        """
        problems = self.maintenance.verify(cids, progress)
        return problems if cids is not None else [*problems, *self.inventory.check(problems)]

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
                return problems

        return remake_catalog(Path(directory), fill)

    def _forget_nodes(self) -> None:
        self.file_nodes.clear()
        self.folder_nodes.clear()

    def _check_writable(self) -> None:
        if self.read_only:
            raise only_read(self.directory)

    def _after_fork(self) -> None:
        # A lock of the old ones may be held by a thread that the child does not have.
        self._reader.files = OpenFiles()
        self.file_nodes, self.folder_nodes = FileNodes(), Decoded(FOLDER_CACHE)
        self._reader.packs.after_fork()
        self._placer.packer.after_fork()
        self.inventory.after_fork()


def _after_fork() -> None:
    for repo in list(Repo._open):
        repo._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
