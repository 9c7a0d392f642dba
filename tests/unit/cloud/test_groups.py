"""Groups as the user sees them, on one machine and without a node: functions, commands, and what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands.groups import member_lines
from kachery_cloud.commands.main import cli
from kachery_cloud.errors import (
    GroupError,
    GroupNotFound,
    InvalidArgument,
    InvalidInvitation,
)
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import parse_uri
from kachery_p2p import private
from kachery_p2p.membership import groups_of_directory
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.lists import Role
from tests.helpers.group_helpers import new_keys


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["group", *args])


def here() -> Groups:
    return groups_of_directory(load_config().directory)


def joined(group: str, label: str) -> str:
    """Let another machine, which is not there, use an invitation; its peer ID."""
    keys = new_keys()
    made = here().invite(group, Role.READER, [])
    held = here().redeem(made.token, keys.peer_id, label)
    assert held is not None
    return keys.peer_id


def test_made_and_listed() -> None:
    """A group is there at once, in Python and on the command line; its name need not be the only one."""
    assert kcl.groups() == []
    made = kcl.create_group("lab", label="ann")
    assert made == kcl.Group(made.id, "lab", "owner", 1)
    assert kcl.groups() == [made]
    (me,) = kcl.group_members("lab")
    assert (me.role, me.label, me.this, me.connected) == ("owner", "ann", True, None)
    assert me.peer == here().keys.peer_id
    head, line = run("list").stdout.splitlines()
    assert head.split() == ["NAME", "GROUP", "ROLE", "MEMBERS"]
    assert line.split() == ["lab", made.id, "owner", "1"]
    assert run().stdout == run("list").stdout
    row = {"id": made.id, "name": "lab", "role": "owner", "members": 1}
    assert json.loads(run("--json").stdout) == json.loads(run("list", "--json").stdout) == {"groups": [row]}
    done = run("create", "lab")
    other = kcl.Group(done.stdout.strip(), "lab", "owner", 1)
    assert f"Another group called lab is here ({made.id}), so say which you mean by its ID." in done.stderr
    assert f"kachery-cloud-group invite {other.id}" in done.stderr
    with pytest.raises(GroupError, match=f"{min(made.id, other.id)}, {max(made.id, other.id)}"):
        kcl.group_members("lab")
    assert kcl.group_members(other.id)[0].label == ""


def test_members_by_label_and_peer() -> None:
    """Either names a member, where it names one alone; owners come first in the list."""
    group = kcl.create_group("lab", label="ann").id
    ben, cleo = joined(group, "ben"), joined(group, "cleo")
    assert [each.label for each in kcl.group_members("lab")] == ["ann", "ben", "cleo"]
    assert kcl.set_member_role("lab", "cleo", "owner").members == 3
    assert [each.label for each in kcl.group_members("lab")] == ["ann", "cleo", "ben"]
    joined(group, "ben")
    with pytest.raises(GroupError, match=r"2 members .* are called 'ben'"):
        kcl.remove_member("lab", "ben")
    assert kcl.remove_member("lab", ben).members == 3
    assert kcl.remove_member("lab", "ben").members == 2
    done = run("remove", "lab", cleo)
    assert (done.exit_code, done.stdout) == (0, "lab: 1 left\n")
    assert "stays there" in done.stderr
    with pytest.raises(GroupError, match="kachery-cloud-group members lab"):
        kcl.remove_member("lab", "ben")


def test_mistakes() -> None:
    """Each is a sentence with what was wrong, and a code."""
    kcl.create_group("lab")
    with pytest.raises(InvalidArgument, match="must be text"):
        kcl.create_group(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="reader, writer, owner"):
        kcl.invite("lab", "king")
    for expires in (-1, 0, True, float("nan"), 1e12, "1d"):
        with pytest.raises(InvalidArgument, match="seconds"):
            kcl.invite("lab", expires=expires)  # type: ignore[arg-type]
    with pytest.raises(GroupNotFound, match="kachery-cloud-group list"):
        kcl.invite("none")
    with pytest.raises(InvalidInvitation):
        kcl.join_group("kachery-group:x")
    with pytest.raises(GroupError, match="line of text"):
        kcl.create_group("other", label="two\nlines")
    for code, says, *line in (
        (3, "no group called none", "members", "none"),
        (3, "no group of the ID", "leave", "a" * 25 + "q"),
        (2, "is no member", "role", "lab", "x", "owner"),
        (2, "king", "role", "lab", "x", "king"),
        (2, "is not a time", "invite", "lab", "--expires", "1w"),
        (2, "Did you mean", "crete", "x"),
    ):
        done = run(*line)
        assert (done.exit_code, says in " ".join(done.stderr.split())) == (code, True), done.output
    assert json.loads(run("members", "none", "--json").stdout)["error"]["type"] == "GroupNotFound"


def test_who_is_connected_is_shown() -> None:
    """Where a node runs; this machine is said to be this one."""
    rows = [
        kcl.GroupMember("12D3a", "owner", "ann", this=True),
        kcl.GroupMember("12D3b", "reader", "", connected=True),
        kcl.GroupMember("12D3c", "writer", "cleo", connected=False),
    ]
    shown = [
        "ROLE    PEER   NAME  NOW",
        "owner   12D3a  ann   this machine",
        "reader  12D3b        connected",
        "writer  12D3c  cleo",
    ]
    assert member_lines(rows) == shown


def test_files_that_others_may_read_are_told() -> None:
    """By what `status` warns of."""
    made = kcl.create_group("lab")
    directory = Path(load_config().directory)
    assert private.too_open(directory) == []
    path = directory / "groups" / f"{made.id}.json"
    path.chmod(0o644)
    assert [str(path) in each for each in private.too_open(directory)] == [True]


def test_json_before_the_command_holds_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after it, for every command that has others below it."""
    kcl.create_group("lab")
    for name, *line in (("group", "list"), ("group", "members", "lab"), ("pins", "service", "list")):
        before = CliRunner().invoke(cli, [name, "--json", *line])
        after = CliRunner().invoke(cli, [name, *line, "--json"])
        assert (before.exit_code, before.stdout) == (0, after.stdout)
        json.loads(before.stdout)


def removed() -> tuple[str, str]:
    """Let this machine be removed from a group of somebody else's, and be told; the ID, and its own peer ID."""
    kcl.create_group("mine")
    me = here()
    owner = Groups(Path(load_config().directory).parent / "owner", new_keys())
    group = owner.create("hippocampus").group
    invitation = owner.invite(group, Role.WRITER, [])
    held = owner.redeem(invitation.token, me.keys.peer_id, "laptop")
    assert held is not None
    me.joined(invitation, [each.sealed for each in held.state.lists.values()], held.secrets.values())
    uri = kcl.store_text("theirs", label="note", to="hippocampus", local=True)
    assert kcl.access(uri).visibility == ("hippocampus",)
    owner.remove(group, me.keys.peer_id)
    notice = owner.notice_for(group, me.keys.peer_id)
    assert notice is not None
    assert me.noticed(group, notice)
    return group, uri


def test_a_machine_that_was_removed_is_told_so() -> None:
    """By every command that names the group; what is here is shown under its name."""
    group, uri = removed()
    told = "An owner has removed this machine from hippocampus"
    leave = "kachery-cloud-group leave hippocampus"
    for line in (["members", "hippocampus"], ["invite", group], ["remove", "hippocampus", "x"]):
        done = run(*line)
        assert (done.exit_code, done.stdout) == (2, "")
        assert told in done.stderr
        assert leave in done.stderr
    for to in ("hippocampus", group):
        with pytest.raises(GroupNotFound, match=told):
            kcl.store_text("more", to=to, local=True)
    done = run("list")
    assert re.search(rf"hippocampus +{group} +removed\n", done.stdout)
    assert told in done.stderr
    assert [item.visibility for item in kcl.list()] == [("hippocampus",)]
    assert [item.uri for item in kcl.list(to="hippocampus")] == [uri]
    status = CliRunner().invoke(cli, ["status"]).stdout
    assert "hippocampus: an owner has removed this machine" in status
    assert "1 root here" in status
    lines = CliRunner().invoke(cli, ["access", uri]).stdout
    assert "Only members of hippocampus (from which this machine was removed)" in lines
    assert f"Members of the group hippocampus ({group}), which this machine is not in any more" in lines
    (row,) = [each for each in kcl.audit().given if each.group == group]
    assert (row.to, row.role, row.members, row.roots) == ("hippocampus", "removed", None, 1)
    assert "Where the role is removed" in CliRunner().invoke(cli, ["audit"]).stdout
    mine = kcl.create_group("hippocampus").id
    assert kcl.access(kcl.store_text("new", to="hippocampus", local=True)).visibility == ("hippocampus",)
    assert {item.visibility for item in kcl.list()} == {("hippocampus",), (group,)}
    assert mine != group


def test_who_loaded_keeps_its_name_when_it_was_removed() -> None:
    """`access` and `audit` say what it was called, and that it is gone; also on machines of other owners."""
    from kachery_p2p.access.log import LOG_NAME, AccessLog, Belonging

    group = kcl.create_group("lab").id
    ben, nameless = joined(group, "ben"), joined(group, "")
    uri = kcl.store_text("theirs", to="lab", local=True)
    root = parse_uri(uri).root.multihash
    log = AccessLog(Path(load_config().directory) / LOG_NAME, lambda some: dict.fromkeys(some, Belonging(root, group)))
    for peer in (ben, nameless):
        log.note(peer, root, 6)
    log.close()
    assert [(each.name, each.removed) for each in kcl.access(uri).loads if each.peer == ben] == [("ben", False)]
    for peer in (ben, nameless):
        kcl.remove_member("lab", peer)
    assert {(each.peer, each.name, each.removed) for each in kcl.audit().loads} == {
        (ben, "ben", True),
        (nameless, "", True),
    }
    for line in (["access", uri], ["audit"]):
        text = CliRunner().invoke(cli, line).stdout
        assert f"by ben, removed ({ben})" in text
        assert f"by {nameless} (removed)" in text
