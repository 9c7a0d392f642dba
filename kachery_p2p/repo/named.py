"""Paths that end in a name: `names/<yz>/<cid>/<name>`, more names of a file that is under `ipfs/`, or linked.

Programs tell what a file is by how its name ends (`v.nii.gz`), and a copy is called by its CID. Its further names are
hard links. They cost no bytes, and a program that asks where a path really leads, as tifffile does, still sees the
name; after a symbolic link it would see the CID. Where there can be no hard link (the file is a linked one, which is
not to be touched; the file system has none; the file belongs to another user) it is a symbolic link.

A name is given in one step, by the system: a crash leaves it, or not. It is never synced: what is lost is made again
when it is asked for.

Names live as long as the copy: whatever removes or sets aside a copy takes its names away, and so does whoever finds
that a copy was removed by hand, so that no bytes are kept by a name alone.

Of a directory that may only be read, names are symbolic links in a folder of this user's among the temporary ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.layout import Layout, make_folders
from kachery_p2p.repo.limits import NAME_TRIES
from kachery_p2p.repo.small import folder_of_user

log = logging.getLogger("kachery_p2p.repo")


class Named:
    """The further names of the files of one data directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def give(self, cid: CID, path: Path, name: str) -> Path:
        """A path of the file at `path` that ends in `name`; `path` itself where none can be made.

        Args:
            cid: of the file.
            path: where it is: our own copy, or a linked file.
            name: one that may stand in a folder.
        """
        if path.name == name:
            return path
        try:
            target = self._folder(cid) / name
            for _ in range(NAME_TRIES):
                if self._is_there(target, path):
                    return target
                self._make(target, path)
        except OSError as error:
            # The file is here all the same, and a full disk is no reason not to give it.
            log.info("no name %r for %s: %s", name, path, error)
        return path

    def forget(self, cid: CID) -> None:
        """Take all names of a root away.

        Raises:
            OSError: one cannot be removed.
        """
        for path in self.of(cid):
            with suppress(FileNotFoundError):
                os.unlink(path)
        with suppress(OSError):  # somebody gives one just now
            os.rmdir(self._folder(cid))

    def of(self, cid: CID) -> list[Path]:
        """All names of a root."""
        folder = self._folder(cid)
        try:
            return [folder / name for name in os.listdir(folder)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sweep(self) -> int:
        """Take the names away whose copy is gone. Returns how many."""
        swept = 0
        for part in _folders_in(self._layout.names):
            for folder in _folders_in(part):
                entries = list(os.scandir(folder))
                for entry in _without_copy(entries):
                    with suppress(FileNotFoundError):
                        os.unlink(entry.path)
                        swept += 1
                with suppress(OSError):  # others are in it, or somebody gives a name just now
                    os.rmdir(folder)
        return swept

    def _folder(self, cid: CID) -> Path:
        name = self._layout.name_for(cid.to_v1())  # both forms are one root
        top = Path(folder_of_user()) / "names" if self._layout.read_only else self._layout.names
        return top / name[-2:] / name

    def _is_own(self, path: Path) -> bool:
        return path.is_relative_to(self._layout.ipfs)

    def _is_there(self, target: Path, path: Path) -> bool:
        try:
            found = os.readlink(target)
        except FileNotFoundError:
            return False
        except OSError:  # it is no symbolic link
            return _same(target, path)
        return found == self._symbolic(target, path)

    def _symbolic(self, target: Path, path: Path) -> str:
        """What a symbolic link says: relative within the data directory, which may be moved."""
        inside = self._is_own(path) and not self._layout.read_only
        return os.path.relpath(path, target.parent) if inside else str(path)

    def _make(self, target: Path, path: Path) -> None:
        if self._layout.read_only:
            for folder in reversed(target.parents[:3]):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
        else:
            make_folders(target.parent)
        with suppress(FileNotFoundError):
            os.unlink(target)  # the name of a copy that was replaced
        try:
            if not (self._is_own(path) and not self._layout.read_only and _link(path, target)):
                os.symlink(self._symbolic(target, path), target)
        except FileExistsError:
            pass  # another process was faster
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            # Whoever forgot the names of this file just now removed the folder.


def _link(path: Path, target: Path) -> bool:
    """Make a hard link; false where there can be none.

    Raises:
        FileExistsError, FileNotFoundError: something is at `target`, or nothing is at `path`.
    """
    try:
        os.link(path, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        return False
    return True


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _without_copy(entries: Sequence[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Those names in one folder that lead nowhere, or keep bytes which have no other name."""
    inodes: dict[tuple[int, int], list[os.DirEntry[str]]] = {}
    links: dict[tuple[int, int], int] = {}
    for entry in entries:
        if entry.is_symlink():
            if not os.path.exists(entry.path):
                yield entry
            continue
        with suppress(FileNotFoundError):
            status = os.lstat(entry.path)
            inodes.setdefault((status.st_dev, status.st_ino), []).append(entry)
            links[status.st_dev, status.st_ino] = status.st_nlink
    for inode, names in inodes.items():
        if links[inode] <= len(names):
            yield from names


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False
