"""What goes out to one gateway: an HTTP request for each block, or a CAR of several.

The want lane of a peer sends changes to a list that the peer keeps. A gateway keeps nothing, so this lane holds the
requests under way against what is asked of the link, each time that changes: what is new is requested, and a request
whose ask is gone is cancelled, which gives its connection back. Only a CAR goes on after the block that was asked for
has come. What else it brings is given to those who want it, or kept for the session until it does.

An answer is reported in the client's terms. Bytes are a block; 404 is DONT_HAVE.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.interfaces import GatewayAnswer, GatewaySource, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Ask, Session
from kachery_p2p.dag.cid import CID


class LaneOwner(Protocol):
    """The part of `kachery_p2p.bitswap.exchange.Exchange` that a lane uses."""

    def came(self, source: str, cid: CID, data: bytes) -> bool:
        """A verified block came. Returns False when it is not wanted."""
        ...

    def keep_ahead(self, session: Session, source: str, cid: CID, data: bytes) -> bool:
        """Keep a verified block that a session may want soon. Returns False when it has no more room."""
        ...

    def pump(self) -> None:
        """Something changed: decide what is asked of whom."""
        ...


@dataclass(eq=False)
class _HttpRequest:
    """One request. `session` is the one that it was made for."""

    ask: Ask
    cid: CID
    session: Session
    span: tuple[int, int] | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: Whether it is a CAR that has brought a block.
    brings: bool = False
    #: Bytes that came since the last sign of life.
    life: int = 0


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
        self._requests: set[_HttpRequest] = set()

    def update(self, nursery: trio.Nursery) -> None:
        """Bring the requests up to date with what is asked of the link."""
        for request in self._requests:
            if not request.brings and not self._is_asked(request):
                request.scope.cancel()
        now = trio.current_time()
        for ask in self._link.asks.values():
            if not ask.sent:
                ask.sent = True
                ask.at = now
                request = _HttpRequest(ask, ask.want.cid, ask.session, self._client.gateways.span(ask))
                self._requests.add(request)
                nursery.start_soon(self._run, request)

    def close_session(self, session: Session) -> None:
        """A session is over: what a CAR still brings for it is not wanted."""
        for request in self._requests:
            if request.session is session and request.brings:
                request.scope.cancel()

    def _is_asked(self, request: _HttpRequest) -> bool:
        return self._link.asks.get(request.cid.multihash) is request.ask

    async def _run(self, request: _HttpRequest) -> None:
        refusal: NoBlock | None = None
        try:
            with request.scope:
                try:
                    await self._fetch(request)
                except NoBlock as error:
                    refusal = error
        finally:
            self._requests.discard(request)
            if request.brings:
                self._client.gateways.car_ended(self._link, request.session)
        self._link.most = self._source.most_requests
        if refusal is not None:
            ask = request.ask if self._is_asked(request) else None
            self._client.gateways.refused(self._link, ask, refusal, trio.current_time())
        self._owner.pump()

    async def _fetch(self, request: _HttpRequest) -> None:
        def alive(size: int) -> None:
            request.life += size
            if request.life >= limits.LIFE_SIGN_BYTES:
                request.life = 0
                self._client.sign_of_life(self._link.peer, trio.current_time())

        if request.span is None:
            data = await self._source.block(request.cid, alive)
            if self._is_asked(request):
                self._owner.came(self._link.peer, request.cid, data)
            return

        def on_block(cid: CID, data: bytes) -> bool:
            now = trio.current_time()
            if not request.brings:
                request.brings = True
                self._client.gateways.car_began(self._link, request.session)
            self._client.gateways.car_brings(request.session, now)
            more = True
            if not self._owner.came(self._link.peer, cid, data):
                self._client.gateways.came_ahead(self._link, len(data), now)
                more = self._owner.keep_ahead(request.session, self._link.peer, cid, data)
            self._owner.pump()
            return more

        await self._source.car(request.cid, *request.span, on_block, alive)
        if self._is_asked(request):
            raise NoBlock(GatewayAnswer.NO_CAR, "Its CAR does not have the block that was asked for.")
