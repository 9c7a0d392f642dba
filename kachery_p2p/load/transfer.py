"""Bringing the bytes of one file into its partial file: what is on disk is taken from there, the rest is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.walk import FileWalk, Ref
from kachery_p2p.load.interfaces import LOOKAHEAD, Received, Supply
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.repo.download import Download

#: More than stands around the bytes of a file in a leaf.
WRAPPING = 64
#: Bytes of leaves that are looked up in one go, in which nothing is cancelled: where a load goes on they are read from
#: the partial file and hashed, which takes a slow disk half a second.
LOOK_UP_BYTES = 64 << 20
#: Leaves remembered by a load so that the same leaf further on is copied, not fetched again (zeros, repeated frames).
REMEMBERED_LEAVES = 65_536


class LeafPlaces:
    """Where the leaves that are asked for belong, for the thread in which they are verified."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self._refs: dict[bytes, Ref] = {}
        self._writing: set[bytes] = set()

    @property
    def busy(self) -> bool:
        return bool(self._writing)

    def expect(self, ref: Ref) -> None:
        """This leaf is about to be wanted."""
        self._refs[ref.cid.multihash] = ref

    def forget(self, multihash: bytes) -> None:
        """It has come, in whatever way."""
        self._refs.pop(multihash, None)

    def put(self, multihash: bytes, data: Buffer) -> bool:
        """Write a verified leaf to its place, once. Of one that has another size the walk will say what is wrong."""
        ref = self._refs.pop(multihash, None)
        if ref is None or ref.length != len(data):
            return False
        self._writing.add(multihash)
        try:
            return self._download.put(ref.offset, data)
        finally:
            self._writing.discard(multihash)


class Transfer:
    """Brings the part of one file that a walk covers into its partial file."""

    def __init__(self, supply: Supply, walk: FileWalk, download: Download, start: int, end: int | None) -> None:
        self._supply = supply
        self._start, self._end = start, end
        self._walk = walk
        self._download = download
        self._waiting: dict[bytes, list[Ref]] = {}
        self._places = LeafPlaces(download)
        self._leaves: OrderedDict[tuple[bytes, int], tuple[int, int]] = OrderedDict()
        self._done = 0

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            self._supply.placed(self._places)

    async def _run(self) -> None:
        walk, supply = self._walk, self._supply
        while True:
            room = LOOKAHEAD - len(self._waiting)
            if room >= LOOKAHEAD // 4 or not self._waiting:
                refs = walk.take(room)
                if refs:
                    await self._take_from_disk(refs)
                    continue
            if not self._waiting:
                break
            await self._on_blocks(await supply.receive_all(next(iter(self._waiting.values()))[0].cid))
        assert walk.finished, "the walk asks for nothing more and is not finished"

    async def _take_from_disk(self, refs: list[Ref]) -> None:
        found: list[bytes | FileNode | bool] = []
        for some in _strokes(refs):
            found += await trio.to_thread.run_sync(self._look_up, some)
        present = [ref for ref, there in zip(refs, found, strict=True) if there is True]
        self._supply.verified(self._download, present)
        missing: dict[bytes, CID] = {}
        placed: list[bytes] = []
        sizes: dict[bytes, int] = {}
        for ref, there in zip(refs, found, strict=True):
            if there is True:
                self._walk.skip(ref)
                self._count(ref.length or 0)
            elif not isinstance(there, bool):
                await self._place([([ref], there)])
            else:
                waiting = self._waiting.setdefault(ref.cid.multihash, [])
                if not waiting:
                    missing[ref.cid.multihash] = ref.cid
                    if ref.length is not None and ref.length <= MAX_BLOCK_SIZE:
                        # Around the bytes of a leaf that is not raw there are some more.
                        sizes[ref.cid.multihash] = ref.length + (0 if ref.cid.codec == RAW else WRAPPING)
                    if ref.cid.codec == RAW and ref.length is not None:
                        self._places.expect(ref)
                        placed.append(ref.cid.multihash)
                waiting.append(ref)
        if missing:
            self._supply.place(placed, self._places)
            self._supply.locate(self._walk.root, _leaves_among(refs, missing))
            self._supply.want(missing.values(), sizes)

    def _look_up(self, refs: Sequence[Ref]) -> list[bytes | FileNode | bool]:
        """In a thread: for each reference its block, True where its bytes are in place already, or False."""
        found: list[bytes | FileNode | bool] = []
        leaves = []
        for i, ref in enumerate(refs):
            found.append(False)
            if ref.length is None or ref.cid.codec == DAG_PB:
                block = self._supply.local_part(ref.cid)
                found[i] = False if block is None else block
            if found[i] is False and ref.length is not None:
                same = self._leaves.get((ref.cid.multihash, ref.cid.codec))
                if same is not None and same[1] == ref.length:
                    self._download.write(ref.offset, self._download.read(*same))
                    found[i] = True
                elif ref.cid.multihash not in self._waiting:
                    leaves.append(i)
        for i, there in zip(leaves, self._download.has([refs[i] for i in leaves]), strict=True):
            found[i] = there
        return found

    async def _on_blocks(self, blocks: Sequence[Received]) -> None:
        came: list[tuple[list[Ref], Buffer]] = []
        leaves: list[Ref] = []
        copies: list[tuple[Ref, Ref]] = []
        for block in blocks:
            refs = self._waiting.pop(block.cid.multihash, None)
            if refs is None:
                continue
            self._places.forget(block.cid.multihash)
            if not block.placed:
                came.append((refs, block.data))
                continue
            first, *others = refs
            leaves.append(first)
            self._remember(first)
            for ref in others:
                if ref.cid.codec == RAW and ref.length == block.placed:
                    leaves.append(ref)
                    copies.append((first, ref))
                else:  # the DAG says something else of the same block, which the walk will look at
                    data = await trio.to_thread.run_sync(self._download.read, first.offset, block.placed)
                    came.append(([ref], data))
        if copies:
            await trio.to_thread.run_sync(self._copy, copies)
        for ref in leaves:
            self._walk.skip(ref)
        if leaves:
            self._count(sum(ref.length or 0 for ref in leaves))
            self._supply.verified(self._download, leaves)
        if came:
            await self._place(came)

    def _copy(self, copies: Sequence[tuple[Ref, Ref]]) -> None:
        """In a thread: the same leaf once more, further on."""
        for first, ref in copies:
            assert first.length is not None
            self._download.write(ref.offset, self._download.read(first.offset, first.length))

    async def _place(self, came: Sequence[tuple[list[Ref], Buffer | FileNode]]) -> None:
        """Verified blocks: their children join the walk, their bytes go to all places of the file where they belong."""
        size_known = self._walk.size is not None
        found = [(ref, data, self._walk.feed(ref, data)) for refs, data in came for ref in refs]
        size = None if size_known else self._walk.size

        def accept() -> None:
            if size is not None:
                self._download.allocate(size, self._start, self._end)
            for ref, data, pieces in found:
                if not isinstance(data, FileNode):  # an inner node that is in the catalog
                    self._download.accept(ref, data, pieces)

        if size is not None or any(not isinstance(data, FileNode) for _, data, _ in found):
            await trio.to_thread.run_sync(accept)
        leaves: list[Ref] = []
        nodes: list[Ref] = []
        carried = 0
        for ref, _, pieces in found:
            here = sum(len(piece.data) for piece in pieces)
            if ref.length is not None and here == ref.length:
                self._remember(ref)
                leaves.append(ref)
            else:
                nodes.append(ref)
            carried += here
        self._count(carried)
        self._supply.verified(self._download, leaves, nodes)

    def _remember(self, ref: Ref) -> None:
        assert ref.length is not None
        self._leaves[ref.cid.multihash, ref.cid.codec] = ref.offset, ref.length
        if len(self._leaves) > REMEMBERED_LEAVES:
            self._leaves.popitem(last=False)

    def _count(self, length: int) -> None:
        self._done += length
        if self._walk.size is not None:
            end = self._walk.size if self._end is None else min(self._end, self._walk.size)
            total = max(0, end - self._start)
            self._supply.progressed(min(self._done, total), total)  # the first and last leaf may reach over the range


def _strokes(refs: Sequence[Ref]) -> Iterator[Sequence[Ref]]:
    """The references, as many at a time as are looked up in one go."""
    begin = size = 0
    for end, ref in enumerate(refs, 1):
        size += ref.length or 0
        if size >= LOOK_UP_BYTES or end == len(refs):
            yield refs[begin:end]
            begin, size = end, 0


def _leaves_among(refs: list[Ref], wanted: Container[bytes]) -> list[tuple[bytes, int, int]]:
    """Where those of the references are that are wanted and can be leaves: (multihash, offset, length)."""
    return [
        (cid.multihash, offset, length)
        for cid, offset, length, _ in refs
        if length is not None and length <= MAX_BLOCK_SIZE and cid.multihash in wanted
    ]
