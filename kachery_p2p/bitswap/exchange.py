"""The block exchange on trio: streams in and out, around the two cores that do no I/O (`client`, `engine`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from kachery_p2p.access.gate import Gate
from kachery_p2p.access.interfaces import Served
from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.buffers import Buffers
from kachery_p2p.bitswap.client import Arrival, WantManager
from kachery_p2p.bitswap.engine import Engine
from kachery_p2p.bitswap.handle import ReceivedBlock, SessionHandle
from kachery_p2p.bitswap.http_lane import HttpLane
from kachery_p2p.bitswap.intake import Arrived, Checked, Intake, Place, multihash_of
from kachery_p2p.bitswap.interfaces import BlockStoreLike, Counted, GatewaySource, HostLike, StreamLike
from kachery_p2p.bitswap.lanes import WantLane
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.messages import (
    PROTOCOLS,
    BitswapMessage,
    Block,
    Buffer,
    MessageTooLarge,
    decode,
    speaks_presence,
)
from kachery_p2p.bitswap.peer_streams import PeerStreams, block_size, cost
from kachery_p2p.bitswap.reader import ByteBudget, MessageReader
from kachery_p2p.bitswap.serving import BlockServer
from kachery_p2p.bitswap.session import Session
from kachery_p2p.bitswap.stats import Stats
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import MalformedMessage, StreamEOF, StreamError
from kachery_p2p.turns import Pool, Turn
from kachery_p2p.waking import Signal

log = logging.getLogger("kachery_p2p.bitswap")


class Exchange:
    """Fetches blocks for its sessions and serves the blocks of its store, over one host.

    Args:
        host: opens streams and reports who is connected.
        store: where blocks to serve are; used from threads.
        on_bad_peer: called with a peer and the reason when it sent bytes that nobody wanted, or too much garbage.
        gateways: HTTP gateways, for sessions that want their help.
        gate: decides which peer may see which block of the store; None where all may see all.
        served: is told of each block that is not for everyone and was sent.
        counted: is told how much was sent to whom.

    `async with trio.open_nursery() as n: await n.start(exchange.run)` starts it; cancelling stops it.
    """

    def __init__(
        self,
        host: HostLike,
        store: BlockStoreLike,
        *,
        on_bad_peer: Callable[[str, str], None] | None = None,
        gateways: Iterable[GatewaySource] = (),
        gate: Gate | None = None,
        served: Served | None = None,
        counted: Counted | None = None,
    ) -> None:
        self._host = host
        self._on_bad_peer = on_bad_peer
        self._client = WantManager(host.peer_id)
        self._engine = Engine()
        self._server = BlockServer(host, store, self._engine, gate, served, counted)
        self._http_lanes: dict[GatewayLink, HttpLane] = {}
        for source in gateways:
            link = self._client.gateways.add(source.name)
            self._http_lanes[link] = HttpLane(source, link, self._client, self)
        self._handles: dict[Session, SessionHandle] = {}
        self._peers: dict[str, PeerStreams] = {}
        self._stats = Stats()
        self._budget = ByteBudget(limits.MAX_INBOUND_BYTES, shared=True)
        self._pool = Pool(limits.MESSAGE_POOL)
        self._buffers = Buffers(limits.SPARE_BUFFERS)
        #: Where blocks are put as soon as they are verified, by multihash, and for which session. Read in threads.
        self._places: dict[bytes, tuple[Session, Place]] = {}
        self._intake = Intake(self._places, self._checked, self.pump)
        self._nursery: trio.Nursery | None = None
        #: When the client must be looked at again, though nothing happens.
        self._alarm = math.inf
        self._alarm_set = Signal()
        self._unreachable: set[str] = set()
        self._up: set[str] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and fetch until cancelled."""
        undo = [self._host.on_connected(self._connected), self._host.on_disconnected(self._disconnected)]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    for protocol in PROTOCOLS:
                        self._host.set_handler(protocol, self._handle)
                    for peer in list(self._host.connected()):
                        self._connected(peer)
                    nursery.start_soon(self._keep_time)
                    await nursery.start(self._server.run)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # not later: once its tasks have ended it takes no more
        finally:
            for unsubscribe in undo:
                unsubscribe()
            for handle in list(self._handles.values()):
                handle.close()

    # --- for users -------------------------------------------------------------------------------------------------

    def new_session(
        self,
        *,
        discover: bool = False,
        gateways: bool = False,
        first: int = 0,
        last: int | None = None,
        admits: Callable[[str], bool] | None = None,
        public: bool = False,
    ) -> SessionHandle:
        """A new session.

        Args:
            discover: the connected peers are asked without being named.
            gateways: the gateways help where peers are slow, or do not have a block.
            first: the first byte of the file that it is about. A gateway may be asked for these bytes together with
                the root.
            last: the last such byte (inclusive); no bytes where it is before `first`. None for the end of the file.
            admits: says of a peer ID whether that peer may hear of what is wanted. Nobody else does then, and no
                gateway, whatever is said here. None where all may.
            public: `admits` leaves out peers for another reason than that nobody else may hear of it: gateways may.
        """
        session = self._client.new_session(discover, admits)
        session.admits_gateways = admits is None or public
        if gateways and session.admits_gateways and self._http_lanes:
            self._client.gateways.join(session, first, last, trio.current_time())
        handle = self._handles[session] = SessionHandle(self, session)
        return handle

    def look_again(self) -> None:
        """What `admits` says of some peers may have changed: ask those that may hear now, and no others any more."""
        now = trio.current_time()
        for session in list(self._handles):
            if session.admits is not None:
                self._client.look_again(session, now)
        self.pump()

    async def ask(self, peer: str, cid: CID) -> bool | None:
        """Whether a connected peer has a block, as it says itself; None when it leaves without an answer.

        No block is asked for; only a peer of an old version, which knows no such question, has to send it. Waits for
        ever where the peer keeps silent.
        """
        answered = trio.Event()
        question = self._client.question(peer, cid, trio.current_time(), answered.set)
        if question is None:
            return None
        self.pump()
        try:
            await answered.wait()
        finally:
            self._client.withdraw(peer, question, trio.current_time())
            self.pump()
        return question.answer

    def notify(self, multihashes: Iterable[bytes]) -> None:
        """Blocks came into the store: peers that wait for them get them, or hear that we have them."""
        self._server.notify(multihashes)

    def stats(self) -> Stats:
        """Blocks and bytes sent and received, and duplicates, in all and by peer."""
        for ledger in self._engine.ledgers.values():
            self._stats.sent(ledger.peer, ledger.blocks_sent, ledger.bytes_sent)
            ledger.blocks_sent = ledger.bytes_sent = 0
        return self._stats

    def gateways(self) -> dict[str, dict[str, Any]]:
        """How each gateway has been doing, as plain JSON values."""
        now = trio.current_time()
        return {link.peer: link.status(now) for link in self._http_lanes}

    # --- called by session handles ---------------------------------------------------------------------------------

    @property
    def client(self) -> WantManager:
        """What is known of the peers that are asked; not to be changed."""
        return self._client

    def close_session(self, session: Session) -> None:
        self._client.close_session(session, trio.current_time())
        self._handles.pop(session, None)
        for multihash in [each for each, (owner, _) in self._places.items() if owner is session]:
            del self._places[multihash]
        for lane in self._http_lanes.values():
            lane.close_session(session)
        self.pump()

    def restrict(self, session: Session, admits: Callable[[str], bool] | None) -> None:
        self._client.restrict(session, admits, trio.current_time())
        self.pump()

    def add_provider(self, session: Session, peer: str) -> None:
        if self._client.add_provider(session, peer, trio.current_time()):
            self.pump()

    def want(self, session: Session, cids: Sequence[CID], sizes: Mapping[bytes, int]) -> None:
        self._client.want(session, cids, trio.current_time(), sizes)
        for peer, multihashes in self._engine.waiting([cid.multihash for cid in cids]).items():
            self._client.loads_too(peer, multihashes)
        self.pump()

    def place(self, session: Session, multihashes: Iterable[bytes], place: Place) -> None:
        for multihash in multihashes:
            self._places.setdefault(multihash, (session, place))

    def consumed(self, session: Session, size: int) -> None:
        if self._client.consumed(session, size):
            self.pump()

    # --- called by HTTP lanes --------------------------------------------------------------------------------------

    def came(self, source: str, cid: CID, data: bytes) -> bool:
        """A verified block came from a gateway. Returns False when no session wants it."""
        if cid.multihash not in self._client.wants:
            return False
        self._deliver(self._client.block(source, cid.multihash, len(data), trio.current_time()), data, source)
        return True

    def keep_ahead(self, session: Session, source: str, cid: CID, data: bytes) -> bool:
        """Keep a verified block that a session may want soon. Returns False when there is no room for it."""
        handle = self._handles.get(session)
        return handle is not None and handle.keep_ahead(ReceivedBlock(cid, data, source))

    async def room_ahead(self, session: Session) -> None:
        """Wait until a session has room for such blocks again."""
        handle = self._handles.get(session)
        if handle is None:
            await trio.sleep_forever()  # the session is over, and so is whoever waits here in a moment
        else:
            await handle.room_ahead()

    # --- peers -----------------------------------------------------------------------------------------------------

    def _peer(self, peer: str) -> PeerStreams:
        state = self._peers.get(peer)
        if state is None:
            state = self._peers[peer] = PeerStreams(self._pool)
        return state

    def _connected(self, peer: str) -> None:
        self._up.add(peer)
        # What identify has told by now; otherwise the version is learned when the first stream is opened.
        spoken = [name for name in PROTOCOLS if name in self._host.protocols_of(peer)]
        presence = not spoken or speaks_presence(spoken[0])
        self._client.connected(peer, trio.current_time(), presence=presence)
        self.pump()

    def _disconnected(self, peer: str) -> None:
        self._up.discard(peer)
        self._client.disconnected(peer, trio.current_time())
        self._end(peer)
        self.pump()

    def _end(self, peer: str) -> None:
        """End all streams of a peer, and what is done for it."""
        if peer in self._engine.ledgers:
            self.stats()  # what was sent to it is not forgotten
        state = self._peers.pop(peer, None)
        if state is not None:
            state.cancel()
        self._server.forget(peer)

    def _no_stream(self, peer: str) -> None:
        """Wants cannot be sent to a peer: it counts as gone, and is tried again after a pause."""
        self._client.disconnected(peer, trio.current_time())
        if self._nursery is not None and peer not in self._unreachable:
            self._unreachable.add(peer)
            self._nursery.start_soon(self._try_again, peer)
        self.pump()

    async def _try_again(self, peer: str) -> None:
        await trio.sleep(limits.UNREACHABLE_PAUSE)
        self._unreachable.discard(peer)
        if peer in self._up:
            self._connected(peer)

    def _offence(self, peer: str, why: str) -> None:
        """A peer broke the protocol; after several times it is reported."""
        now = trio.current_time()
        state = self._peer(peer)
        self._stats.malformed(peer, 1)
        state.offences = [at for at in state.offences if now - at < limits.OFFENCE_WINDOW] + [now]
        log.info("The peer %s broke the Bitswap protocol: %s", peer, why)
        if len(state.offences) >= limits.MAX_OFFENCES:
            state.offences.clear()
            self._drop(peer, f"It broke the Bitswap protocol {limits.MAX_OFFENCES} times; the last: {why}")

    def _drop(self, peer: str, why: str) -> None:
        """Nothing more is asked of this peer or heard from it, and the node is told."""
        if self._client.is_bad(peer):
            return
        log.warning("The peer %s is dropped: %s", peer, why)
        self._client.bad_peer(peer, trio.current_time())
        self._end(peer)
        if self._on_bad_peer is not None:
            self._on_bad_peer(peer, why)
        self.pump()

    # --- outgoing --------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Let the client decide what to send now, and wake the lanes that send it."""
        if self._nursery is None:
            return
        now = trio.current_time()
        client = self._client
        client.poll(now)
        for peer in client.ready(now):
            state = self._peer(peer)
            if state.want_lane is None:
                state.want_lane = WantLane(self._host, peer, client, self._no_stream)
                self._nursery.start_soon(self._run_lane, state, state.want_lane)
            state.want_lane.wake()
        for link in client.changed_gateways():
            self._http_lanes[link].update(self._nursery)
        for handle in self._handles.values():
            if handle.waits_exhausted:
                handle.check_exhausted()
        deadline = client.next_deadline(now)
        if deadline is not None and deadline < self._alarm:
            self._alarm = deadline
            self._alarm_set.notify()

    async def _run_lane(self, state: PeerStreams, lane: WantLane) -> None:
        with trio.CancelScope() as scope:
            state.scopes.add(scope)
            await lane.run()
        state.scopes.discard(scope)

    async def _keep_time(self) -> None:
        while True:
            with trio.move_on_at(self._alarm):
                await self._alarm_set.wait()
            if trio.current_time() >= self._alarm:
                self._alarm = math.inf
                self.pump()

    # --- incoming --------------------------------------------------------------------------------------------------

    async def _handle(self, stream: StreamLike) -> None:
        """One inbound stream, message by message, until it ends."""
        peer = stream.peer
        state = self._peer(peer)
        most = limits.MAX_INBOUND_STREAMS_PER_PEER + limits.MAX_WAITING_STREAMS_PER_PEER
        if self._nursery is None or self._client.is_bad(peer) or state.inbound >= most:
            await stream.reset()
            return
        state.inbound += 1
        scope = trio.CancelScope()
        state.scopes.add(scope)
        try:
            with scope:
                async with state.slots:
                    await self._read_stream(stream, peer, state)
            if scope.cancelled_caught:
                await stream.reset()
        except MessageTooLarge as error:
            # It is an honest answer where the block that was asked for is too large.
            if self._client.message_too_large(peer, trio.current_time()):
                log.info("%s It came from %s.", error, peer)
                self.pump()
            else:
                self._offence(peer, str(error))
            await stream.reset()
        except (MalformedMessage, StreamEOF) as error:
            self._offence(peer, str(error))
            await stream.reset()
        except StreamError as error:
            log.debug("a stream from %s ended: %s", peer, error)
            await stream.reset()
        finally:
            state.scopes.discard(scope)
            state.inbound -= 1
            if not state.inbound and self._peers.get(peer) is state and peer not in self._up:
                del self._peers[peer]

    async def _read_stream(self, stream: StreamLike, peer: str, state: PeerStreams) -> None:
        budgets = state.budget, self._budget
        reader = MessageReader(stream, budgets, lambda size: self._alive(peer, state, size), self._buffers)
        turn = Turn()
        try:
            while (body := await reader.next()) is not None:
                message = decode(body)
                del body
                state.allowance.spend(cost(message))
                if self._nursery is not None and sum(map(block_size, message.blocks)) >= limits.HASH_IN_THREAD:
                    # A block that is too large is in the same body, and looked at elsewhere.
                    done = reader.hand_over(reusable=not message.too_large)
                    self._intake.put(Arrived(peer, message.blocks, done), self._nursery)
                    message.blocks = []
                await self._message(peer, message)
                del message
                reader.done()
                state.thank(stream)
                # The reader takes many small messages out of one piece, without waiting in between.
                if await state.allowance.settle():
                    turn.begin()
                else:
                    await turn.step()
                if self._client.is_bad(peer):
                    await stream.reset()
                    return
            await reader.all_done()
            state.thank(stream)
            await stream.close()
        finally:
            reader.done()

    def _alive(self, peer: str, state: PeerStreams, size: int) -> None:
        """Part of a message came: enough of it is a sign of life."""
        state.life += size
        if state.life >= limits.LIFE_SIGN_BYTES:
            state.life = 0
            self._client.sign_of_life(peer, trio.current_time())

    async def _message(self, peer: str, message: BitswapMessage) -> None:
        if message.blocks:
            self._checked(peer, message.blocks, [Checked(multihash_of(block), None) for block in message.blocks])
            if self._client.is_bad(peer):
                return
        if message.too_large:
            await self._too_large(peer, message.too_large)
        if message.presences:
            now = trio.current_time()
            for cid, have in message.presences:
                self._client.presence(peer, cid.multihash, have, now)
        if message.blocks or message.presences or message.too_large:
            self.pump()
        if message.malformed:
            self._stats.malformed(peer, message.malformed)
        if (message.entries or message.full) and peer in self._up:
            self._client.loads_too(peer, (entry.cid.multihash for entry in message.entries if not entry.cancel))
            await self._server.receive(peer, message.entries, message.full)

    def _checked(self, peer: str, blocks: Sequence[Block], found: Sequence[Checked]) -> bool:
        """Give the blocks of a message to those who want them; whether anybody looks at their bytes from now on."""
        if self._client.is_bad(peer):
            return False
        now = trio.current_time()
        stats, total = self._stats.of(peer), self._stats.total
        looked_at = wanted = False
        for (multihash, placed), (_, data) in zip(found, blocks, strict=True):
            size = len(data)
            arrival = self._client.block(peer, multihash, size, now)
            if arrival.lie:
                self._drop(peer, "It sent a block that nobody wanted: its bytes are not what was asked for.")
                break
            stats.received(size, duplicate=arrival.duplicate)
            total.received(size, duplicate=arrival.duplicate)
            wanted |= bool(arrival.deliver)
            looked_at |= self._deliver(arrival, data, peer, placed)
        state = self._peers.get(peer)
        if state is not None:
            state.useful += wanted
        return looked_at

    def _deliver(self, arrival: Arrival, data: Buffer, source: str, placed: Session | None = None) -> bool:
        """Give a block to the sessions that want it; whether one of them was given its bytes."""
        looked_at = False
        for session, cid in arrival.deliver:
            self._places.pop(cid.multihash, None)
            handle = self._handles.get(session)
            if handle is not None and session is placed:
                handle.deliver(ReceivedBlock(cid, b"", source, len(data)))
            elif handle is not None:
                handle.deliver(ReceivedBlock(cid, data, source))
                looked_at = True
        return looked_at

    async def _too_large(self, peer: str, blocks: Sequence[Block]) -> None:
        """Blocks that are too large: the sessions that wait for them are told.

        Raises:
            MalformedMessage: one of them was not wanted.
        """
        hashes = await trio.to_thread.run_sync(lambda: [multihash_of(block) for block in blocks])
        for multihash, (_, data) in zip(hashes, blocks, strict=True):
            if not self._client.block_too_large(peer, multihash, len(data), trio.current_time()):
                raise MalformedMessage(
                    f"A block of {len(data)} bytes came that nobody wanted; {limits.MAX_BLOCK_SIZE} are the most."
                )
