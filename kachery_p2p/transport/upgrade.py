"""From a raw channel to a secured one: multistream-select, TLS or Noise handshake, and the choice of the muxer.

TLS is offered first, for AES-GCM. Both handshakes name the muxer as well, which saves a round trip. Where the peer does
not do that, multistream-select agrees on the muxer within the secured channel.

Whoever sits on the line can take `/tls/1.0.0` out of the first exchange, which nothing protects. The peers then speak
Noise, which proves the same identities by the same keys, and gives away no more. Nothing weaker is offered.

The Noise handshake is our own (`noise_xx.py`), the TLS handshake OpenSSL's. Both read through `HandshakeChannel`, which
buffers what comes in and hands the rest to the record layer afterwards, so nothing is read twice and nothing is lost at
the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from kachery_p2p.errors import KacheryError, StreamEOF
from kachery_p2p.transport import compat, limits, multistream
from kachery_p2p.transport.noise import NOISE, NoiseRecords
from kachery_p2p.transport.security import YAMUX, Buffers, HandshakeError, Records, WrongPeer
from kachery_p2p.transport.sockets import ByteIO
from kachery_p2p.transport.tls import tls_handshake, tls_works
from kachery_p2p.transport.tls_records import TLS

#: The security protocols that are spoken, the best first.
SECURITY = (TLS, NOISE)


@dataclass
class Secured:
    """A channel after the handshake.

    Attributes:
        records: the record layer, with what came in behind the handshake.
        peer: the peer ID, base58.
        plaintext: decrypted bytes that came in after the muxer was agreed on.
    """

    records: Records
    peer: str
    plaintext: bytes = b""


class HandshakeChannel:
    """Buffered reads and complete writes on a `ByteIO`, while nothing else uses it."""

    def __init__(self, io: ByteIO) -> None:
        self.io = io
        self.buffer = bytearray()

    async def read(self, maximum: int) -> bytes:
        """Up to `maximum` bytes.

        Raises:
            StreamEOF: the peer closed the connection.
        """
        if not self.buffer:
            chunk = bytearray(8192)
            self.buffer += chunk[: await _receive(self.io, memoryview(chunk))]
        data = bytes(self.buffer[:maximum])
        del self.buffer[:maximum]
        return data

    async def read_exactly(self, count: int, /) -> bytes:
        data = await self.read(count)
        while len(data) < count:
            data += await self.read(count - len(data))
        return data

    async def write(self, data: bytes, /) -> None:
        if data:
            await self.io.send_all(memoryview(data))


class RecordChannel:
    """The same one layer up: reads and writes through the record layer, to negotiate the muxer."""

    def __init__(self, io: ByteIO, records: Records) -> None:
        self._io = io
        self._records = records
        self._left = limits.MUXER_NEGOTIATION
        self.buffer = bytearray()

    async def read_exactly(self, count: int, /) -> bytes:
        received = memoryview(bytearray(limits.SEALED_MESSAGE))
        end = self._records.prepare(received)  # what came behind the handshake is taken first, and may be enough
        while True:
            for message in self._records.read(received, end, Buffers()):
                self.buffer += message
            if len(self.buffer) >= count:
                break
            if self._records.ended:
                raise StreamEOF("The peer closed the connection during the handshake.")
            if self._left < 0:
                raise HandshakeError("The peer sends too much before a muxer is agreed on.")
            end = self._records.prepare(received)
            size = await _receive(self._io, received[end:])
            self._left -= size
            end += size
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def write(self, data: bytes, /) -> None:
        out = memoryview(bytearray(limits.SEALED_MESSAGE))
        size = self._records.seal(memoryview(bytearray(data + b"\x00")), len(data), out)
        await self._io.send_all(out[:size])


async def _receive(io: ByteIO, buffer: memoryview) -> int:
    """Receive at least one byte; how many.

    Raises:
        StreamEOF: the peer closed the connection.
    """
    await trio.lowlevel.checkpoint()  # however much a peer sends, others have their turn, and time runs out
    while True:
        try:
            size = io.recv_into(buffer)
            break
        except BlockingIOError:
            await io.wait_readable()
    if not size:
        raise StreamEOF("The peer closed the connection during the handshake.")
    return size


async def upgrade(
    io: ByteIO,
    keys: compat.Keys,
    *,
    initiator: bool,
    expected: str | None = None,
    security: Sequence[str] = SECURITY,
) -> Secured:
    """Secure a channel and agree on Yamux.

    Args:
        io: the channel; it is not closed when this fails.
        keys: of this node.
        initiator: whether this side opened the channel.
        expected: the peer ID that must be at the other end; `None` for any.
        security: the protocols that are offered, the best first.

    Raises:
        WrongPeer: it is another one. Our own identity has not been given away then.
        HandshakeError: the peer speaks none of the protocols, or breaks the rules.
        OSError: the channel broke.
    """
    channel = HandshakeChannel(io)
    offered = [each for each in security if each != TLS or tls_works(keys)]
    try:
        if await _choose(channel, offered, initiator) == TLS:
            secured = await tls_handshake(channel, keys, initiator=initiator, expected=expected)
            records, peer, muxed = secured.records, secured.peer, secured.muxed
        else:
            secrets = await compat.noise_handshake(
                channel, keys, initiator=initiator, expected=expected, muxers=(YAMUX,)
            )
            records, peer = NoiseRecords(secrets.encrypt_key, secrets.decrypt_key), secrets.peer
            muxed = secrets.muxer == YAMUX
        records.put_back(bytes(channel.buffer))
        if muxed:
            return Secured(records, peer)
        inner = RecordChannel(io, records)
        await _choose(inner, (YAMUX,), initiator)
        return Secured(records, peer, bytes(inner.buffer))
    except compat.UnexpectedPeer as error:
        raise WrongPeer(f"the peer there is {error.actual}") from error
    except (HandshakeError, WrongPeer):
        raise
    except KacheryError as error:
        raise HandshakeError(str(error)) from error
    except OSError:
        raise
    except Exception as error:
        raise HandshakeError(f"The security handshake failed: {error or type(error).__name__}.") from error


async def _choose(channel: multistream.Channel, protocols: Sequence[str], initiator: bool) -> str:
    if initiator:
        return await multistream.select(channel, protocols)
    return await multistream.negotiate(channel, protocols)


assert limits.NOISE_PLAINTEXT > limits.MAX_PROTOCOL_NAME
