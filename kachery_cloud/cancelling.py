"""Ending a call that blocks, from outside its thread: what `kachery_cloud.aio` needs where a task is cancelled.

A thread that is interrupted by Ctrl-C gets `KeyboardInterrupt` from Python. Nothing of that kind reaches the threads in
which an event loop runs calls that block, so the places where those wait look at a `Cancellation` of their context.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Cancelled(BaseException):
    """Raised where a call waits or works, when it was cancelled. Like an interrupt, it is not an error to handle."""


class Cancellation:
    """Whether one call is still wanted. `cancel` may be called from any thread, and more than once."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._mutex = threading.Lock()
        self._woken: list[Callable[[], None]] = []

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in this thread; it ends with `Cancelled` soon after `cancel`."""
        token = _current.set(self)
        try:
            check()
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    def cancel(self) -> None:
        """The result is not wanted any more."""
        self._cancelled.set()
        with self._mutex:
            woken = list(self._woken)
        for wake in woken:
            wake()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have `wake` called at `cancel`, while this lasts; at once where that has been."""
        with self._mutex:
            self._woken.append(wake)
        try:
            if self.cancelled:
                wake()
            yield
        finally:
            with self._mutex:
                self._woken.remove(wake)


_current: ContextVar[Cancellation | None] = ContextVar("kachery_cloud_cancellation", default=None)


def check() -> None:
    """For work that takes long: called now and then.

    Raises:
        Cancelled: the call that this belongs to is not wanted any more.
    """
    current = _current.get()
    if current is not None and current.cancelled:
        raise Cancelled


def next_of(told: SimpleQueue[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The next of a queue, when there is one. An empty one in it wakes who waits.

    Raises:
        Cancelled: the call that waits for it is not wanted any more.
    """
    current = _current.get()
    if current is None:
        return told.get()
    with current.waking(lambda: told.put(())):
        found = told.get()
    check()
    return found


def result_of(future: Future[T]) -> T:
    """The result of a future, as `Future.result` gives it.

    Raises:
        Cancelled: the call that waits for it is not wanted any more. The future goes on.
    """
    current = _current.get()
    if current is not None:
        woken = threading.Event()
        future.add_done_callback(lambda _: woken.set())
        with current.waking(woken.set):
            woken.wait()
        if not future.done():
            raise Cancelled
    return future.result()
