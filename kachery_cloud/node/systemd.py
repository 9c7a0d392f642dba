"""Telling a service manager how the node is: the protocol of `sd_notify(3)`, which is one datagram of text.

systemd says in `NOTIFY_SOCKET` where it listens; where that is not set, nobody is told and nothing happens. With
`WatchdogSec=` in the unit it says in `WATCHDOG_USEC` how often it wants to hear that the program is alive, and starts
it anew when it does not.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*lines: str, environ: Mapping[str, str] | None = None) -> bool:
    """Tell the service manager, if there is one; whether it was told. Raises nothing.

    Args:
        lines: such as `READY=1`, `STOPPING=1`, `STATUS=...` (one line each).
        environ: that of the process where it is None.
    """
    path = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path  # a name without a file, as Linux has them
    text = "\n".join(line.replace("\n", " ") for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), address)
    except OSError:
        return False
    return True


def reloading(environ: Mapping[str, str] | None = None) -> None:
    """Say that settings are read again. `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", environ=environ)


def watchdog_seconds(environ: Mapping[str, str] | None = None) -> float | None:
    """How often the service manager wants to hear of this process; None where it does not."""
    env = os.environ if environ is None else environ
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(env.get("WATCHDOG_USEC", "")) / 1e6
    except ValueError:
        return None
    return seconds if seconds > 0 else None


async def keep_alive() -> None:
    """Say twice within the time that is asked for that the event loop runs, until cancelled."""
    import trio

    seconds = watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await trio.sleep(seconds / 2)
