"""The transport with real peers: connections and streams both ways, private networks, other keys, another muxer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kachery_p2p.errors import DialError, ProtocolNotSupported
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.ping import PING
from kachery_p2p.transport.stream import Stream
from scripts.peers import Helia, Kubo, PeerError
from tests.helpers.transport_helpers import started, until

BITSWAP = "/ipfs/bitswap/1.2.0"


async def ping(host: Host, peer: str, count: int = 20) -> None:
    """Ping a peer through a stream of its own protocol."""
    async with await host.open_stream(peer, [PING]) as stream:
        for _ in range(count):
            payload = os.urandom(32)
            await stream.write(payload)
            assert await stream.read_exactly(32) == payload


async def calls(peer: Kubo | Helia, host: Host) -> None:
    """The peer connects to us."""
    await trio.to_thread.run_sync(peer.connect, host.addresses()[0])


async def test_we_dial(nursery: trio.Nursery, peer: Kubo | Helia) -> None:
    """We connect, learn who it is, use its protocols, and part in order."""
    host = await started(nursery)
    assert await host.connect(peer.addrs[0]) == peer.peer_id
    await until(lambda: host.agent_of(peer.peer_id))
    assert {BITSWAP, PING} <= host.protocols_of(peer.peer_id)
    assert f"{peer.addrs[0].partition('/p2p/')[0]}/p2p/{peer.peer_id}" in host.addresses_of(peer.peer_id)
    assert host.table.peek(peer.peer_id).observed
    await ping(host, peer.peer_id)
    with pytest.raises(ProtocolNotSupported):
        await host.open_stream(peer.peer_id, ["/no/such/1"])
    assert (await host.open_stream(peer.peer_id, ["/no/such/1", BITSWAP])).protocol == BITSWAP
    await host.disconnect(peer.peer_id)
    assert host.connected() == []
    assert await host.connect(peer.addrs[0]) == peer.peer_id


async def test_it_dials(nursery: trio.Nursery, peer: Kubo | Helia) -> None:
    """It connects to us and is identified; streams work from our side over its connection."""
    host = await started(nursery)
    await calls(peer, host)
    await until(lambda: host.agent_of(peer.peer_id))
    assert [each.direction for each in host.connections()] == ["in"]
    await ping(host, peer.peer_id)


async def test_many_streams_at_once(nursery: trio.Nursery, peer: Kubo | Helia) -> None:
    """Twenty streams are negotiated side by side, in any order of answers, and closed again, five times over."""
    host = await started(nursery)
    await host.connect(peer.addrs[0])
    await ping(host, peer.peer_id)  # Helia takes no more than ten streams before it has set its connection up
    streams: list[Stream] = []

    async def one() -> None:
        streams.append(await host.open_stream(peer.peer_id, ["/no/such/1", BITSWAP]))

    for _ in range(5):
        async with trio.open_nursery() as openers:
            for _ in range(20):
                openers.start_soon(one)
        assert len({stream.id for stream in streams}) == 20
        while streams:
            await streams.pop().close()
    await ping(host, peer.peer_id)
    assert len(host.connections()) == 1


async def test_wrong_peer_id_is_noticed(nursery: trio.Nursery, peer: Kubo | Helia) -> None:
    """At the address of one peer nobody else is accepted, and the error says who is there."""
    host, other = await started(nursery), await started(nursery)
    with pytest.raises(DialError, match=f"the peer there is {peer.peer_id}, not {other.peer_id}"):
        await host.connect(f"{peer.addrs[0].partition('/p2p/')[0]}/p2p/{other.peer_id}")


@pytest.mark.parametrize("kind", ["start_kubo", "start_helia"])
async def test_private_network(
    nursery: trio.Nursery, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """With the same swarm key we meet, both ways; without it, or with another, neither gets in."""
    key = os.urandom(32)
    file = tmp_path / "swarm.key"
    file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{key.hex()}\n")
    start: Callable[..., Kubo | Helia] = request.getfixturevalue(kind)
    peer = await trio.to_thread.run_sync(lambda: start(swarm_key=file))
    member, other, public = [await started(nursery, swarm_key=each) for each in (key, os.urandom(32), None)]
    await member.connect(peer.addrs[0])
    await ping(member, peer.peer_id)
    await member.disconnect(peer.peer_id)
    await calls(peer, member)
    await until(lambda: member.connected() == [peer.peer_id])
    for stranger in (other, public):
        with pytest.raises(DialError):
            await stranger.connect(peer.addrs[0], timeout=3)
        with pytest.raises(PeerError):
            await calls(peer, stranger)


async def test_rsa_identity(nursery: trio.Nursery, start_kubo: Callable[..., Kubo]) -> None:
    """A peer with an RSA key and a `Qm...` ID is as good as any other."""
    kubo = await trio.to_thread.run_sync(lambda: start_kubo(identity="rsa"))
    host = await started(nursery)
    assert kubo.peer_id.startswith("Qm")
    assert await host.connect(kubo.addrs[0]) == kubo.peer_id
    await ping(host, kubo.peer_id)


@pytest.mark.parametrize("kind", ["RSA", "secp256k1"])
async def test_other_identities(nursery: trio.Nursery, start_helia: Callable[..., Helia], kind: str) -> None:
    """So is Helia with another kind of key, whichever side dials. (With an ECDSA key it does not start.)"""
    helia = await trio.to_thread.run_sync(lambda: start_helia(identity=kind, in_memory=True))
    host = await started(nursery)
    assert not helia.peer_id.startswith("12D3")
    assert await host.connect(helia.addrs[0]) == helia.peer_id
    await ping(host, helia.peer_id)
    await host.disconnect(helia.peer_id)
    await calls(helia, host)
    await until(lambda: host.connected() == [helia.peer_id])


@pytest.mark.parametrize("security", ["tls", "noise"])
async def test_peers_without_yamux(nursery: trio.Nursery, start_kubo: Callable[..., Kubo], security: str) -> None:
    """A peer that speaks another muxer only is refused in words that name what was missing."""
    kubo = await trio.to_thread.run_sync(lambda: start_kubo(muxer="mplex", security=security))
    host = await started(nursery)
    with pytest.raises(DialError, match=r"speaks none of /yamux/1\.0\.0"):
        await host.connect(kubo.addrs[0])
    with pytest.raises(PeerError):
        await calls(kubo, host)
