"""What a repo is given: files, folders and bytes that are stored, and blocks that are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_p2p.access.audience import Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.repo.access import Claim, RootAccess
from kachery_p2p.repo.catalog import checked_block
from kachery_p2p.repo.checking import Checker
from kachery_p2p.repo.download import Download
from kachery_p2p.repo.fileio import Progress
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.kept_rows import LINKED, STORED, Label, label_for
from kachery_p2p.repo.layered import Layered
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.partials import Partials
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.small import SmallFile, SmallFiles, Stored
from kachery_p2p.repo.storing import Storer
from kachery_p2p.repo.tree import StoredTree
from kachery_p2p.sqlite_errors import only_read
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.repo.scanning import FolderOptions


class Stores(Layered):
    """Stores and links, and keeps what is loaded. Part of `Repo`.

    Attributes:
        directory: the data directory.
        read_only: whether nothing may be written to it.
        inventory: what the user keeps here.
        access: for whom what is here is.
    """

    directory: Path
    read_only: bool
    inventory: Inventory
    access: RootAccess
    _layout: Layout
    _placer: Placer
    _checker: Checker
    _partials: Partials

    # --- storing -----------------------------------------------------------------------------------------------------

    def store_file(
        self,
        path: Path | str,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
        audience: Audience | None = None,
        rehash: bool = False,
    ) -> Stored:
        """Copy a file into the repo.

        `progress(done, total)` gets bytes. Nothing is written when the same bytes are stored already; nor is it read
        again where it has not changed since, unless `rehash` asks for it (seen.py). A store that fails leaves nothing
        behind. It is listed under `label`, or else under its name.

        `audience` says who may see it, and adds to those who may already. Without it, what is here stays as it is, and
        what is new is public.

        Raises:
            FileMissing, IsADirectory, NotAFile, NoPermission: it is not a file that can be read.
            FileChanged, DiskFull, InvalidProfile: it changed meanwhile; no room for the copy; no such profile.
        """
        self._layout.refuse_own_database(path)
        called = label_for(label, path)
        return self._kept(
            STORED,
            called,
            audience,
            lambda placer: Storer(placer).store_file(Path(path), profile, progress, rehash=rehash),
        )

    def link_file(
        self,
        path: Path | str,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
        audience: Audience | None = None,
        rehash: bool = False,
    ) -> Stored:
        """Serve a file from where it lies, without a copy. Raises as `store_file`.

        It must then stay as it is; when it does not, that is noticed, and wrong bytes are never given out.
        """
        self._layout.refuse_own_database(path)
        called = label_for(label, path)
        return self._kept(
            LINKED,
            called,
            audience,
            lambda placer: Storer(placer).link_file(Path(path), profile, progress, rehash=rehash),
            durable=True,
        )

    def store_bytes(
        self,
        data: Buffer,
        *,
        profile: str | Profile | None = None,
        label: str | None = None,
        audience: Audience | None = None,
    ) -> Stored:
        """Store bytes as a file.

        Raises:
            DiskFull, InvalidProfile: no room for them; no such profile.
        """
        return self._kept(STORED, label_for(label), audience, lambda placer: Storer(placer).store_bytes(data, profile))

    def store_value(
        self,
        data: Buffer,
        *,
        profile: str | Profile | None = None,
        label: str | None = None,
        audience: Audience | None = None,
    ) -> Stored:
        """Store bytes of which nobody needs the path now: some KiB go into a pack, with others that come meanwhile.

        `find_file` brings them to the path of the answer when it is asked for it. They are on the disk at once.
        """
        return self._kept(
            STORED,
            label_for(label),
            audience,
            lambda placer: Storer(placer).store_bytes(
                data, profile, packed=True, how=STORED if placer.claim is None else 0
            ),
        )

    def store_new(
        self,
        new: NewFile,
        *,
        profile: str | Profile | None = None,
        progress: Progress | None = None,
        label: str | None = None,
        audience: Audience | None = None,
        how: int = STORED,
    ) -> Stored:
        """Store what was written to a `NewFile` in `tmp/`, by renaming it: content that is too large for memory.

        It may not be written to any more. It is kept as `how` says (`kept_rows`): what somebody else has brought is
        PINNED.
        """
        return self._kept(
            how, label_for(label), audience, lambda placer: Storer(placer).store_new(new, profile, progress)
        )

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
        audience: Audience | None = None,
    ) -> Stored:
        """Store a folder: each file in it is copied, or linked, as a root of its own.

        The path of the answer is that of the folder given. After an error the files that were stored until then stay.
        `link` is short for `options` with that alone. `admit` is called with the bytes of all files before any is read;
        what it raises ends the store.

        Raises:
            NotADirectory, NotAFile, InvalidName: something in it cannot be stored (scanning.py).
        """
        from kachery_p2p.repo.folders import FolderStorer
        from kachery_p2p.repo.scanning import FolderOptions

        chosen = options or FolderOptions(link=link)
        how, called = LINKED if chosen.link else STORED, label_for(label, path)
        stored = self._kept(
            how,
            called,
            audience,
            lambda placer: FolderStorer(placer).store(Path(path), profile, chosen, progress, admit),
            durable=True,
        )
        self._partials.folder_came()
        return stored

    def _kept(
        self,
        how: int,
        label: Label | None,
        audience: Audience | None,
        store: Callable[[Placer], Stored],
        *,
        durable: bool = False,
    ) -> Stored:
        """Store something that is listed from then on. Nothing that it relies on is removed meanwhile."""
        self._check_writable()
        stored = self._keep_stored(how, label, audience, store, durable=durable)
        self._partials.came_whole(stored.cid)
        return stored

    def _keep_stored(
        self,
        how: int,
        label: Label | None,
        audience: Audience | None,
        store: Callable[[Placer], Stored],
        *,
        durable: bool,
    ) -> Stored:
        with self._placer.lock.adding():
            if audience is None or audience.everyone:
                stored = store(self._placer)
                self.inventory.keep(stored.cid, how, label, durable=durable, audience=audience)
                return stored
            with self.access.claim(audience) as claim:
                stored = store(self._placer.under(claim))
                self.inventory.keep(stored.cid, how, label, durable=durable, audience=audience, claim=claim)
            return stored

    def hash_file(self, path: Path | str, *, profile: str | Profile | None = None) -> CID:
        """The CID that a file would have, without storing it; not read where it has not changed. Raises as that."""
        return Storer(self._placer).hash_file(Path(path), profile)

    def keep_directory(self, root: CID, tree: StoredTree | None = None, claim: Claim | None = None) -> None:
        """Make a directory that was loaded, all of whose nodes are here, a root like one that was stored.

        It is listed, announced, and survives the loss of the catalog. Where it was just read, `tree` is what it holds.
        It is for whom its `claim` is, or else public, or as it was.

        Raises:
            RemovedMeanwhile: a node or a file of it is missing.
            DiskFull: there is no room for it.
        """
        from kachery_p2p.repo.folders import FolderStorer

        self._as_in_layers([root])
        with self._placer.lock.adding():
            tree = FolderStorer(self._placer.under(claim)).keep_loaded(root, tree)
            self.inventory.keep_folder(root, claim, tree)
        self._partials.folder_came()

    def add_small_files(self, files: Sequence[tuple[CID, Buffer]], claim: Claim | None = None) -> None:
        """Keep loaded files that are one block each, many in one transaction; give the file's bytes, not the block's.

        Those of some KiB go into a pack. They belong to `claim`, where there is one.

        Raises:
            HashMismatch: bytes are not those of their CID. Then nothing is written.
        """
        self._check_writable()
        checked = [SmallFile.checked(cid, data) for cid, data in files]
        self._as_in_layers([cid for cid, _ in files])
        with self._placer.lock.adding():
            SmallFiles(self._placer.under(claim)).add(checked, packed=True)

    # --- blocks ------------------------------------------------------------------------------------------------------

    def put_blocks(self, blocks: Iterable[tuple[CID, Buffer]], claim: Claim | None = None) -> None:
        """Keep inner nodes, directory nodes and symbolic links, in one transaction.

        They, and what they link to, belong to `claim`, where there is one.

        Raises:
            HashMismatch: bytes are not those of their CID. Then none is kept.
        """
        self._check_writable()
        checked = [checked_block(cid, data) for cid, data in blocks]
        if self.layers:
            self.access.found.as_in_layers(self.layers.audiences([multihash for multihash, _ in checked]))
        self._placer.under(claim).put_blocks(checked)

    # --- loading -----------------------------------------------------------------------------------------------------

    def download(self, cid: CID, claim: Claim | None = None, *, timeout: float = 0.0) -> Download:
        """Begin, or go on with, loading a file. Locks its partial file. It belongs to `claim`, where there is one.

        Raises:
            RepoBusy: somebody else still has that lock after `timeout` seconds.
            UnsupportedCID: the CID is too long for a file name.
        """
        self._check_writable()
        self._as_in_layers([cid])
        return Download(self._placer, self._checker, cid, timeout, self.layers, claim)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _as_in_layers(self, cids: Sequence[CID]) -> None:
        """What is restricted in a directory beneath this one, and is to be put here, is restricted here, too."""
        if self.layers:
            self.access.found.as_in_layers(self.layers.audiences([cid.multihash for cid in cids]))

    def _check_writable(self) -> None:
        if self.read_only:
            raise only_read(self.directory)
