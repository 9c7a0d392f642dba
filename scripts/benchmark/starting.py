"""Rows that start a command: what takes time is Python, what it imports, and the way to the first byte."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import Meter, Sample, run_measured
from scripts.workstation import KEEP_TO_ITSELF, Workstation


def help_text(stage: Stage) -> Sample:
    """`kachery-cloud-load --help`."""
    with stage.fresh_folder() as folder:
        return run_measured("own", [_command(), "--help"], env=_env(folder))


def load(stage: Stage, *, node: bool) -> Sample:
    """`kachery-cloud-load` of a small file, from a peer whose address is given; with a node that runs, or without."""
    source = stage.own()
    with stage.fresh_folder() as folder, Workstation(folder) as station:
        if node:
            station.start()
        server = Meter(source.pid)
        local = Meter(station.node.pid) if node else None
        sample = run_measured("own", [_command(), source.cid, "--peer", source.addr], env=_env(folder))
        sides = {**sample.sides, **({"node": local.read()} if local else {}), "from own": server.read()}
        stage.dataset.check(Path(station.call("say(kcl.load_file(args[0], local_only=True))", source.cid)))
        return Sample(sample.seconds, sides)


def _command() -> str:
    return str(Path(sys.executable).with_name("kachery-cloud-load"))


def _env(folder: Path) -> dict[str, str]:
    return {**os.environ, **KEEP_TO_ITSELF, "KACHERY_CLOUD_DIR": str(folder / "data")}
