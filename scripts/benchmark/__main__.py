"""Measures storing and loading, side by side with Kubo, Helia, cp, scp, rsync and nginx, and prints tables of medians.

Everything runs on this machine over loopback, each run with a fresh data directory and the input in the page cache;
the rows take turns, in alternating order. MB are 10^6 bytes. A ratio says how many times as fast as that row it was.

`--compare A.json B.json` measures nothing: it sets two reports of `--json` side by side, row by row.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmark import compare, machine
from scripts.benchmark.dataset import Dataset, big_file, small_files
from scripts.benchmark.rows import GATEWAY, LOAD, REFERENCES, ROWS, STORE, Row
from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import Sample

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_GROUPS = {STORE: "Store", LOAD: "Load", GATEWAY: "Over HTTP"}

Results = dict[str, list[Sample]]


def main() -> int:
    """Parses the command line, measures, prints. Returns the exit code."""
    options = _options()
    if options.compare:
        return compare.main(*options.compare)
    rows = _selected(options.rows)
    skipped = {row.key: reason for row in rows if (reason := row.unavailable()) is not None}
    for row in rows:
        if row.key in skipped:
            print(f"{row.title}: not measured, {skipped[row.key]}.", file=sys.stderr)
    rows = [row for row in rows if row.key not in skipped]
    report: dict[str, Any] = {"machine": machine.describe(), "peers": {}, "runs": options.runs, "datasets": []}
    if not options.json:
        print("\n".join(f"{key:8}{value}" for key, value in report["machine"].items()))
        print(f"{'runs':8}{options.runs}, medians\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="kachery-bench-", dir=options.dir) as name:
        folder = Path(name)
        datasets = [big_file(folder, options.size)] if options.size else []
        datasets += [small_files(folder, options.files)] if options.files else []
        for dataset in datasets:
            chosen = [row for row in rows if not (row.big_only if dataset.is_folder else row.small_only)]
            results, versions = measure(folder / "stage", dataset, chosen, options.runs)
            report["peers"].update(versions)
            report["datasets"].append(_as_json(dataset, results))
            if not options.json:
                _print_tables(dataset, chosen, results)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{name}: {version}" for name, version in sorted(report["peers"].items())))
    return 0


def measure(folder: Path, dataset: Dataset, rows: list[Row], runs: int) -> tuple[Results, dict[str, str]]:
    """Runs every row `runs` times, to and fro. Returns the samples of each, and the versions of the peers."""
    results: Results = {row.key: [] for row in rows}
    folder.mkdir()
    stage = Stage(folder, dataset)
    try:
        for number in range(runs):
            for row in rows if number % 2 == 0 else reversed(rows):
                print(f"[{number + 1}/{runs}] {dataset.name}: {row.title} ... ", end="", file=sys.stderr, flush=True)
                sample = row.run(stage)
                print(f"{sample.seconds:.2f} s", file=sys.stderr, flush=True)
                results[row.key].append(sample)
    finally:
        stage.close()
    return results, stage.versions


def _print_tables(dataset: Dataset, rows: list[Row], results: Results) -> None:
    for group, title in _GROUPS.items():
        chosen = [row for row in rows if row.group == group]
        if not chosen:
            continue
        references = [row for row in chosen if row.key in REFERENCES[group]]
        header = [f"{title}: {dataset.name}", "s", "from - to", "files/s" if dataset.is_folder else "MB/s"]
        header += [f"x {row.title.partition(',')[0]}" for row in references]
        header += ["CPU s", "peak MiB", "on the disk"]
        lines = [header]
        for row in chosen:
            samples = results[row.key]
            seconds = [sample.seconds for sample in samples]
            line = [row.title, f"{median(seconds):.2f}", f"{min(seconds):.2f} - {max(seconds):.2f}"]
            amount = dataset.files if dataset.is_folder else dataset.bytes / 1e6
            line.append(f"{amount / median(seconds):,.0f}")
            line += [f"{_seconds(results, reference) / median(seconds):.2f}" for reference in references]
            line += [_sides(samples, "cpu", ".1f"), _sides(samples, "peak", ".0f"), row.durable]
            lines.append(line)
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for number, line in enumerate(lines):
            cells = [
                cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
            if number == 0:
                print("  ".join("-" * width for width in widths))
        print(flush=True)
    print("CPU and memory: of the process that stores or loads + of the one it loads from (not known for sshd).\n")


def _seconds(results: Results, row: Row) -> float:
    return median(sample.seconds for sample in results[row.key])


def _sides(samples: list[Sample], what: str, form: str) -> str:
    """The medians of each side, such as "3.1 + 2.0"."""
    parts: list[str] = []
    for side in samples[0].sides:
        known = [value for sample in samples if (value := getattr(sample.sides[side], what)) is not None]
        parts.append(format(median(known), form) if known else "?")
    return " + ".join(parts)


def _as_json(dataset: Dataset, results: Results) -> dict[str, Any]:
    rows = {
        key: [
            {
                "seconds": sample.seconds,
                "sides": {side: {"cpu_s": use.cpu, "peak_mib": use.peak} for side, use in sample.sides.items()},
            }
            for sample in samples
        ]
        for key, samples in results.items()
    }
    return {"name": dataset.name, "bytes": dataset.bytes, "files": dataset.files, "rows": rows}


def _selected(names: str | None) -> list[Row]:
    known = {row.key: row for row in ROWS}
    if names is None:
        return list(ROWS)
    wanted = [name for name in re.split(r"[,\s]+", names) if name]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"No such row: {', '.join(unknown)}. Rows are {', '.join(known)}.")
    return [row for row in ROWS if row.key in wanted]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each row (3)")
    parser.add_argument("--size", type=_size, default=2**30, help="bytes of the big file, such as 256Mi (1Gi); 0: none")
    parser.add_argument("--files", type=int, default=1000, help="how many small files (1000); 0: none")
    parser.add_argument("--rows", help="only these, separated by commas: " + ", ".join(row.key for row in ROWS))
    parser.add_argument("--json", action="store_true", help="print every run as JSON instead of tables")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="set two such reports side by side"
    )
    parser.add_argument("--dir", type=Path, help="where to work (the system's temporary directory)")
    return parser.parse_args()


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256Mi or 1GB")
    return int(match[1]) * _UNITS[match[2] or ""]


if __name__ == "__main__":
    sys.exit(main())
