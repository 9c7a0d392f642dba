"""What others entrusted to us: kept as long as it should be, fairly bounded, readable before it is written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.limits import StoreLimits
from kachery_p2p.routing.dht.messages import DhtPeer, ValueRecord
from kachery_p2p.routing.dht.providers import ProviderStore
from kachery_p2p.routing.dht.values import ValueStore
from tests.helpers.dht_fakes import peer_id, public_addr

rng = random.Random(1)


@pytest.fixture
def db() -> Iterator[Database]:
    """A database in memory."""
    database = Database(None)
    yield database
    database.close()


def someone() -> DhtPeer:
    return DhtPeer(peer_id(rng), (public_addr(rng), public_addr(rng)))


def key() -> bytes:
    return b"\x12\x20" + rng.randbytes(32)


def test_written_or_not(db: Database) -> None:
    """A record is found at once, and the same after the flush, the last heard of first."""
    store = ProviderStore(db)
    thing, one, two = key(), someone(), someone()
    assert store.get(thing, 1.0) == []
    store.add(thing, one, 1.0)
    store.add(thing, two, 2.0)
    assert store.get(thing, 3.0) == [two, one]
    assert store.flush(3.0) == 2
    assert store.flush(3.0) == 0
    assert store.get(thing, 3.0) == [two, one]
    moved = DhtPeer(one.id, (public_addr(rng),))
    store.add(thing, moved, 4.0)
    assert store.get(thing, 5.0) == [moved, two]
    store.flush(5.0)
    assert store.get(thing, 5.0) == [moved, two]
    assert len(store) == 2


def test_expiry(db: Database) -> None:
    """Addresses go after 24 hours, the record after 48; one that was renewed stays."""
    store = ProviderStore(db)
    thing, one, two = key(), someone(), someone()
    for flushed in (False, True):
        store.add(thing, one, 0.0)
        store.add(thing, two, 0.0)
        if flushed:
            store.flush(0.0)
        later = limits.PROVIDER_ADDRS_TTL + 1
        assert {info.id for info in store.get(thing, later)} == {one.id, two.id}
        assert all(info.addrs == () for info in store.get(thing, later))
        assert store.get(thing, limits.PROVIDER_TTL + 1) == []
    store.add(thing, two, 1000.0)
    assert store.purge(limits.PROVIDER_TTL + 1) == 1
    assert [info.id for info in store.get(thing, limits.PROVIDER_TTL + 1)] == [two.id]
    assert store.purge(limits.PROVIDER_TTL + 2000) == 1
    assert len(store) == 0
    assert db.read("SELECT count(*) FROM dht_wan_peers") == [(0,)]


def test_a_restart(tmp_path: Path) -> None:
    """What was flushed is there after a restart; the public DHT and the LAN's do not mix."""
    thing, one = key(), someone()
    database = Database(tmp_path / "routing.sqlite")
    store = ProviderStore(database, "lan")
    store.add(thing, one, 1.0)
    store.flush(1.0)
    database.close()
    database = Database(tmp_path / "routing.sqlite")
    assert ProviderStore(database, "lan").get(thing, 2.0) == [one]
    assert len(ProviderStore(database, "lan")) == 1
    assert ProviderStore(database, "wan").get(thing, 2.0) == []
    database.close()
    with pytest.raises(ValueError):
        ProviderStore(database, "x; DROP TABLE")


def test_a_full_key(db: Database) -> None:
    """A key with all its providers takes no more, renews those it has, and never answers with more."""
    store = ProviderStore(db, bounds=StoreLimits(max_providers_per_key=5))
    thing = key()
    first = [someone() for _ in range(5)]
    for each in first:
        assert store.add(thing, each, 1.0)
    assert not store.add(thing, someone(), 1.0)
    store.flush(1.0)
    for _ in range(5):
        store.add(thing, someone(), 2.0)
    assert {info.id for info in store.get(thing, 2.0)} == {each.id for each in first}
    store.add(thing, first[0], 3.0)
    store.flush(3.0)
    assert store.get(thing, 3.0)[0].id == first[0].id
    assert {info.id for info in store.get(thing, 3.0)} == {each.id for each in first}


def test_a_flood_evicts_itself(db: Database) -> None:
    """Who announces too much loses its own oldest records; those of others stay."""
    store = ProviderStore(db, bounds=StoreLimits(max_records_per_provider=10))
    modest, greedy = someone(), someone()
    things = [key() for _ in range(40)]
    store.add(things[0], modest, 0.0)
    for now, thing in enumerate(things):
        store.add(thing, greedy, float(now))
        if now % 7 == 0:
            store.flush(float(now))
    store.flush(50.0)
    assert [thing for thing in things if greedy.id in {info.id for info in store.get(thing, 50.0)}] == things[-10:]
    assert [info.id for info in store.get(things[0], 50.0)] == [modest.id]
    assert len(store) == 11


def test_a_full_store(db: Database) -> None:
    """When the store is full, the one with the most records loses them."""
    store = ProviderStore(db, bounds=StoreLimits(max_provider_records=30))
    modest = [(key(), someone()) for _ in range(10)]
    for thing, each in modest:
        store.add(thing, each, 0.0)
    store.flush(0.0)
    greedy = someone()
    for now in range(100):
        store.add(key(), greedy, float(now))
    store.flush(100.0)
    assert len(store) == 30
    assert all(store.get(thing, 100.0) for thing, _ in modest)
    assert db.read("SELECT count(*) FROM dht_wan_providers") == [(30,)]
    assert db.read("SELECT sum(records) FROM dht_wan_peers") == [(30,)]


def test_too_many_providers(db: Database) -> None:
    """A crowd of providers with one record each is bounded, too: those not heard of for the longest time go."""
    store = ProviderStore(db, bounds=StoreLimits(max_provider_peers=20))
    crowd = [(key(), someone()) for _ in range(50)]
    for now, (thing, each) in enumerate(crowd):
        store.add(thing, each, float(now))
    store.flush(50.0)
    assert [bool(store.get(thing, 50.0)) for thing, _ in crowd] == [False] * 30 + [True] * 20
    assert len(store) == 20


def test_memory_is_bounded(db: Database) -> None:
    """Records are written by themselves when nobody flushes."""
    store = ProviderStore(db)
    greedy = someone()
    for _ in range(2 * limits.MAX_UNFLUSHED):
        store.add(key(), greedy, 1.0)
    assert store.unwritten < limits.MAX_UNFLUSHED
    assert len(store) == 2 * limits.MAX_UNFLUSHED


def test_a_broken_database(db: Database) -> None:
    """When the database fails, a server goes on: what cannot be read or written is missing, and nothing is raised."""
    store, values = ProviderStore(db), ValueStore(db)
    thing, one = key(), someone()
    db.close()
    store.add(thing, one, 1.0)
    assert store.get(thing, 1.0) == [one]
    for _ in range(limits.MAX_UNFLUSHED):
        store.add(key(), one, 1.0)
    assert store.unwritten < limits.MAX_UNFLUSHED
    assert not values.put(ValueRecord(b"k", b"v"), b"x", 1.0)
    assert values.get(b"k", 1.0) is None


async def test_flushed_in_a_thread(tmp_path: Path) -> None:
    """While a thread writes, records can be added and read; none is lost."""
    database = Database(tmp_path / "routing.sqlite")
    store = ProviderStore(database)
    added: list[tuple[bytes, bytes]] = []
    stop = False

    async def flush() -> None:
        while not stop:
            await trio.to_thread.run_sync(store.flush, 1.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        for _ in range(40):
            for _ in range(10):
                thing, one = key(), someone()
                store.add(thing, one, 1.0)
                added.append((thing, one.id))
                assert [info.id for info in store.get(thing, 1.0)] == [one.id]
            await trio.lowlevel.checkpoint()
        stop = True
    store.flush(1.0)
    assert all([info.id for info in store.get(thing, 1.0)] == [peer] for thing, peer in added)
    assert len(store) == len(added)
    database.close()


def test_values(db: Database) -> None:
    """A value is kept for 48 hours, replaced by the next, and gone after a purge."""
    store = ValueStore(db)
    store.put(ValueRecord(b"k", b"one", "t"), b"sender", 0.0)
    assert store.get(b"k", 1.0) == ValueRecord(b"k", b"one", "t")
    store.put(ValueRecord(b"k", b"two", "t"), b"sender", 10.0)
    assert store.get(b"k", 11.0) == ValueRecord(b"k", b"two", "t")
    assert len(store) == 1
    assert store.get(b"k", limits.VALUE_TTL + 11) is None
    assert store.purge(limits.VALUE_TTL + 5) == 0
    assert store.purge(limits.VALUE_TTL + 11) == 1
    with pytest.raises(ValueError):
        ValueStore(db, "x")


def test_values_are_bounded(db: Database) -> None:
    """A sender has its places, the store has its own: the oldest go."""
    store = ValueStore(db, bounds=StoreLimits(max_values_per_sender=3, max_values=5))
    store.put(ValueRecord(b"modest", b""), b"one", 0.0)
    for n in range(10):
        store.put(ValueRecord(b"%d" % n, b""), b"two", 1.0 + n)
    assert len(store) == 4
    assert store.get(b"modest", 20.0) is not None
    assert [n for n in range(10) if store.get(b"%d" % n, 20.0)] == [7, 8, 9]
    for n in range(10):
        store.put(ValueRecord(b"other %d" % n, b""), b"%d" % n, 20.0 + n)
    assert len(store) == 5
