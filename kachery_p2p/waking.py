"""How a task tells other tasks that something has changed. There are three ways, and no fourth.

- `Signal` is for a condition that several tasks may wait for. It remembers nothing: a waiter looks at its condition,
  waits, and looks again. Because trio switches tasks at checkpoints only, nothing can change between the look and the
  wait, so no wake-up is lost:

      while not queue:
          await changed.wait()

- `Flag` is for a task that has work to do now and then. It remembers that it was set until the task takes it, however
  often it was set meanwhile.

- `Changes` is a `Signal` that counts, for who looks at something in a thread, say, and must miss nothing of what
  happens meanwhile: it waits with the count from before the look.

Something that happens once and stays so (closed, ready) is a `trio.Event`; one is never put in the place of another.

All belong to one event loop. From another thread, go through `trio.from_thread` or a `TrioToken`.
"""

from __future__ import annotations

import trio


class Signal:
    """Wakes all tasks that wait at that moment."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()

    def notify(self) -> None:
        """Wake all that wait now; who waits later is not woken by it."""
        if self._waiting:
            self._waiting.unpark_all()

    async def wait(self) -> None:
        """Wait for the next `notify`. Look at the condition again afterwards."""
        await self._waiting.park()


class Flag:
    """Set by anybody, taken by one task at a time. Setting it twice before it is taken is the same as once."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting = trio.lowlevel.ParkingLot()

    def __bool__(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Wake the task that waits, or let the next `take` return at once."""
        self._set = True
        self._waiting.unpark()

    async def take(self) -> None:
        """Wait until it is set, and clear it. Of several that wait, each `set` wakes one.

        Always a checkpoint. Cancelled while it waits, it leaves the flag as it is.
        """
        if self._set:
            await trio.lowlevel.checkpoint()
        while not self._set:
            await self._waiting.park()
        self._set = False

    def clear(self) -> None:
        """Forget that it was set."""
        self._set = False


class Changes:
    """Counts what has happened.

    Attributes:
        count: how often `happened` was called.
    """

    __slots__ = ("_signal", "count")

    def __init__(self) -> None:
        self.count = 0
        self._signal = Signal()

    def happened(self) -> None:
        """Count one more, and wake all that wait."""
        self.count += 1
        self._signal.notify()

    async def wait(self, seen: int) -> None:
        """Wait until more has happened than `count` was when it was `seen`; not at all where it has by now."""
        while self.count == seen:
            await self._signal.wait()
