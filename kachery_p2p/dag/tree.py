"""How large a directory is when it is unfolded, told without unfolding it.

A directory may hold the same folder many times, and that folder another one many times: forty small blocks can stand
for a million million entries. So each folder is read once, whatever the number of places where it is, and what is in
and below it is counted once; only a tree that is small enough is then made.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

#: Counts stop here: nobody makes so many entries or bytes, and sums of greater numbers would cost time themselves.
UNCOUNTABLE = 2**63


class TreeShape(NamedTuple):
    """What a tree would be when unfolded: `entries` in all its folders, `size` of all its files in bytes, and `depth`,
    how many folders lie within each other (1 for one without folders). The numbers end at `UNCOUNTABLE`."""

    entries: int
    size: int
    depth: int


def shape_of(root: K, folders: Mapping[K, Sequence[tuple[K, int]]]) -> TreeShape:
    """Measure a tree.

    Args:
        root: the top folder.
        folders: for each folder what is directly in it, as (which, bytes); those that are no keys here are files. No
            folder may be in itself, which hashes rule out.
    """
    shapes: dict[K, TreeShape] = {}
    # Each folder twice: first to put those below it on top, then to add them up.
    waiting = [root]
    while waiting:
        folder = waiting[-1]
        if folder in shapes:
            waiting.pop()
            continue
        below = [which for which, _ in folders[folder] if which in folders and which not in shapes]
        if below:
            waiting.extend(dict.fromkeys(below))
            continue
        waiting.pop()
        entries = size = 0
        depth = 1
        for which, length in folders[folder]:
            inner = shapes.get(which)
            entries += 1 + (inner.entries if inner is not None else 0)
            size += inner.size if inner is not None else length
            depth = max(depth, 1 + inner.depth if inner is not None else 1)
        shapes[folder] = TreeShape(min(entries, UNCOUNTABLE), min(size, UNCOUNTABLE), depth)
    return shapes[root]
