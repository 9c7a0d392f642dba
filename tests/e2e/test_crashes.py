"""Processes that are killed with -9 at chosen instants: nothing is fetched twice, nothing half-done is left.

The process under test kills itself from within, at an exact point of its work, so that no test depends on timing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

SIZE = 60_000_000
# Besides its leaves a DAG of this size has one inner node; messages have a few bytes around each block.
SLACK = 200_000

# Kills the process once `args[2]` bytes of the file have been written to the partial file; says how many there were.
_LOAD_AND_DIE = """
import os, signal, threading
from kachery_p2p.repo.download import Download
write, finish, written, lock = Download.write, Download.finish, 0, threading.RLock()
def die():
    say(written)
    os.kill(os.getpid(), signal.SIGKILL)
def counting_write(self, offset, data):
    global written
    with lock:  # several threads write
        if written >= args[2]:
            die()
        write(self, offset, data)
        written += len(data)
def dying_finish(self, *rest, **named):
    with lock:
        die()
Download.write, Download.finish = counting_write, dying_finish
kcl.load_file(args[0], providers=[args[1]])
"""


def _died(process_output: tuple[str, str], code: int) -> int:
    """How many bytes were on disk when the process killed itself."""
    out, errors = process_output
    assert code == -signal.SIGKILL, errors
    return int(out.splitlines()[-1])


@pytest.mark.parametrize("limit", [0, 1_000_000, 20_000_000, 50_000_000, SIZE])
def test_killed_load_goes_on(workstation: Callable[..., Workstation], tmp_path: Path, limit: int) -> None:
    """A load killed with -9 and started again fetches only what was missing, and ends byte-identical.

    The last of the points is after all bytes have come, before the file is moved into place.
    """
    source = write_random(tmp_path / "source.dat", SIZE, seed=1)
    first, second = workstation().start(), workstation()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    process = second.begin(_LOAD_AND_DIE, uri, first.addr, limit)
    written = _died(process.communicate(timeout=120), process.returncode)
    assert written >= limit
    before = first.status()["bytes_sent"]
    path = second.call("say(kcl.load_file(args[0], providers=[args[1]]))", uri, first.addr)
    fetched = first.status()["bytes_sent"] - before
    assert sha256_of(Path(path)) == sha256_of(source)
    assert SIZE - written - SLACK <= fetched <= SIZE - written + SLACK


def test_load_killed_again_and_again(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """However often a load is killed, each try begins where the last one ended."""
    source = write_random(tmp_path / "source.dat", SIZE, seed=2)
    first, second = workstation().start(), workstation()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    written = 0
    for _ in range(4):
        process = second.begin(_LOAD_AND_DIE, uri, first.addr, 10_000_000)
        written += _died(process.communicate(timeout=120), process.returncode)
    before = first.status()["bytes_sent"]
    path = second.call("say(kcl.load_file(args[0], providers=[args[1]]))", uri, first.addr)
    fetched = first.status()["bytes_sent"] - before
    assert sha256_of(Path(path)) == sha256_of(source)
    assert fetched <= SIZE - written + SLACK


def test_provider_killed_during_a_load(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """When the peer that serves is killed, a load goes on with another one and fetches nothing twice."""
    source = write_random(tmp_path / "source.dat", SIZE, seed=3)
    dying, other = workstation().start(), workstation().start()
    uri = dying.call("say(kcl.link_file(args[0]))", source)
    assert other.call("say(kcl.link_file(args[0]))", source) == uri
    # The node that serves is killed from within the process that loads, when a third has come.
    code = """
import os, signal, threading
from kachery_p2p.repo.download import Download
write, written, lock = Download.write, 0, threading.Lock()
def counting_write(self, offset, data):
    global written
    write(self, offset, data)
    with lock:  # several threads write
        if written < 20_000_000 <= written + len(data):
            os.kill(args[3], signal.SIGKILL)
        written += len(data)
Download.write = counting_write
path = kcl.load_file(args[0], providers=args[1:3], timeout=120)
say([path, written])
"""
    path, written = workstation().call(code, uri, dying.addr, other.addr, dying.node.pid)
    assert sha256_of(Path(path)) == sha256_of(source)
    assert written == SIZE


_STORE_AND_DIE = """
import os, signal
calls = 0
def counted(name):
    function = getattr(os, name)
    def call(*rest, **named):
        global calls
        calls += 1
        if calls > args[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*rest, **named)
    setattr(os, name, call)
for name in ("fsync", "fdatasync", "rename", "replace", "link"):
    counted(name)
kcl.store_file(args[0], local=True)
say(calls)
"""


def test_killed_store_leaves_no_half_file(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A store killed before any of its syncs and moves leaves either the whole file under ipfs/ or none."""
    source = write_random(tmp_path / "source.dat", 8_000_000, seed=4)
    station = workstation()
    outcomes: list[int] = []
    for calls in range(40):
        process = station.begin(_STORE_AND_DIE, source, calls)
        process.communicate(timeout=PATIENCE)
        outcomes.append(process.returncode)
        files = [path for path in (station.directory / "ipfs").rglob("*") if path.is_file()]
        assert all(sha256_of(path) == sha256_of(source) for path in files)
        if process.returncode == 0:
            break
    assert outcomes[0] == -signal.SIGKILL
    assert outcomes[-1] == 0
    uri = station.call("say(kcl.store_file(args[0], local=True))", source)
    path = station.call("say(kcl.load_file(args[0], local_only=True))", uri)
    assert sha256_of(Path(path)) == sha256_of(source)
    assert station.run("kachery-cloud", "verify", "--json").returncode == 0
    assert list((station.directory / "tmp").iterdir()) == []


def test_store_killed_while_it_copies(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A store killed in the middle of the copy leaves nothing under ipfs/, and its left-over is cleared away."""
    source = write_random(tmp_path / "source.dat", 100_000_000, seed=5)
    station = workstation()
    code = """
import os, signal
from kachery_p2p.repo import fileio, storing
from kachery_cloud import progress
def update(self, done, total, peers=0):
    if done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
progress._Bar.update = update
kcl.store_file(args[0], local=True)
"""
    process = station.begin(code, source)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert [path for path in (station.directory / "ipfs").rglob("*") if path.is_file()] == []
    station.call("kcl.store_text('next', local=True)")
    assert list((station.directory / "tmp").iterdir()) == []
