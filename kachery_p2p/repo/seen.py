"""Files that were hashed before and have not changed since: their roots are known without reading them.

The table `seen` of the catalog says which root a file had when it was hashed, and the stamp that it had then: size,
times of change in nanoseconds, inode. A file that has the same stamp has the same bytes, but for these cases:

    it changed in the same tick of the clock in which it was hashed     such a stamp is not noted (`_has_settled`)
    a tool put its modification time back                              the change time tells (ctime)
    another file has its name now                                      the inode tells
    inodes or times that do not stay (some FUSE, FAT)                  the stamp differs: it is hashed again
    no times at all (some FUSE)                                        such a stamp is not noted
    another machine changed it on a network file system                what this one remembers of it is asked for anew,
                                                                       by opening the file
    this process has it mapped into memory and writes to it            it is hashed each time (`_mapped`): its time
                                                                       moves with the first write alone

What another process writes through a mapping may go unseen for as long as the system has not written it to the disk;
that is what `rehash` is for.

That a root is known is not enough. It is taken only where its bytes are here in the form that is wanted: our own copy,
unchanged, or packed, or linked from that very path. Nothing else depends on the table, so it may be lost.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.fileio import CLOEXEC, Stamp, signed
from kachery_p2p.repo.hosts import network_file_system
from kachery_p2p.repo.limits import COARSE_CLOCK_NS, COARSE_RACY_NS, NETWORK_RACY_NS, RACY_NS, SEEN_FILES
from kachery_p2p.repo.placing import Placer, profile_text
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import unchanged

_STAMP = "s.name, s.size, s.mtime_ns, s.ctime_ns, s.inode, s.version, s.key, s.dag_size"
#: The copies of ours: in a pack, or a file of its own.
_STORED = (
    f"SELECT {_STAMP}, p.pack, p.offset + p.length, f.path, f.size, f.mtime_ns, f.ctime_ns, f.inode "
    "FROM seen s JOIN roots r ON r.key = s.key LEFT JOIN packed p ON p.root = r.id "
    f"LEFT JOIN files f ON f.root = r.id AND f.linked = 0 AND f.state = {OK} WHERE s.place = ?"
)
#: What is served from the very file, as it is now. The parameter in front is its folder.
_LINKED = (
    f"SELECT {_STAMP} FROM seen s JOIN roots r ON r.key = s.key "
    f"JOIN files f ON f.root = r.id AND f.linked = 1 AND f.state = {OK} AND f.path = CAST(? || s.name AS BLOB) "
    "AND f.size = s.size AND f.mtime_ns = s.mtime_ns AND f.ctime_ns = s.ctime_ns AND f.inode = s.inode "
    "WHERE s.place = ?"
)
_ANYWHERE = f"SELECT {_STAMP} FROM seen s WHERE s.place = ?"


class Known(NamedTuple):
    """A file whose root is known: its CID, the bytes of all its blocks, and where it is; None where it is packed."""

    cid: CID
    dag_size: int
    path: bytes | None


class SeenFiles:
    """The table, for one store: what is known of the files of a folder, and what was learnt of others.

    Args:
        placer: of the repo.
        profile: that the files are cut by.
        linked: whether they are to be linked; else copied; None where it does not matter that their bytes are here.
        about: what else decides their CIDs.
        rehash: take nothing as known, and only note.
    """

    def __init__(
        self, placer: Placer, profile: Profile, *, linked: bool | None, about: str = "", rehash: bool = False
    ) -> None:
        self._placer = placer
        self._catalog = placer.catalog
        self._linked = linked
        self._rehash = rehash or os.name != "posix"  # elsewhere no time tells that another one was put back
        self._rules = f"{profile_text(profile)}\0{about}\0"
        self._mapped: set[int] | None = None
        self._pack_sizes: dict[int, int] = {}
        self._network: dict[int, bool] = {}
        self._places: dict[str, tuple[bytes, bool]] = {}
        self._folder = ""
        self._is_network = False
        self._rows: dict[bytes, tuple] = {}
        self._new: list[tuple] = []

    def enter(self, folder: str, device: int | None = None) -> None:
        """Look up what is known of the files in a folder.

        Args:
            folder: its real path.
            device: of the folder; found out where None.
        """
        self._folder = folder
        self._is_network = self._on_network(folder, device)
        self._rows = {} if self._rehash else {row[0]: row[1:] for row in self._select(folder)}

    def find(self, name: str, stamp: Stamp) -> Known | None:
        """What a file of the folder is, if it has that stamp, and its bytes are here."""
        row = self._rows.get(os.fsencode(name)) if self._rows else None
        if row is None or row[:4] != stamp or stamp.inode in self._mapped_here():
            return None
        if self._is_network and not _is_still(os.path.join(self._folder, name), stamp):
            return None
        version, key, dag_size = row[4:7]
        if self._linked is not False:
            return Known(cid_of(key, version), dag_size, os.fsencode(os.path.join(self._folder, name)))
        pack, end, path, size, *copy = row[7:]
        if path is not None:
            full = self._placer.reader.absolute(path, 0)
            try:
                status = os.stat(full)
            except OSError:
                pass  # a copy is made again, unless it is packed, too
            else:
                if unchanged(status, 0, size, *copy):
                    return Known(cid_of(key, version), dag_size, full)
        if pack is not None and end <= self._pack_size(pack):
            return Known(cid_of(key, version), dag_size, None)
        return None

    def find_one(self, path: str, stamp: Stamp) -> Known | None:
        """The same for a single file, by its real path."""
        self._folder, name = os.path.split(path)
        self._is_network = False  # whoever has its stamp has just opened it
        rows = [] if self._rehash else self._select(self._folder, os.fsencode(name))
        self._rows = {row[0]: row[1:] for row in rows}
        return self.find(name, stamp)

    def note_one(self, path: str, stamp: Stamp, began: int, cid: CID, dag_size: int) -> None:
        """Note what a single file is, by its real path, and write it down; see `note`."""
        folder, name = os.path.split(path)
        self.note(folder, name, stamp, began, cid, dag_size)
        self.write()

    def note(self, folder: str, name: str, stamp: Stamp, began: int, cid: CID, dag_size: int) -> None:
        """Note what a file is. `write` writes it down.

        Args:
            folder: that it is in, by its real path.
            name: in the folder.
            stamp: that it had before and after it was hashed.
            began: when that was begun, in nanoseconds since 1970.
            cid: what it was.
            dag_size: the bytes of all its blocks.
        """
        if folder not in self._places:
            self._places = {folder: (self._place(folder), self._on_network(folder, None))}
        place, network = self._places[folder]
        if _has_settled(stamp, began, network) and stamp.inode not in self._mapped_here():
            self._new.append((place, os.fsencode(name), *stamp, bytes(cid.to_v1()), cid.version, dag_size))

    def write(self) -> None:
        """Write down what was noted. The roots must have been committed before."""
        if not self._new:
            return
        # Looked at once more: another thread may have mapped files since.
        mapped = self._mapped = _mapped()
        self._new = [row for row in self._new if row[5] not in mapped]
        with self._catalog.write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO seen (place, name, size, mtime_ns, ctime_ns, inode, key, version, dag_size) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._new,
            )
            # Numbers grow: those noted longest ago have the smallest.
            db.execute("DELETE FROM seen WHERE id <= (SELECT max(id) FROM seen) - ?", (SEEN_FILES,))
        self._new.clear()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _place(self, folder: str) -> bytes:
        """A folder and the rules, in 16 bytes."""
        return hashlib.blake2b(self._rules.encode() + os.fsencode(folder), digest_size=16).digest()

    def _select(self, folder: str, name: bytes | None = None) -> list[tuple]:
        sql = _ANYWHERE if self._linked is None else _LINKED if self._linked else _STORED
        values: list[bytes] = [os.fsencode(os.path.join(folder, ""))] if self._linked else []
        values.append(self._place(folder))
        if name is not None:
            sql += " AND s.name = ?"
            values.append(name)
        return self._catalog.all(sql, values)

    def _pack_size(self, pack: int) -> int:
        size = self._pack_sizes.get(pack)
        if size is None:
            try:
                size = os.stat(self._placer.reader.packs.path_of(pack)).st_size
            except OSError:
                size = 0
            self._pack_sizes[pack] = size
        return size

    def _on_network(self, folder: str, device: int | None) -> bool:
        if device is None:
            try:
                device = os.stat(folder).st_dev
            except OSError:
                return False  # reading the file says what is wrong
        if device not in self._network:
            self._network[device] = network_file_system(Path(folder)) is not None
        return self._network[device]

    def _mapped_here(self) -> set[int]:
        if self._mapped is None:
            self._mapped = _mapped()
        return self._mapped


def forget_seen(db: sqlite3.Connection, key: bytes) -> None:
    """Forget the files that were a root, by its binary CIDv1, in a transaction of the caller's."""
    db.execute("DELETE FROM seen WHERE key = ?", (key,))


def _has_settled(stamp: Stamp, began: int, network: bool) -> bool:
    """Whether a further change, after hashing began, must have given a file another stamp."""
    if stamp.ctime_ns <= 0:
        return False  # this file system keeps no times
    # A clock of nanoseconds is hardly ever at a whole millisecond.
    racy = COARSE_RACY_NS if stamp.ctime_ns % COARSE_CLOCK_NS == 0 else RACY_NS
    if network:
        racy = NETWORK_RACY_NS
    return max(stamp.mtime_ns, stamp.ctime_ns) + racy < began


def _is_still(path: str, stamp: Stamp) -> bool:
    """Whether a file has that stamp when it is opened, which makes NFS and the like ask the server."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | CLOEXEC)
    except OSError:
        return False
    try:
        return Stamp.of(os.fstat(fd)) == stamp
    finally:
        os.close(fd)


def _mapped() -> set[int]:
    """The inodes of the files that this process has mapped and may write to. Known on Linux alone."""
    found: set[int] = set()
    if not sys.platform.startswith("linux"):
        return found
    try:
        # "7f5c8c000000-7f5c8c021000 rw-s 00000000 fe:01 1234    /data/x.dat"
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split(maxsplit=5)
                if "w" in fields[1] and "s" in fields[1] and fields[4] != "0":
                    found.add(signed(int(fields[4])))
    except OSError:
        pass
    return found
