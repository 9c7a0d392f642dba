"""The gateways of the node: which want goes to which of them, and what their answers mean. Sans-IO.

A gateway is a link like a peer, with the same window and the same patience. It differs in three ways:

- it takes part in a session only when the session's `standby` says so;
- it answers a request or does not, and remembers nothing;
- peers do not wait for it. What a gateway has under way is still asked of peers, and the first to deliver ends the
  ask of the other.

A want goes to a gateway if

- no peer can supply it, or the gateways have joined, and no other gateway has it under way, and no peer that delivers;
- else if all peers have been silent for a second;
- else if another gateway takes too long for it. Then both are asked.
"""

from __future__ import annotations

import logging

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import Asks
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Ask, GatewayMember, Member, PeerState, Session, Want
from kachery_p2p.bitswap.standby import Standby
from kachery_p2p.dag.cid import DAG_PB

log = logging.getLogger("kachery_p2p.bitswap")


class Gateways:
    """The gateways, and their part in the sessions."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks

    @property
    def links(self) -> dict[str, GatewayLink]:
        """What is known of each gateway, by its name."""
        return self._asks.gateways

    def add(self, name: str) -> GatewayLink:
        """A gateway of this node."""
        link = self._asks.gateways[name] = GatewayLink(name)
        return link

    def join(self, session: Session, first: int, last: int | None, now: float) -> None:
        """Let the gateways take part in a session; see `Standby` for the arguments."""
        session.standby = Standby(first, last, now)
        for link in self._asks.gateways.values():
            if not link.dropped:
                link.look(now)
                member = GatewayMember(session, link)
                session.gateways[link] = link.members[session] = member

    # --- asking ----------------------------------------------------------------------------------------------------

    def fill(self, link: GatewayLink, now: float) -> None:
        """Ask a gateway for as much as its window allows, and no more requests at once than it takes."""
        budget = self._asks.budget()
        for member in list(link.members.values()):
            session = member.session
            if session.wanted and (not session.limited or self._asks.has_room(session, budget)):
                self._fill_member(link, member, budget, now)

    def _fill_member(self, link: GatewayLink, member: Member, budget: int, now: float) -> None:
        session = member.session
        session.limited = False
        while link.takes_more(trial=member.state is not PeerState.PROBABLE):
            want = self._choose(link, session, now)
            if want is None:
                return
            size = session.expected_size(want)
            if link.block_asks and link.room(1.0, size) < size:
                link.limited = True
                return
            held = session.outstanding + session.buffered
            if held and held + size > budget:
                session.limited = True
                return
            self._asks.ask(want, link, session, now, block=True)

    def _choose(self, link: GatewayLink, session: Session, now: float) -> Want | None:
        standby = session.standby
        assert standby is not None
        if not standby.waits_for_car(now) and standby.helps_out(now):
            if not standby.joined:
                for want in session.peerless:
                    if not want.requests and link not in want.lacking:
                        return want
            else:
                taken: Want | None = None
                for want in session.in_order(backwards=standby.from_the_back(now)):
                    if not want.requests and link not in want.lacking:
                        if not _coming_from_peers(want):
                            return want
                        taken = taken or want
                if taken is not None and standby.takes_over(now):
                    return taken
        return self._choose_copy(link, session, now)

    @staticmethod
    def _choose_copy(link: GatewayLink, session: Session, now: float) -> Want | None:
        """A want with which another gateway takes so long that this one shall try, too."""
        for other in session.gateways:
            if other is not link:
                for ask in other.asks.values():
                    want = ask.want
                    if session in want.sessions and link not in want.lacking and link not in want.asks:
                        newest = max((a for a in want.asks.values() if a.link.gateway), key=lambda a: a.at)
                        if now - newest.at > _copy_after(newest):
                            return want
        return None

    @staticmethod
    def span(ask: Ask) -> tuple[int, int] | None:
        """The bytes of a file to ask for as a CAR, root first; None where the block alone is asked for.

        A CAR saves a round trip for each level of the DAG. It is asked for at the beginning, while there is not much
        else to ask for, and of one gateway: a second one that is asked for the block gives the block.
        """
        link, standby = ask.link, ask.session.standby
        helps = (
            standby is not None
            and standby.car_helps
            and isinstance(link, GatewayLink)
            and link.car
            and ask.want.cid.codec == DAG_PB
            and ask.want.requests == 1
            and ask.session.wanted <= limits.CAR_WANTS
        )
        return standby.span if standby is not None and helps else None

    # --- answers ---------------------------------------------------------------------------------------------------

    def overtook(self, want: Want, first: Ask, now: float) -> None:
        """A gateway brought a block: those that were asked earlier are slow."""
        for ask in want.asks.values():
            link = ask.link
            if isinstance(link, GatewayLink) and ask.at < first.at and link.overtaken(now):
                self._check_all(link)

    def refused(self, link: GatewayLink, ask: Ask | None, refusal: NoBlock, now: float) -> None:
        """A request brought no block. `ask` is None when the block is not wanted of this gateway any more."""
        words = str(refusal)[: limits.MAX_WORDS]
        link.refused += 1
        if refusal.answer is GatewayAnswer.LACKS:
            link.last_error = words
        elif refusal.answer is GatewayAnswer.NO_CAR:
            link.car = False
        elif refusal.answer is not GatewayAnswer.LIED:
            link.rest(now, words, refusal.pause)
            self._check_all(link)
        self._asks.dirty.add(link)
        if ask is not None:
            for session in ask.want.sessions:
                if link in session.gateways:
                    session.said[link.peer] = words
            if refusal.answer is GatewayAnswer.LACKS:
                self._lacks(link, ask, now)
            elif refusal.answer is GatewayAnswer.NO_CAR:
                self._asks.give_up(ask, now, tell=False)
            elif refusal.answer is not GatewayAnswer.LIED:
                self._in_vain(link, ask, refusal.answer, now)
        if refusal.answer is GatewayAnswer.LIED and not link.dropped:
            log.warning("The gateway %s is dropped: %s", link.peer, refusal)
            self._drop(link, words, now)

    def _lacks(self, link: GatewayLink, ask: Ask, now: float) -> None:
        """The gateway does not have the block. One that had none of the first does not have the others, either."""
        sessions = list(ask.want.sessions)
        self._asks.declined(ask, now)
        for session in sessions:
            member = session.gateways.get(link)
            if member is not None and member.state is PeerState.UNKNOWN and member.run <= -limits.MAX_ABSENT:
                self._leave(session, link, now)

    def _in_vain(self, link: GatewayLink, ask: Ask, answer: GatewayAnswer, now: float) -> None:
        """It was not reached, or asks for a pause. One that delivered is tried again as long as the load goes on."""
        want = ask.want
        for session in want.sessions:
            member = session.gateways.get(link)
            if member is None:
                continue
            if answer is GatewayAnswer.FAILED and link.peer in session.sources:
                member.away = True
                continue
            tries = member.tries[want.multihash] = member.tries.get(want.multihash, 0) + 1
            if tries >= limits.MAX_TRIES:
                want.lacking.add(link)
        self._asks.give_up(ask, now, tell=False)
        for session in want.sessions:
            session.check(want)

    def _drop(self, link: GatewayLink, why: str, now: float) -> None:
        """It lied: all sessions go on without it."""
        link.drop(why)
        for session in link.members:
            session.said[link.peer] = why
        for ask in list(link.asks.values()):
            self._asks.give_up(ask, now, tell=False)
        for session in list(link.members):
            self._leave(session, link, now)

    def _leave(self, session: Session, link: GatewayLink, now: float) -> None:
        for ask in [ask for ask in link.asks.values() if ask.session is session]:
            self._asks.give_up(ask, now, tell=False)
        del session.gateways[link]
        del link.members[session]
        session.check_all()
        self._asks.mark(session)

    @staticmethod
    def _check_all(link: GatewayLink) -> None:
        for session in link.members:
            session.check_all()

    # --- CARs ------------------------------------------------------------------------------------------------------

    @staticmethod
    def car_began(link: GatewayLink, session: Session) -> None:
        """A CAR brings blocks; it goes on when the block that was asked for has come."""
        link.streams += 1
        if session.standby is not None:
            session.standby.cars += 1

    @staticmethod
    def car_brings(session: Session, now: float) -> None:
        """The next block of a CAR has come."""
        if session.standby is not None:
            session.standby.car_until = now + limits.CAR_PAUSE

    def car_ended(self, link: GatewayLink, session: Session) -> None:
        """There is no more of it."""
        link.streams -= 1
        if session.standby is not None:
            session.standby.cars -= 1
        self._asks.dirty.add(link)
        self._asks.mark(session)

    @staticmethod
    def came_ahead(link: GatewayLink, size: int, now: float) -> None:
        """A CAR brought a block that is not wanted yet."""
        link.blocks += 1
        link.bytes += size
        link.last_sign = now

    def taken_ahead(self, session: Session, name: str, size: int, now: float) -> None:
        """A session wants a block that a CAR has brought before."""
        session.credit(name, size)
        session.buffered += size
        if session.standby is not None:
            session.standby.came(size, now, gateway=True)


def _coming_from_peers(want: Want) -> bool:
    """Whether a peer that delivers was asked for this block."""
    return bool(want.in_flight) and any(
        ask.live and not link.stalled and not link.gateway for link, ask in want.asks.items()
    )


def _copy_after(ask: Ask) -> float:
    """Seconds after which another gateway is asked for the same."""
    if not ask.link.blocks:
        return limits.COPY_UNTRIED
    return max(limits.COPY_AFTER, limits.COPY_TIMES * ask.expected())
