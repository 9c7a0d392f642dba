"""What a project of a lab is to a client, and where something goes that is stored into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

ProjectRole: TypeAlias = Literal["reader", "writer", "administrator"]
Visibility: TypeAlias = Literal["public", "members"]
By: TypeAlias = Literal["project", "member", "client", "day"]

#: What a member of a project may be, beginning with the least.
ROLES: tuple[ProjectRole, ...] = ("reader", "writer", "administrator")
VISIBILITIES: tuple[Visibility, ...] = ("public", "members")
#: What usage is told apart by.
BYS: tuple[By, ...] = ("project", "member", "client", "day")


@dataclass(frozen=True)
class ProjectMember:
    """Somebody in a project: their ID and name, and their role: "reader", "writer" or "administrator"."""

    id: str
    name: str
    role: str


@dataclass(frozen=True)
class Project:
    """A project of a lab.

    Attributes:
        id: of it, which stays when it is called something else.
        name: what it is called.
        description: some words about it.
        visibility: "public": what is in it is for everybody; "members": for its members' machines alone.
        role: of whoever has registered this machine; None where they are not in it.
        group: the ID of the group of its members' machines; None where it is public.
        members: who is in it.
        bytes: what the files in it take at the lab's node.
        files: how many there are.
        node: the URL of the lab's node.
    """

    id: str
    name: str
    description: str
    visibility: str
    role: str | None
    group: str | None
    members: tuple[ProjectMember, ...] = field(repr=False)
    bytes: int
    files: int
    node: str


@dataclass(frozen=True)
class Place:
    """Where something is stored that goes into a project.

    Attributes:
        project: which.
        service: the pinning service of the settings that the lab's node is.
        peer: the peer ID of the node.
    """

    project: Project
    service: str
    peer: str

    @property
    def group(self) -> str | None:
        """The group that it is for; None where it is for everybody."""
        return self.project.group if self.project.visibility == "members" else None
