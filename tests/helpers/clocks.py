"""Virtual time for tests with real threads and real sockets.

`trio.testing.MockClock(autojump_threshold=...)` jumps when all tasks have waited for so many seconds of real time, also
when they wait for a thread that reads a file on a busy disk. `PatientClock` jumps only while no thread of trio is at
work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

#: Seconds of real time that the kernel has for handing bytes from one socket of this process to another. It does that
#: within the call that sends them, as a rule.
KERNEL = 0.02


class Threads:
    """Counts the threads of trio that are at work. One that waits for a task of the loop is not."""

    def __init__(self) -> None:
        self._limiters: set[trio.CapacityLimiter] = set()
        self._waiting = 0

    @property
    def at_work(self) -> int:
        return sum(int(each.borrowed_tokens) for each in self._limiters) - self._waiting

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count from now on."""
        to_thread, from_thread = trio.to_thread.run_sync, trio.from_thread.run

        async def counted(sync_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
            self._limiters.add(options.get("limiter") or trio.to_thread.current_default_thread_limiter())
            return await to_thread(sync_fn, *args, **options)

        def asking(afn: Callable[..., Any], *args: Any, **options: Any) -> Any:
            async def asked() -> Any:
                self._waiting += 1
                try:
                    return await afn(*args)
                finally:
                    self._waiting -= 1

            return from_thread(asked, **options)

        monkeypatch.setattr(trio.to_thread, "run_sync", counted)
        monkeypatch.setattr(trio.from_thread, "run", asking)


class PatientClock(trio.abc.Clock):
    """Virtual time that jumps to the next deadline whenever nothing else can happen in this process."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._now = 0.0

    def start_clock(self) -> None:
        """The run has no task yet, so the one that moves the clock begins a moment later."""
        trio.lowlevel.current_trio_token().run_sync_soon(trio.lowlevel.spawn_system_task, self._pass_time)

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """What is due is due now; nothing else becomes so by sleeping."""
        return 0.0 if deadline <= self._now else 1e9

    async def _pass_time(self) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked(KERNEL)
            # A task of the system has no deadline of its own, so the next one is another's.
            pause = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if not self._threads.at_work and pause < math.inf:
                self._now += max(pause, 0.0)
