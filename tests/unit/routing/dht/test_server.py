"""What our server answers: as go-libp2p-kad-dht and @libp2p/kad-dht expect it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, ValueRecord
from kachery_p2p.routing.dht.providers import ProviderStore
from kachery_p2p.routing.dht.server import DhtServer
from kachery_p2p.routing.dht.table import RoutingTable
from kachery_p2p.routing.dht.values import ValueStore
from tests.helpers.dht_fakes import ip4, peer_id, public_addr
from tests.helpers.dht_ipns import ipns, name_of, public_key
from tests.unit.routing.dht.test_records import KEY, NOW

rng = random.Random(1)
OWN_ADDR = ip4("20.1.2.3")
ASKER = DhtPeer(peer_id(rng), (public_addr(rng),))
CONNECTED = DhtPeer(peer_id(rng), (public_addr(rng), ip4("192.168.0.4")))


class Bench:
    """A server of the public DHT with 200 peers in its table."""

    def __init__(self) -> None:
        self.db = Database(None)
        self.table = RoutingTable(peer_id(rng), scope=DhtScope(lan=False), rng=rng)
        for _ in range(200):
            self.table.consider(peer_id(rng), [public_addr(rng)], 0.0)
        self.own: list[bytes] = []
        self.server = DhtServer(
            self.table,
            ProviderStore(self.db),
            ValueStore(self.db),
            DhtScope(lan=False),
            own_addrs=lambda: [OWN_ADDR, ip4("127.0.0.1"), ip4("10.0.0.1")],
            addrs_of=lambda peer: CONNECTED.addrs if peer == CONNECTED.id else (),
            provides=self.own.__contains__,
        )

    def ask(self, kind: MessageType, key: bytes, *, remote: DhtPeer = ASKER, now: float = NOW) -> DhtMessage:
        answer = self.server.handle(DhtMessage(kind, key), remote, now)
        assert answer is not None
        return answer

    def announce(self, key: bytes, *providers: DhtPeer, remote: DhtPeer = ASKER, now: float = NOW) -> None:
        message = DhtMessage(MessageType.ADD_PROVIDER, key, providers=providers)
        assert self.server.handle(message, remote, now) is None

    def put(self, key: bytes, value: bytes, *, now: float = NOW) -> DhtMessage | None:
        message = DhtMessage(MessageType.PUT_VALUE, key, ValueRecord(key, value, "2001-01-01T00:00:00Z"))
        return self.server.handle(message, ASKER, now)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A server."""
    made = Bench()
    yield made
    made.db.close()


def multihash() -> bytes:
    return b"\x12\x20" + rng.randbytes(32)


def test_find_node(bench: Bench) -> None:
    """The 20 nearest of the table come, without the asker, and without a key, as go-libp2p answers."""
    key = multihash()
    answer = bench.ask(MessageType.FIND_NODE, key)
    assert answer.type is MessageType.FIND_NODE
    assert answer.key == b""
    assert [info.id for info in answer.closer] == bench.table.nearest(kad_id(key), 20)
    first = answer.closer[0]
    again = bench.ask(MessageType.FIND_NODE, key, remote=first)
    assert first.id not in {info.id for info in again.closer}
    assert len(again.closer) == limits.K


def test_find_ourselves(bench: Bench) -> None:
    """Who seeks us gets us alone, with the addresses that can be dialled from where they are."""
    answer = bench.ask(MessageType.FIND_NODE, bench.table.local)
    assert answer.closer == (DhtPeer(bench.table.local, (OWN_ADDR,)),)
    assert all(bench.table.local != info.id for info in bench.ask(MessageType.FIND_NODE, multihash()).closer)


def test_find_a_peer_that_is_no_server(bench: Bench) -> None:
    """A peer we are connected to is found first, though it is not in the table, by its public addresses; nobody is
    told about itself; a peer of the table is named once."""
    answer = bench.ask(MessageType.FIND_NODE, CONNECTED.id)
    assert answer.closer[0] == DhtPeer(CONNECTED.id, CONNECTED.addrs[:1])
    assert len(answer.closer) == limits.K + 1
    own = bench.ask(MessageType.FIND_NODE, CONNECTED.id, remote=CONNECTED)
    assert CONNECTED.id not in {info.id for info in own.closer}
    bench.table.consider(CONNECTED.id, CONNECTED.addrs, 1.0)
    assert [info.id for info in bench.ask(MessageType.FIND_NODE, CONNECTED.id).closer].count(CONNECTED.id) <= 1


def test_providers(bench: Bench) -> None:
    """Who announced is named, with closer peers, and with us when we have it ourselves."""
    key = multihash()
    answer = bench.ask(MessageType.GET_PROVIDERS, key)
    assert (answer.type, answer.key, answer.providers) == (MessageType.GET_PROVIDERS, key, ())
    assert len(answer.closer) == limits.K
    one = DhtPeer(peer_id(rng), (public_addr(rng),))
    bench.announce(key, one, remote=DhtPeer(one.id))
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == (one,)
    bench.own.append(key)
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == (DhtPeer(bench.table.local, (OWN_ADDR,)), one)


def test_addresses_of_a_provider(bench: Bench) -> None:
    """Addresses come from the message; if it has no usable one, from the connection; without any, nothing is stored."""
    key = multihash()
    private = DhtPeer(ASKER.id, (ip4("192.168.0.3"),))
    bench.announce(key, private, remote=DhtPeer(ASKER.id, (ip4("10.0.0.3"),)))
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == ()
    bench.announce(key, private)
    assert bench.ask(MessageType.GET_PROVIDERS, key).providers == (ASKER,)
    other = multihash()
    bench.announce(other, DhtPeer(ASKER.id))
    assert bench.ask(MessageType.GET_PROVIDERS, other).providers == (ASKER,)


def test_ping(bench: Bench) -> None:
    """A ping comes back."""
    assert bench.ask(MessageType.PING, b"").type is MessageType.PING


def test_values(bench: Bench) -> None:
    """A valid record is stored, echoed, and found with closer peers; a newer one replaces it, an older does not."""
    key = name_of(KEY)
    assert bench.ask(MessageType.GET_VALUE, key).record is None
    value = ipns(KEY, Sequence=5)
    echo = bench.put(key, value)
    assert echo is not None
    assert (echo.type, echo.key) == (MessageType.PUT_VALUE, key)
    assert echo.record is not None
    assert echo.record.value == value
    answer = bench.ask(MessageType.GET_VALUE, key)
    assert answer.record == echo.record
    assert answer.record is not None
    assert answer.record.received == "2027-01-15T08:00:00.000000Z"
    assert len(answer.closer) == limits.K
    assert bench.put(key, value) is not None
    with pytest.raises(MalformedMessage, match="older"):
        bench.put(key, ipns(KEY, Sequence=4))
    assert bench.put(key, ipns(KEY, Sequence=6)) is not None
    own = b"/pk/" + key[6:]
    assert bench.put(own, public_key(KEY)) is not None
    record = bench.ask(MessageType.GET_VALUE, own).record
    assert record is not None
    assert record.value == public_key(KEY)


def test_a_record_that_expires_here(bench: Bench) -> None:
    """A record is not given out after its own time, and does not stand in the way of the one that follows it."""
    key = name_of(KEY)
    assert bench.put(key, ipns(KEY, Sequence=9, Validity=b"2027-01-15T09:00:00Z")) is not None
    assert bench.ask(MessageType.GET_VALUE, key, now=NOW + 3599).record is not None
    assert bench.ask(MessageType.GET_VALUE, key, now=NOW + 3601).record is None
    assert bench.put(key, ipns(KEY, Sequence=3), now=NOW + 3601) is not None
    record = bench.ask(MessageType.GET_VALUE, key, now=NOW + 3602).record
    assert record is not None
    assert record.value == ipns(KEY, Sequence=3)


def test_counts(bench: Bench) -> None:
    """What was answered is counted by type, for the status."""
    bench.ask(MessageType.PING, b"")
    bench.ask(MessageType.FIND_NODE, multihash())
    bench.ask(MessageType.FIND_NODE, multihash())
    assert bench.server.counts == {"ping": 1, "find_node": 2}


def test_a_lan_server() -> None:
    """On the LAN private addresses are stored and named; on one machine loopback ones, where that is allowed."""
    with closing(Database(None)) as db:
        check_a_lan_server(db)


def check_a_lan_server(db: Database) -> None:
    scope = DhtScope(lan=True, allow_loopback=True)
    table = RoutingTable(peer_id(rng), scope=scope, rng=rng)
    neighbour = DhtPeer(peer_id(rng), (ip4("127.0.0.1", 4002),))
    assert table.consider(neighbour.id, neighbour.addrs, 0.0, ip4("127.0.0.1", 50000))
    server = DhtServer(table, ProviderStore(db, "lan"), ValueStore(db, "lan"), scope, own_addrs=lambda: [])
    key = multihash()
    server.handle(DhtMessage(MessageType.ADD_PROVIDER, key, providers=(neighbour,)), neighbour, NOW)
    answer = server.handle(DhtMessage(MessageType.GET_PROVIDERS, key), ASKER, NOW)
    assert answer is not None
    assert answer.providers == answer.closer == (neighbour,)
    assert server.handle(DhtMessage(MessageType.FIND_NODE, table.local), ASKER, NOW) == DhtMessage(
        MessageType.FIND_NODE
    )
    db.close()
