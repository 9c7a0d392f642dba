"""What a connection needs of its security protocol: a record layer, and the ways in which a handshake fails.

There are two record layers, `noise.py` and `tls_records.py`. Both send and receive *messages* that are encrypted one by
one: a Noise message is one ciphertext, a TLS message up to four records. Both work on buffers that exist already,
because a copy or an allocation for each message would cost as much as the encryption does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from kachery_p2p.errors import DialError, StreamError
from kachery_p2p.transport import limits

#: The muxer; no other one is spoken.
YAMUX = "/yamux/1.0.0"


class WrongPeer(DialError):
    """The peer at an address has another ID than the one that was asked for."""


class HandshakeError(StreamError):
    """The security handshake or the choice of a muxer failed."""


class RecordError(StreamError):
    """Bytes that do not belong to this connection: garbage, damage, a missing piece, or what the protocol forbids."""


class Buffers:
    """Buffers of full messages that are used again when nobody looks at them any more.

    A message is handed on as views of its buffer, which are let go when the bytes were read. To free a buffer of 64 KiB
    then, and to allocate the next, makes the C library give the page back to the system and ask for another one.
    """

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: deque[bytearray] = deque()  # the oldest first

    def take(self) -> bytearray:
        """A buffer of `limits.MESSAGE_BUFFER` bytes of any content. Give it back when it is cut to its message."""
        if self._used:
            buffer = self._used.popleft()
            try:
                buffer += _FILLING[len(buffer) :]
            except BufferError:
                pass  # somebody still looks at it
            else:
                return buffer
        return bytearray(limits.MESSAGE_BUFFER)

    def give_back(self, buffer: bytearray) -> None:
        """Have it used again when nobody looks at it, if that is worth it."""
        if 2 * len(buffer) > limits.MESSAGE_BUFFER > len(buffer) and len(self._used) < limits.SPARE_MESSAGES:
            self._used.append(buffer)


_FILLING = bytes(limits.MESSAGE_BUFFER)


class Records(Protocol):
    """Both directions of one connection's encryption.

    Received bytes lie in a buffer that many connections share, so what is left over after the last whole message is
    kept here: `prepare` puts it back to the front of the buffer, `read` takes everything up to `end`.
    """

    @property
    def security(self) -> str:
        """The name of the security protocol."""
        ...

    @property
    def fill(self) -> int:
        """How many bytes of plaintext make one full message."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the peer has said that nothing more comes."""
        ...

    def seal(self, plaintext: memoryview, size: int, out: memoryview) -> int:
        """Write a message at the start of `out`; the number of bytes written.

        Args:
            plaintext: the message, from 1 to `fill` bytes, and room for one byte behind it, which is used and put back.
            size: of the message.
            out: at least `limits.SEALED_MESSAGE` bytes. They do not overlap with the plaintext.
        """
        ...

    @property
    def waiting(self) -> int:
        """Bytes that are kept for the next `read`."""
        ...

    def put_back(self, data: bytes) -> None:
        """Keep bytes that came in after the handshake for the first `read`."""
        ...

    def prepare(self, buffer: memoryview) -> int:
        """Copy what is kept to the front of `buffer`; where new bytes go."""
        ...

    def read(self, buffer: memoryview, end: int, buffers: Buffers) -> Iterator[bytearray]:
        """Decrypt the whole messages in `buffer[:end]`. An empty one is a message that did no work.

        The iterator must be run to its end, and `detach` be called before others may use the buffer. What is to be
        kept of a message is kept as a view: without one its own buffer, of `buffers`, is used again.

        Raises:
            RecordError: a message does not decrypt, or breaks the rules.
        """
        ...

    def detach(self) -> None:
        """Within `read`: go on with a copy of what is left in the buffer, which is about to be used by others."""
        ...

    def goodbye(self, out: memoryview) -> int:
        """Write the last message, after which none is sealed, at the start of `out`; its size, perhaps 0.

        It says why where `read` has failed.
        """
        ...

    def cut_off(self) -> str:
        """Why the connection is over when the channel ends now."""
        ...


class Leftover:
    """The part of `Records` that keeps what came and is not a whole message yet; the same for all of them.

    While `read` runs, `_buffer` is what it reads from, and `_position` and `_end` say how far it is and goes.
    """

    __slots__ = ("_buffer", "_end", "_position", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._buffer = memoryview(b"")
        self._position = self._end = 0

    @property
    def waiting(self) -> int:
        """See `Records`."""
        return len(self._rest)

    def put_back(self, data: bytes) -> None:
        """See `Records`."""
        self._rest = data

    def prepare(self, buffer: memoryview) -> int:
        """See `Records`."""
        size = len(self._rest)
        if size:
            buffer[:size] = self._rest
        return size

    def detach(self) -> None:
        """See `Records`."""
        if self._position:
            self._buffer = memoryview(bytes(self._buffer[self._position : self._end]))
            self._end -= self._position
            self._position = 0
