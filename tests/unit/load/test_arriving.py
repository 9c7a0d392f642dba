"""A file that is still being loaded is served to others as far as it is here, and no further."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.load import arriving
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.load import Load
from kachery_p2p.load.peers import LONG_LOAD
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.interfaces import Provider
from tests.helpers.clocks import PatientClock
from tests.unit.load.test_load import MIB, RepoSession, no_dial, store


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


def leaves_of(repo: Repo, cid: CID) -> list[CID]:
    """The leaves of a file with one node, in order."""
    walk = FileWalk(cid)
    (root,) = walk.take(1)
    block = repo.get_block(cid.multihash)
    assert block is not None
    walk.feed(root, block)
    return [ref.cid for ref in walk.take(10_000)]


class Held:
    """A load that is held where nothing more comes, for a look at what is served then."""

    def __init__(self, repo: Repo, session: RepoSession) -> None:
        self.downloads = Downloads(repo)
        self.store = self.downloads.arriving
        self.told: list[bytes] = []
        self.store.notify = self.told.extend
        self._load = Load(
            repo, self.downloads, session, connect=no_dial, timeout=1e6, progress=lambda done, total: None
        )

    async def whole(self, cid: CID) -> None:
        await self._load.file(cid)

    async def file(self, cid: CID, looks: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load.file, cid)
            await trio.testing.wait_all_tasks_blocked(0.1)
            looks()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
async def test_what_has_arrived_is_served(ours: Repo, theirs: Repo, tmp_path: Path, profile: str) -> None:
    """Verified leaves are there for others before the file is whole, told of as they come; when it is left, not."""
    cid = store(theirs, os.urandom(5 * MIB + 7), tmp_path, profile=profile)
    leaves = leaves_of(theirs, cid)
    held = Held(ours, RepoSession(theirs, withhold=4))

    def looks() -> None:
        for n, leaf in enumerate(leaves):
            block = held.store.get_block(leaf.multihash)
            size = held.store.has_block(leaf.multihash)
            assert (block, size is None) == ((theirs.get_block(leaf.multihash), False) if n < 3 else (None, True))
            assert ours.get_block(leaf.multihash) is None
        assert list(held.store.block_sizes([leaf.multihash for leaf in leaves])) == [
            leaf.multihash for leaf in leaves[:3]
        ]
        assert held.told == [cid.multihash, *(leaf.multihash for leaf in leaves[:3])]

    await held.file(cid, looks)
    assert held.store.block_sizes([leaf.multihash for leaf in leaves]) == {}


async def test_what_is_found_on_the_disk_is_served(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A load that goes on where an earlier one ended serves what that one had loaded."""
    cid = store(theirs, os.urandom(5 * MIB), tmp_path)
    first = [leaf.multihash for leaf in leaves_of(theirs, cid)[:3]]
    await Held(ours, RepoSession(theirs, withhold=4)).file(cid, lambda: None)
    again = Held(ours, RepoSession(theirs, withhold=0))

    def looks() -> None:
        assert set(again.store.block_sizes(first)) == set(first) <= set(again.told)

    await again.file(cid, looks)


async def test_bytes_that_changed_are_not_served(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A partial file in which somebody else wrote: what is no longer right does not leave this machine."""
    cid = store(theirs, os.urandom(5 * MIB), tmp_path)
    leaves = leaves_of(theirs, cid)
    held = Held(ours, RepoSession(theirs, withhold=4))

    def looks() -> None:
        (partial,) = (ours.directory / "partial").iterdir()
        with partial.open("r+b") as file:
            file.seek(MIB + 100)
            file.write(b"spoilt")
        assert held.store.get_block(leaves[0].multihash) == theirs.get_block(leaves[0].multihash)
        assert held.store.get_block(leaves[1].multihash) is None

    await held.file(cid, looks)


async def test_a_whole_file_is_the_repo_s(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """When the file is whole nothing of it is noted any more, and all of it is served."""
    cid = store(theirs, os.urandom(5 * MIB), tmp_path)
    held = Held(ours, RepoSession(theirs))
    await held.whole(cid)
    assert held.store.has_block(leaves_of(theirs, cid)[4].multihash) == MIB
    assert (held.store._open, held.store._count) == ({}, 0)


async def test_what_is_noted_is_bounded(
    ours: Repo, theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a very large file the leaves that came first are forgotten: others get those from the source."""
    monkeypatch.setattr(arriving, "SHARED_LEAVES", 2)
    cid = store(theirs, os.urandom(5 * MIB), tmp_path)
    leaves = [leaf.multihash for leaf in leaves_of(theirs, cid)]
    held = Held(ours, RepoSession(theirs, withhold=5))
    await held.file(cid, lambda: check(held.store.block_sizes(leaves), leaves[2:4]))


def check(found: dict[bytes, int], expected: list[bytes]) -> None:
    assert list(found) == expected


# --- finding each other ---------------------------------------------------------------------------------------------


class SlowSession(RepoSession):
    """Its blocks come four in a second, from a peer that is known."""

    async def receive(self) -> Any:
        await trio.sleep(0.25)  # of virtual time
        return await super().receive()

    async def wait_exhausted(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize(("size", "searches"), [(3 * MIB, 0), (30 * MIB, 1)])
async def test_a_load_that_lasts_looks_for_others(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock, size: int, searches: int
) -> None:
    """Though blocks come from a peer that was known, once, after some seconds; and it is told to others then."""
    cid = store(theirs, os.urandom(size), tmp_path)
    session = SlowSession(theirs)
    session.providers.append("known")
    asked: list[tuple[CID, float]] = []
    told: list[float] = []

    async def find(wanted: CID) -> AsyncGenerator[Provider, None]:
        asked.append((wanted, trio.current_time()))
        return
        yield

    load = Load(
        ours,
        Downloads(ours),
        session,
        connect=no_dial,
        find=find,
        lasting=lambda: told.append(trio.current_time()),
        timeout=60,
        progress=lambda done, total: None,
    )
    begun = trio.current_time()
    await load.run(cid, [], lambda: load.file(cid))
    assert [wanted for wanted, _ in asked] == [cid] * searches
    assert len(told) == searches
    assert all(begun + LONG_LOAD <= at < begun + LONG_LOAD + 2 for at in told)


async def test_the_root_of_a_load_that_lasts_is_announced(tmp_path: Path) -> None:
    """As long as the load goes on, and only where anything is announced; the list of what is here has it, too."""
    root = b"\x12\x20" + bytes(32)
    with Repo.open(tmp_path / "ours") as repo:
        node = Node(
            repo,
            load_or_create_identity(tmp_path / "ours"),
            listen=[],
            options=NodeOptions(lan_dht=True, provide="roots"),
        )
        node._lasting |= {root}
        assert list(node.finding._roots()) == [root]
        assert node.finding._keys_among([root, b"other"]) == {root}
        announcer = node.finding.announcer
        assert announcer is not None
        await announcer.announce([root])
        assert [announcer._state.count(name) for name in announcer._names] == [1]
        node._lasting -= {root}
        assert node.finding._keys_among([root]) == set()


async def test_a_load_that_fails_is_not_announced_afterwards(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """What it had is served to nobody when it is over, so nobody is sent here."""
    cid = store(theirs, os.urandom(3 * MIB), tmp_path)
    held = Held(ours, RepoSession(theirs, withhold=2))
    load = Load(
        ours,
        held.downloads,
        RepoSession(theirs, withhold=2),
        connect=no_dial,
        timeout=0.5,
        progress=lambda done, total: None,
    )
    with pytest.raises(ContentNotFound):
        await load.run(cid, [], lambda: load.file(cid))
    assert held.store.roots() == []
