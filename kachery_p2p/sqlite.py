"""SQLite, in one place: opening, write-ahead logs, waiting for other processes, permissions, errors in words.

No connection crosses a fork; how, is told in `sqlite_forks`. Each connection has a lock, held while it is used, which a
forking thread takes; so the normal path costs one lock that is free. Waiting for another process that writes
happens outside that lock, and does not hold up a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kachery_p2p import private, sqlite_forks
from kachery_p2p.errors import DiskFull, KacheryError, NoPermission, RepoError
from kachery_p2p.sqlite_errors import explain, is_busy, needs_recovery, only_read
from kachery_p2p.sqlite_forks import LOOK_SECONDS, End, Handle, wait_for_fork
from kachery_p2p.sqlite_reading import leave_log, may_be_read, says_version, stamps, stamps_anew
from kachery_p2p.sqlite_schema import check_version, stand_in

#: Seconds that SQLite itself waits for another process. The rest of the waiting is done here, where a fork may happen.
_INNER_BUSY_SECONDS = 0.1
#: Seconds between two such waits.
_BUSY_PAUSE = 0.001
#: Seconds for which a database is only read after the disk was found full.
_FULL_DISK_SECONDS = 2.0

Rows = list[Any]
_CONNECT: dict[str, Any] = {
    "uri": True,
    "timeout": _INNER_BUSY_SECONDS,
    "isolation_level": None,
    "check_same_thread": False,
}


@dataclass(frozen=True)
class Settings:
    """How one database is opened, and how it is spoken of.

    Attributes:
        name: what it is, as in "the catalog".
        unharmed: after "no room on the disk": what is safe all the same.
        repair: after "is damaged": what to do.
        prepare: called with the first connection of each object: makes or checks the schema.
        busy_seconds: how long to wait for another process that writes.
        durable: whether each commit is on the disk when it returns; else only those that ask for it.
        version: the `user_version`; written again by a durable commit, which would sync nothing if it changed nothing.
        older: further versions that are read and written as they are.
        lacking: tables, with their columns, that older versions may lack. A connection that only reads one of those
            finds them empty.
        pragmas: statements for each connection.
        readable: others may read it who may read in its folder.
        per_thread: a connection for each thread, so that they read side by side; else one for all.
    """

    name: str
    unharmed: str
    repair: str
    prepare: Callable[[sqlite3.Connection], None]
    busy_seconds: float = 20.0
    durable: bool = False
    version: int | None = None
    older: tuple[int, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    pragmas: tuple[str, ...] = ()
    readable: bool = False
    per_thread: bool = False


class SQLiteFile:
    """One database. Safe to use from many threads, by many processes at once, and on both sides of a fork.

    Args:
        path: the file; None keeps everything in memory, for one object alone.
        settings: see `Settings`.
        read_only: never write, nor make anything. What other processes write meanwhile is seen.
        apart: with `read_only`: the file may be in use on another machine, whose locks and shared memory mean nothing
            here.
        in_memory: keep everything in memory all the same; the path is only spoken of.

    Raises:
        RepoError: from all methods, when the file cannot be used.
        NoPermission, DiskFull: from all methods, when the operating system says so.
    """

    def __init__(
        self,
        path: Path | None,
        settings: Settings,
        *,
        read_only: bool = False,
        apart: bool = False,
        in_memory: bool = False,
    ) -> None:
        self.path = path
        self.settings = settings
        self.read_only = read_only
        self._stamps = stamps_anew if apart else stamps
        self._apart = apart
        self.in_memory = in_memory
        self._file = None if in_memory else path
        self._local = threading.local()
        self._closed = False
        self._prepared = False
        self._one: Handle | None = None
        self._end: End | None = None
        self._all: set[Handle] = set()
        if self._file is None or read_only or not settings.per_thread:
            self._one = Handle(self._all, keep=self._file is None, thread=None)
            self._end = End(self._one)

    def close(self) -> None:
        """Close it, when the uses that are under way in other threads have ended. Twice does nothing."""
        self._closed = True
        self.let_go()
        self._local = threading.local()

    def let_go(self) -> None:
        """Close the file until it is needed again."""
        for handle in list(self._all):
            handle.interrupt()
            with handle.lock:
                handle.close()
            if handle is not self._one:
                handle.drop()

    # --- reading and writing -----------------------------------------------------------------------------------------

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        if sqlite_forks.fork is not None:
            wait_for_fork()
        if self.read_only:
            rows = self.all(sql, parameters)
            return rows[0] if rows else None
        handle: Handle = self._one or getattr(self._local, "handle", None) or self._new_handle()
        with handle.lock:
            reading, handle.reading = handle.reading, True
            try:
                row = (handle.db or self._open(handle)).execute(sql, parameters).fetchone()
                if not (handle.stamps or handle.reads_until) or self._same(handle):
                    return row
                failure = sqlite3.OperationalError("interrupted")
            except sqlite3.Error as error:
                failure = error
            finally:
                handle.reading = reading
        rows = self._again(failure, handle, sql, parameters)
        return rows[0] if rows else None

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """All rows of a query."""
        # The same lines as in `one`: a call more would cost each lookup of a block.
        if sqlite_forks.fork is not None:
            wait_for_fork()
        handle: Handle = self._one or getattr(self._local, "handle", None) or self._new_handle()
        with handle.lock:
            reading, handle.reading = handle.reading, True
            try:
                rows = (handle.db or self._open(handle)).execute(sql, parameters).fetchall()
                if not (handle.stamps or handle.reads_until) or self._same(handle):
                    return rows
                failure = sqlite3.OperationalError("interrupted")
            except sqlite3.Error as error:
                failure = error
            finally:
                handle.reading = reading
        return self._again(failure, handle, sql, parameters)

    @contextmanager
    def write(self, *, durable: bool | None = None) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back when it raises.

        `durable` puts it, and all commits before it, on the disk before this returns.
        """
        if self.read_only:
            raise self._not_writable()
        durable = self.settings.durable if durable is None else durable
        handle: Handle = self._one or getattr(self._local, "handle", None) or self._new_handle()
        end = 0.0
        while True:
            if sqlite_forks.fork is not None:
                wait_for_fork()
            # Not held while another process is waited for.
            with handle.lock:
                try:
                    handle.depth += 1
                    handle.user = threading.get_ident()
                    db = self._begin(handle, durable)
                    if db is not None:
                        try:
                            yield db
                            self._commit(db, durable)
                        except BaseException:
                            # A full disk makes SQLite roll back by itself; then there is nothing left to undo.
                            if handle.db is db and db.in_transaction:
                                db.execute("ROLLBACK")
                            raise
                        return
                except sqlite3.Error as error:
                    raise self._explain(error) from error
                finally:
                    handle.depth -= 1
            end = end or time.monotonic() + self.settings.busy_seconds
            if time.monotonic() > end:
                raise self._explain(sqlite3.OperationalError("database is locked"))
            time.sleep(_BUSY_PAUSE)  # SQLite does not tell when a writer is done

    def changes(self) -> int:
        """A number that changes when another connection has written. For databases with one connection alone."""
        value = self.one("PRAGMA data_version")[0]
        handle = self._one
        assert handle is not None
        return (handle.opened << 32) + value

    # --- inside ------------------------------------------------------------------------------------------------------

    def _new_handle(self) -> Handle:
        """This thread's handle, which is closed when the thread ends."""
        self._check_open()
        handle = Handle(self._all, keep=False, thread=threading.get_ident())
        self._local.handle = handle
        self._local.end = End(handle)
        # The fork may have begun before it was known.
        if sqlite_forks.fork is not None:
            wait_for_fork()
        return handle

    def _check_open(self) -> None:
        self._check_usable()
        if self._closed:
            raise RepoError(f"The repo{self._place()} is closed already.")

    def _check_usable(self) -> None:
        if sqlite_forks.unusable:
            raise self._forked()

    def _open(self, handle: Handle) -> sqlite3.Connection:
        """Open a connection, the lock held."""
        self._check_open()
        handle.stamps, handle.reads_until = None, 0.0
        try:
            if self.read_only:
                db = self._connect_to_read(handle)
            else:
                try:
                    db = self._connect()
                except sqlite3.Error as error:
                    if self._file is None or not isinstance(self._explain(error), DiskFull):
                        raise
                    # Without room for what SQLite makes beside it, what is there can still be read.
                    db = self._connect_to_read(handle)
                    handle.reads_until = time.monotonic() + _FULL_DISK_SECONDS
        except OSError as error:
            raise self._explain(error) from error
        handle.db, handle.durable = db, self.settings.durable
        handle.opened += 1
        return db

    def _connect(self) -> sqlite3.Connection:
        settings, path = self.settings, self._file
        if path is not None and not self._prepared:
            private.make_empty(path, readable=settings.readable)
            for name in ("", "-wal", "-shm"):
                private.fit(path.with_name(path.name + name), readable=settings.readable)
        db = sqlite3.connect(
            path or ":memory:", timeout=_INNER_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in (f"synchronous={'FULL' if settings.durable else 'NORMAL'}", *settings.pragmas):
                db.execute(f"PRAGMA {pragma}")
            if not self._prepared:
                if path is not None:
                    self._patient(lambda: _switch_to_wal(db))
                self._patient(lambda: settings.prepare(db))
                self._prepared = True
            if path is not None and private.is_shared(path.parent):
                # SQLite makes these with the mode of the database, but with the group of this process.
                db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
                for name in ("-wal", "-shm"):
                    private.fit(path.with_name(path.name + name), readable=settings.readable)
        except BaseException:
            db.close()
            raise
        return db

    def _patient(self, work: Callable[[], None]) -> None:
        """Do it again while another process is in the way. SQLite does not wait for everything by itself."""
        end = time.monotonic() + self.settings.busy_seconds
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > end:
                    raise
                time.sleep(LOOK_SECONDS)  # SQLite does not tell when the other process has gone

    def _begin(self, handle: Handle, durable: bool) -> sqlite3.Connection | None:
        """Begin a transaction, the lock held; None while another process writes."""
        if handle.reads_until:
            handle.close()
        try:
            db = handle.db or self._open(handle)
            if handle.reads_until:
                raise sqlite3.OperationalError("database or disk is full")
            if handle.durable != durable:
                db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                handle.durable = durable
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return None
            raise
        return db

    def _commit(self, db: sqlite3.Connection, durable: bool) -> None:
        if durable and self.settings.version is not None:
            # A commit that changes nothing would sync nothing, not even the commits before it.
            db.execute(f"PRAGMA user_version={self.settings.version}")
        self._check_usable()
        db.execute("COMMIT")

    def _again(self, failure: sqlite3.Error, handle: Handle, sql: str, parameters: Sequence[Any]) -> Rows:
        """A read that failed, once more: after a fork that interrupted it, or when another process is done."""
        end = time.monotonic() + self.settings.busy_seconds
        while True:
            if self.read_only and needs_recovery(failure) and time.monotonic() <= end:
                # Whoever wrote was killed in the middle, and only a writer could bring `-shm` in order. It is opened
                # without that, as where there is none.
                with handle.lock:
                    handle.close()
            elif "interrupted" not in str(failure) and (not is_busy(failure) or time.monotonic() > end):
                raise self._explain(failure) from failure
            if handle.depth and handle.user == threading.get_ident():
                # Within a transaction nothing is in the way, and what fails must undo it.
                raise self._explain(failure) from failure
            time.sleep(_BUSY_PAUSE)  # SQLite does not tell when a writer is done
            if sqlite_forks.fork is not None:
                wait_for_fork()
            with handle.lock:
                reading, handle.reading = handle.reading, True
                try:
                    rows = (handle.db or self._open(handle)).execute(sql, parameters).fetchall()
                    if not (handle.stamps or handle.reads_until) or self._same(handle):
                        return rows
                    failure = sqlite3.OperationalError("locked by a writer")
                except sqlite3.Error as error:
                    failure = error
                finally:
                    handle.reading = reading

    # --- reading only ------------------------------------------------------------------------------------------------

    def _connect_to_read(self, handle: Handle) -> sqlite3.Connection:
        """Open a file without ever writing, also where nothing can be made beside it.

        To read a write-ahead log, SQLite needs `-shm` beside it: that of a process which has the database open, or one
        that it may make. Without one there are two ways that SQLite does not guard against a writer, so the files are
        looked at before and after each read: by a log of one's own in memory, or where there is no log, without any.
        So it is also where the file may be in use on another machine.

        Whoever may write there must not make these files either: `readonly_shm` keeps SQLite from it, and where there
        is no log, it is not asked for one.
        """
        path = self._file
        assert path is not None
        where = path.absolute().as_uri()
        if not self._apart and os.path.exists(f"{path}-shm") and os.path.exists(f"{path}-wal"):
            try:
                before = self._stamps(path)
                db = self._checked(sqlite3.connect(f"{where}?mode=ro&readonly_shm=1", **_CONNECT))
                if stand_in(db, self.settings.lacking):
                    handle.stamps = before  # for when a program of this version writes to it
                return db
            except sqlite3.OperationalError as error:
                if is_busy(error):
                    raise
        handle.stamps = self._stamps(path)
        log = path.with_name(path.name + "-wal")
        logged = handle.stamps[1] is not None and handle.stamps[1][0] > 0
        if logged and (not self.read_only or may_be_read(log)):
            db = sqlite3.connect(f"{where}?mode=ro&vfs=unix-none", **_CONNECT)
            leave_log(db)
            db = self._checked(db, "PRAGMA locking_mode=EXCLUSIVE")
        elif logged and self.settings.version is not None and not says_version(path):
            raise RepoError(
                f"All of {path} is still in the log of a program that is writing to it, or was killed, and this "
                "version of Python cannot read that without harm. Use Python 3.12 or newer; or wait until that program "
                "has ended, and where it was killed, let the owner of the directory use it once: kachery-cloud list"
            )
        else:
            db = self._checked(sqlite3.connect(f"{where}?mode=ro&immutable=1", **_CONNECT))
        stand_in(db, self.settings.lacking)
        return db

    def _checked(self, db: sqlite3.Connection, *first: str) -> sqlite3.Connection:
        """A connection that can be read from, and finds what it should find."""
        try:
            for statement in first:
                db.execute(statement)
            if self.settings.version is not None and self._file is not None:
                found = db.execute("PRAGMA user_version").fetchone()[0]
                check_version(found, self.settings.version, self._file, self.settings.older)
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _same(self, handle: Handle) -> bool:
        """Whether the files are still those that were opened; else they are closed."""
        assert self._file is not None
        if handle.reads_until and time.monotonic() > handle.reads_until:
            handle.close()  # there may be room again
        if handle.stamps is None or self._stamps(self._file) == handle.stamps:
            return True
        handle.close()
        return False

    # --- errors ------------------------------------------------------------------------------------------------------

    def _subject(self) -> str:
        return self.settings.name if self.path is None else f"{self.settings.name} {self.path}"

    def _place(self) -> str:
        return "" if self.path is None else f" of {self.path.parent}"

    def _forked(self) -> RepoError:
        return RepoError(
            f"This process was forked in the middle of an access to a data directory, so it cannot use "
            f"{self._subject()}. Nothing is lost. Start worker processes before the data directory is used, or "
            "without a fork (multiprocessing.get_context('spawn'))."
        )

    def _not_writable(self) -> NoPermission:
        assert self.path is not None
        return only_read(self.path.parent)

    def _explain(self, error: sqlite3.Error | OSError) -> KacheryError:
        """The named error for what SQLite, or the system, said."""
        if isinstance(error, KacheryError):
            return error
        if sqlite_forks.unusable:
            return self._forked()
        if isinstance(error, sqlite3.ProgrammingError) and self._closed:
            return RepoError(f"The repo{self._place()} was closed while it was in use ({error}).")
        settings = self.settings
        return explain(
            error,
            self._subject(),
            folder=None if self.path is None else self.path.parent,
            unharmed=settings.unharmed,
            repair=settings.repair,
            busy_seconds=settings.busy_seconds,
        )


def _switch_to_wal(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode=WAL")


def storable(text: str) -> str:
    """Text as a database takes it: half a character (a lone surrogate) is in no name, and becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
