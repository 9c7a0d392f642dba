"""Serving a file that is still being loaded: its leaves, as others may have them already.

The catalog knows a file when it is whole. What a load has verified and written before that is noted here, and the block
exchange serves from here: many who load one file at the same time get most of it from each other, and its source sends
little more than one copy. Inner nodes are in the catalog from the beginning.

A leaf is read back from the partial file and hashed again before it is served: it is no longer in the hands of the load
that wrote it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kachery_p2p.dag.cid import RAW
from kachery_p2p.dag.hashes import verify_block
from kachery_p2p.errors import KacheryError
from kachery_p2p.load.limits import SHARED_LEAVES
from kachery_p2p.repo.leaves import find_wrap, wrap_parts

if TYPE_CHECKING:
    from kachery_p2p.dag.walk import Ref
    from kachery_p2p.repo.contents import Contents
    from kachery_p2p.repo.download import Download

log = logging.getLogger("kachery_p2p.load.load")


class Arriving:
    """The blocks of a repo, and those of its partial files that were verified since they were opened.

    What it is told, it is told in the event loop; the questions of the exchange come from threads.

    Attributes:
        notify: called with the multihashes of blocks that others may have from now on.
    """

    def __init__(self, repo: Contents) -> None:
        self._repo = repo
        self.notify: Callable[[Sequence[bytes]], None] = lambda multihashes: None
        #: For each partial file its leaves, by multihash: offset, length and codec.
        self._open: dict[Download, dict[bytes, tuple[int, int, int]]] = {}
        self._count = 0
        #: Roots that are being removed, by multihash: nobody is told that they are here, until then (time.monotonic).
        self._hidden: dict[bytes, float] = {}

    def hide(self, multihash: bytes, seconds: float) -> None:
        """Do not say for so many seconds that a block is here."""
        now = time.monotonic()
        self._hidden = {key: end for key, end in self._hidden.items() if end > now} | {multihash: now + seconds}

    def show(self, multihashes: Sequence[bytes]) -> None:
        """Say again whether these are here."""
        self._hidden = {key: end for key, end in self._hidden.items() if key not in multihashes}

    def _is_hidden(self, multihash: bytes) -> bool:
        return self._hidden.get(multihash, 0.0) > time.monotonic()

    def roots(self) -> list[bytes]:
        """The multihashes of the files of which a part is here."""
        return [download.cid.multihash for download, leaves in list(self._open.items()) if leaves]

    # --- told by loads

    def verified(self, download: Download, leaves: Sequence[Ref], nodes: Sequence[Ref]) -> None:
        """These leaves are in a partial file, verified, and these nodes of it in the catalog."""
        known = self._open.setdefault(download, {})
        for ref in leaves:
            if ref.length and ref.cid.multihash not in known:
                if self._count >= SHARED_LEAVES:
                    self._forget_one()
                known[ref.cid.multihash] = ref.offset, ref.length, ref.cid.codec
                self._count += 1
        self.notify([ref.cid.multihash for refs in (leaves, nodes) for ref in refs])

    def _forget_one(self) -> None:
        fullest = max(self._open.values(), key=len)
        del fullest[next(iter(fullest))]
        self._count -= 1

    def closed(self, download: Download) -> None:
        """A partial file is whole, or not open any more."""
        self._count -= len(self._open.pop(download, ()))

    # --- asked by the exchange, in threads

    def has_block(self, multihash: bytes) -> int | None:
        """See `kachery_p2p.bitswap.interfaces.BlockStoreLike`."""
        return self.block_sizes([multihash]).get(multihash)

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those that are here. Of a leaf that is wrapped, without the wrapping: some bytes less."""
        found = self._repo.block_sizes(multihashes)
        for leaves in list(self._open.values()):
            for multihash in multihashes:
                if multihash not in found and (place := leaves.get(multihash)) is not None:
                    found[multihash] = place[1]
        if self._hidden:
            found = {multihash: size for multihash, size in found.items() if not self._is_hidden(multihash)}
        return found

    def read_leaves(self, multihashes: Sequence[bytes], buffer: memoryview) -> list[memoryview | None]:
        """Those of the blocks that can be read into the buffer as they are; `get_block` has the others."""
        if self._hidden and any(map(self._is_hidden, multihashes)):
            return [None] * len(multihashes)
        found: list[memoryview | None] = [None] * len(multihashes)
        others: list[int] = []
        for index, multihash in enumerate(multihashes):
            part = self._read_leaf(multihash, buffer)
            if part is None:
                others.append(index)
            else:
                found[index] = part
                buffer = buffer[len(part) :]
        if others:
            whole = self._repo.read_leaves([multihashes[index] for index in others], buffer)
            for index, part in zip(others, whole, strict=True):
                found[index] = part
        return found

    def _read_leaf(self, multihash: bytes, buffer: memoryview) -> memoryview | None:
        """A leaf of a partial file that is a block as it is."""
        for download, leaves in list(self._open.items()):
            offset, length, codec = leaves.get(multihash, (0, 0, RAW))
            if codec == RAW and 0 < length <= len(buffer):
                part = buffer[:length]
                try:
                    if download.read_into(offset, part) == length and verify_block(multihash, part):
                        return part
                except KacheryError as error:
                    log.debug("a leaf of %s cannot be served: %s", download.cid, error)
        return None

    def get_blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that are in the repo."""
        return self._repo.get_blocks(multihashes)

    def get_block(self, multihash: bytes) -> bytes | None:
        """That block, or None."""
        if self._hidden and self._is_hidden(multihash):
            return None
        block = self._repo.get_block(multihash)
        if block is not None:
            return block
        for download, leaves in list(self._open.items()):
            place = leaves.get(multihash)
            if place is not None and (block := _read(download, multihash, *place)) is not None:
                return block
        return None


def _read(download: Download, multihash: bytes, offset: int, length: int, codec: int) -> bytes | None:
    try:
        data = download.read(offset, length)
    except KacheryError as error:
        # It may just have been closed, or the disk has a bad sector: then it cannot be served from here.
        log.debug("a leaf of %s cannot be served: %s", download.cid, error)
        return None
    wrap = find_wrap(multihash, codec, data) if len(data) == length else None
    if not wrap:
        return data if wrap is not None else None
    head, tail = wrap_parts(wrap, length)
    return b"".join((head, data, tail))
