"""Forks and databases: what is under way ends or goes on, and a child never uses what it inherited."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kachery_p2p import forks, sqlite_forks
from kachery_p2p.errors import RepoError
from kachery_p2p.repo.fileio import WriteBack
from kachery_p2p.repo.repo import Repo
from kachery_p2p.sqlite import Settings, SQLiteFile

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

#: Seconds after which a test that hangs is ended.
PATIENCE = 60.0


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")


SETTINGS = Settings(name="the numbers", unharmed="", repair="", prepare=_prepare, per_thread=True)


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[SQLiteFile]:
    file = SQLiteFile(tmp_path / "numbers.sqlite", SETTINGS)
    add(file, 1)
    yield file
    file.close()


def add(file: SQLiteFile, number: int) -> None:
    with file.write() as db:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))


def count(file: SQLiteFile) -> int:
    return file.one("SELECT count(*) FROM numbers")[0]


def in_child(work: Callable[[], object]) -> int:
    """Fork, do something in the child, and return its exit code: 0, or 1 when it raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except RepoError as error:
            code = 2 if "forked in the middle" in str(error) else 1
        finally:
            os._exit(code)
    return exit_code_of(pid)


def exit_code_of(child: int) -> int:
    """Wait for a child; one that hangs is killed, and its code is -9."""
    end = time.monotonic() + PATIENCE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1])


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def open_databases(folder: Path) -> list[str]:
    """The databases of a folder that this process has open."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return [name for name in names if name.startswith(str(folder))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_connection_crosses_a_fork(numbers: SQLiteFile, tmp_path: Path) -> None:
    """The child begins without a connection, also without those of other threads; both sides open their own."""
    ready, leave = threading.Event(), threading.Event()

    def other() -> None:
        count(numbers)
        ready.set()
        leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(PATIENCE)
    assert open_databases(tmp_path)

    def work() -> None:
        assert not open_databases(tmp_path)
        add(numbers, 2)
        assert count(numbers) == 2

    assert in_child(work) == 0
    leave.set()
    thread.join()
    assert count(numbers) == 2


def test_a_long_read_is_interrupted_and_begins_anew(numbers: SQLiteFile) -> None:
    """A fork does not wait for a long query of another thread, and that thread still gets the whole answer."""
    answers: list[int] = []
    long = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3000000) SELECT count(*) FROM c"
    thread = threading.Thread(target=lambda: answers.append(numbers.one(long)[0]))
    thread.start()
    wait_until(lambda: any(handle.reading for handle in numbers._all))
    assert in_child(lambda: count(numbers)) == 0
    thread.join()
    assert answers == [3000000]


def test_a_transaction_is_waited_for(numbers: SQLiteFile) -> None:
    """A fork waits for the end of another thread's transaction; what that reads and writes meanwhile is in it."""
    began, forking = threading.Event(), threading.Event()

    def other() -> None:
        with numbers.write() as db:
            began.set()
            wait_until(lambda: sqlite_forks.fork is not None)
            # It needs this database, and perhaps another one, to come to its end.
            assert count(numbers) == 1
            forking.set()
            db.execute("INSERT INTO numbers VALUES (2)")

    thread = threading.Thread(target=other)
    thread.start()
    began.wait(PATIENCE)
    assert in_child(lambda: add(numbers, 3)) == 0
    thread.join()
    assert forking.is_set()
    assert count(numbers) == 3


def test_a_transaction_that_does_not_end(numbers: SQLiteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork goes on without the end of a transaction that takes too long. The child says that it cannot use the data;
    the parent's transaction is as if nothing had been."""
    monkeypatch.setattr(sqlite_forks, "FORK_SECONDS", 0.05)
    began, leave = threading.Event(), threading.Event()

    def other() -> None:
        with numbers.write() as db:
            db.execute("INSERT INTO numbers VALUES (2)")
            began.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    began.wait(PATIENCE)
    assert in_child(lambda: count(numbers)) == 2
    assert in_child(lambda: add(numbers, 3)) == 2
    assert in_child(lambda: in_child(lambda: count(numbers)) == 2 or sys.exit(1)) == 0
    leave.set()
    thread.join()
    assert count(numbers) == 2
    assert in_child(lambda: add(numbers, 3)) == 0
    assert count(numbers) == 3


def test_a_fork_inside_the_own_transaction(numbers: SQLiteFile) -> None:
    """Where the thread that forks is in a transaction (in a signal handler, say), the parent's goes on. Whatever the
    child tries with it fails."""
    with numbers.write() as db:
        db.execute("INSERT INTO numbers VALUES (2)")

        def work() -> None:
            with pytest.raises(sqlite3.DatabaseError):
                db.execute("INSERT INTO numbers VALUES (3)")
            with pytest.raises(sqlite3.DatabaseError):
                db.execute("COMMIT")
            count(numbers)

        assert in_child(work) == 2
    assert count(numbers) == 2


_LEAVES_THE_BLOCK = """
import os, sys
from pathlib import Path
from kachery_p2p.repo.repo import Repo
from kachery_p2p.repo.catalog import insert_blocks
repo = Repo.open(sys.argv[1])
with repo._catalog.write() as db:
    db.execute("PRAGMA cache_size=5")
    for n in range(2000):  # much more than the cache holds, so that it is in the log before the commit
        insert_blocks(db, [(b"%d" % n, bytes(3000))])
    pid = os.fork()
    if pid == 0:
        sys.exit("the child leaves")  # through the block, and to the end of the interpreter
    os.waitpid(pid, 0)
    insert_blocks(db, [(b"last", b"")])
print(repo._catalog.one("SELECT count(*) FROM blocks")[0], repo._catalog.one("PRAGMA integrity_check")[0])
"""


def test_a_child_that_leaves_the_block_and_ends(tmp_path: Path) -> None:
    """A child that ends, by way of the transaction's end and the interpreter's, undoes nothing of its parent's."""
    done = subprocess.run(
        [sys.executable, "-c", _LEAVES_THE_BLOCK, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "2001 ok\n"
    with Repo.open(tmp_path) as repo:
        assert repo.stats.blocks == 2001


def test_a_fork_without_warning(tmp_path: Path) -> None:
    """A program that forks by itself and only tells Python afterwards: the child says that it cannot use the data."""
    program = (
        "import _imp, ctypes, os, sys\n"
        "from kachery_p2p.errors import RepoError; from kachery_p2p.repo.repo import Repo\n"
        "repo = Repo.open(sys.argv[1]); repo.store_bytes(b'before'); fork = ctypes.PyDLL(None).fork\n"
        "_imp.acquire_lock()\n"  # Python 3.13 insists on that in the child
        "if (pid := fork()) == 0:\n"
        "    ctypes.pythonapi.PyOS_AfterFork_Child()\n"
        "    try: repo.store_bytes(b'child')\n"
        "    except RepoError as error: os._exit(7 if 'forked in the middle' in str(error) else 1)\n"
        "    os._exit(1)\n"
        "_imp.release_lock()\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "repo.store_bytes(b'after'); print(code, len(repo.list_files()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "7 2\n", done.stderr


def test_waiting_for_another_process_holds_up_no_fork(numbers: SQLiteFile, tmp_path: Path) -> None:
    """A thread that waits for another process to finish writing is no transaction that a fork must wait for."""
    holder = sqlite3.connect(tmp_path / "numbers.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=add, args=(numbers, 2))
    thread.start()
    wait_until(lambda: any(handle.depth for handle in numbers._all))
    try:
        # Not refused, so that the fork had every connection closed.
        assert in_child(lambda: count(numbers)) == 0
        assert thread.is_alive()
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    thread.join()
    assert count(numbers) == 2


def test_two_threads_fork_at_once(numbers: SQLiteFile) -> None:
    """Forks of several threads take turns, while others write."""
    stop = threading.Event()
    codes: list[int] = []

    def write() -> None:
        while not stop.is_set():
            add(numbers, 0)

    def fork() -> None:
        for _ in range(10):
            codes.append(in_child(lambda: add(numbers, 7)))

    writer = threading.Thread(target=write)
    forkers = [threading.Thread(target=fork) for _ in range(3)]
    for thread in (writer, *forkers):
        thread.start()
    for thread in forkers:
        thread.join()
    stop.set()
    writer.join()
    assert codes == [0] * 30
    assert numbers.one("SELECT count(*) FROM numbers WHERE n = 7")[0] == 30


def test_what_is_in_memory_alone_is_kept() -> None:
    """A database without a file is copied into the child with all that is in it."""
    file = SQLiteFile(None, Settings(name="numbers", unharmed="", repair="", prepare=_prepare))
    add(file, 1)

    def work() -> None:
        add(file, 2)
        assert count(file) == 2

    assert in_child(work) == 0
    assert count(file) == 1
    file.close()


def test_a_fork_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that another thread is importing can be imported by the child, too."""
    (tmp_path / "slow_to_import.py").write_text(
        "import threading\nbegan, leave = threading.Event(), threading.Event()\n"
        "import builtins\nbuiltins.slow_import = began, leave\nbegan.set()\nleave.wait(60)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    thread = threading.Thread(target=lambda: __import__("slow_to_import"))
    thread.start()
    wait_until(lambda: getattr(__import__("builtins"), "slow_import", None) is not None)
    leave = __import__("builtins").slow_import[1]
    waiting = threading.Timer(0.05, leave.set)
    waiting.start()
    assert forks._owners() != []

    def work() -> None:
        assert __import__("slow_to_import").whole

    assert in_child(work) == 0
    assert leave.is_set()
    thread.join()
    waiting.join()
    del __import__("builtins").slow_import


def test_a_child_that_goes_on_with_a_store(tmp_path: Path) -> None:
    """A child that returns from the progress callback has no threads to hash with: it is told so, and does not hang."""
    with Repo.open(tmp_path / "repo") as repo:
        path = tmp_path / "large"
        path.write_bytes(os.urandom(40 << 20))
        children: list[int] = []

        def progress(done: int, total: int) -> None:
            if not children:
                children.append(os.fork())

        try:
            stored = repo.store_file(path, progress=progress)
        except RepoError:
            if children == [0]:
                os._exit(3)
            raise
        assert exit_code_of(children[0]) == 3
        assert stored.path.read_bytes() == path.read_bytes()


def test_own_databases_are_not_stored(tmp_path: Path) -> None:
    """The catalog itself cannot be stored or linked: closing it would drop the locks that SQLite has on it."""
    with Repo.open(tmp_path / "repo") as repo:
        (tmp_path / "link").symlink_to(tmp_path / "repo" / "catalog.sqlite")
        for path in (tmp_path / "repo" / "catalog.sqlite", tmp_path / "link", tmp_path / "repo" / "catalog.sqlite-shm"):
            with pytest.raises(RepoError, match="data directory"):
                repo.store_file(path)
            with pytest.raises(RepoError, match="data directory"):
                repo.link_file(path)


def test_a_child_waits_for_no_thread_that_syncs(tmp_path: Path) -> None:
    """The thread that writes a growing file out may have its lock when the process forks: a child that leaves the store
    does not wait for it."""
    holding, release = threading.Event(), threading.Event()
    with open(tmp_path / "growing", "wb") as file:
        write_back = WriteBack(file.fileno())

        def hold() -> None:
            with write_back._wake:
                holding.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        try:
            assert in_child(write_back.close) == 0
        finally:
            release.set()
            thread.join()
            write_back.close()


def test_a_child_that_leaves_a_store_takes_nothing_with_it(tmp_path: Path) -> None:
    """A progress callback forks, and the child's exception leaves the store there: the parent's file is not removed."""
    with Repo.open(tmp_path / "repo") as repo:
        path = tmp_path / "large"
        path.write_bytes(os.urandom(20 << 20))
        children: list[int] = []

        def progress(done: int, total: int) -> None:
            if not children:
                children.append(os.fork())
                if children == [0]:
                    raise KeyboardInterrupt

        try:
            stored = repo.store_file(path, progress=progress)
        except KeyboardInterrupt:
            os._exit(3)
        assert exit_code_of(children[0]) == 3
        assert stored.path.read_bytes() == path.read_bytes()
        assert list((tmp_path / "repo" / "tmp").iterdir()) == []
