"""Fair shares of the event loop: turns that end, and allowances that are paid back. Virtual time only."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kachery_p2p import turns
from kachery_p2p.groups import group_of, group_of_multiaddr, most_crowded
from kachery_p2p.transport import limits
from kachery_p2p.transport.yamux import YamuxCore
from kachery_p2p.turns import TURN_ITEMS, Allowance, Pool, Turn

DATA, UPDATE = 0, 1
SYN = 1


async def test_a_turn_ends_after_some_items() -> None:
    """A loop that never waits lets the others run every so many items, on a clock that stands still, too."""
    turn, others = Turn(clock=lambda: 0.0), 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(10 * TURN_ITEMS):
            await turn.step()
        nursery.cancel_scope.cancel()
    assert others >= 9  # it begins with the end of the first turn


def test_a_turn_ends_with_its_time() -> None:
    """Items that take long end it earlier; it begins anew after a wait."""
    now = 0.0
    turn = Turn(clock=lambda: now)
    assert not turn.is_over()
    now = turns.TURN_SECONDS
    assert turn.is_over()
    turn.begin()
    assert not turn.is_over()


async def test_an_allowance_is_a_rate_and_a_burst(autojump_clock: trio.testing.MockClock) -> None:
    """What is spent within the burst costs no time; from then on the rate decides, whatever the size of the pieces."""
    allowance = Allowance(100, 50, Pool(1000))
    begun = trio.current_time()
    allowance.spend(10)
    assert not await allowance.settle()
    assert trio.current_time() == begun
    for size in (1, 7, 40) * 25:
        allowance.spend(size)
        await allowance.settle()
    assert trio.current_time() - begun == pytest.approx(48 * 25 / 100, abs=0.1)


async def test_those_in_debt_share_the_pool(autojump_clock: trio.testing.MockClock) -> None:
    """A hundred peers that each overdraw get together what one would get; one that pays its way never waits."""
    pool = Pool(1000)
    done = 0

    async def greedy() -> None:
        nonlocal done
        allowance = Allowance(1000, 10, pool)
        while True:
            allowance.spend(10)
            done += 10
            await allowance.settle()

    modest = Allowance(1000, 10, pool)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(greedy)
        for _ in range(100):
            await trio.sleep(0.1)
            modest.spend(1)
            assert not await modest.settle()
        nursery.cancel_scope.cancel()
    assert done < 1.5 * 1000 * 10 + 100 * 10


async def test_tasks_of_one_peer_wait_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    """A thousand tasks of one peer get no more than one would, each in its turn."""
    allowance, order = Allowance(100, 1, Pool(1000)), list[int]()
    allowance.spend(10)

    async def ask(number: int) -> None:
        await allowance.settle()
        allowance.spend(1)
        order.append(number)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(ask, number)
            await trio.lowlevel.checkpoint()
    assert order == sorted(order)
    assert trio.current_time() - begun == pytest.approx(10, rel=0.1)


async def test_a_cancelled_wait_leaves_the_others_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever gives up while it waits holds up nobody, and the pool forgets it."""
    pool = Pool(100)
    allowance = Allowance(100, 1, pool)
    allowance.spend(1000)
    with trio.move_on_after(1):
        await allowance.settle()
    assert pool.waiting == 0
    assert await allowance.settle()


def test_frames_are_taken_in_small_steps() -> None:
    """A message full of one-byte frames is parsed in steps of a few, and comes to the same as in one go."""
    head = YamuxCore(True)
    core = YamuxCore(False)
    stream = head.open()
    plaintext = bytearray(65519)
    for _ in core.parse(plaintext[: head.fill(memoryview(plaintext))]):
        pass
    crumbs = bytearray(b"".join(b"\0\0\0\0" + stream.id.to_bytes(4, "big") + b"\0\0\0\1x" for _ in range(5000)))
    steps = sum(1 for _ in core.parse(crumbs))
    assert steps == pytest.approx(5000 / limits.FRAMES_IN_A_ROW, abs=2)
    assert core.streams[stream.id].queued == 5000


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("a name", "a name"),
    ],
)
def test_what_an_address_counts_as(host: str, group: str) -> None:
    """An IPv4 address is one party; so is a /64 of IPv6."""
    assert group_of(host) == group


def test_what_a_multiaddr_counts_as() -> None:
    """The address of a relay does not say where its peers are."""
    assert group_of_multiaddr("/ip4/192.0.2.7/tcp/4001") == "192.0.2.7"
    assert group_of_multiaddr("/ip6/2001:db8::1/tcp/4001") == "2001:db8::/64"
    assert group_of_multiaddr("/ip6zone/eth0/ip6/fe80::1/tcp/4001") == "fe80::/64"
    assert group_of_multiaddr("/ip4/192.0.2.7/tcp/1/p2p/x/p2p-circuit") == ""


def test_the_largest_group_gives_way() -> None:
    """The first of the group that has most, counting those that are no candidates, too."""
    assert most_crowded({1: "a", 2: "b", 3: "b"}) == 2
    assert most_crowded({1: "a", 2: "b"}, ["a", "a", "b"]) == 1
    assert most_crowded({}) is None


async def test_a_late_loop_pays_no_debts(autojump_clock: trio.testing.MockClock) -> None:
    """When the loop runs late, each of its rounds gives a peer in debt no more than a round in time; a peer that comes
    back after a pause has all that it saved up."""
    now = 0.0
    allowance = Allowance(1000, 500, Pool(1000), clock=lambda: now)
    allowance.spend(200)
    with trio.move_on_after(0.01):
        await allowance.settle()  # it would take a tenth of a second
    now = 0.9
    assert allowance.in_debt
    assert allowance.units == pytest.approx(-100 + 1000 * turns.LATE_SECONDS)
    now = 20.0
    assert not allowance.in_debt
    assert allowance.units == 500
