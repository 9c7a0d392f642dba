"""Yamux: many streams over one connection. This part does no input or output: bytes in, state and bytes out.

`YamuxCore.parse` takes what the record layer decrypted, `YamuxCore.fill` writes what is to be sent next into
a buffer. The shell around it (`connection.py`) moves the bytes, and learns through the `wake_*` methods of
`YamuxStream`, which it overrides, that a waiting task can go on. Nothing in here waits.
(https://github.com/hashicorp/yamux/blob/master/spec.md, libp2p's yamux specification)

Receiving. A data frame's payload is queued as views into the decrypted message, never joined; pieces smaller
than half a message are copied together, so that a peer that sends single bytes, or lets one byte keep a whole
message alive, gains nothing. The receive window is enforced: who sends more than was granted breaks the
protocol. Windows start at 256 KiB, and are doubled up to 16 MiB while the reader waits for bytes and had used
up its last grant within a few round trips; they are paid from a budget of the connection and of the host. Ten
thousand idle streams therefore own nothing.

Sending. Control frames go first, then streams with data take turns, one frame each, so that a bulk stream
delays the others by one frame at most. One frame of a bulk stream fills exactly one Noise message.

Misbehaviour raises `ProtocolError`, after which the connection says goodbye and ends. Frames that do no work
(pings, empty data, resets, streams refused) draw on a bucket that refills at a fixed rate; a flood of them
empties it.

The stock muxer of py-libp2p 0.8.1 (`stream_muxer/yamux/yamux.py`) loses data: a cancelled write corrupts the
connection, a sender dies after five seconds without credit, the window is not enforced, FIN and RST on an ACK
frame are ignored, and ten streams that nobody accepts block all others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from kachery_p2p.transport import limits
from kachery_p2p.transport.yamux_stream import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    HEADER,
    HEADER_SIZE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    ProtocolError,
    ReceiveBudget,
    YamuxStream,
)

__all__ = [
    "GO_AWAY_NORMAL",
    "GO_AWAY_PROTOCOL_ERROR",
    "ProtocolError",
    "ReceiveBudget",
    "YamuxCore",
    "YamuxStream",
]

_MAX_UINT32 = 0xFFFF_FFFF


class YamuxCore:
    """One side of a Yamux connection.

    Args:
        initiator: whether this side opened the connection; it uses the odd stream numbers.
        make_stream: class of the streams.
        budget: shared with the other connections of the host.
        clock: seconds, monotonic.
        idle_frames: that the peer may send each second, see `limits.IDLE_FRAMES_BURST`.
        on_room: is called when `can_open` may have become true.
    """

    def __init__(
        self,
        initiator: bool,
        make_stream: Callable[[YamuxCore, int], YamuxStream] = YamuxStream,
        budget: ReceiveBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_room: Callable[[], None] = lambda: None,
        idle_frames: float = limits.DEFAULTS.idle_frames_rate,
    ) -> None:
        self.initiator = initiator
        self.clock = clock
        self.budget = budget or ReceiveBudget()
        self.streams: dict[int, YamuxStream] = {}
        #: new streams of the peer, for the shell to take
        self.accepted: deque[YamuxStream] = deque()
        self.queued = 0
        self.extra_window = 0
        self.unacknowledged = 0
        self.inbound = 0
        #: received
        self.frames = 0
        self.bytes_received = 0
        #: received bytes that nobody reads: of streams that are gone or were given up
        self.bytes_dropped = 0
        self.bytes_sent = 0
        self.round_trip = 0.0
        self.remote_gone: int | None = None
        self._next_id = 1 if initiator else 2
        self._last_remote_id = 0
        self._make_stream = make_stream
        self._on_room = on_room
        self._idle_rate = idle_frames
        self._control = bytearray()
        self._ready: deque[YamuxStream] = deque()
        self._reached = limits.INITIAL_WINDOW  # the largest window that a stream has got
        self._pings: dict[int, float] = {}
        self._next_ping = 0
        # parser: a header in pieces, then a payload in pieces
        self._header = bytearray()
        self._left = 0
        self._sink: YamuxStream | None = None
        self._after = 0  # FIN or RST of the data frame whose payload is coming
        self._idle_tokens = limits.IDLE_FRAMES_BURST
        self._idle_at = clock()

    # --- receiving -------------------------------------------------------------------------------------------------

    def parse(self, data: bytearray) -> Iterator[None]:
        """Take the plaintext of one message, in steps of some frames. The buffer belongs to the core from here on.

        The iterator must be run to its end before the next message is taken; between two steps other methods may be
        called.

        Raises:
            ProtocolError: the peer broke the rules.
        """
        position, end = 0, len(data)
        pause = self.frames + limits.FRAMES_IN_A_ROW
        if not end:
            self._idle_frame()
            return
        view = memoryview(data)
        while position < end:
            if self.frames >= pause:
                pause = self.frames + limits.FRAMES_IN_A_ROW
                yield
            if self._left:
                size = min(self._left, end - position)
                if self._sink is not None:
                    self._deliver(self._sink, view[position : position + size], end)
                else:
                    self.bytes_dropped += size
                position += size
                self._left -= size
                if not self._left:
                    self._payload_done()
            elif not self._header and end - position >= HEADER_SIZE:
                header = HEADER.unpack_from(view, position)
                position += HEADER_SIZE
                self._frame(*header)
            else:
                size = min(HEADER_SIZE - len(self._header), end - position)
                self._header += view[position : position + size]
                position += size
                if len(self._header) == HEADER_SIZE:
                    header = HEADER.unpack(self._header)
                    self._header.clear()
                    self._frame(*header)

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        self.frames += 1
        if version:
            raise ProtocolError(f"The peer speaks Yamux version {version}; this is version 0.")
        if kind > GO_AWAY or flags > 15:
            raise ProtocolError(f"The peer sent a Yamux frame of unknown type {kind} or flags {flags:#x}.")
        if kind == PING:
            self._ping(flags, length)
            return
        if kind == GO_AWAY:
            self.remote_gone = length
            return
        stream = self._syn(stream_id) if flags & SYN else self.streams.get(stream_id)
        if stream is None:
            self._unknown_stream(kind, flags, stream_id, length)
            return
        if flags & ACK and not stream.acknowledged:
            stream.acknowledged = True
            self.unacknowledged -= 1
            self._on_room()
        if kind == WINDOW_UPDATE:
            if length:
                stream.send_window += length
                if stream.send_window > _MAX_UINT32:
                    raise ProtocolError("The peer granted more than 4 GiB on one stream.")
                if stream.out_bytes:
                    self.schedule(stream)
            elif not flags:
                self._idle_frame()
            if flags & (FIN | RST):
                self._end(stream, flags)
            return
        if stream.remote_fin and length:
            raise ProtocolError(f"The peer sent data on stream {stream_id} after it had ended it.")
        if length > stream.receive_window:
            raise ProtocolError(
                f"The peer sent {length} bytes on stream {stream_id}, where it may send {stream.receive_window}."
            )
        stream.receive_window -= length
        if length:
            self._left = length
            self._sink = stream
            self._after = flags & (FIN | RST)
        else:
            if not flags:
                self._idle_frame()
            if flags & (FIN | RST):
                self._end(stream, flags)

    def _syn(self, stream_id: int) -> YamuxStream | None:
        """A stream the peer opens; `None` when it is refused."""
        if stream_id & 1 == self.initiator or not stream_id:
            raise ProtocolError(f"The peer opened stream {stream_id}, a number that is not its own.")
        if stream_id in self.streams:
            raise ProtocolError(f"The peer opened stream {stream_id} twice.")
        self._last_remote_id = max(self._last_remote_id, stream_id)
        budget = self.budget
        full = budget.streams >= budget.max_streams or budget.queued >= limits.HOST_QUEUE
        if full or self.inbound >= limits.MAX_STREAMS:
            self._idle_frame()
            self._answer(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = self._make_stream(self, stream_id)
        stream.acknowledged = True
        self.streams[stream_id] = stream
        self.inbound += 1
        budget.streams += 1
        self.accepted.append(stream)
        # A frame of its own: some implementations overlook FIN or RST in a frame that has ACK as well.
        self._answer(WINDOW_UPDATE, ACK, stream_id, 0)
        if more := self._widen(stream, min(self._reached, limits.START_WINDOW) - limits.INITIAL_WINDOW):
            stream.receive_window += more
            self._answer(WINDOW_UPDATE, 0, stream_id, more)
        return stream

    def _unknown_stream(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """A frame of a stream that is gone, or was refused. Its payload is skipped; it may be as long as a window."""
        ours = stream_id & 1 == self.initiator
        if not flags & SYN and stream_id >= (self._next_id if ours else self._last_remote_id + 1):
            raise ProtocolError(f"The peer sent a frame of stream {stream_id}, which was never opened.")
        if kind != WINDOW_UPDATE or flags:
            self._idle_frame()  # late window updates are part of normal life
        if kind == DATA and length:
            if length > limits.MAX_WINDOW:
                raise ProtocolError(f"The peer sent a frame of {length} bytes, more than any window.")
            self._left = length
            self._sink = None
            self._after = 0

    def _deliver(self, stream: YamuxStream, piece: memoryview, message: int) -> None:
        size = len(piece)
        self.bytes_received += size
        if stream.discard or stream.reset_reason:
            self.bytes_dropped += size
            return
        budget = self.budget
        if self.queued + size > limits.CONNECTION_QUEUE or budget.queued + size > limits.HOST_QUEUE:
            self.bytes_dropped += size
            stream.tear_down("more bytes are waiting to be read than there is room for")
            return
        chunks = stream.chunks
        if size >= limits.GATHER_BELOW and size * 2 >= message:
            chunks.append(piece)
        else:
            last = chunks[-1] if chunks else None
            if isinstance(last, bytearray) and len(last) + size <= limits.GATHER_SIZE:
                last += piece
            else:
                chunks.append(bytearray(piece))
        stream.queued += size
        self.queued += size
        budget.queued += size
        stream.wake_reader()

    def _payload_done(self) -> None:
        stream, flags = self._sink, self._after
        self._sink = None
        self._after = 0
        if stream is not None and flags and not stream.reset_reason:
            self._end(stream, flags)

    def _end(self, stream: YamuxStream, flags: int) -> None:
        if flags & RST:
            self._idle_frame()
            self.kill(stream, "reset by the peer")
        elif not stream.remote_fin:
            stream.remote_fin = True
            stream.wake_reader()
            self.forget_if_done(stream)

    def _ping(self, flags: int, opaque: int) -> None:
        if flags & SYN:
            self._idle_frame()
            self._answer(PING, ACK, 0, opaque)
        elif flags & ACK:
            sent = self._pings.pop(opaque, None)
            if sent is None:
                self._idle_frame()
            else:
                self.round_trip = self.clock() - sent

    def _idle_frame(self) -> None:
        """Count a frame that did no work."""
        self._idle_tokens -= 1
        if self._idle_tokens < 0:
            now = self.clock()
            refill = (now - self._idle_at) * self._idle_rate
            self._idle_at = now
            self._idle_tokens = min(limits.IDLE_FRAMES_BURST, self._idle_tokens + refill)
            if self._idle_tokens < 0:
                raise ProtocolError("The peer floods the connection with frames that do nothing.")

    # --- sending ---------------------------------------------------------------------------------------------------

    def control_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queue a frame without payload, ahead of all data."""
        self._control += HEADER.pack(0, kind, flags, stream_id, value)

    def _answer(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """The same for what the peer causes, and could cause without end."""
        if len(self._control) >= limits.MAX_CONTROL_BYTES:
            raise ProtocolError("The peer does not read the answers to its own frames.")
        self.control_frame(kind, flags, stream_id, value)

    def schedule(self, stream: YamuxStream) -> None:
        """The stream has something to send, and may."""
        if not stream.scheduled and not stream.reset_reason:
            stream.scheduled = True
            self._ready.append(stream)

    @property
    def has_output(self) -> bool:
        """Whether `fill` would write something."""
        return bool(self._control or self._ready)

    def fill(self, out: memoryview) -> int:
        """Write whole frames into `out` (one message's plaintext, at least 12 bytes); how many bytes, 0 for nothing."""
        size = len(out)
        position = 0
        if self._control:
            position = min(len(self._control), size - size % HEADER_SIZE)
            out[:position] = self._control[:position]
            del self._control[:position]
        ready = self._ready
        while ready:
            room = size - position - HEADER_SIZE
            stream = ready[0]
            wanted = min(stream.out_bytes, stream.send_window)
            if room < 0 or (position and room < wanted and room < limits.MIN_SPLIT):
                break
            ready.popleft()
            stream.scheduled = False
            if stream.reset_reason:
                continue
            length = min(wanted, room)
            if length:
                HEADER.pack_into(out, position, 0, DATA, 0, stream.id, length)
                position += HEADER_SIZE
                self._copy_out(stream, out, position, length)
                position += length
                stream.send_window -= length
                stream.out_bytes -= length
                self.bytes_sent += length
                if not stream.out_bytes:
                    stream.wake_writer()
            if stream.out_bytes:
                if stream.send_window:
                    self.schedule(stream)
            elif stream.fin_wanted and not stream.fin_sent:
                # In a frame of its own, after the data: go-yamux looks at the flags before the payload.
                if size - position < HEADER_SIZE:
                    self.schedule(stream)
                    break
                HEADER.pack_into(out, position, 0, WINDOW_UPDATE, FIN, stream.id, 0)
                position += HEADER_SIZE
                stream.fin_sent = True
                self.forget_if_done(stream)
        return position

    @staticmethod
    def _copy_out(stream: YamuxStream, out: memoryview, position: int, length: int) -> None:
        outgoing = stream.outgoing
        stop = position + length
        while position < stop:
            part = outgoing[0]
            size = len(part)
            if size <= stop - position:
                out[position : position + size] = part
                outgoing.popleft()
            else:
                size = stop - position
                out[position:stop] = part[:size]
                outgoing[0] = part[size:]
            position += size

    def grant(self, stream: YamuxStream) -> None:
        """Give the peer back what was read, and a larger window when that is what it waits for."""
        now = self.clock()
        grant = stream.credit
        # What a part of the window lasts at the rate of late; the grant may be of less.
        lasts = (now - stream.granted_at) * stream.window / (grant * limits.GRANTS_PER_WINDOW)
        busy = limits.WINDOW_ROUND_TRIPS * self.round_trip
        if stream.window < limits.NEAR_WINDOW:
            busy = max(busy, limits.WINDOW_BUSY)
        if stream.starved and lasts < busy and stream.window < limits.MAX_WINDOW:
            grant += self._widen(stream, min(stream.window, limits.MAX_WINDOW - stream.window))
            self._reached = max(self._reached, stream.window)
        stream.starved = False
        stream.granted_at = now
        stream.credit = 0
        stream.receive_window += grant
        self.control_frame(WINDOW_UPDATE, 0, stream.id, grant)

    def _widen(self, stream: YamuxStream, more: int) -> int:
        """Make a window larger by so much where there is room for it; by how much it was."""
        budget = self.budget
        if self.extra_window + more > limits.CONNECTION_WINDOW or budget.window + more > limits.HOST_WINDOW:
            return 0
        self.extra_window += more
        budget.window += more
        stream.window += more
        return more

    # --- streams ---------------------------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether the peer will take one more stream."""
        return self.unacknowledged < limits.MAX_UNACKNOWLEDGED and len(self.streams) - self.inbound < limits.MAX_STREAMS

    def open(self) -> YamuxStream:
        """Open a stream; its first frame is queued. `can_open` must hold."""
        stream = self._make_stream(self, self._next_id)
        self._next_id += 2
        self.streams[stream.id] = stream
        self.unacknowledged += 1
        self.control_frame(WINDOW_UPDATE, SYN, stream.id, 0)
        return stream

    def ping(self) -> None:
        """Queue a ping; the answer sets `round_trip`."""
        self._next_ping = (self._next_ping + 1) & _MAX_UINT32
        self._pings = {self._next_ping: self.clock()}
        self.control_frame(PING, SYN, 0, self._next_ping)

    def go_away(self, code: int) -> None:
        """Queue the goodbye."""
        self.control_frame(GO_AWAY, 0, 0, code)

    def drop_queue(self, stream: YamuxStream) -> None:
        """Forget the received bytes that nobody will read."""
        stream.chunks.clear()
        self.bytes_dropped += stream.queued
        self.queued -= stream.queued
        self.budget.queued -= stream.queued
        stream.queued = 0

    def kill(self, stream: YamuxStream, reason: str) -> None:
        """Tear a stream down on this side and wake whoever waits for it."""
        if stream.reset_reason:
            return
        stream.reset_reason = reason
        self.drop_queue(stream)
        stream.withdraw()
        self._forget(stream)
        stream.wake_reader()
        stream.wake_writer()

    def forget_if_done(self, stream: YamuxStream) -> None:
        """Drop a stream that both sides have ended. What is queued can still be read."""
        if stream.remote_fin and stream.fin_sent:
            self._forget(stream)

    def _forget(self, stream: YamuxStream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        if stream.id & 1 != self.initiator:
            self.inbound -= 1
            self.budget.streams -= 1
        if not stream.acknowledged:
            stream.acknowledged = True
            self.unacknowledged -= 1
        extra = stream.window - limits.INITIAL_WINDOW
        self.extra_window -= extra
        self.budget.window -= extra
        self._on_room()

    def sweep(self) -> None:
        """Reset the streams that we closed and the peer keeps open for too long."""
        now = self.clock()
        for stream in list(self.streams.values()):
            if stream.closed_at is not None and now - stream.closed_at > limits.HALF_CLOSED_TIMEOUT:
                stream.tear_down("the peer did not close its side")

    def shut(self, reason: str) -> None:
        """The connection is gone: end all streams. What the peer had sent up to its FIN can still be read."""
        for stream in list(self.streams.values()):
            if stream.remote_fin and not stream.discard:
                stream.withdraw()
                stream.broken = reason
                self._forget(stream)
                stream.wake_writer()
            else:
                self.kill(stream, reason)
        self._control.clear()
        self._ready.clear()
