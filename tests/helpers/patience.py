"""Waiting in tests: for what another thread, process or peer does and of which no event tells.

The machine may be busy with other work. So a bound is only there to end a test that would otherwise hang, and it judges
nothing: what passes on a quiet machine passes on one that is ten times slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

#: Seconds of real time after which a test gives up what would otherwise hang.
PATIENCE = 600.0


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait in a trio task until something is so.

    Raises:
        trio.TooSlowError: It was not so within `seconds`.
    """
    pause = 0.002
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(pause)
            pause = min(1.3 * pause, 0.25)


def wait_until(condition: Callable[[], object], what: str = "what is waited for", seconds: float = PATIENCE) -> None:
    """Wait in a thread until something is so.

    Raises:
        AssertionError: `what` was not so within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} seconds: {what}"
        time.sleep(0.02)
