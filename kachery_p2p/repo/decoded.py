"""Nodes that were looked into lately, decoded: reading here and there decodes each node on the way once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Decoded(Generic[K, V]):
    """Decoded nodes by what names them, at most `most` bytes of them; the one used longest ago makes room.

    What a CID names never changes, so nothing in here is ever out of date. Safe to use from many threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._nodes: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._guard = threading.Lock()
        #: Bytes that they take.
        self.memory = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, key: K, /) -> V | None:
        """The node, if it was kept."""
        with self._guard:
            found = self._nodes.get(key)
            if found is None:
                return None
            self._nodes.move_to_end(key)
            return found[0]

    def keep(self, key: K, node: V, memory: int, /) -> None:
        """Keep a node, unless it takes more bytes than all may."""
        if memory > self._most:
            return
        with self._guard:
            if key not in self._nodes:
                self._nodes[key] = node, memory
                self.memory += memory
            while self.memory > self._most:
                self.memory -= self._nodes.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self._nodes.clear()
            self.memory = 0
