"""The client core in a simulated swarm: every block, from whom, how often, and how soon. All in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.messages import WantType
from kachery_p2p.bitswap.session import Session
from tests.helpers.bitswap_sim import Sim, SimPeer, made_cid

MIB = 1 << 20


def fetch(sim: Sim, session: Session, count: int, *, ahead: int = 384, until: float = 600.0, start: int = 0) -> bool:
    """Want `count` blocks as a load does, some ahead of what has arrived; whether all came."""
    wanted = 0

    def feed() -> bool:
        nonlocal wanted
        while wanted < count and wanted - len(sim.got[session]) < ahead:
            sim.client.want(session, [made_cid(start + n) for n in range(wanted, min(wanted + 64, count))], sim.now)
            wanted = min(wanted + 64, count)
        return len(sim.got[session]) >= count

    return sim.run(feed, until)


def load(*peers: SimPeer, count: int = 300, size: int | Callable[[bytes], int] = MIB, until: float = 600.0) -> Sim:
    """One session, these peers from the start."""
    sim = Sim(size if callable(size) else lambda _: size)
    session = sim.session()
    for peer in peers:
        sim.add(peer, session)
    assert fetch(sim, session, count, until=until), f"only {len(sim.got[session])} of {count} at {sim.now:.1f} s"
    return sim


def test_one_fast_peer_is_kept_busy() -> None:
    """A single peer delivers at nearly its own speed, over a short line and over a long one."""
    assert load(SimPeer("a", 100e6, 0.001)).now < 1.1 * 300 * MIB / 100e6
    # 100 MB/s with 0.3 s there and back: 30 MB are on the line at any time.
    assert load(SimPeer("a", 100e6, 0.15), count=1000).now < 1.35 * 1000 * MIB / 100e6


@pytest.mark.parametrize("rate", [50e3, 1e6])
def test_a_slow_peer_alone_is_given_its_time(rate: float) -> None:
    """A peer that needs many seconds for a block delivers all of them, with hardly a repetition."""
    sim = load(SimPeer("a", rate, 0.05), count=8)
    assert sim.duplicates <= 2


def test_work_is_spread_by_speed() -> None:
    """Peers of different speed deliver in proportion to it, and together at the sum of their speeds."""
    rates = {"a": 50e6, "b": 20e6, "c": 5e6}
    sim = load(*(SimPeer(name, rate, 0.02) for name, rate in rates.items()), count=1000)
    for name, rate in rates.items():
        share = sim.peers[name].sent_blocks / 1000
        assert 0.6 < share / (rate / sum(rates.values())) < 1.4
    assert sim.now < 1.15 * 1000 * MIB / sum(rates.values())
    assert sim.duplicates <= 10


def test_a_slow_peer_does_not_hold_back_the_end() -> None:
    """When the fast peer is done it takes over what the slow one still owes."""
    sim = load(SimPeer("fast", 100e6, 0.01), SimPeer("slow", 0.5e6, 0.01), count=200)
    assert sim.now < 1.3 * 200 * MIB / 100e6 + 0.5
    assert sim.duplicates <= 4


def test_no_block_is_asked_twice_of_good_peers() -> None:
    """With peers of one speed nothing is fetched twice, but a few blocks at the very end."""
    sim = load(*(SimPeer(f"p{n}", 20e6, 0.01) for n in range(8)), count=800)
    assert sim.duplicates <= 8
    assert sim.now < 1.3 * 800 * MIB / 160e6


def test_partial_holders_together_have_all() -> None:
    """Peers that each have a part are asked for that part, and nobody waits for a timeout."""
    parts: list[set[bytes]] = [{made_cid(n).multihash for n in range(k, 300, 3)} for k in range(3)]
    sim = load(*(SimPeer(f"p{k}", 20e6, 0.01, holds=parts[k]) for k in range(3)))
    assert sim.now < 2.0 * 300 * MIB / 60e6
    assert sim.duplicates <= 6


def test_one_rare_block_is_found() -> None:
    """A block that one of twelve peers has is found within a few round trips."""
    rare = made_cid(150).multihash
    most = {made_cid(n).multihash for n in range(300)} - {rare}
    peers = [SimPeer(f"p{n}", 20e6, 0.02, holds=set(most)) for n in range(11)]
    sim = load(*peers, SimPeer("last", 1e6, 0.02, holds={rare}))
    assert sim.peers["last"].sent_blocks == 1
    assert sim.now < 5


def test_a_liar_is_dropped_at_once() -> None:
    """A peer that sends other bytes than were asked for loses its place with the first block; the rest goes on."""
    sim = load(SimPeer("honest", 50e6, 0.01), SimPeer("liar", 500e6, 0.001, lies=True))
    assert sim.bad == ["liar"]
    assert "liar" not in sim.client.links
    assert sim.now < 1.2 * 300 * MIB / 50e6


def test_a_silent_peer_loses_its_work() -> None:
    """A peer that takes wants and says nothing costs the load no more than the stall time."""
    sim = load(SimPeer("silent", 1e9, 0.001, silent=True), SimPeer("good", 50e6, 0.01), count=100)
    assert sim.now < 100 * MIB / 50e6 + limits.STALL_SECONDS + 1


def test_a_peer_that_dies_loses_its_work_to_the_others() -> None:
    """What a stalled peer owed comes from the others a few seconds later."""
    sim = load(SimPeer("dies", 200e6, 0.001, dies_after=50), SimPeer("good", 20e6, 0.01))
    assert sim.peers["dies"].sent_blocks == 50
    assert sim.now < 250 * MIB / 20e6 + limits.STALL_SECONDS + 1


def test_a_stalled_peer_returns_by_delivering() -> None:
    """A peer that pauses for ten seconds is trusted again afterwards."""
    sim = Sim()
    session = sim.session()
    sleeper = sim.add(SimPeer("sleeper", 50e6, 0.01, dies_after=20), session)
    sim.add(SimPeer("slow", 2e6, 0.01), session)

    def wake() -> None:
        sleeper.dies_after = None
        sim._serve(sleeper)

    sim.at(10.0, wake)
    assert fetch(sim, session, 400)
    assert sleeper.sent_blocks > 300


def test_the_only_peer_is_asked_again_on_a_fresh_stream() -> None:
    """Wants that were lost on the way to the only peer are sent again, all of them, and the load ends."""
    sim = Sim()
    session = sim.session()
    peer = sim.add(SimPeer("a", 50e6, 0.01), session)
    sim.at(0.5, lambda: peer.queue.clear())
    assert fetch(sim, session, 100)
    assert sim.now < 10
    assert sim.duplicates == 0


def test_lost_wants_are_noticed() -> None:
    """Single wants that a peer overlooks are asked of others, or again of the same peer."""
    sim = load(SimPeer("a", 20e6, 0.01, loses=0.05), SimPeer("b", 20e6, 0.01, loses=0.05))
    assert sim.now < 60


def test_new_providers_join_a_running_load() -> None:
    """A fast peer that comes five seconds into a slow load takes nearly all that is left."""
    sim = Sim()
    session = sim.session()
    sim.add(SimPeer("slow", 1e6, 0.01), session)
    fast = sim.add(SimPeer("fast", 100e6, 0.01), session, at=5.0)
    assert fetch(sim, session, 300)
    assert fast.sent_blocks > 280
    assert sim.now < 5 + 1.5 * 300 * MIB / 100e6


def test_a_leaver_s_work_goes_on_elsewhere() -> None:
    """What a peer was delivering when it left is asked of the others at once."""
    sim = Sim()
    session = sim.session()
    leaver = sim.add(SimPeer("leaver", 100e6, 0.01), session)
    sim.add(SimPeer("stays", 20e6, 0.01), session)
    sim.leave(leaver, at=1.0)
    assert fetch(sim, session, 300)
    assert sim.now < 1 + 230 * MIB / 20e6


def test_old_peers_are_asked_in_their_words() -> None:
    """Peers of Bitswap 1.1 get no questions, only wants; one that lacks half holds nobody up."""
    half = {made_cid(n).multihash for n in range(0, 300, 2)}
    sim = load(SimPeer("old", 20e6, 0.01, old=True, holds=half), SimPeer("new", 20e6, 0.01), until=60)
    assert sim.now < 1.2 * 300 * MIB / 20e6
    assert load(SimPeer("old", 20e6, 0.01, old=True)).duplicates == 0


def test_old_peer_without_the_block_counts_as_dont_have() -> None:
    """Silence of an old peer says DONT_HAVE, so that the session can tell that nobody has it."""
    sim = Sim()
    session = sim.session()
    sim.add(SimPeer("old", 20e6, 0.01, old=True, holds=set()), session)
    sim.client.want(session, [made_cid(1)], sim.now)
    assert sim.run(lambda: bool(session.members) and session.exhausted and sim.now > 1, 30)
    assert limits.LEGACY_DONT_HAVE_SECONDS <= sim.now < limits.LEGACY_DONT_HAVE_SECONDS + 2


def test_bytes_in_flight_are_bounded() -> None:
    """However many and fast the peers, no more is asked for than the budget; a block over it at the most."""
    sim = load(*(SimPeer(f"p{n}", 200e6, 0.05) for n in range(30)), count=600)
    assert sim.most_held <= limits.MAX_IN_FLIGHT + 2 * MIB


def test_a_receiver_that_does_not_receive_stops_the_asking() -> None:
    """What arrived and was not taken counts: the session stops within its budget and goes on when it is taken."""
    sim = Sim()
    session = sim.session()
    sim.add(SimPeer("a", 100e6, 0.01), session)
    sim.reading = False
    assert not fetch(sim, session, 300, until=20)
    stopped_at = len(sim.got[session])
    assert stopped_at * MIB <= limits.MAX_IN_FLIGHT
    sim.reading = True
    for owner, size in sim.unread:
        sim.client.consumed(owner, size)
    assert fetch(sim, session, 300 - stopped_at, start=stopped_at, until=60) or len(sim.got[session]) >= 300


def test_small_blocks_after_a_big_guess() -> None:
    """The first guess at the size of blocks does not slow down thousands of small ones."""
    assert load(SimPeer("a", 20e6, 0.01), count=6000, size=2000).now < 3


def test_big_blocks_after_small_ones_do_not_flood() -> None:
    """Leaves that are far bigger than the nodes before them do not break the budget."""
    sim = load(SimPeer("a", 100e6, 0.01), count=400, size=lambda m: 500 if m[-1] < 64 else 2 * MIB)
    assert sim.most_held <= limits.MAX_IN_FLIGHT + 8 * MIB


def test_two_sessions_share_a_block() -> None:
    """Blocks that two sessions want at once are fetched once and given to both."""
    sim = Sim()
    one, two = sim.session(), sim.session()
    peer = sim.add(SimPeer("a", 50e6, 0.01), one)
    sim.client.add_provider(two, "a", 0.0)
    sim.client.want(one, [made_cid(n) for n in range(100)], sim.now)
    sim.client.want(two, [made_cid(n) for n in range(50, 150)], sim.now)
    assert sim.run(lambda: len(sim.got[one]) == len(sim.got[two]) == 100)
    assert peer.sent_blocks == 150
    assert sim.duplicates == 0


def test_a_shared_block_outlives_the_session_that_asked() -> None:
    """When the session that asked for a block closes, the block still comes to the other one."""
    sim = Sim()
    one, two = sim.session(), sim.session()
    peer = sim.add(SimPeer("a", 1e6, 0.01), one)
    sim.client.add_provider(two, "a", 0.0)
    sim.client.want(one, [made_cid(1)], sim.now)
    sim.client.want(two, [made_cid(1)], sim.now)
    sim.at(0.5, lambda: sim.client.close_session(one, sim.now))
    assert sim.run(lambda: len(sim.got[two]) == 1, 30)
    assert peer.sent_blocks == 1
    assert (one.outstanding, two.outstanding) == (0, 0)


def test_one_session_stuck_does_not_stop_another() -> None:
    """A session whose receiver sleeps does not take the room of the others."""
    sim = Sim()
    stuck, live = sim.session(), sim.session()
    sim.add(SimPeer("a", 100e6, 0.01), stuck)
    sim.client.add_provider(live, "a", 0.0)
    sim.reading = False
    sim.client.want(stuck, [made_cid(10_000 + n) for n in range(200)], sim.now)
    sim.run(lambda: False, 3.0)
    sim.reading = True
    assert fetch(sim, live, 200, until=30)


def test_cancelled_wants_are_cancelled_at_the_peer_and_late_blocks_are_no_lie() -> None:
    """Cancelling takes the wants back; a block that was on its way already is a duplicate, not a reason to drop."""
    sim = Sim()
    session = sim.session()
    peer = sim.add(SimPeer("a", 10e6, 0.05), session)
    sim.client.want(session, [made_cid(n) for n in range(20)], sim.now)
    sim.run(lambda: len(sim.got[session]) == 3)
    sim.client.cancel(session, [made_cid(n).multihash for n in range(20)], sim.now)
    sim.run(lambda: False, sim.now + 10)
    assert not peer.queue
    assert sim.bad == []
    assert 1 <= sim.duplicates <= 4
    assert session.outstanding == 0


def test_a_peer_that_gets_the_block_later_delivers_it() -> None:
    """DONT_HAVE is not for ever: the want stays at the peer and is answered when the peer gets the block."""
    sim = Sim()
    session = sim.session()
    peer = sim.add(SimPeer("a", 10e6, 0.01, holds=set()), session)
    sim.client.want(session, [made_cid(1)], sim.now)
    assert sim.run(lambda: session.exhausted and peer.connected and bool(peer.waiting), 5)
    sim.at(sim.now + 1, lambda: sim.gains(peer, made_cid(1).multihash))
    assert sim.run(lambda: len(sim.got[session]) == 1, 20)


def test_named_again_a_provider_is_asked_again() -> None:
    """add_provider for a known peer forgets that it said DONT_HAVE."""
    sim = Sim()
    session = sim.session()
    peer = sim.add(SimPeer("a", 10e6, 0.01, holds=set()), session)
    sim.client.want(session, [made_cid(1)], sim.now)
    assert sim.run(lambda: session.exhausted and bool(peer.waiting), 5)
    assert peer.holds is not None
    peer.holds.add(made_cid(1).multihash)
    sim.client.add_provider(session, "a", sim.now)
    assert not session.exhausted
    assert sim.run(lambda: len(sim.got[session]) == 1, 5)


def test_exhausted_says_when_nobody_can_supply() -> None:
    """Exhausted: without peers; not while one may answer; again when all declined, left or lied."""
    sim = Sim()
    session = sim.session()
    assert not session.exhausted
    sim.client.want(session, [made_cid(1)], sim.now)
    assert session.exhausted
    a = sim.add(SimPeer("a", 10e6, 0.01, holds=set()), session)
    b = sim.add(SimPeer("b", 10e6, 0.01, silent=True), session)
    sim.run(lambda: a.connected and b.connected)
    assert not session.exhausted
    sim.run(lambda: False, 2.0)
    assert not session.exhausted, "b has not answered"
    sim.leave(b, at=2.5)
    assert sim.run(lambda: session.exhausted, 5)


def test_presences_for_things_not_asked_change_nothing() -> None:
    """HAVE and DONT_HAVE from a peer that was not asked about a block are ignored."""
    client = WantManager()
    session = client.new_session()
    client.connected("a", 0.0)
    client.connected("b", 0.0)
    client.add_provider(session, "a", 0.0)
    client.want(session, [made_cid(1)], 0.0)
    client.poll(0.0)
    for peer in ("b", "nobody"):
        for have in (True, False):
            client.presence(peer, made_cid(1).multihash, have, 0.1)
            client.presence(peer, made_cid(2).multihash, have, 0.1)
    client.presence("a", made_cid(2).multihash, False, 0.1)
    assert not session.exhausted
    assert [link.peer for link in session.members] == ["a"]
    assert list(client.wants) == [made_cid(1).multihash]


def test_wants_are_merged_until_they_are_sent() -> None:
    """A want that is cancelled before it was sent is never sent, nor is its cancel."""
    client = WantManager()
    session = client.new_session()
    client.connected("a", 0.0)
    client.add_provider(session, "a", 0.0)
    client.want(session, [made_cid(1)], 0.0)
    client.poll(0.0)
    client.cancel(session, [made_cid(1).multihash], 0.0)
    assert client.take("a", 0.0) == ([], [], False)
    client.want(session, [made_cid(1)], 0.0)
    client.poll(0.0)
    again, (entry,), full = client.take("a", 0.0)
    assert (entry.cid, entry.want_type, entry.cancel, entry.send_dont_have, full) == (
        made_cid(1),
        WantType.BLOCK,
        False,
        True,
        False,
    )
    # A peer may still think it has just sent what is wanted again: it is told to forget that first.
    assert [(entry.cid, entry.cancel) for entry in again] == [(made_cid(1), True)]
    client.cancel(session, [made_cid(1).multihash], 0.0)
    _, (entry,), _ = client.take("a", 0.0)
    assert entry.cancel


def test_earlier_wants_are_more_urgent() -> None:
    """Priorities fall in the order in which a session wants, also from one message to the next."""
    client = WantManager()
    session = client.new_session()
    client.connected("a", 0.0)
    client.add_provider(session, "a", 0.0)
    client.want(session, [made_cid(n) for n in range(5)], 0.0)
    priorities: list[int] = []
    for n in range(10):
        client.poll(n / 100)
        entries = [entry for entry in client.take("a", n / 100).entries if entry.want_type is WantType.BLOCK]
        priorities += [entry.priority for entry in entries if not entry.cancel]
        client.block("a", made_cid(n).multihash, 10, n / 100)
        client.want(session, [made_cid(n + 5)], 0.0)
    assert len(priorities) >= 10
    assert priorities == sorted(set(priorities), reverse=True)


def test_a_peer_that_lied_is_not_taken_back() -> None:
    """Neither by name nor by connecting again."""
    client = WantManager()
    session = client.new_session(discover=True)
    client.connected("a", 0.0)
    client.want(session, [made_cid(1)], 0.0)
    client.poll(0.0)
    assert client.block("a", made_cid(99).multihash, 10, 0.1).lie
    client.bad_peer("a", 0.1)
    assert session.exhausted
    client.connected("a", 0.2)
    assert not client.add_provider(session, "a", 0.2)
    assert not session.members


speeds = st.sampled_from([0.3e6, 2e6, 10e6, 60e6, 200e6])
delays = st.sampled_from([0.0005, 0.01, 0.05, 0.2])
BLOCKS = 120


@st.composite
def swarms(draw: st.DrawFn) -> list[tuple[SimPeer, float, float | None]]:
    """Peers with the time they come and, some, the time they leave."""
    swarm: list[tuple[SimPeer, float, float | None]] = []
    for n in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["all", "all", "part", "part", "none", "liar", "silent", "dies", "loses", "old"]))
        peer = SimPeer(f"{kind}{n}", draw(speeds), draw(delays))
        if kind == "part":
            step, first = draw(st.integers(1, 4)), draw(st.integers(0, 3))
            peer.holds = {made_cid(k).multihash for k in range(first, BLOCKS, step)}
        elif kind == "none":
            peer.holds = set()
        elif kind == "liar":
            peer.lies = True
        elif kind == "silent":
            peer.silent = True
        elif kind == "dies":
            peer.dies_after = draw(st.integers(0, 30))
        elif kind == "loses":
            peer.loses = 0.1
        elif kind == "old":
            peer.old = True
        joins = draw(st.sampled_from([0.0, 0.0, 0.5, 5.0]))
        leaves = draw(st.sampled_from([None, None, None, 1.0, 8.0]))
        swarm.append((peer, joins, leaves if leaves is not None and leaves > joins else None))
    return swarm


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(swarms(), st.sampled_from([2_000, 262_144, MIB]), st.integers(0, 1000))
def test_any_swarm_delivers_what_honest_peers_have(
    swarm: list[tuple[SimPeer, float, float | None]], size: int, seed: int
) -> None:
    """Whatever the company, each block that some honest, lasting peer has arrives, once, with few fetched twice."""
    sim = Sim(lambda _: size, seed)
    session = sim.session()
    available: set[bytes] = set()
    for peer, joins, leaves in swarm:
        sim.add(peer, session, at=joins)
        if leaves is not None:
            sim.leave(peer, leaves)
        elif not (peer.lies or peer.silent or peer.dies_after is not None):
            available |= {made_cid(n).multihash for n in range(BLOCKS)} if peer.holds is None else peer.holds
    sim.client.want(session, [made_cid(n) for n in range(BLOCKS)], sim.now)
    assert sim.run(lambda: available <= set(sim.got[session]), 2000), (
        f"{len(available - set(sim.got[session]))} blocks did not come"
    )
    honest = [peer for peer, _, _ in swarm if not peer.lies]
    assert set(sim.bad) <= {peer.name for peer, _, _ in swarm if peer.lies}
    # Two copies at the end for each slow peer, and what stalled peers deliver after all.
    assert sim.duplicates <= 12 * len(honest) + BLOCKS // 10
    # The books balance: nothing is left charged that is not under way.
    sim.client.close_session(session, sim.now)
    sim.run(lambda: False, sim.now + 1)
    assert session.outstanding == 0
    for link in sim.client.links.values():
        sums = (link.block_asks, link.outstanding, link.probes, link.standing, len(link.asks))
        assert sums == (0, 0, 0, 0, 0), link.peer
