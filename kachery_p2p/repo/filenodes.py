"""The nodes of files that were looked into lately, decoded: reading here and there in a file decodes its root once."""

from __future__ import annotations

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.repo.decoded import Decoded
from kachery_p2p.repo.limits import NODE_CACHE


class FileNodes(Decoded[CID, FileNode]):
    """Decoded nodes of files by CID."""

    def __init__(self, most: int = NODE_CACHE) -> None:
        super().__init__(most)

    def decode(self, cid: CID, block: bytes, *, file: CID | None = None) -> FileNode:
        """The node of a block whose hash has been checked. One with children is kept.

        Raises:
            KacheryError: as `FileNode`.
        """
        node = self.get(cid)
        if node is None:
            node = FileNode(cid, block, file=file)
            if node.count:
                self.keep(cid, node, node.memory)
        return node
