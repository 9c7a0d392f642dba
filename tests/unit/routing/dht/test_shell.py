"""The DHT over real hosts on loopback (kachery_p2p.routing.dht.dht and what it is made of)."""

from __future__ import annotations

import os
from contextlib import aclosing, closing
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.errors import InvalidAddress, ProtocolNotSupported, StreamError
from kachery_p2p.peer_ids import peer_bytes, peer_text
from kachery_p2p.protocols import KAD, LAN_KAD
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import shell_limits
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType
from kachery_p2p.routing.dht.reach import bare, without_peer
from kachery_p2p.routing.dht.rpc import Rpc, frame, read_message
from kachery_p2p.routing.dht.shell_limits import ShellLimits
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.transport.host import Host
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import is_protected, run_dht, started

Node = tuple[Host, DHT]


def new_multihash() -> bytes:
    return b"\x12\x20" + sha256(os.urandom(16)).digest()


#: What waits for company in a large network need not wait here.
QUICK = ShellLimits(self_lookup_delay=0.05, self_lookup_interval=0.2)


async def start(nursery: trio.Nursery, **options: Any) -> Node:
    """A host with a LAN DHT, both running."""
    host = await started(nursery)
    return host, await run_dht(nursery, host, **{"lan": True, "bounds": QUICK, **options})


async def network(nursery: trio.Nursery, count: int, **options: Any) -> list[Node]:
    """Some of these that all know each other."""
    nodes = [await start(nursery, **options)]
    for _ in range(count - 1):
        nodes.append(await start(nursery, bootstrap=nodes[0][0].addresses(), **options))
    await until(lambda: all(len(dht.peers()) == count - 1 for _, dht in nodes))
    return nodes


async def announce(dht: DHT, multihash: bytes) -> int:
    return sum([await dht.deliver(peer, [multihash]) for peer in await dht.closest(multihash)])


async def found(dht: DHT, multihash: bytes) -> list[Provider]:
    return [each async for each in dht.find_providers(multihash)]


# --- finding and announcing ------------------------------------------------------------------------------------------


async def test_what_one_announces_all_find(nursery: trio.Nursery) -> None:
    """A record goes to the nearest peers, and each node of the network finds the provider with its address."""
    nodes = await network(nursery, 6)
    host, dht = nodes[3]
    multihash = new_multihash()
    expected = Provider(host.peer_id, tuple(host.transport_addresses()), "lan-dht")
    assert await announce(dht, multihash) == 5
    for _, other in nodes:
        if other is not dht:
            assert await found(other, multihash) == [expected]
    assert await found(dht, multihash) == []
    assert await found(nodes[0][1], new_multihash()) == []


async def test_many_records_go_in_one_delivery(nursery: trio.Nursery) -> None:
    """A delivery of more keys than fit in one go stores them all, in two confirmed pieces."""
    (_, dht), (other_host, other) = await network(nursery, 2)
    keys = [new_multihash() for _ in range(shell_limits.MAX_KEYS_PER_DELIVERY + 10)]
    assert await dht.deliver(DhtPeer(peer_bytes(other_host.peer_id)), keys)
    assert dht.status()["records_delivered"] == len(keys)
    assert other.status()["served"]["add_provider"] == len(keys)
    assert other.status()["records_held"] == len(keys)


async def test_a_node_names_itself_for_what_it_provides(nursery: trio.Nursery) -> None:
    """Whoever asks a node for what it announces is told that node, though it has no record of itself."""
    multihash = new_multihash()
    host, _ = await start(nursery, provides=lambda each: each == multihash)
    _, other = await start(nursery, bootstrap=host.addresses())
    await until(other.peers)
    assert [each.peer for each in await found(other, multihash)] == [host.peer_id]
    assert await found(other, new_multihash()) == []


async def test_a_provider_without_addresses_gets_them(nursery: trio.Nursery) -> None:
    """A provider whose address nobody noted is looked for itself, and named again with it."""
    (asked, holder), (_, finder) = await network(nursery, 2)
    # It has no DHT, so that no search goes to it: whoever is connected needs no address.
    lost = await started(nursery)
    await asked.connect(lost.addresses()[0])
    await until(lambda: asked.addresses_of(lost.peer_id))
    multihash = new_multihash()
    holder._providers.add(multihash, DhtPeer(peer_bytes(lost.peer_id)), holder._wall())
    names = await found(finder, multihash)
    assert names[0] == Provider(lost.peer_id, (), "lan-dht")
    assert names[1:] == [Provider(lost.peer_id, tuple(lost.transport_addresses()), "lan-dht")]


async def test_find_peer(nursery: trio.Nursery) -> None:
    """The address of a peer that we have no connection with is found; that of one that does not exist is not."""
    nodes = await network(nursery, 4)
    host = nodes[3][0]
    await nodes[1][0].disconnect(host.peer_id)
    assert await nodes[1][1].find_peer(host.peer_id) == tuple(host.transport_addresses())
    stranger = peer_text(b"\x00\x24\x08\x01\x12\x20" + os.urandom(32))
    assert await nodes[1][1].find_peer(stranger) == ()
    with pytest.raises(InvalidAddress):
        await nodes[1][1].find_peer("nobody")


async def test_a_search_that_nobody_reads_ends(nursery: trio.Nursery) -> None:
    """Leaving the generator ends the search behind it, however many providers wait to be read."""
    (host, dht), (_, other) = await network(nursery, 2)
    multihash = new_multihash()
    fill(other, multihash, 100)
    running = dht._nursery
    assert running is not None
    tasks = len(running.child_tasks)
    async with aclosing(dht.find_providers(multihash)) as search:
        await search.__anext__()
        await until(lambda: dht.status()["providers_found"] >= shell_limits.ENOUGH_PROVIDERS)
        assert len(running.child_tasks) == tasks + 1
    await until(lambda: len(running.child_tasks) == tasks)
    with closing(Database(None)) as db:
        assert await found(DHT(host, db, lan=True), multihash) == []


def fill(dht: DHT, multihash: bytes, count: int) -> None:
    """Give a node so many records of made-up providers."""
    addrs = without_peer(["/ip4/127.0.0.1/tcp/1"])
    for _ in range(count):
        dht._providers.add(multihash, DhtPeer(b"\x00\x24\x08\x01\x12\x20" + os.urandom(32), addrs), dht._wall())


async def test_a_flood_of_providers_waits_for_its_reader(nursery: trio.Nursery) -> None:
    """However many providers there are, twenty wait to be read, and no more than the bound are given in all."""
    (_, dht), (_, other) = await network(nursery, 2)
    multihash = new_multihash()
    fill(other, multihash, 128)
    async with aclosing(dht.find_providers(multihash)) as search:
        await search.__anext__()
        await until(lambda: dht.status()["providers_found"] >= shell_limits.ENOUGH_PROVIDERS)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert dht.status()["providers_found"] <= shell_limits.ENOUGH_PROVIDERS + 3
        assert len([each async for each in search]) == 127


async def test_values(nursery: trio.Nursery) -> None:
    """A public key is stored with the nearest peers and found by others; without peers there is an error in words."""
    nodes = await network(nursery, 3)
    host = nodes[0][0]
    raw = peer_bytes(host.peer_id)
    key, value = b"/pk/" + raw, raw[2:]  # an Ed25519 ID holds the key itself
    assert await nodes[0][1].put_value(key, value) == 2
    assert await nodes[2][1].get_value(key) == value
    assert await nodes[2][1].get_value(b"/pk/" + peer_bytes(nodes[1][0].peer_id)) is None
    _, alone = await start(nursery)
    with pytest.raises(StreamError, match="No peer of the DHT"):
        await alone.closest(key)


# --- who is in the table ---------------------------------------------------------------------------------------------


async def test_clients_are_in_no_table(nursery: trio.Nursery) -> None:
    """A client finds and announces, but nobody asks it; `set_server` changes that, both ways."""
    options = {"lan": False, "loopback": True}
    server_host, server = await start(nursery, mode="server", **options)
    host, dht = await start(nursery, bootstrap=server_host.addresses(), **options)
    await until(lambda: dht.peers() == [server_host.peer_id])
    assert dht.status()["mode"] == "client"
    assert KAD not in host.protocols()
    assert await announce(dht, new_multihash()) == 1
    assert server.peers() == []
    dht.set_server(True)
    await until(lambda: server.peers() == [host.peer_id])
    dht.set_server(False)
    await until(lambda: server.peers() == [])


async def test_newcomers_enter_without_bootstrap(nursery: trio.Nursery) -> None:
    """Whoever connects and speaks the protocol is checked, and enters; others are left alone."""
    host, dht = await start(nursery)
    other, _ = await start(nursery)
    stranger = await started(nursery)
    await host.connect(other.addresses()[0])
    await stranger.connect(host.addresses()[0])
    await until(dht.peers)
    await until(lambda: host.protocols_of(stranger.peer_id))
    assert dht.peers() == [other.peer_id]


async def test_the_dead_leave(nursery: trio.Nursery) -> None:
    """A peer that cannot be reached any more is out after the next question to it, and the lookup goes on."""
    nodes = await network(nursery, 3)
    async with trio.open_nursery() as doomed:
        host, _ = await start(doomed, bootstrap=nodes[0][0].addresses())
        await until(lambda: all(len(dht.peers()) == 3 for _, dht in nodes))
        doomed.cancel_scope.cancel()
    dht = nodes[1][1]
    assert len(await dht.closest(new_multihash())) == 2
    assert host.peer_id not in dht.peers()


async def test_waiting_for_peers(nursery: trio.Nursery) -> None:
    """Whoever waits for peers, even from before the start, goes on once there is one."""
    near, _ = await start(nursery)
    host = await started(nursery)
    with closing(Database(None)) as db, trio.fail_after(PATIENCE):
        dht = DHT(host, db, lan=True, bootstrap=near.addresses())
        async with trio.open_nursery() as running:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(dht.wait_peers)
                waiting.start_soon(dht.wait_ready)
                await trio.testing.wait_all_tasks_blocked()
                await running.start(dht.run)
            assert dht.peers() == [near.peer_id]
            running.cancel_scope.cancel()


async def test_peers_met_before_replace_bootstrap_nodes(nursery: trio.Nursery) -> None:
    """With no bootstrap node, a node comes back by the peers that it remembers."""
    nodes = await network(nursery, 3)
    met = [(host.peer_id, host.addresses()) for host, _ in nodes]
    _, dht = await start(nursery, seeds=lambda: [("not a peer", []), *met])
    await until(lambda: len(dht.peers()) == 3)


async def test_bootstrap_is_tried_again(nursery: trio.Nursery) -> None:
    """A bootstrap peer that is away is an error in the status, and is found when it comes."""
    seed = os.urandom(32)
    host = Host(seed, ("/ip4/127.0.0.1/tcp/0",))
    async with trio.open_nursery() as first:
        await first.start(host.run)
        address = host.addresses()[0]
        first.cancel_scope.cancel()
    _, dht = await start(nursery, bootstrap=[address], bounds=replace(QUICK, bootstrap_first=0.05, dial_pause=0.05))
    await until(lambda: dht.status()["errors"])
    assert "cannot be reached" in dht.status()["errors"][0]
    late = Host(seed, (address.rpartition("/p2p/")[0],))
    await nursery.start(late.run)
    await run_dht(nursery, late, lan=True)
    await until(lambda: dht.peers() == [late.peer_id])


async def test_connections_that_lookups_left_are_let_go(nursery: trio.Nursery) -> None:
    """Beyond the bound, connections that the DHT dialled are closed; protected ones and those of others stay."""
    host, dht = await start(nursery, bounds=replace(QUICK, max_dialled=1, stream_idle=0.05))
    others = [await started(nursery) for _ in range(5)]
    reach = dht._network.reach
    for other in others[:4]:
        await reach.connect(peer_bytes(other.peer_id), without_peer(other.addresses()))
    await host.connect(others[4].addresses()[0])
    host.protect(others[0].peer_id, "mine")
    await until(lambda: not any(each.streams for each in host.connections()))
    await reach.trim()
    assert set(host.connected()) == {others[0].peer_id, others[4].peer_id}
    assert is_protected(host, others[0].peer_id)


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pair(nursery: trio.Nursery) -> tuple[Host, Rpc, Node]:
    """A host with bare messages, connected to a server."""
    return await new_pair(nursery, QUICK)


async def new_pair(nursery: trio.Nursery, bounds: ShellLimits) -> tuple[Host, Rpc, Node]:
    """The same, with a server of these bounds."""
    node = await start(nursery, bounds=bounds)
    host = await started(nursery)
    rpc = Rpc(host, LAN_KAD, lambda message, peer: None)
    await nursery.start(rpc.run)
    await host.connect(node[0].addresses()[0])
    return host, rpc, node


async def test_one_stream_for_many_questions(pair: tuple[Host, Rpc, Node]) -> None:
    """Questions one after the other share a stream; side by side they take a few, never more than the bound."""
    _, rpc, (server, dht) = pair
    question = DhtMessage(MessageType.FIND_NODE, new_multihash())
    for _ in range(10):
        assert (await rpc.ask(server.peer_id, question)).type is MessageType.FIND_NODE
    assert rpc.open_streams() == (1, 0)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(rpc.ask, server.peer_id, question)
    assert rpc.open_streams()[0] <= shell_limits.MAX_STREAMS_PER_PEER
    assert dht.status()["questions"]["received"] == 30


async def test_no_answer_to_add_provider(pair: tuple[Host, Rpc, Node]) -> None:
    """On a stream with ADD_PROVIDER before another message, the first thing that comes back is that one's answer."""
    host, _, (server, dht) = pair
    own = DhtPeer(peer_bytes(host.peer_id), without_peer(host.addresses()))
    async with await host.open_stream(server.peer_id, [LAN_KAD]) as stream:
        for kind in (MessageType.FIND_NODE, MessageType.GET_PROVIDERS, MessageType.PING):
            key = new_multihash()
            await stream.write(frame(DhtMessage(MessageType.ADD_PROVIDER, key, providers=(own,))))
            await stream.write(frame(DhtMessage(kind, key)))
            with trio.fail_after(PATIENCE):
                answer = await read_message(stream, shell_limits.MAX_ANSWER_SIZE)
            assert answer is not None
            assert answer.type is kind
    assert dht.status()["records_held"] == 3


async def test_idle_streams_are_closed(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A stream that is not used ends on either side, and the next question is asked on a new one without an error."""
    host, rpc, (server, dht) = await new_pair(nursery, replace(QUICK, serve_idle=0.05))
    question = DhtMessage(MessageType.PING)
    await rpc.ask(server.peer_id, question)
    await trio.sleep(0.05 + 1)
    assert dht.status()["streams"]["inbound"] == 0
    assert (await rpc.ask(server.peer_id, question)).type is MessageType.PING
    await rpc.close_idle(trio.current_time())
    assert rpc.open_streams() == (0, 0)
    await until(lambda: not any(each.streams for each in host.connections()))


async def test_a_cancelled_question_harms_no_other(pair: tuple[Host, Rpc, Node]) -> None:
    """A question given up half way takes its stream along: the next answer is the one to the next question."""
    _, rpc, (server, _) = pair
    for _ in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await rpc.ask(server.peer_id, DhtMessage(MessageType.FIND_NODE, new_multihash()))
        with trio.move_on_after(0.0005):
            await rpc.ask(server.peer_id, DhtMessage(MessageType.FIND_NODE, new_multihash()))
        key = new_multihash()  # a ping brings back its key
        assert (await rpc.ask(server.peer_id, DhtMessage(MessageType.PING, key))).key == key


async def test_a_peer_without_the_protocol(nursery: trio.Nursery, pair: tuple[Host, Rpc, Node]) -> None:
    """Asking a peer that does not speak it, or is not connected, is an error with a name."""
    host, rpc, _ = pair
    stranger = await started(nursery)
    with pytest.raises(StreamError):
        await rpc.ask(stranger.peer_id, DhtMessage(MessageType.PING))
    await host.connect(stranger.addresses()[0])
    with pytest.raises(ProtocolNotSupported):
        await rpc.ask(stranger.peer_id, DhtMessage(MessageType.PING))
    assert rpc.open_streams() == (0, 0)


# --- odds and ends ---------------------------------------------------------------------------------------------------


def test_addresses_lose_their_own_peer_id() -> None:
    """Helia writes a peer's ID behind its addresses: it is taken off, but that of a relay stays."""
    peer, relay = (peer_text(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2))
    texts = [f"/ip4/10.0.0.1/tcp/1/p2p/{peer}", f"/ip4/10.0.0.1/tcp/1/p2p/{relay}/p2p-circuit", "/ip4/10.0.0.1/tcp/1"]
    plain = without_peer(texts)
    assert plain[0] == plain[2]
    assert len(plain[1]) > len(plain[0])
    long = DhtPeer(peer_bytes(peer), (plain[0] + b"\xa5\x03\x26" + peer_bytes(peer), plain[1]))
    assert bare([long]) == (DhtPeer(long.id, (plain[0], plain[1])),)


@pytest.mark.parametrize("text", ["", "0OIl", "Qm", "é", "12D3KooW"])
def test_bad_peer_ids(text: str) -> None:
    """Text that is no peer ID is an error with a name."""
    with pytest.raises(InvalidAddress):
        peer_bytes(text)


async def test_modes(nursery: trio.Nursery) -> None:
    """A mode that does not exist is refused at once."""
    host = await started(nursery)
    with closing(Database(None)) as db, pytest.raises(ValueError, match="mode"):
        DHT(host, db, lan=True, mode="both")


async def test_public_bootstrap_peers_are_not_dialled_for_a_lan(nursery: trio.Nursery) -> None:
    """The bootstrap list may name both kinds; a LAN's DHT tries only those that can be on the LAN."""
    peer = peer_text(b"\x00\x24\x08\x01\x12\x20" + bytes(32))
    public = [f"/dnsaddr/bootstrap.libp2p.io/p2p/{peer}", f"/ip4/11.1.1.1/tcp/4001/p2p/{peer}"]
    near, _ = await start(nursery)
    _, dht = await start(nursery, bootstrap=[*public, *near.addresses()])
    await until(lambda: dht.peers() == [near.peer_id])
    assert dht.status()["errors"] == []
