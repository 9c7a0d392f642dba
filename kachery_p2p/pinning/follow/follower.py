"""Following other nodes, again and again: what is new there every few seconds, everything now and then.

All that is learned is in the database before the next page is asked for. So a process that is killed goes on where it
was; and a node that is away for a while is asked again, from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.pinning.follow.plan import Cursor, advance, bounds
from kachery_p2p.pinning.follow.remote import NotFollowed, Remote
from kachery_p2p.pinning.server.queue import PinQueue
from kachery_p2p.pinning.server.requests import time_text
from kachery_p2p.pinning.server.store import PinStore
from kachery_p2p.urls import without_user
from kachery_p2p.waking import Changes

log = logging.getLogger("kachery_p2p.pinning.follow")

T = TypeVar("T")


@dataclass(frozen=True)
class FollowPace:
    """When things are done next; seconds all. Tests use a faster one.

    Attributes:
        look: between two looks at what is new.
        whole: between two looks at everything, by which deletions show.
        grace: for which what was deleted there stays here.
        first, last: pause after a failure, doubled with each further one from the first up to the last.
    """

    look: float = 10.0
    whole: float = 1800.0
    grace: float = 86400.0
    first: float = 10.0
    last: float = 600.0


@dataclass
class FollowState:
    """How following one node goes.

    Attributes:
        problem: why it cannot be followed now; empty where it can.
        new: pins that were taken from it since the start.
        missing: pins of it that are gone there, and go here after the time of grace.
        looked: whether everything was looked at since the start.
    """

    problem: str = ""
    new: int = 0
    missing: int = 0
    looked: bool = False


@dataclass
class Follower:
    """Follows some nodes.

    Args:
        store: of the pins here.
        queue: fetches what is new.
        nodes: tokens by the URLs of the pinning services that are followed.
        pace: when things are done next.

    Attributes:
        states: how it goes, by URL.
        changes: what has happened, counted.
    """

    store: PinStore
    queue: PinQueue
    nodes: Mapping[str, str]
    pace: FollowPace = field(default_factory=FollowPace)
    states: dict[str, FollowState] = field(default_factory=dict[str, FollowState])
    changes: Changes = field(default_factory=Changes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled."""
        async with trio.open_nursery() as nursery:
            for url, token in self.nodes.items():
                self.states[url] = FollowState()
                nursery.start_soon(self._follow, url, token)
            task_status.started()

    async def _follow(self, url: str, token: str) -> None:
        state, pause = self.states[url], self.pace.first
        remote = Remote(url, token)
        whole_at = trio.current_time()
        try:
            while True:
                try:
                    await self._look(url, remote, state, whole=trio.current_time() >= whole_at)
                    if trio.current_time() >= whole_at:
                        whole_at = trio.current_time() + self.pace.whole
                    if state.problem:
                        log.info("following %s goes on", without_user(url))
                    state.problem, pause = "", self.pace.first
                    rest = self.pace.look
                except (NotFollowed, KacheryError) as error:
                    if str(error) != state.problem:
                        log.warning("%s cannot be followed now: %s", without_user(url), error)
                    state.problem = str(error)
                    rest, pause = pause, min(2 * pause, self.pace.last)
                self.changes.happened()
                await trio.sleep(rest)
        finally:
            await remote.close()

    async def _look(self, url: str, remote: Remote, state: FollowState, *, whole: bool) -> None:
        """Look at what is new; and at everything."""
        following = self.store.following
        ours = await self._do(lambda: following.list_id)
        known = await self._do(following.known, url)
        facts = await remote.facts(ours, known)
        if facts.list_id == ours:
            raise NotFollowed("that is this node itself")
        after, top, before, deleted = await self._do(following.begin, url, facts.list_id)
        if deleted == known:
            await self._do(following.deleted_there, url, facts.deleted, self.pace.grace)
        if facts.tokens is not None:
            await self._do(following.take_tokens, facts.list_id, facts.tokens, facts.accounts)
        await self._pages(url, remote, facts.list_id, state, Cursor(after, top, before), kept=True)
        if whole:
            await self._do(following.begin_whole, url)
            await self._pages(url, remote, facts.list_id, state, Cursor(), kept=False)
            state.missing = await self._do(following.end_whole, url)
            state.looked = True
        if await self._do(following.sweep, self.pace.grace):
            self.queue.wake()

    async def _pages(
        self, url: str, remote: Remote, list_id: str, state: FollowState, cursor: Cursor, *, kept: bool
    ) -> None:
        """Go through pages to the end of a look. With `kept`, how far it is stays known over restarts."""
        while True:
            page = await remote.page(bounds(cursor), time_text)
            cursor = advance(cursor, page.created, page.more)
            note = (cursor.after, cursor.top, cursor.before) if kept else None
            new = await self._do(self.store.following.take, url, list_id, page.pins, note)
            state.new += new
            if new or not kept:
                self.queue.wake()
            if cursor.before is None:
                return

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args)
