"""What is announced of what is here: never the multihash of something that is not for everybody."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, group_audience
from kachery_p2p.routing.blinded import AHEAD, PERIOD, blinded_key, period_of
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.provide.announcer import Announcer
from kachery_p2p.routing.provide.blinding import Blinding
from kachery_p2p.units import HOUR
from tests.helpers.group_fakes import G1, G2, FakeAudiences, FakeMembers
from tests.unit.routing.test_provide import Target, made_keys

#: The middle of a period.
NOON = 6900 * PERIOD + PERIOD / 2
OPEN, SHARED, BOTH, OURS, NONE = made_keys(5)


class Here:
    """What is here, for whom, and at what time."""

    def __init__(self) -> None:
        self.roots = [OPEN, SHARED, BOTH, OURS, NONE]
        self.audiences = FakeAudiences(
            {SHARED: group_audience([G1]), BOTH: group_audience([G1, G2]), OURS: PRIVATE, NONE: NOBODY}
        )
        self.members = FakeMembers()
        self.members.add(G1, "bob")
        self.members.add(G2, "eve")
        self.now = NOON
        self.blinding = Blinding(self.audiences, self.members, lambda: self.now)

    def key(self, group: str, root: bytes, period: int | None = None) -> bytes:
        secret = self.members.secrets_of(group)[0]
        return blinded_key(secret, period_of(self.now) if period is None else period, root)

    def listed(self) -> list[bytes]:
        return list(self.blinding.listed(self.roots))

    def among(self, keys: Sequence[bytes]) -> set[bytes]:
        return self.blinding.right(keys, lambda roots: [root for root in roots if root in self.roots])


@pytest.fixture
def here() -> Here:
    return Here()


def test_only_what_is_public_is_announced_in_clear(here: Here) -> None:
    """One key for each group that a root is for; nothing of what is for own machines or for nobody."""
    assert here.listed() == [OPEN, here.key(G1, SHARED), here.key(G1, BOTH), here.key(G2, BOTH)]


def test_a_clear_multihash_is_refused_whoever_asks_for_it(here: Here) -> None:
    """Also one that stands in the tables, from a time when it was public, is not sent."""
    keys = here.listed()
    assert here.among([OPEN, SHARED, BOTH, OURS, NONE, *keys]) == set(keys)


def test_what_is_made_public_is_announced_in_clear(here: Here) -> None:
    """And no longer under the keys of the group."""
    (key,) = here.blinding.keys([SHARED])
    del here.audiences.table[SHARED]
    assert list(here.blinding.keys([SHARED])) == [SHARED]
    assert here.among([key, SHARED]) == {SHARED}


def test_what_is_removed_is_not_announced(here: Here) -> None:
    """A key counts as long as its root is here."""
    keys = list(here.blinding.keys([SHARED, BOTH]))
    here.roots.remove(SHARED)
    assert here.among(keys) == set(keys[1:])


def test_the_keys_change_with_the_period(here: Here) -> None:
    """The next one's key is there some hours ahead, and the last one's is let go of."""
    here.roots = [SHARED]
    last = period_of(here.now)
    old = here.key(G1, SHARED)
    assert here.listed() == [old]
    here.now = (last + 1) * PERIOD - AHEAD + HOUR
    new = here.key(G1, SHARED, last + 1)
    assert here.listed() == [old, new]
    here.now = (last + 1) * PERIOD + 1
    assert here.listed() == [new]
    assert here.among([old, new]) == {new}
    assert here.blinding.root_of(new) == SHARED
    assert here.blinding.root_of(old) is None


def test_a_new_secret_makes_new_keys(here: Here) -> None:
    """Somebody was removed, and cannot know where it is announced from now on."""
    here.roots = [SHARED]
    (old,) = here.listed()
    here.members.secrets[G1] = (bytes(32), *here.members.secrets_of(G1))
    (new,) = here.listed()
    assert new != old
    assert here.among([old, new]) == {new}


def test_a_group_that_was_left_hears_nothing(here: Here) -> None:
    """A machine that is no member any more announces nothing for the group."""
    del here.members.members[G1]
    assert here.listed() == [OPEN, here.key(G2, BOTH)]


def test_a_machine_without_groups_asks_for_no_audience() -> None:
    """Where nothing here is restricted, the list goes through as it is."""

    class Counting(FakeAudiences):
        asked = 0

        def audiences(self, multihashes: Any) -> Any:
            self.asked += 1
            return super().audiences(multihashes)

    audiences = Counting()
    blinding = Blinding(audiences, FakeMembers())
    assert list(blinding.listed([OPEN, SHARED])) == [OPEN, SHARED]
    assert blinding.right([OPEN], lambda roots: roots) == {OPEN}
    assert audiences.asked == 0


def test_public_blocks_are_told_apart(here: Here) -> None:
    """Of all blocks only those that everybody may see are announced one by one."""
    assert list(here.blinding.public([OPEN, SHARED, OURS])) == [OPEN]
    assert here.blinding.keys_for(OPEN, PUBLIC) == [OPEN]


def test_ten_thousand_roots_are_listed_at_once(here: Here) -> None:
    """For fifty groups; each key leads to its root, and no key is there twice."""
    roots = made_keys(10_000, seed=7)
    groups = ["".join(("g" * 24, chr(97 + number // 26), chr(97 + number % 26))) for number in range(50)]
    for group in groups:
        here.members.add(group, "bob")
    here.roots = roots
    here.audiences.table = {root: group_audience([groups[number % 50]]) for number, root in enumerate(roots)}
    keys = here.listed()
    assert len(set(keys)) == len(roots)
    assert [here.blinding.root_of(key) for key in keys] == roots


@pytest.fixture
def mock_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Virtual time, in which what goes to threads is done in place."""

    async def in_place(work: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)
    return MockClock(autojump_threshold=0)


async def test_the_announcer_sends_and_remembers_no_clear_multihash(
    here: Here, mock_clock: MockClock, tmp_path: Path
) -> None:
    """Over two periods, with a newcomer on the LAN: nothing that is sent, and nothing on the disk, names them."""
    dht, lan = Target("dht", peers=3), Target("lan-dht", peers=2, first=50)
    secret = [SHARED, BOTH, OURS, NONE]
    rng = random.Random(1)

    def wall() -> float:
        here.now = NOON + trio.current_time()
        return here.now

    def listed() -> Iterable[bytes]:
        wall()
        return here.blinding.listed(here.roots)

    with closing(Database(tmp_path / "routing.sqlite")) as db:
        announcer = Announcer(db, [dht, lan], listed, here=here.among, rng=rng, wall=wall)
        async with trio.open_nursery() as nursery:
            await nursery.start(announcer.run)
            # A caller that knows no better is refused, too.
            await announcer.announce([*secret, *here.blinding.keys(here.roots)])
            await trio.sleep(HOUR)
            lan.change(add=[60])
            await trio.sleep(PERIOD)
            nursery.cancel_scope.cancel()
    sent = {key for target in (dht, lan) for _, _, key in target.log}
    assert OPEN in sent
    assert not sent.intersection(secret)
    for target in (dht, lan):
        told = {key for _, _, key in target.log}
        for period in (6900, 6901):
            assert {here.key(G1, SHARED, period), here.key(G1, BOTH, period), here.key(G2, BOTH, period)} <= told
    # Another start within the period finds what was announced when, and announces nothing again.
    restarted = Target("dht", peers=3)
    fresh = Blinding(here.audiences, here.members, wall)
    with closing(Database(tmp_path / "routing.sqlite")) as db:
        announcer = Announcer(db, [restarted], lambda: fresh.listed(here.roots), here=here.among, rng=rng, wall=wall)
        async with trio.open_nursery() as nursery:
            await nursery.start(announcer.run)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
    assert restarted.log == []
    disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert here.key(G1, SHARED, 6901) in disk
    assert not any(each in disk or each.hex().encode() in disk for each in secret)
