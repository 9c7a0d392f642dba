"""Two reports of the benchmark side by side: how each row changed from the first to the second."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any


def main(first: Path, second: Path) -> int:
    """Prints the comparison. Returns the exit code: 1 where a file is no report of `--json`."""
    reports: list[Any] = []
    for path in (first, second):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            reports.append({each["name"]: each["rows"] for each in report["datasets"]})
            print(f"{path}: {report['machine']['cpu']}, Python {report['machine']['python']}, {report['runs']} runs")
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path} is no report of --json: {error}", file=sys.stderr)
            return 1
    for line in lines(*reports):
        print(line)
    return 0


def lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A table of each dataset that both have: medians of the seconds, of all CPU seconds, and of figures of the row.

    Args:
        before: the rows of each dataset, by its name, as `--json` writes them.
        after: the same of the second report.
    """
    told: list[str] = []
    for name in before:
        if name not in after:
            continue
        told += ["", f"{name:<24}{'s':>16}{'':>8}{'CPU s':>18}"]
        for key, samples in before[name].items():
            later = after[name].get(key)
            if samples and later:
                told.append(f"{key:<24}" + _change(samples, later, _seconds) + _cpu_change(samples, later))
                told += _figure_changes(samples, later)
    return told


def _figure_changes(before: list[Any], after: list[Any]) -> list[str]:
    """A line for each figure of the row's own; reports of older versions have none."""
    names = [name for name in before[0].get("figures", {}) if name in after[0].get("figures", {})]
    return [
        f"  {name:<22}" + _change(before, after, lambda sample, name=name: sample["figures"][name]) for name in names
    ]


def _seconds(sample: Any) -> float:
    return sample["seconds"]


def _cpu(sample: Any) -> float | None:
    used = [side["cpu_s"] for side in sample["sides"].values()]
    return None if None in used else sum(used)


def _change(before: list[Any], after: list[Any], figure: Any) -> str:
    old, new = (median(figure(sample) for sample in samples) for samples in (before, after))
    percent = f"{100 * (new / old - 1):+.0f} %" if old else ""
    return f"{old:>8.2f}{new:>8.2f}{percent:>8}"


def _cpu_change(before: list[Any], after: list[Any]) -> str:
    return _change(before, after, _cpu) if None not in [_cpu(sample) for sample in (*before, *after)] else ""
