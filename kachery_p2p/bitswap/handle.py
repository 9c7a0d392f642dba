"""A session as its user sees it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import NO_SIZES, WantManager
from kachery_p2p.bitswap.intake import Place
from kachery_p2p.bitswap.session import Session, WantAnswer
from kachery_p2p.dag.cid import CID, known_block
from kachery_p2p.waking import Signal
from kachery_p2p.wire import Buffer


class ReceivedBlock(NamedTuple):
    """A block whose hash was checked."""

    cid: CID
    #: Often a view of the message it came in, which lives as long as the view does.
    data: Buffer
    #: The peer that sent it, or `gateway:<host>`; empty for a block that everybody has.
    peer: str
    #: Bytes that were put in their place already (see `SessionHandle.place`), and so are not in `data`.
    placed: int = 0

    @property
    def size(self) -> int:
        return self.placed or len(self.data)


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this session is closed")


@dataclass(frozen=True)
class SessionPeer:
    """A peer of a session. `rate` is in bytes per second and over all sessions."""

    state: str
    connected: bool
    blocks: int
    bytes: int
    rate: float


@dataclass(frozen=True)
class SessionStats:
    """Sums of a session; `sources` is bytes by peer ID, or by `gateway:<host>`."""

    blocks: int
    bytes: int
    duplicates: int
    sources: dict[str, int]


class ExchangeLike(Protocol):
    """The part of `kachery_p2p.bitswap.exchange.Exchange` that a session handle uses."""

    @property
    def client(self) -> WantManager: ...

    def close_session(self, session: Session) -> None: ...

    def add_provider(self, session: Session, peer: str) -> None: ...

    def restrict(self, session: Session, admits: Callable[[str], bool] | None) -> None: ...

    def want(self, session: Session, cids: Sequence[CID], sizes: Mapping[bytes, int]) -> None: ...

    def place(self, session: Session, multihashes: Iterable[bytes], place: Place) -> None: ...

    def consumed(self, session: Session, size: int) -> None: ...


class SessionHandle:
    """Fetches blocks from peers. Use with `async with`; on leaving, what is still wanted is cancelled.

    Wants and peers may be added at any time. Blocks come out of `receive` in the order in which they arrive. What has
    arrived and was not taken counts against the session's budget, so a user who stops receiving stops the fetching.
    """

    def __init__(self, exchange: ExchangeLike, session: Session) -> None:
        self._exchange = exchange
        self._session = session
        self._arrived: deque[ReceivedBlock] = deque()
        #: A block came, or the session was closed.
        self._came = Signal()
        #: What CARs have brought before it is wanted, by multihash, and the bytes of it.
        self._ahead: dict[bytes, ReceivedBlock] = {}
        self._ahead_size = 0
        #: What was received and put back, by multihash.
        self._returned: dict[bytes, ReceivedBlock] = {}
        #: There is room for more of that.
        self._ahead_room = Signal()
        self._exhausted = Signal()
        #: Tasks that wait for exhaustion.
        self.waits_exhausted = 0

    async def __aenter__(self) -> SessionHandle:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all wants and drop what was not taken. Tasks that wait here get trio.ClosedResourceError."""
        self._exchange.close_session(self._session)
        self._arrived.clear()
        self._ahead.clear()
        self._returned.clear()
        self._came.notify()
        self._exhausted.notify()

    def add_provider(self, peer_id: str) -> None:
        """Ask this peer too, now or as soon as it is connected. Named again, it is asked again for all it declined."""
        self._exchange.add_provider(self._session, peer_id)

    def restrict(self, admits: Callable[[str], bool]) -> None:
        """From now on, let only those peers hear of what is wanted for whose ID this is true, and no gateway."""
        self._exchange.restrict(self._session, admits)

    def locate(self, root: CID, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """Say where blocks that will be wanted are in a file, so that those side by side can be asked for together.

        Args:
            root: the file.
            blocks: (multihash, offset, length) of each leaf.
        """
        self._exchange.client.gateways.locate(self._session, root, blocks)

    def gather(self, root: CID) -> None:
        """Say that all that is in a directory will be wanted, in the order of its links, and that little is here."""
        self._exchange.client.gateways.gather(self._session, root)

    @contextlib.contextmanager
    def expecting(self) -> Generator[None, None, None]:
        """While this lasts, a peer is being dialled: gateways do not take its place yet."""
        standby = self._session.standby
        if standby is not None:
            standby.dialling += 1
        try:
            yield
        finally:
            if standby is not None:
                standby.dialling -= 1

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] = NO_SIZES) -> None:
        """Want these blocks, in this order, after those wanted before. A block wanted already is not wanted twice.

        Args:
            cids: of the blocks.
            sizes: how many bytes some of them have at the most, by multihash, as the DAG says: then as many are asked
                for at once as there is room for. Where it lies, the load is slower, and takes no more memory.
        """
        others: list[CID] = []
        for cid in cids:
            known = known_block(cid)
            if known is not None:
                self._session.buffered += len(known)
                self.deliver(ReceivedBlock(cid, known, ""))
            elif cid.multihash in self._returned:
                block = self._returned.pop(cid.multihash)
                self._session.buffered += block.size
                self.deliver(block)
            elif cid.multihash in self._ahead:
                self._take_ahead(cid)
            else:
                others.append(cid)
        self._exchange.want(self._session, others, sizes)

    def put_back(self, block: ReceivedBlock) -> None:
        """Take back a block that was received: it comes again when it is wanted again, and nobody is asked for it."""
        self._returned[block.cid.multihash] = block

    def _take_ahead(self, cid: CID) -> None:
        block = self._ahead.pop(cid.multihash)
        size = len(block.data)
        self._ahead_size -= size
        # Not for each block: going on and stopping again costs more than there is room for.
        if 2 * self._ahead_size <= self._exchange.client.gateways.room_ahead():
            self._exchange.client.gateways.cars.resume(self._session)
            self._ahead_room.notify()
        self._exchange.client.gateways.taken_ahead(self._session, block.peer, size, trio.current_time())
        self.deliver(ReceivedBlock(cid, block.data, block.peer))

    def place(self, multihashes: Iterable[bytes], place: Place) -> None:
        """Say where blocks that are about to be wanted are to be put, in the thread in which they are verified.

        It is done where it saves a trip to a thread. `ReceivedBlock.placed` tells.
        """
        self._exchange.place(self._session, multihashes, place)

    async def receive_all(self) -> list[ReceivedBlock]:
        """At least one block, and those behind it that have come as well, up to some MiB; else as `receive`."""
        blocks = [await self.receive()]
        more = 0
        while self._arrived and more < limits.RECEIVED_AT_ONCE:
            blocks.append(self._arrived.popleft())
            more += blocks[-1].size
        if more:
            self._exchange.consumed(self._session, more)
        return blocks

    async def receive(self) -> ReceivedBlock:
        """The next block; waits for it, for ever if nothing is wanted.

        Raises:
            trio.ClosedResourceError: the session is closed.
        """
        if self._arrived:
            await trio.lowlevel.checkpoint()
        while True:
            if self._session.closed:
                raise _closed()
            if self._arrived:
                return self._take()
            await self._came.wait()

    def _take(self) -> ReceivedBlock:
        block = self._arrived.popleft()
        self._exchange.consumed(self._session, block.size)
        return block

    async def wait_exhausted(self) -> None:
        """Wait until at least one wanted block has nobody left to come from.

        That is so when every peer of the session said DONT_HAVE, left, or was dropped, and the block is not under way.
        Returns at once when it is so already.

        Raises:
            trio.ClosedResourceError: the session is closed.
        """
        if self._session.closed:
            raise _closed()
        if self._session.exhausted:
            await trio.lowlevel.checkpoint()
            return
        self.waits_exhausted += 1
        try:
            while not self._session.exhausted:
                await self._exhausted.wait()
                if self._session.closed:
                    raise _closed()
        finally:
            self.waits_exhausted -= 1

    # --- called by the exchange ------------------------------------------------------------------------------------

    def deliver(self, block: ReceivedBlock) -> None:
        """A wanted block arrived."""
        self._arrived.append(block)
        self._came.notify()

    def keep_ahead(self, block: ReceivedBlock) -> bool:
        """Keep a block that may be wanted soon. False when there is no room for it."""
        size = len(block.data)
        if block.cid.multihash in self._ahead:
            return True
        if self._ahead and self._ahead_size + size > self._exchange.client.gateways.room_ahead():
            return False
        self._ahead[block.cid.multihash] = block
        self._ahead_size += size
        return True

    async def room_ahead(self) -> None:
        """Wait until much of what was kept is wanted."""
        await self._ahead_room.wait()

    def check_exhausted(self) -> None:
        """Wake those who wait for exhaustion, if it is so."""
        if self._session.exhausted:
            self._exhausted.notify()

    # --- what is going on ------------------------------------------------------------------------------------------

    def asked(self) -> list[str]:
        """All peers that were asked for anything."""
        return sorted(name for name in self._session.asked if not self._exchange.client.is_gateway(name))

    def answers(self, cid: CID) -> dict[str, WantAnswer]:
        """What each peer that was asked for anything said about this block."""
        return {peer: self._exchange.client.answer(self._session, peer, cid.multihash) for peer in self.asked()}

    def gateways_said(self) -> dict[str, str]:
        """Each gateway that was asked for anything, and what it said instead of sending a block."""
        asked = sorted(name for name in self._session.asked if self._exchange.client.is_gateway(name))
        return {name: self._session.said.get(name, "It did not answer.") for name in asked}

    def lost(self) -> list[str]:
        """Peers that delivered and are gone; they may come back, for all that is known of them."""
        client = self._exchange.client
        return [name for name in self._session.sources if not client.is_gateway(name) and client.is_gone(name)]

    def may_return(self) -> bool:
        """Whether a peer or a gateway that delivered is away, and may come back."""
        return bool(self.lost()) or any(member.away for member in self._session.gateways.values())

    def too_large(self) -> dict[CID, int]:
        """Wanted blocks that a peer sent, with more bytes than there may be."""
        return dict(self._session.too_large)

    def last_sign(self) -> float:
        """When a part of a block came last from somebody who owes this session one."""
        return self._session.last_sign

    def missing(self) -> list[CID]:
        """The wants that nobody of this session can supply."""
        session = self._session
        return [want.sessions[session][1] for want in session.hopeless]

    def peers(self) -> dict[str, SessionPeer]:
        """The peers of the session, and those that delivered and left. Without gateways."""
        found: dict[str, SessionPeer] = {}
        for link, member in self._session.members.items():
            state = "stalled" if link.stalled else member.state.value
            blocks, size = self._session.sources.get(link.peer, (0, 0))
            found[link.peer] = SessionPeer(state, link.connected, blocks, size, link.rate)
        for peer, (blocks, size) in self._session.sources.items():
            if peer not in found and not self._exchange.client.is_gateway(peer):
                found[peer] = SessionPeer("gone", False, blocks, size, 0.0)
        return found

    @property
    def source_count(self) -> int:
        """How many peers and gateways something has come from."""
        return len(self._session.sources)

    @property
    def received(self) -> int:
        """Bytes of the blocks that have come from them."""
        return sum(size for _, size in self._session.sources.values())

    def stats(self) -> SessionStats:
        """Sums over the life of the session."""
        sources = {peer: size for peer, (_, size) in self._session.sources.items()}
        blocks = sum(count for count, _ in self._session.sources.values())
        return SessionStats(blocks, sum(sources.values()), self._session.duplicates, sources)
