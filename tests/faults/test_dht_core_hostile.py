"""Hostile peers against the DHT's core: everything they send is answered or refused by name, and nothing grows."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.lookup import Lookup
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, ValueRecord, decode, encode
from kachery_p2p.routing.dht.table import RoutingTable
from tests.helpers.dht_fakes import ip4, peer_id, public_addr
from tests.helpers.dht_ipns import ipns, name_of
from tests.unit.routing.dht.test_records import KEY, KEYS, NOW
from tests.unit.routing.dht.test_server import ASKER, Bench, multihash

rng = random.Random(77)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A server of the public DHT."""
    made = Bench()
    yield made
    made.db.close()


def refused(bench: Bench, message: DhtMessage) -> bool:
    """Whether a message, sent over the wire, is refused."""
    try:
        bench.server.handle(decode(encode(message)), ASKER, NOW)
    except MalformedMessage:
        return True
    return False


def test_records_for_others(bench: Bench) -> None:
    """A peer that announces two hundred others, and itself among them, is stored alone."""
    key = multihash()
    others = tuple(DhtPeer(peer_id(rng), (public_addr(rng),)) for _ in range(100))
    bench.announce(key, *others)
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == ()
    bench.announce(key, *others, ASKER, *others, ASKER)
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == (ASKER,)


def test_records_of_others(bench: Bench) -> None:
    """An IPNS record signed by another key, under another's name, or changed on the way is refused and not stored."""
    victim = name_of(KEYS["ecdsa"])
    for value in (ipns(KEY), b"", b"\xff" * 100, ipns(KEYS["ecdsa"])[:-1]):
        assert refused(bench, DhtMessage(MessageType.PUT_VALUE, victim, ValueRecord(victim, value)))
    assert bench.ask(MessageType.GET_VALUE, victim).record is None
    # A record for another key than the message's, and a message without one.
    assert refused(bench, DhtMessage(MessageType.PUT_VALUE, victim, ValueRecord(name_of(KEY), ipns(KEY))))
    assert refused(bench, DhtMessage(MessageType.PUT_VALUE, victim))


def test_oversized_records(bench: Bench) -> None:
    """A record over 10 KiB is refused, though it is signed right."""
    key = name_of(KEY)
    assert not refused(bench, DhtMessage(MessageType.PUT_VALUE, key, ValueRecord(key, ipns(KEY, Value=b"x" * 9000))))
    assert refused(bench, DhtMessage(MessageType.PUT_VALUE, key, ValueRecord(key, ipns(KEY, Value=b"x" * 11000))))
    assert refused(bench, DhtMessage(MessageType.PUT_VALUE, key, ValueRecord(key, bytes(4_000_000))))


@pytest.mark.parametrize("kind", [kind for kind in MessageType if kind is not MessageType.PING])
@pytest.mark.parametrize("size", [0, 10_000])
def test_bad_keys(bench: Bench, kind: MessageType, size: int) -> None:
    """No key, and a key of ten thousand bytes, are refused for every question that needs one."""
    assert refused(bench, DhtMessage(kind, bytes(size), providers=(ASKER,)))


def test_long_provider_keys(bench: Bench) -> None:
    """A provider's key may have 80 bytes, as in go-libp2p, and not one more."""
    assert not refused(bench, DhtMessage(MessageType.ADD_PROVIDER, bytes(80), providers=(ASKER,)))
    assert refused(bench, DhtMessage(MessageType.ADD_PROVIDER, bytes(81), providers=(ASKER,)))
    assert refused(bench, DhtMessage(MessageType.GET_PROVIDERS, bytes(81)))


def test_thousands_of_addresses(bench: Bench) -> None:
    """A provider with thousands of addresses is stored with no more than a peer may have."""
    key = multihash()
    many = tuple(ip4(f"20.{n >> 8}.{n & 255}.1") for n in range(3000))
    message = decode(encode(DhtMessage(MessageType.ADD_PROVIDER, key, providers=(DhtPeer(ASKER.id, many),))))
    bench.server.handle(message, ASKER, NOW)
    (stored,) = bench.ask(MessageType.GET_PROVIDERS, key).providers
    assert stored.addrs == many[: limits.MAX_ADDRS_PER_PEER]


@pytest.mark.parametrize(
    "addr",
    [ip4("192.168.1.2"), ip4("127.0.0.1"), ip4("10.0.0.1"), ip4("0.0.0.0"), ip4("224.0.0.1"), b"\xff\xff", b"\x04\x01"],
)
def test_private_addresses_offered_to_the_public_table(bench: Bench, addr: bytes) -> None:
    """Such an address gets nobody into the public table, and comes in no answer, not even beside a public one."""
    alone, beside = peer_id(rng), peer_id(rng)
    bench.table.consider(alone, [addr], 1.0)
    bench.table.consider(beside, [addr, ip4("77.1.2.3")], 1.0)
    assert alone not in bench.table
    key = multihash()
    bench.announce(key, DhtPeer(ASKER.id, (addr, ip4("77.1.2.3"))))
    for kind, target in ((MessageType.FIND_NODE, beside), (MessageType.GET_PROVIDERS, key)):
        answer = bench.ask(kind, target, remote=DhtPeer(peer_id(rng)))
        assert addr not in [each for info in (*answer.closer, *answer.providers) for each in info.addrs]
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == (DhtPeer(ASKER.id, (ip4("77.1.2.3"),)),)


def test_a_flood_of_peers() -> None:
    """Five thousand peers, all of one network, take three places of the table; of all networks, a few hundred."""
    table = RoutingTable(peer_id(rng), scope=DhtScope(lan=False), rng=rng)
    for n in range(5_000):
        table.consider(peer_id(rng), [ip4(f"66.6.{n >> 8}.{n & 255}")], float(n))
    assert len(table) == limits.MAX_PER_GROUP_IN_TABLE
    for n in range(5_000):
        table.consider(peer_id(rng), [public_addr(rng)], float(n))
    assert len(table) < 400
    assert sum(map(len, table._waiting.values())) <= 256 * limits.MAX_WAITING_PER_BUCKET


def test_an_old_bucket_is_not_taken_over() -> None:
    """Peers that answer keep their places, whoever knocks."""
    table = RoutingTable(peer_id(rng), scope=DhtScope(lan=False), rng=rng)
    while len(table.nearest(table.local_id ^ (1 << 255), 20)) < 20 or len(table) < 60:
        table.consider(peer_id(rng), [public_addr(rng)], 0.0)
    old = {peer for peer in table if kad_id(peer) >> 255 != table.local_id >> 255}
    assert len(old) == limits.K
    for n in range(5000):
        table.consider(peer_id(rng), [public_addr(rng)], float(n))
        for info in table.to_check(float(n)):
            table.alive(info.id, float(n))
    assert old <= set(table)


def test_lookups_that_never_end() -> None:
    """Peers that all answer at once, each naming twenty new ones that are nearer: the lookup ends by its messages."""
    target = rng.getrandbits(256)
    seeds = [peer_id(rng) for _ in range(20)]
    for all_closest in (False, True):
        search = Lookup(target, sorted(seeds, key=lambda peer: kad_id(peer) ^ target), all_closest=all_closest)
        rounds = 0
        while not search.done:
            for peer in search.next(rounds * 0.01):
                best = kad_id(peer) ^ target
                named = [each for each in (peer_id(rng) for _ in range(200)) if kad_id(each) ^ target < best]
                search.answered(peer, named or [peer_id(rng) for _ in range(64)], rounds * 0.01)
            rounds += 1
            assert rounds < 1000
        assert search.messages <= limits.MAX_MESSAGES + (2 * limits.K if all_closest else 0)
        assert len(search._peers) <= limits.MAX_PEERS_PER_LOOKUP
        assert len(search.closest()) == limits.K


def test_answers_of_nothing_but_junk() -> None:
    """Answers that name the asker, the answerer, the asked, and one peer ten thousand times change nothing."""
    local, *seeds = (peer_id(rng) for _ in range(21))
    search = Lookup(1, seeds, local=local)
    asked: list[bytes] = []
    while not search.done:
        for peer in search.next(0.0):
            asked.append(peer)
            search.answered(peer, [local, peer, *seeds] * 400, 0.0)
    assert len(asked) == len(set(asked)) <= len(seeds)
    assert local not in asked


def test_a_mute_network() -> None:
    """When nobody answers, the lookup ends when its time is up at the latest, and gives back nobody."""
    search = Lookup(1, [peer_id(rng) for _ in range(20)], all_closest=True)
    now = 0.0
    while not search.done:
        search.next(now)
        now = search.wake_at
    assert now <= limits.LOOKUP_TIMEOUT
    assert search.closest() == []


peers = st.builds(DhtPeer, st.binary(max_size=50), st.lists(st.binary(max_size=60), max_size=3).map(tuple))
messages = st.builds(
    DhtMessage,
    st.sampled_from(MessageType),
    st.one_of(st.binary(max_size=90), st.just(ASKER.id), st.binary(max_size=50).map(lambda raw: b"/ipns/" + raw)),
    st.none() | st.builds(ValueRecord, st.binary(max_size=50), st.binary(max_size=200)),
    st.lists(peers | st.just(ASKER), max_size=3).map(tuple),
    st.lists(peers | st.just(ASKER), max_size=3).map(tuple),
)


@given(messages, st.binary(max_size=200))
def test_any_message(bench: Bench, message: DhtMessage, noise: bytes) -> None:
    """Whatever comes over the wire is answered, taken in or refused as malformed; and every answer can be read."""
    for data in (encode(message), noise):
        try:
            answer = bench.server.handle(decode(data), ASKER, NOW)
        except MalformedMessage:
            continue
        if answer is not None:
            assert decode(encode(answer)) == answer
