"""`access.sqlite` in the data directory: which peer was given how much of what is not for everyone.

A row is what one peer got of one root on one day (UTC). Serving only appends to a queue in memory; a task of the node
writes it down every few seconds, in a thread. So the last seconds are lost where the process is killed, and a log that
cannot be written (read-only, full, damaged) is complained of and stops nothing. Other processes may read meanwhile.

What is for everyone is not in it, nor is what nobody was given.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from kachery_p2p.access import limits
from kachery_p2p.errors import DamagedRepo, KacheryError
from kachery_p2p.sqlite import Settings, SQLiteFile
from kachery_p2p.sqlite_schema import make_schema

log = logging.getLogger("kachery_p2p.access")

LOG_NAME = "access.sqlite"

_VERSION = 1
_DAY = 86_400
_SCHEMA = """
CREATE TABLE access (
    day INTEGER NOT NULL,
    peer TEXT NOT NULL,
    root BLOB NOT NULL,
    audience TEXT NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    bytes INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    PRIMARY KEY (day, peer, root, audience)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO access (day, peer, root, audience, first, last, bytes, blocks) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, peer, root, audience) DO UPDATE SET
    first = min(first, excluded.first), last = max(last, excluded.last),
    bytes = bytes + excluded.bytes, blocks = blocks + excluded.blocks
"""
_FORGET = """
DELETE FROM access WHERE (day, peer, root, audience) IN
    (SELECT day, peer, root, audience FROM access ORDER BY day, last LIMIT ?)
"""


class Belonging(NamedTuple):
    """What a block was part of when it was given away.

    Attributes:
        root: its multihash; empty where the block is of several roots, or of none that is still known.
        audience: who could see the block then, as text.
    """

    root: bytes
    audience: str


#: Says of some blocks what they are part of; called in a thread, for those that are not for everyone.
Belongings = Callable[[Collection[bytes]], Mapping[bytes, Belonging]]

_UNKNOWN = Belonging(b"", "")


@dataclass(frozen=True)
class AccessEntry:
    """What one peer was given of one root on one day.

    Attributes:
        day: since 1970-01-01, in UTC.
        peer: its ID.
        root: its multihash; empty where it is not known, or where they are blocks of several roots.
        audience: for whom it was, as `str` of an `Audience` writes it; empty where it is not known.
        first, last: when, in seconds since 1970-01-01.
        bytes, blocks: how much, with what was sent twice.
    """

    day: int
    peer: str
    root: bytes
    audience: str
    first: float
    last: float
    bytes: int
    blocks: int


class _Note(NamedTuple):
    peer: str
    multihash: bytes
    size: int
    when: float


@dataclass
class _Sum:
    first: float
    last: float
    size: int = 0
    blocks: int = 0


class AccessLog:
    """The log of a data directory, as its node writes it.

    Args:
        path: of the database; None keeps everything in memory.
        belongings: what blocks are part of; None where that is not known.
        wall: seconds since the epoch.

    `await nursery.start(log.run)` writes it down every few seconds until it is cancelled, and then once more.
    """

    def __init__(
        self, path: Path | None, belongings: Belongings | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._belongings = belongings
        self._wall = wall
        self._file: SQLiteFile | None = None
        #: Appended to by whoever serves, taken from by the thread that writes. Both are atomic.
        self._pending: deque[_Note] = deque(maxlen=limits.MAX_PENDING)
        self._complained = -math.inf

    def note(self, peer: str, multihash: bytes, size: int) -> None:
        """A peer was sent a block that is not for everyone. Cheap, from any thread."""
        self._pending.append(_Note(peer, multihash, size, self._wall()))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write down what was noted, every few seconds, until cancelled."""
        task_status.started()
        try:
            while True:
                await trio.sleep(limits.LOG_INTERVAL)
                if self._pending:
                    await trio.to_thread.run_sync(self.flush)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Write down what is left, and close the file until it is needed again."""
        self.flush()
        if self._file is not None and self._path is not None:
            self._file.let_go()

    def flush(self) -> None:
        """In a thread: write down what was noted. Where that fails it is lost, and the node's log says so."""
        notes: list[_Note] = []
        while self._pending:
            notes.append(self._pending.popleft())
        if not notes:
            return
        try:
            self._write(self._summed(notes))
        except KacheryError as error:
            now = time.monotonic()
            if now - self._complained >= limits.COMPLAINT_INTERVAL:
                self._complained = now
                log.warning("Who was given what is not written down: %s", error)
        except Exception:
            # Whatever is wrong with the log, serving goes on.
            log.exception("Who was given what is not written down")

    def entries(self, since: float = 0.0) -> list[AccessEntry]:
        """What was written down of the days from a time on (seconds since the epoch), the newest first.

        Raises:
            RepoError, NoPermission: it cannot be read.
        """
        return _entries(self._opened(), since)

    # --- inside

    def _summed(self, notes: list[_Note]) -> dict[tuple[int, str, Belonging], _Sum]:
        found: Mapping[bytes, Belonging] = {}
        if self._belongings is not None:
            found = self._belongings({note.multihash for note in notes})
        sums: dict[tuple[int, str, Belonging], _Sum] = {}
        for note in notes:
            key = int(note.when // _DAY), note.peer, found.get(note.multihash, _UNKNOWN)
            each = sums.setdefault(key, _Sum(note.when, note.when))
            each.first, each.last = min(each.first, note.when), max(each.last, note.when)
            each.size += note.size
            each.blocks += 1
        return sums

    def _write(self, sums: Mapping[tuple[int, str, Belonging], _Sum]) -> None:
        try:
            self._add(sums)
        except DamagedRepo as error:
            if self._path is None:
                raise
            aside = self._path.with_suffix(".damaged")
            log.warning("%s It is kept as %s and begun anew.", error, aside.name)
            self._put_aside(aside)
            self._add(sums)

    def _add(self, sums: Mapping[tuple[int, str, Belonging], _Sum]) -> None:
        with self._opened().write() as db:
            db.executemany(
                _ADD,
                [
                    (day, peer, what.root, what.audience, each.first, each.last, each.size, each.blocks)
                    for (day, peer, what), each in sums.items()
                ],
            )
            db.execute("DELETE FROM access WHERE day < ?", (int(self._wall() // _DAY) - limits.MAX_DAYS,))
            excess = db.execute("SELECT count(*) FROM access").fetchone()[0] - limits.MAX_ROWS
            if excess > 0:
                db.execute(_FORGET, (excess,))

    def _opened(self) -> SQLiteFile:
        if self._file is None:
            self._file = _open(self._path)
        return self._file

    def _put_aside(self, aside: Path) -> None:
        """Begin a new file, keeping the old one beside it."""
        assert self._path is not None
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            self._path.replace(aside)
            for end in ("-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        except OSError as error:
            raise KacheryError(f"{self._path} is damaged, and cannot be moved away: {error.strerror}.") from error


def read_entries(directory: Path, since: float = 0.0) -> list[AccessEntry]:
    """What the log of a data directory has, whether its node runs or not.

    Args:
        directory: the data directory.
        since: only of the days from this time on, in seconds since the epoch.

    Returns:
        The newest first; nothing where nothing was ever written.

    Raises:
        RepoError: the log is damaged, or of another version of this program.
        NoPermission: it may not be read.
    """
    path = directory / LOG_NAME
    if not path.exists():
        return []
    with closing(_open(path, read_only=True)) as file:
        return _entries(file, since)


def _open(path: Path | None, *, read_only: bool = False) -> SQLiteFile:
    def prepare(db: sqlite3.Connection) -> None:
        make_schema(db, _SCHEMA, _VERSION, path or Path(LOG_NAME), "a log of who was given what")

    settings = Settings(
        name="the log of who was given what,",
        unharmed="nothing that was stored is harmed",
        repair="Move it away: a new one is begun.",
        prepare=prepare,
        busy_seconds=10.0,
        version=_VERSION,
    )
    return SQLiteFile(path, settings, read_only=read_only)


def _entries(file: SQLiteFile, since: float) -> list[AccessEntry]:
    rows = file.all(
        "SELECT day, peer, root, audience, first, last, bytes, blocks FROM access WHERE day >= ? "
        "ORDER BY last DESC, peer, root",
        (int(since // _DAY),),
    )
    return [AccessEntry(*row) for row in rows]
