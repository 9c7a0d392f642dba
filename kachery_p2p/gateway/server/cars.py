"""CAR answers: the blocks of a path and of what it leads to, depth first, a parent always before its children.

The walk is a generator that reads the repo, driven from a thread for some PIECE at a time. What it remembers is the
links on the path from the root to where it is, and, without duplicates, what was sent; both are bounded. A CAR that
cannot go on (a block is missing, a bound is met) just ends in the middle of the DAG: HTTP has sent its status by then,
and whoever reads a CAR checks that it is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, inline_block
from kachery_p2p.dag.descent import descend, unixfs_links
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.nodes import read_node
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import MalformedDag
from kachery_p2p.gateway.server import ipld, limits
from kachery_p2p.gateway.server.content import IN_ORDER, Content, ResolvedPath
from kachery_p2p.gateway.server.ranges import entity_range

Scope = Literal["block", "entity", "all"]


@dataclass(frozen=True)
class CarRequest:
    """Which blocks: `scope` of what the path leads to, `part` of a file (`entity-bytes`, see ranges), `dups`."""

    scope: Scope
    part: tuple[int, int | None] | None = None
    dups: bool = False

    def etag(self, path: str, root: CID) -> str:
        """One for each answer: the blocks depend on the whole path and on all parameters.

        It is weak, because only which blocks there are is certain. Their order is ours.
        """
        last = "*" if self.part is None or self.part[1] is None else self.part[1]
        part = "" if self.part is None else f".{self.part[0]}:{last}"
        digest = hashlib.sha256(path.encode()).hexdigest()[:32]
        return f'W/"{self.scope}{part}.dups-{"y" if self.dups else "n"}.{root}.{digest}.car"'

    @property
    def content_type(self) -> str:
        """With all parameters, as the specification asks."""
        return f"application/vnd.ipld.car; version=1; order=dfs; dups={'y' if self.dups else 'n'}"


class CarPieces:
    """A CAR in pieces."""

    def __init__(self, content: Content, found: ResolvedPath, request: CarRequest) -> None:
        self._sections = _sections(content, found, request)

    def next(self) -> bytes:
        """The next piece, b"" at the end. Runs in a thread.

        Raises:
            BlockUnavailable: a block is missing.
            MalformedDag, UnsupportedCID: a link cannot be followed.
        """
        parts: list[bytes] = []
        size = 0
        for count, section in enumerate(self._sections, 1):
            parts += section
            size += sum(map(len, section))
            if size >= limits.PIECE or count >= limits.MAX_BLOCKS_PER_PIECE:
                break
        return b"".join(parts)


def _sections(content: Content, found: ResolvedPath, request: CarRequest) -> Iterator[tuple[bytes, ...]]:
    yield (car_header([found.roots[0]]),)
    sent: set[bytes] = set()

    def new(cid: CID) -> bool:
        """Whether this block is to be sent; notes it as sent."""
        if inline_block(cid) is not None:
            return False  # its bytes are in whatever links to it
        if request.dups:
            return True
        if cid.multihash in sent:
            return False
        if len(sent) >= content.limits.max_car_remembered:
            raise MalformedDag(f"A CAR of {found.cid} without duplicates is too large; ask for it in parts.")
        sent.add(cid.multihash)
        return True

    for cid in found.way:
        if cid != found.cid and new(cid):
            yield _section(cid, content.block(cid))
    for cid, block in _blocks(content, found, request, new):
        yield _section(cid, block)


def _section(cid: CID, block: bytes) -> tuple[bytes, bytes]:
    return car_section(cid, len(block)), block


def _blocks(
    content: Content, found: ResolvedPath, request: CarRequest, new: Callable[[CID], bool]
) -> Iterator[tuple[CID, bytes]]:
    """The blocks of what the path leads to that are new."""
    scope = request.scope
    if scope == "block" or found.cid.codec == RAW or (scope == "entity" and found.cid.codec != DAG_PB):
        if new(found.cid):
            yield found.cid, found.block
        return
    if scope == "all":
        yield from _descend(content, found.cid, found.block, _links, new)
        return
    kind = found.unixfs_kind  # None for dag-pb that is no UnixFS: "equivalent to block"
    if kind in (DataType.FILE, DataType.RAW):
        start, end = (0, found.size) if request.part is None else entity_range(request.part, found.size)
        yield from _file(content, found, start, max(start, end), new)
    elif kind is DataType.HAMT_SHARD:
        yield from _descend(content, found.cid, found.block, _shards, new)
    elif new(found.cid):
        yield found.cid, found.block


def _file(
    content: Content, found: ResolvedPath, start: int, end: int, new: Callable[[CID], bool]
) -> Iterator[tuple[CID, bytes]]:
    """The blocks of a byte range of a file: at least its root, from which its size can be told."""
    walk = FileWalk(found.cid, start, end, IN_ORDER)
    # Nodes that are walked with all that is below them: once is enough, for few of them can claim to be very many.
    whole: set[bytes] = set()
    while not walk.finished:
        (ref,) = walk.take(1)
        fresh = new(ref.cid)
        if not fresh and ref.length is not None and (ref.cid.codec == RAW or ref.cid.multihash in whole):
            walk.skip(ref)
            continue
        if ref.length is not None and start <= ref.offset and ref.offset + ref.length <= end:
            whole.add(ref.cid.multihash)
        part = content.part(ref, found)
        walk.feed(ref, part)
        if fresh:
            yield ref.cid, part.block if isinstance(part, FileNode) else part


def _descend(
    content: Content,
    root: CID,
    block: bytes,
    links: Callable[[CID, bytes], list[CID]],
    new: Callable[[CID], bool],
) -> Iterator[tuple[CID, bytes]]:
    """A block and all that is below it. What was sent already is not entered again; with duplicates, it is."""
    most = content.limits.max_car_pending
    return descend(root, block, links=links, read=content.block, new=new, most_pending=most)


def _links(cid: CID, block: bytes) -> list[CID]:
    """All links of a block, the last one first."""
    if cid.codec in ipld.TYPES:
        return ipld.links(cid, block)[::-1]
    return unixfs_links(cid, block)


def _shards(cid: CID, block: bytes) -> list[CID]:
    """The further parts of a sharded directory, the last one first. Their names are an index and nothing else."""
    node, data = read_node(cid, block)
    if data is None or data.kind is not DataType.HAMT_SHARD or not data.fanout:
        raise MalformedDag(f"The block {cid} is no part of a sharded directory, but its parent says so.")
    width = len(f"{data.fanout - 1:X}")
    return [link.cid for link in reversed(node.links) if len(link.name or "") == width]
