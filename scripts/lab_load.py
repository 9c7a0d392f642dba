"""What a lab's node costs with many pins, and how fast it answers: `python -m scripts.lab_load`.

A data directory is made with so many small values, all pinned by the clients of some members and in some projects. One
`kachery-cloud-node --lab` serves it: the time until it does, its memory, its CPU time while nothing is asked of it, and
how long the questions take that the page asks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx

from kachery_cloud.lab.accounts_store import CLIENT, Accounts, account_of
from kachery_cloud.lab.database import LabDatabase
from kachery_cloud.lab.projects_store import ProjectsStore
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore, hash_of
from kachery_p2p.repo.catalog import CATALOG_NAME
from kachery_p2p.repo.kept_rows import PINNED
from kachery_p2p.repo.keys import new_identity
from kachery_p2p.repo.repo import Repo
from scripts.workstation import Workstation

MEMBERS, PROJECTS = 100, 20
#: Values that are stored at once.
BATCH = 2_000
#: Times that each question is asked.
ASKED = 50
SETTLE_SECONDS = 20.0
IDLE_SECONDS = 30.0


def fill(directory: Path, pins: int) -> str:
    """Make the data directory; the token of one client."""
    directory.mkdir(parents=True, exist_ok=True)
    values = [f"value {number}".encode() * 4 for number in range(pins)]
    roots = [CID(1, RAW, b"\x12\x20" + hashlib.sha256(value).digest()) for value in values]
    with Repo.open(directory) as repo:
        for start in range(0, pins, BATCH):
            some = zip(roots[start : start + BATCH], values[start : start + BATCH], strict=True)
            repo.add_small_files(list(some))
    store, database = PinStore(directory / STORE_NAME), LabDatabase(directory)
    accounts, projects = Accounts(database, store), ProjectsStore(database)
    members = [accounts.add_member(f"Member {number}") for number in range(MEMBERS)]
    secrets = [f"token {number} {uuid.uuid4()}" for number in range(MEMBERS)]
    peers = [new_identity().peer_id for _ in members]
    for member, peer, secret in zip(members, peers, secrets, strict=True):
        accounts.register(member.id, peer, "workstation", hash_of(secret))
    made = [projects.create(f"project{number}", members[number].id).id for number in range(PROJECTS)]
    owners = [store.owner(CLIENT + peer, account_of(m.id), None).id for peer, m in zip(peers, members, strict=True)]
    store.close()
    database.close()
    _pin(directory, roots, owners, made)
    return secrets[0]


def _pin(directory: Path, roots: list[CID], owners: list[int], projects: list[str]) -> None:
    """Write the rows of many pins at once: one by one, each would wait for the disk."""
    with sqlite3.connect(directory / STORE_NAME) as db:
        for number, root in enumerate(roots):
            meta = {"project": projects[number % len(projects)], "label": f"session {number}.nwb"}
            key, name = bytes(root.to_v1()), f"session {number}.nwb"
            pin = db.execute(
                "INSERT INTO pins (request_id, owner, key, cid, name, folded, origins, meta, created, status, size) "
                "VALUES (?, ?, ?, ?, ?, ?, '[]', ?, ?, 'pinned', ?)",
                (
                    str(uuid.UUID(bytes=hashlib.md5(key, usedforsecurity=False).digest())),
                    owners[number % len(owners)], key, str(root), name, name, json.dumps(meta), number + 1, 40,
                ),
            ).lastrowid  # fmt: skip
            db.executemany("INSERT INTO meta VALUES (?, ?, ?)", [(pin, *each) for each in meta.items()])
            db.execute("INSERT OR IGNORE INTO held VALUES (?, ?, NULL)", (key, str(root)))
    with sqlite3.connect(directory / CATALOG_NAME) as db:
        rows = [(bytes(root.to_v1()), PINNED, time.time(), time.time()) for root in roots]
        db.executemany("INSERT OR REPLACE INTO kept (key, how, added, used, whole) VALUES (?, ?, ?, ?, 1)", rows)


def read(pid: int) -> tuple[float, int]:
    """Seconds of CPU, and bytes resident, of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return cpu, int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def asked(ask: Callable[[], httpx.Response], times: int) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds, of how long a question takes."""
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        answer = ask()
        taken.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == 200, answer.text
    taken.sort()
    return statistics.median(taken), taken[int(0.95 * (len(taken) - 1))]


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pins", type=int, default=100_000, help="how many pins (100000)")
    parser.add_argument("--folder", type=Path, help="a folder to work in; its file system is measured, too")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kachery-lab-", dir=options.folder) as folder,
        Workstation(Path(folder)) as station,
    ):
        begun = time.perf_counter()
        token = fill(station.directory, options.pins)
        print(f"{options.pins} pins of {MEMBERS} members in {PROJECTS} projects")
        print(f"made in {time.perf_counter() - begun:.0f} s on {platform.machine()}, {os.cpu_count()} cores")
        begun = time.perf_counter()
        station.start("--lab", "127.0.0.1:0")
        print(f"serves after {time.perf_counter() - begun:.1f} s")
        url, pid = station.status()["lab"], station.node.pid
        time.sleep(SETTLE_SECONDS)
        cpu, memory = read(pid)
        print(f"memory {memory / 1e6:.0f} MB; CPU until then {cpu:.1f} s")
        time.sleep(IDLE_SECONDS)
        print(f"CPU while nothing is asked {100 * (read(pid)[0] - cpu) / IDLE_SECONDS:.2f} %")
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            for path in (
                "/api/v1/me",
                "/api/v1/projects",
                "/api/v1/files",
                "/api/v1/files?mine=1",
                "/api/v1/files?project=project7",
                "/api/v1/files?label=session+999",
                "/api/v1/usage",
                "/api/v1/usage?by=day",
                "/api/v1/node",
                "/pins?limit=100",
            ):
                median, most = asked(lambda path=path: client.get(path), ASKED)
                print(f"{path:34} median {median:7.1f} ms   95 % within {most:7.1f} ms")
        print(f"memory afterwards {read(pid)[1] / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
