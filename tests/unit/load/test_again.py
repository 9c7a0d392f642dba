"""What is on disk already is neither hashed twice nor written again when it is loaded once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.paths import resolve_path
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.load import Load
from kachery_p2p.repo.access import Claim
from kachery_p2p.repo.repo import Repo
from tests.helpers.patience import PATIENCE
from tests.unit.load.test_load import Block, RepoSession, make_load, no_dial, run


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


@pytest.fixture
def written(ours: Repo, monkeypatch: pytest.MonkeyPatch) -> list[CID]:
    """Which blocks were given to the repo to be checked and written."""
    given: list[CID] = []
    put = ours.put_blocks

    def put_blocks(blocks: Iterable[tuple[CID, bytes]], claim: Claim | None = None) -> None:
        blocks = list(blocks)
        given.extend(cid for cid, _ in blocks)
        put(blocks, claim)

    monkeypatch.setattr(ours, "put_blocks", put_blocks)
    return given


def folder(store: Repo, tmp_path: Path) -> CID:
    inner = tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.txt").write_text("a")
    (inner / "link").symlink_to("a.txt")
    (tmp_path / "folder" / "b.txt").write_text("b")
    return store.store_directory(tmp_path / "folder").cid


async def test_a_directory_that_is_here_is_only_read(
    ours: Repo, theirs: Repo, written: list[CID], tmp_path: Path
) -> None:
    """Loaded whole, listed, or gone through on the way to a file: each node is written once, when it has come."""
    root = folder(theirs, tmp_path)
    load = make_load(ours, RepoSession(theirs))
    await run(load, root, lambda: DirectoryLoad(load, ours, lambda done, total: None).run(root))
    assert len(written) == len(set(written)) == 3  # two folders and a symbolic link
    session = RepoSession(theirs)
    again = make_load(ours, session)
    await run(again, root, lambda: DirectoryLoad(again, ours, lambda done, total: None).run(root))
    await run(again, root, lambda: again.drive(list_directory(root)))
    await run(again, root, lambda: again.drive(resolve_path(root, ["inner", "a.txt"])))
    assert len(written) == 3
    assert session.fetched == []


async def test_the_rest_of_a_directory_is_written(ours: Repo, theirs: Repo, written: list[CID], tmp_path: Path) -> None:
    """Of a directory that is here in part, what comes is kept, and what was here is left alone."""
    root = folder(theirs, tmp_path)
    load = make_load(ours, RepoSession(theirs))
    await run(load, root, lambda: load.drive(list_directory(root)))
    assert written == [root]
    await run(load, root, lambda: load.drive(resolve_path(root, ["inner", "a.txt"])))
    assert len(written) == 2
    assert written.count(root) == 1


async def test_a_node_that_lies_in_a_file_is_kept_as_a_node(
    ours: Repo, theirs: Repo, written: list[CID], tmp_path: Path
) -> None:
    """Somebody may have stored the bytes of a directory's block as a file; the directory must outlive that file."""
    root = folder(theirs, tmp_path)
    block = theirs.get_block(root.multihash)
    assert block is not None
    file = ours.store_bytes(block)
    assert file.cid.multihash == root.multihash
    load = make_load(ours, RepoSession(theirs))
    await run(load, root, lambda: load.drive(list_directory(root)))
    assert written == [root]
    ours.remove(file.cid)
    assert ours.get_block(root.multihash) == block


async def test_what_is_here_of_a_path_takes_one_trip_to_a_thread(
    ours: Repo, theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However deep it is: trips are what a read of a small chunk waits for. Folders that are decoded need none."""
    names = [f"level-{number}" for number in range(6)]
    deep = (tmp_path / "folder").joinpath(*names)
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("a")
    root = theirs.store_directory(tmp_path / "folder").cid
    session = RepoSession(theirs)
    load = make_load(ours, session)
    await run(load, root, lambda: DirectoryLoad(load, ours, lambda done, total: None).run(root))
    trips: list[object] = []
    to_thread = trio.to_thread.run_sync

    async def run_sync(work: Callable[..., object], *args: object) -> object:
        trips.append(work)
        return await to_thread(work, *args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    path = [*names, "a.txt"]
    again = make_load(ours, session)
    found = await run(again, root, lambda: again.drive(resolve_path(root, path, ours.folder_nodes)))
    assert len(trips) == 1
    assert await run(again, root, lambda: again.drive(resolve_path(root, path, ours.folder_nodes))) == found
    assert len(trips) == 1


async def test_a_file_of_one_block_takes_two_trips_to_a_thread(
    ours: Repo, theirs: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to look for it, one to put it into its place; nothing partial is left, and what is here is not fetched."""
    trips: list[object] = []
    to_thread = trio.to_thread.run_sync

    async def run_sync(work: Callable[..., object], *args: object) -> object:
        trips.append(work)
        return await to_thread(work, *args)

    data = b"chunk" * 50_000
    cid = theirs.store_bytes(data).cid
    session = RepoSession(theirs)
    load = make_load(ours, session)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    path, size = await run_file(load, cid)
    assert (path, size, path.read_bytes()) == (ours.find_file(cid), len(data), data)
    assert len(trips) == 2
    assert await run_file(make_load(ours, session), cid) == (path, size)
    assert len(trips) == 3
    assert not any((ours.directory / "partial").iterdir())
    # As a part of another file it is here, too.
    path.unlink()
    ours.store_bytes(data + bytes(2_000_000), profile=Profile("test", chunk_size=len(data)))
    assert await run_file(make_load(ours, session), cid) == (path, size)
    assert path.read_bytes() == data
    assert session.fetched == [cid]


async def test_a_file_of_one_block_and_a_part_of_it_at_once(ours: Repo, theirs: Repo) -> None:
    """They share its partial file, and both end right."""
    data = b"chunk" * 50_000
    cid = theirs.store_bytes(data).cid
    downloads = Downloads(ours)
    found: list[bytes] = []

    async def one(start: int, end: int | None) -> None:
        session = RepoSession(theirs)
        load = Load(ours, downloads, session, connect=no_dial, timeout=60, progress=lambda done, total: None)
        path, size = await run_file(load, cid, start, end)
        assert size == len(data)
        found.append((path if path.exists() else ours.path_for(cid)).read_bytes()[start:end])

    async with trio.open_nursery() as nursery:
        for start, end in ((10, 20), (0, None), (100_000, 100_010), (0, None)):
            nursery.start_soon(one, start, end)
    assert sorted(found) == sorted([data, data, data[10:20], data[100_000:100_010]])
    assert not any((ours.directory / "partial").iterdir())


class Together(RepoSession):
    """Gives nothing before all sessions of a gathering have been asked."""

    def __init__(self, store: Repo, gathering: list[Together], everybody: int) -> None:
        super().__init__(store)
        self._gathering = gathering
        self._everybody = everybody
        self._all_here = trio.Event()

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
        super().want(cids, sizes)
        if self not in self._gathering:
            self._gathering.append(self)
        if len(self._gathering) == self._everybody:
            for each in self._gathering:
                each._all_here.set()

    async def receive(self) -> Block:
        await self._all_here.wait()
        return await super().receive()


@pytest.mark.parametrize("size", [250_000, 5_000_000], ids=["one block", "several"])
async def test_two_that_load_all_of_a_file_at_once(ours: Repo, theirs: Repo, size: int) -> None:
    """As two folders do that have it, say. Both have it when both have come to its end: one puts it into place, and the
    other does not keep it from that."""
    data = bytes(range(250)) * (size // 250)
    cid = theirs.store_bytes(data).cid
    downloads = Downloads(ours)
    gathering: list[Together] = []
    found: list[bytes] = []

    async def one() -> None:
        session = Together(theirs, gathering, 2)
        load = Load(ours, downloads, session, connect=no_dial, timeout=60, progress=lambda done, total: None)
        path, _ = await run_file(load, cid)
        found.append(path.read_bytes())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
    assert found == [data, data]
    assert not any((ours.directory / "partial").iterdir())


async def run_file(load: Load, cid: CID, start: int = 0, end: int | None = None) -> tuple[Path, int]:
    return await load.run(cid, [], lambda: load.file(cid, start, end))
