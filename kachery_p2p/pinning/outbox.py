"""`outbox.sqlite` in the data directory: what is to be kept where, and how far that is.

One row for each root and service. Any process of the data directory may add rows, also one that has no node and knows
no network; the node's worker carries them out. A row is on the disk before the call that wrote it returns.

Rows are not taken away while a service may have something: the worker needs the request ID to remove it there. User
and worker may change one row at the same time, so each decision of the user (add, remove) gives the row a new
`revision`; a worker that began under an older one only leaves word of what it has learned about the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import DamagedRepo
from kachery_p2p.ownfiles import check_own_file
from kachery_p2p.pinning.limits import MAX_ERROR_LENGTH, MAX_NAME, REMOVED_DAYS
from kachery_p2p.private import can_write
from kachery_p2p.repo.hosts import claim
from kachery_p2p.repo.wholefile import write_whole
from kachery_p2p.sqlite import Settings, SQLiteFile
from kachery_p2p.sqlite_schema import make_schema

OUTBOX_NAME = "outbox.sqlite"
#: An empty file beside it: there must be an outbox here. It is made after the first row was written.
MARK_NAME = "outbox-begun"
_VERSION = 1
#: Seconds to wait for another process that writes.
_BUSY_SECONDS = 20.0
#: Seconds that a new outbox may be without a header: it takes milliseconds.
_MAKING_SECONDS = 2.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pins (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL,
    service TEXT NOT NULL,
    cid TEXT NOT NULL,
    name TEXT NOT NULL,
    meta TEXT NOT NULL,
    size INTEGER,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    request_id TEXT NOT NULL DEFAULT '',
    delegates TEXT NOT NULL DEFAULT '[]',
    origins TEXT NOT NULL DEFAULT '[]',
    asked REAL NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    polls INTEGER NOT NULL DEFAULT 0,
    waited REAL NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0,
    problem TEXT NOT NULL DEFAULT '',
    last_error TEXT NOT NULL DEFAULT '',
    added REAL NOT NULL,
    changed REAL NOT NULL,
    verified REAL,
    UNIQUE (key, service)
);
CREATE INDEX IF NOT EXISTS pins_by_turn ON pins (service, next_try);
"""

#: States in which the worker has something to do, sooner or later.
ACTIVE = ("waiting", "uploading", "queued", "pinning", "pinned", "failed", "refused", "removing")
STATES = (*ACTIVE, "verified", "removed")
#: States in which a service says that it has all of it.
CLAIMED = ("pinned", "verified")
#: `next_try` of a row that a service has had, and is asked about because the user wants it there. What the worker puts
#: off is later than 1970, so these stand for nothing else. The second one has a block fetched back, too; and so has the
#: third, which is for who only wants to know: then nothing is pinned anew.
ASK_AGAIN = 0.0
PROVE_AGAIN = -1.0
ONLY_LOOK = -2.0
#: What the worker has learned, which is kept whatever the user has decided meanwhile.
_LEARNED = ("request_id", "delegates", "origins", "asked")


@dataclass(frozen=True)
class PinEntry:
    """A row of the outbox. Times are in seconds since 1970; sizes in bytes.

    Attributes:
        cid: the root, as it was given.
        service: name of the service.
        size: of the root's content, None where it is not known.
        state: see the package's text.
        request_id: what the service calls the request; empty before it has answered.
        delegates: multiaddrs of the service's peers.
        origins: multiaddrs of ours that the service was told.
        asked: when a request was sent whose answer has not come; 0 otherwise.
        tries: failures since the last success.
        polls: looks at the request since it was made.
        waited: seconds spent watching the request while it was only queued.
        next_try: when the worker turns to it again; 0 and less is at once (see `ASK_AGAIN`), and infinite is never,
            without the user.
        problem: why it is not there yet, in one word (`unauthorized`, `network`, `stuck` ...), empty where all is well.
        last_error: the same in a sentence for the user.
        verified: when a block was last fetched back from the service; None where that has not happened.
    """

    id: int
    cid: str
    service: str
    name: str
    meta: dict[str, str]
    size: int | None
    state: str
    revision: int
    request_id: str
    delegates: tuple[str, ...]
    origins: tuple[str, ...]
    asked: float
    tries: int
    polls: int
    waited: float
    next_try: float
    problem: str
    last_error: str
    added: float
    changed: float
    verified: float | None

    @property
    def claimed(self) -> bool:
        """Whether the service says that it has all of it."""
        return self.state in CLAIMED

    @property
    def in_question(self) -> bool:
        """Whether the service, which had it, is about to be asked whether it still has it."""
        return self.state == "pinned" and self.next_try <= ASK_AGAIN

    @property
    def on_its_way(self) -> bool:
        """Whether there is still something to wait for, without anything that the user must do."""
        return self.state in ACTIVE and self.state not in ("refused", "pinned")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values for command lines and the control socket."""
        values = asdict(self)
        for name in ("revision", "origins", "asked", "polls"):
            del values[name]
        values["delegates"] = list(self.delegates)
        values["next_try"] = None if self.next_try == float("inf") else max(0.0, self.next_try)
        return {**values, "claimed": self.claimed}


#: Inside the class below, `list` is a method of it.
Entries = list[PinEntry]

COLUMNS = tuple(PinEntry.__dataclass_fields__)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM pins"


def entry_of(row: Sequence[Any]) -> PinEntry:
    """The entry of a row of `COLUMNS`.

    Raises:
        ValueError, TypeError: the row is damaged.
    """
    values = dict(zip(COLUMNS, row, strict=True))
    values["meta"] = json.loads(values["meta"])
    for name in ("delegates", "origins"):
        values[name] = tuple(json.loads(values[name]))
    return PinEntry(**values)


class PinOutbox:
    """The outbox of one data directory. Safe to use from many threads, by many processes, and in a forked child.

    All methods raise RepoError when the file cannot be used, DiskFull and NoPermission.

    Args:
        path: the file, `OUTBOX_NAME` in the data directory. It is made when the first row is written.
        wall: seconds since 1970.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._mark = path.with_name(MARK_NAME) if path.name == OUTBOX_NAME else None
        self._marked = False
        self._claimed = False
        self._decided = 0
        # The row is on the disk when the call returns: a loss of power must not take a promise with it.
        self._file = SQLiteFile(
            path,
            Settings(
                name="the list of what is to be pinned,",
                unharmed="nothing that was stored is harmed, and what was to be pinned still is",
                repair=(
                    "Stop all programs that use this directory and save what can be read of it with: "
                    "kachery-cloud repair"
                ),
                prepare=lambda db: make_schema(db, _SCHEMA, _VERSION, path, "a list of pins"),
                busy_seconds=_BUSY_SECONDS,
                durable=True,
                version=_VERSION,
            ),
            read_only=path.exists() and not (can_write(path.parent) and os.access(path, os.W_OK)),
        )

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._file.let_go()

    # --- what users do ----------------------------------------------------------------------------------------------

    def add(
        self,
        cid: CID | str,
        service: str,
        name: str = "",
        meta: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> int:
        """Have a root kept by a service; its row is on the disk when this returns.

        A root that is on its way stays as it is: however often it is stored, it is asked for once. One that was
        refused, failed or was removed is tried again at once. One that is there is `in_question`: others may have
        deleted it at the service meanwhile. Where it is to have other words for the service than before, the service
        is asked anew, in place of what it was asked for before.

        Args:
            cid: of the root.
            service: the name of the service.
            name: what the service's own pages call it; at most 255 characters are sent.
            meta: further words for the service.
            size: of the content in bytes, where it is known.

        Returns:
            The row's number.

        Raises:
            InvalidCID: not a CID.
        """
        root = cid if isinstance(cid, CID) else CID.parse(cid)
        key, now = bytes(root.to_v1()), self._wall()
        words = json.dumps(dict(meta or {}))
        with self._write() as db:
            self._decided += 1
            if meta:
                db.execute(
                    "UPDATE pins SET meta = ?1, name = ?2, state = CASE WHEN state IN ('removing', 'removed') THEN "
                    "state ELSE 'waiting' END, revision = revision + 1 WHERE key = ?3 AND service = ?4 AND meta <> ?1",
                    (words, name[:MAX_NAME], key, service),
                )
            db.execute(
                "INSERT INTO pins (key, service, cid, name, meta, size, state, added, changed) "
                "VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?, ?) ON CONFLICT (key, service) DO UPDATE SET "
                "state = CASE WHEN state IN ('refused', 'failed', 'removing', 'removed') THEN 'waiting' "
                "WHEN state = 'verified' THEN 'pinned' ELSE state END, "
                "request_id = CASE WHEN state IN ('removing', 'removed') THEN '' ELSE request_id END, "
                "revision = revision + (state IN ('refused', 'failed', 'removing', 'removed', 'pinned', 'verified')), "
                "tries = 0, next_try = CASE WHEN state IN ('queued', 'pinning') THEN next_try ELSE 0 END, "
                "problem = CASE WHEN problem = 'stuck' THEN problem ELSE '' END, "
                "last_error = CASE WHEN problem = 'stuck' THEN last_error ELSE '' END, "
                "size = coalesce(excluded.size, size), changed = excluded.changed",
                (key, service, str(root), name[:MAX_NAME], words, size, now, now),
            )
            return db.execute("SELECT id FROM pins WHERE key = ? AND service = ?", (key, service)).fetchone()[0]

    def doubt(self, cid: CID | str, service: str, *, anew: bool = True) -> bool:
        """Have a service that says it has a root asked whether it still has it, and a block fetched back.

        Args:
            cid: the root.
            service: the name of the service.
            anew: where it has it no more, it is asked to keep it anew: for those who want it there. Without, the row
                is refused then, as `gone`; and when the service cannot be asked, it stays `verified` as it was.

        Returns:
            Whether there is such a row.
        """
        root = cid if isinstance(cid, CID) else CID.parse(cid)
        if not self.path.exists():
            return False
        mark = PROVE_AGAIN if anew else ONLY_LOOK
        with self._write() as db:
            self._decided += 1
            return (
                db.execute(
                    # Whoever has asked for it anew, and has no answer yet, gets it.
                    "UPDATE pins SET next_try = CASE WHEN state = 'pinned' AND next_try <> ?1 THEN ?2 ELSE ?3 END, "
                    "revision = revision + 1, tries = 0, problem = '', last_error = '', changed = ?4, state = 'pinned' "
                    f"WHERE key = ?5 AND service = ?6 AND state IN {CLAIMED}",
                    (ONLY_LOOK, PROVE_AGAIN, mark, self._wall(), bytes(root.to_v1()), service),
                ).rowcount
                > 0
            )

    def remove(self, cid: CID | str, service: str) -> bool:
        """Have a service no longer keep a root; whether there was anything to remove."""
        root = cid if isinstance(cid, CID) else CID.parse(cid)
        if not self._is_there():
            return False
        with self._write() as db:
            self._decided += 1
            return (
                db.execute(
                    "UPDATE pins SET revision = revision + 1, tries = 0, next_try = 0, problem = '', last_error = '', "
                    "changed = ?, state = CASE WHEN state = 'waiting' AND request_id = '' AND asked = 0 "
                    "THEN 'removed' ELSE 'removing' END "
                    "WHERE key = ? AND service = ? AND state <> 'removed'",
                    (self._wall(), bytes(root.to_v1()), service),
                ).rowcount
                > 0
            )

    def list(self, *, service: str | None = None, removed: bool = False) -> Entries:
        """All rows, oldest first; those of one service only, and those that were removed, on request."""
        wanted = "" if removed else " AND state <> 'removed'"
        return self._read(f"{_SELECT} WHERE (?1 IS NULL OR service = ?1){wanted} ORDER BY id", (service,))

    def get(self, cid: CID | str, service: str) -> PinEntry | None:
        """The row of a root and a service."""
        root = cid if isinstance(cid, CID) else CID.parse(cid)
        found = self._read(f"{_SELECT} WHERE key = ? AND service = ?", (bytes(root.to_v1()), service))
        return found[0] if found else None

    # --- what the worker does ---------------------------------------------------------------------------------------

    def due(self, service: str, longest: float, limit: int) -> Entries:
        """Rows whose turn it is. One that would be further off than `longest` seconds was put off by a wrong clock."""
        now = self._wall()
        return self._read(
            f"{_SELECT} WHERE service = ? AND state IN {ACTIVE} "
            "AND (next_try <= ? OR (next_try > ? AND next_try < 9e99)) ORDER BY next_try, id LIMIT ?",
            (service, now, now + longest, limit),
        )

    def next_turn(self, service: str) -> float | None:
        """Seconds until the next row's turn; None when there is nothing to wait for."""
        for (at,) in self._rows(
            f"SELECT min(next_try) FROM pins WHERE service = ? AND state IN {ACTIVE} AND next_try < 9e99", (service,)
        ):
            return None if at is None else max(0.0, at - self._wall())
        return None

    def update(self, entry: PinEntry, **values: Any) -> PinEntry | None:
        """Write down what came of a step.

        Returns:
            The row as it is now; None when the user has decided otherwise since `entry` was read. Then only what was
            learned about the service is kept.
        """
        if "last_error" in values:
            values["last_error"] = values["last_error"][:MAX_ERROR_LENGTH]
        values["changed"] = self._wall()
        with self._write() as db:
            row = db.execute("SELECT revision FROM pins WHERE id = ?", (entry.id,)).fetchone()
            same = row is not None and row[0] == entry.revision
            kept = values if same else {name: values[name] for name in _LEARNED if name in values}
            if row is not None and kept:
                columns = ", ".join(f"{name} = ?" for name in kept)
                flat = [json.dumps(list(v)) if isinstance(v, (list, tuple)) else v for v in kept.values()]
                db.execute(f"UPDATE pins SET {columns} WHERE id = ?", (*flat, entry.id))
        for name in ("delegates", "origins"):
            if name in values:
                values[name] = tuple(values[name])
        return replace(entry, **values) if same else None

    def tell(self, service: str, problem: str, error: str, until: float, *, refuse: bool = False) -> None:
        """Write at all rows of a service that are waited for why nothing happens.

        Args:
            service: the name of the service.
            problem: in one word.
            error: the same in a sentence.
            until: when it is asked again; seconds since 1970.
            refuse: rows that wait stand as refused until then.
        """
        refuse_until = until if refuse else None
        with self._write() as db:
            # It was there when the service was last asked, and cannot be asked now: nobody waits for that.
            db.execute(
                "UPDATE pins SET state = 'verified', next_try = 0 "
                "WHERE service = ? AND state = 'pinned' AND next_try = ? AND verified IS NOT NULL",
                (service, ONLY_LOOK),
            )
            db.execute(
                "UPDATE pins SET problem = ?, last_error = ?, changed = ?, next_try = ? "
                "WHERE service = ? AND state = 'pinned' AND next_try <= ?",
                (problem, error[:MAX_ERROR_LENGTH], self._wall(), until, service, ASK_AGAIN),
            )
            db.execute(
                "UPDATE pins SET problem = ?1, last_error = ?2, changed = ?3, "
                "state = CASE WHEN ?4 IS NULL THEN state ELSE 'refused' END, "
                "next_try = CASE WHEN ?4 IS NULL THEN next_try ELSE ?4 END "
                "WHERE service = ?5 AND state = 'waiting' AND (last_error <> ?2 OR ?4 IS NOT NULL)",
                (problem, error[:MAX_ERROR_LENGTH], self._wall(), refuse_until, service),
            )

    def begin_anew(self, problems: Sequence[str], service: str | None = None) -> None:
        """Let rows that were refused for one of these problems be due again, of one service or of all.

        For when the settings may be others, or the user says so. Rows that were removed long ago are forgotten.
        """
        if not self._is_there():
            return
        with self._write() as db:
            marks = ", ".join("?" * len(problems))
            db.execute(
                "UPDATE pins SET state = 'waiting', next_try = 0 "
                f"WHERE state = 'refused' AND problem IN ({marks}) AND service = coalesce(?, service)",
                (*problems, service),
            )
            db.execute(
                "UPDATE pins SET next_try = 0 "
                "WHERE state IN ('waiting', 'uploading', 'failed', 'removing') AND problem <> 'rate' "
                "AND service = coalesce(?, service)",
                (service,),
            )
            db.execute(
                "DELETE FROM pins WHERE state = 'removed' AND changed < ?", (self._wall() - REMOVED_DAYS * 86400,)
            )

    def restore(self, row: Mapping[str, Any]) -> None:
        """Put a row back as it was, `key` among its columns. For the repair of a damaged outbox."""
        names = [name for name in ("key", *COLUMNS) if name != "id"]
        with self._write() as db:
            db.execute(
                f"INSERT OR IGNORE INTO pins ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                [row[name] for name in names],
            )

    def version(self) -> int:
        """A number that changes when others write, and with each decision of a user through this outbox.

        Others are other processes, and other outboxes of this one.
        """
        return self._file.changes() + (self._decided << 64) if self._is_there() else 0

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by service and state."""
        found: dict[str, dict[str, int]] = {}
        for service, state, count in self._rows("SELECT service, state, count(*) FROM pins GROUP BY 1, 2"):
            found.setdefault(service, {})[state] = count
        return found

    # --- inside -----------------------------------------------------------------------------------------------------

    def _read(self, sql: str, args: Sequence[Any]) -> Entries:
        try:
            return [entry_of(row) for row in self._rows(sql, args)]
        except (ValueError, TypeError) as error:
            raise DamagedRepo(
                f"{self.path}, where it is written what is to be pinned, is damaged ({error}). Stop all programs that "
                "use this directory and save what can be read of it with: kachery-cloud repair"
            ) from error

    def _rows(self, sql: str, args: Sequence[Any] = ()) -> Sequence[Any]:
        """The rows of a query; none where nothing was ever written."""
        if not self._is_there():
            return ()
        self._check()
        return self._file.all(sql, args)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        self._is_there()
        self._check()
        with self._file.write() as db:
            yield db
        self._set_mark()

    def _is_there(self) -> bool:
        """Whether there is an outbox.

        Raises:
            DamagedRepo: there must be one, and it is gone.
        """
        if self.path.exists():
            return True
        if self._mark is not None and self._mark.exists():
            raise _lost(self.path, "missing")
        return False

    def _set_mark(self) -> None:
        """Note that there is an outbox, from its first row on; also beside one of an older version."""
        if self._mark is None or self._marked:
            return
        with contextlib.suppress(OSError):  # the row is written, and the next one tries again
            if not self._mark.exists():
                write_whole(self._mark, b"")
            self._marked = True

    def _check(self) -> None:
        """See before each use that this machine may use the file, and that it is not cut.

        It has a header from its first commit on. One that is empty was cut, and its rows are lost.
        """
        if not self._claimed:
            claim(self.path.parent)
            self._claimed = True
        check_own_file(self.path)
        end = time.monotonic() + _MAKING_SECONDS
        while self.path.exists() and self.path.stat().st_size == 0:
            if time.monotonic() > end:
                raise _lost(self.path, "empty")
            time.sleep(0.02)  # another process is making it just now


def _lost(path: Path, how: str) -> DamagedRepo:
    return DamagedRepo(
        f"{path}, where it is written what is to be pinned, is {how}: its list is lost. Begin a new one with "
        "kachery-cloud repair, and pin again what matters (kachery-cloud-pins add URI)."
    )
