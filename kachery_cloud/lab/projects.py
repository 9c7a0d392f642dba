"""Projects at work: what is in the list, what the pins say, and the groups of machines that go with them.

A project for its members alone is a group of machines (`kachery_p2p.membership`) that the lab's node owns. Who is to be
in it follows from two lists, that of the project's members and that of their clients; a client gets in by an invitation
that it asks for, as a reader or a writer. `reconcile` takes out whom the two lists do not have: it runs after each
change here, when the group has changed, and once a minute. So whoever leaves the project, or the lab, loses the group's
secret with all of their computers.

Everything but `run` and `settle` waits for the disk, and is meant for threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from kachery_cloud.lab.accounts_store import CLIENT, Accounts, Member
from kachery_cloud.lab.answers import conflict, forbidden, not_found
from kachery_cloud.lab.projects_rules import Operation, Standing, allowed
from kachery_cloud.lab.projects_store import Project, ProjectsStore, no_project
from kachery_cloud.lab_places import ProjectRole, Visibility
from kachery_p2p.access.audience import PUBLIC
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, GroupError, KacheryError
from kachery_p2p.membership.lists import Role
from kachery_p2p.pinning.server.listing import PROJECT, Sum
from kachery_p2p.units import HOUR
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_cloud.lab.database import LabDatabase
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.node.node import Node
    from kachery_p2p.pinning.server.requests import PinObject
    from kachery_p2p.pinning.server.rows import Pin, Token
    from kachery_p2p.pinning.server.store import PinStore

log = logging.getLogger("kachery_cloud.lab")

T = TypeVar("T")

#: An invitation of a client into a group is used at once; it is good for so long.
INVITATION_SECONDS = 1 * HOUR
#: Seconds between two looks at whether the groups are as they should be, when nothing has happened.
LOOK = 60.0
#: Sums are taken anew when they are older than so many times what taking them took: they cost a twentieth of a core.
PATIENCE = 20.0
#: As what the node itself stands in the groups.
NODE_LABEL = "the lab's node"

_GROUP_ROLES: Mapping[ProjectRole, Role] = {
    "reader": Role.READER,
    "writer": Role.WRITER,
    "administrator": Role.WRITER,
}


@dataclass(frozen=True)
class MemberShown:
    """A member of a project: their ID and name, and their role."""

    id: str
    name: str
    role: ProjectRole


@dataclass(frozen=True)
class ProjectShown:
    """A project as one member of the lab may see it.

    Attributes:
        role: of whoever asks; None where they are not in it.
        sum: what is in it.
    """

    project: Project
    role: ProjectRole | None
    members: tuple[MemberShown, ...]
    sum: Sum


class Projects:
    """The projects of a lab.

    Args:
        database: of the lab.
        accounts: its members and their clients.
        pins: what they have stored.
        node: whose groups they are; None for commands beside the node, which change no groups.

    Attributes:
        store: the list of projects.
    """

    def __init__(self, database: LabDatabase, accounts: Accounts, pins: PinStore, node: Node | None) -> None:
        self.store = ProjectsStore(database)
        self._accounts = accounts
        self._pins = pins
        self._node = node
        self._wake = Flag()
        self._sums = Remembered(pins.listing.by_project)
        self._changing = threading.Lock()
        if node is not None:
            node.groups.may_join = self.may_join

    # --- who may ----------------------------------------------------------------------------------------------------

    def standing(self, member: Member, project: str | None, *, own: bool = False) -> Standing:
        """Who somebody is to a project, or to a file."""
        role = self.store.role_of(project, member.id) if project else None
        return Standing(role, member.is_administrator, own)

    def check(self, operation: Operation, member: Member, project: Project) -> Standing:
        """See that somebody may do something with a project.

        Raises:
            Refusal: they may not; what they may not even know of is as if it were not there.
        """
        who = self.standing(member, project.id)
        if not allowed(Operation.SEE, project.visibility, who):
            raise no_project()
        if not allowed(operation, project.visibility, who):
            needed = "its administrators" if operation is Operation.ADMINISTER else "its members"
            if operation is Operation.WRITE:
                needed = "those of its members who may write"
            raise forbidden(f"You may not {operation.value} in the project {project.name}: that is for {needed}.")
        return who

    def named(self, text: str) -> Project:
        """A project by its ID or name.

        Raises:
            Refusal: there is none.
        """
        found = self.store.find(text)
        if found is None:
            raise no_project()
        return found

    def ids_seen_by(self, member: Member) -> list[str]:
        """The IDs of the projects that somebody may know of."""
        roles = self.store.roles_of(member.id)
        return [
            each.id
            for each in self.store.projects()
            if allowed(Operation.SEE, each.visibility, Standing(roles.get(each.id), member.is_administrator))
        ]

    def seen_by(self, member: Member) -> list[ProjectShown]:
        """The projects that somebody may know of, by name."""
        roles, everyone = self.store.roles_of(member.id), self.store.all_members()
        sums, names = self._sums.get(), self._names()
        found: list[ProjectShown] = []
        for project in self.store.projects():
            role = roles.get(project.id)
            if allowed(Operation.SEE, project.visibility, Standing(role, member.is_administrator)):
                members = tuple(
                    MemberShown(each.id, names[each.id], each.role)
                    for each in everyone.get(project.id, ())
                    if each.id in names
                )
                found.append(ProjectShown(project, role, members, sums.get(project.id, Sum())))
        return found

    def shown(self, member: Member, project: Project) -> ProjectShown:
        """One project, as somebody sees it who may."""
        names = self._names()
        members = tuple(
            MemberShown(each.id, names[each.id], each.role)
            for each in self.store.members(project.id)
            if each.id in names
        )
        role = self.store.role_of(project.id, member.id)
        return ProjectShown(project, role, members, self._sums.get().get(project.id, Sum()))

    def _names(self) -> dict[str, str]:
        return {member.id: member.name for member in self._accounts.members()}

    # --- what is in it ----------------------------------------------------------------------------------------------

    def admit(self, token: Token, wanted: PinObject) -> None:
        """For the pinning service: see that whoever has a token may pin into the project that a pin names.

        Raises:
            Refusal: they may not.
        """
        named = wanted.meta.get(PROJECT)
        if named is None:
            return
        project = self.store.get(named)
        client = self._accounts.client(token.name.removeprefix(CLIENT)) if token.name.startswith(CLIENT) else None
        member = None if client is None else self._accounts.member(client.member)
        if project is None or member is None:
            raise forbidden("The project in the metadata of this pin is none that this token may store into.")
        try:
            self.check(Operation.WRITE, member, project)
        finally:
            self._sums.forget()

    def groups_of(self, pin: Pin) -> tuple[str, ...]:
        """For the queue of the pinning service: the group that a pin is for; none where it is for everybody."""
        named = pin.meta.get(PROJECT)
        project = None if named is None else self.store.get(named)
        return () if project is None or project.group is None else (project.group,)

    def has_changed(self) -> None:
        """Something was stored, or taken away."""
        self._sums.forget()

    # --- changing ---------------------------------------------------------------------------------------------------

    def create(self, member: Member, name: str, description: str, visibility: Visibility) -> Project:
        """Make a project, and its group where it is for its members alone.

        Raises:
            Refusal: it cannot be called that, or there are too many.
        """
        if visibility == "public":
            return self.store.create(name, member.id, description=description)
        group = self._groups.create(name, NODE_LABEL).group
        try:
            return self.store.create(name, member.id, description=description, visibility="members", group=group)
        except BaseException:
            self._groups.forget(group)
            raise

    def publish(self, project: Project) -> None:
        """Let everybody load what is in a project for its members alone. There is no way back.

        Its group stays until the project goes: the machines of its members have what they have loaded for that group.
        """
        assert self._node is not None, "only the node of the lab publishes"
        access = self._node.repo.access
        for text in self._pins.listing.roots_of_project(project.id).values():
            root = CID.parse(text)
            try:
                if not access.audience_of(root).everyone:
                    access.set_audience(root, PUBLIC)
            except ContentNotFound:
                continue  # it is not here yet; when it comes, it comes for those for whom its owner has it
        self.store.set_visibility(project.id, "public", project.group)

    def delete(self, project: Project, *, files: bool) -> None:
        """Delete a project.

        Args:
            project: which.
            files: with all that is in it; else it must be empty.

        Raises:
            Refusal: it is not empty.
        """
        listing = self._pins.listing
        if not files and (count := listing.count_of_project(project.id)):
            raise conflict(
                "NOT_EMPTY",
                f"There are {count} files in the project {project.name}. Delete them first, or with it (files=delete).",
            )
        while found := listing.page(500, projects=[project.id]):
            for each in found:
                self._pins.delete_any(each.pin.request_id)
        self.store.delete(project.id)
        self._sums.forget()
        if project.group is not None:
            self._empty(project.group)
            self._groups.forget(project.group)

    def set_member(self, project: Project, member: str, role: ProjectRole, *, keep_one: bool) -> None:
        """Let somebody be in a project, or have another role there.

        Raises:
            Refusal: there is no such member of the lab; or see `ProjectsStore.set_member`.
        """
        if self._accounts.member(member) is None:
            raise not_found("There is no such member of the lab.")
        self.store.set_member(project.id, member, role, keep_one=keep_one)
        self.reconcile(project)

    def remove_member(self, project: Project, member: str, *, keep_one: bool) -> bool:
        """Take somebody out of a project, and their computers out of its group; whether they were in it.

        Raises:
            Refusal: see `ProjectsStore.remove_member`.
        """
        removed = self.store.remove_member(project.id, member, keep_one=keep_one)
        self.reconcile(project)
        return removed

    # --- groups -----------------------------------------------------------------------------------------------------

    @property
    def _groups(self) -> Groups:
        assert self._node is not None, "groups are the node's"
        return self._node.groups

    def invitation(self, project: Project, role: ProjectRole, addresses: Sequence[str]) -> str:
        """An invitation for one client of a member into the group of a project.

        Args:
            project: which.
            role: of that member.
            addresses: multiaddrs of the node.

        Raises:
            Refusal: too many invitations wait.
        """
        assert project.group is not None, "it is for its members alone"
        try:
            made = self._groups.invite(project.group, _GROUP_ROLES[role], addresses, INVITATION_SECONDS)
        except GroupError as error:
            raise conflict("TOO_MANY_INVITATIONS", str(error)) from None
        return str(made)

    def may_join(self, group: str, peer: str) -> bool:
        """Whether an invitation into a group may be used by a machine: of projects by clients of their members alone.

        An invitation is a secret that could be passed on, or kept by somebody who has left since.
        """
        project = self.store.of_group(group)
        if project is None:
            return True  # a group of its own, that the node's owner has made by hand
        client = self._accounts.client(peer)
        return client is not None and self.store.role_of(project.id, client.member) is not None

    def reconcile(self, only: Project | None = None) -> None:
        """Let the groups have those in them that should be, and no others.

        Args:
            only: look at this one alone.
        """
        if self._node is None:
            return
        with self._changing:
            projects = [only] if only is not None else self.store.projects()
            if only is None:
                self._forget_those_who_left()
            projects = [each for each in projects if each.group is not None]
            if not projects:
                return
            clients: dict[str, list[str]] = {}
            for client in self._accounts.clients():
                clients.setdefault(client.member, []).append(client.peer)
            for project in projects:
                may = {
                    peer: _GROUP_ROLES[each.role]
                    for each in self.store.members(project.id)
                    for peer in clients.get(each.id, ())
                }
                try:
                    self._fit(project, may)
                except KacheryError as error:
                    log.warning("the group of the project %s is not as it should be: %s", project.name, error)

    def _fit(self, project: Project, may: Mapping[str, Role]) -> None:
        assert project.group is not None
        held = self._groups.get(project.group)
        if held is None:
            log.warning("the group of the project %s is not here any more", project.name)
            return
        for peer, entry in list(held.state.view.members.items()):
            if peer == held.me:
                continue
            role = may.get(peer)
            if role is None:
                self._groups.remove(project.group, peer)
                log.info("%s was taken out of the group of the project %s", peer, project.name)
            elif entry.role is not role:
                self._groups.set_role(project.group, peer, role)

    def _empty(self, group: str) -> None:
        held = self._groups.get(group)
        if held is not None:
            for peer in [peer for peer in held.state.view.members if peer != held.me]:
                self._groups.remove(group, peer)

    def _forget_those_who_left(self) -> None:
        there = {member.id for member in self._accounts.members()}
        for member in {each.id for members in self.store.all_members().values() for each in members} - there:
            self.store.forget_member(member)

    # --- in the event loop ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Members or clients may have changed: look at the groups soon."""
        self._wake.set()

    async def tidy(self) -> None:
        """Members or clients have changed: look at the groups now."""
        await trio.to_thread.run_sync(self.reconcile)
        await self.settle()

    async def settle(self) -> None:
        """Pass on what was changed of groups, and of who may see what."""
        if self._node is not None:
            await self._node.membership.refresh()
            await self._node.notify_access()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the groups as they should be, until cancelled."""
        assert self._node is not None
        unsubscribe = self._node.groups.on_changed(self.wake)
        try:
            task_status.started()
            while True:
                before = self._node.groups.changes
                try:
                    await trio.to_thread.run_sync(self.reconcile)
                    if self._node.groups.changes != before:
                        await self._node.membership.refresh()
                except KacheryError as error:
                    log.warning("the groups of projects cannot be looked at: %s", error)
                with trio.move_on_after(LOOK):
                    await self._wake.take()
        finally:
            unsubscribe()


class Remembered(Generic[T]):
    """Something that takes long to find out, and may be a little old.

    Args:
        find: finds it out.
    """

    def __init__(self, find: Callable[[], T]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._value: T | None = None
        self._at = -1.0
        self._took = 0.0

    def get(self) -> T:
        """In a thread: it. Those who ask at the same time wait for one answer."""
        with self._lock:
            now = time.monotonic()
            if self._value is None or self._at < 0 or now - self._at > PATIENCE * self._took:
                self._value = self._find()
                self._at = time.monotonic()
                self._took = self._at - now
            return self._value

    def forget(self) -> None:
        """It has changed. Where finding it out takes long, it is still of use for a while."""
        if self._took < 0.05:
            self._at = -1.0
