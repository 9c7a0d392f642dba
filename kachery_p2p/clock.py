"""The time of a node: that in which its process runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

#: Seconds for which the event loop sleeps at most: a stop that begins and ends within that is not noticed.
LONGEST_SLEEP = 5.0
#: Seconds beyond the end of a sleep, or between two looks at the clock, for which the process may be busy or waiting
#: for the processor. It is taken for stopped after that.
STOPPED = 3.0


class RunningClock(trio.abc.Clock):
    """Stands still while the process is stopped (Ctrl-Z, SIGSTOP), or the virtual machine or container that it is in.

    The systems' own clocks do so while a laptop sleeps. All that a node waits for is others, and while it does not run
    itself they are not to blame: a load that is stopped for an hour goes on afterwards, where it would give up for
    want of an answer within its timeout. What must know the time of day asks `time.time`.

    Args:
        system: a clock in seconds that never goes back.
    """

    def __init__(self, system: Callable[[], float] = time.perf_counter) -> None:
        self._system = system
        self._last = system()
        #: When the sleep that the loop is in ends at the latest.
        self._awake_by = self._last
        #: Seconds that did not count.
        self._lost = 0.0

    def start_clock(self) -> None:
        """Nothing is to be done."""

    def current_time(self) -> float:
        """Seconds in which the process ran, from an unknown beginning."""
        now = self._system()
        due = max(self._last, self._awake_by)
        if now > due + STOPPED:
            self._lost += now - due
        self._last = now
        return now - self._lost

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """How long the loop may sleep; it looks at the clock then."""
        seconds = min(max(deadline - self.current_time(), 0.0), LONGEST_SLEEP)
        self._awake_by = self._last + seconds
        return seconds
