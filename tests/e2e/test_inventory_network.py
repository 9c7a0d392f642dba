"""Freeing the disk of whole workstations: other copies are looked for at real nodes, and a running node lets go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

SIZE = 40_000_000
#: Seconds to look for another copy: those that are asked are named, and here nobody else is found.
LOOK = "3"

StartWorkstation = Callable[..., Workstation]


def entries(station: Workstation) -> list[dict]:
    return json.loads(station.run("kachery-cloud", "list", "--json").stdout)["items"]


def test_removed_when_somebody_else_has_it(workstation: StartWorkstation, tmp_path: Path) -> None:
    """A file, and a folder, go from where they were stored once another machine has them, and not before; they are not
    served and not announced from there any more, and can be loaded back."""
    source = write_random(tmp_path / "source.dat", SIZE, seed=1)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    write_random(tmp_path / "folder" / "large", 3_000_000, seed=2)
    (tmp_path / "folder" / "sub" / "small").write_text("small", encoding="utf-8")
    first, second = workstation().start(), workstation().start()
    uris = first.call("say([kcl.store_file(args[0]), kcl.store_dir(args[1])])", source, tmp_path / "folder")
    for uri in uris:
        refused = first.run("kachery-cloud", "rm", uri, "--peer", second.addr, "--timeout", LOOK, check=False)
        assert refused.returncode == 1
        assert "may be the last copy" in refused.stderr
        assert f"kachery-cloud rm --force {uri}" in refused.stderr
    assert [(item["kind"], item["label"]) for item in entries(first)] == [
        ("stored", "folder"),
        ("stored", "source.dat"),
    ]
    second.call(
        "kcl.load_file(args[0], providers=[args[2]]); kcl.load_dir(args[1], args[3], providers=[args[2]])",
        *uris, first.addr, tmp_path / "made",
    )  # fmt: skip
    assert {(item["kind"], item["complete"]) for item in entries(second)} == {("loaded", True)}
    for uri in uris:
        removed = first.run("kachery-cloud", "rm", uri, "--peer", second.addr, "--timeout", LOOK)
        assert second.peer_id in removed.stdout
    assert entries(first) == []
    assert not [path for path in (first.directory / "ipfs").rglob("*") if path.is_file()]
    code = "say([row['has'] for row in kcl.whereis(args[0], providers=[args[1]]) if row['peer'] == args[2]])"
    answers = workstation().call(code, uris[0], first.addr, first.peer_id)
    assert set(answers) == {False}  # what is gone is not served
    path = first.call("say(kcl.load_file(args[0], providers=[args[1]]))", uris[0], second.addr)
    assert sha256_of(Path(path)) == sha256_of(source)


def test_a_part_is_not_a_copy(workstation: StartWorkstation, tmp_path: Path) -> None:
    """A machine that has loaded half of it does not count, though it has the root and many of its blocks."""
    source = write_random(tmp_path / "source.dat", SIZE, seed=3)
    first, second = workstation().start(), workstation().start()
    uri = first.call("say(kcl.store_file(args[0]))", source)
    second.call("kcl.load_bytes(args[0], 0, args[1], providers=[args[2]])", uri, SIZE // 2, first.addr)
    refused = first.run("kachery-cloud", "rm", uri, "--peer", second.addr, "--timeout", LOOK, check=False)
    assert refused.returncode == 1
    (item,) = entries(second)
    assert (item["kind"], item["complete"]) == ("partial", False)
    assert SIZE // 2 <= item["here"] < SIZE
    second.run("kachery-cloud", "rm", uri, "--peer", first.addr, "--timeout", LOOK)
    assert entries(second) == []
    assert list((second.directory / "partial").iterdir()) == []


def test_two_who_remove_at_the_same_time(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Of two machines that have the last two copies and both remove theirs, at most one does."""
    source = write_random(tmp_path / "source.dat", 2_000_000, seed=4)
    stations = [workstation().start(), workstation().start()]
    uri = stations[0].call("say(kcl.store_file(args[0]))", source)
    stations[1].call("kcl.load_file(args[0], providers=[args[1]])", uri, stations[0].addr)
    code = """
import sys
print("ready", flush=True)
sys.stdin.readline()
try:
    kcl.remove(args[0], providers=[args[1]], timeout=5)
    say("removed")
except kcl.LastCopy:
    say("stays")
"""
    running = [
        station.begin(code, uri, other.addr) for station, other in zip(stations, reversed(stations), strict=True)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [station.finish(process) for station, process in zip(stations, running, strict=True)]
    assert answers.count("removed") <= 1
    assert [len(entries(station)) for station in stations] == [int(answer == "stays") for answer in answers]


def test_gc_beside_a_running_node(workstation: StartWorkstation, tmp_path: Path) -> None:
    """What was loaded goes, the least recently used first, while the node of another process serves; what was stored
    stays, and what nobody else has. The room is free though the node had the files open."""
    files = [write_random(tmp_path / f"{number}.dat", 3_000_000, seed=number) for number in range(3)]
    own = write_random(tmp_path / "own.dat", 3_000_000, seed=9)
    first, second = workstation().start(), workstation().start()
    uris = [first.call("say(kcl.store_file(args[0]))", file) for file in files]
    for uri in uris:
        second.call("kcl.load_file(args[0], providers=[args[1]])", uri, first.addr)
    stored = second.call("say(kcl.store_file(args[0]))", own)
    # Somebody takes one from it, so that its node has the file open.
    workstation().call("kcl.load_file(args[0], providers=[args[1]])", uris[0], second.addr)
    second.env["KACHERY_CLOUD_PEERS"] = first.addr
    before = second.run("kachery-cloud", "gc", "--keep", "7MB", "--dry-run").stdout
    assert before.count("Would remove") == 2
    done = second.run("kachery-cloud", "gc", "--keep", "7MB", "--timeout", LOOK)
    assert done.stdout.startswith(f"Removed {uris[0]}")
    assert {item["uri"].split("?")[0] for item in entries(second)} == {uris[2], stored}
    opened = [path for path in Path(f"/proc/{second.node.pid}/fd").iterdir() if "deleted" in _target(path)]
    assert opened == []
    refused = second.run("kachery-cloud", "gc", "--keep", "0", "--timeout", LOOK, check=False)
    assert refused.returncode == 1
    assert "--stored" in refused.stderr
    assert [item["uri"].split("?")[0] for item in entries(second)] == [stored]


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def test_what_is_being_loaded_is_not_removed(workstation: StartWorkstation, tmp_path: Path) -> None:
    """While a node loads a file, its removal is refused, and the load ends as it would have."""
    source = write_random(tmp_path / "source.dat", 20_000_000, seed=6)
    first, second = workstation().start(), workstation()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    code = """
import sys
from kachery_p2p.repo.download import Download
finish = Download.finish
def waiting(self, size):
    print("loaded", flush=True)
    sys.stdin.readline()
    return finish(self, size)
Download.finish = waiting
say(kcl.load_file(args[0], providers=[args[1]]))
"""
    process = second.begin(code, uri, first.addr)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "loaded\n"
    refused = second.run("kachery-cloud", "rm", "--force", uri, check=False, timeout=PATIENCE)
    assert refused.returncode == 5 or "being loaded" in refused.stderr
    process.stdin.write("\n")
    process.stdin.flush()
    assert sha256_of(Path(second.finish(process))) == sha256_of(source)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_verify_is_content_after_repair_or_removal(workstation: StartWorkstation, tmp_path: Path, what: str) -> None:
    """Files deleted by hand are said; `verify` ends with 0 once they were loaded again, or taken off the list."""
    (tmp_path / "folder").mkdir()
    write_random(tmp_path / "folder" / "large", 3_000_000, seed=7)
    first, second = workstation().start(), workstation()
    store = "store_file" if what == "file" else "store_dir"
    path = tmp_path / "folder" / "large" if what == "file" else tmp_path / "folder"
    uri = first.call(f"say(kcl.{store}(args[0]))", path)
    second.env["KACHERY_CLOUD_PEERS"] = first.addr
    if what == "file":
        second.call("kcl.load_file(args[0])", uri)
    else:
        second.call("kcl.load_dir(args[0], args[1])", uri, tmp_path / "made")

    def delete() -> None:
        for each in (second.directory / "ipfs").rglob("*"):
            if each.is_file():
                each.unlink()

    delete()
    found = second.run("kachery-cloud", "verify", check=False)
    assert found.returncode == 4
    assert "by hand" in found.stdout
    assert "kachery-cloud repair ipfs://" in found.stdout
    second.run("kachery-cloud", "repair", uri)
    assert second.run("kachery-cloud", "verify").returncode == 0
    (item,) = entries(second)
    assert item["complete"]
    delete()
    second.run("kachery-cloud", "verify", check=False)
    assert not entries(second)[0]["complete"]
    second.run("kachery-cloud", "rm", "--force", uri)
    assert second.run("kachery-cloud", "verify").returncode == 0
    assert entries(second) == []


def test_many_chunks_of_one_folder(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Fifty files read by their paths, in every way there is, are one row: the folder, in part. One that is loaded by
    itself is a row. The whole folder makes that row whole; removing it takes all of it."""
    folder = tmp_path / "array.zarr"
    (folder / "c").mkdir(parents=True)
    for number in range(50):
        write_random(folder / "c" / str(number), 20_000 if number % 2 else 600_000, seed=number)
    (folder / "zarr.json").write_text('{"shape": [50]}', encoding="utf-8")
    first = workstation().start()
    second = workstation(env={"KACHERY_CLOUD_PEERS": first.addr}).start()
    uri = first.call("say(kcl.store_dir(args[0]))", folder)
    named = f"{uri}?label=array.zarr"
    code = """
import fsspec
kcl.load_json(args[0].replace("?", "/zarr.json?"))
bare = args[0].split("?")[0]
at = lambda number: args[0].replace("?", f"/c/{number}?")
sizes = [len(kcl.load_bytes(at(number))) for number in range(10)]
sizes += [len(kcl.load_bytes(at(number), 0, 15_000)) for number in range(10, 20)]
for number in range(20, 30):
    with kcl.open(at(number)) as file:
        sizes.append(len(file.read()))
files = fsspec.filesystem("ipfs")
sizes += [len(data) for data in files.cat([f"{bare}/c/{number}" for number in range(30, 40)]).values()]
for number in range(40, 50):
    with files.open(f"{bare}/c/{number}") as file:
        sizes.append(len(file.read(10_000)))
say(sizes)
"""
    sizes = second.call(code, named)
    (item,) = entries(second)
    assert (item["uri"], item["kind"], item["directory"], item["complete"]) == (named, "partial", True, False)
    assert 30 * 310_000 < item["here"] < item["size"]
    assert sum(sizes) <= item["here"]
    assert [each["label"] for each in entries(second)] == ["array.zarr"]
    assert "MB of it" in second.run("kachery-cloud", "list", "--find", "array").stdout
    assert second.run("kachery-cloud", "verify").returncode == 0
    found = second.call("say([kcl.load_file_info(args[0])[key] for key in ('kept', 'here', 'complete')])", uri)
    assert found == ["partial", item["here"], False]
    refused = second.run("kachery-cloud", "rm", f"{uri}/c/1", check=False)
    assert f"is in the folder {uri}" in refused.stderr
    second.run("kachery-cloud-load", f"{uri}/c/49")
    assert {(each["label"], each["kind"]) for each in entries(second)} == {("49", "loaded"), ("array.zarr", "partial")}
    second.run("kachery-cloud", "rm", "--force", f"{uri}/c/49")
    second.call("kcl.load_dir(args[0], args[1])", uri, tmp_path / "made")
    (item,) = entries(second)
    assert (item["label"], item["kind"], item["complete"]) == ("array.zarr", "loaded", True)
    second.run("kachery-cloud", "rm", "--force", uri)
    second.call("say(len(kcl.load_bytes(args[0])))", f"{uri}/c/3")
    dry = second.run("kachery-cloud", "gc", "--keep", "0", "--dry-run").stdout
    assert f"Would remove {uri}" in dry
    second.run("kachery-cloud", "rm", uri, "--peer", first.addr, "--timeout", LOOK)
    assert entries(second) == []
    left = [path for name in ("ipfs", "partial") for path in (second.directory / name).rglob("*") if path.is_file()]
    assert left == []
