"""`usage.sqlite` in the data directory: how much each peer was given, by day.

A row is what one peer got of one thing on one day (UTC). What a thing is, whoever keeps the log says (`Owners`): a lab
has its projects there; without that there is one for all. Serving adds to two numbers in memory, once for each message
that goes out; a task of the node writes them down once a minute, in a thread, and when it stops. So the last minute is
lost where the process is killed, and a log that cannot be written (full disk, damaged) is complained of and stops
nothing.

A message is counted to that of which its first block is a part. Of inner nodes of large files, and of files that are
here as a part of a folder, that is not known by themselves: they are counted to what the peer was given last of which
it is known. Whoever loads a file or a folder is given its root first.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import trio

from kachery_p2p.errors import DamagedRepo, KacheryError
from kachery_p2p.sqlite import Settings, SQLiteFile
from kachery_p2p.sqlite_schema import make_schema
from kachery_p2p.waking import Flag

log = logging.getLogger("kachery_p2p.node.served_log")

LOG_NAME = "usage.sqlite"
#: Stands for all peers beyond those that have rows of their own.
OTHERS = "others"
#: Seconds between two writes. That much is lost when the process is killed.
INTERVAL = 60.0
#: What waits to be written, by peer and first block: beyond it is written at once. Some 3 MB.
MAX_PENDING = 16_384
#: Peers of one day with rows of their own; the rest are `OTHERS`. A lab has hundreds.
MAX_PEERS = 2_000
#: Rows of one day: peers, times what they were given.
MAX_ROWS = 10_000
#: Days that are kept one by one. Older ones are summed up by month, without peers beyond the largest.
FULL_DAYS = 400
#: Days after which nothing is kept.
MAX_DAYS = 3_660
#: Peers of which it is remembered what they were given last.
MAX_LAST = 4_096
#: Seconds between two complaints that it cannot be written.
COMPLAINT_INTERVAL = 3600.0

_VERSION = 1
_DAY = 86_400
_SCHEMA = """
CREATE TABLE served (
    day INTEGER NOT NULL,
    peer TEXT NOT NULL,
    what TEXT NOT NULL,
    blocks INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (day, peer, what)
) WITHOUT ROWID;
CREATE TABLE kept (
    day INTEGER NOT NULL,
    owner TEXT NOT NULL,
    what TEXT NOT NULL,
    pins INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (day, owner, what)
) WITHOUT ROWID;
CREATE TABLE thinned (id INTEGER PRIMARY KEY, day INTEGER NOT NULL)
"""
_ADD = """
INSERT INTO served (day, peer, what, blocks, bytes) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (day, peer, what) DO UPDATE SET blocks = blocks + excluded.blocks, bytes = bytes + excluded.bytes
"""


#: Says of some blocks (multihashes) what they are a part of, as the log is to name it: empty for what is known to be
#: of nothing. What it does not know it leaves out. Called in a thread.
Owners = Callable[[Collection[bytes]], Mapping[bytes, str]]


@dataclass(frozen=True)
class ServedRow:
    """What one peer was given of one thing on one day. `day` counts since 1970-01-01 in UTC."""

    day: int
    peer: str
    what: str
    blocks: int
    bytes: int


@dataclass(frozen=True)
class KeptRow:
    """What was kept for somebody of one thing, at the end of a day: so many pins, and bytes."""

    day: int
    owner: str
    what: str
    pins: int
    bytes: int


def day_of(seconds: float) -> int:
    """The day of a time, both since 1970-01-01 in UTC."""
    return int(seconds // _DAY)


class ServedLog:
    """The log of a data directory, as its node writes it.

    Args:
        path: of the database, `LOG_NAME` in the data directory. It is made when there is something to write.
        owners: what blocks are a part of; None where that is not asked. It may be set later.
        wall: seconds since 1970.

    `await nursery.start(log.run)` writes it down once a minute until it is cancelled, and then once more.
    """

    def __init__(self, path: Path, owners: Owners | None = None, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self.owners = owners
        self._wall = wall
        self._file: SQLiteFile | None = None
        #: Blocks and bytes by peer and first block. Changed by the event loop alone, and taken away as a whole.
        self._pending: dict[tuple[str, bytes], list[int]] = {}
        self._full = Flag()
        self._last: OrderedDict[str, str] = OrderedDict()
        self._flushing = trio.Lock()
        self._writing = threading.Lock()
        self._day = -1
        self._peers: set[str] = set()
        self._rows = 0
        self._complained = -math.inf

    # --- what serves ------------------------------------------------------------------------------------------------

    def sent(self, peer: str, first: bytes, blocks: int, size: int) -> None:
        """A message with blocks went to a peer. Cheap; in the event loop.

        Args:
            peer: its ID.
            first: the multihash of one of the blocks.
            blocks: how many there are.
            size: bytes of them.
        """
        key = peer, first
        known = self._pending.get(key)
        if known is None:
            if len(self._pending) >= MAX_PENDING:
                self._full.set()
                key = (peer if len(self._pending) < 2 * MAX_PENDING else OTHERS), b""
            known = self._pending.setdefault(key, [0, 0])
        known[0] += blocks
        known[1] += size

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write down what was counted, once a minute, until cancelled."""
        task_status.started()
        try:
            while True:
                with trio.move_on_after(INTERVAL):
                    await self._full.take()
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()
                await trio.to_thread.run_sync(self.close)

    async def flush(self) -> None:
        """Write down what was counted so far. Where that fails it is lost, and the node's log says so.

        What another call is just writing is waited for: whoever reads after this finds that as well.
        """
        async with self._flushing:
            pending, self._pending = self._pending, {}
            if pending:
                await trio.to_thread.run_sync(self._write, pending, self._wall())

    def close(self) -> None:
        """Close the file until it is needed again."""
        if self._file is not None:
            self._file.let_go()

    # --- what is kept -----------------------------------------------------------------------------------------------

    def note_kept(self, sums: Mapping[tuple[str, str], tuple[int, int]]) -> None:
        """In a thread: what is kept now, by owner and thing: pins and bytes. In place of what was noted today before.

        Raises:
            RepoError, DiskFull, NoPermission: it cannot be written.
        """
        day = day_of(self._wall())
        with self._writing, self._opened().write() as db:
            db.execute("DELETE FROM kept WHERE day = ?", (day,))
            db.executemany(
                "INSERT INTO kept VALUES (?, ?, ?, ?, ?)",
                [(day, owner, what, pins, size) for (owner, what), (pins, size) in sums.items()],
            )
            if not sums:  # that nothing is kept is to be known, too
                db.execute("INSERT INTO kept VALUES (?, '', '', 0, 0)", (day,))

    # --- asking -----------------------------------------------------------------------------------------------------

    def served(self, first: int, last: int) -> list[ServedRow]:
        """In a thread: what was written down of some days, both among them, oldest first.

        Raises:
            RepoError, NoPermission: it cannot be read.
        """
        if self._file is None and not self.path.exists():
            return []
        rows = self._opened().all(
            "SELECT day, peer, what, blocks, bytes FROM served WHERE day BETWEEN ? AND ? ORDER BY day, peer, what",
            (first, last),
        )
        return [ServedRow(*row) for row in rows]

    def kept(self, first: int, last: int) -> list[KeptRow]:
        """In a thread: what was kept at the end of some days, as far as that was noted, oldest first.

        The last day before them of which it is known comes first, for what was kept in those of which it is not.
        """
        if self._file is None and not self.path.exists():
            return []
        (before,) = self._opened().one("SELECT max(day) FROM kept WHERE day <= ?", (first,))
        rows = self._opened().all(
            "SELECT day, owner, what, pins, bytes FROM kept WHERE day BETWEEN ? AND ? ORDER BY day, owner, what",
            (first if before is None else before, last),
        )
        return [KeptRow(*row) for row in rows]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _write(self, pending: Mapping[tuple[str, bytes], list[int]], now: float) -> None:
        try:
            sums = self._summed(pending)
            with self._writing:
                try:
                    self._add(sums, day_of(now))
                except DamagedRepo as error:
                    aside = self.path.with_suffix(".damaged")
                    log.warning("%s It is kept as %s and begun anew.", error, aside.name)
                    self._put_aside(aside)
                    self._add(sums, day_of(now))
        except KacheryError as error:
            since = time.monotonic()
            if since - self._complained >= COMPLAINT_INTERVAL:
                self._complained = since
                log.warning("How much was served is not written down: %s", error)
        except Exception:
            # Whatever is wrong with the log, serving goes on.
            log.exception("How much was served is not written down")

    def _summed(self, pending: Mapping[tuple[str, bytes], list[int]]) -> dict[tuple[str, str], list[int]]:
        """By peer and thing."""
        found: Mapping[bytes, str] = {}
        if self.owners is not None:
            found = self.owners({first for _, first in pending if first})
        sums: dict[tuple[str, str], list[int]] = {}
        for (peer, first), (blocks, size) in pending.items():
            what = found.get(first)
            if what is None:
                what = self._last.get(peer, "")
            else:
                self._last[peer] = what
                self._last.move_to_end(peer)
                if len(self._last) > MAX_LAST:
                    self._last.popitem(last=False)
            each = sums.setdefault((peer, what), [0, 0])
            each[0] += blocks
            each[1] += size
        return sums

    def _add(self, sums: Mapping[tuple[str, str], list[int]], day: int) -> None:
        with self._opened().write() as db:
            if day != self._day:
                self._peers = {peer for (peer,) in db.execute("SELECT DISTINCT peer FROM served WHERE day = ?", (day,))}
                (self._rows,) = db.execute("SELECT count(*) FROM served WHERE day = ?", (day,)).fetchone()
                self._thin(db, day)
                self._day = day
            rows: list[tuple[int, str, str, int, int]] = []
            for (peer, what), (blocks, size) in sums.items():
                if self._rows + len(rows) >= MAX_ROWS:
                    what = ""
                if peer not in self._peers and len(self._peers) >= MAX_PEERS:
                    peer = OTHERS
                else:
                    self._peers.add(peer)
                rows.append((day, peer, what, blocks, size))
            db.executemany(_ADD, rows)
            (self._rows,) = db.execute("SELECT count(*) FROM served WHERE day = ?", (day,)).fetchone()

    def _thin(self, db: sqlite3.Connection, day: int) -> None:
        """Sum up old days by month, and drop what is older still. Once a day."""
        row = db.execute("SELECT day FROM thinned WHERE id = 1").fetchone()
        if row is not None and row[0] >= day:
            return
        db.execute("INSERT OR REPLACE INTO thinned VALUES (1, ?)", (day,))
        for table in ("served", "kept"):
            db.execute(f"DELETE FROM {table} WHERE day < ?", (day - MAX_DAYS,))
        # Only months of which all days are old enough.
        end = _month_of(day - FULL_DAYS)
        old = [each for (each,) in db.execute("SELECT DISTINCT day FROM served WHERE day < ?", (end,))]
        for each in old:
            first = _month_of(each)
            if each != first:
                db.execute(
                    "INSERT INTO served (day, peer, what, blocks, bytes) "
                    "SELECT ?, peer, what, blocks, bytes FROM served WHERE day = ? "
                    "ON CONFLICT (day, peer, what) DO UPDATE SET blocks = blocks + excluded.blocks, "
                    "bytes = bytes + excluded.bytes",
                    (first, each),
                )
                db.execute("DELETE FROM served WHERE day = ?", (each,))
        # What was kept is a state, no sum: that of the first day stands for its month.
        for (each,) in db.execute("SELECT DISTINCT day FROM kept WHERE day < ? ORDER BY day", (end,)).fetchall():
            first = _month_of(each)
            if each == first:
                continue
            if db.execute("SELECT 1 FROM kept WHERE day = ? LIMIT 1", (first,)).fetchone() is None:
                db.execute("UPDATE kept SET day = ? WHERE day = ?", (first, each))
            else:
                db.execute("DELETE FROM kept WHERE day = ?", (each,))

    def _opened(self) -> SQLiteFile:
        if self._file is None:
            self._file = SQLiteFile(
                self.path,
                Settings(
                    name="the log of how much was served,",
                    unharmed="nothing that is stored is harmed",
                    repair="Move it away: a new one is begun.",
                    prepare=lambda db: make_schema(db, _SCHEMA, _VERSION, self.path, "a log of how much was served"),
                    busy_seconds=10.0,
                    version=_VERSION,
                ),
            )
        return self._file

    def _put_aside(self, aside: Path) -> None:
        """Begin a new file, keeping the old one beside it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            self.path.replace(aside)
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        except OSError as error:
            raise KacheryError(f"{self.path} is damaged, and cannot be moved away: {error.strerror}.") from error
        self._day = -1


def _month_of(day: int) -> int:
    """The first day of the month that a day is in."""
    epoch = date(1970, 1, 1)
    return ((epoch + timedelta(days=day)).replace(day=1) - epoch).days
