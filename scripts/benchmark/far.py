"""Where the two sides of a measurement are: both on this machine, or on two machines of a lab with a long line between.

The lines are those that scientists have: to a laboratory of the same continent and to one of another, a network of 100
Mbit/s and one of 1 Gbit/s, with and without losses, and each congestion control that this kernel has.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from scripts.lab import Lab, LongLine, unavailable
from scripts.line import Line

MSS = 1448
DELAYS = {"25ms": 0.025, "100ms": 0.1}
RATES = {"100mbit": 100e6, "1gbit": 1e9}
LOSSES = {"0%": 0.0, "1%": 0.01}
CONTROLS = ("cubic", "bbr")
#: A bulk load takes about so many seconds where the line is all that limits it.
_BULK_SECONDS = 6.0
#: What cubic reaches where packets get lost, the square root of 1.5 / loss segments per round trip, for so long.
_LOSSY_SECONDS = 20.0
_LEAST = 4 << 20


@dataclass(frozen=True)
class Place:
    """A machine that something runs on: its address, and how a thread gets there."""

    address: str = "127.0.0.1"
    entered: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Surroundings:
    """Where the data are, where they are loaded to, and the line between."""

    source: Place = Place()
    reader: Place = Place()
    line: LongLine | None = None

    @property
    def round_trip(self) -> float | None:
        """Seconds; None on one machine."""
        return None if self.line is None else 2 * self.line.line.delay

    def wire_bytes(self) -> int:
        """What went over the line so far, both ways."""
        return 0 if self.line is None else sum(counts.bytes for counts in self.line.counts())


@dataclass(frozen=True)
class Setting:
    """A line, and the congestion control of both machines."""

    line: Line
    control: str

    def __str__(self) -> str:
        return f"{self.line}, {self.control}"

    @property
    def bulk_bytes(self) -> int:
        """How large a file is worth loading over it."""
        most = self.line.rate / 8 * _BULK_SECONDS
        if self.line.loss and self.control != "bbr":
            lossy = MSS / (2 * self.line.delay) * (1.5 / self.line.loss) ** 0.5
            most = min(most, lossy * _LOSSY_SECONDS)
        return max(_LEAST, int(most) >> 20 << 20)

    @contextmanager
    def surroundings(self) -> Iterator[Surroundings]:
        """Two machines with the line between them.

        Raises:
            LabError: they cannot be made.
        """
        with Lab() as lab:
            source, reader = lab.host("source"), lab.host("reader")
            line = lab.line(source, reader, self.line, control=self.control)
            yield Surroundings(Place(source.address, source.entered), Place(reader.address, reader.entered), line)


def missing() -> str | None:
    """Why there can be no long lines here; None where there can."""
    return unavailable()


def settings(chosen: str, known: list[str]) -> list[Setting]:
    """The lines that words such as `25ms,1gbit` choose: of each property those that are named, or all. `all` is all.

    Args:
        chosen: the words, separated by commas.
        known: the congestion controls of this kernel.

    Raises:
        ValueError: a word is none of those that are known.
    """
    words = {word for word in re.split(r"[,\s]+", chosen.lower()) if word} - {"all"}
    controls = {name: name for name in CONTROLS if name in known}
    properties = (DELAYS, RATES, LOSSES, controls)
    unknown = words - {word for each in properties for word in each}
    if unknown:
        names = ", ".join(word for each in properties for word in each)
        raise ValueError(f"{', '.join(sorted(unknown))}: a line is chosen by {names}, or all")
    left = [[value for word, value in each.items() if word in words or not words & each.keys()] for each in properties]
    made: list[Setting] = []
    for delay, rate, loss, control in itertools.product(*left):
        assert isinstance(delay, float)
        assert isinstance(rate, float)
        assert isinstance(loss, float)
        made.append(Setting(Line(delay, rate, loss), str(control)))
    return made
