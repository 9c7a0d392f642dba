"""Loading a whole directory into the repo: its listing, and its files, many small ones at once.

The files go into the repo like any other, so that this machine serves them too. Names in a foreign directory are not
trusted: one that could not stand in a folder, or would leave it, is an error before any file is fetched.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.names import safe_name
from kachery_p2p.dag.nodes import read_node, symlink_target
from kachery_p2p.dag.unixfs import Kind
from kachery_p2p.errors import InvalidName
from kachery_p2p.load import LOOKAHEAD, Load, Progress
from kachery_p2p.repo.leaves import unwrap

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Repo

#: Entries of one directory tree, in all its folders. Each is held in memory (some 300 bytes) until the tree is made.
MAX_ENTRIES = 5_000_000
#: Folders within folders; a DAG can claim any depth, a file system cannot.
MAX_DEPTH = 256
#: Files put into the repo with one transaction, and the bytes of them that are held in memory meanwhile.
BATCH_FILES = 512
BATCH_BYTES = 32 << 20


@dataclass
class Tree:
    """What a directory holds, by path relative to it."""

    folders: list[PurePosixPath] = field(default_factory=list)
    files: list[tuple[PurePosixPath, CID]] = field(default_factory=list)
    symlinks: list[tuple[PurePosixPath, str]] = field(default_factory=list)
    #: Bytes of all files and nodes as the directory claims them: for a progress bar, nothing else.
    claimed_size: int = 0


class DirectoryLoad:
    """Loads the directory ``root`` through a running `Load`."""

    def __init__(self, load: Load, repo: Repo, progress: Progress) -> None:
        self._load = load
        self._repo = repo
        self._progress = progress
        self._done = 0

    async def run(self, root: CID) -> Tree:
        """Bring all of it into the repo.

        Raises:
            InvalidName: an entry's name could not stand in a folder, or would leave it.
            KacheryError: see `Load`.
        """
        tree = await self._read_tree(root)
        await self._fetch_files(tree)
        await trio.to_thread.run_sync(self._repo.keep_directory, root)
        return tree

    async def _read_tree(self, root: CID) -> Tree:
        tree = Tree()
        level = [(PurePosixPath(), root)]
        for _ in range(MAX_DEPTH):
            unknown: list[tuple[PurePosixPath, CID]] = []
            for path, folder in level:
                for entry in await self._load.drive(list_directory(folder)):
                    where = path / safe_name(entry.name)
                    tree.claimed_size += entry.tsize or 0
                    if entry.cid.codec != RAW:
                        unknown.append((where, entry.cid))  # a file, a folder or a symlink: its block tells
                    else:
                        tree.files.append((where, entry.cid))
                    if len(tree.files) + len(unknown) > MAX_ENTRIES:
                        raise InvalidName(f"The directory {root} has more than {MAX_ENTRIES} entries.")
            level = []
            for first in range(0, len(unknown), LOOKAHEAD):
                level += await self._sort(tree, unknown[first : first + LOOKAHEAD])
            if not level:
                return tree
            tree.folders += [path for path, _ in level]
        raise InvalidName(f"The directory {root} is more than {MAX_DEPTH} folders deep.")

    async def _sort(self, tree: Tree, entries: list[tuple[PurePosixPath, CID]]) -> list[tuple[PurePosixPath, CID]]:
        """Tell files, symlinks and folders apart; small files go into the repo at once. Returns the folders."""
        here = await self._load.find_files([cid for _, cid in entries])
        tree.files += [entry for entry, path in zip(entries, here, strict=True) if path is not None]
        entries = [entry for entry, path in zip(entries, here, strict=True) if path is None]
        blocks = await self._load.blocks([cid for _, cid in entries])
        folders, nodes, small = [], [], []
        for (where, cid), block in zip(entries, blocks, strict=True):
            node, unixfs = read_node(cid, block)
            kind = Kind.RAW if unixfs is None else unixfs.kind
            if kind in (Kind.DIRECTORY, Kind.HAMT_SHARD):
                folders.append((where, cid))
                nodes.append((cid, block))
            elif kind is Kind.SYMLINK:
                tree.symlinks.append((where, symlink_target(block, cid)))
                nodes.append((cid, block))
            else:
                tree.files.append((where, cid))
                data = (unixfs.data if unixfs else None) or b""
                found = None if node.links else unwrap(cid.codec, block, len(data))
                if found is not None:
                    small.append((cid, found[1]))
                else:
                    nodes.append((cid, block))  # the rest of the file is fetched later
        await trio.to_thread.run_sync(self._repo.put_blocks, nodes)
        await trio.to_thread.run_sync(self._repo.add_small_files, small)
        return folders

    async def _fetch_files(self, tree: Tree) -> None:
        total = max(tree.claimed_size, 1)
        small: list[CID] = []
        wanted = list(dict.fromkeys(cid for _, cid in tree.files))
        for first in range(0, len(wanted), LOOKAHEAD):
            part = wanted[first : first + LOOKAHEAD]
            for cid, path in zip(part, await self._load.find_files(part), strict=True):
                if path is not None:
                    self._count(path.stat().st_size, total)
                elif cid.codec == DAG_PB:
                    self._count((await self._load.file(cid))[1], total)
                else:
                    small.append(cid)  # a single raw block: many are asked for and put away at once
        batch: list[tuple[CID, bytes]] = []
        size = 0
        async with contextlib.aclosing(self._load.stream_blocks(small)) as stream:
            async for cid, data in stream:
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
