"""Functions that block, made to be awaited: each call is made in a thread, and ends when nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial, update_wrapper
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio.lowlevel import RunVar

from kachery_cloud.cancelling import Cancellation

P = ParamSpec("P")
T = TypeVar("T")

#: Calls at once for one event loop; more wait for their turn. They have threads of their own, so that the loop's other
#: work in threads (files, names of hosts) does not wait for loads.
CALLS_AT_ONCE = 64

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("kachery_cloud_calls")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns that blocks, and raises. Where the task that waits is cancelled, so is the call."""
    cancellation = Cancellation()

    def work() -> T:
        return cancellation.run(function, *args, **kwargs)

    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_calls())
    except anyio.get_cancelled_exc_class():
        cancellation.cancel()
        raise


def awaitable(function: Callable[P, T], module: str) -> Callable[P, Coroutine[Any, Any, T]]:
    """A function of a module, that takes and says the same, to be awaited."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(function, *args, **kwargs)

    update_wrapper(call, function)
    call.__module__ = module
    return call


def awaitable_steps(function: Callable[P, Iterator[T]], module: str) -> Callable[P, AsyncGenerator[T, None]]:
    """The same, of one that gives one thing after the other: for `async for`."""

    async def iterate(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        steps = await in_thread(function, *args, **kwargs)
        step = partial(next, steps, None)
        try:
            while (found := await in_thread(step)) is not None:
                yield found
        finally:
            # A step that was cancelled may still be on its way out of its thread, and then ends what it waits for.
            with suppress(ValueError):
                steps.close()  # type: ignore[attr-defined]

    update_wrapper(iterate, function)
    iterate.__module__ = module
    return iterate


def _calls() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(CALLS_AT_ONCE)
        _limiter.set(limiter)
        return limiter
