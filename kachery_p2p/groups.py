"""Who shares a bound with whom: one party may have many peer IDs, ports and addresses, but few networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from kachery_p2p.protocols import CIRCUIT

Key = TypeVar("Key", bound=Hashable)


def group_of(host: str) -> str:
    """What an IP address counts as: IPv4 addresses by themselves, IPv6 by their /64, which is what one customer has.

    What is no IP address counts as itself.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return f"{ipaddress.ip_address(int(ip) >> 64 << 64)}/64"
    return str(ip)


def group_of_multiaddr(address: str) -> str:
    """The same for `/ip4/...` and `/ip6/...`; an empty text for addresses that do not say where a peer is."""
    if CIRCUIT in address:
        return ""
    parts = address.split("/")
    if parts[1:2] == ["ip6zone"]:
        parts = parts[2:]
    return group_of(parts[2]) if len(parts) > 2 and parts[1] in ("ip4", "ip6") else ""


def most_crowded(candidates: Mapping[Key, str], all_groups: Iterable[str] | None = None) -> Key | None:
    """Who gives way: the first of the candidates that belong to the largest group; None without candidates.

    Args:
        candidates: with the group of each, in the order in which they are to go within their group.
        all_groups: of everybody, where there are others than the candidates.
    """
    sizes: dict[str, int] = {}
    for group in candidates.values() if all_groups is None else all_groups:
        sizes[group] = sizes.get(group, 0) + 1
    return max(candidates, key=lambda key: sizes.get(candidates[key], 0), default=None)
