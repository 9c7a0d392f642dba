"""Projects of a lab: the node as a process, and workstations as others have them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.lab_members import LabMember, running_node_of_lab
from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.patience import wait_until

STORE = "say(kcl.store_file(args[0], project=args[1]))"
LOAD = "say(str(kcl.load_file(args[0])))"


def _file(folder: Path, seed: int, size: int = 3_000_000) -> Path:
    path = folder / f"session{seed}.dat"
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def _json(station: Workstation, *command: str) -> Any:
    return json.loads(station.run(*command, "--json").stdout)


class _Lab:
    """A lab with Ann, who administers it, and Bob; and a workstation of each."""

    def __init__(self, workstation: StartWorkstation) -> None:
        self.node = workstation()
        self.url = running_node_of_lab(self.node, "--gateway", "127.0.0.1:0")
        self.gateway = self.node.status()["gateway"]["url"]
        self.ann = LabMember(self.node, self.url, "Ann", "--administrator")
        self.bob = LabMember(self.node, self.url, "Bob")
        self.hers, self.his = workstation(), workstation()
        self.ann.register(self.hers)
        self.bob.register(self.his)


@pytest.fixture
def lab(workstation: StartWorkstation) -> Iterator[_Lab]:
    made = _Lab(workstation)
    with closing(made.ann), closing(made.bob):
        yield made


def test_one_stores_and_sleeps_and_another_loads(lab: _Lab, tmp_path: Path) -> None:
    """Into a project for everybody; what was moved is what the usage says, for whom, and of what."""
    path = _file(tmp_path, 1)
    lab.hers.run("kachery-cloud-projects", "create", "atlas")
    lab.hers.start()
    uri = lab.hers.call(STORE, str(path), "atlas")
    lab.hers.run("kachery-cloud-pins", "wait", uri)
    lab.hers.stop()
    (file,) = lab.bob.get("/api/v1/files?project=atlas")["items"]
    assert (file["label"], file["size"], file["status"], file["owner"]["name"]) == (
        path.name,
        3_000_000,
        "pinned",
        "Ann",
    )
    loaded = lab.his.call(LOAD, uri)
    assert Path(loaded).read_bytes() == path.read_bytes()
    (project,) = _json(lab.his, "kachery-cloud-projects")["projects"]
    assert (project["name"], project["role"], project["bytes"], project["files"]) == ("atlas", None, 3_000_000, 1)

    def of_bob() -> dict[str, Any]:
        rows = _json(lab.his, "kachery-cloud-usage", "--by", "member", "--by", "project")["usage"]
        return next((row for row in rows if row["member"] == lab.bob.id), {})

    row = of_bob()
    # The root, of a hundred bytes or two, and three leaves.
    assert (row["project"], row["blocks_served"], row["bytes_stored"]) == (project["id"], 4, 0)
    assert 3_000_000 < row["bytes_served"] < 3_001_000
    (stored,) = _json(lab.hers, "kachery-cloud-usage", "--by", "project")["usage"]
    assert (stored["name"], stored["bytes_stored"], stored["pins"]) == ("atlas", 3_000_000, 1)
    shown = lab.hers.run("kachery-cloud-usage", "--by", "client").stdout
    assert "#" in shown
    # It is there when the node was stopped and began anew.
    lab.node.stop()
    lab.node.start("--lab", lab.url.removeprefix("http://"))
    assert of_bob() == row


def test_only_for_its_members(lab: _Lab, tmp_path: Path, workstation: StartWorkstation) -> None:
    """A project that is for its members alone: the node keeps it for them, and whoever is taken out loads no more."""
    first, second = _file(tmp_path, 1), _file(tmp_path, 2)
    made = _json(lab.hers, "kachery-cloud-projects", "create", "cortex", "--members")
    lab.hers.run("kachery-cloud-projects", "add", "cortex", "Bob")
    lab.hers.start()
    uri = lab.hers.call(STORE, str(first), "cortex")
    assert made["group"] in uri
    lab.hers.run("kachery-cloud-pins", "wait", uri)
    # As it is, and not as an encrypted copy: the node is a member, and shows it to people who are.
    (file,) = lab.ann.get("/api/v1/files?project=cortex")["items"]
    assert (file["size"], file["status"]) == (3_000_000, "pinned")
    assert lab.bob.http.get(f"/api/v1/files/{file['id']}/content").content == first.read_bytes()
    node = json.loads(lab.node.run("kachery-cloud", "list", "--json").stdout)
    items = node["items"] if isinstance(node, dict) else node
    assert [each["visibility"] for each in items] == [["cortex"]]
    lab.hers.stop()
    stranger = workstation()
    refused = stranger.run("kachery-cloud-load", uri, "--timeout", "3", check=False)
    assert refused.returncode != 0
    before = lab.his.run("kachery-cloud-load", uri, "--timeout", "3", check=False)
    assert "kachery-cloud-group join" in before.stderr or before.returncode != 0
    lab.his.start()
    lab.his.run("kachery-cloud-projects", "join", "cortex")
    loaded = lab.his.call(LOAD, uri)
    assert Path(loaded).read_bytes() == first.read_bytes()
    # A reader stores nothing for it.
    told = lab.his.run("kachery-cloud-store", str(second), "--project", "cortex", check=False)
    assert told.returncode != 0
    assert "kachery-cloud-projects add" in told.stderr
    lab.hers.start()
    lab.hers.run("kachery-cloud-projects", "remove", "cortex", "Bob")
    new = lab.hers.call(STORE, str(second), "cortex")
    lab.hers.run("kachery-cloud-pins", "wait", new)
    assert lab.bob.http.get(f"/api/v1/files/{file['id']}").status_code == 404
    groups = _json(lab.node, "kachery-cloud-group", "list")["groups"]
    assert [(each["name"], each["members"]) for each in groups] == [("cortex", 2)]
    gone = lab.his.run("kachery-cloud-load", new, "--timeout", "3", check=False)
    assert gone.returncode != 0


def test_what_is_said(lab: _Lab, tmp_path: Path) -> None:
    """One is one; what the lab says is a sentence without the protocol around it; mistakes are named where they are."""
    lab.hers.run("kachery-cloud-projects", "create", "atlas")
    again = lab.hers.run("kachery-cloud-projects", "create", "atlas", check=False)
    assert again.returncode != 0
    assert again.stderr.startswith("Error: There is a project 'atlas' already.")
    lab.hers.run("kachery-cloud-store", str(_file(tmp_path, 1, 1000)), "--project", "atlas")
    assert "1 file, 1" in lab.hers.run("kachery-cloud-projects", "show", "atlas").stdout
    assert "  1 computer  " in lab.node.run("kachery-cloud-node", "members", "list").stdout
    for option in ("--from", "--to"):
        told = lab.hers.run("kachery-cloud-usage", option, "yesterday", check=False)
        assert told.returncode == 2
        assert told.stderr.strip() == f"Error: {option} is 'yesterday'; it must be a day, such as 2026-11-01."
    answer = lab.ann.http.get("/api/v1/usage?from=yesterday")
    assert answer.json()["error"]["details"] == "from and to are days such as 2026-11-30: 'yesterday' is none."
    for name in ("client:zzz", f"member:{lab.bob.id}"):
        refused = lab.node.run("kachery-cloud-node", "tokens", "add", name, check=False)
        assert refused.returncode == 2
        assert "belong to the lab" in refused.stderr
    removed = lab.node.run("kachery-cloud-node", "members", "remove", "Bob")
    assert "with 1 computer." in removed.stdout + removed.stderr


def test_a_figure_in_a_project(lab: _Lab, tmp_path: Path) -> None:
    """By the API and by the command, as all that is stored."""
    lab.hers.run("kachery-cloud-projects", "create", "atlas")
    lab.hers.start()
    chart = {"data": [{"y": [1, 2, 3]}], "layout": {"title": "one"}}
    first = lab.hers.call("say(kcl.store_figure(args[0], title='one', project='atlas'))", chart)
    (tmp_path / "chart.json").write_text(json.dumps(chart))
    second = lab.hers.run(
        "kachery-cloud", "figure", str(tmp_path / "chart.json"), "--title", "two", "--project", "atlas"
    )
    for uri in (first, second.stdout.strip()):
        lab.hers.run("kachery-cloud-pins", "wait", uri)
    # The lab's gateway shows it to everybody who has the link, also when she is away.
    assert lab.hers.call("say(kcl.figure_link(args[0]))", first) == f"{lab.gateway}/figure/#{first.partition('?')[0]}"
    assert (
        httpx.get(f"{lab.gateway}/ipfs/{first[7:].partition('?')[0]}/figure.json", trust_env=False).status_code == 200
    )
    listed = lab.bob.get("/api/v1/files?project=atlas")["items"]
    assert {each["label"] for each in listed if each["status"] == "pinned"} == {"one", "two"}


def test_deleted_on_the_page_and_stored_again(lab: _Lab, tmp_path: Path) -> None:
    """Whoever stores it again is told that it is there when it is there; nobody else brings it back."""
    path = _file(tmp_path, 5, 100_000)

    def listed() -> list[tuple[str, str]]:
        items = lab.bob.get("/api/v1/files?mine=1")["items"]
        return [(each["label"] or each["name"], each["status"]) for each in items]

    lab.his.start()
    lab.his.run("kachery-cloud-store", str(path))
    for again in (
        ("kachery-cloud-store", str(path)),
        ("kachery-cloud-pins", "wait", "--verified"),
        ("kachery-cloud-pins", "add"),
    ):
        (file,) = lab.bob.get("/api/v1/files?mine=1")["items"]
        assert lab.bob.call("DELETE", f"/api/v1/files/{file['id']}").status_code == 204
        assert listed() == []
        uri = f"ipfs://{file['cid']}"
        done = lab.his.run(*again, *(() if str(path) in again else (uri,)))
        assert done.returncode == 0
        assert listed() == [(path.name, "pinned")]


def test_what_is_deleted_and_what_is_too_much(lab: _Lab, tmp_path: Path) -> None:
    """A member deletes what is theirs; the quota holds for the member; each with a sentence."""
    path = _file(tmp_path, 3, 500_000)
    lab.bob.call("POST", "/api/v1/files", params={"name": "a.dat"}, content=b"x" * 1000)
    assert lab.ann.call("PATCH", f"/api/v1/members/{lab.bob.id}", json={"quota": 100_000}).status_code == 200
    lab.hers.run("kachery-cloud-projects", "create", "atlas")
    lab.hers.run("kachery-cloud-projects", "add", "atlas", "Bob", "--role", "writer")
    lab.his.start()
    uri = lab.his.call(STORE, str(path), "atlas")

    def refused() -> bool:
        (row,) = _json(lab.his, "kachery-cloud-pins")["pins"]
        return "bytes are used" in row["last_error"] or "quota" in row["last_error"]

    wait_until(refused, "that the quota is told")
    assert [each["label"] for each in lab.bob.get("/api/v1/files?mine=1")["items"] if each["status"] == "pinned"] == [
        "a.dat"
    ]
    assert lab.ann.call("PATCH", f"/api/v1/members/{lab.bob.id}", json={"quota": None}).status_code == 200
    # As any refusal, it stays one until somebody says that there is room now.
    lab.his.run("kachery-cloud-pins", "add", uri)
    files = lab.ann.get("/api/v1/files?project=atlas")["items"]
    (file,) = [each for each in files if each["status"] == "pinned"]
    assert lab.bob.call("DELETE", f"/api/v1/files/{file['id']}").status_code == 204
    lab.his.stop()
    wait_until(
        lambda: file["cid"] not in lab.node.run("kachery-cloud", "list", "--json").stdout, "that it is off the disk"
    )
    nobody = lab.hers.run("kachery-cloud-store", str(path), "--project", "none", check=False)
    assert nobody.returncode == 3
    assert "kachery-cloud-projects create" in nobody.stderr


def test_a_machine_that_is_not_registered(workstation: StartWorkstation, tmp_path: Path) -> None:
    """It is told which command helps; nothing is stored."""
    station = workstation()
    for command in (
        ("kachery-cloud-projects",),
        ("kachery-cloud-usage",),
        ("kachery-cloud-store", str(_file(tmp_path, 1, 10)), "--project", "atlas"),
    ):
        refused = station.run(*command, check=False)
        assert refused.returncode == 6
        assert "kachery-cloud-init --node URL" in refused.stderr
