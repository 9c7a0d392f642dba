"""Loads: what is fetched, what is not, and when a load gives up. Real repos on both sides, no network between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from kachery_cloud.placing import place_directory
from kachery_p2p.bitswap.session import WantAnswer
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, DialError, IsADirectory
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.interfaces import Place
from kachery_p2p.load.load import Load
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.interfaces import Provider
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE

MIB = 1 << 20


class Block(NamedTuple):
    cid: CID
    data: bytes
    placed: int = 0
    peer: str = ""


class RepoSession:
    """A session whose only peer has everything that is in a repo; remembers what it was asked for."""

    def __init__(self, store: Repo, *, withhold: int | None = None) -> None:
        self.store = store
        self.fetched: list[CID] = []
        self.providers: list[str] = []
        self._left = withhold
        self._lacking: list[CID] = []
        self._changed = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Block](10_000)

    def expecting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def add_provider(self, peer_id: str) -> None:
        self.providers.append(peer_id)

    def locate(self, root: CID, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """Where blocks are makes no difference to a peer."""

    def gather(self, root: CID) -> None:
        """Nor does it that all of a directory is wanted."""

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
        for cid in cids:
            block = self.store.get_block(cid.multihash)
            if block is None or self._left == 0:
                self._lacking.append(cid)
                self._changed.set()
                continue
            if self._left is not None:
                self._left -= 1
            self.fetched.append(cid)
            self._send.send_nowait(Block(cid, block))

    def place(self, multihashes: Iterable[bytes], place: Place) -> None:
        pass  # all come as bytes

    async def receive(self) -> Block:
        return await self._receive.receive()

    async def receive_all(self) -> list[Block]:
        return [await self.receive()]

    async def wait_exhausted(self) -> None:
        while not self._lacking:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def peers(self) -> Mapping[str, object]:
        return dict.fromkeys(self.providers, 0)

    def answers(self, cid: CID) -> dict[str, WantAnswer]:
        return {"peer-of-the-test": WantAnswer.LACKS if cid in self._lacking else WantAnswer.SILENT}

    def gateways_said(self) -> dict[str, str]:
        return {}

    def missing(self) -> list[CID]:
        return self._lacking

    def lost(self) -> list[str]:
        return []

    def may_return(self) -> bool:
        return bool(self.lost())

    def too_large(self) -> dict[CID, int]:
        return {}

    def last_sign(self) -> float:
        return 0.0


async def no_dial(addr: str, addrs: Sequence[str]) -> str:
    raise DialError(f"Could not connect to {addr}: connection refused.")


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


def make_load(repo: Repo, session: RepoSession, **kwargs: object) -> Load:
    options: dict = {"connect": no_dial, "timeout": 60.0, "progress": lambda done, total: None, **kwargs}
    return Load(repo, Downloads(repo), session, **options)


async def run(load: Load, cid: CID, work: Callable[[], Awaitable[object]] | None = None) -> object:
    return await load.run(cid, [], work or (lambda: load.file(cid)))


def store(repo: Repo, data: bytes, tmp_path: Path, **kwargs: object) -> CID:
    path = tmp_path / "input"
    path.write_bytes(data)
    return repo.store_file(path, **kwargs).cid  # type: ignore[arg-type]


async def test_a_file_arrives_whole(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """What is loaded has the bytes that were stored, and progress ends at its size."""
    data = os.urandom(3 * MIB + 17)
    cid = store(theirs, data, tmp_path)
    seen: list[tuple[int, int]] = []
    session = RepoSession(theirs)
    load = make_load(ours, session, progress=lambda done, total: seen.append((done, total)))
    path, size = await run(load, cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert size == len(data)
    assert seen[-1] == (len(data), len(data))
    assert len(session.fetched) == 5


async def test_what_arrived_before_is_not_fetched_again(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A load that was given up goes on where it was: no block is fetched twice."""
    data = os.urandom(6 * MIB)
    cid = store(theirs, data, tmp_path)
    first = RepoSession(theirs, withhold=4)
    with pytest.raises(ContentNotFound):
        await run(make_load(ours, first), cid)
    second = RepoSession(theirs)
    path, _ = await run(make_load(ours, second), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert not set(first.fetched) & set(second.fetched)
    assert len(first.fetched) + len(second.fetched) == 7


async def test_a_repeated_leaf_is_fetched_once(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A thousand equal leaves cost one block, also beyond the window in which wants are merged."""
    data = bytes(500 * 65536) + os.urandom(65536) + bytes(500 * 65536)
    from kachery_p2p.dag.profiles import Profile

    profile = Profile("test-64k", cid_version=1, chunk_size=65536, width=64, raw_leaves=True)
    cid = store(theirs, data, tmp_path, profile=profile)
    session = RepoSession(theirs)
    path, _ = await run(make_load(ours, session), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert len(session.fetched) == len(set(session.fetched))


async def test_a_range_fetches_only_the_blocks_it_needs(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """Four bytes across a leaf's border cost the root and two leaves; the rest is fetched when it is needed."""
    data = os.urandom(8 * MIB)
    cid = store(theirs, data, tmp_path)
    session = RepoSession(theirs)
    load = make_load(ours, session)
    path, size = await run(load, cid, lambda: load.file(cid, 3 * MIB - 2, 3 * MIB + 2))  # type: ignore[misc]
    assert path.read_bytes()[3 * MIB - 2 : 3 * MIB + 2] == data[3 * MIB - 2 : 3 * MIB + 2]
    assert size == len(data)
    assert len(session.fetched) == 3
    assert ours.find_file(cid) is None

    rest = RepoSession(theirs)
    path, _ = await run(make_load(ours, rest), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert not set(rest.fetched) & set(session.fetched)


async def test_nobody_has_it(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """The error names the CID, whom it asked, whom it could not reach and why; it does not wait for the time-out."""
    cid = store(theirs, b"not in the empty repo", tmp_path)
    with Repo.open(tmp_path / "empty") as empty, trio.fail_after(PATIENCE):
        load = make_load(ours, RepoSession(empty))
        with pytest.raises(ContentNotFound) as raised:
            await load.run(cid, ["/ip4/127.0.0.1/tcp/1"], lambda: load.file(cid))
    message = str(raised.value)
    assert str(cid) in message
    assert "peer-of-the-test" in message
    assert "connection refused" in message


async def test_silence_ends_at_the_timeout(ours: Repo, theirs: Repo) -> None:
    """A peer that neither delivers nor refuses costs the time-out, not for ever."""

    class Silent(RepoSession):
        def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
            pass

    cid = CID.parse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
    load = make_load(ours, Silent(theirs), timeout=0.3)
    with trio.fail_after(PATIENCE), pytest.raises(ContentNotFound, match=str(cid)):
        await run(load, cid)
    assert load.seconds >= 0.3


async def test_a_directory_is_not_a_file(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """Loading a directory as a file says what it is."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    cid = theirs.store_directory(folder).cid
    with pytest.raises(IsADirectory):
        await run(make_load(ours, RepoSession(theirs)), cid)


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
async def test_a_directory_with_all_that_is_in_it(ours: Repo, theirs: Repo, tmp_path: Path, profile: str) -> None:
    """Small and large files, empty ones, folders in folders and symbolic links: all come, no block twice."""
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    contents = {f"file-{i}": str(i).encode() for i in range(700)}
    contents |= {"empty": b"", "deep/er/large": os.urandom(3 * MIB), "deep/twin": b"7"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("file-1")
    cid = theirs.store_directory(folder, profile=profile).cid

    session = RepoSession(theirs)
    load = make_load(ours, session)
    directory = DirectoryLoad(load, ours, lambda done, total: None)
    await run(load, cid, lambda: directory.run(cid))
    assert len(session.fetched) == len({c.multihash for c in session.fetched})
    again = RepoSession(theirs)
    load = make_load(ours, again)
    directory = DirectoryLoad(load, ours, lambda done, total: None)
    tree = await run(load, cid, lambda: directory.run(cid))
    assert again.fetched == []
    assert set(tree.symlinks.values()) == {"file-1"}  # type: ignore[attr-defined]
    assert len(tree.folders) == 3  # type: ignore[attr-defined]
    made = tmp_path / "made"
    place_directory(ours, cid, made)
    found = {str(path.relative_to(made)): path for path in made.rglob("*") if not path.is_dir()}
    assert found.pop("link").readlink() == Path("file-1")
    assert {name: path.read_bytes() for name, path in found.items()} == contents


async def test_two_loads_of_one_file_at_once(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A range load and a whole load of one file share its partial file and both end right."""
    data = os.urandom(5 * MIB)
    cid = store(theirs, data, tmp_path)
    downloads = Downloads(ours)
    results: dict[str, tuple[Path, int]] = {}

    async def one(name: str, start: int, end: int | None) -> None:
        load = Load(
            ours, downloads, RepoSession(theirs), connect=no_dial, timeout=60, progress=lambda done, total: None
        )
        results[name] = await load.run(cid, [], lambda: load.file(cid, start, end))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "whole", 0, None)
        for i in range(5):
            nursery.start_soon(one, f"range {i}", i * MIB + 5, i * MIB + 10)
    assert results["whole"][0].read_bytes() == data
    assert ours.find_file(cid) == results["whole"][0]
    assert not any((ours.directory / "partial").iterdir())


class EmptySession(RepoSession):
    """A session that has nobody to ask until a provider is added."""

    def __init__(self, store: Repo, *, leave_after: int | None = None) -> None:
        super().__init__(store)
        self._leave_after = leave_after
        self._waiting: list[CID] = []

    def add_provider(self, peer_id: str) -> None:
        super().add_provider(peer_id)
        self._lacking.clear()
        waiting, self._waiting = self._waiting, []
        self.want(waiting)

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
        for cid in cids:
            if not self.providers or self._leave_after == 0:
                self._waiting.append(cid)
                self._lacking.append(cid)
                self._changed.set()
                continue
            if self._leave_after is not None:
                self._leave_after -= 1
                if self._leave_after == 0:
                    self.providers.clear()
                    self._leave_after = None
            super().want([cid])

    async def wait_exhausted(self) -> None:
        while not self._lacking:
            if self._changed.is_set():  # several may wait for the one that is not
                self._changed = trio.Event()
            await self._changed.wait()
        await trio.lowlevel.checkpoint()


async def dial(addr: str, addrs: Sequence[str]) -> str:
    await trio.lowlevel.checkpoint()
    return addr


async def test_a_load_that_knows_nobody_searches(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """With no peer at all the root is searched for at once; who is found is asked for the whole DAG."""
    data = os.urandom(3 * MIB)
    cid = store(theirs, data, tmp_path)
    searched: list[CID] = []

    async def find(wanted: CID) -> AsyncGenerator[Provider, None]:
        searched.append(wanted)
        await trio.sleep(20)  # slower than the patience of a load for which nobody searches
        yield Provider("found", ("/ip4/192.0.2.1/tcp/1",), "dht")

    load = make_load(ours, EmptySession(theirs), connect=dial, find=find)
    path, _ = await run(load, cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert set(searched) == {cid}


async def test_providers_that_leave_are_replaced(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """When everybody who was found has left half way, others are searched for, and the load goes on."""
    data = os.urandom(4 * MIB)
    cid = store(theirs, data, tmp_path)
    rounds: list[CID] = []

    async def find(wanted: CID) -> AsyncGenerator[Provider, None]:
        rounds.append(wanted)
        await trio.sleep(0.1)
        yield Provider(f"peer-{len(rounds)}", (), "dht")

    session = EmptySession(theirs, leave_after=3)
    path, _ = await run(make_load(ours, session, connect=dial, find=find), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert len(rounds) >= 2


async def test_a_search_in_vain_ends_the_load(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """When nobody is found, the load says so as soon as the search is over, not at its timeout."""
    cid = store(theirs, os.urandom(100), tmp_path)

    async def find(wanted: CID) -> AsyncGenerator[Provider, None]:
        await trio.sleep(7)
        for provider in ():
            yield provider

    begun = trio.current_time()
    with pytest.raises(ContentNotFound):
        await run(make_load(ours, EmptySession(theirs), connect=dial, find=find), cid)
    assert 7 <= trio.current_time() - begun < 10
