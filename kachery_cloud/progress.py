"""How far long work is: a bar on a terminal or in a notebook, once it has lasted a moment; or a function of the user.

with progress_bar("Loading session.nwb") as update:
    ...  # update(done, total), in bytes, or update(done, total, peers, here), from any thread
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kachery_cloud.cancelling import check
from kachery_cloud.errors import InvalidArgument
from kachery_cloud.terminal import unfiltered
from kachery_p2p.text import printable

#: Seconds. Work that is over sooner needs no bar.
DELAY = 0.5

#: Seconds between two calls of a function of the user: no more often than a screen shows.
PAUSE = 0.1

log = logging.getLogger("kachery_cloud.progress")


class Update(Protocol):
    """Reports bytes done and in all; of a load, from how many others they come, and how many bytes were here before."""

    def __call__(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None: ...


@dataclass(frozen=True)
class Progress:
    """How far a store, a load or a check is.

    Attributes:
        what: what is done, for people: "Loading session.nwb".
        done: bytes that are done. A load that goes on counts what was here already.
        total: bytes in all, as far as is known by now.
        seconds: since it began.
        peers: of a load, how many peers and gateways have sent any of it.
        here: of a load, bytes of `done` that were here already. They are found as it goes on: how fast it is, and how
            long it will take, follows from `done - here`.
    """

    what: str
    done: int
    total: int
    seconds: float
    peers: int = 0
    here: int = 0


Watcher = Callable[[Progress], object]

_watcher: ContextVar[Watcher | Literal[False] | None] = ContextVar("kachery_cloud_progress", default=None)


def progress_to(watcher: Watcher | Literal[False]) -> AbstractContextManager[None]:
    """Have a function of yours told how far stores and loads are, instead of a bar; or nobody.

    Args:
        watcher: called with a `Progress` up to ten times a second, and when the work is done. It may be called from
            another thread, and should return soon. An error in it is logged, and it is not called again for that work.
            False shows nothing at all.

    Raises:
        InvalidArgument: it is no function.

    Example:
        >>> with kcl.progress_to(lambda step: print(f"{step.what}: {step.done} of {step.total} bytes")):
        ...     uri = kcl.store_text("example text", local=True)
    """
    if watcher is not False and not callable(watcher):
        raise InvalidArgument(f"progress_to takes a function, or False, not {type(watcher).__name__}.")
    return _telling(watcher)


@contextmanager
def _telling(watcher: Watcher | Literal[False]) -> Iterator[None]:
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def progress_bar(what: str, *, unit: str = "B", enabled: bool | None = None) -> Iterator[Update]:
    """A function to report progress to. `enabled` None: when somebody is there to see it."""
    watcher = _watcher.get()
    shown: _Shown
    if watcher:
        shown = _Reports(what, watcher)
    else:
        shown = _Bar(what, unit, watcher is None and (is_watched() if enabled is None else enabled))
    try:
        yield shown.update
        shown.finish()
    finally:
        shown.close()


class _Shown(Protocol):
    def update(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class _Reports:
    """For a function of the user, which is called by one thread at a time."""

    def __init__(self, what: str, watcher: Watcher) -> None:
        self._what = what
        self._watcher: Watcher | None = watcher
        self._begun = time.monotonic()
        self._due = self._begun
        self._last: tuple[int, int, int, int] | None = None
        self._told: tuple[int, int, int, int] | None = None
        self._lock = threading.Lock()

    def update(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None:
        check()
        with self._lock:
            self._last = done, total, peers, here
            now = time.monotonic()
            if now >= self._due:
                self._due = now + PAUSE
                self._tell(now)

    def finish(self) -> None:
        with self._lock:
            if self._last is not None:
                _, total, peers, here = self._last
                self._last = total, total, peers, here
                if self._last != self._told:
                    self._tell(time.monotonic())

    def close(self) -> None:
        with self._lock:
            self._watcher = None

    def _tell(self, now: float) -> None:
        if self._watcher is None or self._last is None:
            return
        self._told = self._last
        try:
            done, total, peers, here = self._last
            self._watcher(Progress(self._what, done, total, now - self._begun, peers, here))
        except Exception:
            # What is stored or loaded does not suffer from it, and neither do others that the node works for.
            log.exception("the function that is told of the progress failed; it is not called again")
            self._watcher = None


def is_watched() -> bool:
    """Whether somebody is there to see what is said on stderr: on a terminal, or in a notebook."""
    if os.environ.get("TERM") == "dumb":
        return False
    if "ipykernel" in sys.modules:
        return True
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # no stderr (pythonw), or a closed one
        return False


class _Bar:
    def __init__(self, what: str, unit: str, enabled: bool) -> None:
        self._what = what
        self._unit = unit
        self._enabled = enabled
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None
        #: What was here before, as far as the bar has it.
        self._here = 0
        self._closed = False

    def update(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None:
        check()
        if not self._enabled or (self._bar is None and time.monotonic() - self._begun < DELAY):
            return
        with self._lock:
            if self._closed:
                return
            if self._bar is None:
                if done >= total:
                    return
                self._bar = _bar_class()(
                    desc=printable(self._what),  # names may come from strangers
                    total=total,
                    initial=done,
                    unit=self._unit,
                    unit_scale=True,
                    leave=False,
                    file=unfiltered(sys.stderr),
                )
                self._here = here
            if total != self._bar.total:
                self._bar.total = total
            if peers:
                self._bar.set_postfix_str(f"{peers} peer{'' if peers == 1 else 's'}", refresh=False)
            # What was here before is part of what is done, and none of the speed, from which the time left follows.
            found = min(here - self._here, done - self._bar.n)
            if found > 0:
                self._here += found
                self._bar.initial += found
                self._bar.n += found
                self._bar.last_print_n += found
            self._bar.update(done - self._bar.n)

    def finish(self) -> None:
        pass  # the bar goes away

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.close()


def _bar_class() -> Any:
    """A bar of widgets in a notebook that can show them; elsewhere one of text."""
    if "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is None:
        from tqdm.std import tqdm  # `tqdm.auto` would warn that widgets are missing
    else:
        from tqdm.auto import tqdm
    return tqdm
