"""A node of a file, decoded: which bytes of the file are in which of its children.

What is made at once is the sum of the sizes, in which a place is found by halving. The links of a large file differ in
their digests alone, so their CIDs are made one by one, for those that are asked for: a node of 1 024 links is decoded
in about the time that it takes to hash it, and takes little more memory than its block.

Trust. The block is right by its hash, and what its author claims is checked here once, whoever looks into it later: its
sizes must be those of its parts, and its parts must be of a kind that files have.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from kachery_p2p.dag import limits, unixfs
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, fast_cid
from kachery_p2p.dag.pb import PBLink, decode_node, links_alike
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import BlockTooLarge, IsADirectory, MalformedDag, NotAFile
from kachery_p2p.wire import Buffer

#: What a decoded node takes beside its block and the numbers in it.
_OVERHEAD = 1024
#: The same for each link that had to be kept as it is.
_LINK_BYTES = 250
#: Bytes of the target of a symbolic link that an error tells.
_TARGET_SHOWN = 200

_new_child = tuple.__new__  # half the cost of Child(...), once for each block of a file


class Child(NamedTuple):
    """A child of a node: its CID, where its bytes begin in those of the node, and how many they are."""

    cid: CID
    offset: int
    length: int


class FileNode:
    """A dag-pb node of a file.

    Attributes:
        cid: of the node.
        block: of the node.
        size: bytes of the file that are in and below it.
        data: those that it carries itself, in front of those of its children.
        count: its children.
        memory: bytes that it takes, about.
    """

    __slots__ = ("_digest", "_ends", "_first", "_rest", "_stride", "_uniform", "block", "cid", "count", "data", "size")

    def __init__(self, cid: CID, block: bytes, *, file: CID | None = None) -> None:
        """Decode a block whose hash has been checked.

        Args:
            cid: of the block.
            block: the bytes.
            file: the root of the file that the node belongs to; the node itself where None.

        Raises:
            MalformedDag: it is not what a node of a file can be; names the CID.
            BlockTooLarge: it links to a block that is too large to be exchanged.
            IsADirectory, NotAFile: it is the root, and something else than a file.
            UnsupportedCID: it has a link that cannot be checked.
        """
        self.cid = cid
        self.block = block
        root = cid if file is None else file
        links, data = self._decode_links()
        if data is None:
            raise MalformedDag(f"The block {cid} is dag-pb, but not UnixFS: it has no data.")
        node = unixfs.decode(data, cid)
        if node.kind is not DataType.FILE and node.kind is not DataType.RAW:
            raise _wrong_kind(cid, node, root)
        sizes = node.blocksizes
        if len(sizes) != self.count:
            raise MalformedDag(f"The block {cid} has {self.count} links, but states the sizes of {len(sizes)}.")
        self.data = memoryview(node.data) if node.data is not None else memoryview(b"")
        self.size = len(self.data) + sum(sizes)
        if self.size > limits.MAX_FILE_SIZE:
            raise MalformedDag(f"The block {cid} claims {self.size} bytes, more than any file can have.")
        if (node.filesize or 0) != self.size:
            raise MalformedDag(
                f"The block {cid} claims {node.filesize or 0} bytes, but its parts claim {self.size} together."
            )
        for link in links:
            self._check_link(link)
        self._check_parts(sizes, root)
        #: Where each child ends.
        self._ends = array("q", accumulate(sizes, initial=len(self.data)))[1:]

    @property
    def memory(self) -> int:
        return _OVERHEAD + len(self.block) + 8 * self.count + _LINK_BYTES * len(self._rest)

    def children(self, start: int, end: int) -> list[Child]:
        """Those that have bytes of a range, in order; offsets count from the first byte of the node."""
        if start >= end or not self.count:
            return []
        ends = self._ends
        first = bisect_right(ends, start)
        last = 0 if end <= len(self.data) else min(self.count, bisect_left(ends, end) + 1)
        if first >= last:
            return []
        offset = ends[first - 1] if first else len(self.data)
        found: list[Child] = []
        add = found.append
        uniform, version, codec = self._uniform, self._first.version, self._first.codec
        block, stride = self.block, self._stride
        # Two bytes stand in front of the digest, which together are the multihash.
        at = self._digest - 2 + first * stride
        for index in range(first, last):
            stop = ends[index]
            if index < uniform:
                cid = fast_cid(version, codec, block[at : at + 34])
                at += stride
            else:
                cid = self._rest[index - uniform]
            add(_new_child(Child, (cid, offset, stop - offset)))
            offset = stop
        return found

    def _decode_links(self) -> tuple[Sequence[PBLink], Buffer | None]:
        """Read the links. Returns those that stand for all, and the data field."""
        cid, block = self.cid, self.block
        alike = links_alike(block)
        if alike is None:
            links, data = decode_node(block, cid)
            self._uniform = self._stride = self._digest = 0
        else:
            links, data = decode_node(memoryview(block)[alike.number * alike.stride :], cid)
            if links and block[alike.number * alike.stride] != 0x12:
                # The data stands among the links. Read as a whole it is refused for that.
                decode_node(block, cid)
            self._uniform, self._stride, self._digest = alike.number, alike.stride, alike.digest
        self._rest = [link.cid for link in links]
        self._first = alike.link.cid if alike is not None else cid
        self.count = self._uniform + len(links)
        return links if alike is None else (alike.link, *links), data

    def _check_link(self, link: PBLink) -> None:
        if link.name:
            raise MalformedDag(f"The block {self.cid} gives a part of a file a name, as only directories do.")
        if link.cid.codec not in (RAW, DAG_PB):
            raise MalformedDag(
                f"The block {self.cid} links to {link.cid}, whose codec 0x{link.cid.codec:x} cannot be part of a file."
            )

    def _check_parts(self, sizes: Sequence[int], root: CID) -> None:
        if not sizes:
            return
        if min(sizes) == 0:
            cid = self._child_cid(sizes.index(0))
            raise MalformedDag(f"The block {self.cid} links to {cid} as a part of the file without any bytes.")
        if max(sizes) <= limits.MAX_BLOCK_SIZE:
            return
        for index, size in enumerate(sizes):
            if size > limits.MAX_BLOCK_SIZE and (cid := self._child_cid(index)).codec == RAW:
                raise BlockTooLarge(
                    f"The file {root} has a block of {size:,} bytes, {cid}. Peers exchange blocks of up to "
                    f"{limits.MAX_BLOCK_SIZE:,} bytes (2 MiB), so it cannot be loaded. Whoever has the data must store "
                    "it again in smaller blocks."
                )

    def _child_cid(self, index: int) -> CID:
        if index >= self._uniform:
            return self._rest[index - self._uniform]
        at = self._digest - 2 + index * self._stride
        return fast_cid(self._first.version, self._first.codec, self.block[at : at + 34])


def _wrong_kind(cid: CID, node: unixfs.UnixFSData, root: CID) -> MalformedDag | IsADirectory | NotAFile:
    kind = node.kind
    if cid == root:
        if kind in (DataType.DIRECTORY, DataType.HAMT_SHARD):
            return IsADirectory(f"{cid} is a directory, not a file. Name a file in it: {cid}/<name>.")
        if kind is DataType.SYMLINK:
            target = bytes((node.data or b"")[:_TARGET_SHOWN]).decode("utf-8", "replace")
            return NotAFile(
                f"{cid} is a symbolic link to '{target}', not a file. It is followed in the path of the folder that it "
                "lies in: ipfs://FOLDER/NAME."
            )
    return MalformedDag(f"The block {cid} is a {kind.name.lower()} node where a file is meant.")
