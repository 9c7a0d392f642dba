"""What a DAG says of the size of its blocks: it saves round trips where it is true, and no lie costs memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.messages import WantType
from kachery_p2p.bitswap.session import Session
from tests.helpers.bitswap_sim import Sim, SimPeer, made_cid

KIB = 1 << 10
MIB = 1 << 20


def want(sim: Sim, session: Session, count: int, claimed: Callable[[bytes], int] | None = None) -> None:
    """Want blocks 0 to `count`, with what is claimed of each; by default the truth."""
    cids = [made_cid(n) for n in range(count)]
    sizes = {cid.multihash: (claimed or sim.size)(cid.multihash) for cid in cids}
    sim.client.want(session, cids, sim.now, sizes)


def asked_at_once(sim: Sim, peer: SimPeer) -> int:
    """How many blocks the next message to a peer asks for."""
    sim.client.poll(sim.now)
    entries = sim.client.take(peer.name, sim.now).entries
    return sum(1 for entry in entries if entry.want_type is WantType.BLOCK)


def test_small_blocks_are_asked_for_together() -> None:
    """The first message asks for as many blocks as the first window holds, not for two."""
    sim = Sim(lambda _: 10 * KIB)
    session = sim.session()
    peer = sim.add(SimPeer("a"), session)
    sim.run(lambda: peer.connected)
    want(sim, session, 1000)
    assert asked_at_once(sim, peer) == limits.INITIAL_WINDOW // (10 * KIB)


def test_the_smallest_are_bounded_by_their_number() -> None:
    """However small the blocks, no peer is asked for more of them than it keeps in mind."""
    sim = Sim(lambda _: 100)
    session = sim.session()
    peer = sim.add(SimPeer("a"), session)
    sim.run(lambda: peer.connected)
    want(sim, session, 5000)
    assert asked_at_once(sim, peer) == limits.MAX_ASKS_PER_PEER


def test_thousands_of_small_files_over_a_long_line() -> None:
    """6 000 blocks of 4 KiB, 50 ms there and back: nearly as fast as the line, with messages of many wants."""
    sim = Sim(lambda _: 4 * KIB)
    session = sim.session()
    sim.add(SimPeer("a", 10e6, 0.025), session)
    messages = 0
    take = sim.client.take

    def counted(peer: str, now: float):
        nonlocal messages
        messages += 1
        return take(peer, now)

    sim.client.take = counted  # type: ignore[method-assign]
    want(sim, session, 6000)
    assert sim.run(lambda: len(sim.got[session]) == 6000, 60)
    assert sim.now < 1.2 * 6000 * 4 * KIB / 10e6 + 0.2
    assert messages < 6000 / (limits.MAX_ASKS_PER_PEER // 16)


def test_lies_cost_no_memory() -> None:
    """Blocks of 2 MiB that are said to have 100 bytes, from a dozen peers, and a receiver that sleeps."""
    sim = Sim(lambda _: 2 * MIB)
    session = sim.session()
    for n in range(12):
        sim.add(SimPeer(f"p{n}", 1e9, 0.001), session)
    sim.reading = False
    want(sim, session, 3000, lambda _: 100)
    sim.run(lambda: False, 20.0)
    held = session.buffered
    assert 0 < held <= 2 * limits.MAX_IN_FLIGHT
    assert held == 2 * MIB * len(sim.got[session])
    assert sim.bad == []


def test_after_a_lie_everything_arrives_once() -> None:
    """What there was no room for is asked for again when there is."""
    sim = Sim(lambda _: 2 * MIB)
    session = sim.session()
    sim.add(SimPeer("a", 500e6, 0.01), session)
    sim.reading = False
    want(sim, session, 200, lambda _: 100)
    sim.run(lambda: False, 10.0)
    assert len(sim.got[session]) < 200
    sim.reading = True
    while sim.unread:
        owner, size = sim.unread.pop()
        sim.client.consumed(owner, size)
    assert sim.run(lambda: len(sim.got[session]) == 200, 60)
    assert session.buffered == session.outstanding == 0


def test_a_liar_is_not_believed_again() -> None:
    """After the first lie, no more is asked for at once than the size of the blocks that came allows."""
    sim = Sim(lambda _: 2 * MIB)
    session = sim.session()
    sim.add(SimPeer("a", 100e6, 0.01), session)
    want(sim, session, 1, lambda _: 100)
    assert sim.run(lambda: len(sim.got[session]) == 1)
    cids = [made_cid(n) for n in range(1, 400)]
    sim.client.want(session, cids, sim.now, {cid.multihash: 100 for cid in cids})
    assert sim.run(lambda: len(sim.got[session]) == 400, 600)
    assert sim.most_held <= limits.MAX_IN_FLIGHT + 8 * MIB


def test_a_wrong_first_guess_fetches_nothing_twice() -> None:
    """Small blocks of which nothing was said, from two slow peers: none is late because it was taken for large."""
    sim = Sim(lambda _: 2000)
    session = sim.session()
    for name in ("a", "b"):
        sim.add(SimPeer(name, 0.3e6, 0.0005), session)
    sim.client.want(session, [made_cid(n) for n in range(120)], sim.now)
    assert sim.run(lambda: len(sim.got[session]) == 120)
    assert sim.duplicates <= 2


def test_a_load_that_wants_little_does_not_narrow_the_window() -> None:
    """What a peer was not asked for says nothing about its speed: after a pause it is asked as before."""
    sim = Sim(lambda _: 64 * KIB)
    session = sim.session()
    peer = sim.add(SimPeer("a", 100e6, 0.05), session)
    want(sim, session, 2000)
    assert sim.run(lambda: len(sim.got[session]) == 2000)
    (link,) = session.members
    before = link.window
    for n in range(40):
        cid = made_cid(10_000 + n)
        sim.client.want(session, [cid], sim.now, {cid.multihash: 64 * KIB})
        assert sim.run(lambda done=2001 + n: len(sim.got[session]) == done)
    assert link.window >= before
    assert peer.sent_blocks == 2040


def test_the_only_peer_is_asked_for_blocks_at_once() -> None:
    """Nobody else could be asked, so asking whether it has them would only cost a round trip."""
    sim = Sim(lambda _: 4 * KIB)
    session = sim.session()
    peer = sim.add(SimPeer("a", 100e6, 0.1), session)
    sim.run(lambda: peer.connected)
    want(sim, session, 2)
    assert sim.run(lambda: len(sim.got[session]) == 2)
    assert sim.now < 0.21


@pytest.mark.parametrize("reason", ["named", "delivered"])
def test_who_was_named_is_asked_before_strangers(reason: str) -> None:
    """Among many connections the one that was named, or delivered before, gets the first want; the rest questions."""
    sim = Sim(lambda _: 4 * KIB)
    strangers = [sim.add(SimPeer(f"stranger-{n}", 100e6, 0.1, holds=set())) for n in range(20)]
    source = sim.add(SimPeer("source", 100e6, 0.1))
    sim.run(lambda: source.connected and all(each.connected for each in strangers))
    if reason == "delivered":
        first = sim.client.new_session(discover=True)
        sim.got[first] = []
        sim.client.add_provider(first, "source", sim.now)
        sim.client.want(first, [made_cid(999)], sim.now)
        assert sim.run(lambda: len(sim.got[first]) == 1)
        sim.client.close_session(first, sim.now)
    session = sim.client.new_session(discover=True)
    sim.got[session] = []
    if reason == "named":
        sim.client.add_provider(session, "source", sim.now)
    began = sim.now
    want(sim, session, 1)
    assert sim.run(lambda: len(sim.got[session]) == 1)
    assert sim.now - began < 0.21
