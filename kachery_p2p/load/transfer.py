"""Bringing the bytes of one file into its partial file: what is on disk is taken from there, the rest is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.walk import FileWalk, Ref
from kachery_p2p.load.interfaces import LOOKAHEAD, Supply
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.repo.download import Download

#: Leaves remembered by a load so that the same leaf further on is copied, not fetched again (zeros, repeated frames).
REMEMBERED_LEAVES = 65_536


class Transfer:
    """Brings the part of one file that a walk covers into its partial file."""

    def __init__(self, supply: Supply, walk: FileWalk, download: Download, start: int, end: int | None) -> None:
        self._supply = supply
        self._start, self._end = start, end
        self._walk = walk
        self._download = download
        self._waiting: dict[bytes, list[Ref]] = {}
        self._leaves: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._done = 0

    async def run(self) -> None:
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
            block = await supply.receive(next(iter(self._waiting.values()))[0].cid)
            await self._on_block(block.cid, block.data)
        assert walk.finished, "the walk asks for nothing more and is not finished"

    async def _take_from_disk(self, refs: list[Ref]) -> None:
        found = await trio.to_thread.run_sync(self._look_up, refs)
        missing: dict[bytes, CID] = {}
        for ref, there in zip(refs, found, strict=True):
            if there is True:
                self._walk.skip(ref)
                self._count(ref.length or 0)
            elif not isinstance(there, bool):
                await self._place([ref], there)
            else:
                waiting = self._waiting.setdefault(ref.cid.multihash, [])
                if not waiting:
                    missing[ref.cid.multihash] = ref.cid
                waiting.append(ref)
        if missing:
            self._supply.locate(self._walk.root, _leaves_among(refs, missing))
            self._supply.want(missing.values())

    def _look_up(self, refs: list[Ref]) -> list[bytes | FileNode | bool]:
        """In a thread: for each reference its block, True where its bytes are in place already, or False."""
        found: list[bytes | FileNode | bool] = []
        leaves = []
        for i, ref in enumerate(refs):
            found.append(False)
            if ref.length is None or ref.cid.codec == DAG_PB:
                block = self._supply.local_part(ref.cid)
                found[i] = False if block is None else block
            if found[i] is False and ref.length is not None:
                if ref.cid.multihash in self._leaves:
                    self._download.write(ref.offset, self._download.read(*self._leaves[ref.cid.multihash]))
                    found[i] = True
                elif ref.cid.multihash not in self._waiting:
                    leaves.append(i)
        for i, there in zip(leaves, self._download.has([refs[i] for i in leaves]), strict=True):
            found[i] = there
        return found

    async def _on_block(self, cid: CID, data: Buffer) -> None:
        refs = self._waiting.pop(cid.multihash, None)
        if refs is not None:
            await self._place(refs, data)

    async def _place(self, refs: list[Ref], data: Buffer | FileNode) -> None:
        """A verified block: its children join the walk, its bytes go to every place of the file where they belong."""
        size_known = self._walk.size is not None
        found = [(ref, self._walk.feed(ref, data)) for ref in refs]
        size = None if size_known else self._walk.size

        def accept() -> None:
            if size is not None:
                self._download.allocate(size, self._start, self._end)
            if not isinstance(data, FileNode):  # an inner node that is in the catalog
                for ref, pieces in found:
                    self._download.accept(ref, data, pieces)

        if size is not None or not isinstance(data, FileNode):
            await trio.to_thread.run_sync(accept)
        for ref, pieces in found:
            carried = sum(len(piece.data) for piece in pieces)
            if ref.length is not None and carried == ref.length:
                self._remember(ref)
            self._count(carried)

    def _remember(self, ref: Ref) -> None:
        assert ref.length is not None
        self._leaves[ref.cid.multihash] = (ref.offset, ref.length)
        if len(self._leaves) > REMEMBERED_LEAVES:
            self._leaves.popitem(last=False)

    def _count(self, length: int) -> None:
        self._done += length
        if self._walk.size is not None:
            end = self._walk.size if self._end is None else min(self._end, self._walk.size)
            total = max(0, end - self._start)
            self._supply.progressed(min(self._done, total), total)  # the first and last leaf may reach over the range


def _leaves_among(refs: list[Ref], wanted: Container[bytes]) -> list[tuple[bytes, int, int]]:
    """Where those of the references are that are wanted and can be leaves: (multihash, offset, length)."""
    return [
        (cid.multihash, offset, length)
        for cid, offset, length, _ in refs
        if length is not None and length <= MAX_BLOCK_SIZE and cid.multihash in wanted
    ]
