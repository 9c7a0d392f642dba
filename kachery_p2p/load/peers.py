"""Whom a running load can get blocks from: peers it was told of, and those that routing finds for it.

The search begins at once when no peer is known. Otherwise it begins after a short head start: most loads end before
that is over. It begins again each time the load runs dry or stalls after blocks had come, so that providers which leave
are replaced. First the root is searched for, because whoever has it most likely has the rest; then the block that is
missing.

A peer that delivered and went away may come back: its program or its machine was restarted. It is dialled again, and
searched for again, for as long as the load has patience.

A load that lasts, though blocks come, searches once more: others may load the same by now, and loaders serve each
other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from kachery_p2p.load.interfaces import Connect, Find, Session

#: Seconds that peers which are known already are given before others are searched for. Two round trips to the far side
#: of the world; most loads from a peer that was named have their first block by then.
HEAD_START = 0.5
#: Seconds without a block after which a load with peers that say nothing looks for others.
STALL = 5.0
#: Seconds after which a load that gets blocks looks for others that have the same, or load it too.
LONG_LOAD = 5.0
#: Peers dialled at once for one load, and in all: more would not make it faster.
DIALS_AT_ONCE = 16
MOST_DIALS = 256
#: Seconds between two dials of a source that went away: first, and at most. A program is up again in a second or two.
REDIAL_FIRST = 0.5
REDIAL_MOST = 5.0
#: Seconds between searches while a source that went away is missed: it may be somewhere else now.
SEARCH_AGAIN = 10.0
#: Failures kept to be told to the user.
MOST_FAILURES = 32


class Patience:
    """Since when a load has been waiting for others.

    Only that counts against its timeout. What it does itself (reading what is here, copying, writing to a slow disk)
    may take as long as it takes.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._since = 0.0
        self._waits = False
        self._begun = Signal()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While this lasts, the load can do nothing but wait for a block."""
        self._turn += 1
        self._since = trio.current_time()
        self._waits = True
        self._begun.notify()
        try:
            yield
        finally:
            self._waits = False

    async def begun(self) -> tuple[int, float]:
        """Wait until the load waits.

        Returns:
            A number for this time of waiting, and when it began.
        """
        while not self._waits:
            await self._begun.wait()
        return self._turn, self._since

    def lasts(self, turn: int) -> bool:
        """Whether the load still waits, and for the same block."""
        return self._waits and self._turn == turn


class LoadPeers:
    """The peers of one load.

    Args:
        session: the session of the load; peers that are reached are added to it.
        connect: dials a multiaddr or peer ID, with more addresses of it, and returns the peer ID; raises a
            `KacheryError` that says why it could not.
        find: searches for the providers of a CID; None where there is no way to search.
        lasting: called once when the load has lasted for some time and blocks come.

    Attributes:
        failures: why an address or peer could not be reached.
    """

    def __init__(
        self, session: Session, connect: Connect, find: Find | None, lasting: Callable[[], None] = lambda: None
    ) -> None:
        self.failures: dict[str, str] = {}
        self.patience = Patience()
        self._session = session
        self._connect = connect
        self._find = find
        self._lasting = lasting
        self._lasting_at = trio.current_time() + LONG_LOAD
        self._nursery: trio.Nursery | None = None
        #: Dials and searches under way.
        self._pending = 0
        self._settled = Signal()
        #: Whether a block has come since the last search began.
        self._heard = False
        self._came = Signal()
        self._slots = trio.Semaphore(DIALS_AT_ONCE)
        #: All addresses that were ever dialled, and the dials under way.
        self._dialled: set[str] = set()
        self._under_way: set[tuple[str, tuple[str, ...]]] = set()
        #: How each peer was reached: what was dialled.
        self._ways: dict[str, tuple[str, Sequence[str]]] = {}

    def start(self, nursery: trio.Nursery, root: CID, hints: Iterable[str]) -> None:
        """Dial the hints and search for others in tasks of `nursery`."""
        self._nursery = nursery
        self.add(hints)
        nursery.start_soon(self._bring_back)
        if self._find is not None:
            self._begin()
            nursery.start_soon(self._keep_searching, self._find, root)

    def stop(self) -> None:
        """The load is over: nothing is dialled any more."""
        self._nursery = None

    # --- dialling

    def add(self, addrs: Iterable[str]) -> None:
        """Dial these multiaddrs; those that answer join the load."""
        for addr in addrs:
            self._dial_soon(addr, ())

    def _dial_soon(self, addr: str, addrs: Sequence[str]) -> None:
        way = addr, tuple(addrs)
        if self._nursery is None or way in self._under_way:
            return
        if addr in self._dialled or len(self._dialled) < MOST_DIALS:
            self._dialled.add(addr)
            self._under_way.add(way)
            self._begin()
            self._nursery.start_soon(self._dial, *way)

    async def _dial(self, addr: str, addrs: tuple[str, ...]) -> None:
        try:
            async with self._slots:
                await self._reach(addr, addrs)
        finally:
            self._under_way.discard((addr, addrs))
            self._end()

    async def _reach(self, addr: str, addrs: Sequence[str]) -> None:
        try:
            with self._session.expecting():
                peer = await self._connect(addr, addrs)
        except KacheryError as error:
            if addr in self.failures or len(self.failures) < MOST_FAILURES:
                self.failures[addr] = str(error)
            return
        self.failures.pop(addr, None)
        self._ways[peer] = addr, addrs
        self._session.add_provider(peer)

    # --- sources that went away

    async def _bring_back(self) -> None:
        """Dial those again that delivered and are gone, while something is missing."""
        pause = REDIAL_FIRST
        while True:
            await self._session.wait_exhausted()
            gone = self._session.lost()
            if not gone:
                pause = REDIAL_FIRST
            async with trio.open_nursery() as nursery:
                for peer in gone:
                    nursery.start_soon(self._dial_again, peer)
            await trio.sleep(pause)
            pause = min(2 * pause, REDIAL_MOST) if gone else pause

    async def _dial_again(self, peer: str) -> None:
        """At the address that led to it before; then wherever it is known to be by now."""
        addr, addrs = self._ways.get(peer, (peer, ()))
        async with self._slots:
            await self._reach(addr, addrs)
            if addr != peer and peer in self._session.lost():
                await self._reach(peer, ())

    # --- searching

    async def _keep_searching(self, find: Find, root: CID) -> None:
        """Search now, and again each time the load runs dry.

        `start` has counted the first search as pending already, so that nobody takes the load for settled before this
        task has begun.
        """
        if self._session.peers() or self._dialled:
            with trio.move_on_after(HEAD_START):
                await self._session.wait_exhausted()
            if self._heard:
                # Blocks come from peers that are known. Others are looked for when that ends.
                self._end()
                await self._dry_or_lasting()
                self._begin()
        while True:
            try:
                await self._search(find, root)
            finally:
                self._end()
            # Another search helps only after a block has come, or while a source is missed: it may be back elsewhere.
            while not self._heard:
                with trio.move_on_after(SEARCH_AGAIN):
                    await self._came.wait()
                if self._session.may_return():
                    break
            await self._dry_or_lasting()
            self._begin()

    async def _search(self, find: Find, root: CID) -> None:
        self._heard = False
        async with trio.open_nursery() as nursery:
            for cid in dict.fromkeys([root, *self._session.missing()[:1]]):
                nursery.start_soon(self._search_one, find, cid)

    async def _search_one(self, find: Find, cid: CID) -> None:
        async with contextlib.aclosing(find(cid)) as found:
            async for provider in found:
                self._dial_soon(provider.peer, provider.addrs)

    async def _dry_or_lasting(self) -> None:
        """Wait until the load runs dry, or, once, until it has lasted for some time."""
        with trio.move_on_at(self._lasting_at):
            await self._run_dry()
            return
        self._lasting_at = math.inf
        self._lasting()

    async def _run_dry(self) -> None:
        """Wait until a block is missing that no source of the load has, or nothing has come for some seconds."""
        while True:
            turn, _ = await self.patience.begun()
            with trio.move_on_after(STALL):
                await self._session.wait_exhausted()
                return
            if self.patience.lasts(turn):
                return

    # --- what goes on

    def heard(self) -> None:
        """A block has come."""
        self._heard = True
        self._came.notify()

    async def settled(self) -> None:
        """Wait until no dial and no search is under way."""
        while self._pending:
            await self._settled.wait()

    def _begin(self) -> None:
        self._pending += 1

    def _end(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._settled.notify()
