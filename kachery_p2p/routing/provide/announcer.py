"""Telling the network what we have: new keys at once, and all of them again in every interval.

The `Announcer` has one or more targets, the public DHT and that of the LAN. Each is served on its own; one that is
offline holds up nobody. For a target there are three kinds of work:

* *Urgent*: keys that were just stored. They go out as soon as they are known, a few by a lookup each, many together
  region by region like everything else.
* *The sweep*: the key space is cut into regions, each has its turn once in the interval of 22 hours (see
  `routing.dht.sweep` for what that costs). A region whose turn passed while we were away comes first, a few at a time.
  Keys that could not be announced make their region due again, after pauses that grow.
* *Greeting* (LAN only): a peer that appears is given what it should have and does not: nearly everything when the
  laptop comes into another lab, next to nothing when a machine comes back from its lunch break.

What was announced when is in the database, so a restart announces nothing again before it is due.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.provide import limits
from kachery_p2p.routing.provide.state import AnnounceState
from kachery_p2p.routing.provide.target import TargetWorker
from kachery_p2p.waking import Flag, Signal

if TYPE_CHECKING:
    from kachery_p2p.routing.interfaces import AnnounceTarget

log = logging.getLogger("kachery_p2p.routing")


@dataclass(frozen=True)
class AnnounceResult:
    """What came of an announcement.

    Attributes:
        copies: peers that have the record, in all targets together; 0 when there was nobody to tell.
        seconds: how long it was waited for.
    """

    copies: int
    seconds: float


class Announcer:
    """Announces keys to all targets, again and again.

    Args:
        db: where it remembers what was announced.
        targets: where to announce.
        list_keys: gives the multihashes of all that is to be announced; called in a thread, now and then.
        here: those of some keys that are here, and so may be announced; called in a thread. Without it, all are taken
            to be: then `list_keys` and `announce` must be right.
        rng: for tests.
        wall: the time of day in seconds; for tests.
    """

    def __init__(
        self,
        db: Database,
        targets: Sequence[AnnounceTarget],
        list_keys: Callable[[], Iterable[bytes]],
        *,
        here: Callable[[Sequence[bytes]], Container[bytes]] = lambda keys: keys,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._list_keys = list_keys
        self._here = here
        self._state = AnnounceState(db, wall())
        self._names = [target.name for target in targets]
        self._changed = Signal()
        self._workers = [
            TargetWorker(target, self._state, rng or random.Random(), wall, self._tell, here, local=target.local)
            for target in targets
        ]
        self._waiters: dict[bytes, list[dict[str, int]]] = {}
        self._sync_now = Flag()
        self._last_error = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            # First what is gone is forgotten, so that it is not announced once more.
            await self._sync()
            for worker in self._workers:
                nursery.start_soon(worker.run)
            nursery.start_soon(self._sync_often)

    # --- keys ------------------------------------------------------------------------------------------------------

    async def announce(self, multihashes: Iterable[bytes]) -> None:
        """Announce keys that are new, now.

        Those that were announced already are left to their turn. What is not here is not announced.

        Raises:
            RepoError, DiskFull: the database cannot be written.
        """
        asked = list(dict.fromkeys(multihashes))
        if not asked or not self._names:
            return
        here = await trio.to_thread.run_sync(self._here, asked)
        keys = [key for key in asked if key in here]
        if not keys:
            return
        await trio.to_thread.run_sync(self._state.add, self._names, keys, self._wall())
        for worker in self._workers:
            worker.urge(keys)

    async def wait(self, multihash: bytes, timeout: float = 60.0) -> AnnounceResult:
        """Wait until a key is announced to every target that has peers.

        Args:
            multihash: the key.
            timeout: seconds after which it returns in any case, with the copies there are by then.
        """
        begun = trio.current_time()
        got: dict[str, int] = {}
        waiters = self._waiters.setdefault(multihash, [])
        waiters.append(got)
        try:
            with trio.move_on_after(timeout):
                for name in self._names:
                    count = await trio.to_thread.run_sync(self._state.copies, name, multihash)
                    if count:
                        got.setdefault(name, count)
                while True:
                    ready = [worker.name for worker in self._workers if worker.ready]
                    if ready and all(name in got for name in ready):
                        break
                    await self._changed.wait()
        finally:
            # By identity: two that wait for the same key may have got the same.
            waiters[:] = [each for each in waiters if each is not got]
            if not waiters:
                self._waiters.pop(multihash, None)
        return AnnounceResult(sum(got.values()), trio.current_time() - begun)

    def _tell(self, target: str, copies: Mapping[bytes, int]) -> None:
        """A worker announced keys, or became ready or not."""
        if self._waiters:
            for key in self._waiters.keys() & copies.keys():
                if copies[key]:
                    for got in self._waiters[key]:
                        got[target] = copies[key]
        self._changed.notify()

    def refresh(self) -> None:
        """The list of keys has changed in ways not told by `announce`: look at it again now."""
        self._sync_now.set()

    async def _sync_often(self) -> None:
        while True:
            with trio.move_on_after(limits.SYNC_EVERY):
                await self._sync_now.take()
            await self._sync()

    async def _sync(self) -> None:
        started = self._wall()

        def work() -> tuple[int, int]:
            return self._state.sync(self._names, self._list_keys(), started)

        try:
            added, removed = await trio.to_thread.run_sync(work)
        except KacheryError as error:
            self._last_error = str(error)
            log.warning("what is to be announced could not be listed: %s", error)
            return
        if added or removed:
            for worker in self._workers:
                worker.keys_changed()

    # --- what is going on ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """For each target: keys announced, waiting, overdue; the last and next turn; messages; the last error."""
        now = self._wall()
        targets = {worker.name: worker.status(now) for worker in self._workers}
        return {"targets": targets, "last_error": self._last_error}
