"""A directory brought into a folder that is there: only what differs is written.

Each file is replaced whole: it is finished in a part (parts.py) within the folder, and renamed. Whatever ends this in
the middle, each file is the old or the new one. What is in the folder and not in the directory stays, unless it is to
be deleted; then it is moved into the part, too, which goes at the end.

Nothing is written, read or deleted through a symbolic link, and nothing outside of the folder: each folder is opened by
its name in the one above, and what is in it is named relative to that.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.errors import FileExists, InvalidName
from kachery_cloud.local import BlockNotLocal
from kachery_cloud.parts import is_part, part_beside, remove_left_overs
from kachery_cloud.placing import Decoding, Tree, copy, read_tree, restore
from kachery_p2p.oserrors import explain, explained
from kachery_p2p.repo.fileio import CLOEXEC, read_bytes_at, sync_fd, write_at
from kachery_p2p.repo.placing import same_bytes

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.unixfs import Attributes
    from kachery_p2p.repo.packs import PackedFile
    from kachery_p2p.repo.repo import Repo

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | CLOEXEC
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | CLOEXEC
#: Names in one error.
_NAMED = 3


@dataclass
class Changes:
    """What was done: how many files and links were written, what was deleted, and the links that were left out."""

    written: int = 0
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Folder:
    """What a folder is to have: files, symbolic links and folders, by their names."""

    files: dict[str, Path | PackedFile] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: dict[str, _Folder] = field(default_factory=dict)


def sync_directory(
    repo: Repo, root: CID, dest: Path, *, overwrite: bool, delete: bool, decoding: Decoding | None = None
) -> Changes:
    """Bring a directory that is wholly here into the folder `dest`, which is there.

    Args:
        repo: that has the directory.
        root: of it.
        dest: the folder (absolute).
        overwrite: whether files that differ are replaced. If not, nothing is written where there is one.
        delete: whether what is not in the directory is deleted.
        decoding: what is made of its files; they are copied as they are where it is None.

    Raises:
        BlockNotLocal: a part of it is missing.
        FileExists: something in the folder would have to go that may not.
        InvalidName: a name in it can be no file.
        NoPermission, DiskFull: it cannot be written.
    """
    _refuse_home(dest, repo.directory)
    tree = read_tree(repo, root)
    wanted = _nested(tree)
    sync = _Sync(repo, dest, overwrite=overwrite, delete=delete, decoding=decoding)
    remove_left_overs(dest)
    with explained("bringing up to date", dest), _opened(dest) as fd:
        sync.compare(fd, "", wanted)
        sync.check()
        if sync.differs or sync.extra:
            with part_beside(dest / "sync") as new, _opened(new.parent) as part:
                sync.begin(part)
                sync.apply(fd, "", wanted)
        if tree.attributes:
            _restore(fd, "", wanted, tree.attributes)
            if "" in tree.attributes:
                restore(dest, tree.attributes[""])
    sync.changes.skipped = [(str(where), target) for where, target in tree.skipped]
    return sync.changes


def _nested(tree: Tree) -> _Folder:
    top = _Folder()
    folders = {"": top}

    def above(where: object) -> tuple[_Folder, str]:
        folder, _, name = str(where).rpartition("/")
        return folders[folder], name

    for where in tree.folders:  # those above come first
        parent, name = above(where)
        parent.folders[name] = folders[str(where)] = _Folder()
    for where, source in tree.files:
        parent, name = above(where)
        parent.files[name] = source
    for where, target in tree.links:
        parent, name = above(where)
        parent.links[name] = target
    return top


def _restore(fd: int, path: str, wanted: _Folder, attributes: Mapping[str, Attributes]) -> None:
    """Give what is in a folder, and below, the permissions and times that it had; what lies deepest first."""
    for name, below in wanted.folders.items():
        with _opened(name, fd) as inner:
            _restore(inner, f"{path}{name}/", below, attributes)
    for name in (*wanted.files, *wanted.links, *wanted.folders):
        if path + name in attributes:
            restore(name, attributes[path + name], dir_fd=fd)


class _Sync:
    """One run. First everything is compared, then what differs is written."""

    def __init__(
        self, repo: Repo, dest: Path, *, overwrite: bool, delete: bool, decoding: Decoding | None = None
    ) -> None:
        self._repo = repo
        self._decoding = decoding
        self._dest = dest
        self._overwrite = overwrite
        self._delete = delete
        self._part = -1
        self._gone = 0
        #: Paths, relative to the folder, of what is not there or is something else.
        self.differs: set[str] = set()
        #: Names of what is there and is not to be, by the path of their folder.
        self.extra: dict[str, list[str]] = {}
        #: Of what is in the way: files that would be replaced, and folders where there is to be none.
        self._replaced: list[str] = []
        self._folders: list[str] = []
        self.changes = Changes()

    # --- comparing

    def compare(self, fd: int, path: str, wanted: _Folder) -> None:
        """Find out what differs in a folder that is there, and below."""
        met: set[int] = set()
        for name, below in wanted.folders.items():
            status = self._look(fd, path, name, met)
            if status is not None and stat.S_ISDIR(status.st_mode):
                with _opened(name, fd) as inner:
                    self.compare(inner, f"{path}{name}/", below)
            else:
                self._differs(path + name, status)
        for name, source in wanted.files.items():
            status = self._look(fd, path, name, met)
            if (
                status is None
                or not stat.S_ISREG(status.st_mode)
                or not self._is_same(fd, name, path + name, source, status)
            ):
                self._differs(path + name, status)
        for name, target in wanted.links.items():
            status = self._look(fd, path, name, met)
            if status is None or not stat.S_ISLNK(status.st_mode) or os.readlink(name, dir_fd=fd) != target:
                self._differs(path + name, status)
        if self._delete:
            with os.scandir(fd) as entries:
                there = [entry.name for entry in entries]
            for name in sorted(there):
                known = name in wanted.files or name in wanted.links or name in wanted.folders
                if not known and not (path == "" and is_part(self._dest / name)):
                    self.extra.setdefault(path, []).append(name)

    def _look(self, fd: int, path: str, name: str, met: set[int]) -> os.stat_result | None:
        """What is there of a name.

        Raises:
            InvalidName: the same as of another name.
        """
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if status.st_ino in met and (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)):
            raise _same_name(path + name)
        met.add(status.st_ino)
        return status

    def _differs(self, path: str, status: os.stat_result | None) -> None:
        self.differs.add(path)
        if status is not None:
            (self._folders if stat.S_ISDIR(status.st_mode) else self._replaced).append(path)

    def _is_same(self, fd: int, name: str, path: str, source: Path | PackedFile, status: os.stat_result) -> bool:
        """Whether a file has the bytes that it is to have."""
        if isinstance(source, Path) and self._decoding is not None:
            with open(os.open(name, _FILE, dir_fd=fd), "rb") as there:
                return self._decoding.is_same(there.fileno(), source, path)
        data = None if isinstance(source, Path) else self._data(source, path)
        size = source.stat().st_size if isinstance(source, Path) else len(data or b"")
        if size != status.st_size:
            return False
        file = os.open(name, _FILE, dir_fd=fd)
        try:
            if isinstance(source, Path):
                return same_bytes(file, source)
            return read_bytes_at(file, size + 1, 0) == data
        finally:
            os.close(file)

    def _data(self, source: PackedFile, path: str) -> bytes:
        data = source.read()
        if data is None:
            raise BlockNotLocal(source.cid)
        return data if self._decoding is None else self._decoding.data(data, path)

    def check(self) -> None:
        """See whether all that is in the way may go.

        Raises:
            FileExists: something may not.
        """
        if self._folders and not self._delete:
            raise FileExists(
                f"{_some(self._folders)} in {self._dest} would have to go, because the directory has something else of "
                "that name. A whole folder is removed only with --delete (delete=True). Nothing was written."
            )
        if self._replaced and not self._overwrite:
            raise FileExists(
                f"{_some(self._replaced)} in {self._dest} would be replaced, because the directory has something else "
                "of that name. Say so with --force (overwrite=True), or choose another destination. Nothing was "
                "written."
            )

    # --- writing

    def begin(self, part: int) -> None:
        """Say where things are finished before they get their names."""
        self._part = part

    def apply(self, fd: int, path: str, wanted: _Folder, *, new: bool = False) -> None:
        """Write what differs in a folder, and below; all of it in one that is new."""
        if not new:
            self._remove_extra(fd, path)
        for name, below in wanted.folders.items():
            fresh = new or path + name in self.differs
            if fresh:
                if not new:
                    self._put_away(fd, name)
                os.mkdir(name, dir_fd=fd)
            with _opened(name, fd) as inner:
                self.apply(inner, f"{path}{name}/", below, new=fresh)
        for name, source in wanted.files.items():
            if new or path + name in self.differs:
                self._place(fd, path + name, name, source, new)
        for name, target in wanted.links.items():
            if new or path + name in self.differs:
                os.symlink(target, "new", dir_fd=self._part)
                self._rename(fd, path + name, name, new)

    def _place(self, fd: int, path: str, name: str, source: Path | PackedFile, new: bool) -> None:
        try:
            old = None if new else os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        made = os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR | CLOEXEC, 0o666, dir_fd=self._part)
        try:
            if not isinstance(source, Path):
                write_at(made, self._data(source, path), 0)
            elif self._decoding is None:
                copy(source, made, self._dest)
            else:
                self._decoding.copy(source, made, path)
            if old is not None and stat.S_ISREG(old.st_mode):
                # As with every program that writes to a file: who may use it does not change.
                os.fchmod(made, old.st_mode & 0o777)
                sync_fd(made)  # before the old one goes
        finally:
            os.close(made)
        self._rename(fd, path, name, new)

    def _rename(self, fd: int, path: str, name: str, new: bool) -> None:
        """Give what is finished its name. A folder that is in the way goes."""
        if new:
            # Of two names that this file system takes for one, the second would replace the first.
            try:
                os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                raise _same_name(path)
        try:
            os.rename("new", name, src_dir_fd=self._part, dst_dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST) or not self._delete:
                raise explain(error, "writing", self._dest / path) from error
            self._put_away(fd, name)
            os.rename("new", name, src_dir_fd=self._part, dst_dir_fd=fd)
        self.changes.written += 1

    def _put_away(self, fd: int, name: str) -> None:
        """Move what has a name into the part."""
        self._gone += 1
        try:
            os.rename(name, f"gone{self._gone}", src_dir_fd=fd, dst_dir_fd=self._part)
        except FileNotFoundError:
            pass  # it is what was wanted

    def _remove_extra(self, fd: int, path: str) -> None:
        for name in self.extra.get(path, ()):
            self._put_away(fd, name)
            self.changes.removed.append(path + name)


def _some(paths: list[str]) -> str:
    named = ", ".join(repr(path) for path in sorted(paths)[:_NAMED])
    return named if len(paths) <= _NAMED else f"{named} and {len(paths) - _NAMED:,} more"


def _same_name(path: str) -> InvalidName:
    return InvalidName(
        f"{path!r} is in the directory twice for this file system, which does not tell the two names apart. Load the "
        "files that you need one by one."
    )


def _refuse_home(dest: Path, data: Path) -> None:
    """Refuse a folder whose hidden files mean something to the whole machine, and the data directory itself.

    Raises:
        FileExists: it is one.
    """
    real = os.path.realpath(dest)
    home, own = os.path.realpath(os.path.expanduser("~")), os.path.realpath(data)
    if os.path.commonpath([real, own]) in (real, own):
        raise FileExists(f"{dest} is the data directory {data}, holds it or lies in it. Choose another destination.")
    if os.path.commonpath([real, home]) == real:
        raise FileExists(
            f"{dest} is your home directory, or holds it. What somebody else has put into a directory is not brought "
            "into it: a hidden file there can be a command. Name a folder in it."
        )


@contextmanager
def _opened(name: str | Path, fd: int | None = None) -> Iterator[int]:
    """A folder, by its path, or by its name in an open one."""
    opened = os.open(name, _FOLDER, dir_fd=fd)
    try:
        yield opened
    finally:
        os.close(opened)
