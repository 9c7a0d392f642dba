"""The virtual time of the tests: it passes when all wait, and never while a thread is at work."""

from __future__ import annotations

import threading

import pytest
import trio

from tests.helpers.clocks import KERNEL, PatientClock
from tests.helpers.patience import PATIENCE


async def test_time_passes_when_all_wait(patient_clock: PatientClock) -> None:
    """A sleep takes exactly its seconds, and what has a deadline is cancelled at it."""
    begun = trio.current_time()
    await trio.sleep(1000)
    assert trio.current_time() - begun == pytest.approx(1000)
    with trio.move_on_after(5):
        await trio.sleep_forever()
    assert trio.current_time() - begun == pytest.approx(1005)


async def test_time_stands_still_while_a_thread_is_at_work(patient_clock: PatientClock) -> None:
    """However long a thread takes, no deadline passes."""
    done = threading.Event()

    def work() -> bool:
        return done.wait(10 * KERNEL)

    begun = trio.current_time()
    with trio.move_on_after(0.001):
        assert not await trio.to_thread.run_sync(work)
    assert trio.current_time() == begun


async def test_time_passes_for_a_thread_that_waits_for_the_loop(patient_clock: PatientClock) -> None:
    """A thread that has a task of the loop sleep is not at work meanwhile, but afterwards."""
    done = threading.Event()

    def work() -> bool:
        trio.from_thread.run(trio.sleep, 100)
        return done.wait(3 * KERNEL)

    begun = trio.current_time()
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(work)
    assert trio.current_time() - begun == pytest.approx(100)
