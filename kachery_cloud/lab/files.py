"""Files of the lab: the pins of its pinning service, as its members see them; and their content.

A file belongs to whoever has pinned it, with one of their computers or by an upload through the page; it may be in a
project. What may be done with it `projects_rules` says. Everything here but `Reader` and `Uploads` waits for the disk,
and is meant for threads.
"""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kachery_cloud.lab.accounts_store import CLIENT, Accounts, Member
from kachery_cloud.lab.answers import conflict, forbidden, not_found
from kachery_cloud.lab.projects import Projects
from kachery_cloud.lab.projects_rules import Operation, Standing, allowed
from kachery_cloud.lab.projects_store import Project
from kachery_p2p.access.audience import PUBLIC, group_audience
from kachery_p2p.access.gate import Gate, NoMembers
from kachery_p2p.gateway.server.content import Content
from kachery_p2p.gateway.server.view import View
from kachery_p2p.oserrors import explained
from kachery_p2p.pinning.server.listing import LABEL, PROJECT, OwnedPin
from kachery_p2p.pinning.server.requests import PinObject, Refusal
from kachery_p2p.repo.kept_rows import PINNED
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.units import MIB

if TYPE_CHECKING:
    from kachery_p2p.node.node import Node
    from kachery_p2p.pinning.server.keeper import Keeper
    from kachery_p2p.pinning.server.rows import Pin
    from kachery_p2p.pinning.server.store import PinStore

#: Before the ID of a member in the name under which the pins are that they have uploaded.
MEMBER = "member:"

#: Bytes that an upload leaves free on the disk: the databases of the node need some.
KEPT_FREE = 256 * MIB
#: Uploads at once, of all and of one member. Each takes room before it is known whether it fits.
MAX_UPLOADS, MAX_UPLOADS_EACH = 16, 4
#: Bytes written at a time, and seconds without any after which an upload is given up.
PIECE = 1 * MIB
SILENCE = 60.0
#: Ways of reading that are remembered, one for each group.
MAX_READERS = 64


@dataclass(frozen=True)
class FileShown:
    """A file as a member of the lab may see it.

    Attributes:
        pin: of it.
        owner: who has stored it; None for somebody who is no member, or a token that was made by hand.
        client: the peer ID of the computer that has; None for an upload.
        project: in which it is.
    """

    pin: OwnedPin
    owner: Member | None
    client: str | None
    project: Project | None


class Files:
    """The files of a lab.

    Args:
        projects: of the lab.
        accounts: its members.
        pins: what they have stored.
    """

    def __init__(self, projects: Projects, accounts: Accounts, pins: PinStore) -> None:
        self._projects = projects
        self._accounts = accounts
        self._pins = pins

    def page(
        self,
        member: Member,
        limit: int,
        *,
        project: str = "",
        mine: bool = False,
        label: str = "",
        after: str = "",
    ) -> tuple[list[FileShown], str | None]:
        """Files that a member may see, the newest first; and what to give as `after` for those that follow.

        Args:
            member: who asks.
            limit: at most so many.
            project: only those in it (ID or name).
            mine: only their own.
            label: only those whose label has this in it.
            after: what the page before gave.

        Raises:
            Refusal: there is no such project, or no such page.
        """
        listing = self._pins.listing
        if after and not (after.isascii() and after.isdigit() and len(after) <= 18):
            raise Refusal(400, "BAD_REQUEST", "after is what `next` of the page before was.")
        before = int(after) if after else None
        own = set(listing.owners_of(member.account))
        if project:
            chosen = self._projects.named(project)
            seen = allowed(Operation.SEE, chosen.visibility, self._projects.standing(member, chosen.id))
            if not seen:
                self._projects.check(Operation.SEE, member, chosen)
            rows = self._in_project(chosen.id, own if mine else None, limit + 1, before, label)
        elif mine:
            rows = listing.page(limit + 1, before=before, owners=own, label=label)
        elif member.is_administrator:
            rows = listing.page(limit + 1, before=before, label=label)
        else:
            visible = self._projects.ids_seen_by(member)
            rows = listing.page(limit + 1, before=before, owners=own, projects=visible, label=label)
        more = str(rows[limit - 1].pin.id) if len(rows) > limit else None
        return self._shown(rows[:limit]), more

    def _in_project(
        self, project: str, owners: set[int] | None, limit: int, before: int | None, label: str
    ) -> list[OwnedPin]:
        listing = self._pins.listing
        if owners is None:
            return listing.page(limit, before=before, projects=[project], label=label)
        found: list[OwnedPin] = []
        while len(found) < limit:
            rows = listing.page(500, before=before, projects=[project], label=label)
            found += [row for row in rows if row.pin.owner in owners]
            if len(rows) < 500:
                break
            before = rows[-1].pin.id
        return found[:limit]

    def get(self, member: Member, id: str, operation: Operation = Operation.SEE) -> FileShown:
        """One file, for somebody who is to do something with it.

        Raises:
            Refusal: there is none, or they may not; what they may not even see is as if it were not there.
        """
        pin = self._pins.listing.get(id)
        if pin is None:
            raise _no_file()
        (shown,) = self._shown([pin])
        who = self._standing(member, shown)
        visibility = None if shown.project is None else shown.project.visibility
        if not allowed(Operation.SEE, visibility, who):
            raise _no_file()
        if not allowed(operation, visibility, who):
            raise forbidden(f"You may not {operation.value} here: this file is somebody else's.")
        return shown

    def _standing(self, member: Member, shown: FileShown) -> Standing:
        own = shown.pin.account == member.account
        return self._projects.standing(member, None if shown.project is None else shown.project.id, own=own)

    def delete(self, member: Member, id: str) -> None:
        """Take a file away. It goes from the disk when nobody else has pinned it.

        Raises:
            Refusal: there is none, or it is not for them to do so.
        """
        shown = self.get(member, id, Operation.DELETE_FILE)
        self._pins.delete_any(shown.pin.pin.request_id)
        self._projects.has_changed()

    def _shown(self, rows: list[OwnedPin]) -> list[FileShown]:
        members: dict[str, Member | None] = {}
        projects: dict[str, Project | None] = {}
        found: list[FileShown] = []
        for row in rows:
            id = row.account.removeprefix(MEMBER)
            if id not in members:
                members[id] = self._accounts.member(id) if id else None
            if row.project not in projects:
                projects[row.project] = self._projects.store.get(row.project) if row.project else None
            client = row.owner.removeprefix(CLIENT) if row.owner.startswith(CLIENT) else None
            found.append(FileShown(row, members[id], client, projects[row.project]))
        return found


def _no_file() -> Refusal:
    return not_found("There is no such file, or it is not for you.")


# --- content ---------------------------------------------------------------------------------------------------------


class _Reading(NoMembers):
    """The memberships of those who read what is for one group: they are in that group, and in no other."""

    def __init__(self, group: str) -> None:
        self._group = frozenset({group})

    def groups_of(self, peer: str) -> frozenset[str]:
        """That group."""
        return self._group


class Reader:
    """Reads what is on the lab's node, for those who may see a project.

    Args:
        node: of the lab.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._contents: OrderedDict[str | None, Content] = OrderedDict()

    def content(self, project: Project | None) -> Content:
        """What those may see who may read in a project; without one, or in a public one, what everybody may.

        Nothing is fetched. Where somebody has pinned what is here for others, it is not here for them.
        """
        group = None if project is None else project.group
        found = self._contents.get(group)
        if found is None:
            repo = self._node.repo
            view = (
                View(repo.own, self._node.gate)
                if group is None
                else View(repo.own, Gate(_Reading(group), repo.access), "a reader")
            )
            found = self._contents[group] = Content(view)
            if len(self._contents) > MAX_READERS:
                self._contents.popitem(last=False)
        else:
            self._contents.move_to_end(group)
        return found


# --- uploads ---------------------------------------------------------------------------------------------------------


class Uploads:
    """Takes files through HTTP, for people without a client.

    Args:
        directory: the data directory.
        node: of the lab.
        pins: where they are noted.
        keeper: of the pinning service.
        wake: has its queue look at what is new.
        most_bytes: that one may have.
    """

    def __init__(
        self,
        directory: Path,
        node: Node,
        pins: PinStore,
        keeper: Keeper,
        wake: Callable[[], None],
        *,
        most_bytes: int,
    ) -> None:
        self._directory = directory
        self._repo = node.repo
        self._pins = pins
        self._keeper = keeper
        self._wake = wake
        self._most = most_bytes
        self._running: dict[str, int] = {}

    async def take(
        self, member: Member, pieces: AsyncIterator[bytes], length: int | None, name: str, project: Project | None
    ) -> Pin:
        """Store what comes, and pin it. Nothing is left of what does not come whole.

        Args:
            member: whose it is.
            pieces: the bytes.
            length: how many there will be, where that was said.
            name: what it is called.
            project: into which it goes; that they may has been checked.

        Raises:
            Refusal: it is too large, the quota or the disk is full, there are too many, or it does not come.
            DiskFull, NoPermission: the disk does not take it.
        """
        if sum(self._running.values()) >= MAX_UPLOADS or self._running.get(member.id, 0) >= MAX_UPLOADS_EACH:
            raise Refusal(429, "TOO_MANY_UPLOADS", "Too many uploads are under way. Try again.", {"retry-after": "5"})
        self._running[member.id] = self._running.get(member.id, 0) + 1
        try:
            return await self._take(member, pieces, length, name, project)
        finally:
            self._running[member.id] -= 1
            if not self._running[member.id]:
                del self._running[member.id]

    async def _take(
        self, member: Member, pieces: AsyncIterator[bytes], length: int | None, name: str, project: Project | None
    ) -> Pin:
        owner = await trio.to_thread.run_sync(self._pins.owner, MEMBER + member.id, member.account, member.quota)
        used = await trio.to_thread.run_sync(self._pins.used, member.account)
        room = None if member.quota is None else max(0, member.quota - used)

        def check(size: int) -> None:
            if size > self._most:
                raise Refusal(413, "PAYLOAD_TOO_LARGE", f"One file may have {self._most} bytes here.")
            if room is not None and size > room:
                raise conflict(
                    "INSUFFICIENT_FUNDS",
                    f"{used} of {member.quota} bytes are used, so this does not fit. Delete something first.",
                )

        check(length or 0)
        await self._check_disk(length or 0)
        new = await trio.to_thread.run_sync(NewFile, self._directory / "tmp")
        try:
            size = await self._receive(new, pieces, length, check)
            audience = (
                PUBLIC if project is None or project.visibility == "public" else group_audience([_group(project)])
            )
            stored = await trio.to_thread.run_sync(lambda: self._repo.store_new(new, audience=audience, how=PINNED))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(new.__exit__, None, None, None)
        # From here on it is to be noted, or let go, whoever has gone meanwhile.
        with trio.CancelScope(shield=True):
            before = await self._keeper.kept_as(stored.cid)
            before = await trio.to_thread.run_sync(self._pins.hold, stored.cid, before or None)
            meta: Mapping[str, str] = {} if project is None else {PROJECT: project.id, LABEL: name}
            wanted = PinObject(stored.cid, str(stored.cid), name, (), meta)
            try:
                pin = await trio.to_thread.run_sync(self._pins.add, owner, wanted, size)
                assert pin is not None, "it replaces none"
                await self._keeper.keep(stored.cid, before)
                await trio.to_thread.run_sync(self._pins.finish, pin, "pinned")
                return pin
            except BaseException:
                await trio.to_thread.run_sync(self._pins.leave, stored.cid)
                raise
            finally:
                self._wake()

    async def _check_disk(self, size: int) -> None:
        free = (await trio.to_thread.run_sync(shutil.disk_usage, self._directory)).free
        if size + KEPT_FREE > free:
            raise Refusal(507, "INSUFFICIENT_STORAGE", "The disk of the lab's node has no room for it.")

    async def _receive(
        self, new: NewFile, pieces: AsyncIterator[bytes], length: int | None, check: Callable[[int], None]
    ) -> int:
        """Write what comes; how many bytes there were."""
        size, waiting, due = 0, bytearray(), 0

        def write(data: bytes) -> None:
            with explained("storing in", self._directory):
                view = memoryview(data)
                while view:
                    view = view[os.write(new.fd, view) :]

        while True:
            piece: bytes | None = None
            with trio.move_on_after(SILENCE) as patience:
                with suppress(StopAsyncIteration):
                    piece = await anext(pieces)
            if patience.cancelled_caught:
                raise Refusal(408, "REQUEST_TIMEOUT", "Nothing more of the file came.")
            if piece is not None:
                size += len(piece)
                waiting += piece
                check(size)
            if len(waiting) >= PIECE or (piece is None and waiting):
                due += len(waiting)
                if due >= 64 * PIECE:
                    due = 0
                    await self._check_disk(0)
                await trio.to_thread.run_sync(write, bytes(waiting))
                waiting.clear()
            if piece is None:
                break
        if length is not None and size != length:
            raise Refusal(400, "BAD_REQUEST", f"The file was to have {length} bytes, and {size} came.")
        return size


def _group(project: Project) -> str:
    assert project.group is not None, "it is for its members alone"
    return project.group
