"""Which machine this is, so that the processes of a data directory can tell another machine from a process that died.

A home directory may be shared by several machines. Process numbers and sockets mean nothing on another one.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import NamedTuple

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MACHINE_ID = "/etc/machine-id"


class Host(NamedTuple):
    """A machine: its name, which of its starts this is, and the number it was given when it was installed. The last two
    are empty where the system does not tell them."""

    name: str
    boot: str = ""
    machine: str = ""

    def is_same(self, other: Host) -> bool:
        """Whether both are one machine, restarted or not. Containers of one machine are that machine."""
        if self.boot and self.boot == other.boot:
            return True
        # Machines that were copied from one image have the same number, so the name must be the same, too.
        numbered = not (self.machine and other.machine) or self.machine == other.machine
        return self.name == other.name and numbered


@lru_cache(maxsize=1)
def this_host() -> Host:
    """The machine that this process runs on."""
    return Host(socket.gethostname() or "unnamed", _line(_BOOT_ID), _line(_MACHINE_ID))


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(128).strip()
    except (OSError, UnicodeDecodeError):
        return ""
