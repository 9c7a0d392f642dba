"""Partial files of which only a part is wanted; and how much is written when all files are checked."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import DiskFull
from kachery_p2p.repo import Download, Repo, download, small
from kachery_p2p.repo.catalog import Catalog

DATA = random.Random(11).randbytes(3_000_000)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def fetch(
    source: Repo, target: Repo, root: CID, start: int, end: int | None, allocate: Callable[[Download, int], None]
) -> None:
    """Load a range of a file as a load does."""
    walk = FileWalk(root, start, end, whole_blocks=True)
    with target.download(root) as partial:
        while not walk.finished:
            refs = walk.take(20)
            for ref, here in zip(refs, partial.has(refs), strict=True):
                if here:
                    walk.skip(ref)
                    continue
                block = source.get_block(ref.cid.multihash)
                assert block is not None
                pieces = walk.feed(ref, block)
                if ref.depth == 0:
                    allocate(partial, walk.size or 0)
                partial.accept(ref, block, pieces)
        if end is None:
            partial.finish(walk.size or 0)


def test_a_range_needs_room_for_itself_alone(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk far smaller than the file a part of it can be loaded, its partial file is no longer than that part, and
    a later load of the whole file goes on from there."""
    with Repo.open(tmp_path / "other") as other:
        root = other.store_bytes(DATA, profile="unixfs-v0-2015").cid
        monkeypatch.setattr(download, "free_bytes", lambda folder: 1_000_000)
        fetch(other, repo, root, 300_000, 500_000, lambda partial, size: partial.allocate(size, 300_000, 500_000))
        path = repo._layout.partial_for(root)
        assert path.read_bytes()[300_000:500_000] == DATA[300_000:500_000]
        assert path.stat().st_size < 1_000_000
        with pytest.raises(DiskFull, match="bytes more"):
            fetch(other, repo, root, 0, None, lambda partial, size: partial.allocate(size))
        monkeypatch.undo()
        fetch(other, repo, root, 0, None, lambda partial, size: partial.allocate(size))
        found = repo.find_file(root)
        assert found is not None
        assert found.read_bytes() == DATA


def test_a_range_is_refused_without_room_for_it(repo: Repo, tmp_path: Path) -> None:
    """What is to be fetched must fit, however large or small the file is; nothing at all needs no room."""
    root = repo.store_bytes(b"").cid
    with Repo.open(tmp_path / "other") as other, other.download(root) as partial:
        with pytest.raises(DiskFull):
            partial.allocate(1 << 62, 1 << 60, 1 << 61)
        partial.allocate(1 << 62, 1 << 61, 1 << 61)
        partial.allocate(1 << 62, 1000, 2000)
        assert os.stat(partial.path).st_size == 0


def test_sound_files_are_checked_without_a_commit(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking files that are as recorded writes nothing; what changed is written in batches, not once a file."""
    monkeypatch.setattr(small, "PACKED_BYTES", 0)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(700):
        (folder / str(i)).write_bytes(b"%d" % i)
    repo.store_directory(folder)
    commits: list[int] = []
    write = Catalog.write

    @contextmanager
    def counted(self: Catalog, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with write(self, durable=durable) as db:
            yield db
        commits.append(1)

    monkeypatch.setattr(Catalog, "write", counted)
    assert repo.verify() == []
    assert commits == []
    files = [entry.path for entry in repo.list_files() if entry.path is not None]
    for path in files:
        os.utime(path, (1, 1))
    files[3].unlink()
    assert [problem.what for problem in repo.verify()] == ["missing"]
    assert 1 <= len(commits) <= 4
    commits.clear()
    assert len(repo.verify()) == 1
    assert commits == []
