"""Reading all that a node has once in so many days, in the background, and mending what has gone wrong.

`ScrubPace` says when the next piece is due: evenly over the days, and faster where the machine was off. While the node
has much to do it waits, but not for ever. Where it was is written to `scrub.json` every minute, so a restart or a crash
costs a minute's work.

A damaged copy of ours is set aside in `damaged/`, and loaded again as any load is: what is right in it is not fetched.
Where nobody has what is missing it is named, in the log and by `kachery-cloud verify`, and tried again later. A linked
file is the user's: that it has changed is said, and nothing else. So is what somebody has deleted by hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from kachery_p2p import private
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, DamagedFile, KacheryError
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.scrub_state import MAX_DAMAGED, STATE_NAME, Damaged, ScrubState, read_state, write_state
from kachery_p2p.repo.scrubbing import ScrubPlace, Step
from kachery_p2p.units import DAY, HOUR, MIB
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.node.node import Node
    from kachery_p2p.repo.checking import Problem

log = logging.getLogger("kachery_p2p.node.scrub")

#: Bytes a second at the most, also after a long time off: a quarter of what a slow disk gives.
MAX_RATE = 32 * MIB
#: Bytes that the node moves in a second beyond which it is busy.
BUSY_RATE = 4 * MIB
#: Seconds between two looks whether it is busy still.
BUSY_PAUSE = 5.0
#: Seconds between two notes of the place.
NOTE_INTERVAL = 60.0
#: Seconds between two looks whether there is anything to do, where little is here.
IDLE_PAUSE = 600.0
#: Seconds between two rounds at the least, however few days there are.
SHORTEST_ROUND = 1.0
#: Seconds without anything coming after which a damaged thing is left for later.
MEND_SILENCE = 60.0
#: Seconds after which what could not be mended is tried again.
MEND_AGAIN = HOUR


@dataclass(frozen=True)
class ScrubPace:
    """When pieces are due.

    Attributes:
        days: in which all is read once.
        most: bytes of a piece, about.
    """

    days: float
    most: int = 8 * MIB

    def wait(self, *, total: int, done: int, passed: float) -> float:
        """Seconds until the next piece is due.

        Args:
            total: bytes that there are to read.
            done: bytes that were read in this round.
            passed: seconds since the round began.
        """
        if total <= 0:
            return 0.0
        share = min(1.0, (done + min(self.most, total)) / total)
        return max(0.0, share * self.days * DAY - passed)

    def behind(self, *, total: int, done: int, passed: float) -> bool:
        """Whether so much is left undone that it does not wait for quiet hours any more: a quarter of all."""
        return total > 0 and passed / (self.days * DAY) - done / total > 0.25


class Scrub:
    """Reads what one node has.

    Args:
        node: whose repo it is, and that loads what is damaged.
        days: in which all is read once; None for never. May be changed by `set_days`.
        wall: seconds since 1970.

    Attributes:
        state: where it is.
        bytes: read since the start.
        mended: damaged things that were brought back since the start.
    """

    def __init__(self, node: Node, days: float | None, *, wall: Callable[[], float] = time.time) -> None:
        self._node = node
        self._repo = node.repo
        self._wall = wall
        self._days = days
        self._path = node.repo.directory / STATE_NAME
        self._changed = Flag()
        self._found = Flag()
        self._noted = -float("inf")
        private.fit(self._path)
        self.state = read_state(self._path)
        self.bytes = 0
        self.mended = 0

    def set_days(self, days: float | None) -> None:
        """From now on all is read once in so many days; None for never."""
        if days != self._days:
            self._days = days
            self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read and mend until cancelled."""
        task_status.started()
        if self._repo.read_only:
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mend_on)
                nursery.start_soon(self._read_on)
        finally:
            with trio.CancelScope(shield=True):
                await self._note()

    async def _read_on(self) -> None:
        while True:
            wait = IDLE_PAUSE
            try:
                wait = await self._turn()
            except KacheryError as error:
                log.warning("what is here cannot be read through now: %s", error)
            with trio.move_on_after(wait):
                await self._changed.take()

    async def _mend_on(self) -> None:
        while True:
            try:
                await self._mend()
            except KacheryError as error:
                log.warning("what is damaged cannot be mended now: %s", error)
            with trio.move_on_after(IDLE_PAUSE):
                await self._found.take()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _turn(self) -> float:
        """Read one piece if it is due; seconds until the next look."""
        if self._days is None:
            return IDLE_PAUSE
        pace, now = ScrubPace(self._days), self._wall()
        state = self.state
        if not state.begun or (not _place(state) and now - state.begun >= self._days * DAY) or state.begun > now:
            self._set(ScrubState(begun=now, finished=state.finished, damaged=state.damaged))
            state = self.state
        if _place(state) is None:
            return min(IDLE_PAUSE, max(SHORTEST_ROUND, state.begun + self._days * DAY - now))
        total = await trio.to_thread.run_sync(self._repo.scrubber.total)
        due = pace.wait(total=total, done=state.done, passed=now - state.begun)
        if due > 0:
            return min(due, IDLE_PAUSE)
        if not pace.behind(total=total, done=state.done, passed=now - state.begun) and await self._is_busy():
            return BUSY_PAUSE
        begun = trio.current_time()
        step = await self._step()
        await self._took(step)
        return max(0.0, step.bytes / MAX_RATE - (trio.current_time() - begun))

    async def _step(self) -> Step:
        place = _place(self.state)
        assert place is not None

        def hashed(count: int) -> None:
            # In a thread: a whole file is read, but not in one go, and no longer than the node is there.
            trio.from_thread.check_cancelled()
            time.sleep(count / MAX_RATE)

        return await trio.to_thread.run_sync(lambda: self._repo.scrubber.step(place, hashed=hashed))

    async def _took(self, step: Step) -> None:
        now, state = self._wall(), self.state
        self.bytes += step.bytes
        damaged = {each.cid: each for each in state.damaged}
        for problem in step.problems:
            if str(problem.cid) not in damaged and len(damaged) < MAX_DAMAGED:
                self._say(problem)
                what = "block" if state.stage == "blocks" else problem.what
                each = Damaged(str(problem.cid), str(problem.path), what, problem.detail, now)
                damaged[each.cid] = each
        place, ended = step.place, step.place is None
        self._set(
            ScrubState(
                stage="end" if place is None else place.stage,
                row=0 if place is None else place.row,
                leaves=0 if place is None else place.leaves,
                begun=state.begun,
                done=state.done + step.bytes,
                finished=now if ended else state.finished,
                damaged=tuple(damaged.values()),
            )
        )
        if ended:
            log.info(
                "all that is here was read and compared with its hashes: %d bytes, %d damaged",
                self.state.done, len(damaged),
                extra={"fields": {"event": "scrubbed", "bytes": self.state.done, "damaged": len(damaged)}},
            )  # fmt: skip
        if step.problems:
            self._found.set()
        if step.problems or ended or trio.current_time() - self._noted >= NOTE_INTERVAL:
            await self._note()

    def _say(self, problem: Problem) -> None:
        log.warning(
            "%s", problem.detail, extra={"fields": {"event": "damaged", "root": str(problem.cid), "what": problem.what}}
        )

    async def _is_busy(self) -> bool:
        """Whether the node moves so much that the disk should be left to it."""
        before = self._moved()
        await trio.sleep(1.0)
        return self._moved() - before > BUSY_RATE

    def _moved(self) -> int:
        total = self._node.exchange.stats().total
        return total.bytes_received + total.bytes_sent

    # --- mending -----------------------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        """Try to bring back what is damaged, one after the other, where it is time to."""
        now = self._wall()
        for each in self.state.damaged:
            if now - each.tried < MEND_AGAIN and each.tried <= now:
                continue
            if await self._mended(each):
                self.mended += 1
                left = tuple(other for other in self.state.damaged if other.cid != each.cid)
                log.info("%s is right again", each.cid, extra={"fields": {"event": "mended", "root": each.cid}})
            else:
                tried = Damaged(each.cid, each.path, each.what, each.detail, each.found, now)
                left = tuple(tried if other.cid == each.cid else other for other in self.state.damaged)
            self._set(_with(self.state, left))
            await self._note()

    async def _mended(self, damaged: Damaged) -> bool:
        """Whether it is right now."""
        cid = CID.parse(damaged.cid)
        if await trio.to_thread.run_sync(self._is_right, cid, damaged.what):
            return True  # it was put right meanwhile, or removed
        if damaged.what not in ("damaged", "block"):
            return False
        try:
            if damaged.what == "block":
                await self._fetch_block(cid)
            else:
                await trio.to_thread.run_sync(self._repo.quarantine, cid)
                await self._node.load(LoadRequest(cid, timeout=MEND_SILENCE))
        except KacheryError as error:
            log.warning(
                "%s is damaged, and nobody was found who has what is missing; it is tried again later: %s", cid, error,
                extra={"fields": {"event": "not_mended", "root": str(cid)}},
            )  # fmt: skip
            return False
        return await trio.to_thread.run_sync(self._is_right, cid, damaged.what)

    async def _fetch_block(self, cid: CID) -> None:
        """Get an inner node from a peer that we are connected with. It is not looked for: it is no root.

        Raises:
            ContentNotFound: none of them has it.
        """
        with trio.move_on_after(MEND_SILENCE):
            async with self._node.exchange.new_session(discover=True) as session:
                for peer in self._node.host.connected():
                    session.add_provider(peer)
                session.want([cid])
                block = await session.receive()
                await trio.to_thread.run_sync(self._repo.put_blocks, [(cid, bytes(block.data))])
                return
        raise ContentNotFound(f"no connected peer gives the block {cid}")

    def _is_right(self, cid: CID, what: str) -> bool:
        """In a thread: whether a file or a block is as it should be, or is not wanted here any more. Cheap."""
        if what == "block":
            return self._repo.get_block(cid.multihash) is not None or not self._repo.keeps_block(cid)
        try:
            if self._repo.own.file_size(cid) is not None:
                return True
        except DamagedFile:
            return False
        return not self._repo.is_root(cid)

    # --- what is written down ----------------------------------------------------------------------------------------

    def _set(self, state: ScrubState) -> None:
        self.state = state

    async def _note(self) -> None:
        self._noted = trio.current_time()
        try:
            await trio.to_thread.run_sync(write_state, self._path, self.state)
        except OSError as error:
            log.info("how far it was read cannot be written down: %s", error.strerror or error)


def _place(state: ScrubState) -> ScrubPlace | None:
    """The place of a state; None where the round has ended."""
    for stage in ("files", "packs", "blocks"):
        if state.stage == stage:
            return ScrubPlace(stage, state.row, state.leaves)
    return None


def _with(state: ScrubState, damaged: Iterable[Damaged]) -> ScrubState:
    return ScrubState(
        state.stage, state.row, state.leaves, state.begun, state.done, state.finished, tuple(damaged)
    )  # fmt: skip
