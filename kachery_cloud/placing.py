"""Copies for the user, outside of the data directory: a file, or a whole tree. They appear when they are whole.

Where the user wrote the whole name of a copy, it may replace a file. Where the name came with the URI (its label, or
the end of its path), it never does, and the name must be a plain one (`kachery_p2p.dag.names.outside_name`). Whatever
is at the destination is never written to or followed: a name is given to a finished copy, in one step.

Names and links in a directory come from strangers, too. They go into a folder that is made anew, so that nothing can be
replaced, and hidden files such as `.zattrs` are as they were stored. Each name must be one that can stand in a folder,
links are made only where they point to what is in the directory, and they are made last, so that nothing is ever
written through one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kachery_cloud.errors import DiskFull, FileExists, FileMissing, InvalidName, NotAFile
from kachery_cloud.local import BlockNotLocal, is_local_directory, list_local, local_blocks
from kachery_cloud.parts import part_beside
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, clone_file, write_at
from kachery_p2p.repo.placing import same_bytes

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.unixfs import Attributes
    from kachery_p2p.repo.packs import PackedFile
    from kachery_p2p.repo.repo import Repo

#: What permissions of others are given to a file: no setuid, and none that lets others write to it.
_SAFE_MODE = 0o755
#: What file systems without hard links say when they are asked for one.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def copy_into_place(source: Path, target: Path, *, replace: bool) -> None:
    """Copy a file to `target`, in one step. A copy-on-write clone where the file system can.

    Args:
        source: the file to copy.
        target: the whole name of the copy.
        replace: whether a file that is at `target` goes. Without it, only one with the same bytes is no error.

    Raises:
        FileExists: something is there that is not to be replaced.
        NotAFile: something else than a file is there.
        FileMissing: there is no such folder.
        NoPermission, DiskFull: it cannot be written.

    After an error, what was at `target` is still there.
    """
    if not _is_there(source, target, replace):
        make_in_place(target, lambda part: _copy(source, part), replace=replace)


def make_in_place(target: Path, make: Callable[[Path], object], *, replace: bool) -> None:
    """The same of what `make` writes to the path that it is given."""
    with part_beside(target) as part, explained("writing", target):
        make(part)
        if _is_there(part, target, replace):
            return
        if replace:
            os.replace(part, target)
            return
        try:
            name_new(part, target)
        except FileExistsError:
            # Another process was faster, and may have brought the same.
            if not _is_there(part, target, replace):
                raise _in_the_way(target) from None


def _is_there(source: Path, target: Path, replace: bool) -> bool:
    """Whether nothing is left to do.

    Raises:
        FileExists, NotAFile: something is in the way.
    """
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


def no_folder(folder: Path) -> FileMissing:
    """The error where a copy is to go into a folder that is not there."""
    return FileMissing(f"There is no folder {folder} to put it into. Make it first, or name another one.")


def name_new(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless something has that name: FileExistsError, also in a race."""
    if os.name == "nt":
        os.rename(temporary, target)
        return
    try:
        os.link(temporary, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The empty file is ours alone from the moment that it is there.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        os.replace(temporary, target)


def check_tree_destination(dest: Path) -> bool:
    """Look at a place where a tree is to be.

    Returns:
        Whether a folder with something in it is there, which the tree is to be brought into.

    Raises:
        FileExists: something else is there already.
        FileMissing: there is no folder to make it in.
    """
    with explained("looking into", dest):
        if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
            raise _folder_in_the_way(dest)
        if dest.is_dir() and any(dest.iterdir()):
            if os.name == "nt":
                raise _folder_in_the_way(dest)
            return True
    if not dest.parent.is_dir():
        raise FileMissing(f"There is no folder {dest.parent} to make {dest.name} in. Make it first.")
    return False


def _folder_in_the_way(dest: Path) -> FileExists:
    return FileExists(
        f"{dest} exists already, and is no folder. Choose a destination that does not exist, or a folder."
    )


class Decoding(Protocol):
    """What is made of the files of a directory on their way into a folder."""

    def data(self, data: bytes, name: str) -> bytes:
        """The bytes of a small one."""
        ...

    def copy(self, source: Path, fd: int, name: str) -> int:
        """Write the bytes of a larger one to an open file, and say how many bytes the source has."""
        ...

    def is_same(self, fd: int, source: Path, name: str) -> bool:
        """Whether an open file has the bytes of it."""
        ...


def place_directory(repo: Repo, root: CID, dest: Path, decoding: Decoding | None = None) -> Tree:
    """Make the tree of a directory that is wholly here, as a folder `dest` (absolute; missing or empty).

    Args:
        repo: that has the directory.
        root: of it.
        dest: the folder.
        decoding: what is made of its files; they are copied as they are where it is None.

    Returns:
        What was made, and what was not.

    Raises:
        BlockNotLocal: a part of it is missing.
        NotADirectory: it is a file.
        InvalidName: a name in it would leave `dest`.
        NoPermission, DiskFull: it cannot be written.

    After an error nothing is at `dest`.
    """
    tree = read_tree(repo, root)
    if check_tree_destination(dest):
        raise _folder_in_the_way(dest)
    with part_beside(dest) as building, explained("making", dest):
        building.mkdir()
        _fill(repo, building, tree, decoding)
        _name_folder(building, dest)
    return tree


def _fill(repo: Repo, building: Path, tree: Tree, decoding: Decoding | None) -> None:
    # Text, not paths: joining two of those takes longer than writing a small file.
    where, top = "", os.path.join(building, "")
    try:
        for where in tree.folders:
            os.mkdir(top + where)
        left = tree.size
        for where, source in tree.files:
            data = None if isinstance(source, Path) else source.read()
            if data is not None:
                _write(data if decoding is None else decoding.data(data, where), top + where)
                left -= len(data)
                continue
            path = source if isinstance(source, Path) else _unpacked(repo, source.cid)
            if decoding is None:
                left -= _copy(path, building / where, left)
            else:
                with open(top + where, "xb") as file:
                    left -= decoding.copy(path, file.fileno(), where)
        for where, target in tree.links:
            os.symlink(target, top + where)
        skipped = {where for where, _ in tree.skipped}
        # What lies deepest first: it changes the times of what is above.
        for path in sorted(tree.attributes, key=lambda path: path.count("/") if path else -1, reverse=True):
            if path not in skipped and os.name == "posix":
                restore(building / path, tree.attributes[path])
    except FileExistsError:
        # A directory has each name once, but a file system may take two for one (capitals, or ways to write an accent).
        raise InvalidName(
            f"{where!r} is in the directory twice for this file system, which does not tell the two names apart, "
            "so the directory is not made. Load the files that you need one by one."
        ) from None


def _name_folder(building: Path, dest: Path) -> None:
    """Give a finished folder its name. An empty folder may be there, and nothing else, also in a race."""
    try:
        if os.name == "nt" and dest.is_dir():
            dest.rmdir()
        os.rename(building, dest)  # replaces an empty folder, where it is not Windows
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _folder_in_the_way(dest) from error
        raise


@dataclass
class Tree:
    """What is in a directory, by path relative to it; folders before what is in them."""

    folders: list[str] = field(default_factory=list)
    files: list[tuple[str, Path | PackedFile]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    #: Links that may lead out of it. They are not made.
    skipped: list[tuple[str, str]] = field(default_factory=list)
    #: What folders (the top one as ""), files and links say of themselves beside their content, where they do.
    attributes: dict[str, Attributes] = field(default_factory=dict)
    #: Bytes of all files, each as often as it is there.
    size: int = 0


def read_tree(repo: Repo, root: CID) -> Tree:
    """What is in a directory that is wholly here.

    Raises:
        BlockNotLocal: a part of it is missing.
        NotADirectory: it is a file.
        InvalidName: a name in it can be no file, or there is more in it than any disk holds.
    """
    from kachery_p2p.dag.names import safe_name
    from kachery_p2p.dag.tree import TreeWalk

    # Each folder is read once. A tree that no disk could hold is refused before anything is made.
    folders: dict[CID, list[tuple[str, CID]]] = {}
    things: dict[CID, _Thing] = {}
    walk = TreeWalk(root)
    while level := walk.take():
        for folder in level:
            entries = list_local(repo, folder)
            folders[folder] = [(safe_name(entry.name), entry.cid) for entry in entries]
            new = [cid for cid, _ in walk.add(folder, [(entry.cid, 0) for entry in entries])]
            packed = repo.many.packed(new)
            for cid in new:
                file = packed.get(cid)
                if file is not None:  # it says nothing of itself
                    things[cid] = _Thing(file, file.size)
                    continue
                thing = things[cid] = _look_at(repo, cid)
                thing.attributes = _attributes(repo, cid)
                if thing.is_folder:
                    walk.enter(cid)
    shape = walk.shape(lambda cid, _: things[cid].size)  # nothing is made of what nobody could hold

    tree = Tree(size=shape.size)
    top = _attributes(repo, root)
    if top is not None:
        tree.attributes[""] = top
    paths = [("", root)]
    while paths:
        below: list[tuple[str, CID]] = []
        for path, folder in paths:
            for name, cid in folders[folder]:
                where, thing = path + name, things[cid]
                if thing.attributes is not None:
                    tree.attributes[where] = thing.attributes
                if thing.source is not None:
                    tree.files.append((where, thing.source))
                elif thing.target is not None:
                    leaves = _leads_out(where, thing.target)
                    (tree.skipped if leaves else tree.links).append((where, thing.target))
                else:
                    below.append((where, cid))
        tree.folders += [path for path, _ in below]
        paths = [(f"{path}/", folder) for path, folder in below]
    return tree


@dataclass
class _Thing:
    """An entry: a file at `source` with its size in bytes, a link to `target`, or else a folder.

    A small file may have no path of its own, and lie in a pack.
    """

    source: Path | PackedFile | None = None
    size: int = 0
    target: str | None = None
    attributes: Attributes | None = None

    @property
    def is_folder(self) -> bool:
        return self.source is None and self.target is None


def _look_at(repo: Repo, cid: CID) -> _Thing:
    """What an entry is that does not lie in a pack.

    Raises:
        BlockNotLocal: that is not known here.
    """
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.nodes import node_kind, symlink_target
    from kachery_p2p.dag.unixfs import DataType

    source = repo.find_file(cid)
    if source is not None:
        return _Thing(source, source.stat().st_size)
    if is_local_directory(repo, cid):
        return _Thing()
    if cid.codec == DAG_PB:
        (block,) = local_blocks(repo, [cid])
        if node_kind(block, cid) is DataType.SYMLINK:
            return _Thing(target=symlink_target(block, cid))
    raise BlockNotLocal(cid)


def _unpacked(repo: Repo, cid: CID) -> Path:
    """A path of a file of which the bytes in its pack went bad.

    Raises:
        BlockNotLocal: it has none.
    """
    path = repo.find_file(cid)
    if path is None:
        raise BlockNotLocal(cid)
    return path


def _attributes(repo: Repo, cid: CID) -> Attributes | None:
    """What an entry says of itself beside its content."""
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.nodes import read_node
    from kachery_p2p.dag.unixfs import Attributes

    if cid.codec != DAG_PB:
        return None
    block = repo.get_node(cid.multihash)
    return None if block is None else Attributes.of(read_node(cid, block)[1])


def restore(name: str | Path, attributes: Attributes, *, dir_fd: int | None = None) -> None:
    """Give a file, folder or link the permissions and the time that it had, as far as they do no harm.

    Programs that run as somebody else (setuid), and files that others may write to, are for the user to make. Nothing
    is done through a symbolic link.

    Args:
        name: of it; relative to the folder `dir_fd`, where that is given.
        attributes: what it had.
        dir_fd: an open folder.
    """
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    time = attributes.mtime_ns if attributes.mtime_ns != status.st_mtime_ns else None
    mode = None if attributes.mode is None else attributes.mode & _SAFE_MODE
    if stat.S_ISDIR(status.st_mode) and mode is not None:
        mode |= stat.S_IRWXU  # else nothing in it could be brought up to date
    if stat.S_ISLNK(status.st_mode) or mode == stat.S_IMODE(status.st_mode):
        mode = None
    if mode is not None:
        fd = os.open(name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | CLOEXEC, dir_fd=dir_fd)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    if time is not None:
        try:
            os.utime(name, ns=(status.st_atime_ns, time), dir_fd=dir_fd, follow_symlinks=False)
        except (OSError, OverflowError):
            pass  # a time that this file system does not have


def _leads_out(where: str, target: str) -> bool:
    """Whether a symbolic link may lead out of the directory here."""
    from kachery_p2p.dag.names import leads_out

    elsewhere = os.name == "nt" and ("\\" in target or ":" in target)
    return elsewhere or leads_out(target, where.count("/"))


def _write(data: bytes, target: str) -> None:
    """Make a file of some bytes."""
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | CLOEXEC | BINARY, 0o666)
    try:
        write_at(fd, data, 0)
    finally:
        os.close(fd)


def _copy(source: Path, target: Path, left: int = 0) -> int:
    """Copy a file and return its size. `left` is how many bytes are to be copied from now on, this file among them.

    Raises:
        DiskFull: there is no room for them. Nothing is written then.
    """
    with open(target, "xb") as dst:
        return copy(source, dst.fileno(), target.parent, left)


def copy(source: Path, fd: int, folder: Path, left: int = 0) -> int:
    """The same into an open file, in the file system of a folder."""
    with open(source, "rb") as src:
        size = os.fstat(src.fileno()).st_size
        if clone_file(src.fileno(), fd):  # which takes no room
            return size
        import shutil  # which brings in every compression there is

        from kachery_p2p.repo.storing import free_bytes

        room = free_bytes(folder)
        if room is not None and room < max(left, size):
            raise DiskFull(
                f"The copy needs {max(left, size):,} bytes more, and the disk of {folder} has {room:,} left."
            )
        with open(fd, "wb", closefd=False) as dst:
            shutil.copyfileobj(src, dst, 1 << 20)
    return size
