"""Building a file's DAG, bottom up, in memory that does not grow with the file.

The builder does no I/O and does not see the file: whoever reads it cuts it into chunks of `profile.chunk_size`, hashes
each leaf (in as many threads as it likes) and adds the hashes in file order. The layout is the balanced one of
IPIP-499: every leaf at the same depth, every node filled to the width before the next one begins. One list of links
is kept for each level; a list that is full becomes a node, which is one link on the level above.

    leaves   1 2 3 4 | 5 6 7 8 | 9          width 4
    level 1     a         b      c
    level 2            root

A file that fits in one chunk is its leaf, unless it has a mode or mtime: those need a dag-pb root to stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, DAG_PB, sha256_multihash
from kachery_p2p.dag.limits import MAX_FILE_SIZE
from kachery_p2p.dag.pb import encode_node, link_bytes, node_bytes
from kachery_p2p.dag.profiles import Profile, profile
from kachery_p2p.dag.unixfs import NO_ATTRIBUTES, Attributes, DataType, UnixFSData, encode
from kachery_p2p.errors import InvalidProfile
from kachery_p2p.wire import Buffer, encode_varint


class BuiltFile(NamedTuple):
    """A finished file: its CID, its size in bytes, the bytes of all its blocks, and how many leaves it has."""

    cid: CID
    size: int
    dag_size: int
    leaves: int


class _Level:
    """The links that wait on one level to become a node."""

    __slots__ = ("dag_size", "links", "only", "size", "sizes")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.links: list[bytes] = []  # encoded
        self.sizes: list[int] = []  # file bytes below each
        self.size = 0
        self.dag_size = 0
        self.only: bytes = b""  # the CID of the link added last


@lru_cache(maxsize=64)
def leaf_wrap(which: Profile | DataType, length: int) -> tuple[bytes, bytes]:
    """What stands before and after `length` bytes of data in a leaf block.

    Both are empty for a profile with raw leaves. A Kind (FILE or RAW) says how foreign dag-pb leaves are wrapped. The
    leaf can so be hashed, or checked against a file, without joining it.
    """
    if isinstance(which, Profile):
        if which.raw_leaves:
            return b"", b""
        which = DataType.FILE
    size = encode_varint(length)
    tail = b"\x18" + size
    head = b"\x08" + encode_varint(which)
    if length:
        head += b"\x12" + size
    return b"\x0a" + encode_varint(len(head) + length + len(tail)) + head, tail


def leaf_block(which: str | Profile, chunk: Buffer) -> Buffer:
    """The leaf block of a chunk: the chunk itself for raw leaves, else a dag-pb node around it."""
    chosen = profile(which)
    if chosen.raw_leaves:
        return chunk
    head, tail = leaf_wrap(chosen, len(chunk))
    return b"".join((head, chunk, tail))


class FileBuilder:
    """Builds the DAG of one file from the hashes of its leaves.

    `on_node(cid, block)` is called for each inner node, children before parents; never for leaves. The root says the
    `attributes`; where it is the only leaf, `attributed_leaf` makes it.
    """

    def __init__(
        self,
        which: str | Profile,
        on_node: Callable[[CID, bytes], None] | None = None,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> None:
        self.profile = profile(which)
        self._attributes = attributes
        self.leaves = 0
        self.size = 0
        self._on_node = on_node
        self._width = self.profile.width
        self._version = self.profile.cid_version
        self._levels = [_Level()]
        self._finished: BuiltFile | None = None
        self._short_leaf = False
        if self.profile.raw_leaves:
            self._leaf_prefix = b"\x01\x55"
        elif self._version == 1:
            self._leaf_prefix = b"\x01\x70"
        else:
            self._leaf_prefix = b""

    def add_leaf(self, multihash: bytes, length: int, block_size: int | None = None) -> None:
        """Add the next leaf in file order: its multihash, the file bytes it holds, and the size of its block.

        Raises:
            ValueError: a leaf is larger than a chunk, or follows one that was smaller.
        """
        if self._finished is not None:
            raise ValueError("the file is finished; no leaf can be added")
        if length != self.profile.chunk_size:
            if length > self.profile.chunk_size or length < 0:
                raise ValueError(f"a leaf of {length} bytes is larger than the chunk size of this profile")
            if length == 0 and self.leaves:
                raise ValueError("only an empty file has an empty leaf")
        if self._short_leaf:
            raise ValueError("only the last leaf may be smaller than the chunk size")
        self._short_leaf = length != self.profile.chunk_size
        if block_size is None:
            head, tail = leaf_wrap(self.profile, length)
            block_size = len(head) + length + len(tail)
        self.leaves += 1
        self.size += length
        self._push(0, self._leaf_prefix + multihash, length, block_size)

    def finish(self) -> BuiltFile:
        """Make the last nodes and the root. A file to which no leaf was added is the empty file.

        Can be called again and gives the same answer.
        """
        if self._finished is not None:
            return self._finished
        if not self.leaves:
            block = leaf_block(self.profile, b"")
            self.add_leaf(sha256_multihash(block), 0, len(block))
        if self.size > MAX_FILE_SIZE:
            raise InvalidProfile(f"A file of {self.size} bytes is larger than any file system takes.")
        levels = self._levels
        i = 0
        # A level that stands alone with one link is the root.
        while i + 1 < len(levels) or len(levels[i].links) != 1:
            if levels[i].links:
                # What is made of a level that nothing is above yet stands alone.
                self._flush(i, self._attributes if i + 1 == len(levels) else NO_ATTRIBUTES)
            i += 1
        top = levels[i]
        cid = CID.from_bytes(top.only)
        self._finished = BuiltFile(cid, self.size, top.dag_size, self.leaves)
        self._levels = []
        return self._finished

    def _push(self, index: int, cid: bytes, size: int, dag_size: int) -> None:
        level = self._levels[index]
        if len(level.links) == self._width:
            self._flush(index)
        level.links.append(link_bytes(cid, b"", dag_size))
        level.sizes.append(size)
        level.size += size
        level.dag_size += dag_size
        level.only = cid

    def _flush(self, index: int, attributes: Attributes = NO_ATTRIBUTES) -> None:
        level = self._levels[index]
        if index + 1 == len(self._levels):
            self._levels.append(_Level())
        data = encode(attributes.put_into(UnixFSData(DataType.FILE, filesize=level.size, blocksizes=level.sizes)))
        block = node_bytes(level.links, data)
        multihash = sha256_multihash(block)
        cid = CID(self._version, DAG_PB, multihash)
        if self._on_node is not None:
            self._on_node(cid, block)
        size, dag_size = level.size, level.dag_size + len(block)
        level.clear()
        self._push(index + 1, bytes(cid), size, dag_size)


def attributed_leaf(which: Profile, data: Buffer, attributes: Attributes) -> tuple[BuiltFile, bytes]:
    """A file of one chunk whose root says attributes, and its only block, which is no leaf of that profile."""
    size = len(data)
    content = UnixFSData(DataType.FILE, data if size else None, filesize=size)
    block = encode_node([], encode(attributes.put_into(content)))
    cid = CID(which.cid_version, DAG_PB, sha256_multihash(block))
    return BuiltFile(cid, size, len(block), 1), block
