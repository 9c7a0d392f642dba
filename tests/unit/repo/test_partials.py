"""What had come of a file before it was stored or linked does not stay beside it: one copy on the disk."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.repo.repo import Repo
from tests.helpers.profiles import custom_profile

SMALL = custom_profile(chunk_size=8192, width=3)
DATA = random.Random(1).randbytes(100_000)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(DATA)
    return tmp_path / "folder"


@pytest.fixture
def begun(repo: Repo, tmp_path: Path) -> CID:
    """A file of which a part was read."""
    with Repo.open(tmp_path / "theirs") as theirs:
        cid = theirs.store_bytes(DATA, profile=SMALL).cid
        walk = FileWalk(cid, 0, 10_000, whole_blocks=True)
        with repo.download(cid) as download:
            while not walk.finished:
                for ref in walk.take(5):
                    block = theirs.get_block(ref.cid.multihash)
                    assert block is not None
                    download.accept(ref, block, walk.feed(ref, block))
    assert partial_files(repo) == [str(cid)]
    return cid


def partial_files(repo: Repo) -> list[str]:
    return os.listdir(repo.directory / "partial")


def used(repo: Repo, what: str) -> int:
    return next(row.bytes for row in repo.usage.read() if row.what == what)


WAYS: dict[str, Callable[[Repo, Path], object]] = {
    "store": lambda repo, folder: repo.store_file(folder / "file", profile=SMALL),
    "store bytes": lambda repo, folder: repo.store_bytes(DATA, profile=SMALL),
    "link": lambda repo, folder: repo.link_file(folder / "file", profile=SMALL),
    "store a folder": lambda repo, folder: repo.store_directory(folder, profile=SMALL),
    "link a folder": lambda repo, folder: repo.store_directory(folder, profile=SMALL, link=True),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_part_goes_when_the_file_comes(
    repo: Repo, folder: Path, begun: CID, way: Callable[[Repo, Path], object]
) -> None:
    """However the whole file came to be here: the part takes no room any more."""
    way(repo, folder)
    assert partial_files(repo) == []
    assert used(repo, "partial") == 0
    path = repo.find_file(begun)
    assert path is not None
    assert path.read_bytes() == DATA
    assert all(root.whole for root in repo.inventory.roots())
    assert repo.verify() == []


def test_a_part_of_another_file_stays(repo: Repo, begun: CID) -> None:
    """Of that there is nothing else."""
    repo.store_bytes(DATA[::-1], profile=SMALL)
    repo.removal.tidy()
    assert partial_files(repo) == [str(begun)]


def test_a_part_that_is_being_loaded_goes_later(repo: Repo, folder: Path, begun: CID) -> None:
    """Nobody's partial file is deleted under a load; when that has ended, tidying up gives its room back."""
    with repo.download(begun, timeout=0.0) as download:
        repo.store_file(folder / "file", profile=SMALL)
        assert partial_files(repo) == [str(begun)]
        repo.removal.tidy()
        assert partial_files(repo) == [str(begun)]
        assert download.read(0, 100) == DATA[:100]
    part = used(repo, "partial")
    assert part > 0
    assert repo.removal.tidy() == part
    assert partial_files(repo) == []


def test_who_has_it_open_reads_on(repo: Repo, folder: Path, begun: CID) -> None:
    """A program that reads from the partial file has it open, and loses nothing."""
    with open(repo.partial_for(begun), "rb") as file:
        repo.store_file(folder / "file", profile=SMALL)
        assert partial_files(repo) == []
        assert file.read(100) == DATA[:100]


def test_a_part_stays_where_the_file_is_not_what_it_was(repo: Repo, folder: Path, begun: CID) -> None:
    """A linked file that has changed since is no copy, so what came from others is kept."""
    other = repo.download(begun)
    with other:
        repo.link_file(folder / "file", profile=SMALL)
    (folder / "file").write_bytes(b"something else")
    repo.removal.tidy()
    assert partial_files(repo) == [str(begun)]
