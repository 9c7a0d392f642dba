"""The client core: what sessions want, what peers answer, what is to be sent. Sans-IO, the clock is an argument.

The shell reports what happens (wants, answers, peers that come and go) and then calls `poll`; what is to be sent lies
ready in one outbox for each peer, already merged, until `take` fetches it. Nothing here waits, reads a clock or keeps
a block: blocks pass by as (multihash, size).

A block is under way at one peer only; at the very end, when a faster peer has nothing left to do, at two. `asks`
keeps the books, `schedule` decides whom to ask for what, `watch` looks at the clock, `gateways` does both for gateways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import Asks
from kachery_p2p.bitswap.fellows import divides
from kachery_p2p.bitswap.gateways import Gateways
from kachery_p2p.bitswap.link import GatewayLink, PeerLink
from kachery_p2p.bitswap.outbox import Outgoing
from kachery_p2p.bitswap.schedule import Scheduler
from kachery_p2p.bitswap.session import Ask, Member, PeerQuestion, PeerState, Session, Want, WantAnswer
from kachery_p2p.bitswap.watch import SessionWatch
from kachery_p2p.dag.cid import CID, RAW

#: Where the DAG says nothing of how large blocks are.
NO_SIZES: Mapping[bytes, int] = {}


@dataclass(slots=True)
class Arrival:
    """What became of a block: the sessions it goes to, or why to none. Where they have no room for it, to none."""

    deliver: list[tuple[Session, CID]]
    duplicate: bool = False
    lie: bool = False


class WantManager:
    """The wants of this node and the peers it asks."""

    def __init__(self, local: str = "") -> None:
        """`local` is our own peer ID."""
        self._local = local
        self._asks = Asks()
        #: The gateways of the node, and what they answer.
        self.gateways = Gateways(self._asks)
        self._scheduler = Scheduler(self._asks, self.gateways)
        self._watch = SessionWatch(self._asks, self._scheduler)
        self._bad: dict[str, None] = {}
        self._numbers = 0

    @property
    def links(self) -> dict[str, PeerLink]:
        """The peers, by ID."""
        return self._asks.links

    @property
    def wants(self) -> dict[bytes, Want]:
        """The wants of all sessions, by multihash."""
        return self._asks.wants

    # --- sessions --------------------------------------------------------------------------------------------------

    def new_session(self, discover: bool = False, admits: Callable[[str], bool] | None = None) -> Session:
        """A session without wants or peers; with `discover` all connected peers take part (up to a limit).

        With `admits` only those take part for which it is true: nobody else hears of what is wanted.
        """
        self._numbers += 1
        session = Session(self._numbers, discover, admits)
        self._asks.sessions[session.number] = session
        self._discover(session)
        return session

    def _discover(self, session: Session) -> None:
        """Let the connected peers take part that are not named, where they may."""
        if not session.discover:
            return
        for link in self.links.values():
            if len(session.members) >= limits.MAX_DISCOVERY_PEERS:
                return
            if link.connected and link not in session.members and session.may_ask(link.peer):
                self._join(session, link, provider=False)

    def restrict(self, session: Session, admits: Callable[[str], bool] | None, now: float) -> None:
        """Say anew which peers may hear of what is wanted. Of others nothing is wanted any more.

        Where not all may, no gateway does.
        """
        session.admits = admits
        session.admits_gateways = admits is None
        if admits is not None:
            self.gateways.leave(session, now)
        self.look_again(session, now)

    def look_again(self, session: Session, now: float) -> None:
        """Somebody may have become a peer that may hear of it, or one that may not."""
        if session.closed:
            return
        for link in [link for link in session.members if not session.may_ask(link.peer)]:
            self._leave(session, link, now)
        self._discover(session)

    def _leave(self, session: Session, link: PeerLink, now: float) -> None:
        """Let a peer take part no longer. What it was asked for this session alone is taken back."""
        member = session.members.pop(link)
        del link.members[session]
        self._part(session, member)
        for want in session.in_order():
            ask = want.asks.get(link)
            if ask is None:
                continue
            heir = next((other for other in want.sessions if other is not session and link in other.members), None)
            if heir is None:
                self._asks.give_up(ask, now, tell=True)
            elif ask.session is session:
                self._asks.pass_on(ask, heir)
        session.check_all()
        self._asks.mark(session)
        self._asks.forget_if_idle(link)

    def close_session(self, session: Session, now: float) -> None:
        """End a session: what only it wanted is cancelled."""
        if session.closed:
            return
        self.cancel(session, [want.multihash for want in session.in_order()], now)
        session.closed = True
        for link in session.members:
            del link.members[session]
            self._asks.forget_if_idle(link)
        session.members.clear()
        for link in session.gateways:
            del link.members[session]
        session.gateways.clear()
        del self._asks.sessions[session.number]
        # The others have a greater share of the budget now.
        self._asks.dirty.update(self.links.values())

    def add_provider(self, session: Session, peer: str, now: float) -> bool:
        """Let a peer take part; it is asked as soon as it is connected. False for one that lied, or may not."""
        if peer in self._bad or session.closed or not session.may_ask(peer):
            return False
        link = self._asks.link(peer)
        member = session.members.get(link)
        if member is None:
            self._join(session, link, provider=True)
            return True
        # Named again: what it declined before it may have by now.
        member.provider = True
        for want in session.in_order():
            if link in want.lacking:
                ask = want.asks.get(link)
                if ask is not None:
                    self._asks.close(ask, now, tell=True)
                self._asks.forgive(want, link)
        member.cursor = member.probe_cursor = session.base
        session.check_all()
        self._asks.dirty.add(link)
        return True

    def want(self, session: Session, cids: Iterable[CID], now: float, sizes: Mapping[bytes, int] = NO_SIZES) -> None:
        """Add wants at the end of the session's order; those it has already are left alone.

        `sizes` says by multihash how many bytes blocks have at the most, where the DAG tells. It is believed only as
        long as it is true.
        """
        if session.standby is not None and not session.wanted:
            session.standby.wants_again(now)
        for cid in cids:
            multihash = cid.multihash
            want = self.wants.get(multihash)
            if want is not None and session in want.sessions:
                continue
            if want is None:
                want = self.wants[multihash] = Want(cid)
            claimed = sizes.get(multihash, 0)
            if claimed > want.claimed:
                want.claimed = min(claimed, limits.MAX_BLOCK_SIZE)
            session.add(want, cid)
            session.check(want)
            if session.standby is not None and cid.codec == RAW:
                session.standby.car_helps = False
        self._asks.mark(session)

    def cancel(self, session: Session, multihashes: Iterable[bytes], now: float) -> None:
        """The session no longer wants these."""
        for multihash in multihashes:
            want = self.wants.get(multihash)
            if want is None or session not in want.sessions:
                continue
            session.drop(want)
            if want.sessions:
                self._asks.hand_over(want, session)
            else:
                self._asks.retire(want, now, got_from=None)
        self._asks.mark(session)

    def consumed(self, session: Session, size: int) -> bool:
        """The receiver of a session took `size` bytes. Returns whether that makes it worth while to call `poll`."""
        session.buffered -= size
        if session.limited and self._asks.has_room(session, self._asks.budget()):
            session.limited = False
            self._asks.mark(session)
            return True
        return False

    # --- peers -----------------------------------------------------------------------------------------------------

    def connected(self, peer: str, now: float, *, presence: bool = True) -> None:
        """A peer is connected; `presence` is false for versions before 1.2.0."""
        if peer in self._bad:
            return
        link = self._asks.link(peer)
        link.presence = presence
        if not link.connected:
            link.connected = True
            link.stalled = False
            link.fresh(now)
        for session in self._asks.sessions.values():
            if link in session.members:
                session.check_all()
            elif session.discover and len(session.members) < limits.MAX_DISCOVERY_PEERS and session.may_ask(peer):
                self._join(session, link, provider=False)
        self._asks.dirty.add(link)

    def set_presence(self, peer: str, presence: bool, now: float) -> None:
        """The version that a peer speaks became known."""
        link = self.links.get(peer)
        if link is None or link.presence == presence:
            return
        link.presence = presence
        if not presence:
            for ask in [ask for ask in link.asks.values() if not ask.block]:
                self._asks.close(ask, now, tell=False)
        for multihash in link.questions:
            self._asks.put_question(link, multihash, now)
        self._asks.dirty.add(link)

    def disconnected(self, peer: str, now: float) -> None:
        """A peer is gone, and with it all that it knew of our wants."""
        link = self.links.get(peer)
        if link is None or not link.connected:
            return
        link.connected = False
        for ask in list(link.asks.values()):
            self._asks.give_up(ask, now, tell=False)
        for multihash in list(link.questions):
            self._asks.answer(link, multihash, None)
        self._asks.outboxes.drop(link)
        for session, member in list(link.members.items()):
            for want in session.in_order():
                self._asks.forgive(want, link)
                want.having.discard(link)
            member.has.clear()
            member.cursor = member.probe_cursor = session.base
            self._part(session, member)
            if not member.provider:
                del session.members[link]
                del link.members[session]
            session.check_all()
            self._asks.mark(session)
        self._asks.forget_if_idle(link)

    def bad_peer(self, peer: str, now: float) -> None:
        """A peer lied: nothing is asked of it any more, by any session."""
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
        self._asks.forget_if_idle(link)

    def is_bad(self, peer: str) -> bool:
        """Whether this peer lied."""
        return peer in self._bad

    def loads_too(self, peer: str, multihashes: Iterable[bytes]) -> None:
        """A connected peer wants these blocks itself: where a session does, too, they share the work."""
        link = self.links.get(peer)
        if link is None or not link.connected or not link.presence or not self.wants:
            return
        for multihash in multihashes:
            want = self.wants.get(multihash)
            if want is None or not divides(want):
                continue
            for session in want.sessions:
                member = session.members.get(link)
                if member is not None and session.is_long and session.fellows.add(self._local, link):
                    member.is_fellow = True
                    # It may have the root and the nodes, and is asked only for what it says that it has all the same.
                    member.state = PeerState.SOME
                    member.probe_limit = limits.MAX_PROBES_PER_PEER
                    member.probe_cursor = session.base
                    session.divide_anew()
                    self._asks.mark(session)

    @staticmethod
    def _part(session: Session, member: Member) -> None:
        member.is_fellow = False
        if session.fellows.remove(member.link):
            session.divide_anew()

    def sign_of_life(self, peer: str, now: float) -> None:
        """Bytes of an unfinished message came."""
        link = self._link(peer)
        if link is not None:
            link.last_sign = now
            for session in link.members:
                if session.outstanding:
                    session.last_sign = now

    def _link(self, peer: str) -> PeerLink | None:
        return self.links.get(peer) or self._asks.gateways.get(peer)

    def _join(self, session: Session, link: PeerLink, *, provider: bool) -> None:
        session.members[link] = link.members[session] = Member(session, link, provider)
        session.check_all()
        self._asks.dirty.add(link)

    # --- answers ---------------------------------------------------------------------------------------------------

    def block(self, peer: str, multihash: bytes, size: int, now: float) -> Arrival:
        """A block came, from a peer or a gateway, whose hash, as computed here, is `multihash`."""
        link = self._link(peer)
        want = self.wants.get(multihash)
        asked = link is not None and multihash in link.questions
        if link is not None and asked:
            link.last_sign = now
            self._asks.answer(link, multihash, True)
        if want is None:
            if asked:
                return Arrival([])
            if not self._asks.was_wanted(multihash):
                return Arrival([], lie=True)
            if link is not None:
                link.duplicates += 1
                link.last_sign = now
                for session in link.members:
                    session.duplicates += 1
                    session.earn(-1)
            return Arrival([], duplicate=True)
        if link is not None:
            ask = link.asks.get(multihash)
            self._credit(link, want, ask, size, now)
            if link.gateway and ask is not None:
                self.gateways.overtook(want, ask, now)
        targets: list[tuple[Session, CID]] = []
        for session, (_, cid) in list(want.sessions.items()):
            session.learned_size(want, size)
            if self._overruns(session, want, size):
                continue
            targets.append((session, cid))
            session.buffered += size
            session.drop(want)
        if not want.sessions:
            self._asks.retire(want, now, got_from=link)
        else:
            self._no_room(want, link, [session for session, _ in targets], size, now)
        return Arrival(targets)

    def _overruns(self, session: Session, want: Want, size: int) -> bool:
        """Whether a block is larger than what it was taken for, and there is no room for that."""
        held = session.buffered + size
        if held <= 2 * limits.MIN_SESSION_IN_FLIGHT:
            return False
        return held > 2 * self._asks.budget() and not any(size <= ask.charge for ask in want.asks.values())

    def _no_room(self, want: Want, link: PeerLink | None, served: list[Session], size: int, now: float) -> None:
        """A block was left, because it is larger than what was said of it and there is no room. It is asked again."""
        want.claimed = size
        ask = want.asks.get(link) if link is not None else None
        if ask is not None:
            # The peer takes it as delivered.
            self._asks.give_up(ask, now, tell=False)
        for session in served:
            self._asks.hand_over(want, session)

    def block_too_large(self, peer: str, multihash: bytes, size: int, now: float) -> bool:
        """A wanted block came that is larger than there may be, so it cannot be had. False when it was not wanted."""
        want = self.wants.get(multihash)
        if want is None:
            return self._asks.was_wanted(multihash)
        for session, (_, cid) in want.sessions.items():
            session.too_large[cid] = size
            want.lacking.update(session.members)
            want.lacking.update(session.gateways)
        for ask in list(want.asks.values()):
            self._asks.give_up(ask, now, tell=ask.link.peer != peer)
        for session in want.sessions:
            session.check(want)
        return True

    def message_too_large(self, peer: str, now: float) -> bool:
        """A message is announced that is too large to be read. False when nothing was asked for that could be in it."""
        link = self.links.get(peer)
        asks = [ask for ask in link.asks.values() if ask.live] if link is not None else []
        if link is None or not asks:
            return False
        link.last_sign = now
        if len(asks) == 1:
            want = asks[0].want
            want.lacking.add(link)
            want.too_large.add(link)
        # Otherwise it may be any of them. Whatever it was, the peer takes it as delivered.
        link.one_by_one = True
        for ask in asks:
            self._asks.give_up(ask, now, tell=True)
        self._asks.dirty.add(link)
        return True

    def _credit(self, link: PeerLink, want: Want, ask: Ask | None, size: int, now: float) -> None:
        link.blocks += 1
        link.bytes += size
        link.last_sign = now
        if ask is not None:
            link.delivered(size, ask.at, now)
            if ask.copy:
                ask.session.earn(1)
        if link.stalled or link.probation:
            link.recovered()
        self._asks.dirty.add(link)
        for session in want.sessions:
            if not session.sources:
                self.gateways.return_to(session, now)
            session.credit(link.peer, size)
            if session.standby is not None:
                session.standby.came(size, now, gateway=link.gateway)
            member = session.gateways.get(link) if link.gateway else session.members.get(link)
            if member is not None:
                member.positive(want, delivered=True)

    def presence(self, peer: str, multihash: bytes, have: bool, now: float) -> None:
        """HAVE or DONT_HAVE from a peer; about things it was not asked it means nothing."""
        link = self.links.get(peer)
        if link is not None and multihash in link.questions:
            link.last_sign = now
            self._asks.answer(link, multihash, have)
        ask = link.asks.get(multihash) if link is not None else None
        if link is None or ask is None:
            return
        link.last_sign = now
        if not have:
            self._asks.declined(ask, now)
            return
        want = ask.want
        self._asks.forgive(want, link)
        want.having.add(link)
        if not ask.live:
            # The remote has answered a want-have and forgets it; a declined want-block it still keeps.
            self._asks.close(ask, now, tell=ask.block)
        for session in want.sessions:
            member = session.members.get(link)
            if member is not None:
                member.positive(want, delivered=False)
                if want.in_flight == 0:
                    member.has[multihash] = want
                    member.cursor = min(member.cursor, want.sessions[session][0])
                session.check(want)
        self._asks.dirty.add(link)

    # --- questions of no session -----------------------------------------------------------------------------------

    def question(self, peer: str, cid: CID, now: float, on_answer: Callable[[], None]) -> PeerQuestion | None:
        """Ask one peer whether it has a block. None when it is not connected, or lied before."""
        link = self.links.get(peer)
        if link is None or not link.connected:
            return None
        question = PeerQuestion(cid, on_answer)
        ask = link.asks.get(cid.multihash)
        if ask is not None and ask.declined:
            # It has said so, and will say when that changes.
            question.answer = False
            on_answer()
            return question
        same = link.questions.setdefault(cid.multihash, [])
        same.append(question)
        if len(same) == 1:
            self._asks.put_question(link, cid.multihash, now)
        return question

    def withdraw(self, peer: str, question: PeerQuestion, now: float) -> None:
        """The answer is not waited for any more."""
        link, multihash = self.links.get(peer), question.cid.multihash
        same = link.questions.get(multihash, []) if link is not None else []
        if link is None or question not in same:
            return
        same.remove(question)
        if same:
            same[0].sent = same[0].sent or question.sent
            return
        del link.questions[multihash]
        if multihash not in link.asks:
            self._asks.outboxes.withdraw(link, multihash)
            if question.sent:
                self._asks.outboxes.put(link, question.cid, None, now, urgent=False)

    # --- what is known -----------------------------------------------------------------------------------------------

    def answer(self, session: Session, peer: str, multihash: bytes) -> WantAnswer:
        """What a peer said about a block that a session wants."""
        if self.is_bad(peer):
            return WantAnswer.BAD
        link, want = self.links.get(peer), self.wants.get(multihash)
        if link is None or not link.connected:
            return WantAnswer.GONE
        if want is None or session not in want.sessions:
            return WantAnswer.NOT_ASKED
        if link in want.too_large:
            return WantAnswer.TOO_LARGE
        if link in want.lacking:
            return WantAnswer.SILENT if link in want.skipped else WantAnswer.LACKS
        if link in want.having:
            return WantAnswer.HAS
        return WantAnswer.SILENT if link in want.asks else WantAnswer.NOT_ASKED

    def is_gateway(self, name: str) -> bool:
        """Whether this is the name of a gateway."""
        return name in self._asks.gateways

    def is_gone(self, peer: str) -> bool:
        """Whether a peer is not connected, and nothing is held against it."""
        link = self.links.get(peer)
        return not (link is not None and link.connected) and not self.is_bad(peer)

    # --- what is to be done ----------------------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Bring what is asked up to date with all that was reported."""
        self._watch.tick(now)
        self._scheduler.run(now)

    def next_deadline(self, now: float) -> float | None:
        """When `poll` must be called again even if nothing happens; None for never."""
        due = [at for at in (self._watch.deadline(), self._asks.outboxes.deadline()) if at is not None]
        return max(min(due), now) if due else None

    def ready(self, now: float) -> list[str]:
        """Peers to which something is to be sent now."""
        return self._asks.outboxes.ready(now)

    def changed_gateways(self) -> set[GatewayLink]:
        """Gateways of which other blocks are asked now than when this was called last."""
        changed, self._asks.changed = self._asks.changed, set()
        return changed

    def take(self, peer: str, now: float) -> Outgoing:
        """Fetch what is to be sent to a peer."""
        link = self.links.get(peer)
        return self._asks.outboxes.take(link, now) if link is not None else Outgoing([], [], full=False)

    def everything_for(self, peer: str, now: float) -> Outgoing:
        """All that is wanted of a peer: for a stream that replaces a broken one."""
        link = self.links.get(peer)
        return self._asks.outboxes.everything(link, now) if link is not None else Outgoing([], [], full=True)
