"""Modes of what is made in a data directory, whatever the umask."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p import private
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.repo import Repo

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["000", "022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shared(path: Path, bits: int = 0o2770) -> Path:
    path.mkdir()
    os.chmod(path, bits)
    return path


def test_a_data_directory_and_its_files_are_private(tmp_path: Path, umask: int) -> None:
    """The directory is 0700, also when the node's lock is the first thing in it, and files with secrets are 0600."""
    directory = tmp_path / "data"
    lock = NodeLock(directory)
    assert lock.try_acquire()
    lock.release()
    os.close(private.make_file(directory / "file"))
    private.make_empty(directory / "empty")
    assert mode(directory) == 0o700
    assert {path.name: mode(path) for path in directory.iterdir()} == {
        "node.lock": 0o600,
        "file": 0o600,
        "empty": 0o600,
    }


def test_the_catalog_and_its_log_have_one_mode(tmp_path: Path, umask: int) -> None:
    """`-wal` and `-shm` are never wider than the database; others may read it only where they may read the folder."""
    for bits, expected in (
        (0o700, 0o600),
        (0o755, 0o644 & ~umask),
        (0o2770, 0o660),
        (0o2775, (0o664 & ~umask) | 0o660),
    ):
        directory = shared(tmp_path / f"{bits:o}", bits)
        with Repo.open(directory) as repo:
            repo.store_bytes(b"x")
            found = {path.name: mode(path) for path in directory.glob("catalog.sqlite*")}
            assert found == dict.fromkeys(("catalog.sqlite", "catalog.sqlite-shm", "catalog.sqlite-wal"), expected)


def test_a_shared_directory_is_the_groups(tmp_path: Path, umask: int) -> None:
    """Every folder and file that is made in it, is made for the group, whatever the umask."""
    directory = shared(tmp_path / "data", 0o770)
    with Repo.open(directory) as repo:
        repo.store_bytes(b"x")
        (tmp_path / "large").write_bytes(bytes(3 << 20))
        repo.store_file(tmp_path / "large")
        for path in directory.rglob("*"):
            if path.is_dir():
                assert mode(path) == 0o2770, path
            elif path.relative_to(directory).parts[0] in ("ipfs", "nodes", "links"):  # never written again
                assert mode(path) & 0o440 == 0o440, path
            else:
                assert mode(path) == 0o660, path


def test_what_was_made_before_is_fitted(tmp_path: Path) -> None:
    """A file that was made wider is narrowed; in a directory that has become a shared one it is opened to the group."""
    directory = tmp_path / "data"
    with Repo.open(directory) as repo:
        repo.store_bytes(b"x")
    os.chmod(directory / "catalog.sqlite", 0o666)
    with Repo.open(directory):
        assert mode(directory / "catalog.sqlite") == 0o600
    os.chmod(directory, 0o2770)
    with Repo.open(directory):
        assert mode(directory / "catalog.sqlite") == 0o660
        assert {mode(path) for path in directory.rglob("*") if path.is_dir()} == {0o2770}


def test_an_empty_file_is_made_once(tmp_path: Path) -> None:
    """Of many that make it at once all find one and the same file, and none is left under another name."""
    directory = shared(tmp_path / "data")
    numbers: list[int] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        private.make_empty(directory / "lock")
        numbers.append((directory / "lock").stat().st_ino)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 8
    assert len(set(numbers)) == 1
    assert [path.name for path in directory.iterdir()] == ["lock"]


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    """So is a folder; whoever comes later is told that there is one."""
    directory = shared(tmp_path / "data")
    private.make_folder(directory / "a")
    (directory / "a" / "file").write_text("x")
    with pytest.raises(FileExistsError):
        private.make_folder(directory / "a")
    with pytest.raises(FileNotFoundError):
        private.make_folder(directory / "none" / "a")
    assert [path.name for path in directory.iterdir()] == ["a"]


def test_what_is_too_open_is_named(tmp_path: Path) -> None:
    """A directory that others may read or change, and files of it that they may read, each with what helps."""
    directory = shared(tmp_path / "data", 0o700)
    (directory / "outbox.sqlite").touch(mode=0o600)
    assert private.too_open(directory) == []
    os.chmod(directory, 0o755)
    os.chmod(directory / "outbox.sqlite", 0o644)
    assert [text.rpartition(": ")[2] for text in private.too_open(directory)] == [
        f"chmod o-rx {directory}",
        f"chmod 600 {directory / 'outbox.sqlite'}",
    ]
    os.chmod(directory, 0o777)
    assert f"chmod o-w {directory}" in private.too_open(directory)[0]
    assert private.too_open(tmp_path / "none") == []
