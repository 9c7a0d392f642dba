"""Lookups in a simulated network of 1 000 nodes: found, bounded and quick, whatever a fifth of the network does."""

from __future__ import annotations

import random

import pytest

from kachery_p2p.routing.dht import limits, lookup
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.lookup import Lookup
from tests.helpers.dht_fakes import (
    FORGED,
    Lie,
    Network,
    Outcome,
    each_other,
    forged_kad_id,
    look_up,
    made_up,
    peer_id,
    scattered,
    silence,
)

ROUNDS = 30


@pytest.fixture(scope="module")
def quiet() -> Network:
    """1 000 honest nodes, a tenth of which has left."""
    return Network(1000, seed=1, gone=0.1)


@pytest.fixture(scope="module")
def lying() -> Network:
    """1 000 nodes, a fifth liars; a tenth of the honest has left."""
    return Network(1000, seed=2, liars=0.2, gone=0.1)


def share_found(network: Network, outcome: Outcome) -> float:
    """How many of the honest among the k nearest the lookup gives back."""
    right = outcome.honest_nearest(network)
    return len(set(outcome.lookup.closest()) & set(right)) / len(right)


def test_the_nearest_are_found(quiet: Network) -> None:
    """With all_closest, the k nearest living nodes of the whole network come back, nearest first."""
    shares = []
    for _ in range(ROUNDS):
        target = quiet.rng.getrandbits(256)
        outcome = look_up(quiet, target, all_closest=True)
        shares.append(share_found(quiet, outcome))
        distances = [kad_id(peer) ^ target for peer in outcome.lookup.closest()]
        assert distances == sorted(distances)
    assert sum(shares) / ROUNDS >= 0.99


def test_a_query_ends_with_the_nearest(quiet: Network) -> None:
    """Without all_closest it stops earlier, but has met the very nearest node, with fewer than 70 messages."""
    messages = []
    for _ in range(ROUNDS):
        outcome = look_up(quiet, quiet.rng.getrandbits(256))
        assert outcome.nearest[0] in outcome.asked
        messages.append(outcome.lookup.messages)
    assert sum(messages) / ROUNDS < 70


@pytest.mark.parametrize("lie", [silence, each_other, scattered, made_up], ids=lambda lie: lie.__name__)
def test_liars_are_survived(lying: Network, lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fifth of the network silent, naming each other, or naming peers that do not exist, at least 95 % of the
    lookups meet an honest one of the k nearest, and those that store reach nearly all of these."""
    monkeypatch.setattr(lookup, "kad_id", forged_kad_id)
    FORGED.clear()
    met, shares = 0, []
    for _ in range(ROUNDS):
        target = lying.rng.getrandbits(256)
        outcome = look_up(lying, target, lie)
        met += bool(set(outcome.honest_nearest(lying)) & set(outcome.asked))
        assert outcome.lookup.messages <= limits.MAX_MESSAGES
        outcome = look_up(lying, target, lie, all_closest=True)
        shares.append(share_found(lying, outcome))
        assert outcome.lookup.messages <= limits.MAX_MESSAGES + 2 * limits.K
    assert met / ROUNDS >= 0.95
    assert sum(shares) / ROUNDS >= 0.95


def test_ever_nearer_peers_that_answer(lying: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up peers that answer, each naming nearer ones without end: the lookup ends within its messages, and has met
    honest ones of the k nearest all the same."""
    monkeypatch.setattr(lookup, "kad_id", forged_kad_id)
    FORGED.clear()
    met = 0
    for _ in range(ROUNDS):
        outcome = look_up(lying, lying.rng.getrandbits(256), made_up, made_up_answer=True)
        met += bool(set(outcome.honest_nearest(lying)) & set(outcome.asked))
        assert outcome.lookup.messages <= limits.MAX_MESSAGES
        assert outcome.seconds < limits.LOOKUP_TIMEOUT
    assert met / ROUNDS >= 0.95


def test_paths_are_what_saves_it(lying: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a single path is led astray more often: the disjoint paths earn their messages."""
    monkeypatch.setattr(lookup, "kad_id", forged_kad_id)
    FORGED.clear()

    def met(paths: int) -> int:
        count = 0
        for _ in range(ROUNDS):
            outcome = look_up(lying, lying.rng.getrandbits(256), made_up, made_up_answer=True, paths=paths)
            count += bool(set(outcome.honest_nearest(lying)) & set(outcome.asked))
        return count

    assert met(1) < met(limits.PATHS)


def test_the_slow_hold_up_nobody(quiet: Network) -> None:
    """When a tenth of the network has left (dials take 5 s to fail) and a third answers in 4 s only, lookups end soon
    after their slow ones were given up, not after the sum of their waits."""
    slow = set(quiet.rng.sample(quiet.alive, len(quiet.alive) // 3))
    for _ in range(10):
        outcome = look_up(quiet, quiet.rng.getrandbits(256), latency=lambda peer: 4.0 if peer in slow else 0.1)
        assert outcome.seconds < 6 * limits.SLOW_AFTER
        assert set(outcome.nearest[:5]) & set(outcome.asked)


def test_one_seed_is_enough(quiet: Network) -> None:
    """A node that knows a single peer finds the nearest: the empty paths share in the first answer."""
    target = quiet.rng.getrandbits(256)
    local = quiet.alive[0]
    search = Lookup(target, [quiet.alive[1]], local=local, all_closest=True)
    while not search.done:
        for peer in search.next(0.0):
            if peer in quiet.gone:
                search.failed(peer, 0.0)
            else:
                search.answered(peer, quiet.named_by(peer, target), 0.0)
    assert len(set(search.closest()) & set(quiet.nearest(target))) >= 19
    assert all(path.peers for path in search._paths)


@pytest.mark.parametrize("all_closest", [False, True])
def test_most_are_gone(all_closest: bool) -> None:
    """The only seed names twenty, of which the nearest sixteen have left: the other four are found all the same."""
    rng = random.Random(3)
    seed, *others = (peer_id(rng) for _ in range(21))
    target = rng.getrandbits(256)
    others.sort(key=lambda peer: kad_id(peer) ^ target)
    search = Lookup(target, [seed], all_closest=all_closest)
    while not search.done:
        for peer in search.next(0.0):
            if peer == seed or peer in others[16:]:
                search.answered(peer, others, 0.0)
            else:
                search.failed(peer, 0.0)
    assert set(search.closest()) >= set(others[16:])


def test_nobody_known() -> None:
    """A lookup without seeds is done at once, with nothing."""
    search = Lookup(5, [])
    assert search.done
    assert search.next(0.0) == []
    assert search.closest() == []


def test_a_tiny_network() -> None:
    """With three nodes, all are asked once, ourselves never, and it ends."""
    rng = random.Random(4)
    local, *others = (peer_id(rng) for _ in range(4))
    search = Lookup(kad_id(b"x"), others, local=local, all_closest=True)
    asked: list[bytes] = []
    while not search.done:
        for peer in search.next(0.0):
            asked.append(peer)
            search.answered(peer, [local, *others], 1.0)
    assert sorted(asked) == sorted(others)
    assert set(search.closest()) == set(others)


def test_time_is_up() -> None:
    """A lookup whose peers neither answer nor fail ends by its own clock."""
    rng = random.Random(5)
    search = Lookup(7, [peer_id(rng) for _ in range(20)], timeout=10.0)
    now = 0.0
    rounds = 0
    while not search.done:
        search.next(now)
        assert search.wake_at > now
        now = search.wake_at
        rounds += 1
        assert rounds < 100
    assert now <= 10.0
    assert search.closest() == []


def test_answers_nobody_asked_for() -> None:
    """An answer of a peer that was not asked, or answered before, changes nothing."""
    rng = random.Random(6)
    seeds = [peer_id(rng) for _ in range(20)]
    search = Lookup(9, seeds)
    asked = search.next(0.0)
    stranger = peer_id(rng)
    search.answered(stranger, [peer_id(rng)], 0.1)
    search.failed(stranger, 0.1)
    search.answered(asked[0], [], 0.1)
    search.answered(asked[0], [stranger], 0.2)
    assert search.closest() == [asked[0]]
    assert stranger not in search.next(0.3)


def test_questions_open_at_a_time() -> None:
    """No more than alpha at once; when they turn slow others follow, to a bound."""
    rng = random.Random(8)
    search = Lookup(3, [peer_id(rng) for _ in range(100)], alpha=4, timeout=1e9)
    assert len(search.next(0.0)) == 4
    assert search.next(1.0) == []
    now, count = 0.0, 4
    for _ in range(20):
        now += limits.SLOW_AFTER
        count += len(search.next(now))
    assert count == limits.MAX_IN_FLIGHT == len(search.waiting())
