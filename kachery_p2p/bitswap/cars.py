"""Which wants are asked of a gateway together, as one CAR, and what becomes of CARs that are cut short. Sans-IO.

- Leaves that lie side by side in a file: bytes of it. How many, the window and the budget say: half of them at a time,
  so that the next request is under way while one is read.
- The root of a file or directory, together with what will be wanted next. That saves a round trip for each level.
- All that is in a directory, where the load says that all of it is wanted.

A gateway that cuts its CARs short is asked for half as much the next time, and for the block at which it stopped by
itself, which tells whether it has it. One that gives no CARs is asked block by block.
"""

from __future__ import annotations

from collections.abc import Callable

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import Asks
from kachery_p2p.bitswap.fetches import Fetch, Scope
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Ask, Session, Want
from kachery_p2p.dag.cid import CID, DAG_PB


class Cars:
    """The requests under way, and what is known of each gateway's CARs."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        #: By gateway, in the order in which they were planned.
        self.fetches: dict[GatewayLink, dict[Fetch, None]] = {}

    def running(self, link: GatewayLink) -> int:
        """How many requests a gateway has to answer."""
        return sum(1 for fetch in self.fetches[link] if fetch.busy)

    @staticmethod
    def given_by(link: GatewayLink) -> bool:
        """Whether a gateway gives CARs, as far as is known."""
        return link.car_refusals < limits.MAX_CAR_REFUSALS

    @staticmethod
    def comes_with(fetch: Fetch, want: Want) -> bool:
        """Whether a want comes with a CAR that is under way, as far as can be told."""
        standby = fetch.session.standby
        return (
            standby is not None
            and want.multihash not in standby.alone
            and fetch.may_bring(want, standby.places.of(want.multihash))
        )

    # --- beginning -------------------------------------------------------------------------------------------------

    def plan(
        self,
        link: GatewayLink,
        session: Session,
        want: Want,
        size: int,
        free: int,
        budget: int,
        fits: Callable[[Want], bool],
        now: float,
    ) -> Fetch | None:
        """The request for a want, and for what may come with it.

        Args:
            link: the gateway.
            session: that wants it.
            want: what it is for.
            size: bytes that the want is expected to have.
            free: bytes that may be asked for now.
            budget: bytes that the session may have asked for and not taken.
            fits: whether another want may be asked for together with this one.
            now: the time.

        Returns:
            None where it is better to wait until there is room for a larger one.
        """
        standby = session.standby
        assert standby is not None
        cid, scope, span, row = want.cid, Scope.BLOCK, None, [want.multihash]
        if self.given_by(link) and not want.requests and want.multihash not in standby.alone:
            if standby.places.of(want.multihash) is not None:
                most = min(link.car_bytes, max(link.window, 4 * size) // 2, budget // 2)
                row = self._row(session, want, most, fits, now)
                if len(row) > 1 and standby.places.bytes_of(row) > free:
                    if link.block_asks:
                        link.limited = session.limited = True
                        return None
                    row = self._row(session, want, free, fits, now)
                if len(row) > 1:
                    scope = Scope.BYTES
                    cid, *edges = standby.places.span(row)
                    span = edges[0], edges[1]
            elif cid.codec == DAG_PB and standby.car_helps and session.wanted <= limits.CAR_WANTS:
                most = limits.HEAD_BYTES if link.proven else limits.FIRST_HEAD_BYTES
                scope, span = Scope.HEAD, standby.head(most)
        fetch = Fetch(link, session, cid, scope, span, expected=frozenset(row))
        self.fetches[link][fetch] = None
        return fetch

    def _row(self, session: Session, want: Want, most: int, fits: Callable[[Want], bool], now: float) -> list[bytes]:
        standby = session.standby
        assert standby is not None
        wants = self._asks.wants

        def fitting(multihash: bytes) -> bool:
            other = wants.get(multihash)
            return other is not None and multihash not in standby.alone and fits(other)

        backwards = standby.joined and standby.from_the_back(now)
        return standby.places.row(want.multihash, most, fitting, backwards=backwards)

    def begin_tree(self, link: GatewayLink, session: Session, root: CID) -> None:
        """Ask for all that is in a directory."""
        assert session.standby is not None
        session.standby.flowing += 1
        self.fetches[link][Fetch(link, session, root, Scope.TREE)] = None
        self._asks.changed.add(link)

    # --- while one comes -------------------------------------------------------------------------------------------

    def brought(self, fetch: Fetch) -> None:
        """A block came that is wanted, or will be."""
        fetch.brought += 1
        if fetch.brought == 1 and fetch.scope is Scope.HEAD:
            # What was wanted before that is asked for in other ways.
            fetch.cursor = fetch.session.after_order

    def pause(self, fetch: Fetch, now: float) -> None:
        """There is no room for what it brings ahead of its time: what is wanted of it is had in another way."""
        fetch.paused = True
        fetch.link.proven = True  # it has brought much, all of it right
        if fetch.scope is Scope.TREE and fetch.session.standby is not None:
            fetch.session.standby.flowing -= 1
        for ask in fetch.open_asks():
            self._asks.give_up(ask, now, tell=False)
        fetch.asks.clear()
        self._asks.mark(fetch.session)

    def resume(self, session: Session) -> None:
        """A session has room again: what it wants from now on may come with a CAR that was waiting for that."""
        for fetch in [fetch for fetches in self.fetches.values() for fetch in fetches]:
            if fetch.session is session and fetch.paused:
                fetch.paused = False
                if fetch.scope is Scope.TREE:
                    if session.standby is not None:
                        session.standby.flowing += 1
                    fetch.cursor = 0
        self._asks.mark(session)

    # --- the end ---------------------------------------------------------------------------------------------------

    def over(self, fetch: Fetch, refusal: NoBlock | None, asks: list[Ask], now: float) -> None:
        """A request is over; note what that says of the gateway's CARs.

        Args:
            fetch: the request.
            refusal: why it brought nothing, or not all.
            asks: those that it has not answered.
            now: the time.
        """
        link, standby = fetch.link, fetch.session.standby
        self.fetches[link].pop(fetch, None)
        if not fetch.is_car or standby is None:
            return
        if fetch.scope is Scope.TREE and not fetch.paused:
            standby.flowing -= 1
        answer = None if refusal is None else refusal.answer
        if fetch.brought and answer is not GatewayAnswer.NO_CAR:
            link.car_refusals = 0
        if answer is GatewayAnswer.NO_CAR:
            link.car_refusals = limits.MAX_CAR_REFUSALS
        elif answer is GatewayAnswer.LACKS or (answer is None and asks and not fetch.brought):
            # Either it has nothing of it, or it gives no CAR. Asked block by block, it says which.
            link.car_refusals += 1
            standby.apart(ask.want.multihash for ask in asks)
        elif asks and (answer is None or answer is GatewayAnswer.FAILED) and fetch.brought:
            link.car_bytes = max(link.car_bytes // 2, limits.LEAST_CAR)
            standby.apart([asks[0].want.multihash])
        elif answer is None:
            link.car_bytes = min(2 * link.car_bytes, limits.CAR_BYTES)
        if fetch.scope is Scope.TREE and self._worth_more(fetch, refusal):
            standby.trees.append(fetch.cid)
            standby.tree_tries += 1

    @staticmethod
    def _worth_more(fetch: Fetch, refusal: NoBlock | None) -> bool:
        """Whether a directory that did not come whole is asked for once more, of any gateway: all of it comes again."""
        standby = fetch.session.standby
        return (
            refusal is not None
            and standby is not None
            and not fetch.session.closed
            and standby.tree_tries < limits.MAX_TREE_TRIES
            and (fetch.brought > 0 or refusal.answer is not GatewayAnswer.LACKS)
        )
