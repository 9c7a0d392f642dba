"""Telling the network what we have (kachery_p2p.routing.provide.announcer)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kachery_p2p.errors import DialError, DiskFull, StreamError
from kachery_p2p.peer_ids import peer_text
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.messages import DhtPeer
from kachery_p2p.routing.provide import limits
from kachery_p2p.routing.provide.announcer import Announcer
from kachery_p2p.routing.provide.state import AnnounceState

HOUR = 3600.0
#: Where the wall clock stands when the tests begin.
NOON = 1_800_000_000.0


@pytest.fixture
def mock_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Virtual time, which would run on while a thread works: so what goes to threads is done in place."""

    async def in_place(work: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)
    return MockClock(autojump_threshold=0)


def made_peer(number: int) -> bytes:
    return b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")


def made_keys(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [b"\x12\x20" + rng.randbytes(32) for _ in range(count)]


class Target:
    """A DHT in which every lookup finds the truth."""

    def __init__(self, name: str = "dht", peers: int = 1, first: int = 0) -> None:
        self.name = name
        self.local = name == "lan-dht"
        self.servers = {made_peer(first + n) for n in range(peers)}
        #: (time, peer, key) of each record delivered.
        self.log: list[tuple[float, bytes, bytes]] = []
        self.lookups = 0
        self.streams = 0
        self.delay = 0.1
        self.refuse = False
        self.broken = False
        self.changed = trio.Event()

    def change(self, add: Sequence[int] = (), remove: Sequence[int] = ()) -> None:
        self.servers |= {made_peer(n) for n in add}
        self.servers -= {made_peer(n) for n in remove}
        self.changed.set()
        self.changed = trio.Event()

    async def wait_ready(self) -> None:
        while not self.servers:
            await self.changed.wait()

    async def closest(self, key: bytes) -> list[DhtPeer]:
        self.lookups += 1
        await trio.sleep(self.delay)
        if self.broken:
            raise StreamError("The line is cut.")
        place = kad_id(key)
        return [DhtPeer(peer, ()) for peer in sorted(self.servers, key=lambda p: kad_id(p) ^ place)[:20]]

    async def deliver(self, peer: DhtPeer, keys: Sequence[bytes]) -> bool:
        self.streams += 1
        await trio.sleep(self.delay)
        if peer.id not in self.servers:
            raise DialError("Nobody is there.")
        if self.refuse:
            return False
        self.log += [(trio.current_time(), peer.id, key) for key in keys]
        return True

    def peers(self) -> list[str]:
        return [peer_text(peer) for peer in self.servers]

    def times(self) -> Counter[tuple[bytes, bytes]]:
        """How often each peer was told of each key."""
        return Counter((peer, key) for _, peer, key in self.log)

    def holders(self, key: bytes) -> set[bytes]:
        return {peer for _, peer, each in self.log if each == key}

    def true_closest(self, key: bytes) -> set[bytes]:
        place = kad_id(key)
        return set(sorted(self.servers, key=lambda p: kad_id(p) ^ place)[:20])


@asynccontextmanager
async def announcing(
    *targets: Target,
    keys: Callable[[], Sequence[bytes]] = list,
    here: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda keys: keys,
    db: Database | None = None,
) -> AsyncIterator[Announcer]:
    with closing(Database(None)) as memory:
        announcer = Announcer(
            db or memory, targets, keys, here=here, rng=random.Random(1), wall=lambda: NOON + trio.current_time()
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(announcer.run)
            yield announcer
            nursery.cancel_scope.cancel()


async def test_a_new_key_is_announced_at_once(mock_clock: MockClock) -> None:
    """One lookup, 20 deliveries, and the caller knows in how many places the record is, and after how long."""
    target = Target(peers=100)
    (key,) = made_keys(1)
    async with announcing(target) as announcer:
        await announcer.announce([key])
        announced = await announcer.wait(key)
    assert announced.copies == 20
    assert announced.seconds < 2
    assert target.true_closest(key) == target.holders(key)
    assert target.lookups == 1


async def test_what_is_not_here_is_not_announced(mock_clock: MockClock) -> None:
    """Whoever asks for it: a record of us for it would send others here for nothing."""
    target = Target(peers=30)
    mine, other = made_keys(2)
    async with announcing(target, here=lambda keys: [key for key in keys if key == mine]) as announcer:
        await announcer.announce([mine, other])
        assert (await announcer.wait(mine)).copies == 20
        assert (await announcer.wait(other, timeout=5)).copies == 0
        assert announcer.status()["targets"]["dht"]["waiting"] == 0
    assert target.holders(other) == set()


async def test_what_was_removed_is_not_announced_again(mock_clock: MockClock) -> None:
    """It is looked at each time before a record is sent, in its turn and to a newcomer, and then forgotten."""
    target = Target("lan-dht", peers=3)
    kept, gone = keys = made_keys(2)
    present = list(keys)
    async with announcing(target, keys=lambda: keys, here=lambda asked: [k for k in asked if k in present]) as each:
        await trio.sleep(60)
        assert {key for _, _, key in target.log} == set(keys)
        present.remove(gone)
        target.log.clear()
        target.change(add=[50])
        await trio.sleep(limits.INTERVAL + 2 * HOUR)
        assert each.status()["targets"]["lan-dht"]["waiting"] == 0
    assert {key for _, _, key in target.log} == {kept}
    assert made_peer(50) in target.holders(kept)


async def test_two_nodes(mock_clock: MockClock) -> None:
    """In a network of two the other one gets the record, in the time of one lookup and one delivery."""
    target = Target("lan-dht", peers=1)
    (key,) = made_keys(1)
    async with announcing(target) as announcer:
        await announcer.announce([key])
        announced = await announcer.wait(key)
        assert announced.copies == 1
        assert announced.seconds < 1
        await trio.sleep(60)
    assert target.streams == 1


async def test_many_new_keys_go_by_region(mock_clock: MockClock) -> None:
    """Two thousand keys at once in a network of 400: a lookup for every handful of them, every record in place."""
    target = Target(peers=400)
    keys = made_keys(2000)
    async with announcing(target) as announcer:
        await announcer.announce(keys)
        for key in keys:
            assert (await announcer.wait(key, 600)).copies == 20
    assert target.lookups < 200
    assert target.streams <= 600
    expected = {(peer, key) for key in keys[:500] for peer in target.true_closest(key)}
    assert expected <= target.times().keys()
    assert len(target.times()) == 2000 * 20
    assert set(target.times().values()) == {1}


async def test_offline_neither_blocks_nor_spins(mock_clock: MockClock) -> None:
    """A target without peers is asked nothing and delays nobody; when it gets some, they are told."""
    off, on = Target("dht", peers=0), Target("lan-dht", peers=2)
    (key,) = keys = made_keys(1)
    async with announcing(off, on, keys=lambda: keys) as announcer:
        await announcer.announce([key])
        announced = await announcer.wait(key)
        assert announced.copies == 2
        assert announced.seconds < 2
        await trio.sleep(HOUR / 4)
        assert off.lookups == 0
        assert announcer.status()["targets"]["dht"]["waiting"] == 1
        off.change(add=range(100, 130))
        await trio.sleep(70)
        assert len(off.holders(key)) == 20


async def test_nobody_there_is_said(mock_clock: MockClock) -> None:
    """With no peers anywhere, waiting ends at its time, with no copies."""
    (key,) = made_keys(1)
    async with announcing(Target(peers=0)) as announcer:
        await announcer.announce([key])
        announced = await announcer.wait(key, timeout=7)
    assert announced.copies == 0
    assert announced.seconds == pytest.approx(7, abs=0.5)


async def test_failures_are_retried_with_growing_pauses(mock_clock: MockClock) -> None:
    """A network that takes nothing for an hour is tried a dozen times, and told once it takes records again."""
    target = Target(peers=30)
    target.refuse = True
    (key,) = keys = made_keys(1)
    async with announcing(target, keys=lambda: keys) as announcer:
        await announcer.announce([key])
        await trio.sleep(HOUR)
        assert 4 <= target.lookups <= 14
        assert announcer.status()["targets"]["dht"]["waiting"] == 1
        assert announcer.status()["targets"]["dht"]["failures"] == 0
        target.refuse = False
        await trio.sleep(limits.RETRY_LAST + 60)
        assert len(target.holders(key)) == 20
        assert announcer.status()["targets"]["dht"]["waiting"] == 0


async def test_errors_of_a_target_are_told_and_retried(mock_clock: MockClock) -> None:
    """Lookups that raise end no task; what went wrong is in the status."""
    target = Target(peers=30)
    target.broken = True
    (key,) = keys = made_keys(1)
    async with announcing(target, keys=lambda: keys) as announcer:
        await announcer.announce([key])
        await trio.sleep(60)
        assert "line is cut" in announcer.status()["targets"]["dht"]["last_error"]
        target.broken = False
        assert (await announcer.wait(key, 2 * limits.RETRY_LAST)).copies == 20


async def test_errors_of_the_database_end_nothing(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is in the status; a minute after there is room again, all goes on."""
    target = Target(peers=3)
    (key,) = keys = made_keys(1)
    full = True

    def failing(works: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any) -> Any:
            if full:
                raise DiskFull("No room on the disk.")
            return works(*args)

        return work

    monkeypatch.setattr(AnnounceState, "mark", failing(AnnounceState.mark))
    monkeypatch.setattr(AnnounceState, "regions", failing(AnnounceState.regions))
    async with announcing(target, keys=lambda: keys) as announcer:
        await announcer.announce([key])
        assert (await announcer.wait(key, 300)).copies == 0
        assert "No room" in announcer.status()["targets"]["dht"]["last_error"]
        full = False
        assert (await announcer.wait(key, 300)).copies == 3


async def test_every_key_is_announced_again_in_the_interval(mock_clock: MockClock) -> None:
    """Over three intervals each key is announced every 11 to 33 hours (22 once in step), always to its closest."""
    target = Target(peers=60)
    keys = made_keys(50)
    async with announcing(target, keys=lambda: keys):
        await trio.sleep(3 * limits.INTERVAL)
    for key in keys:
        times = sorted({round(when / 60) for when, _, each in target.log if each == key})
        gaps = [60 * (b - a) for a, b in pairwise(times)]
        assert 2 <= len(gaps) <= 3
        assert limits.INTERVAL / 2 - 120 <= gaps[0] <= 1.5 * limits.INTERVAL + 120
        assert all(gap == pytest.approx(limits.INTERVAL, abs=300) for gap in gaps[1:])


async def test_a_restart_announces_nothing_again(mock_clock: MockClock, tmp_path: Path) -> None:
    """State survives: no record is sent twice, per target, until it is due; what came meanwhile is announced."""
    wan, lan = Target("dht", peers=60), Target("lan-dht", peers=3, first=1000)
    keys = made_keys(300)
    db = Database(tmp_path / "routing.sqlite")
    async with announcing(wan, lan, keys=lambda: keys, db=db) as announcer:
        for key in keys:
            await announcer.wait(key)
        await trio.sleep(120)
    db.close()
    keys += made_keys(5, seed=2)
    db = Database(tmp_path / "routing.sqlite")
    async with announcing(wan, lan, keys=lambda: keys, db=db) as announcer:
        await trio.sleep(600)
        assert announcer.status()["targets"]["dht"]["announced"] == 305
    db.close()
    assert len(wan.times()) == 305 * 20
    assert len(lan.times()) == 305 * 3
    assert set(wan.times().values()) == set(lan.times().values()) == {1}


async def test_overdue_regions_go_first(mock_clock: MockClock, tmp_path: Path) -> None:
    """After two days offline everything is announced again, soon."""
    target = Target(peers=60)
    keys = made_keys(100)
    db = Database(tmp_path / "routing.sqlite")
    async with announcing(target, keys=lambda: keys, db=db) as announcer:
        for key in keys:
            await announcer.wait(key)
    await trio.sleep(48 * HOUR)
    target.log.clear()
    async with announcing(target, keys=lambda: keys, db=db):
        await trio.sleep(120)
    db.close()
    assert len(target.times()) == 100 * 20


async def test_keys_that_are_gone_are_not_announced(mock_clock: MockClock) -> None:
    """What was removed from the repo is forgotten, at the latest after ten minutes; what was just added is not."""
    target = Target(peers=5)
    keys = made_keys(20)
    async with announcing(target, keys=lambda: keys) as announcer:
        for key in keys:
            await announcer.wait(key)
        del keys[5:]
        await trio.sleep(limits.SYNC_EVERY + 60)
        assert announcer.status()["targets"]["dht"]["keys"] == 5
        target.log.clear()
        await trio.sleep(2 * limits.INTERVAL)
    assert set(keys) == {key for _, _, key in target.log}


async def test_a_laptop_comes_into_another_lab(mock_clock: MockClock) -> None:
    """The peers of a LAN we come into have our keys within seconds; those at home are told only what is new to them."""
    lan = Target("lan-dht", peers=2)
    keys = made_keys(30)
    async with announcing(lan, keys=lambda: keys) as announcer:
        for key in keys:
            await announcer.wait(key)
        await trio.sleep(60)
        assert lan.streams == 2
        lan.change(remove=range(2))
        await trio.sleep(60)
        lan.change(add=range(10, 13))
        await trio.sleep(20)
        for key in keys:
            assert {made_peer(n) for n in range(10, 13)} <= lan.holders(key)
        (new,) = made_keys(1, seed=9)
        keys.append(new)
        await announcer.announce([new])
        await announcer.wait(new)
        lan.change(add=range(2), remove=range(10, 13))
        await trio.sleep(30)
        assert {made_peer(n) for n in (0, 1, 10, 11, 12)} == lan.holders(new)
        await trio.sleep(300)
    assert set(lan.times().values()) == {1}


async def test_a_newcomer_that_does_not_answer_is_tried_again(mock_clock: MockClock) -> None:
    """A peer of the LAN that could not take our keys when it came is given them some seconds later."""
    lan = Target("lan-dht", peers=2)
    keys = made_keys(10)
    async with announcing(lan, keys=lambda: keys) as announcer:
        for key in keys:
            await announcer.wait(key)
        lan.refuse = True
        lan.change(add=[7])
        await trio.sleep(12)
        assert made_peer(7) not in lan.holders(keys[0])
        lan.refuse = False
        await trio.sleep(90)
        assert all(made_peer(7) in lan.holders(key) for key in keys)
    assert set(lan.times().values()) == {1}


async def test_tens_of_thousands_of_keys(mock_clock: MockClock, tmp_path: Path) -> None:
    """They are taken in, announced to the other node of a small network and noted, in seconds; no delivery is huge."""
    target = Target(peers=1)
    keys = made_keys(40_000)
    db = Database(tmp_path / "routing.sqlite")
    async with announcing(target, keys=lambda: keys, db=db) as announcer:
        while announcer.status()["targets"]["dht"]["announced"] < len(keys):
            await trio.sleep(1)
            assert trio.current_time() < 1000
    db.close()
    assert len(target.log) == 40_000
    assert target.lookups < 30
    assert target.streams < 60
