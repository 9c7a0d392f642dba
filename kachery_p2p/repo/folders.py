"""Storing a whole folder: each file as a root of its own, and the directory nodes above them in the catalog."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import DirectoryBuilder, symlink_block
from kachery_p2p.dag.limits import MAX_TREE_DEPTH
from kachery_p2p.dag.names import safe_name
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.dag.profiles import profile as named_profile
from kachery_p2p.errors import FileMissing, InvalidName, NotADirectory, NotAFile, RemovedMeanwhile, RepoError
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import DIRECTORY, insert_blocks
from kachery_p2p.repo.fileio import Progress, SourceFile, describe
from kachery_p2p.repo.limits import BATCH_BYTES, BATCH_FILES, SMALL_FILE
from kachery_p2p.repo.placing import NodeSpool, Placer, add_root
from kachery_p2p.repo.records import Node
from kachery_p2p.repo.small import SmallFile, SmallFiles, Stored
from kachery_p2p.repo.storing import HashedLink, Storer, read_small
from kachery_p2p.repo.tree import read_tree


@dataclass
class _Folder:
    """What a folder has in it; `done` gets (CID, DAG size, size) for each file when it is stored."""

    path: Path
    files: list[tuple[str, int]] = field(default_factory=list)
    folders: list[tuple[str, _Folder]] = field(default_factory=list)
    symlinks: list[tuple[str, str]] = field(default_factory=list)
    done: dict[str, tuple[CID, int, int]] = field(default_factory=dict)


class FolderStorer:
    """Stores folders."""

    def __init__(self, placer: Placer, storer: Storer) -> None:
        self.placer = placer
        self.storer = storer
        self.small = SmallFiles(placer)

    def store(self, path: Path, which: str | Profile | None, progress: Progress | None, link: bool) -> Stored:
        """See Repo.store_directory."""
        profile = named_profile(which)
        with explained("reading", path):
            top = Path(os.path.abspath(path))
            if not os.path.lexists(top):
                raise FileMissing(f"There is no folder {path}.")
            if not top.is_dir():
                raise NotADirectory(f"{path} is a file; store it as one.")
            own = os.stat(self.placer.layout.directory)
        tree, total = self._scan(top, 0, (own.st_dev, own.st_ino))
        _Files(self, profile, progress, total, link).run(tree)
        with NodeSpool(self.placer.layout.temporary) as nodes:
            cid, dag_size, total = self._build(tree, profile, nodes)
            if not self._knows(cid, [multihash for multihash, _ in nodes]):
                self._keep(cid, nodes, nodes, total, profile)
        return Stored(cid, total, top, dag_size)

    def keep_loaded(self, root: CID) -> None:
        """See Repo.keep_directory."""
        if self._knows(root, []):
            return
        tree = read_tree(root, self.placer.reader.nodes)
        if tree.broken:
            raise RemovedMeanwhile(f"The directory {root} is not all here, so it cannot be kept. {tree.broken[0][1]}")
        total = tree.size(self.placer.root_sizes(list(tree.files)))
        self._keep(root, self.placer.reader.each_node(list(tree.nodes)), (), total, None)

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
            insert_blocks(db, new)
            add_root(db, root, DIRECTORY, total, profile)

    def _scan(self, path: Path, depth: int, own: tuple[int, int]) -> tuple[_Folder, int]:
        """Everything in and below a folder, and the bytes of its files. Symbolic links are not followed."""
        if depth >= MAX_TREE_DEPTH:
            raise RepoError(f"{path} lies more than {MAX_TREE_DEPTH} folders deep, which is too deep to be shared.")
        folder = _Folder(path)
        total = 0
        with explained("reading the folder", path), os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                _check_name(entry.name, path)
                status = entry.stat(follow_symlinks=False)
                mode = status.st_mode
                if stat.S_ISLNK(mode):
                    folder.symlinks.append((entry.name, os.readlink(entry.path)))
                elif stat.S_ISDIR(mode):
                    if (status.st_dev, status.st_ino) == own:
                        raise RepoError(
                            f"{path} contains {entry.path}, the data directory itself, which cannot be stored in "
                            "itself. Store the folders beside it one by one."
                        )
                    below, size = self._scan(path / entry.name, depth + 1, own)
                    folder.folders.append((entry.name, below))
                    total += size
                elif stat.S_ISREG(mode):
                    folder.files.append((entry.name, status.st_size))
                    total += status.st_size
                else:
                    raise NotAFile(
                        f"{entry.path} is {describe(mode)}, which cannot be stored. Move it out of the folder first."
                    )
        return folder, total

    def _build(self, folder: _Folder, profile: Profile, nodes: NodeSpool) -> tuple[CID, int, int]:
        """Make the directory nodes, children first.

        Returns:
            The folder's CID, its DAG size, and the bytes of the files in and below it: those that were stored, for the
            sizes that the system states are not always right.
        """
        builder = DirectoryBuilder(profile, nodes.add)
        total = 0
        for name, (cid, dag_size, size) in folder.done.items():
            builder.add(name, cid, dag_size)
            total += size
        for name, target in folder.symlinks:
            cid, block = symlink_block(profile, target)
            nodes.add(cid, block)
            builder.add(name, cid, len(block))
        for name, below in folder.folders:
            cid, dag_size, size = self._build(below, profile, nodes)
            builder.add(name, cid, dag_size)
            total += size
        built = builder.finish()
        return built.cid, built.dag_size, total


def _check_name(name: str, folder: Path) -> None:
    """Refuse a name that could not be made where the directory is loaded.

    Raises:
        InvalidName: it is one; names the folder.
    """
    try:
        safe_name(name, windows=False)
    except InvalidName as error:
        raise InvalidName(f"{error} It is in the folder {folder}: rename it there.") from None


class _Files:
    """One run over the files of a tree, in batches: one transaction for many, and many waiting for one commit."""

    def __init__(
        self, parent: FolderStorer, profile: Profile, progress: Progress | None, total: int, link: bool
    ) -> None:
        self._parent = parent
        self._profile = profile
        self._progress = progress
        self._total = total
        self._link = link
        self._done = 0
        self._limit = min(SMALL_FILE, profile.chunk_size)
        self._small: list[tuple[_Folder, str, SmallFile]] = []
        self._small_bytes = 0
        self._links: list[tuple[_Folder, str, HashedLink]] = []
        self._nodes = NodeSpool(parent.placer.layout.temporary)

    def run(self, tree: _Folder) -> None:
        try:
            self._visit(tree)
            self._flush()
        finally:
            self._nodes.close()

    def _visit(self, folder: _Folder) -> None:
        for name, size in folder.files:
            path = folder.path / name
            if self._link:
                hashed = self._parent.storer.hash_link(path, self._profile, self._shifted(), self._nodes)
                self._links.append((folder, name, hashed))
                self._advance(hashed.built.size)
            elif size > self._limit or not self._add_small(folder, name, path):
                stored = self._parent.storer.store_file(path, self._profile, self._shifted())
                folder.done[name] = stored.cid, stored.dag_size, stored.size
                self._advance(stored.size)
            if len(self._small) + len(self._links) >= BATCH_FILES or self._small_bytes >= BATCH_BYTES:
                self._flush()
        for _, below in folder.folders:
            self._visit(below)

    def _add_small(self, folder: _Folder, name: str, path: Path) -> bool:
        with SourceFile(path) as source:
            # It may have grown since the folder was read, or be larger than its size says.
            if source.stamp.size > self._limit or source.misstated():
                return False
            data = read_small(source)
        self._small.append((folder, name, SmallFile.of(data, self._profile)))
        self._small_bytes += len(data)
        return True

    def _flush(self) -> None:
        small, self._small, self._small_bytes = self._small, [], 0
        if small:
            done = self._parent.small.keep([file for _, _, file in small], packed=True)
            for (folder, name, _), stored in zip(small, done, strict=True):
                folder.done[name] = stored.cid, stored.dag_size, stored.size
            self._advance(sum(stored.size for stored in done))
        links, self._links = self._links, []
        if links:
            self._parent.storer.record_links([hashed for _, _, hashed in links], self._profile, self._nodes)
            for folder, name, hashed in links:
                folder.done[name] = hashed.built.cid, hashed.built.dag_size, hashed.built.size
            self._nodes.close()
            self._nodes = NodeSpool(self._parent.placer.layout.temporary)

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, max(self._done, self._total))

    def _shifted(self) -> Progress | None:
        """The progress of one file as part of the whole."""
        outer, base, total = self._progress, self._done, self._total
        if outer is None:
            return None
        return lambda done, _size: outer(base + done, max(base + done, total))
