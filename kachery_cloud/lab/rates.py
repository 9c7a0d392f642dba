"""How often somebody may ask. No input or output, and no clock of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kachery_cloud.lab import limits


class Rate:
    """So many requests at once, and so many more each second, for each of those who ask (a token bucket).

    Args:
        rate: both numbers.
        clock: seconds, from any beginning.
        most: how many are counted at the same time. The one that was seen longest ago is forgotten.
    """

    def __init__(self, rate: tuple[int, float], clock: Callable[[], float], *, most: int = limits.MAX_COUNTED) -> None:
        self._burst, self._each_second = rate
        self._clock = clock
        self._most = most
        #: When each has all its requests again. Who is not here has all of them.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str) -> float:
        """Count a request.

        Returns:
            0 where it may be answered; else the seconds until one may be.
        """
        now, cost = self._clock(), 1 / self._each_second
        full_at = max(now, self._full_at.get(who, now)) + cost
        wait = full_at - now - self._burst * cost
        if wait > 1e-9:
            return wait
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        while len(self._full_at) > self._most:
            self._full_at.popitem(last=False)
        return 0.0
