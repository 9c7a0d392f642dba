"""The time of a node is that in which its process runs."""

from __future__ import annotations

import pytest
import trio

from kachery_p2p.clock import LONGEST_SLEEP, STOPPED, RunningClock


class System:
    """A system's clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def system() -> System:
    return System()


def test_it_goes_as_the_system_does(system: System) -> None:
    """Where the process runs, or is only busy, every second counts."""
    clock = RunningClock(system)
    begun = clock.current_time()
    for seconds in (0.0, 0.001, 1.0, STOPPED):
        system.now += seconds
        clock.current_time()
    assert clock.current_time() - begun == pytest.approx(1.001 + STOPPED)


def test_it_stands_still_while_the_process_is_stopped(system: System) -> None:
    """An hour between two looks at the clock is no time; what is due comes as much later."""
    clock = RunningClock(system)
    deadline = clock.current_time() + 60.0
    system.now += 3600.0
    assert deadline - clock.current_time() == pytest.approx(60.0)
    system.now += 1.0
    assert deadline - clock.current_time() == pytest.approx(59.0)


@pytest.mark.parametrize("deadline", [2.0, 60.0, float("inf")])
def test_a_sleep_counts_and_a_stop_in_it_does_not(system: System, deadline: float) -> None:
    """The loop sleeps as long as it says, which is time; what is beyond that is none. It never sleeps for long, or a
    stop in a long sleep would not be noticed."""
    clock = RunningClock(system)
    begun = clock.current_time()
    sleep = clock.deadline_to_sleep_time(begun + deadline)
    assert sleep == pytest.approx(min(deadline, LONGEST_SLEEP))
    system.now += sleep
    assert clock.current_time() - begun == pytest.approx(sleep)
    clock.deadline_to_sleep_time(begun + deadline)
    system.now += 3600.0
    assert clock.current_time() - begun <= sleep + LONGEST_SLEEP


def test_it_never_goes_back(system: System) -> None:
    """Whatever comes: the end of a sleep that was cut short is no reason to go back."""
    clock = RunningClock(system)
    last = clock.current_time()
    for seconds in (0.0, 100.0, 0.5, 7.0, 2.9, 3.1, 1e6):
        clock.deadline_to_sleep_time(last + seconds)
        system.now += seconds
        now = clock.current_time()
        assert now >= last
        last = now


def test_what_is_due_is_due() -> None:
    """Trio runs with it: sleeps end, in their order, and a sleep of no length does not hang."""
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)
        order.append(seconds)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (0.03, 0.0, 0.01):
                nursery.start_soon(sleep, seconds)

    trio.run(main, clock=RunningClock())
    assert order == [0.0, 0.01, 0.03]
