"""The routing table: who gets in, who stays, who is asked whether it lives."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.keys import common_prefix, kad_id
from kachery_p2p.routing.dht.table import RoutingTable
from tests.helpers.dht_fakes import ip4, peer_id, public_addr

WAN = DhtScope(lan=False)


def far_peers(rng: random.Random, table: RoutingTable, count: int) -> list[bytes]:
    """Peers of bucket 0."""
    found: list[bytes] = []
    while len(found) < count:
        peer = peer_id(rng)
        if common_prefix(kad_id(peer), table.local_id) == 0:
            found.append(peer)
    return found


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 400))
def test_nearest_is_nearest(seed: int, size: int) -> None:
    """The answer is what sorting the whole table by distance gives."""
    rng = random.Random(seed)
    table = RoutingTable(peer_id(rng), rng=rng)
    for _ in range(size):
        table.consider(peer_id(rng), [public_addr(rng)], 0.0)
    for target in (rng.getrandbits(256), table.local_id, table.local_id ^ rng.getrandbits(240)):
        wanted = sorted(table, key=lambda peer: kad_id(peer) ^ target)[:20]
        assert table.nearest(target) == wanted
        assert [info.id for info in table.nearest_infos(target, 20)] == wanted


def test_a_full_bucket_keeps_its_own() -> None:
    """Newcomers to a full bucket wait, the last seen first in line, and nobody alive is pushed out."""
    rng = random.Random(1)
    table = RoutingTable(peer_id(rng), k=4, rng=rng)
    peers = far_peers(rng, table, 20)
    taken = [table.consider(peer, [public_addr(rng)], n) for n, peer in enumerate(peers)]
    assert taken == [True] * 4 + [False] * 16
    assert list(table) == peers[:4]
    assert table.dead(peers[2], 30.0) == peers[-1]
    assert set(table) == {peers[0], peers[1], peers[3], peers[-1]}
    # Ten waited, and no more: when all have died, the bucket is empty.
    for _ in range(4 + limits.MAX_WAITING_PER_BUCKET):
        for peer in list(table)[:1]:
            table.dead(peer, 31.0)
    assert len(table) == 0


def test_ourselves_and_strangers() -> None:
    """We are not in our own table; to declare unknown peers dead or alive does nothing."""
    rng = random.Random(2)
    table = RoutingTable(peer_id(rng), rng=rng)
    assert not table.consider(table.local, [public_addr(rng)], 0.0)
    assert table.dead(peer_id(rng), 0.0) is None
    table.alive(peer_id(rng), 0.0)
    assert len(table) == 0
    assert table.nearest(5) == []
    assert table.info(table.local) is None


def test_only_the_right_addresses() -> None:
    """A peer is kept with its usable addresses only, and not at all without one."""
    rng = random.Random(3)
    table = RoutingTable(peer_id(rng), scope=WAN, rng=rng)
    peer = peer_id(rng)
    assert not table.consider(peer, [ip4("192.168.0.1"), ip4("127.0.0.1")], 0.0)
    assert table.consider(peer, [ip4("192.168.0.1"), ip4("8.8.8.8")], 0.0)
    info = table.info(peer)
    assert info is not None
    assert info.addrs == (ip4("8.8.8.8"),)
    # New addresses replace the old ones; useless ones do not.
    table.consider(peer, [ip4("8.8.4.4")], 1.0)
    table.consider(peer, [ip4("10.0.0.1")], 2.0)
    info = table.info(peer)
    assert info is not None
    assert info.addrs == (ip4("8.8.4.4"),)


def test_the_lan_takes_neighbours() -> None:
    """Into the LAN's table come those that are seen on the LAN, whatever they say."""
    rng = random.Random(4)
    table = RoutingTable(peer_id(rng), scope=DhtScope(lan=True), rng=rng)
    assert not table.consider(peer_id(rng), [ip4("8.8.8.8")], 0.0)
    assert not table.consider(peer_id(rng), [ip4("192.168.0.5"), ip4("8.8.8.8")], 0.0, ip4("8.8.8.8"))
    assert table.consider(peer_id(rng), [ip4("192.168.0.5"), ip4("8.8.8.8")], 0.0, ip4("192.168.0.5"))
    # Twenty machines of one subnet are no attack here.
    assert all(table.consider(peer_id(rng), [ip4(f"192.168.0.{n}")], 0.0) for n in range(10, 20))


def test_diversity() -> None:
    """Two of a /16 in a bucket, three in the public table; those who leave make room for others of their group."""
    rng = random.Random(5)
    table = RoutingTable(peer_id(rng), scope=WAN, rng=rng)
    peers = far_peers(rng, table, 4)
    taken = [table.consider(peer, [ip4(f"8.8.{n}.1")], 0.0) for n, peer in enumerate(peers)]
    assert taken == [True, True, False, False]
    others = [peer for peer in (peer_id(rng) for _ in range(60)) if common_prefix(kad_id(peer), table.local_id) > 0]
    assert sum(table.consider(peer, [ip4("8.8.9.9")], 0.0) for peer in others) == 1
    table.dead(peers[0], 1.0)
    assert table.consider(peers[2], [ip4("8.8.2.1")], 2.0)


def test_diversity_counts_where_a_peer_is_seen() -> None:
    """Made-up addresses do not hide that all come from one network, nor does a change of address later."""
    rng = random.Random(6)
    table = RoutingTable(peer_id(rng), scope=WAN, rng=rng)
    peers = far_peers(rng, table, 5)
    taken = [table.consider(peer, [public_addr(rng)], 0.0, ip4("8.8.1.1")) for peer in peers]
    assert taken == [True, True, False, False, False]
    table = RoutingTable(peer_id(rng), scope=WAN, rng=rng)
    peers = far_peers(rng, table, 5)
    for n, peer in enumerate(peers):
        assert table.consider(peer, [ip4(f"20.{n}.0.1")], 0.0)
        table.consider(peer, [ip4("8.8.1.1")], 1.0)
    moved = [peer for peer in peers if (info := table.info(peer)) and info.addrs == (ip4("8.8.1.1"),)]
    assert len(moved) == limits.MAX_PER_GROUP_IN_BUCKET


def test_liveness_checks() -> None:
    """The silent are handed out longest silent first, once; who answered is not; who waits makes it come sooner."""
    rng = random.Random(7)
    table = RoutingTable(peer_id(rng), k=3, rng=rng)
    peers = far_peers(rng, table, 4)
    for n, peer in enumerate(peers[:3]):
        table.consider(peer, [public_addr(rng)], float(n))
    assert table.to_check(limits.CHECK_AFTER - 1) == []
    table.alive(peers[0], limits.CHECK_AFTER)
    assert [info.id for info in table.to_check(limits.CHECK_AFTER + 5)] == peers[1:3]
    assert table.to_check(limits.CHECK_AFTER + 6) == []
    table.consider(peers[3], [public_addr(rng)], limits.CHECK_AFTER + 7)
    due = [info.id for info in table.to_check(limits.CHECK_AFTER + limits.CHECK_CROWDED_AFTER + 10, 2)]
    assert due == peers[1:3]


def test_refreshes() -> None:
    """Every bucket down to the deepest is due at first and again after the interval; the key lies in the bucket."""
    rng = random.Random(8)
    table = RoutingTable(peer_id(rng), rng=rng)
    assert table.to_refresh(0.0) == []
    for _ in range(200):
        table.consider(peer_id(rng), [public_addr(rng)], 0.0)
    due = table.to_refresh(1.0)
    deepest = max(common_prefix(kad_id(peer), table.local_id) for peer in table)
    assert due == list(range(min(deepest, limits.MAX_REFRESH_PREFIX - 1) + 1))
    for number in due[:8]:
        assert common_prefix(kad_id(table.refresh_key(number)), table.local_id) == number
    assert table.to_refresh(2.0) == []
    assert table.to_refresh(1.0 + limits.REFRESH_INTERVAL) == due


@pytest.mark.parametrize("seed", range(3))
def test_counts_stay_right(seed: int) -> None:
    """After any coming and going no group is counted that is not there, and the table's parts agree."""
    rng = random.Random(seed)
    table = RoutingTable(peer_id(rng), scope=WAN, k=3, rng=rng)
    peers = [peer_id(rng) for _ in range(60)]
    for now in range(2000):
        peer = rng.choice(peers)
        if rng.random() < 0.4:
            table.dead(peer, now)
        else:
            table.consider(peer, [ip4(f"8.{rng.randrange(9)}.0.1"), ip4(f"9.{rng.randrange(30)}.0.1")], now)
    assert max(table._groups.values()) <= limits.MAX_PER_GROUP_IN_TABLE
    assert sum(len(bucket) for bucket in table._buckets.values()) == len(table)
    for peer in list(table):
        while peer in table:
            table.dead(peer, 3000)
    while len(table):
        table.dead(next(iter(table)), 3000)
    assert table._groups == table._bucket_groups == {}
