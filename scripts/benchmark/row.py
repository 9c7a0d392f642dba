"""What a row of the benchmark is, and what several kinds of rows share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import Sample

STORE, LOAD, GATEWAY, READ, SWARM_LOAD, STARTING = "store", "load", "gateway", "read", "swarm", "start"

SYNCED = "synced"
NOT_SYNCED = "not synced"
NOTHING = "nothing to sync"

#: Reads all of a file or folder and hashes it.
HASH_PASS = """
import hashlib, os, sys
def each(path):
    if os.path.isdir(path):
        for name in sorted(os.listdir(path)): yield from each(os.path.join(path, name))
    else: yield path
for path in each(sys.argv[1]):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20): digest.update(piece)
"""


def _always(far: bool) -> str | None:
    del far
    return None


@dataclass(frozen=True)
class Row:
    """One line of a table: does one thing once, with a fresh data directory, and says what it took.

    Attributes:
        key: its name on the command line and in reports.
        group: the table that it is in.
        title: what is printed.
        durable: what is safe on the disk when the clock stops.
        kinds: of the datasets that it is for.
        run: measures it.
        unavailable: why it cannot be measured here, or None; the argument says whether over a long line.
        far: whether it is measured over long lines, too.
        before: whether it measures the other checkout, of `--before`.
    """

    key: str
    group: str
    title: str
    durable: str
    kinds: tuple[str, ...]
    run: Callable[[Stage], Sample]
    unavailable: Callable[[bool], str | None] = _always
    far: bool = True
    before: bool = False


def sync(path: Path) -> list[str]:
    """The command that brings a file, or the file system of a folder, to the disk."""
    return ["sync", "-f", str(path)] if sys.platform == "linux" else ["sync"]


def hash_pass(path: Path) -> list[str]:
    """The command that reads and hashes what is there."""
    return [sys.executable, "-S", "-c", HASH_PASS, str(path)]
