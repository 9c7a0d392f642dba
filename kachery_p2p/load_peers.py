"""Whom a running load can get blocks from: peers it was told of, and those that routing finds for it.

The search begins at once when nobody is known, and after a short head start when somebody is: most loads end before it
is over. It begins again each time the load runs dry or stalls after blocks had come, so that providers which leave are
replaced. What is searched for is the root, whose provider most likely has the rest, and then the block that is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError

if TYPE_CHECKING:
    from kachery_p2p.load import Session

#: Seconds that peers which are known already are given before others are searched for. Two round trips to the far side
#: of the world; most loads from a peer that was named have their first block by then.
HEAD_START = 0.5
#: Seconds without a block after which a load with peers that say nothing looks for others.
STALL = 5.0
#: Peers dialled at once for one load, and in all: more would not make it faster.
DIALS_AT_ONCE = 16
MOST_DIALS = 256
#: Failures kept to be told to the user.
MOST_FAILURES = 32


class FoundPeer(Protocol):
    """What routing finds."""

    @property
    def peer(self) -> str: ...
    @property
    def addrs(self) -> Sequence[str]: ...


Connect = Callable[[str, Sequence[str]], Awaitable[str]]
Find = Callable[[CID], AsyncGenerator[FoundPeer, None]]


class LoadPeers:
    """The peers of one load.

    Args:
        session: a Bitswap session; those who are reached are added to it.
        connect: dials a multiaddr or peer ID, with more addresses of it, and returns the peer ID; raises a
            `KacheryError` that says why it could not.
        find: searches for the providers of a CID; None where there is nobody to ask.

    Attributes:
        failures: why an address or peer could not be reached.
        searches: how many searches were begun.
    """

    def __init__(self, session: Session, connect: Connect, find: Find | None) -> None:
        self.failures: dict[str, str] = {}
        self.searches = 0
        self.last_block = trio.current_time()
        self._session = session
        self._connect = connect
        self._find = find
        self._nursery: trio.Nursery | None = None
        self._pending = 0
        self._settled = trio.Event()
        self._block = trio.Event()
        self._slots = trio.Semaphore(DIALS_AT_ONCE)
        self._dials = 0

    def start(self, nursery: trio.Nursery, root: CID, hints: Iterable[str]) -> None:
        """Dial the hints and search for others in tasks of `nursery`."""
        self._nursery = nursery
        self.add(hints)
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
        if self._nursery is not None and self._dials < MOST_DIALS:
            self._dials += 1
            self._begin()
            self._nursery.start_soon(self._dial, addr, addrs)

    async def _dial(self, addr: str, addrs: Sequence[str]) -> None:
        try:
            async with self._slots:
                self._session.add_provider(await self._connect(addr, addrs))
        except KacheryError as e:
            if len(self.failures) < MOST_FAILURES:
                self.failures[addr] = str(e)
        finally:
            self._end()

    # --- searching

    async def _keep_searching(self, find: Find, root: CID) -> None:
        """Runs with one `_begin` of its caller, which the first search ends."""
        if self._session.peers() or self._dials:
            with trio.move_on_after(HEAD_START):
                await self._session.wait_exhausted()
            if self._block.is_set():  # it runs; others are looked for when it does not any more
                self._end()
                await self._run_dry()
                self._begin()
        while True:
            try:
                await self._search(find, root)
            finally:
                self._end()
            # Once for each time that it runs dry: when nothing came since, nothing more is to be found.
            await self._block.wait()
            await self._run_dry()
            self._begin()

    async def _search(self, find: Find, root: CID) -> None:
        self.searches += 1
        self._block = trio.Event()
        async with trio.open_nursery() as nursery:
            for cid in dict.fromkeys([root, *self._session.missing()[:1]]):
                nursery.start_soon(self._search_one, find, cid)

    async def _search_one(self, find: Find, cid: CID) -> None:
        async with contextlib.aclosing(find(cid)) as found:
            async for provider in found:
                self._dial_soon(provider.peer, provider.addrs)

    async def _run_dry(self) -> None:
        """Wait until a block is missing that nobody of the load has, or nothing has come for some seconds."""
        while True:
            heard = self.last_block
            with trio.move_on_at(max(heard, trio.current_time()) + STALL):
                await self._session.wait_exhausted()
                return
            if self.last_block == heard:
                return

    # --- what goes on

    def heard(self) -> None:
        """A block has come."""
        self.last_block = trio.current_time()
        self._block.set()

    async def settled(self) -> None:
        """Wait until nobody is being dialled or searched for."""
        while self._pending:
            await self._settled.wait()

    def _begin(self) -> None:
        self._pending += 1

    def _end(self) -> None:
        self._pending -= 1
        if not self._pending:
            event, self._settled = self._settled, trio.Event()
            event.set()
