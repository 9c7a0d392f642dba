"""Working off what is to be pinned: a few at a time, each until it is here and kept; and letting go what is not wanted.

    queued -> pinning -> pinned
                      -> queued again, after a pause, while there is hope; else failed, and why

All states are in the store. So a process that is killed loses nothing but its turn: the next one begins those anew that
were under way, and finds what was fetched of them on the disk.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from kachery_p2p.dag.cid import CID, known_block
from kachery_p2p.errors import (
    BlockTooLarge,
    DiskFull,
    InvalidName,
    KacheryError,
    MalformedDag,
    RepoBusy,
    UnsupportedCID,
    plain_words,
)
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.keeper import Keeper
from kachery_p2p.pinning.server.limits import QueuePace
from kachery_p2p.pinning.server.rows import Pin
from kachery_p2p.pinning.server.store import PinStore
from kachery_p2p.waking import Changes, Flag

log = logging.getLogger("kachery_p2p.pinning.server")

T = TypeVar("T")

#: What no further try can mend.
_FINAL = (MalformedDag, UnsupportedCID, BlockTooLarge, InvalidName)


class _Refused(Exception):
    """A pin that is not to be kept; its text says why."""


class PinQueue:
    """The queue of one node.

    Args:
        store: what is to be pinned.
        keeper: of the node.
        most_bytes: that one pin may take.
        pace: when things are done next.
        groups_of: the groups that a pin is for, by their IDs; those that store for them may pin what is for them.
            Called in a thread.

    Attributes:
        changes: what has happened, counted.
    """

    def __init__(
        self,
        store: PinStore,
        keeper: Keeper,
        *,
        most_bytes: int = limits.DEFAULT_UPLOAD,
        pace: QueuePace | None = None,
        groups_of: Callable[[Pin], Sequence[str]] = lambda pin: (),
    ) -> None:
        self._groups_of = groups_of
        self._store = store
        self._keeper = keeper
        self._most = most_bytes
        self._pace = pace or QueuePace()
        self._running: dict[int, tuple[Pin, trio.CancelScope]] = {}
        #: Roots that are about to come otherwise than by a pin, and how often. The lock keeps letting go apart from it.
        self._expected: Counter[bytes] = Counter()
        self._letting_go = trio.Lock()
        self._wake = Flag()
        self._threads = trio.CapacityLimiter(limits.MAX_FETCHES + 2)
        self.changes = Changes()

    @property
    def running(self) -> int:
        """Pins that are fetched now."""
        return len(self._running)

    def wake(self) -> None:
        """Something in the store is new."""
        self._wake.set()

    async def expect(self, root: CID) -> None:
        """A root is about to come. It is noted first: after a crash it is let go, if nobody has pinned it."""
        async with self._letting_go:
            await self._do(self._store.hold, root, await self._keeper.kept_as(root))
            self._expected[bytes(root.to_v1())] += 1

    async def came(self, root: CID) -> None:
        """It has come, or will not: it is let go, if nobody has pinned it."""
        key = bytes(root.to_v1())
        self._expected[key] -= 1
        if not self._expected[key]:
            del self._expected[key]
        await self._do(self._store.leave, root)
        self.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        await self._do(self._store.begin)
        await self._look_for_lost()
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                pause = self._pace.look
                try:
                    pause = await self._turn(nursery)
                except KacheryError as error:
                    log.warning("the queue of the pinning service stands still for now: %s", error)
                with trio.move_on_after(pause):
                    await self._wake.take()

    async def _look_for_lost(self) -> None:
        """What is pinned, and was removed while nobody served, is fetched again."""
        lost = await self._do(self._store.pinned_roots, await self._keeper.kept())
        lost = [root for root in lost if known_block(root) is None]  # those are here everywhere
        if lost:
            log.warning("%d roots that are pinned are not here any more; they are fetched again", len(lost))
            await self._do(self._store.again, lost)

    async def lost(self, roots: Sequence[CID]) -> None:
        """These were removed from this machine: those that are pinned are fetched again."""
        await self._do(self._store.again, roots)
        self.wake()

    async def _turn(self, nursery: trio.Nursery) -> float:
        """Do what there is to do now; seconds until there may be more."""
        for pin, scope in list(self._running.values()):
            if not await self._do(self._store.exists, pin):
                scope.cancel()
        for root in await self._do(self._store.leaving):
            async with self._letting_go:
                if not self._expected[bytes(root.to_v1())] and root not in [
                    pin.root for pin, _ in self._running.values()
                ]:
                    await self._let_go(root)
        while len(self._running) < limits.MAX_FETCHES:
            pin = await self._do(self._store.take, [pin.key for pin, _ in self._running.values()])
            if pin is None:
                break
            scope = trio.CancelScope()
            self._running[pin.id] = pin, scope
            nursery.start_soon(self._work, pin, scope)
        waits = await self._do(self._store.next_turn)
        # One whose turn it is already waits for a place, or for another pin of the same root: that wakes us.
        return min(waits or self._pace.look, self._pace.look)

    async def _work(self, pin: Pin, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._pin(pin)
            if scope.cancelled_caught:
                await self._do(self._store.leave, pin.root)
        except KacheryError as error:
            # Of the store: the row stays as it is, and is taken up again when the process begins anew.
            log.warning("the pin %s cannot be noted: %s", pin.request_id, error)
        finally:
            del self._running[pin.id]
            self.changes.happened()
            self._wake.set()

    async def _pin(self, pin: Pin) -> None:
        store, root = self._store, pin.root
        before = await self._do(store.hold, root, await self._keeper.kept_as(root))
        try:
            await self._fetch(pin)
            size = await self._keeper.keep(root, before)
            await self._check(pin, size)
        except _Refused as refused:
            await self._do(store.finish, pin, "failed", str(refused))
        except DiskFull as error:
            log.warning("the pin %s waits for room on the disk: %s", pin.request_id, error)
            details = "The disk of this service is full. It is tried again."
            await self._finish_later(pin, details, pin.tries, self._pace.full)
            return
        except _FINAL as error:
            await self._do(store.finish, pin, "failed", f"{error}")
        except KacheryError as error:
            tries = pin.tries + 1
            if tries < self._pace.tries:
                pause = self._pace.first * self._pace.factor**pin.tries
                details = f"Try {tries} of {self._pace.tries} has failed: {plain_words(error)}"
                await self._finish_later(pin, details, tries, pause)
                return
            await self._do(store.finish, pin, "failed", plain_words(error))
        except Exception:
            # Else it would be taken up again at each start, and the queue with it would end each time.
            log.exception("the pin %s ended by a mistake of this program", pin.request_id)
            await self._do(store.finish, pin, "failed", "This service made a mistake, which is in its log.")
        else:
            await self._do(store.finish, pin, "pinned")
            log.info(
                "pinned %s: %d bytes", root, size,
                extra={"fields": {"event": "pinned", "root": str(root), "bytes": size}},
            )  # fmt: skip
            return
        log.info("a pin of %s has failed", root, extra={"fields": {"event": "pin_failed", "root": str(root)}})
        await self._do(store.leave, root)

    async def _finish_later(self, pin: Pin, details: str, tries: int, pause: float) -> None:
        def finish() -> None:
            self._store.finish(pin, "queued", details, tries=tries, pause=pause)

        await self._do(finish)

    async def _fetch(self, pin: Pin) -> None:
        """Fetch a root, as long as it is within what its pin may take."""
        groups = await self._do(self._groups_of, pin)
        here = await self._keeper.size_here(pin.root, groups)
        if here is not None:
            await self._check(pin, here)
        else:
            size = await self._keeper.ask_size(pin.root, pin.origins, self._pace.silence, groups)
            if size is not None:
                await self._check(pin, size)
        told = [0, 0]
        refused: list[_Refused] = []

        def progress(done: int, total: int) -> None:
            told[:] = done, total
            if max(told) > self._most:
                refused.append(self._too_large(max(told)))
                scope.cancel()

        async def watch() -> None:
            noted = [0, 0]
            while True:
                await trio.sleep(self._pace.progress)
                if told != noted:
                    noted = list(told)
                    try:
                        await self._check(pin, max(told))
                    except _Refused as error:
                        refused.append(error)
                        scope.cancel()
                        return
                    await self._do(self._store.tell, pin, f"{told[0]} of {told[1]} bytes are here.")

        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(watch)
            failure: KacheryError | None = None
            try:
                await self._keeper.fetch(pin.root, pin.origins, self._pace.silence, progress, groups)
            except KacheryError as error:
                failure = error
            scope.cancel()
        if refused:
            raise refused[0]
        if failure is not None:
            raise failure

    async def _check(self, pin: Pin, size: int) -> None:
        """Count the bytes of a pin.

        Raises:
            _Refused: they are too many.
        """
        if size > self._most:
            raise self._too_large(size)
        if not await self._do(self._store.reserve, pin, size):
            raise _Refused(f"INSUFFICIENT_FUNDS: with its {size} bytes the quota would be crossed.")

    def _too_large(self, size: int) -> _Refused:
        return _Refused(
            f"INSUFFICIENT_FUNDS: it has at least {size} bytes; {self._most} are the most that one pin may have here."
        )

    async def _let_go(self, root: CID) -> None:
        wanted = await self._do(self._store.is_wanted, root)
        held, before = await self._do(self._store.held, root)
        if wanted or not held:
            await self._do(self._store.stays, root)
            return
        try:
            await self._keeper.let_go(root, before)
        except RepoBusy as error:
            log.info("%s is let go later: %s", root, error)
            return
        await self._do(self._store.let_go, root)
        self.changes.happened()

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)
