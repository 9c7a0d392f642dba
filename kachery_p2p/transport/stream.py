"""A stream to a peer: what protocols read from and write to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

import trio

from kachery_p2p.errors import StreamEOF, StreamReset
from kachery_p2p.transport import limits
from kachery_p2p.transport.yamux import YamuxCore, YamuxStream
from kachery_p2p.turns import TURN_ITEMS, Allowance, Turn
from kachery_p2p.waking import Signal

Bytes = bytes | bytearray | memoryview


class ConnectionLike(Protocol):
    """The part of `kachery_p2p.transport.connection.Connection` that a stream and those who hold one use."""

    @property
    def peer(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def initiator(self) -> bool: ...

    @property
    def is_relayed(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def allowance(self) -> Allowance: ...

    def flush(self) -> None: ...


class Stream(YamuxStream):
    """A bidirectional stream of bytes, each direction of which ends by itself.

    One task may read and one may write at a time (`trio.BusyResourceError` otherwise). Every waiting method can be
    cancelled: a cancelled read loses nothing, but for the bytes a `read_exactly` or `read_into` had taken; a cancelled
    write that was half done resets the stream, and never harms the connection.

    `StreamReset` means that the peer, or this side, or the loss of the connection tore the stream down.

    Attributes:
        peer: the peer ID, base58.
        protocol: the protocol that was negotiated; empty before. After `expect` the peer may still refuse it.
        kept: see `keep`.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_readable",
        "_reading",
        "_refused",
        "_sent",
        "_turn",
        "connection",
        "kept",
        "peer",
        "protocol",
    )

    def __init__(self, core: YamuxCore, stream_id: int, connection: ConnectionLike) -> None:
        super().__init__(core, stream_id)
        self.connection = connection
        self.peer = connection.peer
        self.protocol = ""
        self.kept = False
        self._answer = b""  # what the peer has to say before anything else
        self._refused: Callable[[], None] | None = None
        self._reading = False
        self._readable = Signal()
        self._sent = Signal()
        self._turn = Turn()

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self._name} with {self.peer}>"

    @property
    def _name(self) -> str:
        return self.protocol or "(no protocol yet)"

    # --- reading ---------------------------------------------------------------------------------------------------

    def wake_reader(self) -> None:
        if self._answer:
            self._take_answer()
        self._readable.notify()

    def expect(self, answer: bytes, refused: Callable[[], None]) -> None:
        """Have the peer say `answer` before anything else; readers do not see it, and need not be there.

        Where it says something else, `refused` is called and the stream is torn down.
        """
        self._answer = answer
        self._refused = refused

    def useful(self) -> None:
        """What came on it was asked for: then what a stream costs is not on its peer's account."""
        self.connection.allowance.spend(-limits.USEFUL_STREAM)

    def _take_answer(self) -> None:
        while self._answer and self.chunks:
            piece = self.take(len(self._answer))
            if not self._answer.startswith(piece):
                self._answer = b""
                self.tear_down("the peer does not speak it")
                if self._refused is not None:
                    self._refused()
                return
            self._answer = self._answer[len(piece) :]

    async def _wait_readable(self) -> bool:
        """Wait for bytes; `False` at the end.

        Raises:
            StreamReset: the stream was torn down, or closed by this side.
        """
        if self._reading:
            raise trio.BusyResourceError("another task is reading from this stream")
        if self.chunks:
            # The peer may have filled the queue with things that take long to deal with and no time to send.
            allowance = self.connection.allowance
            allowance.units -= limits.READ_WORK
            if allowance.units < 0 and await allowance.settle():
                self._turn.begin()
            elif self._turn.is_over():
                await trio.lowlevel.checkpoint()
                self._turn.begin()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self.reset_reason:
                raise StreamReset(f"The stream {self._name} with {self.peer} broke: {self.reset_reason}.")
            if self.discard:
                raise StreamReset(f"The stream {self._name} with {self.peer} was closed by this side.")
            if self.chunks:
                return True
            if self.remote_fin:
                await trio.lowlevel.checkpoint()
                return False
            self.starved = True
            self._reading = True
            try:
                await self._readable.wait()
            finally:
                self._reading = False
            self._turn.begin()

    async def read(self, max_bytes: int = 65536) -> bytes:
        """At least one and up to `max_bytes` bytes; `b""` at the end of the peer's side."""
        if not await self._wait_readable():
            return b""
        chunk = self.take(max_bytes)
        self.connection.flush()
        return bytes(chunk)

    async def read_parts(self, max_bytes: int) -> list[memoryview | bytearray]:
        """What has come, up to `max_bytes` bytes, as it lies in memory: neither copied nor joined; `[]` at the end."""
        parts: list[memoryview | bytearray] = []
        if await self._wait_readable():
            while max_bytes > 0 and self.chunks:
                parts.append(self.take(max_bytes))
                max_bytes -= len(parts[-1])
            self.connection.flush()
        return parts

    async def wait_readable(self) -> None:
        """Wait until there are bytes, or the end.

        Raises:
            StreamReset: the stream was torn down, or closed by this side.
        """
        await self._wait_readable()

    async def read_exactly(self, count: int, /) -> bytearray:
        """Exactly `count` bytes.

        Raises:
            StreamEOF: the peer's side ends before.
        """
        data = bytearray(count)
        await self.read_into(memoryview(data))
        return data

    async def read_into(self, target: memoryview) -> None:
        """Fill `target`, copying each byte once.

        Raises:
            StreamEOF: the peer's side ends before.
        """
        done, size = 0, len(target)
        while done < size:
            if not await self._wait_readable():
                raise StreamEOF(f"The peer {self.peer} ended the stream {self._name} after {done} of {size} bytes.")
            done += self.take_into(target[done:] if done else target)
            self.connection.flush()

    # --- writing ---------------------------------------------------------------------------------------------------

    def wake_writer(self) -> None:
        self._sent.notify()

    async def write(self, data: Bytes, /) -> None:
        """Send all of `data`. Returns when it has been encrypted: the buffer may be used again."""
        await self.write_parts((data,))

    async def write_parts(self, parts: Sequence[Bytes]) -> None:
        """Send several buffers in a row, without joining them first. They may be used again afterwards."""
        if self.out_bytes:
            raise trio.BusyResourceError("another task is writing to this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_writable()
        self.submit(parts)
        total = self.out_bytes
        self.connection.flush()
        self.connection.allowance.spend(limits.WRITE_WORK - total // limits.BYTES_PER_UNIT)
        if not self.out_bytes:
            self._check_reset()
            # All went to the kernel at once. Let the others run now and then all the same.
            await self._turn.step(1 + TURN_ITEMS * total // limits.INITIAL_WINDOW)
            return
        try:
            # Once is enough, and more would be wrong: by now somebody else's bytes may be on their way.
            await self._sent.wait()
        except trio.Cancelled:
            left = self.withdraw()
            if 0 < left < total:
                self.tear_down("a write was cancelled half way")
                self.connection.flush()
            raise
        self._turn.begin()
        self._check_reset()

    def _check_writable(self) -> None:
        self._check_reset()
        if self.fin_wanted:
            raise StreamReset(f"The stream {self._name} with {self.peer} was closed by this side.")

    def _check_reset(self) -> None:
        reason = self.reset_reason or self.broken
        if reason:
            raise StreamReset(f"The stream {self._name} with {self.peer} broke: {reason}.")

    def keep(self) -> None:
        """For a handler that hands the stream to somebody else: it is not closed when the handler returns."""
        self.kept = True

    # --- ending ----------------------------------------------------------------------------------------------------

    async def close_write(self) -> None:
        """Tell the peer that nothing more comes; reading goes on."""
        self.finish()
        self.connection.flush()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """End both directions in good order: what was written arrives, what still comes is dropped."""
        self.finish()
        if not self.discard:
            self.stop_reading()
        self.connection.flush()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Tear both directions down at once; the peer sees an error."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self, reason: str = "reset by this side") -> None:
        """`reset` for callers that cannot wait."""
        self.tear_down(reason)
        self.connection.flush()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()
