"""What goes out to one peer: a stream for our wants and one for our replies, each opened on first need.

Two streams, because a reply of some MiB to a slow reader must not hold back a want. Nothing is ever read from them:
what the peer has to say comes on streams of its own. Both are closed when idle, before the peer's own idle timer would
reset them and swallow what was written in between.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.buffers import Buffers
from kachery_p2p.bitswap.interfaces import BlockStoreLike, Counted, HostLike, StreamLike
from kachery_p2p.bitswap.messages import PROTOCOLS, Presence, WantType, encode, speaks_presence
from kachery_p2p.errors import KacheryError, StreamError
from kachery_p2p.waking import Flag, Signal
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.access.gate import Gate
    from kachery_p2p.access.interfaces import Served
    from kachery_p2p.bitswap.client import WantManager
    from kachery_p2p.bitswap.engine import Engine, PeerWant, Reply
    from kachery_p2p.bitswap.outbox import Outgoing

log = logging.getLogger("kachery_p2p.bitswap")


class OutStream:
    """One outgoing stream, opened when needed.

    Nearly every peer speaks the newest version, so what is written does not wait until the peer says so. Where it does
    not, that is lost, and `refused` is called.
    """

    def __init__(self, host: HostLike, peer: str, refused: Callable[[], None]) -> None:
        self._host = host
        self._refused = refused
        self._peer = peer
        self._stream: StreamLike | None = None

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    async def get(self) -> StreamLike:
        """The stream, opened now if need be.

        Raises:
            StreamError: it cannot be opened.
            DialError: the peer is gone.
        """
        if self._stream is None:
            self._stream = await self._host.open_stream(
                self._peer, PROTOCOLS, timeout=limits.OPEN_STREAM_TIMEOUT, ahead=self._refused
            )
        return self._stream

    async def close(self) -> None:
        """End the stream in good order."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                await stream.close()
            except StreamError as error:
                log.debug("closing a stream to %s: %s", self._peer, error)

    async def reset(self) -> None:
        """Tear the stream down."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                await stream.reset()
            except StreamError as error:
                log.debug("resetting a stream to %s: %s", self._peer, error)


class WantLane:
    """Sends our wants to one peer, merged while the last message was on its way."""

    def __init__(self, host: HostLike, peer: str, client: WantManager, unreachable: Callable[[str], None]) -> None:
        self._out = OutStream(host, peer, self._was_refused)
        self._peer = peer
        self._client = client
        self._unreachable = unreachable
        self._work = Flag()
        self._lost = False

    def wake(self) -> None:
        """There is something to send."""
        self._work.set()

    def _was_refused(self) -> None:
        self._lost = True
        self._work.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                outgoing = self._client.take(self._peer, trio.current_time())
                if self._lost:
                    self._lost = False
                    outgoing = self._client.everything_for(self._peer, trio.current_time())
                if outgoing.entries or outgoing.full:
                    await self._send(outgoing)
                    continue
                with trio.move_on_after(limits.STREAM_IDLE_CLOSE if self._out.is_open else float("inf")) as idle:
                    await self._work.take()
                if idle.cancelled_caught:
                    await self._out.close()
        finally:
            with trio.CancelScope(shield=True):
                await self._out.close()

    async def _send(self, outgoing: Outgoing) -> None:
        for _ in range(limits.STREAM_ATTEMPTS):
            try:
                if outgoing.full:
                    await self._out.reset()
                stream = await self._out.get()
                presence = speaks_presence(stream.protocol)
                self._client.set_presence(self._peer, presence, trio.current_time())
                parts: list[Buffer] = []
                if outgoing.cancels_first:
                    parts += encode(protocol=stream.protocol, entries=outgoing.cancels_first)
                entries = [e for e in outgoing.entries if presence or e.cancel or e.want_type is WantType.BLOCK]
                parts += encode(protocol=stream.protocol, entries=entries, full=outgoing.full)
                with trio.fail_after(limits.WANT_SEND_TIMEOUT):
                    await stream.write_parts(parts)
                return
            except (KacheryError, trio.TooSlowError) as error:
                log.debug("sending wants to %s: %s", self._peer, error)
                await self._out.reset()
                # What was lost with the stream is not known, so the new one begins with everything.
                outgoing = self._client.everything_for(self._peer, trio.current_time())
        self._unreachable(self._peer)


@dataclass
class _Read:
    """What was read for a reply.

    Attributes:
        generation: of the gate, when it was asked.
        blocks: in their order, None for one that is not there, or not for this peer.
        buffer: that they lie in.
        restricted: the multihashes of those that are not for everyone.
        hidden: the same of those that are not for this peer.
    """

    generation: int
    blocks: list[Buffer | None] = field(default_factory=list["Buffer | None"])
    buffer: bytearray | None = None
    restricted: Set[bytes] = frozenset()
    hidden: Set[bytes] = frozenset()


@dataclass(frozen=True)
class _Sending:
    """A message that is being written, and has something that is not for everyone.

    Attributes:
        reply, read, payload: what is in it.
        scope: of the writing.
    """

    reply: Reply
    read: _Read
    payload: Sequence[tuple[PeerWant, Buffer]]
    scope: trio.CancelScope


class ReplyLane:
    """Sends replies to one peer: while one is written, the blocks of the next are read from the store."""

    def __init__(
        self,
        host: HostLike,
        peer: str,
        engine: Engine,
        store: BlockStoreLike,
        threads: trio.CapacityLimiter,
        finished: Callable[[], None],
        buffers: Buffers,
        gate: Gate,
        served: Served | None = None,
        counted: Counted | None = None,
    ) -> None:
        self._out = OutStream(host, peer, self.abort)
        self._peer = peer
        self._engine = engine
        self._store = store
        self._threads = threads
        self._finished = finished
        self._buffers = buffers
        self._gate = gate
        self._served = served
        self._counted = counted
        #: To be read from the store; and everything that is not finished.
        self._to_read: deque[Reply] = deque()
        self._in_work: dict[Reply, None] = {}
        self._came = Signal()
        self._piece = 4 * limits.REPLY_WRITE_PIECE
        self._stuck_since = float("inf")
        self._scope = trio.CancelScope()
        #: What is being written that is not for everyone, and how to end that.
        self._sending: _Sending | None = None
        self._changed = Signal()

    def put(self, reply: Reply) -> None:
        """Send this; the engine sees to it that only a few are here at a time."""
        self._to_read.append(reply)
        self._in_work[reply] = None
        self._came.notify()

    def stuck_for(self, now: float) -> float:
        """Seconds for which the peer has not taken what is being written."""
        return max(0.0, now - self._stuck_since)

    def abort(self) -> None:
        """Drop everything: the peer does not read, or its room is needed."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until cancelled. A peer that does not read loses its replies and its wants; later wants start anew."""
        unsubscribe = self._gate.on_changed(self._changed.notify)
        try:
            while True:
                with trio.CancelScope() as self._scope:
                    to_writer, from_reader = trio.open_memory_channel["tuple[Reply, _Read]"](0)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._read_blocks, to_writer)
                        nursery.start_soon(self._take_back)
                        await self._write_replies(from_reader)
                self._stuck_since = float("inf")
                with trio.CancelScope(shield=True):
                    await self._out.reset()
                self._engine.cancel_all(self._peer)
                self._drop_replies()
        finally:
            unsubscribe()
            self._drop_replies()
            with trio.CancelScope(shield=True):
                await self._out.close()

    def _drop_replies(self) -> None:
        self._to_read.clear()
        while self._in_work:
            self._finish(next(iter(self._in_work)), 0, 0)
        self._finished()

    def _finish(self, reply: Reply, blocks: int, size: int, seconds: float | None = None) -> None:
        del self._in_work[reply]
        self._engine.finished(reply, blocks, size, seconds)

    async def _read_blocks(self, to_writer: trio.MemorySendChannel[tuple[Reply, _Read]]) -> None:
        while True:
            while not self._to_read:
                await self._came.wait()
            reply = self._to_read.popleft()
            read = _Read(self._gate.generation)
            if reply.wants or (reply.haves and self._gate.any_restricted()):
                if reply.wants and reply.size >= limits.REUSED_MESSAGE and hasattr(self._store, "read_leaves"):
                    read.buffer = self._buffers.take(reply.size)
                await trio.to_thread.run_sync(self._load, reply, read, limiter=self._threads)
            await to_writer.send((reply, read))
            del reply, read

    def _load(self, reply: Reply, read: _Read) -> None:
        """In a thread: the blocks, None for what is not there or no longer right, or what the peer may not see."""
        leaves = self._leaves(reply.wants, read.buffer)
        together = self._together([want for want, leaf in zip(reply.wants, leaves, strict=True) if leaf is None])
        for want, leaf in zip(reply.wants, leaves, strict=True):
            if leaf is not None:
                read.blocks.append(leaf)
                continue
            block: Buffer | None = together.get(want.cid.multihash)
            if block is None:
                block = self._one(want)
            read.blocks.append(block if block is not None and len(block) <= limits.MAX_BLOCK_SIZE else None)
        # After that and not before: what was removed and stored anew meanwhile may be for others than it was.
        self._look(reply, read)

    def _look(self, reply: Reply, read: _Read) -> None:
        """In a thread: what the peer may not see now is not sent, though it was found for it, and read."""
        asked = [want.cid.multihash for want in (*reply.haves, *reply.wants)]
        try:
            audiences = self._gate.audiences(asked)
        except Exception:
            # Who may see them cannot be told, so nobody does.
            log.exception("Who may see blocks cannot be looked up")
            read.hidden = set(asked)
        else:
            groups = self._gate.groups_with(self._peer) if audiences else frozenset[str]()
            read.restricted = audiences.keys()
            read.hidden = {multihash for multihash, audience in audiences.items() if not audience.admits(groups)}
        for at, want in enumerate(reply.wants):
            if want.cid.multihash in read.hidden:
                read.blocks[at] = None

    async def _take_back(self) -> None:
        """End what is being written when some of it is not for the peer any more: it may read slowly, or not at all."""
        looked_at = self._gate.generation
        while True:
            if looked_at == self._gate.generation:
                await self._changed.wait()
            looked_at = self._gate.generation
            sending = self._sending
            if sending is None:
                continue
            now = _Read(looked_at, [None] * len(sending.reply.wants))
            await trio.to_thread.run_sync(self._look, sending.reply, now, limiter=self._threads)
            if sending is self._sending and any(want.cid.multihash in now.hidden for want, _ in sending.payload):
                sending.read.hidden = now.hidden
                sending.scope.cancel()

    def _one(self, want: PeerWant) -> Buffer | None:
        try:
            return self._store.get_block(want.cid.multihash)
        except Exception:
            # Whatever is wrong with the store, the peer only hears that the block is not here.
            log.exception("The block %s cannot be served", want.cid)
            return None

    def _together(self, wants: Sequence[PeerWant]) -> Mapping[bytes, Buffer]:
        """Those that the store has, looked up at once. What it does not give is asked for by itself."""
        get_blocks = getattr(self._store, "get_blocks", None)
        try:
            if get_blocks is not None and len(wants) > 1:
                return get_blocks([want.cid.multihash for want in wants])
        except Exception:
            # What is wrong with one of them is said where it is read by itself.
            log.exception("Blocks cannot be read together")
        return {}

    def _leaves(self, wants: Sequence[PeerWant], buffer: bytearray | None) -> Sequence[Buffer | None]:
        """Those that the store can put into the buffer."""
        if buffer is not None:
            read_leaves = getattr(self._store, "read_leaves", None)
            try:
                if read_leaves is not None:
                    return read_leaves([want.cid.multihash for want in wants], memoryview(buffer))
            except Exception:
                # They are read one by one then, and what is wrong with one is said there.
                log.exception("Blocks cannot be read together")
        return [None] * len(wants)

    async def _write_replies(self, from_reader: trio.MemoryReceiveChannel[tuple[Reply, _Read]]) -> None:
        while True:
            work: tuple[Reply, _Read] | None = None
            with trio.move_on_after(limits.STREAM_IDLE_CLOSE if self._out.is_open else float("inf")):
                work = await from_reader.receive()
            if work is None:
                await self._out.close()
                continue
            reply, read = work
            began = trio.current_time()
            sent, size = await self._write(reply, read)
            if read.buffer is not None:
                self._buffers.give_back(read.buffer)
            self._finish(reply, sent, size, trio.current_time() - began)
            del work, reply, read
            self._finished()

    async def _write(self, reply: Reply, read: _Read) -> tuple[int, int]:
        await self._look_anew(reply, read)
        presences = list(reply.presences)
        if read.hidden:
            presences = [each for each in presences if not (each.have and each.cid.multihash in read.hidden)]
            withheld = [self._engine.withheld(want) for want in reply.haves if want.cid.multihash in read.hidden]
            presences += [presence for presence in withheld if presence is not None]
        payload: list[tuple[PeerWant, Buffer]] = []
        for want, block in zip(reply.wants, read.blocks, strict=True):
            if block is None:
                presence: Presence | None = self._engine.vanished(want)
                if presence is not None:
                    presences.append(presence)
            elif self._engine.still_wanted(want):
                payload.append((want, block))
        self._engine.written(reply)
        attempts = 0
        while payload or presences:
            if read.generation != self._gate.generation:
                await self._look_anew(reply, read)
                payload, presences = self._left(payload, presences, read)
                continue
            attempts += 1
            scope = trio.CancelScope()
            if payload and read.restricted:
                self._sending = _Sending(reply, read, payload, scope)
            try:
                stream = await self._out.get()
                if payload or speaks_presence(stream.protocol):
                    parts = encode(
                        protocol=stream.protocol,
                        blocks=[(want.cid, block) for want, block in payload],
                        presences=presences,
                        pending_bytes=reply.pending_bytes,
                    )
                    if not scope.cancel_called:
                        try:
                            with scope:
                                await self._write_parts(stream, parts)
                        finally:
                            self._note(payload, read)  # also where only a part of it got there
                        if not scope.cancelled_caught:
                            size = sum(len(block) for _, block in payload)
                            if payload and self._counted is not None:
                                self._counted.sent(self._peer, payload[0][0].cid.multihash, len(payload), size)
                            return len(payload), size
                        await self._out.reset()  # the rest of the message does not go out
                elif not scope.cancel_called:
                    return 0, 0
                # What is still for the peer goes in another message.
                attempts = 0
                payload, presences = self._left(payload, presences, read)
            except KacheryError as error:
                log.debug("replying to %s: %s", self._peer, error)
                await self._out.reset()
                if attempts == limits.STREAM_ATTEMPTS:
                    self._engine.cancel_all(self._peer)
                    break
            finally:
                self._sending = None
        return 0, 0

    async def _look_anew(self, reply: Reply, read: _Read) -> None:
        """See that what was found for the peer is still for it: it may have waited for its turn meanwhile."""
        while read.generation != self._gate.generation:
            read.generation = self._gate.generation
            await trio.to_thread.run_sync(self._look, reply, read, limiter=self._threads)

    def _left(
        self, payload: Sequence[tuple[PeerWant, Buffer]], presences: Sequence[Presence], read: _Read
    ) -> tuple[list[tuple[PeerWant, Buffer]], list[Presence]]:
        """What of a message is still for the peer. Of the rest it is told what is told of what is not here."""
        gone = [want for want, _ in payload if want.cid.multihash in read.hidden]
        told = [each for each in presences if not (each.have and each.cid.multihash in read.hidden)]
        told += filter(None, map(self._engine.withheld, gone))
        return [each for each in payload if each[0].cid.multihash not in read.hidden], told

    def _note(self, payload: Sequence[tuple[PeerWant, Buffer]], read: _Read) -> None:
        """Remember who was given what is not for everyone."""
        if self._served is not None and read.restricted:
            for want, block in payload:
                if want.cid.multihash in read.restricted:
                    self._served.note(self._peer, want.cid.multihash, len(block))

    async def _write_parts(self, stream: StreamLike, parts: Sequence[Buffer]) -> None:
        """Write a message, watching that the peer takes it."""
        for group in _pieces(parts, self._piece):
            began = self._stuck_since = trio.current_time()
            with trio.move_on_after(limits.REPLY_STALL_TIMEOUT) as scope:
                await stream.write_parts(group)
            self._stuck_since = float("inf")
            if scope.cancelled_caught:
                log.info("The peer %s does not read what it asked for.", self._peer)
                self.abort()
                await trio.lowlevel.checkpoint()
            took = trio.current_time() - began
            if took > 2.0:
                self._piece = limits.REPLY_WRITE_PIECE
            elif took < 0.25:
                self._piece = min(2 * self._piece, 2 * limits.MAX_MESSAGE_SIZE)


def _pieces(parts: Sequence[Buffer], size: int) -> list[list[Buffer]]:
    """The parts in groups of about `size` bytes, without copying; one group when they are not more than that."""
    if sum(len(part) for part in parts) <= size:
        return [list(parts)]
    groups: list[list[Buffer]] = [[]]
    room = size
    for part in parts:
        view = memoryview(part)
        while len(view):
            groups[-1].append(view[:room])
            taken = min(room, len(view))
            view = view[taken:]
            room -= taken
            if room == 0:
                groups.append([])
                room = size
    return [group for group in groups if group]
