"""The write order that a loss of power is survived by: data, sync, name, sync of the folder, rows."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.repo import Repo
from kachery_p2p.repo import seen as seen_files
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.newfile import NewFile
from tests.helpers.profiles import custom_profile

DATA = random.Random(1).randbytes(3_000_000)
TINY = custom_profile(chunk_size=100_000, width=5)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk, in order: 'sync data', 'name', 'sync folder', 'commit', 'durable commit'."""
    seen: list[str] = []
    # What was hashed is noted by a commit of its own, where the clock has moved since: here it never has.
    monkeypatch.setattr(seen_files, "RACY_NS", 10**18)
    fsync, replace, link, write = os.fsync, os.replace, os.link, Catalog.write

    def record_fsync(fd: int) -> None:
        fsync(fd)
        seen.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync data")

    def record_name(act: Callable) -> Callable:
        def do(*args: object, **kw: object) -> None:
            act(*args, **kw)
            seen.append("name")

        return do

    @contextmanager
    def record_write(self: Catalog, *, durable: bool = False) -> Iterator[object]:
        with write(self, durable=durable) as db:
            yield db
        seen.append("durable commit" if durable else "commit")

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_name(replace))
    monkeypatch.setattr(os, "link", record_name(link))
    monkeypatch.setattr(Catalog, "write", record_write)
    return seen


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        (opened.directory / "labels.txt").touch()  # else the first label makes it
        yield opened


WHOLE = ["sync data", "name", "sync folder", "commit"]
#: That it is listed from then on; what nothing else tells, such as a link, is listed durably.
LISTED, LINK_LISTED = "commit", "durable commit"
RECORD = ["name", "sync data", "sync folder"]


def check_with_record(events: list[str]) -> None:
    """The file's bytes and its record, side by side, are on the disk before the file has its name; then the rows."""
    assert sorted(events[:4]) == sorted(["sync data", *RECORD])
    assert events[4:] == [*WHOLE[1:], LISTED]


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed file", "temporary name"])
def test_small_file(repo: Repo, events: list[str], monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    """One block: two syncs, and the row last, with unnamed files and without."""
    import kachery_p2p.repo.small as small

    if not unnamed:
        monkeypatch.setattr(small, "_UNNAMED", 0)
    repo.store_bytes(b"small")
    assert events == [*WHOLE, LISTED]


def test_large_file(repo: Repo, events: list[str], tmp_path: Path) -> None:
    """Many blocks: the inner nodes are durable before the file has its name."""
    (tmp_path / "file").write_bytes(DATA)
    repo.store_file(tmp_path / "file", profile=TINY)
    check_with_record(events)
    events.clear()
    repo.store_bytes(DATA[::-1], profile=TINY)
    check_with_record(events)


def test_what_was_hashed_is_noted_last(
    repo: Repo, events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a file is known is committed after the file is: a crash between costs hashing it again, and nothing else."""
    monkeypatch.setattr(seen_files, "RACY_NS", -(10**18))
    (tmp_path / "file").write_bytes(DATA)
    repo.store_file(tmp_path / "file", profile=TINY)
    check_with_record(events[:-1])
    assert events[-1] == "commit"
    events.clear()
    repo.store_file(tmp_path / "file", profile=TINY)
    assert events == []


def test_written_file(repo: Repo, events: list[str]) -> None:
    """A file written piece by piece is synced before it is renamed."""
    with NewFile(repo.directory / "tmp") as new:
        os.write(new.fd, DATA)
        repo.store_new(new, profile=TINY)
    # It was synced once while it was hashed; then there is nothing left to write.
    events.remove("sync data")
    check_with_record(events)


def test_durable_commit_syncs_even_if_it_changes_nothing(repo: Repo) -> None:
    """A durable commit without changes of its own still puts the commits before it on the disk: the log grows."""
    repo.store_bytes(DATA, profile=TINY)
    log = repo.directory / "catalog.sqlite-wal"
    before = log.stat().st_size
    with repo._catalog.write():
        pass
    assert log.stat().st_size == before
    with repo._catalog.write(durable=True):
        pass
    assert log.stat().st_size > before


def test_second_name_of_the_same_bytes(repo: Repo, events: list[str], tmp_path: Path) -> None:
    """A hard link to bytes that are there: nodes, name, folder, rows."""
    record = ["sync data", "name", "sync folder"]
    (tmp_path / "file").write_bytes(DATA)
    repo.store_file(tmp_path / "file", profile=TINY)
    events.clear()
    repo.store_file(tmp_path / "file", profile="unixfs-v0-2015")
    assert events == [*record, *WHOLE[1:], LISTED]


def test_link_and_directory_are_durable(repo: Repo, events: list[str], tmp_path: Path) -> None:
    """What no file under ipfs/ tells is on the disk when the call returns: written down first, then committed."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(DATA)
    repo.link_file(tmp_path / "folder" / "file")
    assert events == [*WHOLE[:3], "durable commit", LINK_LISTED]
    events.clear()
    repo.store_directory(tmp_path / "folder", link=True)
    assert events == ["durable commit", *WHOLE[:3], "durable commit", LINK_LISTED]
    events.clear()
    repo.store_directory(tmp_path / "folder", link=True)
    assert events == ["durable commit"]


def test_loaded_file(repo: Repo, events: list[str], tmp_path: Path) -> None:
    """A loaded file is synced, and its inner nodes are, before it has its name."""
    with Repo.open(tmp_path / "other") as other:
        cid = other.store_bytes(DATA, profile=TINY).cid
        walk = FileWalk(cid)
        with repo.download(cid) as download:
            while not walk.finished:
                for ref in walk.take(10):
                    block = other.get_block(ref.cid.multihash)
                    assert block is not None
                    download.accept(ref, block, walk.feed(ref, block))
            events.clear()
            download.finish(len(DATA))
    assert events == ["sync data", *WHOLE[:3], *WHOLE[1:]]


def test_batch_of_small_files(repo: Repo, events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of their own: in a batch each is synced before it has its name; the rows come after all of them, once."""
    import kachery_p2p.repo.small as small

    monkeypatch.setattr(small, "PACKED_BYTES", 0)
    (tmp_path / "folder").mkdir()
    for i in range(30):
        (tmp_path / "folder" / str(i)).write_bytes(b"%d" % i)
    repo.store_directory(tmp_path / "folder")
    assert events[-6:] == ["commit", *WHOLE[:3], "durable commit", LINK_LISTED]
    del events[-6:]
    for step in ("sync data", "name", "sync folder"):
        assert events.count(step) == 30
    for i in range(len(events)):
        done = [events[: i + 1].count(step) for step in ("sync data", "name", "sync folder")]
        assert done == sorted(done, reverse=True)


def test_errors_of_early_write_back_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of a failed write-back once; when the early one is told, the store fails."""
    from kachery_p2p.errors import RepoError
    from kachery_p2p.repo import fileio

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fileio, "WRITE_BACK_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", fail)
    (tmp_path / "file").write_bytes(DATA * 8)
    with Repo.open(tmp_path / "repo") as repo:
        with pytest.raises(RepoError, match="Input/output error"):
            repo.store_file(tmp_path / "file")
        assert repo.list_files() == []
        assert not [path for path in (tmp_path / "repo" / "ipfs").rglob("*") if path.is_file()]
