"""Hostile machines on the local network: floods, malformed packets, forged announcements. Bounded, ignored, counted."""

from __future__ import annotations

import random
import struct
import time

import pytest
import trio
from trio.testing import MockClock

from kachery_p2p.routing.mdns import limits, packets
from tests.helpers import mdns_fakes as fakes
from tests.helpers.mdns_fakes import Lan, Node, node_on

HONEST = fakes.peer_id(99)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def still_works(node: Node, lan: Lan) -> None:
    """An honest machine that announces itself is found."""
    for _ in range(3):
        lan.deliver(fakes.helia("honest", HONEST, "/ip4/10.1.0.99/tcp/1"), "10.1.0.99")
        await trio.sleep(2)
    assert node.mdns.peers()[HONEST] == ["/ip4/10.1.0.99/tcp/1"]


def announcement(number: int) -> bytes:
    """A packet of a made-up peer."""
    addrs = [f"/ip4/10.1.{number % 250}.66/tcp/4001"]
    return next(packets.answers(b"n%d" % number, fakes.peer_id(number + 1000), addrs))


async def test_garbage(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Random bytes, cut and damaged packets: counted, nothing else."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    rng = random.Random(1)
    good = announcement(1)
    for number in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(0, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        lan.deliver(bytes(data[: rng.randint(0, len(data))]), f"10.1.0.{number % 50}")
        lan.deliver(rng.randbytes(rng.randint(0, 600)), "10.1.0.3")
        if number % 50 == 0:
            await trio.sleep(1)
    status = node.mdns.status()
    assert status["packets"]["malformed"] > 100
    assert status["packets"]["other"] > 1000
    await still_works(node, lan)


async def test_flood_of_peers(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A machine that announces ever new peers fills its own share of the table; reports stay bounded, too."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    for number in range(4000):
        lan.deliver(announcement(number), "10.1.0.66")
        if number % 20 == 0:
            await trio.sleep(1)
    book = node.mdns._book
    assert len(book._nodes) == len(book._peers) == limits.MAX_NODES_PER_SENDER
    assert len(node.mdns.peers()) <= limits.MAX_NODES_PER_SENDER
    assert len(node.found) <= limits.MAX_NODES_PER_SENDER
    assert node.mdns.status()["not_believed"]["refused"] > 3000
    await still_works(node, lan)


async def test_thousands_of_addresses(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One peer with thousands of addresses, new ones all the time, is reported now and then with a few of them."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    peer = fakes.peer_id(5)
    for number in range(200):
        addrs = [f"/ip4/10.1.0.5/tcp/{1 + number * 70 + each}" for each in range(70)]
        for data in packets.answers(b"many", peer, addrs):
            lan.deliver(data, "10.1.0.5")
        await trio.sleep(0.5)
    assert len(node.mdns.peers()[peer]) == limits.MAX_ADDRESSES
    assert all(len(addrs) <= limits.MAX_ADDRESSES for _, _, addrs in node.found)
    assert 10 < len(node.found) <= 100 / limits.REPORT_PAUSE + 1
    await still_works(node, lan)


async def test_coming_and_going(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that announces itself and says goodbye in turns does not keep us busy."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    for _ in range(100):
        lan.deliver(announcement(1), "10.1.0.5")
        await trio.sleep(0.6)
        lan.deliver(packets.goodbye(b"n1"), "10.1.0.5")
        await trio.sleep(1.4)
    assert len(node.found) + len(node.gone) <= 200 / limits.REPORT_PAUSE + 2
    await still_works(node, lan)


async def test_forged(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Nobody can speak for us, send us to strangers, or make us talk to ourselves."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    own = node.mdns.label.decode()
    for data in [
        fakes.kubo("evil", node.peer, "/ip4/10.1.0.66/tcp/1"),  # our peer ID, another name
        fakes.kubo(own, fakes.peer_id(5), "/ip4/10.1.0.66/tcp/1"),  # our name, another peer ID
        packets.goodbye(own.encode()),
        fakes.kubo("dns", fakes.peer_id(6), "/ip4/8.8.8.8/tcp/53"),  # an address far away
        fakes.kubo("lo", fakes.peer_id(7), "/ip4/127.0.0.1/tcp/5001"),  # our own machine
        fakes.kubo("half", "12D3KooWnothing", "/ip4/10.1.0.66/tcp/1"),  # not a peer ID
    ]:
        lan.deliver(data, "10.1.0.66")
    await trio.sleep(5)
    assert node.mdns.peers() == {}
    assert not node.found
    status = node.mdns.status()["not_believed"]
    assert status["own_peer_id"] == 1
    assert status["without_address"] == 3
    await still_works(node, lan)


async def test_flood_of_questions(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """However many ask, we speak once a second; and nobody can have our answers sent to a stranger."""
    lan = Lan()
    node = node_on(lan, 1)
    await nursery.start(node.run)
    await trio.sleep(5)
    lan.sent.clear()
    for number in range(2000):
        lan.deliver(packets.query(), f"10.1.0.{number % 200}")
        lan.deliver(packets.query(), "192.0.2.1", 53)
        await trio.sleep(0.005)
    assert len(lan.sent) <= 12
    assert all(to is None for _, _, to, _ in lan.sent)
    await still_works(node, lan)


def test_cost_of_the_worst_packet() -> None:
    """The packets that take longest to read, as many as are read in a second, take less than half of it."""
    link = struct.pack("!H", 0xC000 | 12)
    service = b"\x04_p2p\x04_udp\x05local\0"
    head = struct.pack("!6H", 0, 0x8400, 0, limits.MAX_RECORDS, 0, 0)
    names = head + service + struct.pack("!HHIH", 12, 1, 120, 22) + b"\x01b" * 10 + link
    for number in range(limits.MAX_RECORDS - 1):
        target = b"\x01x\x02%02x" % (number % 256) + b"\x01b" * 10 + link
        names += link + struct.pack("!HHIH", 12, 1, 120, len(target)) + target
    txt = b"\x01a" + link + struct.pack("!HHIH", 16, 1, 120, 55) + b"\0" * 55
    strings = head + service + struct.pack("!HHIH", 12, 1, 120, 2) + link + txt * (limits.MAX_RECORDS - 1)
    for worst in (names, strings):
        assert len(worst) <= limits.MAX_RECEIVED
        assert packets.heard(packets.decode(worst))
        assert min(cost(worst) for _ in range(20)) * limits.TOTAL_RATE < 0.5


def cost(data: bytes) -> float:
    """Seconds of CPU that it takes to read a packet."""
    begun = time.process_time()
    packets.heard(packets.decode(data))
    return time.process_time() - begun
