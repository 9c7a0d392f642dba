"""The book of what is wanted, of whom it was asked, and how that stands. Sans-IO.

A want stands in `wants`, and in the order of each session that wants it. An ask of it stands at the want and at the
link that was asked.

Every change to a want or an ask goes through here, so that the sums kept beside them (bytes under way at a peer and
for a session, questions open, copies of a block under way) are always right, and so that a peer is told, with a
cancel, of everything that it still keeps for us and that we no longer want.
"""

from __future__ import annotations

from collections import OrderedDict

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.link import GatewayLink, PeerLink
from kachery_p2p.bitswap.outbox import Outboxes
from kachery_p2p.bitswap.session import Ask, Session, Want

#: A refill that would be smaller than this part of the window or budget waits for more room: fewer messages.
STROKE = 8


class Asks:
    """All wants, all links, and the asks between them."""

    def __init__(self) -> None:
        self.links: dict[str, PeerLink] = {}
        self.gateways: dict[str, GatewayLink] = {}
        self.sessions: dict[int, Session] = {}
        self.wants: dict[bytes, Want] = {}
        self.outboxes = Outboxes()
        #: Gateways whose asks have changed.
        self.changed: set[GatewayLink] = set()
        #: Links for which there may be something new to ask.
        self.dirty: set[PeerLink] = set()
        #: Blocks under way from peers, copies counted.
        self.in_flight = 0
        self._recent: OrderedDict[bytes, None] = OrderedDict()

    # --- links -----------------------------------------------------------------------------------------------------

    def link(self, peer: str) -> PeerLink:
        """The link of a peer, made when there is none."""
        link = self.links.get(peer)
        if link is None:
            link = self.links[peer] = PeerLink(peer)
        return link

    def forget_if_idle(self, link: PeerLink) -> None:
        """Drop the link of a peer that is gone and that no session waits for."""
        if not link.connected and not link.members:
            self.links.pop(link.peer, None)
            self.dirty.discard(link)

    def mark(self, session: Session) -> None:
        """The peers and gateways of this session may have something to do."""
        self.dirty.update(session.members)
        if session.gateways:
            self.dirty.update(session.gateways)

    # --- the session's budget --------------------------------------------------------------------------------------

    def budget(self) -> int:
        """Bytes that one session may have asked for and not taken."""
        active = sum(1 for s in self.sessions.values() if s.wanted or s.buffered)
        return max(limits.MAX_IN_FLIGHT // max(active, 1), limits.MIN_SESSION_IN_FLIGHT)

    @staticmethod
    def has_room(session: Session, budget: int) -> bool:
        """Whether enough of the budget is free to be worth a message."""
        held = session.outstanding + session.buffered
        return budget - held >= budget // STROKE or not held

    # --- asking ----------------------------------------------------------------------------------------------------

    def ask(self, want: Want, link: PeerLink, session: Session, now: float, *, block: bool) -> None:
        """Ask a peer for a block, or whether it has it. An open question about it becomes a request for it."""
        ask = want.asks.get(link)
        if ask is None:
            ask = Ask(want, link, session, block, now)
            ask.again = self.was_wanted(want.multihash)
            want.asks[link] = link.asks[want.multihash] = ask
            if not block:
                link.probes += 1
        else:
            if ask.declined:
                ask.declined = False
                link.standing -= 1
            elif not ask.block:
                link.probes -= 1
            ask.block = block
            ask.copy = False
            ask.at = now
            ask.session = session
        session.asked.add(link.peer)
        if block:
            ask.charge = session.expected_size(want)
            session.outstanding += ask.charge
            link.asked(ask.charge, now)
            ask.ahead, ask.ahead_bytes = link.block_asks, link.outstanding
            if isinstance(link, GatewayLink):
                want.requests += 1
                self.changed.add(link)
                for one in want.sessions:
                    one.hopeless.discard(want)
                return
            want.in_flight += 1
            self.in_flight += 1
            for one in want.sessions:
                one.hopeless.discard(want)
                one.orphans.pop(want.multihash, None)
                if one.standby is not None:
                    one.peerless.pop(want, None)
        self.outboxes.put(link, want.cid, ask, now, urgent=True)

    def repeat(self, ask: Ask, now: float) -> None:
        """Send the same once more: it may have been lost."""
        ask.again = True
        ask.at = now
        ask.ahead, ask.ahead_bytes = ask.link.block_asks, ask.link.outstanding
        self.outboxes.put(ask.link, ask.want.cid, ask, now, urgent=True)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _uncharge(self, ask: Ask) -> None:
        """A block that was under way no longer is."""
        if ask.live:
            ask.link.released(ask.charge)
            ask.session.outstanding -= ask.charge
            ask.charge = 0
            if ask.link.gateway:
                ask.want.requests -= 1
            else:
                ask.want.in_flight -= 1
                self.in_flight -= 1

    def close(self, ask: Ask, now: float, *, tell: bool, urgent: bool = False) -> None:
        """Forget an ask. With `tell` the remote is told, if it knows of it. A gateway's request ends in any case."""
        link, want = ask.link, ask.want
        self._uncharge(ask)
        if isinstance(link, GatewayLink):
            del link.asks[want.multihash]
            del want.asks[link]
            self.changed.add(link)
            return
        if ask.declined:
            link.standing -= 1
        elif not ask.block:
            link.probes -= 1
        del link.asks[want.multihash]
        del want.asks[link]
        self.outboxes.withdraw(link, want.multihash)
        if tell and ask.sent and link.connected:
            self.outboxes.put(link, want.cid, None, now, urgent=urgent)
        if want.multihash in link.questions:
            self.put_question(link, want.multihash, now, again=ask.sent)

    # --- questions of no session -----------------------------------------------------------------------------------

    def put_question(self, link: PeerLink, multihash: bytes, now: float, *, again: bool = False) -> None:
        """Ask a peer whether it has a block.

        Args:
            link: of the peer.
            multihash: of the block.
            now: the time.
            again: the peer may have this question on its list already. It must forget that first, or it is silent.
        """
        if multihash in link.asks:
            return  # a session asks the peer for the same block: that brings the answer, too
        question = link.questions[multihash][0]
        question.again = question.again or again
        self.remember(multihash)
        self.outboxes.put(link, question.cid, question, now, urgent=True)

    def answer(self, link: PeerLink, multihash: bytes, has: bool | None) -> None:
        """A peer has said whether it has a block, or has gone (None)."""
        for question in link.questions.pop(multihash, ()):
            question.answer = has
            question.on_answer()
        if multihash not in link.asks:
            self.outboxes.withdraw(link, multihash)

    def give_up(self, ask: Ask, now: float, *, tell: bool) -> None:
        """Nothing is expected of this ask any more; its want goes back to the order."""
        want, was_live = ask.want, ask.live
        self.close(ask, now, tell=tell, urgent=was_live)
        if was_live:
            for session in want.sessions:
                self.returned(want, session)

    def declined(self, ask: Ask, now: float) -> None:
        """DONT_HAVE: the want goes on to the others.

        A peer keeps the want, and answers when it gets the block. So the ask stays, as declined. Only the last
        MAX_STANDING_ASKS of these stay, because each takes up room in the want table of the peer. A gateway keeps
        nothing.
        """
        if ask.declined:
            return
        link, want = ask.link, ask.want
        want.lacking.add(link)
        want.skipped.discard(link)
        want.having.discard(link)
        was_live = ask.live
        if link.gateway:
            self.close(ask, now, tell=False)
        else:
            self._stand(ask, now)
        for session in want.sessions:
            member = session.member(link)
            if member is not None:
                member.negative()
                member.has.pop(want.multihash, None)
            if was_live or want.in_flight == 0:
                self.returned(want, session)
            if want.in_flight == 0 and len(session.members) > 1 and not link.gateway:
                session.orphans[want.multihash] = want
                self.mark(session)
        self.dirty.add(link)

    def _stand(self, ask: Ask, now: float) -> None:
        """Leave an ask with a peer that does not have the block now."""
        link = ask.link
        self._uncharge(ask)
        if not ask.block:
            link.probes -= 1
        ask.declined = True
        link.standing += 1
        if link.standing > limits.MAX_STANDING_ASKS:
            self.close(next(a for a in link.asks.values() if a.declined), now, tell=True)

    def returned(self, want: Want, session: Session) -> None:
        """If no peer is delivering a want any more, it is to be had again."""
        if want.in_flight == 0:
            session.returned(want)
            self.mark(session)

    def retire(self, want: Want, now: float, got_from: PeerLink | None) -> None:
        """No session wants it any more: all asks end, and the peers that still keep one are told."""
        del self.wants[want.multihash]
        self.remember(want.multihash)
        for link, ask in list(want.asks.items()):
            self.close(ask, now, tell=link is not got_from, urgent=ask.live)
            self.dirty.add(link)
        want.lacking.clear()
        want.skipped.clear()
        want.too_large.clear()
        want.having.clear()

    @staticmethod
    def forgive(want: Want, link: PeerLink) -> None:
        """The peer may be asked for it again."""
        want.lacking.discard(link)
        want.skipped.discard(link)
        want.too_large.discard(link)

    def hand_over(self, want: Want, leaver: Session) -> None:
        """A session left a want that another keeps: what is under way is now on the other's account."""
        for ask in want.asks.values():
            if ask.session is leaver:
                self.pass_on(ask, next(iter(want.sessions)))

    @staticmethod
    def pass_on(ask: Ask, heir: Session) -> None:
        """Put what is under way on the account of another session."""
        ask.session.outstanding -= ask.charge
        heir.outstanding += ask.charge
        ask.session = heir

    # --- what was wanted lately ------------------------------------------------------------------------------------

    def remember(self, multihash: bytes) -> None:
        """From now on this block is late when it comes and is not wanted, and no lie."""
        self._recent[multihash] = None
        self._recent.move_to_end(multihash)
        if len(self._recent) > limits.REMEMBERED_WANTS:
            self._recent.popitem(last=False)

    def was_wanted(self, multihash: bytes) -> bool:
        """Whether a block was wanted lately: then it is late, and no lie."""
        return multihash in self._recent

    @staticmethod
    def others(link: PeerLink, want: Want) -> bool:
        """Whether another peer may be able to deliver the want; for a gateway, another gateway."""
        return any(
            other is not link and other.usable and other not in want.lacking
            for session in want.sessions
            for other in (session.gateways if link.gateway else session.members)
        )
