"""What the node says of itself, in words for people.

Addresses, names and messages come from strangers: no control character gets to the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kachery_cloud.answers import Running, SharedDirectory, Stopped, Visible
from kachery_cloud.commands.pins_text import summary_phrase
from kachery_cloud.inventory_tables import size_text
from kachery_cloud.privacy import AnnouncedTo, audience, running_audience, sentence
from kachery_p2p.json_shapes import to_json
from kachery_p2p.node.status_messages import (
    ConnectedPeer,
    ExplainedAddress,
    FindStatus,
    GatewayStatus,
    PinningStatus,
    ProvidingStatus,
    PunchesStatus,
    ReachabilityStatus,
    RelayStatus,
    ServiceStatus,
    SourceStatus,
    TargetStatus,
)
from kachery_p2p.text import printable

#: Lines of one kind that are shown without --verbose: a screen has room for so many.
MOST_LINES = 8
#: Values within values are shown to this depth; a node gives two.
_MOST_DEPTH = 4
#: Width of the names on the left.
_INDENT = 17

_SOURCES = {
    "hint": "the URI",
    "connected": "an open connection",
    "known": "the known peers",
    "mdns": "mDNS",
    "lan-dht": "the LAN DHT",
    "dht": "the DHT",
    "delegated": "a delegated router",
    "group": "the members of a group",
}
_STATES = {"public": "yes", "private": "no", "unknown": "not known yet"}
_STRATEGIES = {"roots": "the roots of what is stored or loaded", "all": "all blocks", "off": "nothing"}

_Part = tuple[str, Sequence[str]]


def status_lines(found: Running | Stopped, *, verbose: bool = False) -> list[str]:
    """The lines of `kachery-cloud-status`.

    Args:
        found: what `kachery_cloud.upkeep.find_status` returned.
        verbose: all peers and addresses instead of the first few, and every figure that the node gave.
    """
    parts = _running(found, verbose) if isinstance(found, Running) else _stopped(found)
    return [line for name, values in parts for line in _block(name, values, verbose)]


# --- a node that runs ------------------------------------------------------------------------------------------------


def _running(status: Running, verbose: bool) -> Iterator[_Part]:
    process, node = status.found, status.found.node
    found = node.discovery
    yield "Node", [printable(f"running (process {process.pid}), for {process.directory}")]
    yield "Shared", _shared(status.shared)
    yield "Peer ID", [printable(node.peer_id)]
    yield "Private network", _private(found.private_network, found.swarm_key_fingerprint)
    yield "Reachable", _reachable(found.reachability)
    yield "Addresses", _addresses(found.announced) or _texts(node.addresses)
    if verbose:
        yield "Not told", _addresses(found.not_announced)
    yield "Gateway", _texts([process.gateway.url] if process.gateway else [])
    yield "Lab at", _texts([process.lab] if process.lab else [])
    yield "Pinned here at", _texts([process.pinning_service] if process.pinning_service else [])
    yield "Follows", [_because(url, each.problem) for url, each in (process.follows or {}).items()]
    yield "Relays", _relays(found.relay)
    yield "Hole punches", _punches(found.hole_punches, verbose)
    yield "Connections", _peers(node.connected, verbose)
    yield "Not reached", [_because(addr, why) for addr, why in node.unreachable_peers.items()]
    yield "Finds data by", [_source_line(name, state, verbose) for name, state in found.sources.items()]
    yield "Gateways", [_gateway(name, state, verbose) for name, state in node.gateways.items()]
    yield "Announces", _providing(found.providing)
    yield "Privacy", [sentence(running_audience(found)), *apart_lines(status.visible)]
    yield "Groups", _groups(status.visible)
    yield "Pins", _pins(node.pinning)
    yield "Found lately", [_find(each) for each in found.finds]
    if verbose:
        yield "Counters", _figures(to_json(node.traffic))
    yield "Last errors", [printable(f"{_duration(each.ago)} ago: {each.what}") for each in found.errors]
    yield "Warnings", _texts(status.warnings)


def apart_lines(visible: Visible | None) -> list[str]:
    """What is not for everybody, in a sentence; none where there is no such thing."""
    if visible is None or not visible.restricted:
        return []
    number = "One file or folder is" if visible.restricted == 1 else f"{visible.restricted:,} files and folders are"
    return [f"{number} not for everybody, and announced and given only to those for whom: kachery-cloud audit"]


def _groups(visible: Visible | None) -> list[str]:
    """The groups that this machine is in, or was removed from."""
    lines: list[str] = []
    for each in () if visible is None else visible.groups:
        if each.role == "removed":
            what = f"an owner has removed this machine; to forget it: kachery-cloud-group leave {each.name}"
        else:
            what = f"{each.role}, {_count(each.members, 'member')}"
        lines.append(printable(f"{each.name}: {what}; {_count(each.roots, 'root')} here"))
    return lines


def _shared(directories: Sequence[SharedDirectory]) -> list[str]:
    """The data directories of others that are read beneath one's own."""
    return [
        printable(each.problem)
        if each.files is None
        else printable(f"{each.directory}: {_count(each.files, 'file')}, {size_text(each.bytes)}, only read")
        for each in directories
    ]


def _private(private: bool, fingerprint: str | None) -> list[str]:
    if not private:
        return ["no"]
    return [printable(f"yes{f' (key {fingerprint})' if fingerprint else ''}: only holders of the key are spoken to")]


def _reachable(reachability: ReachabilityStatus) -> list[str]:
    lines = [_because(_STATES.get(reachability.state, reachability.state), reachability.why)]
    if reachability.port_mapping:
        lines.append(printable(f"port mapping: {reachability.port_mapping}"))
    return lines


def _addresses(values: Sequence[ExplainedAddress]) -> list[str]:
    """Addresses, each with the reason why it is told to others, or is not."""
    return [_because(each.addr, each.why) for each in values]


def _relays(relay: RelayStatus) -> list[str]:
    lines = [
        printable(f"reached through {each.relay}, for another {_duration(each.expires_in)}") for each in relay.relays
    ]
    lines += [_because(f"no place at {peer}", why) for peer, why in relay.failures.items()]
    serving = {} if relay.serving is None else to_json(relay.serving)
    if any(serving.values()):
        lines.append("relaying for others: " + ", ".join(_figures(serving)))
    return lines


def _punches(punches: PunchesStatus, verbose: bool) -> list[str]:
    """How often a direct connection came of one through a relay; of the last ones, with whom."""
    if not punches.succeeded and not punches.failed:
        return ["none tried"]
    last = [_because(each.peer, each.why) for each in punches.last]
    return [f"succeeded {punches.succeeded:,}, failed {punches.failed:,}", *(last if verbose else [])]


def _peers(connected: Sequence[ConnectedPeer], verbose: bool) -> list[str]:
    inbound = sum(each.direction == "in" for each in connected)
    lines = [f"{len(connected):,} ({len(connected) - inbound:,} made by this machine, {inbound:,} by others)"]
    if verbose:
        lines += [
            printable(f"{'from' if each.direction == 'in' else 'to'} {each.peer} at {each.addr}") for each in connected
        ]
    return lines


def _source_line(name: str, source: SourceStatus, verbose: bool) -> str:
    if not source.on:
        return printable(f"{name}: off" + (f" ({source.why})" if source.why else ""))
    # Each source has figures of its own; these are common.
    mode, peers, error = (source.figures.get(key) for key in ("mode", "peers", "last_error"))
    words = ["on"]
    if isinstance(mode, str):
        words.append(mode)
    if isinstance(peers, (int, list)):
        words.append(_count(peers if isinstance(peers, int) else len(peers), "peer"))
    line = "; ".join([", ".join(words), *_last_error(error.get("text") if isinstance(error, Mapping) else error)])
    if verbose:
        rest = {key: value for key, value in source.figures.items() if key not in ("mode", "peers", "last_error")}
        line = "; ".join([line, *_figures(rest)])
    return printable(f"{name}: {line}")


def _providing(providing: ProvidingStatus) -> list[str]:
    strategy, targets = providing.strategy, providing.targets or {}
    if strategy == "off":
        return ["nothing (setting `provide`)"]
    first = _STRATEGIES.get(strategy, strategy)
    if not targets:  # the sum of several networks says little
        first += ": " + _progress(providing, providing.next_seconds)
    lines = ["; ".join([first, *_last_error(providing.last_error)])]
    for name, target in targets.items():
        left = None if target.next_turn is None else target.next_turn - time.time()
        words = "; ".join([_progress(target, left), *_last_error(target.last_error)])
        lines.append(f"in {source_text(name)}: {words}")
    return [printable(line) for line in lines]


def _progress(done: ProvidingStatus | TargetStatus, left: float | None) -> str:
    """How much of it is announced, and in how many seconds it goes on."""
    words = [_count(done.keys, "CID"), f"{done.announced:,} announced", f"{done.waiting:,} waiting"]
    if done.overdue is not None:
        words.append(f"{done.overdue:,} overdue")
    if left is not None:
        words.append(f"goes on in {_duration(left)}")
    return ", ".join(words)


def _last_error(error: object) -> list[str]:
    return [f"last error: {error}"] if error else []


def _find(find: FindStatus) -> str:
    words = f"{find.cid} at {find.peer} by {source_text(find.source)} in {seconds_text(find.seconds)}"
    return printable(f"{_duration(find.ago)} ago: {words}")


def _pins(pinning: PinningStatus) -> list[str]:
    """What pinning services are to keep, for each service that has anything to do or is in trouble."""
    lines = []
    for name in dict.fromkeys([*pinning.services, *pinning.counts]):
        service = pinning.services.get(name)
        summary = summary_phrase(pinning.counts.get(name, {}))
        trouble = _trouble(service)
        if service is None and summary:
            trouble = "not used by this node; see kachery-cloud-pins service list"
        lines.append(printable(f"{name}: {summary or 'nothing'}" + (f"; {trouble}" if trouble else "")))
    return [*lines, *_texts([pinning.error])]


def _trouble(service: ServiceStatus | None) -> str:
    return service.last_error if service is not None and service.problem else ""


# --- no node ---------------------------------------------------------------------------------------------------------


def _stopped(found: Stopped) -> Iterator[_Part]:
    settings = found.settings
    if found.elsewhere is not None:
        yield "Node", [printable(found.elsewhere.what)]
    else:
        yield "Node", ["none is running here; start one with: kachery-cloud-node"]
    yield "Directory", [printable(found.directory)]
    yield "Shared", _shared(found.shared)
    yield "Peer ID", [printable(found.peer_id or "made at the first start")]
    yield "Private network", _private(found.private_network, found.swarm_key_fingerprint)
    yield "Would listen on", _texts(settings["listen"])
    yield "Would keep to", _texts(settings["peers"])
    for name, wanted in (("Finds data by", True), ("Does not use", False)):
        words = [key for key, on in settings["sources"].items() if on is wanted]
        yield name, [printable(", ".join(words))] if words else []
    strategy = str(settings["provide"])
    yield "Announces", [printable(_STRATEGIES.get(strategy, strategy))]
    yield "Privacy", [sentence(_audience_of(found)), *apart_lines(found.visible)]
    yield "Groups", _groups(found.visible)
    yield "Pins", [printable(f"{name}: {summary_phrase(each)}") for name, each in found.pinning.counts.items()]
    yield "Last errors", [printable(each.what) for each in found.errors]
    yield "Warnings", _texts(found.warnings)


def _audience_of(found: Stopped) -> AnnouncedTo:
    sources = found.settings["sources"]
    return audience(
        public_dht=sources["dht"],
        lan_dht=sources["lan-dht"],
        mdns=sources["mdns"],
        provides=found.settings["provide"] != "off",
        private_network=found.private_network,
    )


# --- words -----------------------------------------------------------------------------------------------------------


def _block(name: str, values: Sequence[str], verbose: bool) -> list[str]:
    """A name on the left, its lines on the right; nothing where there are none."""
    shown = list(values) if verbose or len(values) <= MOST_LINES else list(values[: MOST_LINES - 1])
    if len(shown) < len(values):
        shown.append(f"... and {len(values) - len(shown):,} more (--verbose)")
    names = [f"{name}:"] + [""] * len(shown)
    return [f"{left:<{_INDENT}} {right}" for left, right in zip(names, shown, strict=False)]


def _because(what: str, why: str) -> str:
    return printable(f"{what}: {why}" if why else what)


def _texts(values: Sequence[str]) -> list[str]:
    return [printable(each) for each in values if each]


def _figures(values: Mapping[str, Any], depth: int = 0) -> list[str]:
    """`name value` for each that says something; what lies within is named after what it lies in."""
    lines: list[str] = []
    for key, value in values.items():
        name = str(key).replace("_", " ")
        if value is None or value in ("", [], {}) or depth > _MOST_DEPTH:
            continue
        if isinstance(value, dict):
            lines += [f"{name} {line}".strip() for line in _figures(value, depth + 1)]
        elif isinstance(value, list):
            lines += [f"{name} {line}".strip() for each in value for line in _figures({"": each}, depth + 1)]
        else:
            lines.append(printable(f"{name} {_plain(value)}".strip()))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    # Ports and years are numbers, too; only larger ones need commas.
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 100_000 else str(value)


def _gateway(name: str, state: GatewayStatus, verbose: bool) -> str:
    words = [_count(state.blocks, "block")]
    if state.dropped:
        words.append(f"not used any more: {state.dropped}")
    elif state.resting > 0:
        words.append(f"left alone for {seconds_text(state.resting)}: {state.last_error}")
    elif verbose and state.last_error:
        words.append(state.last_error)
    return printable(f"{name.removeprefix('gateway:')} ({'; '.join(words)})")


def source_text(name: str) -> str:
    """What names peers, in a sentence."""
    return _SOURCES.get(name, name)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def seconds_text(seconds: float) -> str:
    """A short time: `0.03 s`, `12 s`, `3 min`."""
    return f"{seconds:.2f} s" if seconds < 10 else _duration(seconds)


def _duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
