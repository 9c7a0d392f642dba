"""DHT messages over the streams of a host: questions to peers, and answers to theirs.

On the wire (libp2p kad-dht specification) each message has its length in front, as a varint. A stream carries any
number of questions one after the other; the answers come in the same order. ADD_PROVIDER has no answer at all: an echo
would be taken for the answer to the next question.

Streams are kept for the next question to the same peer and closed when none comes. One that failed, was cut short by a
cancelled question, or carried garbage is torn down, since nobody could say whose answer comes next on it. A stream that
was kept may have been closed by the peer meanwhile, so a question that fails on such a stream is asked once more on a
new one; all questions of the DHT can be asked twice.

A peer that asks in a row, on however many streams, is answered at a pace (`Allowance`): its next question is not read
before its time has come.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import MalformedMessage, StreamEOF, StreamError
from kachery_p2p.routing.dht import shell_limits
from kachery_p2p.routing.dht.messages import DhtMessage, MessageType, decode, encode
from kachery_p2p.routing.dht.shell_limits import ShellLimits
from kachery_p2p.turns import Allowance, Pool
from kachery_p2p.wire import delimited, read_length

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from kachery_p2p.routing.interfaces import HostLike, StreamLike

log = logging.getLogger("kachery_p2p.routing")


def frame(message: DhtMessage) -> bytes:
    """A message as it stands on the wire."""
    return delimited(encode(message))


async def read_message(stream: StreamLike, most: int) -> DhtMessage | None:
    """The next message of a stream; None when the peer has ended its side.

    Raises:
        MalformedMessage: longer than `most` bytes, or not a message.
        StreamError: the stream broke, or ended in the middle of a message.
    """
    first = await stream.read(1)
    return await _read_rest(stream, first, most) if first else None


async def _read_rest(stream: StreamLike, byte: bytes | bytearray, most: int) -> DhtMessage:
    """The message that begins with a byte that was read already."""
    length = await read_length(stream, most, f"The peer {stream.peer} sent a DHT message", byte)
    if length <= shell_limits.READ_PIECE:
        return decode(bytes(await stream.read_exactly(length)) if length else b"")
    body = bytearray()
    while len(body) < length:
        body += await stream.read_exactly(min(length - len(body), shell_limits.READ_PIECE))
    return decode(bytes(body))


class _Lane:
    """Our streams to one peer."""

    __slots__ = ("idle", "slots", "users")

    def __init__(self) -> None:
        self.idle: list[tuple[float, StreamLike]] = []
        self.slots = trio.Semaphore(shell_limits.MAX_STREAMS_PER_PEER)
        self.users = 0


class Rpc:
    """The messages of one DHT protocol.

    Args:
        host: what carries the streams.
        protocol: the protocol's name.
        answer: gives the answer to a question of a peer, or None where there is to be none. Raises nothing but
            `MalformedMessage`, which ends the stream.
        bounds: of this DHT.
    """

    def __init__(
        self,
        host: HostLike,
        protocol: str,
        answer: Callable[[DhtMessage, str], DhtMessage | None],
        bounds: ShellLimits = shell_limits.DEFAULTS,
    ) -> None:
        self._limits = bounds
        self._host = host
        self.protocol = protocol
        self._answer = answer
        self._lanes: dict[str, _Lane] = {}
        self._room = trio.Semaphore(shell_limits.MAX_REQUESTS)
        #: streams of peers, the one silent for longest first
        self._inbound: OrderedDict[StreamLike, trio.CancelScope] = OrderedDict()
        self._inbound_of: dict[str, int] = {}
        self._pool = Pool(bounds.ask_pool)
        self._askers: OrderedDict[str, Allowance] = OrderedDict()
        self._serving = False
        self.sent = self.received = self.failed = self.answered = self.refused = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close idle streams until cancelled; then all of them."""
        forget = self._host.on_disconnected(self._forget)
        try:
            task_status.started()
            while True:
                await trio.sleep(self._limits.stream_idle)
                await self.close_idle(trio.current_time() - self._limits.stream_idle)
        finally:
            forget()
            self.serve_peers(False)
            with trio.CancelScope(shield=True):
                await self.close_idle(float("inf"))

    # --- questions -------------------------------------------------------------------------------------------------

    async def ask(self, peer: str, message: DhtMessage) -> DhtMessage:
        """Ask a connected peer, and return its answer.

        Raises:
            ProtocolNotSupported: it does not speak this DHT (a client).
            StreamError: it is not connected, did not answer in time, or its answer is garbage.
        """
        return await self._exchange(peer, frame(message))

    async def tell(self, peer: str, messages: Sequence[DhtMessage], last: DhtMessage) -> DhtMessage:
        """Send messages that have no answer, and then a question: its answer shows that the peer took them all.

        Raises:
            ProtocolNotSupported, StreamError: as `ask`.
        """
        return await self._exchange(peer, b"".join([*map(frame, messages), frame(last)]))

    async def _exchange(self, peer: str, data: bytes) -> DhtMessage:
        timeout = self._limits.request_timeout
        try:
            with trio.fail_after(timeout):
                async with self._lane(peer) as lane:
                    return await self._on_some_stream(peer, lane, data)
        except trio.TooSlowError as error:
            self.failed += 1
            raise StreamError(f"The peer {peer} did not answer within {timeout:g} seconds.") from error
        except StreamError:
            self.failed += 1
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.failed += 1
            raise StreamError(f"The stream with the peer {peer} broke.") from error

    @asynccontextmanager
    async def _lane(self, peer: str) -> AsyncGenerator[_Lane, None]:
        lane = self._lanes.get(peer)
        if lane is None:
            lane = self._lanes[peer] = _Lane()
        lane.users += 1
        try:
            async with lane.slots, self._room:
                yield lane
        finally:
            lane.users -= 1
            if not lane.users and not lane.idle and self._lanes.get(peer) is lane:
                del self._lanes[peer]

    async def _on_some_stream(self, peer: str, lane: _Lane, data: bytes) -> DhtMessage:
        while lane.idle:
            _, stream = lane.idle.pop()
            try:
                return await self._on_stream(stream, lane, data)
            except MalformedMessage:
                raise
            except StreamError as error:
                # The peer may have closed it while nobody used it.
                log.debug("a kept stream failed: %s", error)
        stream = await self._host.open_stream(peer, [self.protocol], timeout=self._limits.request_timeout)
        return await self._on_stream(stream, lane, data)

    async def _on_stream(self, stream: StreamLike, lane: _Lane, data: bytes) -> DhtMessage:
        try:
            await stream.write(data)
            self.sent += 1
            answer = await read_message(stream, shell_limits.MAX_ANSWER_SIZE)
            if answer is None:
                raise StreamEOF(f"The peer {stream.peer} closed the stream instead of answering.")
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        if self._lanes.get(stream.peer) is lane:
            lane.idle.append((trio.current_time(), stream))
        else:  # the connection went meanwhile
            await stream.close()
        return answer

    async def close_idle(self, before: float) -> None:
        """Close our streams that were last used at that time (trio's clock) or before."""
        closing: list[StreamLike] = []
        for peer, lane in list(self._lanes.items()):
            closing += [stream for used, stream in lane.idle if used <= before]
            lane.idle = [entry for entry in lane.idle if entry[0] > before]
            if not lane.idle and not lane.users:
                del self._lanes[peer]
        for stream in closing:
            await stream.close()

    def _forget(self, peer: str) -> None:
        """The last connection of a peer is gone, and its streams with it."""
        self._askers.pop(peer, None)
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.idle.clear()
            if not lane.users:
                del self._lanes[peer]

    # --- answers ---------------------------------------------------------------------------------------------------

    def serve_peers(self, serve: bool) -> None:
        """Whether peers can ask us (server mode).

        When that ends, so do their streams: a peer that went on getting answers would keep us in its table.
        """
        if serve and not self._serving:
            self._host.set_handler(self.protocol, self._serve)
        elif self._serving and not serve:
            self._host.remove_handler(self.protocol)
            for scope in list(self._inbound.values()):
                scope.cancel()
        self._serving = serve

    async def _serve(self, stream: StreamLike) -> None:
        """One stream of a peer, until it ends, is idle, or has to make way."""
        self._make_room(stream.peer)
        with trio.CancelScope() as scope:
            self._inbound[stream] = scope
            self._inbound_of[stream.peer] = self._inbound_of.get(stream.peer, 0) + 1
            try:
                await self._answer_all(stream)
                return
            finally:
                self._let_go(stream)
        await stream.reset()

    def _let_go(self, stream: StreamLike) -> None:
        """A stream ends, or has to: it counts no more."""
        if self._inbound.pop(stream, None) is not None:
            self._inbound_of[stream.peer] -= 1
            if not self._inbound_of[stream.peer]:
                del self._inbound_of[stream.peer]

    def _asker(self, peer: str) -> Allowance:
        """What a peer may still ask."""
        found = self._askers.get(peer)
        if found is None:
            found = self._askers[peer] = Allowance(self._limits.ask_rate, shell_limits.ASK_BURST, self._pool)
            if len(self._askers) > shell_limits.MAX_ASKERS:
                self._askers.popitem(last=False)
        self._askers.move_to_end(peer)
        return found

    async def _answer_all(self, stream: StreamLike) -> None:
        allowance = self._asker(stream.peer)
        while True:
            await allowance.settle()
            first = b""
            with trio.move_on_after(self._limits.serve_idle):
                first = await stream.read(1)
            if not first:
                return
            try:
                with trio.fail_after(self._limits.message_timeout):
                    message = await _read_rest(stream, first, shell_limits.MAX_REQUEST_SIZE)
            except trio.TooSlowError as error:
                raise StreamError(f"The peer {stream.peer} began a DHT message and did not end it.") from error
            self.received += 1
            if stream in self._inbound:
                self._inbound.move_to_end(stream)
            is_record = message.type is MessageType.ADD_PROVIDER
            allowance.spend(shell_limits.RECORD_COST if is_record else shell_limits.QUESTION_COST)
            try:
                answer = self._answer(message, stream.peer)
            except MalformedMessage:
                self.refused += 1
                raise
            if answer is None:
                await trio.lowlevel.checkpoint()
                continue
            try:
                with trio.fail_after(self._limits.answer_timeout):
                    await stream.write(frame(answer))
            except trio.TooSlowError as error:
                raise StreamError(f"The peer {stream.peer} does not read our answers.") from error
            self.answered += 1

    def _make_room(self, peer: str) -> None:
        """One more stream is coming: those that are silent for longest make way."""
        if self._inbound_of.get(peer, 0) >= shell_limits.MAX_INBOUND_PER_PEER:
            oldest = next(stream for stream in self._inbound if stream.peer == peer)
        elif len(self._inbound) >= self._limits.max_inbound:
            oldest = next(iter(self._inbound))
        else:
            return
        # At once, not when its task comes to it: several may come in the same instant, and each needs another's place.
        self._inbound[oldest].cancel()
        self._let_go(oldest)

    def open_streams(self) -> tuple[int, int]:
        """Streams kept to peers, and streams of peers."""
        return sum(len(lane.idle) for lane in self._lanes.values()), len(self._inbound)
