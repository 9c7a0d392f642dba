"""Storing a whole folder: each file as a root of its own, and the directory nodes above them in the catalog.

What is in it is looked at first (scanning.py), so that what cannot be stored is named before anything is. Files that
were hashed before, and have not changed, are not read again (seen.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import DirectoryBuilder, symlink_block
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.profiles import LEAF_OVERHEAD, Profile
from kachery_p2p.dag.profiles import profile as named_profile
from kachery_p2p.dag.unixfs import ATTRIBUTES_OVERHEAD, NO_ATTRIBUTES, Attributes
from kachery_p2p.errors import RemovedMeanwhile
from kachery_p2p.repo.catalog import DIRECTORY
from kachery_p2p.repo.claim_rows import add_claims
from kachery_p2p.repo.fileio import Progress, SourceFile, Stamp, attributes_of
from kachery_p2p.repo.leaves import block_size
from kachery_p2p.repo.limits import BATCH_BYTES, BATCH_FILES, BATCH_LINKED, SMALL_FILE
from kachery_p2p.repo.placing import NodeSpool, Placer, add_root
from kachery_p2p.repo.records import Node
from kachery_p2p.repo.scanning import Folder, FolderOptions, FoundFile, Scan
from kachery_p2p.repo.seen import SeenFiles
from kachery_p2p.repo.small import SmallFile, SmallFiles, Stored
from kachery_p2p.repo.storing import HashedLink, Storer, about, read_small
from kachery_p2p.repo.tree import StoredTree, read_tree

#: What became of each file of a folder: its CID, the bytes of its blocks, and its own.
_Done = dict[str, tuple[CID, int, int]]


class FolderStorer:
    """Stores folders."""

    def __init__(self, placer: Placer) -> None:
        self.placer = placer
        self.storer = Storer(placer)
        self.small = SmallFiles(placer)

    def store(
        self,
        path: Path,
        which: str | Profile | None,
        options: FolderOptions,
        progress: Progress | None,
        admit: Callable[[int], None] | None,
    ) -> Stored:
        """See Repo.store_directory."""
        profile = named_profile(which)
        if options.preserve:
            # As Kubo does it: a raw block has no room for them.
            size = min(profile.chunk_size, MAX_BLOCK_SIZE - LEAF_OVERHEAD - ATTRIBUTES_OVERHEAD)
            profile = replace(profile, raw_leaves=False, chunk_size=size)
        scan = Scan(os.stat(self.placer.layout.directory), options)
        top = scan.run(path)
        if admit is not None:
            admit(scan.total)
        done = _Files(self, profile, options, progress, scan.total).run(top)
        with NodeSpool(self.placer.layout.temporary) as nodes:
            cid, dag_size, total = self._build(top, done, profile, options.preserve, nodes)
            if not self._knows(cid, [multihash for multihash, _ in nodes]):
                self._keep(cid, nodes, nodes, total, profile)
        return Stored(cid, total, Path(top.path), dag_size)

    def keep_loaded(self, root: CID, tree: StoredTree | None) -> StoredTree | None:
        """See Repo.keep_directory.

        Returns:
            What it holds, all nodes of which are here; None where the directory was known, and was not looked into.
        """
        if self._knows(root, []):
            return None
        tree = tree or read_tree(root, self.placer.reader.nodes)
        if tree.broken:
            raise RemovedMeanwhile(f"The directory {root} is not all here, so it cannot be kept. {tree.broken[0][1]}")
        total = tree.size(self.placer.root_sizes(list(tree.files)))
        self._keep(root, self._each_node(root, tree), (), total, None)
        return tree

    def _each_node(self, root: CID, tree: StoredTree) -> Iterator[Node]:
        left = len(tree.nodes)
        for node in self.placer.reader.each_node(list(tree.nodes)):
            left -= 1
            yield node
        if left:
            raise RemovedMeanwhile(f"The directory {root} is not all here, so it cannot be kept. Load it again.")

    def _knows(self, root: CID, nodes: list[bytes]) -> bool:
        """Whether nothing need be written for a directory: its root, its nodes and their record are here."""
        if not self.placer.nodes.has(root):
            return False
        row = self.placer.catalog.one("SELECT kind FROM roots WHERE key = ?", (bytes(root.to_v1()),))
        return row == (DIRECTORY,) and len(self.placer.reader.nodes(nodes)) == len(set(nodes))

    def _keep(self, root: CID, nodes: Iterable[Node], new: Iterable[Node], total: int, profile: Profile | None) -> None:
        """Write the nodes of a directory down, and commit it, with those that are new to the catalog."""
        self.placer.nodes.keep(root, nodes)
        with self.placer.catalog.write(durable=True) as db:
            self.placer.insert_blocks(db, new)
            add_claims(db, self.placer.rows, [root.multihash])
            add_root(db, root, DIRECTORY, total, profile)

    def _build(
        self, folder: Folder, done: dict[str, _Done], profile: Profile, preserve: bool, nodes: NodeSpool
    ) -> tuple[CID, int, int]:
        """Make the directory nodes, children first.

        Returns:
            The folder's CID, its DAG size, and the bytes of the files in and below it: those that were stored, for the
            sizes that the system states are not always right.
        """
        builder = DirectoryBuilder(profile, nodes.add, attributes_of(folder.status) if preserve else NO_ATTRIBUTES)
        total = 0
        for name, (cid, dag_size, size) in done.pop(folder.path).items():
            builder.add(name, cid, dag_size)
            total += size
        for name, target, mtime_ns in folder.links:
            cid, block = symlink_block(profile, target, Attributes(None, mtime_ns) if preserve else NO_ATTRIBUTES)
            nodes.add(cid, block)
            builder.add(name, cid, len(block))
        for name, below in folder.folders:
            cid, dag_size, size = self._build(below, done, profile, preserve, nodes)
            builder.add(name, cid, dag_size)
            total += size
        built = builder.finish()
        return built.cid, built.dag_size, total


@dataclass
class _Waiting:
    """A small file that is to be kept with others: where it was found, and what it is."""

    folder: Folder
    name: str
    stamp: Stamp
    began: int
    file: SmallFile


class _Files:
    """One run over the files of a tree, in batches: one transaction for many, and many waiting for one commit."""

    def __init__(
        self,
        parent: FolderStorer,
        profile: Profile,
        options: FolderOptions,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._parent = parent
        self._profile = profile
        self._progress = progress
        self._total = total
        self._link = options.link
        self._rehash = options.rehash
        self._preserve = options.preserve
        self._finished = 0
        self._limit = min(SMALL_FILE, profile.chunk_size)
        self._seen = SeenFiles(
            parent.placer, profile, linked=options.link, about=about(options.preserve), rehash=options.rehash
        )
        self._done: dict[str, _Done] = {}
        self._small: list[_Waiting] = []
        self._small_bytes = 0
        self._links: list[tuple[Folder, FoundFile, HashedLink]] = []
        self._linked_bytes = 0
        self._nodes = NodeSpool(parent.placer.layout.temporary)

    def run(self, top: Folder) -> dict[str, _Done]:
        """Store the files, and say by the path of each folder what became of those in it."""
        try:
            self._visit(top)
            self._flush()
        finally:
            self._nodes.close()
        return self._done

    def _visit(self, folder: Folder) -> None:
        done = self._done[folder.path] = {}
        known_bytes = 0
        changed: list[FoundFile] = []
        self._seen.enter(folder.real, folder.status.st_dev)
        for found in folder.files:
            known = None if found.real else self._seen.find(found.name, found.stamp)
            if known is None:
                changed.append(found)
            else:
                done[found.name] = known.cid, known.dag_size, found.stamp.size
                known_bytes += found.stamp.size
        if known_bytes:
            self._advance(known_bytes)
        for found in changed:
            self._store(folder, found, done)
            if (
                len(self._small) + len(self._links) >= BATCH_FILES
                or self._small_bytes >= BATCH_BYTES
                or self._linked_bytes >= BATCH_LINKED
            ):
                self._flush()
        for _, below in folder.folders:
            self._visit(below)

    def _store(self, folder: Folder, found: FoundFile, done: _Done) -> None:
        """Store one file, or put it to those that are stored together."""
        path = Path(folder.path, found.name)
        storer = self._parent.storer
        if self._link:
            known = None
            if found.real and not self._rehash:
                known = storer.known_link(path, self._profile, preserve=self._preserve)
            if known is None:
                hashed = storer.hash_link(path, self._profile, self._shifted(), self._nodes, preserve=self._preserve)
                self._links.append((folder, found, hashed))
                self._linked_bytes += hashed.built.size
                self._advance(hashed.built.size)
                return
            done[found.name] = known.cid, known.dag_size, known.size
            self._advance(known.size)
        elif self._preserve or found.stamp.size > self._limit or not self._add_small(folder, found.name, path):
            stored = storer.store_file(
                path, self._profile, self._shifted(), rehash=self._rehash, preserve=self._preserve
            )
            done[found.name] = stored.cid, stored.dag_size, stored.size
            self._advance(stored.size)

    def _add_small(self, folder: Folder, name: str, path: Path) -> bool:
        began = time.time_ns()
        with SourceFile(path) as source:
            # It may have grown since the folder was read, or be larger than its size says.
            if source.stamp.size > self._limit or source.misstated():
                return False
            data = read_small(source)
        self._small.append(_Waiting(folder, name, source.stamp, began, SmallFile.of(data, self._profile)))
        self._small_bytes += len(data)
        return True

    def _flush(self) -> None:
        small, self._small, self._small_bytes = self._small, [], 0
        if small:
            self._parent.small.add([each.file for each in small], packed=True)
            for each in small:
                file, size = each.file, len(each.file.data)
                dag_size = block_size(file.wrap, size)
                self._done[each.folder.path][each.name] = file.cid, dag_size, size
                self._seen.note(each.folder.real, each.name, each.stamp, each.began, file.cid, dag_size)
            self._advance(sum(len(each.file.data) for each in small))
        links, self._links, self._linked_bytes = self._links, [], 0
        if links:
            self._parent.storer.record_links([hashed for _, _, hashed in links], self._profile, self._nodes)
            for folder, found, (path, built, stamp, began) in links:
                self._done[folder.path][found.name] = built.cid, built.dag_size, built.size
                self._seen.note(*os.path.split(path), stamp, began, built.cid, built.dag_size)
            self._nodes.close()
            self._nodes = NodeSpool(self._parent.placer.layout.temporary)
        self._seen.write()

    def _advance(self, size: int) -> None:
        self._finished += size
        if self._progress is not None:
            self._progress(self._finished, max(self._finished, self._total))

    def _shifted(self) -> Progress | None:
        """The progress of one file as part of the whole."""
        outer, base, total = self._progress, self._finished, self._total
        if outer is None:
            return None
        return lambda done, _size: outer(base + done, max(base + done, total))
