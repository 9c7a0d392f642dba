"""The table of checks, and running it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import trio

from kachery_cloud.doctor.databases import check_databases, check_linked
from kachery_cloud.doctor.directory import check_directory, check_disk, check_file_system, check_key
from kachery_cloud.doctor.facts import Facts
from kachery_cloud.doctor.findings import Outcome, Report
from kachery_cloud.doctor.listeners import check_certificate, check_ports
from kachery_cloud.doctor.machine import check_files, check_python
from kachery_cloud.doctor.network import check_bootstrap, check_multicast, check_peers, check_relays, check_route
from kachery_cloud.doctor.node import check_announced, check_followed, check_node, check_reachable, check_sources
from kachery_cloud.doctor.services import check_clock, check_services
from kachery_cloud.doctor.settings import check_settings

log = logging.getLogger("kachery_cloud.doctor")

#: A check that blocks is run in a thread; one that is a coroutine function, among the others.
Work = Callable[[Facts], Report] | Callable[[Facts], Awaitable[Report]]


@dataclass(frozen=True)
class Check:
    """One of the table.

    Attributes:
        name: for programs.
        title: for people.
        work: carries it out.
        seconds: after which it is left.
    """

    name: str
    title: str
    work: Work
    seconds: float = 30.0


CHECKS: tuple[Check, ...] = (
    Check("settings", "Settings", check_settings),
    Check("python", "Python", check_python),
    Check("files", "Open files", check_files),
    Check("clock", "Clock", check_clock),
    Check("directory", "Data directory", check_directory),
    Check("disk", "Disk", check_disk),
    Check("file-system", "File system", check_file_system),
    Check("key", "Key", check_key),
    Check("databases", "Databases", check_databases, 60.0),
    Check("linked", "Linked files", check_linked, 60.0),
    Check("node", "Node", check_node),
    Check("ports", "Ports", check_ports),
    Check("certificate", "Certificate", check_certificate),
    Check("route", "Network", check_route),
    Check("multicast", "Multicast", check_multicast),
    Check("peers", "Peers", check_peers, 60.0),
    Check("relays", "Relays", check_relays, 60.0),
    Check("bootstrap", "Ways into the DHT", check_bootstrap, 60.0),
    Check("reachable", "From outside", check_reachable),
    Check("sources", "Finding others", check_sources),
    Check("announced", "Announcements", check_announced),
    Check("followed", "Followed nodes", check_followed),
    Check("services", "Services", check_services, 60.0),
)


async def examine(facts: Facts, checks: Sequence[Check] = CHECKS) -> list[Outcome]:
    """Carry out all checks, side by side; their outcomes in the order of the table."""
    outcomes: dict[str, Outcome] = {}

    async def one(check: Check) -> None:
        outcomes[check.name] = await carry_out(check, facts)

    async with trio.open_nursery() as nursery:
        for check in checks:
            nursery.start_soon(one, check)
    return [outcomes[check.name] for check in checks]


async def carry_out(check: Check, facts: Facts) -> Outcome:
    """Carry out one check, within its time. Whatever goes wrong in it is its outcome."""
    with trio.move_on_after(check.seconds):
        try:
            if inspect.iscoroutinefunction(check.work):
                report = await cast("Callable[[Facts], Awaitable[Report]]", check.work)(facts)
            else:
                # Left behind where it hangs, as on a network file system whose server is gone.
                work = cast("Callable[[Facts], Report]", check.work)
                report = await trio.to_thread.run_sync(work, facts, abandon_on_cancel=True)
        except Exception as error:
            # One check that fails, on a machine that may be broken in any way, must not keep the others from speaking.
            log.debug("the check %s failed", check.name, exc_info=True)
            return Outcome(check.name, check.title, failed=_words(error))
        return Outcome(check.name, check.title, report)
    return Outcome(check.name, check.title, failed=f"it did not end within {check.seconds:g} seconds")


def _words(error: BaseException) -> str:
    inner: BaseException = error
    while (inside := getattr(inner, "exceptions", None)) and isinstance(inside, tuple):
        inner = inside[0]
    return f"{inner}".rstrip(".") or type(inner).__name__
