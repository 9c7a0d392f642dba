"""Small values when processes are killed or forked, the power is lost, the disk is full: what was stored is there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kachery_p2p.dag.profiles import UNIXFS_V1_2025
from kachery_p2p.errors import DiskFull, KacheryError
from kachery_p2p.repo import Repo, seen
from kachery_p2p.repo import packing as packing_module
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.small import SmallFile
from tests.helpers.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")

ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run some Python with the repo imported."""
    head = "import sys, os, threading; from pathlib import Path; from kachery_p2p.repo import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def value(name: object) -> bytes:
    return f"value {name}".encode()


def cid_of(name: object):
    return SmallFile.of(value(name), UNIXFS_V1_2025).cid


def check(repo: Repo, names: list[str]) -> None:
    """All these values are here, and nothing is wrong."""
    assert [name for name in names if repo.packed_file(cid_of(name)) != value(name)] == []
    assert repo.verify() == []


# --- killed ----------------------------------------------------------------------------------------------------------

STORE = """
repo = Repo.open(sys.argv[1])
def work(thread):
    for number in range(100000):
        name = f"{sys.argv[2]}.{thread}.{number}"
        repo.store_value(f"value {name}".encode())
        os.write(1, f"{name}\\n".encode())
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def test_killed_in_the_middle_of_group_commits(tmp_path: Path) -> None:
    """Two processes with four threads each are killed with -9 again and again: what was said to be stored is there."""
    told: list[str] = []
    for step in range(4):
        running = [start(STORE, tmp_path, f"{step}.{number}") for number in range(2)]
        for process in running:
            assert process.stdout is not None
            for _ in range(30 + 37 * step):
                told.append(process.stdout.readline().strip())
        for process in running:
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            # The last line may have been cut by the end of the process.
            told += [line.strip() for line in process.stdout if line.endswith("\n")]
            process.wait(PATIENCE)
            process.stdout.close()
        with Repo.open(tmp_path) as repo:
            check(repo, told)
    assert len(told) > 500
    assert Repo.rebuild(tmp_path) == []
    with Repo.open(tmp_path) as repo:
        check(repo, told)


DIE = """
import kachery_p2p.repo.packing as packing
repo = Repo.open(sys.argv[1])
repo.store_value(b"value before")
step = sys.argv[2]
def die(*args, **kw):
    os.kill(os.getpid(), 9)
def half(fd, data, offset):
    os.pwrite(fd, data[: len(data) // 2], offset)
    die()
if step == "half": packing.write_at = half
if step == "written": packing._sync = die
if step == "synced": packing.add_rows = die
if step == "rows": packing.set_mark = die
repo.store_value(b"value during")
"""


@pytest.mark.parametrize("step", ["half", "written", "synced", "rows"])
def test_killed_at_each_step(tmp_path: Path, step: str) -> None:
    """Each half-done store is there whole or not at all when the repo is opened, and the next goes on behind it."""
    process = start(DIE, tmp_path, step)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    with Repo.open(tmp_path) as repo:
        check(repo, ["before"])
        during = repo.packed_file(cid_of("during"))
        assert during == (None if step == "half" else value("during"))
        repo.store_value(value("during"))
        repo.store_value(value("after"))
        check(repo, ["before", "during", "after"])
        assert repo.stats.files == 3
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["1.car"]
    assert Repo.rebuild(tmp_path) == []
    with Repo.open(tmp_path) as repo:
        check(repo, ["before", "during", "after"])


def test_a_writer_goes_on_behind_one_that_was_killed(tmp_path: Path) -> None:
    """Also where the repo was open all the time."""
    with Repo.open(tmp_path) as repo:
        repo.store_value(value("first"))
        for step in ("half", "synced"):
            process = start(DIE, tmp_path, step)
            process.communicate(timeout=PATIENCE)
            assert process.returncode == -signal.SIGKILL
            repo.store_value(value(step))
        check(repo, ["first", "before", "half", "during", "synced"])


# --- the power is lost -----------------------------------------------------------------------------------------------


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk, in order: 'write', 'sync data', 'sync folder', 'commit'."""
    seen: list[str] = []
    fsync, fdatasync, write = os.fsync, os.fdatasync, Catalog.write
    write_at = packing_module.write_at

    def record_fsync(fd: int) -> None:
        fsync(fd)
        seen.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync data")

    def record_fdatasync(fd: int) -> None:
        fdatasync(fd)
        seen.append("sync data")

    def record_write_at(fd: int, data: bytes, offset: int) -> None:
        write_at(fd, data, offset)
        seen.append("write")

    @contextmanager
    def record_commit(self: Catalog, *, durable: bool = False) -> Iterator[object]:
        with write(self, durable=durable) as db:
            yield db
        seen.append("durable commit" if durable else "commit")

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "fdatasync", record_fdatasync)
    monkeypatch.setattr(packing_module, "write_at", record_write_at)
    monkeypatch.setattr(Catalog, "write", record_commit)
    return seen


def test_the_order_of_a_store(tmp_path: Path, events: list[str]) -> None:
    """The bytes are on the disk before the rows are committed: one sync a value, and the folder's for a new pack.

    The commit is that of the list of what is here, too.
    """
    with Repo.open(tmp_path) as repo:
        events.clear()
        repo.store_value(b"first")
        assert events == ["write", "sync data", "sync folder", "commit"]
        events.clear()
        repo.store_value(b"second")
        assert events == ["write", "sync data", "commit"]
        events.clear()
        repo.store_value(b"second")
        assert events == []


def test_a_folder_of_many_files_is_one_commit(
    tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 files: one sync of a pack, one commit, one that notes what they are; the record of the folder; the list."""
    monkeypatch.setattr(seen, "RACY_NS", -(10**18))  # all are taken to have been written long ago
    (tmp_path / "folder").mkdir()
    for number in range(300):
        (tmp_path / "folder" / str(number)).write_bytes(value(number))
    with Repo.open(tmp_path / "data") as repo:
        repo.store_value(b"so that there is a pack")
        events.clear()
        repo.store_directory(tmp_path / "folder")
        stored = ["write", "sync data", "commit", "commit"]
        assert events == [*stored, "sync data", "sync folder", "durable commit", "durable commit"]


def test_threads_share_syncs(tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What eight threads store while one sync is under way takes one more."""
    began, go_on = threading.Event(), threading.Event()
    sync = packing_module._sync

    def slow_sync(fd: int) -> None:
        began.set()
        assert go_on.wait(PATIENCE)
        sync(fd)

    with Repo.open(tmp_path) as repo, ThreadPoolExecutor(9) as pool:
        repo.store_value(b"so that there is a pack")
        monkeypatch.setattr(packing_module, "_sync", slow_sync)
        events.clear()
        stores = [pool.submit(repo.store_value, value(0))]
        assert began.wait(PATIENCE)
        waiting = repo._placer.packer._group._waiting
        stores += [pool.submit(repo.store_value, value(number)) for number in range(1, 9)]
        while len(waiting) < 8:
            assert not any(store.done() for store in stores)
        go_on.set()
        for store in stores:
            store.result(PATIENCE)
        assert [event for event in events if event != "commit"] == ["write", "sync data"] * 2
        assert events[:3] == ["write", "sync data", "commit"]
        check(repo, [str(number) for number in range(9)])


def copy_catalog(directory: Path, to: Path) -> None:
    to.mkdir()
    for path in directory.glob("catalog.sqlite*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, to)


def test_commits_that_were_lost(tmp_path: Path) -> None:
    """The packs were synced, the commits were not: all values are there when the repo is opened."""
    data = tmp_path / "data"
    with Repo.open(data) as repo:
        repo.store_value(value("first"))
        with repo._catalog.write(durable=True):
            pass
        copy_catalog(data, tmp_path / "kept")
        for number in range(50):
            repo.store_value(value(number))
        removed = repo.store_value(value("removed")).cid
        repo.remove(removed)
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    for path in (tmp_path / "kept").iterdir():
        shutil.copy(path, data)
    with Repo.open(data) as repo:
        check(repo, ["first", *map(str, range(50))])
        assert repo.packed_file(removed) is None
        repo.store_value(value("next"))
        check(repo, ["next"])


@pytest.mark.parametrize("end", [b"", bytes(5000), b"\x7f" * 5000, bytes(300) + b"\x01\x55\x12\x20" * 50])
def test_a_store_of_which_some_blocks_reached_the_disk(tmp_path: Path, end: bytes) -> None:
    """Behind what was committed may lie half a file, zeros, anything: it is cut off, and the pack goes on."""
    with Repo.open(tmp_path) as repo:
        repo.store_value(value("first"))
        pack = tmp_path / "packs" / "1.car"
        size = pack.stat().st_size
        repo.store_value(value("second"))
    with pack.open("r+b") as file:
        file.seek(size + 30)
        file.truncate()
        file.write(end)
    with Repo.open(tmp_path) as repo:
        with repo._catalog.write() as db:
            db.execute("DELETE FROM packed WHERE offset > ?", (size,))
            db.execute("DELETE FROM kept WHERE key = ?", (bytes(cid_of("second").to_v1()),))
            db.execute("UPDATE packs SET size = ?", (size,))
        repo.store_value(value("third"))
        assert pack.stat().st_size < size + 100
        check(repo, ["first", "third"])


# --- several processes, forks ----------------------------------------------------------------------------------------


def test_processes_store_at_once(tmp_path: Path) -> None:
    """Processes whose values overlap do not disturb each other; each has a pack to itself while it writes."""
    code = (
        "repo = Repo.open(sys.argv[1])\n"
        "for i in range(int(sys.argv[2]), int(sys.argv[2]) + 200): repo.store_value(f'value {i}'.encode())\n"
        "repo.close()"
    )
    running = [start(code, tmp_path, first) for first in (0, 100, 200, 300)]
    for process in running:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    with Repo.open(tmp_path) as repo:
        check(repo, [str(number) for number in range(500)])
        assert repo.stats.files == 500
        assert len(list((tmp_path / "packs").iterdir())) <= 4


FORK = """
import json
repo = Repo.open(sys.argv[1])
stop = threading.Event()
told = {}
def work(thread):
    number = 0
    while not stop.is_set():
        name = f"parent.{thread}.{number}"
        repo.store_value(f"value {name}".encode())
        told[name] = True
        number += 1
threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(3)]
for thread in threads: thread.start()
children = []
for child in range(8):
    pid = os.fork()
    if pid == 0:
        for number in range(20):
            repo.store_value(f"value child.{child}.{number}".encode())
        os._exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
stop.set()
for thread in threads: thread.join()
repo.close()
print(json.dumps(list(told)))
"""


def test_forks_in_the_middle_of_group_commits(tmp_path: Path) -> None:
    """Children that are forked while threads store go on with the same repo, and nothing of either side is lost."""
    process = start(FORK, tmp_path)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    names = [*json.loads(out), *(f"child.{child}.{number}" for child in range(8) for number in range(20))]
    with Repo.open(tmp_path) as repo:
        check(repo, names)
        assert repo.stats.files == len(names)


# --- no room ---------------------------------------------------------------------------------------------------------


def no_room(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write_at", "_sync", "sync_folder"])
def test_no_room_for_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The store says so and leaves nothing, and the next one goes on."""
    with Repo.open(tmp_path) as repo:
        if step != "sync_folder":
            repo.store_value(value("first"))
        with monkeypatch.context() as patch:
            patch.setattr(packing_module, step, no_room)
            with pytest.raises(DiskFull, match="Free some space"):
                repo.store_value(value("second"))
        assert repo.packed_file(cid_of("second")) is None
        repo.store_value(value("third"))
        names = ["third"] if step == "sync_folder" else ["first", "third"]
        check(repo, names)
        assert repo.stats.files == len(names)


def test_no_room_for_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are there, the rows are not: the store says so. Later the value is there, or it is not; never half."""
    write = Catalog.write

    @contextmanager
    def full(self: Catalog, *, durable: bool = False) -> Iterator[object]:
        with write(self, durable=durable) as db:
            yield db
            raise DiskFull("There is no room on the disk.")

    with Repo.open(tmp_path) as repo:
        repo.store_value(value("first"))
        with monkeypatch.context() as patch:
            patch.setattr(Catalog, "write", full)
            with pytest.raises(DiskFull):
                repo.store_value(value("second"))
        check(repo, ["first"])
        repo.store_value(value("third"))
        check(repo, ["first", "third"])


def test_a_directory_opens_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted store left cannot be catalogued then; all else is there, and it is catalogued later."""
    process = start(DIE, tmp_path, "synced")
    process.communicate(timeout=PATIENCE)

    @contextmanager
    def full(self: Catalog, *, durable: bool = False) -> Iterator[object]:
        raise DiskFull("There is no room on the disk.")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "write", full)
        with Repo.open(tmp_path) as repo:
            assert repo.packed_file(cid_of("before")) == value("before")
            assert repo.packed_file(cid_of("during")) is None
    with Repo.open(tmp_path) as repo:
        check(repo, ["before", "during"])


def on_a_small_disk(tmp_path: Path, work: Callable[[Path], None]) -> None:
    import ctypes

    disk = tmp_path / "disk"
    disk.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a small file system for this test")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=8m") != 0:
        pytest.skip(f"this system does not let us mount one: {os.strerror(ctypes.get_errno())}")
    try:
        work(disk)
    finally:
        libc.umount2(os.fsencode(disk), 2)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Values are stored until there is no room; all that were stored are there, and more when there is room again."""

    def work(disk: Path) -> None:
        filler = disk / "filler"
        filler.write_bytes(bytes(5_000_000))
        kept: list[str] = []
        with Repo.open(disk / "data") as repo:

            def store_until_full() -> None:
                for number in range(5000):
                    name = f"{number} {'x' * 1000}"
                    repo.store_value(value(name))
                    kept.append(name)

            with pytest.raises(KacheryError, match="room"):
                store_until_full()
            assert kept
            assert [name for name in kept if repo.packed_file(cid_of(name)) != value(name)] == []
            filler.unlink()
            repo.store_value(value("more"))
            check(repo, [*kept, "more"])
        with Repo.open(disk / "data") as repo:
            check(repo, [*kept, "more"])

    on_a_small_disk(tmp_path, work)
