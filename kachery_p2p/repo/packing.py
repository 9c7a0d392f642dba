"""Writing packs: how small files get into them, durably, many with one sync and one transaction.

    1  the pack is locked, so that it has one writer, and what an interrupted writer left at its end is taken in
    2  the sections are written to its end, and synced
    3  the rows are committed, and with them how far the pack is catalogued

Whatever lies before that mark was synced and committed. Behind it may lie whole sections (the process ended between 2
and 3, or the power before the commit of 3 reached the disk) or a part of one. Both are dealt with by whoever has the
lock next, and when the repo is opened: right sections get their rows, and the rest is cut off.

The lock is held for one turn of a `GroupCommit`. Several processes write at once to a pack each, and so need not wait
for each other's syncs.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.oserrors import explain, explained
from kachery_p2p.private import SHARED_FILE, open_to_group
from kachery_p2p.repo.access import Claim, RootAccess
from kachery_p2p.repo.catalog import FILE, Catalog
from kachery_p2p.repo.claim_rows import add_claims
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, read_bytes_at, sync_fd, sync_folder, write_at
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.grouping import GroupCommit
from kachery_p2p.repo.kept_rows import keep_rows
from kachery_p2p.repo.layout import Layout, make_folders
from kachery_p2p.repo.leaves import wrap_parts
from kachery_p2p.repo.limits import BATCH_BYTES, LOCK_POLL_SECONDS, PACK_BYTES, ROW_BATCH, WIPE_BATCH
from kachery_p2p.repo.locks import LockedFile
from kachery_p2p.repo.packs import (
    HEADER,
    PackPlace,
    PackReader,
    read_sections,
    removed_section,
    section_forms,
    section_head,
)
from kachery_p2p.wire import Buffer, read_varint


class PackedFile(NamedTuple):
    """A file to be packed: one block, of a CID that is right.

    It is listed from then on where `how` says how the user asked for it by itself; see inventory.py. That is for what
    everyone may see; what has a `claim` is listed when that is bound.
    """

    cid: CID
    data: Buffer
    wrap: int
    how: int = 0
    claim: Claim | None = None


class Row(NamedTuple):
    """A packed file as the catalog is to know it."""

    cid: CID
    pack: int
    offset: int
    length: int
    wrap: int


class LockedPack:
    """A pack that this thread has locked, and where its next section begins. Use as a context manager."""

    def __init__(self, number: int, fd: int) -> None:
        self.number = number
        self.end = 0
        self._file = LockedFile(fd)

    @property
    def fd(self) -> int:
        return self._file.fd

    def read(self, offset: int, length: int) -> bytes:
        return read_bytes_at(self._file.fd, length, offset)

    def __enter__(self) -> LockedPack:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class Packer:
    """Writes packs. Safe to use from many threads and processes at once."""

    def __init__(self, layout: Layout, catalog: Catalog, reader: PackReader, access: RootAccess) -> None:
        self._layout = layout
        self._access = access
        self._catalog = catalog
        self._reader = reader
        #: The pack that was written to last; there is room in it as a rule.
        self._last = 0
        #: Its length when it was written to last: while it has that, nobody else has written to it.
        self._length = 0
        self._group: GroupCommit[Sequence[PackedFile]] = GroupCommit(self._write, BATCH_BYTES)

    def keep(self, files: Sequence[PackedFile]) -> None:
        """Put files into a pack and into the catalog; they are on the disk when this returns.

        Raises:
            DiskFull, NoPermission, RepoError: that failed. None of them is kept then.
        """
        self._group.do(files, sum(len(file.data) for file in files))

    def take_in(self, *, whole: bool = False) -> None:
        """Catalogue what writers that were interrupted left at the ends of packs. What others write to now is theirs.

        Args:
            whole: look through all of each pack, for rows that the catalog has lost.
        """
        if self._catalog.read_only:
            return
        marks = self._marks()
        for number in self._reader.numbers():
            mark = marks.get(number, 0)
            if self._layout.read_only:
                with suppress(OSError), open(self._reader.path_of(number), "rb") as file:
                    self._adopt(number, _reader_of(file.fileno()), mark)
            elif whole or self._is_longer(number, mark):
                pack = self.lock(number, whole=whole)
                if pack is not None:
                    pack.__exit__()

    def remove(self, cids: Sequence[CID]) -> set[bytes]:
        """Take files out of their packs, and then out of the catalog. A pack that is empty goes.

        Returns:
            The keys of those that were there.
        """
        places = self._reader.files(cids)
        by_pack: dict[int, list[CID]] = {}
        for cid in cids:
            place = places.get(bytes(cid.to_v1()))
            if place is not None:
                by_pack.setdefault(place.pack, []).append(cid)
        for number, some in by_pack.items():
            for start in range(0, len(some), WIPE_BATCH):
                self._remove(number, some[start : start + WIPE_BATCH], places)
        return set(places)

    def _remove(self, number: int, cids: Sequence[CID], places: Mapping[bytes, PackPlace]) -> None:
        """Take files out of one pack."""
        path = self._reader.path_of(number)
        while path.exists():
            pack = self.lock(number)
            if pack is None:
                time.sleep(LOCK_POLL_SECONDS)  # somebody writes to it, which takes milliseconds
                continue
            with pack, explained("removing from", path):
                for cid in cids:
                    place = places[bytes(cid.to_v1())]
                    for head in section_forms(cid, place.length, place.wrap):
                        begin = place.offset - len(head)
                        if begin > 0 and pack.read(begin, len(head)) == head:
                            size, width = read_varint(head, 0)
                            write_at(pack.fd, removed_section(size), begin + width)
                _sync(pack.fd)
                self._forget(cids)
                if self._catalog.one("SELECT 1 FROM packed WHERE pack = ? LIMIT 1", (number,)) is None:
                    path.unlink()
            return
        self._forget(cids)

    def after_fork(self) -> None:
        """In a forked child: threads that had begun something are not there."""
        self._group = GroupCommit(self._write, BATCH_BYTES)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _forget(self, cids: Sequence[CID]) -> None:
        with self._catalog.write() as db:
            for cid in cids:
                forget_packed(db, cid)

    def _write(self, batches: list[Sequence[PackedFile]]) -> None:
        """One turn: the files of all callers, each once."""
        files = {file.cid.to_v1(): file for batch in batches for file in batch}
        with self._pack_with_room() as pack:
            parts: list[Buffer] = []
            rows: list[Row] = []
            at = pack.end
            if at == 0:
                parts.append(HEADER)
                at = len(HEADER)
            for cid, data, wrap, _, _ in files.values():
                head = section_head(cid, len(data), wrap)
                tail = wrap_parts(wrap, len(data))[1]
                rows.append(Row(cid, pack.number, at + len(head), len(data), wrap))
                parts += (head, data, tail)
                at += len(head) + len(data) + len(tail)
            with explained("storing in", self._reader.path_of(pack.number)):
                try:
                    write_at(pack.fd, b"".join(parts), pack.end)
                    _sync(pack.fd)
                    if pack.end == 0:
                        sync_folder(self._reader.folder)
                except BaseException:
                    # Nothing speaks of it yet. Where this fails, too, the next writer does it.
                    with suppress(OSError):
                        os.ftruncate(pack.fd, pack.end)
                    raise
            # From here on nothing is cut off: after an error it may be that the rows are there.
            with self._catalog.write() as db:
                for batch in batches:
                    for file in batch:
                        if file.claim is not None:
                            add_claims(db, file.claim.rows, [file.cid.multihash])
                add_rows(db, rows, replace=True)
                if not self._access.says_more(db):  # else it takes more than a row to list it
                    keep_rows(db, [(file.cid, file.how) for batch in batches for file in batch if file.how])
                set_mark(db, pack.number, at)
            self._length = at

    def _pack_with_room(self) -> LockedPack:
        """A pack that nobody else writes to, locked: the one of last time, or another one, or a new one."""
        if self._last:
            pack = self.lock(self._last, room=True)
            if pack is not None:
                return pack
        numbers = self._reader.numbers()
        marks = self._marks()
        for number in numbers:
            if number != self._last and marks.get(number, 0) < PACK_BYTES:
                pack = self.lock(number, room=True)
                if pack is not None:
                    return pack
        for number in count(max((0, *numbers, *marks)) + 1):
            # Another process may have made it just now, or lock it before this one does.
            pack = self.lock(number, room=True) if self._make(number) else None
            if pack is not None:
                return pack
        raise AssertionError("numbers have no end")

    def _make(self, number: int) -> bool:
        """Make an empty pack; false when there is one of that number."""
        path = self._reader.path_of(number)
        with explained("making", path):
            make_folders(path.parent)
            try:
                fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | CLOEXEC | BINARY, 0o644)
            except FileExistsError:
                return False
            try:
                open_to_group(fd, self._reader.folder, SHARED_FILE)
            finally:
                os.close(fd)
        return True

    def lock(self, number: int, *, whole: bool = False, room: bool = False) -> LockedPack | None:
        """A pack, locked, with all that is in it catalogued; None when it is in use, missing, or not ours to write to.

        Args:
            number: of the pack.
            whole: look through all of it.
            room: none that is full.
        """
        path = self._reader.path_of(number)
        try:
            fd = os.open(path, os.O_RDWR | CLOEXEC | BINARY)
        except (FileNotFoundError, PermissionError):
            return None
        except OSError as error:
            raise explain(error, "storing in", path) from error
        try:
            with explained("storing in", path):
                free = lock_fd(fd) and os.fstat(fd).st_nlink > 0
        except BaseException:
            os.close(fd)
            raise
        if not free:
            os.close(fd)
            return None
        pack = LockedPack(number, fd)
        try:
            if room and number == self._last and os.fstat(fd).st_size == self._length > 0:
                pack.end = self._length
            else:
                with explained("storing in", path):
                    self._take_in(pack, self._mark(number), whole=whole)
            if not room:
                return pack
            if pack.end < PACK_BYTES:
                self._last, self._length = number, 0
                return pack
        except BaseException:
            pack.__exit__()
            raise
        pack.__exit__()
        return None

    def _take_in(self, pack: LockedPack, mark: int, *, whole: bool) -> None:
        """Catalogue the right sections behind the mark, and cut off what is behind the last of them.

        Where the whole pack is looked through, nothing is cut off: it may be that the mark was lost, and that what
        cannot be read is a damaged file and not half of a new one.

        A pack that is shorter than its mark is damaged, or a copy from before. Rows that speak of what it lost find
        nothing; what is written next is written behind the mark, where no row speaks of anything.
        """
        size = os.fstat(pack.fd).st_size
        pack.end = mark
        if whole:
            self._adopt(pack.number, pack.read, 0)
            pack.end = max(mark, size)
            if pack.end > mark:
                with self._catalog.write() as db:
                    set_mark(db, pack.number, pack.end)
        elif size > mark:
            pack.end = max(mark, self._adopt(pack.number, pack.read, mark))
            os.ftruncate(pack.fd, pack.end)

    def _adopt(self, number: int, read: Callable[[int, int], bytes], start: int) -> int:
        """Catalogue the right sections from `start` on; returns where the last of them ends, or 0."""
        end = 0
        rows: list[Row] = []

        def commit() -> None:
            with self._catalog.write() as db:
                self._access.found.claim(db, [row.cid for row in rows])
                # At the end of a pack, sections are newer than what rows there are.
                add_rows(db, rows, replace=start > 0)
                set_mark(db, number, end)
            rows.clear()

        for section in read_sections(read, start):
            end = section.end
            if section.cid is not None:
                rows.append(Row(section.cid, number, section.offset, section.length, section.wrap))
            if len(rows) >= ROW_BATCH:
                commit()
        if end:
            commit()
        return end

    def _is_longer(self, number: int, mark: int) -> bool:
        try:
            return os.stat(self._reader.path_of(number)).st_size > mark
        except OSError:
            return False

    def _mark(self, number: int) -> int:
        """How far a pack is catalogued."""
        row = self._catalog.one("SELECT size FROM packs WHERE id = ?", (number,))
        return 0 if row is None else row[0]

    def _marks(self) -> dict[int, int]:
        return dict(self._catalog.all("SELECT id, size FROM packs"))


def add_rows(db: sqlite3.Connection, rows: Iterable[Row], *, replace: bool) -> None:
    """Catalogue packed files, in a transaction of the caller's.

    Args:
        db: of the transaction.
        rows: the files.
        replace: whether they take the place of rows that there are.
    """
    now = time.time()
    keyed = [(bytes(row.cid.to_v1()), row) for row in rows]
    db.executemany(
        "INSERT OR IGNORE INTO roots (key, version, kind, size, profile, added) VALUES (?, ?, ?, ?, NULL, ?)",
        [(key, row.cid.version, FILE, row.length, now) for key, row in keyed],
    )
    db.executemany(
        f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO packed (root, pack, offset, length, wrap) "
        "SELECT id, ?, ?, ?, ? FROM roots WHERE key = ?",
        [(row.pack, row.offset, row.length, row.wrap, key) for key, row in keyed],
    )


def set_mark(db: sqlite3.Connection, pack: int, size: int) -> None:
    """Note how far a pack is catalogued, in a transaction of the caller's. It never goes back."""
    db.execute(
        "INSERT INTO packs (id, size) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET size = max(size, excluded.size)",
        (pack, size),
    )


def forget_packed(db: sqlite3.Connection, cid: CID) -> None:
    """Take a packed file out of the catalog, in a transaction of the caller's. Its root stays."""
    db.execute("DELETE FROM packed WHERE root IN (SELECT id FROM roots WHERE key = ?)", (bytes(cid.to_v1()),))


def _reader_of(fd: int) -> Callable[[int, int], bytes]:
    return lambda at, length: read_bytes_at(fd, length, at)


def _sync(fd: int) -> None:
    """Bring what was appended to the disk, and how long the file is; its times do not matter."""
    if sys.platform == "linux":
        os.fdatasync(fd)
    else:
        sync_fd(fd)
