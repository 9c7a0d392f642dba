"""What is known of one gateway while the node runs: how it has been doing, and how much may be asked of it.

Its window, the number of requests under way, begins at two, grows by one with each block that comes while the window is
in use (so it doubles with each round trip), and is halved by every failure. Since a new request goes out when an old
one ends, the gateway that is fastest gets the most. No I/O, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import FailureKind, GatewayRefusal, source_name

#: Weight of the newest block in the mean time that a block takes.
_NEW = 0.25


@dataclass(eq=False)
class Gateway:
    """One gateway. `seconds` is the mean time from asking for a block until it is there; 0 before the first."""

    base: str
    token: str | None = field(default=None, repr=False)
    car: bool = True
    window: int = limits.FIRST_WINDOW
    in_flight: int = 0
    http2: bool = False
    seconds: float = 0.0
    rest_until: float = 0.0
    dropped: str = ""
    failures: int = 0  # since it last delivered
    overtaken_in_row: int = 0
    blocks: int = 0
    bytes: int = 0
    refused: int = 0
    last_error: str = ""

    @property
    def name(self) -> str:
        """For counts, messages and status; the token is no part of it."""
        return source_name(self.base)

    def usable(self, now: float) -> bool:
        """Whether it may be asked."""
        return not self.dropped and now >= self.rest_until

    def free(self, now: float) -> int:
        """Requests that may be made now."""
        return max(0, self.window - self.in_flight) if self.usable(now) else 0

    def worth_waiting(self, now: float) -> bool:
        """Whether it may be asked now or soon."""
        return not self.dropped and self.rest_until - now <= limits.WORTH_WAITING

    def copy_after(self) -> float:
        """Seconds after which another gateway is asked for what this one was asked for."""
        if not self.seconds:
            return limits.COPY_UNTRIED
        return max(limits.COPY_AFTER, limits.COPY_TIMES * self.seconds)

    def rank(self) -> float:
        """Sorts gateways: those that nothing is known of first, so that they can show what they can; then the best."""
        tried = self.failures or self.overtaken_in_row
        return self.seconds if self.seconds or not tried else math.inf

    # --- what happened ----------------------------------------------------------------------------------------------

    def delivered(self, size: int, seconds: float) -> None:
        """A block came."""
        self.blocks += 1
        self.bytes += size
        self.failures = self.overtaken_in_row = 0
        self.seconds += (1.0 if not self.seconds else _NEW) * (seconds - self.seconds)
        if self.in_flight >= self.window:
            self.window = min(self.window + 1, limits.MAX_WINDOW_HTTP2 if self.http2 else limits.MAX_WINDOW)

    def overtaken(self, now: float) -> None:
        """Another gateway, asked later, brought the block first."""
        self.overtaken_in_row += 1
        self.window = max(1, self.window // 2)
        if self.overtaken_in_row >= limits.MAX_OVERTAKEN:
            self.overtaken_in_row = 0
            self._fail(now, "It is slower than others by far.", None)

    def refuse(self, refusal: GatewayRefusal, now: float) -> None:
        """A request brought no block."""
        self.refused += 1
        why = str(refusal)[: limits.MAX_ERROR_LENGTH]
        if refusal.kind is FailureKind.NO_CAR:
            self.car = False
            return
        if refusal.kind is FailureKind.ABSENT:
            self.last_error = why
        elif refusal.kind is FailureKind.LIED:
            self.dropped = self.last_error = why
        else:
            self._fail(now, why, refusal.pause)

    def _fail(self, now: float, why: str, pause: float | None) -> None:
        # Requests that were under way together fail together: that is one failure.
        if now >= self.rest_until:
            self.failures += 1
        self.window = max(1, self.window // 2)
        self.last_error = why
        rest = min(limits.REST_FIRST * 2 ** min(self.failures - 1, 16), limits.REST_LAST)
        self.rest_until = max(self.rest_until, now + (rest if pause is None else min(pause, limits.MAX_RETRY_AFTER)))

    def status(self, now: float) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "blocks": self.blocks,
            "bytes": self.bytes,
            "refused": self.refused,
            "resting": max(0.0, self.rest_until - now),
            "dropped": self.dropped,
            "last_error": self.last_error,
        }
