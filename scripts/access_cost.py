"""What it costs to know who may see what: `python -m scripts.access_cost [FOLDER]`.

A catalog with 10 000 roots of 50 groups and 1 000 000 claims is asked, and the gate before it; and a GiB is stored for
everyone and for some.
"""

from __future__ import annotations

import base64
import os
import random
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from kachery_p2p.access.audience import Audience, group_audience
from kachery_p2p.access.gate import Gate, NoMembers
from kachery_p2p.repo import Repo

ROOTS, GROUPS, CLAIMS = 10_000, 50, 1_000_000
BATCH = 512
#: Blocks that the gate is asked about.
ASKED = 6400
MIB = 1 << 20


def groups() -> list[str]:
    """IDs of groups."""
    chance = random.Random(1)
    return [base64.b32encode(chance.randbytes(16)).decode().lower().rstrip("=") for _ in range(GROUPS)]


_TWO = frozenset(groups()[:2])


def multihash(number: int) -> bytes:
    """One that is as good as any other."""
    return b"\x12\x20" + random.Random(number).randbytes(32)


def fill(directory: Path) -> None:
    """Make the rows."""
    names = groups()
    chance = random.Random(2)
    with closing(sqlite3.connect(directory / "catalog.sqlite")) as db:
        db.executemany(
            "INSERT INTO access (id, key, audience, added) VALUES (?, ?, ?, 0)",
            [
                (
                    number,
                    b"\x01\x55" + multihash(-number),
                    ",".join(sorted(chance.sample(names, chance.choice((1, 1, 2))))),
                )
                for number in range(1, ROOTS + 1)
            ],
        )
        db.executemany(
            "INSERT INTO claims (multihash, access) VALUES (?, ?)",
            ((multihash(number), chance.randrange(ROOTS) + 1) for number in range(CLAIMS)),
        )
        db.commit()


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds of CPU that one of several takes."""
    begin = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin) / times


def ask(repo: Repo, name: str, batches: Sequence[Sequence[bytes]]) -> None:
    """Print what questions cost."""
    access = repo.access
    print(f"{name}: any_restricted {timed(access.any_restricted, 2000) * 1e6:.1f} us a time")
    each = iter(batches)
    took = timed(lambda: access.audiences(next(each)), len(batches))
    print(f"{name}: audiences of {BATCH} blocks {took / BATCH * 1e6:.2f} us a block")
    one = iter([batch[:1] for batch in batches])
    print(f"{name}: audiences of one block {timed(lambda: access.audiences(next(one)), len(batches)) * 1e6:.1f} us")


def ask_gate(repo: Repo, name: str, blocks: Sequence[bytes]) -> None:
    """Print what it costs to decide what a peer may see, who is in two groups: of blocks one by one, and together."""
    gate = Gate(TwoGroups(), repo.access)
    for size in (1, 16, 64):
        batches = iter([blocks[start : start + size] for start in range(0, len(blocks) - size + 1, size)])
        count = len(blocks) // size
        took = timed(lambda batches=batches: gate.hidden("peer", next(batches)), count)
        print(f"{name}: the gate, {size} at a time: {took / size * 1e6:.1f} us a block")


class TwoGroups(NoMembers):
    """Who is in which group: every peer in the first two."""

    def groups_of(self, peer: str) -> frozenset[str]:
        """The same for all."""
        return _TWO


def store(top: Path, source: Path, audience: Audience | None) -> float:
    """Seconds of CPU that it takes to store a file."""
    with tempfile.TemporaryDirectory(dir=top) as folder, Repo.open(Path(folder, "data")) as repo:
        before = resource.getrusage(resource.RUSAGE_SELF)
        repo.store_file(source, audience=audience)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def values(top: Path, audience: Audience | None, count: int = 1500) -> float:
    """Seconds of CPU for that many small values."""
    with tempfile.TemporaryDirectory(dir=top) as folder, Repo.open(Path(folder, "data")) as repo:
        begin = time.process_time()
        for number in range(count):
            repo.store_value(b"value %d" % number, audience=audience)
        return time.process_time() - begin


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        top = Path(folder)
        chance = random.Random(3)
        batches = [[multihash(chance.randrange(CLAIMS)) for _ in range(BATCH)] for _ in range(100)]
        with Repo.open(top / "data") as repo:
            ask(repo, "nothing restricted", batches)
        fill(top / "data")
        with Repo.open(top / "data") as repo:
            ask(repo, f"{CLAIMS} claims, these", batches)
            public = [[multihash(CLAIMS + chance.randrange(CLAIMS)) for _ in range(BATCH)] for _ in range(100)]
            ask(repo, f"{CLAIMS} claims, public blocks", public)
            for _ in range(3):
                ask_gate(repo, f"{CLAIMS} claims, these", [each for batch in batches for each in batch][:ASKED])
                ask_gate(repo, f"{CLAIMS} claims, public blocks", [each for batch in public for each in batch][:ASKED])
        source = top / "source"
        with open(source, "wb") as file:
            for _ in range(1024):
                file.write(os.urandom(MIB))
        audience = group_audience(groups()[:1])
        for name, to in (("everyone", None), ("a group", audience)) * 3:
            print(f"1 GiB stored for {name}: {store(top, source, to):.3f} s of CPU")
        for name, to in (("everyone", None), ("a group", audience)) * 2:
            print(f"1500 values stored for {name}: {values(top, to):.3f} s of CPU")


if __name__ == "__main__":
    main()
