"""Asks all sources side by side who has a block, and streams what they say into the loads that wait for it.

A *find* is one thing being looked for: a multihash, or the keys under which members of a group announced one. Its parts
are *asks*: one source, asked once for each key. The find runs in the router's
own nursery and writes what it hears into a list that only grows; each caller reads that list from its beginning at its
own pace. So any number of loads share one find, one that comes late misses nothing, a caller that is slow holds up
nobody, and no cancel scope is ever left open across a `yield`. When the last caller has left, the find is cancelled.

Each source has its own queue, its own limits and its own clock. One that hangs, fails, floods or tells nonsense costs
itself its turn, and shows in the status with its last error in plain words.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from kachery_p2p.errors import KacheryError, RoutingError
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.interfaces import Provider, ProviderSource
from kachery_p2p.waking import Signal

log = logging.getLogger("kachery_p2p.routing")

#: Sources that answer from memory: there is nothing to be spared by remembering what they said.
LOCAL_SOURCES = frozenset({"hint", "connected", "known", "mdns"})


@dataclass(frozen=True)
class Sighting:
    """One source says that a peer has the block, at addresses that this source had not named yet.

    Attributes:
        provider: peer, addresses and source.
        seconds: since the source was asked.
    """

    provider: Provider
    seconds: float


@dataclass(eq=False)
class _SourceState:
    """A source, its queue, and how it has been doing."""

    source: ProviderSource
    slots: trio.Semaphore
    asked: int = 0
    running: int = 0
    waiting: int = 0
    answered: int = 0
    providers: int = 0
    failed: int = 0
    last_seconds: float | None = None
    last_error: str = ""
    last_error_at: float | None = None

    def status(self) -> dict[str, Any]:
        error = {"text": self.last_error, "at": self.last_error_at} if self.last_error else None
        return {
            "asked": self.asked,
            "running": self.running,
            "waiting": self.waiting,
            "answered": self.answered,
            "failed": self.failed,
            "providers": self.providers,
            "last_seconds": self.last_seconds,
            "last_error": error,
        }


@dataclass(eq=False)
class _Find:
    """One thing being looked for, for all callers that wait for it."""

    keys: tuple[bytes, ...]
    label: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    sightings: list[Sighting] = field(default_factory=list)
    callers: int = 0
    done: bool = False
    changed: Signal = field(default_factory=Signal)


@dataclass(frozen=True)
class _Answer:
    """What a source said to the end, and until when that may be said again."""

    sightings: tuple[Sighting, ...]
    until: float


class Router:
    """All sources of one node, asked as one.

    Args:
        sources: whom to ask; their names are unlike each other.
        local: our own peer ID, which is never given as a provider.
        wall: seconds since the epoch, for what the status shows.

    Raises:
        ValueError: two sources have the same name.

    It runs once: `await nursery.start(router.run)`; cancel that task to stop it, which ends all finds.
    """

    def __init__(
        self, sources: Sequence[ProviderSource] = (), *, local: str = "", wall: Callable[[], float] = time.time
    ) -> None:
        self._local = local
        self._wall = wall
        self._sources: dict[str, _SourceState] = {}
        self._finds: dict[tuple[bytes, ...], _Find] = {}
        self._answers: OrderedDict[tuple[str, bytes], _Answer] = OrderedDict()
        self._recent: deque[dict[str, Any]] = deque(maxlen=limits.MAX_RECENT_FINDS)
        self._nursery: trio.Nursery | None = None
        for source in sources:
            if source.name in self._sources:
                raise ValueError(f"there are two sources of the name {source.name!r}")
            self._sources[source.name] = _SourceState(source, trio.Semaphore(limits.MAX_ASKS_PER_SOURCE))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the finds until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- finding ----------------------------------------------------------------------------------------------------

    async def find_providers(self, multihash: bytes, *, label: str = "") -> AsyncGenerator[Provider, None]:
        """Providers of a block, as the sources name them; ends when no source has more to say.

        Each peer is given once, and again only with addresses that were not given yet. Close the generator
        (`contextlib.aclosing`) to stop looking.

        Args:
            multihash: of the block.
            label: what the status calls it: the CID as the user wrote it.

        Raises:
            RoutingError: the router does not run.
        """
        given: dict[str, set[str]] = {}
        async with contextlib.aclosing(self.search(multihash, label=label)) as sightings:
            async for sighting in sightings:
                provider = sighting.provider
                known = given.get(provider.peer)
                if known is None:
                    known = given[provider.peer] = set()
                    new = provider.addrs
                else:
                    room = limits.MAX_ADDRS_PER_PROVIDER - len(known)
                    new = tuple(addr for addr in provider.addrs if addr not in known)[: max(0, room)]
                    if not new:
                        continue
                known.update(new)
                yield provider if new == provider.addrs else Provider(provider.peer, new, provider.source)

    async def search(
        self, multihash: bytes, *, also: Sequence[bytes] = (), label: str = "", fresh: bool = False
    ) -> AsyncGenerator[Sighting, None]:
        """The same, but everything that every source says: a peer that two sources name comes twice.

        Args:
            multihash: of the block.
            also: other keys under which the same may have been announced.
            label: what the status calls it.
            fresh: ask again even where a source said something a moment ago, or is being asked by others.

        Raises:
            RoutingError: the router does not run.
        """
        keys = (multihash, *also)
        find = None if fresh else self._finds.get(keys)
        if find is None:
            find = self._start(keys, label, fresh)
        find.callers += 1
        try:
            position = 0
            while True:
                while position < len(find.sightings):
                    position += 1
                    yield find.sightings[position - 1]
                if find.done:
                    return
                await find.changed.wait()
        finally:
            find.callers -= 1
            if not find.callers and not find.done:
                self._forget(find)
                find.scope.cancel()

    def _start(self, keys: tuple[bytes, ...], label: str, fresh: bool) -> _Find:
        if self._nursery is None:
            raise RoutingError("Nobody can be asked for providers: the router is not running.")
        find = _Find(keys, label or text.raw_cid(keys[0]))
        self._finds[keys] = find
        asks: list[tuple[_SourceState, bytes]] = []
        for name, state in self._sources.items():
            # Those that answer from memory know nothing of keys.
            for key in keys[:1] if name in LOCAL_SOURCES else keys:
                answer = None if fresh else self._remembered(name, key)
                if answer is None:
                    asks.append((state, key))
                else:
                    find.sightings.extend(answer.sightings)
        self._nursery.start_soon(self._run_find, find, asks)
        return find

    def _forget(self, find: _Find) -> None:
        if self._finds.get(find.keys) is find:
            del self._finds[find.keys]

    async def _run_find(self, find: _Find, asks: list[tuple[_SourceState, bytes]]) -> None:
        try:
            with find.scope:
                async with trio.open_nursery() as nursery:
                    for state, key in asks:
                        nursery.start_soon(self._ask, find, state, key)
        finally:
            self._forget(find)
            find.done = True
            find.changed.notify()

    # --- one source -------------------------------------------------------------------------------------------------

    async def _ask(self, find: _Find, state: _SourceState, key: bytes) -> None:
        """Ask one source for one key, and write down what it says. Nothing gets out of here but cancellation."""
        name = state.source.name
        if state.waiting >= limits.MAX_WAITING_PER_SOURCE:
            self._failed(state, "Too many finds wait for it; it was left out of some.")
            return
        state.asked += 1
        state.waiting += 1
        waiting = True
        begun = trio.current_time()
        said: list[Sighting] = []
        try:
            with trio.move_on_after(limits.ASK_SECONDS) as patience:
                async with state.slots:
                    state.waiting -= 1
                    waiting = False
                    state.running += 1
                    try:
                        begun = trio.current_time()
                        await self._listen(find, state, key, begun, said)
                    finally:
                        state.running -= 1
        except KacheryError as error:
            self._failed(state, str(error))
            return
        except Exception as error:
            log.exception("the source %s of providers failed", name)
            self._failed(state, f"It failed unexpectedly: {type(error).__name__}: {error}")
            return
        finally:
            if waiting:
                state.waiting -= 1
        if patience.cancelled_caught:
            what = "It was too busy to be asked" if waiting else "It came to no end"
            self._failed(state, f"{what} within {limits.ASK_SECONDS:g} seconds.")
            return
        state.answered += 1
        state.last_seconds = trio.current_time() - begun
        self._remember(name, key, said)

    async def _listen(self, find: _Find, state: _SourceState, key: bytes, begun: float, said: list[Sighting]) -> None:
        named: dict[str, set[str]] = {}
        heard = 0
        async with contextlib.aclosing(state.source.find_providers(key)) as providers:
            async for provider in providers:
                await trio.lowlevel.checkpoint()  # a source that never waits would stop everything else
                heard += 1
                if heard > 4 * limits.MAX_PROVIDERS_PER_SOURCE:
                    return  # repetitions and nonsense without end
                clean = self._clean(provider, state.source.name, named)
                if clean is None:
                    continue
                sighting = Sighting(clean, trio.current_time() - begun)
                said.append(sighting)
                find.sightings.append(sighting)
                find.changed.notify()
                state.providers += 1
                if len(said) == 1:
                    self._note(find, sighting)
                if len(said) >= limits.MAX_PROVIDERS_PER_SOURCE:
                    return

    def _clean(self, provider: Provider, source: str, named: dict[str, set[str]]) -> Provider | None:
        """The provider in our own words; None when it is us, is no peer, or was named with all this before."""
        peer = any_peer_id(provider.peer)
        if peer is None or peer == self._local:
            return None
        addrs = text.dialable_addresses(provider.addrs, peer)
        known = named.get(peer)
        if known is not None:
            addrs = tuple(each for each in addrs if each not in known)[: limits.MAX_ADDRS_PER_PROVIDER - len(known)]
            if not addrs:
                return None
        named.setdefault(peer, set()).update(addrs)
        return Provider(peer, addrs, source)

    # --- memory -----------------------------------------------------------------------------------------------------

    def _remember(self, name: str, multihash: bytes, said: list[Sighting]) -> None:
        if name in LOCAL_SOURCES:
            return
        seconds = limits.FOUND_SECONDS if said else limits.NOTHING_SECONDS
        self._answers[name, multihash] = _Answer(tuple(said), trio.current_time() + seconds)
        self._answers.move_to_end((name, multihash))
        while len(self._answers) > limits.MAX_REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)

    def _remembered(self, name: str, multihash: bytes) -> _Answer | None:
        answer = self._answers.get((name, multihash))
        if answer is not None and trio.current_time() >= answer.until:
            del self._answers[name, multihash]
            return None
        return answer

    def _failed(self, state: _SourceState, why: str) -> None:
        state.failed += 1
        state.last_error = why[: limits.MAX_ERROR_LENGTH]
        state.last_error_at = self._wall()
        log.debug("the source %s of providers: %s", state.source.name, why)

    def _note(self, find: _Find, sighting: Sighting) -> None:
        provider = sighting.provider
        self._recent.append(
            {
                "cid": find.label,
                "source": provider.source,
                "peer": provider.peer,
                "seconds": sighting.seconds,
                "at": self._wall(),
            }
        )

    def status(self) -> dict[str, Any]:
        """Sources with their last errors, finds under way, and what was found lately, as plain JSON values."""
        return {
            "sources": {name: state.status() for name, state in self._sources.items()},
            "finding": len(self._finds),
            "recent": list(reversed(self._recent)),
        }
