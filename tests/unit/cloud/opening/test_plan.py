"""What is read ahead: that it is noticed, and that it is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.opening.extents import Range
from kachery_cloud.opening.limits import READ_AHEAD_SHARE
from kachery_cloud.opening.plan import Plan

BLOCK = 1 << 20
SIZE = 1000 * BLOCK - 12_345


def blocks(start: int, end: int, here: bool = False) -> Range:
    """The blocks of a file that has blocks of one size."""
    return start // BLOCK * BLOCK, min(SIZE, -(-end // BLOCK) * BLOCK)


class Reader:
    """Reads by a plan, from a node that answers at once. Counts what it waits for, and what is moved."""

    def __init__(self, most: int = 16 * BLOCK) -> None:
        self.plan = Plan(SIZE, blocks, most)
        self.most = most
        self.moved = 0
        self.waited = 0
        self.ahead: list[Range] = []

    def read(self, start: int, length: int) -> None:
        missing = self.plan.missing(start, start + length)
        asked = self.plan.to_ask(missing)
        ahead = self.plan.read(start, start + length)
        self.waited += bool(missing)
        for part in asked + ahead:
            assert blocks(*part) == part, "only whole blocks are asked for"
            self.moved += part[1] - part[0]
            self.plan.came(*part)
        self.ahead += ahead
        assert not self.plan.missing(start, start + length)

    @property
    def touched(self) -> int:
        return self.plan.touched.size


def test_reads_that_follow_each_other_are_noticed() -> None:
    """A file that is read from its beginning to its end is waited for a few times, in the first part of it."""
    reader = Reader()
    for start in range(0, SIZE, 256 * 1024):
        reader.read(start, 256 * 1024)
    assert reader.moved == SIZE
    assert reader.waited < 12


def test_reads_with_small_gaps_follow_each_other() -> None:
    """Formats align their parts: some KiB between two reads change nothing."""
    reader = Reader()
    for start in range(0, 200 * BLOCK, 100_000):
        reader.read(start, 97_000)
    assert reader.waited < 12


def test_reads_at_one_distance_are_noticed() -> None:
    """A column of a table in rows: the blocks between are not touched, and those that follow are fetched before."""
    for first, stride in ((0, 7 * BLOCK + 1000), (900 * BLOCK, -(7 * BLOCK + 1000))):
        reader = Reader()
        for number in range(120):
            reader.read(first + number * stride, 4000)
        assert reader.waited < 0.75 * 120
        assert reader.moved <= reader.touched * 1.2


def test_an_index_between_the_data_does_not_disturb() -> None:
    """A format that looks into its index after each part of the data is still read ahead."""
    reader = Reader()
    for number in range(800):
        reader.read(200 * BLOCK + number * 512 * 1024, 512 * 1024)
        reader.read(number * 64 % (3 * BLOCK), 512)
    assert reader.waited < 20


def test_reads_here_and_there_fetch_nothing_ahead() -> None:
    """Of reads without a pattern, only the blocks that they touch are fetched."""
    reader = Reader()
    place = 12345
    for _ in range(300):
        place = place * 1103515245 % 2147483648 % SIZE
        reader.read(place, 4096)
    assert reader.moved == reader.touched


def test_none_where_none_is_wanted() -> None:
    """`read_ahead` 0 fetches what is read and nothing else."""
    reader = Reader(most=0)
    for start in range(0, 300 * BLOCK, BLOCK):
        reader.read(start, BLOCK)
    assert (reader.ahead, reader.moved) == ([], reader.touched)


READ = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3 * BLOCK))
RUN = st.tuples(
    st.integers(0, SIZE - 1), st.integers(1, 2 * BLOCK), st.integers(-9 * BLOCK, 9 * BLOCK), st.integers(1, 60)
)


@given(st.lists(st.one_of(READ, RUN), max_size=12))
def test_what_is_moved_is_bounded(steps: list[tuple[int, ...]]) -> None:
    """Whatever is read: what is moved is the blocks that were touched, and at most a fifth of them, or `most`, more."""
    reader = Reader()
    for step in steps:
        start, length, stride, count = step if len(step) == 4 else (*step, 0, 1)
        for number in range(count):
            at = start + number * stride
            if 0 <= at < SIZE:
                reader.read(at, length)
                assert reader.moved <= reader.touched + min(reader.most, reader.touched // READ_AHEAD_SHARE)


def test_what_did_not_come_is_asked_for_again() -> None:
    """A part that failed is missing as before, and does not count as read ahead."""
    plan = Plan(SIZE, blocks)
    (part,) = plan.to_ask(plan.missing(0, 10))
    assert plan.to_ask(plan.missing(0, 10)) == []
    plan.failed(*part)
    assert plan.to_ask(plan.missing(0, 10)) == [part]
    plan.came(*part)
    assert plan.missing(0, 10) == []
    plan.lost()
    assert plan.missing(0, 10) == [part]
