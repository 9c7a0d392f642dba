"""For whom something is, on workstations of several people: what a member loads, and what nobody else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_cloud.uri import parse_uri
from scripts.data import write_random
from scripts.workstation import Workstation

#: A load that gives up soon: nobody has it for whoever asks.
_LOAD = """
try:
    found = kcl.load_bytes(args[0], providers=args[1:], timeout=3)
    say(len(found))
except (kcl.ContentNotFound, kcl.NotAMember) as error:
    say(str(error))
"""


@pytest.fixture
def people(workstation: Callable[..., Workstation]) -> dict[str, Workstation]:
    """Ada, who stores, Ben and Cleo: the node of each runs, and all are connected with Ada's."""
    ada = workstation().start()
    others = {name: workstation(env={"KACHERY_CLOUD_PEERS": ada.addr}).start() for name in ("ben", "cleo")}
    return {"ada": ada, **others}


def join(owner: Workstation, group: str, member: Workstation, role: str = "reader") -> None:
    """Let somebody into a group, by an invitation."""
    invitation = owner.call("say(kcl.invite(args[0], role=args[1]))", group, role)
    member.call("kcl.join_group(args[0])", invitation)


def load(who: Workstation, uri: str, owner: Workstation) -> int | str:
    """Bytes of what was loaded; or why it was not."""
    return who.call(_LOAD, uri, owner.addr)


def test_members_load_and_nobody_else(people: dict[str, Workstation], tmp_path: Path) -> None:
    """Ben, a member, loads what Ada stored for the group; Cleo, who is none, is told that nobody has it, whatever she
    knows. When Ben was removed he gets nothing new, and keeps what he has. What Ada stores for everybody all get."""
    ada, ben, cleo = people["ada"], people["ben"], people["cleo"]
    group = ada.call("say(kcl.create_group('hippocampus').id)")
    join(ada, "hippocampus", ben)
    source = write_random(tmp_path / "source", 3_000_000, seed=1)
    done = ada.run("kachery-cloud-store", source, "--to", "hippocampus")
    uri = done.stdout.strip()
    assert parse_uri(uri).groups == (group,)
    assert "Only members of hippocampus (2) can load this." in done.stderr
    assert load(ben, uri, ada) == 3_000_000
    assert "for members of the group" in str(load(cleo, uri, ada))
    assert isinstance(load(cleo, parse_uri(uri).locator, ada), str)
    # On Ben's machine it stays in the group; Ben is a reader, who cannot give it to others.
    assert json.loads(ben.run("kachery-cloud", "list", "--json").stdout)["items"][0]["visibility"] == ["hippocampus"]
    assert isinstance(load(cleo, parse_uri(uri).locator, ben), str)
    refused = ben.run("kachery-cloud", "visibility", uri, "--to", "public", check=False)
    assert (refused.returncode, "is a reader" in refused.stderr) == (5, True)
    refused = ben.run("kachery-cloud-store", source, "--to", "hippocampus", check=False)
    assert (refused.returncode, "is a reader" in refused.stderr) == (5, True)
    # Nor by a folder of his own in which a copy of it lies, whatever he says.
    (tmp_path / "proj").mkdir()
    ben.run("kachery-cloud-load", uri, "--dest", tmp_path / "proj" / "grp.dat")
    for options in ([], ["--to", "public"]):
        refused = ben.run("kachery-cloud-store", "-r", tmp_path / "proj", *options, check=False)
        assert (refused.returncode, refused.stdout) == (5, "")
        assert "'grp.dat' in it is from 'hippocampus', of which this machine is a reader" in refused.stderr
    assert isinstance(load(cleo, parse_uri(uri).locator, ben), str)
    ada.call("kcl.remove_member('hippocampus', args[0])", ben.peer_id)
    again = ada.run("kachery-cloud-store", write_random(tmp_path / "again", 300_000, seed=2), "--to", "hippocampus")
    assert isinstance(load(ben, again.stdout.strip(), ada), str)
    assert isinstance(load(ben, parse_uri(again.stdout.strip()).locator, ada), str)
    assert load(ben, uri, ada) == 3_000_000
    public = ada.run("kachery-cloud-store", write_random(tmp_path / "public", 300_000, seed=3)).stdout.strip()
    assert [load(who, public, ada) for who in (ben, cleo)] == [300_000, 300_000]


def test_changing_it_holds_at_once(people: dict[str, Workstation], tmp_path: Path) -> None:
    """For the node that runs: what was private is given to everybody, and then to nobody else again."""
    ada, cleo = people["ada"], people["cleo"]
    first, second = (write_random(tmp_path / str(seed), 300_000, seed=seed) for seed in (1, 2))
    uris = [ada.run("kachery-cloud-store", each, "--to", "private").stdout.strip() for each in (first, second)]
    assert isinstance(load(cleo, uris[0], ada), str)
    done = json.loads(ada.run("kachery-cloud", "visibility", uris[0], "--to", "public", "--json").stdout)
    assert (done["visibility"], done["before"], done["served"]) == (["public"], ["private"], True)
    assert "ask for its new URI" in str(load(cleo, uris[0], ada)), "the old one says that it is private"
    assert load(cleo, done["uri"], ada) == 300_000
    public = ada.run("kachery-cloud", "visibility", uris[1], "--to", "public").stdout.strip()
    assert "stays theirs" in ada.run("kachery-cloud", "visibility", public, "--to", "private").stderr
    assert isinstance(load(cleo, public, ada), str)


def test_own_machines(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """What is private is for the machines that the settings name by their peer IDs, and for no other."""
    laptop, desk, stranger = (workstation() for _ in range(3))
    peers = [json.loads(each.run("kachery-cloud-init", "--json").stdout)["peer_id"] for each in (laptop, desk)]
    for each in (laptop, desk):
        each.env["KACHERY_CLOUD_OWN_PEERS"] = ",".join(peers)
    for each in (laptop, desk, stranger):
        each.start()
    uri = desk.run("kachery-cloud-store", write_random(tmp_path / "a", 300_000, seed=1), "--to", "private")
    assert uri.stderr.strip() == "Only your own machines can load this."
    assert load(laptop, uri.stdout.strip(), desk) == 300_000
    for owner in (desk, laptop):
        assert isinstance(load(stranger, uri.stdout.strip(), owner), str)
    assert json.loads(laptop.run("kachery-cloud", "list", "--json").stdout)["items"][0]["visibility"] == ["private"]


def test_who_did(people: dict[str, Workstation], tmp_path: Path) -> None:
    """The node writes down who loaded what is not for everybody; `access` and `audit` show it when the node has
    written it, at the latest when it stops."""
    ada, ben = people["ada"], people["ben"]
    ada.call("kcl.create_group('hippocampus')")
    join(ada, "hippocampus", ben)
    uri = ada.run("kachery-cloud-store", write_random(tmp_path / "a", 300_000, seed=1), "--to", "hippocampus")
    assert load(ben, uri.stdout.strip(), ada) == 300_000
    assert ada.stop() == 0
    found = json.loads(ada.run("kachery-cloud", "access", uri.stdout.strip(), "--json").stdout)
    assert [(each["peer"], each["bytes"] >= 300_000) for each in found["loads"]] == [(ben.peer_id, True)]
    assert {each["peer"] for each in found["reasons"][0]["members"]} == {ada.peer_id, ben.peer_id}
    audit = json.loads(ada.run("kachery-cloud", "audit", "--json").stdout)
    assert [(each["to"], each["members"], each["roots"]) for each in audit["given"]] == [
        ("public", None, 0),
        ("hippocampus", 2, 1),
    ]
    assert [each["peer"] for each in audit["loads"]] == [ben.peer_id]


def test_nobody_is_written_down_where_that_is_off(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """By the setting: the node keeps no log, and `access` and `audit` say so instead of "nobody"."""
    ada = workstation(env={"KACHERY_CLOUD_ACCESS_LOG": "off"}).start()
    ben = workstation(env={"KACHERY_CLOUD_PEERS": ada.addr}).start()
    ada.call("kcl.create_group('hippocampus')")
    join(ada, "hippocampus", ben)
    uri = ada.run("kachery-cloud-store", write_random(tmp_path / "a", 300_000, seed=1), "--to", "hippocampus")
    assert load(ben, uri.stdout.strip(), ada) == 300_000
    assert ada.stop() == 0
    assert not (ada.directory / "access.sqlite").exists()
    for line in (["access", uri.stdout.strip()], ["audit"]):
        text = ada.run("kachery-cloud", *line).stdout
        assert "not written down now (KACHERY_CLOUD_ACCESS_LOG is off)" in text
        assert "Nobody" not in text
