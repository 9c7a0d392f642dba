"""Wantlist entries on their way to a peer, merged until they are fetched. Sans-IO."""

from __future__ import annotations

from typing import NamedTuple

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.link import PeerLink
from kachery_p2p.bitswap.messages import WantlistEntry, WantType
from kachery_p2p.bitswap.session import Ask, PeerQuestion
from kachery_p2p.dag.cid import CID

#: The priority of the first want of a session; the later ones count down from it.
_TOP_PRIORITY = 0x3FFF_FFFF


class Outgoing(NamedTuple):
    """What is to be sent to a peer: one message, or two.

    Helia ignores a want for a block that it sent already, for some seconds and then once more, even when the want comes
    in a full list. A cancel makes it forget. It must come in a message of its own, because Kubo merges entries of one
    message that are about one block.
    """

    cancels_first: list[WantlistEntry]
    entries: list[WantlistEntry]
    #: The entries are all that is wanted, and go out on a fresh stream.
    full: bool


class WantOutbox:
    """Entries for one peer; a later one about the same block replaces an earlier one."""

    __slots__ = ("entries", "fresh", "since", "urgent")

    def __init__(self) -> None:
        #: By multihash: the CID, and the ask to be made of it, or None for a cancel.
        self.entries: dict[bytes, tuple[CID, Ask | PeerQuestion | None]] = {}
        self.urgent = False
        self.since = 0.0
        #: The whole wantlist is to be sent, on a new stream.
        self.fresh = False


class Outboxes:
    """The outboxes of all peers for which anything is to be sent."""

    def __init__(self) -> None:
        self._boxes: dict[PeerLink, WantOutbox] = {}

    def _box(self, link: PeerLink) -> WantOutbox:
        box = self._boxes.get(link)
        if box is None:
            box = self._boxes[link] = WantOutbox()
        return box

    def put(self, link: PeerLink, cid: CID, ask: Ask | PeerQuestion | None, now: float, *, urgent: bool) -> None:
        """An entry for a peer. What is not urgent waits for company, LAZY_SEND seconds at the most."""
        box = self._box(link)
        if not box.entries:
            box.since = now
        box.entries[cid.multihash] = (cid, ask)
        box.urgent = box.urgent or urgent

    def withdraw(self, link: PeerLink, multihash: bytes) -> bool:
        """Take an entry back. False when it is gone already."""
        box = self._boxes.get(link)
        return box is not None and box.entries.pop(multihash, None) is not None

    def start_over(self, link: PeerLink) -> None:
        """Send all that is wanted of the peer, on a fresh stream."""
        self._box(link).fresh = True

    def drop(self, link: PeerLink) -> None:
        """Nothing is to be sent to this peer."""
        self._boxes.pop(link, None)

    def ready(self, now: float) -> list[str]:
        """Peers to which something is to be sent now."""
        return [
            link.peer
            for link, box in self._boxes.items()
            if box.urgent or box.fresh or (box.entries and now >= box.since + limits.LAZY_SEND)
        ]

    def deadline(self) -> float | None:
        """When the first of the entries that are not urgent is due."""
        due = [box.since for box in self._boxes.values() if box.entries and not box.urgent]
        return min(due) + limits.LAZY_SEND if due else None

    def take(self, link: PeerLink, now: float) -> Outgoing:
        """Fetch what is to be sent to a peer."""
        box = self._boxes.pop(link, None)
        if box is None:
            return Outgoing([], [], full=False)
        if box.fresh:
            return self.everything(link, now)
        again = [WantlistEntry(cid, cancel=True) for cid, ask in box.entries.values() if ask is not None and ask.again]
        return Outgoing(again, [_entry(cid, ask, link, now) for cid, ask in box.entries.values()], full=False)

    def everything(self, link: PeerLink, now: float) -> Outgoing:
        """All that is wanted of a peer: for a fresh stream."""
        self._boxes.pop(link, None)
        asks = list(link.asks.values())
        again = [WantlistEntry(ask.want.cid, cancel=True) for ask in asks if ask.sent or ask.again]
        entries = [_entry(ask.want.cid, ask, link, now) for ask in asks]
        questions = [each[0] for multihash, each in link.questions.items() if multihash not in link.asks]
        return Outgoing(again, [*entries, *(_entry(each.cid, each, link, now) for each in questions)], full=True)


def _entry(cid: CID, ask: Ask | PeerQuestion | None, link: PeerLink, now: float) -> WantlistEntry:
    if ask is None:
        return WantlistEntry(cid, cancel=True)
    if isinstance(ask, PeerQuestion):
        ask.sent, ask.again = True, False
        # Who knows no HAVE can only be asked for the block.
        return WantlistEntry(cid, 1, False, WantType.HAVE if link.presence else WantType.BLOCK, link.presence)
    if not ask.sent:
        ask.sent = True
        ask.at = now
    ask.again = False
    # The earlier in the order of its session, the more urgent.
    position = min((index for index, _ in ask.want.sessions.values()), default=0)
    kind = WantType.BLOCK if ask.block else WantType.HAVE
    return WantlistEntry(cid, max(_TOP_PRIORITY - position, 1), False, kind, link.presence)
