"""Small files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kachery_cloud.settings.config import write_default_config
from kachery_p2p.errors import RepoError
from kachery_p2p.repo import wholefile
from kachery_p2p.repo.swarm_key import SWARM_KEY_NAME, generate_swarm_key, read_swarm_key, write_swarm_key
from kachery_p2p.repo.wholefile import write_new, write_whole


def _no_links(*args: Any, **named: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=[True, False], ids=["links", "no-links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A file system with hard links, and one without (FAT, some network drives)."""
    if not request.param:
        monkeypatch.setattr(os, "link", _no_links)
    return request.param


def test_a_new_file(tmp_path: Path, links: bool) -> None:
    """It has its bytes, is its owner's alone, and nothing is left beside it."""
    path = tmp_path / "config.json"
    assert write_new(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["config.json"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_stands(tmp_path: Path, links: bool) -> None:
    """A file that is there is not replaced by a new one."""
    path = tmp_path / "key"
    path.write_bytes(b"first")
    assert not write_new(path, b"second")
    assert path.read_bytes() == b"first"


def test_the_first_stands_at_the_last_moment(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes it after the look whether it is there: that one stands, and both know it."""
    path = tmp_path / "key"
    before = wholefile._beside

    def beside(*args: Any) -> Path:
        path.write_bytes(b"first")
        return before(*args)

    monkeypatch.setattr(wholefile, "_beside", beside)
    assert not write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_of_many_one_makes_it(tmp_path: Path, links: bool) -> None:
    """Of threads that make it at the same time, one does, and what stands there is whole."""
    path, made = tmp_path / "key", list[bytes]()
    ready = threading.Barrier(8)

    def make(number: int) -> None:
        data = bytes([number]) * 100_000
        ready.wait()
        if write_new(path, data):
            made.append(data)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == made


def test_one_that_was_begun_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links, a process that died while it made the file is named, with what to remove."""
    monkeypatch.setattr(os, "link", _no_links)
    monkeypatch.setattr(wholefile.time, "sleep", lambda seconds: None)
    (tmp_path / "key.claim").touch()
    with pytest.raises(RepoError, match=r"did not finish. Remove .*key\.claim"):
        write_new(tmp_path / "key", b"x")
    assert os.listdir(tmp_path) == ["key.claim"]


def test_replaced_in_one_step(tmp_path: Path) -> None:
    """The old file goes when the new one is there; its time can be given."""
    path = tmp_path / "record"
    write_whole(path, b"old")
    write_whole(path, b"new", modified=5.0)
    assert (path.read_bytes(), path.stat().st_mtime) == (b"new", 5.0)
    assert os.listdir(tmp_path) == ["record"]


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """It goes when the file is written again, some time later; what another process may be writing now stays."""
    old, new = tmp_path / f".record.{'0' * 16}", tmp_path / f".record.{'1' * 16}"
    for left in (old, new, tmp_path / ".record.swp"):
        left.touch()
        os.utime(left, (5.0, 5.0))
    os.utime(new)
    write_whole(tmp_path / "record", b"x")
    assert sorted(os.listdir(tmp_path)) == [new.name, ".record.swp", "record"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_modes_in_a_shared_directory(tmp_path: Path) -> None:
    """Its group may read and write what is no secret."""
    tmp_path.chmod(0o2770)
    write_whole(tmp_path / "config.json", b"{}")
    write_whole(tmp_path / "private.pem", b"key", secret=True)
    write_new(tmp_path / "age.key", b"key", secret=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"config.json": 0o660, "private.pem": 0o600, "age.key": 0o600}


def _swarm_key(folder: Path) -> None:
    write_swarm_key(folder / SWARM_KEY_NAME, generate_swarm_key())


def _default_config(folder: Path) -> None:
    write_default_config(folder)


@pytest.mark.parametrize(("name", "make"), [("config.json", _default_config), (SWARM_KEY_NAME, _swarm_key)])
@pytest.mark.parametrize("what", ["crash", "full disk"])
def test_half_a_file_is_never_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], None], what: str
) -> None:
    """While the settings or the key of a private network are made, nobody finds them empty, also after a crash."""
    met: list[bool] = []
    sync = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            met.append((tmp_path / name).exists())
            if what == "full disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise KeyboardInterrupt
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BaseException):  # noqa: B017 - which one is told elsewhere
        make(tmp_path)
    assert met == [False]
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    make(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_two_keys_of_a_network(tmp_path: Path, links: bool) -> None:
    """The second is refused, and the first is not touched."""
    _swarm_key(tmp_path)
    key = read_swarm_key(tmp_path)
    with pytest.raises(Exception, match="never overwritten"):
        _swarm_key(tmp_path)
    assert read_swarm_key(tmp_path) == key
