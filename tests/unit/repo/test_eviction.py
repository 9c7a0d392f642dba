"""Keeping a data directory under a limit: what goes, in which order, and what never does."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import RepoBusy
from kachery_p2p.repo import Repo
from kachery_p2p.repo.kept_rows import LOADED, PINNED, KeptRoot, Label
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=3)
NOW = time.time()


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def loaded(repo: Repo, number: int, age: float, size: int = 40_000, how: int = LOADED) -> CID:
    """A file that is here as if it had been loaded, and was used so many seconds ago."""
    cid = repo.store_bytes(random.Random(number).randbytes(size), profile=TINY).cid
    with repo._catalog.write() as db:
        db.execute("UPDATE kept SET how = ?, used = ? WHERE key = ?", (how, NOW - age, bytes(cid.to_v1())))
    return cid


def listed(repo: Repo) -> set[CID]:
    return {root.cid for root in repo.inventory.roots()}


def test_least_recently_used_first_and_no_more_than_needed(repo: Repo) -> None:
    """It stops as soon as so many bytes are free."""
    cids = [loaded(repo, number, age=100.0 * (number + 1)) for number in range(5)]
    gone = repo.eviction.evict(70_000, now=NOW, rest=0)
    assert [each.cid for each in gone] == [cids[4], cids[3]]
    assert [round(NOW - each.used) for each in gone] == [500, 400]
    assert sum(each.freed for each in gone) >= 70_000
    assert listed(repo) == set(cids[:3])
    assert repo.verify() == []


def test_what_is_wanted_here_stays(repo: Repo, tmp_path: Path) -> None:
    """Stored, linked, pinned by others, to be pinned elsewhere, or named by the user: however old it is, and whatever
    is asked for."""
    (tmp_path / "linked").write_bytes(b"linked" * 9_000)
    stays = {
        repo.store_bytes(b"stored" * 9_000).cid,
        repo.link_file(tmp_path / "linked").cid,
        loaded(repo, 1, 1e6, how=LOADED | PINNED),
        loaded(repo, 2, 1e6, how=PINNED),
        pinned := loaded(repo, 3, 1e6),
        named := loaded(repo, 4, 1e6),
    }
    repo.inventory.name(named, Label("mouse 12", given=True))
    goes = loaded(repo, 5, 1e6)
    gone = repo.eviction.evict(1 << 40, now=NOW, rest=0, pinned={bytes(pinned.to_v1())})
    assert [each.cid for each in gone] == [goes]
    assert listed(repo) == stays


def test_what_was_used_just_now_stays(repo: Repo) -> None:
    """By programs of this machine, or by peers to whom it was given."""
    old, used, served = (loaded(repo, number, 5_000.0) for number in range(3))
    with Repo.open(repo.directory) as program:
        program.inventory.use(used)
    repo.inventory.served([bytes(served.to_v1())], NOW)
    assert [each.cid for each in repo.eviction.evict(1 << 40, now=NOW, rest=600)] == [old]


def test_a_file_of_a_folder_that_stays_stays(repo: Repo, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "shared").write_bytes(random.Random(1).randbytes(40_000))
    stored = repo.store_directory(folder, profile=TINY).cid
    loaded(repo, 1, 1e6)
    repo.eviction.evict(1 << 40, now=NOW, rest=0)
    assert listed(repo) == {stored}
    assert repo.inventory.lacking(stored) == (0, 1)


def test_what_is_busy_is_passed_over(repo: Repo) -> None:
    """What cannot go now stays, and the next one goes in its place."""
    first, second = loaded(repo, 1, 200), loaded(repo, 2, 100)

    def remove(root: KeptRoot) -> int:
        if root.cid == first:
            raise RepoBusy("it is being loaded")
        return repo.removal.remove(root).freed

    assert [each.cid for each in repo.eviction.evict(1, now=NOW, rest=0, remove=remove)] == [second]


def test_while_something_is_stored_nothing_goes(repo: Repo) -> None:
    """That is waited for once, and not again for each root that could go."""
    for number in range(3):
        loaded(repo, number, 200)
    asked: list[CID] = []

    def remove(root: KeptRoot) -> int:
        asked.append(root.cid)
        with repo._placer.lock.removing(0):
            raise AssertionError("nothing is stored")

    with Repo.open(repo.directory) as other, other._placer.lock.adding():
        assert repo.eviction.evict(1 << 40, now=NOW, rest=0, remove=remove) == []
    assert len(asked) == 1


def test_a_file_that_is_being_loaded_stays(repo: Repo) -> None:
    """Its partial file is locked; when the load has ended without it, it may go."""
    data = random.Random(7).randbytes(40_000)
    with Repo.open(repo.directory.parent / "other") as other:
        cid = other.store_bytes(data, profile=TINY).cid
    partial = repo.partial_for(cid)
    with repo.download(cid) as download:
        download.allocate(len(data))
        partial.write_bytes(data)
        assert repo.eviction.evict(1 << 40, now=NOW + 1e6, rest=0) == []
    assert [each.cid for each in repo.eviction.evict(1 << 40, now=NOW + 1e6, rest=0)] == [cid]
    assert not partial.exists()


def test_the_sum_of_what_is_here(repo: Repo, tmp_path: Path) -> None:
    """It counts files, packs and what is on its way, but not what is linked; and what may go by itself."""
    empty = repo.eviction.bytes_here()
    loaded(repo, 1, 0, 100_000)
    (tmp_path / "linked").write_bytes(bytes(5_000_000))
    repo.link_file(tmp_path / "linked")
    repo.store_bytes(random.Random(3).randbytes(100_000))
    assert 200_000 <= repo.eviction.bytes_here() - empty < 3_000_000
    assert repo.eviction.cached_bytes() == 100_000


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(33_000, 60_000)), max_size=8),
    st.integers(0, 500_000),
)
def test_any_mixture(tmp_path_factory: pytest.TempPathFactory, files: list[tuple[bool, int, int]], most: int) -> None:
    """What goes is a beginning of what may go in the order of its last use, and no longer than needed."""
    with Repo.open(tmp_path_factory.mktemp("any")) as repo:
        cached: list[tuple[int, int]] = []
        for number, (mine, age, size) in enumerate(files):
            if mine:
                repo.store_bytes(random.Random(1000 + number).randbytes(size), profile=TINY)
            else:
                loaded(repo, number, age=10.0 * age + number / 100, size=size)
                cached.append((-10 * age * 100 - number, size))
        gone = repo.eviction.evict(most, now=NOW, rest=0)
        sizes = [size for _, size in sorted(cached)]
        needed = next((count for count in range(len(sizes)) if sum(sizes[:count]) >= most), len(sizes))
        assert len(gone) == needed
        assert [each.used for each in gone] == sorted(each.used for each in gone)
        assert len(listed(repo)) == len(files) - len(gone)
