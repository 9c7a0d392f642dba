"""The server on trio: what peers want is looked up in the store, and the replies go out on their lanes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from kachery_p2p.access.gate import Gate
from kachery_p2p.access.interfaces import Served
from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.buffers import Buffers
from kachery_p2p.bitswap.engine import Engine, PeerWant
from kachery_p2p.bitswap.interfaces import BlockStoreLike, Counted, HostLike
from kachery_p2p.bitswap.lanes import ReplyLane
from kachery_p2p.bitswap.messages import WantlistEntry
from kachery_p2p.waking import Signal

log = logging.getLogger("kachery_p2p.bitswap")

#: Seconds between looks at slow readers, while others wait for the memory that they hold.
_CROWDED_LOOK = 1.0


class BlockServer:
    """Runs the engine against a store.

    Args:
        host: opens streams.
        store: where the blocks are; used from threads.
        engine: decides what is sent, and when.
        gate: decides who may see what: before the store is asked, and again when a reply is read and written.
        served: is told of each block that is not for everyone and was sent.
        counted: is told how much was sent to whom, message by message.

    `async with trio.open_nursery() as n: await n.start(server.run)` starts it; cancelling stops it.
    """

    def __init__(
        self,
        host: HostLike,
        store: BlockStoreLike,
        engine: Engine,
        gate: Gate | None = None,
        served: Served | None = None,
        counted: Counted | None = None,
    ) -> None:
        self._host = host
        self._store = store
        self._engine = engine
        self._gate = Gate() if gate is None else gate
        self._served = served
        self._counted = counted
        self._threads = trio.CapacityLimiter(limits.STORE_THREADS)
        self._buffers = Buffers(limits.SPARE_BUFFERS)
        self._lanes: dict[str, tuple[ReplyLane, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None
        self._wanted = Signal()
        self._drained = Signal()
        self._crowded = Signal()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        unsubscribe = self._gate.on_changed(self._look_again)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    nursery.start_soon(self._look_up)
                    nursery.start_soon(self._relieve)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # not later: once its tasks have ended it takes no more
        finally:
            unsubscribe()

    async def receive(self, peer: str, entries: Sequence[WantlistEntry], full: bool) -> None:
        """A peer told what it wants. Returns when it may send more."""
        self._engine.receive(peer, entries, full)
        self._wanted.notify()
        self._dispatch()
        while self._engine.congested(peer):
            await self._drained.wait()

    def notify(self, multihashes: Iterable[bytes]) -> None:
        """Blocks came into the store: peers that wait for them get them, or hear that they are here."""
        if self._engine.notify(multihashes):
            self._wanted.notify()

    def _look_again(self) -> None:
        """Who may see what has changed. Those who wait for something that they may see now get it."""
        if self._engine.look_again():
            self._wanted.notify()

    def forget(self, peer: str) -> None:
        """A peer is gone: it gets nothing more."""
        self._engine.cancel_all(peer)
        lane = self._lanes.pop(peer, None)
        if lane is not None:
            lane[1].cancel()
        self._drained.notify()
        self._dispatch()

    # --- looking up ------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        """Look wanted blocks up in the store, in batches, in a thread."""
        while True:
            batch = self._engine.take_lookups()
            if not batch:
                await self._wanted.wait()
                continue
            sizes = await trio.to_thread.run_sync(self._sizes, batch, limiter=self._threads)
            self._engine.looked_up(batch, sizes)
            self._dispatch()

    def _sizes(self, wants: Sequence[PeerWant]) -> Sequence[int | None]:
        """In a thread: the size of each block, None for what is not here, and for what its peer may not see."""
        try:
            return self._gate.look([(want.ledger.peer, want.cid.multihash) for want in wants], self._find)
        except Exception:
            # Whatever is wrong with the store, the peers only hear that the blocks are not here.
            log.exception("Blocks cannot be looked up")
            return [None] * len(wants)

    def _find(self, multihashes: Sequence[bytes]) -> Mapping[bytes, int]:
        many: Callable[[Sequence[bytes]], Mapping[bytes, int]] | None = getattr(self._store, "block_sizes", None)
        if many is not None:
            return many(multihashes)
        sizes = {multihash: self._store.has_block(multihash) for multihash in multihashes}
        return {multihash: size for multihash, size in sizes.items() if size is not None}

    # --- replies ---------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hand the replies that are due to the lanes of their peers."""
        if self._nursery is None:
            return
        while (reply := self._engine.next_reply()) is not None:
            lane = self._lanes.get(reply.peer)
            if lane is None:
                made = ReplyLane(
                    self._host,
                    reply.peer,
                    self._engine,
                    self._store,
                    self._threads,
                    self._replied,
                    self._buffers,
                    self._gate,
                    self._served,
                    self._counted,
                )
                lane = self._lanes[reply.peer] = made, trio.CancelScope()
                self._nursery.start_soon(self._run_lane, *lane)
            lane[0].put(reply)
        if self._engine.crowded:
            self._make_room()
            self._crowded.notify()

    @staticmethod
    async def _run_lane(lane: ReplyLane, scope: trio.CancelScope) -> None:
        with scope:
            await lane.run()

    def _replied(self) -> None:
        self._dispatch()
        self._drained.notify()

    def _make_room(self) -> None:
        """Others wait while slow readers hold all the memory: those that are stuck go."""
        now = trio.current_time()
        for lane, _ in self._lanes.values():
            if lane.stuck_for(now) > limits.REPLY_STALL_CROWDED:
                lane.abort()

    async def _relieve(self) -> None:
        """Look again and again while others wait for memory: who was not stuck a second ago may be by now."""
        while True:
            while not self._engine.crowded:
                await self._crowded.wait()
            await trio.sleep(_CROWDED_LOOK)
            self._dispatch()
