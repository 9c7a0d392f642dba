"""Where the console commands begin: `store_main` here is `store_main` of `main`, and so on.

Reading our modules takes a moment. Ctrl-C in it is an interruption like any other, and not a stack trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

INTERRUPTED = 130


def _run(name: str) -> None:
    try:
        from kachery_cloud.commands import main as cli

        getattr(cli, name)()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("Error: Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def __getattr__(name: str) -> Callable[[], None]:
    if name != "main" and not name.endswith("_main"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_run, name)
