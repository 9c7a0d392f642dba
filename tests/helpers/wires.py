"""A line in memory between two `ByteIO`, on which a test can hold, cut and change what goes over it."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Direction:
    """One direction of the line.

    Attributes:
        sent: all that was put in so far.
        held: while True nothing comes out.
        step: so many bytes come out at once; 0 for all there are.
        change: what is made of the bytes on their way, with the position of the first one.
        cut: bytes after which the line is dead; None for never.
    """

    def __init__(self) -> None:
        self.sent = bytearray()
        self.held = False
        self.step = 0
        self.change: Callable[[bytes, int], bytes] = lambda data, position: data
        self.cut: int | None = None
        self._queue = bytearray()
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        position = len(self.sent)
        self.sent += data
        if self.cut is not None:
            data = data[: max(0, self.cut - position)]
        self._queue += self.change(data, position)
        if self.cut is not None and len(self.sent) >= self.cut:
            self._ended = True
        self._changed.unpark_all()

    def end(self) -> None:
        self._ended = True
        self._changed.unpark_all()

    def release(self) -> None:
        self.held = False
        self._changed.unpark_all()

    def take(self, buffer: memoryview) -> int:
        if self.held or not self._queue:
            if self._ended and not self._queue:
                return 0
            raise BlockingIOError
        size = min(len(buffer), len(self._queue), self.step or len(self._queue))
        buffer[:size] = self._queue[:size]
        del self._queue[:size]
        return size

    async def wait(self) -> None:
        if self.held or not (self._queue or self._ended):
            await self._changed.park()


class Wire:
    """One end of the line, as a `ByteIO`."""

    def __init__(self, incoming: Direction, outgoing: Direction) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    async def wait_readable(self) -> None:
        await self.incoming.wait()

    def recv_into(self, buffer: memoryview) -> int:
        return self.incoming.take(buffer)

    def send_nowait(self, data: memoryview) -> int:
        self.outgoing.put(bytes(data))
        return len(data)

    async def send_all(self, data: memoryview) -> None:
        self.outgoing.put(bytes(data))
        await trio.lowlevel.checkpoint()

    def shutdown_write(self) -> None:
        self.outgoing.end()

    def close(self) -> None:
        self.outgoing.end()
        self.incoming.end()


def wires() -> tuple[Wire, Wire]:
    """Both ends of a line."""
    there, back = Direction(), Direction()
    return Wire(back, there), Wire(there, back)
