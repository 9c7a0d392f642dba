"""What goes out to one gateway: an HTTP request for a block, or for a CAR of many.

The want lane of a peer sends changes to a list that the peer keeps. A gateway keeps nothing, so this lane holds the
requests under way against those that the core has planned, each time that changes: what is new is requested, and a
request of which nobody wants anything any more is cancelled, which gives its connection back.

What a CAR brings goes to those who want it. What is not wanted yet, but may be, is kept for the session until it is.
Where there is no room for that, nothing is read until there is.

An answer is reported in the client's terms. Bytes are a block; 404 is DONT_HAVE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.fetches import Fetch
from kachery_p2p.bitswap.interfaces import GatewayAnswer, GatewaySource, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Session
from kachery_p2p.dag.cid import CID, RAW


class LaneOwner(Protocol):
    """The part of `kachery_p2p.bitswap.exchange.Exchange` that a lane uses."""

    def came(self, source: str, cid: CID, data: bytes) -> bool:
        """A verified block came. Returns False when it is not wanted."""
        ...

    def keep_ahead(self, session: Session, source: str, cid: CID, data: bytes) -> bool:
        """Keep a verified block that a session may want soon. Returns False when there is no room for it."""
        ...

    async def room_ahead(self, session: Session) -> None:
        """Wait until a session has room for such blocks again."""
        ...

    def pump(self) -> None:
        """Something changed: decide what is asked of whom."""
        ...


class HttpLane:
    """The requests to one gateway.

    Args:
        source: asks it.
        link: what the client knows of it.
    """

    def __init__(self, source: GatewaySource, link: GatewayLink, client: WantManager, owner: LaneOwner) -> None:
        self._source = source
        self._link = link
        self._client = client
        self._owner = owner
        self._requests: dict[Fetch, trio.CancelScope] = {}
        #: Bytes that came since the last sign of life.
        self._life = 0

    def update(self, nursery: trio.Nursery) -> None:
        """Bring the requests up to date with what is asked of the link."""
        self._drop_idle()
        now = trio.current_time()
        for fetch in self._client.gateways.fetches(self._link):
            if not fetch.started:
                fetch.started = True
                for ask in fetch.asks.values():
                    ask.sent = True
                    ask.at = now
                self._requests[fetch] = trio.CancelScope()
                nursery.start_soon(self._run, fetch, self._requests[fetch])

    def close_session(self, session: Session) -> None:
        """A session is over, and so are the requests of which no other one wants anything."""
        self._drop_idle()

    def _drop_idle(self) -> None:
        for fetch, scope in self._requests.items():
            if fetch.busy:
                continue
            if fetch.whole:
                # One that is read to its end leaves a connection that can be used again.
                scope.deadline = min(scope.deadline, trio.current_time() + limits.CAR_END_SECONDS)
            else:
                scope.cancel()

    async def _run(self, fetch: Fetch, scope: trio.CancelScope) -> None:
        refusal: NoBlock | None = None
        try:
            with scope:
                try:
                    await (self._car(fetch) if fetch.is_car else self._block(fetch))
                except NoBlock as error:
                    refusal = error
        finally:
            del self._requests[fetch]
            self._client.gateways.ended(fetch, refusal, trio.current_time())
        self._link.most = self._source.most_requests
        self._owner.pump()

    def _alive(self, size: int) -> None:
        self._life += size
        if self._life >= limits.LIFE_SIGN_BYTES:
            self._life = 0
            self._client.sign_of_life(self._link.peer, trio.current_time())

    async def _block(self, fetch: Fetch) -> None:
        data = await self._source.block(fetch.cid, self._alive)
        if fetch.busy:
            self._owner.came(self._link.peer, fetch.cid, data)

    async def _car(self, fetch: Fetch) -> None:
        """Read a CAR.

        Raises:
            NoBlock: it does not bring what was asked for.
        """

        async def take(blocks: Sequence[tuple[CID, bytes]]) -> bool:
            for cid, data in blocks:
                if not self._taken(fetch, cid, data):
                    await self._wait_for_room(fetch, cid, data)
            self._owner.pump()
            return (fetch.busy or fetch.whole) and fetch.stray <= most_stray

        most_stray = limits.MAX_AHEAD if fetch.keeps else limits.MAX_STRAY
        await self._source.car(fetch.cid, fetch.span, take, self._alive)
        if fetch.stray > most_stray and not fetch.keeps:
            raise NoBlock(GatewayAnswer.NO_CAR, "Its CAR has other blocks than those that were asked for.")

    def _taken(self, fetch: Fetch, cid: CID, data: bytes) -> bool:
        """Give a block of a CAR to whom it is for. False when it is to be kept, and there is no room for it."""
        gateways = self._client.gateways
        if self._owner.came(self._link.peer, cid, data):
            gateways.cars.brought(fetch)
        elif fetch.keeps and not gateways.is_late(cid):
            if not self._owner.keep_ahead(fetch.session, self._link.peer, cid, data):
                return False
            gateways.came_ahead(self._link, len(data), trio.current_time())
            gateways.cars.brought(fetch)
        elif cid.multihash not in fetch.expected and cid.codec == RAW:
            fetch.stray += len(data)
        return True

    async def _wait_for_room(self, fetch: Fetch, cid: CID, data: bytes) -> None:
        while True:
            self._client.gateways.cars.pause(fetch, trio.current_time())
            self._owner.pump()
            await self._owner.room_ahead(fetch.session)
            if self._taken(fetch, cid, data):
                return
