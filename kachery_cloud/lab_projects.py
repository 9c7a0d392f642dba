"""Projects of a lab, from a client: see and make them, and store into them.

A lab's node (`kachery-cloud-node --lab`) knows its members and their projects. This machine asks it as the client that
it was registered as (`kachery-cloud-init --node URL`). What is stored into a project is pinned at that node; what is
stored into a project for its members alone is for the group of their machines, which this one joins.
"""

from __future__ import annotations

from kachery_cloud.arguments import check_flags
from kachery_cloud.errors import InvalidArgument
from kachery_cloud.lab_client import LabClient, checked_text, forget_asked, keep_known, named_path
from kachery_cloud.lab_places import ROLES, VISIBILITIES, Project, ProjectTable
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_p2p.text import shown

# --- what users call -------------------------------------------------------------------------------------------------


def projects(*, node: str | None = None) -> ProjectTable:
    """The projects of the lab that you may see, by name.

    Args:
        node: the URL of the lab's node, where this machine is registered with several.

    Returns:
        A list of `Project`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        SignInError: this machine is registered with no lab's node, or the node cannot be asked, or refuses.

    Example:
        >>> [(project.name, project.role) for project in kcl.projects()]
        [('atlas', 'administrator'), ('reef', 'reader')]
    """
    config = load_config()
    lab = LabClient(config, node)
    found = ProjectTable(lab.read(each) for each in lab.items("/projects"))
    keep_known(config, lab.url, found)
    return found


def create_project(name: str, *, description: str = "", visibility: str = "public", node: str | None = None) -> Project:
    """Make a project, which you administer.

    Args:
        name: one word, which no other project of the lab has.
        description: some words about it.
        visibility: "public": what is stored into it is for everybody; "members": for its members' machines alone. This
            machine joins the group of these then, for which its node is started, if none runs.
        node: as for `projects`.

    Raises:
        SignInError: as for `projects`; or there is a project of that name.

    Example:
        >>> kcl.create_project("atlas").role
        'administrator'
    """
    value = {
        "name": checked_text(name, "name"),
        "description": checked_text(description, "description"),
        "visibility": _visibility(visibility),
    }
    config = load_config()
    lab = LabClient(config, node)
    made = lab.read(lab.ask("POST", "/projects", value))
    keep_known(config, lab.url, [made])
    if made.visibility == "members":
        join_project(made.id, node=lab.url)
    return made


def show_project(name: str, *, node: str | None = None) -> Project:
    """One project, by its name or ID. Raises as `projects`, where there is none, too."""
    path = named_path(name)
    config = load_config()
    lab = LabClient(config, node)
    found = lab.read(lab.ask("GET", f"/projects/{path}"))
    keep_known(config, lab.url, [found])
    return found


def change_project(
    name: str,
    *,
    new_name: str | None = None,
    description: str | None = None,
    visibility: str | None = None,
    node: str | None = None,
) -> Project:
    """Call a project something else, describe it otherwise, or let everybody load what is in it (`"public"`)."""
    path = named_path(name)
    value: dict[str, str] = {}
    if new_name is not None:
        value["name"] = checked_text(new_name, "new_name")
    if description is not None:
        value["description"] = checked_text(description, "description")
    if visibility is not None:
        value["visibility"] = _visibility(visibility)
    config = load_config()
    lab = LabClient(config, node)
    found = lab.read(lab.ask("PATCH", f"/projects/{path}", value))
    forget_asked()
    keep_known(config, lab.url, [found])
    return found


def delete_project(name: str, *, files: bool = False, node: str | None = None) -> None:
    """Delete a project; with `files`, with all that is in it. Copies on the machines of its members stay."""
    check_flags(files=files)
    path = f"/projects/{named_path(name)}{'?files=delete' if files else ''}"
    lab = LabClient(load_config(), node)
    lab.ask("DELETE", path)
    forget_asked()


def add_to_project(name: str, member: str, role: str = "reader", *, node: str | None = None) -> Project:
    """Let a member of the lab be in a project, or have another role there.

    Args:
        name: of the project, or its ID.
        member: the member's ID, e-mail address or name.
        role: "reader", "writer" or "administrator".
        node: as for `projects`.
    """
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidArgument(f"role is {shown(role)}; it must be one of {', '.join(ROLES)}.")
    path, member = named_path(name), checked_text(member, "member")
    lab = LabClient(load_config(), node)
    return lab.read(lab.ask("PUT", f"/projects/{path}/members/{named_path(lab.person(member))}", {"role": role}))


def remove_from_project(name: str, member: str, *, node: str | None = None) -> None:
    """Take somebody out of a project; all of their computers lose what is for its members alone.

    Args:
        name: of the project, or its ID.
        member: their ID or name.
        node: as for `projects`.
    """
    path, member = named_path(name), checked_text(member, "member")
    lab = LabClient(load_config(), node)
    project = lab.read(lab.ask("GET", f"/projects/{path}"))
    found = [each.id for each in project.members if member in (each.id, each.name)]
    if len(found) > 1:
        raise InvalidArgument(f"{len(found)} members are called {shown(member)}. Say which by their IDs: {found}")
    id = found[0] if found else lab.person(member)
    lab.ask("DELETE", f"/projects/{named_path(project.id)}/members/{named_path(id)}")


def join_project(name: str, *, timeout: float = 60.0, node: str | None = None) -> Project:
    """Let this machine into the group of a project that is for its members alone.

    Args:
        name: of the project, or its ID.
        timeout: seconds to reach the lab's node.
        node: as for `projects`.

    Raises:
        SignInError: as for `projects`; or you are not in the project.
        DialError: the node cannot be reached by peers.
    """
    from kachery_cloud.grouping import join_group

    path, seconds = named_path(name), parse_timeout(timeout, "timeout")
    config = load_config()
    lab = LabClient(config, node)
    found = lab.read(lab.ask("GET", f"/projects/{path}"))
    answer = lab.ask("POST", f"/projects/{named_path(found.id)}/invitation")
    join_group(str(answer.get("invitation")), label=lab.lab.label, timeout=seconds)
    keep_known(config, lab.url, [found])
    return found


def _visibility(word: str) -> str:
    if not isinstance(word, str) or word not in VISIBILITIES:
        raise InvalidArgument(f"visibility is {shown(word)}; it must be 'public' or 'members'.")
    return word
