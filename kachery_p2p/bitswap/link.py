"""One peer as a source: how fast it is, how much to ask of it, when to call it stalled. Sans-IO, clock given.

The window is the number of bytes asked for and not yet delivered. It starts at 1 MiB and doubles with every window
delivered for as long as the rate still rises (slow start, as in TCP); from then on it is what the peer delivers in half
a second, or in two round trips where that is more. A peer therefore holds work in proportion to its speed, and a slow
one cannot hold back much of it.

A gateway is a link, too: what is asked of it goes out as HTTP requests (`http_lane`) instead of wantlists. Its window
is measured in the same way, and bounded by the number of requests that it takes at once. It has no connection that
comes and goes. What takes its place is the rest: a gateway that fails, or asks for a pause, is left alone for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kachery_p2p.bitswap import limits

if TYPE_CHECKING:
    from kachery_p2p.bitswap.session import Ask, Member, PeerQuestion, Session

#: Shortest time over which a rate is measured: shorter ones measure the bursts of the receiving loop.
_SAMPLE_SECONDS = 0.1
#: Weight of a new sample in the running rate.
_SMOOTHING = 0.3
#: Slow start goes on while the rate rises by this factor, and ends after so many samples with a full window without it.
_RISE = 1.25
_FLAT_SAMPLES = 3


class PeerLink:
    """What the client knows of one peer, over all sessions."""

    __slots__ = (
        "_acc_bytes",
        "_acc_start",
        "_best_rate",
        "_flat",
        "asks",
        "block_asks",
        "blocks",
        "busy_since",
        "bytes",
        "connected",
        "duplicates",
        "last_sign",
        "latency",
        "limited",
        "members",
        "one_by_one",
        "outstanding",
        "peer",
        "presence",
        "probation",
        "probes",
        "questions",
        "rate",
        "retry_at",
        "retry_pause",
        "slow_start",
        "stalled",
        "standing",
        "window",
    )

    #: Whether it is a gateway, which is asked over HTTP.
    gateway: ClassVar[bool] = False

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.connected = False
        #: False for peers of Bitswap 1.1 and older, which know neither HAVE nor DONT_HAVE.
        self.presence = True
        self.members: dict[Session, Member] = {}
        #: Everything the remote believes we want of it, by multihash.
        self.asks: dict[bytes, Ask] = {}
        #: What it is asked for no session, by multihash.
        self.questions: dict[bytes, list[PeerQuestion]] = {}
        self.block_asks = 0
        self.probes = 0
        self.standing = 0
        self.outstanding = 0
        self.bytes = 0
        self.blocks = 0
        self.duplicates = 0
        self.stalled = False
        self.retry_pause = limits.RETRY_FIRST
        self.fresh(0.0)

    def fresh(self, now: float) -> None:
        """Forget what was measured: a new connection, or a new chance."""
        self.window = limits.INITIAL_WINDOW
        self.slow_start = True
        self.limited = False
        self.probation = False
        #: It is asked for one block at a time: then it is known which one is too large.
        self.one_by_one = False
        self.rate = 0.0
        self.latency = 0.0
        self.busy_since = now
        self.last_sign = now
        self.retry_at = 0.0
        self._acc_start = now
        self._acc_bytes = 0
        self._best_rate = 0.0
        self._flat = 0

    @property
    def usable(self) -> bool:
        """Whether new wants may be given to it."""
        return self.connected and not self.stalled

    def room(self, scale: float, block: int) -> int:
        """Bytes that may still be asked for, where one block is expected to have `block` bytes."""
        if self.probation or self.one_by_one:
            return block - self.outstanding
        return max(int(self.window * scale), 2 * block) - self.outstanding

    def asked(self, size: int, now: float) -> None:
        """A block was asked for."""
        if self.block_asks == 0:
            self.busy_since = now
            # Time without work does not count against its rate.
            self._acc_start += max(0.0, now - max(self.last_sign, self._acc_start))
        self.block_asks += 1
        self.outstanding += size

    def released(self, size: int) -> None:
        """A block that was asked for came, or is no longer expected."""
        self.block_asks -= 1
        self.outstanding -= size

    def delivered(self, size: int, asked_at: float, now: float) -> None:
        """A block came that had been asked of it."""
        self.last_sign = now
        latency = now - asked_at
        if latency > 0 and (self.latency == 0.0 or latency < self.latency):
            self.latency = latency
        self._acc_bytes += size
        elapsed = now - self._acc_start
        # A wider window shows one round trip later: a shorter sample would say nothing about it.
        if elapsed <= 0 or (elapsed < max(_SAMPLE_SECONDS, self.latency) and self._acc_bytes < self.window):
            return
        sample = self._acc_bytes / elapsed
        self.rate = sample if self.rate == 0.0 else self.rate + _SMOOTHING * (sample - self.rate)
        self._acc_start = now
        self._acc_bytes = 0
        if self.slow_start:
            if sample > _RISE * self._best_rate:
                self._best_rate = sample
                self._flat = 0
                if self.limited:
                    self.window = min(2 * self.window, limits.MAX_WINDOW)
            elif self.limited:
                self._flat += 1
                self.slow_start = self._flat < _FLAT_SAMPLES
        if not self.slow_start:
            seconds = max(limits.WINDOW_SECONDS, 2 * self.latency)
            window = int(min(max(self.rate * seconds, limits.MIN_WINDOW), limits.MAX_WINDOW))
            # A peer that was asked for less than the window holds could not show more.
            if self.limited or window > self.window:
                self.window = window
        self.limited = False

    def silent(self, now: float) -> None:
        """It owes blocks and sends nothing: it is stalled, until it delivers or a pause is over."""
        self.stalled = True
        self.retry_at = now + self.retry_pause
        self.retry_pause = min(2 * self.retry_pause, limits.RETRY_LAST)

    def recovered(self) -> None:
        """It delivered: whatever was held against it is forgotten."""
        self.stalled = False
        self.probation = False
        self.retry_pause = limits.RETRY_FIRST

    def patience(self, block: int) -> float:
        """Seconds of silence, while blocks are open, that make it a stalled peer."""
        expected = block / self.rate if self.rate > 0 else 0.0
        return max(limits.STALL_SECONDS, 4 * expected)

    def silent_for(self, now: float) -> float:
        """Seconds since it last gave a sign of life, or since it has had anything to deliver."""
        return now - max(self.last_sign, self.busy_since)

    def seconds_for(self, size: int) -> float:
        """How long one more block would take, behind what is already asked; a second when nothing is known."""
        if self.rate <= 0:
            return 1.0
        return (self.outstanding + size) / self.rate + self.latency * 0.5


class GatewayLink(PeerLink):
    """What the client knows of one gateway, over all sessions.

    `connected` says that it may be asked now or soon, and `stalled` that it must not be asked now.
    """

    __slots__ = (
        "car_bytes",
        "car_refusals",
        "dropped",
        "failures",
        "last_error",
        "most",
        "overtaken_in_row",
        "proven",
        "refused",
        "resting",
    )

    gateway: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.connected = True
        #: Bytes of a file that one CAR is asked for, and how often in a row it gave none.
        self.car_bytes = limits.CAR_BYTES
        self.car_refusals = 0
        #: Requests that it takes at once.
        self.most = limits.GATEWAY_REQUESTS
        #: Whether it has answered a request to the end, and well: a CAR may be right for long and then wrong.
        self.proven = False
        #: It asked for a pause, or failed: until `retry_at` nothing is asked of it, whatever it delivers meanwhile.
        self.resting = False
        #: Why it is not asked any more, for good.
        self.dropped = ""
        #: Failures since it last delivered, and how often others were faster.
        self.failures = 0
        self.overtaken_in_row = 0
        self.refused = 0
        self.last_error = ""

    def takes_more(self, running: int, *, trial: bool) -> bool:
        """Whether another request may be made now, where so many are under way. On trial, it gets one at a time."""
        return self.usable and running < (1 if trial or self.probation or not self.proven else self.most)

    @property
    def doubtful(self) -> bool:
        """Whether others are asked first: it failed, or was slower, the last time."""
        return bool(self.failures or self.overtaken_in_row)

    def delivered(self, size: int, asked_at: float, now: float) -> None:
        """A block came that had been asked of it."""
        super().delivered(size, asked_at, now)
        self.failures = self.overtaken_in_row = 0

    def recovered(self) -> None:
        """It delivered: it is no longer silent. A pause that it asked for goes on."""
        self.probation = False
        self.stalled = self.resting

    def overtaken(self, now: float) -> bool:
        """Another gateway, asked later, brought the block first. Returns whether it rests because of that."""
        self.overtaken_in_row += 1
        self.window = max(self.window // 2, limits.MIN_WINDOW)
        if self.overtaken_in_row < limits.MAX_OVERTAKEN:
            return False
        self.overtaken_in_row = 0
        self.rest(now, "It is slower than others by far.", None)
        return True

    def silent(self, now: float) -> None:
        """As of a peer. The pause is that of any failure."""
        self.failures += 1
        self.stalled = True
        self.retry_at = now + self._pause()

    def rest(self, now: float, why: str, pause: float | None) -> None:
        """It failed, or asked for a pause of so many seconds: it is left alone for some time."""
        # Requests that were under way together fail together: that is one failure.
        if not self.resting:
            self.failures += 1
        self.last_error = why
        self.stalled = self.resting = True
        self.retry_at = max(self.retry_at, now + (self._pause() if pause is None else pause))
        self.look(now)

    def drop(self, why: str) -> None:
        """It lied: it is not asked any more."""
        self.dropped = self.last_error = why
        self.connected = False

    def look(self, now: float) -> None:
        """Bring `connected` up to date: a long rest is as good as not being there."""
        self.connected = not self.dropped and (not self.stalled or self.retry_at - now <= limits.WORTH_WAITING)

    def _pause(self) -> float:
        return min(limits.REST_FIRST * 2 ** min(self.failures - 1, 16), limits.REST_LAST)

    def patience(self, block: int) -> float:
        """Seconds of silence, while blocks are open, that make it a stalled gateway."""
        return max(limits.GATEWAY_STALL_SECONDS, super().patience(block))

    def status(self, now: float) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "blocks": self.blocks,
            "bytes": self.bytes,
            "refused": self.refused,
            "resting": max(0.0, self.retry_at - now) if self.stalled else 0.0,
            "dropped": self.dropped,
            "last_error": self.last_error,
        }
