"""Processes that kill themselves with -9 after so many steps that change the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from kachery_p2p.repo.catalog import Catalog

#: What changes the disk, beside the catalog.
STEPS = ("fsync", "fdatasync", "replace", "rename", "link", "symlink", "unlink", "rmdir", "ftruncate", "pwrite")


def die_after(steps: int) -> None:
    """Kill this process with -9 before the next step that changes the disk, when there were so many."""
    left = [steps]

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any, **kw: Any) -> Any:
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return act(*args, **kw)

        return do

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    Catalog.write = counted(Catalog.write)


def dies(steps: int, act: Callable[[], object]) -> bool:
    """Do something in a forked process that is killed after so many steps; whether it was killed before it was done.

    Raises:
        AssertionError: it failed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_after(steps)
            act()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0
