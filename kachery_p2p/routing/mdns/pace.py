"""How many packets are read: a bound for each sender and one for all. Sans-IO."""

from __future__ import annotations

from kachery_p2p.routing.mdns import limits


class SenderPace:
    """Token buckets. A sender is an IP address."""

    def __init__(self, now: float) -> None:
        self._all = (float(limits.TOTAL_BURST), now)
        self._senders: dict[str, tuple[float, float]] = {}

    def admit(self, sender: str, now: float) -> bool:
        """Whether a packet of that sender may be read now; counts it."""
        total = _refilled(self._all, limits.TOTAL_RATE, limits.TOTAL_BURST, now)
        own = _refilled(
            self._senders.pop(sender, (float(limits.SENDER_BURST), now)), limits.SENDER_RATE, limits.SENDER_BURST, now
        )
        admitted = total >= 1 and own >= 1
        # Put in at the end: those not heard of for the longest time are the first to be forgotten.
        self._senders[sender] = (own - admitted, now)
        self._all = (total - admitted, now)
        if len(self._senders) > limits.MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
        return admitted


def _refilled(bucket: tuple[float, float], rate: float, most: float, now: float) -> float:
    tokens, at = bucket
    return min(tokens + (now - at) * rate, float(most))
