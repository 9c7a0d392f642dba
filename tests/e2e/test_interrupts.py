"""Ctrl-C at moments of every command that takes long: exit code 130, a sentence, and what it says is so.

The moments are calls of our own functions in the main thread, and writes of what is loaded. A run that is not
interrupted counts them; others are interrupted at parts of that. What was kept is looked at, and then the same command
runs again and does the rest. `KACHERY_TEST_MOMENTS` sets how many moments there are of each command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scripts.data import sha256_of, sha256_of_folder, write_many, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

MIB = 1 << 20
SIZE = 24 * MIB
MOMENTS = int(os.environ.get("KACHERY_TEST_MOMENTS", "2"))

#: Runs a command and interrupts it at a call of a function of ours, or a write; says how many there were.
_COUNTING = """
import json, os, signal, sys, threading
moment, report = json.loads(sys.argv.pop(1)), sys.argv.pop(1)
from kachery_cloud.commands.entry import main
from kachery_p2p.repo.download import Download
seen, lock, ours = {"calls": 0, "writes": 0, "bytes": 0}, threading.Lock(), os.sep + "kachery_"
def count(kind):
    with lock:
        seen[kind] += 1
        now = [kind, seen[kind]] == moment
    if now:
        os.kill(os.getpid(), signal.SIGINT)
def look(frame, event, arg):
    # Not in generators (0x20): one that is dropped before its end, as by `any`, is closed by the interpreter, which
    # counts as a call, and what is raised there is printed and forgotten. A real signal is not looked at there. Nor
    # in what is called while an object goes: that is printed and forgotten, too.
    if event != "call" or ours not in frame.f_code.co_filename or frame.f_code.co_flags & 0x20:
        return
    above, steps = frame, 4
    while above is not None and steps:
        if above.f_code.co_name == "__del__":
            return
        above, steps = above.f_back, steps - 1
    count("calls")
write = Download.write
def counting_write(self, offset, data):
    write(self, offset, data)
    with lock:
        seen["bytes"] += len(data)
    count("writes")
Download.write = counting_write
sys.setprofile(look)
try:
    main()
finally:
    sys.setprofile(None)
    with open(report, "w") as file:
        json.dump(seen, file)
"""

#: What is counted, and its number.
Moment = tuple[str, int]
NEVER: Moment = ("never", 0)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seen: dict[str, int]

    def moment(self, number: int) -> Moment:
        """One of `MOMENTS` in a run that was like this."""
        writes = self.seen["writes"]
        if writes >= MOMENTS and number > 1:
            return "writes", writes * (number - 1) // MOMENTS + 1
        # More late ones: most of the early calls are those that read modules.
        return "calls", self.seen["calls"] - self.seen["calls"] * number * number // (MOMENTS + 1) ** 2


class Desk:
    """A workstation on which commands are interrupted, and one that has what they load."""

    def __init__(self, station: Workstation, source: Workstation, data: Path, uris: dict[str, str]) -> None:
        self.station, self.source, self.data, self.uris = station, source, data, uris
        self.big, self.folder = data / "big.dat", data / "folder"

    def run(self, *line: str | Path, at: Moment = NEVER) -> Ended:
        """Run a command, interrupted at some moment."""
        report = self.station.folder / "calls"
        done = subprocess.run(
            [self.station.python, "-c", _COUNTING, json.dumps(at), str(report), *(str(each) for each in line)],
            env=self.station.env, cwd=self.station.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=PATIENCE, check=False,
        )  # fmt: skip
        seen = json.loads(report.read_text())
        report.unlink()
        return Ended(done.returncode, done.stdout, done.stderr, seen)

    def kcl(self, *line: str | Path) -> str:
        """A command that has to succeed."""
        return self.station.run("kachery-cloud", *line).stdout.strip()

    def is_here(self, uri: str) -> bool:
        """Whether all of it is here."""
        return self.station.run("kachery-cloud-load", uri, "--local-only", check=False).returncode == 0

    def left(self) -> list[str]:
        """What lies in the places for what is being made."""
        made = [*self.station.folder.glob(".*.part"), *self.station.folder.glob("out*/.*.part")]
        return [path.name for path in (*made, *(self.station.directory / "tmp").glob("*"))]

    def kept(self) -> int:
        """How many bytes of the big file are in its partial file, or in its copy."""
        name = self.uris["big"].removeprefix("ipfs://")
        paths = [self.station.directory / "partial" / name, *self.station.directory.glob(f"ipfs/*/*/*/{name}")]
        found = [path for path in paths if path.exists()]
        if not found:
            return 0
        right, here = self.big.read_bytes(), found[-1].read_bytes()
        return MIB * sum(here[at : at + MIB] == right[at : at + MIB] for at in range(0, SIZE, MIB))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, module_workstation: Callable[..., Workstation]) -> Desk:
    """The source, and what it serves."""
    data = tmp_path_factory.mktemp("data")
    write_random(data / "big.dat", SIZE, seed=8)
    write_random(data / "small.dat", 3 * MIB, seed=9)
    write_many(data / "folder", 60, 3000)
    write_many(data / "folder" / "below", 3, 2 * MIB, seed=10)
    source = module_workstation()
    source.start()
    uris = {name: source.run("kachery-cloud-link", data / f"{name}.dat").stdout.strip() for name in ("big", "small")}
    uris["folder"] = source.run("kachery-cloud-link", "-r", data / "folder").stdout.strip()
    return Desk(source, source, data, uris)


@pytest.fixture
def desks(made: Desk, tmp_path: Path) -> Iterator[Callable[[], Desk]]:
    """Makes fresh workstations beside that source."""
    stations: list[Workstation] = []

    def make() -> Desk:
        stations.append(Workstation(tmp_path / f"desk-{len(stations)}"))
        return Desk(stations[-1], made.source, made.data, made.uris)

    yield make
    for station in stations:
        station.close()


Line = list[str | Path]
Check = Callable[[Desk, Ended], None]


def moments(
    desks: Callable[[], Desk],
    line: Callable[[Desk], Line],
    check: Check,
    after: Check | None = None,
    going_on: str = "",
) -> None:
    """Interrupt a command at some moments, each on a fresh workstation; then let it end.

    Args:
        desks: makes workstations.
        line: prepares one, and says what is run.
        check: looks at what is said after Ctrl-C, and whether it is so.
        after: looks at what there is when the same command was run again, to its end.
        going_on: a pattern for what is kept on purpose, and goes on with the same command.
    """
    first = desks()
    whole = first.run(*line(first))
    assert whole.code == 0, whole.err
    interrupted = 0
    for number in range(1, MOMENTS + 1):
        desk = desks()
        this = line(desk)
        ended = desk.run(*this, at=whole.moment(number))
        assert "Traceback" not in ended.err, ended.err
        assert ended.code in (0, 130, -signal.SIGINT), (ended.code, ended.err)
        if ended.code == 130:
            interrupted += 1
            assert "Interrupted" in ended.err + ended.out, ended
            assert not [name for name in desk.left() if not fnmatch(name, going_on)]
            check(desk, ended)
        again = desk.run(*this)
        assert again.code == 0, (again.err, ended)
        assert not desk.left()
        if after is not None:
            after(desk, again)
    assert interrupted, "no moment was within the command"


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# --- what brings something in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [False, True], ids=["store", "link"])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_files_that_are_stored(desks: Callable[[], Desk], linked: bool, as_json: bool) -> None:
    """Those whose URIs were printed are stored, and nothing lies about; the rest comes with the same command."""
    command = "link" if linked else "store"

    def line(desk: Desk) -> Line:
        return [command, *(["--json"] if as_json else []), desk.data / "small.dat", desk.big]

    def check(desk: Desk, ended: Ended) -> None:
        if "Error: Interrupted.\n" in ended.err:  # the command itself was still read
            return
        uris = lines(ended.out)
        message = ended.err
        if as_json:
            said = json.loads(ended.out)
            uris = [each["uri"] for each in said.get("stored", ())]  # there are none where it came early
            assert said["error"]["type"] == "Interrupted"
            message = said["error"]["message"]
        assert "what is stored already is not stored twice" in message
        assert all(desk.is_here(uri) for uri in uris)

    def after(desk: Desk, _: Ended) -> None:
        assert desk.is_here(desk.uris["big"])
        assert desk.is_here(desk.uris["small"])

    moments(desks, line, check, after)


@pytest.mark.parametrize("linked", [False, True], ids=["store", "link"])
def test_folders_that_are_stored(desks: Callable[[], Desk], linked: bool) -> None:
    """Nothing lies about, what is there is right, and the same command ends with the right URI."""

    def check(desk: Desk, ended: Ended) -> None:
        assert "what is stored already is not stored twice" in ended.err or "Error: Interrupted.\n" in ended.err
        assert desk.run("verify").code == 0

    def after(desk: Desk, _: Ended) -> None:
        assert desk.kcl("load", desk.uris["folder"], "--local-only", "--dest", "tree")
        assert sha256_of_folder(desk.station.folder / "tree") == sha256_of_folder(desk.folder)

    moments(desks, lambda desk: ["link" if linked else "store", "-r", desk.folder], check, after)


@pytest.mark.parametrize("command", ["load", "get", "cat", "export"])
def test_files_that_are_loaded(desks: Callable[[], Desk], command: str) -> None:
    """What has arrived is kept, and is not fetched again. In the place of the copy there is nothing, or all of it."""

    def line(desk: Desk) -> Line:
        more: Line = {
            "load": ["--dest", "out.dat", "--force"],
            "get": ["--dest", "out.dat"],  # one that is there already is the same
            "cat": [],
            "export": ["out.car", "--force"],
        }[command]
        return [command, desk.uris["big"], *more, "--peer", desk.source.addr]

    kept: dict[Path, int] = {}

    def check(desk: Desk, ended: Ended) -> None:
        kept[desk.station.folder] = desk.kept()
        copy = desk.station.folder / "out.dat"
        assert not copy.exists() or sha256_of(copy) == sha256_of(desk.big)
        whole = (desk.station.folder / "out.car").exists()
        if "Error: Interrupted.\n" not in ended.err:  # that is said while the command itself is still read
            car = "out.car is there, and whole" if whole else "The CAR file is not whole"
            assert (car if command == "export" else "What has arrived is kept") in ended.err

    def after(desk: Desk, again: Ended) -> None:
        there = kept.get(desk.station.folder)
        assert there is None or again.seen["bytes"] == SIZE - there
        assert desk.kept() == SIZE

    moments(desks, line, check, after, going_on=".out.car.*.part")


def test_folders_that_are_loaded(desks: Callable[[], Desk]) -> None:
    """What has arrived is kept. The folder is there whole, or not at all."""

    def check(desk: Desk, ended: Ended) -> None:
        assert "What has arrived is kept" in ended.err or "Error: Interrupted.\n" in ended.err
        out = desk.station.folder / "out"
        assert not out.exists() or sha256_of_folder(out) == sha256_of_folder(desk.folder)

    def after(desk: Desk, _: Ended) -> None:
        assert sha256_of_folder(desk.station.folder / "out") == sha256_of_folder(desk.folder)

    def line(desk: Desk) -> Line:
        return ["load", desk.uris["folder"], "--dest", "out", "--peer", desk.source.addr]

    moments(desks, line, check, after)


def test_car_files_that_are_imported(desks: Callable[[], Desk], made: Desk) -> None:
    """What has come is kept, is right, and the same command goes on."""
    car = made.data / "all.car"
    if not car.exists():
        made.kcl("export", made.uris["big"], made.uris["folder"], car)

    def check(desk: Desk, ended: Ended) -> None:
        assert "What has come is kept" in ended.err or "Error: Interrupted.\n" in ended.err
        assert desk.run("verify").code == 0

    def after(desk: Desk, _: Ended) -> None:
        assert desk.is_here(desk.uris["big"])

    moments(desks, lambda _: ["import", car], check, after)


# --- what looks after it, and takes it away --------------------------------------------------------------------------


def stored(desk: Desk) -> list[str]:
    """Some things that are here."""
    paths = [desk.data / "small.dat", desk.big, *sorted(desk.folder.glob("below/*"))]
    return lines(desk.kcl("store", *paths))


def test_verifying(desks: Callable[[], Desk]) -> None:
    """What was found until then is named, or it is said that there was nothing."""

    def line(desk: Desk) -> Line:
        stored(desk)
        return ["verify"]

    def check(desk: Desk, ended: Ended) -> None:
        assert "Nothing wrong was found until then" in ended.err or "Error: Interrupted.\n" in ended.err
        assert not ended.out

    moments(desks, line, check)


@pytest.mark.parametrize("command", ["rm", "gc"])
def test_what_is_removed(desks: Callable[[], Desk], command: str) -> None:
    """What is named is gone; of the rest one more may be, and all others are as they were."""
    uris: dict[Path, list[str]] = {}

    def line(desk: Desk) -> Line:
        if desk.station.folder not in uris:
            uris[desk.station.folder] = stored(desk)
        if command == "gc":
            return ["gc", "--keep", "0", "--stored", "--force"]
        return ["rm", "--force", *uris[desk.station.folder]]

    def check(desk: Desk, ended: Ended) -> None:
        assert "What was named before is removed, and perhaps the next one" in ended.err or not ended.out
        named = [line for line in lines(ended.out) if line.startswith("Removed ")]
        here = [uri for uri in uris[desk.station.folder] if desk.is_here(uri)]
        gone = len(uris[desk.station.folder]) - len(here)
        assert len(named) <= gone <= len(named) + 1
        assert desk.run("verify").code == 0
        uris[desk.station.folder] = here

    def again(desk: Desk, _: Ended | None = None) -> None:
        assert not [uri for uri in uris[desk.station.folder] if desk.is_here(uri)]

    if command == "gc":
        moments(desks, line, check, again)
        return
    # What is gone already cannot be removed again, so the second line has what is left.
    first = desks()
    whole = first.run(*line(first))
    for number in range(1, MOMENTS + 1):
        desk = desks()
        ended = desk.run(*line(desk), at=whole.moment(number))
        assert "Traceback" not in ended.err
        if ended.code == 130:
            check(desk, ended)
            if uris[desk.station.folder]:
                assert desk.run(*line(desk)).code == 0
                again(desk)


def test_moving(desks: Callable[[], Desk]) -> None:
    """Nothing is lost, and the same command finishes it."""
    folder: dict[Path, list[str]] = {}

    def line(desk: Desk) -> Line:
        folder[desk.station.folder] = stored(desk)
        return ["move", "elsewhere"]

    def check(desk: Desk, ended: Ended) -> None:
        assert "Nothing is lost" in ended.err or "Error: Interrupted.\n" in ended.err
        assert all(desk.is_here(uri) for uri in folder[desk.station.folder])

    def after(desk: Desk, _: Ended) -> None:
        assert all(desk.is_here(uri) for uri in folder[desk.station.folder])
        assert (desk.station.folder / "elsewhere").is_dir()

    moments(desks, line, check, after)


# --- what asks others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["whereis", "info", "ls", "diff", "publish"])
def test_what_asks_others(desks: Callable[[], Desk], command: str) -> None:
    """Nothing lies about, and the same command ends as if it had not been interrupted."""

    def line(desk: Desk) -> Line:
        peer: Line = ["--peer", desk.source.addr]
        return {
            "whereis": ["whereis", desk.uris["big"], *peer],
            "info": ["info", desk.uris["big"], *peer],
            "ls": ["ls", desk.uris["folder"], *peer],
            "diff": ["diff", desk.uris["folder"], desk.folder, *peer],
            "publish": ["publish", desk.uris["big"], "--timeout", "1"],
        }[command]

    def check(desk: Desk, ended: Ended) -> None:
        if command == "publish" and "Error: Interrupted.\n" not in ended.err:
            assert "publish --list says where it does" in ended.err
            listed = lines(desk.kcl("publish", "--list"))
            assert all(desk.uris["big"] in line for line in listed)

    moments(desks, line, check)
