"""What a node costs while nothing is asked of it, in a local network with many others: `python -m scripts.idle`.

One `kachery-cloud-node` with a thousand stored files, on a machine of its own, among other nodes on other machines (all
of them network namespaces of this one). All find each other by multicast DNS and share a DHT. After the first minutes
have settled, its CPU time, its memory and the bytes on its network interface are read once a minute.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.lab import Host, Lab, unavailable

NODES_PER_HOST = 7
FILES = 1000
SETTLE_SECONDS = 120
READY_SECONDS = 120

CROWD = """
import sys
from pathlib import Path
import trio
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo

OPTIONS = NodeOptions(mdns=True, lan_dht=True, known_peers=True, provide="roots", autonat=True)

async def main(folder, count):
    async with trio.open_nursery() as nursery:
        for number in range(count):
            directory = Path(folder) / str(number)
            repo = Repo.open(directory)
            repo.store_bytes(f"{folder} {number}".encode())
            node = Node(repo, load_or_create_identity(directory), listen=["/ip4/0.0.0.0/tcp/0"], options=OPTIONS)
            await nursery.start(node.run)
        print("ready", flush=True)

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Reading:
    """What the system says of a process and the interface of its machine, at one time."""

    at: float
    cpu: float
    memory: int
    received: int
    sent: int


def read(pid: int, host: Host) -> Reading:
    """Seconds, seconds of CPU, bytes resident, bytes in and out of all interfaces but loopback."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with host.entered():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    counters = [line.split() for line in lines if not line.strip().startswith("lo:")]
    return Reading(time.monotonic(), cpu, memory, sum(int(c[1]) for c in counters), sum(int(c[9]) for c in counters))


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=50, help="nodes in all (50)")
    parser.add_argument("--minutes", type=int, default=10, help="how long to measure (10)")
    parser.add_argument("--settle", type=int, default=SETTLE_SECONDS, help="seconds before that (120)")
    options = parser.parse_args()
    if reason := unavailable():
        print(f"This takes several machines: {reason}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="kachery-idle-") as folder, Lab() as lab:
        readings, peers = measure(lab, Path(folder), options.nodes, options.minutes, options.settle)
    report(readings, peers, options.nodes)
    return 0


def measure(lab: Lab, folder: Path, nodes: int, minutes: int, settle: int) -> tuple[list[Reading], int]:
    """The readings, one a minute, and how many peers the node was connected with at the end."""
    network = lab.network("10.2.0.0/24")
    left = nodes - 1
    crowds = []
    while left > 0:
        count = min(NODES_PER_HOST, left)
        left -= count
        host = lab.host(f"crowd-{left}", network)
        place = folder / f"crowd-{left}"
        with host.entered():
            process = subprocess.Popen(
                [sys.executable, "-c", CROWD, str(place), str(count)], stdout=subprocess.PIPE, text=True
            )
        lab.end_with(process)
        crowds.append(process)
    for process in crowds:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a crowd of nodes did not start")
    host = lab.host("measured", network)
    station = host.workstation(folder / "measured", env={"KACHERY_CLOUD_PORT_MAP": "off"})
    files = folder / "files"
    files.mkdir()
    for number in range(FILES):
        (files / f"{number}.txt").write_text(f"file {number}\n")
    station.run("kachery-cloud-store", "-r", files)
    station.start()
    time.sleep(settle)  # what is measured is what passes while nothing happens
    readings = [read(station.node.pid, host)]
    for _ in range(minutes):
        time.sleep(60)
        readings.append(read(station.node.pid, host))
    return readings, len(station.status()["connected"])


def report(readings: list[Reading], peers: int, nodes: int) -> None:
    """Print what was read."""
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"one node with {FILES} files among {nodes}, connected with {peers}, idle")
    print()
    print("minute  CPU %  memory MiB  KiB received  KiB sent")
    for number, (before, after) in enumerate(itertools.pairwise(readings), start=1):
        cpu = 100 * (after.cpu - before.cpu) / (after.at - before.at)
        received, sent = (after.received - before.received) / 1024, (after.sent - before.sent) / 1024
        print(f"{number:6}  {cpu:5.2f}  {after.memory / 2**20:10.1f}  {received:12.1f}  {sent:8.1f}")
    first, last = readings[0], readings[-1]
    cpu = 100 * (last.cpu - first.cpu) / (last.at - first.at)
    minutes = (last.at - first.at) / 60
    growth = (last.memory - first.memory) / 2**20
    middle = statistics.median(r.memory for r in readings) / 2**20
    received, sent = (last.received - first.received) / 1024 / minutes, (last.sent - first.sent) / 1024 / minutes
    print()
    print(f"in all: {cpu:.2f} % of a core, {middle:.1f} MiB (growth {growth:+.1f}), a minute {received:.1f} KiB in and")
    print(f"{sent:.1f} KiB out")


if __name__ == "__main__":
    sys.exit(main())
