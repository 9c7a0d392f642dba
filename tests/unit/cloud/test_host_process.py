"""The packages are guests in the user's process: what belongs to the whole process is afterwards as it was before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.workstation import KEEP_TO_ITSELF

#: Takes down everything that belongs to a process, imports the package, stores, becomes the node, loads, fails to load,
#: stops; and takes it down after each of these steps. Prints what differs.
SCRIPT = r"""
import asyncio, decimal, faulthandler, gc, json, locale, logging, multiprocessing, os, random, resource, signal, socket
import sys, tempfile, threading, time, warnings
import numpy as np

def refuse(name):
    def refused(*args, **kwargs):
        raise AssertionError(f"{name} was called")
    return refused

# What acts on the whole process for a moment leaves no trace afterwards, so it must not be called at all.
for module, name in ((os, "umask"), (os, "chdir"), (os, "putenv"), (signal, "signal"), (signal, "setitimer"),
                     (locale, "setlocale"), (sys, "setrecursionlimit"), (socket, "setdefaulttimeout"),
                     (warnings, "catch_warnings"), (logging, "basicConfig"), (logging, "disable"), (gc, "disable"),
                     (multiprocessing, "set_start_method"), (np, "errstate"), (np, "seterr"), (random, "seed")):
    if hasattr(module, name):
        real = getattr(module, name)
        def guarded(*args, _name=name, _real=real, **kwargs):
            frame = sys._getframe(1)
            who = frame.f_globals.get("__name__", "")
            if who.partition(".")[0] in ("kachery_cloud", "kachery_p2p"):
                raise AssertionError(f"{who} calls {_name}")
            return _real(*args, **kwargs)
        if isinstance(real, type):
            guarded = type(name, (real,), {"__init__": lambda self, *a, _r=real, _n=name, **k: (
                refuse(_n)() if sys._getframe(1).f_globals.get("__name__", "").startswith("kachery_")
                else _r.__init__(self, *a, **k))})
        setattr(module, name, guarded)

def loggers():
    return {n: l for n, l in logging.root.manager.loggerDict.items() if isinstance(l, logging.Logger)}

FOREIGN = ("urllib3.", "requests.")  # their filters are about their own warnings

def snapshot():
    found = {
        "umask": [line for line in open("/proc/self/status") if line.startswith("Umask")],
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "signals": {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "wakeup": signal.set_wakeup_fd(-1),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "locale": [locale.localeconv(), locale.getlocale()],
        "root logger": [logging.root.level, [repr(h) for h in logging.root.handlers], repr(logging.root.filters),
                        logging.root.manager.disable, repr(logging.getLoggerClass()), logging.raiseExceptions,
                        repr(logging.getLogRecordFactory()), repr(logging.lastResort)],
        "log handlers": [repr(h) for l in loggers().values() for h in l.handlers
                         if not isinstance(h, logging.NullHandler)],
        "our levels": {n: l.level for n, l in loggers().items() if n.startswith("kachery") and l.level},
        "warning filters": [repr(each) for each in warnings.filters
                            if not f"{each[2].__module__}.".startswith(FOREIGN)],
        "showwarning": repr(warnings.showwarning),
        "hooks": [repr(h) for h in (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook,
                                    sys.breakpointhook, sys.gettrace(), sys.getprofile(), sys.get_asyncgen_hooks())],
        "import": [list(sys.path), [repr(each) for each in sys.meta_path], [repr(each) for each in sys.path_hooks],
                   sys.dont_write_bytecode],
        "limits of Python": [sys.getrecursionlimit(), getattr(sys, "get_int_max_str_digits", int)(),
                             sys.getswitchinterval(), threading.stack_size()],
        "sockets": [socket.getdefaulttimeout(), repr(socket.socket), repr(socket.getaddrinfo)],
        "garbage": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count(), gc.get_debug(), len(gc.callbacks)],
        "limits": {str(number): resource.getrlimit(number) for number in range(16)},
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "random": [hash(random.getstate()), hash(np.random.get_state()[1].tobytes())],
        "numpy": [np.geterr(), np.get_printoptions()],
        "decimal": repr(decimal.getcontext()),
        "processes": [multiprocessing.get_start_method(allow_none=True), repr(asyncio.get_event_loop_policy())],
        "faults": faulthandler.is_enabled(),
        "streams": [repr(each) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "temporary": tempfile.tempdir,
        "time zone": [time.tzname, os.environ.get("TZ")],
    }
    return json.loads(json.dumps(found, default=repr))

tempfile.gettempdir()  # found out on first use, by whomever
asyncio.get_event_loop_policy()
before = snapshot()
differences = []

def compare(step):
    after = snapshot()
    for key, value in before.items():
        if after[key] != value:
            differences.append(f"{step}: {key}: {value} -> {after[key]}")

import kachery_cloud as kcl
compare("import")
uri = kcl.store_npy(np.arange(1000), local=True)
kcl.store_pkl({"a": np.zeros(3)}, local=True)
compare("store")
assert kcl.status(start=True)["running"]
compare("node")
other = kcl.store_json({"a": 1})
assert kcl.load_json(other) == {"a": 1}
assert kcl.load_npy(uri).shape == (1000,)
try:
    kcl.load_text("ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu", timeout=0.5)
except kcl.ContentNotFound:
    pass
compare("load")
from kachery_cloud.node.connection import close_all
close_all()
compare("stop")
print(json.dumps(differences))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the umask can only be read without a change there")
@pytest.mark.parametrize("options", [(), ("-X", "dev")], ids=["as usual", "in development mode"])
def test_nothing_of_the_process_is_changed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Import, store, the node, a load, a load that fails, the node's end: umask, signals, logging, warnings ..."""
    environment = {**os.environ, **KEEP_TO_ITSELF, "KACHERY_CLOUD_DIR": str(tmp_path / "data")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    line = [sys.executable, *options, "-c", SCRIPT]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "AssertionError" not in done.stderr
