"""Files that are opened on one workstation while they lie on another: what travels, and what happens meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import write_random
from scripts.workstation import Workstation

MIB = 1 << 20


@pytest.fixture(scope="module")
def here(module_workstation: Callable[..., Workstation]) -> Workstation:
    """The workstation that has the files."""
    return module_workstation().start("--gateway", "127.0.0.1:0")


def sent(where: Workstation) -> int:
    return where.status()["bytes_sent"]


def test_a_half_read_file_is_completed_by_a_load(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """What was read, by several processes one after the other, is not fetched again: in all, each byte travels once."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()
    source = write_random(tmp_path / "source.dat", 40 * MIB, seed=1)
    data = source.read_bytes()
    uri = here.call("say(kcl.link_file(args[0]))", source)
    before = sent(here)
    code = """
        import hashlib
        with kcl.open(args[0]) as file:
            file.seek(args[1])
            say(hashlib.sha256(file.read(args[2])).hexdigest())
    """.replace("\n        ", "\n")
    for start, size in ((5 * MIB, 10 * MIB), (30 * MIB, 100), (0, 12 * MIB)):
        assert there.call(code, uri, start, size) == hashlib.sha256(data[start : start + size]).hexdigest()
    assert 16 * MIB <= sent(here) - before <= 20 * MIB
    path = there.call("say(kcl.load_file(args[0]))", uri)
    assert Path(path).read_bytes() == data
    assert sent(here) - before <= 41 * MIB


def test_a_file_that_is_read_through(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """Read in small pieces from its beginning to its end it travels once, and is then here as after a load."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()
    source = write_random(tmp_path / "source.dat", 30 * MIB + 77, seed=2)
    uri = here.call("say(kcl.link_file(args[0]))", source)
    before = sent(here)
    code = """
import hashlib
digest = hashlib.sha256()
with kcl.open(args[0]) as file:
    while piece := file.read(100_000):
        digest.update(piece)
say([digest.hexdigest(), kcl.load_file(args[0])])
"""
    found, path = there.call(code, uri)
    assert found == hashlib.sha256(source.read_bytes()).hexdigest()
    assert Path(path).read_bytes() == source.read_bytes()
    assert sent(here) - before <= 31 * MIB


def test_a_process_that_ends_when_all_was_read(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """The process that reads a file through is the node, and ends at once: the file is here, and listed as whole."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr})
    source = write_random(tmp_path / "source.dat", 10 * MIB, seed=7)
    uri = here.call("say(kcl.link_file(args[0]))", source)
    code = """
file = kcl.open(args[0])
while file.read(300_000):
    pass
say("read")
"""
    assert there.call(code, uri) == "read"
    assert there.call("say([[item.kind, item.complete] for item in kcl.list()])") == [["loaded", True]]
    path = there.call("say(kcl.load_file(args[0], local_only=True))", uri)
    assert Path(path).read_bytes() == source.read_bytes()


def test_processes_that_read_the_same(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """Four processes of one machine read one file at once, each in its own order: each block travels about once."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()
    source = write_random(tmp_path / "source.dat", 24 * MIB, seed=3)
    data = source.read_bytes()
    uri = here.call("say(kcl.link_file(args[0]))", source)
    before = sent(here)
    code = """
import hashlib, random
with kcl.open(args[0]) as file:
    places = list(range(0, file.size, 1 << 20))
    random.Random(args[1]).shuffle(places)
    parts = {place: file.read_at(place, 1 << 20) for place in places}
say(hashlib.sha256(b"".join(parts[place] for place in sorted(parts))).hexdigest())
"""
    processes = [there.begin(code, uri, number) for number in range(4)]
    assert [there.finish(process) for process in processes] == [hashlib.sha256(data).hexdigest()] * 4
    assert sent(here) - before <= 2 * len(data)


def test_the_node_leaves_under_an_open_file(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """When the node of the machine is killed, the process takes its place, and the next read goes on."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()
    source = write_random(tmp_path / "source.dat", 8 * MIB, seed=4)
    data = source.read_bytes()
    uri = here.call("say(kcl.link_file(args[0]))", source)
    code = """
import sys
with kcl.open(args[0]) as file:
    first = file.read_at(100, 5)
    say("open")
    sys.stdin.readline()
    say([list(first), list(file.read_at(5_000_000, 5))])
"""
    process = there.begin(code, uri)
    assert process.stdout is not None
    assert process.stdout.readline() == '"open"\n'
    there.kill()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert there.finish(process) == [list(data[100:105]), list(data[5_000_000:5_000_005])]


def test_the_source_restarts_under_an_open_file(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """What comes from a machine that goes away is an error in its time; once it is back, the same file reads on."""
    source = workstation().start()
    path = write_random(tmp_path / "source.dat", 8 * MIB, seed=5)
    data = path.read_bytes()
    uri = source.call("say(kcl.link_file(args[0]))", path)
    there = workstation(env={"KACHERY_CLOUD_PEERS": source.addr})
    code = """
import sys
file = kcl.open(args[0], timeout=4)
first = file.read_at(100, 5)
say("open")
sys.stdin.readline()
try:
    file.read_at(5_000_000, 5)
    said = "no error"
except kcl.ContentNotFound:
    said = "not found"
say(said)
sys.stdin.readline()
again = kcl.open(args[0], timeout=60)
say([list(first), list(again.read_at(5_000_000, 5)), list(file.read_at(5_000_000, 5))])
"""
    process = there.begin(code, uri)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == '"open"\n'
    source.kill()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == '"not found"\n'
    source.start("--listen", source.addr.partition("/p2p/")[0])
    process.stdin.write("\n")
    process.stdin.flush()
    part = list(data[5_000_000:5_000_005])
    assert there.finish(process) == [list(data[100:105]), part, part]


def test_from_a_gateway(here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """Where no peer is known, what is read comes from an HTTP gateway, block by block as well."""
    source = write_random(tmp_path / "source.dat", 20 * MIB, seed=6)
    data = source.read_bytes()
    uri = here.call("say(kcl.link_file(args[0]))", source)
    gateway = here.call("say(kcl.status())")["gateway"]["url"]
    there = workstation(env={"KACHERY_CLOUD_GATEWAYS": gateway})
    code = """
with kcl.open(args[0]) as file:
    parts = file.cat_ranges([(11_000_000, 11_000_010), (5, 15), (-10, None)])
    have = file._content._plan.have.size
say([[list(part) for part in parts], have])
"""
    parts, have = there.call(code, uri)
    assert [bytes(part) for part in parts] == [data[11_000_000:11_000_010], data[5:15], data[-10:]]
    assert have == 3 * MIB


def test_it_reads_in_the_process_that_is_the_node(
    here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """A script alone on its machine is the node itself; threads of it, and its forked children, read one file."""
    there = workstation(env={"KACHERY_CLOUD_PEERS": here.addr})
    source = write_random(tmp_path / "source.dat", 12 * MIB, seed=7)
    data = source.read_bytes()
    uri = here.call("say(kcl.link_file(args[0]))", source)
    code = """
import hashlib, multiprocessing
from concurrent.futures import ThreadPoolExecutor
file = kcl.open(args[0])
with ThreadPoolExecutor(8) as pool:
    parts = list(pool.map(lambda at: file.read_at(at, 500_000), range(0, 6_000_000, 500_000)))

def child(at):
    return hashlib.sha256(file.read_at(at, 1_000_000)).hexdigest()

with multiprocessing.get_context("fork").Pool(2) as pool:
    more = pool.map(child, [0, 6_000_000, 11_000_000])
say([hashlib.sha256(b"".join(parts)).hexdigest(), more])
"""
    expected = [hashlib.sha256(data[at : at + 1_000_000]).hexdigest() for at in (0, 6_000_000, 11_000_000)]
    assert there.call(code, uri) == [hashlib.sha256(data[:6_000_000]).hexdigest(), expected]
