"""What the node says of itself: whether it answers, whether others reach it, its DHT and its announcements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts
    from kachery_p2p.node.status_messages import ReachabilityStatus, RelayStatus, SourceStatus


def check_node(facts: Facts) -> Report:
    """Whether there is one node, which answers."""
    node = facts.node
    if node.running is not None:
        return Report(f"process {node.running.pid} is the node of this directory, and answers")
    if not node.problem:
        return Report("no node runs, and none is in the way")
    if node.elsewhere:
        return found(
            [
                Finding(
                    node.problem,
                    "Two nodes on one data directory would destroy its catalog, so no other one can start here.",
                    "Stop it on that machine, or use a directory of this machine alone (KACHERY_CLOUD_DIR). Several "
                    "machines may read one directory: KACHERY_CLOUD_SHARED_DIRS.",
                )
            ]
        )
    return found(
        [
            Finding(
                node.problem,
                "While it has the lock, no other node can start, and commands cannot ask it for anything.",
                "Wait until it has started or left. If it hangs, end it (the process is named above): kill PID, and "
                "kill -9 PID after a minute. The lock ends with the process, so no file has to be removed.",
            )
        ]
    )


def check_reachable(facts: Facts) -> Report:
    """Whether others can dial this machine, as those say that the node has asked."""
    running = facts.node.running
    if running is None or not facts.config.public:
        return NOTHING
    return judge_reachability(running.node.discovery.reachability, running.node.discovery.relay)


def judge_reachability(reach: ReachabilityStatus, relay: RelayStatus) -> Report:
    """What to say of a node that others can dial, cannot, or that does not know."""
    if reach.state == "public":
        return Report("others can dial this machine")
    if reach.state == "unknown":
        return Report("nobody has told yet whether others can dial this machine")
    through = bool(relay.relays)
    return found(
        [
            Finding(
                f"Machines outside cannot dial this one ({reach.why})."
                if reach.why
                else "Machines outside cannot dial it.",
                "They reach it through a relay, and then directly where both routers allow that: slower to begin, "
                "and not always at full speed."
                if through
                else "Nobody outside of this network can load what is here, as long as this machine does not dial "
                "them.",
                "In the router, forward a TCP port to this machine, listen on it (--listen /ip4/0.0.0.0/tcp/PORT), and "
                "have the firewall let it in. Or name a relay of your lab: the setting `relays`.",
                grave=not through,
            )
        ],
        "it is reached through a relay" if through else "",
    )


def check_sources(facts: Facts) -> Report:
    """Whether the ways to find others, and to be found, have anybody to ask."""
    running = facts.node.running
    if running is None:
        return NOTHING
    return judge_sources(running.node.discovery.sources)


def judge_sources(sources: Mapping[str, SourceStatus]) -> Report:
    """What to say of the ways to find others."""
    findings: list[Finding] = []
    on: list[str] = []
    dht = sources.get("dht")
    if dht is not None and dht.on:
        peers = _count(dht.figures.get("peers"))
        if peers == 0:
            findings.append(
                Finding(
                    "The node takes part in the DHT, but has no peers in it.",
                    "What is here cannot be found by its URI alone from outside, and the node finds nothing of "
                    "others so.",
                    "Wait a minute after the start. If it stays so, see whether outgoing TCP to port 4001 is let "
                    "through, and whether `bootstrap` names peers that are there. kachery-cloud share gives URIs "
                    "with addresses, which need no DHT.",
                )
            )
        else:
            on.append(f"the DHT ({peers} peers)" if peers is not None else "the DHT")
    mdns = sources.get("mdns")
    if mdns is not None and mdns.on:
        problems = [text for each in mdns.figures.get("interfaces") or () for text in each.get("problems") or ()]
        if problems:
            findings.append(
                Finding(
                    " ".join(problems[:3]),
                    "Machines of the local network are not found by themselves.",
                    "See which program has UDP port 5353 (`ss -lunp`), and whether a firewall or a VPN is in the way. "
                    "The setting `peers` names machines without it.",
                    grave=False,
                )
            )
        else:
            on.append("the local network")
    return found(findings, f"others are found by {' and '.join(on)}" if on else "")


def check_followed(facts: Facts) -> Report:
    """Whether the nodes that are followed can be."""
    follows = None if facts.node.running is None else facts.node.running.follows
    if not follows:
        return NOTHING
    findings = [
        Finding(
            f"The node {url} cannot be followed now: {each.problem}.",
            "What is pinned there is not pinned here, as long as that lasts. What is here stays.",
            "See whether it runs, and whether its token in the setting `follow` is the one that it gave: "
            "kachery-cloud-node tokens add NAME --follow, on that machine.",
        )
        for url, each in follows.items()
        if each.problem
    ]
    return found(findings, f"{len(follows)} nodes are followed" if len(follows) != 1 else "one node is followed")


def check_announced(facts: Facts) -> Report:
    """Whether announcing goes on."""
    running = facts.node.running
    if running is None:
        return NOTHING
    providing = running.node.discovery.providing
    if providing.strategy == "off" or not providing.keys:
        return NOTHING
    late = providing.overdue or 0
    if not late:
        return Report(f"{providing.announced:,} of {providing.keys:,} roots are announced")
    return found(
        [
            Finding(
                f"{late:,} of {providing.keys:,} roots should have been announced anew by now"
                + (f" ({providing.last_error})." if providing.last_error else "."),
                "Others find them less and less, for announcements expire after a day or two.",
                "Leave the node running: it goes on. If it stays behind, its line or machine is too slow for so many "
                "roots; see kachery-cloud status -v.",
                grave=False,
            )
        ]
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else len(value) if isinstance(value, (list, tuple)) else None
