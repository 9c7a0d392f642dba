"""What happens to a repo when processes are killed, the disk is full, or it may not be written."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import DiskFull, NoPermission
from kachery_p2p.repo import Repo
from tests.helpers.patience import PATIENCE, wait_until
from tests.helpers.profiles import custom_profile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes and sets limits as POSIX does")

ROOT = Path(__file__).parents[2]
SIZE = 24_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run some Python with the repo imported; it prints a line, and begins when it is sent one."""
    head = (
        "import sys, os; from pathlib import Path; from kachery_p2p.repo import *\n"
        "from kachery_p2p.dag.cid import CID\n"
        "from kachery_p2p.dag.walk import FileWalk\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def go(*processes: subprocess.Popen[str]) -> None:
    """Let started processes begin, all at the same time."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return out


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill it that long after it began; true when it was still running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check_sound(directory: Path) -> list[Path]:
    """Everything under ipfs/ is whole, with or without a row; nothing else is left. Returns the files there."""
    with Repo.open(directory) as repo:
        stored = [path for path in (directory / "ipfs").rglob("*") if path.is_file()]
        for path in stored:
            assert repo.find_file(CID.parse(path.name)) == path
        assert list((directory / "tmp").iterdir()) == []
        assert repo.verify() == []
    return stored


STORE = "repo = Repo.open(sys.argv[1]); print(repo.store_file(sys.argv[2]).cid, flush=True); repo.close()"
STORE_MANY = """
repo = Repo.open(sys.argv[1])
for i in range(100000):
    repo.store_bytes(b'%d' % i)
    if i == 20: repo.link_file(sys.argv[2])
"""


def test_store_killed_at_many_points(tmp_path: Path, source: Path) -> None:
    """A store killed with -9, early, in the middle or late, leaves no half file; the next store succeeds."""
    began = time.monotonic()
    process = start(STORE, tmp_path / "whole", source)
    go(process)
    cid = finish(process).strip()
    whole = time.monotonic() - began
    killed = 0
    for step in itertools.count():
        if step >= 12 and killed >= 3:
            break
        assert step < 200
        process = start(STORE, tmp_path / "repo", source)
        began = time.monotonic()
        go(process)
        if kill_after(process, whole * (step % 12 + 0.5) / 14):
            killed += 1
        else:  # the machine has less to do than before: that was all the time it takes
            whole = min(whole, time.monotonic() - began)
        for path in check_sound(tmp_path / "repo"):
            assert path.stat().st_size == SIZE
        if step % 4 == 3:
            with Repo.open(tmp_path / "repo") as repo:
                repo.remove(CID.parse(cid))
    with Repo.open(tmp_path / "repo") as repo:
        stored = repo.store_file(source)
        assert str(stored.cid) == cid
        assert stored.path.read_bytes() == source.read_bytes()


def test_small_stores_killed_at_many_points(tmp_path: Path, source: Path) -> None:
    """Of many small stores, each is there whole or not at all when the process is killed."""
    before, folder = 0, tmp_path / "repo" / "ipfs"
    for step in range(5):
        process = start(STORE_MANY, tmp_path / "repo", source)
        go(process)
        enough = before + 1 + 20 * step
        wait_until(lambda enough=enough: sum(path.is_file() for path in folder.rglob("*")) >= enough)
        assert kill_after(process, 0.03 * step)
        stored = check_sound(tmp_path / "repo")
        assert len(stored) >= before
        before = len(stored)
    assert before > 0


LOAD = """
here, there = Repo.open(sys.argv[1]), Repo.open(sys.argv[2])
cid = CID.parse(sys.argv[3])
walk, fetched = FileWalk(cid), 0
with here.download(cid, timeout=100) as download:
    if download.complete is None:
        while not walk.finished:
            for ref in walk.take(8):
                node = here.get_node(ref.cid.multihash)
                if node is not None:
                    walk.feed(ref, node)
                elif download.has([ref]) == [True]:
                    walk.skip(ref)
                else:
                    block = there.get_block(ref.cid.multihash)
                    pieces = walk.feed(ref, block)
                    if ref.length is None:
                        download.allocate(walk.size)
                    # Counted before it is kept: a kill between the two must not hide one.
                    fetched += 1
                    print(fetched, flush=True)
                    download.accept(ref, block, pieces)
                    if fetched == int((sys.argv + [0])[4]):
                        sys.stdin.readline()
        download.finish(walk.size)
here.close(); there.close()
"""


@pytest.mark.parametrize("wrapped", [False, True], ids=["raw", "wrapped"])
def test_load_killed_at_many_points_fetches_each_block_once(tmp_path: Path, source: Path, wrapped: bool) -> None:
    """A load killed with -9 again and again goes on each time, fetches no more than the block that was under way
    twice, and ends with the same bytes."""
    profile = custom_profile("unixfs-v0-2015" if wrapped else None, chunk_size=100_000, width=20)
    with Repo.open(tmp_path / "there") as there:
        cid = there.store_file(source, profile=profile).cid
        blocks = 240 + there.stats.blocks
    fetched, kills = 0, 0
    while True:
        # It is killed while it works, and stands still where a busy machine kills it late.
        process = start(LOAD, tmp_path / "here", tmp_path / "there", cid, 45 if kills < 5 else 0)
        go(process)
        assert process.stdout is not None
        seen = 0
        while line := process.stdout.readline():
            seen = int(line)
            if kills < 5 and seen == 40:
                process.send_signal(signal.SIGKILL)
        process.wait()
        process.communicate()
        fetched += seen
        if process.returncode == 0:
            break
        kills += 1
        with Repo.open(tmp_path / "here") as here:
            assert here.find_file(cid) is None
            assert list((tmp_path / "here" / "ipfs").rglob("*")) == []
    assert kills == 5
    assert blocks <= fetched <= blocks + kills
    assert [path.read_bytes() == source.read_bytes() for path in check_sound(tmp_path / "here")] == [True]


def test_processes_store_the_same_file_at_once(tmp_path: Path, source: Path) -> None:
    """Several processes that store the same file into the same new directory at the same time all succeed."""
    processes = [start(STORE, tmp_path / "repo", source) for _ in range(3)]
    go(*processes)
    cids = {finish(process) for process in processes}
    assert len(cids) == 1
    (path,) = check_sound(tmp_path / "repo")
    assert path.read_bytes() == source.read_bytes()


def test_processes_load_the_same_file_at_once(tmp_path: Path, source: Path) -> None:
    """Two processes that load the same CID at once both end with it, and one of them fetches."""
    with Repo.open(tmp_path / "there") as there:
        cid = there.store_file(source).cid
    processes = [start(LOAD, tmp_path / "here", tmp_path / "there", cid) for _ in range(3)]
    go(*processes)
    fetched = [len(finish(process).split()) for process in processes]
    assert sorted(fetched) == [0, 0, 24]
    (path,) = check_sound(tmp_path / "here")
    assert path.read_bytes() == source.read_bytes()


def test_processes_store_many_small_files_at_once(tmp_path: Path) -> None:
    """Processes whose small files overlap in part do not disturb each other."""
    code = (
        "repo = Repo.open(sys.argv[1])\n"
        "for i in range(int(sys.argv[2]), int(sys.argv[2]) + 60): repo.store_bytes(b'%d' % i)\nrepo.close()"
    )
    processes = [start(code, tmp_path, first) for first in (0, 20, 40)]
    go(*processes)
    for process in processes:
        finish(process)
    assert sorted(int(path.read_bytes()) for path in check_sound(tmp_path)) == list(range(100))


# --- no room ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a small file system for this test")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(mount_point), b"tmpfs", 0, b"size=16m") != 0:
        pytest.skip(f"this system does not let us mount one: {os.strerror(ctypes.get_errno())}")
    try:
        yield mount_point
    finally:
        libc.umount2(os.fsencode(mount_point), 2)


def fill(disk: Path, leave: int) -> Path:
    """Use the disk up, but for some bytes."""
    status = os.statvfs(disk)
    path = disk / "filler"
    with path.open("wb") as out:
        out.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))
    return path


def test_full_disk_is_said_before_copying(small_disk: Path, source: Path) -> None:
    """A file larger than the room left is refused before it is copied; linking it needs no room."""
    with Repo.open(small_disk / "repo") as repo:
        with pytest.raises(DiskFull, match="link the file"):
            repo.store_file(source)
        with pytest.raises(DiskFull):
            repo.store_bytes(source.read_bytes())
        linked = repo.link_file(source)
        assert repo.find_file(linked.cid) == source
    check_sound(small_disk / "repo")


def test_disk_that_fills_up_while_storing(small_disk: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the room ends in the middle, the store is an error in words, leaves nothing, and the repo goes on."""
    import kachery_p2p.repo.storing as storing

    with Repo.open(small_disk / "repo") as repo:
        kept = repo.store_bytes(b"kept")
        monkeypatch.setattr(storing, "free_bytes", lambda folder: None)
        for act in (lambda: repo.store_file(source), lambda: repo.store_bytes(source.read_bytes())):
            with pytest.raises(DiskFull, match="Free some space"):
                act()
        assert repo.find_file(kept.cid) == kept.path
        assert [entry.cid for entry in repo.list_files()] == [kept.cid]
    assert check_sound(small_disk / "repo") == [kept.path]


def test_disk_with_no_room_at_all(small_disk: Path) -> None:
    """With not a byte left, small stores and the catalog say so; when there is room again, all goes on."""
    with Repo.open(small_disk / "repo") as repo:
        kept = repo.store_bytes(b"kept")
        filler = fill(small_disk, leave=0)

        def store_until_full() -> None:
            for i in range(2000):
                repo.store_bytes(b"%d" % i * 1000)

        with pytest.raises(DiskFull):
            store_until_full()
        assert repo.find_file(kept.cid) == kept.path
        assert repo.get_block(kept.cid.multihash) == b"kept"
        filler.unlink()
        more = repo.store_bytes(b"more")
        assert repo.find_file(more.cid) == more.path
    check_sound(small_disk / "repo")


def test_disk_that_fills_up_while_loading(small_disk: Path, source: Path, tmp_path: Path) -> None:
    """A load for which there is no room says so, at once when the size is known; what it has stays for later."""
    from kachery_p2p.dag.walk import FileWalk

    with Repo.open(tmp_path / "there") as there, Repo.open(small_disk / "repo") as here:
        cid = there.store_file(source).cid
        walk = FileWalk(cid)
        with here.download(cid) as download:
            (ref,) = walk.take(1)
            block = there.get_block(cid.multihash)
            assert block is not None
            download.accept(ref, block, walk.feed(ref, block))
            with pytest.raises(DiskFull, match="what is loaded stays"):
                download.allocate(SIZE)
            filler = fill(small_disk, leave=5_000_000)
            refs = walk.take(30)

            def load_until_full() -> None:
                for ref in refs:
                    block = there.get_block(ref.cid.multihash)
                    assert block is not None
                    download.accept(ref, block, walk.feed(ref, block))

            with pytest.raises(DiskFull):
                load_until_full()
        filler.unlink()
        with here.download(cid) as download:
            present = download.has(refs)
        assert 2 < sum(present) < 10
    check_sound(small_disk / "repo")


def test_file_size_limit(tmp_path: Path, source: Path) -> None:
    """A process that may not write files so large (ulimit -f) gets the same error, and leaves nothing."""
    code = """
import resource
from kachery_p2p.errors import DiskFull
repo = Repo.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
try:
    repo.store_file(sys.argv[2])
except DiskFull as why:
    print(why)
repo.close()
"""
    process = start(code, tmp_path / "repo", source)
    go(process)
    assert "ulimit" in finish(process)
    assert check_sound(tmp_path / "repo") == []


# --- no permission ---------------------------------------------------------------------------------------------------

AS_NOBODY = """
from kachery_p2p.errors import KacheryError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
def show(act, *args):
    try:
        print(type(act(*args)).__name__)
    except KacheryError as why:
        print(type(why).__name__, why)
"""


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A temporary folder that other users may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            try:
                folder.chmod(folder.stat().st_mode | 0o055)
            except OSError:
                pytest.skip("the temporary folder cannot be opened to other users")
    return tmp_path


def test_unreadable_file_and_foreign_directory(open_tmp: Path) -> None:
    """A file that may not be read, and whatever would write to another user's data directory, are errors that name
    them. The directory itself can be read."""
    secret = open_tmp / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0)
    theirs = open_tmp / "theirs"
    with Repo.open(theirs) as repo:
        stored = repo.store_bytes(b"x")
    theirs.chmod(0o555)
    (open_tmp / "home").mkdir(mode=0o777)
    (open_tmp / "home").chmod(0o777)
    code = AS_NOBODY + (
        "repo = Repo.open(sys.argv[1] + '/home/repo')\n"
        "show(repo.store_file, sys.argv[1] + '/secret')\n"
        "show(repo.link_file, sys.argv[1] + '/secret')\n"
        "theirs = Repo.open(sys.argv[1] + '/theirs')\n"
        f"assert theirs.find_file(CID.parse('{stored.cid}')).read_bytes() == b'x'\n"
        "show(theirs.store_bytes, b'y')\n"
        "show(Repo.open, sys.argv[1] + '/theirs/below')\n"
        "load_or_create_identity(Path(sys.argv[1] + '/theirs'))\n"
        "show(NodeLock(Path(sys.argv[1] + '/theirs')).try_acquire)\n"
        "repo.close()\n"
    )
    process = start(code, open_tmp)
    go(process)
    lines = finish(process).splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["NoPermission"] * 5
    assert not (theirs / "private.pem").exists()
    assert all(str(open_tmp) in line for line in lines)
    secret.chmod(stat.S_IRUSR | stat.S_IWUSR)
    theirs.chmod(0o755)


def test_read_only_file_system(small_disk: Path) -> None:
    """A data directory on a file system that may not be written can be read; writing to it, or making one, is an error
    that names it."""
    with Repo.open(small_disk / "repo") as repo:
        stored = repo.store_bytes(b"here")
    libc = ctypes.CDLL(None, use_errno=True)
    ms_remount_rdonly = 32 | 1
    if libc.mount(b"none", os.fsencode(small_disk), b"tmpfs", ms_remount_rdonly, None) != 0:
        pytest.skip("this system does not let us make the small file system read-only")
    with Repo.open(small_disk / "repo") as repo:
        assert repo.find_file(stored.cid) == stored.path
        with pytest.raises(NoPermission, match=str(small_disk / "repo")):
            repo.store_bytes(b"more")
    with pytest.raises(NoPermission, match=str(small_disk / "new")):
        Repo.open(small_disk / "new")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Linking and storing a file ten times as large takes no more memory than a small one."""
    code = """
import resource
from dataclasses import replace
from kachery_p2p.dag.profiles import UNIXFS_V0_2015
repo = Repo.open(sys.argv[1])
def peak(size):
    with open(sys.argv[1] + '/file', 'wb') as out:
        for i in range(size >> 20):
            out.write(i.to_bytes(4, 'big') * (1 << 18))
    repo.link_file(sys.argv[1] + '/file', profile=replace(UNIXFS_V0_2015, chunk_size=4096))
    repo.store_file(sys.argv[1] + '/file')
    repo.verify()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = peak(30 << 20)
print((peak(300 << 20) - small) // (1 << 10 if sys.platform != 'darwin' else 1 << 20))
repo.close()
"""
    process = start(code, tmp_path)
    go(process)
    assert int(finish(process)) < 16, "MiB"
