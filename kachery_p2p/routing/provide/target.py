"""Announcing to one target: what is urgent, what is due, and who is new on the LAN."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.dht.keys import BITS, kad_id
from kachery_p2p.routing.dht.sweep import REGION_KEYS, SweepSchedule
from kachery_p2p.routing.provide import limits
from kachery_p2p.routing.provide.batch import Outcome, Sender
from kachery_p2p.routing.provide.greet import Greeter
from kachery_p2p.routing.provide.state import AnnounceState, Region
from kachery_p2p.waking import Flag, Signal

if TYPE_CHECKING:
    from kachery_p2p.routing.interfaces import AnnounceTarget

log = logging.getLogger("kachery_p2p.routing")


@dataclass(slots=True)
class _Turn:
    """A region in the plan."""

    region: Region
    tries: int = 0
    #: Not tried again before this time (trio's clock).
    not_before: float = 0.0
    busy: bool = False


class TargetWorker:
    """Keeps one target told.

    Args:
        local: whether it is small and its peers are neighbours: newcomers are then greeted.
        tell: called with the name of the target and the copies of keys that were announced; with none when the target
            got ready, or lost its peers.
        here: see `Sender`.
    """

    def __init__(
        self,
        target: AnnounceTarget,
        state: AnnounceState,
        rng: random.Random,
        wall: Callable[[], float],
        tell: Callable[[str, Mapping[bytes, int]], None],
        here: Callable[[Sequence[bytes]], Container[bytes]],
        *,
        local: bool,
    ) -> None:
        self.target = target
        self.name = target.name
        #: Whether it has peers, as far as is known.
        self.ready = False
        self._state = state
        self._wall = wall
        self._tell = tell
        self._sender = Sender(target, rng, self._lost, here)
        self._schedule = SweepSchedule(state.epoch, limits.INTERVAL)
        self._greeter = Greeter(self._sender, state, wall) if local else None
        self._urgent: dict[bytes, None] = {}
        self._urged = Signal()
        #: Keys that are being announced: no two batches have the same.
        self._under_way: set[bytes] = set()
        self._batches_ended = 0
        self._plan: dict[int, _Turn] = {}
        self._bits = 0
        self._replan = True
        self._planned_at = -limits.PLAN_EVERY
        self._plan_changed = Flag()
        self._lost_pause = limits.LOST_FIRST
        self._lost_at = -limits.LOST_LAST
        self._getting_ready = trio.Lock()
        self._measuring = trio.Lock()
        self._last_turn: float | None = None
        self._last_error = ""

    async def run(self) -> None:
        """Announce until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_on, self._serve_urgent, nursery)
            nursery.start_soon(self._carry_on, self._serve_turns, nursery)
            if self._greeter is not None:
                nursery.start_soon(self._carry_on, self._serve_newcomers, self._greeter)

    async def _carry_on(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run one kind of work; an error of the database stops it for a while only."""
        while True:
            try:
                await work(*args)
            except KacheryError as error:
                self._note(error)
                await trio.sleep(limits.ERROR_PAUSE)
                self.keys_changed()

    # --- whether there is anybody ----------------------------------------------------------------------------------

    async def _wait_ready(self) -> None:
        while not self.ready:
            async with self._getting_ready:
                if self.ready:
                    return
                # A target that says it is ready and then has nobody is not asked in a loop.
                await trio.sleep_until(self._lost_at + self._lost_pause)
                await self.target.wait_ready()
                if self._greeter is not None:
                    self._greeter.look()
                self.ready = True
                self._tell(self.name, {})

    def _lost(self) -> None:
        if self.ready:
            self.ready = False
            now = trio.current_time()
            quiet = now - self._lost_at > 2 * limits.LOST_LAST
            self._lost_pause = limits.LOST_FIRST if quiet else min(2 * self._lost_pause, limits.LOST_LAST)
            self._lost_at = now
            self._tell(self.name, {})

    # --- urgent ----------------------------------------------------------------------------------------------------

    def urge(self, keys: Iterable[bytes]) -> None:
        """Announce these keys, which the database knows, now."""
        for key in keys:
            if len(self._urgent) >= limits.MAX_URGENT:
                self.keys_changed()
                break
            self._urgent[key] = None
        self._urged.notify()

    async def _serve_urgent(self, nursery: trio.Nursery) -> None:
        slots = trio.Semaphore(limits.URGENT_BATCHES)
        while True:
            while not self._urgent:
                await self._urged.wait()
            await self._wait_ready()
            await slots.acquire()
            keys = [key for key in self._urgent if key not in self._under_way]
            self._urgent = {}
            self._under_way.update(keys)
            nursery.start_soon(self._urgent_batch, keys, slots)

    async def _urgent_batch(self, keys: list[bytes], slots: trio.Semaphore) -> None:
        try:
            new = await trio.to_thread.run_sync(self._state.new_among, self.name, keys)
            await self._measure(len(new))
            # Few in a small network are one batch; where there are regions, one does not wait for another.
            groups: dict[int, list[bytes]] = {}
            bits = self._sender.size.region_bits(len(new))
            for key in new:
                groups.setdefault(kad_id(key) >> (BITS - bits), []).append(key)
            at_once = trio.CapacityLimiter(limits.LOOKUPS)
            async with trio.open_nursery() as nursery:
                for group in groups.values():
                    nursery.start_soon(self._urgent_group, group, at_once)
        except KacheryError as error:
            self._note(error)
        finally:
            self._under_way.difference_update(keys)
            self._batches_ended += 1
            slots.release()
            # Those that failed are in the database as never announced: their regions take them up.
            self.keys_changed()

    async def _urgent_group(self, keys: list[bytes], at_once: trio.CapacityLimiter) -> None:
        async with at_once:
            try:
                await self._announce(keys)
            except KacheryError as error:
                self._note(error)

    def _note(self, error: KacheryError) -> None:
        self._last_error = str(error)
        log.warning("announcing to %s: %s", self.name, error)

    async def _measure(self, keys: int) -> None:
        """Before many keys are announced, learn how large the network is, so that lookups can run side by side."""
        if keys >= limits.MEASURE_FROM:
            async with self._measuring:
                if not self._sender.size.peers:
                    await self._sender.measure()

    # --- announcing ------------------------------------------------------------------------------------------------

    async def _announce(self, keys: list[bytes]) -> bool:
        """Announce keys and note the outcome. Whether all of them are well announced."""
        await self._measure(len(keys))
        if self._greeter is not None:
            self._greeter.look()
        begun = self._wall()
        outcome = await self._sender.send(keys)
        if self._greeter is not None:
            self._greeter.missed(outcome.refused)
        if outcome.absent:
            await trio.to_thread.run_sync(self._state.forget, self.name, list(outcome.absent))
        marks, copies, well = self._judge(keys, outcome, begun)
        await trio.to_thread.run_sync(self._state.mark, self.name, marks)
        if copies:
            self._tell(self.name, copies)
        return well

    def _judge(
        self, keys: list[bytes], outcome: Outcome, begun: float
    ) -> tuple[dict[bytes, tuple[int, float]], dict[bytes, int], bool]:
        marks: dict[bytes, tuple[int, float]] = {}
        copies: dict[bytes, int] = {}
        well = True
        for key in keys:
            if key in outcome.absent:
                continue
            took, meant = outcome.copies.get(key, (0, 0))
            if took:
                copies[key] = took
            enough = took >= min(limits.ENOUGH_COPIES, max(1, meant))
            well = well and enough
            marks[key] = (took, begun if enough else 0.0)
        return marks, copies, well

    # --- the sweep -------------------------------------------------------------------------------------------------

    def keys_changed(self) -> None:
        """Keys came or went: plan anew."""
        self._replan = True
        self._plan_changed.set()

    async def _serve_turns(self, nursery: trio.Nursery) -> None:
        while True:
            self._plan_changed.clear()
            await self._make_plan()
            if self.ready:
                with trio.move_on_at(self._begin_turns(nursery)):
                    await self._plan_changed.take()
            else:
                # Also while there is nobody to tell, the status says how much waits.
                with trio.move_on_at(self._planned_at + limits.PLAN_EVERY if self._replan else math.inf):
                    await self._ready_or_changed()

    async def _ready_or_changed(self) -> None:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await self._plan_changed.take()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await self._wait_ready()
            nursery.cancel_scope.cancel()

    async def _make_plan(self) -> None:
        busy = any(turn.busy for turn in self._plan.values())
        keys = sum(turn.region.keys for turn in self._plan.values())
        bits = self._sender.size.region_bits(keys)
        now = trio.current_time()
        if not (self._replan or (bits != self._bits and not busy)) or now < self._planned_at + limits.PLAN_EVERY:
            return
        self._planned_at = now
        self._replan = False
        if not self._plan:
            keys = await trio.to_thread.run_sync(self._state.count, self.name)
        # Regions are cut anew only when none is under way.
        bits = self._bits if busy else self._sender.size.region_bits(keys)
        regions = await trio.to_thread.run_sync(self._state.regions, self.name, bits)
        old = self._plan if bits == self._bits else {}
        self._bits = bits
        self._plan = {number: old.get(number) or _Turn(region) for number, region in regions.items()}
        for number, turn in self._plan.items():
            turn.region = regions[number]

    def _due(self, number: int, turn: _Turn) -> float:
        if not turn.region.oldest:
            return -1.0
        return self._schedule.due(number, self._bits, turn.region.oldest)

    def _begin_turns(self, nursery: trio.Nursery) -> float:
        """Begin with what is due, as far as there is room; when to look again (trio's clock)."""
        wall, now = self._wall(), trio.current_time()
        busy = sum(turn.busy for turn in self._plan.values())
        next_at = max(self._planned_at + limits.PLAN_EVERY, now) if self._replan else now + limits.SYNC_EVERY
        if busy >= limits.REGIONS_AT_ONCE:
            return next_at  # the end of one wakes us
        waiting = [(self._due(number, turn), number) for number, turn in self._plan.items() if not turn.busy]
        for due, number in sorted(waiting):
            turn = self._plan[number]
            at = max(turn.not_before, now + max(0.0, due - wall) if due >= 0 else now)
            if at > now:
                next_at = min(next_at, at)
            elif busy < limits.REGIONS_AT_ONCE:
                busy += 1
                turn.busy = True
                nursery.start_soon(self._take_turn, number, turn)
        return next_at

    async def _take_turn(self, number: int, turn: _Turn) -> None:
        well = True
        more = False
        keys: list[bytes] = []
        try:
            keys, more = await self._claim_due(number)
            if keys:
                well = await self._announce(keys)
                self._last_turn = self._wall()
            region = await trio.to_thread.run_sync(self._state.region, self.name, number, self._bits)
            if region is None:
                self._plan.pop(number, None)
            else:
                turn.region = region
        except KacheryError as error:
            well = False
            self._note(error)
        finally:
            self._under_way.difference_update(keys)
            turn.busy = False
            turn.tries = 0 if well else turn.tries + 1
            pause = 0.0
            if not well:
                pause = min(limits.RETRY_FIRST * 2 ** min(turn.tries - 1, 20), limits.RETRY_LAST)
            elif not (more and keys):
                # Nothing here can be due again at once, unless it is new; new keys change the plan.
                pause = limits.RETRY_FIRST
            turn.not_before = trio.current_time() + pause
            self._plan_changed.set()

    async def _claim_due(self, number: int) -> tuple[list[bytes], bool]:
        """Keys of a region that are due and in nobody else's hands, and whether there are more than fit."""
        before = self._schedule.done_before(number, self._bits, self._wall())
        while True:
            ended = self._batches_ended
            keys = await trio.to_thread.run_sync(self._state.due, self.name, number, self._bits, before, REGION_KEYS)
            if ended == self._batches_ended:
                break  # else some of them may have been announced while they were read
        more = len(keys) == REGION_KEYS
        keys = [key for key in keys if key not in self._under_way and key not in self._urgent]
        self._under_way.update(keys)
        return keys, more

    # --- the LAN ---------------------------------------------------------------------------------------------------

    async def _serve_newcomers(self, greeter: Greeter) -> None:
        while True:
            await self._wait_ready()
            await greeter.round()
            await trio.sleep(limits.LOOK_EVERY)

    # --- what is going on ------------------------------------------------------------------------------------------

    def status(self, now: float) -> dict[str, Any]:
        """Counts, times and the last error, as plain JSON values."""
        keys = sum(turn.region.keys for turn in self._plan.values())
        new = sum(turn.region.new for turn in self._plan.values())
        due = {number: self._due(number, turn) for number, turn in self._plan.items()}
        overdue = sum(
            self._plan[number].region.keys - self._plan[number].region.new
            for number, at in due.items()
            if 0 <= at < now
        )
        counters = self._sender.counters
        return {
            "ready": self.ready,
            "keys": keys,
            "announced": keys - new,
            "waiting": new,
            "overdue": overdue,
            "regions": len(self._plan),
            "network_size": round(self._sender.size.peers),
            "last_turn": self._last_turn,
            "next_turn": min((max(at, now) for at in due.values()), default=None),
            "lookups": counters.lookups,
            "deliveries": counters.deliveries,
            "records": counters.records,
            "failures": counters.failures,
            "last_error": self._last_error or self._sender.last_error,
        }
