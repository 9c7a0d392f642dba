"""What the gateway gives out: blocks of the repo, read in threads, and where it is allowed to, what the node fetches.

A file that is here as a whole, and has the stamp that it had when it was hashed, is read as a file. Any other is read
by its DAG, block by block, and the repo gives a block only when its bytes are right; so the gateway never passes on
what a file has become since it was stored. A file that lacks blocks is fetched in windows and passed on as they arrive;
memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, TypeAlias, TypeVar

import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, inline_block
from kachery_p2p.dag.directory import HamtEntry, list_directory
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.nodes import drive, node_kind
from kachery_p2p.dag.paths import resolve_path
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.dag.walk import FileWalk, Ref, WalkLimits
from kachery_p2p.errors import (
    BlockTooLarge,
    IsADirectory,
    KacheryError,
    MalformedDag,
    NotADirectory,
    NotAFile,
    PathNotFound,
    UnsupportedCID,
)
from kachery_p2p.gateway.server import ipld, limits
from kachery_p2p.gateway.server.limits import GatewayLimits
from kachery_p2p.gateway.server.view import View

T = TypeVar("T")

#: References in file order: what is read is sent at once.
IN_ORDER = WalkLimits(nodes_ahead=1, low_water=0)


class BlockUnavailable(KacheryError):
    """A block is not on this machine, and was not, or could not be, fetched."""

    exit_code = 3

    def __init__(self, cid: CID) -> None:
        super().__init__(f"The block {cid} is not here.")
        self.cid = cid


FetchKind: TypeAlias = Literal["file", "bytes", "directory", "listing"]


class Fetched(Protocol):
    """What a fetch gives: where the bytes of a file, or of a range, are now."""

    @property
    def path(self) -> str | None: ...


class Fetch(Protocol):
    """Brings data to this machine, as `kachery_p2p.node.node.Node.load` does."""

    async def __call__(
        self, cid: CID, path: Sequence[str], *, kind: FetchKind, start: int | None = None, end: int | None = None
    ) -> Fetched: ...


@dataclass(frozen=True)
class ResolvedPath:
    """What a path leads to.

    Attributes:
        cid, block: the end of the path, and its block.
        roots: the CID of each part of the path, the root first.
        way: the CIDs of the blocks that were read to get there, each once.
        node: the block decoded, where it is dag-pb and the root of a file.
    """

    cid: CID
    block: bytes = field(repr=False)
    roots: tuple[CID, ...]
    way: tuple[CID, ...]
    node: FileNode | None = field(default=None, repr=False)

    @cached_property
    def kind(self) -> DataType:
        """What it is.

        Raises:
            MalformedDag: the block does not make sense.
            UnsupportedCID: it is neither raw nor dag-pb.
        """
        return DataType.FILE if self.node is not None else node_kind(self.block, self.cid)

    @property
    def unixfs_kind(self) -> DataType | None:
        """The same, or None where it is neither a file nor a directory nor a symbolic link."""
        try:
            return self.kind
        except (MalformedDag, UnsupportedCID):
            return None

    @cached_property
    def size(self) -> int:
        """Bytes of the file.

        Raises:
            MalformedDag: the block does not make sense.
            UnsupportedCID: it is neither raw nor dag-pb, or has a link that cannot be checked.
            IsADirectory, NotAFile: it is something else than a file.
        """
        if self.node is not None:
            return self.node.size
        walk = FileWalk(self.cid, 0, 0)
        (ref,) = walk.take(1)
        walk.feed(ref, self.block)
        assert walk.size is not None
        return walk.size


class Content:
    """Reads what is here.

    Args:
        view: what is here, as whoever asks may see it.
        fetch: how to get what is not here; None where only what is here is served.
        fetch_apart: the same for whoever may not have what the user may, where anything here is not for everyone. What
            it brings is seen in the view, too, and nothing else of what is not for them. None where that is not to be.
        bounds: what is given to one reader; `limits` afterwards.
    """

    def __init__(
        self,
        view: View,
        fetch: Fetch | None = None,
        bounds: GatewayLimits = limits.DEFAULTS,
        *,
        fetch_apart: Fetch | None = None,
    ) -> None:
        self.limits = bounds
        self._view = view
        self._own_fetch = fetch
        self._fetch_apart = fetch_apart
        self._readers = trio.CapacityLimiter(limits.MAX_READERS)
        self._fetches = trio.CapacityLimiter(limits.MAX_FETCHES)
        self._listers = trio.CapacityLimiter(limits.MAX_LISTERS)
        #: How files begin that were asked for lately, by which their type is told.
        self._heads: OrderedDict[CID, bytes] = OrderedDict()

    @property
    def fetches(self) -> bool:
        """Whether what is not here is fetched."""
        return self._fetch is not None

    @property
    def _fetch(self) -> Fetch | None:
        return self._fetch_apart if self._view.fetches_apart else self._own_fetch

    def only_here(self) -> Content:
        """The same without the network."""
        here = copy.copy(self)
        here._own_fetch = here._fetch_apart = None
        return here

    def for_user(self) -> Content:
        """All of it, for the user of this machine."""
        own = copy.copy(self)
        own._view = self._view.of_user()
        return own

    @property
    def guards(self) -> bool:
        """Whether something that is here may be hidden from whoever asks."""
        return self._view.guards

    async def is_hidden(self, cid: CID) -> bool:
        """Whether somebody may see a block, and whoever asks here may not."""
        return await self.in_thread(lambda: self._view.hides(cid))

    # --- finding

    async def find(self, root: CID, names: Sequence[str]) -> ResolvedPath:
        """Follow a path through directories, and through the links in dag-cbor and dag-json.

        Raises:
            BlockUnavailable: a block is not here, and is not fetched.
            ContentNotFound: a block is not here, and no other node was found that has it.
            PathNotFound, NotADirectory, InvalidName: there is no such path.
            NotALink: the path ends inside a block.
            MalformedDag, UnsupportedCID: a block on the way cannot be read.
        """
        node = None if names else self._view.cached_node(root)
        if node is not None:
            return ResolvedPath(root, node.block, (root,), (), node)
        return await self._with_fetch(lambda: self._find(root, names), root, names)

    async def entries(self, found: ResolvedPath) -> tuple[list[HamtEntry], int]:
        """What is in a directory: the first `max_entries_shown` entries, and how many there are.

        Raises:
            KacheryError: as `all_entries`.
        """
        entries = await self.all_entries(found)
        return entries[: self.limits.max_entries_shown], len(entries)

    async def folders(self, entries: Sequence[HamtEntry]) -> dict[CID, bool]:
        """Which of the entries of a directory are directories themselves, as far as their blocks are here.

        Of `limits.MAX_LOOKED_INTO` of them at most; what is raw is none.
        """

        def look() -> dict[CID, bool]:
            found: dict[CID, bool] = {}
            for cid in [each.cid for each in entries if each.cid.codec == DAG_PB][: limits.MAX_LOOKED_INTO]:
                with contextlib.suppress(BlockUnavailable, MalformedDag, UnsupportedCID):
                    found[cid] = node_kind(self.block(cid), cid) in (DataType.DIRECTORY, DataType.HAMT_SHARD)
            return found

        return await self.in_thread(look, limiter=self._listers)

    async def all_entries(self, found: ResolvedPath) -> list[HamtEntry]:
        """All that is in a directory.

        Raises:
            MalformedDag: a block does not make sense, or the directory is too large to be listed.
            KacheryError: a block cannot be had or read; see `find`.
        """
        return await self._with_fetch(lambda: self._entries(found.cid), found.cid, [], limiter=self._listers)

    async def entry(self, found: ResolvedPath, name: str) -> ResolvedPath | None:
        """The entry of that name in a directory, or None."""
        try:
            return await self.find(found.cid, [name])
        except PathNotFound:
            return None

    async def _with_fetch(
        self,
        read: Callable[[], T],
        root: CID,
        names: Sequence[str],
        *,
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        """Read; where a block is missing, fetch the path and the block at its end, and try again.

        The node follows no links but those of directories. So when a block is still missing after the path was
        fetched, that block is fetched by itself, and so on: each time another, until the path is at its end.
        """
        tried: set[bytes] | None = None
        while True:
            try:
                return await self.in_thread(read, limiter=limiter)
            except BlockUnavailable as missing:
                if self._fetch is None:
                    raise
                if tried is None:
                    tried = set()
                    await self._load_block(root, names)
                    continue
                if missing.cid.multihash in tried or len(tried) > limits.MAX_PATH_NAMES:
                    raise
                tried.add(missing.cid.multihash)
                await self._load_block(missing.cid, [])

    async def _load_block(self, root: CID, names: Sequence[str]) -> None:
        # A listing is the one load that keeps the last block of a path whatever it is; it then says that a file is no
        # directory, which is no error here.
        with contextlib.suppress(NotADirectory, UnsupportedCID):
            await self._load(root, names, kind="listing")

    def _find(self, root: CID, names: Sequence[str]) -> ResolvedPath:
        way: dict[CID, None] = {}

        def blocks(cids: list[CID]) -> list[bytes]:
            way.update(dict.fromkeys(cids))
            return [self.block(cid) for cid in cids]

        roots = [root]
        at = 0
        while at < len(names):
            cid = roots[-1]
            if cid.codec in ipld.LINKED:
                if inline_block(cid) is None:
                    way[cid] = None
                following, count = ipld.follow(cid, self.block(cid), names[at:])
            elif cid.codec in ipld.TYPES:
                raise ipld.NotALink(f"{cid} has no links in it, so '{names[at]}' leads nowhere. Ask for {cid} itself.")
            else:
                following, count = drive(resolve_path(cid, [names[at]], follow=False), blocks).cid, 1
            roots.append(following)
            at += count
        cid = roots[-1]
        node = self.node(cid)
        return ResolvedPath(cid, self.block(cid) if node is None else node.block, tuple(roots), tuple(way), node)

    def _entries(self, cid: CID) -> list[HamtEntry]:
        size = 0

        def blocks(cids: list[CID]) -> list[bytes]:
            nonlocal size
            found = [self.block(each) for each in cids]
            size += sum(map(len, found))
            if size > self.limits.max_listing_bytes:
                raise MalformedDag(
                    f"The directory {cid} is too large to be listed here. Ask for its entries by their names."
                )
            return found

        return drive(list_directory(cid), blocks)

    def block(self, cid: CID) -> bytes:
        """A block of the repo, in the thread that calls.

        Raises:
            BlockUnavailable: the repo does not have it.
        """
        block = self._view.get_block(cid)
        if block is None:
            raise BlockUnavailable(cid)
        return block

    def node(self, cid: CID) -> FileNode | None:
        """The decoded node of a file, in the thread that calls; None for a block of another kind.

        Raises:
            BlockUnavailable: the repo does not have it.
        """
        if cid.codec != DAG_PB:
            return None
        node = self._view.file_node(cid)
        if node is None:
            block = self.block(cid)
            with contextlib.suppress(MalformedDag, UnsupportedCID, IsADirectory, NotAFile, BlockTooLarge):
                node = self._view.decode(cid, block)
        return node

    def has(self, cid: CID) -> bool:
        """Whether the repo has a block, as far as its catalog knows."""
        return self._view.has_block(cid)

    async def in_thread(self, work: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
        """Run something that reads the disk, besides the other readers of this gateway."""
        return await trio.to_thread.run_sync(work, limiter=limiter or self._readers)

    # --- loading

    async def make_local(self, cid: CID, kind: FetchKind) -> None:
        """Fetch all of a file or a directory, where the gateway may; for CAR files, whose blocks must be here.

        Raises:
            KacheryError: it cannot be had (ContentNotFound, DiskFull and others).
        """
        if self._fetch is not None:
            await self._load(cid, [], kind=kind)

    async def make_linked_local(self, found: ResolvedPath) -> None:
        """Fetch all that is below a dag-cbor or dag-json block, where the gateway may.

        Raises:
            MalformedDag: a block does not make sense, or there are too many links.
            KacheryError: a block cannot be had or read; see `find` and `make_local`.
        """
        seen = {found.cid}
        waiting = [found]
        while waiting:
            each = waiting.pop()
            links = await self.in_thread(lambda each=each: ipld.links(each.cid, each.block))
            for cid in links:
                if cid in seen:
                    continue
                seen.add(cid)
                if len(seen) > self.limits.max_car_pending:
                    raise MalformedDag(f"{found.cid} has too many links to be sent as one CAR; ask for parts of it.")
                below = await self.find(cid, [])
                if cid.codec in ipld.LINKED:
                    waiting.append(below)
                elif below.unixfs_kind is not None:
                    folder = below.unixfs_kind in (DataType.DIRECTORY, DataType.HAMT_SHARD)
                    await self.make_local(cid, "directory" if folder else "file")

    async def _load(
        self, cid: CID, names: Sequence[str], *, kind: FetchKind, start: int | None = None, end: int | None = None
    ) -> Fetched:
        assert self._fetch is not None
        async with self._fetches:
            return await self._fetch(cid, names, kind=kind, start=start, end=end)

    # --- reading

    async def head(self, found: ResolvedPath) -> bytes:
        """The first SNIFF_BYTES of a file."""
        head = self._heads.get(found.cid)
        if head is None:
            async with contextlib.aclosing(self.pieces(found, 0, min(found.size, limits.SNIFF_BYTES))) as pieces:
                head = b"".join([piece async for piece in pieces])
            self._heads[found.cid] = head
            if len(self._heads) > limits.MAX_HEADS:
                self._heads.popitem(last=False)
        return head

    async def pieces(self, found: ResolvedPath, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file from `start` to `end` (exclusive), some PIECE at a time.

        Raises:
            BlockUnavailable: a block is missing, perhaps after much was given.
            KacheryError: the rest cannot be had or read (ContentNotFound, MalformedDag and others).
        """
        if found.cid.codec == RAW:
            if start < end:
                yield found.block if end - start == len(found.block) else found.block[start:end]
            return
        # A file that is here as a whole is read as such. One that is not, or is not as it was, block by block.
        while start < end:
            after = min(end, start + limits.PIECE)
            data = await self.in_thread(lambda start=start, after=after: self._view.read_file(found.cid, start, after))
            if data is None:
                break
            start = after
            yield data
        if start >= end:
            return
        walk = FileWalk(found.cid, start, end, IN_ORDER)
        while not walk.finished:
            try:
                piece = await self.in_thread(lambda walk=walk: self._read(walk, found))
            except BlockUnavailable:
                if self._fetch is None:
                    raise
                break
            start += len(piece)
            if piece:
                yield piece
        else:
            return
        # Where one block is missing most of what follows is; what is not is only passed over by the node.
        async with contextlib.aclosing(self._fetched(found.cid, start, end)) as fetched:
            async for piece in fetched:
                yield piece

    def _read(self, walk: FileWalk, found: ResolvedPath) -> bytes:
        """In a thread: what the next blocks carry."""
        parts: list[memoryview] = []
        size = 0
        for _ in range(limits.MAX_BLOCKS_PER_PIECE):
            if size >= limits.PIECE or walk.finished:
                break
            (ref,) = walk.take(1)
            try:
                block = self.part(ref, found)
            except BlockUnavailable:
                walk.untake(ref)
                if not parts:
                    raise
                break
            for piece in walk.feed(ref, block):
                parts.append(piece.data)
                size += len(piece.data)
        if len(parts) == 1 and type(parts[0].obj) is bytes and len(parts[0]) == len(parts[0].obj):
            return parts[0].obj  # a whole raw leaf, as most are: nothing to be copied
        return b"".join(parts)

    def part(self, ref: Ref, found: ResolvedPath) -> bytes | FileNode:
        """In a thread: the block of a reference, decoded where it is a node that was looked into before.

        Raises:
            BlockUnavailable: the repo does not have it.
        """
        if ref.depth == 0:
            return found.block if found.node is None else found.node
        if ref.cid.codec == DAG_PB and (ref.length or 0) > MAX_BLOCK_SIZE:
            return self.node(ref.cid) or self.block(ref.cid)
        return self.block(ref.cid)

    async def _fetched(self, cid: CID, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Bytes that the node loads first, window after window."""
        window = limits.FIRST_WINDOW
        while start < end:
            stop = min(end, start + window)
            moved = -1
            path = None
            while start < stop:
                if path is None:
                    moved += 1
                    if moved > limits.MAX_MOVED:
                        raise BlockUnavailable(cid)
                    path = (await self._load(cid, [], kind="bytes", start=start, end=stop)).path
                    assert path is not None, "bytes that were fetched are in a file"
                after = min(stop, start + limits.PIECE)
                data = await self.in_thread(lambda path=path, start=start, after=after: _read_part(path, start, after))
                if data is None:
                    path = None  # the partial file has become a whole one, and is at its place now
                    continue
                yield data
                start = after
            window = min(2 * window, limits.LARGEST_WINDOW)


def _read_part(path: str, start: int, end: int) -> bytes | None:
    """These bytes of a file; None when it is not there, or too short."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            data = b"".join(_chunks(file.fileno(), end - start))
    except FileNotFoundError:
        return None
    return data if len(data) == end - start else None


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = os.read(fd, size)
        if not chunk:
            return
        size -= len(chunk)
        yield chunk
