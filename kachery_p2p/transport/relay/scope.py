"""How far the IP address of a multiaddr reaches."""

from __future__ import annotations

import ipaddress

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.transport.addresses import parse_address


def _ip(multiaddr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a multiaddr begins with; `None` for names, relays and nonsense."""
    try:
        address = parse_address(multiaddr)
    except InvalidAddress:
        return None
    return ipaddress.ip_address(address.host.partition("%")[0]) if address.kind in ("ip4", "ip6") else None


def is_loopback(multiaddr: str) -> bool:
    """Whether it is this machine, whichever machine that is."""
    ip = _ip(multiaddr)
    return ip is not None and ip.is_loopback


def is_public(multiaddr: str) -> bool:
    """Whether it means the same everywhere: an address of the internet, or a name."""
    try:
        kind = parse_address(multiaddr).kind
    except InvalidAddress:
        return False
    ip = _ip(multiaddr)
    return ip.is_global if ip is not None else kind.startswith("dns")
