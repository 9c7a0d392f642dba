"""Who uses what: what was stored and served, by project, member, client and day (UTC).

What was served is counted by the node (`kachery_p2p.node.served_log`): to which peer, and of which project. What is
stored is what the pins say; how much that is, is noted now and then, so that the days behind us are known, too.

What was served to a client counts for the member who has it: they are the ones who have loaded. What is stored counts
for whoever has pinned it, and for each of several.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

import trio

from kachery_cloud.lab.accounts_store import CLIENT, Accounts, Member
from kachery_cloud.lab.files import MEMBER
from kachery_cloud.lab.projects import Remembered
from kachery_cloud.lab_places import By
from kachery_p2p.errors import KacheryError
from kachery_p2p.node.served_log import OTHERS, KeptRow, ServedLog, day_of
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.lab.projects_store import ProjectsStore
    from kachery_p2p.pinning.server.store import PinStore
    from kachery_p2p.repo.repo import Repo

log = logging.getLogger("kachery_cloud.lab")

#: Seconds between two notes of what is stored: it goes through all pins.
NOTED = 600.0
#: Days that are shown where nobody says from when on.
DEFAULT_DAYS = 30
#: Rows of one answer. Beyond, the smallest are left out.
MAX_ROWS = 5_000
#: How a multihash becomes the keys of roots: raw and dag-pb, as the catalog has them.
_KEYS = (b"\x01\x55", b"\x01\x70")


class Key(NamedTuple):
    """What a row is about; None in what was not asked for, and where it is not known, or none.

    Attributes:
        day: since 1970-01-01.
        project: its ID.
        member: their ID.
        client: a peer ID, or `OTHERS`.
    """

    day: int | None = None
    project: str | None = None
    member: str | None = None
    client: str | None = None


@dataclass
class Sums:
    """What a row says: at its end how many pins and bytes were stored, and in it how much was served."""

    bytes_stored: int = 0
    pins: int = 0
    bytes_served: int = 0
    blocks_served: int = 0


@dataclass(frozen=True)
class UsageRow:
    """One row, with what people call those that it is about."""

    key: Key
    sums: Sums
    names: Mapping[str, str] = field(default_factory=dict[str, str])


def day_text(day: int) -> str:
    """A day as ISO 8601 has it."""
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


class Usage:
    """The usage of a lab.

    Args:
        served: what the node has served.
        projects: of the lab.
        accounts: its members and their clients.
        pins: what they have stored.
        repo: of the node.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        served: ServedLog,
        projects: ProjectsStore,
        accounts: Accounts,
        pins: PinStore,
        repo: Repo,
        wall: Callable[[], float],
    ) -> None:
        self._served = served
        self._projects = projects
        self._accounts = accounts
        self._pins = pins
        self._repo = repo
        self._wall = wall
        self._stored_now = Remembered(pins.listing.by_owner)
        served.owners = self.projects_of

    # --- noting -----------------------------------------------------------------------------------------------------

    def projects_of(self, multihashes: Collection[bytes]) -> Mapping[bytes, str]:
        """In a thread: to which projects blocks belong; see `kachery_p2p.node.served_log.Owners`."""
        listing = self._pins.listing
        roots = {prefix + each: each for each in multihashes for prefix in _KEYS}
        found = {roots[key]: project for key, project in listing.projects_of(roots).items()}
        files = self._repo.files_with([each for each in multihashes if each not in found])
        projects = listing.projects_of({key for of in files.values() for key, _ in of})
        for multihash, of in files.items():
            named = [projects[key] for key, _ in of if key in projects]
            if named or any(kept for _, kept in of):  # else it is a part of a folder, which may be in a project
                found[multihash] = next(filter(None, named), "")
        return found

    def note(self) -> None:
        """In a thread: note what is stored now."""
        sums = self._stored_now.get()
        self._served.note_kept({key: (each.pins, each.bytes) for key, each in sums.items()})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note what is stored, now and then, until cancelled."""
        task_status.started()
        while True:
            try:
                await trio.to_thread.run_sync(self.note)
            except KacheryError as error:
                log.warning("how much is stored is not noted: %s", error)
            await trio.sleep(NOTED)

    async def flush(self) -> None:
        """Have all that was served until now in what is shown."""
        self._stored_now.forget()
        await self._served.flush()

    # --- showing ----------------------------------------------------------------------------------------------------

    def rows(
        self, member: Member, by: Collection[By], first: int, last: int, project: str | None = None
    ) -> list[UsageRow]:
        """What somebody may see: of themselves, and of the projects that they are in; administrators see all.

        Args:
            member: who asks.
            by: what is told apart.
            first: the first day.
            last: the last day, which is among them.
            project: only what is of it, by its ID.
        """
        people = _People(self._accounts, self._pins)
        mine = None if member.is_administrator else self._projects.roles_of(member.id)

        def visible(key: Key) -> bool:
            if project is not None and key.project != project:
                return False
            return mine is None or key.member == member.id or key.project in mine

        def cut(key: Key, day: int | None) -> Key:
            client = key.client
            if client is not None and key.member is None and mine is not None:
                client = OTHERS  # the machines of strangers are no business of members
            return Key(
                day if "day" in by else None,
                key.project if "project" in by else None,
                key.member if "member" in by else None,
                client if "client" in by else None,
            )

        sums: dict[Key, Sums] = {}
        for row in self._served.served(first, last):
            key = Key(None, row.what or None, people.of_peer(row.peer), row.peer)
            if visible(key):
                each = sums.setdefault(cut(key, row.day), Sums())
                each.bytes_served += row.bytes
                each.blocks_served += row.blocks
        for day, rows in self._stored(first, last, every="day" in by):
            for row in rows:
                client = row.owner.removeprefix(CLIENT) if row.owner.startswith(CLIENT) else None
                key = Key(None, row.what or None, people.of_owner(row.owner), client)
                if visible(key) and (row.pins or row.bytes):
                    each = sums.setdefault(cut(key, day), Sums())
                    each.bytes_stored += row.bytes
                    each.pins += row.pins
        return self._named(sums, people)

    def _stored(self, first: int, last: int, *, every: bool) -> list[tuple[int, list[KeptRow]]]:
        """What was stored at the end of days, of all or of the last one alone."""
        by_day: dict[int, list[KeptRow]] = {}
        for row in self._served.kept(first if every else last, last):
            by_day.setdefault(row.day, []).append(row)
        today = day_of(self._wall())
        if last >= today:
            last = today
            by_day[today] = [
                KeptRow(today, owner, what, each.pins, each.bytes)
                for (owner, what), each in self._stored_now.get().items()
            ]
        found: list[tuple[int, list[KeptRow]]] = []
        known: list[KeptRow] | None = None
        noted = sorted(by_day)
        for day in range(first if every else last, last + 1):
            while noted and noted[0] <= day:
                known = by_day[noted.pop(0)]
            if known is not None:
                found.append((day, known))
        return found

    def _named(self, sums: Mapping[Key, Sums], people: _People) -> list[UsageRow]:
        names = {project.id: project.name for project in self._projects.projects()}

        def order(each: tuple[Key, Sums]) -> tuple[int, int, str]:
            key, sum = each
            return key.day or 0, -(sum.bytes_served + sum.bytes_stored), str(key)

        rows = sorted(sums.items(), key=order)
        if len(rows) > MAX_ROWS:
            largest = sorted(rows, key=lambda each: -(each[1].bytes_served + each[1].bytes_stored))[:MAX_ROWS]
            rows = sorted(largest, key=order)
        return [
            UsageRow(
                key,
                each,
                {
                    what: name
                    for what, name in (
                        ("project", names.get(key.project or "", "")),
                        ("member", people.names.get(key.member or "", "")),
                        ("client", people.labels.get(key.client or "", "")),
                    )
                    if name
                },
            )
            for key, each in rows
        ]


class _People:
    """Whose peers and pins are."""

    def __init__(self, accounts: Accounts, pins: PinStore) -> None:
        clients = accounts.clients()
        self._accounts = pins.listing.accounts()
        self._members = {client.peer: client.member for client in clients}
        self.labels = {client.peer: client.label for client in clients}
        self.names = {member.id: member.name for member in accounts.members(removed=True)}

    def of_peer(self, peer: str) -> str | None:
        """The member who has, or had, a client."""
        return self._members.get(peer) or self.of_owner(CLIENT + peer)

    def of_owner(self, owner: str) -> str | None:
        """The member who has the pins of an owner, by the name of the token."""
        account = self._accounts.get(owner, "")
        return account.removeprefix(MEMBER) if account.startswith(MEMBER) else None


def days_of(texts: Sequence[str | None], now: float) -> tuple[int, int]:
    """From and to, as ISO 8601 has days or times; by default the last days until today.

    Args:
        texts: both.
        now: seconds since 1970.

    Raises:
        ValueError: one of them is none, or they make no sense together.
    """
    first, last = (None if text is None else _day(text) for text in texts)
    if last is None:
        last = day_of(now)
    if first is None:
        first = last - DEFAULT_DAYS + 1
    if first > last:
        raise ValueError("it ends before it begins")
    if last - first > 3_660:
        raise ValueError("it is longer than ten years")
    return first, last


def _day(text: str) -> int:
    try:
        return (date.fromisoformat(text[:10]) - date(1970, 1, 1)).days
    except ValueError:
        raise ValueError(f"{shown(text)} is none") from None
