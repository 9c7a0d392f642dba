"""IP addresses with TCP ports, and the network each belongs to: all that this package knows of multiaddrs."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple

from kachery_p2p.addresses import IP, Reach, reach_of_ip

_IP4, _IP6, _TCP = 0x04, 0x29, 0x06


class TcpEndpoint(NamedTuple):
    """A TCP port of an IP address."""

    ip: IP
    port: int

    @property
    def text(self) -> str:
        """As a multiaddr."""
        return f"/ip{self.ip.version}/{self.ip}/tcp/{self.port}"

    @property
    def binary(self) -> bytes:
        """As a binary multiaddr."""
        code = _IP4 if self.ip.version == 4 else _IP6
        return bytes((code,)) + self.ip.packed + bytes((_TCP,)) + self.port.to_bytes(2, "big")


@lru_cache(maxsize=1024)
def from_text(text: str) -> TcpEndpoint | None:
    """The endpoint that a multiaddr names; `None` when it is of another kind (a name, a relay, another transport)."""
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return None
    try:
        ip = ipaddress.ip_address(parts[2])
        port = int(parts[4])
    except ValueError:
        return None
    return TcpEndpoint(ip, port) if f"ip{ip.version}" == parts[1] and 0 < port < 65536 else None


def from_binary(raw: bytes) -> TcpEndpoint | None:
    """The endpoint of a binary multiaddr; `None` when it is of another kind or nonsense. Raises nothing."""
    size = {8: 4, 20: 16}.get(len(raw))
    if size is None or raw[0] != (_IP4 if size == 4 else _IP6) or raw[1 + size] != _TCP:
        return None
    ip = ipaddress.IPv4Address(raw[1:5]) if size == 4 else ipaddress.IPv6Address(raw[1:17])
    port = int.from_bytes(raw[-2:], "big")
    return TcpEndpoint(ip, port) if port else None


def is_public(ip: IP) -> bool:
    """Whether others can reach it from anywhere. An IPv4 address written as IPv6 is none: nobody listens there."""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return False
    return reach_of_ip(ip) is Reach.PUBLIC


def network_of(ip: IP) -> str:
    """The network that one owner is likely to have as a whole: /16 of IPv4, /32 of IPv6."""
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))
