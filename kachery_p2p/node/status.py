"""How a node finds others and is found, put together from what its parts say of themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kachery_p2p.json_shapes import from_json
from kachery_p2p.node.status_messages import (
    DiscoveryStatus,
    ExplainedAddress,
    FindStatus,
    PastError,
    ProvidingStatus,
    PunchesStatus,
    ReachabilityStatus,
    RelayStatus,
    SourceStatus,
    TargetStatus,
)
from kachery_p2p.repo.swarm_key import fingerprint

if TYPE_CHECKING:
    from kachery_p2p.node.discovery import Finding


def discovery_status(finding: Finding) -> DiscoveryStatus:
    """What each part does and what went wrong lately."""
    now = time.time()
    reach = finding.reachability.status()
    routed = finding.router.status()
    serving = finding.relay_service.status() if finding.relay_service else None
    addresses = [(each["told"], ExplainedAddress(each["address"], each["reason"])) for each in reach["addresses"]]
    return DiscoveryStatus(
        private_network=finding.swarm_key is not None,
        swarm_key_fingerprint=None if finding.swarm_key is None else fingerprint(finding.swarm_key),
        reachability=ReachabilityStatus(reach["state"], reach["why"], reach["port_mapping"]),
        announced=tuple(address for told, address in addresses if told),
        not_announced=tuple(address for told, address in addresses if not told),
        relay=from_json(RelayStatus, {**finding.relays.status(), "serving": serving}),
        hole_punches=from_json(PunchesStatus, finding.hole_punch.status()),
        sources=_sources(finding, routed["sources"]),
        providing=_providing(finding),
        finds=tuple(
            FindStatus(each["cid"], each["source"], each["peer"], each["seconds"], now - each["at"])
            for each in routed["recent"]
        ),
        errors=tuple(PastError(now - at, what) for at, what in finding.errors),
    )


def _sources(finding: Finding, asked: dict[str, dict[str, object]]) -> dict[str, SourceStatus]:
    sources: dict[str, SourceStatus] = {}
    for name, part in (
        ("mdns", finding.mdns),
        ("lan-dht", finding.lan_dht),
        ("dht", finding.dht),
        ("delegated", finding.delegated),
        ("known", finding.known),
    ):
        if part is not None:
            sources[name] = SourceStatus(True, figures={**asked.get(name, {}), **part.status()})
        elif name == "delegated" and finding.swarm_key is not None:
            sources[name] = SourceStatus(False, "this is a private network")
        else:
            sources[name] = SourceStatus(False, "it is switched off in the settings")
    return sources


def _providing(finding: Finding) -> ProvidingStatus:
    strategy = finding.options.provide
    if finding.announcer is None:
        return ProvidingStatus(strategy)
    found = finding.announcer.status()
    targets = {name: TargetStatus(**each) for name, each in found["targets"].items()}
    turns = [each.next_turn for each in targets.values() if each.next_turn is not None]
    # A target without a single peer, such as the LAN's DHT on a lonely machine, holds nothing up.
    ready = [each for each in targets.values() if each.ready] or list(targets.values())
    errors = [found["last_error"], *(each.last_error for each in ready)]
    return ProvidingStatus(
        strategy=strategy,
        keys=max(each.keys for each in targets.values()),
        announced=min(each.announced for each in ready),
        waiting=max(each.waiting for each in ready),
        overdue=max(each.overdue for each in ready),
        next_seconds=max(0.0, min(turns) - time.time()) if turns else None,
        last_error=next((each for each in errors if each), ""),
        targets=targets,
    )
