"""Messages from a stream: length, body, limits, and how long to wait for a body that stops coming."""

from __future__ import annotations

from collections.abc import Callable

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.buffers import Buffers
from kachery_p2p.bitswap.interfaces import StreamLike
from kachery_p2p.bitswap.messages import read_length
from kachery_p2p.errors import MalformedMessage, StreamEOF, StreamError
from kachery_p2p.waking import Signal

#: Bytes read at a time while looking for the next length; what follows it in there is copied once more.
_READ_AHEAD = 4096
#: Bodies up to this size are not counted against the memory budget: as many as there are streams cost little.
SMALL_BODY = 16 * limits.KIB
_MIN_PIECE = 16 * limits.KIB


class ByteBudget:
    """A number of bytes that may be held at once; a reader that wants more waits for its turn.

    Args:
        shared: several peers hold bytes of it. While one waits, the slowest of those that take too long gives way.
    """

    def __init__(self, size: int, *, shared: bool = False) -> None:
        self.size = size
        self._shared = shared
        self.used = 0
        self.holders: set[MessageReader] = set()
        self._released = Signal()

    async def acquire(self, count: int) -> None:
        """Take `count` bytes, waiting while others hold too many. A single huge request is let through alone."""
        while self.used and self.used + count > self.size:
            with trio.move_on_after(limits.CROWDED_LOOK if self._shared else float("inf")) as look:
                await self._released.wait()
            if look.cancelled_caught:
                self._make_way()
        self.used += count

    def _make_way(self) -> None:
        now = trio.current_time()
        slow = [each for each in self.holders if each.is_slow(now)]
        if slow:
            min(slow, key=lambda each: each.rate(now)).give_way()

    def release(self, count: int) -> None:
        """Give them back."""
        self.used -= count
        self._released.notify()


class MessageReader:
    """Reads message bodies from one stream, each into a buffer of its own that later holds the blocks.

    Args:
        stream: is read to its end.
        budgets: that the bodies are on.
        progress: called with numbers of bytes as they come.
        buffers: where those for large bodies come from, and go.
    """

    def __init__(
        self,
        stream: StreamLike,
        budgets: tuple[ByteBudget, ...],
        progress: Callable[[int], None],
        buffers: Buffers | None = None,
    ) -> None:
        self._stream = stream
        self._budgets = budgets
        self._buffers = buffers or Buffers(0)
        self._progress = progress
        self._ahead = b""
        self._piece = limits.BODY_READ_PIECE
        #: of the last body
        self._held = 0
        self._buffer: bytearray | None = None
        #: of the body that is coming
        self._began = 0.0
        self._got = 0
        self._scope = trio.CancelScope()
        #: Bodies that were handed over and are not done.
        self._elsewhere = 0
        self._came_back = Signal()

    def rate(self, now: float) -> float:
        """Bytes a second of the body that is coming."""
        return self._got / max(now - self._began, 1e-3)

    def is_slow(self, now: float) -> bool:
        """Whether it should not hold room for which others wait."""
        return now - self._began > limits.CROWDED_SECONDS and self.rate(now) < limits.CROWDED_RATE

    def give_way(self) -> None:
        """Give the body up."""
        self._scope.cancel()

    async def next(self) -> bytes | memoryview | None:
        """The next body, or None at the orderly end of the stream.

        The memory of the body is on the budgets until `done` is called, or what `hand_over` gave.

        Raises:
            MalformedMessage: the length is bad, or the body stops coming.
            StreamEOF: the message is truncated.
            StreamError: the stream broke.
        """
        while True:
            found = read_length(self._ahead, 0, len(self._ahead))
            if found is not None:
                break
            more = await self._stream.read(_READ_AHEAD)
            if not more:
                if self._ahead:
                    raise StreamEOF(f"The peer {self._stream.peer} ended a stream within the length of a message.")
                return None
            self._ahead = self._ahead + more if self._ahead else more
        size, start = found
        end = start + size
        ahead = self._ahead
        if len(ahead) >= end:
            self._ahead = ahead[end:]
            return ahead[start:end]
        self._ahead = b""
        if size > SMALL_BODY:
            await self._acquire(size)
        try:
            if size >= limits.REUSED_MESSAGE:
                self._buffer = self._buffers.take(size)
                body = memoryview(self._buffer)[:size]
            else:
                body = memoryview(bytearray(size))
            here = len(ahead) - start
            body[:here] = memoryview(ahead)[start:]
            self._began, self._got, self._scope = trio.current_time(), 0, trio.CancelScope()
            if self._held:
                for budget in self._budgets:
                    budget.holders.add(self)
            with self._scope:
                await self._fill(body[here:])
            if self._scope.cancelled_caught:
                raise StreamError(f"The peer {self._stream.peer} sends too slowly for the room it takes from others.")
        except BaseException:
            self.done()
            raise
        finally:
            for budget in self._budgets:
                budget.holders.discard(self)
        return body

    async def _acquire(self, size: int) -> None:
        for n, budget in enumerate(self._budgets):
            try:
                await budget.acquire(size)
            except BaseException:
                for taken in self._budgets[:n]:
                    taken.release(size)
                raise
        self._held = size

    def done(self) -> None:
        """The last body was dealt with; its bytes are on somebody else's account now, or free."""
        self._buffer = None
        if self._held:
            for budget in self._budgets:
                budget.release(self._held)
            self._held = 0

    def hand_over(self, *, reusable: bool = True) -> Callable[[bool], None]:
        """Let the caller keep the last body while the next one is read.

        Args:
            reusable: its memory may be used again when nobody looks at it any more.

        Returns:
            To be called in place of `done`, with whether anybody still looks at the body.
        """
        held, self._held = self._held, 0
        buffer, self._buffer = self._buffer, None
        self._elsewhere += 1

        def done(looked_at: bool) -> None:
            self._elsewhere -= 1
            self._came_back.notify()
            for budget in self._budgets:
                budget.release(held)
            if buffer is not None and reusable and not looked_at:
                self._buffers.give_back(buffer)

        return done

    async def all_done(self) -> None:
        """Wait until all that was handed over was dealt with."""
        while self._elsewhere:
            await self._came_back.wait()

    async def _fill(self, view: memoryview) -> None:
        """Read a body in pieces: large ones from a fast peer, small ones from a slow one to see that it is alive."""
        pos, end = 0, len(view)
        while pos < end:
            stop = min(pos + self._piece, end)
            began = trio.current_time()
            with trio.move_on_after(limits.BODY_STALL_TIMEOUT) as scope:
                await self._stream.read_into(view[pos:stop])
            if scope.cancelled_caught:
                raise MalformedMessage(
                    f"The peer {self._stream.peer} stopped within a message, {end - pos} bytes before its end."
                )
            self._progress(stop - pos)
            self._got += stop - pos
            took = trio.current_time() - began
            if took > 1.0:
                self._piece = max(self._piece // 4, _MIN_PIECE)
            elif took < 0.25:
                self._piece = min(self._piece * 2, limits.MAX_MESSAGE_SIZE)
            pos = stop
