"""Sets of bytes: what goes in and out, and what is missing."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.opening.extents import Extents

RANGE = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(st.tuples(st.booleans(), RANGE)), RANGE)
def test_it_is_a_set(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    """Whatever goes in and out, it answers as a set of numbers does, and its ranges are apart and in order."""
    extents = Extents()
    numbers: set[int] = set()
    for put, (start, end) in steps:
        these = set(range(start, end))
        if put:
            assert extents.add(start, end) == len(these - numbers)
            numbers |= these
        else:
            assert extents.discard(start, end) == len(these & numbers)
            numbers -= these
        assert {n for first, last in extents for n in range(first, last)} == numbers
        assert extents.size == len(numbers)
        assert all(before[1] < after[0] for before, after in pairwise(extents))
    wanted = set(range(*asked))
    assert extents.covers(*asked) == (wanted <= numbers)
    missing = extents.missing(*asked)
    assert [n for first, last in missing for n in range(first, last)] == sorted(wanted - numbers)
    run = asked[0]
    while run in numbers:
        run += 1
    assert extents.end_from(asked[0]) == run


def test_nothing_is_left_after_clear() -> None:
    """An emptied set has nothing and misses all."""
    extents = Extents()
    extents.add(3, 9)
    extents.clear()
    assert (list(extents), extents.size, extents.missing(0, 10)) == ([], 0, [(0, 10)])
