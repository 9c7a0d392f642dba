"""What the pinning service of a node needs of it: `kachery_p2p.pinning.server.keeper`, put to work.

Roots are loaded as a user's are, and kept as `PINNED`: `list` shows them, and neither `rm` nor `gc` takes them away by
itself. What the user keeps beside that stays when the last pin goes.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from kachery_p2p.errors import ContentNotFound, InvalidAddress, IsADirectory, KacheryError
from kachery_p2p.load.cars import read_car
from kachery_p2p.node.loading import LoadProgress, no_progress
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.pinning.limits import MAX_ADDRESSES
from kachery_p2p.pinning.server.keeper import Brought, Figures, Progress
from kachery_p2p.repo.kept_rows import LOADED, PINNED
from kachery_p2p.transport.addresses import parse_address

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.messages import LoadResult
    from kachery_p2p.node.node import Node

T = TypeVar("T")

#: Threads that look into the repo for the service.
_THREADS = 8
#: Seconds for which what the disk holds is not counted anew: that goes through all of the catalog.
_COUNTED_SECONDS = 300.0


class PinKeeper:
    """The pins of others on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._repo = node.repo
        self._threads = trio.CapacityLimiter(_THREADS)
        self._used: int | None = None
        self._counted_at = -_COUNTED_SECONDS
        self._counting = trio.Lock()

    async def kept_as(self, root: CID) -> int | None:
        """See `Keeper`."""
        kept = await self._do(self._repo.inventory.get, root)
        return None if kept is None else kept.how & ~PINNED

    async def kept(self) -> set[bytes]:
        """See `Keeper`."""
        return await self._do(self._repo.inventory.pinned_keys)

    async def size_here(self, root: CID, groups: Sequence[str] = ()) -> int | None:
        """See `Keeper`."""
        kept = await self._do(self._repo.inventory.get, root)
        if kept is None or not kept.whole or await self._is_restricted(root, groups):
            return None
        return kept.size

    async def _is_restricted(self, root: CID, groups: Sequence[str]) -> bool:
        """Whether a root is here, but for others than those for whom somebody pins."""
        return not (await self._do(self._repo.access.audience_of, root)).admits(frozenset(groups))

    async def ask_size(
        self, root: CID, origins: Sequence[str], silence: float, groups: Sequence[str] = ()
    ) -> int | None:
        """See `Keeper`."""
        named = tuple(groups)
        request = LoadRequest(root, kind="info", providers=_dialable(origins), timeout=silence, groups=named)
        try:
            return (await self._load(request)).size
        except IsADirectory:
            return None

    async def fetch(
        self, root: CID, origins: Sequence[str], silence: float, progress: Progress, groups: Sequence[str] = ()
    ) -> None:
        """See `Keeper`."""

        def told(done: int, total: int, sources: int, here: int) -> None:
            progress(done, total)

        request = LoadRequest(root, providers=_dialable(origins), timeout=silence, groups=tuple(groups))
        try:
            await self._load(request, told)
        except IsADirectory:
            await self._load(replace(request, kind="directory"), told)
        if await self._is_restricted(root, groups):
            # This machine may load it, being a member; whoever pins it has not shown that they may.
            raise ContentNotFound(f"Nobody was found who has ipfs://{root}.")

    async def bring(self, file: Any, begun: Callable[[Sequence[CID]], Awaitable[None]]) -> Brought:
        """See `Keeper`."""
        came = await read_car(
            self._repo, file, "The CAR file", progress=lambda done, total, sources=0: None, begun=begun
        )
        return Brought(tuple((root.cid, root.size) for root in came.roots), came.blocks, came.size)

    async def _load(self, request: LoadRequest, told: LoadProgress = no_progress) -> LoadResult:
        """Load; what goes wrong is a named error, also where several things do.

        What is here for some alone is as if nobody had it, and takes as long.
        """
        if await self._is_restricted(request.cid, request.groups):
            await trio.sleep(request.timeout)
            raise ContentNotFound(f"Nobody was found who has ipfs://{request.cid}.")
        try:
            return await self._node.load(request, told)
        except KacheryError:
            raise
        except BaseException as error:
            # While the node stops, its parts fail those that use them, who are to stop as well.
            await trio.lowlevel.checkpoint_if_cancelled()
            named = next(_named(error), None)
            if named is None:
                raise
            raise named from error

    async def keep(self, root: CID, before: int | None) -> int:
        """See `Keeper`."""

        def keep() -> int:
            self._repo.inventory.pinned(root, before or 0)
            kept = self._repo.inventory.get(root)
            return 0 if kept is None or kept.size is None else kept.size

        size = await self._do(keep)
        await self._node.notify_stored([root])
        return size

    async def let_go(self, root: CID, before: int | None) -> None:
        """See `Keeper`."""

        def let_go() -> bool:
            kept = self._repo.inventory.get(root)
            if kept is None:
                if before is None:
                    self._repo.removal.drop_begun(root)
                return False
            ours = kept.how == PINNED or (before is None and kept.how in (0, LOADED) and not kept.whole)
            if ours and not kept.given:
                self._repo.removal.remove(kept)
                return True
            if kept.how & PINNED:
                self._repo.inventory.unpinned(root)
            return False

        if await self._do(let_go):
            await self._node.notify_removed([root])

    def addresses(self) -> list[str]:
        """See `Keeper`. Those of the loopback come last: they are of use on this machine alone."""
        host = self._node.host
        found = sorted(host.addresses(), key=lambda addr: addr.startswith(("/ip4/127.", "/ip6/::1/")))
        return found[:MAX_ADDRESSES] or [f"/p2p/{host.peer_id}"]

    async def check(self) -> str:
        """See `Keeper`."""
        if self._repo.read_only:
            return "the data directory can only be read"

        def room() -> int:
            self._repo.roots_among([])
            return shutil.disk_usage(self._repo.directory).free

        try:
            free = await self._do(room)
        except OSError:
            return "the data directory cannot be used"
        return "" if free else "the disk is full"

    async def figures(self) -> Figures:
        """See `Keeper`."""
        status = self._node.status()
        traffic = status.traffic
        free = await self._do(shutil.disk_usage, self._repo.directory)
        async with self._counting:
            if trio.current_time() - self._counted_at >= _COUNTED_SECONDS:
                self._used = await self._do(self._count)
                self._counted_at = trio.current_time()
        dhts = {"public": self._node.finding.dht, "lan": self._node.finding.lan_dht}
        return Figures(
            peers=len({each.peer for each in status.connected}),
            blocks_received=traffic.blocks_received,
            bytes_received=traffic.bytes_received,
            blocks_sent=traffic.blocks_sent,
            bytes_sent=traffic.bytes_sent,
            dht_peers={name: dht.status()["peers"] for name, dht in dhts.items() if dht is not None},
            disk_used=self._used,
            disk_free=free.free,
            service=None if self._node.service_figures is None else self._node.service_figures(),
        )

    def _count(self) -> int:
        return sum(row.bytes for row in self._repo.usage.read() if row.what != "linked")

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)


def _named(error: BaseException) -> Iterator[KacheryError]:
    """The named errors inside nested exception groups."""
    if isinstance(error, KacheryError):
        yield error
    for inner in getattr(error, "exceptions", ()):
        yield from _named(inner)


def _dialable(origins: Sequence[str]) -> tuple[str, ...]:
    """Those of some multiaddrs that can be dialled from here: clients name all that they listen on."""
    found: list[str] = []
    for addr in origins:
        try:
            parse_address(addr)
        except InvalidAddress:
            continue
        found.append(addr)
    return tuple(found)
