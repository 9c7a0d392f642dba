"""From a raw channel to a secured one: multistream-select, Noise handshake, multistream-select for the muxer.

The handshake is py-libp2p's `PatternXX`. It reads through `HandshakeChannel`, which buffers what comes in and
hands the rest to the record layer afterwards, so nothing is read twice and nothing is lost at the seam.
"""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.errors import DialError, KacheryError, StreamEOF, StreamError
from kachery_p2p.transport import compat, limits, multistream
from kachery_p2p.transport.noise import SEALED_MESSAGE, Cipher
from kachery_p2p.transport.sockets import ByteIO

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"


class WrongPeer(DialError):
    """The peer at an address has another ID than the one that was asked for."""


class HandshakeError(StreamError):
    """The security handshake or the choice of a muxer failed."""


@dataclass
class Secured:
    """A channel after the handshake."""

    cipher: Cipher
    peer: str
    received: bytes
    plaintext: bytes


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
            while True:
                try:
                    size = self.io.recv_into(memoryview(chunk))
                    break
                except BlockingIOError:
                    await self.io.wait_readable()
            if not size:
                raise StreamEOF("The peer closed the connection during the handshake.")
            self.buffer += chunk[:size]
        data = bytes(self.buffer[:maximum])
        del self.buffer[:maximum]
        return data

    async def read_exactly(self, count: int, /) -> bytes:
        data = await self.read(count)
        while len(data) < count:
            data += await self.read(count - len(data))
        return data

    async def write(self, data: bytes, /) -> None:
        await self.io.send_all(memoryview(data))


class RecordChannel:
    """The same one layer up: reads and writes through the cipher, to negotiate the muxer."""

    def __init__(self, below: HandshakeChannel, cipher: Cipher) -> None:
        self.below = below
        self.cipher = cipher
        self.buffer = bytearray()

    async def read_exactly(self, count: int, /) -> bytes:
        while len(self.buffer) < count:
            size = int.from_bytes(await self.below.read_exactly(2), "big")
            if size < 16:
                raise HandshakeError(f"The peer sent a Noise message of {size} bytes, shorter than its tag.")
            self.buffer += self.cipher.open(memoryview(await self.below.read_exactly(size)))
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def write(self, data: bytes, /) -> None:
        out = bytearray(SEALED_MESSAGE)
        await self.below.write(bytes(out[: self.cipher.seal(data, memoryview(out))]))


async def upgrade(io: ByteIO, keys: compat.Keys, *, initiator: bool, expected: str | None = None) -> Secured:
    """Secure a channel and agree on Yamux.

    Args:
        io: the channel; it is not closed when this fails.
        keys: of this node.
        initiator: whether this side opened the channel.
        expected: the peer ID that must be at the other end; `None` for any.

    Raises:
        WrongPeer: it is another one. Our own identity has not been given away then.
        HandshakeError: the peer speaks neither Noise nor Yamux, or breaks the rules.
        OSError: the channel broke.
    """
    channel = HandshakeChannel(io)
    try:
        await _choose(channel, NOISE, initiator)
        secrets = await compat.noise_handshake(channel, keys, initiator=initiator, expected=expected)
        cipher = Cipher(secrets.encrypt_key, secrets.decrypt_key)
        records = RecordChannel(channel, cipher)
        await _choose(records, YAMUX, initiator)
    except compat.UnexpectedPeer as error:
        raise WrongPeer(f"the peer there is {error.actual}") from error
    except HandshakeError:
        raise
    except KacheryError as error:
        raise HandshakeError(str(error)) from error
    except OSError:
        raise
    except Exception as error:
        raise HandshakeError(f"The security handshake failed: {error or type(error).__name__}.") from error
    return Secured(cipher, secrets.peer, bytes(channel.buffer), bytes(records.buffer))


async def _choose(channel: multistream.Channel, protocol: str, initiator: bool) -> None:
    if initiator:
        await multistream.select(channel, (protocol,))
    else:
        await multistream.negotiate(channel, (protocol,))


assert limits.NOISE_PLAINTEXT > limits.MAX_PROTOCOL_NAME
