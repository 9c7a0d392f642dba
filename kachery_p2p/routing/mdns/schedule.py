"""When to ask and when to answer on one interface. Sans-IO.

Questions come in quick succession when an interface comes into use, then every few minutes; somebody else's question
counts as ours, for its answers reach us too. An answer waits a random moment, so that the nodes of a network do not all
speak at once, and at least a second after the last one; all who ask in between are served by it.
"""

from __future__ import annotations

import math
import random

from kachery_p2p.routing.mdns import limits


class InterfaceSchedule:
    """The timetable of one interface."""

    def __init__(self, now: float, rng: random.Random) -> None:
        self._rng = rng
        self._pause = limits.QUERY_FIRST
        self._query_at = now + rng.uniform(*limits.ANSWER_DELAY)
        self._last_query = -math.inf
        self._answer_at = math.inf
        self._last_answer = -math.inf
        self._announcements = 0
        self._unicast = float(limits.UNICAST_RATE)
        self._unicast_at = now
        self.announce(now)

    def announce(self, now: float) -> None:
        """Tell everybody about us without being asked, soon and once more a second later."""
        self._announcements = limits.ANNOUNCEMENTS
        self.asked(now)

    # --- what happens ----------------------------------------------------------------------------------------------

    def asked(self, now: float) -> None:
        """Somebody wants to know about us."""
        soon = max(now, self._last_answer + limits.ANSWER_PAUSE) + self._rng.uniform(*limits.ANSWER_DELAY)
        self._answer_at = min(self._answer_at, soon)

    def heard_question(self, now: float) -> None:
        """Somebody else asked for all nodes, without naming any that it knows: we need not ask for a while."""
        if self._pause >= limits.QUERY_MOST:
            self._asked_at(now)

    def may_answer_one(self, now: float) -> bool:
        """Whether an answer to one address alone may be sent; counts it."""
        passed, self._unicast_at = now - self._unicast_at, now
        self._unicast = min(self._unicast + passed * limits.UNICAST_RATE, float(limits.UNICAST_RATE))
        if self._unicast < 1:
            return False
        self._unicast -= 1
        return True

    # --- what is to be done ----------------------------------------------------------------------------------------

    def next_at(self, refresh_at: float) -> float:
        """When to ask or to answer next. `refresh_at`: when a record should be asked for again."""
        return min(self._answer_at, self._next_query(refresh_at))

    def _next_query(self, refresh_at: float) -> float:
        return min(self._query_at, max(refresh_at, self._last_query + limits.REFRESH_PAUSE))

    def take_query(self, refresh_at: float, now: float) -> bool:
        """Whether to ask now."""
        if self._next_query(refresh_at) > now:
            return False
        if self._query_at <= now and self._pause < limits.QUERY_MOST:
            self._last_query, self._query_at = now, now + self._pause
            self._pause *= limits.QUERY_GROWTH
        else:
            self._asked_at(now)
        return True

    def _asked_at(self, now: float) -> None:
        jitter = self._rng.uniform(1 - limits.QUERY_JITTER, 1 + limits.QUERY_JITTER)
        self._last_query, self._query_at = now, now + min(self._pause, limits.QUERY_MOST) * jitter

    def take_answer(self, now: float) -> bool:
        """Whether to answer, or announce us, now."""
        if self._answer_at > now:
            return False
        self._answer_at, self._last_answer = math.inf, now
        self._announcements -= self._announcements > 0
        if self._announcements:
            self._answer_at = now + limits.ANSWER_PAUSE
        return True
