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

Wants that lie side by side in a file go out as one request (`cars` says which), and so does all that is in a directory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import Asks
from kachery_p2p.bitswap.cars import Cars
from kachery_p2p.bitswap.fetches import Fetch
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Ask, GatewayMember, Member, PeerState, Session, Want
from kachery_p2p.bitswap.standby import Standby
from kachery_p2p.dag.cid import CID

log = logging.getLogger("kachery_p2p.bitswap")


class Gateways:
    """The gateways, and their part in the sessions."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        #: What is known of CARs, and which are under way.
        self.cars = Cars(asks)

    @property
    def links(self) -> dict[str, GatewayLink]:
        """What is known of each gateway, by its name."""
        return self._asks.gateways

    def add(self, name: str) -> GatewayLink:
        """A gateway of this node."""
        link = self._asks.gateways[name] = GatewayLink(name)
        self.cars.fetches[link] = {}
        return link

    def fetches(self, link: GatewayLink) -> list[Fetch]:
        """The requests to a gateway: those that are under way, and those that are to be made."""
        return list(self.cars.fetches[link])

    def join(self, session: Session, first: int, last: int | None, now: float) -> None:
        """Let the gateways take part in a session; see `Standby` for the arguments."""
        session.standby = Standby(first, last, now)
        self._take_part(session, now)

    def return_to(self, session: Session, now: float) -> None:
        """Somebody sends the first block. Gateways that had none until then are asked for the rest all the same."""
        if session.standby is not None and session.admits_gateways and self._take_part(session, now):
            session.check_all()
            self._asks.mark(session)

    def leave(self, session: Session, now: float) -> None:
        """Let no gateway take part any longer, nor again."""
        for link in list(session.gateways):
            self._leave(session, self._asks.gateways[link.peer], now)

    def _take_part(self, session: Session, now: float) -> int:
        new = [link for link in self._asks.gateways.values() if not link.dropped and link not in session.gateways]
        for link in new:
            link.look(now)
            session.gateways[link] = link.members[session] = GatewayMember(session, link)
        return len(new)

    # --- what the load says ----------------------------------------------------------------------------------------

    def locate(self, session: Session, root: CID, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """Blocks that the session will want are these bytes of a file: (multihash, offset, length)."""
        if session.standby is not None:
            session.standby.places.add(root, blocks, self._asks.wants)

    def gather(self, session: Session, root: CID) -> None:
        """All that is in a directory will be wanted, in the order of its links."""
        if session.standby is not None:
            session.standby.trees.append(root)
            self._asks.mark(session)

    # --- asking ----------------------------------------------------------------------------------------------------

    def fill(self, link: GatewayLink, now: float) -> None:
        """Ask a gateway for as much as its window allows, and no more requests at once than it takes."""
        budget = self._asks.budget()
        for member in list(link.members.values()):
            session = member.session
            if session.wanted and (not session.limited or self._asks.has_room(session, budget)):
                session.limited = False
                self._adopt(link, session, budget, now)
                self._fill_member(link, member, budget, now)

    def _fill_member(self, link: GatewayLink, member: Member, budget: int, now: float) -> None:
        session = member.session
        while link.takes_more(self.cars.running(link), trial=member.state is not PeerState.PROBABLE):
            want = self._choose(link, session, now)
            if want is None:
                return
            if self._begin_tree(link, session, want, budget, now):
                continue
            size = session.expected_size(want)
            if link.block_asks and link.room(1.0, size) < size:
                link.limited = True
                return
            held = session.outstanding + session.buffered
            if held and held + size > budget:
                session.limited = True
                return
            free = min(link.room(1.0, size), budget - held)
            fetch = self.cars.plan(
                link, session, want, size, free, budget, lambda other: self._goes_with(link, session, other), now
            )
            if fetch is None:
                return
            for multihash in fetch.expected:
                other = self._asks.wants[multihash]
                self._asks.ask(other, link, session, now, block=True)
                fetch.asks[multihash] = other.asks[link]

    def _choose(self, link: GatewayLink, session: Session, now: float) -> Want | None:
        standby = session.standby
        assert standby is not None
        if not standby.flowing and standby.helps_out(now):
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
    def _goes_with(link: GatewayLink, session: Session, want: Want) -> bool:
        """Whether a want may be asked for because another one is, which comes with it."""
        standby = session.standby
        if standby is None or session not in want.sessions or want.requests or link in want.lacking:
            return False
        return not _coming_from_peers(want) if standby.joined else want in session.peerless

    def _begin_tree(self, link: GatewayLink, session: Session, want: Want, budget: int, now: float) -> bool:
        """Ask for all that is in a directory, if that is of use now. What peers deliver is not asked for so."""
        standby = session.standby
        assert standby is not None
        if not standby.trees or want.requests or standby.from_the_back(now) or not self.cars.given_by(link):
            return False
        self.cars.begin_tree(link, session, standby.trees.pop(0))
        self._adopt(link, session, budget, now)
        return True

    def _adopt(self, link: GatewayLink, session: Session, budget: int, now: float) -> None:
        """Leave to a CAR that is under way what will come with it."""
        for fetch in self.fetches(link):
            if fetch.session is not session or not fetch.keeps or not fetch.busy:
                continue
            for position, want in session.order_from(fetch.cursor):
                if self._goes_with(link, session, want) and self.cars.comes_with(fetch, want):
                    held = session.outstanding + session.buffered
                    if held and held + session.expected_size(want) > budget:
                        session.limited = True
                        return
                    self._asks.ask(want, link, session, now, block=True)
                    ask = fetch.asks[want.multihash] = want.asks[link]
                    ask.sent = fetch.started
                fetch.cursor = position + 1

    # --- answers ---------------------------------------------------------------------------------------------------

    def overtook(self, want: Want, first: Ask, now: float) -> None:
        """A gateway brought a block: those that were asked earlier are slow."""
        for ask in want.asks.values():
            link = ask.link
            if isinstance(link, GatewayLink) and ask.at < first.at and link.overtaken(now):
                self._check_all(link)

    def ended(self, fetch: Fetch, refusal: NoBlock | None, now: float) -> None:
        """A request is over. What it has not brought is asked for anew.

        Args:
            fetch: the request.
            refusal: why it brought nothing, or not all.
            now: the time.
        """
        link, asks = fetch.link, fetch.open_asks()
        self.cars.over(fetch, refusal, asks, now)
        link.proven = link.proven or (refusal is None and link.blocks > 0)
        if refusal is not None and not (fetch.brought and refusal.answer is GatewayAnswer.FAILED):
            self._refused(link, asks[0] if asks else None, refusal, fetch, now)
        for ask in asks:
            if link.asks.get(ask.want.multihash) is ask:
                self._asks.give_up(ask, now, tell=False)
        self._asks.dirty.add(link)
        self._asks.mark(fetch.session)

    def _refused(self, link: GatewayLink, ask: Ask | None, refusal: NoBlock, fetch: Fetch, now: float) -> None:
        """A request brought no block. `ask` is None when the block is not wanted of this gateway any more."""
        words = str(refusal)[: limits.MAX_WORDS]
        link.refused += 1
        if refusal.answer is GatewayAnswer.LACKS:
            link.last_error = words
        elif refusal.answer not in (GatewayAnswer.LIED, GatewayAnswer.NO_CAR):
            link.rest(now, words, refusal.pause)
            self._check_all(link)
        if ask is not None:
            for session in ask.want.sessions:
                if link in session.gateways:
                    session.said[link.peer] = words
            if refusal.answer is GatewayAnswer.LACKS and not fetch.is_car:
                self._lacks(link, ask, now)
            elif refusal.answer in (GatewayAnswer.BUSY, GatewayAnswer.FAILED):
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

    # --- what CARs bring -------------------------------------------------------------------------------------------

    def is_late(self, cid: CID) -> bool:
        """Whether a block was wanted lately, and is not any more."""
        return self._asks.was_wanted(cid.multihash)

    def room_ahead(self) -> int:
        """Bytes that one session may keep of what it does not want yet."""
        active = sum(1 for each in self._asks.sessions.values() if each.standby is not None and each.wanted)
        return max(limits.MAX_AHEAD // max(active, 1), limits.MIN_AHEAD)

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
