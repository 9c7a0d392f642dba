"""Group commit: callers that come while others are served share the next turn, and so its syncs and its transaction."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Caller(Generic[T]):
    """A caller that waits: what it brings, and whether that was done, or failed."""

    __slots__ = ("done", "error", "item", "leads", "size", "woken")

    def __init__(self, item: T, size: int) -> None:
        self.item = item
        self.size = size
        self.woken = threading.Event()
        self.done = False
        self.leads = False
        self.error: Exception | None = None


class GroupCommit(Generic[T]):
    """Does the work of many threads in turns. One caller at a time does it, for all that wait; nobody waits for more.

    Args:
        work: does it for some items, all or none; an Exception is raised to each of their callers.
        most: the sizes of the items of one turn, together; a single item may be larger.
    """

    def __init__(self, work: Callable[[list[T]], object], most: int) -> None:
        self._work = work
        self._most = most
        self._guard = threading.Lock()
        self._waiting: deque[_Caller[T]] = deque()
        self._led = False

    def do(self, item: T, size: int) -> None:
        """Have an item done, perhaps by another thread; it is done when this returns.

        Args:
            item: what the work is given.
            size: counts against `most`.
        """
        mine = _Caller(item, size)
        try:
            with self._guard:
                self._waiting.append(mine)
                if not self._led:
                    mine.leads = self._led = True
            if not mine.leads:
                mine.woken.wait()
            if mine.leads:
                self._lead()
        finally:
            # Also where an interrupt ended the waiting or the work: somebody else goes on then.
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                if mine.leads:
                    self._led = False
                    if self._waiting:
                        following = self._waiting[0]
                        following.leads = self._led = True
                        following.woken.set()
        if mine.error is not None:
            # Each thread gets one of its own: an error collects the frames that it passes.
            raise mine.error if mine.leads else copy.copy(mine.error)

    def _lead(self) -> None:
        turn: list[_Caller[T]] = []
        size = 0
        with self._guard:
            while self._waiting and (not turn or size + self._waiting[0].size <= self._most):
                turn.append(self._waiting.popleft())
                size += turn[-1].size
        try:
            self._work([caller.item for caller in turn])
            for caller in turn:
                caller.done = True
        except Exception as error:  # noqa: BLE001 - it is raised to each of the callers
            for caller in turn:
                caller.error, caller.done = error, True
        finally:
            with self._guard:
                # An interrupt was for this thread alone; the others are served in the next turn.
                self._waiting.extendleft(caller for caller in reversed(turn) if not caller.done)
            for caller in turn:
                if caller.done:
                    caller.woken.set()
