"""Peers that break the rules. After each attack the next honest peer is served; at worst the attacker is dropped."""

from __future__ import annotations

import logging
import os
import resource
import socket

import pytest
import trio

from kachery_p2p.transport import limits, multistream
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.sockets import connect_tcp
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import delimited
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import ECHO, Rogue, Silent, says_back, started, still_serves, tolerant, until

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
HELLO = multistream.encode_line("/multistream/1.0.0")
NOISE = multistream.encode_line("/noise")
TLS = multistream.encode_line("/tls/1.0.0")


def port_of(host: Host) -> int:
    return int(host.addresses()[0].split("/")[4])


async def talk(host: Host, data: bytes, *, shut: bool) -> bytes:
    """Send raw bytes to a host; what it answers until it closes the connection."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(await connect_tcp("127.0.0.1", port_of(host))))
    answer = b""
    try:
        await stream.send_all(data)
        if shut:
            await stream.send_eof()
        while more := await stream.receive_some():
            answer += more
    except trio.BrokenResourceError:
        pass
    finally:
        await stream.aclose()
    return answer


GREETINGS = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "not UTF-8": b"\x05\xff\xfe\xfd\xfc\n",
    "not UTF-8 after the header": HELLO + b"\x05\xff\xfe\xfd\xfc\n",
    "endless length": b"\xff" * 1000,
    "huge line": b"\xff\xff\x7f" + b"/" * 70_000,
    "plaintext asked for": HELLO + multistream.encode_line("/plaintext/2.0.0"),
    "hundreds of proposals": HELLO + multistream.encode_line("/tls/2.0.0") * 500,
    "nothing": b"",
    "handshake cut short": HELLO + NOISE + b"\x00\x20" + b"k" * 10,
    "handshake of nothing": HELLO + NOISE + b"\x00\x00" * 100,
    "handshake of garbage": HELLO + NOISE + b"\x00\x20" + b"\x00" * 32 + b"\x00\x40" + b"g" * 64,
    "third message of garbage": HELLO + NOISE + b"\x00\x20" + os.urandom(32) + b"\xff\xff" + os.urandom(65535),
    "random": os.urandom(5000),
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS.keys())
@pytest.mark.parametrize("shut", [True, False], ids=["then closes", "then waits"])
async def test_garbage_instead_of_a_handshake(
    patient_clock: PatientClock,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    greeting: bytes,
    shut: bool,
) -> None:
    """Whatever a stranger says, it is dropped within the handshake's time, without a warning in the log."""
    host = await started(nursery, bounds=TransportLimits(handshake_timeout=0.5))
    with caplog.at_level(logging.INFO), trio.fail_after(PATIENCE):
        await talk(host, greeting, shut=shut)
    assert caplog.records == []
    assert host.connections() == []
    await still_serves(host)


async def test_only_what_proves_who_is_there_is_offered(nursery: trio.Nursery) -> None:
    """TLS and Noise, and no plaintext: nobody connects without proving its identity."""
    host = await started(nursery)
    answer = await talk(host, HELLO + multistream.encode_line("ls"), shut=True)
    assert answer == HELLO + delimited(TLS + NOISE + b"\n")
    answer = await talk(host, HELLO + multistream.encode_line("/plaintext/2.0.0"), shut=True)
    assert answer == HELLO + multistream.encode_line("na")


@pytest.mark.parametrize("security", ["/tls/1.0.0", "/noise"])
async def test_handshake_with_garbage_behind_it(nursery: trio.Nursery, security: str) -> None:
    """A good handshake followed by bytes that do not decrypt: the connection ends, the host does not."""
    host = await started(nursery)
    rogue = await Rogue.connect(host, security=[security])
    start = b"\x17\x03\x03\x00\x40" if security == "/tls/1.0.0" else b"\x00\x40"
    await rogue.io.send_all(memoryview(start + os.urandom(64)))
    await rogue.until_dropped()
    assert rogue.alert == ("The peer refused the connection: bad record." if security == "/tls/1.0.0" else "")
    await until(lambda: not host.connections())
    await still_serves(host)


async def test_three_hundred_connections_one_after_another(nursery: trio.Nursery) -> None:
    """Connections opened and closed again leave nothing behind, whether they shook hands or not."""
    host = await started(nursery)
    seed = os.urandom(32)
    for i in range(300):
        if i % 3:
            (await connect_tcp("127.0.0.1", port_of(host))).close()
        else:
            (await Rogue.connect(host, seed if i % 2 else None)).close()
    await until(lambda: not host.connections() and not host.handshakes)
    await still_serves(host)


async def test_three_hundred_half_open_connections(nursery: trio.Nursery) -> None:
    """While 300 strangers hold handshakes open, honest peers are served at once; the strangers are bounded."""
    host = await started(nursery)
    await trio.lowlevel.checkpoint()
    strangers = [await connect_tcp("127.0.0.1", port_of(host)) for _ in range(300)]
    await until(lambda: host.handshakes)
    await still_serves(host)
    assert host.handshakes <= limits.MAX_HANDSHAKES
    for sock in strangers:
        sock.close()
    await until(lambda: not host.handshakes)


async def test_connections_are_bounded_under_a_flood(nursery: trio.Nursery) -> None:
    """A hundred identities connect to a host that keeps ten: the peer in use stays, and new ones still get in."""
    host = await started(nursery, max_connections=10)
    friend = await started(nursery)
    await friend.connect(host.addresses()[0])
    stream = await friend.open_stream(host.peer_id, [ECHO])
    rogues = []
    for _ in range(100):
        rogues.append(await Rogue.connect(host))
        assert len(host.connections()) <= 10
    await stream.write(b"still here")
    assert await stream.read_exactly(10) == b"still here"
    await still_serves(host)
    for rogue in rogues:
        rogue.close()


async def test_one_identity_cannot_hold_many_connections(nursery: trio.Nursery) -> None:
    """A peer that connects again and again keeps a few of its own connections and takes nobody else's."""
    host = await started(nursery, max_connections=10)
    friend = await started(nursery)
    await friend.connect(host.addresses()[0])
    seed = os.urandom(32)
    rogues = [await Rogue.connect(host, seed) for _ in range(30)]
    await until(lambda: len(host.connections()) <= 1 + limits.MAX_CONNECTIONS_PER_PEER)
    assert await says_back(friend, host.peer_id)
    for rogue in rogues:
        rogue.close()


ATTACKS = {
    "bad version": [b"\x09" + bytes(11)],
    "bad type": [b"\x00\x09" + bytes(10)],
    "huge frame": [Rogue.HEADER.pack(0, DATA, SYN, 1, 0xFFFFFFFF)],
    "window overrun": [Rogue.HEADER.pack(0, DATA, SYN, 1, limits.INITIAL_WINDOW + 1)],
    "our stream number": [Rogue.HEADER.pack(0, UPDATE, SYN, 2, 0)],
    "unknown stream": [Rogue.HEADER.pack(0, DATA, 0, 5001, 1) + b"x"],
    "too much credit": [Rogue.HEADER.pack(0, UPDATE, SYN, 1, 0xFFFFFFFF)],
    "ping flood": [Rogue.HEADER.pack(0, PING, SYN, 0, 1) * 5000] * 20,
    "reset flood": [
        b"".join(
            Rogue.HEADER.pack(0, UPDATE, SYN, 10_000 * j + 2 * i + 1, 0)
            + Rogue.HEADER.pack(0, UPDATE, RST, 10_000 * j + 2 * i + 1, 0)
            for i in range(2000)
        )
        for j in range(10)
    ],
    "stream flood": [
        b"".join(Rogue.HEADER.pack(0, UPDATE, SYN, 10_000 * j + 2 * i + 1, 0) for i in range(4000)) for j in range(10)
    ],
    "empty frames": [Rogue.HEADER.pack(0, UPDATE, SYN, 1, 0) + Rogue.HEADER.pack(0, DATA, 0, 1, 0) * 5000] * 5,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_broken_muxing_costs_the_connection(nursery: trio.Nursery, attack: list[bytes]) -> None:
    """An authenticated peer that breaks Yamux's rules, or floods, is told goodbye and dropped."""
    host = await started(nursery)
    friend = await started(nursery)
    await friend.connect(host.addresses()[0])
    rogue = await Rogue.connect(host)

    async def send() -> None:
        for part in attack:
            await rogue.raw(part)

    nursery.start_soon(tolerant, send)
    await rogue.until_dropped()
    await until(lambda: host.connected() == [friend.peer_id])
    assert await says_back(friend, host.peer_id)
    await still_serves(host)


async def test_goodbye_names_the_breach(nursery: trio.Nursery) -> None:
    """The last frame to a peer that broke the rules is GO_AWAY with the protocol error code."""
    host = await started(nursery)
    rogue = await Rogue.connect(host)
    await rogue.frame(UPDATE, SYN, 2, 0)
    seen = await rogue.until_dropped()
    assert seen.endswith(Rogue.HEADER.pack(0, GO_AWAY, 0, 0, 1))


async def test_peer_that_sends_but_never_reads(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Provoking answers without taking them ends when the kernel's buffers are full; our memory is not used for it."""
    generous = TransportLimits(write_stall_timeout=0.5, idle_frames_rate=1e9, work_rate=1e9)
    host = await started(nursery, bounds=generous)
    rogue = await Rogue.connect(host)

    async def send() -> None:
        while True:
            await rogue.raw(Rogue.HEADER.pack(0, PING, SYN, 0, 1) * 5000)

    with trio.fail_after(PATIENCE):
        await tolerant(send)
    await until(lambda: not host.connections())
    await still_serves(host)


async def test_unread_data_is_bounded_and_costs_its_streams(nursery: trio.Nursery) -> None:
    """A peer fills 1000 streams that no handler reads: at most 32 MiB are held, the rest is reset."""
    host = await started(nursery)

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    host.set_handler("/test/stuck", never_read)
    rogue = await Rogue.connect(host)
    nursery.start_soon(rogue.until_dropped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opening = HELLO + multistream.encode_line("/test/stuck")
    for i in range(300):
        stream = 2 * i + 1
        await rogue.frame(DATA, SYN, stream, len(opening), opening)
        await rogue.frame(
            DATA, 0, stream, limits.INITIAL_WINDOW - len(opening), bytes(limits.INITIAL_WINDOW - len(opening))
        )
    core = next(iter(host.table)).core
    await until(lambda: core.bytes_received >= 300 * limits.INITIAL_WINDOW)
    assert core.queued <= limits.CONNECTION_QUEUE
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 3 * limits.CONNECTION_QUEUE
    await still_serves(host)
    rogue.close()
    await until(lambda: not host.connections())
    assert core.budget.queued == 0


async def test_nonsense_on_a_stream_costs_the_stream(nursery: trio.Nursery) -> None:
    """A protocol name that is not UTF-8, or none at all, resets that stream; the connection goes on."""
    host = await started(nursery)
    rogue = await Rogue.connect(host)
    bad = HELLO + b"\x05\xff\xfe\xfd\xfc\n"
    await rogue.frame(DATA, SYN, 1, len(bad), bad)
    seen = b""
    while Rogue.HEADER.pack(0, UPDATE, RST, 1, 0) not in seen:
        seen += await rogue.read()
    unknown = HELLO + multistream.encode_line("/no/such")
    await rogue.frame(DATA, SYN, 3, len(unknown), unknown)
    while multistream.encode_line("na") not in seen:
        seen += await rogue.read()
    assert len(host.connections()) == 1
    rogue.close()


async def test_streams_that_nobody_negotiates_time_out(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Streams opened and left are reset; meanwhile others of the same peer work."""
    host = await started(nursery, bounds=TransportLimits(negotiate_timeout=0.3))
    rogue = await Rogue.connect(host)
    for i in range(50):
        await rogue.frame(UPDATE, SYN, 2 * i + 1, 0)
    opening = HELLO + multistream.encode_line(ECHO) + b"hello"
    await rogue.frame(DATA, SYN, 1001, len(opening), opening)
    seen = b""
    with trio.fail_after(PATIENCE):
        while seen.count(Rogue.HEADER.pack(0, UPDATE, RST, 99, 0)) < 1 or b"hello" not in seen:
            seen += await rogue.read()
    assert len(host.connections()) == 1
    rogue.close()


async def test_identify_of_nonsense(nursery: trio.Nursery) -> None:
    """A peer that answers identify with garbage, too much, or foreign addresses is connected all the same."""
    host = await started(nursery)
    for answer in (b"\xff" * 100, b"\x05abcde", b"\x80\x80\x40" + b"x" * 100, b"", b"\x03\x12\x01\xff"):
        rogue = await Rogue.connect(host)
        seen = b""
        while b"/ipfs/id/1.0.0\n" not in seen:
            seen += await rogue.read()
        reply = HELLO + multistream.encode_line("/ipfs/id/1.0.0") + answer
        await rogue.frame(UPDATE, ACK, 2, 0)
        await rogue.frame(DATA, FIN, 2, len(reply), reply)
        await still_serves(host)
        assert rogue.peer in host.connected()
        rogue.close()


async def test_peer_that_vanishes_in_a_transfer(nursery: trio.Nursery) -> None:
    """When a connection breaks in the middle, readers and writers of its streams get an error at once."""
    host = await started(nursery)
    failed = trio.Event()

    async def send_for_ever(stream: Stream) -> None:
        try:
            while True:
                await stream.write(bytes(1 << 20))
        finally:
            failed.set()

    host.set_handler("/test/source", send_for_ever)
    rogue = await Rogue.connect(host)
    opening = HELLO + multistream.encode_line("/test/source")
    await rogue.frame(DATA, SYN, 1, len(opening), opening)
    seen = 0
    while seen < 100_000:
        seen += len(await rogue.read())
    rogue.close()
    with trio.fail_after(PATIENCE):
        await failed.wait()
    await still_serves(host)


async def test_silent_port_is_given_up_in_seconds(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A port that accepts and says nothing costs the handshake's time, not two minutes."""
    host = await started(nursery, bounds=TransportLimits(handshake_timeout=0.3))
    from kachery_p2p.errors import DialError

    with Silent() as silent, pytest.raises(DialError, match="handshake timed out"):
        await host.connect(silent.address)


async def test_dialled_peer_that_talks_nonsense(nursery: trio.Nursery) -> None:
    """What answers at an address may be a web server, or close at once: the reason is said."""
    from kachery_p2p.errors import DialError

    host = await started(nursery)
    for reply in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", HELLO + multistream.encode_line("na"), b"\x03\xff\xff\n"):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)

            async def answer(reply: bytes = reply, server: socket.socket = server) -> None:
                sock = await trio.to_thread.run_sync(server.accept)
                sock[0].sendall(reply)
                sock[0].close()

            nursery.start_soon(answer)
            with pytest.raises(DialError) as caught:
                await host.connect(f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}")
            assert "Could not connect" in str(caught.value)
