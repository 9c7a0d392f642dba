"""What is fetched for somebody unknown, who reads from a gateway without the token of the user.

It lies in a repo of its own, `public/` in the data directory, which begins empty with each start of the node and is
bounded. It is given to those readers and to nobody else: it is not listed, announced or served to peers. So what
strangers ask for changes nothing of what the user has here, and nothing that is here for some can come out of it; a
block that is here for some is fetched again, as if it were not here, where others have it for everybody. See
`kachery_p2p.load.public`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from kachery_p2p.access.asking import ask_audience
from kachery_p2p.errors import KacheryError
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.public import PublicLoad, PublicOrigin
from kachery_p2p.node.loading import Bringing, bounds, check_providers
from kachery_p2p.node.members import ANSWER_SECONDS
from kachery_p2p.repo.repo import Repo
from kachery_p2p.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kachery_p2p.access.audience import Audience
    from kachery_p2p.access.gate import Gate
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.load.interfaces import Connect
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.node.messages import LoadRequest, LoadResult
    from kachery_p2p.repo.contents import Contents
    from kachery_p2p.routing.interfaces import Provider
    from kachery_p2p.routing.provide.blinding import Members
    from kachery_p2p.transport.host import Host

#: The folder in the data directory.
FOLDER = "public"
#: Bytes that are kept for those who ask again; and that are left when there were more.
MOST_BYTES = 4 * GIB
LEFT_BYTES = 3 * GIB


@dataclass(frozen=True)
class _Store:
    """Where what is fetched goes."""

    repo: Repo
    downloads: Downloads
    bringing: Bringing


class PublicLoads:
    """Loads what everybody may have. Nothing is made on the disk before the first load.

    Args:
        repo: what is here.
        host, exchange, finding, gate: of the node.
        members: who is in which group.
        reach, peers: see `kachery_p2p.node.loading.Loading`.
    """

    def __init__(
        self,
        repo: Repo,
        host: Host,
        exchange: Exchange,
        finding: Finding,
        gate: Gate,
        members: Members,
        *,
        reach: Connect,
        peers: Sequence[str] = (),
    ) -> None:
        self._here = repo.own
        self._folder = repo.directory / FOLDER
        self._host = host
        self._exchange = exchange
        self._finding = finding
        self._gate = gate
        self._members = members
        self._reach = reach
        self._peers = peers
        self._opening = trio.Lock()
        self._store: _Store | None = None
        self._under_way = 0

    @property
    def contents(self) -> Contents | None:
        """What was fetched; None where nothing was yet. Cheap."""
        return None if self._store is None else self._store.repo.own

    async def run(self) -> None:
        """Take away what is left of an earlier run, and at the end what this one has left."""
        try:
            async with self._opening:
                if self._store is None:
                    await trio.to_thread.run_sync(self._clear)
            await trio.sleep_forever()
        finally:
            if self._store is not None:
                self._store.repo.close()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._clear)

    def _clear(self) -> None:
        if self._folder.is_dir() and not self._folder.is_symlink():
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _open(self) -> _Store:
        def fresh() -> Repo:
            self._clear()
            return Repo.open(self._folder)

        async with self._opening:
            if self._store is None:
                repo = await trio.to_thread.run_sync(fresh)
                self._store = _Store(repo, Downloads(repo), Bringing(repo))
            return self._store

    async def load(self, request: LoadRequest) -> LoadResult:
        """As `Node.load`, but what comes lies in `contents`.

        Raises:
            ContentNotFound: nobody has it for everybody.
            KacheryError: as for `Node.load`.
        """
        check_providers(request)
        begun = trio.current_time()
        root = request.cid
        store = await self._open()

        async def ask(peer: str, multihashes: Sequence[bytes]) -> Mapping[bytes, Audience] | None:
            return await ask_audience(self._host, peer, multihashes, timeout=ANSWER_SECONDS)

        first, last = bounds(request)
        origin = PublicOrigin(root, self._members, ask, self._exchange.look_again)
        session = self._exchange.new_session(
            discover=True, gateways=True, first=first, last=last, admits=origin.admits, public=True
        )
        origin.session = session

        def find(cid: CID) -> AsyncGenerator[Provider, None]:
            return self._finding.providers(cid, None)

        load = PublicLoad(
            self._here,
            self._gate,
            store.repo,
            store.downloads,
            session,
            connect=self._reach,
            find=find,
            timeout=request.timeout,
            progress=_nobody_waits,
            origin=origin,
        )
        done: list[LoadResult] = []
        failure: KacheryError | None = None
        self._under_way += 1
        try:
            async with session, trio.open_nursery() as nursery:
                nursery.start_soon(origin.run)
                try:
                    done.append(
                        await load.run(
                            root,
                            [*self._peers, *request.providers],
                            lambda: store.bringing.bring(load, request, _nobody_waits),
                        )
                    )
                except KacheryError as error:
                    failure = error  # a nursery would put a group around it
                nursery.cancel_scope.cancel()
        finally:
            self._under_way -= 1
        if failure is not None:
            raise failure
        if not self._under_way:
            await trio.to_thread.run_sync(_make_room, store.repo)
        return replace(done[0], sources=session.stats().sources, seconds=trio.current_time() - begun)


def _nobody_waits(done: int, total: int) -> None:
    """Nobody is told how far a load is."""


def _make_room(repo: Repo) -> None:
    """In a thread: take away what was used longest ago, where there is too much."""
    roots = repo.inventory.roots()
    size = sum(root.here for root in roots)
    if size <= MOST_BYTES:
        return
    for root in sorted(roots, key=lambda root: root.used):
        if size <= LEFT_BYTES:
            break
        size -= repo.removal.remove(root).freed
