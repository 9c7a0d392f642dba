"""What processes use: CPU seconds and peak memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """CPU seconds spent, and the most memory that was resident, in MiB (None where it is not known)."""

    cpu: float | None
    peak: float | None

    def plus(self, other: Usage) -> Usage:
        """Both together, as one side: their CPU seconds, and the higher peak."""
        peaks = [peak for peak in (self.peak, other.peak) if peak is not None]
        cpu = None if self.cpu is None or other.cpu is None else self.cpu + other.cpu
        return Usage(cpu, max(peaks, default=None))


@dataclass(frozen=True)
class Sample:
    """One run of one row: the seconds it took, what each side used, by the name of the side, and other figures."""

    seconds: float
    sides: dict[str, Usage]
    figures: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def cpu(self) -> float | None:
        """CPU seconds of all sides; None where that of one is not known."""
        used = [use.cpu for use in self.sides.values()]
        return None if None in used else sum(cpu for cpu in used if cpu is not None)


class Meter:
    """What a running process uses from now on, with those of its children that have ended. Linux only."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._start = self._cpu()
        try:
            (self._proc / "clear_refs").write_text("5")  # the peak counts from here
        except OSError:
            pass

    def read(self) -> Usage:
        """The use since the meter was made."""
        now = self._cpu()
        cpu = None if now is None or self._start is None else now - self._start
        return Usage(cpu, self._peak())

    def _cpu(self) -> float | None:
        try:
            # The name, in brackets, may have blanks; user and system time are the 12th and 13th field behind it, and
            # those of ended children follow.
            fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return sum(map(int, fields[11:15])) / _TICKS

    def _peak(self) -> float | None:
        try:
            lines = (self._proc / "status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


class ChildrenMeter:
    """What processes that this one starts from now on use, and that have ended when it is read."""

    def __init__(self) -> None:
        self._start = self._cpu()

    def read(self) -> Usage:
        """Their CPU seconds; their memory is not known."""
        return Usage(self._cpu() - self._start, None)

    def _cpu(self) -> float:
        used = os.times()
        return used.children_user + used.children_system


def run_measured(side: str, *commands: Sequence[str], env: Mapping[str, str] | None = None) -> Sample:
    """Runs commands one after the other: their time, the sum of their CPU seconds and the highest peak.

    `env` is their environment, where it is not that of this process. Linux counts what a process has before it becomes
    the command, a copy of this one, as memory of the command: a peak that is not above that is not known.

    Raises:
        subprocess.CalledProcessError: one fails.
    """
    cpu, peak = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    least = peak
    began = time.monotonic()
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        cpu += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss)
    unit = 1 if sys.platform == "darwin" else 1024
    return Sample(time.monotonic() - began, {side: Usage(cpu, peak * unit / _MIB if peak > least else None)})
