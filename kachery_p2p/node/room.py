"""Keeping the directory of a node under its limit, and the disk from becoming full. What goes, `repo.eviction` says.

Looked at once a minute, and as soon as much has been loaded. Beyond the limit so much goes that a twentieth of it is
free, some roots at a time, so that stores and loads wait for one of them at most. A load for which the disk has no room
makes room for itself, and goes on.

Without a limit nothing goes by itself, ever.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.units import GIB, HOUR, MIB
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.eviction import Evicted, Remove
    from kachery_p2p.repo.repo import Repo

log = logging.getLogger("kachery_p2p.node.room")


@dataclass(frozen=True)
class RoomPace:
    """When room is made, and how much.

    Attributes:
        interval: seconds between two looks.
        slack: the part of the limit that is free after room was made, so that it is made seldom.
        rest: seconds for which what was used stays, whatever the limit says: somebody may be about to open it.
        at_once: roots that go before others get their turn.
        reserve: bytes of the disk that are to be free, where there is a limit; at most a fiftieth of the disk.
        complaint: seconds between two complaints that nothing may go.
    """

    interval: float = 60.0
    slack: float = 0.05
    rest: float = 600.0
    at_once: int = 16
    reserve: int = GIB
    complaint: float = HOUR


@dataclass(frozen=True)
class RoomHooks:
    """What is known above. All of it is called in threads.

    Attributes:
        pinned: keys (binary CIDv1) of what is to be pinned elsewhere, and stays.
        first: gives up to so many bytes that cost nothing to lose; how many.
        remove: removes one root; the bytes that are free then. None for how the repo does it.
        more: bytes of the directory that the repo does not know of.
    """

    pinned: Callable[[], Set[bytes]] = frozenset
    first: Callable[[int], int] = lambda most: 0
    remove: Remove | None = None
    more: Callable[[], int] = lambda: 0


class Room:
    """Makes room in the data directory of a node.

    Args:
        repo: whose directory it is.
        limit: bytes that it may take; None for no limit.
        told: is told of roots that are gone.
        hooks: what is known above.
        pace: when, and how much.
        wall: seconds since 1970.

    Attributes:
        limit: may be changed at any time.
        used: bytes that the directory took at the last look; None before the first.
        cached: bytes of these that may go.
        evicted_bytes, evicted_roots: that went, since the start.
    """

    def __init__(
        self,
        repo: Repo,
        limit: int | None,
        *,
        told: Callable[[Sequence[CID]], Awaitable[None]],
        hooks: RoomHooks | None = None,
        pace: RoomPace | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._repo = repo
        self._told = told
        self._hooks = hooks or RoomHooks()
        self._pace = pace or RoomPace()
        self._wall = wall
        self._wake = Flag()
        self._arrived = 0
        self._complained = -float("inf")
        self._busy = trio.Lock()
        self.used: int | None = None
        self.cached = 0
        self.evicted_bytes = 0
        self.evicted_roots = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look now and then, until cancelled."""
        task_status.started()
        while True:
            try:
                await self.look()
            except KacheryError as error:
                log.warning("room cannot be made now: %s", error)
            with trio.move_on_after(self._pace.interval):
                await self._wake.take()

    def arrived(self, size: int) -> None:
        """So many bytes were loaded."""
        self._arrived += size
        if self.limit is not None and self._arrived > max(self.limit * self._pace.slack / 2, MIB):
            self._arrived = 0
            self._wake.set()

    def set_limit(self, limit: int | None) -> None:
        """From now on another limit holds."""
        self.limit = limit
        self._wake.set()

    async def look(self) -> int:
        """Make room where the directory has more than its limit, or the disk too little left; the bytes."""
        eviction = self._repo.eviction
        self.used = await trio.to_thread.run_sync(lambda: eviction.bytes_here() + self._hooks.more())
        self.cached = await trio.to_thread.run_sync(eviction.cached_bytes)
        limit = self.limit
        if limit is None or self._repo.read_only:
            return 0
        over = 0 if self.used <= limit else self.used - int(limit * (1 - self._pace.slack))
        disk = await trio.to_thread.run_sync(shutil.disk_usage, self._repo.directory)
        reserve = min(self._pace.reserve, disk.total // 50)
        over = max(over, reserve - disk.free)
        if over <= 0:
            return 0
        freed = await self.make(over)
        if freed < over and trio.current_time() - self._complained >= self._pace.complaint:
            self._complained = trio.current_time()
            log.warning(
                "%d bytes more should be free (storage_limit is %d, and the disk has %d left), but nothing else may "
                "go: the rest was stored, linked, pinned or named here, is being loaded, or was used just now",
                over - freed, limit, disk.free,
                extra={"fields": {"event": "no_room", "missing": over - freed, "limit": limit}},
            )  # fmt: skip
        return freed

    async def make(self, most: int) -> int:
        """Let go of so many bytes, if so much may go; the bytes. Nothing goes where there is no limit."""
        if self.limit is None or self._repo.read_only:
            return 0
        async with self._busy:
            freed = await trio.to_thread.run_sync(self._hooks.first, most)
            gone: list[Evicted] = []
            try:
                pinned = await trio.to_thread.run_sync(self._hooks.pinned)
                while freed < most:
                    some = await trio.to_thread.run_sync(self._evict, most - freed, pinned)
                    if not some:
                        break
                    gone += some
                    freed += sum(each.freed for each in some)
                    await self._told([each.cid for each in some])
            finally:
                if gone:
                    with trio.CancelScope(shield=True):
                        freed += await trio.to_thread.run_sync(self._tidied)
            if gone:
                self._say(gone, freed)
            return freed

    def _evict(self, most: int, pinned: Set[bytes]) -> list[Evicted]:
        pace = self._pace
        return self._repo.eviction.evict(
            most, now=self._wall(), rest=pace.rest, pinned=pinned, remove=self._hooks.remove, roots=pace.at_once
        )

    def _tidied(self) -> int:
        try:
            return self._repo.removal.tidy()
        except KacheryError as error:  # what can be given back by that is, the next time
            log.info("what was removed is not tidied up yet: %s", error)
            return 0

    def _say(self, gone: Sequence[Evicted], freed: int) -> None:
        self.evicted_roots += len(gone)
        self.evicted_bytes += freed
        newest = max(each.used for each in gone)
        log.info(
            "made room: %d roots that were only loaded are gone, %d bytes; the newest of them was last used %.1f hours "
            "ago",
            len(gone), freed, max(0.0, self._wall() - newest) / HOUR,
            extra={"fields": {"event": "evicted", "roots": len(gone), "bytes": freed, "last_used": newest}},
        )  # fmt: skip
