"""py-libp2p and our host: its own host as the peer, and its ping, AutoNAT and circuit relay running on ours."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import trio
from libp2p import new_host as new_stock_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.host.autonat.autonat import AutoNATService
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import PingService
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from kachery_p2p.transport.host import Host
from kachery_p2p.transport.upstream import UpstreamHost
from tests.unit.transport_helpers import ECHO, says_back, started, until


def peer_of(host: Host) -> ID:
    return ID.from_base58(host.peer_id)


# --- a stock host as the other side ----------------------------------------------------------------------------------


@pytest.fixture
async def stock() -> AsyncIterator[IHost]:
    """A py-libp2p host as its authors wire it: their Noise records, their Yamux; it serves `ECHO`."""
    keys = create_new_key_pair(os.urandom(32))
    noise = NoiseTransport(keys, noise_privkey=create_noise_key().private_key)
    host = new_stock_host(key_pair=keys, sec_opt={NOISE: noise})

    async def echo(stream: INetStream) -> None:
        try:
            while True:
                await stream.write(await stream.read(65536))
        except (StreamEOF, StreamReset):
            await stream.close()

    host.set_stream_handler(TProtocol(ECHO), echo)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host
        await host.close()


async def test_we_dial_a_stock_host(nursery: trio.Nursery, stock: IHost) -> None:
    """A megabyte goes to the stock muxer and comes back the same."""
    us = await started(nursery, listen=())
    peer = await us.connect(str(stock.get_addrs()[0]))
    assert peer == str(stock.get_id())
    with trio.fail_after(20):
        assert await says_back(us, peer, os.urandom(1 << 20))
    await until(lambda: us.agent_of(peer).startswith("py-libp2p"))
    assert ECHO in us.protocols_of(peer)


async def test_a_stock_host_dials_us(nursery: trio.Nursery, stock: IHost) -> None:
    """The stock host opens a stream to us, sends a megabyte, ends its side, and reads all of it back."""
    us = await started(nursery)
    with trio.fail_after(20):
        await stock.connect(info_from_p2p_addr(Multiaddr(us.addresses()[0])))
        stream = await stock.new_stream(peer_of(us), [TProtocol(ECHO)])
        data = os.urandom(1 << 20)
        received = bytearray()
        async with trio.open_nursery() as both:
            both.start_soon(stream.write, data)
            while len(received) < len(data):
                received += await stream.read(65536)
        assert received == data
        await stream.close()
    assert us.connected() == [str(stock.get_id())]


# --- py-libp2p's protocols on top of us ------------------------------------------------------------------------------


async def test_ping_service_runs_both_ways(nursery: trio.Nursery) -> None:
    """`PingService` measures a peer through our host, and its handler serves on it."""
    a, b = await started(nursery), await started(nursery)
    view = UpstreamHost(a)
    b.remove_handler("/ipfs/ping/1.0.0")
    other = UpstreamHost(b)
    other.set_stream_handler(TProtocol("/ipfs/ping/1.0.0"), PingService(other).handle_ping)
    await view.connect(PeerInfo(peer_of(b), other.get_transport_addrs()))
    with trio.fail_after(5):
        assert len(await PingService(view).ping(peer_of(b), 3)) == 3


async def test_interfaces_of_the_views(nursery: trio.Nursery) -> None:
    """What protocols look up (peers, connections, addresses, protocols, the peer store) is there and right."""
    a, b = await started(nursery), await started(nursery)
    view, network = UpstreamHost(a), UpstreamHost(a).get_network()
    assert view.get_id() == peer_of(a)
    assert view.get_public_key().serialize() == view.get_private_key().get_public_key().serialize()
    assert [str(each) for each in view.get_addrs()] == a.addresses()
    assert TProtocol(ECHO) in view.get_mux().get_protocols()
    assert view.get_connected_peers() == []
    await view.connect(PeerInfo(peer_of(b), [Multiaddr(each) for each in b.transport_addresses()]))
    assert view.get_connected_peers() == [peer_of(b)]
    (connection,) = network.get_connections(peer_of(b))
    assert network.connections == {peer_of(b): [connection]}
    assert [str(each) for each in connection.get_transport_addresses()] == b.transport_addresses()
    assert not connection.is_closed
    await until(lambda: a.addresses_of(b.peer_id))
    assert Multiaddr(b.transport_addresses()[0]) in network.peerstore.addrs(peer_of(b))
    stream = await view.new_stream(peer_of(b), [TProtocol(ECHO)])
    assert stream.get_protocol() == ECHO
    assert stream.muxed_conn.peer_id == peer_of(b)
    await stream.write(b"hello")
    assert await stream.read(100) == b"hello"
    await stream.close()
    with pytest.raises(StreamFailure):
        await view.new_stream(peer_of(b), [TProtocol("/no/such")])
    await view.disconnect(peer_of(b))
    assert connection.is_closed
    with pytest.raises(SwarmException):
        await view.new_stream(ID.from_base58("12D3KooWRm8J3iL796zPFi2EtGGtUJn58AG67gcRzQ4FWjEkZTnG"), [TProtocol(ECHO)])


async def test_failing_upstream_handler_is_contained(nursery: trio.Nursery) -> None:
    """An exception in a handler of py-libp2p's kind costs its stream only."""
    a, b = await started(nursery), await started(nursery)

    async def broken(stream: INetStream) -> None:
        await stream.read(1)
        raise RuntimeError("a mistake")

    UpstreamHost(b).set_stream_handler(TProtocol("/test/broken"), broken)
    view = UpstreamHost(a)
    await a.connect(b.addresses()[0])
    stream = await view.new_stream(peer_of(b), [TProtocol("/test/broken")])
    await stream.write(b"x")
    with pytest.raises(StreamReset):
        await stream.read(1)
    assert await says_back(a, b.peer_id)


async def test_autonat_answers(nursery: trio.Nursery) -> None:
    """AutoNAT on two of our hosts: the client asks, the server tries and says at which address it came through."""
    client, server = await started(nursery), await started(nursery)
    AutoNATService(cast(Any, UpstreamHost(server)))
    await client.connect(server.addresses()[0])
    service = AutoNATService(cast(Any, UpstreamHost(client)), serve=False)
    addresses = [Multiaddr(each).to_bytes() for each in client.addresses()]
    status, where = await service.query_server(peer_of(server), addresses, timeout=5)
    assert (status, where) == (0, addresses[0])


async def test_circuit_relay_carries_a_connection(nursery: trio.Nursery) -> None:
    """Two of our hosts meet through a third one: our connection runs over py-libp2p's circuit, and a direct one is
    preferred when it comes."""
    relay, target, source = [await started(nursery) for _ in range(3)]
    views = {host.peer_id: UpstreamHost(host) for host in (relay, target, source)}
    hop = CircuitV2Protocol(views[relay.peer_id], allow_hop=True)
    stop = CircuitV2Protocol(views[target.peer_id])
    config = RelayConfig(roles=RelayRole.CLIENT)
    async with background_trio_service(hop), background_trio_service(stop):
        await hop.event_started.wait()
        await stop.event_started.wait()
        await target.connect(relay.addresses()[0])
        listening = CircuitV2Transport(views[target.peer_id], stop, config)
        stream = await views[target.peer_id].new_stream(peer_of(relay), [HOP])
        assert await listening.reserve(stream, peer_of(relay), nursery)
        dialling = CircuitV2Transport(views[source.peer_id], CircuitV2Protocol(views[source.peer_id]), config)
        with trio.fail_after(10):
            await dialling.dial(Multiaddr(f"{relay.addresses()[0]}/p2p-circuit/p2p/{target.peer_id}"))
            assert target.peer_id in source.connected()
            assert "/p2p-circuit" in source.table.of(target.peer_id)[0].address
            assert await says_back(source, target.peer_id, os.urandom(100_000))
            await source.connect(target.peer_id, target.transport_addresses(), fresh=True)
            best = source.table.best(target.peer_id)
            assert best is not None
            assert "/p2p-circuit" not in best.address
            assert await says_back(source, target.peer_id)
