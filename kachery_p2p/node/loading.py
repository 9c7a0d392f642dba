"""Loads of a node: a request, and all that is put together to answer it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.paths import resolve_path
from kachery_p2p.errors import RemovedMeanwhile
from kachery_p2p.load.claimed import Claimed
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.interfaces import Connect, Progress
from kachery_p2p.load.load import Load
from kachery_p2p.load.origin import Origin
from kachery_p2p.node.messages import LoadResult
from kachery_p2p.transport.addresses import parse_address

if TYPE_CHECKING:
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.bitswap.handle import SessionHandle
    from kachery_p2p.load.downloads import Downloads
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.node.members import MembersFirst, Plan
    from kachery_p2p.node.messages import LoadRequest
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.routing.interfaces import Provider
    from kachery_p2p.routing.provide.blinding import Members

log = logging.getLogger("kachery_p2p.node.node")

#: How often a directory is loaded on, when files that it relied on are removed while it is loaded.
REMOVALS = 3

#: Is told bytes done, bytes in all, how many peers and gateways gave any, and how many bytes of those done were here
#: already.
LoadProgress = Callable[[int, int, int, int], None]


def no_progress(done: int, total: int, peers: int, here: int) -> None:
    """Nobody wants to know."""


class Bringing:
    """What loads do while they run, whoever they are for.

    Args:
        repo: where data is and goes.
    """

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._whole_loads: dict[tuple[CID, frozenset[str] | None], tuple[Load, trio.Event]] = {}

    async def bring(
        self, load: Load, request: LoadRequest, progress: Progress, groups: frozenset[str] | None = None
    ) -> LoadResult:
        """What a load does while it runs: follow the path, bring what is at its end, and list it."""
        target, kind = request.cid, request.kind
        destination: str | None = None
        if request.path:
            steps = resolve_path(target, request.path, self._repo.folder_nodes, follow=request.follow)
            end = await load.drive(steps, keep=kind != "info")
            target, destination = end.cid, end.destination
        if kind == "info":
            look = await load.look(target, links=not request.follow)
            return LoadResult(
                target, size=look.size, dag_size=look.dag_size, destination=look.destination or destination
            )
        if kind == "directory":
            await self._directory(load, target, progress)
            return LoadResult(target)
        if kind == "listing":
            await load.drive(list_directory(target))
            return LoadResult(target)
        part = bool(request.path) and (kind == "bytes" or request.part)
        try:
            if kind == "bytes":
                where, size = await load.file(target, request.start or 0, request.end)
            else:
                where, size = await self._whole_file(load, target, request.providers, groups)
        finally:
            if part:
                with trio.CancelScope(shield=True):  # also what came of a load that was given up is a part
                    await trio.to_thread.run_sync(self._repo.inventory.loaded_part, request.cid, target, load.claim)
        await load.settle()
        if not part:
            await trio.to_thread.run_sync(self._repo.inventory.loaded, target, None, load.claim)
        return LoadResult(target, str(where), size)

    async def _directory(self, load: Load, root: CID, progress: Progress) -> None:
        """Load a directory. What was here and was removed meanwhile is loaded, too."""
        for more in reversed(range(REMOVALS)):
            try:
                await DirectoryLoad(load, self._repo, progress).run(root)
            except RemovedMeanwhile:
                if not more:
                    raise
            else:
                return

    async def _whole_file(
        self, load: Load, cid: CID, providers: Iterable[str], groups: frozenset[str] | None
    ) -> tuple[Path, int]:
        """Load a file once, however many ask for it at the same time: later ones lend their providers and wait.

        Only those wait for each other that may ask the same peers.
        """
        key = cid, groups
        while True:
            running = self._whole_loads.get(key)
            if running is None:
                break
            running[0].add_providers(providers)
            await running[1].wait()  # that load watches the clock
        done = trio.Event()
        self._whole_loads[key] = (load, done)
        try:
            return await load.file(cid)
        finally:
            del self._whole_loads[key]
            done.set()


class Loading:
    """Brings things into a repo, with the rights of its user.

    Args:
        repo: where data is and goes.
        downloads: its partial files.
        exchange, finding: of the node.
        members: who is in which group.
        members_first: finds out who may hear of what.
        reach: dials a multiaddr, or a peer that was found, at the addresses that go with it.
        peers: multiaddrs of configured peers, which are asked for everything.
        lasting: is told when a load has lasted for some time, and when it has ended.
    """

    def __init__(
        self,
        repo: Repo,
        downloads: Downloads,
        exchange: Exchange,
        finding: Finding,
        members: Members,
        members_first: MembersFirst,
        *,
        reach: Connect,
        peers: Sequence[str] = (),
        lasting: Callable[[CID, bool], None] = lambda root, lasts: None,
    ) -> None:
        self._repo = repo
        self._downloads = downloads
        self._exchange = exchange
        self._finding = finding
        self._members = members
        self._members_first = members_first
        self._reach = reach
        self._peers = peers
        self._lasting = lasting
        self._bringing = Bringing(repo)

    async def load(self, request: LoadRequest, progress: LoadProgress = no_progress) -> LoadResult:
        """Bring a file, a byte range of one, or a directory to this machine.

        Raises:
            NotAMember: it is for groups, and this machine is in none of them.
            PathNotFound, IsADirectory, ContentNotFound, MalformedDag, DiskFull ...: see `kachery_p2p.errors`.
            InvalidAddress: one of the providers is not a multiaddr.
        """
        begun = trio.current_time()
        root, kind = request.cid, request.kind
        check_providers(request)

        def lasting() -> None:
            # Others that load the same find us, and we serve each other.
            if kind in ("file", "directory") and not request.path:
                self._lasting(root, True)
                self._finding.announce([root.multihash])

        plan = await self._members_first.plan(
            root, request.groups, request.providers, members_only=request.members_only
        )
        async with contextlib.AsyncExitStack() as stack:
            admits = None if plan.groups is None else self._finding.members.admits(plan.groups)
            first, last = bounds(request)
            session = await stack.enter_async_context(
                self._exchange.new_session(discover=True, gateways=True, first=first, last=last, admits=admits)
            )
            origin = await self._origin(root, plan, session)

            here = 0

            def progressed(done: int, total: int) -> None:
                nonlocal here
                # What has come and is not in its place yet makes it seem less for a moment.
                here = max(here, min(done - session.received, total))
                progress(done, total, session.source_count, here)

            def find(cid: CID) -> AsyncGenerator[Provider, None]:
                return self._finding.providers(cid, plan.groups if origin is None else origin.groups)

            load = Load(
                self._repo,
                self._downloads,
                session,
                connect=self._reach,
                find=find,
                lasting=lasting,
                timeout=request.timeout,
                progress=progressed,
                origin=origin,
            )

            async def work() -> LoadResult:
                audience = await load.learn(root)
                if not audience.everyone:
                    load.claim = await stack.enter_async_context(Claimed(self._repo.access.claim(audience)))
                return await self._bringing.bring(load, request, progressed, plan.groups)

            try:
                result = await load.run(root, [*self._peers, *request.providers], work)
            finally:
                self._lasting(root, False)
            sources = session.stats().sources
        got = sum(sources.values())
        log.info(
            "loaded %s (%s): %d bytes fetched from %d sources", result.cid, kind, got, len(sources),
            extra={"fields": {"event": "loaded", "root": str(result.cid), "bytes": got, "sources": len(sources)}},
        )  # fmt: skip
        self._finding.useful({peer: size for peer, size in sources.items() if not peer.startswith("gateway:")})
        if sources and kind in ("file", "directory"):
            self._finding.announce([result.cid.multihash])
        return replace(result, sources=sources, seconds=trio.current_time() - begun)

    async def _origin(self, root: CID, plan: Plan, session: SessionHandle) -> Origin | None:
        """What finds out for whom it is that is loaded; None where it is for everybody."""
        if not plan.watched:
            return None
        if plan.known is None and await trio.to_thread.run_sync(self._repo.has_block, root.multihash) is not None:
            return None  # a part of it is here, and for everybody

        def restricted(groups: frozenset[str]) -> None:
            session.restrict(self._finding.members.admits(groups))

        return Origin(
            root,
            session,
            self._members,
            lambda peer: self._members_first.ask(peer, root.multihash),
            groups=plan.groups,
            known=plan.known,
            told=plan.told,
            restricted=restricted,
        )


def check_providers(request: LoadRequest) -> None:
    """See that each provider is a multiaddr: a mistyped one is told at once, not as a peer that does not answer.

    Raises:
        InvalidAddress: one of them is not.
    """
    for addr in request.providers:
        parse_address(addr)


def bounds(request: LoadRequest) -> tuple[int, int | None]:
    """The first and the last byte (inclusive) of the file that a request is about, as a session takes them."""
    if request.kind == "info":
        return 0, -1  # no bytes of the file
    if request.kind == "bytes":
        return request.start or 0, None if request.end is None else request.end - 1
    return 0, None
