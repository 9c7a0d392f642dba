"""Copies for the user, outside of the data directory: a file, or a whole tree. They appear when they are whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kachery_p2p.repo.fileio import clone_file, explained

from .errors import FileMissing, NotADirectory
from .local import NotHere, list_local, local_blocks

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo


def copy_into_place(source: Path, target: Path) -> None:
    """Copy a file to `target`, replacing what is there in one step. A copy-on-write clone where the file system can.

    Raises FileMissing (no such folder), NoPermission, DiskFull; nothing is left at `target` then.
    """
    if not target.parent.is_dir():
        raise FileMissing(f"There is no folder {target.parent} to put {target.name} into.")
    # Beside the target, so that the rename stays within one file system; hidden, and named so that it is no surprise.
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    with explained("writing", target):
        try:
            with open(source, "rb") as src, open(temporary, "xb") as dst:
                if not clone_file(src.fileno(), dst.fileno()):
                    shutil.copyfileobj(src, dst, 1 << 20)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def place_directory(repo: Repo, root: CID, dest: Path) -> None:
    """Make the tree of a directory that is wholly here.

    Raises NotHere when a part is missing, NotADirectory, and what `kachery_p2p.load_directory` says of names and
    destinations.
    """
    from kachery_p2p.load_directory import Tree, _check_dest, _make_tree

    tree = Tree()
    if not _is_folder(repo, root):
        raise NotADirectory(f"{root} is a file. Load it with load_file.")
    _check_dest(dest)
    _collect(repo, root, tree)
    for _, cid in tree.files:
        if repo.find_file(cid) is None:
            raise NotHere(str(cid))
    _make_tree(repo, tree, dest)


def _collect(repo: Repo, root: CID, tree: object) -> None:
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.names import safe_name
    from kachery_p2p.dag.nodes import node_kind, symlink_target
    from kachery_p2p.dag.unixfs import Kind
    from kachery_p2p.errors import InvalidName
    from kachery_p2p.load_directory import MAX_DEPTH, Tree

    assert isinstance(tree, Tree)
    level: list[tuple[PurePosixPath, CID]] = [(PurePosixPath(), root)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[PurePosixPath, CID]] = []
        for path, folder in level:
            for entry in list_local(repo, folder):
                where = path / safe_name(entry.name)
                if entry.cid.codec != DAG_PB or repo.find_file(entry.cid) is not None:
                    tree.files.append((where, entry.cid))
                    continue
                (block,) = local_blocks(repo, [entry.cid])
                kind = node_kind(block, entry.cid)
                if kind in (Kind.DIRECTORY, Kind.HAMT_SHARD):
                    below.append((where, entry.cid))
                elif kind is Kind.SYMLINK:
                    tree.symlinks.append((where, symlink_target(block, entry.cid)))
                else:
                    raise NotHere(str(entry.cid))
        tree.folders += [path for path, _ in below]
        level = below
        if not level:
            return
    raise InvalidName(f"The directory {root} is more than {MAX_DEPTH} folders deep.")


def _is_folder(repo: Repo, cid: CID) -> bool:
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.nodes import node_kind
    from kachery_p2p.dag.unixfs import Kind

    if cid.codec != DAG_PB:
        return False
    (block,) = local_blocks(repo, [cid])
    return node_kind(block, cid) in (Kind.DIRECTORY, Kind.HAMT_SHARD)
