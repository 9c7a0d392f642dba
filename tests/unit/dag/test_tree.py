"""Walking a tree of folders: each once, within its bounds. Without any input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag.tree import NO_LIMITS, TreeLimits, TreeShape, TreeWalk, shape_of
from kachery_p2p.errors import InvalidName

Folders = Mapping[int, Sequence[tuple[int, int]]]


def walked(folders: Folders, limits: TreeLimits) -> tuple[TreeWalk[int], list[int], list[int]]:
    """Walk a tree to its end: the walk, the folders in the order in which they were read, and the files."""
    walk = TreeWalk(0, limits)
    read: list[int] = []
    files: list[int] = []
    while level := walk.take():
        for folder in level:
            read.append(folder)
            for which, _ in walk.add(folder, folders[folder]):
                if which in folders:
                    walk.enter(which)
                else:
                    files.append(which)
    return walk, read, files


@given(st.data())
def test_everything_is_met_once(data: st.DataObject) -> None:
    """In any tree each folder is read once and each file is named once; the shape is that of the tree."""
    count = data.draw(st.integers(1, 8))
    folders = {
        n: data.draw(st.lists(st.tuples(st.integers(n + 1, n + 4), st.integers(0, 9)), max_size=5))
        for n in range(count)
    }
    reachable = {0}
    for n in range(count):
        if n in reachable:
            reachable |= {which for which, _ in folders[n]}
    walk, read, files = walked(folders, NO_LIMITS)
    assert sorted(read) == sorted(reachable & folders.keys())
    assert sorted(files) == sorted(reachable - folders.keys())
    assert walk.shape() == shape_of(0, {n: folders[n] for n in read})


def test_sizes_may_be_known_better() -> None:
    """What folders state of their entries can be replaced by what is known of each."""
    walk, _, _ = walked({0: [(1, 5), (2, 5), (2, 5)], 1: [(2, 5), (3, 7)]}, NO_LIMITS)
    assert walk.shape().size == 5 + 5 + 5 + 7
    assert walk.shape(lambda which, stated: {2: 100}.get(which, stated)).size == 307


def test_a_tree_just_within_its_bounds() -> None:
    """As many entries, and as deep, as is allowed."""
    chain = {n: [(n + 1, 0)] for n in range(4)} | {4: []}
    walk, _, _ = walked(chain, TreeLimits(entries=4, depth=5))
    assert walk.shape() == TreeShape(4, 0, 5)


def test_too_many_entries_end_the_walk_at_once() -> None:
    """Once the folders that were read hold more than is allowed, nothing further is read."""
    walk = TreeWalk(0, TreeLimits(entries=4))
    walk.add(0, [(1, 0), (2, 0), (3, 0)])
    walk.enter(1)
    with pytest.raises(InvalidName, match="more than 4 entries"):
        walk.add(1, [(4, 0), (5, 0)])


def test_too_many_when_unfolded_show_at_the_end() -> None:
    """Few folders, each read once, that stand for many more."""
    doubling = {n: [(n + 1, 0), (n + 1, 0)] for n in range(60)} | {60: []}
    walk, read, _ = walked(doubling, TreeLimits(entries=1000))
    assert len(read) == 61
    with pytest.raises(InvalidName, match="more than 1,000 entries"):
        walk.shape()
    assert walked(doubling, NO_LIMITS)[0].shape().entries == 2**61 - 2


def test_too_deep_ends_the_walk_on_the_way() -> None:
    """A chain without end costs as many looks as it may have folders."""
    walk = TreeWalk(0, TreeLimits(depth=3))
    read: list[int] = []

    def go_down() -> None:
        while level := walk.take():
            for folder in level:
                read.append(folder)
                for which, _ in walk.add(folder, [(folder + 1, 0)]):
                    walk.enter(which)

    with pytest.raises(InvalidName, match="more than 3 folders deep"):
        go_down()
    assert read == [0, 1, 2]


def test_too_deep_by_a_longer_way() -> None:
    """A folder that is met near the top, and lies deeper elsewhere, counts where it is deepest."""
    folders = {0: [(3, 0), (1, 0)], 1: [(2, 0)], 2: [(3, 0)], 3: []}
    walk, _, _ = walked(folders, TreeLimits(depth=3))
    with pytest.raises(InvalidName, match="more than 3 folders deep"):
        walk.shape()
