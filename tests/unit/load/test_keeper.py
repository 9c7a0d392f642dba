"""The files of a directory are stored while more of them arrive, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, DiskFull
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.keeper import Keeper
from kachery_p2p.load.limits import LoadLimits
from kachery_p2p.repo.repo import Repo
from tests.helpers.patience import PATIENCE
from tests.unit.load.test_load import RepoSession, make_load, run

FILES = 120
LIMITS = LoadLimits(wants_ahead=20, batch_files=10)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


@pytest.fixture
def root(theirs: Repo, tmp_path: Path) -> CID:
    """A folder of small files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in range(FILES):
        (folder / f"{n:03}").write_bytes(b"file %03d" % n)
    return theirs.store_directory(folder).cid


class Watched(RepoSession):
    """Notes what is claimed of the size of each block, and lets a thread wait until so many were asked for."""

    def __init__(self, store: Repo, *, withhold: int | None = None) -> None:
        super().__init__(store, withhold=withhold)
        self.sizes: dict[bytes, int] = {}
        self.asked = threading.Condition()

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
        with self.asked:
            super().want(cids)
            self.sizes.update(sizes or {})
            self.asked.notify_all()

    def wait_for(self, count: int) -> bool:
        with self.asked:
            return self.asked.wait_for(lambda: len(self.fetched) >= count, PATIENCE)


async def _load(repo: Repo, session: RepoSession, root: CID, timeout: float = 60.0) -> None:
    load = make_load(repo, session, timeout=timeout, limits=LIMITS)
    await run(load, root, lambda: DirectoryLoad(load, repo, lambda done, total: None).run(root))


async def test_asking_goes_on_while_the_disk_works(
    ours: Repo, theirs: Repo, root: CID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first files are being stored, the next are asked for: more than a batch of them."""
    session = Watched(theirs)
    keep = ours.add_small_files
    seen: list[bool] = []

    def slow(files, claim=None):
        if not seen:
            seen.append(session.wait_for(3 * LIMITS.batch_files))
        return keep(files, claim)

    monkeypatch.setattr(ours, "add_small_files", slow)
    await _load(ours, session, root)
    assert seen == [True]
    assert len(session.fetched) == FILES + 1


async def test_the_session_is_told_how_large_files_are(ours: Repo, theirs: Repo, root: CID) -> None:
    """The directory says it of each of its entries."""
    session = Watched(theirs)
    await _load(ours, session, root)
    assert [session.sizes[cid.multihash] for cid in session.fetched[1:]] == [len(b"file 000")] * FILES


@pytest.mark.parametrize("bound", [LoadLimits(batch_files=10), LoadLimits(batch_bytes=10 * 8)])
async def test_what_gathers_is_bounded(monkeypatch: pytest.MonkeyPatch, ours: Repo, theirs: Repo, bound: LoadLimits):
    """A disk that stands still stops the receiving: a batch that is being stored, and one that waits."""
    release = threading.Event()
    stored: list[int] = []

    def stuck(files, claim=None) -> None:
        assert release.wait(PATIENCE)
        stored.append(len(files))

    monkeypatch.setattr(ours, "add_small_files", stuck)
    cid = theirs.store_bytes(b"12345678").cid
    given = 0

    async def give(keeper: Keeper) -> None:
        nonlocal given
        for _ in range(100):
            await keeper.file(cid, b"12345678")
            given += 1
        keeper.close()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            keeper = Keeper(ours, bound, lambda multihashes, size: None)
            nursery.start_soon(keeper.run, nursery.cancel_scope)
            nursery.start_soon(give, keeper)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert 10 <= given <= 20
            release.set()
    assert given == sum(stored) == 100
    assert max(stored) <= 10


async def test_a_full_disk_ends_the_load_at_once(
    ours: Repo, theirs: Repo, root: CID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That something cannot be stored is told although the load waits for a block that does not come."""

    def full(files, claim=None):
        raise DiskFull("There is no room.")

    class Silent(RepoSession):
        async def wait_exhausted(self) -> None:
            await trio.sleep_forever()

    monkeypatch.setattr(ours, "add_small_files", full)
    with trio.fail_after(PATIENCE), pytest.raises(DiskFull, match="no room"):
        await _load(ours, Silent(theirs, withhold=50), root, timeout=10 * PATIENCE)


async def test_what_came_is_not_fetched_again(ours: Repo, theirs: Repo, root: CID) -> None:
    """A load that is given up keeps every file that had arrived."""
    session = RepoSession(theirs, withhold=77)
    with pytest.raises(ContentNotFound):
        await _load(ours, session, root, timeout=0.5)
    again = RepoSession(theirs)
    await _load(ours, again, root)
    assert len(again.fetched) == FILES + 1 - 77
    assert not {cid.multihash for cid in session.fetched} & {cid.multihash for cid in again.fetched}
