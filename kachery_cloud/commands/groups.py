"""`kachery-cloud-group`: machines that belong together, for what is not for everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import CONTEXT, Function, Group, command, guarded, json_option, print_result
from kachery_cloud.grouping import INVITATION_DAYS, ROLES
from kachery_cloud.terminal import tell
from kachery_p2p.json_shapes import to_json

if TYPE_CHECKING:
    from kachery_cloud.grouping import Group as ListedGroup
    from kachery_cloud.grouping import GroupMember

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}

label_option = click.option(
    "--as", "label", default="", metavar="NAME", help="What this machine is called in the group. [default: nothing]"
)
group_argument = click.argument("group_name", metavar="GROUP")


class Duration(click.ParamType):
    """A time: seconds, or a number with `s`, `m`, `h` or `d` behind it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if found is None:
            self.fail(f"{str(value)[:40]!r} is not a time: give seconds, or 30m, 12h, 7d.", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.group("group", cls=Group, invoke_without_command=True, context_settings=CONTEXT)
@json_option
@click.pass_context
@guarded
def group(context: click.Context, as_json: bool) -> None:
    """List the groups of machines that this one is in; make groups, invite others, and see who is in.

    A group is on no server. Its members' nodes tell each other who is in it; owners invite and remove. GROUP is a name,
    or an ID where there are several groups of that name (kachery-cloud-group list shows both).

    \b
    Examples:
        kachery-cloud-group create cerebellum --as "workstation 1"
        kachery-cloud-group invite cerebellum
        kachery-cloud-group join kachery-group:... --as laptop
        kachery-cloud-group members cerebellum
    """  # noqa: D301
    if context.invoked_subcommand is None:
        _print_groups(as_json)


def _subcommand(name: str, interrupted: str = "Interrupted.") -> Any:
    def make(function: Function) -> click.Command:
        made = command(name, interrupted)(function)
        group.add_command(made)
        return made

    return make


@_subcommand("create")
@click.argument("name")
@label_option
@json_option
def create(name: str, label: str, as_json: bool) -> None:
    """Make a group, and print its ID. This machine is its founder, its owner and its only member.

    \b
    Example:
        kachery-cloud-group create cortex --as "workstation 1"
    """  # noqa: D301
    from kachery_cloud.grouping import create_group, groups

    made = create_group(name, label=label)
    alike = [each.id for each in groups() if each.name == made.name and each.role != "removed" and each.id != made.id]
    print_result(as_json, made.id, **to_json(made))
    if as_json:
        return
    if alike:
        tell(
            f"{'Another group' if len(alike) == 1 else f'{len(alike)} other groups'} called {made.name} "
            f"{'is' if len(alike) == 1 else 'are'} here ({', '.join(alike)}), so say which you mean by its ID."
        )
    tell(f"Invite others with: kachery-cloud-group invite {made.id if alike else name}")


@_subcommand("invite")
@group_argument
@click.option("--role", type=click.Choice(ROLES), default="reader", show_default=True, help="What it may do there.")
@click.option(
    "--expires",
    type=Duration(),
    metavar="TIME",
    help=f"How long it is good: seconds, or 30m, 12h, 7d. [default: {INVITATION_DAYS}d]",
)
@json_option
def invite(group_name: str, role: str, expires: float | None, as_json: bool) -> None:
    """Print an invitation: one string with which one machine can join, once.

    Give it to whoever is meant over a channel that you trust: whoever uses it first is in. A node has to run here when
    it is used (kachery-cloud-node). Readers load; writers also store for the group; owners invite and remove, too.

    \b
    Examples:
        kachery-cloud-group invite hippocampus
        kachery-cloud-group invite hippocampus --role writer --expires 1h
    """  # noqa: D301
    from kachery_cloud.grouping import make_invitation
    from kachery_cloud.settings.config import load_config

    made, ends = make_invitation(load_config(), group_name, role, expires)
    print_result(as_json, made, invitation=made, role=role)
    if ends and not as_json:
        tell("No node stays here. Start one before the invitation is used: kachery-cloud-node")


@_subcommand("join", "Interrupted. Whether it was joined: kachery-cloud-group list")
@click.argument("invitation")
@label_option
@click.option("--timeout", type=float, metavar="SECONDS", help="Try for so long at most. [default: 60]")
@json_option
def join(invitation: str, label: str, timeout: float | None, as_json: bool) -> None:
    """Join a group by an invitation, and print the group's name.

    \b
    Example:
        kachery-cloud-group join kachery-group:... --as laptop
    """  # noqa: D301
    from kachery_cloud.grouping import join_group

    joined = join_group(invitation, label=label, timeout=timeout)
    print_result(as_json, joined.name, **to_json(joined))
    if not as_json:
        tell(f"This machine is a member now, as {joined.role}. Who else is: kachery-cloud-group members {joined.name}")


@_subcommand("members")
@group_argument
@json_option
def members(group_name: str, as_json: bool) -> None:
    """List who is in a group: role, peer ID, label, which is this machine, and who is connected with it now.

    \b
    Example:
        kachery-cloud-group members hippocampus
    """  # noqa: D301
    from kachery_cloud.grouping import group_members

    found = group_members(group_name)
    if as_json:
        click.echo(json.dumps({"members": to_json(found)}))
        return
    for line in member_lines(found):
        click.echo(line)


def member_lines(found: Sequence[GroupMember]) -> list[str]:
    """A line for each member, under headings."""
    from kachery_cloud.inventory_tables import Column, text_table

    return text_table(
        found,
        (
            Column("role", lambda each: each.role),
            Column("peer", lambda each: each.peer),
            Column("name", lambda each: each.label),
            Column("now", lambda each: "this machine" if each.this else "connected" if each.connected else ""),
        ),
    )


@_subcommand("remove")
@group_argument
@click.argument("member")
@json_option
def remove(group_name: str, member: str, as_json: bool) -> None:
    """Remove a machine from a group. MEMBER is its peer ID, or its label where only one has that.

    It gets nothing from this machine from now on, and nothing from the others as soon as they have heard of it; the
    group gets a new secret. What it has loaded stays there: removing takes back nothing that was given.

    \b
    Example:
        kachery-cloud-group remove hippocampus laptop
    """  # noqa: D301
    from kachery_cloud.grouping import remove_member

    after = remove_member(group_name, member)
    print_result(as_json, f"{after.name}: {after.members} left", **to_json(after))
    if not as_json:
        tell(
            "What that machine has loaded stays there, and it still knows who was a member. Members that are not "
            "connected now hear of it when they meet one that has."
        )


@_subcommand("role")
@group_argument
@click.argument("member")
@click.argument("role", type=click.Choice(ROLES))
@json_option
def role(group_name: str, member: str, role: str, as_json: bool) -> None:
    """Let a machine have another role in a group. MEMBER is its peer ID, or its label where only one has that.

    \b
    Example:
        kachery-cloud-group role hippocampus laptop owner
    """  # noqa: D301
    from kachery_cloud.grouping import set_member_role

    after = set_member_role(group_name, member, role)
    print_result(as_json, f"{member} is {role} of {after.name}", **to_json(after))


@_subcommand("leave", "Interrupted. Whether it was left: kachery-cloud-group list")
@group_argument
@click.option("--timeout", type=float, metavar="SECONDS", help="Try for so long to tell an owner. [default: 20]")
@json_option
def leave(group_name: str, timeout: float | None, as_json: bool) -> None:
    """Leave a group. What was loaded stays; its secrets and its list of members are forgotten here.

    \b
    Example:
        kachery-cloud-group leave hippocampus
    """  # noqa: D301
    from kachery_cloud.grouping import leave_group

    told = leave_group(group_name, timeout=timeout)
    print_result(as_json, f"left {group_name}", group=group_name, told=told)
    if not told and not as_json:
        tell("No owner could be told. The others have this machine on their lists until an owner removes it.")


@_subcommand("list")
@json_option
def list_(as_json: bool) -> None:
    """List the groups that this machine is in: name, ID, role, and how many are in it.

    \b
    Example:
        kachery-cloud-group list
    """  # noqa: D301
    _print_groups(as_json)


def _print_groups(as_json: bool) -> None:
    from kachery_cloud.audiences import removed_from
    from kachery_cloud.grouping import groups

    found = groups()
    if as_json:
        click.echo(json.dumps({"groups": to_json(found)}))
        return
    from kachery_cloud.inventory_tables import Column, text_table

    columns: tuple[Column[ListedGroup], ...] = (
        Column("name", lambda each: each.name),
        Column("group", lambda each: each.id),
        Column("role", lambda each: each.role),
        Column("members", lambda each: "" if each.role == "removed" else f"{each.members:,}", right=True),
    )
    for line in text_table(found, columns):
        click.echo(line)
    for each in found:
        if each.role == "removed":
            tell(removed_from(each.name))
    if not found:
        tell("This machine is in no group. Make one with: kachery-cloud-group create NAME")
