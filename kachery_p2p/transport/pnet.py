"""Private networks: a layer under everything else that encrypts with a key all members share.

(`/key/swarm/psk/1.0.0/`, libp2p pnet specification.) Each side sends 24 random bytes, the nonce, and from then
on XORs what it sends with the XSalsa20 key stream of the key and its nonce. There is no authentication in this
layer: with another key the first line of multistream-select is noise and the connection ends.

XSalsa20 is Salsa20 with a key made by HSalsa20 from the first 16 bytes of the nonce. `pycryptodome` has a
streaming Salsa20; HSalsa20 runs once for each direction of a connection. py-libp2p's
`security/pnet/psk_conn.py` uses an 8-byte nonce and plain Salsa20, which no other implementation understands.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from kachery_p2p.transport import limits
from kachery_p2p.transport.sockets import ByteIO

NONCE = 24
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_MASK = 0xFFFF_FFFF


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, left, right, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
        total = (state[left] + state[right]) & _MASK
        state[target] ^= (total << turn | total >> (32 - turn)) & _MASK


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The key that XSalsa20 derives from a 32-byte key and the first 16 bytes of a nonce (Bernstein, 2011)."""
    k = struct.unpack("<8I", key)
    n = struct.unpack("<4I", nonce)
    s = _SIGMA
    state = [s[0], *k[:4], s[1], *n, s[2], *k[4:], s[3]]
    for _ in range(10):
        for row in ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)):
            _quarter(state, *row)
        for row in ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)):
            _quarter(state, *row)
    return struct.pack("<8I", *(state[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def xsalsa20(key: bytes, nonce: bytes) -> Any:
    """A cipher whose `encrypt` and `decrypt` continue the key stream from call to call."""
    from Crypto.Cipher import Salsa20

    return Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class PrivateIO:
    """A `ByteIO` of a private network on top of another one."""

    def __init__(self, below: ByteIO, key: bytes) -> None:
        self._below = below
        self._key = key
        self._reader: Any = None
        self._writer: Any = None
        self._nonce = bytearray()

    async def wait_readable(self) -> None:
        await self._below.wait_readable()

    def recv_into(self, buffer: memoryview) -> int:
        while self._reader is None:
            rest = bytearray(NONCE - len(self._nonce))
            size = self._below.recv_into(memoryview(rest))
            if not size:
                return 0
            self._nonce += rest[:size]
            if len(self._nonce) == NONCE:
                self._reader = xsalsa20(self._key, bytes(self._nonce))
        size = self._below.recv_into(buffer)
        if size:
            self._reader.decrypt(buffer[:size], output=buffer[:size])
        return size

    def send_nowait(self, data: memoryview) -> int:
        # What is encrypted must be sent, in this order: only `send_all` can promise that.
        return 0

    async def send_all(self, data: memoryview) -> None:
        if self._writer is None:
            nonce = os.urandom(NONCE)
            self._writer = xsalsa20(self._key, nonce)
            await self._below.send_all(memoryview(nonce))
        for start in range(0, len(data), limits.RECEIVE_BUFFER):
            piece = bytearray(data[start : start + limits.RECEIVE_BUFFER])
            self._writer.encrypt(piece, output=piece)
            await self._below.send_all(memoryview(piece))

    def shutdown_write(self) -> None:
        self._below.shutdown_write()

    def close(self) -> None:
        self._below.close()
