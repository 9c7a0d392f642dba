"""Keeping a node's directory under its limit: when room is made, how much, and what is said."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from kachery_p2p.dag.cid import CID
from kachery_p2p.node.room import Room, RoomHooks, RoomPace
from kachery_p2p.repo import Repo
from kachery_p2p.repo.kept_rows import LOADED
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=10_000, width=3)
SIZE = 200_000
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def loaded(repo: Repo, number: int, age: float = 10_000.0) -> CID:
    cid = repo.store_bytes(random.Random(number).randbytes(SIZE), profile=TINY).cid
    with repo._catalog.write() as db:
        used = time.time() - age - number
        db.execute("UPDATE kept SET how = ?, used = ? WHERE key = ?", (LOADED, used, bytes(cid.to_v1())))
    return cid


class Told:
    """Who is told of what is gone."""

    def __init__(self) -> None:
        self.cids: list[CID] = []
        self._came = trio.Event()

    async def __call__(self, cids: Sequence[CID]) -> None:
        self.cids += cids
        self._came.set()
        self._came = trio.Event()

    async def wait_for(self, cid: CID) -> None:
        while cid not in self.cids:
            await self._came.wait()


def roomy(monkeypatch: pytest.MonkeyPatch, free: int = 1 << 50) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(1 << 51, 0, free))


async def test_beyond_the_limit_some_goes_and_then_there_is_slack(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than is needed for the slack; all others are told; and then nothing goes for a while."""
    roomy(monkeypatch)
    cids = [loaded(repo, number) for number in range(8)]
    told = Told()
    used = repo.eviction.bytes_here()
    room = Room(repo, used - SIZE // 2, told=told, pace=RoomPace(slack=SIZE / used))
    assert await room.look() >= SIZE
    assert 2 <= len(told.cids) <= 3
    assert told.cids == cids[::-1][: len(told.cids)]
    assert (room.evicted_roots, room.used) == (len(told.cids), used)
    assert room.evicted_bytes >= SIZE * len(told.cids)
    assert await room.look() == 0


async def test_without_a_limit_nothing_goes(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the disk is full, or a load asks for room."""
    roomy(monkeypatch, free=0)
    loaded(repo, 1)
    room = Room(repo, None, told=Told())
    assert await room.look() == 0
    assert await room.make(1) == 0
    assert len(repo.inventory.roots()) == 1
    assert room.cached == SIZE


async def test_a_disk_that_fills_up(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others fill it: room is made below the limit, too."""
    roomy(monkeypatch, free=1_000_000)
    loaded(repo, 1)
    told = Told()
    room = Room(repo, 1 << 40, told=told, pace=RoomPace(reserve=1_000_001))
    assert await room.look() > 0
    assert len(told.cids) == 1


async def test_what_costs_nothing_goes_first(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """If that is enough, nothing else does."""
    roomy(monkeypatch)
    loaded(repo, 1)
    asked: list[int] = []

    def first(most: int) -> int:
        asked.append(most)
        return most

    told = Told()
    room = Room(repo, 1 << 40, told=told, hooks=RoomHooks(first=first))
    assert await room.make(777) == 777
    assert (asked, told.cids) == ([777], [])


async def test_where_nothing_may_go_it_is_said_once(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    """Not every minute: once an hour."""
    roomy(monkeypatch)
    repo.store_bytes(random.Random(1).randbytes(SIZE))
    loaded(repo, 2, age=0)
    room = Room(repo, 1000, told=Told())
    with caplog.at_level(logging.WARNING, logger="kachery_p2p"):
        for seconds in (0, 60, 3_000, 1_000, 60):
            mock_clock.jump(seconds)
            assert await room.look() == 0
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "nothing else may go" in text]) == 2
    assert len(repo.inventory.roots()) == 2


async def test_it_looks_as_soon_as_much_was_loaded(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when the limit changes."""
    roomy(monkeypatch)
    told = Told()
    used = repo.eviction.bytes_here()
    room = Room(repo, used + 50_000_000, told=told, pace=RoomPace(interval=1e9))
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        cids = [loaded(repo, number) for number in range(2)]
        room.set_limit(used + SIZE)
        await told.wait_for(cids[1])
        room.limit = 1
        room.arrived(3_000_000)
        await told.wait_for(cids[0])
        nursery.cancel_scope.cancel()


async def test_it_does_not_look_for_each_small_load(repo: Repo) -> None:
    """They are added up; without a limit nothing is looked at at all."""
    room = Room(repo, 400_000_000, told=Told())
    for _ in range(100):
        room.arrived(100_000)
    assert not room._wake
    room.arrived(100_000)
    assert room._wake
    room = Room(repo, None, told=Told())
    room.arrived(1 << 50)
    assert not room._wake
