"""What the readers of directories share: asking for blocks, and telling what a block is.

The readers are generators that do no I/O. They yield lists of CIDs and are sent the blocks in the same order, checked
against their hashes; what they return is the result. So a catalog on disk and a network can both drive them:

    blocks = drive(list_directory(cid), lambda cids: [store[c.multihash] for c in cids])
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, known_block
from kachery_p2p.dag.pb import PBNode, decode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, decode
from kachery_p2p.errors import MalformedDag, UnsupportedCID
from kachery_p2p.wire import Buffer

T = TypeVar("T")
Asking = Generator[list[CID], Sequence[Buffer], T]


def ask(cids: list[CID]) -> Asking[list[Buffer]]:
    """Ask for blocks, but for those that everybody has. Returns all, in the order of `cids`."""
    blocks: list[Buffer | None] = [known_block(cid) for cid in cids]
    wanted = [cid for cid, block in zip(cids, blocks, strict=True) if block is None]
    if wanted:
        answers = yield wanted
        if len(answers) != len(wanted):
            raise ValueError(f"{len(wanted)} blocks were asked for and {len(answers)} given")
        given = iter(answers)
        return [next(given) if block is None else block for block in blocks]
    return [block for block in blocks if block is not None]


def drive(asking: Asking[T], fetch: Callable[[list[CID]], Sequence[Buffer]]) -> T:
    """Run a reader to its end with a function that gives the blocks of some CIDs, in order, already checked."""
    try:
        wanted = next(asking)
        while True:
            wanted = asking.send(fetch(wanted))
    except StopIteration as done:
        return done.value


def read_node(cid: CID, block: Buffer) -> tuple[PBNode, UnixFSData | None]:
    """Decode a block as far as its codec goes: (node, data) of dag-pb, an empty node and None of raw.

    Raises:
        MalformedDag: the block does not make sense.
        UnsupportedCID: it is of another codec.
    """
    if cid.codec == RAW:
        return PBNode((), None), None
    if cid.codec != DAG_PB:
        raise UnsupportedCID(
            f"{cid} uses the codec 0x{cid.codec:x}, which this node cannot read; files and directories are raw (0x55) "
            "or dag-pb (0x70)."
        )
    node = decode_node(block, cid)
    if node.data is None:
        raise MalformedDag(f"The block {cid} is dag-pb, but not UnixFS: it has no data.")
    return node, decode(node.data, cid)


def node_kind(block: Buffer, cid: CID) -> DataType:
    """What a block is. FILE and RAW (a raw block, or an old kind of leaf) are both files.

    Raises:
        MalformedDag: the block does not make sense.
        UnsupportedCID: it is of another codec.
    """
    data = read_node(cid, block)[1]
    return DataType.RAW if data is None else data.kind


def dag_size(cid: CID, block: Buffer) -> int:
    """Bytes of a block and of all below it, as its links state them. They may be wrong, or missing.

    Raises:
        MalformedDag: the block does not make sense.
    """
    return len(block) + sum(link.tsize or 0 for link in read_node(cid, block)[0].links)


def symlink_target(block: Buffer, cid: CID) -> str:
    """Where a symbolic link leads, as its author wrote it: it may be absolute, or lead out of its directory.

    Raises:
        MalformedDag: the block is not a symbolic link, or its target is not UTF-8.
    """
    node, data = read_node(cid, block)
    if data is None or data.kind is not DataType.SYMLINK or node.links:
        raise MalformedDag(f"The block {cid} is not a symbolic link.")
    try:
        return bytes(data.data or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedDag(f"The symbolic link {cid} has a target that is not UTF-8.") from None
