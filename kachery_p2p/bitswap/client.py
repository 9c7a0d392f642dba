"""Whom to ask for what: the wants of all sessions spread over all peers. Sans-IO, the clock is an argument.

The shell reports what happens (wants, answers, peers that come and go) and then calls `poll`; what is to be sent lies
ready in one outbox for each peer, already merged, until `take` fetches it. Nothing here waits, reads a clock or keeps a
block: blocks pass by as (multihash, size).

How a want finds its peer. A peer that delivered for the session, or has its root, is asked for blocks straight away, as
many as its window holds. A peer that has only some is asked what it has (want-have) and then for that. An unknown peer
gets one block to prove itself when nobody better is there, and questions otherwise. A block is under way at one peer
only; at the very end, when a faster peer has nothing left to do, at two. A DONT_HAVE sends the want on, at once, to all
who have not been asked. Wants declined stay standing at that peer, which may get the block later; when the block arrives
from elsewhere they are cancelled.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.link import PeerLink
from kachery_p2p.bitswap.messages import Entry, WantType
from kachery_p2p.bitswap.session import Ask, Member, PeerState, Session, Want
from kachery_p2p.dag.cid import CID, SHA2_256

#: How often stalls, skipped wants and the endgame are looked at while blocks are under way.
TICK = 0.1
#: Cancels that nothing waits for are sent together with the next wants, or after this time.
LAZY_SEND = 0.25
#: A second copy must be expected to arrive this much sooner than the first.
_ENDGAME_GAIN = 2.0
_ENDGAME_MARGIN = 0.1
#: Blocks that an unknown or a very old peer is trusted with.
_TRIAL_BLOCKS = 1
#: Seconds after which a peer that skipped a want may be asked for it again.
_FORGIVE_SECONDS = 30.0


@dataclass(slots=True)
class Arrival:
    """What became of a block: the sessions it goes to, or why to none."""

    deliver: list[tuple[Session, CID]]
    duplicate: bool = False
    lie: bool = False


class _Outbox:
    """Entries to be sent to one peer; a later one about the same block replaces an earlier one."""

    __slots__ = ("entries", "fresh", "since", "urgent")

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[CID, Ask | None]] = {}
        self.urgent = False
        self.since = 0.0
        #: The whole wantlist is to be sent, on a new stream.
        self.fresh = False


class Client:
    """The wants of this node and the peers it asks."""

    def __init__(self) -> None:
        self.links: dict[str, PeerLink] = {}
        self.sessions: dict[int, Session] = {}
        self.wants: dict[bytes, Want] = {}
        self._outboxes: dict[PeerLink, _Outbox] = {}
        self._bad: dict[str, None] = {}
        self._recent: dict[bytes, None] = {}
        self._dirty: set[PeerLink] = set()
        self._forgive: list[tuple[float, int, bytes, PeerLink]] = []
        self._tick_at = 0.0
        self._scale = 1.0
        self._numbers = 0
        self._turn = 0
        self.in_flight_blocks = 0

    # --- sessions --------------------------------------------------------------------------------------------------

    def new_session(self, discover: bool = False) -> Session:
        """A session without wants or peers; with `discover` all connected peers take part (up to a limit)."""
        self._numbers += 1
        session = Session(self._numbers, discover)
        self.sessions[session.number] = session
        if discover:
            for link in list(self.links.values())[: limits.MAX_DISCOVERY_PEERS]:
                if link.connected:
                    self._join(session, link, provider=False)
        return session

    def close_session(self, session: Session, now: float) -> None:
        """End a session: what only it wanted is cancelled."""
        if session.closed:
            return
        self.cancel(session, list(session.wants), now)
        session.closed = True
        for link in session.members:
            del link.members[session]
            self._forget_if_idle(link)
        session.members.clear()
        del self.sessions[session.number]
        self._mark_all()

    def add_provider(self, session: Session, peer: str, now: float) -> bool:
        """Let a peer take part; it is asked as soon as it is connected. False for a peer that lied before."""
        if peer in self._bad or session.closed:
            return False
        link = self._link(peer)
        member = session.members.get(link)
        if member is None:
            self._join(session, link, provider=True)
            return True
        # Told again that it has the data: what it declined before is asked anew.
        member.provider = True
        for want in session.wants.values():
            if link in want.lacking:
                self._close_ask(want.asks.get(link), now, tell=True)
                want.lacking.discard(link)
        member.cursor = member.probe_cursor = session.base
        session.check_all()
        self._dirty.add(link)
        return True

    def remove_provider(self, session: Session, peer: str, now: float) -> None:
        """A peer no longer takes part; what it was delivering goes to the others."""
        link = self.links.get(peer)
        if link is None or link not in session.members:
            return
        for ask in [a for a in link.asks.values() if a.session is session]:
            self._give_up(ask, now, tell=True)
        del session.members[link]
        del link.members[session]
        session.check_all()
        self._mark(session)
        self._forget_if_idle(link)

    def want(self, session: Session, cids: Iterable[CID], now: float) -> None:
        """Add wants at the end of the session's order; those it has already are left alone."""
        for cid in cids:
            multihash = cid.multihash
            if multihash in session.wants:
                continue
            want = self.wants.get(multihash)
            if want is None:
                want = self.wants[multihash] = Want(cid)
            session.add(want, cid)
            session.check(want)
        self._mark(session)

    def cancel(self, session: Session, multihashes: Iterable[bytes], now: float) -> None:
        """The session no longer wants these."""
        for multihash in multihashes:
            want = session.wants.get(multihash)
            if want is None:
                continue
            session.drop(want)
            if not want.sessions:
                self._retire(want, now, got_from=None)
                continue
            heir = next(iter(want.sessions))
            for ask in want.asks.values():
                if ask.session is session:
                    session.outstanding -= ask.charge
                    heir.outstanding += ask.charge
                    ask.session = heir
        self._mark(session)

    def consumed(self, session: Session, size: int) -> None:
        """The receiver of a session took `size` bytes."""
        session.buffered -= size
        if session.limited and self._budget_room(session, self._budget()):
            session.limited = False
            self._mark(session)

    # --- peers -----------------------------------------------------------------------------------------------------

    def connected(self, peer: str, now: float, *, presence: bool = True) -> None:
        """A peer that speaks Bitswap is connected; `presence` is false for versions before 1.2.0."""
        if peer in self._bad:
            return
        link = self._link(peer)
        link.presence = presence
        if not link.connected:
            link.connected = True
            link.stalled = False
            link.fresh(now)
        for session in self.sessions.values():
            if link in session.members:
                session.check_all()
            elif session.discover and len(session.members) < limits.MAX_DISCOVERY_PEERS:
                self._join(session, link, provider=False)
        self._dirty.add(link)

    def set_presence(self, peer: str, presence: bool, now: float) -> None:
        """The version a peer speaks became known."""
        link = self.links.get(peer)
        if link is None or link.presence == presence:
            return
        link.presence = presence
        if not presence:
            for ask in [a for a in link.asks.values() if not a.block]:
                self._close_ask(ask, now, tell=False)
        self._dirty.add(link)

    def disconnected(self, peer: str, now: float) -> None:
        """A peer is gone, and with it all that it knew of our wants."""
        link = self.links.get(peer)
        if link is None or not link.connected:
            return
        link.connected = False
        self._outboxes.pop(link, None)
        for ask in list(link.asks.values()):
            self._give_up(ask, now, tell=False)
        for session in list(link.members):
            for want in session.wants.values():
                want.lacking.discard(link)
                want.having.discard(link)
            session.members[link].has.clear()
            if not session.members[link].provider:
                del session.members[link]
                del link.members[session]
            session.check_all()
            self._mark(session)
        self._forget_if_idle(link)

    def bad_peer(self, peer: str, now: float) -> None:
        """A peer lied: nothing is asked of it any more, by any session, ever."""
        self._bad[peer] = None
        if len(self._bad) > limits.MAX_BAD_PEERS:
            del self._bad[next(iter(self._bad))]
        link = self.links.get(peer)
        if link is None:
            return
        self.disconnected(peer, now)
        for session in list(link.members):
            del session.members[link]
            session.check_all()
        link.members.clear()
        self.links.pop(peer, None)

    def is_bad(self, peer: str) -> bool:
        """Whether this peer lied."""
        return peer in self._bad

    def sign_of_life(self, peer: str, now: float) -> None:
        """Bytes of an unfinished message came."""
        link = self.links.get(peer)
        if link is not None:
            link.last_sign = now

    # --- answers ---------------------------------------------------------------------------------------------------

    def block(self, peer: str, multihash: bytes, size: int, now: float) -> Arrival:
        """A block came whose hash, as computed here, is `multihash`."""
        link = self.links.get(peer)
        want = self.wants.get(multihash)
        ask = link.asks.get(multihash) if link is not None else None
        if want is None:
            if multihash not in self._recent:
                return Arrival([], lie=True)
            if link is not None:
                link.duplicates += 1
                link.last_sign = now
                for session in link.members:
                    session.duplicates += 1
            return Arrival([], duplicate=True)
        if link is not None:
            self._credit(link, want, ask, size, now)
        targets = [(session, cid) for session, (_, cid) in want.sessions.items()]
        for session, _cid in targets:
            session.learned_size(want.cid.codec, size)
            session.buffered += size
            session.drop(want)
        self._retire(want, now, got_from=link)
        return Arrival(targets)

    def _credit(self, link: PeerLink, want: Want, ask: Ask | None, size: int, now: float) -> None:
        link.blocks += 1
        link.bytes += size
        if ask is not None:
            link.delivered(size, ask.at, now)
        link.last_sign = now
        if link.stalled or link.probation:
            link.recovered()
        for session in want.sessions:
            session.credit(link.peer, size)
            member = session.members.get(link)
            if member is not None:
                member.positive(want, delivered=True)

    def presence(self, peer: str, multihash: bytes, have: bool, now: float) -> None:
        """HAVE or DONT_HAVE from a peer; about things it was not asked it means nothing."""
        link = self.links.get(peer)
        ask = link.asks.get(multihash) if link is not None else None
        if link is None or ask is None:
            return
        link.last_sign = now
        want = ask.want
        if have:
            want.lacking.discard(link)
            want.having.add(link)
            if not ask.live:
                # The remote has done what it was asked and forgets the want.
                self._close_ask(ask, now, tell=ask.block)
            for session in want.sessions:
                member = session.members.get(link)
                if member is not None:
                    member.positive(want, delivered=False)
                    if want.in_flight == 0:
                        member.has[multihash] = want
                        member.cursor = min(member.cursor, want.sessions[session][0])
                    session.check(want)
            self._dirty.add(link)
            return
        self._declined(ask, now)

    def _declined(self, ask: Ask, now: float) -> None:
        """The peer does not have it: the want goes on to the others."""
        if ask.declined:
            return
        link, want = ask.link, ask.want
        want.lacking.add(link)
        want.having.discard(link)
        was_live = ask.live
        self._uncharge(ask)
        if not ask.block:
            link.probes -= 1
        ask.declined = True
        link.standing += 1
        if link.standing > limits.MAX_STANDING_ASKS:
            oldest = next((a for a in link.asks.values() if a.declined), None)
            self._close_ask(oldest, now, tell=True)
        for session in want.sessions:
            member = session.members.get(link)
            if member is not None:
                member.negative()
                member.has.pop(want.multihash, None)
            if was_live or want.in_flight == 0:
                self._returned(want, session)
            if want.in_flight == 0 and len(session.members) > 1:
                session.orphans[want.multihash] = want
                self._mark(session)
        self._dirty.add(link)

    def _returned(self, want: Want, session: Session) -> None:
        if want.in_flight == 0:
            session.returned(want)
            self._mark(session)

    # --- bookkeeping of asks ---------------------------------------------------------------------------------------

    def _ask(self, want: Want, link: PeerLink, session: Session, block: bool, now: float) -> None:
        """Ask a peer for a block, or whether it has it."""
        ask = want.asks.get(link)
        if ask is None:
            ask = Ask(want, link, session, block, now)
            want.asks[link] = link.asks[want.multihash] = ask
            if not block:
                link.probes += 1
        else:
            # An open question about it becomes a request for it.
            if ask.declined:
                ask.declined = False
                link.standing -= 1
            elif not ask.block:
                link.probes -= 1
            ask.block = block
            ask.at = now
            ask.session = session
        session.asked.add(link.peer)
        if block:
            ask.charge = session.estimate(want.cid.codec)
            session.outstanding += ask.charge
            link.asked(ask.charge, now)
            ask.queue = link.outstanding
            want.in_flight += 1
            self.in_flight_blocks += 1
            for member_session in want.sessions:
                member_session.hopeless.discard(want.multihash)
        self._send(link, want.cid, ask, now, urgent=True)

    def _uncharge(self, ask: Ask) -> None:
        """A block that was under way no longer is."""
        if ask.live:
            ask.link.released(ask.charge)
            ask.session.outstanding -= ask.charge
            ask.charge = 0
            ask.want.in_flight -= 1
            self.in_flight_blocks -= 1

    def _close_ask(self, ask: Ask | None, now: float, *, tell: bool, urgent: bool = False) -> None:
        """Forget an ask; with `tell` the remote is told, if it knows of it."""
        if ask is None:
            return
        link, want = ask.link, ask.want
        self._uncharge(ask)
        if ask.declined:
            link.standing -= 1
        elif not ask.block:
            link.probes -= 1
        del link.asks[want.multihash]
        del want.asks[link]
        outbox = self._outboxes.get(link)
        if outbox is not None and want.multihash in outbox.entries and not ask.sent:
            del outbox.entries[want.multihash]
        elif tell and ask.sent and link.connected:
            self._send(link, want.cid, None, now, urgent=urgent)
        elif outbox is not None:
            outbox.entries.pop(want.multihash, None)

    def _give_up(self, ask: Ask, now: float, *, tell: bool) -> None:
        """Nothing is expected of this ask any more; its want goes back to the order."""
        want, was_live = ask.want, ask.live
        self._close_ask(ask, now, tell=tell, urgent=was_live)
        if was_live:
            for session in want.sessions:
                self._returned(want, session)

    def _retire(self, want: Want, now: float, got_from: PeerLink | None) -> None:
        """Nobody wants it any more: all asks end, and the peers that still keep one are told."""
        del self.wants[want.multihash]
        self._remember(want.multihash)
        for link, ask in list(want.asks.items()):
            live = ask.live
            self._close_ask(ask, now, tell=link is not got_from, urgent=live)
            self._dirty.add(link)
        want.lacking.clear()
        want.having.clear()

    def _remember(self, multihash: bytes) -> None:
        recent = self._recent
        recent.pop(multihash, None)
        recent[multihash] = None
        if len(recent) > limits.REMEMBERED_WANTS:
            del recent[next(iter(recent))]

    def _link(self, peer: str) -> PeerLink:
        link = self.links.get(peer)
        if link is None:
            link = self.links[peer] = PeerLink(peer)
        return link

    def _forget_if_idle(self, link: PeerLink) -> None:
        if not link.connected and not link.members:
            self.links.pop(link.peer, None)
            self._dirty.discard(link)

    def _join(self, session: Session, link: PeerLink, *, provider: bool) -> None:
        member = Member(session, link, provider)
        session.members[link] = member
        link.members[session] = member
        session.check_all()
        self._dirty.add(link)

    def _mark(self, session: Session) -> None:
        self._dirty.update(session.members)

    def _mark_all(self) -> None:
        self._dirty.update(self.links.values())

    # --- what is sent ----------------------------------------------------------------------------------------------

    def _send(self, link: PeerLink, cid: CID, ask: Ask | None, now: float, *, urgent: bool) -> None:
        outbox = self._outboxes.get(link)
        if outbox is None:
            outbox = self._outboxes[link] = _Outbox()
        if not outbox.entries:
            outbox.since = now
        outbox.entries[cid.multihash] = (cid, ask)
        outbox.urgent = outbox.urgent or urgent

    def ready(self, now: float) -> list[str]:
        """Peers for which something is to be sent now."""
        return [
            link.peer
            for link, box in self._outboxes.items()
            if box.urgent or box.fresh or (box.entries and now - box.since >= LAZY_SEND)
        ]

    def take(self, peer: str, now: float) -> tuple[list[Entry], bool]:
        """Fetch what is to be sent to a peer: the entries, and whether they are its whole list, for a new stream."""
        link = self.links.get(peer)
        outbox = self._outboxes.pop(link, None) if link is not None else None
        if link is None or outbox is None:
            return [], False
        if outbox.fresh:
            return self.whole_list(peer, now), True
        return [self._entry(cid, ask, link, now) for cid, ask in outbox.entries.values()], False

    def whole_list(self, peer: str, now: float) -> list[Entry]:
        """All that we want of a peer: for a stream that replaces a broken one."""
        link = self.links.get(peer)
        if link is None:
            return []
        self._outboxes.pop(link, None)
        return [self._entry(ask.want.cid, ask, link, now) for ask in link.asks.values()]

    def _entry(self, cid: CID, ask: Ask | None, link: PeerLink, now: float) -> Entry:
        if ask is None:
            return Entry(cid, cancel=True)
        if not ask.sent:
            ask.sent = True
            ask.at = now
        # The earlier in the order, the more urgent; numbers of one session only ever grow.
        position = min((index for index, _ in ask.want.sessions.values()), default=0)
        priority = max(0x3FFF_FFFF - position, 1)
        return Entry(cid, priority, False, WantType.BLOCK if ask.block else WantType.HAVE, link.presence)

    # --- the schedule ----------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float | None:
        """When `poll` must be called again even if nothing happens; None for never."""
        deadline: float | None = None
        if self.in_flight_blocks or any(link.stalled for link in self.links.values()):
            deadline = self._tick_at
        for box in self._outboxes.values():
            if box.entries and not box.urgent:
                due = box.since + LAZY_SEND
                deadline = due if deadline is None else min(deadline, due)
        if self._forgive:
            due = self._forgive[0][0]
            deadline = due if deadline is None else min(deadline, due)
        return None if deadline is None else max(deadline, now)

    def poll(self, now: float) -> None:
        """Bring the asks up to date with all that was reported."""
        if now >= self._tick_at:
            self._tick_at = now + TICK
            self._tick(now)
        rounds = 0
        while self._dirty and rounds < 8:
            links, self._dirty = self._dirty, set()
            # Those of unknown speed first, so that they can show it; then the fastest.
            for link in sorted(links, key=lambda x: (x.rate > 0, -x.rate)) if len(links) > 1 else links:
                if link.usable and link.members:
                    self._fill(link, now)
            rounds += 1

    def _budget(self) -> int:
        """Bytes that one session may have asked for and not taken."""
        active = sum(1 for s in self.sessions.values() if s.wants or s.buffered)
        return max(limits.MAX_IN_FLIGHT // max(active, 1), limits.MIN_SESSION_IN_FLIGHT)

    @staticmethod
    def _budget_room(session: Session, budget: int) -> bool:
        """Whether enough of the budget is free to be worth a message: an eighth, or all of it."""
        held = session.outstanding + session.buffered
        return budget - held >= budget // 8 or not held

    def _fill(self, link: PeerLink, now: float) -> None:
        """Give a peer as much to do as its window allows, taking turns between the sessions it serves."""
        members = list(link.members.values())
        if len(members) > 1:
            self._turn = (self._turn + 1) % len(members)
            members = members[self._turn :] + members[: self._turn]
        budget = self._budget()
        for member in members:
            if member.session.wants:
                self._fill_member(link, member, budget, now)
                if link.presence and member.state is not PeerState.PROBABLE:
                    self._probe(link, member, now)

    def _fill_member(self, link: PeerLink, member: Member, budget: int, now: float) -> None:
        session = member.session
        trial = self._on_trial(member)
        estimate = 0
        while True:
            want = self._choose(member)
            if want is None:
                return
            codec_estimate = session.estimate(want.cid.codec)
            room = link.room(self._scale, codec_estimate)
            if not estimate:
                estimate = codec_estimate
                # Refill in strokes, not block by block: fewer messages for both sides.
                if link.block_asks > 1 and room < min(max(link.window // 8, estimate), 4 * limits.MIB):
                    link.limited = True
                    return
                if session.limited and not self._budget_room(session, budget):
                    return
                session.limited = False
            if room < codec_estimate and link.block_asks:
                link.limited = True
                return
            if trial and link.block_asks >= _TRIAL_BLOCKS:
                return
            if len(link.asks) - link.standing >= limits.MAX_ASKS_PER_PEER:
                link.limited = True
                return
            held = session.outstanding + session.buffered
            if held and held + codec_estimate > budget:
                session.limited = True
                return
            self._ask(want, link, session, True, now)

    def _on_trial(self, member: Member) -> bool:
        """Whether the peer must show what it has before it gets more than a trial block."""
        if member.state is PeerState.UNKNOWN:
            return True
        return member.state is PeerState.SOME and not member.link.presence

    def _choose(self, member: Member) -> Want | None:
        link, session = member.link, member.session
        if member.state is PeerState.PROBABLE:
            want = session.next_for(member)
        else:
            want = session.next_had(member)
            if want is None and (not link.presence or self._nobody_better(member)):
                want = session.next_for(member)
        if want is not None and want.cid.hash_code != SHA2_256 and not link.presence:
            # Bitswap 1.0 knows only sha2-256; older peers are not asked for anything else.
            want.lacking.add(link)
            session.check(want)
            return self._choose(member)
        return want

    def _nobody_better(self, member: Member) -> bool:
        """Whether no usable peer of the session is known to have its data."""
        if member.state is PeerState.SOME:
            return False
        return not any(m.state is PeerState.PROBABLE and link.usable for link, m in member.session.members.items())

    def _probe(self, link: PeerLink, member: Member, now: float) -> None:
        """Ask a peer what it has."""
        room = min(member.probe_limit, limits.MAX_PROBES_PER_PEER) - link.probes
        if member.session.orphans:
            room = max(room, limits.FIRST_PROBES)
        room = min(room, limits.MAX_ASKS_PER_PEER - len(link.asks) + link.standing)
        if room > 0:
            for want in list(member.session.next_probes(member, room)):
                self._ask(want, link, member.session, False, now)

    # --- the clock -------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        """Stalled peers, skipped wants, windows that together exceed the budget, the endgame."""
        while self._forgive and self._forgive[0][0] <= now:
            _, _, multihash, link = heapq.heappop(self._forgive)
            want = self.wants.get(multihash)
            if want is not None and link in want.lacking and link not in want.asks:
                want.lacking.discard(link)
                for session in want.sessions:
                    self._returned(want, session)
        busy = [link for link in self.links.values() if link.block_asks]
        total = sum(link.window for link in busy)
        self._scale = min(1.0, limits.MAX_IN_FLIGHT / total) if total else 1.0
        for link in busy:
            if link.stalled:
                self._rescue(link, now)
            else:
                self._check_stall(link, now)
        for link in self.links.values():
            if link.stalled and now >= link.retry_at:
                self._retry(link, now)
        if self.in_flight_blocks:
            self._endgame(now)

    def _check_stall(self, link: PeerLink, now: float) -> None:
        oldest = next((a for a in link.asks.values() if a.live), None)
        if oldest is None or not oldest.sent:
            return
        block = max(oldest.charge, 1)
        if (not link.presence and link.blocks == 0) or link.silent_for(now) <= link.patience(block):
            self._check_skipped(link, now)
            return
        link.stalled = True
        link.retry_at = now + link.retry_pause
        link.retry_pause = min(2 * link.retry_pause, limits.RETRY_LAST)
        self._rescue(link, now)

    def _rescue(self, link: PeerLink, now: float) -> None:
        """Take from a stalled peer what somebody else can deliver; the rest stays, it may come yet."""
        for ask in [a for a in link.asks.values() if a.live]:
            if self._others(link, ask.want):
                self._give_up(ask, now, tell=True)

    @staticmethod
    def _others(link: PeerLink, want: Want) -> bool:
        """Whether anybody but this peer may be able to deliver the want."""
        return any(
            other is not link and other.usable and other not in want.lacking
            for session in want.sessions
            for other in session.members
        )

    def _retry(self, link: PeerLink, now: float) -> None:
        """Another chance, with one block, on a fresh stream that carries all that is still wanted of it."""
        link.stalled = False
        link.fresh(now)
        link.probation = True
        link.busy_since = now
        for ask in link.asks.values():
            ask.at = now
        if link.asks:
            outbox = self._outboxes.setdefault(link, _Outbox())
            outbox.fresh = True
        self._dirty.add(link)

    def _check_skipped(self, link: PeerLink, now: float) -> None:
        """Wants that a peer passes over while it delivers others, or that an old peer cannot decline."""
        wait = limits.SKIPPED_WANT_SECONDS if link.presence else limits.LEGACY_DONT_HAVE_SECONDS
        for ask in list(link.asks.values())[:64]:
            if not ask.live or not ask.sent:
                continue
            expected = ask.queue / link.rate if link.rate > 0 else 0.0
            if now - ask.at <= max(wait, 4 * expected):
                return
            want = ask.want
            if link.presence and not self._others(link, want):
                # Perhaps it was lost: ask once more.
                ask.at = now
                ask.queue = link.outstanding
                self._send(link, want.cid, ask, now, urgent=True)
                continue
            want.lacking.add(link)
            heapq.heappush(self._forgive, (now + _FORGIVE_SECONDS, id(want), want.multihash, link))
            for session in want.sessions:
                member = session.members.get(link)
                if member is not None:
                    member.negative()
            self._give_up(ask, now, tell=True)
            for session in want.sessions:
                session.orphans[want.multihash] = want

    def _endgame(self, now: float) -> None:
        """Let idle fast peers fetch what slow ones still owe, when nothing else is left to ask."""
        for session in self.sessions.values():
            if not session.wants:
                continue
            idle = [
                link
                for link, member in session.members.items()
                if link.usable and link.rate > 0 and member.state is PeerState.PROBABLE and self._choose(member) is None
            ]
            if not idle:
                continue
            idle.sort(key=lambda link: -link.rate)
            for want in list(session.wants.values()):
                if want.in_flight != 1 or not idle:
                    continue
                holder = next(a for a in want.asks.values() if a.live)
                size = max(holder.charge, session.estimate(want.cid.codec))
                left = self._seconds_left(holder, now)
                for link in idle:
                    if link is holder.link or link in want.lacking:
                        continue
                    if link.room(self._scale, size) < size:
                        continue
                    if left > _ENDGAME_GAIN * link.seconds_for(size) + _ENDGAME_MARGIN:
                        self._ask(want, link, session, True, now)
                        break

    @staticmethod
    def _seconds_left(ask: Ask, now: float) -> float:
        """When an ask may be answered, in seconds from now; what is overdue will take as long again."""
        age = now - ask.at
        if ask.link.rate <= 0 or ask.link.stalled:
            return max(1.0, age)
        expected = ask.queue / ask.link.rate + ask.link.latency * 0.5
        return expected - age if expected > age else age
