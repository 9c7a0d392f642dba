"""A peer with a valid identity that sends whatever frames a flood is made of, and takes all that comes back."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

import trio

from kachery_p2p.transport import compat, limits, multistream
from kachery_p2p.transport.security import Buffers, Records
from kachery_p2p.transport.sockets import SocketIO, connect_tcp
from kachery_p2p.transport.upgrade import upgrade

HEADER = struct.Struct("!BBHII")
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
HELLO = multistream.encode_line(multistream.HEADER)
#: Credit that is never used up: the node may answer as much as it likes.
CREDIT = 0xFFF0_0000


class Attacker:
    """One connection. `drain` must run beside the sending, or the node's answers would stop it."""

    def __init__(self, io: SocketIO, records: Records, plaintext: bytes) -> None:
        self._io = io
        self._records = records
        self._message = memoryview(bytearray(limits.PLAINTEXT_BUFFER))
        self._out = memoryview(bytearray(limits.SEALED_MESSAGE))
        self._next = 1
        self.plaintext = plaintext
        self.identity = b""
        self.received = 0
        self.ended = False

    @classmethod
    async def connect(cls, port: int, seed: bytes | None = None) -> Attacker:
        """Connect to a node on loopback, as a new peer where no seed says which."""
        keys = compat.Keys.from_seed(seed or os.urandom(32))
        io = SocketIO(await connect_tcp("127.0.0.1", port))
        try:
            secured = await upgrade(io, keys, initiator=True)
        except BaseException:
            io.close()
            raise
        return cls(io, secured.records, secured.plaintext)

    async def send(self, data: bytes | bytearray) -> None:
        """Send plaintext: whole frames, or parts of them."""
        view = memoryview(data)
        for start in range(0, len(view), self._records.fill):
            piece = view[start : start + self._records.fill]
            self._message[: len(piece)] = piece
            size = self._records.seal(self._message, len(piece), self._out)
            await self._io.send_all(self._out[:size])

    def opening(self, protocol: str, first: bytes = b"") -> tuple[int, bytes]:
        """Frames that open a stream, choose its protocol without waiting for the answer, and send some bytes."""
        number = self._next
        self._next += 2
        hello = HELLO + multistream.encode_line(protocol) + first
        return number, HEADER.pack(0, UPDATE, SYN, number, CREDIT) + data_frame(number, hello)

    def number(self) -> int:
        """The number of the next stream."""
        self._next += 2
        return self._next - 2

    async def drain(self) -> None:
        """Take what comes until the node ends the connection."""
        buffer = memoryview(bytearray(1 << 18))
        buffers = Buffers()
        try:
            while True:
                start = self._records.prepare(buffer)
                try:
                    size = self._io.recv_into(buffer[start:])
                except BlockingIOError:
                    await self._io.wait_readable()
                    continue
                if not size:
                    return
                for message in self._records.read(buffer, start + size, buffers):
                    self.received += len(message)
        except (OSError, trio.ClosedResourceError):
            return
        finally:
            self.ended = True

    def close(self) -> None:
        """End the connection."""
        self._io.close()


def data_frame(stream: int, payload: bytes, flags: int = 0) -> bytes:
    """One data frame."""
    return HEADER.pack(0, DATA, flags, stream, len(payload)) + payload


def crumbs(stream: int, payload: Iterable[int]) -> bytes:
    """The same bytes, each in a frame of its own."""
    head = HEADER.pack(0, DATA, 0, stream, 1)
    return b"".join(head + bytes((each,)) for each in payload)
