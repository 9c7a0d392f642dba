"""One connection to a peer: moves bytes between the channel, the record layer and the streams.

Three tasks run for each connection. The reader receives into the buffer that all connections of the host share,
decrypts, feeds the Yamux core, and lets the tasks it woke run before it receives again, or earlier when many frames
take long. What the peer's frames and streams make us do is on the connection's `allowance`: while that is overdrawn,
nothing is read from the socket and nothing from the streams' queues (see `turns.py`). The writer only works
when the kernel does not take what is given to it: normally `flush`, called by whoever has something to send,
encrypts and sends it on the spot, without a switch of tasks. Both ways, no task that can be cancelled ever
holds half a message. The keeper sends pings and ends a connection whose peer does not answer.

However a connection ends, `abort` is what ends it: it says why, tears down the streams and closes the channel.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from kachery_p2p.errors import StreamError
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport import limits
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.security import Buffers, Records
from kachery_p2p.transport.sockets import ByteIO
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.yamux import (
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    ReceiveBudget,
    YamuxCore,
    YamuxStream,
)
from kachery_p2p.turns import Allowance, Pool, Turn
from kachery_p2p.waking import Flag, Signal

log = logging.getLogger("kachery_p2p.transport")

_BROKEN = (OSError, trio.ClosedResourceError, trio.BrokenResourceError)


class Shared:
    """What the connections of one host have in common: buffers, the budget of received bytes, and the pool of work.

    Args:
        bounds: of the host; `limits` afterwards.
    """

    def __init__(self, bounds: TransportLimits = limits.DEFAULTS) -> None:
        self.limits = bounds
        self.budget = ReceiveBudget(bounds.host_streams)
        self.work = Pool(bounds.work_rate)
        self.receive_buffer = memoryview(bytearray(limits.RECEIVE_BUFFER))
        self.plaintext = memoryview(bytearray(limits.PLAINTEXT_BUFFER))
        self.messages = Buffers()
        self._spare: list[memoryview] = []

    def send_buffer(self) -> memoryview:
        """A buffer for a batch of messages."""
        return self._spare.pop() if self._spare else memoryview(bytearray(limits.SEND_BATCH))

    def give_back(self, buffer: memoryview) -> None:
        """Keep the buffer for the next one who needs it, up to a few."""
        if len(self._spare) < limits.SPARE_SEND_BUFFERS:
            self._spare.append(buffer)


class Connection:
    """A secured, multiplexed connection.

    Args:
        io: the channel below, on which the handshake is done.
        records: the record layer that the handshake gave.
        peer: peer ID, base58.
        address: the peer's multiaddr, without its ID.
        initiator: whether this side opened the connection.
        shared: of the host.
        serve: is called in a task of its own for each stream the peer opens.
        ended: is called once when the connection is over, while handlers may still be running.
        plaintext: decrypted bytes that came in after the muxer was agreed on.
        limited: a relay carries it, and will cut it after some time or some bytes.

    Attributes:
        security: the name of the security protocol.
    """

    def __init__(
        self,
        io: ByteIO,
        records: Records,
        *,
        peer: str,
        address: str,
        initiator: bool,
        shared: Shared,
        serve: Callable[[Stream], Awaitable[None]],
        ended: Callable[[Connection], None] = lambda connection: None,
        plaintext: bytes = b"",
        limited: bool = False,
    ) -> None:
        self.peer = peer
        self.address = address
        self.initiator = initiator
        self.limited = limited
        self.security = records.security
        self.opened_at = trio.current_time()
        self.used_at = self.opened_at
        self._heard_at = self.opened_at
        self.close_reason = ""
        self.closed = trio.Event()
        self._room = Signal()  # perhaps one more stream can be opened
        self.core = YamuxCore(
            initiator,
            self._make_stream,
            shared.budget,
            trio.current_time,
            on_room=self._room.notify,
            idle_frames=shared.limits.idle_frames_rate,
        )
        #: for what the peer makes us do
        self.allowance = Allowance(shared.limits.work_rate, limits.WORK_BURST, shared.work)
        self._turn = Turn()
        self._frames = self._dropped = 0  # frames and dropped bytes of the core that are on the allowance
        self._appetite = limits.FIRST_RECEIVE
        self._io = io
        self._records = records
        self._message = shared.plaintext[: records.fill]
        self._parted = False  # the last message is sealed
        self._plaintext = plaintext
        self._shared = shared
        self._serve = serve
        self._ended = ended
        self._loops: trio.CancelScope | None = None
        self._handlers: trio.Nursery | None = None
        self._early = limits.EARLY_FLUSHES
        # The writer's: what the kernel has not taken yet, and the buffer it lies in.
        self._pending: memoryview | None = None
        self._buffer: memoryview | None = None
        self._wake = Flag()
        self._idle = Signal()  # nothing is pending any more

    def __repr__(self) -> str:
        return f"<Connection {'to' if self.initiator else 'from'} {self.peer} at {self.address}>"

    def _make_stream(self, core: YamuxCore, stream_id: int) -> YamuxStream:
        return Stream(core, stream_id, self)

    @property
    def is_closed(self) -> bool:
        return self.closed.is_set()

    @property
    def is_relayed(self) -> bool:
        """Whether a relay carries it."""
        return CIRCUIT in self.address

    @property
    def stream_count(self) -> int:
        return len(self.core.streams)

    @property
    def is_used(self) -> bool:
        """Whether a protocol runs on it, other than those every connection begins with (identify)."""
        return any(
            stream.protocol and not stream.protocol.startswith("/ipfs/id/")
            for stream in self.core.streams.values()
            if isinstance(stream, Stream)
        )

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends. Never raises but for cancellation."""
        try:
            async with trio.open_nursery() as handlers:
                self._handlers = handlers
                async with trio.open_nursery() as loops:
                    self._loops = loops.cancel_scope
                    if self.is_closed:
                        loops.cancel_scope.cancel()
                    loops.start_soon(self._read_loop)
                    loops.start_soon(self._write_loop)
                    loops.start_soon(self._keep_alive)
                self.abort("the connection was closed")
                handlers.cancel_scope.deadline = trio.current_time() + limits.HANDLER_GRACE
        finally:
            self._handlers = None
            self.abort("the connection was closed")

    def abort(self, reason: str) -> None:
        """End the connection now. The first reason given stays."""
        if self.is_closed:
            return
        self.close_reason = reason
        self.closed.set()
        self.core.shut(reason)
        self._io.close()
        self._pending = None
        self._room.notify()
        self._idle.notify()
        if self._loops is not None:
            self._loops.cancel()
        log.debug("connection with %s at %s ended: %s", self.peer, self.address, reason)
        self._ended(self)

    def drop(self, reason: str) -> None:
        """End the connection now, with a goodbye if it goes out at once."""
        if not self.is_closed:
            self._part(GO_AWAY_NORMAL)
            self.abort(reason)

    async def close(self) -> None:
        """Say goodbye, let what is queued go out, and end. Takes `limits.GOODBYE_TIMEOUT` seconds at most."""
        if self.is_closed:
            return
        with trio.move_on_after(limits.GOODBYE_TIMEOUT):
            self._part(GO_AWAY_NORMAL)
            while not self._parted and not self.is_closed:
                await self._idle.wait()
                self._part(None)
            while self._pending is not None:
                await self._idle.wait()
            # An end before the close: else bytes of the peer that nobody reads turn the close into a TCP reset,
            # which takes back what we have sent.
            self._io.shutdown_write()
            await self.closed.wait()
        self.abort("closed by this side")

    def _part(self, code: int | None) -> None:
        """Say goodbye: in the words of Yamux if `code` is given, and of the record layer unless others wait to go out.

        Nothing is sent afterwards.
        """
        if self._pending is not None and not self._pending:
            # What was left to the writer, of which nothing is sealed yet, goes first: the goodbye is the last frame.
            self._pending = None
            self._flush()
        if code is not None:
            self.core.go_away(code)
        self._flush()
        if self._pending is not None or self._parted or self.is_closed:
            return
        self._parted = True
        out = memoryview(bytearray(limits.GOODBYE))
        last = out[: self._records.goodbye(out)]
        if not last:
            return
        try:
            sent = self._io.send_nowait(last)
        except _BROKEN as error:
            self.abort(_describe(error))
            return
        if sent < len(last):
            self._pending = last[sent:]
            self._wake.set()

    # --- receiving -------------------------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        try:
            if self._plaintext:
                plaintext, self._plaintext = bytearray(self._plaintext), b""
                for _ in self.core.parse(plaintext):
                    await self._pause()
            if self._records.waiting:
                buffer = self._shared.receive_buffer
                await self._take(buffer, self._records.prepare(buffer))
            self._after_receiving()
            while not self.is_closed:
                await self._receive()
        except StreamError as error:
            log.debug("dropping the connection with %s at %s: %s", self.peer, self.address, error)
            if not self.is_closed:
                self._part(GO_AWAY_PROTOCOL_ERROR)
            self.abort(str(error).rstrip("."))
        except _BROKEN as error:
            self.abort(_describe(error))
        except Exception:
            log.exception("error while receiving from %s at %s", self.peer, self.address)
            self.abort("an internal error")

    async def _receive(self) -> None:
        """Receive once, and let others run."""
        buffer = self._shared.receive_buffer
        start = self._records.prepare(buffer)
        try:
            size = self._io.recv_into(buffer[start : start + self._appetite])
        except BlockingIOError:
            await self._io.wait_readable()
            return
        if not size:
            self.abort(self._records.cut_off())
            return
        self._heard_at = trio.current_time()
        self.allowance.spend(limits.RECEIVE_WORK - size // limits.BYTES_PER_UNIT)
        self._turn.begin()
        paused = await self._take(buffer, start + size)
        self._appetite = limits.FIRST_RECEIVE if paused else min(2 * self._appetite, limits.RECEIVE_BUFFER)
        self._after_receiving()
        if self.allowance.units < 0 and await self.allowance.settle():
            return
        if self.is_closed or size >= limits.INITIAL_WINDOW // 4:
            await trio.lowlevel.checkpoint()
        else:
            await self._io.wait_readable()

    async def _take(self, buffer: memoryview, end: int) -> bool:
        """Decrypt and take what is in the buffer; whether others had their turn in between."""
        paused = False
        parse = self.core.parse
        for message in self._records.read(buffer, end, self._shared.messages):
            self.allowance.units -= limits.MESSAGE_WORK
            for _ in parse(message):
                paused |= await self._pause()
        if self._records.ended:
            self.abort("the peer closed the connection")
        return paused

    async def _pause(self) -> bool:
        """Within a message: let others have their turn if this takes long. Then the buffer is theirs, too."""
        self._charge()
        if self.allowance.units >= 0 and not self._turn.is_over(0):
            return False
        self._records.detach()
        self._after_receiving()
        if not await self.allowance.settle():
            await trio.lowlevel.checkpoint()
        self._turn.begin()
        return True

    def _charge(self) -> None:
        """Put the frames that have come on the allowance, and the bytes that nobody will read."""
        core = self.core
        frames, dropped = core.frames, core.bytes_dropped
        self.allowance.units -= frames - self._frames
        self._frames = frames
        if dropped != self._dropped:
            # Once for what `_receive` gave for them, and once for what it took to decrypt them.
            self.allowance.units -= 2 * (dropped - self._dropped) / limits.BYTES_PER_UNIT
            self._dropped = dropped

    def _after_receiving(self) -> None:
        core = self.core
        self._charge()
        if core.accepted:
            self.used_at = trio.current_time()
            while core.accepted:
                stream = core.accepted.popleft()
                if self._handlers is not None and not stream.reset_reason:
                    assert isinstance(stream, Stream)
                    self.allowance.units -= limits.STREAM_WORK
                    self._handlers.start_soon(self._serve, stream)
        if core.has_output:
            self.flush()
        if core.remote_gone is not None and not core.streams:
            self.abort("the peer said goodbye")

    # --- sending ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what the core has to send, as far as the kernel takes it; the writer does the rest. Never waits.

        On a young connection the writer does it all, when every task that can has said what it has to say.
        """
        if self._early and self._pending is None and self.core.has_output and not self.is_closed:
            self._early -= 1
            self._pending = memoryview(b"")
            self._wake.set()
        else:
            self._flush()

    def _flush(self) -> None:
        if self._pending is not None or not self.core.has_output or self.is_closed:
            return
        try:
            for _ in range(4):
                batch = self._compose()
                if batch is None:
                    return
                sent = self._io.send_nowait(batch)
                if sent < len(batch):
                    self._pending = batch[sent:]
                    break
            else:
                if not self.core.has_output:
                    return
                self._pending = memoryview(b"")
            self._wake.set()
        except _BROKEN as error:
            self.abort(_describe(error))
        finally:
            if self._pending is None and self._buffer is not None:
                self._shared.give_back(self._buffer)
                self._buffer = None

    def _compose(self) -> memoryview | None:
        """Put what is to be sent into messages, up to a batch of them, and encrypt it; `None` for nothing."""
        if self._parted:
            return None
        core, plaintext, message, seal = self.core, self._shared.plaintext, self._message, self._records.seal
        if self._buffer is None:
            self._buffer = self._shared.send_buffer()
        out = self._buffer
        position = 0
        while position + limits.SEALED_MESSAGE <= limits.SEND_BATCH:
            size = core.fill(message)
            if not size:
                break
            position += seal(plaintext, size, out[position:])
            if not core.has_output:
                break
        return out[:position] if position else None

    async def _write_loop(self) -> None:
        try:
            while True:
                await self._wake.take()
                while self._pending is not None:
                    if self._pending:
                        await self._io.send_all(self._pending)
                    self._pending = self._compose()
                    await trio.lowlevel.checkpoint()
                if self._buffer is not None:
                    self._shared.give_back(self._buffer)
                    self._buffer = None
                self._idle.notify()
        except _BROKEN as error:
            self.abort(_describe(error))
        except Exception:
            log.exception("error while sending to %s at %s", self.peer, self.address)
            self.abort("an internal error")

    # --- liveness --------------------------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Ping a quiet peer, and end a connection on which nothing moves.

        Any byte that comes in is a sign of life: on a slow line the answer to a ping may queue behind megabytes. While
        the kernel takes nothing from us, `send_all` judges whether the peer is gone.
        """
        interval, patience = self._shared.limits.keepalive_interval, self._shared.limits.keepalive_timeout
        self.core.ping()  # for the round trip time
        self.flush()
        while True:
            await trio.sleep(interval / 2)
            now = trio.current_time()
            if now - self._heard_at > patience and self._pending is None:
                self.abort(f"the peer did not answer for {patience:.0f} seconds")
                return
            if now - self._heard_at >= interval / 2:
                self.core.ping()
            self.core.sweep()
            self.flush()

    # --- streams ---------------------------------------------------------------------------------------------------

    async def open_stream(self) -> Stream:
        """Open a stream; waits while the peer has too many to acknowledge.

        Raises:
            StreamError: the connection has ended, or the peer takes no more streams.
        """
        while not self.core.can_open and not self.is_closed:
            await self._room.wait()
        if self.is_closed:
            raise StreamError(f"The connection with {self.peer} is gone: {self.close_reason}.")
        if self.core.remote_gone is not None:
            raise StreamError(f"The peer {self.peer} is about to leave and takes no more streams.")
        self.used_at = trio.current_time()
        stream = self.core.open()
        assert isinstance(stream, Stream)
        return stream


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return "the connection was closed"
