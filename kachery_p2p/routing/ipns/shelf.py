"""The names of this machine: their keys and what was published last, in `ipns/` of the data directory.

    ipns/self/record          of the machine's own key, which is `private.pem` of the data directory
    ipns/<key>/private.pem    of a key made for it; with public.pem, both 0600, as in `kachery_p2p.repo.keys`
    ipns/<key>/record         the signed record (`IpnsEntry`, protobuf), 0600; its time of change is when others took it
                              last, or 1970 where nobody has yet

A record is whole or not there: it is written beside and renamed. It says all by itself, so nothing else is kept.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.errors import IdentityError, InvalidName, KacheryError, NoPermission
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.repo.keys import (
    NodeKey,
    kept_identity,
    load_or_create_identity,
    may_keep_identity,
)
from kachery_p2p.repo.wholefile import write_whole
from kachery_p2p.routing.dht.limits import MAX_RECORD_SIZE
from kachery_p2p.routing.ipns import limits

#: The name of the machine's own key, as in Kubo.
SELF = "self"
_KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class OwnName:
    """A name of this machine.

    Attributes:
        key: the name of its key.
        name: the binary peer ID of the key.
        record: what was signed last; None where nothing was published yet.
        taken_at: when others took it last, seconds since the epoch; 0 where nobody has.
    """

    key: str
    name: bytes
    record: bytes | None
    taken_at: float


class Shelf:
    """Keys and records of our own names. The methods read and write files.

    Args:
        directory: the data directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._top = directory / "ipns"

    def key(self, name: str, *, make: bool) -> NodeKey | None:
        """A key by its name.

        Args:
            name: of the key; "self" for the machine's own.
            make: make it where it is missing; else the answer is None then.

        Raises:
            InvalidName: a key cannot be called that, or there are too many.
            IdentityError: a key file is damaged.
            NoPermission, DiskFull: it cannot be made.
        """
        check_key_name(name)
        folder = self._folder_of_key(name)
        if not make:
            return kept_identity(folder)
        with explained("making a key in", self._top):
            if not may_keep_identity(self._directory):
                raise NoPermission(
                    f"{self._directory} belongs to another user, who alone may publish names with its keys. Publish "
                    "from a data directory of your own (KACHERY_CLOUD_DIR)."
                )
            if name != SELF:
                self._make_folder(self._top)
                if not folder.exists() and len(self._keys()) >= limits.MAX_OWN_NAMES:
                    raise InvalidName(
                        f"There are {limits.MAX_OWN_NAMES} keys in {self._top} already, the most that a node keeps."
                    )
                self._make_folder(folder)
        return load_or_create_identity(folder)

    def own(self, key: str) -> OwnName | None:
        """One name; None where its key is missing."""
        try:
            found = self.key(key, make=False)
        except (IdentityError, InvalidName, NoPermission):
            return None
        if found is None:
            return None
        path = self._record_path(key)
        try:
            record = read_own_file(path, MAX_RECORD_SIZE)
            taken_at = os.stat(path).st_mtime
        except (OSError, KacheryError):
            record, taken_at = None, 0.0
        return OwnName(key, peer_bytes(found.peer_id), record, taken_at)

    def published(self) -> list[OwnName]:
        """The names that have a record."""
        found = [self.own(key) for key in self._keys()]
        return [each for each in found if each is not None and each.record is not None]

    def by_name(self, name: bytes) -> OwnName | None:
        """The published name with this binary peer ID, if it is ours."""
        return next((each for each in self.published() if each.name == name), None)

    def put(self, key: str, record: bytes) -> None:
        """Keep a record as the newest one of a key, which nobody has taken yet.

        Raises:
            NoPermission, DiskFull: it cannot be written.
        """
        path = self._record_path(key)
        with explained("writing the record of a name in", self._top):
            self._make_folder(self._top)
            self._make_folder(path.parent)
            write_whole(path, record, secret=True, modified=0.0)

    def taken(self, key: str, record: bytes, now: float) -> None:
        """Others have taken this record, if it is still the newest one."""
        path = self._record_path(key)
        with explained("writing in", self._top):
            if read_own_file(path, MAX_RECORD_SIZE) == record:
                os.utime(path, (now, now))

    def _keys(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._top) if _KEY_NAME.fullmatch(name))[: limits.MAX_OWN_NAMES]
        except OSError:  # there is none, or it is another user's
            return []

    def _make_folder(self, path: Path) -> None:
        """Make a folder of mode 0700 that belongs to the owner of the data directory, also where root makes it."""
        if not path.is_dir():
            private.make_directory(path)
            fd = os.open(path, os.O_RDONLY)
            try:
                private.give_to_owner(fd, self._directory)
            finally:
                os.close(fd)

    def _folder_of_key(self, key: str) -> Path:
        return self._directory if key == SELF else self._top / key

    def _record_path(self, key: str) -> Path:
        return self._top / key / "record"


def check_key_name(name: str) -> None:
    """Check what a key is to be called.

    Raises:
        InvalidName: it cannot be called that.
    """
    if len(name) > limits.MAX_KEY_NAME or not _KEY_NAME.fullmatch(name):
        raise InvalidName(
            f"{name[:80]!r} cannot be the name of a key: it has letters, digits, '-', '_' and '.', "
            f"{limits.MAX_KEY_NAME} of them at most, and begins with a letter or a digit."
        )
