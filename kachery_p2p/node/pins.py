"""Keeping data alive elsewhere: `kachery_p2p.pinning`, put to work on this node.

The outbox is a file of the data directory, to which any process may write; the worker that carries it out belongs to
the node. It is told here what our addresses are, how the peers of a service are dialled and kept, and how a block is
fetched back from them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidPinService, KacheryError
from kachery_p2p.json_shapes import from_json
from kachery_p2p.node.status_messages import PinningStatus
from kachery_p2p.pinning.config import PinService
from kachery_p2p.pinning.limits import FETCH_BACK_SECONDS, MAX_DIALS, MAX_SERVICES, WorkerPace
from kachery_p2p.pinning.outbox import OUTBOX_NAME, PinEntry, PinOutbox

if TYPE_CHECKING:
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.bitswap.handle import SessionHandle
    from kachery_p2p.node.messages import WaitPinnedRequest
    from kachery_p2p.pinning.worker import PinWorker
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.transport.host import Host

log = logging.getLogger("kachery_p2p.node.node")


class Keeping:
    """The pins of one node.

    Args:
        host, exchange, repo: of the node.
        services: that may be used; names are unique.
        outbox: what is to be pinned; that of the data directory, opened anew, where None.
        pace: when things are done next.
        wall: seconds since 1970.

    Attributes:
        outbox: the same.

    Raises:
        InvalidPinService: two services of one name, or too many.
    """

    def __init__(
        self,
        host: Host,
        exchange: Exchange,
        repo: Repo,
        services: Sequence[PinService] = (),
        *,
        outbox: PinOutbox | None = None,
        pace: WorkerPace | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._exchange = exchange
        self._repo = repo
        self.outbox = outbox or PinOutbox(repo.directory / OUTBOX_NAME, wall=wall)
        self._nursery: trio.Nursery | None = None
        self._held: dict[str, set[str]] = {}  # root -> peers that are protected for it
        self._dialling: set[tuple[str, str]] = set()
        self._pace = pace
        self._wall = wall
        self._working: trio.CancelScope | None = None
        self._services, self._worker = self._with(services)

    def _with(self, services: Sequence[PinService]) -> tuple[dict[str, PinService], PinWorker | None]:
        """Services by name, and what carries out what is to be pinned there."""
        names = [service.name for service in services]
        for name in names:
            if names.count(name) > 1:
                raise InvalidPinService(f"There are two pinning services with the name {name}. Rename one of them.")
        if len(names) > MAX_SERVICES:
            raise InvalidPinService(f"There are {len(names)} pinning services, and {MAX_SERVICES} are the most.")
        by_name = {service.name: service for service in services}
        if not services:
            return by_name, None
        from kachery_p2p.pinning.worker import PinWorker

        worker = PinWorker(
            self.outbox,
            list(services),
            source=self._repo.own,
            origins=self._origins,
            hold=self._hold,
            release=self._release,
            fetch_back=self._fetch_back,
            pace=self._pace,
            wall=self._wall,
        )
        return by_name, worker

    async def use(self, services: Sequence[PinService]) -> bool:
        """Use these services from now on; whether they are others than until now.

        What is to be pinned is in the outbox, and goes on from there.

        Raises:
            InvalidPinService: two of one name, or too many. Then nothing has changed.
        """
        if list(services) == list(self._services.values()):
            return False
        found = self._with(services)
        if self._working is not None:
            self._working.cancel()
        self._services, self._worker = found
        if self._nursery is not None and self._worker is not None:
            await self._nursery.start(self._work, self._worker)
        return True

    async def _work(self, worker: PinWorker, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as self._working:
            await worker.run(task_status=task_status)

    @property
    def worker(self) -> PinWorker | None:
        """Carries out what is in the outbox; None without services."""
        return self._worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is in the outbox until cancelled. Without services there is nothing to do."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._worker is not None:
                    await nursery.start(self._work, self._worker)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.outbox.close()

    # --- for users --------------------------------------------------------------------------------------------------

    async def wait_pinned(self, request: WaitPinnedRequest) -> list[PinEntry]:
        """Wait until a root is where it should be, or until nothing more happens without the user.

        Returns:
            The rows as they are then; their `state` says whether it went well.
        """
        self.wake()  # what is waited for may have been written just now, by another process
        entries = await self._entries(request.cid, request.services)
        with trio.move_on_after(float("inf") if request.timeout is None else request.timeout):
            while self._worker is not None:
                seen, stale = self._worker.changes.count, self._worker.reconsidering
                entries = await self._entries(request.cid, request.services)
                if not stale and all(_settled(entry, request.verified) for entry in entries):
                    break
                await self._worker.changes.wait(seen)
        return entries

    def wake(self, *, again: bool = False) -> None:
        """Another process has written to the outbox. With `again`, services that refused are asked once more."""
        if self._worker is not None:
            self._worker.wake(again=again)

    def status(self) -> PinningStatus:
        """Services, how they have been doing, and how many rows are in which state; nothing without services."""
        if self._worker is None:
            return PinningStatus()
        return from_json(PinningStatus, self._worker.status())

    async def _entries(self, root: CID, services: Sequence[str]) -> list[PinEntry]:
        def read() -> list[PinEntry]:
            names = services or list(self._services)
            return [entry for name in names if (entry := self.outbox.get(root, name)) is not None]

        return await trio.to_thread.run_sync(read)

    # --- for the worker ---------------------------------------------------------------------------------------------

    def _origins(self) -> list[str]:
        """Where we can be dialled, through relays as well. Where we cannot, our name alone: we dial the service."""
        return self._host.addresses() or [f"/p2p/{self._host.peer_id}"]

    async def _hold(self, cid: str, addrs: Sequence[str]) -> None:
        self._held.setdefault(cid, set())
        for addr in addrs[:MAX_DIALS]:
            if self._nursery is not None and (cid, addr) not in self._dialling:
                self._dialling.add((cid, addr))
                self._nursery.start_soon(self._dial, cid, addr)

    async def _dial(self, cid: str, addr: str) -> None:
        try:
            peer = await self._host.connect(addr)
        except KacheryError as error:
            log.info("%s", error)
            return
        finally:
            self._dialling.discard((cid, addr))
        if cid in self._held:  # it may have been pinned meanwhile
            self._held[cid].add(peer)
            self._host.protect(peer, f"pin:{cid}")

    def _release(self, cid: str) -> None:
        for peer in self._held.pop(cid, ()):
            self._host.unprotect(peer, f"pin:{cid}")

    async def _fetch_back(self, block: CID, delegates: Sequence[str]) -> bool:
        """Whether a peer of a service gives a block. The exchange has checked its hash by then."""
        peers: set[str] = set()
        with trio.move_on_after(FETCH_BACK_SECONDS):
            for addr in delegates[:MAX_DIALS]:
                with contextlib.suppress(KacheryError):
                    peers.add(await self._host.connect(addr))
            if not peers:
                return False
            async with self._exchange.new_session() as session:
                for peer in peers:
                    session.add_provider(peer)
                session.want([block])
                return await _given(session, peers)
        return False


async def _given(session: SessionHandle, peers: set[str]) -> bool:
    """Whether the wanted block comes from one of these peers. It is not waited for when all say that they lack it."""
    given = False
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            await session.wait_exhausted()
            nursery.cancel_scope.cancel()

        nursery.start_soon(refused)
        block = await session.receive()
        given = block.peer in peers
        nursery.cancel_scope.cancel()
    return given


def _settled(entry: PinEntry, verified: bool) -> bool:
    if entry.state in ("verified", "refused", "removed"):
        return True
    if entry.problem in ("local", "over_limit"):
        return True
    return entry.state == "pinned" and not verified and not entry.in_question
