"""The nodes of files that were looked into lately, decoded: reading here and there in a file decodes its root once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.repo.limits import NODE_CACHE


class FileNodes:
    """Decoded nodes by CID, at most `most` bytes of them; the one used longest ago makes room.

    What a CID names never changes, so nothing in here is ever out of date. Safe to use from many threads.
    """

    def __init__(self, most: int = NODE_CACHE) -> None:
        self._most = most
        self._nodes: OrderedDict[CID, FileNode] = OrderedDict()
        self._guard = threading.Lock()
        #: Bytes that they take.
        self.memory = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, cid: CID) -> FileNode | None:
        """The node, if it was kept."""
        with self._guard:
            node = self._nodes.get(cid)
            if node is not None:
                self._nodes.move_to_end(cid)
            return node

    def decode(self, cid: CID, block: bytes, *, file: CID | None = None) -> FileNode:
        """The node of a block whose hash has been checked. One with children is kept.

        Raises:
            KacheryError: as `FileNode`.
        """
        node = self.get(cid)
        if node is not None:
            return node
        node = FileNode(cid, block, file=file)
        if node.count and node.memory <= self._most:
            with self._guard:
                if cid not in self._nodes:
                    self._nodes[cid] = node
                    self.memory += node.memory
                while self.memory > self._most:
                    self.memory -= self._nodes.popitem(last=False)[1].memory
        return node

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self._nodes.clear()
            self.memory = 0
