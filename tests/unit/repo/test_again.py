"""What is here already is found by its hash, however many files have its size: nothing is written for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.repo import Repo, hashing, storing

COUNT, SIZE = 40, 3_000_000


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


class Work:
    """Bytes read from sources, written to files of the repo, and room that was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.written = self.asked = 0
        read_at, write_at, read_bytes = hashing.read_at, hashing.write_at, storing.read_bytes_at
        room = storing.free_bytes

        def reading(fd: int, buffer: memoryview, offset: int) -> int:
            got = read_at(fd, buffer, offset)
            self.read += got
            return got

        def reading_bytes(fd: int, length: int, offset: int) -> bytes:
            data = read_bytes(fd, length, offset)
            self.read += len(data)
            return data

        def writing(fd: int, data: bytes, offset: int) -> None:
            self.written += len(data)
            write_at(fd, data, offset)

        def asking(folder: Path) -> int | None:
            self.asked += 1
            return room(folder)

        monkeypatch.setattr(hashing, "read_at", reading)
        monkeypatch.setattr(hashing, "write_at", writing)
        monkeypatch.setattr(storing, "read_bytes_at", reading_bytes)
        monkeypatch.setattr(storing, "free_bytes", asking)
        # A clone is not read in the counted way.
        monkeypatch.setattr(storing, "clone_file", lambda *_: False)


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_unchanged_folder_of_equal_sizes(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    """Many files of one size, stored again: each is read once and a chunk more; nothing is written or reserved."""
    rng = random.Random(5)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(COUNT):
        (folder / str(i)).write_bytes(rng.randbytes(SIZE))
    first = repo.store_directory(folder, profile=profile)
    work = Work(monkeypatch)
    assert repo.store_directory(folder, profile=profile) == first
    assert (work.written, work.asked) == (0, 0)
    assert work.read <= COUNT * (SIZE + (1 << 20))


def test_new_file_of_a_size_that_is_here(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes of the same size are read and hashed once, and a chunk more; where the beginning is the same, at most
    twice. They are stored either way."""
    rng = random.Random(6)
    data = rng.randbytes(SIZE)
    (tmp_path / "old").write_bytes(data)
    repo.store_file(tmp_path / "old")
    for number, (content, times) in enumerate(((rng.randbytes(SIZE), 1), (data[:-1] + b"!", 2))):
        path = tmp_path / f"new {number}"
        path.write_bytes(content)
        with monkeypatch.context() as patch:
            work = Work(patch)
            stored = repo.store_file(path)
            assert work.written == SIZE
            assert work.read <= times * SIZE + (1 << 20)
        assert stored.path.read_bytes() == content


def test_bytes_that_are_here(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for bytes in memory."""
    data = random.Random(7).randbytes(SIZE)
    first = repo.store_bytes(data)
    work = Work(monkeypatch)
    assert repo.store_bytes(data) == first
    assert (work.written, work.asked) == (0, 0)
    assert repo.store_bytes(data[:-1] + b"!").path.read_bytes() == data[:-1] + b"!"
