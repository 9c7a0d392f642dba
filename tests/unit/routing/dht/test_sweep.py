"""Many keys announced at the price of walking the network once (kachery_p2p.routing.dht.sweep)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.sweep import LOOKUP_TRIES, NetworkSize, RegionSweep, SweepSchedule

K = 20
HOUR = 3600.0


class Network:
    """Peers, and lookups that always find the true closest."""

    def __init__(self, peers: int, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.peers = [rng.randbytes(34) for _ in range(peers)]
        self.places = sorted((kad_id(peer), peer) for peer in self.peers)

    def closest(self, key: bytes, k: int = K) -> list[bytes]:
        target = kad_id(key)
        return [peer for _, peer in sorted(self.places, key=lambda it: it[0] ^ target)[:k]]


def made_keys(count: int, seed: int = 2) -> list[bytes]:
    rng = random.Random(seed)
    return [b"\x12\x20" + rng.randbytes(32) for _ in range(count)]


def run(sweep: RegionSweep, network: Network, seed: int = 3) -> None:
    """Lookups end in any order."""
    rng = random.Random(seed)
    under_way: list[bytes] = []
    for _ in range(100_000):
        under_way += sweep.next()
        if sweep.done:
            return
        key = under_way.pop(rng.randrange(len(under_way)))
        sweep.found(key, network.closest(key, sweep.k))
    raise AssertionError("the sweep does not end")


def by_key(deliveries: dict[bytes, list[bytes]]) -> dict[bytes, set[bytes]]:
    out: dict[bytes, set[bytes]] = {}
    for peer, keys in deliveries.items():
        assert len(keys) == len(set(keys))
        for key in keys:
            out.setdefault(key, set()).add(peer)
    return out


@settings(max_examples=40)
@given(
    peers=st.integers(1, 600),
    keys=st.integers(1, 300),
    bits=st.integers(0, 6),
    zone_bits=st.integers(0, 7),
    seed=st.integers(0, 1 << 30),
)
def test_every_key_goes_to_its_true_closest(peers: int, keys: int, bits: int, zone_bits: int, seed: int) -> None:
    """Whatever the region and however few keys or peers it has: each key is given to exactly its 20 closest peers."""
    network = Network(peers, seed)
    ours = [key for key in made_keys(keys * (1 << bits), seed + 1) if kad_id(key) >> (256 - bits) == 0][:300]
    sweep = RegionSweep(ours, zone_bits=zone_bits, rng=random.Random(seed))
    run(sweep, network)
    given_to = by_key(sweep.deliveries())
    assert {key: set(network.closest(key)) for key in ours} == given_to


def test_the_cost_is_that_of_the_network() -> None:
    """A region of 160 peers takes a dozen or two lookups, for a hundred keys as for five thousand."""
    network = Network(640)
    counts = []
    for keys in (100, 5000):
        ours = [key for key in made_keys(4 * keys) if kad_id(key) >> 254 == 2]
        sweep = RegionSweep(ours, zone_bits=6, rng=random.Random(1))
        run(sweep, network)
        deliveries = sweep.deliveries()
        assert len(deliveries) <= 200  # each peer of the region, once; none beyond
        counts.append(sweep.lookups)
    assert max(counts) <= 24
    assert counts[1] <= counts[0] + 4


def test_few_keys_cost_a_lookup_each() -> None:
    """Where keys are rare, nothing is looked up but they."""
    network = Network(5000)
    ours = made_keys(10)
    sweep = RegionSweep(ours, zone_bits=8, rng=random.Random(1))
    run(sweep, network)
    assert sweep.lookups <= 10


def test_lookups_side_by_side_are_bounded_and_apart() -> None:
    """Three at a time, none of which is likely to find what another finds."""
    ours = made_keys(1000)
    sweep = RegionSweep(ours, zone_bits=5, rng=random.Random(1), parallel=3)
    first = sweep.next()
    assert len(first) == 3
    assert len({kad_id(key) >> 251 for key in first}) == 3
    assert sweep.next() == []
    assert not sweep.done


def test_keys_whose_lookups_fail_are_given_to_nobody() -> None:
    """A key that nobody could be found for is not sent to peers that happen to be known; the others are."""
    network = Network(3000)
    ours = [next(key for key in made_keys(500) if kad_id(key) >> 252 == part) for part in range(8)]
    sweep = RegionSweep(ours, zone_bits=7, rng=random.Random(1))
    tried = 0
    while True:
        wanted = sweep.next()
        if sweep.done:
            break
        for key in wanted:
            if key == ours[0]:
                tried += 1
                sweep.failed(key)
            else:
                sweep.found(key, network.closest(key))
    assert tried == LOOKUP_TRIES
    assert {key: set(network.closest(key)) for key in ours[1:]} == by_key(sweep.deliveries())


def test_a_partial_answer_covers_nothing() -> None:
    """Five peers of a network of thousands get the key that was looked up, and no other."""
    network = Network(3000)
    ours = made_keys(4)
    sweep = RegionSweep(ours, zone_bits=7, rng=random.Random(1))
    asked = []
    while True:
        wanted = sweep.next()
        if sweep.done:
            break
        for key in wanted:
            asked.append(key)
            sweep.found(key, network.closest(key)[:5], partial=True)
    assert sorted(asked) == sorted(ours)


def test_two_nodes_need_one_lookup() -> None:
    """The other node of a network of two gets a hundred thousand keys after a single lookup."""
    network = Network(1)
    ours = made_keys(100_000)
    sweep = RegionSweep(ours, zone_bits=0, rng=random.Random(1))
    run(sweep, network)
    assert sweep.lookups == 1
    assert {network.peers[0]: 100_000} == {peer: len(keys) for peer, keys in sweep.deliveries().items()}


def test_giving_up_keeps_what_is_settled() -> None:
    """When the network goes away in the middle, the keys whose peers are known are still delivered."""
    network = Network(640)
    ours = made_keys(2000)
    sweep = RegionSweep(ours, zone_bits=6, rng=random.Random(1))
    for _ in range(20):
        for key in sweep.next():
            sweep.found(key, network.closest(key))
    sweep.give_up()
    assert sweep.next() == []
    given_to = by_key(sweep.deliveries())
    assert 50 < len(given_to) < 2000
    assert all(peers == set(network.closest(key)) for key, peers in given_to.items())


@pytest.mark.parametrize("peers", [25, 300, 10_000])
def test_the_size_of_the_network_is_estimated(peers: int) -> None:
    """Within a fifth, from sixteen lookups."""
    network = Network(peers)
    size = NetworkSize()
    for key in made_keys(16):
        size.saw(kad_id(key), [kad_id(peer) for peer in network.closest(key)])
    assert peers == pytest.approx(size.peers, rel=0.2)


def test_a_network_that_shrinks_is_believed_in_the_end() -> None:
    """One lookup with three answers is a bad line; a majority of them is a small network."""
    network = Network(1000)
    size = NetworkSize()
    for key in made_keys(32):
        size.saw(kad_id(key), [kad_id(peer) for peer in network.closest(key)])
    assert size.is_partial(3)
    for key in made_keys(20):
        size.saw(kad_id(key), [kad_id(peer) for peer in network.closest(key)[:3]])
    assert not size.is_partial(3)
    assert size.region_bits() == 0


def test_regions_follow_the_network_and_bound_the_keys() -> None:
    """Regions of about 160 peers; of no more than 16 384 keys where the network is small."""
    network = Network(10_000)
    size = NetworkSize()
    assert size.region_bits() == 0
    for key in made_keys(32):
        size.saw(kad_id(key), [kad_id(peer) for peer in network.closest(key)])
    assert size.region_bits() == 6
    assert NetworkSize().region_bits(300_000) == 5


@given(region=st.integers(0, 63), announced=st.floats(0, 1e6), late=st.floats(0, 1e5), epoch=st.floats(-1e6, 1e6))
def test_a_key_is_announced_again_in_its_turn(region: int, announced: float, late: float, epoch: float) -> None:
    """Due at its region's turn, after half to one and a half intervals, so always within the 48 h that records live;
    and when it is due, it is found among the keys to announce."""
    interval = 22 * HOUR
    schedule = SweepSchedule(epoch, interval)
    due = schedule.due(region, 6, announced)
    assert announced + interval / 2 <= due + 1e-3
    assert due <= announced + 1.5 * interval + 1e-3
    assert announced <= schedule.done_before(region, 6, due + 1e-3 + late) + 1e-2
    assert schedule.done_before(region, 6, due - 1.0) < announced


def test_turns_are_spread_over_the_interval() -> None:
    """Once in step, 64 regions follow one another at equal distances."""
    schedule = SweepSchedule(0.0, 22 * HOUR)
    turns = [schedule.due(region, 6, 11 * HOUR - 1) % (22 * HOUR) for region in range(64)]
    assert [22 * HOUR * n / 64 for n in range(64)] == pytest.approx(turns)
