"""The sources of one load together: peers over Bitswap, and HTTP gateways beside them.

Peers are asked for everything, at once. Gateways stand by, and bring only what no peer has, which is all of it where
there is no peer. They join for everything when the peers have had a head start and are slow, and they stand back again
as soon as peers deliver well. While both are at it, peers work from the front of what is wanted and gateways from the
back, so that they seldom fetch the same block; what one of them brings is taken back from the other.

    standing by --(head start over, peers slow or silent)--> joined
    joined      --(peers deliver well)--> standing by

To a `kachery_p2p.load.load.Load` all this is one session. Every block is checked by the source that brought it, and is
delivered once, whoever else brings it, too.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kachery_p2p.bitswap.handle import ReceivedBlock, SessionHandle, SessionPeer, SessionStats
from kachery_p2p.bitswap.session import WantAnswer
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, known_block
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import FailureKind, GatewayRefusal

if TYPE_CHECKING:
    from kachery_p2p.gateway.client.client import GatewayClient
    from kachery_p2p.gateway.client.gateway import Gateway
    from kachery_p2p.load.interfaces import Connect


@dataclass(eq=False)
class _Request:
    """A block asked of a gateway, by itself or as the root of a CAR."""

    gateway: Gateway
    begun: float
    car: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: When the CAR last brought a block; 0 before the first.
    brought: float = 0.0


@dataclass(eq=False)
class _Want:
    cid: CID
    requests: list[_Request] = field(default_factory=list)
    #: How often each gateway was asked in vain.
    tries: dict[Gateway, int] = field(default_factory=dict)


class _Rate:
    """Bytes and blocks of the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._log: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self.last = -1e9

    def add(self, now: float, size: int) -> None:
        self._log.append((now, size))
        self._bytes += size
        self.last = now

    def per_second(self, now: float) -> tuple[float, float]:
        """(bytes, blocks) per second."""
        while self._log and self._log[0][0] < now - limits.RATE_SECONDS:
            self._bytes -= self._log.popleft()[1]
        return self._bytes / limits.RATE_SECONDS, len(self._log) / limits.RATE_SECONDS


@contextlib.asynccontextmanager
async def open_sources(
    peers: SessionHandle, gateways: GatewayClient, *, first: int = 0, last: int | None = None
) -> AsyncIterator[LoadSources]:
    """Join a Bitswap session and the gateways of the node for one load.

    Args:
        first, last: the bytes of the file that the load is about (inclusive; none where last is before first). None is
            all of them.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        sources = LoadSources(peers, gateways, nursery, first, last)
        nursery.start_soon(sources.pump)
        nursery.start_soon(sources.watch)
        try:
            yield sources
        except Exception as error:  # noqa: BLE001 - raised again below, as it was, and not in a group
            failure = error
        sources.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class LoadSources:
    """What a load wants, from wherever it comes; a `kachery_p2p.load.interfaces.Session`. Made by `open_sources`."""

    def __init__(
        self, peers: SessionHandle, gateways: GatewayClient, nursery: trio.Nursery, first: int, last: int | None
    ) -> None:
        self._peers = peers
        self._client = gateways
        self._nursery = nursery
        most = first + limits.CAR_FILE_BYTES - 1
        self._span = (first, most if last is None else max(first, min(last, most)))
        self._wants: dict[bytes, _Want] = {}
        #: Those that no gateway was asked for, in order.
        self._open: dict[bytes, _Want] = {}
        self._arrived: deque[ReceivedBlock] = deque()
        self._buffered = 0
        #: Checked blocks of CARs that nobody has wanted yet, and who brought them.
        self._ahead: dict[bytes, tuple[bytes, Gateway]] = {}
        self._ahead_size = 0
        self._requests: list[_Request] = []
        self._absent: dict[Gateway, int] = {}
        #: Gateways that delivered, and cannot be reached now.
        self._away: set[Gateway] = set()
        self._asked: dict[str, None] = {}
        self._said: dict[str, str] = {}
        self._sources: dict[str, int] = {}
        self._blocks = 0
        self._dialling = 0
        #: Whether a CAR may save a round trip: until leaves are wanted, by which time all that is left is known.
        self._cars = last is None or last >= first
        self._closed = False
        # Who delivers.
        self._joined = False
        self._joined_at = 0.0
        self._begun = trio.current_time()
        self._since = self._begun  # when the peers' head start began
        self._from_peers, self._from_gateways = _Rate(), _Rate()
        self._gateway_rate, self._gateway_rate_at = 0.0, -1e9
        # Who waits for what.
        self._block_came = trio.Event()
        self._taken = trio.Event()
        self._wanted = trio.Event()
        self._exhausted = trio.Event()

    # --- what a load needs of a session -----------------------------------------------------------------------------

    def add_provider(self, peer_id: str) -> None:
        """Ask this peer, too."""
        self._peers.add_provider(peer_id)

    def want(self, cids: Iterable[CID]) -> None:
        """Want these blocks, after those wanted before."""
        now = trio.current_time()
        if not self._wants and self._from_peers.last >= self._since:
            self._since = now  # a new head start for peers that used the last one
        ask: list[CID] = []
        for cid in cids:
            multihash = cid.multihash
            if multihash in self._wants:
                continue
            want = self._wants[multihash] = _Want(cid)
            ahead = self._ahead.pop(multihash, None)
            if ahead is not None:
                self._ahead_size -= len(ahead[0])
                self._from_gateway(want, *ahead)
                continue
            ask.append(cid)
            self._cars = self._cars and cid.codec != RAW
            if known_block(cid) is None:
                self._open[multihash] = want
        self._peers.want(ask)
        self._wanted.set()
        self._dispatch(now)

    def cancel(self, multihashes: Iterable[bytes]) -> None:
        """Do not want these any more."""
        gone = [self._forget(multihash) for multihash in list(multihashes) if multihash in self._wants]
        self._peers.cancel([want.cid.multihash for want in gone])

    async def receive(self) -> ReceivedBlock:
        """The next block; waits for it, for ever if nothing is wanted.

        Raises trio.ClosedResourceError when the load is over.
        """
        if self._arrived:
            await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._closed:
                raise trio.ClosedResourceError("this load is over")
            self._block_came = trio.Event()
            await self._block_came.wait()
        block = self._arrived.popleft()
        self._buffered -= len(block.data)
        self._taken.set()
        return block

    async def wait_exhausted(self) -> None:
        """Return when at least one wanted block can come neither from a peer nor from a gateway."""
        while not self.missing():
            if self._exhausted.is_set():
                self._exhausted = trio.Event()  # only then: others may wait for the one that is there
            await self._exhausted.wait()
        await trio.lowlevel.checkpoint()

    def peers(self) -> Mapping[str, SessionPeer]:
        """The peers of the session, without gateways."""
        return self._peers.peers()

    def answers(self, cid: CID) -> dict[str, WantAnswer]:
        """What the peers said about a block, without gateways."""
        return self._peers.answers(cid)

    def gateways_said(self) -> dict[str, str]:
        """Each gateway that was asked for anything, and what it said instead of sending a block."""
        return {name: self._said.get(name, "It did not answer.") for name in self._asked}

    def lost(self) -> list[str]:
        """The peers that delivered and are gone."""
        return self._peers.lost()

    def may_return(self) -> bool:
        """Whether a peer or a gateway that delivered is away now, and may come back."""
        return self._peers.may_return() or any(not gateway.dropped for gateway in self._away)

    def too_large(self) -> dict[CID, int]:
        """Wanted blocks that a peer sent, with more bytes than there may be."""
        return self._peers.too_large()

    def last_sign(self) -> float:
        """When a part of a wanted block came last from a peer."""
        return self._peers.last_sign()

    def missing(self) -> list[CID]:
        """The wants that nobody can supply."""
        now = trio.current_time()
        missing: list[CID] = []
        for cid in self._peers.missing():
            want = self._wants.get(cid.multihash)
            if want is not None and not want.requests and not any(self._may_have(g, want, now) for g in self._gateways):
                missing.append(cid)
        return missing

    def stats(self) -> SessionStats:
        """Sums over the life of the load; `sources` has peer IDs and `gateway:<host>`."""
        sources = dict(self._sources)
        return SessionStats(self._blocks, sum(sources.values()), self._peers.stats().duplicates, sources)

    # --- what the node needs ----------------------------------------------------------------------------------------

    def watching(self, connect: Connect) -> Connect:
        """The same `connect`; while somebody is being dialled, gateways give peers their head start."""

        async def dial(addr: str, addrs: Sequence[str]) -> str:
            self._dialling += 1
            try:
                return await connect(addr, addrs)
            finally:
                self._dialling -= 1

        return dial

    def close(self) -> None:
        """The load is over: tasks that wait here get trio.ClosedResourceError."""
        self._closed = True
        self._block_came.set()
        for request in self._requests:
            request.scope.cancel()

    # --- blocks come ------------------------------------------------------------------------------------------------

    async def pump(self) -> None:
        """Take blocks from the peers, as fast as the load takes them from us."""
        while True:
            while self._buffered >= limits.MAX_BUFFERED:
                self._taken = trio.Event()
                await self._taken.wait()
            try:
                block = await self._peers.receive()
            except trio.ClosedResourceError:
                return
            if block.cid.multihash in self._wants:
                if block.peer:
                    self._from_peers.add(trio.current_time(), len(block.data))
                self._deliver(block)

    def _from_gateway(self, want: _Want, data: bytes, gateway: Gateway) -> None:
        self._away.discard(gateway)
        self._from_gateways.add(trio.current_time(), len(data))
        self._peers.cancel([want.cid.multihash])
        self._deliver(ReceivedBlock(want.cid, data, gateway.name))

    def _deliver(self, block: ReceivedBlock) -> None:
        self._forget(block.cid.multihash)
        if block.peer:
            self._sources[block.peer] = self._sources.get(block.peer, 0) + len(block.data)
            self._blocks += 1
        self._arrived.append(block)
        self._buffered += len(block.data)
        self._block_came.set()

    def _forget(self, multihash: bytes) -> _Want:
        """A want is over: nobody fetches it any more."""
        want = self._wants.pop(multihash)
        self._open.pop(multihash, None)
        for request in want.requests:
            if not request.brought:
                request.scope.cancel()
        return want

    # --- who is to deliver ------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look again and again at who delivers, and ask whoever is to."""
        while True:
            while not self._wants:
                self._wanted = trio.Event()
                await self._wanted.wait()
            now = trio.current_time()
            self._judge(now)
            self._dispatch(now)
            if self.missing():
                self._exhausted.set()
            await trio.sleep(limits.TICK)

    def _judge(self, now: float) -> None:
        """Let the gateways join, or stand back."""
        if self._buffered >= limits.MAX_BUFFERED:
            self._since = now  # the load is what is slow, and says nothing about the peers
            return
        if self._joined:
            # Before, it would be compared what one has done in two seconds and the other in less.
            measured = now - self._joined_at >= limits.RATE_SECONDS
            if measured:
                self._gateway_rate, self._gateway_rate_at = self._from_gateways.per_second(now)[0], now
            if self._peers_do_well(now, measured):
                self._joined = False
                self._since = now
            return
        self._joined = now - self._since >= limits.HEAD_START and not self._peers_do_well(now)
        self._joined_at = now

    def _hopeless(self, now: float) -> list[CID]:
        """What no peer can supply, nor one that may be there in a moment."""
        if self._dialling or now - self._begun < limits.NOBODY_START:
            return []
        return self._peers.missing()

    def _peers_do_well(self, now: float, measured: bool = True) -> bool:
        rate, blocks = self._from_peers.per_second(now)
        if now - self._from_peers.last > limits.TAKE_OVER_SECONDS:
            return False
        if rate >= limits.GREAT_RATE or not measured:
            return rate >= limits.GREAT_RATE
        known = self._gateway_rate if now - self._gateway_rate_at <= limits.REMEMBERED_RATE else 0.0
        if known:
            return rate >= known / 2
        return rate >= limits.GOOD_RATE or blocks >= limits.GOOD_BLOCKS

    @property
    def _gateways(self) -> list[Gateway]:
        return self._client.gateways

    def _may_have(self, gateway: Gateway, want: _Want, now: float) -> bool:
        """Whether a gateway may still supply a block, now or soon."""
        return (
            gateway.worth_waiting(now)
            and want.tries.get(gateway, 0) < limits.MAX_TRIES
            and (self._absent.get(gateway, 0) < limits.MAX_ABSENT or gateway.name in self._sources)
        )

    def _dispatch(self, now: float) -> None:
        """Give the gateways what their windows have room for; while they stand by, only what no peer has."""
        if not self._wants:
            return
        hopeless = None if self._joined else {cid.multihash for cid in self._hopeless(now)}
        if hopeless is not None and not hopeless:
            return
        for gateway in sorted(self._gateways, key=lambda each: each.rank()):
            while gateway.free(now) and len(self._requests) < limits.MAX_REQUESTS:
                if self._buffered >= limits.MAX_BUFFERED:
                    return
                want = self._choose(gateway, now, hopeless)
                if want is None:
                    break
                self._ask(want, gateway, now)

    def _choose(self, gateway: Gateway, now: float, among: set[bytes] | None) -> _Want | None:
        """What to ask a gateway for: what nobody fetches; else what a gateway or a peer is too slow with."""
        if not self._waits_for_car(now):
            both = now - self._from_peers.last <= limits.RATE_SECONDS
            taken: _Want | None = None
            for want in reversed(self._open.values()) if both else self._open.values():
                if (among is None or want.cid.multihash in among) and self._may_have(gateway, want, now):
                    if not self._peers.under_way(want.cid.multihash):
                        return want
                    taken = taken or want
            if taken is not None and now - self._from_peers.last > limits.TAKE_OVER_SECONDS:
                return taken
        for want in self._wants.values():
            if want.requests and self._may_have(gateway, want, now) and self._is_slow(want, gateway, now):
                return want
        return None

    def _waits_for_car(self, now: float) -> bool:
        """Whether a CAR is bringing blocks, among which may be the next ones that are wanted."""
        return any(request.car and now - request.brought < limits.CAR_PAUSE for request in self._requests)

    def _is_slow(self, want: _Want, gateway: Gateway, now: float) -> bool:
        """Whether the gateway that was asked for a block takes so long that this one shall try, too."""
        if any(request.gateway is gateway for request in want.requests):
            return False
        latest = max(want.requests, key=lambda request: max(request.begun, request.brought))
        return now - max(latest.begun, latest.brought) > latest.gateway.copy_after()

    # --- asking gateways --------------------------------------------------------------------------------------------

    def _ask(self, want: _Want, gateway: Gateway, now: float) -> None:
        car = (
            gateway.car
            and want.cid.codec == DAG_PB
            and not want.requests
            and self._cars
            and len(self._wants) <= limits.CAR_WANTS
        )
        request = _Request(gateway, now, car)
        want.requests.append(request)
        self._requests.append(request)
        self._open.pop(want.cid.multihash, None)
        self._asked[gateway.name] = None
        self._nursery.start_soon(self._fetch, want, request)
        # Counted here, too: the task that counts it as under way has not begun.
        gateway.in_flight += 1

    async def _fetch(self, want: _Want, request: _Request) -> None:
        gateway, multihash = request.gateway, want.cid.multihash
        gateway.in_flight -= 1
        refusal: GatewayRefusal | None = None
        with request.scope:
            try:
                if request.car:
                    await self._fetch_car(want, request)
                else:
                    data = await self._client.block(gateway, want.cid)
                    if self._wants.get(multihash) is want:
                        self._overtook(want, request)
                        self._from_gateway(want, data, gateway)
            except GatewayRefusal as error:
                refusal = error
        self._requests.remove(request)
        want.requests.remove(request)
        if refusal is not None and not request.brought:
            self._note(want, gateway, refusal)
        if self._wants.get(multihash) is want and not want.requests:
            self._open[multihash] = want
        if not self._closed:
            self._dispatch(trio.current_time())

    async def _fetch_car(self, want: _Want, request: _Request) -> None:
        def on_block(cid: CID, data: bytes) -> bool:
            if not request.brought and self._wants.get(want.cid.multihash) is want:
                self._overtook(want, request)
            request.brought = trio.current_time()
            wanted = self._wants.get(cid.multihash)
            if wanted is not None:
                self._from_gateway(wanted, data, request.gateway)
            elif cid.multihash not in self._ahead and self._ahead_size + len(data) <= limits.MAX_AHEAD:
                self._ahead[cid.multihash] = (data, request.gateway)
                self._ahead_size += len(data)
            return self._ahead_size < limits.MAX_AHEAD

        await self._client.car(request.gateway, want.cid, *self._span, on_block)
        if want.cid.multihash in self._wants and self._wants[want.cid.multihash] is want:
            raise GatewayRefusal(FailureKind.NO_CAR, "Its CAR does not have the block that was asked for.")

    @staticmethod
    def _overtook(want: _Want, request: _Request) -> None:
        """A gateway that was asked later was faster: the other is not to be waited for so long."""
        now = trio.current_time()
        for other in want.requests:
            if other.begun < request.begun and not other.brought:
                other.gateway.overtaken(now)

    def _note(self, want: _Want, gateway: Gateway, refusal: GatewayRefusal) -> None:
        self._said[gateway.name] = str(refusal)[: limits.MAX_ERROR_LENGTH]
        if refusal.kind is FailureKind.NO_CAR:
            gateway.car = False  # the block alone is asked for next
            return
        final = refusal.kind is FailureKind.ABSENT
        if gateway.dropped:
            for request in self._requests:
                if request.gateway is gateway:
                    request.scope.cancel()
        if refusal.kind is FailureKind.FAILED and gateway.name in self._sources:
            self._away.add(gateway)  # it is tried again, whenever it has rested, for as long as the load has patience
            return
        want.tries[gateway] = limits.MAX_TRIES if final else want.tries.get(gateway, 0) + 1
        if final:
            self._absent[gateway] = self._absent.get(gateway, 0) + 1
