"""Relays of our own: reservations, circuits, limits, and what a node does with them."""

from __future__ import annotations

import os
import socket
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.envelope import unmarshal_envelope

from kachery_p2p.errors import AddressInUse, DialError, InvalidAddress, MalformedMessage, RelayRefused, StreamError
from kachery_p2p.transport import dialer
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.listener import Listener
from kachery_p2p.transport.relay import limits
from kachery_p2p.transport.relay.client import RelayClient
from kachery_p2p.transport.relay.limits import RelayClientLimits
from kachery_p2p.transport.relay.messages import (
    HOP,
    STOP,
    Limit,
    RelayMessage,
    RelayMessageType,
    Reserved,
    Status,
    decode,
    encode,
    seal_voucher,
)
from kachery_p2p.transport.relay.service import RelayLimits, RelayService
from kachery_p2p.transport.security import HandshakeError
from kachery_p2p.transport.sockets import ByteIO, PortNotFree, SocketIO, connect_tcp, listen_tcp
from kachery_p2p.transport.upgrade import Secured, upgrade
from tests.helpers.clocks import PatientClock
from tests.helpers.transport_helpers import ECHO, free_port, is_protected, says_back, started, until

PEER = "12D3KooWQhK41E6VDzp7GL4cQTRmzsrUGQDbDLG4qjTnjQTGZ5pN"
OTHER = "12D3KooWGMLFYMEeUcrNQnfcXDYqUPdXKBr6bEmkXhM6hHyTKGgV"


async def relaying(nursery: trio.Nursery, **options: object) -> tuple[Host, RelayService]:
    """A relay."""
    swarm_key = options.pop("swarm_key", None)
    host = await started(nursery, swarm_key=swarm_key)
    service = RelayService(host, **options)  # type: ignore[arg-type]
    await nursery.start(service.run)
    return host, service


async def behind(
    nursery: trio.Nursery,
    *relays: Host,
    wanted: int = limits.RELAYS_WANTED,
    relay_bounds: RelayClientLimits = limits.CLIENT_DEFAULTS,
    **options: object,
) -> tuple[Host, RelayClient]:
    """A host that nobody can dial, with reservations at these relays."""
    host = await started(nursery, listen=(), **options)
    client = RelayClient(host, [relay.addresses()[0] for relay in relays], wanted=wanted, bounds=relay_bounds)
    await nursery.start(client.run)
    client.enabled = True
    await until(lambda: len(client.reservations()) == min(len(relays), wanted))
    return host, client


# --- addresses and messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "transport", "peer"),
    [
        (
            f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{OTHER}",
            f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit",
            OTHER,
        ),
        (f"/dns4/relay.org/tcp/1/ipfs/{PEER}/p2p-circuit", f"/dns4/relay.org/tcp/1/p2p/{PEER}/p2p-circuit", None),
        (f"/p2p/{PEER}/p2p-circuit/p2p/{OTHER}", f"/p2p/{PEER}/p2p-circuit", OTHER),
    ],
)
def test_circuit_addresses_are_taken_apart(text: str, transport: str, peer: str | None) -> None:
    """An address through a relay gives the relay and the peer behind it."""
    address = parse_address(text)
    assert (address.kind, address.transport, address.peer, address.problem) == ("circuit", transport, peer, "")
    assert address.relay is not None
    assert address.relay.peer == PEER


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"/p2p-circuit/p2p/{PEER}", "which relay"),
        (f"/ip4/1.2.3.4/udp/1/quic-v1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}", "quic-v1"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}/p2p-circuit/p2p/{PEER}", "relay behind a relay"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}", "its own relay"),
    ],
)
def test_circuits_that_cannot_be_dialled_say_why(text: str, words: str) -> None:
    """What cannot be dialled has a reason, and is no error."""
    address = parse_address(text)
    assert words in address.problem
    assert address.kind == ""


def test_messages_survive_the_wire() -> None:
    """Each message is read as it was written, in both protocols."""
    for message in (
        RelayMessage(RelayMessageType.RESERVE),
        RelayMessage(RelayMessageType.CONNECT, peer=b"\x00\x01x"),
        RelayMessage(
            RelayMessageType.STATUS,
            status=Status.OK,
            limit=Limit(120, 1 << 40),
            reservation=Reserved(99, (b"a", b"b"), b"v"),
        ),
    ):
        assert decode(HOP, encode(HOP, message)[1 if len(encode(HOP, message)) < 129 else 2 :]) == message
    for message in (
        RelayMessage(RelayMessageType.CONNECT, peer=b"p", limit=Limit(1, 0)),
        RelayMessage(RelayMessageType.STATUS, status=Status.OK),
    ):
        assert decode(STOP, encode(STOP, message)[1:]) == message
    # The specification's own numbers: RESERVE is 0 and said all the same, for proto2 requires it.
    assert encode(HOP, RelayMessage(RelayMessageType.RESERVE)) == bytes.fromhex("02 0800")
    assert encode(STOP, RelayMessage(RelayMessageType.STATUS, status=Status.OK)) == bytes.fromhex("04 0801 2064")


@given(st.binary(max_size=200), st.sampled_from([HOP, STOP]))
def test_garbage_is_named(data: bytes, protocol: str) -> None:
    """Whatever bytes come, they are a message or `MalformedMessage`."""
    try:
        assert isinstance(decode(protocol, data), RelayMessage)
    except MalformedMessage:
        pass


def test_vouchers_are_signed_envelopes() -> None:
    """A voucher is what libp2p's own code takes for an envelope of the relay, in the domain of vouchers."""
    keys = Keys.from_seed(bytes(32))
    envelope = unmarshal_envelope(seal_voucher(keys, b"\x00\x01x", 12345))
    envelope.validate("libp2p-relay-rsvp")
    assert envelope.public_key.serialize() == keys.public_key
    with pytest.raises(ValueError, match="signature"):
        envelope.validate("libp2p-peer-record")


# --- circuits ------------------------------------------------------------------------------------------------------


async def test_a_peer_is_reached_through_a_relay(nursery: trio.Nursery) -> None:
    """Who cannot be dialled is found through the relay; both sides open streams; the relay counts."""
    relay, service = await relaying(nursery)
    b, client = await behind(nursery, relay)
    a = await started(nursery, listen=())
    (address,) = client.addresses()
    assert address == f"{relay.addresses()[0]}/p2p-circuit"
    assert await a.connect(f"{address}/p2p/{b.peer_id}") == b.peer_id
    assert await says_back(a, b.peer_id)
    assert await says_back(b, a.peer_id)
    for host, peer, direction in ((a, b, "out"), (b, a, "in")):
        (info,) = [each for each in host.connections() if each.peer == peer.peer_id]
        assert (info.addr, info.direction, info.limited) == (address, direction, True)
    assert service.status()["open_circuits"] == 1
    assert a.table.peek(b.peer_id).observed == ""
    await a.disconnect(b.peer_id)
    await until(lambda: a.peer_id not in b.connected() and service.status()["open_circuits"] == 0)


async def test_bytes_arrive_whole_both_ways(nursery: trio.Nursery) -> None:
    """Many MiB in both directions at once arrive as they were sent, through a relay that knows the peer as a friend."""
    friends: set[str] = set()
    relay, service = await relaying(nursery, is_friend=friends.__contains__)
    b, client = await behind(nursery, relay)
    friends.add(b.peer_id)
    a = await started(nursery, listen=())
    await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
    assert [each.limited for each in a.connections()] == [False, False]
    data = os.urandom(20 << 20)
    assert await says_back(a, b.peer_id, data)
    assert service.counters.bytes >= 2 * len(data)


async def test_a_private_network_spans_relays(nursery: trio.Nursery) -> None:
    """With a swarm key, circuits prove it too."""
    key = os.urandom(32)
    relay, _ = await relaying(nursery, swarm_key=key)
    b, client = await behind(nursery, relay, swarm_key=key)
    a = await started(nursery, listen=(), swarm_key=key)
    await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
    assert await says_back(a, b.peer_id)


async def test_strangers_get_what_the_limits_say(nursery: trio.Nursery) -> None:
    """A stranger's circuit ends after its bytes; the next one can be had."""
    relay, service = await relaying(nursery, settings=RelayLimits(bytes=100_000))
    b, client = await behind(nursery, relay)
    a = await started(nursery, listen=())
    for _ in range(2):
        await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
        assert await says_back(a, b.peer_id, bytes(10_000))
        async with await a.open_stream(b.peer_id, [ECHO]) as stream:
            await stream.write(bytes(200_000))
            with pytest.raises(StreamError):
                await stream.read_exactly(200_000)
        await until(lambda: b.peer_id not in a.connected() and a.peer_id not in b.connected())
    assert service.status()["open_circuits"] == 0


async def test_circuits_end_after_their_time(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A stranger's circuit ends after its seconds."""
    relay, _ = await relaying(nursery, settings=RelayLimits(seconds=1))
    b, client = await behind(nursery, relay)
    a = await started(nursery, listen=())
    await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
    await until(lambda: b.peer_id not in a.connected())


@pytest.mark.parametrize("case", ["nobody there", "not a relay", "not allowed", "too many", "itself"])
async def test_refusals_say_why(nursery: trio.Nursery, case: str) -> None:
    """Each refusal becomes a dial error in plain words."""
    allowed: set[str] = set()
    relay, _ = await relaying(nursery, allow=allowed.__contains__, settings=RelayLimits(circuits_per_peer=0))
    a, b = await started(nursery, listen=()), await started(nursery, listen=())
    if case != "not allowed":
        allowed |= {a.peer_id, b.peer_id}
    if case == "too many":
        await RelayClient(b).reserve(relay.addresses()[0])
    target = await started(nursery) if case == "not a relay" else a if case == "itself" else relay
    words = {
        "nobody there": "has no reservation",
        "not a relay": "speaks none of",
        "not allowed": "does not relay for",
        "too many": "as much as it can",
        "itself": "that relay is this node itself",
    }[case]
    address = f"/ip4/127.0.0.1/tcp/1/p2p/{a.peer_id}" if case == "itself" else target.addresses()[0]
    with pytest.raises(DialError, match=words):
        await a.connect(f"{address}/p2p-circuit/p2p/{b.peer_id}")


async def test_direct_addresses_come_first(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A circuit is dialled only after the direct addresses had their head start, and at once when they have failed."""
    relay, service = await relaying(nursery)
    b, client = await behind(nursery, relay)
    circuit = f"{client.addresses()[0]}/p2p/{b.peer_id}"
    patient = TransportLimits(relay_head_start=60.0)
    direct, other = await started(nursery), await started(nursery, listen=(), bounds=patient)
    begun = trio.current_time()
    await other.connect(circuit, [f"/ip4/127.0.0.1/tcp/{free_port()}"])
    assert trio.current_time() == begun
    await RelayClient(direct).reserve(relay.addresses()[0])
    await other.connect(f"{client.addresses()[0]}/p2p/{direct.peer_id}", direct.transport_addresses())
    assert [each.addr for each in other.connections() if each.peer == direct.peer_id] == direct.transport_addresses()
    assert service.counters.circuits == 1


async def test_a_direct_connection_replaces_the_relayed_one(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """New streams go over the direct connection at once; the relayed one is closed after a while, even when in use."""
    tidy = TransportLimits(housekeeping_interval=0.05, relayed_grace=0.3)
    relay, _ = await relaying(nursery)
    a, b = await started(nursery, bounds=tidy), await started(nursery, bounds=tidy)
    client = RelayClient(b)
    await client.reserve(relay.addresses()[0])
    await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
    assert not a.is_direct(b.peer_id)
    old = await a.open_stream(b.peer_id, [ECHO])
    await a.connect(b.peer_id, b.transport_addresses(), fresh=True)
    assert a.is_direct(b.peer_id)
    new = await a.open_stream(b.peer_id, [ECHO])
    assert (old.connection.is_relayed, new.connection.is_relayed) == (True, False)
    await until(lambda: old.connection.is_closed)
    await new.write(b"on")
    assert await new.read_exactly(2) == b"on"
    await until(lambda: len([each for each in b.connections() if each.peer == a.peer_id]) == 1)


# --- reservations --------------------------------------------------------------------------------------------------


async def test_reservations_are_renewed(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A reservation is renewed before it ends; the addresses stay, and nobody is told of a change."""
    relay, service = await relaying(nursery, settings=RelayLimits(reservation_seconds=0.4))
    _, client = await behind(nursery, relay, relay_bounds=RelayClientLimits(shortest_reservation=0.4))
    changes: list[list[str]] = []
    client.on_change.subscribe(changes.append)
    await until(lambda: service.counters.reserved >= 4)
    assert client.reservations()
    assert changes == []


async def test_another_relay_takes_over(nursery: trio.Nursery) -> None:
    """When a relay is lost, its addresses go, and a connected peer that offers to relay takes its place."""
    first, _ = await relaying(nursery)
    spare, _ = await relaying(nursery)
    b, client = await behind(nursery, first, wanted=1)
    await b.connect(spare.addresses()[0])
    await until(lambda: HOP in b.protocols_of(spare.peer_id))
    assert [each.relay for each in client.reservations()] == [first.peer_id]
    changes: list[list[str]] = []
    client.on_change.subscribe(changes.append)
    first.ban(b.peer_id, 60)
    await until(lambda: [each.relay for each in client.reservations()] == [spare.peer_id])
    assert changes == [[], [f"{spare.addresses()[0]}/p2p-circuit"]]
    assert first.peer_id in client.status()["failures"]
    client.enabled = False
    await until(lambda: not client.reservations())
    assert client.addresses() == []


async def test_a_lost_peer_loses_its_slot(nursery: trio.Nursery) -> None:
    """A reservation ends with the connection, and the peer is protected no longer than that."""
    relay, service = await relaying(nursery)
    b, _ = await behind(nursery, relay)
    assert service.status()["reservations"] == 1
    assert is_protected(relay, b.peer_id)
    b.ban(relay.peer_id, 60)
    await until(lambda: not service.status()["reservations"])
    assert not is_protected(relay, b.peer_id)


async def test_a_relay_must_be_named(nursery: trio.Nursery) -> None:
    """Configured relays are checked at once."""
    host = await started(nursery)
    for text in ("/ip4/1.2.3.4/tcp/1", "nonsense", f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}"):
        with pytest.raises(InvalidAddress):
            RelayClient(host, [text])
    relay, _ = await relaying(nursery, allow=lambda peer: False)
    with pytest.raises(RelayRefused, match="made no reservation: it does not relay for these peers"):
        await RelayClient(host).reserve(relay.addresses()[0])


# --- dialling from the listening port ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other rules, and fall back to any port")
async def test_dials_leave_from_the_listening_port() -> None:
    """Several dials share the port of the listener; a second one to the same place is told; nobody else may listen."""
    target = [listen_tcp("127.0.0.1", 0, multiaddr="") for _ in range(2)]
    listener = listen_tcp("127.0.0.1", 0, multiaddr="")
    port = listener.getsockname()[1]
    dialled = [await connect_tcp("127.0.0.1", each.getsockname()[1], beside=listener) for each in target]
    assert [each.getsockname()[1] for each in dialled] == [port, port]
    with pytest.raises(PortNotFree):
        await connect_tcp("127.0.0.1", target[0].getsockname()[1], beside=listener)
    with pytest.raises(AddressInUse):
        listen_tcp("127.0.0.1", port, multiaddr="")
    with socket.socket() as intruder:
        intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            intruder.bind(("127.0.0.1", port))
    listener.close()
    again = listen_tcp("127.0.0.1", port, multiaddr="")  # a restart need not wait for the old connections
    for each in (*target, *dialled, again):
        each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other rules, and fall back to any port")
async def test_two_nodes_that_dial_each_other_at_once(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dials that cross between two listening ports may become one TCP connection with two callers: both get through."""
    monkeypatch.setattr(Listener, "beside", lambda self, host: self._sockets[0])
    for _ in range(10):
        a, b = await started(nursery), await started(nursery)
        async with trio.open_nursery() as both:
            both.start_soon(a.connect, b.addresses()[0])
            both.start_soon(b.connect, a.addresses()[0])
        assert await says_back(a, b.peer_id)
        assert await says_back(b, a.peer_id)


async def test_a_crossed_dial_is_repeated_from_another_port(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the other end behaves as a caller too, the address is dialled again, and not from the listening port."""
    monkeypatch.setattr(Listener, "beside", lambda self, host: self._sockets[0])
    a, b = await started(nursery), await started(nursery)
    ports: list[int] = []

    async def crossed(io: ByteIO, keys: Keys, *, initiator: bool, expected: str | None = None) -> Secured:
        assert isinstance(io, SocketIO)
        ports.append(io._sock.getsockname()[1])
        if len(ports) == 1:
            io.close()
            raise HandshakeError("The peer answered '/libp2p/simultaneous-connect' to the proposal '/tls/1.0.0'.")
        return await upgrade(io, keys, initiator=initiator, expected=expected)

    monkeypatch.setattr(dialer, "upgrade", crossed)
    await a.connect(b.addresses()[0])
    assert ports[0] == int(a.addresses()[0].split("/")[4]) != ports[1]
