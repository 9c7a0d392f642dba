"""How long the processes of one data directory wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds after which what stands in the file of a held lock is believed: a process that takes the lock writes at once.
SETTLING = 1.0
#: Seconds between looks at a lock that another process holds. It is a file lock: no event comes when it is free, on all
#: platforms that there are.
LOCK_PAUSE = 0.05


#: Seconds for which requests that are being answered may go on when the node is to stop.
STOP_SECONDS = 5.0
#: Seconds between looks whether a certificate was renewed: they are, weeks before they end.
TLS_INTERVAL = 60.0


@dataclass(frozen=True)
class NodeTimes:
    """Seconds to wait for a node.

    Attributes:
        establish: to become the node or reach the one that is. Starting one takes about two on a slow machine.
        answer: for a node, perhaps one that is still starting, to say what it is doing.
        hand_over: for a process that agreed to hand its place over to let go of the lock.
    """

    establish: float = 30.0
    answer: float = 30.0
    hand_over: float = 20.0


TIMES = NodeTimes()
