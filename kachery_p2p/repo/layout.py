"""Where things are in the data directory."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import NoPermission, NotADirectory, RepoError, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import CATALOG_NAME
from kachery_p2p.repo.limits import MAX_NAME


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its folders, in any order; none where there is no such folder."""
    for below, _, names in os.walk(folder):
        for name in names:
            yield Path(below, name)


class Layout:
    """The folders of one data directory. `directory` is absolute."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))
        self.ipfs = self.directory / "ipfs"
        self._ipfs = str(self.ipfs)
        self._prefix = len(str(self.directory)) + 1
        self.partial = self.directory / "partial"
        self.temporary = self.directory / "tmp"
        self.damaged = self.directory / "damaged"
        self.nodes = self.directory / "nodes"
        self.links = self.directory / "links"
        self.packs = self.directory / "packs"
        self.names = self.directory / "names"
        self.catalog = self.directory / CATALOG_NAME
        #: Nothing is written in it.
        self.read_only = False

    def only_read(self) -> bool:
        """Whether the directory is there, and may not be written to.

        It is another user's, or on a disk that is mounted read-only. Then temporary files go elsewhere.

        Raises:
            NoPermission: it may not even be read.
        """
        if not self.directory.is_dir():
            return False
        if private.can_write(self.directory) and (
            not os.path.lexists(self.catalog) or os.access(self.catalog, os.R_OK | os.W_OK)
        ):
            return False
        if not os.access(self.directory, os.X_OK):
            raise NoPermission(
                f"The data directory {self.directory} may not be read by this user. Name another one in "
                "KACHERY_CLOUD_DIR, or ask its owner for the right to use it."
            )
        self._read_alone()
        return True

    def read_alone(self) -> None:
        """Write nothing in it, whether that is allowed or not; temporary files go elsewhere.

        Raises:
            NoPermission: it may not be read.
            RepoError: it is no data directory.
        """
        if not os.access(self.directory, os.X_OK):
            raise NoPermission(f"{self.directory} may not be read by this user. Ask its owner for the right to.")
        if not os.path.lexists(self.catalog) and not self.ipfs.is_dir():
            raise RepoError(f"There is no data directory in {self.directory}. Perhaps nothing is mounted there.")
        self._read_alone()

    def _read_alone(self) -> None:
        self.temporary = Path(tempfile.gettempdir())
        self.read_only = True

    def make(self) -> None:
        """Make the folders that are not there.

        Raises:
            NoPermission, DiskFull, NotADirectory: they cannot be made.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectory(f"{self.directory} is a file, and a data directory is meant. Name another path.")
        target = None if self.directory.exists() else moving_to(self.directory)
        if target is not None:
            raise RepoError(
                f"The data directory {self.directory} was being moved to {target}, and that was interrupted. Nothing "
                f"is lost. Finish it with: kachery-cloud move {target}"
            )
        with explained("making the data directory", self.directory):
            private.make_directory(self.directory)
            for folder in (self.ipfs, self.nodes, self.links, self.partial, self.temporary, self.damaged):
                if folder.is_dir():
                    private.open_tree_to_group(folder)
                else:
                    with suppress(FileExistsError):
                        private.make_folder(folder)
            for folder in (self.packs, self.names):
                if folder.is_dir():  # else it is made with the first pack or name: a full disk has no room for it
                    private.open_tree_to_group(folder)

    def holds_data(self) -> bool:
        """Whether anything was ever stored, loaded or linked here, as the files tell, whatever the catalog says."""
        for folder in (self.ipfs, self.packs, self.nodes, self.links):
            for _, _, names in os.walk(folder):
                if names:
                    return True
        return False

    def refuse_own_database(self, path: Path | str) -> None:
        """Refuse to read a database of the directory itself.

        Not even that is harmless: the system drops a process's locks on a file when that process closes it.

        Raises:
            RepoError: it is one.
        """
        try:
            status = os.stat(path)
        except OSError:
            return  # storing it says better what is wrong with it
        for own in self.directory.glob("*.sqlite*"):
            if os.path.samestat(status, own.stat()):
                raise RepoError(
                    f"{path} is a database of the data directory {self.directory} itself. Store a copy of it."
                )

    def path_for(self, cid: CID) -> Path:
        """`ipfs/ab/cd/ef/<cid>`, where abcdef are the last six characters of the CID."""
        name = self.name_for(cid)
        # One join of text: this is in the way of every small file, and pathlib takes ten times as long.
        return Path(os.path.join(self._ipfs, name[-6:-4], name[-4:-2], name[-2:], name))

    def may_hold(self, cids: Iterable[CID]) -> set[CID]:
        """Those of some files for which the folder is there in which they would be. The others are not here.

        Of thousands of files that are not here, this is asked in a fraction of the time that writing out their names
        takes.
        """
        try:
            upper = set(os.listdir(self._ipfs))
        except OSError:  # there is none, or it cannot be looked into
            return set()
        return {cid for cid in cids if self._may_hold(cid, upper)}

    def _may_hold(self, cid: CID, upper: set[str]) -> bool:
        """The same of one; `upper` are the folders that are there of the first level."""
        if cid.version == 0:
            return os.path.exists(self.path_for(cid))
        # Five bytes are eight characters of base32, so what the last bytes are written as tells how the name ends.
        key = bytes(cid)
        tail = key[max((len(key) - 1) // 5 * 5 - 5, 0) :]
        ending = base64.b32encode(tail).decode("ascii").rstrip("=").lower()
        if ending[-6:-4] not in upper:
            return False
        return os.path.exists(f"{self._ipfs}{os.sep}{ending[-6:-4]}{os.sep}{ending[-4:-2]}{os.sep}{ending[-2:]}")

    def partial_for(self, cid: CID) -> Path:
        """Where a file is while it is being loaded."""
        return self.partial / self.name_for(cid)

    def relative(self, path: Path) -> bytes:
        """A path that begins with `directory`, as the catalog keeps it: without it."""
        return os.fsencode(str(path)[self._prefix :])

    def name_for(self, cid: CID) -> str:
        """The CID as a file name.

        Raises:
            UnsupportedCID: it is an identity CID that is too long for one.
        """
        name = str(cid)
        if len(name) > MAX_NAME:
            raise UnsupportedCID(f"The CID {name[:40]}... is too long to be a file name.")
        return name


def beside(directory: Path, ending: str) -> Path:
    """A name beside a directory, for what is about it as a whole."""
    return directory.with_name(directory.name + ending)


def moving_to(directory: Path) -> Path | None:
    """Where a data directory was being moved to when that was interrupted (see moving.py)."""
    return _moving(directory, "to")


def moving_from(directory: Path) -> Path | None:
    """Where it lay before."""
    return _moving(directory, "from")


def _moving(directory: Path, name: str) -> Path | None:
    try:
        return Path(json.loads(beside(directory, ".moving").read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_folders(path: Path | str) -> None:
    """Make a folder and those above it; cheap when they are there."""
    try:
        private.make_folder(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folders(os.path.dirname(path))
        with suppress(FileExistsError):
            private.make_folder(path)
