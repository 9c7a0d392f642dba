"""The router that this machine's default route leads to, found without sending anything."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_UP_AND_GATEWAY = 0x3


class HomeRouter(NamedTuple):
    """IPv4 addresses: the router's, and ours on the interface that leads to it."""

    address: str
    local: str


def default_gateway() -> HomeRouter | None:
    """The IPv4 gateway of the default route with the lowest metric; `None` without one, or where it cannot be found."""
    address = _from_proc() if sys.platform.startswith("linux") else _from_route_command()
    if address is None:
        return None
    # Connecting a datagram socket sends nothing: it only makes the kernel choose our address for that way.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return None
        return HomeRouter(address, sock.getsockname()[0])


def parse_proc_route(table: str) -> str | None:
    """The gateway of the best default route in the text of `/proc/net/route`."""
    best: tuple[int, str] | None = None
    for line in table.splitlines()[1:]:
        cells = line.split()
        if len(cells) < 8 or cells[1] != "00000000" or cells[7] != "00000000":
            continue
        if int(cells[3], 16) & _UP_AND_GATEWAY != _UP_AND_GATEWAY:
            continue
        route = (int(cells[6]), socket.inet_ntoa(struct.pack("=L", int(cells[2], 16))))
        best = min(best, route) if best else route
    return best[1] if best else None


def _from_proc() -> str | None:
    # The table is that of the reading thread's network namespace.
    try:
        return parse_proc_route(Path("/proc/thread-self/net/route").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _from_route_command() -> str | None:
    """Ask `route`: macOS and the BSDs have no such file."""
    try:
        done = subprocess.run(["route", "-n", "get", "default"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"gateway:\s*(\S+)", done.stdout)
    try:
        return str(ipaddress.IPv4Address(found[1])) if found else None
    except ValueError:
        return None
