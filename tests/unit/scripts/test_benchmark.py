"""The benchmark's own arithmetic: sides that are added up, and reports that are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark import compare
from scripts.benchmark.usage import ChildrenMeter, Meter, Usage


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
