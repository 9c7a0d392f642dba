"""Copies for the user, outside of the data directory: a file, or a whole tree. They appear when they are whole.

Names and links in a directory come from strangers. Each name must be one that can stand in a folder, links may only
point to what is in the directory, and they are made last, so that nothing is ever written through one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kachery_p2p.repo.fileio import clone_file, explained

from .errors import DiskFull, FileMissing, InvalidName, RepoError
from .local import NotHere, is_local_directory, list_local, local_blocks
from .parts import part_beside

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

# Entries of one tree, in all its folders: some 300 bytes of memory each until the tree is made.
_MAX_ENTRIES = 5_000_000
# Folders within folders; a DAG can claim any depth, a file system cannot.
_MAX_DEPTH = 256


def copy_into_place(source: Path, target: Path) -> None:
    """Copy a file to `target`, replacing what is there in one step. A copy-on-write clone where the file system can.

    Raises FileMissing (no such folder), NoPermission, DiskFull; what was at `target` stays then.
    """
    with part_beside(target) as part, explained("writing", target):
        _copy(source, part)
        os.replace(part, target)


def check_tree_destination(dest: Path) -> None:
    """Raise RepoError where something is at `dest` already, FileMissing where its parent is not there."""
    if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and not any(dest.iterdir()))):
        raise RepoError(f"{dest} exists already. Choose a destination that does not exist, or an empty folder.")
    if not dest.parent.is_dir():
        raise FileMissing(f"There is no folder {dest.parent} to make {dest.name} in.")


def place_directory(repo: Repo, root: CID, dest: Path) -> None:
    """Make the tree of a directory that is wholly here, as a folder `dest` (absolute; missing or empty).

    Raises NotHere when a part of it is missing, NotADirectory, InvalidName for names and links that would leave `dest`,
    NoPermission, DiskFull; nothing is at `dest` then.
    """
    tree = _read_tree(repo, root)
    check_tree_destination(dest)
    with part_beside(dest) as building, explained("making", dest):
        building.mkdir()
        for folder in tree.folders:
            (building / folder).mkdir()
        left = tree.size
        for where, source in tree.files:
            left -= _copy(source, building / where, left)
        for where, target in tree.links:
            os.symlink(target, building / where)
        if dest.is_dir():
            dest.rmdir()
        os.rename(building, dest)


@dataclass
class _Tree:
    """What is in a directory, by path relative to it; folders before what is in them."""

    folders: list[PurePosixPath] = field(default_factory=list)
    files: list[tuple[PurePosixPath, Path]] = field(default_factory=list)
    links: list[tuple[PurePosixPath, str]] = field(default_factory=list)
    #: Bytes of all files, each as often as it is there.
    size: int = 0


def _read_tree(repo: Repo, root: CID) -> _Tree:
    from kachery_p2p.dag.names import safe_name
    from kachery_p2p.dag.tree import shape_of

    # Each folder is read once, and nothing is made of what nobody could hold.
    folders: dict[CID, list[tuple[str, CID]]] = {}
    things: dict[CID, _Thing] = {}
    waiting = [root]
    listed = 0
    while waiting:
        folder = waiting.pop()
        entries = list_local(repo, folder)
        listed += len(entries)
        if listed > _MAX_ENTRIES:
            raise _too_many(root)
        folders[folder] = [(safe_name(entry.name), entry.cid) for entry in entries]
        for entry in entries:
            if entry.cid not in things:
                thing = things[entry.cid] = _look_at(repo, entry.cid)
                if thing.is_folder:
                    waiting.append(entry.cid)
    shape = shape_of(root, {each: [(cid, things[cid].size) for _, cid in held] for each, held in folders.items()})
    if shape.entries > _MAX_ENTRIES:
        raise _too_many(root)
    if shape.depth > _MAX_DEPTH:
        raise InvalidName(f"The directory {root} is more than {_MAX_DEPTH} folders deep.")

    tree = _Tree(size=shape.size)
    level = [(PurePosixPath(), root)]
    while level:
        below: list[tuple[PurePosixPath, CID]] = []
        for path, folder in level:
            for name, cid in folders[folder]:
                where, thing = path / name, things[cid]
                if thing.source is not None:
                    tree.files.append((where, thing.source))
                elif thing.target is not None:
                    _check_link(where, thing.target)
                    tree.links.append((where, thing.target))
                else:
                    below.append((where, cid))
        tree.folders += [path for path, _ in below]
        level = below
    return tree


def _too_many(root: CID) -> InvalidName:
    return InvalidName(f"The directory {root} has more than {_MAX_ENTRIES:,} entries in all its folders.")


@dataclass
class _Thing:
    """An entry: a file at `source` with its size in bytes, a link to `target`, or else a folder."""

    source: Path | None = None
    size: int = 0
    target: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.source is None and self.target is None


def _look_at(repo: Repo, cid: CID) -> _Thing:
    """What an entry is. Raises NotHere when that is not known here."""
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.nodes import node_kind, symlink_target
    from kachery_p2p.dag.unixfs import Kind

    source = repo.find_file(cid)
    if source is not None:
        return _Thing(source, source.stat().st_size)
    if is_local_directory(repo, cid):
        return _Thing()
    if cid.codec == DAG_PB:
        (block,) = local_blocks(repo, [cid])
        if node_kind(block, cid) is Kind.SYMLINK:
            return _Thing(target=symlink_target(block, cid))
    raise NotHere(str(cid))


def _check_link(where: PurePosixPath, target: str) -> None:
    """Let only links pass that stay in the directory, whatever other links they lead through.

    The steps up must come first: they then lead through real folders. After that every step is down, or into another
    link, for which the same holds. (`a/..` would leave the directory if `a` is a link to its top.)
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    steps_up = 0
    while steps_up < len(parts) and parts[steps_up] == "..":
        steps_up += 1
    outside = target.startswith("/") or steps_up > len(where.parent.parts) or ".." in parts[steps_up:]
    if outside or not target or "\0" in target or (os.name == "nt" and ("\\" in target or ":" in target)):
        raise InvalidName(
            f"The symbolic link {str(where)!r} points to {target!r}, which may be outside of the directory, so the "
            "directory is not made. Load the files that you need one by one."
        )


def _copy(source: Path, target: Path, left: int = 0) -> int:
    """Copy a file and return its size. `left` is how many bytes are to be copied from now on, this file among them.

    Raises DiskFull before anything is written when there is no room for them.
    """
    with open(source, "rb") as src, open(target, "xb") as dst:
        size = os.fstat(src.fileno()).st_size
        if clone_file(src.fileno(), dst.fileno()):  # which takes no room
            return size
        from kachery_p2p.repo.storing import free_bytes

        room = free_bytes(target.parent)
        if room is not None and room < max(left, size):
            raise DiskFull(
                f"The copy needs {max(left, size):,} bytes more, and the disk of {target.parent} has {room:,} left."
            )
        shutil.copyfileobj(src, dst, 1 << 20)
    return size
