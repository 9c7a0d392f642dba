"""Which want goes to which peer. Sans-IO.

A peer that delivered for the session, or has its root, is asked for blocks straight away, as many as its window
holds. A peer that has only some is asked what it has (want-have) and then for that. An unknown peer gets one block to
prove itself when nobody better is there, and questions otherwise. A want that a peer declined is asked about at all
others at once. Gateways come after the peers; what they are asked for is decided in `gateways`.
"""

from __future__ import annotations

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import STROKE, Asks
from kachery_p2p.bitswap.gateways import Gateways
from kachery_p2p.bitswap.link import GatewayLink, PeerLink
from kachery_p2p.bitswap.session import Member, PeerState, Session, Want
from kachery_p2p.dag.cid import SHA2_256

#: Times that new work found while working is looked at before the loop is left for the next call.
_MAX_ROUNDS = 8
#: Blocks that a peer may hold at the least, to keep its line busy.
_LEAST_SHARE = 2


class Scheduler:
    """Gives the wants of all sessions to all peers."""

    def __init__(self, asks: Asks, gateways: Gateways) -> None:
        self._asks = asks
        self._gateways = gateways
        self._turn = 0
        #: Windows are shrunk by this factor while together they exceed what may be in flight.
        self.scale = 1.0

    def run(self, now: float) -> None:
        """Ask whatever can be asked of the peers that are marked dirty."""
        for _ in range(_MAX_ROUNDS):
            if not self._asks.dirty:
                return
            links, self._asks.dirty = self._asks.dirty, set()
            # Those of unknown speed first, so that they can show it; then the fastest.
            for link in sorted(links, key=_rank) if len(links) > 1 else links:
                if not link.usable or not link.members:
                    continue
                if isinstance(link, GatewayLink):
                    self._gateways.fill(link, now)
                else:
                    self._fill(link, now)

    # --- one peer --------------------------------------------------------------------------------------------------

    def _fill(self, link: PeerLink, now: float) -> None:
        """Give a peer as much to do as its window allows, taking turns between the sessions it serves."""
        members = list(link.members.values())
        if len(members) > 1:
            self._turn = (self._turn + 1) % len(members)
            members = members[self._turn :] + members[: self._turn]
        budget = self._asks.budget()
        for member in members:
            if member.session.wanted:
                self._fill_member(link, member, budget, now)
                if link.presence and member.state is not PeerState.PROBABLE:
                    self._probe(link, member, now)

    def _fill_member(self, link: PeerLink, member: Member, budget: int, now: float) -> None:
        session = member.session
        if session.limited and not self._asks.has_room(session, budget):
            return
        session.limited = False
        # What a fellow has, the source shall not be asked for.
        share = session.wanted if member.is_fellow else self._share(link, session)
        first = True
        while (want := self.choose(member)) is not None:
            size = session.expected_size(want)
            room = link.room(self.scale, size)
            free = limits.MAX_ASKS_PER_PEER - len(link.asks)
            if first and link.block_asks > 1:
                if free < limits.MAX_ASKS_PER_PEER // STROKE:
                    link.limited = True
                    return
                if room < min(max(link.window // STROKE, size), 4 * limits.MIB):
                    link.limited = True
                    return
                if share - link.block_asks < share // STROKE:
                    return
            first = False
            if room < size and link.block_asks:
                link.limited = True
                return
            if link.block_asks and (link.block_asks >= share or self._on_trial(member)):
                return
            if free <= 0:
                link.limited = True
                return
            held = session.outstanding + session.buffered
            if held and held + size > budget:
                session.limited = True
                return
            self._asks.ask(want, link, session, now, block=True)

    @staticmethod
    def _share(link: PeerLink, session: Session) -> int:
        """How many blocks a peer may hold: where wants are few, the others shall have theirs, by their windows."""
        windows = sum(
            other.window
            for other, member in session.members.items()
            if other.usable and member.state is PeerState.PROBABLE
        )
        if windows <= link.window:
            return session.wanted
        return max(session.wanted * link.window // windows, _LEAST_SHARE)

    @staticmethod
    def _on_trial(member: Member) -> bool:
        """Whether the peer must show what it has before it gets more than one block.

        Where there is no other, a question would cost a round trip and change nothing.
        """
        if member.state is PeerState.UNKNOWN:
            return any(link is not member.link and link.usable for link in member.session.members)
        return member.state is PeerState.SOME and not member.link.presence

    def choose(self, member: Member) -> Want | None:
        """The next block to ask this peer for."""
        link, session = member.link, member.session
        while True:
            if member.state is PeerState.PROBABLE:
                want = session.next_own(member) if session.fellows else session.next_for(member)
            else:
                want = session.next_had(member)
                if want is None and (not link.presence or self._nobody_better(member)):
                    want = session.next_for(member)
            if want is None or link.presence or want.cid.hash_code == SHA2_256:
                return want
            # Old versions know only sha2-256; nothing else is asked of them.
            want.lacking.add(link)
            session.check(want)

    @staticmethod
    def _nobody_better(member: Member) -> bool:
        """Whether the peer is unknown, and so is whether another has the data, which is no likelier than this one."""
        return member.state is PeerState.UNKNOWN and not any(
            link.usable and (other.state is PeerState.PROBABLE or (other.is_likely and not member.is_likely))
            for link, other in member.session.members.items()
        )

    def _probe(self, link: PeerLink, member: Member, now: float) -> None:
        """Ask a peer what it has."""
        room = min(member.probe_limit, limits.MAX_PROBES_PER_PEER) - link.probes
        if member.session.orphans:
            room = max(room, limits.FIRST_PROBES)
        room = min(room, limits.MAX_ASKS_PER_PEER - len(link.asks))
        if room > 0:
            for want in member.session.next_probes(member, room):
                self._asks.ask(want, link, member.session, now, block=False)


def _rank(link: PeerLink) -> tuple[bool, bool, bool, float]:
    return link.gateway, isinstance(link, GatewayLink) and link.doubtful, link.rate > 0, -link.rate
