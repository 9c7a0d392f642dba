"""How SQLite connections and forks get along: the connections of this process, and who uses them.

SQLite keeps account, in the memory of the process, of the locks that the process has on each file. A forked
child inherits the account but not the locks: it then believes that it may read what others truncate under it. So no
connection crosses a fork:

    before the fork     no use of a connection begins any more (`fork` is set); each use that is under way ends: long
                        reads are interrupted, transactions are waited for. Then all connections are closed.
    after it            on both sides each connection is opened again when it is needed. A read that was interrupted
                        begins anew.

A use that does not end within `FORK_SECONDS`, or one that is the forking thread's own (a signal handler that forks
while that thread is in a transaction), goes on in the parent as if nothing had happened. The child could then only use
SQLite at the risk of the data, so it does not use it at all: there each method raises RepoError, and what it inherited
is left alone for ever, not even freed. The same holds for a fork that runs no `before`, as some web servers do it.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from kachery_p2p import forks
from kachery_p2p.errors import RepoError

#: Seconds that a fork waits for transactions that are under way. They take milliseconds, on a slow disk a second, and
#: many of them on one that others keep busy. Longer only waits who forks while the transaction waits for that thread.
FORK_SECONDS = 20.0
#: Seconds that the end of the interpreter waits for them.
EXIT_SECONDS = 5.0
#: Seconds between two looks at a read that was told to stop.
LOOK_SECONDS = 0.02

#: Size, time and number of a database and of its log.
Stamp = tuple[int, int, int]
Stamps = tuple[Stamp | None, Stamp | None]


class Handle:
    """A connection, open or closed, and the lock of whoever uses it."""

    __slots__ = (
        "db",
        "depth",
        "durable",
        "keep",
        "lock",
        "opened",
        "reading",
        "reads_until",
        "siblings",
        "stamps",
        "thread",
        "user",
    )

    def __init__(self, siblings: set[Handle], *, keep: bool, thread: int | None) -> None:
        self.lock = threading.RLock()
        #: All of its file.
        self.siblings = siblings
        self.db: sqlite3.Connection | None = None
        #: It lives in memory alone, so it is not closed.
        self.keep = keep
        #: The only thread that uses it, by number; None when there are several.
        self.thread = thread
        #: Transactions under way (0 or 1), by which thread, and whether one statement is being read.
        self.depth = 0
        self.user = 0
        self.reading = False
        self.durable = False
        #: How often it was opened.
        self.opened = 0
        #: Of the files as they were when they were opened without SQLite's locks; None where these are used.
        self.stamps: Stamps | None = None
        #: When it is to be opened anew, because it was only opened for reading on a full disk; else 0 (time.monotonic).
        self.reads_until = 0.0
        siblings.add(self)
        _handles.add(self)

    def interrupt(self) -> None:
        """Stop a read that is not part of a transaction. For other threads."""
        db = self.db
        if self.reading and not self.depth and db is not None:
            with suppress(sqlite3.Error):
                db.interrupt()

    def claim(self, end: float) -> bool:
        """Have the lock by the time `end`, with nothing under way; False without it."""
        while not self.lock.acquire(timeout=LOOK_SECONDS):
            if time.monotonic() > end:
                return False
            self.interrupt()
        if self.depth or self.reading:
            # This thread's own: it was stopped in the middle by what is now being done.
            self.lock.release()
            return False
        return True

    def close(self) -> None:
        """Close the connection, the lock held."""
        db, self.db = self.db, None
        if db is not None:
            db.close()

    def drop(self) -> None:
        """Nobody will use it any more."""
        self.siblings.discard(self)
        _handles.discard(self)


class End:
    """Closes a connection when its thread, or the object that it belongs to, is no more."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        handle = self._handle
        # In a child that was forked just now the lock may be one that nobody gives back; `_after_in_child` sees to it.
        # (At the interpreter's end the module may be empty already.)
        if _pid == getpid():
            with handle.lock:
                handle.close()
            handle.drop()


# --- forks -----------------------------------------------------------------------------------------------------------


class _Fork:
    """A fork under way: who forks, and whose connections were closed for it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.claimed: list[Handle] = []
        self.over = threading.Event()


_handles: set[Handle] = set()
#: The fork that is under way, if one is.
fork: _Fork | None = None
_one_fork = threading.RLock()
_pid = os.getpid()
#: This process was forked while a connection was in use, so it must not use any.
unusable = False
#: Connections that may not even be freed here.
_left_alone: list[sqlite3.Connection] = []


def wait_for_fork() -> None:
    """Wait until a fork by another thread is over, unless this thread is in a transaction that the fork waits for."""
    current = fork
    if current is None:
        return
    me = threading.get_ident()
    if current.thread == me:
        raise RepoError("A data directory cannot be used by what is called before a fork. Use it after the fork.")
    if not any(handle.depth and handle.user == me for handle in list(_handles)):
        current.over.wait()


def _before_fork() -> None:
    global fork
    _one_fork.acquire()
    fork = current = _Fork()
    end = time.monotonic() + FORK_SECONDS
    # A transaction that is waited for may use a further connection meanwhile: until there are no new ones.
    given_up: set[Handle] = set()
    while waiting := [h for h in list(_handles) if h not in current.claimed and h not in given_up]:
        for handle in waiting:
            handle.interrupt()
        for handle in waiting:
            if not handle.claim(end):
                given_up.add(handle)
                continue
            current.claimed.append(handle)
            if not handle.keep:
                with suppress(sqlite3.Error):
                    handle.close()


def _after_in_parent() -> None:
    global fork
    ended, fork = fork, None
    if ended is not None:
        for handle in ended.claimed:
            handle.lock.release()
        ended.over.set()
    with suppress(RuntimeError):  # an interrupt came before this thread had it
        _one_fork.release()


def _after_in_child() -> None:
    global fork, _one_fork, _pid, unusable
    begun, fork = fork, None
    _one_fork = threading.RLock()
    _pid = os.getpid()
    me = threading.get_ident()
    for handle in list(_handles):
        claimed = begun is not None and handle in begun.claimed
        # Its lock may be held by a thread that there is not in this process.
        handle.lock = threading.RLock()
        if not claimed and not (begun is None and handle.db is None):
            unusable = True
            if handle.db is not None:
                _leave_alone(handle.db, mine=handle.user == me and handle.depth > 0)
                handle.db = None
        if handle.thread not in (None, me):
            handle.drop()


def _leave_alone(db: sqlite3.Connection, *, mine: bool) -> None:
    """Never close or free an inherited connection, not even when the interpreter ends.

    Its end would undo, in memory that is shared with the parent, what the parent is writing.
    """
    _left_alone.append(db)
    with suppress(ImportError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
    if mine:
        # The code that was in the transaction goes on here, too. Whatever it tries now fails.
        with suppress(sqlite3.Error):
            db.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)


def _close_at_exit() -> None:
    end = time.monotonic() + EXIT_SECONDS
    for handle in list(_handles):
        if handle.claim(end):
            try:
                with suppress(sqlite3.Error):
                    handle.close()
            finally:
                handle.lock.release()


# Handlers run before a fork in the opposite order: what `forks` waits for comes last, and is the shorter wait.
assert forks
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
atexit.register(_close_at_exit)
