"""Waking waiting tasks: no wake-up is lost, however many wait and whenever they look."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kachery_p2p.waking import Changes, Flag, Signal


async def test_a_signal_wakes_all_that_wait_and_is_not_remembered(autojump_clock: trio.testing.MockClock) -> None:
    """Every waiter of that moment goes on; one that comes later waits for the next."""
    signal = Signal()
    woken: list[int] = []

    async def waiter(number: int) -> None:
        await signal.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(waiter, number)
        await trio.testing.wait_all_tasks_blocked()
        signal.notify()
        nursery.start_soon(waiter, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1, 2]
        signal.notify()
    assert sorted(woken) == [0, 1, 2, 3]


async def test_nobody_misses_a_change_of_the_condition(autojump_clock: trio.testing.MockClock) -> None:
    """Consumers that look, wait and look again take everything that a producer makes, in whatever order they run."""
    queue: list[int] = []
    changed = Signal()
    taken: list[int] = []

    async def consumer() -> None:
        while len(taken) < 300:
            while not queue and len(taken) < 300:
                await changed.wait()
            if queue:
                taken.append(queue.pop(0))
                changed.notify()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(consumer)
        for number in range(300):
            queue.append(number)
            changed.notify()
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
    assert sorted(taken) == list(range(300))


async def test_a_flag_is_remembered_until_it_is_taken() -> None:
    """Set before anybody waits, and set twice: one `take` returns, the next waits."""
    flag = Flag()
    flag.set()
    flag.set()
    assert flag
    with trio.fail_after(60):
        await flag.take()
    assert not flag
    with trio.move_on_after(0) as scope:
        await flag.take()
    assert scope.cancelled_caught


async def test_taking_a_flag_that_is_set_lets_others_run() -> None:
    """A task that finds work each time must not have the loop to itself."""
    flag = Flag()
    flag.set()
    with trio.testing.assert_checkpoints():
        await flag.take()


async def test_each_set_wakes_one_of_several(autojump_clock: trio.testing.MockClock) -> None:
    """No waiter returns without a `set` of its own, and none is lost."""
    flag = Flag()
    taken = 0

    async def taker() -> None:
        nonlocal taken
        await flag.take()
        taken += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(taker)
        await trio.testing.wait_all_tasks_blocked()
        for expected in (1, 2, 3):
            flag.set()
            await trio.testing.wait_all_tasks_blocked()
            assert taken == expected


async def test_a_flag_outlives_a_cancelled_taker() -> None:
    """What was set while the task was being cancelled is there for whoever takes it next."""
    flag = Flag()
    with trio.CancelScope() as scope:
        flag.set()
        scope.cancel()
        await flag.take()
    assert scope.cancelled_caught
    assert flag


@pytest.mark.parametrize("times", [1, 5])
async def test_a_flag_can_be_cleared(times: int) -> None:
    """Work that was done anyway needs no second round."""
    flag = Flag()
    for _ in range(times):
        flag.set()
    flag.clear()
    with trio.move_on_after(0) as scope:
        await flag.take()
    assert scope.cancelled_caught


async def test_what_happened_meanwhile_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever counted before it looked waits for nothing that has happened since; else for the next that happens."""
    changes = Changes()
    seen = changes.count
    changes.happened()
    await changes.wait(seen)
    woken: list[int] = []

    async def waiter(number: int) -> None:
        await changes.wait(changes.count)
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(waiter, number)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        changes.happened()
    assert sorted(woken) == [0, 1]
