"""The table of peers, and races between addresses; no sockets."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from kachery_p2p.errors import DialError
from kachery_p2p.transport import limits
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.dialer import Race, explain
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.peers import PeerTable
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started


def fake(
    peer: str, *, initiator: bool = True, opened: float = 0, used: float = 0, busy: bool = False, via: str = "/ip4/x"
) -> Connection:
    """As much of a connection as the table looks at."""
    return cast(
        Connection,
        SimpleNamespace(
            peer=peer,
            initiator=initiator,
            opened_at=opened,
            used_at=used,
            is_used=busy,
            stream_count=int(busy),
            is_closed=False,
            address=via,
            core=SimpleNamespace(remote_gone=None),
        ),
    )


def table(
    *connections: Connection, local: str = "m", maximum: int = 3, bounds: TransportLimits = limits.DEFAULTS
) -> PeerTable:
    made = PeerTable(local, maximum, bounds)
    for each in connections:
        made.add(each)
    return made


@pytest.mark.parametrize("peer", ["a", "z"])
def test_both_sides_prefer_the_same_connection(peer: str) -> None:
    """Of two connections made at once, both ends choose the one the smaller peer ID opened, whatever came first."""
    for ours_first in (True, False):
        ours = fake(peer, initiator=True, opened=1 if ours_first else 2)
        theirs = fake(peer, initiator=False, opened=2 if ours_first else 1)
        here = table(ours, theirs).best(peer)
        there = table(
            fake("m", initiator=False, opened=ours.opened_at),
            fake("m", initiator=True, opened=theirs.opened_at),
            local=peer,
        ).best("m")
        assert here is not None
        assert there is not None
        assert here.initiator is not there.initiator
        assert here is (ours if peer > "m" else theirs)


def test_leaving_closed_and_relayed_connections_come_last() -> None:
    """A connection that is closed, or being left, is not used; a relayed one only when there is no other."""
    leaving, closed, relayed, direct = fake("p"), fake("p"), fake("p", via="/p2p/x/p2p-circuit"), fake("p", opened=9)
    leaving.core.remote_gone = 0
    closed.is_closed = True  # type: ignore[misc]
    assert table(leaving, closed).best("p") is None
    assert table(leaving, closed, relayed).best("p") is relayed
    assert table(relayed, direct).best("p") is direct
    assert table().best("p") is None


def test_least_useful_goes_first() -> None:
    """Not in use before in use, inbound before outbound, longest unused first; never protected ones or the newest."""
    busy = fake("busy", busy=True)
    outbound = fake("outbound", used=1)
    old = fake("old", initiator=False, used=2)
    new = fake("new", initiator=False, used=9)
    newest = fake("newest", initiator=False)
    made = table(busy, outbound, old, new, newest, maximum=4)
    assert made.surplus(newest) == [old]
    made.max_connections = 1
    assert made.surplus(newest) == [old, new, outbound, busy]
    made.protect("old", "one")
    made.protect("old", "two")
    assert made.surplus(newest) == [new, outbound, busy]
    assert made.unprotect("old", "one")
    assert not made.unprotect("old", "two")
    assert made.surplus(newest)[0] is old


def test_an_address_has_a_share_of_a_full_table() -> None:
    """When others want in, peers that came from an address beyond its share go first, those in use as well; while all
    come from one address there is nothing to share."""
    many = [
        fake(f"many-{i}", initiator=False, used=100 + i, busy=i == 0, via=f"/ip6/2001:db8::{i}/tcp/1") for i in range(6)
    ]
    quiet = [fake(f"quiet-{i}", initiator=False, used=i, via=f"/ip4/192.0.2.{i}/tcp/1") for i in range(2)]
    newest = fake("newest", initiator=False, via="/ip4/192.0.2.9/tcp/1")
    made = table(*quiet, *many, newest, maximum=8)
    assert made.surplus(newest) == [many[1]]
    for each in many[1:5]:
        made.remove(each)
    made.max_connections = 4  # of which one address may have one
    assert made.surplus(newest) == [many[5]]
    made.remove(many[5])
    made.max_connections = 3
    assert made.surplus(newest) == [quiet[0]]
    same = [fake(f"same-{i}", initiator=False, used=i, busy=i < 2, via="/ip4/127.0.0.1/tcp/1") for i in range(4)]
    assert table(*same, maximum=3).surplus(same[-1]) == [same[2]]


def test_what_can_be_spared() -> None:
    """Without files left the least useful connection goes that is neither in use nor protected, if there is one."""
    busy, kept, idle = fake("busy", busy=True), fake("kept"), fake("idle", used=5)
    made = table(busy, kept, idle)
    made.protect("kept", "tag")
    assert made.least_useful() is idle
    made.remove(idle)
    assert made.least_useful() is None


def test_connections_of_one_peer_are_bounded() -> None:
    """The fifth connection of a peer displaces one of its own."""
    mine = [fake("p", used=i) for i in range(limits.MAX_CONNECTIONS_PER_PEER + 1)]
    made = table(fake("other"), *mine, maximum=100)
    assert made.surplus(mine[-1]) == [mine[0]]


def test_duplicates_go_when_idle_and_old() -> None:
    """A second connection is closed when it is not the preferred one, has no streams and is no longer new."""
    now = 100 + limits.DEFAULTS.duplicate_grace
    preferred, idle = fake("z"), fake("z", initiator=False, opened=99)
    busy, young = fake("z", initiator=False, busy=True), fake("z", initiator=False, opened=now)
    assert table(preferred, idle, busy, young).idle_duplicates(now) == [idle]
    assert table(idle).idle_duplicates(now) == []


def test_bans_end_and_are_bounded() -> None:
    """A ban lasts as long as it was said to; when there are too many the one that ends first goes."""
    made = table(bounds=TransportLimits(max_bans=3))
    for i, peer in enumerate("abcd"):
        made.ban(peer, 10 + i)
    assert [made.banned(peer, 5) for peer in "abcd"] == [0, 6, 7, 8]
    assert made.banned("b", 11) == 0


def test_what_peers_said_is_bounded() -> None:
    """Of strangers who are gone only so much is remembered; connected peers are never forgotten."""
    made = table(fake("here"), bounds=TransportLimits(max_connections=5))
    made.info("here").agent = "friend"
    for i in range(1000):
        made.info(str(i))
    assert len(made._info) <= 4 * 5 + 1
    assert made.peek("here").agent == "friend"
    assert made.peek("999") is made.info("999")


# --- races -----------------------------------------------------------------------------------------------------------


async def test_second_winner_is_disposed_of() -> None:
    """When two addresses succeed in the same instant one is kept and the other closed."""
    gate = trio.Event()
    discarded: list[str] = []

    async def attempt(target: str) -> str:
        if target == "b":
            gate.set()
        await gate.wait()
        return target

    race = Race(["a", "b"], attempt, discarded.append)
    winner = await race.run()
    assert {winner, *discarded} == {"a", "b"}


@pytest.mark.parametrize("others", [0, 1])
async def test_a_caller_that_gives_up_as_somebody_wins(others: int) -> None:
    """Nobody else would close what was reached, so the race does."""
    disposed: list[str] = []

    async def attempt(target: str) -> str:
        if target != "good":
            await trio.sleep_forever()
        scope.cancel()
        return target

    with trio.CancelScope() as scope:
        await Race([*["dead"] * others, "good"], attempt, disposed.append).run()
        pytest.fail("it was cancelled")
    assert disposed == ["good"]


async def test_race_is_staggered_and_ends_early(autojump_clock: trio.testing.MockClock) -> None:
    """The next address starts after a quarter of a second, or at once when one fails; the winner ends the others."""
    log: list[tuple[str, float]] = []
    start = trio.current_time()

    async def attempt(target: str) -> str:
        log.append((target, round(trio.current_time() - start, 3)))
        if target == "slow":
            await trio.sleep(100)
        if target == "refused":
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        await trio.sleep(0.1)
        return target

    race = Race(["slow", "refused", "good", "never"], attempt, lambda result: None)
    assert await race.run() == "good"
    assert log == [("slow", 0.0), ("refused", 0.25), ("good", 0.25)]
    assert trio.current_time() - start == pytest.approx(0.35)
    assert race.errors == {"refused": "connection refused (nothing listens there)"}


async def test_all_fail_and_late_targets_join(autojump_clock: trio.testing.MockClock) -> None:
    """A race that everybody loses says each reason; an address that comes while it runs is tried too."""

    async def attempt(target: str) -> str:
        await trio.sleep(1)
        if target == "a":
            race.add("late")
        raise DialError(f"{target} is bad.")

    race: Race[str, str] = Race(["a", "a", "b"], attempt, lambda result: None)
    assert await race.run() is None
    assert race.errors == {"a": "a is bad", "b": "b is bad", "late": "late is bad"}


async def test_number_of_addresses_is_bounded() -> None:
    """A peer that claims ten thousand addresses does not make us dial them."""
    tried: list[int] = []

    async def attempt(target: int) -> int:
        tried.append(target)
        raise OSError(errno.EHOSTUNREACH, "unreachable")

    race = Race(range(10_000), attempt, lambda result: None)
    await race.run()
    assert len(tried) == limits.MAX_DIAL_ADDRESSES


async def test_dial_that_nobody_waits_for_is_cancelled(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """When the last caller gives up, the connection attempt ends: the other end sees it close."""
    host = await started(nursery)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with pytest.raises(DialError, match=r"no answer within 0\.1 seconds"):
            await host.connect(f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}", timeout=0.1)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(PATIENCE)
            while await trio.to_thread.run_sync(peer.recv, 1000):
                pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), "no route to that host"),
        (OSError(errno.ETIMEDOUT, "x"), "timed out"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (trio.ClosedResourceError(), "the peer closed the connection"),
        (DialError("a sentence."), "a sentence"),
    ],
)
def test_reasons_are_plain_words(error: Exception, words: str) -> None:
    """What the system calls an errno is said in words."""
    assert explain(error) == words
