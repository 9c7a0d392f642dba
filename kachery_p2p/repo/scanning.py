"""What is in a folder that is to be stored, and whether it can be stored at all: looked at before anything is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.limits import MAX_TREE_DEPTH, MAX_TREE_ENTRIES
from kachery_p2p.dag.names import leads_out, safe_name
from kachery_p2p.errors import FileMissing, InvalidName, NotADirectory, NotAFile, RepoError
from kachery_p2p.oserrors import explain, explained
from kachery_p2p.repo.fileio import Stamp, describe
from kachery_p2p.repo.ignoring import IGNORE_NAME, Ignoring


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is stored.

    Attributes:
        link: serve its files from where they lie; else copy them.
        follow: store what symbolic links point to; else keep those that stay in the folder, and refuse others.
        exclude: patterns of what is left out, as in `.gitignore`.
        preserve: keep permissions and times of modification.
        rehash: hash files, too, that have not changed.
        heed_ignored: leave out what files `.kacheryignore` in it name.
    """

    link: bool = False
    follow: bool = False
    exclude: tuple[str, ...] = ()
    preserve: bool = False
    rehash: bool = False
    heed_ignored: bool = True


class FoundFile(NamedTuple):
    """A file: its name, its stamp and mode, and its real path where a link led to it."""

    name: str
    stamp: Stamp
    mode: int
    real: str = ""


class FoundLink(NamedTuple):
    """A symbolic link that is kept, and when it was made, in nanoseconds since 1970."""

    name: str
    target: str
    mtime_ns: int


@dataclass
class Folder:
    """A folder, by its path and its real path, and what is directly in it."""

    path: str
    real: str
    status: os.stat_result
    files: list[FoundFile] = field(default_factory=list)
    folders: list[tuple[str, Folder]] = field(default_factory=list)
    links: list[FoundLink] = field(default_factory=list)


class Scan:
    """Looks at all that is in and below a folder.

    Args:
        own: the data directory, which cannot be stored in itself.
        options: how the folder is to be stored.
    """

    def __init__(self, own: os.stat_result, options: FolderOptions) -> None:
        self._own = (own.st_dev, own.st_ino)
        self._follow = options.follow
        self._exclude = options.exclude
        self._heed_ignored = options.heed_ignored
        self._entries = 0
        #: Bytes of all files.
        self.total = 0

    def run(self, path: Path) -> Folder:
        """Look at the folder.

        Raises:
            FileMissing, NotADirectory: there is no such folder.
            NotAFile: there are sockets or devices in it.
            InvalidName: a name in it cannot be stored, or a symbolic link leads out of it, nowhere or in a circle.
            RepoError: it holds the data directory, or more than a directory may hold.
        """
        with explained("reading", path):
            top = os.path.abspath(path)
            if not os.path.lexists(top):
                raise FileMissing(f"There is no folder {path}.")
            if not os.path.isdir(top):
                raise NotADirectory(f"{path} is a file; store it as one.")
            folder = Folder(top, os.path.realpath(top), os.stat(top))
        self._fill(folder, "", Ignoring(self._exclude), {_identity(folder.status): top})
        return folder

    def _fill(self, folder: Folder, relative: str, ignoring: Ignoring, above: dict[tuple[int, int], str]) -> None:
        """Look at one folder with all below it; `above` are those that it lies in, and itself."""
        if len(above) > MAX_TREE_DEPTH:
            raise RepoError(
                f"{folder.path} lies more than {MAX_TREE_DEPTH} folders deep, which is too deep to be shared."
            )
        with explained("reading the folder", folder.path), os.scandir(folder.path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        self._entries += len(entries)
        if self._entries > MAX_TREE_ENTRIES:
            raise RepoError(
                f"There is more in the folder than the {MAX_TREE_ENTRIES:,} entries that a directory may have in all. "
                "Store the folders in it one by one."
            )
        if self._heed_ignored and any(
            entry.name == IGNORE_NAME and entry.is_file(follow_symlinks=False) for entry in entries
        ):
            ignoring = ignoring.below(folder.path, relative)
        for entry in entries:
            name = entry.name
            with explained("reading", entry.path):
                status = entry.stat(follow_symlinks=False)
            real = ""
            if stat.S_ISLNK(status.st_mode):
                if ignoring.leaves_out(relative + name, is_folder=False):
                    continue
                if not self._follow:
                    _check_name(name, folder.path)
                    folder.links.append(_kept_link(entry, status, relative))
                    continue
                with _following(entry.path):
                    status = os.stat(entry.path)
                    real = os.path.realpath(entry.path)
            mode = status.st_mode
            if ignoring.leaves_out(relative + name, is_folder=stat.S_ISDIR(mode)):
                continue
            _check_name(name, folder.path)
            if stat.S_ISREG(mode):
                stamp = Stamp.of(status)
                folder.files.append(FoundFile(name, stamp, mode, real))
                self.total += stamp.size
            elif stat.S_ISDIR(mode):
                which = _identity(status)
                if which == self._own:
                    raise RepoError(
                        f"{folder.path} contains {entry.path}, the data directory itself, which cannot be stored in "
                        "itself. Store the folders beside it one by one, or leave it out (--exclude, exclude=)."
                    )
                if which in above:
                    raise InvalidName(
                        f"The symbolic link {entry.path} leads back to {above[which]}, which it lies in, so following "
                        "it has no end. Leave it out (--exclude, exclude=), or store the folder without following "
                        "links."
                    )
                below = Folder(entry.path, real or os.path.join(folder.real, name), status)
                self._fill(below, f"{relative}{name}/", ignoring, {**above, which: entry.path})
                folder.folders.append((name, below))
            else:
                raise NotAFile(
                    f"{entry.path} is {describe(mode)}, which cannot be stored. Leave it out (--exclude, exclude=), or "
                    "move it out of the folder first."
                )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _kept_link(entry: os.DirEntry[str], status: os.stat_result, relative: str) -> FoundLink:
    """A symbolic link as it is.

    Raises:
        InvalidName: it may lead out of the folder.
    """
    with explained("reading", entry.path):
        target = os.readlink(entry.path)
    if leads_out(target, relative.count("/")):
        raise InvalidName(
            f"The symbolic link {entry.path} points to {target!r}, which may lead out of the folder that is "
            "stored, to where whoever loads it has something else. Store what links point to with --follow "
            "(follow=True), leave it out with --exclude (exclude=), or make it a relative link to something in the "
            "folder."
        )
    return FoundLink(entry.name, target, status.st_mtime_ns)


@contextmanager
def _following(path: str) -> Iterator[None]:
    """Where a symbolic link is followed: what it leads to may not be there.

    Raises:
        InvalidName: it is not.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise explain(error, "following", path) from error
        where = "which leads back to the link" if error.errno == errno.ELOOP else "where nothing is"
        raise InvalidName(
            f"The symbolic link {path} points to {os.readlink(path)!r}, {where}. Leave it out (--exclude, exclude=), "
            "or store the folder without following links."
        ) from None


def _check_name(name: str, folder: str) -> None:
    """Refuse a name that could not be made where the directory is loaded.

    Raises:
        InvalidName: it is one; names the folder.
    """
    try:
        safe_name(name, windows=False)
    except InvalidName as error:
        raise InvalidName(f"{error} It is in the folder {folder}: rename it there.") from None
