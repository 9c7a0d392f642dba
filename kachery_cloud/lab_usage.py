"""Who uses what at a lab's node: asked of it, from a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode

from kachery_cloud.arguments import text_list
from kachery_cloud.errors import InvalidArgument, SignInError
from kachery_cloud.inventory_tables import Column, Table, size_text
from kachery_cloud.lab_client import LabClient, checked_text
from kachery_cloud.lab_places import BYS, By
from kachery_cloud.records import Shown
from kachery_cloud.settings.config import load_config
from kachery_p2p.text import printable, shortened, shown


@dataclass(frozen=True)
class LabUsage(Shown):
    """How much was stored and served.

    Attributes:
        day: as 2026-11-30 (UTC); None where days are not told apart; so with the three that follow.
        project: its ID; None also for what is in no project.
        member: the ID of a member; None also for what was loaded by strangers.
        client: a peer ID; "others" for those of strangers.
        name: what people call it; empty where nobody does.
        bytes_stored: what is kept at the end of the time, in bytes.
        pins: in how many pins.
        bytes_served: what was loaded from the lab's node in that time; for a member or client: by them.
        blocks_served: in how many blocks.
    """

    day: str | None
    project: str | None
    member: str | None
    client: str | None
    name: str
    bytes_stored: int
    pins: int
    bytes_served: int
    blocks_served: int

    sizes = ("bytes_stored", "bytes_served")


class LabUsageTable(Table[LabUsage]):
    """How much was stored and served; of what `usage` returns."""

    row_type = LabUsage
    columns = (
        Column[LabUsage]("day", lambda row: row.day or ""),
        Column[LabUsage]("name", lambda row: row.name),
        Column[LabUsage]("stored", lambda row: size_text(row.bytes_stored), right=True),
        Column[LabUsage]("pins", lambda row: f"{row.pins:,}", right=True),
        Column[LabUsage]("served", lambda row: size_text(row.bytes_served), right=True),
        Column[LabUsage]("project", lambda row: row.project or ""),
        Column[LabUsage]("member", lambda row: row.member or ""),
        Column[LabUsage]("client", lambda row: row.client or ""),
    )


def usage(
    by: By | Sequence[By] = "project",
    *,
    start: str | None = None,
    end: str | None = None,
    project: str | None = None,
    node: str | None = None,
) -> LabUsageTable:
    """Who has stored and loaded how much at the lab's node.

    You see what is yours, and what is of your projects; administrators of the lab see all.

    Args:
        by: what is told apart: "project", "member", "client" or "day", or several of these.
        start: the first day, such as "2026-11-01" (UTC); 30 days back by default.
        end: the last day; today by default.
        project: only what is of it, by its name or ID.
        node: the URL of the lab's node, where this machine is registered with several.

    Returns:
        A list of `LabUsage`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        InvalidArgument: `start` or `end` is no day.
        SignInError: this machine is registered with no lab's node, or the node cannot be asked, or refuses.

    Example:
        >>> [(row.name, row.bytes_stored, row.bytes_served) for row in kcl.usage()]
        [('atlas', 53687091200, 1073741824)]
    """
    words = text_list(by, "by")
    for word in words:
        if word not in BYS:
            raise InvalidArgument(f"by is {shown(word)}; it must be of {', '.join(BYS)}.")
    asked = {"by": ",".join(words), "from": start, "to": end, "project": project}
    for name, value in asked.items():
        if value is not None:
            checked_text(value, name)
    for name, day in (("start", start), ("end", end)):
        if day is not None:
            check_day(day, name)
    client = LabClient(load_config(), node)
    path = f"/usage?{urlencode({key: value for key, value in asked.items() if value is not None})}"
    return LabUsageTable(_read(each, client.url) for each in client.items(path))


def check_day(text: str, name: str) -> None:
    """See that a text is a day, or a time of one, as ISO 8601 has it.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        raise InvalidArgument(f"{name} is {shown(text)}; it must be a day, such as 2026-11-01.") from None


def _read(row: dict[str, Any], url: str) -> LabUsage:
    def text(value: Any) -> str | None:
        return None if value is None else shortened(printable(str(value)), 300)

    try:
        names = row["names"]
        named = [names.get(what) for what in ("project", "member", "client") if names.get(what)]
        return LabUsage(
            day=text(row["day"]),
            project=text(row["project"]),
            member=text(row["member"]),
            client=text(row["client"]),
            name=text(", ".join(map(str, named))) or "",
            bytes_stored=int(row["bytes_stored"]),
            pins=int(row["pins"]),
            bytes_served=int(row["bytes_served"]),
            blocks_served=int(row["blocks_served"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SignInError(f"{url} does not answer as a lab's node does. It may be of another version.") from None
