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

from .errors import FileMissing, InvalidName, RepoError
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
        for where, source in tree.files:
            _copy(source, building / where)
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


def _read_tree(repo: Repo, root: CID) -> _Tree:
    from kachery_p2p.dag.names import safe_name

    tree = _Tree()
    entries = 0
    level = [(PurePosixPath(), root)]
    for _ in range(_MAX_DEPTH):
        below: list[tuple[PurePosixPath, CID]] = []
        for path, folder in level:
            for entry in list_local(repo, folder):
                entries += 1
                if entries > _MAX_ENTRIES:
                    raise InvalidName(f"The directory {root} has more than {_MAX_ENTRIES:,} entries.")
                if not _add(repo, tree, path / safe_name(entry.name), entry.cid):
                    below.append((path / entry.name, entry.cid))
        tree.folders += [path for path, _ in below]
        level = below
        if not level:
            return tree
    raise InvalidName(f"The directory {root} is more than {_MAX_DEPTH} folders deep.")


def _add(repo: Repo, tree: _Tree, where: PurePosixPath, cid: CID) -> bool:
    """Put a file or a link into the tree; false for a folder."""
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.nodes import node_kind, symlink_target
    from kachery_p2p.dag.unixfs import Kind

    source = repo.find_file(cid)
    if source is not None:
        tree.files.append((where, source))
        return True
    if is_local_directory(repo, cid):
        return False
    if cid.codec == DAG_PB:
        (block,) = local_blocks(repo, [cid])
        if node_kind(block, cid) is Kind.SYMLINK:
            target = symlink_target(block, cid)
            _check_link(where, target)
            tree.links.append((where, target))
            return True
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


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as src, open(target, "xb") as dst:
        if not clone_file(src.fileno(), dst.fileno()):
            shutil.copyfileobj(src, dst, 1 << 20)
