"""kachery-cloud-node where the disk is full: it serves what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Runs in a mount namespace of its own, where a small disk (of memory) is the data directory of `station`.
_PRELUDE = """
import json, os, subprocess, sys, time
from pathlib import Path
from scripts.workstation import Workstation

folder = Path(sys.argv[1])
station, other = Workstation(folder / "one"), Workstation(folder / "two")
station.directory.mkdir(mode=0o700)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(station.directory)], check=True)

def fill():
    with open(station.directory / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

def free():
    return os.statvfs(station.directory).f_bavail

def loads(uri):
    return other.call("say(kcl.load_text(args[0], providers=[args[1]], timeout=120))", uri, station.addr)

with station, other:
"""


def _on_a_small_disk(tmp_path: Path, code: str) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and namespaces of Linux")
    lines = _PRELUDE + "".join(f"    {line}\n" for line in code.strip().splitlines())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = ["unshare", "--mount", sys.executable, "-c", lines, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system allows no mount namespace")
    assert done.returncode == 0, done.stderr


def test_a_node_starts_on_a_full_disk(tmp_path: Path) -> None:
    """One that never ran there, too: lock, key, socket and what is learned of others need no room. Processes of the
    directory find it when there is some."""
    _on_a_small_disk(
        tmp_path,
        """
uri = station.call("say(kcl.store_text('x' * 100_000, local=True))")
fill()
assert free() == 0
station.start()
assert loads(uri) == "x" * 100_000
said = (station.folder / "node.log").read_text()
assert "Traceback" not in said, said
assert "peer ID that is not kept" in said, said
assert "kept in memory alone" in said, said
asked = station.run("kachery-cloud-status", check=False)
assert "holds the node lock" in asked.stderr, asked
assert "full disk" in asked.stderr, asked
assert len(station.run("kachery-cloud-cat", "--local-only", uri).stdout) == 100_000
failed = station.run("kachery-cloud-store", sys.executable, check=False)
assert failed.returncode == 5, failed
assert "no room" in failed.stderr, failed
(station.directory / "filler").unlink()
for _ in range(600):
    if (station.directory / "node.json").exists():
        break
    time.sleep(0.1)  # it looks every few seconds
assert station.status()["peer_id"] == station.peer_id
assert station.stop() == 0
        """,
    )


def test_a_node_comes_back_on_a_full_disk(tmp_path: Path) -> None:
    """It is who it was, and serves on when the disk fills up under it."""
    _on_a_small_disk(
        tmp_path,
        """
uri = station.call("say(kcl.store_text('x' * 100_000, local=True))")
station.start()
peer = station.peer_id
fill()
assert loads(uri) == "x" * 100_000
assert station.stop() == 0
other.call("import shutil; shutil.rmtree(kcl.load_config().directory)")
fill()
station.start()
assert station.peer_id == peer
assert loads(uri) == "x" * 100_000
assert "Traceback" not in (station.folder / "node.log").read_text()
assert station.stop() == 0
        """,
    )


def test_a_full_disk_can_be_freed(tmp_path: Path) -> None:
    """Where not even the catalog can grow, what is removed makes room for it; what stays can be read."""
    _on_a_small_disk(
        tmp_path,
        """
uris = station.call("say([kcl.store_text(each * 2_000_000, local=True) for each in 'xy'])")
fill()
assert free() == 0
said = station.run("kachery-cloud", "rm", "--force", uris[0]).stdout
assert "2 MB free" in said, said
assert free() * 4096 > 1_500_000
assert station.call("say(kcl.load_text(args[0], local_only=True))", uris[1]) == "y" * 2_000_000
assert station.call("say([item.cid for item in kcl.list()])") == [uris[1].removeprefix("ipfs://")]
assert station.run("kachery-cloud", "verify").returncode == 0
""",
    )


def test_a_load_makes_room(tmp_path: Path) -> None:
    """With a limit, what was only loaded goes when the disk has no room for a load, and that goes on; what was stored
    here stays. Without one the load fails, and nothing goes."""
    _on_a_small_disk(
        tmp_path,
        """
import sqlite3, random
from contextlib import closing

def file(number):
    path = folder / str(number)
    path.write_bytes(random.Random(number).randbytes(4_500_000))
    return str(path)

def load(uri):
    return station.call("say(kcl.load_file(args[0], providers=[args[1]], timeout=120))", uri, other.addr)

def used_long_ago():
    with closing(sqlite3.connect(station.directory / "catalog.sqlite", timeout=60)) as db, db:
        db.execute("UPDATE kept SET used = added - 20000, added = added - 20000")

other.start()
uris = [other.call("say(kcl.store_file(args[0]))", file(number)) for number in range(3)]
station.start()
mine = station.call("say(kcl.store_file(args[0]))", file(9))
first = Path(load(uris[0]))
second = Path(load(uris[1]))
used_long_ago()
try:
    load(uris[2])
except Exception as error:
    assert "DiskFull" in str(error) or "bytes more" in str(error), error
else:
    raise AssertionError("there is room for it")
assert first.exists() and second.exists()
assert station.stop() == 0
station.env["KACHERY_CLOUD_STORAGE_LIMIT"] = "1GB"
station.start()
third = Path(load(uris[2]))
assert third.read_bytes() == Path(file(2)).read_bytes()
assert not first.exists() and second.exists()
assert Path(station.call("say(kcl.load_file(args[0], local_only=True))", mine)).exists()
assert station.stop() == 0
""",
    )
