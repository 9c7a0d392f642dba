"""Carries out the outbox: one task for each service, one small step for each row whose turn it is.

A step (`steps`) asks the service one thing and writes down what came of it, and when the next one is due. Nothing else
is remembered, so a worker that was killed goes on where it was. What fails is tried again after growing pauses, with
chance in them, so that a laboratory that wakes up on Monday does not ask all at once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from kachery_p2p.errors import KacheryError, PinTooLarge
from kachery_p2p.pinning.answers import ACCESS, FINAL, WHOLE_SERVICE, ServiceError
from kachery_p2p.pinning.blocks import Blocks
from kachery_p2p.pinning.config import PinService
from kachery_p2p.pinning.limits import MAX_SERVICES, MAX_STEPS_PER_SERVICE, MAX_UPLOADS_PER_SERVICE, WorkerPace
from kachery_p2p.pinning.outbox import ONLY_LOOK, PinEntry, PinOutbox
from kachery_p2p.pinning.service import PinningClient
from kachery_p2p.pinning.service_http import ServiceHttp
from kachery_p2p.pinning.steps import Client, FetchBack, Hold, Pauses, Steps
from kachery_p2p.pinning.upload import RpcClient
from kachery_p2p.waking import Changes, Flag

log = logging.getLogger("kachery_p2p.pinning")


class _Lane:
    """One service, and how it has been doing."""

    def __init__(self, service: PinService, pace: WorkerPace, wall: Callable[[], float]) -> None:
        self.service = service
        self.http = ServiceHttp(service, seconds=pace.request, wall=wall)
        self.client: Client = RpcClient(self.http) if service.kind == "rpc" else PinningClient(self.http)
        self.slots = trio.Semaphore(MAX_UPLOADS_PER_SERVICE if service.kind == "rpc" else MAX_STEPS_PER_SERVICE)
        self.busy: set[int] = set()
        self.wake = Flag()
        self.failures = 0  # since it last answered
        self.again = False  # the user wants it asked, although it refused
        self.rest_until = -math.inf  # by the trio clock
        self.problem = ""
        self.last_error = ""
        self.last_error_at: float | None = None
        self.sent: dict[str, tuple[int, int]] = {}  # of the uploads under way: (bytes done, bytes in all)


class PinWorker:
    """Brings the rows of an outbox to the services.

    Args:
        outbox: what is to be done.
        services: where; rows of other services are left alone.
        source: the blocks of this machine.
        origins: our multiaddrs with peer ID, the best first.
        hold: dials and keeps the peers of a service while it works on a root.
        release: lets them go: the root is there, or will not be.
        fetch_back: fetches one block from peers of a service and checks its hash.
        pace: when things are done next.
        wall: seconds since 1970.

    It runs once: `await nursery.start(worker.run)`.
    """

    def __init__(
        self,
        outbox: PinOutbox,
        services: Sequence[PinService],
        *,
        source: Blocks,
        origins: Callable[[], Sequence[str]],
        hold: Hold,
        release: Callable[[str], None],
        fetch_back: FetchBack,
        pace: WorkerPace | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._pace = pace or WorkerPace()
        self._pauses = Pauses(self._pace)
        self._wall = wall
        #: Grows when a row has changed, here or by another process.
        self.changes = Changes()
        self._steps = Steps(
            outbox,
            source=source,
            origins=origins,
            hold=hold,
            release=release,
            fetch_back=fetch_back,
            written=self.changes.happened,
            pauses=self._pauses,
            wall=wall,
        )
        self._lanes = {each.name: _Lane(each, self._pace, wall) for each in services[:MAX_SERVICES]}
        self._counts: dict[str, dict[str, int]] = {}
        self._error = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        try:
            try:
                # The settings may be others than those that were refused.
                await trio.to_thread.run_sync(self._outbox.begin_anew, (*WHOLE_SERVICE, "over_limit"))
            except KacheryError as error:
                self._error = str(error)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                for lane in self._lanes.values():
                    nursery.start_soon(self._run_lane, lane)
                task_status.started()
        finally:
            self._steps.stop()
            with trio.CancelScope(shield=True):
                for lane in self._lanes.values():
                    await lane.http.close()

    def wake(self, *, again: bool = False) -> None:
        """Look at the outbox now. With `again`, also at services that are left alone because they refused us."""
        for lane in self._lanes.values():
            if again and lane.problem in WHOLE_SERVICE:
                lane.rest_until = -math.inf
                lane.again = True
            lane.wake.set()

    @property
    def reconsidering(self) -> bool:
        """Whether rows still stand as refused that are about to be tried again."""
        return any(lane.again for lane in self._lanes.values())

    def status(self) -> dict[str, Any]:
        """How each service has been doing, as plain JSON values."""
        now = trio.current_time()
        return {
            "services": {
                lane.service.name: {
                    "url": lane.service.url,
                    "kind": lane.service.kind,
                    "resting": max(0.0, lane.rest_until - now) if lane.rest_until > now else 0.0,
                    "problem": lane.problem,
                    "last_error": lane.last_error,
                    "last_error_at": lane.last_error_at,
                    "sending": {cid: {"sent": done, "size": size} for cid, (done, size) in lane.sent.items()},
                }
                for lane in self._lanes.values()
            },
            "counts": self._counts,
            "error": self._error,
        }

    # --- turns ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Other processes of the data directory add rows, too."""
        before = -1
        while True:
            try:
                version = await trio.to_thread.run_sync(self._outbox.version)
            except KacheryError as error:
                self._error = str(error)
            else:
                if version != before:
                    before = version
                    self.wake()
                    self.changes.happened()
            await trio.sleep(self._pace.look)

    async def _run_lane(self, lane: _Lane) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    pause = await self._turn(lane, nursery)
                    self._error = ""
                except KacheryError as error:
                    # The disk is full, say. What is to be done is still written there.
                    log.warning("%s", error)
                    self._error = str(error)
                    pause = self._pauses.later(3)
                with trio.move_on_after(pause):
                    await lane.wake.take()

    async def _turn(self, lane: _Lane, nursery: trio.Nursery) -> float:
        """Begin the steps that are due; returns the seconds until there may be others."""
        name, pace = lane.service.name, self._pace
        self._counts = await trio.to_thread.run_sync(self._outbox.counts)
        if lane.again:
            await trio.to_thread.run_sync(self._outbox.begin_anew, WHOLE_SERVICE, name)
            lane.again = False
            self.changes.happened()
        rest = lane.rest_until - trio.current_time()
        if rest > 0:
            if lane.problem:
                until, refuse = self._wall() + min(rest, pace.longest), lane.problem in WHOLE_SERVICE
                await trio.to_thread.run_sync(
                    lambda: self._outbox.tell(name, lane.problem, lane.last_error, until, refuse=refuse)
                )
                self.changes.happened()  # a task that waits for a row may have read it before
            return rest
        found = await trio.to_thread.run_sync(self._outbox.due, name, pace.longest, 4 * MAX_STEPS_PER_SERVICE)
        fresh = [entry for entry in found if entry.id not in lane.busy]
        # A service that failed last is tried with one row before it gets the others.
        for entry in fresh[:1] if lane.failures else fresh:
            lane.busy.add(entry.id)
            nursery.start_soon(self._step, lane, entry)
        if lane.busy:
            return 60.0  # each step wakes us at its end
        turn = await trio.to_thread.run_sync(self._outbox.next_turn, name)
        # A wall clock that jumps wakes no task, so none sleeps for very long.
        return min(60.0, turn if turn is not None else 60.0)

    async def _step(self, lane: _Lane, entry: PinEntry) -> None:
        try:
            async with lane.slots:
                if lane.rest_until > trio.current_time():
                    return
                await self._do(lane, entry)
        except KacheryError as error:
            log.warning("%s", error)
            self._error = str(error)
            # Not tried again at once: it is the disk, and that does not mend itself so soon.
            await trio.sleep(self._pauses.later(3))
        finally:
            lane.busy.discard(entry.id)
            lane.wake.set()
            self.changes.happened()

    async def _do(self, lane: _Lane, entry: PinEntry) -> None:
        def sent(done: int, size: int) -> None:
            lane.sent[entry.cid] = (done, size)

        try:
            await self._steps.step(lane.client, entry, sent)
        except ServiceError as error:
            await self._failed(lane, entry, error)
        except PinTooLarge as error:
            await self._failed(lane, entry, ServiceError("over_limit", str(error)))
        except KacheryError as error:
            if error.exit_code == 5:  # the disk
                raise
            await self._failed(lane, entry, ServiceError("local", str(error)))
        except Exception as error:
            log.exception("a step for %s at %s failed", entry.cid, entry.service)
            text = (
                f"Pinning at {entry.service} failed unexpectedly: {type(error).__name__}. The log of the node has more."
            )
            await self._failed(lane, entry, ServiceError("local", text))
        else:
            lane.failures = 0
            lane.problem = ""
        finally:
            lane.sent.pop(entry.cid, None)

    async def _failed(self, lane: _Lane, entry: PinEntry, error: ServiceError) -> None:
        """Write down why a step failed, and when it is tried again."""
        log.info("%s", error)
        problem, text = error.problem, str(error)
        now = await trio.to_thread.run_sync(self._outbox.get, entry.cid, entry.service)
        if now is None or now.revision != entry.revision:
            return  # the user has decided otherwise
        entry = now  # a step may get some way before it fails
        # An upload that was for nothing is not repeated as freely as a question.
        last = self._pace.refused if entry.state == "uploading" and problem == "server" else None
        pause = self._pauses.later(entry.tries, last=last)
        state = entry.state if entry.state not in ("uploading", "refused") else "waiting"
        asking = state in ("waiting", "failed")
        if problem == "rate":
            pause = self._pace.rate
        elif problem in ACCESS:
            pause = self._pauses.spread(self._pace.refused)
            state = "refused" if asking else state
        elif problem in FINAL:
            pause = math.inf if asking else self._pace.refused
            state = "refused" if asking else state
        elif problem == "local":
            state = "failed" if asking else state
        if error.pause is not None:
            pause = max(error.pause, self._pace.first if pause != math.inf else pause)
        if problem in ("rate", "server", "network", "slow", *WHOLE_SERVICE):
            lane.failures += 1
            rest = (
                pause if problem in ("rate", *WHOLE_SERVICE) or error.pause else self._pauses.later(lane.failures - 1)
            )
            lane.rest_until = trio.current_time() + rest
            lane.problem, lane.last_error, lane.last_error_at = problem, text, self._wall()
        values: dict[str, Any] = {}
        if entry.in_question and entry.next_try == ONLY_LOOK and entry.verified is not None:
            # Nobody wants it there anew, so it is as it was: not on its way to be asked for.
            state, problem, text = "verified", "", ""
        if problem in (*ACCESS, *FINAL, "rate"):
            values["asked"] = 0.0  # it has answered, and has not taken it
        await self._steps.write(
            entry,
            **values,
            state=state,
            tries=entry.tries + 1,
            next_try=self._wall() + pause,
            problem=problem,
            last_error=text,
        )
