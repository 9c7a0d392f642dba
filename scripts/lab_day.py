"""A day of a lab in ten minutes: `python -m scripts.lab_day`.

Some members with some workstations each store, wait until the lab's node has pinned it, load what others stored, and
sleep. Workstations crash in the middle (kill -9), and so does the node. At the end the node is killed and started once
more, everything that a workstation was told to be pinned is looked for in the node's list, read again by
`kachery-cloud verify`, and loaded by a newcomer who knows nobody but the node.

All is on this machine, over loopback.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.lab_members import LabMember
from scripts.workstation import Workstation, WorkstationError

#: Workstations of each member.
EACH = 4
#: How often a workstation crashes in the middle of what it does.
CRASHES = 0.2
SMALL, LARGE = 1 << 10, 4 << 20
#: Seconds that a workstation sleeps at most.
SLEEP = 10.0
#: Seconds between two crashes of the node, and until it is started again, at most.
BETWEEN, DOWN = (30.0, 90.0), 8.0

#: Says which URI it has, and then that the lab's node has pinned it: from there on it must never be lost.
_STORE = """
path, project, kind, seconds = args
store, data = (kcl.store_file, path) if kind == "file" else (kcl.store_json, json.load(open(path)))
uri = store(data, project=project)
say(["stored", uri])
kcl.wait_pinned(uri, timeout=seconds)
say(["pinned", uri])
"""
_LOAD = """
import hashlib
path = kcl.load_file(args[0], timeout=args[1])
say(hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


@dataclass
class Day:
    """What happened.

    Attributes:
        pinned: what a workstation was told to be pinned: URI, and the SHA-256 of its bytes (empty where the URI says it
            all).
        counts: how often each thing was done, and how often it failed; why, for the first of each kind.
        lost: what is wrong at the end, in sentences.
    """

    pinned: dict[str, str] = field(default_factory=dict[str, str])
    counts: Counter[str] = field(default_factory=Counter[str])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    bytes: int = 0
    lost: list[str] = field(default_factory=list[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, reason: str = "") -> None:
        """One more."""
        with self.lock:
            self.counts[what] += 1
            if reason:
                self.reasons.setdefault(what, reason)


class LabNode:
    """The lab's node, at addresses that stay the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.station = Workstation(folder)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._options = (
            *("--lab", self.url.removeprefix("http://")),
            *("--listen", f"/ip4/127.0.0.1/tcp/{_free_port()}"),
        )

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.station.start(*self._options)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _work(station: Workstation, day: Day, dice: random.Random, until: threading.Event) -> None:
    """One workstation, until the day is over."""
    number = 0
    while not until.is_set():
        choice = dice.random()
        if choice < 0.5:
            number += 1
            _store(station, day, dice, number)
        elif choice < 0.8:
            _load(station, day, dice)
        else:
            until.wait(dice.uniform(0, SLEEP))


def _store(station: Workstation, day: Day, dice: random.Random, number: int) -> None:
    kind = dice.choice(("file", "value"))
    path = station.folder / f"data-{number}"
    if kind == "file":
        data = dice.randbytes(int(SMALL * (LARGE / SMALL) ** dice.random()))
        digest = hashlib.sha256(data).hexdigest()
    else:
        data = json.dumps({"trial": number, "values": [dice.random() for _ in range(20)]}).encode()
        digest = ""
    path.write_bytes(data)
    process = station.begin(_STORE, path, "day", kind, 300)
    crash = None
    if dice.random() < CRASHES:
        crash = threading.Timer(dice.uniform(0.2, 4.0), process.kill)
        crash.start()
    try:
        out, errors = process.communicate()
    finally:
        if crash is not None:
            crash.cancel()
    said = [json.loads(line) for line in out.splitlines()]
    for what, uri in said:
        day.count(what)
        if what == "pinned":
            with day.lock:
                day.pinned[uri] = digest
                day.bytes += len(data)
    if process.returncode == -9:
        day.count("crashes of workstations")
    elif process.returncode:
        day.count("stores that were not pinned in time", errors.strip().splitlines()[-1][:300])
    path.unlink()


def _load(station: Workstation, day: Day, dice: random.Random) -> None:
    with day.lock:
        known = sorted(day.pinned.items())
    if not known:
        return
    uri, digest = dice.choice(known)
    process = station.begin(_LOAD, uri, 120)
    out, errors = process.communicate()
    if process.returncode:
        day.count("loads that failed", errors.strip().splitlines()[-1][:300])
        return
    day.count("loaded")
    if digest and json.loads(out) != digest:
        day.lost.append(f"{uri} was loaded with other bytes")


def run(folder: Path, *, workstations: int, seconds: float, seed: int, stores: int | None = None) -> Day:
    """Have such a day.

    Args:
        folder: to work in.
        workstations: how many.
        seconds: how long it is at most.
        seed: of all that is chosen.
        stores: the day is over when so many things are pinned; None for `seconds` alone.
    """
    day, over = Day(), threading.Event()
    with ExitStack() as stack:
        lab = LabNode(folder / "lab")
        stack.enter_context(lab.station)
        lab.start()
        stations = _workstations(folder, lab, workstations, stack)
        threads = [
            threading.Thread(target=_work, args=(station, day, random.Random(seed + number), over))
            for number, station in enumerate(stations)
        ]
        for thread in threads:
            thread.start()
        dice = random.Random(seed - 1)
        end = time.monotonic() + seconds
        pause = BETWEEN if stores is None else (4.0, 8.0)
        while (left := end - time.monotonic()) > 0 and (stores is None or len(day.pinned) < stores):
            time.sleep(min(left, dice.uniform(*pause)))
            lab.station.kill()
            day.count("crashes of the node")
            time.sleep(dice.uniform(0, DOWN if stores is None else 1.0))
            lab.start()
        over.set()
        for thread in threads:
            thread.join()
        lab.station.kill()
        lab.start()
        _check(folder, lab, day)
    return day


def _workstations(folder: Path, lab: LabNode, count: int, stack: ExitStack) -> list[Workstation]:
    """Registered ones; the first member makes the project into which all store."""
    members = [
        LabMember(lab.station, lab.url, f"Member {number}", *(["--administrator"] if number == 0 else []))
        for number in range(-(-count // EACH))
    ]
    stations = [stack.enter_context(Workstation(folder / f"workstation-{number}")) for number in range(count)]
    for number, station in enumerate(stations):
        members[number // EACH].register(station)
    made = members[0].call("POST", "/api/v1/projects", json={"name": "day"})
    if made.status_code != 201:
        raise WorkstationError(made.text)
    for member in members[1:]:
        added = members[0].call(
            "PUT", f"/api/v1/projects/{made.json()['id']}/members/{member.id}", json={"role": "writer"}
        )
        if added.status_code not in (200, 201, 204):
            raise WorkstationError(added.text)
    for member in members:
        member.close()
    return stations


def _check(folder: Path, lab: LabNode, day: Day) -> None:
    """Whether the node has everything that it said it has pinned, and gives it to a newcomer."""
    listed = _listed(lab)
    for uri in day.pinned:
        if _cid(uri) not in listed:
            day.lost.append(f"{uri} is not on the node's list")
    verified = lab.station.run("kachery-cloud", "verify", check=False)
    if verified.returncode:
        day.lost.append(f"verify: {verified.stdout[-1000:]}{verified.stderr[-1000:]}")
    with Workstation(folder / "newcomer") as newcomer:
        newcomer.env["KACHERY_CLOUD_PEERS"] = lab.station.addr
        code = """
import hashlib
for uri, digest in args[0].items():
    try:
        found = hashlib.sha256(open(kcl.load_file(uri, timeout=60), "rb").read()).hexdigest()
        if digest and found != digest:
            say([uri, "has other bytes"])
    except kcl.KacheryError as error:
        say([uri, str(error)])
"""
        process = newcomer.begin(code, day.pinned)
        out, errors = process.communicate()
        day.lost += [": ".join(json.loads(line)) for line in out.splitlines()]
        if process.returncode:
            day.lost.append(f"the newcomer ended: {errors[-1000:]}")


def _listed(lab: LabNode) -> set[str]:
    """The CIDs of what is pinned at the node."""
    answer: Any = json.loads(lab.station.run("kachery-cloud", "list", "--json").stdout)
    items = answer["items"] if isinstance(answer, dict) else answer
    return {_cid(item["uri"]) for item in items}


def _cid(uri: str) -> str:
    return uri.removeprefix("ipfs://").partition("?")[0].partition("/")[0]


def main() -> int:
    """Have the day and print what happened. Returns the exit code: 1 where something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workstations", type=int, default=20, help="how many (20)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is chosen (1)")
    parser.add_argument("--folder", type=Path, help="a folder to work in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kachery-day-", dir=options.folder) as folder:
        begun = time.monotonic()
        day = run(Path(folder), workstations=options.workstations, seconds=60 * options.minutes, seed=options.seed)
        print(f"{options.workstations} workstations, {time.monotonic() - begun:.0f} s with the checks at the end")
    for what, count in sorted(day.counts.items()):
        reason = day.reasons.get(what)
        print(f"{count:6,} {what}" + (f", the first: {reason}" if reason else ""))
    print(f"{len(day.pinned):6,} roots that were said to be pinned, {day.bytes / 1e6:.1f} MB")
    print(f"{len(day.lost):6,} lost")
    for each in day.lost[:20]:
        print(f"       {each}")
    return 1 if day.lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
