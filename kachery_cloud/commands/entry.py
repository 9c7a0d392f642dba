"""Where the console commands begin: `main` here is `kachery-cloud`, `store_main` is `kachery-cloud-store`, and so on.

Reading our modules takes a moment. Ctrl-C in it is an interruption like any other, and not a stack trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

INTERRUPTED = 130


def _run(name: str) -> None:
    try:
        from kachery_cloud.commands.main import main, run

        if name == "main":
            main()
        else:
            run(name.removesuffix("_main").replace("_", "-"))
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("Error: Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def __getattr__(name: str) -> Callable[[], None]:
    if name != "main" and not name.endswith("_main"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_run, name)
