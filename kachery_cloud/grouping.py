"""Groups: machines that belong together, for what is not for everybody.

A group has a name, members (machines, by their peer IDs) and owners among them, who invite and remove. It is on no
server: its members' nodes tell each other who is in it. Every function here takes the name of a group, or its ID where
there are several of that name. What is written down is passed on by the node of this machine, as soon as one runs.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kachery_cloud.errors import GroupError, InvalidArgument, NodeError
from kachery_cloud.inventory_tables import Column, Table
from kachery_cloud.local import repository
from kachery_cloud.records import Shown
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_p2p.text import shown
from kachery_p2p.units import DAY

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.membership.held import HeldGroup
    from kachery_p2p.membership.lists import Role

#: Days for which an invitation is good, unless something else is said.
INVITATION_DAYS = 7
#: Seconds to reach who has made an invitation.
JOIN_TIMEOUT = 60.0
#: Seconds to tell an owner that this machine leaves.
LEAVE_TIMEOUT = 20.0
#: What a member may be, beginning with the least.
ROLES = ("reader", "writer", "owner")


@dataclass(frozen=True)
class Group(Shown):
    """A group that this machine is in, or was.

    Attributes:
        id: 26 letters and digits, which no other group has.
        name: what people call it.
        role: of this machine: "owner", "writer", "reader"; or "removed".
        members: how many machines are in it, this one among them.
    """

    id: str
    name: str
    role: str
    members: int


class GroupTable(Table[Group]):
    """Groups; of what `groups` returns."""

    row_type = Group
    columns = (
        Column[Group]("name", lambda row: row.name),
        Column[Group]("role", lambda row: row.role),
        Column[Group]("members", lambda row: str(row.members), right=True),
        Column[Group]("id", lambda row: row.id),
    )


@dataclass(frozen=True)
class GroupMember(Shown):
    """A machine in a group.

    Attributes:
        peer: its peer ID.
        role: "owner", "writer" or "reader".
        label: what it is called; empty where nobody said.
        this: it is this machine.
        connected: whether the node of this machine is connected with it now; None where no node runs, and for this one.
    """

    peer: str
    role: str
    label: str = ""
    this: bool = False
    connected: bool | None = None


class GroupMemberTable(Table[GroupMember]):
    """Who is in a group; of what `group_members` returns."""

    row_type = GroupMember
    columns = (
        Column[GroupMember]("label", lambda row: row.label + (" (this machine)" if row.this else "")),
        Column[GroupMember]("role", lambda row: row.role),
        Column[GroupMember]("connected", lambda row: {True: "yes", False: "no", None: ""}[row.connected]),
        Column[GroupMember]("peer", lambda row: row.peer),
    )


# --- seeing ----------------------------------------------------------------------------------------------------------


def groups() -> GroupTable:
    """The groups that this machine is in, and those that it was removed from, by name. Needs no network.

    Returns:
        A list of `Group`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        IdentityError: the key files of this machine cannot be read.

    Example:
        >>> [group.name for group in kcl.groups()]
        ['cerebellum', 'hippocampus']
    """
    return GroupTable(_group(each) for each in _groups(load_config()).held())


def group_members(group: str) -> GroupMemberTable:
    """Who is in a group: owners first, then by label and peer ID. Needs no network.

    Args:
        group: its name or ID.

    Returns:
        A list of `GroupMember`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        GroupNotFound: this machine is in no such group.
        GroupError: several have that name; or an owner has removed this machine from it, which is told nothing since.

    Example:
        >>> [(member.label, member.role) for member in kcl.group_members("hippocampus")]
        [('workstation 1', 'owner'), ('laptop', 'reader')]
    """
    config = load_config()
    here = _groups(config)
    held = _present(here, group)
    connected = _connected(config)
    me = here.keys.peer_id
    found = [
        GroupMember(
            peer=entry.peer,
            role=entry.role.word,
            label=entry.label,
            this=entry.peer == me,
            connected=None if connected is None or entry.peer == me else entry.peer in connected,
        )
        for entry in held.state.view.members.values()
    ]
    return GroupMemberTable(sorted(found, key=lambda each: (-ROLES.index(each.role), each.label, each.peer)))


# --- coming and going ------------------------------------------------------------------------------------------------


def create_group(name: str, *, label: str = "") -> Group:
    """Make a group. This machine is its founder, its owner and its only member.

    Args:
        name: what people call it: no spaces, up to 64 characters.
        label: what this machine is called in it, such as "Ann's workstation".

    Raises:
        GroupError: it cannot be called that.
        NoPermission, DiskFull: it cannot be kept.

    Example:
        >>> kcl.create_group("cerebellum", label="workstation 1").id
        'q4xw...'
    """
    config = load_config()
    made = _own_groups(config).create(_text(name, "name"), _text(label, "label"))
    _tell_node(config)
    return _group(made)


def invite(group: str, role: str = "reader", *, expires: float | None = None) -> str:
    """An invitation: one string by which one machine can join a group, once.

    Give it to whoever is meant over a channel that you trust: whoever uses it first is in. The node of this machine has
    to run when it is used; it is started here where none runs, and lives as long as this process.

    Args:
        group: the name or ID of a group that this machine owns.
        role: what the other machine may be: "reader" loads; "writer" also stores for the group; "owner" invites and
            removes others, too.
        expires: seconds for which it is good, by the clock of this machine; a week by default.

    Raises:
        GroupNotFound: this machine is in no such group.
        GroupError: several have that name, or this machine is not an owner.
        InvalidArgument: there is no such role, or the time makes no sense.
        NodeError: the node cannot be started.

    Example:
        >>> kcl.invite("hippocampus", role="writer")
        'kachery-group:...'
    """
    return str(make_invitation(load_config(), group, role, expires)[0])


def join_group(invitation: str, *, label: str = "", timeout: float | None = None) -> Group:
    """Join a group: connect to who has made the invitation, and get the list of members and the secret of the group.

    Args:
        invitation: the string.
        label: what this machine is to be called in the group.
        timeout: seconds to reach the inviter; 60 by default.

    Raises:
        InvalidInvitation: it is not one, or not all of one.
        InvitationRefused: it has expired or was used; says what to do.
        DialError: the inviter cannot be reached now. The invitation is still good then.
        GroupError: a machine cannot be called that.

    Example:
        >>> kcl.join_group("kachery-group:...", label="laptop").name
        'hippocampus'
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.membership.edits import check_label
    from kachery_p2p.membership.invitations import parse_invitation
    from kachery_p2p.node.messages import JoinRequest

    parse_invitation(_text(invitation, "invitation"))
    check_label(_text(label, "label"))
    seconds = JOIN_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    config = load_config()
    joined = get_connection(config).join_group(JoinRequest(invitation, label, seconds))
    return _group(_groups(config).find(joined))


def leave_group(group: str, *, timeout: float | None = None) -> bool:
    """Leave a group. What was loaded stays; its secrets and its list of members are forgotten here.

    Args:
        group: its name or ID.
        timeout: seconds for telling an owner; 20 by default.

    Returns:
        Whether an owner has heard of it, who then makes a new secret. Else this machine stays on the lists of the
        others until an owner removes it.

    Raises:
        GroupNotFound: this machine is in no such group.
        GroupError: several have that name, or it is the last owner and there are other members.

    Example:
        >>> kcl.leave_group("reef")
        True
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import LeaveRequest

    config = load_config()
    held = _groups(config).find(_text(group, "group"))
    seconds = LEAVE_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    return get_connection(config).leave_group(LeaveRequest(held.group, seconds))


# --- what owners do --------------------------------------------------------------------------------------------------


def remove_member(group: str, member: str) -> Group:
    """Remove a machine from a group. The group gets a new secret, which goes to those that are left.

    From now on it gets nothing from this machine, and nothing from the others as soon as they have heard of it. What it
    has loaded stays there, and it still knows who was a member: removing takes back nothing that was given.

    Args:
        group: the name or ID of a group that this machine owns.
        member: its peer ID, or its label where only one has that.

    Raises:
        GroupNotFound: this machine is in no such group.
        GroupError: several have that name; this machine is not an owner; there is no such member; or it was an owner
            before this machine.

    Example:
        >>> kcl.remove_member("hippocampus", "laptop").members
        1
    """
    config = load_config()
    here = _own_groups(config)
    held = _present(here, group)
    after = here.remove(held.group, member_of(held, member))
    _tell_node(config)
    return _group(after)


def set_member_role(group: str, member: str, role: str) -> Group:
    """Let a machine have another role in a group.

    Args:
        group: the name or ID of a group that this machine owns.
        member: its peer ID, or its label where only one has that.
        role: "reader", "writer" or "owner".

    Raises:
        GroupNotFound, GroupError: as for `remove_member`; or the group would be left without owners.
        InvalidArgument: there is no such role.

    Example:
        >>> kcl.set_member_role("hippocampus", "laptop", "owner")
        Group(id='q4xw...', name='hippocampus', role='owner', members=2)
    """
    wanted = _role(role)
    config = load_config()
    here = _own_groups(config)
    held = _present(here, group)
    after = here.set_role(held.group, member_of(held, member), wanted)
    _tell_node(config)
    return _group(after)


# --- for the commands ------------------------------------------------------------------------------------------------


def make_invitation(config: Config, group: str, role: str, expires: float | None) -> tuple[str, bool]:
    """An invitation, and whether the node that it leads to ends with this process."""
    import os

    from kachery_cloud.sharing import reachable_now, settled_node
    from kachery_p2p.membership.edits import check_owner
    from kachery_p2p.membership.limits import MAX_INVITATION_SECONDS

    wanted = _role(role)
    seconds = INVITATION_DAYS * DAY if expires is None else expires
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_INVITATION_SECONDS:
        raise InvalidArgument(
            f"expires is {shown(expires)}; it must be a number of seconds, above 0 and up to a year "
            f"({MAX_INVITATION_SECONDS:.0f})."
        )
    here = _own_groups(config)
    held = _present(here, group)
    check_owner(held.state, here.keys)
    found = settled_node(config)
    made = here.invite(held.group, wanted, reachable_now(found).addresses, float(seconds))
    _tell_node(config)
    return str(made), found.pid == os.getpid()


def member_of(held: HeldGroup, member: str) -> str:
    """The peer ID of the member that is meant.

    Raises:
        GroupError: there is none, or there are several of that label.
    """
    from kachery_p2p.peer_ids import any_peer_id

    text = _text(member, "member")
    members = held.state.view.members
    peer = any_peer_id(text)
    if peer is not None and peer in members:
        return peer
    found = [entry.peer for entry in members.values() if text and entry.label == text]
    if len(found) > 1:
        raise GroupError(
            f"{len(found)} members of the group {held.name} are called {shown(text)}. Say which by its peer ID: "
            f"{', '.join(sorted(found))}"
        )
    if not found:
        raise GroupError(
            f"{shown(text)} is no member of the group {held.name}, neither by its peer ID nor by its label. Who is: "
            f"kachery-cloud-group members {held.name}"
        )
    return found[0]


def _group(held: HeldGroup) -> Group:
    role = "removed" if held.removed else held.state.view.role_of(held.me).word
    return Group(held.group, held.name, role, len(held.state.view.members))


def _present(here: Groups, group: str) -> HeldGroup:
    """The group that is meant, if this machine is in it.

    Raises:
        GroupNotFound: it was never in such a group.
        GroupError: there are several of that name; or an owner has removed this machine from it.
    """
    from kachery_cloud.audiences import removed_from

    held = here.find(_text(group, "group"))
    if held.removed:
        raise GroupError(removed_from(held.name))
    return held


def _groups(config: Config) -> Groups:
    """The groups of the data directory, to look at."""
    from kachery_p2p.membership import groups_of_directory

    return groups_of_directory(config.directory)


def _own_groups(config: Config) -> Groups:
    """The same, to change them: this machine has a key then."""
    from kachery_p2p.repo.keys import load_or_create_identity

    repository(config)
    load_or_create_identity(config.directory)
    return _groups(config)


def _tell_node(config: Config) -> None:
    """Have the node that runs, if one does, read what was changed, and tell the members that it is connected with."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.messages import GROUPS_CHANGED

    with contextlib.suppress(NodeError):  # none runs; one that does not answer looks at the files itself, soon
        ask_running_node(config, GROUPS_CHANGED)


def _connected(config: Config) -> frozenset[str] | None:
    """The peers that the node of this machine is connected with; None where none runs."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.status_messages import STATUS

    try:
        found = ask_running_node(config, STATUS)
    except NodeError:
        return None
    return frozenset(each.peer for each in found.node.connected)


def _role(word: Any) -> Role:
    from kachery_p2p.membership.lists import Role

    if not isinstance(word, str) or word not in ROLES:
        raise InvalidArgument(f"role is {shown(word)}; it must be one of {', '.join(ROLES)}.")
    return Role[word.upper()]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be text.")
    return value
