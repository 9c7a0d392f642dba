"""The book of what is wanted, of whom it was asked, and how that stands. Sans-IO.

Every change to a want or an ask goes through here, so that the sums kept beside them (bytes under way at a peer and
for a session, questions open, copies of a block under way) are always right, and so that a peer is told, with a
cancel, of everything that it still keeps for us and that we no longer want.
"""

from __future__ import annotations

from collections import OrderedDict

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.link import PeerLink
from kachery_p2p.bitswap.outbox import Outboxes
from kachery_p2p.bitswap.session import Ask, Session, Want


class Asks:
    """All wants, all links, and the asks between them."""

    def __init__(self) -> None:
        self.links: dict[str, PeerLink] = {}
        self.sessions: dict[int, Session] = {}
        self.wants: dict[bytes, Want] = {}
        self.outboxes = Outboxes()
        #: Links for which there may be something new to ask.
        self.dirty: set[PeerLink] = set()
        #: Blocks under way, copies counted.
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
        """The peers of this session may have something to do."""
        self.dirty.update(session.members)

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
            ask.at = now
            ask.session = session
        session.asked.add(link.peer)
        if block:
            ask.charge = session.estimate(want.cid.codec)
            session.outstanding += ask.charge
            link.asked(ask.charge, now)
            ask.ahead = link.block_asks
            want.in_flight += 1
            self.in_flight += 1
            for one in want.sessions:
                one.hopeless.discard(want.multihash)
                one.orphans.pop(want.multihash, None)
        self.outboxes.put(link, want.cid, ask, now, urgent=True)

    def repeat(self, ask: Ask, now: float) -> None:
        """Send the same once more: it may have been lost."""
        ask.again = True
        ask.at = now
        ask.ahead = ask.link.block_asks
        self.outboxes.put(ask.link, ask.want.cid, ask, now, urgent=True)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _uncharge(self, ask: Ask) -> None:
        """A block that was under way no longer is."""
        if ask.live:
            ask.link.released(ask.charge)
            ask.session.outstanding -= ask.charge
            ask.charge = 0
            ask.want.in_flight -= 1
            self.in_flight -= 1

    def close(self, ask: Ask, now: float, *, tell: bool, urgent: bool = False) -> None:
        """Forget an ask. With `tell` the remote is told, if it knows of it."""
        link, want = ask.link, ask.want
        self._uncharge(ask)
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
        """Ask a peer whether it has a block. `again`: it may have the same on its list, and is to forget that first."""
        if multihash in link.asks:
            return  # what a session asks of the peer brings the answer, too
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
        """The peer does not have it: the want goes on to the others, and stays standing at this one."""
        if ask.declined:
            return
        link, want = ask.link, ask.want
        want.lacking.add(link)
        want.skipped.discard(link)
        want.having.discard(link)
        was_live = ask.live
        self._uncharge(ask)
        if not ask.block:
            link.probes -= 1
        ask.declined = True
        link.standing += 1
        if link.standing > limits.MAX_STANDING_ASKS:
            self.close(next(a for a in link.asks.values() if a.declined), now, tell=True)
        for session in want.sessions:
            member = session.members.get(link)
            if member is not None:
                member.negative()
                member.has.pop(want.multihash, None)
            if was_live or want.in_flight == 0:
                self.returned(want, session)
            if want.in_flight == 0 and len(session.members) > 1:
                session.orphans[want.multihash] = want
                self.mark(session)
        self.dirty.add(link)

    def returned(self, want: Want, session: Session) -> None:
        """If nobody is delivering a want any more, it is to be had again."""
        if want.in_flight == 0:
            session.returned(want)
            self.mark(session)

    def retire(self, want: Want, now: float, got_from: PeerLink | None) -> None:
        """Nobody wants it any more: all asks end, and the peers that still keep one are told."""
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
        heir = next(iter(want.sessions))
        for ask in want.asks.values():
            if ask.session is leaver:
                leaver.outstanding -= ask.charge
                heir.outstanding += ask.charge
                ask.session = heir

    # --- what was wanted lately ------------------------------------------------------------------------------------

    def remember(self, multihash: bytes) -> None:
        """A block that comes from now on, and that nobody wants, is late and no lie."""
        self._recent[multihash] = None
        self._recent.move_to_end(multihash)
        if len(self._recent) > limits.REMEMBERED_WANTS:
            self._recent.popitem(last=False)

    def was_wanted(self, multihash: bytes) -> bool:
        """Whether a block that nobody wants now was wanted lately: then it is late, and no lie."""
        return multihash in self._recent

    @staticmethod
    def others(link: PeerLink, want: Want) -> bool:
        """Whether anybody but this peer may be able to deliver the want."""
        return any(
            other is not link and other.usable and other not in want.lacking
            for session in want.sessions
            for other in session.members
        )
