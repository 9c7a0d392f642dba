"""Below the streams: records of both kinds, multistream-select, private networks."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import ProtocolNotSupported, StreamEOF, StreamError
from kachery_p2p.transport import limits, multistream, noise, tls_records
from kachery_p2p.transport.noise import NoiseRecords
from kachery_p2p.transport.pnet import PrivateIO, hsalsa20, xsalsa20
from kachery_p2p.transport.security import Buffers, RecordError, Records
from kachery_p2p.transport.tls_records import SUITES, TlsRecords
from kachery_p2p.wire import read_delimited
from tests.helpers.transport_helpers import sealed

KEYS = (b"a" * 32, b"b" * 32)


def noise_pair() -> tuple[Records, Records]:
    return NoiseRecords(*KEYS), NoiseRecords(*reversed(KEYS))


def tls_pair(suite: str = "TLS_AES_128_GCM_SHA256", **options: Any) -> tuple[TlsRecords, TlsRecords]:
    """The record layers of a client and a server."""
    size = 48 if "384" in suite else 32
    client, server = b"a" * size, b"b" * size
    return (
        TlsRecords(SUITES[suite], client, server, initiator=True, **options),
        TlsRecords(SUITES[suite], server, client, initiator=False, **options),
    )


PAIRS: dict[str, Callable[[], tuple[Records, Records]]] = {
    "noise": noise_pair,
    **{name: partial(tls_pair, name) for name in SUITES},
    **{f"{name} in large records": partial(tls_pair, name, large=True) for name in SUITES},
}
every_kind = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())


def read(records: Records, data: bytes) -> list[bytes]:
    """What comes out of received bytes."""
    buffer = memoryview(bytearray(records.waiting + len(data)))
    start = records.prepare(buffer)
    buffer[start:] = data
    return [bytes(each) for each in records.read(buffer, len(buffer), Buffers())]


@every_kind
@pytest.mark.parametrize("into", [True, False])
@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 400))
def test_records_survive_any_cutting(
    pair: Callable[[], tuple[Records, Records]], into: bool, messages: list[bytes], step: int
) -> None:
    """However the received bytes are cut, all of them come out; with `encrypt_into`, and without it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (noise, tls_records):
            patch.setattr(module, "_HAS_INTO", into and module._HAS_INTO)
        sender, receiver = pair()
        data = b"".join(part for message in messages for part in sealed(sender, message))
        received = [each for i in range(0, len(data), step) for each in read(receiver, data[i : i + step])]
    assert b"".join(received) == b"".join(messages)
    assert receiver.waiting == 0


@every_kind
@pytest.mark.parametrize("less", [0, 1, 16384, 16385])
def test_largest_message_fits(pair: Callable[[], tuple[Records, Records]], less: int) -> None:
    """A full message takes the room that is kept for it in a send buffer, and comes out whole."""
    sender, receiver = pair()
    message = os.urandom(sender.fill - less)
    (data,) = sealed(sender, message)
    assert len(data) <= limits.SEALED_MESSAGE
    assert b"".join(read(receiver, data)) == message


@every_kind
@settings(max_examples=50)
@given(st.integers(0, 2**16))
def test_damage_is_noticed(pair: Callable[[], tuple[Records, Records]], where: int) -> None:
    """One bit turned anywhere is an error, or at most leaves the message incomplete."""
    sender, receiver = pair()
    data = bytearray(b"".join(sealed(sender, b"something") + sealed(sender, b"else")))
    data[where % len(data)] ^= 1 << where % 8
    try:
        received = read(receiver, bytes(data))
    except RecordError:
        return
    assert len(received) < 2
    assert receiver.waiting


@every_kind
def test_messages_cannot_be_repeated_or_swapped(pair: Callable[[], tuple[Records, Records]]) -> None:
    """A message counts once, and in its place; and not for the one who sent it."""
    sender, _ = pair()
    one, two = (sealed(sender, b"x")[0] for _ in range(2))
    for data in (one + one, two + one):
        with pytest.raises(RecordError):
            read(pair()[1], data)
    with pytest.raises(RecordError):
        read(pair()[0], one)


@every_kind
def test_the_buffer_can_be_given_away(pair: Callable[[], tuple[Records, Records]]) -> None:
    """After `detach` others may use the buffer, and nothing is lost."""
    sender, receiver = pair()
    message = os.urandom(3 * sender.fill)
    data = b"".join(sealed(sender, message))
    buffer = memoryview(bytearray(data))
    received = b""
    for piece in receiver.read(buffer, len(data), Buffers()):
        received += piece
        receiver.detach()
        buffer[:] = bytes(len(data))
    assert received == message


@every_kind
def test_messages_that_are_looked_at_are_left_alone(pair: Callable[[], tuple[Records, Records]]) -> None:
    """A buffer is used again when the last view of it is gone, and not before."""
    sender, receiver = pair()
    buffers = Buffers()
    kept: list[memoryview] = []
    expected: list[bytes] = []
    seen: set[int] = set()
    for number in range(3 * limits.SPARE_MESSAGES):
        message = bytes([number]) * sender.fill
        data = b"".join(sealed(sender, message))
        for piece in receiver.read(memoryview(bytearray(data)), len(data), buffers):
            seen.add(id(piece))
            if number % 10 == 0:
                kept.append(memoryview(piece)[5:])
                expected.append(bytes(kept[-1]))
    assert kept == expected
    full = 3 * limits.SPARE_MESSAGES * sender.fill // limits.TLS_GATHER // limits.TLS_RECORD
    assert len(seen) < full / 2


def test_largest_noise_message() -> None:
    """65519 bytes of plaintext make the largest message that Noise knows."""
    sender, _ = noise_pair()
    assert sender.fill == 65519
    assert sealed(sender, bytes(65519))[0][:2] == b"\xff\xff"


@pytest.mark.parametrize("size", [0, 1, 15])
def test_messages_shorter_than_a_tag_are_errors(size: int) -> None:
    """A length below 16 cannot be."""
    with pytest.raises(RecordError):
        read(NoiseRecords(*KEYS), size.to_bytes(2, "big") + bytes(size))


# --- multistream ---------------------------------------------------------------------------------------------------


class Pipe:
    """One end of an in-memory channel, as negotiation sees it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.writes: list[bytes] = []

    async def read_exactly(self, count: int, /) -> bytes:
        data = b""
        while len(data) < count:
            more = await self.stream.receive_some(count - len(data))
            if not more:
                raise StreamEOF("the end")
            data += more
        return data

    async def write(self, data: bytes, /) -> None:
        self.writes.append(data)
        await self.stream.send_all(data)


def pipes() -> tuple[Pipe, Pipe]:
    left, right = trio.testing.memory_stream_pair()
    return Pipe(left), Pipe(right)


async def agree(proposals: Sequence[str], supported: Sequence[str]) -> tuple[str | Exception, str | Exception]:
    """What each side makes of a negotiation."""
    left, right = pipes()
    results: dict[str, str | Exception] = {}

    async def side(name: str, work: object, *args: object) -> None:
        try:
            results[name] = await work(*args)  # type: ignore[operator]
        except StreamError as error:
            results[name] = error
            await (left if name == "left" else right).stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, "left", multistream.select, left, proposals)
        nursery.start_soon(side, "right", multistream.negotiate, right, supported)
    return results["left"], results["right"]


async def test_first_protocol_both_speak_wins() -> None:
    """The proposer's order decides."""
    assert await agree(["/a", "/b", "/c"], ["/c", "/b"]) == ("/b", "/b")


async def test_no_common_protocol_is_said() -> None:
    """Nothing in common is `ProtocolNotSupported` for the proposer."""
    left, right = await agree(["/a", "/b"], ["/c"])
    assert isinstance(left, ProtocolNotSupported)
    assert isinstance(right, StreamError)


async def test_fitting_proposal_costs_one_round_trip() -> None:
    """Header and first proposal go in one write."""
    left, right = pipes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(multistream.negotiate, right, ["/a"])
        await multistream.select(left, ["/a"])
    assert left.writes == [b"\x13/multistream/1.0.0\n\x03/a\n"]


async def test_list_is_answered() -> None:
    """`ls` gives the protocols, one message in a message, and negotiation goes on."""
    left, right = pipes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(multistream.negotiate, right, ["/a", "/b"])
        await left.write(multistream.encode_line("/multistream/1.0.0") + multistream.encode_line("ls"))
        assert await multistream.read_line(left) == "/multistream/1.0.0"
        assert await read_delimited(left, 1000, "A peer sent a list") == b"\x03/a\n\x03/b\n\n"
        await left.write(multistream.encode_line("/b"))
        assert await multistream.read_line(left) == "/b"


@pytest.mark.parametrize(
    "line",
    [
        b"\x04\xff\xfe\xfd\n",
        b"\x04/abc",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff\xff\x7f" + b"x" * 100,
        b"\x00",
        multistream.encode_line("/tls/1.0.0") + multistream.encode_line("/tls/1.0.0"),
        multistream.encode_line("/multistream/1.0.0") + multistream.encode_line("/x") * 100,
    ],
    ids=["not UTF-8", "no newline", "endless varint", "huge", "empty", "wrong header", "endless proposals"],
)
async def test_nonsense_is_an_error_of_that_channel(line: bytes) -> None:
    """Whatever a peer sends instead of a protocol name is a `StreamError`."""
    left, right = pipes()
    await left.stream.send_all(line)
    await left.stream.aclose()
    with pytest.raises((StreamError, trio.BrokenResourceError)):
        await multistream.negotiate(right, ["/a"])


# --- private network -----------------------------------------------------------------------------------------------


def test_hsalsa20_gives_the_published_value() -> None:
    """Key and result of "Cryptography in NaCl", section 8."""
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    expected = "dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4"
    assert hsalsa20(key, nonce[:16]).hex() == expected
    stream = xsalsa20(key, nonce).encrypt(bytes(32))
    assert stream.hex() == "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"


class Wire:
    """An in-memory `ByteIO` that gives out what was sent in pieces of random size."""

    def __init__(self, incoming: bytearray, outgoing: bytearray, chance: random.Random) -> None:
        self.incoming, self.outgoing, self.chance = incoming, outgoing, chance

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()

    def recv_into(self, buffer: memoryview) -> int:
        if not self.incoming:
            raise BlockingIOError
        size = min(len(buffer), len(self.incoming), self.chance.randint(1, 5000))
        buffer[:size] = self.incoming[:size]
        del self.incoming[:size]
        return size

    def send_nowait(self, data: memoryview) -> int:
        raise AssertionError("the private layer must send whole pieces")

    async def send_all(self, data: memoryview) -> None:
        self.outgoing += data

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(5))
async def test_private_layer_carries_both_ways_in_any_pieces(seed: int) -> None:
    """24 bytes of nonce, then as many bytes as were sent; they come out the same however they are cut."""
    chance = random.Random(seed)
    there, back = bytearray(), bytearray()
    key = chance.randbytes(32)
    a = PrivateIO(Wire(back, there, chance), key)
    b = PrivateIO(Wire(there, back, chance), key)
    for sender, receiver, wire in ((a, b, there), (b, a, back)):
        data = chance.randbytes(50_000)
        assert sender.send_nowait(memoryview(data)) == 0
        await sender.send_all(memoryview(data[:7]))
        await sender.send_all(memoryview(data[7:]))
        assert len(wire) == 24 + len(data)
        assert data[:100] not in wire
        received = bytearray()
        while len(received) < len(data):
            buffer = bytearray(chance.randint(1, 9000))
            received += buffer[: receiver.recv_into(memoryview(buffer))]
        assert received == data
