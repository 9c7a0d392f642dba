"""Measures storing and loading, side by side with Kubo, Helia, cp, scp, rsync and nginx, and prints tables of medians.

Everything runs on this machine over loopback, or with --wan over an emulated long line (Linux, root). Each run has a
fresh data directory and the input in the page cache; the rows take turns, in alternating order. MB are 10^6 bytes. A
ratio says how many times as fast as that row it was. Goals are those of docs/design.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scripts.benchmark import compare, far, machine, memory, tables
from scripts.benchmark.dataset import Dataset, big_file, small_files, start_file, swarm_file, values
from scripts.benchmark.far import Surroundings
from scripts.benchmark.row import Row
from scripts.benchmark.rows import ROWS
from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import Sample
from scripts.lab import congestion_controls
from scripts.peers import PeerError
from scripts.workstation import WorkstationError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SWARM_BYTES = 200 * 10**6
_VALUES = 3000

Results = dict[str, list[Sample]]


@dataclass(frozen=True)
class Scene:
    """Where rows are measured, and with what."""

    name: str
    around: AbstractContextManager[Surroundings]
    datasets: list[Dataset]


def main() -> int:
    """Parses the command line, measures, prints. Returns the exit code: 1 where a row failed."""
    options = _options()
    if options.compare:
        return compare.main(*options.compare)
    is_far = options.wan is not None
    rows = _available([row for row in select(options.rows) if options.before or not row.before], is_far)
    report: dict[str, Any] = {"machine": machine.describe(), "peers": {}, "runs": options.runs, "datasets": []}
    if not options.json:
        print("\n".join(f"{key:8}{value}" for key, value in report["machine"].items()))
        print(f"{'runs':8}{options.runs}, medians\n", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="kachery-bench-", dir=options.dir) as name:
        folder = Path(name)
        for scene in _far_scenes(folder, options) if is_far else [_scene(folder, options)]:
            with scene.around as around:
                for dataset in scene.datasets:
                    chosen = [row for row in rows if dataset.kind in row.kinds]
                    if not chosen:
                        continue
                    stage = Stage(folder / "stage", dataset, around, options.before)
                    results, versions = measure(stage, folder, chosen, options.runs)
                    report["peers"].update(versions)
                    report["datasets"].append(_as_json(scene.name, dataset, results))
                    failed = failed or any(len(samples) < options.runs for samples in results.values())
                    if not options.json:
                        if scene.name:
                            print(f"Over {scene.name}")
                        print("\n".join(tables.show(dataset, chosen, results, is_far)), flush=True)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("CPU and memory: of those that store or load + of the one they load from; of sshd no memory.")
        print("\n".join(f"{name}: {version}" for name, version in sorted(report["peers"].items())))
    return 1 if failed else 0


def measure(stage: Stage, folder: Path, rows: list[Row], runs: int) -> tuple[Results, dict[str, str]]:
    """Runs every row `runs` times, to and fro. Returns the samples of each, and the versions of the peers.

    A row whose peer fails has no sample of that run. Wrong bytes end all of it.
    """
    results: Results = {row.key: [] for row in rows}
    dataset, around = stage.dataset, stage.around
    try:
        for number in range(runs):
            for row in rows if number % 2 == 0 else reversed(rows):
                print(f"[{number + 1}/{runs}] {dataset.name}: {row.title} ... ", end="", file=sys.stderr, flush=True)
                memory.fill(folder)
                before = around.wire_bytes()
                try:
                    sample = row.run(stage)
                except (PeerError, WorkstationError, subprocess.SubprocessError) as error:
                    print(f"failed: {error}", file=sys.stderr, flush=True)
                    continue
                print(f"{sample.seconds:.2f} s", file=sys.stderr, flush=True)
                if around.line is not None:
                    sample.figures["MB on the wire"] = (around.wire_bytes() - before) / 1e6
                results[row.key].append(sample)
    finally:
        stage.close()
    return results, stage.versions


def _scene(folder: Path, options: argparse.Namespace) -> Scene:
    """All on this machine."""
    datasets = [big_file(folder, options.size)] if options.size else []
    datasets += [small_files(folder, count, size) for count, size in options.files]
    if options.size:
        datasets += [swarm_file(folder / "swarm", min(_SWARM_BYTES, options.size))]
    datasets += [start_file(folder / "start"), values(folder, _VALUES)]
    return Scene("", nullcontext(Surroundings()), datasets)


def _far_scenes(folder: Path, options: argparse.Namespace) -> Iterator[Scene]:
    """Over each of the long lines that were chosen."""
    for number, setting in enumerate(options.wan):
        place = folder / f"line-{number}"
        place.mkdir()
        size = min(options.size, setting.bulk_bytes)
        datasets = [start_file(place / "start")]
        datasets += [big_file(place, size)] if options.size else []
        datasets += [small_files(place, count, each) for count, each in options.files[:1]]
        datasets += [swarm_file(place / "swarm", size)] if options.size and not setting.line.loss else []
        yield Scene(str(setting), setting.surroundings(), datasets)


def _as_json(scene: str, dataset: Dataset, results: Results) -> dict[str, Any]:
    rows = {
        key: [
            {
                "seconds": sample.seconds,
                "sides": {side: {"cpu_s": use.cpu, "peak_mib": use.peak} for side, use in sample.sides.items()},
                "figures": sample.figures,
            }
            for sample in samples
        ]
        for key, samples in results.items()
    }
    name = f"{dataset.name}, {scene}" if scene else dataset.name
    return {"name": name, "bytes": dataset.bytes, "files": dataset.files, "rows": rows}


def _available(rows: list[Row], is_far: bool) -> list[Row]:
    """The rows that can be measured here; what is missing for the others is told."""
    rows = [row for row in rows if row.far or not is_far]
    reasons = {row.key: row.unavailable(is_far) for row in rows}
    for row in rows:
        if reasons[row.key] is not None:
            print(f"{row.title}: not measured, {reasons[row.key]}.", file=sys.stderr)
    return [row for row in rows if reasons[row.key] is None]


def select(names: str | None) -> list[Row]:
    """The rows of these keys, of which `load-*` stands for several."""
    if names is None:
        return list(ROWS)
    chosen: set[str] = set()
    for name in re.split(r"[,\s]+", names):
        found = {row.key for row in ROWS if fnmatchcase(row.key, name)} if name else set[str]()
        if name and not found:
            sys.exit(f"No such row: {name}. Rows are {', '.join(row.key for row in ROWS)}.")
        chosen |= found
    return [row for row in ROWS if row.key in chosen]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description=__doc__,
        epilog=textwrap.fill("Rows: " + ", ".join(row.key for row in ROWS) + ".", 100),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each row (3)")
    parser.add_argument("--size", type=_size, default=2**30, help="bytes of the big file, such as 256Mi (1Gi); 0: none")
    parser.add_argument(
        "--files", type=_folders, default="1000x10Ki,6000x4Ki", metavar="NxSIZE", help="folders of files (%(default)s)"
    )
    parser.add_argument("--rows", help="only these, separated by commas; load-* stands for several")
    parser.add_argument(
        "--wan", type=_lines, metavar="LINES", help="over long lines: all, or some, such as 25ms,1gbit,0%%,bbr"
    )
    parser.add_argument(
        "--before", type=_checkout, metavar="DIR", help="measure that checkout of ours too, with what is in its .venv"
    )
    parser.add_argument("--json", action="store_true", help="print every run as JSON instead of tables")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="only set two such reports side by side"
    )
    parser.add_argument("--dir", type=Path, help="where to work (the system's temporary directory)")
    return parser.parse_args()


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / ".venv" / "bin" / "python").exists():
        raise argparse.ArgumentTypeError(f"{path} has no environment in .venv; its scripts/test --fast makes one")
    return path


def _lines(text: str) -> list[far.Setting]:
    reason = far.missing()
    if reason is not None:
        raise argparse.ArgumentTypeError(f"no long lines can be made here: {reason}")
    try:
        return far.settings(text, congestion_controls())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _folders(text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for each in filter(None, text.split(",")):
        count, _, size = each.strip().partition("x")
        if not count.isdigit():
            raise argparse.ArgumentTypeError(f"{each!r} is not a number of files and their size, such as 1000x10Ki")
        found += [(int(count), _size(size))] if int(count) else []
    return found


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256Mi or 1GB")
    return int(match[1]) * _UNITS[match[2] or ""]


if __name__ == "__main__":
    sys.exit(main())
