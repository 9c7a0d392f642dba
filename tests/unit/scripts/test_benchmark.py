"""The benchmark's own arithmetic: sides that are added up, and reports that are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark import compare, far, goals, tables
from scripts.benchmark.__main__ import select
from scripts.benchmark.dataset import FILE, SWARM, Dataset
from scripts.benchmark.rows import REFERENCES, ROWS, TITLES
from scripts.benchmark.usage import ChildrenMeter, Meter, Sample, Usage


def report(rows: dict[str, list[tuple[float, dict[str, float | None]]]]) -> dict[str, Any]:
    """A report of `--json` with these samples: seconds, and CPU seconds by side."""
    made = {
        key: [
            {"seconds": seconds, "sides": {side: {"cpu_s": cpu, "peak_mib": 1.0} for side, cpu in sides.items()}}
            for seconds, sides in samples
        ]
        for key, samples in rows.items()
    }
    return {
        "machine": {"cpu": "a CPU", "python": "3.11"},
        "runs": 3,
        "datasets": [{"name": "1 GiB", "rows": made}],
    }


def test_two_reports_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Medians of both, the change in percent, and the CPU seconds of all sides together; rows of one report alone
    are left out."""
    before = report(
        {"load": [(10.0, {"a": 4.0, "b": 4.0}), (30.0, {"a": 9.0, "b": 9.0}), (20.0, {"a": 6.0, "b": 4.0})], "gone": []}
    )
    after = report({"load": [(15.0, {"a": 2.0, "b": 3.0})], "new": [(1.0, {})]})
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, one in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps(one), encoding="utf-8")
    assert compare.main(*paths) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("load")]
    assert table == [["load", "20.00", "15.00", "-25", "%", "10.00", "5.00", "-50", "%"]]


def test_cpu_that_is_not_known_is_not_compared() -> None:
    """Where the CPU seconds of a side are not known, nothing is said of them."""
    samples = [{"seconds": 1.0, "sides": {"sshd": {"cpu_s": None}}}]
    (line,) = [each for each in compare.lines({"d": {"scp": samples}}, {"d": {"scp": samples}}) if "scp" in each]
    assert line.split() == ["scp", "1.00", "1.00", "+0", "%"]


def test_what_is_no_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another kind ends with its name and exit code 1."""
    path = tmp_path / "notes.json"
    path.write_text("[]", encoding="utf-8")
    assert compare.main(path, path) == 1
    assert str(path) in capsys.readouterr().err


def test_sides_are_added_up() -> None:
    """CPU seconds are summed, the peak is the higher one, and what is not known stays so."""
    assert Usage(1.0, 10.0).plus(Usage(2.0, None)) == Usage(3.0, 10.0)
    assert Usage(None, 5.0).plus(Usage(2.0, 7.0)) == Usage(None, 7.0)


@pytest.mark.skipif(sys.platform != "linux", reason="CPU seconds of a process come from /proc")
def test_commands_that_a_daemon_is_driven_by_count() -> None:
    """What a child used counts when it has ended, and only what was used since the meter was made."""
    spin = "import time\nwhile time.process_time() < {}: pass"
    subprocess.run([sys.executable, "-c", spin.format(0.3)], check=True)
    commands, ours = ChildrenMeter(), Meter(os.getpid())
    subprocess.run([sys.executable, "-c", spin.format(0.2)], check=True)
    used = commands.read().cpu
    assert used is not None
    assert used >= 0.15
    subprocess.run([sys.executable, "-c", spin.format(0.2)], check=True)
    more = commands.read().cpu
    assert more is not None
    assert more >= used + 0.15
    assert ours.read().cpu is not None


def samples(*seconds: float, cpu: float = 1.0, figures: dict[str, float] | None = None) -> list[Sample]:
    """Runs that took so long."""
    return [Sample(each, {"a": Usage(cpu, 100.0), "b": Usage(cpu, 50.0)}, figures or {}) for each in seconds]


def dataset(kind: str) -> Dataset:
    """A GiB, of which there is nothing."""
    return Dataset(kind, "1 GiB", Path("nowhere"), 2**30, 1, "")


def test_goals_are_judged_by_medians() -> None:
    """Seconds in times of another row, CPU seconds of all sides for each GiB, and figures of a row's own."""
    results = {"load-own": samples(3.0, 9.0, 4.0, cpu=3.5), "kubo-pin-kubo": samples(8.0)}
    judged = {
        goal.figure: (value, enough) for goal, value, enough in goals.reached("load-own", dataset(FILE), False, results)
    }
    assert judged == {"s": (0.5, True), "CPU s/GiB": (7.0, False), "MiB": (100.0, True)}
    swarm = {"swarm-8": samples(1.0, figures={"copies sent by the source": 7.5})}
    ((goal, value, enough),) = goals.reached("swarm-8", dataset(SWARM), True, swarm)
    assert (value, enough) == (7.5, False)
    assert str(goal) == "copies sent by the source <= 2"
    assert not [
        each for each in goals.reached("load-own", dataset(FILE), False, {"load-own": samples(1.0)}) if each[0].times
    ]


def test_every_goal_is_of_a_row_that_is_measured() -> None:
    """So is every reference; and each group has a title."""
    rows = {row.key: row for row in ROWS}
    assert len(rows) == len(ROWS)
    for goal in goals.GOALS:
        assert goal.kind in rows[goal.row].kinds
        assert goal.far is False or rows[goal.row].far
        assert goal.times is None or goal.kind in rows[goal.times].kinds
        assert (goal.most is None) != (goal.least is None)
    assert {name for names in REFERENCES.values() for name in names} <= rows.keys()
    assert {row.group for row in ROWS} == TITLES.keys() == REFERENCES.keys()


def test_tables_have_all_figures() -> None:
    """Medians, spread, ratios, both sides, the figures of the row, and its goals; a row that failed is left out."""
    rows = [row for row in ROWS if row.kinds == (SWARM,)]
    results = {
        "swarm-1": samples(2.0, 4.0, 3.0),
        "swarm-8": samples(6.0, cpu=1.25, figures={"copies sent by the source": 2.5}),
    }
    lines = tables.show(dataset(SWARM), rows, results, False)
    assert [line.split("  ")[0] for line in lines[:1]] == ["Swarm: 1 GiB"]
    assert all(part in lines[2] for part in ("3.00", "2.00 - 4.00"))
    assert all(part in lines[3] for part in ("1.25 + 1.25", "100 + 50", "0.50", "copies sent by the source 2.5"))
    assert "misses" in lines[4]
    assert not any("eight" in line for line in tables.show(dataset(SWARM), rows, {**results, "swarm-8": []}, False))


def test_rows_are_chosen_by_names_and_patterns() -> None:
    """In the order in which they are measured; a name that fits none is told."""
    assert [row.key for row in select("scp, swarm-*")] == ["scp", "swarm-1", "swarm-8"]
    assert select(None) == list(ROWS)
    with pytest.raises(SystemExit, match="nonsense"):
        select("scp,nonsense")


def test_long_lines_are_chosen_by_what_is_named() -> None:
    """Of each property those that are named, else all; lines that lose packets get less to carry with cubic."""
    assert len(far.settings("all", ["reno", "cubic", "bbr"])) == 16
    assert len(far.settings("25ms,1%", ["cubic"])) == 2
    (one,) = far.settings("100ms,1gbit,0%,bbr", ["cubic", "bbr"])
    assert (one.line.delay, one.line.rate, one.line.loss, one.control) == (0.1, 1e9, 0.0, "bbr")
    assert one.bulk_bytes > 700e6
    (lossy,) = far.settings("100ms,1gbit,1%,cubic", ["cubic", "bbr"])
    assert lossy.bulk_bytes < 10e6
    with pytest.raises(ValueError, match="bbr"):
        far.settings("bbr", ["cubic"])


def test_figures_of_rows_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that both reports have; a report of an older version has none, and a row that failed no sample."""
    reports = [report({"read": [(1.0, {"a": 1.0})], "failed": []}) for _ in range(3)]
    for each, value in zip(reports, (10.0, 5.0), strict=False):
        each["datasets"][0]["rows"]["read"][0]["figures"] = {"ms each": value}
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for path, one in zip(paths, reports, strict=True):
        path.write_text(json.dumps(one), encoding="utf-8")
    assert compare.main(*paths[:2]) == 0
    assert ["ms", "each", "10.00", "5.00", "-50", "%"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert compare.main(paths[0], paths[2]) == 0
    assert "ms each" not in capsys.readouterr().out
