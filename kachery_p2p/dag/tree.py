"""Walking a directory tree, each folder once; and how large it is when it is unfolded, told without unfolding it.

A directory may hold the same folder many times, and that folder another one many times: forty small blocks can stand
for a million million entries. So each folder is read once, whatever the number of places where it is, and what is in
and below it is counted once. Whether the tree can be made at all is known before any of it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from kachery_p2p.dag.limits import MAX_TREE_DEPTH, MAX_TREE_ENTRIES
from kachery_p2p.errors import InvalidName

K = TypeVar("K", bound=Hashable)

#: Counts stop here. No real tree has so many entries or bytes, and sums of greater numbers would cost time themselves.
UNCOUNTABLE = 2**63


class TreeShape(NamedTuple):
    """What a tree would be when unfolded. The numbers end at `UNCOUNTABLE`.

    Attributes:
        entries: in all its folders.
        size: of all its files in bytes.
        depth: how many folders lie within each other; 1 for one without folders.
    """

    entries: int
    size: int
    depth: int


@dataclass(frozen=True)
class TreeLimits:
    """Bounds of a tree as it would be when unfolded; see limits.py for the reasons.

    Attributes:
        entries: in all its folders.
        depth: folders within each other, the top one counted.
    """

    entries: int = MAX_TREE_ENTRIES
    depth: int = MAX_TREE_DEPTH


DEFAULT_LIMITS = TreeLimits()
#: For trees whose blocks are all here, and that are only read: each folder costs one look.
NO_LIMITS = TreeLimits(UNCOUNTABLE, UNCOUNTABLE)


class TreeWalk(Generic[K]):
    """Walks a tree from its top folder, level by level.

    It does no I/O; its user lists the folders, and says which of their entries are folders themselves:

        walk = TreeWalk(root)
        while level := walk.take():
            for folder in level:
                for cid, size in walk.add(folder, ...its entries...):
                    if ...it is a folder...:
                        walk.enter(cid)
        shape = walk.shape()

    Cycles cannot be: a folder cannot contain its own hash. The walk ends as soon as a bound is exceeded; that a tree is
    too large only when it is unfolded shows at the end, in `shape`.

    Args:
        root: the top folder.
        limits: bounds of the tree.
    """

    def __init__(self, root: K, limits: TreeLimits = DEFAULT_LIMITS) -> None:
        self.root = root
        self._limits = limits
        self._folders: dict[K, Sequence[tuple[K, int]]] = {}
        #: How deep each thing lies where it was met first.
        self._depths: dict[K, int] = {root: 1}
        self._waiting = [root]
        self._added = 0

    def take(self) -> list[K]:
        """The folders to list next; none when the walk is over."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def add(self, folder: K, entries: Sequence[tuple[K, int]]) -> list[tuple[K, int]]:
        """Say what is directly in a folder, as (which, bytes).

        Returns:
            Those that were not met before: of each it must be found out whether it is a folder.

        Raises:
            InvalidName: there are too many entries.
        """
        self._folders[folder] = entries
        self._added += len(entries)
        if self._added > self._limits.entries:
            raise self._too_many()
        depth = self._depths[folder] + 1
        new: list[tuple[K, int]] = []
        for entry in entries:
            if entry[0] not in self._depths:
                self._depths[entry[0]] = depth
                new.append(entry)
        return new

    def enter(self, folder: K) -> None:
        """Say that an entry is a folder. It is given out by `take`.

        Raises:
            InvalidName: it lies too deep.
        """
        if self._depths[folder] > self._limits.depth:
            raise self._too_deep()
        self._waiting.append(folder)

    def shape(self, size_of: Callable[[K, int], int] | None = None) -> TreeShape:
        """How large the tree is when unfolded; once the walk is over.

        Args:
            size_of: the bytes of an entry that is no folder, from the entry and the bytes that its folder states; by
                default, the latter.

        Raises:
            InvalidName: it has too many entries, or lies too deep.
        """
        folders = self._folders
        if size_of is not None:
            folders = {
                folder: [(which, size_of(which, size) if which not in self._folders else 0) for which, size in entries]
                for folder, entries in folders.items()
            }
        shape = shape_of(self.root, folders)
        if shape.depth > self._limits.depth:
            raise self._too_deep()
        if shape.entries > self._limits.entries:
            raise self._too_many()
        return shape

    def _too_many(self) -> InvalidName:
        return InvalidName(
            f"The directory {self.root} has more than {self._limits.entries:,} entries in all its folders."
        )

    def _too_deep(self) -> InvalidName:
        return InvalidName(f"The directory {self.root} is more than {self._limits.depth} folders deep.")


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
