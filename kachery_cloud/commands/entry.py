"""Where the console commands begin: `main` here is `kachery-cloud`, `store_main` is `kachery-cloud-store`, and so on.

Reading our modules takes a moment. Ctrl-C in it is an interruption like any other, and not a stack trace.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from collections.abc import Callable
from functools import partial

from kachery_cloud.commands.exit_codes import INTERRUPTED

#: Objects that are made before Python looks for garbage among them; its own 700 are right for smaller programs.
_YOUNG_OBJECTS = 20_000


def _run(name: str) -> None:
    # Nearly all that a command makes are parts of modules, and stay. To look through them again and again while they
    # are read, and once more when all is over, takes a fifth of a short command. These settings are the process's own,
    # so they are made where the process is a command, and nowhere else.
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
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
    finally:
        # All is done and said, and what is left is to say goodbye to peers. Whoever presses Ctrl-C now does not want to
        # wait for that, and a stack trace of it tells nobody anything.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Callable[[], None]:
    if name != "main" and not name.endswith("_main"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_run, name)
