"""A fork waits for imports that other threads have under way.

Python gives a forked child the lock of a module that another thread was importing, with nobody to unlock it: the child
hangs when it imports that module itself. Much is imported here when it is first needed, so a process may well fork
while a thread of ours, or of anybody's, is at it. There is no public way to ask; this one is the same in all versions
of CPython from 3.3 on, and where it is not there nothing is waited for.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from typing import Any

#: Seconds that a fork waits: importing all that a node needs takes two on a slow machine.
IMPORT_SECONDS = 5.0
#: Seconds between two looks.
_LOOK_SECONDS = 0.002


def wait_for_imports(seconds: float = IMPORT_SECONDS) -> None:
    """Return when no other thread imports anything, or after some seconds."""
    me = threading.get_ident()
    end = time.monotonic() + seconds
    while True:
        owners = _owners()
        # One that imports itself may be what the others wait for.
        if not owners or me in owners or time.monotonic() > end:
            return
        time.sleep(_LOOK_SECONDS)  # nothing tells when an import ends


def _owners() -> list[int | None]:
    """The threads that are importing something, by number; None for one that is about to begin."""
    locks: dict[str, Any] = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})
    # A module's lock lives while somebody has it or waits for it.
    alive = [reference() for reference in list(locks.values())]
    return [_owner(lock) for lock in alive if lock is not None]


def _owner(lock: Any) -> int | None:
    return getattr(lock, "owner", None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait_for_imports)
