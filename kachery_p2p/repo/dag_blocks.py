"""All blocks of a root: files and directories with everything in them, as far as their nodes are here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import MalformedDag, UnsupportedCID
from kachery_p2p.repo.limits import WALK_BATCH

GetNodes = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]


def each_block(root: CID, get_nodes: GetNodes) -> Iterator[list[bytes]]:
    """The multihashes of a root's blocks, some at a time: its nodes, and all that these link to, here or not.

    A node comes once; a leaf as often as a node links to it.

    Args:
        root: of the DAG.
        get_nodes: gives those of the nodes that are here and right.
    """
    yield [root.multihash]
    seen = {root.multihash}
    waiting = [root.multihash] if root.codec == DAG_PB else []
    while waiting:
        batch, waiting = waiting[-WALK_BATCH:], waiting[:-WALK_BATCH]
        for block in get_nodes(batch).values():
            try:
                links = decode_node(block).links
            except (MalformedDag, UnsupportedCID):
                continue  # one that cannot be read leads nowhere
            found: list[bytes] = []
            for link in links:
                multihash = link.cid.multihash
                if link.cid.codec != DAG_PB:
                    found.append(multihash)
                elif multihash not in seen:
                    seen.add(multihash)
                    found.append(multihash)
                    waiting.append(multihash)
            if found:
                yield found
