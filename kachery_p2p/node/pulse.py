"""How late the event loop of a node is: what every peer and every request waits for.

A task asks to be woken again and again, and looks how much later it is. One that takes the loop for too long shows in
the upper buckets, whoever it is.
"""

from __future__ import annotations

from bisect import bisect_left

import trio

#: Seconds between two looks: often enough to meet what lasts, and 0.01 % of a core.
INTERVAL = 0.5
#: Upper ends of the buckets, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Pulse:
    """A histogram of how late the loop was.

    Attributes:
        counts: of looks in each bucket, and above the last one.
        total: seconds of all of them.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            self.late(trio.current_time() - due)

    def late(self, seconds: float) -> None:
        """The loop was so late."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds
