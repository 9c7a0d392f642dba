"""When the gateways of a session take part. Sans-IO.

Peers are asked for everything, at once. Gateways stand by, and bring only what no peer has, which is all of it where
there is no peer. They join for everything when the peers have had a head start and are slow. They stand back again as
soon as peers deliver well.

    standing by --(head start over, peers slow or silent)--> joined
    joined      --(peers deliver well)--> standing by
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.places import Places
from kachery_p2p.dag.cid import CID

#: Before anything happened.
_NEVER = -1e9


class Standby:
    """Whether the gateways of one session are asked for everything, and what the load has said of what it wants.

    Args:
        first: the first byte of the file that the session is about.
        last: the last such byte (inclusive); no bytes where it is before `first`. None for the end of the file.
        now: when the session begins.
    """

    def __init__(self, first: int, last: int | None, now: float) -> None:
        self.joined = False
        #: Peers that are being dialled.
        self.dialling = 0
        self.from_peers = _Rate()
        self.from_gateways = _Rate()
        #: From then on gateways bring what no peer has.
        self.begins = now + limits.NOBODY_START
        #: When the head start of the peers began.
        self._since = now
        self._joined_at = now
        self._gateway_rate = 0.0
        self._gateway_rate_at = _NEVER
        self._first, self._last = first, last
        #: Whether that may save a round trip: until leaves are wanted, by which time all that is left is known.
        self.car_helps = last is None or last >= first
        self.places = Places()
        #: Directories all of which is wanted, and how often one was asked for again.
        self.trees: list[CID] = []
        self.tree_tries = 0
        #: Requests for such that bring blocks: what else is wanted comes with them.
        self.flowing = 0
        #: Blocks that are asked for by themselves, because a CAR did not bring them.
        self.alone: set[bytes] = set()

    def wants_again(self, now: float) -> None:
        """Something is wanted, after nothing was: peers that used their last head start get a new one."""
        if self.from_peers.last >= self._since:
            self._since = now

    def head(self, most: int) -> tuple[int, int]:
        """The first and the last byte that are asked for together with the root, at most so many."""
        last = self._first + most - 1
        return self._first, last if self._last is None else max(self._first, min(self._last, last))

    def apart(self, multihashes: Iterable[bytes]) -> None:
        """Ask for these blocks by themselves from now on."""
        if len(self.alone) >= limits.MAX_PLACES:
            self.alone.clear()
        self.alone.update(multihashes)

    def came(self, size: int, now: float, *, gateway: bool) -> None:
        """A block came."""
        (self.from_gateways if gateway else self.from_peers).add(now, size)

    def helps_out(self, now: float) -> bool:
        """Whether gateways bring what no peer has. Not while somebody may be there in a moment."""
        return self.joined or (not self.dialling and now >= self.begins)

    def from_the_back(self, now: float) -> bool:
        """Whether gateways begin with what is wanted last, because peers are at work from the front."""
        return now - self.from_peers.last <= limits.RATE_SECONDS

    def takes_over(self, now: float) -> bool:
        """Whether gateways are asked also for what peers have under way."""
        return now - self.from_peers.last > limits.TAKE_OVER_SECONDS

    def judge(self, now: float, untaken: int) -> None:
        """Let the gateways join, or stand back.

        Args:
            now: the time.
            untaken: bytes that came and that the load has not taken.
        """
        if untaken >= limits.BACKLOG:
            self._since = now
            return
        if not self.joined:
            self.joined = now - self._since >= limits.HEAD_START and not self._peers_do_well(now, measured=True)
            self._joined_at = now
            return
        # Before, it would be compared what one has done in two seconds and the other in less.
        measured = now - self._joined_at >= limits.RATE_SECONDS
        if measured:
            self._gateway_rate, self._gateway_rate_at = self.from_gateways.per_second(now)[0], now
        if self._peers_do_well(now, measured=measured):
            self.joined = False
            self._since = now

    def _peers_do_well(self, now: float, *, measured: bool) -> bool:
        rate, blocks = self.from_peers.per_second(now)
        if now - self.from_peers.last > limits.TAKE_OVER_SECONDS:
            return False
        if rate >= limits.GREAT_RATE or not measured:
            return rate >= limits.GREAT_RATE
        known = self._gateway_rate if now - self._gateway_rate_at <= limits.REMEMBERED_RATE else 0.0
        if known:
            return rate >= known / 2
        return rate >= limits.GOOD_RATE or blocks >= limits.GOOD_BLOCKS


class _Rate:
    """Bytes and blocks of the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._log: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self.last = _NEVER

    def add(self, now: float, size: int) -> None:
        self._log.append((now, size))
        self._bytes += size
        self.last = now

    def per_second(self, now: float) -> tuple[float, float]:
        """(bytes, blocks) per second."""
        while self._log and self._log[0][0] < now - limits.RATE_SECONDS:
            self._bytes -= self._log.popleft()[1]
        return self._bytes / limits.RATE_SECONDS, len(self._log) / limits.RATE_SECONDS
