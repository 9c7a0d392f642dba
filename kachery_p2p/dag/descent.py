"""All blocks of a DAG, depth first: a parent before its children, these in the order of their links.

That is the order of CAR files (`order=dfs`), in which whoever reads them can follow the DAG as it comes. No I/O: the
blocks are asked for one at a time. What is remembered is the links on the path from the root to where it is, which are
bounded; which blocks have been visited is remembered by the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, inline_block
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import MalformedDag, UnsupportedCID


def descend(
    root: CID,
    block: bytes,
    *,
    links: Callable[[CID, bytes], list[CID]],
    read: Callable[[CID], bytes],
    new: Callable[[CID], bool],
    most_pending: int,
) -> Iterator[tuple[CID, bytes]]:
    """A block and all that is below it. Blocks that are a part of their CID are looked into, but do not come out.

    Args:
        root: where it begins.
        block: of the root.
        links: all links of a block that are followed, the last one first.
        read: gives a block.
        new: whether a block is to come out, and what is below it to be visited; called once for each link to it.
        most_pending: links that may wait at one time.

    Raises:
        MalformedDag: more links wait; and what the callables raise.
    """
    if new(root):
        yield root, block
    # Lists of links in reverse, one for each level.
    levels = [links(root, block)]
    pending = len(levels[0])
    while levels:
        if not levels[-1]:
            levels.pop()
            continue
        cid = levels[-1].pop()
        pending -= 1
        inline = inline_block(cid)
        if inline is None and not new(cid):
            continue
        block = read(cid)
        if inline is None:
            yield cid, block
        below = links(cid, block)
        pending += len(below)
        if max(pending, len(levels)) > most_pending:
            raise MalformedDag(f"{root} is built too wide and too deep to be sent as one CAR; ask for parts of it.")
        if below:
            levels.append(below)


def unixfs_links(cid: CID, block: bytes) -> list[CID]:
    """All links of a raw or dag-pb block, the last one first.

    Raises:
        UnsupportedCID: it is of another codec.
        MalformedDag: it cannot be decoded.
    """
    if cid.codec == RAW:
        return []
    if cid.codec != DAG_PB:
        raise UnsupportedCID(f"The links of {cid} (codec 0x{cid.codec:x}) cannot be followed here.")
    return [link.cid for link in reversed(decode_node(block, cid).links)]
