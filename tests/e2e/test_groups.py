"""Groups between whole workstations on loopback: made, joined, handed on, ended, and kept over a restart."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.workstation import Workstation
from tests.helpers.patience import wait_until


def group(station: Workstation, *args: str, code: int = 0) -> Any:
    """What a command says as JSON."""
    done = station.run("kachery-cloud", "group", *args, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def roles(station: Workstation) -> dict[str, str]:
    """Who is in the group, by label."""
    return {each["label"]: each["role"] for each in group(station, "members", "hippocampus")["members"]}


def test_three_workstations(workstation: Callable[..., Workstation]) -> None:
    """A makes a group and invites B. B joins, becomes an owner, and invites C, also after a restart of B's node. A
    removes C. All of them see each step, and C's machine is told."""
    a, b, c = workstation().start(), workstation().start(), workstation().start()
    made = group(a, "create", "hippocampus", "--as", "ann")
    assert made == {"id": made["id"], "name": "hippocampus", "role": "owner", "members": 1}
    first = group(a, "invite", "hippocampus")["invitation"]
    assert group(b, "join", first, "--as", "ben")["role"] == "reader"
    assert roles(a) == roles(b) == {"ann": "owner", "ben": "reader"}
    used = group(c, "join", first, code=6)["error"]
    assert (used["type"], "used already" in used["message"]) == ("InvitationRefused", True)
    assert group(b, "invite", "hippocampus", code=2)["error"]["type"] == "GroupError"

    group(a, "role", "hippocampus", "ben", "owner")
    wait_until(lambda: roles(b)["ben"] == "owner", "b knows that it is an owner")
    b.kill()
    b.start()
    wait_until(
        lambda: [each["connected"] for each in group(b, "members", "hippocampus")["members"]].count(True) == 1,
        "b has found a again",
    )
    group(c, "join", group(b, "invite", "hippocampus", "--role", "writer")["invitation"], "--as", "cleo")
    everybody = {"ann": "owner", "ben": "owner", "cleo": "writer"}
    for station in (a, b, c):
        wait_until(lambda station=station: roles(station) == everybody, "all see c")
    epochs = {json.loads(path.read_text())["secrets"][0]["secret"] for path in files(a, b, c)}
    assert len(epochs) == 1

    assert group(a, "remove", "hippocampus", "cleo")["members"] == 2
    for station in (a, b):
        wait_until(lambda station=station: roles(station) == {"ann": "owner", "ben": "owner"}, "c is gone")
    wait_until(lambda: group(c, "list")["groups"][0]["role"] == "removed", "c was told")
    wait_until(lambda: len({json.loads(each.read_text())["secrets"][0]["secret"] for each in files(a, b)}) == 1)
    secrets = [{each["secret"] for each in json.loads(path.read_text())["secrets"]} for path in files(a, b, c)]
    assert secrets[0] == secrets[1]
    assert secrets[2] == epochs < secrets[0]
    for path in files(a, b, c):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    assert group(b, "leave", "hippocampus")["told"] is True
    assert group(b, "list")["groups"] == []
    wait_until(lambda: roles(a) == {"ann": "owner"}, "a has heard that b left")


def files(*stations: Workstation) -> list[Path]:
    """Of the one group that each has."""
    found = [
        [each for each in (station.directory / "groups").glob("*.json") if len(each.stem) == 26] for station in stations
    ]
    assert [len(each) for each in found] == [1] * len(stations)
    return [each[0] for each in found]


def test_what_the_commands_say(workstation: Callable[..., Workstation]) -> None:
    """Without a node, alone, and with mistakes: each is a sentence, and says what to do."""
    here = workstation()
    assert group(here, "list") == {"groups": []}
    made = here.run("kachery-cloud", "group", "create", "lab")
    assert "invite" in made.stderr
    ident = made.stdout.strip()
    head, line = here.run("kachery-cloud", "group", "list").stdout.splitlines()
    assert (head.split(), line.split()) == (["NAME", "GROUP", "ROLE", "MEMBERS"], ["lab", ident, "owner", "1"])
    other = group(here, "create", "lab")["id"]
    for code, says, *line in (
        (2, f"{min(ident, other)}, {max(ident, other)}", "members", "lab"),
        (3, "in no group called none", "members", "none"),
        (2, "no spaces", "create", "two words"),
        (2, "means something else", "create", "public"),
        (2, "begins with kachery-group:", "join", "ipfs://bafy"),
        (2, "not whole", "join", "kachery-group:AAAA"),
        (2, "is no member", "remove", ident, "nobody"),
        (2, "is not a time", "invite", ident, "--expires", "soon"),
    ):
        done = here.run("kachery-cloud", "group", *line, check=False)
        assert (done.returncode, says in " ".join(done.stderr.split())) == (code, True), done.stderr
    members = here.run("kachery-cloud", "group", "members", ident).stdout
    assert members.splitlines()[1].startswith("owner  12D3KooW")
    assert members.endswith("  this machine\n")
    invited = here.run("kachery-cloud", "group", "invite", ident, "--expires", "30m")
    assert invited.stdout.startswith("kachery-group:")
    assert "kachery-cloud-node" in invited.stderr
    there = workstation()
    late = there.run("kachery-cloud", "group", "join", invited.stdout.strip(), "--timeout", "30", check=False)
    assert late.returncode == 6
    assert "is not used up" in late.stderr
    here.run("kachery-cloud", "group", "leave", ident)
    assert [each["id"] for each in group(here, "list")["groups"]] == [other]
