"""Who may do what with projects and files: one table, and nothing else. No input or output.

A person has up to three sides: a role in the project (or none), whether they administer the lab, and, of a file,
whether it is theirs. An operation is allowed where one of them allows it.

What administrators of the lab may see is what they need to look after the machine: names, sizes, owners. The content of
a project for its members alone they see when they are members of it; who adds themselves is on the list of members.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kachery_cloud.lab_places import ProjectRole, Visibility


class Operation(Enum):
    """What can be done with a project, or with a file.

    The value is who may: the least role in the project, and more in words.
    """

    #: Know of it: its name, its members, its sums; the labels and sizes of its files.
    SEE = "see"
    #: Load the content of its files through the lab's node.
    READ = "read"
    #: Store something in it.
    WRITE = "write"
    #: Change it, its members, and what is in it; delete it.
    ADMINISTER = "administer"
    #: Have one's machines let into its group.
    INVITE = "invite"
    #: Take a file of it away.
    DELETE_FILE = "delete a file"


@dataclass(frozen=True)
class Standing:
    """Who asks, as far as rules go.

    Attributes:
        role: in the project; None where they are not a member of it, or where there is no project.
        lab_administrator: whether they administer the lab.
        own: whether the file is theirs; False where it is about no file.
    """

    role: ProjectRole | None = None
    lab_administrator: bool = False
    own: bool = False


def allowed(operation: Operation, visibility: Visibility | None, who: Standing) -> bool:
    """Whether somebody who is a member of the lab may do something.

    Args:
        operation: what.
        visibility: of the project; None for a file that is in none: it is its owner's.
        who: asks.
    """
    if who.own and operation in (Operation.SEE, Operation.DELETE_FILE):
        return True  # a removed member still sees, and can take back, what they have stored
    if visibility is None:
        if operation is Operation.READ:
            return who.own
        return who.lab_administrator and operation in (Operation.SEE, Operation.DELETE_FILE)
    public, role = visibility == "public", who.role
    if operation is Operation.SEE:
        return public or role is not None or who.lab_administrator
    if operation is Operation.READ:
        return public or role is not None
    if operation is Operation.WRITE:
        return role in ("writer", "administrator")
    if operation is Operation.INVITE:
        return not public and role is not None
    return role == "administrator" or who.lab_administrator
