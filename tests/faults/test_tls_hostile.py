"""Handshakes of TLS that must not succeed, and peers that misuse a secured connection.

After each attack the next honest peer is served.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from kachery_p2p.errors import DialError, KacheryError, StreamReset
from kachery_p2p.transport import compat, limits, multistream
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.sockets import SocketIO, connect_tcp
from kachery_p2p.transport.tls_records import TLS, TlsRecords
from kachery_p2p.transport.upgrade import upgrade
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE
from tests.helpers.tls_helpers import (
    DAY,
    NOW,
    Identity,
    context,
    der,
    ecdsa_identity,
    ed25519_identity,
    encoded,
    forge,
    openssl_peer,
    rsa_identity,
    secp256k1_identity,
)
from tests.helpers.transport_helpers import ECHO, Rogue, says_back, started, still_serves, tolerant, until

HELLO = multistream.encode_line(multistream.HEADER) + multistream.encode_line(TLS)
ALERT, HANDSHAKE, DATA = 21, 22, 23
KEY_UPDATE, TICKET = b"\x18\x00\x00\x01", b"\x04\x00\x00\x20" + bytes(32)
HUGE = der(rsa.RSAPublicNumbers(65537, (1 << 20_000) - 1).public_key())
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"")


def twice(client: bool) -> SSL.Context:
    shown = forge()
    return context(client, shown, chain=(shown,))


def shows(**options: Any) -> Callable[[bool], SSL.Context]:
    """A peer with a certificate like that."""
    return lambda client: context(client, forge(**options))


#: How a peer behaves, by whether it is the client, and what the host says of it.
BAD: dict[str, tuple[Callable[[bool], SSL.Context], str]] = {
    "no certificate": (lambda client: context(client, None), "TLS handshake failed"),
    "two certificates": (lambda client: context(client, forge(), chain=(forge(),)), "several certificates"),
    "the same one twice": (twice, "several certificates"),
    "expired": (shows(since=NOW - 2 * DAY, until=NOW - DAY), "Is the clock right"),
    "not yet valid": (shows(since=NOW + DAY, until=NOW + 2 * DAY), "Is the clock right"),
    "no extension": (shows(extension=False), "does not say which peer"),
    "unknown critical extension": (shows(more=((UNKNOWN, True),)), "critical extension 1.2.3"),
    "wrong signature": (shows(signature=bytes(64)), "wrong signature"),
    "key of another peer": (shows(public_key=ed25519_identity().public_key), "wrong signature"),
    "issued by another": (shows(issuer="somebody"), "not signed by itself"),
    "small RSA key": (shows(identity=rsa_identity(1024)), "RSA key that is too short"),
    "huge RSA key": (shows(public_key=encoded(0, HUGE)), "RSA key that is too short or too long"),
    "garbage for a key": (shows(value=os.urandom(5000)), "certificate has no key|malformed|cut short"),
    "TLS 1.2": (lambda client: context(client, forge(), newest=SSL.TLS1_2_VERSION), "TLS handshake failed"),
}
CLIENTS = {
    **BAD,
    "no common muxer": (lambda client: context(client, forge(), alpn=("/mplex/6.7.0",)), "no muxer that is spoken"),
}


async def dialled(host: Host) -> SocketIO:
    """A connection to the host, with nothing said."""
    return SocketIO(await connect_tcp("127.0.0.1", int(host.addresses()[0].split("/")[4])))


@asynccontextmanager
async def listening(serve: Callable[[SocketIO], Awaitable[None]]) -> AsyncIterator[str]:
    """A port that serves each connection in a task; its address."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    with closing(sock):
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    accepted = sock.accept()[0]
                    accepted.setblocking(False)
                    nursery.start_soon(serve, SocketIO(accepted))

            nursery.start_soon(accept)
            yield f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}"
            nursery.cancel_scope.cancel()


async def attempt(io: SocketIO, settings: SSL.Context, *, client: bool) -> None:
    """A handshake that may fail on this side, too."""
    try:
        await openssl_peer(io, settings, client=client)
        await io.wait_readable()
    except (SSL.Error, KacheryError, OSError, trio.ClosedResourceError):
        await trio.lowlevel.checkpoint()
    finally:
        io.close()


@pytest.mark.parametrize(("behave", "words"), CLIENTS.values(), ids=CLIENTS.keys())
async def test_bad_clients(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, behave: Callable[[bool], SSL.Context], words: str
) -> None:
    """Nobody becomes a peer who has not shown who it is as the specification wants it; nothing louder is logged."""
    host = await started(nursery)
    with caplog.at_level(logging.DEBUG, "kachery_p2p.transport"):
        nursery.start_soon(attempt_with, host, behave(True))
        await until(lambda: "handshake with" in caplog.text)
    (record,) = [each for each in caplog.records if "handshake with" in each.getMessage()]
    assert record.levelno == logging.DEBUG
    assert any(word in record.getMessage() for word in words.split("|")), record.getMessage()
    assert host.connections() == []
    await still_serves(host)


async def attempt_with(host: Host, settings: SSL.Context) -> None:
    await attempt(await dialled(host), settings, client=True)


@pytest.mark.parametrize(("behave", "words"), BAD.values(), ids=BAD.keys())
async def test_bad_servers(nursery: trio.Nursery, behave: Callable[[bool], SSL.Context], words: str) -> None:
    """Whoever dials one is told what is wrong with it."""
    host = await started(nursery)
    settings = behave(False)
    async with listening(lambda io: attempt(io, settings, client=False)) as address:
        with pytest.raises(DialError, match=words):
            await host.connect(address)
    assert host.connections() == []
    await still_serves(host)


@pytest.mark.parametrize("make", [ed25519_identity, rsa_identity, ecdsa_identity, secp256k1_identity])
async def test_good_ones_of_every_kind(nursery: trio.Nursery, make: Callable[[], Identity]) -> None:
    """The same tools make clients that are taken, so the ones above were refused for what was wrong with them."""
    host, seen = await started(nursery), list[str]()
    host.on_connected.subscribe(seen.append)
    identity = make()
    nursery.start_soon(attempt_with, host, context(True, forge(identity)))
    await until(lambda: seen == [identity.peer])


async def test_somebody_else_with_a_good_certificate(nursery: trio.Nursery) -> None:
    """A peer that was not asked for is not taken, however good its certificate is; nor is one for our own ID."""
    host, other = await started(nursery), await started(nursery)
    impostor = ed25519_identity()
    settings = context(False, forge(impostor))
    async with listening(lambda io: attempt(io, settings, client=False)) as address:
        with pytest.raises(DialError, match=f"the peer there is {impostor.peer}, not {other.peer_id}"):
            await host.connect(f"{address}/p2p/{other.peer_id}")
    own = forge(public_key=host.keys.public_key)
    nursery.start_soon(attempt_with, host, context(True, own))
    await still_serves(host)
    assert host.peer_id not in host.connected()


async def test_what_a_peer_has_shown_to_others_is_of_no_use(nursery: trio.Nursery) -> None:
    """Anybody gets the certificate of a peer that is dialled. The signature in it holds for that certificate's key."""
    host, friend = await started(nursery), await started(nursery)
    io = await dialled(friend)
    peer = await openssl_peer(io, context(True, forge()), client=True)
    shown = peer.get_peer_certificate(as_cryptography=True)
    io.close()
    assert shown is not None
    copied = shown.extensions[0].value
    assert isinstance(copied, x509.UnrecognizedExtension)
    async with listening(lambda io: attempt(io, context(False, forge(value=copied.value)), client=False)) as address:
        with pytest.raises(DialError, match="wrong signature"):
            await host.connect(f"{address}/p2p/{friend.peer_id}")
    await attempt_with(host, context(True, forge(value=copied.value)))
    assert host.connected() == []
    settings = context(True, None)
    settings.use_certificate(shown)
    with pytest.raises(SSL.Error, match="key values mismatch"):  # nor does OpenSSL show it without its key
        settings.use_privatekey(forge().key)


# --- slow and silent peers -------------------------------------------------------------------------------------------


async def client_hello() -> bytes:
    """The first message of a client, as a record."""
    peer = SSL.Connection(context(True, forge()), None)
    peer.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        peer.do_handshake()
    await trio.lowlevel.checkpoint()
    return peer.bio_read(65536)


@pytest.mark.parametrize("part", [0, 3, 5, 100, None], ids=["nothing", "half a header", "a header", "a piece", "all"])
async def test_clients_that_stop(patient_clock: PatientClock, nursery: trio.Nursery, part: int | None) -> None:
    """Wherever a client stops to speak, it is dropped within the handshake's time."""
    host = await started(nursery, bounds=TransportLimits(handshake_timeout=0.3))
    io = await dialled(host)
    await io.send_all(memoryview(HELLO + (await client_hello())[:part]))
    await until(lambda: host.handshakes == 1)
    await until(lambda: host.handshakes == 0)
    io.close()
    await still_serves(host)


async def test_a_client_that_dribbles(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A byte now and then does not prolong the handshake's time."""
    host = await started(nursery, bounds=TransportLimits(handshake_timeout=0.3))
    io = await dialled(host)
    await io.send_all(memoryview(HELLO))

    async def dribble() -> None:
        for byte in await client_hello():
            await io.send_all(memoryview(bytes([byte])))
            await trio.sleep(0.05)  # of virtual time, as the time of the handshake is

    nursery.start_soon(tolerant, dribble)
    await until(lambda: host.handshakes == 1)
    await until(lambda: host.handshakes == 0)
    io.close()


async def test_many_clients_that_stop(nursery: trio.Nursery) -> None:
    """Two hundred that have sent their first message are bounded, and honest peers are served meanwhile."""
    host = await started(nursery)
    first = HELLO + await client_hello()
    strangers = [await dialled(host) for _ in range(200)]
    for io in strangers:
        await io.send_all(memoryview(first))
    await until(lambda: host.handshakes)
    await still_serves(host)
    assert host.handshakes <= limits.MAX_HANDSHAKES
    for io in strangers:
        io.close()
    await until(lambda: not host.handshakes)


# --- after the handshake ---------------------------------------------------------------------------------------------


async def say(rogue: Rogue, kind: int, content: bytes) -> None:
    """A record of any kind."""
    assert isinstance(rogue.records, TlsRecords)
    out = memoryview(bytearray(68 * 1024))
    await rogue.io.send_all(out[: rogue.records._seal_message(kind, content, out)])


async def update_keys(rogue: Rogue) -> None:
    for _ in range(20_000):
        await say(rogue, HANDSHAKE, KEY_UPDATE + b"\x01")
        rogue.records._send.update()  # type: ignore[attr-defined]


async def send_nothing(rogue: Rogue) -> None:
    for _ in range(20_000):
        await say(rogue, DATA, b"")


MISUSES: dict[str, tuple[Callable[[Rogue], Awaitable[None]], str]] = {
    "key updates without end": (update_keys, ""),
    "empty records without end": (send_nothing, ""),
    "tickets of a client": (lambda rogue: say(rogue, HANDSHAKE, TICKET), "unexpected message"),
    "a new handshake": (lambda rogue: say(rogue, HANDSHAKE, b"\x01\x00\x00\x20" + bytes(32)), "unexpected message"),
    "a request for our certificate": (
        lambda rogue: say(rogue, HANDSHAKE, b"\x0d\x00\x00\x03\x00\x00\x00"),
        "unexpected message",
    ),
    "a huge handshake message": (lambda rogue: say(rogue, HANDSHAKE, b"\x04\xff\xff\xff"), "not understood"),
    "a record too long": (lambda rogue: rogue.io.send_all(memoryview(b"\x17\x03\x03\xff\xff")), "record too long"),
    "too much in a record": (lambda rogue: say(rogue, DATA, bytes(limits.TLS_LARGE_RECORD + 1)), "record too long"),
    "a record that is not encrypted": (
        lambda rogue: rogue.io.send_all(memoryview(b"\x15\x03\x03\x00\x02\x02\x28")),
        "unexpected message",
    ),
    "an alert": (lambda rogue: say(rogue, ALERT, b"\x02\x50"), ""),
}


@pytest.mark.parametrize(("misuse", "alert"), MISUSES.values(), ids=MISUSES.keys())
async def test_misuse_costs_the_connection(
    nursery: trio.Nursery, misuse: Callable[[Rogue], Awaitable[None]], alert: str
) -> None:
    """It ends, by an alert that says why where TLS has one; nobody else notices."""
    host, friend = await started(nursery), await started(nursery)
    await friend.connect(host.addresses()[0])
    rogue = await Rogue.connect(host, security=[TLS])
    nursery.start_soon(tolerant, lambda: misuse(rogue))
    await rogue.until_dropped()
    assert alert in rogue.alert
    await until(lambda: host.connected() == [friend.peer_id])
    assert await says_back(friend, host.peer_id)
    await still_serves(host)


async def test_a_server_that_sends_tickets_without_end(nursery: trio.Nursery) -> None:
    """Some are normal, a flood costs the connection."""
    host = await started(nursery)
    rogues: list[Rogue] = []

    async def serve(io: SocketIO) -> None:
        keys = compat.Keys.from_seed(os.urandom(32))
        secured = await upgrade(io, keys, initiator=False, security=[TLS])
        rogue = Rogue(io, secured.records, secured.peer)
        for _ in range(20):
            await say(rogue, HANDSHAKE, TICKET)
        rogues.append(rogue)

    async with listening(serve) as address:
        peer = await host.connect(address)
        await until(lambda: rogues)
        assert host.connected() == [peer]

        async def flood() -> None:
            for _ in range(20_000):
                await say(rogues[0], HANDSHAKE, TICKET * 10)

        nursery.start_soon(tolerant, flood)
        await rogues[0].until_dropped()
    await until(lambda: not host.connections())
    await still_serves(host)


@pytest.mark.parametrize("said", [True, False], ids=["said", "not said"])
async def test_the_end_of_a_connection(nursery: trio.Nursery, said: bool) -> None:
    """One that ends without a word was cut off, and says so; either way what was under way is an error."""
    host = await started(nursery)
    rogue = await Rogue.connect(host, security=[TLS])
    await until(lambda: host.connected())
    (connection,) = host.table
    stream = await connection.open_stream()
    if said:
        await say(rogue, ALERT, b"\x01\x00")
    rogue.io.shutdown_write()
    with trio.fail_after(PATIENCE):
        await connection.closed.wait()
        with pytest.raises(StreamReset):
            await stream.read()
    expected = "the peer closed the connection" if said else "the connection was cut off"
    assert connection.close_reason.startswith(expected)
    rogue.close()


async def test_hosts_say_the_end(nursery: trio.Nursery) -> None:
    """When one of ours closes a connection, or its host stops, the other knows that nothing is missing."""
    a, b = await started(nursery), await started(nursery)
    for closed_by in (a, b):
        await a.connect(b.addresses()[0])
        await until(lambda: b.connections())
        async with await a.open_stream(b.peer_id, [ECHO]) as stream:
            await stream.write(b"x")
            assert await stream.read_exactly(1) == b"x"
        (there,) = b.table if closed_by is a else a.table
        assert there.security == TLS
        await closed_by.disconnect((b if closed_by is a else a).peer_id)
        await until(lambda there=there: there.is_closed)
        assert "cut off" not in there.close_reason
        await until(lambda: not a.connections() and not b.connections())
