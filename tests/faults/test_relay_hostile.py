"""Peers that abuse a relay, relays that lie, and peers that pretend to be our relay: bounded, named, survived."""

from __future__ import annotations

import os

import base58
import pytest
import trio

from kachery_p2p.errors import DialError, RelayRefused, StreamError
from kachery_p2p.transport import limits as transport_limits
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import TransportLimits
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
    encode,
    read_message,
)
from kachery_p2p.transport.relay.service import RelayLimits, RelayService
from kachery_p2p.transport.stream import Stream
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import ECHO, is_protected, says_back, started, still_serves


async def ask(host: Host, peer: str, protocol: str, data: bytes) -> int:
    """What a peer answers to these bytes; a status."""
    async with await host.open_stream(peer, [protocol]) as stream:
        await stream.write(data)
        with trio.fail_after(PATIENCE):
            return (await read_message(stream, protocol)).status


async def works(relay: Host, nursery: trio.Nursery) -> None:
    """Honest peers still meet at the relay."""
    a, b = await started(nursery, listen=()), await started(nursery, listen=())
    client = RelayClient(b)
    await client.reserve(relay.addresses()[0])
    await a.connect(f"{relay.addresses()[0]}/p2p-circuit/p2p/{b.peer_id}")
    assert await says_back(a, b.peer_id)
    await a.disconnect(b.peer_id)


# --- against the relay ---------------------------------------------------------------------------------------------


async def test_reservations_of_one_address_make_room(nursery: trio.Nursery) -> None:
    """When all reservations are taken, most of them from one address (of IPv6: one /64), the oldest of these goes for a
    peer from elsewhere; one that a circuit leads to stays, and nobody takes any from an address that has no more."""
    relay = await started(nursery)
    service = RelayService(relay, settings=RelayLimits(reservations=6, reservations_per_ip=6))
    many = [f"many-{i}" for i in range(6)]
    for number, peer in enumerate(many):
        assert service._take_slot(peer, f"/ip6/2001:db8::{number + 1:x}/tcp/1") is Status.OK
    service._circuits["many-0"] += 1
    assert service._take_slot("seventh", "/ip6/2001:db8::99/tcp/1") is Status.RESERVATION_REFUSED
    for number in range(3):
        assert service._take_slot(f"other-{number}", f"/ip4/192.0.2.1/tcp/{number + 1}") is Status.OK
    assert list(service._slots) == ["many-0", "many-4", "many-5", "other-0", "other-1", "other-2"]
    assert service._take_slot("other-3", "/ip4/192.0.2.1/tcp/9") is Status.RESERVATION_REFUSED
    assert not is_protected(relay, "many-1")


async def test_reservations_by_the_thousand(nursery: trio.Nursery) -> None:
    """Neither all peers together nor one address get more slots than there are; asking again takes no second one."""
    relay = await started(nursery)
    service = RelayService(relay, settings=RelayLimits(reservations=100, reservations_per_ip=30))
    answers = [service._take_slot(f"peer{n}", f"/ip4/10.0.{n % 20}.1/tcp/1") for n in range(3000)]
    assert answers.count(Status.OK) == 100
    assert service._take_slot("peer0", "/ip4/10.0.0.1/tcp/2") is Status.OK
    assert len(service._slots) == 100
    service.close()
    other = RelayService(relay, settings=RelayLimits(reservations_per_ip=2))
    hosts = [await started(nursery, listen=()) for _ in range(4)]
    for host in hosts:
        await host.connect(relay.addresses()[0])
    asked = [
        await ask(host, relay.peer_id, HOP, encode(HOP, RelayMessage(RelayMessageType.RESERVE)))
        for host in (*hosts, hosts[0])
    ]
    assert asked == [Status.OK, Status.OK, Status.RESERVATION_REFUSED, Status.RESERVATION_REFUSED, Status.OK]
    assert other.status()["refused"] == 2


async def test_garbage_on_hop(nursery: trio.Nursery) -> None:
    """Bytes that are not a request get a status, and nothing else happens."""
    relay, rogue = await started(nursery), await started(nursery, listen=())
    nursery.start_soon(RelayService(relay).run)
    await rogue.connect(relay.addresses()[0])
    assert await ask(rogue, relay.peer_id, HOP, b"\x03\xff\xff\xff") == Status.MALFORMED_MESSAGE
    assert await ask(rogue, relay.peer_id, HOP, b"\x00") == Status.MALFORMED_MESSAGE
    assert (
        await ask(rogue, relay.peer_id, HOP, encode(HOP, RelayMessage(RelayMessageType.STATUS)))
        == Status.UNEXPECTED_MESSAGE
    )
    for target in (b"", b"\x00", os.urandom(3000)):
        message = encode(HOP, RelayMessage(RelayMessageType.CONNECT, peer=target))
        assert await ask(rogue, relay.peer_id, HOP, message) == Status.MALFORMED_MESSAGE
    # A length that is too long, as go-libp2p answers it.
    assert await ask(rogue, relay.peer_id, HOP, b"\xff\xff\xff\x7f" + bytes(100)) == Status.MALFORMED_MESSAGE
    await works(relay, nursery)


async def test_half_open_circuits(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Targets that never answer and callers that never speak cost a bounded number of circuits for a bounded time."""
    relay = await started(nursery)
    service = RelayService(relay, settings=RelayLimits(circuits_per_peer=5, stop_timeout=0.5, message_timeout=0.5))
    target, caller = await started(nursery, listen=()), await started(nursery, listen=())

    async def silent(stream: Stream) -> None:
        await trio.sleep_forever()

    target.set_handler(STOP, silent)
    for host in (target, caller):
        await host.connect(relay.addresses()[0])
    assert await ask(target, relay.peer_id, HOP, encode(HOP, RelayMessage(RelayMessageType.RESERVE))) == Status.OK
    answers: list[int] = []
    request = encode(HOP, RelayMessage(RelayMessageType.CONNECT, peer=base58.b58decode(target.peer_id)))

    async def one() -> None:
        answers.append(await ask(caller, relay.peer_id, HOP, request))

    async with trio.open_nursery() as many:
        for _ in range(40):
            many.start_soon(one)
    assert answers.count(Status.RESOURCE_LIMIT_EXCEEDED) == 35
    assert answers.count(Status.CONNECTION_FAILED) == 5
    assert service.status()["open_circuits"] == 0
    mute = [await caller.open_stream(relay.peer_id, [HOP]) for _ in range(20)]
    for stream in mute:
        with pytest.raises(StreamError), trio.fail_after(PATIENCE):
            await stream.read_exactly(1)
    await works(relay, nursery)


async def test_a_flood_waits_for_a_slow_reader(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A circuit whose far end does not read holds no more than its windows in the relay, and stops the sender.

    When the sender leaves, it ends.
    """
    relay = await started(nursery)
    settings = RelayLimits(watch_interval=0.1)
    service = RelayService(relay, is_friend=lambda peer: True, settings=settings)
    target, caller = await started(nursery, listen=()), await started(nursery, listen=())

    async def deaf(stream: Stream) -> None:
        await read_message(stream, STOP)
        await stream.write(encode(STOP, RelayMessage(RelayMessageType.STATUS, status=Status.OK)))
        await trio.sleep_forever()

    target.set_handler(STOP, deaf)
    for host in (target, caller):
        await host.connect(relay.addresses()[0])
    await ask(target, relay.peer_id, HOP, encode(HOP, RelayMessage(RelayMessageType.RESERVE)))
    stream = await caller.open_stream(relay.peer_id, [HOP])
    await stream.write(encode(HOP, RelayMessage(RelayMessageType.CONNECT, peer=base58.b58decode(target.peer_id))))
    assert (await read_message(stream, HOP)).status == Status.OK
    sent = 0
    piece = bytes(64 * 1024)
    with trio.move_on_after(1):
        while sent < 64 << 20:
            await stream.write(piece)
            sent += len(piece)
    # The first window grows while the second takes what comes, but not beyond what peers get that are near.
    assert sent < transport_limits.NEAR_WINDOW + transport_limits.START_WINDOW + limits.COPY_BYTES
    assert relay._shared.budget.queued <= transport_limits.NEAR_WINDOW
    stream.abort()
    await until(lambda: service.status()["open_circuits"] == 0)
    await works(relay, nursery)


async def test_no_relay_behind_a_relay(nursery: trio.Nursery) -> None:
    """Over a circuit nobody gets a reservation or another circuit."""
    first, second = await started(nursery), await started(nursery)
    nursery.start_soon(RelayService(first).run)
    nursery.start_soon(RelayService(second).run)
    await RelayClient(second).reserve(first.addresses()[0])
    a = await started(nursery, listen=())
    await a.connect(f"{first.addresses()[0]}/p2p-circuit/p2p/{second.peer_id}")
    assert (
        await ask(a, second.peer_id, HOP, encode(HOP, RelayMessage(RelayMessageType.RESERVE)))
        == Status.PERMISSION_DENIED
    )
    with pytest.raises(RelayRefused, match="through a relay only"):
        await RelayClient(a).reserve(second.peer_id)


# --- relays that lie -----------------------------------------------------------------------------------------------


async def test_stop_from_somebody_who_is_not_our_relay(nursery: trio.Nursery) -> None:
    """Circuits are taken from relays that we have reserved at, and from nobody else; garbage is named."""
    b, rogue = await started(nursery), await started(nursery)
    RelayClient(b)
    await rogue.connect(b.addresses()[0])
    request = RelayMessage(RelayMessageType.CONNECT, peer=base58.b58decode(rogue.peer_id))
    assert await ask(rogue, b.peer_id, STOP, encode(STOP, request)) == Status.PERMISSION_DENIED
    assert await ask(rogue, b.peer_id, STOP, b"\x02\xff\xff") == Status.MALFORMED_MESSAGE
    assert (
        await ask(rogue, b.peer_id, STOP, encode(STOP, RelayMessage(RelayMessageType.STATUS)))
        == Status.UNEXPECTED_MESSAGE
    )
    await still_serves(b)


@pytest.mark.parametrize("expire", [0, 1, 2**63, 2**64 - 1])
async def test_reservations_that_lie(nursery: trio.Nursery, expire: int) -> None:
    """Absurd dates and addresses in a reservation are not believed: usual times, and where we found the relay."""
    rogue, b = await started(nursery), await started(nursery, listen=())
    addrs = (b"", b"\xff" * 50, base58.b58decode(b.peer_id), b"\x04\x08\x08\x08\x08\x11\x01\x01") * 200

    async def lie(stream: Stream) -> None:
        await read_message(stream, HOP)
        told = Reserved(expire, addrs[:40], os.urandom(100))
        await stream.write(
            encode(HOP, RelayMessage(RelayMessageType.STATUS, reservation=told, limit=Limit(1, 2**63), status=100))
        )

    rogue.set_handler(HOP, lie)
    client = RelayClient(b)
    reservation = await client.reserve(rogue.addresses()[0])
    lifetime = reservation.expires - trio.current_time()
    assert limits.CLIENT_DEFAULTS.shortest_reservation - 1 < lifetime <= limits.LONGEST_RESERVATION
    assert client.addresses() == [f"{rogue.addresses()[0]}/p2p-circuit"]


@pytest.mark.parametrize("kind", ["itself", "garbage", "silence", "goodbye", "wrong message"])
async def test_circuits_that_lie(patient_clock: PatientClock, nursery: trio.Nursery, kind: str) -> None:
    """A relay that puts itself, noise or nothing at the other end is found out: the dial fails, in words, in time."""
    hasty = TransportLimits(handshake_timeout=0.5, circuit_timeout=0.5)
    rogue, a = await started(nursery), await started(nursery, listen=(), bounds=hasty)
    wanted = await started(nursery)

    async def lie(stream: Stream) -> None:
        await read_message(stream, HOP)
        if kind == "wrong message":
            await stream.write(encode(HOP, RelayMessage(RelayMessageType.RESERVE)))
            return
        if kind == "silence":
            await trio.sleep_forever()
        await stream.write(encode(HOP, RelayMessage(RelayMessageType.STATUS, status=Status.OK)))
        if kind == "garbage":
            await stream.write(os.urandom(5000))
        if kind == "itself":
            from kachery_p2p.transport.relay.circuit import CircuitIO

            stream.keep()
            await rogue.upgrade(CircuitIO(stream), "/ip4/1.2.3.4/tcp/1", initiator=False)

    rogue.set_handler(HOP, lie)
    begun = trio.current_time()
    with pytest.raises(DialError, match=f"{wanted.peer_id}: .*/p2p-circuit/p2p/.*: "):
        await a.connect(f"{rogue.addresses()[0]}/p2p-circuit/p2p/{wanted.peer_id}")
    assert trio.current_time() - begun <= hasty.circuit_timeout + hasty.handshake_timeout
    assert wanted.peer_id not in a.connected()
    await still_serves(rogue)


async def test_circuits_that_come_in_and_never_speak(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Our own relay may flood us with circuits: handshakes are counted, and end in time."""
    hasty = TransportLimits(handshake_timeout=1.0)
    relay, b = await started(nursery), await started(nursery, listen=(), bounds=hasty)
    nursery.start_soon(RelayService(relay).run)
    client = RelayClient(b, bounds=RelayClientLimits(max_handshakes=8))
    await client.reserve(relay.addresses()[0])
    request = encode(STOP, RelayMessage(RelayMessageType.CONNECT, peer=os.urandom(36)))
    streams = [await relay.open_stream(b.peer_id, [STOP]) for _ in range(20)]
    answers: list[int] = []
    for stream in streams:
        await stream.write(request)
        answers.append((await read_message(stream, STOP)).status)
    assert answers == [Status.OK] * 8 + [Status.RESOURCE_LIMIT_EXCEEDED] * 12
    await until(lambda: client.handshakes == 0)
    assert b.connected() == [relay.peer_id]
    assert ECHO in b.protocols()
