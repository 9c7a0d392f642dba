"""What each row should reach, in one table, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scripts.benchmark.dataset import FILE, FOLDER, START, SWARM, VALUES, Dataset
from scripts.benchmark.usage import Sample

_GIB = 1 << 30
#: A file smaller than this says nothing of CPU seconds for each GiB: what a load costs by itself would count for much.
_LEAST_FOR_RATES = 256 << 20


@dataclass(frozen=True)
class Goal:
    """One figure of one row.

    Attributes:
        row: its key.
        kind: of the dataset.
        figure: `s`, `CPU s/GiB` of all sides, `MiB` of the side that has most, or one of the row's own figures.
        most: it should be at most this.
        least: or at least this.
        times: with it, the bound is so many times the seconds of that row.
        far: whether it is meant over long lines (True), on one machine (False) or both (None).
    """

    row: str
    kind: str
    figure: str
    most: float | None = None
    least: float | None = None
    times: str | None = None
    far: bool | None = False

    def __str__(self) -> str:
        sign, bound = ("<=", self.most) if self.most is not None else (">=", self.least)
        return f"{self.figure} {sign} {bound:g}" + (f" x {self.times}" if self.times else "")


GOALS: tuple[Goal, ...] = (
    Goal("load-own", FILE, "s", most=0.5, times="kubo-pin-kubo"),
    Goal("load-own", FILE, "CPU s/GiB", most=6),
    Goal("load-own", FILE, "MiB", most=150),
    Goal("load-kubo", FILE, "CPU s/GiB", most=9),
    Goal("store", FILE, "s", most=0.2, times="kubo-add"),
    Goal("load-own", FOLDER, "s", most=1, times="kubo-pin-kubo"),
    Goal("load-own", FOLDER, "s", most=1, times="rsync", far=None),
    Goal("gateway-own", FILE, "s", most=1.43, times="nginx-curl"),
    Goal("gateway-own", FOLDER, "s", most=3, times="load-own"),
    Goal("store-json", VALUES, "values/s", least=1500),
    Goal("store-json-threads", VALUES, "values/s", least=1500),
    Goal("store-json-processes", VALUES, "values/s", least=1500),
    Goal("swarm-8", SWARM, "copies sent by the source", most=2, far=None),
    Goal("start", START, "s", most=0.5),
    Goal("start-node", START, "s", most=0.15),
    Goal("help", START, "s", most=0.1),
    Goal("load-own", FILE, "s", most=1.11, times="nginx-curl", far=True),
    Goal("first-own", START, "round trips each", most=4, far=True),
    Goal("read-own", FILE, "s", most=1.1, times="read-nginx", far=True),
)


def reached(
    row: str, dataset: Dataset, far: bool, results: Mapping[str, Sequence[Sample]]
) -> list[tuple[Goal, float, bool]]:
    """The goals of a row that can be judged by these results, what the figure was, and whether that is enough."""
    judged: list[tuple[Goal, float, bool]] = []
    for goal in GOALS:
        if (goal.row, goal.kind) != (row, dataset.kind) or goal.far not in (None, far):
            continue
        value = _figure(goal.figure, dataset, results[row])
        if value is None:
            continue
        if goal.times is not None:
            reference = results.get(goal.times)
            if not reference:
                continue
            value /= median(sample.seconds for sample in reference)
        enough = value <= goal.most if goal.most is not None else goal.least is not None and value >= goal.least
        judged.append((goal, value, enough))
    return judged


def _figure(name: str, dataset: Dataset, samples: Sequence[Sample]) -> float | None:
    """The median of a figure; None where it is not known."""
    if name == "s":
        return median(sample.seconds for sample in samples)
    if name == "MiB":
        peaks = [use.peak for sample in samples for use in sample.sides.values() if use.peak is not None]
        return max(peaks, default=None)
    if name == "CPU s/GiB":
        used = [cpu for sample in samples if (cpu := sample.cpu) is not None]
        return None if not used or dataset.bytes < _LEAST_FOR_RATES else median(used) * _GIB / dataset.bytes
    values = [sample.figures[name] for sample in samples if name in sample.figures]
    return median(values) if values else None
