"""Copies for the user, outside of the data directory: a file, or a whole tree. They appear when they are whole.

Where the user wrote the whole name of a copy, it may replace a file. Where the name came with the URI (its label, or
the end of its path), it never does, and the name must be a plain one (`kachery_p2p.dag.names.outside_name`). Whatever
is at the destination is never written to or followed: a name is given to a finished copy, in one step.

Names and links in a directory come from strangers, too. They go into a folder that is made anew, so that nothing can be
replaced, and hidden files such as `.zattrs` are as they were stored. Each name must be one that can stand in a folder,
links may only point to what is in the directory, and they are made last, so that nothing is ever written through one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kachery_p2p.repo.fileio import clone_file, explained
from kachery_p2p.repo.placing import same_bytes

from .errors import FileExists, FileMissing, InvalidName, NotAFile
from .local import NotHere, is_local_directory, list_local, local_blocks

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

# Entries of one tree, in all its folders: some 300 bytes of memory each until the tree is made.
_MAX_ENTRIES = 5_000_000
# Folders within folders; a DAG can claim any depth, a file system cannot.
_MAX_DEPTH = 256


# What file systems without hard links say when they are asked for one.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def copy_into_place(source: Path, target: Path, *, replace: bool) -> None:
    """Copy a file to `target`, in one step. A copy-on-write clone where the file system can.

    Args:
        replace: whether a file that is at `target` goes. Without it, only one with the same bytes is no error.

    Raises FileExists, NotAFile (something else than a file is there), FileMissing (no such folder), NoPermission,
    DiskFull; what was at `target` stays then.
    """
    if _is_there(source, target, replace):
        return
    # Beside the target, so that the rename stays within one file system; hidden, and named so that it is no surprise.
    temporary = _beside(target)
    with explained("writing", target):
        try:
            _copy(source, temporary)
            if replace:
                os.replace(temporary, target)
            else:
                _name(temporary, target)
        except FileExistsError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            # Whoever was faster may have brought the same.
            if not _is_there(source, target, replace):
                raise _in_the_way(target) from None
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _is_there(source: Path, target: Path, replace: bool) -> bool:
    """Whether nothing is left to do. Raises where something is in the way."""
    try:
        status = os.lstat(target)
    except OSError:  # nothing, or what writing it will explain
        return False
    if stat.S_ISLNK(status.st_mode):
        if not replace:
            raise _in_the_way(target)
    elif not stat.S_ISREG(status.st_mode):
        raise NotAFile(f"{target} is not a regular file, so it is not replaced. Choose another destination.")
    elif not replace:
        with explained("reading", source), open(source, "rb") as file:
            if not same_bytes(file.fileno(), target):
                raise _in_the_way(target)
        return True
    return False


def _in_the_way(target: Path) -> FileExists:
    return FileExists(
        f"{target} exists already and is something else. It is replaced only when you name it yourself, whole, and say "
        f"so: --dest {target} --force (in Python dest={str(target)!r}). Or choose another destination."
    )


def _name(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless something has that name: FileExistsError, also in a race."""
    if os.name == "nt":
        os.rename(temporary, target)
        return
    try:
        os.link(temporary, target, follow_symlinks=False)
    except OSError as why:
        if why.errno not in _NO_LINKS:
            raise
        # The empty file is ours alone from the moment that it is there.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        os.replace(temporary, target)
    else:
        os.unlink(temporary)


def check_tree_destination(dest: Path) -> None:
    """Raise FileExists where something is at `dest` already, FileMissing where its parent is not there."""
    with explained("looking into", dest):
        if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and not any(dest.iterdir()))):
            raise _folder_in_the_way(dest)
    if not dest.parent.is_dir():
        raise FileMissing(f"There is no folder {dest.parent} to make {dest.name} in.")


def _folder_in_the_way(dest: Path) -> FileExists:
    return FileExists(f"{dest} exists already. Choose a destination that does not exist, or an empty folder.")


def place_directory(repo: Repo, root: CID, dest: Path) -> None:
    """Make the tree of a directory that is wholly here, as a folder `dest` (absolute; missing or empty).

    Raises NotHere when a part of it is missing, NotADirectory, InvalidName for names and links that would leave `dest`,
    NoPermission, DiskFull; nothing is at `dest` then.
    """
    tree = _read_tree(repo, root)
    check_tree_destination(dest)
    building = _beside(dest)
    with explained("making", dest):
        try:
            building.mkdir()
            _fill(building, tree)
            _name_folder(building, dest)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def _fill(building: Path, tree: _Tree) -> None:
    where = PurePosixPath()
    try:
        for where in tree.folders:
            (building / where).mkdir()
        for where, source in tree.files:
            _copy(source, building / where)
        for where, target in tree.links:
            os.symlink(target, building / where)
    except FileExistsError:
        # A directory has each name once, but a file system may take two for one (capitals, or ways to write an accent).
        raise InvalidName(
            f"{str(where)!r} is in the directory twice for this file system, which does not tell the two names apart, "
            "so the directory is not made. Load the files that you need one by one."
        ) from None


def _name_folder(building: Path, dest: Path) -> None:
    """Give a finished folder its name. An empty folder may be there, and nothing else, also in a race."""
    try:
        if os.name == "nt" and dest.is_dir():
            dest.rmdir()
        os.rename(building, dest)  # replaces an empty folder, where it is not Windows
    except OSError as why:
        if why.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _folder_in_the_way(dest) from why
        raise


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


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}.part")
