"""Groups on the disk: one file for each in `groups/` of the data directory, for the node's owner alone.

A file is replaced in one step and is on the disk when that returns, so a process that is killed leaves the file before
or the one after. Whoever changes one holds the lock of the folder from reading to writing, so two processes never undo
each other's changes. Files of those that did not finish begin with a dot, and go when the next change is made.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kachery_p2p import private
from kachery_p2p.errors import DamagedRepo, KacheryError, RepoBusy
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.json_shapes import OMITTED, WrongShape, from_json, to_json
from kachery_p2p.membership import limits
from kachery_p2p.membership.ids import is_group_id
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file, read_own_file
from kachery_p2p.repo.fileio import sync_folder
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.locks import LockedFile
from kachery_p2p.repo.wholefile import write_whole

log = logging.getLogger("kachery_p2p.membership")

FOLDER = "groups"
_LOCK = ".lock"
_SUFFIX = ".json"
_ADDRESSES = "addresses.json"
#: Bytes of a file: all lists in base64, and the rest.
_MAX_FILE = 2 * limits.MAX_STATE
#: Seconds that a change waits for that of another process, and between tries. A change takes some milliseconds.
_PATIENCE = 30.0
_AGAIN = 0.005

#: What tells whether the files were changed: name, time, size and number of each.
Stamps = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True)
class KeptSecret:
    """The secret of an epoch, in hexadecimal.

    Attributes:
        number: of the epoch.
        secret: 32 bytes.
        retired: when it was seen that it is not today's any more, seconds since 1970; 0 while it is.
    """

    number: int
    secret: str
    retired: float = 0.0


@dataclass(frozen=True)
class KeptInvitation:
    """An invitation that this machine has made.

    Attributes:
        token: the hash of its token.
        role: that it gives.
        expires: seconds since 1970.
        used_by: the peer ID of who used it; empty while nobody has.
    """

    token: str
    role: int
    expires: float
    used_by: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True)
class KeptGroup:
    """What is kept of a group.

    Attributes:
        lists: of its owners as they were signed, in base64.
        secrets: those that are known here.
        invitations: of this machine.
        notice: by which an owner said that this machine is no longer a member, in base64.
    """

    lists: tuple[str, ...]
    secrets: tuple[KeptSecret, ...] = ()
    invitations: tuple[KeptInvitation, ...] = ()
    notice: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True)
class _Addresses:
    addresses: Mapping[str, tuple[str, ...]]


_Kept = TypeVar("_Kept", KeptGroup, _Addresses)


class GroupStore:
    """The files of one data directory. Every method may be called in any thread.

    Args:
        directory: the data directory.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Hold the lock of the folder, which is made where it is missing.

        Raises:
            NoPermission, DiskFull: it cannot be made.
            RepoBusy: another process has it for too long.
        """
        with explained("locking", self.folder):
            if not self.folder.is_dir():
                private.make_directory(self.folder.parent)
                try:
                    private.make_folder(self.folder)
                except FileExistsError:
                    pass
                else:
                    os.chmod(self.folder, 0o700)
            path = self.folder / _LOCK
            fd = open_own_file(path, os.O_CREAT | os.O_RDWR)
            try:
                end = time.monotonic() + _PATIENCE
                while not lock_fd(fd):
                    if time.monotonic() > end:
                        raise RepoBusy(f"Another process is changing {self.folder} and does not finish. Try again.")
                    time.sleep(_AGAIN)  # nothing tells when a lock of another process is free
            except BaseException:
                os.close(fd)
                raise
            held = LockedFile(fd)
        try:
            self._clean()
            yield
        finally:
            held.close()

    def _clean(self) -> None:
        """Remove what killed processes left: whoever writes holds the lock."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name != _LOCK:
                    os.unlink(entry.path)

    def stamps(self) -> Stamps:
        """What tells whether anything was changed since."""
        found: set[tuple[str, int, int, int]] = set()
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if is_group_id(entry.name.removesuffix(_SUFFIX)):
                        status = entry.stat()
                        found.add((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
        except (FileNotFoundError, PermissionError):  # of another user, in a shared directory
            pass
        return frozenset(found)

    def names(self) -> list[str]:
        """The IDs of the groups of which there is a file."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, PermissionError):
            return []
        found = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        return sorted(name for name in found if is_group_id(name))

    def read(self, group: str) -> KeptGroup | None:
        """What is kept of a group; None where there is no file of it.

        Raises:
            DamagedRepo: the file is not one of ours.
            NoPermission: it may not be read.
        """
        return self._read(KeptGroup, self.folder / f"{group}{_SUFFIX}")

    def write(self, group: str, kept: KeptGroup) -> None:
        """Keep this of a group; the lock is held.

        Raises:
            DiskFull, NoPermission: the disk does not take it. What was kept before still is.
        """
        self._write(self.folder / f"{group}{_SUFFIX}", kept)

    def remove(self, group: str) -> None:
        """Keep nothing of a group any more; the lock is held."""
        path = self.folder / f"{group}{_SUFFIX}"
        with explained("removing", path):
            path.unlink(missing_ok=True)
            sync_folder(self.folder)

    def read_addresses(self) -> dict[str, tuple[str, ...]]:
        """Where members were seen, by peer ID. Nothing of it is lost that cannot be learned again."""
        try:
            found = self._read(_Addresses, self.folder / _ADDRESSES)
        except KacheryError as error:
            log.warning("addresses of members: %s", error)
            return {}
        return dict(found.addresses) if found is not None else {}

    def write_addresses(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Keep where members were seen; the lock is held."""
        self._write(self.folder / _ADDRESSES, _Addresses(addresses))

    def _read(self, kind: type[_Kept], path: Path) -> _Kept | None:
        try:
            with explained("reading", path):
                return from_json(kind, read_json(read_own_file(path, _MAX_FILE)))
        except (InvalidJSON, WrongShape) as error:
            raise DamagedRepo(
                f"{path} is damaged: {error}. Put back a copy of it, or move it away and join the group again by a new "
                "invitation."
            ) from error
        except KacheryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _write(self, path: Path, kept: object) -> None:
        with explained("writing", path):
            write_whole(path, json.dumps(to_json(kept), separators=(",", ":")).encode(), secret=True)
