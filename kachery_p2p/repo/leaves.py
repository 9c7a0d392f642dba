"""The leaves of a file, found by walking its inner nodes in the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kachery_p2p.dag.builder import leaf_wrap
from kachery_p2p.dag.cid import CID, DAG_PB, IDENTITY, RAW, inline_block, verify_block
from kachery_p2p.dag.hashes import SHA2_256_PREFIX
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import MalformedDag
from kachery_p2p.repo.catalog import WRAP_FILE, WRAP_NONE, WRAP_RAW
from kachery_p2p.repo.limits import WALK_BATCH
from kachery_p2p.wire import Buffer

_KIND_OF_WRAP = {WRAP_FILE: DataType.FILE, WRAP_RAW: DataType.RAW}


#: In the order in which they are likely.
DAG_PB_WRAPS = (WRAP_FILE, WRAP_RAW)


def wrap_parts(wrap: int, length: int) -> tuple[bytes, bytes]:
    """What stands before and after `length` bytes of a file in a leaf block of that wrap."""
    if wrap == WRAP_NONE:
        return b"", b""
    return leaf_wrap(_KIND_OF_WRAP[wrap], length)


def block_size(wrap: int, length: int) -> int:
    """The size of a leaf block with `length` bytes of a file in it."""
    head, tail = wrap_parts(wrap, length)
    return len(head) + length + len(tail)


def wraps_of(codec: int) -> tuple[int, ...]:
    """The wraps that a leaf with a CID of that codec can have."""
    return DAG_PB_WRAPS if codec == DAG_PB else (WRAP_NONE,)


def leaf_hashes_to(multihash: bytes, wrap: int, data: Buffer) -> bool:
    """Whether `data`, in that wrap, is the block of that multihash."""
    head, tail = wrap_parts(wrap, len(data))
    if not head:
        return verify_block(multihash, data)
    if multihash[:2] == SHA2_256_PREFIX and len(multihash) == 34:
        # Hashed in parts, without a joined copy.
        digest = hashlib.sha256(head)
        digest.update(data)
        digest.update(tail)
        return digest.digest() == multihash[2:]
    return verify_block(multihash, b"".join((head, data, tail)))


def find_wrap(multihash: bytes, codec: int, data: Buffer, likely: int | None = None) -> int | None:
    """In which wrap `data` is the block of that multihash; None when in none."""
    wraps = wraps_of(codec)
    if likely is not None and likely in wraps:
        wraps = (likely, *(wrap for wrap in wraps if wrap != likely))
    for wrap in wraps:
        if leaf_hashes_to(multihash, wrap, data):
            return wrap
    return None


def unwrap(codec: int, block: Buffer, length: int) -> tuple[int, memoryview] | None:
    """The (wrap, file bytes) of a leaf block that holds `length` bytes, or None when it is wrapped in no known way.

    No hashing: the block is what our wrapping gives for those bytes, or it is not.
    """
    view = memoryview(block)
    for wrap in wraps_of(codec):
        head, tail = wrap_parts(wrap, length)
        if len(view) != len(head) + length + len(tail):
            continue
        if view[: len(head)] == head and view[len(view) - len(tail) :] == tail:
            return wrap, view[len(head) : len(head) + length]
    return None


class Leaf(NamedTuple):
    """A part of a file: `length` bytes at `offset` are the leaf block of `cid`.

    When `inline` is not None, they must be equal to it instead: bytes that an inner node or an identity CID carries in
    itself.
    """

    cid: CID
    offset: int
    length: int
    inline: bytes | None = None


class MissingNode(Exception):
    """An inner node that the catalog does not have."""

    def __init__(self, cid: CID) -> None:
        super().__init__(str(cid))
        self.cid = cid


def walk_leaves(
    root: CID, size: int, get_node: Callable[[bytes], bytes | None], nodes: list[bytes] | None = None
) -> Iterator[Leaf]:
    """The parts of the file `root`, which is `size` bytes long. They cover it without gaps, not always in file order.

    A dag-pb block that `get_node` does not have is taken for a leaf; if it is none, hashing its bytes shows that.

    Args:
        root: of the file.
        size: of the file, in bytes.
        get_node: gives the block of a multihash, or None.
        nodes: gets the multihash of each inner node met.

    Raises:
        MalformedDag: the DAG is not one of a file of that size.
        MissingNode: even a leaf is impossible.
    """
    inline = inline_block(root)
    block = inline if inline is not None else get_node(root.multihash)
    if root.codec == RAW or block is None:
        if block is None and root.codec == DAG_PB and size > MAX_BLOCK_SIZE:
            raise MissingNode(root)
        if inline is not None and len(inline) != size:
            raise MalformedDag(f"{root} holds {len(inline)} bytes, not {size}.")
        yield Leaf(root, 0, size, inline)
        return
    walk = FileWalk(root)
    covered = 0
    while not walk.finished:
        for ref in walk.take(WALK_BATCH):
            cid = ref.cid
            length = ref.length
            if cid.codec == RAW and cid.multihash[0] != IDENTITY:
                assert length is not None
                walk.skip(ref)
                covered += length
                yield Leaf(cid, ref.offset, length)
                continue
            block = inline_block(cid)
            if block is None:
                block = get_node(cid.multihash)
            if block is None:
                if length is None or length > MAX_BLOCK_SIZE:
                    raise MissingNode(cid)
                walk.skip(ref)
                covered += length
                yield Leaf(cid, ref.offset, length)
                continue
            if nodes is not None and cid.multihash[0] != IDENTITY:
                nodes.append(cid.multihash)
            for piece in walk.feed(ref, block):
                covered += len(piece.data)
                yield Leaf(cid, piece.offset, len(piece.data), bytes(piece.data))
        if walk.size != size:
            raise MalformedDag(f"{root} is the root of a file of {walk.size} bytes, but {size} are here.")
    if covered != size:
        raise MalformedDag(f"The blocks of {root} cover {covered} bytes of a file of {size}.")
