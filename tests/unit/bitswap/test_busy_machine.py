"""On a busy machine everybody is late now and then. That is no reason to fetch blocks twice."""

from __future__ import annotations

import random

import pytest

from kachery_p2p.bitswap import limits
from tests.helpers.bitswap_sim import Sim, SimPeer, made_cid

SIZE = 3000
BLOCKS = 1500
#: What all loads may cost: the copies of the beginning, and those that were earned.
SPENT = limits.ENDGAME_COPIES + BLOCKS // limits.BLOCKS_PER_COPY


def _load(sim: Sim) -> int:
    """Load from three peers that are equally fast; how many blocks were sent."""
    session = sim.session()
    peers = [sim.add(SimPeer(name, 1e6, 0.002), session) for name in "abc"]
    sim.client.want(session, [made_cid(n) for n in range(BLOCKS)], sim.now)
    assert sim.run(lambda: len(sim.got[session]) == BLOCKS, 1000)
    sim.run(lambda: False, sim.now + 30)
    return sum(peer.sent_blocks for peer in peers)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pause", [0.15, 0.5, 4.0])
def test_a_node_that_did_not_run_does_not_blame_its_peers(seed: int, pause: float) -> None:
    """What came while this process was held up is taken in before anybody counts as slow."""
    sim = Sim(lambda _: SIZE, seed)
    dice = random.Random(seed)
    for number in range(200):
        sim.pause(0.05 + number * pause * 1.5 + dice.random() * pause / 2, pause)
    assert _load(sim) - BLOCKS <= SPENT


@pytest.mark.parametrize("seed", range(5))
def test_peers_that_falter_by_turns_are_not_asked_for_many_blocks_twice(seed: int) -> None:
    """Copies that come second are not followed by others, however late everybody seems to be."""
    sim = Sim(lambda _: SIZE, seed)
    dice = random.Random(seed)

    def falter(peer: SimPeer, rate: float) -> None:
        peer.rate = rate
        sim.at(sim.now + dice.uniform(0.05, 0.6), lambda: falter(peer, 1e6 if rate < 1e6 else 1e4))

    def begin() -> None:
        for peer in sim.peers.values():
            falter(peer, 1e6)

    sim.at(0.1, begin)
    assert _load(sim) - BLOCKS <= SPENT
