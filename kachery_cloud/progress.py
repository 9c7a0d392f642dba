"""A bar for long work: on a terminal or in a notebook, and only when the work has lasted a moment.

with progress_bar("Loading session.nwb") as update:
    ...  # update(done, total), in bytes, or update(done, total, peers), from any thread
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from kachery_cloud.terminal import unfiltered
from kachery_p2p.text import printable

#: Seconds. Work that is over sooner needs no bar.
DELAY = 0.5


class Update(Protocol):
    """Reports bytes done, bytes in all, and where they come from others, by how many these are."""

    def __call__(self, done: int, total: int, peers: int = 0, /) -> None: ...


@contextmanager
def progress_bar(what: str, *, unit: str = "B", enabled: bool | None = None) -> Iterator[Update]:
    """A function to report progress to. `enabled` None: when somebody is there to see it."""
    bar = _Bar(what, unit, is_watched() if enabled is None else enabled)
    try:
        yield bar.update
    finally:
        bar.close()


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
        self._closed = False

    def update(self, done: int, total: int, peers: int = 0) -> None:
        if not self._enabled or (self._bar is None and time.monotonic() - self._begun < DELAY):
            return
        with self._lock:
            if self._closed:
                return
            if self._bar is None:
                if done >= total:
                    return
                from tqdm.auto import tqdm

                self._bar = tqdm(
                    desc=printable(self._what),  # names may come from strangers
                    total=total,
                    initial=done,
                    unit=self._unit,
                    unit_scale=True,
                    leave=False,
                    file=unfiltered(sys.stderr),
                )
            if total != self._bar.total:
                self._bar.total = total
            if peers:
                self._bar.set_postfix_str(f"{peers} peer{'' if peers == 1 else 's'}", refresh=False)
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.close()
