"""What processes use: CPU seconds and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    """One run of one row: the seconds it took and what each side used, by the name of the side."""

    seconds: float
    sides: dict[str, Usage]


class Meter:
    """What a running process uses from now on. Linux only; elsewhere nothing is known."""

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
            # The name, in brackets, may have blanks; user and system time are the 12th and 13th field behind it.
            fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / _TICKS

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


def run_measured(side: str, *commands: Sequence[str]) -> Sample:
    """Runs commands one after the other: their time, the sum of their CPU seconds and the highest peak.

    Raises:
        subprocess.CalledProcessError: one fails.
    """
    cpu, peak = 0.0, 0.0
    began = time.monotonic()
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        cpu += used.ru_utime + used.ru_stime
        unit = 1 if sys.platform == "darwin" else 1024
        peak = max(peak, used.ru_maxrss * unit / _MIB)
    return Sample(time.monotonic() - began, {side: Usage(cpu, peak)})
