"""The TLS handshake over a line in memory: what both sides know afterwards, what they send, and when they give up."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.transport import compat, limits, multistream, tls
from kachery_p2p.transport.noise import NOISE
from kachery_p2p.transport.pnet import PrivateIO
from kachery_p2p.transport.security import YAMUX, Buffers, HandshakeError, WrongPeer
from kachery_p2p.transport.sockets import ByteIO
from kachery_p2p.transport.tls_records import TLS, TlsRecords
from kachery_p2p.transport.upgrade import SECURITY, HandshakeChannel, Secured, upgrade
from tests.helpers.patience import PATIENCE
from tests.helpers.tls_helpers import context, ed25519_identity, forge, openssl_peer, pending
from tests.helpers.transport_helpers import sealed
from tests.helpers.wires import Wire, wires
from tests.unit.transport.test_records import read

#: Of the client, and of the server.
KEYS = {True: compat.Keys.from_seed(os.urandom(32)), False: compat.Keys.from_seed(os.urandom(32))}
CLIENT, SERVER = (peer_text(peer_id_of_key(KEYS[each].public_key)) for each in (True, False))
HELLO = multistream.encode_line(multistream.HEADER) + multistream.encode_line(TLS)

#: What is offered by ALPN where large records are not known.
OLD = [YAMUX.encode(), b"libp2p"]

Result = Secured | Exception


async def meet(
    client: ByteIO, server: ByteIO, *, expected: str | None = None, offered: Any = (TLS,), spoken: Any = (TLS,)
) -> tuple[Result, Result]:
    """What the client and the server make of a handshake. One that gives up closes the line."""
    results: dict[bool, Result] = {}

    async def side(io: ByteIO, initiator: bool) -> None:
        wanted = expected if initiator else None
        security = offered if initiator else spoken
        try:
            results[initiator] = await upgrade(
                io, KEYS[initiator], initiator=initiator, expected=wanted, security=security
            )
        except (HandshakeError, WrongPeer, OSError) as error:
            results[initiator] = error
            io.close()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side, client, True)
            nursery.start_soon(side, server, False)
    return results[True], results[False]


def met(results: tuple[Result, Result]) -> tuple[Any, Any]:
    """The record layers of both sides, after a handshake that went well and left keys that fit."""
    client, server = results
    assert isinstance(client, Secured), client
    assert isinstance(server, Secured), server
    assert (client.peer, server.peer) == (SERVER, CLIENT)
    for sender, receiver in ((client, server), (server, client)):
        data = os.urandom(100_000)
        assert b"".join(b"".join(read(receiver.records, part)) for part in sealed(sender.records, data)) == data
    return client.records, server.records


def use(monkeypatch: pytest.MonkeyPatch, *, client: bool = True, server: bool = True) -> dict[bool, Any]:
    """New settings for both sides, by whether AES is fast there."""
    made = {role: tls.make_contexts(KEYS[role], aes_is_fast=fast) for role, fast in ((True, client), (False, server))}
    monkeypatch.setattr(tls, "_made", {id(KEYS[role]): made[role] for role in made})
    return made


@pytest.mark.parametrize(
    ("client", "server", "cipher"),
    [
        (True, True, "AESGCM"),
        (False, True, "ChaCha20Poly1305"),
        (True, False, "ChaCha20Poly1305"),
        (False, False, "ChaCha20Poly1305"),
    ],
)
async def test_the_cipher_is_fast_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, client: bool, server: bool, cipher: str
) -> None:
    """AES-GCM where both CPUs have instructions for it, else ChaCha20; either way both know each other."""
    use(monkeypatch, client=client, server=server)
    for records in met(await meet(*wires(), expected=SERVER)):
        assert isinstance(records, TlsRecords)
        assert records._send._suite.aead.__name__ == cipher


def test_which_cipher_is_fast_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By trying, with whatever `cryptography` has here."""
    monkeypatch.setattr(tls, "_aes", None)
    found = tls._aes_is_fast()
    monkeypatch.setattr(tls, "_quickest", None)
    assert tls._aes_is_fast() is found


async def test_tls_is_taken_before_noise() -> None:
    """Where both sides speak both; and Noise where one side speaks nothing else."""
    for offered, spoken, taken in (
        (SECURITY, SECURITY, TLS),
        (SECURITY, (NOISE,), NOISE),
        ((NOISE,), SECURITY, NOISE),
        (SECURITY, (TLS,), TLS),
    ):
        for records in met(await meet(*wires(), offered=offered, spoken=spoken)):
            assert records.security == taken


async def test_where_openssl_does_not_work(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As with a pyOpenSSL that does not fit `cryptography`: Noise is spoken, and that is said once."""

    def broken(*_: Any) -> None:
        raise AttributeError("module 'lib' has no attribute 'SSL_CTX_new'")

    monkeypatch.setattr(tls, "_made", {})
    monkeypatch.setattr(tls, "_broken", False)
    monkeypatch.setattr(tls, "_context", broken)
    for _ in range(3):
        for records in met(await meet(*wires(), offered=SECURITY, spoken=SECURITY)):
            assert records.security == NOISE
    assert [each.levelname for each in caplog.records] == ["WARNING"]


async def test_nothing_in_common() -> None:
    """The error names what was offered."""
    client, server = await meet(*wires(), offered=(TLS,), spoken=(NOISE,))
    assert "speaks none of /tls/1.0.0" in str(client)
    assert isinstance(server, HandshakeError)


@pytest.mark.parametrize("security", SECURITY)
async def test_three_flights_of_the_client(monkeypatch: pytest.MonkeyPatch, security: str) -> None:
    """The muxer is agreed on in the handshake: the client's third flight may have data behind it."""
    flights: list[bool] = []
    a, b = wires()
    for ours, wire in ((True, a), (False, b)):
        put = wire.outgoing.put
        monkeypatch.setattr(wire.outgoing, "put", lambda data, ours=ours, put=put: (flights.append(ours), put(data)))
    met(await meet(a, b, offered=[security], spoken=[security]))
    changes = [each for i, each in enumerate(flights) if i == 0 or each != flights[i - 1]]
    # Both greet at once in multistream-select, so who was first is of no meaning.
    assert changes[-4:] == [False, True, False, True]
    assert changes.count(True) == 3


async def test_data_behind_the_handshake_belongs_to_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client sends with its last words comes in with them, and OpenSSL never sees it."""
    a, b = wires()
    client: list[Secured] = []

    async def dial() -> None:
        secured = await upgrade(a, KEYS[True], initiator=True, expected=SERVER)
        for message in sealed(secured.records, b"early" * 5000):
            a.send_nowait(memoryview(message))
        client.append(secured)
        a.outgoing.release()

    async def hold() -> None:
        while len(a.outgoing.sent) <= len(HELLO):
            await trio.lowlevel.checkpoint()
        while not len(b.outgoing.sent) > len(HELLO):
            await trio.lowlevel.checkpoint()
        a.outgoing.held = True

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            nursery.start_soon(hold)
            server = await upgrade(b, KEYS[False], initiator=False)
            buffer = memoryview(bytearray(1 << 17))
            end = server.records.prepare(buffer)
            assert end, "nothing came in together with the last words"
            got = b"".join(server.records.read(buffer, end, Buffers()))
            while len(got) < 25_000:
                end = server.records.prepare(buffer)
                end += b.recv_into(buffer[end:])
                got += b"".join(server.records.read(buffer, end, Buffers()))
    assert got == b"early" * 5000


async def test_a_peer_that_chooses_its_muxer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that offers nothing but `libp2p` agrees on Yamux by multistream-select, within the secured channel."""
    with monkeypatch.context() as older:
        older.setattr(tls, "_PROTOCOLS", [b"libp2p"])
        made = tls.make_contexts(KEYS[True], aes_is_fast=True)
    use(monkeypatch)[True].update(made)
    met(await meet(*wires()))


async def test_two_of_ours_use_large_records() -> None:
    """They agree on it in the handshake, and need no round trip more (`test_three_flights_of_the_client`)."""
    for records in met(await meet(*wires())):
        assert records.fill == limits.TLS_LARGE_MESSAGE


@pytest.mark.parametrize("client", [True, False])
async def test_a_peer_that_does_not_know_large_records(monkeypatch: pytest.MonkeyPatch, client: bool) -> None:
    """As client or as server: Yamux is agreed on in the handshake as ever, and records stay within the RFC."""
    made = use(monkeypatch)
    if client:
        made[True][True].set_alpn_protos(OLD)
    else:
        made[False][False].set_alpn_select_callback(lambda _, offered: next(each for each in offered if each in OLD))
    for records in met(await meet(*wires())):
        assert records.fill == limits.TLS_MESSAGE


async def test_a_peer_that_names_no_muxer_in_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose Noise handshake says nothing of muxers, as older ones do, agrees on Yamux by multistream-select."""
    handshake = compat.noise_handshake

    async def older(channel: Any, keys: compat.Keys, *, initiator: bool, muxers: Any, **options: Any) -> compat.Secrets:
        return await handshake(channel, keys, initiator=initiator, muxers=() if initiator else muxers, **options)

    monkeypatch.setattr(compat, "noise_handshake", older)
    met(await meet(*wires(), offered=[NOISE], spoken=[NOISE]))


async def test_another_group_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes none of the keys in the first message asks for another (HelloRetryRequest)."""
    made = use(monkeypatch)
    made[False][False].set_tmp_ecdh(ec.SECP384R1())
    a, b = wires()
    met(await meet(a, b))
    retry = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446, section 4.1.3
    assert retry in b.outgoing.sent


async def test_in_a_private_network() -> None:
    """Under the key of a private network it is the same."""
    key = os.urandom(32)
    a, b = wires()
    met(await meet(PrivateIO(a, key), PrivateIO(b, key), expected=SERVER))
    assert b"multistream" not in a.outgoing.sent + b.outgoing.sent


async def test_byte_by_byte() -> None:
    """A line that gives one byte at a time is slow, not broken."""
    a, b = wires()
    a.outgoing.step = b.outgoing.step = 1
    met(await meet(a, b))


async def test_another_peer_is_not_told_who_we_are() -> None:
    """A client that meets somebody else says who is there, and has sent nothing but its greeting and an alert."""
    a, b = wires()
    client, server = await meet(a, b, expected=CLIENT)
    assert isinstance(client, WrongPeer)
    assert SERVER in str(client)
    assert "alert unknown ca" in str(server)
    hello = len(HELLO)
    first = hello + 5 + int.from_bytes(a.outgoing.sent[hello + 3 : hello + 5], "big")
    assert len(a.outgoing.sent) - first < 50


async def test_as_openssl_sees_us() -> None:
    """TLS 1.3, no name of a server, no session tickets, a muxer, and an end that is said."""
    a, b = wires()
    mine, told = forge(ed25519_identity()), []
    settings = context(False, mine)
    settings.set_tlsext_servername_callback(lambda peer: told.append(peer.get_servername()))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade_and_part, a)
            server = await openssl_peer(b, settings, client=False)
    assert server.get_protocol_version_name() == "TLSv1.3"
    assert told in ([], [None])
    assert server.get_alpn_proto_negotiated() == b"/yamux/1.0.0"
    buffer = bytearray(1000)
    with contextlib.suppress(BlockingIOError):
        server.bio_write(bytes(buffer[: b.recv_into(memoryview(buffer))]))
    assert server.recv(100) == b"ours"
    with pytest.raises(SSL.ZeroReturnError):
        server.recv(100)

    a, b = wires()
    result: list[Secured] = []

    async def serve() -> None:
        result.append(await upgrade(b, KEYS[False], initiator=False, security=(TLS,)))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = await openssl_peer(a, context(True, mine), client=True)
    with pytest.raises(BlockingIOError):
        a.recv_into(memoryview(buffer))
    client.bio_write(b"".join(sealed(result[0].records, b"theirs")))
    assert client.recv(100) == b"theirs"
    assert not client.get_session() or pending(client) == b""


async def upgrade_and_part(io: Wire) -> None:
    """A client that says one word and goodbye."""
    secured = await upgrade(io, KEYS[True], initiator=True, security=(TLS,))
    out = memoryview(bytearray(limits.GOODBYE))
    for message in sealed(secured.records, b"ours"):
        io.send_nowait(memoryview(message))
    io.send_nowait(out[: secured.records.goodbye(out)])


# --- lines that are cut, and people who sit on them ------------------------------------------------------------------


async def sizes() -> tuple[int, int]:
    """How many bytes each side sends in a handshake."""
    a, b = wires()
    met(await meet(a, b))
    return len(a.outgoing.sent), len(b.outgoing.sent)


@pytest.mark.parametrize("direction", ["client", "server"])
async def test_cut_anywhere(direction: str) -> None:
    """Wherever the line ends within the handshake, the one who waits is told, and never do both go on."""
    length = (await sizes())[direction == "server"]
    # ECDSA signatures differ in length by some bytes.
    for position in [*range(0, length - 10, 97), length - 10]:
        a, b = wires()
        (a if direction == "client" else b).outgoing.cut = position
        client, server = await meet(a, b)
        assert not isinstance(server, Secured), position
        assert isinstance(client, HandshakeError) or direction == "client", position


@pytest.mark.parametrize("direction", ["client", "server"])
async def test_changed_anywhere(direction: str) -> None:
    """A byte that is changed on the way ends the handshake, or changes nothing."""
    length = (await sizes())[direction == "server"]
    fine = 0
    for position in range(len(HELLO), length - 10, 61):
        a, b = wires()

        def change(data: bytes, start: int, where: int = position) -> bytes:
            if not start <= where < start + len(data):
                return data
            changed = bytearray(data)
            changed[where - start] ^= 0x10
            return bytes(changed)

        line = a if direction == "client" else b
        line.outgoing.change = change
        # A length that became larger is waited for, until whoever is at the other end gives up.
        with trio.move_on_after(0.05):
            client, server = await meet(a, b)
            if isinstance(server, Secured):
                met((client, server))
                fine += 1
    assert fine <= 3  # versions of records, which are of no meaning


async def test_tls_taken_out_of_the_greeting() -> None:
    """Who takes `/tls/1.0.0` out of the first exchange gets Noise, in which both prove the same identities."""
    a, b = wires()
    none = multistream.encode_line("/tls/0.0.0")
    a.outgoing.change = lambda data, start: data.replace(multistream.encode_line(TLS), none)
    client, server = met(await meet(a, b, expected=SERVER, offered=SECURITY, spoken=SECURITY))
    assert client.security == server.security == NOISE
    a, b = wires()
    a.outgoing.change = lambda data, start: data.replace(multistream.encode_line(TLS), none)
    result, _ = await meet(a, b, expected=CLIENT, offered=SECURITY, spoken=SECURITY)
    assert isinstance(result, WrongPeer)


GARBAGE: dict[str, tuple[bytes, str]] = {
    "text": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else than a TLS record"),
    "another version": (b"\x16\x02\x00\x00\x05hello", "something else than a TLS record"),
    "another type": (b"\x18\x03\x03\x00\x05hello", "something else than a TLS record"),
    "record too long": (b"\x16\x03\x03\x41\x01" + bytes(0x4101), "something else than a TLS record"),
    "garbage in a record": (b"\x16\x03\x03\x00\x40" + b"\xaa" * 64, "TLS handshake failed"),
    "data": (b"\x17\x03\x03\x00\x40" + bytes(64), "TLS handshake failed"),
    "alert": (b"\x15\x03\x03\x00\x02\x02\x28", "TLS handshake failed"),
    "goodbye": (b"\x15\x03\x03\x00\x02\x01\x00", "TLS handshake failed"),
    "endless message": (b"\x16\x03\x03\x40\x00\x02\xff\xff\xff" + bytes(16380), "TLS handshake failed"),
    "single bytes": (b"\x16\x03\x03\x00\x01\x02" + b"\x16\x03\x03\x00\x01\x00" * 500, "failed|too long"),
    "empty records": (b"\x16\x03\x03\x00\x00" * 500, "failed|too long"),
    "changes of the cipher": (b"\x14\x03\x03\x00\x01\x01" * 500, "failed|too long"),
}


@pytest.mark.parametrize(("sent", "words"), GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("client", [True, False], ids=["from a server", "from a client"])
async def test_garbage(client: bool, sent: bytes, words: str) -> None:
    """What is no handshake ends in words, without waiting for more than is bounded."""
    a, b = wires()
    b.send_nowait(memoryview(HELLO + sent))
    with trio.fail_after(PATIENCE), pytest.raises(HandshakeError, match=words):
        await upgrade(a, KEYS[client], initiator=client, security=(TLS,))


async def test_too_much_before_a_muxer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that sends nothing but empty records where a muxer should be chosen is given up."""
    a, b = wires()
    with monkeypatch.context() as older:
        older.setattr(tls, "_PROTOCOLS", [b"libp2p"])
        made = tls.make_contexts(KEYS[True], aes_is_fast=True)
    use(monkeypatch)[True].update(made)

    async def flood() -> None:
        channel = HandshakeChannel(a)
        await multistream.select(channel, [TLS])
        secured = await tls.tls_handshake(channel, KEYS[True], initiator=True, expected=None)
        out = memoryview(bytearray(100))
        while True:
            for _ in range(100):
                a.send_nowait(out[: secured.records._seal_message(23, b"", out)])
            await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with pytest.raises(HandshakeError, match="too much"):
                await upgrade(b, KEYS[False], initiator=False, security=(TLS,))
            nursery.cancel_scope.cancel()
