"""Loading a whole directory into the repo: its listing, and its files, many small ones at once.

The files go into the repo like any other, so that this machine serves them too. Names in a foreign directory are not
trusted: one that could not stand in a folder, or would leave it, is an error before any file is fetched. Each folder
is read once, however often it is in the directory, and a tree that is too large to be made is refused as early.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.names import safe_name
from kachery_p2p.dag.nodes import read_node, symlink_target
from kachery_p2p.dag.tree import TreeWalk
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.load.interfaces import LOOKAHEAD, Progress
from kachery_p2p.load.load import Load
from kachery_p2p.repo.leaves import unwrap

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Repo

#: Files put into the repo with one transaction, and the bytes of them that are held in memory meanwhile.
BATCH_FILES = 512
BATCH_BYTES = 32 << 20


@dataclass
class RemoteTree:
    """What a directory holds; each thing once, however often it is in there."""

    folders: dict[CID, None] = field(default_factory=dict)
    files: dict[CID, None] = field(default_factory=dict)
    symlinks: dict[CID, str] = field(default_factory=dict)
    #: Bytes of all files and nodes as the folders claim them: for a progress bar, nothing else.
    claimed_size: int = 0


class DirectoryLoad:
    """Loads the directory ``root`` through a running `Load`."""

    def __init__(self, load: Load, repo: Repo, progress: Progress) -> None:
        self._load = load
        self._repo = repo
        self._progress = progress
        self._done = 0

    async def run(self, root: CID) -> RemoteTree:
        """Bring all of it into the repo.

        Raises:
            InvalidName: an entry's name could not stand in a folder, or would leave it.
            KacheryError: see `Load`.
        """
        tree = await self._read_tree(root)
        await self._fetch_files(tree)
        await trio.to_thread.run_sync(self._repo.keep_directory, root)
        return tree

    async def _read_tree(self, root: CID) -> RemoteTree:
        tree = RemoteTree()
        walk = TreeWalk(root)
        while level := walk.take():
            unknown: list[CID] = []
            for folder in level:
                tree.folders[folder] = None
                entries = await self._load.drive(list_directory(folder))
                for entry in entries:
                    safe_name(entry.name)
                for cid, size in walk.add(folder, [(entry.cid, entry.tsize or 0) for entry in entries]):
                    tree.claimed_size += size
                    if cid.codec != RAW:
                        unknown.append(cid)  # a file, a folder or a symlink: its block tells
                    else:
                        tree.files[cid] = None
            for first in range(0, len(unknown), LOOKAHEAD):
                for cid in await self._sort(tree, unknown[first : first + LOOKAHEAD]):
                    walk.enter(cid)
        walk.shape()  # one that is too large to be made is refused here
        return tree

    async def _sort(self, tree: RemoteTree, entries: list[CID]) -> list[CID]:
        """Tell files, symlinks and folders apart; small files go into the repo at once. Returns the folders."""
        here = await self._load.find_sizes(entries)
        tree.files |= {cid: None for cid, size in zip(entries, here, strict=True) if size is not None}
        entries = [cid for cid, size in zip(entries, here, strict=True) if size is None]
        blocks, new = await self._load.blocks(entries)
        folders, nodes, small = [], [], []
        for cid, block in zip(entries, blocks, strict=True):
            node, unixfs = read_node(cid, block)
            kind = DataType.RAW if unixfs is None else unixfs.kind
            if kind in (DataType.DIRECTORY, DataType.HAMT_SHARD):
                folders.append(cid)
                nodes.append((cid, block))
            elif kind is DataType.SYMLINK:
                tree.symlinks[cid] = symlink_target(block, cid)
                nodes.append((cid, block))
            else:
                tree.files[cid] = None
                data = (unixfs.data if unixfs else None) or b""
                found = None if node.links else unwrap(cid.codec, block, len(data))
                if found is not None:
                    small.append((cid, found[1]))
                else:
                    nodes.append((cid, block))  # the rest of the file is fetched later
        await self._load.keep_new(nodes, new)
        await trio.to_thread.run_sync(self._repo.add_small_files, small)
        return folders

    async def _fetch_files(self, tree: RemoteTree) -> None:
        total = max(tree.claimed_size, 1)
        small: list[CID] = []
        wanted = list(tree.files)
        for first in range(0, len(wanted), LOOKAHEAD):
            part = wanted[first : first + LOOKAHEAD]
            for cid, here in zip(part, await self._load.find_sizes(part), strict=True):
                if here is not None:
                    self._count(here, total)
                elif cid.codec == DAG_PB:
                    self._count((await self._load.file(cid))[1], total)
                else:
                    small.append(cid)  # a single raw block: many are asked for and put away at once
        batch: list[tuple[CID, bytes]] = []
        size = 0
        async with contextlib.aclosing(self._load.stream_blocks(small)) as stream:
            async for cid, data, _ in stream:
                batch.append((cid, data))
                size += len(data)
                if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                    await trio.to_thread.run_sync(self._repo.add_small_files, batch)
                    self._count(size, total)
                    batch, size = [], 0
        await trio.to_thread.run_sync(self._repo.add_small_files, batch)
        self._count(size, total)

    def _count(self, length: int, total: int) -> None:
        self._done += length
        self._progress(min(self._done, total), total)
