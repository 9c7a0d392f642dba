"""`Mdns` on networks made of memory, in virtual time: finding, parting, several interfaces, and what goes wrong."""

from __future__ import annotations

import errno
import json

import dns.message
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from kachery_p2p.routing.mdns import limits, packets
from kachery_p2p.routing.mdns.addresses import Interface
from kachery_p2p.routing.mdns.interfaces import System
from tests.helpers import mdns_fakes as fakes
from tests.helpers.mdns_fakes import FakeMachine, Lan, Node, interface, node_on


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_two_nodes_find_each_other(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A node that starts is found within half a second, and finds the one that was there before."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    await trio.sleep(1000)
    begun = trio.current_time()
    await nursery.start(ben.run)
    await trio.sleep(5)
    assert [(peer, addrs) for _, peer, addrs in anna.found] == [(ben.peer, ["/ip4/10.1.0.2/tcp/4001"])]
    assert [(peer, addrs) for _, peer, addrs in ben.found] == [(anna.peer, ["/ip4/10.1.0.1/tcp/4001"])]
    assert anna.found[0][0] - begun < 0.5
    assert ben.found[0][0] - begun < 0.5
    assert ben.mdns.peers() == {anna.peer: ["/ip4/10.1.0.1/tcp/4001"]}


async def test_goodbye(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A node that is cancelled says goodbye: the others know after a second. When it comes back it is found again."""
    lan = Lan()
    anna = node_on(lan, 1)
    await nursery.start(anna.run)
    peer = fakes.peer_id(2)
    for _ in range(2):
        ben = node_on(lan, 2)
        await nursery.start(ben.run)
        await trio.sleep(10)
        ben.scope.cancel()
        left = trio.current_time()
        await trio.sleep(5)
        assert anna.gone[-1][1] == peer
        assert 1 <= anna.gone[-1][0] - left < 2
    assert [each for _, each, _ in anna.found] == [peer] * 2
    assert len(lan.sockets) == 1, "the sockets of those that left are closed"


async def test_crash(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A node that falls silent is gone after its time to live, and not before."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    await nursery.start(ben.run)
    await trio.sleep(2000)
    assert not anna.gone
    assert len(anna.found) == 1, "found once, however often it answers"
    ben.machine.opened[0].cut = True
    died = trio.current_time()
    await trio.sleep(limits.TTL + 10)
    [(when, peer)] = anna.gone
    assert peer == ben.peer
    spoke = [at for at, host, _, data in lan.sent if host == "10.1.0.2" and packets.decode(data).response and at < died]
    assert limits.TTL <= when - spoke[-1] <= limits.TTL + 1
    asked = [at for at, host, _, data in lan.sent if host == "10.1.0.1" and not packets.decode(data).response]
    assert any(died < at < when for at in asked), "it was asked for before it was given up"


async def test_quiet_when_idle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Nodes that have found each other send less than a packet a minute each, and all stay found."""
    lan = Lan()
    nodes = [node_on(lan, number + 1) for number in range(10)]
    for node in nodes:
        await nursery.start(node.run)
        await trio.sleep(1)
    await trio.sleep(1000)
    lan.sent.clear()
    await trio.sleep(3600)
    assert len(lan.sent) < 10 * 60
    assert all(len(node.found) == 9 and not node.gone for node in nodes)


async def test_kubo_and_helia(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What Kubo and Helia send, down to Kubo's goodbye, is understood. An answer from another port is not believed."""
    lan = Lan()
    anna = node_on(lan, 1)
    await nursery.start(anna.run)
    helia, kubo = fakes.peer_id(8), fakes.peer_id(9)
    lan.deliver(fakes.helia("h" * 63, helia, "/ip4/127.0.0.1/tcp/1", "/ip4/10.1.0.8/tcp/1"), "10.1.0.8")
    lan.deliver(fakes.kubo("k" * 40, kubo, "/ip4/10.1.0.9/tcp/1", "/ip4/127.0.0.1/tcp/1"), "10.1.0.9")
    lan.deliver(fakes.kubo("x" * 40, fakes.peer_id(10), "/ip4/10.1.0.9/tcp/1"), "10.1.0.9", port=5000)
    await trio.sleep(3)
    assert anna.mdns.peers() == {helia: ["/ip4/10.1.0.8/tcp/1"], kubo: ["/ip4/10.1.0.9/tcp/1"]}
    lan.deliver(fakes.kubo_goodbye("k" * 40), "10.1.0.9")
    await trio.sleep(1.2)
    assert [peer for _, peer in anna.gone] == [kubo]


async def test_several_interfaces(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """On each interface its own addresses are announced; a peer reached by two has the addresses of both."""
    cable, radio = Lan(), Lan()
    anna = Node(FakeMachine(eth0=(cable, interface("10.1.0.1/24")), wlan0=(radio, wifi := wlan("10.2.0.1/24"))), 1)
    ben = Node(FakeMachine(eth0=(cable, interface("10.1.0.2/24")), wlan0=(radio, wlan("10.2.0.2/24"))), 2)
    await nursery.start(anna.run)
    await nursery.start(ben.run)
    await trio.sleep(5)
    for sent, net in ((cable.sent, b"10.2."), (radio.sent, b"10.1.")):
        assert sent
        assert not [data for *_, data in sent if net in data], "an address of another network was announced"
    assert set(anna.mdns.peers()[ben.peer]) == {"/ip4/10.1.0.2/tcp/4001", "/ip4/10.2.0.2/tcp/4001"}
    # What the system hands to the socket of the wrong interface still counts for the right one.
    cable.deliver(fakes.helia("carl", carl := fakes.peer_id(3), "/ip4/10.2.0.3/tcp/1"), "10.2.0.3")
    await trio.sleep(3)
    assert anna.mdns.peers()[carl] == ["/ip4/10.2.0.3/tcp/1"]
    # The radio goes: what was heard on it holds no longer, on either side.
    del anna.machine.lans["wlan0"]
    await trio.sleep(limits.LOOK_INTERVAL + 5)
    assert carl not in anna.mdns.peers()
    assert anna.mdns.peers()[ben.peer] == ["/ip4/10.1.0.2/tcp/4001"]
    assert ben.mdns.peers()[anna.peer] == ["/ip4/10.1.0.1/tcp/4001"]
    assert not ben.gone
    # It comes back: noticed by itself within half a minute.
    anna.machine.lans["wlan0"] = (radio, wifi)
    await trio.sleep(limits.LOOK_INTERVAL + 1)
    assert set(ben.mdns.peers()[anna.peer]) == {"/ip4/10.1.0.1/tcp/4001", "/ip4/10.2.0.1/tcp/4001"}


def wlan(own: str) -> Interface:
    return interface(own, name="wlan0", index=3)


async def test_new_address(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A machine that gets another address says so within half a minute; the old one is forgotten, nobody is gone."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    await nursery.start(ben.run)
    await trio.sleep(10)
    ben.machine.lans["eth0"] = (lan, interface("10.1.0.77/24"))
    await trio.sleep(limits.LOOK_INTERVAL + 5)
    assert anna.mdns.peers() == {ben.peer: ["/ip4/10.1.0.77/tcp/4001"]}
    assert not anna.gone


async def test_loopback_only(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A node that listens on loopback opens no socket, says so, and goes on when an interface appears."""
    lan = Lan()
    machine = FakeMachine()
    anna = Node(machine, 1)
    await nursery.start(anna.run)
    assert not machine.opened
    assert "this machine only" in anna.mdns.status()["state"]
    machine.lans["eth0"] = (lan, interface("10.1.0.1/24"))
    await trio.sleep(limits.LOOK_INTERVAL + 1)
    assert anna.mdns.status()["state"] == "Looking for peers on eth0."
    assert System().interfaces(["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001"]) == []


async def test_port_that_cannot_be_had(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Where no socket can be opened the status says why; it is tried again every half minute, and then works."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    anna.machine.problems = ["Port 5353 (mDNS, IPv4 on eth0) is held by a program that does not share it."]
    await nursery.start(anna.run)
    await nursery.start(ben.run)
    await trio.sleep(100)
    status = anna.mdns.status()
    assert "does not share" in status["state"]
    assert status["interfaces"][0]["problems"] == anna.machine.problems
    assert not anna.found
    anna.machine.problems = []
    await trio.sleep(limits.LOOK_INTERVAL + 1)
    assert [peer for _, peer, _ in anna.found] == [ben.peer]
    assert anna.mdns.status()["interfaces"][0]["problems"] == []


async def test_sending_fails(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """An interface on which nothing can be sent is opened anew every half minute, until it works again."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    anna.machine.opened[0].error = OSError(errno.ENETDOWN, "Network is down")
    await trio.sleep(20)
    assert "Network is down" in anna.mdns.status()["state"]
    await nursery.start(ben.run)
    await trio.sleep(limits.LOOK_INTERVAL)
    assert [peer for _, peer, _ in anna.found] == [ben.peer]
    assert len(anna.machine.opened) == 2


async def test_receiving_fails(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """So is one on which nothing can be received."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    anna.machine.opened[0].broken = OSError(errno.ENODEV, "No such device")
    lan.deliver(b"anything", "10.1.0.9")
    await trio.sleep(1)
    assert "No such device" in anna.mdns.status()["state"]
    await nursery.start(ben.run)
    await trio.sleep(limits.LOOK_INTERVAL + 1)
    assert [peer for _, peer, _ in anna.found] == [ben.peer]


async def test_answers(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Who asks is answered by multicast, once a second at most; who knows us is not; one-shot resolvers are answered
    alone, if they are on the link."""
    lan = Lan()
    anna = node_on(lan, 1)
    await nursery.start(anna.run)
    await trio.sleep(100)
    bare = packets.query()

    async def sent_after(data: bytes, host: str = "10.1.0.5", port: int = 5353) -> list[tuple[str, int] | None]:
        lan.sent.clear()
        lan.deliver(data, host, port)
        await trio.sleep(2)
        return [to for _, _, to, _ in lan.sent]

    assert await sent_after(bare) == [None]
    assert await sent_after(packets.query([(anna.mdns.label, 300)])) == []
    assert await sent_after(fakes.message(False)) == []
    assert await sent_after(bare, port=4444) == [("10.1.0.5", 4444)]
    assert await sent_after(bare, host="10.9.0.5", port=4444) == [], "a stranger elsewhere is not sent anything"
    services = dns.message.make_query("_services._dns-sd._udp.local.", "PTR").to_wire()
    assert await sent_after(services) == [None, None]
    [reply] = [data for *_, data in lan.sent if packets.heard(packets.decode(data)) == []]
    assert str(dns.message.from_wire(reply).answer[0][0]) == "_p2p._udp.local."
    assert await sent_after(services, port=4444) == [("10.1.0.5", 4444)]
    lan.sent.clear()
    for _ in range(1000):
        lan.deliver(bare, "10.1.0.5")
        lan.deliver(bare, "10.1.0.6", 4444)
        await trio.sleep(0.01)
    multicast = [each for each in lan.sent if each[2] is None]
    assert 5 <= len(multicast) <= 11
    assert len(lan.sent) - len(multicast) <= 11 * limits.UNICAST_RATE


async def test_providers(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Asked right after the start, it gives the peers that answer within seconds; later it gives those it has."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    await nursery.start(anna.run)
    await trio.sleep(100)
    await nursery.start(ben.run)
    found = [each async for each in ben.mdns.find_providers(b"")]
    assert [(each.peer, each.addrs, each.source) for each in found] == [
        (anna.peer, ("/ip4/10.1.0.1/tcp/4001",), "mdns")
    ]
    begun = trio.current_time()
    assert [each.peer async for each in anna.mdns.find_providers(b"")] == [ben.peer]
    assert trio.current_time() == begun
    assert not [each async for each in Node(FakeMachine(), 3).mdns.find_providers(b"")]


async def test_status_is_plain(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The status can be written as JSON; it names interfaces, peers with their age, and packets."""
    lan = Lan()
    anna, ben = node_on(lan, 1), node_on(lan, 2)
    assert anna.mdns.status()["state"] == "Not running."
    await nursery.start(anna.run)
    await nursery.start(ben.run)
    await trio.sleep(60)
    status = json.loads(json.dumps(anna.mdns.status()))
    assert status["interfaces"][0]["announced"] == ["/ip4/10.1.0.1/tcp/4001"]
    [peer] = status["peers"]
    assert peer["peer"] == ben.peer
    assert 59 < peer["known_for"] <= 60
    assert status["packets"]["sent"] > 0
    assert status["last_error"] is None
