"""How often somebody may ask, in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.lab.rates import Rate


class Clock:
    """Seconds, which the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_a_pace() -> None:
    """Three at once, and then one every two seconds; whoever waits long has all of them again."""
    clock = Clock()
    rate = Rate((3, 0.5), clock)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]
    assert rate.take("a") == 2
    assert rate.take("b") == 0
    clock.now += 1.5
    assert rate.take("a") == 0.5
    clock.now += 0.5
    assert rate.take("a") == 0
    assert rate.take("a") == 2
    clock.now += 1000
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 2]


@given(st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_that(pauses: list[float]) -> None:
    """Within any time no more are let through than the burst, and the pace of that time."""
    clock = Clock()
    rate = Rate((5, 2.0), clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        if not rate.take("a"):
            taken.append(clock.now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= 5 + 2.0 * (taken[last] - taken[first]) + 1e-6


def test_few_are_remembered() -> None:
    """A flood of addresses takes no room; the newest are counted."""
    clock = Clock()
    rate = Rate((1, 1.0), clock, most=10)
    for number in range(1000):
        assert rate.take(str(number)) == 0
    assert rate.take("999") > 0
    assert len(rate._full_at) == 10
