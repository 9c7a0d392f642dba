"""Keeping data alive elsewhere: what is to be pinned, and how far that is.

    uri = kcl.store_file("/data/session.nwb", pin="filebase", wait="verified")

What is to be pinned is written to the outbox of the data directory (`kachery_p2p.pinning`) before the call returns. It
is carried out by the node, whenever one runs here; it survives crashes and months offline. "Pinned" is what a service
claims, "verified" is when a block was fetched back from it and had the right hash.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from kachery_cloud.arguments import check_flags, text_list
from kachery_cloud.errors import ConfigError, ContentNotFound, NodeError, PinningError, PinTooLarge
from kachery_cloud.local import (
    BlockNotLocal,
    check_lost,
    is_local_directory,
    local_size,
    outbox,
    repository,
    resolve_local,
)
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.pin_choice import services_by_name, services_for, to_service, why_idle
from kachery_cloud.settings.pin_services import PinSetting
from kachery_cloud.settings.values import parse_timeout
from kachery_cloud.uri import format_uri, parse_listed, without_key
from kachery_p2p.text import printable, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kachery_cloud.lab_places import Place
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.pin_rows import PinTable
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.status_messages import Sending
    from kachery_p2p.pinning import PinEntry
    from kachery_p2p.repo.small import Stored

Pin: TypeAlias = "bool | str | Sequence[str] | None"
Wait: TypeAlias = "Literal['pinned', 'verified'] | None"

WAITS = ("pinned", "verified")
#: Problems of a row that stay until the user does something.
HOPELESS = ("idle", "local", "over_limit")
#: What is still to come of a state, for those who wait.
_MEANINGS = {
    "waiting": "waits for its turn",
    "uploading": "is being sent",
    "queued": "is queued at the service",
    "pinning": "is being fetched by the service",
    "pinned": "is there, as the service says; no block was fetched back yet",
    "verified": "is there: a block was fetched back",
    "failed": "failed and is tried again",
    "refused": "was refused",
    "removing": "is being removed",
    "removed": "was removed",
}
#: Of what was there, and of which the service could not say now whether it still is.
_WAS_THERE = "was there on {day}, when a block was last fetched back; whether it still is could not be seen now"


def pin(
    uri: str, service: str | Sequence[str] | None = None, *, wait: Wait = None, timeout: float | None = None
) -> PinTable:
    """Have pinning services keep a file or directory that is on this machine.

    However often it is asked for, a service is asked to keep it once. One that had it is asked whether it still has.

    Args:
        uri: of something that was stored or loaded here. With a path, only what the path leads to is pinned.
        service: the name of a service, or several; the default ones (or the only one) where none is named.
        wait: "pinned" to wait until each says that it has all of it, "verified" until a block came back from each.
        timeout: seconds to wait at most; without it there is no end to waiting.

    Returns:
        The rows of `pins` for it.

    Raises:
        ContentNotFound: it is not on this machine.
        ConfigError: no such service, or no token for it.
        PinTooLarge: more than may be sent there. With `wait`, also what `wait_pinned` raises.

    Example:
        >>> kcl.pin("ipfs://bafy...", "filebase", wait="verified")
    """
    config = load_config()
    plan, cid = record_pin(config, uri, True if service is None else service, timeout, wait)
    _tell_node(config)
    return as_dicts(plan.wait_for(config, cid) if plan.wait else rows(config, cid, plan.names))


def unpin(uri: str, service: str | Sequence[str] | None = None) -> PinTable:
    """Have pinning services no longer keep a file or directory. What is on this machine stays.

    Carried out by the node, like `pin`. Others who pinned the same thing there keep it, unless they use the same token.

    Args:
        uri: as for `pin`.
        service: the name of a service, or several; all that were asked to keep it where none is named.

    Returns:
        The rows of `pins` for it.

    Raises:
        ContentNotFound: it was not pinned from here, or not there.
    """
    config = load_config()
    found = record_unpin(config, uri, service)
    _tell_node(config)
    return as_dicts(found)


def pins(uri: str | None = None, *, removed: bool = False) -> PinTable:
    """What is to be pinned, and how far that is. Uses no network.

    Args:
        uri: only this file or directory.
        removed: also what was unpinned in the last days.

    Returns:
        A `PinRow` for each file or directory and each service, oldest first. The list shows itself as a table in
        notebooks, and has `to_dataframe()`.

    Raises:
        ContentNotFound: a directory on the way to `uri` is not on this machine.

    Example:
        >>> [(each.uri, each.state) for each in kcl.pins()]
        [('ipfs://bafy...', 'verified')]
    """
    check_flags(removed=removed)
    config = load_config()
    if uri is not None:
        return as_dicts(rows(config, _cid_of(config, uri), removed=removed))
    return as_dicts(all_rows(config, removed=removed))


def wait_pinned(
    uri: str,
    timeout: float | None = None,
    *,
    service: str | Sequence[str] | None = None,
    until: Literal["pinned", "verified"] = "pinned",
) -> PinTable:
    """Wait until services have a file or directory that they were asked to pin. Starts the node where none runs.

    Args:
        uri: as for `pin`.
        timeout: seconds to wait at most; without it there is no end to waiting.
        service: the services to wait for; all that were asked where none is named.
        until: "pinned", when they say that they have it, or "verified", when a block came back from each of them.

    Returns:
        The rows of `pins` for it.

    Raises:
        ContentNotFound: it was not pinned from here, or not there.
        PinningError: a service refused it, or the time is over; says why, and what to do.
    """
    config = load_config()
    if not _is_wait(until):
        raise ConfigError(f"until is {shown(until)}; it must be 'pinned' or 'verified'.")
    cid, names = awaited(config, uri, service)
    if until == "verified":
        doubt(config, cid, names)
    return as_dicts(wait_for(config, cid, names, until, seconds(timeout)))


# --- the same, without a node ----------------------------------------------------------------------------------------


def record_pin(config: Config, uri: str, pin: Pin, timeout: float | None, wait: Wait = None) -> tuple[Plan, CID]:
    """Write down that something which is here is to be pinned; the plan, and the CID."""
    plan = make_plan(config, pin, wait, timeout)
    parsed = parse_listed(uri)
    try:
        cid = resolve_local(repository(config), parsed)
        size = _size_here(config, cid)
    except BlockNotLocal as error:
        check_lost(repository(config), parsed, error.cid)
        raise ContentNotFound(
            f"{parsed.locator} is not on this machine, so it cannot be pinned from here. Load it first "
            "(kachery-cloud-load)."
        ) from None
    plan.check(config, size, parsed.locator)
    if plan.services:
        from kachery_cloud.encryption.leaving import to_pin

        cid, given, name = to_pin(config, cid, size, parsed.name)
        plan.record(config, cid, given, name)
    return plan, cid


def record_unpin(config: Config, uri: str, service: str | Sequence[str] | None) -> list[PinEntry]:
    """Write down that something is no longer to be pinned; the rows."""
    cid, names = awaited(config, uri, service)
    for name in names:
        outbox(config).remove(cid, name)
    return rows(config, cid, names, removed=True)


def awaited(config: Config, uri: str, service: str | Sequence[str] | None) -> tuple[CID, list[str]]:
    """The CID of a URI, and the services that were asked to keep it, or those of them that are meant.

    Raises:
        ContentNotFound: it was not pinned from here, or not there.
    """
    cid = _cid_of(config, uri)
    found = [row.service for row in rows(config, cid)]
    wanted = found if service is None else text_list(service, "service")
    missing = [name for name in wanted if name not in found]
    if missing or not found:
        where = f" at {', '.join(missing)}" if missing else ""
        raise ContentNotFound(
            f"{without_key(uri)} is not pinned{where}, nor on its way there, from this data directory. "
            "kachery-cloud-pins lists what is."
        )
    return cid, wanted


def doubt(config: Config, cid: CID, names: Sequence[str]) -> None:
    """Have services that say they have a root asked once more, and a block fetched back. See `PinOutbox.doubt`."""
    for name in names:
        outbox(config).doubt(cid, name)


def wait_for(
    config: Config, cid: CID, names: Sequence[str], until: Literal["pinned", "verified"], timeout: float | None
) -> list[PinEntry]:
    """Wait until these services have a root; see `wait_pinned`."""
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import WaitPinnedRequest

    _raise_if_hopeless(rows(config, cid, names))
    connection = get_connection(config)
    unknown = unknown_to_node(connection.status(), names)
    if unknown is not None:
        raise PinningError(unknown)
    connection.wait_pinned(WaitPinnedRequest(cid, until == "verified", tuple(names), timeout))
    found = rows(config, cid, names)
    _raise_if_hopeless(found)
    if len(found) < len(names):
        raise PinningError(f"ipfs://{cid} was removed from what is to be pinned while it was waited for.")
    left = [row for row in found if row.state != "verified" and (until == "verified" or not row.claimed)]
    if left:
        raise PinningError(
            f"Not done within {timeout or 0:g} s: {'; '.join(on_their_way(left))}. It goes on while a node runs here."
        )
    return found


def on_their_way(rows: Sequence[PinEntry]) -> list[str]:
    """A sentence for each row that is not as far as was waited for, for a terminal."""
    lines = []
    for row in rows:
        why = f" ({row.last_error})" if row.last_error else ""
        meaning = _MEANINGS.get(row.state, row.state)
        if row.state == "pinned" and row.verified is not None:
            meaning = _WAS_THERE.format(day=time.strftime("%Y-%m-%d", time.localtime(row.verified)))
        lines.append(printable(f"{row.service}: ipfs://{row.cid} {meaning}{why}"))
    return lines


def sending(config: Config) -> dict[str, Sending]:
    """The uploads that the running node is making, by CID."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.status_messages import STATUS

    try:
        services = ask_running_node(config, STATUS).node.pinning.services
    except NodeError:
        return {}
    return {cid: each for service in services.values() for cid, each in service.sending.items()}


def unknown_to_node(status: RunningNode, names: Sequence[str]) -> str | None:
    """What to say where the node that runs does not know one of these services; None where it knows all."""
    unknown = [name for name in names if name not in status.node.pinning.services]
    if not unknown:
        return None
    from kachery_cloud.node.reloading import HOW_TO_RELOAD

    return (
        f"The node that runs here (process {status.pid}) does not know the pinning service {unknown[0]}, or has no "
        f"token for it. {HOW_TO_RELOAD} What is to be pinned is written down."
    )


def _raise_if_hopeless(found: Sequence[PinEntry]) -> None:
    """Raise `PinningError` where nothing more happens without the user."""
    stuck = [row for row in found if row.state == "refused" or (row.problem in HOPELESS and not row.claimed)]
    if stuck:
        raise PinningError(" ".join(dict.fromkeys(row.last_error for row in stuck)))


def _tell_node(config: Config) -> None:
    """Have the node look at the outbox, and start it where none runs; without waiting for it."""
    from kachery_cloud.node.connection import get_connection

    get_connection(config).notify_pins_changed()


def wake_node(config: Config) -> None:
    """Have the node that runs look at the outbox now, and ask again those services that refused something."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.messages import WAKE_PINS

    with contextlib.suppress(NodeError):  # none runs
        ask_running_node(config, WAKE_PINS)


# --- for storing -----------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What a store is to do about pinning: decided before anything is stored, so that mistakes are told at once."""

    services: Sequence[PinSetting] = ()
    explicit: bool = False
    wait: Wait = None
    timeout: float | None = None
    place: Place | None = None

    @property
    def names(self) -> list[str]:
        return [service.name for service in self.services]

    @property
    def most(self) -> int | None:
        """The smallest limit of the services that were named; None without any."""
        limits = [service.max_bytes for service in self.services if service.max_bytes is not None]
        return min(limits) if self.explicit and limits else None

    def check(self, config: Config, size: int | None, what: str) -> None:
        """Raise `PinTooLarge` for what was to be pinned by name and is more than may be sent there."""
        for service in self.services if self.explicit else ():
            to_service(config, service, token="").check_size(size, what)

    def record(self, config: Config, cid: CID, size: int | None, name: str) -> list[str]:
        """Write down what is to be pinned. It is on the disk when this returns, and where is what it returns.

        What is too large for a default service is not sent there, and a warning says so: it is stored all the same.
        """
        recorded = []
        for service in self.services:
            try:
                to_service(config, service, token="").check_size(size, f"ipfs://{cid}")
            except PinTooLarge as error:
                if self.explicit:
                    raise
                warnings.warn(f"Stored, but not pinned: {error}", RuntimeWarning, stacklevel=4)
                continue
            outbox(config).add(cid, service.name, name, self._meta(service.name, name), size=size)
            recorded.append(service.name)
        return recorded

    def _meta(self, service: str, name: str) -> dict[str, str] | None:
        """What the lab's node is told of a project."""
        if self.place is None or service != self.place.service:
            return None
        return {"project": self.place.project.id, "label": name}

    def wait_for(self, config: Config, cid: CID) -> list[PinEntry]:
        """Wait as the plan says; see `wait_for`."""
        from kachery_cloud.encryption.leaving import pinned_root

        cid = pinned_root(config, cid)
        names = [name for name in self.names if outbox(config).get(cid, name) is not None]
        if self.wait == "verified":
            doubt(config, cid, names)
        return wait_for(config, cid, names, self.wait or "pinned", self.timeout) if names else []


def place_of(config: Config, project: str | None, local: bool = False) -> Place | None:
    """Where something that is stored goes; None where it goes into no project. See `lab_client.place_for`."""
    if project is None and not config.project:
        return None
    from kachery_cloud.lab_client import place_for

    return place_for(config, project, local=local)


def make_plan(
    config: Config,
    pin: Pin,
    wait: Wait = None,
    timeout: float | None = None,
    local: bool = False,
    place: Place | None = None,
) -> Plan:
    """What `pin`, `wait`, `timeout` and `local` of a call mean, where what is stored goes into a project or not.

    Raises:
        ConfigError: they make no sense, or not together.
    """
    if pin is None and wait is None and place is None and not config.pin_services:
        return Plan()
    if wait is not None and not _is_wait(wait):
        raise ConfigError(f"wait is {shown(wait)}; it must be 'pinned', 'verified' or None.")
    services = services_for(config, pin)
    if place is not None:
        if pin is False:
            raise ConfigError("What goes into a project is pinned at the lab's node, so it cannot be pinned nowhere.")
        if place.service not in [each.name for each in services]:
            services = [*services, *services_for(config, place.service)]
    if wait is not None and local:
        raise ConfigError("With local=True no network is used, so there is no waiting for a pinning service.")
    if wait is not None and not services:
        raise ConfigError(
            f"wait={wait!r} needs a pinning service. Name one (pin='filebase'), or set one up as the default: "
            "kachery-cloud-pins service add filebase --default"
        )
    for service in services:
        to_service(config, service, token="")
    return Plan(services, pin is not None, wait, seconds(timeout), place)


def _is_wait(value: object) -> bool:
    """Whether this is a word for how far to wait; arrays and tables cannot be compared with one."""
    return isinstance(value, str) and value in WAITS


def record_stored(config: Config, plan: Plan, stored: Stored, name: str) -> list[str]:
    """Write down where something that was stored is to be pinned; the names of these services."""
    if not plan.services:
        return []
    from kachery_cloud.encryption.leaving import as_it_is, to_pin

    # The lab's node, where it is a member of the group that it is for, fetches it as every member does.
    direct = [each for each in plan.services if as_it_is(config, plan.place, stored.cid, each.name)]
    others = [each for each in plan.services if each not in direct]
    recorded = plan._replace(services=direct).record(config, stored.cid, stored.size, name)
    if others:
        recorded += plan._replace(services=others).record(config, *to_pin(config, stored.cid, stored.size, name))
    return recorded


# --- rows ----------------------------------------------------------------------------------------------------------


def rows(config: Config, cid: CID, names: Sequence[str] | None = None, *, removed: bool = False) -> list[PinEntry]:
    """The rows of `pins` for one root, at these services."""
    box = outbox(config)
    if names is None:
        names = sorted({entry.service for entry in box.list(removed=removed)})
    found = [entry for name in names if (entry := box.get(cid, name)) is not None]
    return _explained(config, [entry for entry in found if removed or entry.state != "removed"])


def all_rows(config: Config, *, removed: bool = False) -> list[PinEntry]:
    """The rows of `pins`; on request also those that were removed."""
    return _explained(config, outbox(config).list(removed=removed))


def as_dicts(found: Iterable[PinEntry]) -> PinTable:
    """Rows as `pins` returns them."""
    from kachery_cloud.pin_rows import PinRow, PinTable

    return PinTable(PinRow(uri=format_uri(entry.cid), **entry.as_json()) for entry in found)


def _explained(config: Config, entries: Sequence[PinEntry]) -> list[PinEntry]:
    """Entries, each with why nothing happens to it, where the settings are the reason."""
    from kachery_p2p.repo.swarm_key import SWARM_KEY_NAME

    settings = services_by_name(config)
    private = (config.directory / SWARM_KEY_NAME).exists()
    idle: dict[str, str | None] = {}
    found = []
    for entry in entries:
        if entry.service not in idle:
            setting = settings.get(entry.service)
            idle[entry.service] = (
                f"There is no pinning service {entry.service!r} in the settings any more. Add it again, or remove this "
                "(kachery-cloud-pins service add, kachery-cloud-pins remove)."
                if setting is None
                else why_idle(config, setting, private)
            )
        why = idle[entry.service]
        if why and (entry.on_its_way or entry.state == "refused"):
            entry = replace(entry, problem="idle", last_error=why)
        found.append(entry)
    return found


def _cid_of(config: Config, uri: str) -> CID:
    """The CID that a URI leads to."""
    from kachery_cloud.encryption.leaving import pinned_root

    try:
        return pinned_root(config, resolve_local(repository(config), parse_listed(uri)))
    except BlockNotLocal:
        raise ContentNotFound(
            f"{without_key(uri)} is not on this machine; name it by its own URI (ipfs://<cid>)."
        ) from None


def _size_here(config: Config, cid: CID) -> int:
    """Bytes of a file that is here, or of all blocks of a directory.

    Raises:
        BlockNotLocal: it is not here.
    """
    repo = repository(config)
    size = local_size(repo, cid)
    if size is not None:
        return size
    block = repo.get_block(cid.multihash) if is_local_directory(repo, cid) else None
    if block is None:
        raise BlockNotLocal(cid)
    from kachery_p2p.dag.pb import decode_node

    return len(block) + sum(link.tsize or 0 for link in decode_node(block).links)


def seconds(timeout: float | None) -> float | None:
    """A timeout that was given, or None.

    Raises:
        ConfigError: it is no time that can be waited for.
    """
    return None if timeout is None else parse_timeout(timeout, "timeout")
