"""Storing into projects of a lab, without its node: what is written down to be pinned there, and for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kachery_cloud as kcl
from kachery_cloud import audiences, lab_client
from kachery_cloud.commands.main import find_command
from kachery_cloud.commands.usage import usage_lines
from kachery_cloud.lab_usage import LabUsage
from kachery_cloud.local import outbox, repository
from kachery_cloud.ownership.labs import Lab, keep_lab
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.pin_tokens import keep_token
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.lists import Role
from kachery_p2p.repo.keys import new_identity
from tests.helpers.encryption_helpers import groups_of

URL = "http://127.0.0.1:1"
SECRET = b"nobody else is to read this sentence"


@pytest.fixture
def node() -> str:
    """The peer ID of the lab's node."""
    return new_identity().peer_id


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str) -> Path:
    """A machine that is registered with a lab whose node does not answer now."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(directory))
    audiences._said.clear()
    lab_client.forget_asked()
    services = {"lab": {"url": URL}, "other": {"url": "http://127.0.0.1:5000", "default": True}}
    (directory / "config.json").write_text(json.dumps({"pin_services": services}))
    keep_token(directory, "lab", "secret")
    keep_lab(directory, URL, Lab("registered", "Lab", node, "laptop", service="lab"))
    return directory


def known(directory: Path, url: str = URL, **projects: dict[str, Any]) -> None:
    """Projects that were seen before."""
    path = directory / "projects.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[url] = {
        f"id-{name}": {
            "id": f"id-{name}",
            "name": name,
            "description": "",
            "visibility": "public",
            "role": "writer",
            "group": None,
            "members": [],
            "bytes": 0,
            "files": 0,
            **more,
        }
        for name, more in projects.items()
    }
    path.write_text(json.dumps(stored))


def cortex(directory: Path, *peers: str) -> str:
    """A group of this machine and some peers, and a project that is for it; the group's ID."""
    groups: Groups = groups_of(directory)
    group = groups.create("cortex").group
    for peer in peers:
        invitation = groups.invite(group, Role.WRITER, [])
        assert groups.redeem(invitation.token, peer, "") is not None
    known(directory, cortex={"visibility": "members", "group": group})
    return group


def rows() -> dict[str, Any]:
    """What is to be pinned, by service."""
    return {entry.service: entry for entry in outbox(load_config()).list()}


def test_it_is_pinned_at_the_labs_node(here: Path) -> None:
    """Beside the default services; with the project, and what it is called."""
    known(here, reef={})
    uri = kcl.store_bytes(SECRET, project="reef", local=True, label="s.txt")
    found = rows()
    assert found["lab"].meta == {"project": "id-reef", "label": "s.txt"}
    assert found["other"].meta == {}
    assert found["lab"].cid == found["other"].cid == kcl.parse_uri(uri).cid


def test_the_setting_says_it_where_the_call_does_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a call can say otherwise, or that it is none."""
    known(here, reef={}, atlas={})
    monkeypatch.setenv("KACHERY_CLOUD_PROJECT", "reef")
    kcl.store_text("1", local=True)
    assert rows()["lab"].meta["project"] == "id-reef"
    kcl.store_text("2", local=True, project="atlas")
    assert [entry.meta["project"] for entry in outbox(load_config()).list() if entry.service == "lab"] == [
        "id-reef",
        "id-atlas",
    ]
    kcl.store_text("3", local=True, project="")
    assert len([entry for entry in outbox(load_config()).list() if entry.service == "lab"]) == 2


def test_the_labs_node_gets_it_as_it_is_where_it_is_a_member(here: Path, node: str) -> None:
    """The others get an encrypted copy, as always."""
    group = cortex(here, node)
    uri = kcl.store_bytes(SECRET, project="cortex", local=True, label="s.txt")
    root = kcl.parse_uri(uri).root
    assert kcl.parse_uri(uri).groups == (group,)
    assert repository(load_config()).access.audience_of(root).groups == {group}
    found = rows()
    assert (found["lab"].cid, found["lab"].name) == (str(root), "s.txt")
    assert found["other"].cid != str(root)
    assert found["other"].name == ""


def test_a_service_that_is_no_member_gets_an_encrypted_copy(here: Path) -> None:
    """Also where it says that it is the lab's node: who is in the group its owners have signed."""
    cortex(here, new_identity().peer_id)
    uri = kcl.store_bytes(SECRET, project="cortex", local=True, label="s.txt")
    found = rows()
    assert found["lab"].cid == found["other"].cid != kcl.parse_uri(uri).cid
    assert found["lab"].name == ""
    assert repository(load_config()).access.audience_of(kcl.parse_uri(f"ipfs://{found['lab'].cid}").root).everyone


def test_what_was_public_and_what_is_for_others_too(here: Path, node: str) -> None:
    """Only what is for that group alone is given as it is."""
    cortex(here, node)
    other = groups_of(here).create("hippocampus")
    kcl.store_bytes(SECRET, to="hippocampus", local=True, pin=False)
    uri = kcl.store_bytes(SECRET, project="cortex", local=True)
    assert set(kcl.parse_uri(uri).groups) > {other.group}
    assert rows()["lab"].cid != kcl.parse_uri(uri).cid


def test_what_cannot_be_is_said_before_anything_is_stored(here: Path, node: str) -> None:
    """Each with the command that helps."""
    group = cortex(here, node)
    stored = json.loads((here / "projects.json").read_text())[URL]["id-cortex"]
    with pytest.raises(kcl.InvalidArgument, match="for its members alone"):
        kcl.store_text("x", project="cortex", to="public", local=True)
    with pytest.raises(kcl.ConfigError, match="pinned"):
        kcl.store_text("x", project="cortex", pin=False, local=True)
    groups_of(here).forget(group)
    with pytest.raises(kcl.GroupNotFound, match="kachery-cloud-projects join cortex"):
        kcl.store_text("x", project="cortex", local=True)
    known(here, cortex={**stored, "role": "reader"})
    with pytest.raises(kcl.NoPermission, match="kachery-cloud-projects add"):
        kcl.store_text("x", project="cortex", local=True)
    with pytest.raises(kcl.SignInError, match="kachery-cloud-projects list"):
        kcl.store_text("x", project="nowhere", local=True)
    with pytest.raises(kcl.InvalidArgument):
        kcl.store_text("x", project=7, local=True)  # type: ignore[arg-type]
    assert rows() == {}
    (here / "labs.json").unlink()
    with pytest.raises(kcl.SignInError, match="kachery-cloud-init --node URL"):
        kcl.store_text("x", project="cortex", local=True)


def test_a_node_that_does_not_answer_is_not_needed(here: Path) -> None:
    """For a project that was seen before; another one is an error."""
    known(here, reef={})
    kcl.store_text("x", project="reef", local=True)
    from kachery_cloud.pinning import place_of

    place = place_of(load_config(), "reef")
    assert place is not None
    assert place.project.id == "id-reef"
    with pytest.raises(kcl.SignInError, match="cannot be reached"):
        place_of(load_config(), "another")


def test_it_goes_into_another_project(here: Path) -> None:
    """The service is asked anew, once; stored again as before, it is only asked whether it has it still."""
    known(here, reef={}, atlas={})
    kcl.store_text("x", project="reef", local=True)
    box = outbox(load_config())
    entry = rows()["lab"]
    box.update(entry, state="verified", request_id="r1")
    kcl.store_text("x", project="reef", local=True)
    assert (rows()["lab"].in_question, rows()["lab"].request_id) == (True, "r1")
    kcl.store_text("x", local=True, pin="lab")
    assert rows()["lab"].meta["project"] == "id-reef"
    kcl.store_text("x", project="atlas", local=True)
    assert (rows()["lab"].state, rows()["lab"].meta["project"]) == ("waiting", "id-atlas")


def test_of_several_labs_that_which_has_it(here: Path) -> None:
    """By its ID, where both have one of that name; commands ask which."""
    keep_lab(here, "http://127.0.0.1:2", Lab("registered", "Two", new_identity().peer_id, "laptop", service="other"))
    known(here, reef={}, both={})
    known(here, "http://127.0.0.1:2", both={"id": "id-two"})
    kcl.store_text("x", project="reef", local=True)
    assert rows()["lab"].meta["project"] == "id-reef"
    with pytest.raises(kcl.ConfigError, match="id-two"):
        kcl.store_text("x", project="both", local=True)
    with pytest.raises(kcl.ConfigError, match="--node"):
        kcl.projects()
    with pytest.raises(kcl.SignInError, match=r"kachery-cloud-init --node http://127\.0\.0\.1:3"):
        kcl.projects(node="http://127.0.0.1:3")


def test_the_command(here: Path, tmp_path: Path) -> None:
    """`--project`, as the call."""
    known(here, reef={})
    path = tmp_path / "a.txt"
    path.write_text("a")
    line = [str(path), "--project", "reef", "--no-wait"]
    lab_client._fresh[load_config().directory, URL, "reef"] = (
        float("inf"),
        lab_client._cached(load_config(), lab_client.LabClient(load_config()))[0],
    )
    done = CliRunner().invoke(find_command("store"), line)
    assert done.exit_code == 0, done.output
    assert rows()["lab"].meta == {"project": "id-reef", "label": "a.txt"}


def test_bars() -> None:
    """The longest is that of what was served most; what is nobody's has a name all the same."""
    found = [
        LabUsage(None, "p", None, None, "reef", 2_000, 2, 1_000_000, 4),
        LabUsage(None, None, None, None, "", 10, 1, 1, 1),
        LabUsage(None, "q", None, None, "atlas", 0, 0, 0, 0),
    ]
    head, *lines = usage_lines(found, ["project"])
    assert head.split() == ["stored", "pins", "served"]
    assert [line.count("#") for line in lines] == [30, 1, 0]
    assert [line.split("  ")[0].strip() for line in lines] == ["reef", "(no project)", "atlas"]
    assert usage_lines([], ["day"]) == []
