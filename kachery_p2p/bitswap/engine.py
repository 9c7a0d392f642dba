"""What we send to whom: the wants of each peer and the order of our answers. Sans-IO.

A want that arrives is first looked up in the store (`take_lookups`, `looked_up`); only sizes are asked for, so that
no block is in memory before its turn. Then it is answered: the block goes into the peer's queue by priority, HAVE and
DONT_HAVE into the peer's list of presences. What we do not have is remembered and looked up again when `notify` says
that it came.

`next_reply` picks the peer that has been served the fewest bytes since it joined the queue (start-time fair
queueing), so a peer with a thousand wants and one with a single want get the same share. Bytes being read or written
are bounded for each peer and in all; a peer that does not read holds up only itself.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.messages import Presence, WantlistEntry, WantType

#: What a presence counts for in the fair queue: about its size on the wire.
_PRESENCE_SIZE = 48


class _WantState(IntEnum):
    LOOKUP = 0
    QUEUED = 1
    ABSENT = 2
    SENDING = 3


class PeerWant:
    """One want of one peer."""

    __slots__ = ("cid", "dont_have", "have_only", "ledger", "priority", "sequence", "size", "state", "told")

    def __init__(self, ledger: Ledger, entry: WantlistEntry, sequence: int) -> None:
        self.ledger = ledger
        self.cid = entry.cid
        self.priority = entry.priority
        self.have_only = entry.want_type is WantType.HAVE
        self.dont_have = entry.send_dont_have
        self.sequence = sequence
        self.state = _WantState.LOOKUP
        self.size = 0
        #: Whether the peer was told DONT_HAVE since it asked last: once, however often the block is looked up.
        self.told = False


class Ledger:
    """The account of one peer."""

    __slots__ = (
        "block_bytes",
        "blocks_sent",
        "bytes_sent",
        "lookups",
        "outstanding",
        "peer",
        "presences",
        "queue",
        "replies",
        "served",
        "target",
        "wants",
    )

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.wants: dict[bytes, PeerWant] = {}
        self.lookups: deque[PeerWant] = deque()
        #: (-priority, sequence, want), lowest first; entries whose want has moved on are skipped when they come up.
        self.queue: list[tuple[int, int, PeerWant]] = []
        #: What it is to be told, and of which want.
        self.presences: dict[bytes, tuple[Presence, PeerWant]] = {}
        #: Bytes of the blocks in `queue`.
        self.block_bytes = 0
        #: Virtual time: bytes served, or the clock of the queue when the peer joined it late.
        self.served = 0
        self.outstanding = 0
        self.replies = 0
        self.bytes_sent = 0
        self.blocks_sent = 0
        #: Bytes of blocks that one message to this peer may carry.
        self.target = limits.REPLY_TARGET_SIZE


@dataclass(slots=True, eq=False)
class Reply:
    """One message to be sent: the blocks are still to be read from the store. `haves` are the wants told HAVE."""

    ledger: Ledger
    presences: list[Presence]
    haves: list[PeerWant]
    wants: list[PeerWant]
    size: int
    pending_bytes: int

    @property
    def peer(self) -> str:
        """The peer it goes to."""
        return self.ledger.peer


class Engine:
    """The wants of all peers."""

    def __init__(self) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self._waiting: dict[bytes, dict[Ledger, None]] = {}
        self._to_look_up: dict[Ledger, None] = {}
        #: What is being looked up, and what of it came meanwhile: perhaps too late for the store to have seen it.
        self._looking: set[bytes] = set()
        self._came: set[bytes] = set()
        self._active: dict[Ledger, None] = {}
        self._sequence = 0
        self._clock = 0
        self.outstanding = 0
        #: Whether the last `next_reply` found work but no room for it.
        self.crowded = False

    # --- what peers want -------------------------------------------------------------------------------------------

    def receive(self, peer: str, entries: Sequence[WantlistEntry], full: bool) -> None:
        """Take in a wantlist. A full one replaces all that the peer wanted before."""
        ledger = self.ledgers.get(peer)
        if ledger is None:
            if not entries:
                return
            ledger = self.ledgers[peer] = Ledger(peer)
        if full:
            kept = {entry.cid.multihash for entry in entries if not entry.cancel}
            for want in list(ledger.wants.values()):
                if want.cid.multihash not in kept:
                    self._remove(want)
            for multihash in [m for m in ledger.presences if m not in kept]:
                del ledger.presences[multihash]
        for entry in entries:
            multihash = entry.cid.multihash
            want = ledger.wants.get(multihash)
            if entry.cancel:
                if want is not None:
                    self._remove(want)
                ledger.presences.pop(multihash, None)
            elif want is None:
                self._sequence += 1
                want = ledger.wants[multihash] = PeerWant(ledger, entry, self._sequence)
                ledger.lookups.append(want)
                self._to_look_up[ledger] = None
            else:
                self._update(want, entry)
        if len(ledger.wants) > limits.MAX_WANTS_PER_PEER:
            self._shed(ledger)
        self._note(ledger)

    def _update(self, want: PeerWant, entry: WantlistEntry) -> None:
        """A want that is known already comes again: it may ask for more, or with another priority."""
        if want.state is _WantState.SENDING:
            return
        want.dont_have = want.dont_have or entry.send_dont_have
        want.told = False
        upgrade = want.have_only and entry.want_type is WantType.BLOCK
        want.have_only = want.have_only and not upgrade
        moved = entry.priority != want.priority
        want.priority = entry.priority
        if want.state is _WantState.QUEUED and moved:
            heapq.heappush(want.ledger.queue, (-want.priority, want.sequence, want))
        elif want.state is _WantState.ABSENT:
            # Asked again: answered again.
            self._unwait(want)
            want.state = _WantState.LOOKUP
            want.ledger.lookups.append(want)
            self._to_look_up[want.ledger] = None

    def _shed(self, ledger: Ledger) -> None:
        """Too many wants: those we cannot serve go first, then the least important, then the newest."""
        ranked = sorted(
            (want for want in ledger.wants.values() if want.state is not _WantState.SENDING),
            key=lambda want: (want.state is _WantState.ABSENT, -want.priority, want.sequence),
        )
        excess = len(ledger.wants) - limits.MAX_WANTS_PER_PEER
        for want in ranked[len(ranked) - excess :]:
            self._remove(want)
            if want.dont_have and not want.told:
                self._say(want, have=False)

    def cancel_all(self, peer: str) -> None:
        """The peer is gone, or does not read: forget all that it wanted. Replies in work end by themselves."""
        ledger = self.ledgers.pop(peer, None)
        if ledger is None:
            return
        for want in list(ledger.wants.values()):
            self._remove(want)
        ledger.presences.clear()
        ledger.queue.clear()
        ledger.lookups.clear()
        self._to_look_up.pop(ledger, None)
        self._active.pop(ledger, None)

    def _remove(self, want: PeerWant) -> None:
        ledger = want.ledger
        del ledger.wants[want.cid.multihash]
        if want.state is _WantState.QUEUED:
            ledger.block_bytes -= want.size
            # Entries of cancelled wants stay behind; they are swept out when they are the greater part.
            if len(ledger.queue) > max(2 * len(ledger.wants), limits.MAX_WANTS_PER_PEER):
                ledger.queue = [t for t in ledger.queue if t[2] is not want and t[2].state is _WantState.QUEUED]
                heapq.heapify(ledger.queue)
        elif want.state is _WantState.ABSENT:
            self._unwait(want)
        elif want.state is _WantState.LOOKUP and len(ledger.lookups) > max(
            2 * len(ledger.wants), limits.MAX_WANTS_PER_PEER
        ):
            ledger.lookups = deque(w for w in ledger.lookups if ledger.wants.get(w.cid.multihash) is w)
        # Whoever still holds it sees that it is not queued any more.
        want.state = _WantState.SENDING

    def _unwait(self, want: PeerWant) -> None:
        waiting = self._waiting.get(want.cid.multihash)
        if waiting is not None:
            waiting.pop(want.ledger, None)
            if not waiting:
                del self._waiting[want.cid.multihash]

    def congested(self, peer: str) -> bool:
        """Whether so many answers wait for this peer that no more of its wants should be read."""
        ledger = self.ledgers.get(peer)
        return ledger is not None and len(ledger.presences) >= limits.MAX_QUEUED_PRESENCES

    # --- looking them up -------------------------------------------------------------------------------------------

    def take_lookups(self) -> list[PeerWant]:
        """Wants whose blocks are to be looked for, a batch; peers take turns."""
        batch: list[PeerWant] = []
        share = max(limits.LOOKUP_BATCH // max(len(self._to_look_up), 1), 1)
        for ledger in list(self._to_look_up):
            taken = 0
            while ledger.lookups and taken < share:
                want = ledger.lookups.popleft()
                if ledger.wants.get(want.cid.multihash) is want and want.state is _WantState.LOOKUP:
                    batch.append(want)
                    taken += 1
            del self._to_look_up[ledger]
            if ledger.lookups:
                self._to_look_up[ledger] = None
            if len(batch) >= limits.LOOKUP_BATCH:
                break
        self._looking = {want.cid.multihash for want in batch}
        self._came.clear()
        return batch

    def looked_up(self, wants: Sequence[PeerWant], sizes: Sequence[int | None]) -> None:
        """The answer of the store to `take_lookups`: the size of each block, None where there is none."""
        for want, size in zip(wants, sizes, strict=True):
            ledger = want.ledger
            if want.state is not _WantState.LOOKUP or ledger.wants.get(want.cid.multihash) is not want:
                continue
            if size is None and want.cid.multihash in self._came:
                ledger.lookups.append(want)
                self._to_look_up[ledger] = None
            elif size is None or size > limits.MAX_BLOCK_SIZE:
                self._wait(want)
                if want.dont_have and not want.told:
                    want.told = True
                    self._say(want, have=False)
            elif want.have_only and size > limits.HAVE_REPLACE_SIZE:
                self._remove(want)
                self._say(want, have=True)
            else:
                want.size = size
                want.state = _WantState.QUEUED
                ledger.block_bytes += size
                ledger.presences.pop(want.cid.multihash, None)
                heapq.heappush(ledger.queue, (-want.priority, want.sequence, want))
            self._note(ledger)
        self._looking = set()

    def _wait(self, want: PeerWant) -> None:
        """What is wanted is not here: it is remembered until it comes."""
        want.state = _WantState.ABSENT
        self._waiting.setdefault(want.cid.multihash, {})[want.ledger] = None

    @staticmethod
    def _say(want: PeerWant, have: bool) -> None:
        want.ledger.presences[want.cid.multihash] = Presence(want.cid, have), want

    def notify(self, multihashes: Iterable[bytes]) -> bool:
        """Blocks came into the store. Returns whether any peer waits for one of them."""
        found = False
        for multihash in multihashes:
            if multihash in self._looking:
                self._came.add(multihash)
            for ledger in list(self._waiting.pop(multihash, ())):
                want = ledger.wants[multihash]
                want.state = _WantState.LOOKUP
                ledger.lookups.append(want)
                self._to_look_up[ledger] = None
                found = True
        return found

    def look_again(self) -> bool:
        """What peers may see has changed: look for all that they wait for. Returns whether any of them waits."""
        self._came |= self._looking
        return self.notify(list(self._waiting))

    def waiting(self, multihashes: Iterable[bytes]) -> dict[str, list[bytes]]:
        """The peers that wait for one of these blocks to come here, and for which."""
        found: dict[str, list[bytes]] = {}
        if self._waiting:
            for multihash in multihashes:
                for ledger in self._waiting.get(multihash, ()):
                    found.setdefault(ledger.peer, []).append(multihash)
        return found

    # --- answering -------------------------------------------------------------------------------------------------

    def _note(self, ledger: Ledger) -> None:
        if (ledger.queue or ledger.presences) and ledger not in self._active:
            ledger.served = max(ledger.served, self._clock)
            self._active[ledger] = None

    def next_reply(self) -> Reply | None:
        """The next message to be made, or None while nothing is to be sent or there is no room."""
        self.crowded = False
        best: Ledger | None = None
        full = self.outstanding >= limits.MAX_OUTSTANDING
        # Reading ahead is for when there is room: then slow readers hold less of it.
        replies = limits.MAX_REPLIES_PER_PEER if self.outstanding < limits.MAX_OUTSTANDING // 2 else 1
        for ledger in list(self._active):
            self._trim(ledger)
            if not ledger.queue and not ledger.presences:
                del self._active[ledger]
            elif (
                ledger.replies < replies
                and ledger.outstanding < limits.MAX_OUTSTANDING_PER_PEER
                and (best is None or ledger.served < best.served)
            ):
                if full and not ledger.presences:
                    self.crowded = True
                else:
                    best = ledger
        return self._reply(best, with_blocks=not full) if best is not None else None

    @staticmethod
    def _trim(ledger: Ledger) -> None:
        """Drop queue entries of wants that were cancelled or moved."""
        queue = ledger.queue
        while queue:
            priority, _, want = queue[0]
            if want.state is _WantState.QUEUED and -priority == want.priority:
                return
            heapq.heappop(queue)

    def _reply(self, ledger: Ledger, with_blocks: bool) -> Reply:
        told = list(islice(ledger.presences, limits.MAX_PRESENCES_PER_REPLY))
        answers = [ledger.presences.pop(multihash) for multihash in told]
        presences = [presence for presence, _ in answers]
        haves = [want for presence, want in answers if presence.have]
        wants: list[PeerWant] = []
        size = 0
        self._trim(ledger)
        target = ledger.target
        if ledger.queue and ledger.queue[0][2].size < limits.FILLING_BLOCK:
            target = min(target, max(ledger.block_bytes // 2, limits.REPLY_TARGET_SIZE))
        while with_blocks and ledger.queue:
            want = ledger.queue[0][2]
            if wants and size + want.size > target:
                break
            heapq.heappop(ledger.queue)
            want.state = _WantState.SENDING
            ledger.block_bytes -= want.size
            size += want.size
            wants.append(want)
            self._trim(ledger)
        ledger.outstanding += size
        ledger.replies += 1
        self.outstanding += size
        self._clock = max(self._clock, ledger.served)
        ledger.served += size + _PRESENCE_SIZE * (len(presences) + len(wants))
        return Reply(ledger, presences, haves, wants, size, ledger.block_bytes)

    @staticmethod
    def still_wanted(want: PeerWant) -> bool:
        """Whether the peer has not cancelled a want whose block was just read for it."""
        return want.ledger.wants.get(want.cid.multihash) is want

    def vanished(self, want: PeerWant) -> Presence | None:
        """The block is not in the store after all: the answer to send in its place, if one was asked for."""
        return self._denied(want) if self.still_wanted(want) else None

    def withheld(self, want: PeerWant) -> Presence | None:
        """A HAVE is not for this peer after all: the answer to send in its place, if one was asked for.

        From here on the want is like one whose block is not here.
        """
        ledger = want.ledger
        if self.ledgers.get(ledger.peer) is not ledger or want.cid.multihash in ledger.wants:
            return None  # it is gone; or it has asked anew, and is answered for that
        ledger.wants[want.cid.multihash] = want
        return self._denied(want)

    def _denied(self, want: PeerWant) -> Presence | None:
        self._wait(want)
        want.told = want.dont_have
        return Presence(want.cid, have=False) if want.dont_have else None

    def written(self, reply: Reply) -> None:
        """The message is about to go out: its wants are fulfilled."""
        for want in reply.wants:
            if want.state is _WantState.SENDING and self.still_wanted(want):
                del want.ledger.wants[want.cid.multihash]

    def finished(self, reply: Reply, sent_blocks: int, sent_bytes: int, seconds: float | None = None) -> None:
        """The message was sent, or failed: its room is free again. `seconds` is how long the peer took to take it."""
        ledger = reply.ledger
        if seconds is not None and seconds > limits.REPLY_SLOW:
            ledger.target = limits.REPLY_TARGET_SIZE
        elif seconds is not None and seconds <= limits.REPLY_QUICK and 2 * sent_bytes > ledger.target:
            ledger.target = min(2 * ledger.target, limits.REPLY_LARGEST_SIZE)
        ledger.outstanding -= reply.size
        ledger.replies -= 1
        self.outstanding -= reply.size
        ledger.blocks_sent += sent_blocks
        ledger.bytes_sent += sent_bytes
        self._note(ledger) if self.ledgers.get(ledger.peer) is ledger else None
