"""The tables that the benchmark prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from scripts.benchmark import goals
from scripts.benchmark.dataset import FILE, FOLDER, Dataset
from scripts.benchmark.row import GATEWAY, LOAD, STORE, Row
from scripts.benchmark.rows import REFERENCES, TITLES
from scripts.benchmark.usage import Sample

_BY_SIZE = (STORE, LOAD, GATEWAY)


def show(dataset: Dataset, rows: Sequence[Row], results: Mapping[str, Sequence[Sample]], far: bool) -> list[str]:
    """Lines of a table for each group of rows, and the goals of its rows."""
    lines: list[str] = []
    for group, title in TITLES.items():
        chosen = [row for row in rows if row.group == group and results[row.key]]
        if chosen:
            lines += _table(title, group, dataset, chosen, results)
            for row in chosen:
                for goal, value, enough in goals.reached(row.key, dataset, far, results):
                    lines.append(
                        f"  goal of {row.key}: {goal}; it is {value:.3g}{'' if enough else ', which misses it'}"
                    )
            lines.append("")
    return lines


def _table(
    title: str, group: str, dataset: Dataset, rows: Sequence[Row], results: Mapping[str, Sequence[Sample]]
) -> list[str]:
    references = [row for row in rows if row.key in REFERENCES[group]]
    rate = group in _BY_SIZE and dataset.kind in (FILE, FOLDER)
    header = [f"{title}: {dataset.name}", "s", "from - to"]
    header += ["files/s" if dataset.kind == FOLDER else "MB/s"] if rate else []
    header += [f"x {row.key}" for row in references] + ["CPU s", "peak MiB", "on the disk", "and"]
    cells = [header]
    for row in rows:
        samples = results[row.key]
        seconds = [sample.seconds for sample in samples]
        middle = median(seconds)
        digits = 2 if middle >= 1 else 3
        line = [row.title, f"{middle:.{digits}f}", f"{min(seconds):.{digits}f} - {max(seconds):.{digits}f}"]
        amount = dataset.files if dataset.kind == FOLDER else dataset.bytes / 1e6
        line += [f"{amount / middle:,.0f}"] if rate else []
        line += [f"{median(sample.seconds for sample in results[each.key]) / middle:.2f}" for each in references]
        line += [_sides(samples, "cpu", ".2f"), _sides(samples, "peak", ".0f"), row.durable, _figures(samples)]
        cells.append(line)
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    left = (0, len(header) - 2, len(header) - 1)
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _sides(samples: Sequence[Sample], what: str, form: str) -> str:
    """The medians of each side, such as "3.1 + 2.0"."""
    parts: list[str] = []
    for side in samples[0].sides:
        known = [value for sample in samples if (value := getattr(sample.sides[side], what)) is not None]
        parts.append(format(median(known), form) if known else "?")
    return " + ".join(parts)


def _figures(samples: Sequence[Sample]) -> str:
    """The medians of a row's own figures."""
    return ", ".join(f"{name} {median(sample.figures[name] for sample in samples):.4g}" for name in samples[0].figures)
