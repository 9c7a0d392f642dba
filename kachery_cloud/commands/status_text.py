"""What the node says of itself, and who has something, in words for people.

Both come as plain JSON values from a process that may be of another version, so whatever is missing, or is not of the
kind expected here, is left out; nothing is taken for granted. Addresses, names and messages come from strangers: no
control character gets to the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from kachery_cloud.commands.pins_text import summary_phrase
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
}
#: Sources that name peers to ask; the others name peers that are said to have it.
_TO_ASK = ("connected", "known", "mdns", "hint")
_STATES = {"public": "yes", "private": "no", "unknown": "not known yet"}
_STRATEGIES = {"roots": "the roots of what is stored or loaded", "all": "all blocks", "off": "nothing"}

_Part = tuple[str, Sequence[str]]


def status_lines(found: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines of `kachery-cloud-status`.

    Args:
        found: what `kachery_cloud.status()` returned.
        verbose: all peers and addresses instead of the first few, and every figure that the node gave.
    """
    parts = _running(found, verbose) if found.get("running") else _stopped(found)
    return [line for name, values in parts for line in _block(name, values, verbose)]


def whereis_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of `kachery-cloud-whereis` for rows of `kachery_cloud.whereis()`: each peer once, with its addresses.

    Peers that are not said to have it, by themselves or by others, are left out.
    """
    lines: list[str] = []
    peers: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("source") == "here":
            lines.append(printable(f"here: {row['path']}" if row.get("path") else "here"))
        elif row.get("has") is not False:
            peers.setdefault(str(row.get("peer") or "a peer without a name"), []).append(row)
    for peer, found in peers.items():
        if not any(may_have_it(row) for row in found):
            continue
        lines.append(printable(f"{peer}: {_who_has(found)}"))
        lines += [f"    {address}" for address in dict.fromkeys(a for row in found for a in _texts(row.get("addrs")))]
    return lines


def may_have_it(row: dict[str, Any]) -> bool:
    """Whether a peer answered that it has it, or could not be asked and others say so."""
    has = row.get("has")
    return has is True or (has is not False and row.get("source") not in _TO_ASK)


def _who_has(rows: Sequence[dict[str, Any]]) -> str:
    """What several sources say of one peer."""
    sure = any(row.get("has") is True for row in rows)
    ways = []
    for row in rows:
        after = f" after {_seconds(row['seconds'])}" if _is_number(row.get("seconds")) else ""
        ways.append(_source(row.get("source")) + after)
    far = "connected" if any(row.get("connected") for row in rows) else "not connected"
    trips = [row["round_trip_ms"] for row in rows if _is_number(row.get("round_trip_ms"))]
    if trips:
        far += f", {min(trips):.1f} ms away"
    words = ["has it" if sure else "is said to have it", f"found by {', '.join(ways)}", far]
    errors = [str(row["error"]) for row in rows if row.get("error")]
    if errors and not sure:
        words.append(f"could not be asked: {errors[0]}")
    return "; ".join(words)


# --- a node that runs ------------------------------------------------------------------------------------------------


def _running(found: dict[str, Any], verbose: bool) -> Iterator[_Part]:
    process = f" (process {found['pid']})" if found.get("pid") else ""
    yield "Node", [printable(f"running{process}, for {found.get('directory') or 'this directory'}")]
    yield "Peer ID", _texts([found.get("peer_id")])
    yield "Private network", _private(found)
    yield "Reachable", _reachable(_dict(found.get("reachability")), verbose)
    yield "Addresses", _addresses(found.get("announced")) or _texts(found.get("addresses"))
    if verbose:
        yield "Not told", _addresses(found.get("not_announced"))
    yield "Gateway", _texts([_dict(found.get("gateway")).get("url")])
    yield "Relays", _relays(_dict(found.get("relay")))
    yield "Hole punches", _punches(_dict(found.get("hole_punches")), verbose)
    yield "Connections", _peers(_dicts(found.get("connected")), verbose) if "connected" in found else []
    yield "Not reached", [_because(addr, why) for addr, why in _dict(found.get("unreachable_peers")).items()]
    yield "Finds data by", [_source_line(name, state, verbose) for name, state in _dict(found.get("sources")).items()]
    yield "Gateways", [_gateway(name, _dict(state), verbose) for name, state in _dict(found.get("gateways")).items()]
    yield "Announces", _providing(_dict(found.get("providing")))
    yield "Pins", _pins(_dict(found.get("pinning")))
    yield "Found lately", [_find(each) for each in _dicts(found.get("finds"))]
    if verbose:
        counters = {key: value for key, value in found.items() if _is_number(value) and key != "pid"}
        yield "Counters", _figures(counters)
    yield "Last errors", [_ago(each, str(each.get("what", "an error without a text"))) for each in _errors(found)]
    yield "Warnings", _texts(found.get("warnings"))


def _private(found: dict[str, Any]) -> list[str]:
    if not isinstance(found.get("private_network"), bool):
        return []
    if not found["private_network"]:
        return ["no"]
    name = found.get("swarm_key_fingerprint")
    return [printable(f"yes{f' (key {name})' if name else ''}: only holders of the key are spoken to")]


def _reachable(reachability: dict[str, Any], verbose: bool) -> list[str]:
    if not reachability:
        return []
    state = str(reachability.get("state", "unknown"))
    lines = [_because(_STATES.get(state, state), reachability.get("why"))]
    mapping = reachability.get("port_mapping")
    if mapping:
        lines.append(printable(f"port mapping: {', '.join(_figures({'': mapping}))}"))
    if verbose:
        lines += _figures({k: v for k, v in reachability.items() if k not in ("state", "why", "port_mapping")})
    return lines


def _addresses(values: Any) -> list[str]:
    """Addresses, each with the reason why it is told to others, or is not."""
    return [_because(each["addr"], each.get("why")) for each in _dicts(values) if "addr" in each]


def _relays(relay: dict[str, Any]) -> list[str]:
    lines = []
    for each in _dicts(relay.get("relays")) or _dicts(relay.get("reservations")):
        left = f", for another {_duration(each['expires_in'])}" if _is_number(each.get("expires_in")) else ""
        lines.append(printable(f"reached through {each.get('relay') or 'a relay'}{left}"))
    lines += [_because(f"no place at {peer}", why) for peer, why in _dict(relay.get("failures")).items()]
    serving = _dict(relay.get("serving"))
    if any(serving.values()):
        lines.append("relaying for others: " + ", ".join(_figures(serving)))
    return lines


def _punches(punches: dict[str, Any], verbose: bool) -> list[str]:
    """How often a direct connection came of one through a relay; of the last ones, with whom."""
    counts = {key: value for key, value in punches.items() if _is_number(value)}
    if not any(counts.values()):
        return ["none tried"] if counts else []
    last = [_because(each.get("peer", "a peer"), each.get("why")) for each in _dicts(punches.get("last"))]
    return [", ".join(_figures(counts)), *(last if verbose else [])]


def _peers(connected: list[dict[str, Any]], verbose: bool) -> list[str]:
    inbound = sum(each.get("direction") == "in" for each in connected)
    lines = [f"{len(connected):,} ({len(connected) - inbound:,} made by this machine, {inbound:,} by others)"]
    if verbose:
        lines += [
            printable(f"{'from' if each.get('direction') == 'in' else 'to'} {each.get('peer')} at {each.get('addr')}")
            for each in connected
        ]
    return lines


def _source_line(name: str, state: Any, verbose: bool) -> str:
    about = _dict(state)
    on = about.get("on", state is True)
    if not on:
        return printable(f"{name}: off" + (f" ({about['why']})" if about.get("why") else ""))
    words = ["on"]
    if isinstance(about.get("mode"), str):
        words.append(about["mode"])
    peers = about.get("peers")
    if isinstance(peers, (int, list)) and not isinstance(peers, bool):
        words.append(_count(peers if isinstance(peers, int) else len(peers), "peer"))
    line = "; ".join([", ".join(words), *_last_error(about)])
    if verbose:
        rest = {key: value for key, value in about.items() if key not in ("on", "why", "mode", "peers", "last_error")}
        line = "; ".join([line, *_figures(rest)])
    return printable(f"{name}: {line}")


def _providing(providing: dict[str, Any]) -> list[str]:
    if not providing:
        return []
    strategy = str(providing.get("strategy", "roots"))
    if strategy == "off":
        return ["nothing (setting `provide`)"]
    targets = _dict(providing.get("targets"))
    progress = "" if targets else ", ".join(_progress(providing))  # the sum of several networks says little
    first = ": ".join([_STRATEGIES.get(strategy, strategy), *([progress] if progress else [])])
    lines = ["; ".join([first, *_last_error(providing)])]
    for name, target in targets.items():
        about = ", ".join(_progress(_dict(target))) or "nothing yet"
        lines.append(f"in {_source(name)}: " + "; ".join([about, *_last_error(_dict(target))]))
    return [printable(line) for line in lines]


def _progress(done: dict[str, Any]) -> list[str]:
    """How much of it is announced, and when it goes on."""
    words = [_count(done["keys"], "CID")] if _is_number(done.get("keys")) else []
    words += [f"{done[key]:,} {key}" for key in ("announced", "waiting", "overdue") if _is_number(done.get(key))]
    seconds = done.get("next_seconds")
    if _is_number(done.get("next_turn")):  # the time of day, of a clock that both processes share
        seconds = done["next_turn"] - time.time()
    if seconds is not None and _is_number(seconds):
        words.append(f"goes on in {_duration(seconds)}")
    return words


def _last_error(about: dict[str, Any]) -> list[str]:
    error = about.get("last_error")
    if isinstance(error, dict):
        error = error.get("text")
    return [f"last error: {error}"] if error else []


def _find(find: dict[str, Any]) -> str:
    text = str(find.get("cid", "something"))
    if find.get("peer"):
        text += f" at {find['peer']}"
    text += f" by {_source(find.get('source'))}"
    if _is_number(find.get("seconds")):
        text += f" in {_seconds(find['seconds'])}"
    return _ago(find, text)


def _errors(found: dict[str, Any]) -> list[dict[str, Any]]:
    errors = found.get("errors")
    return [each if isinstance(each, dict) else {"what": each} for each in errors] if isinstance(errors, list) else []


def _pins(pinning: dict[str, Any]) -> list[str]:
    """What pinning services are to keep, for each service that has anything to do or is in trouble."""
    lines = []
    services = _dict(pinning.get("services"))
    counts = _dict(pinning.get("counts"))
    for name in dict.fromkeys([*services, *counts]):
        service = _dict(services.get(name))
        states = {state: count for state, count in _dict(counts.get(name)).items() if _is_number(count)}
        summary = summary_phrase(states) or "nothing"
        trouble = service.get("last_error") if service.get("problem") else None
        if name not in services and "services" in pinning and summary != "nothing":
            trouble = "not used by this node; see kachery-cloud-pins service list"
        lines.append(printable(f"{name}: {summary}" + (f"; {trouble}" if trouble else "")))
    return [*lines, *_texts([pinning.get("error")])]


# --- no node ---------------------------------------------------------------------------------------------------------


def _stopped(found: dict[str, Any]) -> Iterator[_Part]:
    settings = _dict(found.get("settings"))
    elsewhere = _dict(found.get("elsewhere"))
    if elsewhere:
        yield "Node", [printable(str(elsewhere.get("what") or f"it runs on {elsewhere.get('host')}"))]
    else:
        yield "Node", ["none is running here; start one with: kachery-cloud-node"]
    yield "Directory", _texts([found.get("directory")])
    yield "Peer ID", [printable(str(found["peer_id"]))] if found.get("peer_id") else ["made at the first start"]
    yield "Private network", _private(found)
    yield "Would listen on", _texts(settings.get("listen"))
    yield "Would keep to", _texts(settings.get("peers"))
    for name, wanted in (("Finds data by", True), ("Does not use", False)):
        words = [key for key, on in _dict(settings.get("sources")).items() if bool(on) is wanted]
        yield name, [printable(", ".join(words))] if words else []
    strategy = str(settings.get("provide", ""))
    yield "Announces", [printable(_STRATEGIES.get(strategy, strategy))] if strategy else []
    yield "Pins", _pins(_dict(found.get("pinning")))
    yield "Last errors", [_ago(each, str(each.get("what", ""))) for each in _errors(found)]
    yield "Warnings", _texts(found.get("warnings"))


# --- words -----------------------------------------------------------------------------------------------------------


def _block(name: str, values: Sequence[str], verbose: bool) -> list[str]:
    """A name on the left, its lines on the right; nothing where there are none."""
    shown = list(values) if verbose or len(values) <= MOST_LINES else list(values[: MOST_LINES - 1])
    if len(shown) < len(values):
        shown.append(f"... and {len(values) - len(shown):,} more (--verbose)")
    names = [f"{name}:"] + [""] * len(shown)
    return [f"{left:<{_INDENT}} {right}" for left, right in zip(names, shown, strict=False)]


def _because(what: Any, why: Any) -> str:
    return printable(f"{what}: {why}" if why else str(what))


def _figures(values: dict[str, Any], depth: int = 0) -> list[str]:
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


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    # Ports and years are numbers, too; commas are for those that nobody reads without.
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 100_000 else str(value)


def _gateway(name: str, state: dict[str, Any], verbose: bool) -> str:
    words = [_count(state["blocks"], "block")] if _is_number(state.get("blocks")) else []
    if state.get("dropped"):
        words.append(f"not used any more: {state['dropped']}")
    elif _is_number(state.get("resting")) and state["resting"] > 0:
        words.append(f"left alone for {_seconds(state['resting'])}: {state.get('last_error')}")
    elif verbose and state.get("last_error"):
        words.append(str(state["last_error"]))
    return printable(f"{name.removeprefix('gateway:')} ({'; '.join(words)})")


def _source(name: Any) -> str:
    return _SOURCES.get(str(name), str(name or "a source without a name"))


def _ago(each: dict[str, Any], text: str) -> str:
    if _is_number(each.get("at")):
        each = {"ago": time.time() - each["at"]}
    return printable(f"{_duration(each['ago'])} ago: {text}" if _is_number(each.get("ago")) else text)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
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


# --- values of the kind that is expected -----------------------------------------------------------------------------


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [printable(str(each)) for each in value if each] if isinstance(value, (list, tuple)) else []


def _is_number(value: Any) -> bool:
    """Whether this is a number that can be said: JSON has NaN and infinity too, in Python's reading."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
