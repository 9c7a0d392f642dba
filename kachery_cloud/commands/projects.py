"""`kachery-cloud-projects`: what belongs together in a lab, and who may load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import CONTEXT, Function, Group, command, guarded, json_option, print_result
from kachery_cloud.lab_places import ROLES
from kachery_cloud.terminal import tell
from kachery_p2p.json_shapes import to_json
from kachery_p2p.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kachery_cloud.lab_places import Project

node_option = click.option(
    "--node", metavar="URL", help="The lab's node, where this machine is registered with several."
)
project_argument = click.argument("project_name", metavar="PROJECT")


@click.group("projects", cls=Group, invoke_without_command=True, context_settings=CONTEXT)
@node_option
@json_option
@click.pass_context
@guarded
def projects(context: click.Context, node: str | None, as_json: bool) -> None:
    """List the projects of your lab; make them, and say who is in them.

    A project is on the lab's node, which this machine is registered with (kachery-cloud-init --node URL). What is
    stored into it (kachery-cloud-store --project PROJECT) is pinned there. PROJECT is a name, or an ID.

    \b
    Examples:
        kachery-cloud-projects create atlas
        kachery-cloud-projects add atlas Bob --role writer
        kachery-cloud-projects show atlas
    """  # noqa: D301
    if context.invoked_subcommand is None:
        _print_projects(node, as_json)


def _subcommand(name: str, interrupted: str = "Interrupted.") -> Any:
    def make(function: Function) -> click.Command:
        made = command(name, interrupted)(function)
        projects.add_command(made)
        return made

    return make


@_subcommand("list")
@node_option
@json_option
def list_(node: str | None, as_json: bool) -> None:
    """List the projects that you may see: name, ID, for whom, your role, files, bytes.

    \b
    Example:
        kachery-cloud-projects list
    """  # noqa: D301
    _print_projects(node, as_json)


@_subcommand("create", "Interrupted. Whether it was made: kachery-cloud-projects list")
@click.argument("name")
@click.option("--description", default="", metavar="TEXT", help="Some words about it.")
@click.option("--members", is_flag=True, help="Only its members' machines can load what is in it.")
@node_option
@json_option
def create(name: str, description: str, members: bool, node: str | None, as_json: bool) -> None:
    """Make a project, which you administer, and print its ID.

    Without --members everybody who has a URI can load what is in it. With it, this machine joins the group of its
    members' machines at once; your other ones, and those of other members, do so with the join command.

    \b
    Examples:
        kachery-cloud-projects create trials
        kachery-cloud-projects create mice --members --description "Not published yet"
    """  # noqa: D301
    from kachery_cloud.lab_projects import create_project

    made = create_project(name, description=description, visibility="members" if members else "public", node=node)
    print_result(as_json, made.id, **to_json(made))
    if not as_json:
        tell(f"Store into it with: kachery-cloud-store --project {made.name} FILE")


@_subcommand("show")
@project_argument
@node_option
@json_option
def show(project_name: str, node: str | None, as_json: bool) -> None:
    """Show a project: for whom it is, what it takes, and who is in it.

    \b
    Example:
        kachery-cloud-projects show atlas
    """  # noqa: D301
    from kachery_cloud.inventory_tables import size_text
    from kachery_cloud.lab_projects import show_project

    found = show_project(project_name, node=node)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    click.echo(f"{found.name}  {found.id}  ({_for_whom(found)})")
    if found.description:
        click.echo(found.description)
    click.echo(f"{counted(found.files, 'file', 'files')}, {size_text(found.bytes)}")
    for each in found.members:
        click.echo(f"{each.role:13}  {each.name}  {each.id}")


@_subcommand("add")
@project_argument
@click.argument("member")
@click.option("--role", type=click.Choice(ROLES), default="reader", show_default=True, help="What they may do there.")
@node_option
@json_option
def add(project_name: str, member: str, role: str, node: str | None, as_json: bool) -> None:
    """Let a member of the lab be in a project, or have another role there.

    MEMBER is their name, e-mail address or ID. Readers load; writers store into it, too; administrators change it and
    say who is in it.

    \b
    Example:
        kachery-cloud-projects add atlas Bob --role writer
    """  # noqa: D301
    from kachery_cloud.lab_projects import add_to_project

    found = add_to_project(project_name, member, role, node=node)
    print_result(as_json, f"{member} is {role} of {found.name}", **to_json(found))


@_subcommand("remove")
@project_argument
@click.argument("member")
@node_option
@json_option
def remove(project_name: str, member: str, node: str | None, as_json: bool) -> None:
    """Take somebody out of a project; or yourself. What they have loaded stays where it is.

    Of a project for its members alone, all of their machines lose the group's secret.

    \b
    Example:
        kachery-cloud-projects remove atlas Bob
    """  # noqa: D301
    from kachery_cloud.lab_projects import remove_from_project

    remove_from_project(project_name, member, node=node)
    print_result(as_json, f"removed {member} from {project_name}", project=project_name, member=member)


@_subcommand("join", "Interrupted. Whether it was joined: kachery-cloud-group list")
@project_argument
@click.option("--timeout", type=float, default=60.0, metavar="SECONDS", help="Try for so long. [default: 60]")
@node_option
@json_option
def join(project_name: str, timeout: float, node: str | None, as_json: bool) -> None:
    """Let this machine load what is in a project that is for its members alone.

    \b
    Example:
        kachery-cloud-projects join mice
    """  # noqa: D301
    from kachery_cloud.lab_projects import join_project

    found = join_project(project_name, timeout=timeout, node=node)
    print_result(as_json, f"joined {found.name}", **to_json(found))


@_subcommand("change")
@project_argument
@click.option("--name", "new_name", metavar="NAME", help="What it is called from now on.")
@click.option("--description", metavar="TEXT", help="Some words about it.")
@click.option("--publish", is_flag=True, help="Let everybody load what is in it, for good.")
@node_option
@json_option
def change(
    project_name: str, new_name: str | None, description: str | None, publish: bool, node: str | None, as_json: bool
) -> None:
    """Call a project something else, describe it otherwise, or publish it.

    \b
    Example:
        kachery-cloud-projects change atlas --description "Paper of 2026"
    """  # noqa: D301
    from kachery_cloud.lab_projects import change_project

    if new_name is None and description is None and not publish:
        raise click.UsageError("Say what is to be changed: --name, --description or --publish.")
    found = change_project(
        project_name, new_name=new_name, description=description, visibility="public" if publish else None, node=node
    )
    print_result(as_json, f"changed {found.name}", **to_json(found))


@_subcommand("delete")
@project_argument
@click.option("--files", is_flag=True, help="With all that is in it.")
@node_option
@json_option
def delete(project_name: str, files: bool, node: str | None, as_json: bool) -> None:
    """Delete a project. It has to be empty, unless --files says otherwise.

    \b
    Example:
        kachery-cloud-projects delete trials
    """  # noqa: D301
    from kachery_cloud.lab_projects import delete_project

    delete_project(project_name, files=files, node=node)
    print_result(as_json, f"deleted {project_name}", project=project_name, files=files)


def _print_projects(node: str | None, as_json: bool) -> None:
    from kachery_cloud.lab_projects import projects as find

    found = find(node=node)
    if as_json:
        click.echo(json.dumps({"projects": to_json(found)}))
        return
    for line in _lines(found):
        click.echo(line)
    if not found:
        tell("The lab has no projects that you may see. Make one with: kachery-cloud-projects create NAME")


def _lines(found: Sequence[Project]) -> list[str]:
    from kachery_cloud.inventory_tables import size_text

    return [
        f"{each.name}  {each.id}  {_for_whom(each)}  {each.role or '-'}  {each.files}  {size_text(each.bytes)}"
        for each in found
    ]


def _for_whom(project: Project) -> str:
    return "members alone" if project.visibility == "members" else "everybody"
