"""Fair shares of the event loop: what a peer may make this node do, and when others get their turn.

Most of what a peer sends costs it next to nothing and us a few microseconds, and trio lets a task run until it waits.
Two things keep one peer from having the loop to itself:

- `Turn` ends a task's turn after some items or a millisecond, so that a loop over buffered input never runs on.
- `Allowance` is a token bucket for the work that one peer causes. It is never an error to overdraw it: whoever feeds
  the work waits until the debt is paid, and reads nothing meanwhile, so that the peer is held up by its own socket.
  The peers that are in debt share one `Pool`, so a hundred of them together get no more than that. A peer that pays
  its way, with few small messages or with many bytes, never waits and never notices.

Turns alone are not enough: with ten busy peers, or with a thousand tasks of one peer, the round of all turns is long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

#: Items after which a turn ends, whatever the clock says: clocks are coarse on some systems.
TURN_ITEMS = 64
#: Seconds after which a turn ends. An answer to an honest peer takes some ten turns of others.
TURN_SECONDS = 0.001
#: Whoever is in debt waits for at least so long: timers that fire every few microseconds cost more than they pace.
SHORTEST_WAIT = 0.005
#: On a machine that is busy with other things the loop runs late. Time beyond this pays no debts, else the late rounds
#: would be the long ones, too; a peer that had no debts for PACED_SECONDS is given all of its time.
LATE_SECONDS = 0.02
PACED_SECONDS = 1.0
#: A peer counts as one of those in debt until it has not waited for so long. One that causes more than it may is back
#: in a moment; were it not counted meanwhile, those that wake after it would each be given part of its share, too.
COUNTED_SECONDS = 0.1


class Turn:
    """How long a task has been at work since it last let the others run."""

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The task has just waited for something: its turn begins."""
        self._left = TURN_ITEMS
        self._since = self._clock()

    def is_over(self, items: int = 1) -> bool:
        """Count some items; whether others should run now."""
        self._left -= items
        return self._left <= 0 or self._clock() - self._since >= TURN_SECONDS

    async def step(self, items: int = 1) -> None:
        """Count some items, and let the others run when the turn is over."""
        if self.is_over(items):
            await trio.lowlevel.checkpoint()
            self.begin()


class Pool:
    """What all peers in debt are given together, in units a second.

    Attributes:
        waiting: peers that wait at this moment.
    """

    __slots__ = ("_lately", "_rate", "waiting")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.waiting = 0
        #: Peers that do not wait now, but did: when they stopped, the earliest first.
        self._lately: dict[Allowance, float] = {}

    def enter(self, peer: Allowance) -> None:
        """The peer begins to wait."""
        self._lately.pop(peer, None)
        self.waiting += 1

    def leave(self, peer: Allowance, now: float) -> None:
        """The peer waits no longer."""
        self.waiting -= 1
        self._lately[peer] = now

    def share(self, now: float) -> float:
        """What each of the peers in debt is given, in units a second."""
        lately = self._lately
        while lately:
            first = next(iter(lately))
            if now - lately[first] < COUNTED_SECONDS:
                break
            del lately[first]
        return self._rate / max(self.waiting + len(lately), 1)


class Allowance:
    """What one peer may cause.

    Args:
        rate: units a second.
        burst: units that may be saved up. A fifth of them is there at the start: who comes under a new name every
            second must not gain by it.
        pool: shared by the peers that are in debt.
        clock: seconds, monotonic; that of trio.

    Attributes:
        units: what is left; below zero is debt. May be changed directly where every microsecond counts.
    """

    __slots__ = ("_at", "_burst", "_clock", "_paced_until", "_pool", "_queue", "_rate", "units")

    def __init__(self, rate: float, burst: float, pool: Pool, clock: Callable[[], float] = trio.current_time) -> None:
        self._rate = rate
        self._burst = burst
        self._pool = pool
        self._clock = clock
        self._at = clock()
        self._paced_until = self._at
        self._queue: trio.Lock | None = None
        self.units = burst / 5

    def spend(self, units: float) -> None:
        """The peer caused so much; less than nothing when it did something useful."""
        self.units = min(self.units - units, self._burst)

    @property
    def in_debt(self) -> bool:
        """Whether the peer should wait."""
        if self.units >= 0:
            return False
        self._refill()
        return self.units < 0

    def _refill(self, waited: float = 0.0) -> float:
        """Add what time has brought; the rate at which more comes.

        Args:
            waited: seconds for which it was meant to wait.
        """
        now = self._clock()
        elapsed = now - self._at
        if now < self._paced_until:
            elapsed = min(elapsed, waited + LATE_SECONDS)
        rate = min(self._rate, self._pool.share(now))
        self.units = min(self.units + elapsed * rate, self._burst)
        self._at = now
        return rate

    async def settle(self) -> bool:
        """Wait until the debt is paid, those of one peer in the order in which they came; whether there was one.

        Always a checkpoint where it waits, and none where it does not.
        """
        if not self.in_debt:
            return False
        if self._queue is None:
            self._queue = trio.Lock()
        async with self._queue:
            self._pool.enter(self)
            try:
                wait = 0.0
                while (rate := self._refill(wait)) and self.units < 0:
                    wait = max(-self.units / rate, SHORTEST_WAIT)
                    self._paced_until = self._at + wait + PACED_SECONDS
                    await trio.sleep(wait)
            finally:
                self._pool.leave(self, self._clock())
        return True
