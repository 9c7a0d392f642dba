"""Loading a whole directory into the repo: its listing, and its files, many small ones at once.

The files go into the repo like any other, so that this machine serves them too. Names in a foreign directory are not
trusted: one that could not stand in a folder, or would leave it, is an error before any file is fetched. Each folder
is read once, however often it is in the directory, and a tree that is too large to be made is refused as early.

Two passes: the nodes, level by level, then the files. Within a pass, what is wanted next is asked for before what was
asked for has come, and what has come is stored meanwhile (`keeper`). The directory says how large each of its entries
is, so as many are asked for at once as there is room for.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.directory import HamtEntry, list_directory
from kachery_p2p.dag.names import safe_name
from kachery_p2p.dag.nodes import Asking, read_node, symlink_target
from kachery_p2p.dag.tree import TreeWalk
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import KacheryError
from kachery_p2p.load.interfaces import Progress
from kachery_p2p.load.keeper import Keeper
from kachery_p2p.load.load import Load
from kachery_p2p.repo.leaves import unwrap
from kachery_p2p.repo.tree import StoredTree
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Repo


@dataclass
class RemoteTree:
    """What a directory holds; each thing once, however often it is in there."""

    folders: dict[CID, None] = field(default_factory=dict[CID, None])
    #: The files that are not in the repo yet, and the bytes that their folders claim for them.
    files: dict[CID, int] = field(default_factory=dict[CID, int])
    symlinks: dict[CID, str] = field(default_factory=dict[CID, str])
    #: Bytes of all files and nodes as the folders claim them: for a progress bar, nothing else.
    claimed_size: int = 0


class DirectoryLoad:
    """Loads the directory ``root`` through a running `Load`."""

    def __init__(self, load: Load, repo: Repo, progress: Progress) -> None:
        self._load = load
        self._repo = repo
        self._progress = progress
        self._keeper = Keeper(repo, load.limits, self._kept, load.claim)
        self._tree = RemoteTree()
        #: Multihashes of the nodes of its folders and symbolic links.
        self._nodes: dict[bytes, None] = {}
        #: Folders of which the first block has come: what is in them, or the reader that wants more blocks.
        self._listed: dict[CID, list[HamtEntry]] = {}
        self._begun: dict[CID, tuple[Asking[list[HamtEntry]], list[CID]]] = {}
        self._done = self._total = 0

    async def run(self, root: CID) -> RemoteTree:
        """Bring all of it into the repo.

        Raises:
            InvalidName: an entry's name could not stand in a folder, or would leave it.
            KacheryError: see `Load`.
        """
        known = await trio.to_thread.run_sync(self._repo.has_block, root.multihash) is not None
        failure: KacheryError | None = None
        tree: StoredTree | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keeper.run, nursery.cancel_scope)
            try:
                tree = await self._read_tree(root, known=known)
                await self._keeper.flush()
                self._total = max(self._tree.claimed_size, 1)
                await self._fetch_files(self._tree.files)
            except KacheryError as error:
                failure = error
            finally:
                self._keeper.close()
        if failure := self._keeper.failure or failure:
            raise failure
        await self._load.settle()
        await trio.to_thread.run_sync(self._repo.keep_directory, root, tree, self._load.claim)
        return self._tree

    # --- the nodes

    async def _read_tree(self, root: CID, *, known: bool) -> StoredTree:
        """Read all folders. Where the top one is not `known`, most of what is in it is not here, either."""
        tree = self._tree
        walk = TreeWalk(root)
        files: dict[CID, None] = {}
        while level := walk.take():
            unknown: dict[CID, int] = {}
            for folder in level:
                tree.folders[folder] = None
                entries = await self._list(folder)
                if folder == root and not known:
                    self._load.gather(root)
                for entry in entries:
                    safe_name(entry.name)
                for cid, size in walk.add(folder, [(entry.cid, entry.tsize or 0) for entry in entries]):
                    tree.claimed_size += size
                    if cid.codec != RAW:
                        unknown[cid] = size  # a file, a folder or a symlink: its block tells
                    else:
                        tree.files[cid] = size
                        files[cid] = None
            folders = await self._sort(unknown)
            for cid in folders:
                walk.enter(cid)
            files.update(dict.fromkeys((unknown.keys() - tree.symlinks.keys()).difference(folders)))
        walk.shape()  # one that is too large to be made is refused here
        return StoredTree(walk, self._nodes, files)

    async def _list(self, folder: CID) -> list[HamtEntry]:
        entries = self._listed.pop(folder, None)
        if entries is not None:
            return entries
        steps, wanted = self._begun.pop(folder, (self._lister(folder), []))
        return await self._load.drive(steps, wanted=wanted)

    def _lister(self, folder: CID) -> Asking[list[HamtEntry]]:
        """A reader that lists a folder, of which the nodes are noted."""
        steps = list_directory(folder, by_name=False)
        blocks: Sequence[Buffer] | None = None
        while True:
            try:
                wanted = next(steps) if blocks is None else steps.send(blocks)
            except StopIteration as stop:
                return stop.value
            self._nodes.update((cid.multihash, None) for cid in wanted)
            blocks = yield wanted

    async def _sort(self, entries: Mapping[CID, int]) -> list[CID]:
        """Tell files, symlinks and folders apart; small files go into the repo at once. Returns the folders."""
        # The same block may be named by CIDs of both versions.
        same: dict[bytes, list[CID]] = {}
        for cid in entries:
            same.setdefault(cid.multihash, []).append(cid)
        folders: set[CID] = set()
        async with self._stream(entries) as stream:
            async for first, block, kept in stream:
                for cid in same[first.multihash]:
                    if await self._sort_one(cid, entries[cid], block, kept):
                        folders.add(cid)
        return [cid for cid in entries if cid in folders]

    async def _sort_one(self, cid: CID, size: int, block: bytes, kept: bool) -> bool:
        """The same of one; `kept` says that the repo has its block. Returns whether it is a folder."""
        node, unixfs = read_node(cid, block)
        kind = DataType.RAW if unixfs is None else unixfs.kind
        is_folder = kind in (DataType.DIRECTORY, DataType.HAMT_SHARD)
        if is_folder:
            self._begin_listing(cid, block)
        elif kind is DataType.SYMLINK:
            self._tree.symlinks[cid] = symlink_target(block, cid)
            self._nodes[cid.multihash] = None
        else:
            data = (unixfs.data if unixfs else None) or b""
            found = None if node.links else unwrap(cid.codec, block, len(data))
            if found is not None:
                await self._keeper.file(cid, found[1])
                return False
            self._tree.files[cid] = size  # the rest of the file is fetched later
        if not kept:
            await self._keeper.node(cid, block)
        return is_folder

    def _begin_listing(self, folder: CID, block: bytes) -> None:
        """List a folder as far as its first block goes, while that is in memory."""
        steps = self._lister(folder)
        try:
            wanted = next(steps)
            if wanted == [folder]:
                wanted = steps.send([block])
        except StopIteration as stop:
            self._listed[folder] = stop.value
        else:
            self._begun[folder] = steps, wanted

    # --- the files

    async def _fetch_files(self, files: Mapping[CID, int]) -> None:
        async with self._stream({cid: size for cid, size in files.items() if cid.codec == RAW}) as stream:
            async for cid, data, _ in stream:
                await self._keeper.file(cid, data)
        await self._keeper.flush()
        for cid in files:
            if cid.codec == DAG_PB:
                self._count((await self._load.file(cid))[1])

    def _stream(self, entries: Mapping[CID, int]) -> contextlib.aclosing[AsyncGenerator[tuple[CID, bytes, bool], None]]:
        """The first blocks of those entries that are not in the repo as whole files, each once."""
        left = iter({cid.multihash: cid for cid in entries}.values())

        async def take(count: int) -> list[CID]:
            while some := list(islice(left, count)):
                missing: list[CID] = []
                for cid, size in zip(some, await self._load.find_sizes(some), strict=True):
                    if size is None:
                        missing.append(cid)
                    else:
                        self._count(size)
                if missing:
                    return missing
            return []

        sizes = {cid.multihash: size for cid, size in entries.items()}
        return contextlib.aclosing(self._load.stream_blocks(take, sizes))

    def _kept(self, multihashes: Sequence[bytes], size: int) -> None:
        """These are in the repo now, and so many bytes of files with them."""
        self._load.stored(multihashes)
        self._count(size)

    def _count(self, length: int) -> None:
        """So many bytes more are here. How many that is of all of them is known when the nodes have been read."""
        self._done += length
        if self._total:
            self._progress(min(self._done, self._total), self._total)
