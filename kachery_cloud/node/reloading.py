"""Settings that are read again while the node runs: what can be taken up is, and what needs a restart is named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kachery_cloud.node.messages import Call, Nothing
from kachery_cloud.settings.config import SETTINGS

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.node.room import RoomHooks


@dataclass(frozen=True)
class Reloaded:
    """What came of it.

    Attributes:
        applied: settings that are others than before, and hold now.
        restart: settings that are others than before, and hold after a restart.
        files: files that were read again, such as certificates.
        error: why all is as it was; empty where it was read.
    """

    applied: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())
    error: str = ""


@dataclass(frozen=True)
class ServiceHooks:
    """What a service needs of the program that it is.

    Attributes:
        reread: in a thread: reads the settings again, as they were read at the start.
        log: logs from then on as settings say, into what has the name of the file by then.
        room: see `kachery_p2p.node.room`.
    """

    reread: Callable[[], Config]
    log: Callable[[Config], None]
    room: RoomHooks


RELOAD = Call("reload", Nothing, Reloaded)

#: How a node that runs comes to know settings that were changed after its start.
HOW_TO_RELOAD = (
    "It takes up changed settings on: kachery-cloud-node reload. A script or notebook that is the node reads them when "
    "it starts."
)

#: Takes up the settings; raises a `KacheryError` where they make no sense, and then has changed nothing.
Apply = Callable[["Config"], Awaitable[None]]


def differing(old: Config, new: Config) -> list[str]:
    """The names of the settings that are not the same."""
    return [name for name in SETTINGS if getattr(old, name) != getattr(new, name)]


def sort_out(changed: Iterable[str], appliers: Mapping[str, Apply]) -> tuple[list[str], list[str]]:
    """Those of some settings that can be taken up, and those that cannot."""
    changed = list(changed)
    return [name for name in changed if name in appliers], [name for name in changed if name not in appliers]


def lines_of(found: Reloaded) -> list[str]:
    """What to say of it."""
    if found.error:
        return [f"Nothing has changed: {found.error}"]
    lines: list[str] = []
    if found.applied:
        lines.append(f"Holds now: {', '.join(found.applied)}.")
    if found.files:
        lines.append(f"Read again: {', '.join(found.files)}.")
    if found.restart:
        lines.append(f"Holds after a restart of the node: {', '.join(found.restart)}.")
    return lines or ["All settings are as they were."]
