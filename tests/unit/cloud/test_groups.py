"""Groups as the user sees them, on one machine and without a node: functions, commands, and what they say."""

from __future__ import annotations

import json
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
    assert run("list").stdout == run().stdout == f"lab  {made.id}  owner  1\n"
    row = {"id": made.id, "name": "lab", "role": "owner", "members": 1}
    assert json.loads(run("--json").stdout) == json.loads(run("list", "--json").stdout) == {"groups": [row]}
    other = kcl.create_group("lab")
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
    shown = ["owner   12D3a  ann  (this machine)", "reader  12D3b  (connected)", "writer  12D3c  cleo"]
    assert member_lines(rows) == shown


def test_files_that_others_may_read_are_told() -> None:
    """By what `status` warns of."""
    made = kcl.create_group("lab")
    directory = Path(load_config().directory)
    assert private.too_open(directory) == []
    path = directory / "groups" / f"{made.id}.json"
    path.chmod(0o644)
    assert [str(path) in each for each in private.too_open(directory)] == [True]
