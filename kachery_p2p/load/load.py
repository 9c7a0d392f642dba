"""Loading a DAG: what is on disk, what is missing, whom to ask for it, and when to give up.

A `Load` is one request of the user: a file, a byte range of one, or a path through directories. It walks the DAG
(`kachery_p2p.dag.walk`), takes from the repo what is there, and asks its session for the rest. The session asks peers,
and gateways where peers are slow; the load does not tell them apart. Blocks arrive in any order and go straight to
their place in the partial file; nothing waits in memory for its turn. So a load that was interrupted is not a special
case: the walk starts again from the root and finds most of the file on disk. Nor are directories of others beneath
one's own: blocks that they have are found there, and written to one's own like those that arrive; so what was loaded is
whole in one's own directory, whatever becomes of theirs.

Several loads of one CID share one partial file (`Downloads`). The one that loads the whole file puts it into place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from kachery_p2p.access.audience import PUBLIC, Audience
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.nodes import Asking, dag_size, symlink_target
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import DamagedFile, DiskFull, IsADirectory, KacheryError, MalformedDag, NotAFile
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.errors import not_found
from kachery_p2p.load.interfaces import Connect, Find, Place, Progress, Received, Session
from kachery_p2p.load.limits import DEFAULT_LIMITS, LoadLimits
from kachery_p2p.load.peers import LoadPeers
from kachery_p2p.load.reading import Found, Reading
from kachery_p2p.load.transfer import Transfer

if TYPE_CHECKING:
    from kachery_p2p.dag.walk import Ref
    from kachery_p2p.load.origin import OriginLike
    from kachery_p2p.repo.access import Claim
    from kachery_p2p.repo.download import Download
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.wire import Buffer

log = logging.getLogger("kachery_p2p.load.load")

T = TypeVar("T")

#: Steps that a reader makes in one trip to a thread: most paths are shorter, and whoever cancels does not wait long.
STEPS_AT_ONCE = 16


class Look(NamedTuple):
    """What something is: a file of so many bytes, a directory, or a symbolic link.

    Attributes:
        size: of a file, in bytes; None for all else.
        dag_size: of a directory: bytes of all blocks in and below it, as its first block states them.
        destination: what a symbolic link points to.
    """

    size: int | None = None
    dag_size: int | None = None
    destination: str | None = None


#: Where nothing is known of how large blocks are.
NO_SIZES: Mapping[bytes, int] = {}


class Load:
    """One request of the user, with its session, its providers and its patience.

    Args:
        repo: where data is and goes.
        downloads: the partial files of this node.
        session: a session of the block exchange, of its own.
        connect, find, lasting: see `kachery_p2p.load.peers.LoadPeers`.
        timeout: seconds of waiting without a single block, or a part of one, after which the load gives up.
        origin: learns from what comes for whom it is; None where all is for everybody, because this machine is in no
            group.
        progress: called with (bytes done, bytes in all) now and then.
        limits: its bounds.

    Attributes:
        limits: its bounds.
        claim: of all that it keeps; None where that is for everybody.
    """

    def __init__(
        self,
        repo: Repo,
        downloads: Downloads,
        session: Session,
        *,
        connect: Connect,
        find: Find | None = None,
        lasting: Callable[[], None] = lambda: None,
        timeout: float,
        progress: Progress,
        origin: OriginLike | None = None,
        limits: LoadLimits = DEFAULT_LIMITS,
    ) -> None:
        self._repo = repo
        self._origin = origin
        self.claim: Claim | None = None
        self._downloads = downloads
        self._session = session
        self._peers = LoadPeers(session, connect, find, lasting)
        self._timeout = timeout
        self._progress = progress
        self.limits = limits
        self._begun = trio.current_time()
        #: Where what comes is put: while that lasts, nobody is to blame for silence.
        self._places: set[Place] = set()
        #: Whether what comes may be written before it was looked at from whom it came.
        self._places_early = True
        self._waiting_for: CID | None = None

    # --- whom to ask, and for how long

    async def run(self, root: CID, providers: Iterable[str], work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` while providers are dialled, others are searched for, and the clock is watched.

        Args:
            root: what is searched for; who has it most likely has what it links to.
            providers: multiaddrs of peers that may have it.
            work: what is done; its result is returned.

        Raises:
            ContentNotFound: no peer had a block, or nothing came for ``timeout`` seconds.
            BlockTooLarge: a block has more bytes than peers carry.
            KacheryError: what ``work`` raised.
        """
        failure: KacheryError | None = None
        results: list[T] = []
        async with trio.open_nursery() as nursery:
            self._peers.start(nursery, root, providers)
            nursery.start_soon(self._give_up_in_time, nursery.cancel_scope)
            try:
                results.append(await work())
            except KacheryError as error:
                failure = error
            nursery.cancel_scope.cancel()
        self._peers.stop()
        if failure is not None:
            raise failure
        if not results:
            members_only = self._origin is not None and self._origin.groups is not None
            raise not_found(
                root,
                self._waiting_for,
                self._session,
                self.seconds,
                self._peers.failures,
                members_only=members_only,
            )
        return results[0]

    def add_providers(self, addrs: Iterable[str]) -> None:
        """Dial more providers for this running load; those that answer join it."""
        self._peers.add(addrs)

    async def _give_up_in_time(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when everybody said no and nobody else is coming, or when nothing comes for too long.

        A source that delivered and went away is waited for until the time is over: it may come back.
        """
        patience, session = self._peers.patience, self._session
        at_work = 0.0
        while True:
            turn, since = await patience.begun()
            with trio.move_on_at(max(since, session.last_sign(), at_work) + self._timeout) as late:
                await session.wait_exhausted()
                if not session.too_large():  # then nobody else can send it, either
                    await self._peers.settled()
                    await trio.sleep(self.limits.exhausted_grace)
                    await self._peers.settled()  # of a search that began when it ran dry
            if not patience.lasts(turn):
                continue
            if late.cancelled_caught and any(place.busy for place in self._places):
                at_work, over = trio.current_time(), False
            elif late.cancelled_caught:
                over = trio.current_time() >= session.last_sign() + self._timeout
            else:
                over = bool(session.missing() and (session.too_large() or not session.may_return()))
            if over:
                scope.cancel()
                return

    async def receive_all(self, waiting_for: CID) -> Sequence[Received]:
        """The next block, and those that came with it.

        Only the time spent here counts as waiting for others; the rest is the load's own work.
        """
        self._waiting_for = waiting_for
        with self._peers.patience.waiting():
            blocks = await self._session.receive_all()
        self._peers.heard()
        if self._origin is not None:
            await self._origin.came(blocks)
        return blocks

    @property
    def seconds(self) -> float:
        """Since the load began."""
        return trio.current_time() - self._begun

    async def learn(self, root: CID) -> Audience:
        """Find out for whom the root is, from whoever sends its block. It is not kept yet, nor asked for again.

        Returns:
            For whom it is. What is kept from now on belongs under a claim of that, unless it is for everybody.
        """
        origin = self._origin
        if origin is None:
            return PUBLIC
        if not origin.decided and await trio.to_thread.run_sync(self._repo.has_block, root.multihash) is None:
            self.want([root])
            came = False
            while not came:
                for block in await self.receive_all(root):
                    origin.session.put_back(block)
                    came = came or block.cid.multihash == root.multihash
        return origin.audience

    async def settle(self) -> None:
        """All has come, and is to be listed: where it is not known yet for whom it is, see who sent most of it."""
        if self._origin is None or self._origin.decided:
            return
        await self._origin.finish()
        if self._origin.decided and self.claim is not None:
            await trio.to_thread.run_sync(self.claim.set, self._origin.audience)

    # --- small blocks: directories

    async def drive(self, steps: Asking[T], *, wanted: Sequence[CID] = (), keep: bool = True) -> T:
        """Run a reader of `kachery_p2p.dag` that asks for directory blocks in batches.

        Args:
            steps: the reader.
            wanted: what it has asked for already, where it was begun elsewhere.
            keep: whether what it fetched must be kept for the next time. Otherwise a full disk does not matter.
        """
        if not wanted:
            try:
                wanted = next(steps)  # what was decoded before needs neither a block nor a thread
            except StopIteration as stop:
                return stop.value
        reading = Reading(steps, wanted, keep)
        while True:
            await trio.to_thread.run_sync(self._read_on, reading)
            if reading.result:
                return reading.result[0]
            if reading.blocks is not None:
                continue  # all is here, and there is more of it
            wanted = reading.wanted
            reading.blocks, new = await self.blocks(wanted, reading.found)
            reading.new = [pair for pair in zip(wanted, reading.blocks, strict=True) if pair[0].multihash in new]

    def _read_on(self, reading: Reading[T]) -> None:
        """In a thread: keep what has come, and run a reader as far as the blocks go that are here."""
        for _ in range(STEPS_AT_ONCE):
            self._keep_new(reading)
            if reading.blocks is not None:
                try:
                    reading.wanted = reading.steps.send(reading.blocks)
                except StopIteration as stop:
                    reading.result.append(stop.value)
                    return
            wanted = reading.wanted
            reading.blocks, reading.found = None, None
            if len(wanted) > self.limits.wants_ahead // 2:
                return  # too many to be in memory before they are counted
            kept, found = reading.found = self._look_up([cid.multihash for cid in wanted])
            if any(cid.multihash not in found for cid in wanted):
                return
            self._check_step(wanted[0], sum(map(len, found.values())))
            reading.blocks = [found[cid.multihash] for cid in wanted]
            reading.new = [(cid, found[cid.multihash]) for cid in wanted if cid.multihash not in kept]

    def _keep_new(self, reading: Reading[T]) -> None:
        """Keep the directory nodes that are new. The others were read from the catalog, and checked then.

        Raises:
            DiskFull: there is no room for them, and they must be kept.
        """
        new, reading.new = reading.new, []
        if new:
            try:
                self._repo.put_blocks(new, self.claim)
            except DiskFull:
                if reading.keep:
                    raise

    def _check_step(self, cid: CID, size: int) -> None:
        if size > self.limits.step_bytes:
            raise MalformedDag(
                f"The directory with the node {cid} has nodes of more than {self.limits.step_bytes >> 20} "
                "MiB side by side, which no directory needs. It is not read."
            )

    async def blocks(self, cids: Sequence[CID], here: Found | None = None) -> tuple[list[bytes], set[bytes]]:
        """These blocks, in this order, from the repo or the session. For small ones: all are held in memory.

        Args:
            cids: of the blocks.
            here: those of them that are here, where they were looked up just now.

        Returns:
            The blocks, and the multihashes of those that the catalog of the repo does not have.

        Raises:
            MalformedDag: together they are larger than any directory needs.
        """
        have = {}
        new = set()
        size = 0
        unique = iter({cid.multihash: cid for cid in cids}.values())

        async def take(count: int) -> list[CID]:
            return list(islice(unique, count))

        async with contextlib.aclosing(self.stream_blocks(take, here=here)) as stream:
            async for cid, data, kept in stream:
                have[cid.multihash] = data
                if not kept:
                    new.add(cid.multihash)
                size += len(data)
                self._check_step(cid, size)
        return [have[cid.multihash] for cid in cids], new

    async def stream_blocks(
        self,
        take: Callable[[int], Awaitable[Sequence[CID]]],
        sizes: Mapping[bytes, int] = NO_SIZES,
        here: Found | None = None,
    ) -> AsyncGenerator[tuple[CID, bytes, bool], None]:
        """Each of these blocks once, as it is found on disk or arrives; and whether the catalog of the repo has it.

        Args:
            take: gives up to so many of the blocks that are wanted, none twice; nothing when there are no more. It is
                asked for more before the last have come: a round trip for each batch would add up.
            sizes: see the session.
            here: what is here of the first batch, where that was looked up just now.
        """
        left: dict[bytes, CID] = {}
        came: list[tuple[CID, Received]] = []
        half = self.limits.wants_ahead // 2
        more = True
        while more or left or came:
            while more and len(left) <= half:
                batch = await take(half)
                if not batch:
                    more = False
                    break
                kept, found = here or await trio.to_thread.run_sync(self._look_up, [cid.multihash for cid in batch])
                here = None
                missing = {cid.multihash: cid for cid in batch if cid.multihash not in found}
                if missing:
                    self._session.want(missing.values(), sizes)
                    left.update(missing)
                for cid in batch:
                    if cid.multihash in found:
                        yield cid, found[cid.multihash], cid.multihash in kept
            for cid, block in came:  # what is missed next was asked for before
                yield cid, bytes(block.data), False
            came.clear()
            if left:
                for block in await self.receive_all(next(iter(left.values()))):
                    cid = left.pop(block.cid.multihash, None)
                    if cid is not None:
                        came.append((cid, block))

    def _look_up(self, multihashes: Sequence[bytes]) -> Found:
        """In a thread: which of these blocks the catalog has; and all that are here, those in files among them."""
        found = self._repo.own.get_nodes(multihashes)
        kept = set(found)
        for multihash in self._repo.block_sizes([each for each in multihashes if each not in kept]):
            block = self._repo.get_block(multihash)
            if block is not None:
                found[multihash] = block
        return kept, found

    # --- for the transfer of a file

    def local_part(self, cid: CID) -> bytes | FileNode | None:
        """In a thread: a part of a file, if it is in the repo; decoded, where it is an inner node in the catalog."""
        part = self._repo.own.file_part(cid)
        return self._repo.layers.block(cid.multihash) if part is None else part

    def locate(self, root: CID, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """Tell the session where blocks that will be wanted are in a file."""
        self._session.locate(root, blocks)

    def gather(self, root: CID) -> None:
        """Tell the session that all that is in a directory will be wanted, in the order of its links."""
        self._session.gather(root)

    def place(self, multihashes: Iterable[bytes], place: Place) -> None:
        """Say where blocks that are about to be wanted belong."""
        if self._places_early:
            self._places.add(place)
            self._session.place(multihashes, place)

    def placed(self, place: Place) -> None:
        """Nothing more is put there."""
        self._places.discard(place)

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] = NO_SIZES) -> None:
        """Ask the session for these blocks; `receive` and `receive_all` return them."""
        self._session.want(cids, sizes)

    def verified(self, download: Download, leaves: Sequence[Ref], nodes: Sequence[Ref] = ()) -> None:
        """Others may have these leaves of a partial file now, and these nodes that are in the catalog."""
        self._downloads.arriving.verified(download, leaves, nodes)

    def stored(self, multihashes: Sequence[bytes]) -> None:
        """Others may have these blocks of the repo now."""
        self._downloads.arriving.notify(multihashes)

    def progressed(self, done: int, total: int) -> None:
        """Tell the user how many bytes are there."""
        self._progress(done, total)

    # --- files

    def _find_file(self, cid: CID) -> Path | None:
        """In a thread: where a file is on disk; None for one that is not here, or damaged and to be loaded anew."""
        try:
            return self._repo.own.find_file(cid)
        except DamagedFile as error:
            log.warning("%s It is loaded again.", error)
            self._repo.quarantine(cid)
            return None

    async def find_sizes(self, cids: Sequence[CID]) -> list[int | None]:
        """How many bytes these files have; None for one that is not here, or damaged and to be loaded anew."""

        def find(cid: CID) -> int | None:
            try:
                return self._repo.own.file_size(cid)
            except DamagedFile as error:
                log.warning("%s It is loaded again.", error)
                self._repo.quarantine(cid)
                return None

        def find_all() -> list[int | None]:
            lacking = self._repo.own.many.lacking(cids)
            return [None if cid in lacking else find(cid) for cid in cids]

        return await trio.to_thread.run_sync(find_all)

    async def size(self, cid: CID) -> int | None:
        """How many bytes a file has; None for a directory. As `look`."""
        return (await self.look(cid)).size

    async def look(self, cid: CID, *, links: bool = False) -> Look:
        """What something is, and how large. Needs its root block and no room on the disk.

        Args:
            cid: of it.
            links: whether it may be a symbolic link, too.

        Raises:
            NotAFile: it is a symbolic link, and `links` is not set.
            KacheryError: see `Load.run`.
        """
        (size,) = await self.find_sizes([cid])
        if size is not None:
            return Look(size)
        walk = FileWalk(cid)
        (root,) = walk.take(1)
        (block,), _ = await self.blocks([cid])
        try:
            walk.feed(root, block)
        except IsADirectory:
            return Look(dag_size=dag_size(cid, block))
        except NotAFile:
            if not links:
                raise
            return Look(destination=symlink_target(block, cid))
        return Look(walk.size)

    async def file(self, cid: CID, start: int = 0, end: int | None = None) -> tuple[Path, int]:
        """Make the bytes ``start`` to ``end`` (exclusive; None is the end of the file) of a file available on disk.

        Returns:
            A path where these bytes can be read, and the size of the whole file. For a whole file the path is its
            place in the repo; for a range it may be a partial file.
        """
        whole = start == 0 and end is None
        one_block = whole and cid.codec == RAW
        here: bytes | FileNode | None = None
        looked = False

        def find() -> Path | None:
            nonlocal here, looked
            path = self._find_file(cid)
            if path is None and one_block:
                here, looked = self.local_part(cid), True
            return path

        while True:
            async with self._downloads.use(cid, find, self.claim) as entry:
                if entry is None:
                    continue  # another load has just finished it
                if isinstance(entry, Path):
                    return entry, entry.stat().st_size
                if one_block:
                    if not looked:
                        here = await trio.to_thread.run_sync(self.local_part, cid)
                    data = here if isinstance(here, bytes) else await self._one_block(cid)
                    path = await self._downloads.finish(entry, len(data), data)
                    if path is None:
                        continue
                    self.stored([cid.multihash])
                    self.progressed(len(data), len(data))
                    return path, len(data)
                walk = FileWalk(cid, start, end, whole_blocks=True)
                await Transfer(self, walk, entry.download, start, end).run()
                assert walk.size is not None
                if not whole:
                    return entry.download.path, walk.size
                path = await self._downloads.finish(entry, walk.size)
                if path is not None:
                    return path, walk.size

    async def _one_block(self, cid: CID) -> Buffer:
        """The bytes of a file that is one block: with no walk, it takes one trip to a thread to put it into place."""
        self.want([cid])
        while True:
            for block in await self.receive_all(cid):
                if block.cid.multihash == cid.multihash:
                    return block.data
