"""Yamux: the state of one stream, and the names both parts share. `yamux.py` has the rest, and the theory."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kachery_p2p.errors import StreamError
from kachery_p2p.transport import limits

if TYPE_CHECKING:
    from kachery_p2p.transport.yamux import YamuxCore

HEADER = struct.Struct("!BBHII")
HEADER_SIZE: Final = 12

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR = range(2)


class ProtocolError(StreamError):
    """The peer broke the Yamux rules; the connection cannot go on."""


class ReceiveBudget:
    """What all connections of one host share: bytes and streams.

    Args:
        max_streams: that peers may have open, all connections together.
    """

    __slots__ = ("max_streams", "queued", "streams", "window")

    def __init__(self, max_streams: int = limits.DEFAULTS.host_streams) -> None:
        self.max_streams = max_streams
        #: granted above the initial windows
        self.window = 0
        #: received and not yet read
        self.queued = 0
        #: streams that peers have opened
        self.streams = 0


class YamuxStream:
    """State of one stream. The methods are for its user, the fields for `YamuxCore`."""

    __slots__ = (
        "acknowledged",
        "broken",
        "chunks",
        "closed_at",
        "core",
        "credit",
        "discard",
        "fin_sent",
        "fin_wanted",
        "granted_at",
        "id",
        "out_bytes",
        "outgoing",
        "queued",
        "receive_window",
        "remote_fin",
        "reset_reason",
        "scheduled",
        "send_window",
        "starved",
        "window",
    )

    def __init__(self, core: YamuxCore, stream_id: int) -> None:
        self.core = core
        self.id = stream_id
        self.chunks: deque[memoryview | bytearray] = deque()
        self.queued = 0  # bytes in chunks
        self.credit = 0  # bytes read and not yet granted again
        self.receive_window = limits.INITIAL_WINDOW  # what the peer may still send
        self.window = limits.INITIAL_WINDOW  # what it may have outstanding at most
        self.granted_at = core.clock()
        self.starved = False  # the reader had to wait since the last grant
        self.send_window = limits.INITIAL_WINDOW  # what we may still send
        self.outgoing: deque[memoryview] = deque()
        self.out_bytes = 0
        self.scheduled = False  # in core._ready
        self.fin_wanted = False
        self.fin_sent = False
        self.remote_fin = False
        self.discard = False  # nobody will read any more
        self.closed_at: float | None = None
        self.reset_reason = ""  # why it was torn down; empty while it is not
        self.broken = ""  # why nothing can be sent any more, though it can be read on
        self.acknowledged = False

    def __del__(self) -> None:
        if self.queued:  # ended by both sides, and let go of before all was read
            self.core.drop_queue(self)

    # What the shell overrides.

    def wake_reader(self) -> None:
        """There is something to read, the end, or a reset."""

    def wake_writer(self) -> None:
        """All that was submitted has been put into messages, or the stream was reset."""

    # What the user calls.

    def take(self, maximum: int) -> memoryview | bytearray:
        """Take up to `maximum` bytes of the first chunk; empty when nothing is queued."""
        if not self.chunks:
            return bytearray()
        chunk = self.chunks[0]
        if len(chunk) <= maximum:
            self.chunks.popleft()
        else:
            view = memoryview(chunk)
            self.chunks[0] = view[maximum:]
            chunk = view[:maximum]
        self._consumed(len(chunk))
        return chunk

    def take_into(self, target: memoryview) -> int:
        """Copy queued bytes into `target` until it is full or the queue empty; how many."""
        chunks = self.chunks
        room = len(target)
        done = 0
        while chunks and done < room:
            chunk = chunks[0]
            size = len(chunk)
            if size <= room - done:
                target[done : done + size] = chunk
                chunks.popleft()
            else:
                size = room - done
                view = memoryview(chunk)
                target[done:room] = view[:size]
                chunks[0] = view[size:]
            done += size
        if done:
            self._consumed(done)
        return done

    def _consumed(self, count: int) -> None:
        core = self.core
        self.queued -= count
        core.queued -= count
        core.budget.queued -= count
        self.credit += count
        due = self.credit >= limits.MAX_GRANT or self.credit * limits.GRANTS_PER_WINDOW >= self.window
        if due and not self.remote_fin and not self.reset_reason:
            core.grant(self)

    def submit(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Queue bytes for sending. They are not copied: they must stay as they are until `out_bytes` is 0."""
        for part in parts:
            view = memoryview(part)
            if view.nbytes:
                self.outgoing.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
                self.out_bytes += view.nbytes
        if self.out_bytes and self.send_window:
            self.core.schedule(self)

    def withdraw(self) -> int:
        """Take back what has not been put into messages; the number of bytes."""
        left = self.out_bytes
        self.outgoing.clear()
        self.out_bytes = 0
        return left

    def finish(self) -> None:
        """End our direction, after what was submitted."""
        if not self.fin_wanted and not self.reset_reason:
            self.fin_wanted = True
            self.core.schedule(self)

    def stop_reading(self) -> None:
        """Nobody will read any more: drop what is queued and what will come."""
        self.discard = True
        self.closed_at = self.core.clock()
        self.core.drop_queue(self)
        self.core.forget_if_done(self)

    def tear_down(self, reason: str) -> None:
        """Tear the stream down in both directions."""
        if not self.reset_reason and not (self.fin_sent and self.remote_fin):
            self.core.control_frame(WINDOW_UPDATE, RST, self.id, 0)
        self.core.kill(self, reason)
