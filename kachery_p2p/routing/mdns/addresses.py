"""Which addresses are announced on an interface, and which of those that others announce are believed.

What is said on a link holds on that link: an interface announces its own addresses and no others. Loopback addresses
mean another machine to everyone, link-local IPv6 addresses need a zone that only the receiver knows, and what leads
through a relay is no news on a LAN.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from kachery_p2p.addresses import IP, Reach, is_of_a_host, reach_of_ip
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.routing.mdns import limits

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_KINDS = {"ip4": 4, "ip6": 6}


@dataclass(frozen=True)
class Interface:
    """A network interface on which we look for peers.

    Attributes:
        name: as the system calls it.
        index: as the system counts it.
        networks: its addresses, each with the length of its network's prefix.
        announced: multiaddrs of our node on this interface.
    """

    name: str
    index: int
    networks: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]
    announced: tuple[str, ...]

    def reaches(self, ip: IP) -> bool:
        """Whether an address is in a network of this interface."""
        return any(ip.version == each.version and ip in each.network for each in self.networks)

    @property
    def ipv4(self) -> str | None:
        """Its first IPv4 address."""
        return next((str(each.ip) for each in self.networks if each.version == 4), None)

    @property
    def ipv6(self) -> bool:
        """Whether IPv6 works on it: then it has a link-local address."""
        return any(each.version == 6 and each.ip.is_link_local for each in self.networks)


def announced_on(
    networks: Iterable[ipaddress.IPv4Interface | ipaddress.IPv6Interface], own: Iterable[str]
) -> list[str]:
    """Those of our multiaddrs that are announced on an interface with these addresses; IPv4 first."""
    ips = {each.ip for each in networks}
    found: dict[str, IP] = {}
    for text in own:
        parsed = _parse(text)
        if parsed is not None and parsed[0] in ips and _is_of_a_link(parsed[0]):
            found[text] = parsed[0]
    return sorted(found, key=lambda text: found[text].version)[: limits.MAX_ANNOUNCED]


def _is_of_a_link(ip: IP) -> bool:
    found = reach_of_ip(ip)
    of_no_network = found is Reach.LOOPBACK or (ip.version == 6 and found is Reach.LINK)
    return is_of_a_host(ip) and not of_no_network and not _mapped(ip)


def _mapped(ip: IP) -> bool:
    return isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None


def _parse(text: str) -> tuple[IP, int] | None:
    """IP address and port of `/ip4/.../tcp/...` or `/ip6/.../tcp/...`; None for anything else."""
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[1] not in _KINDS or parts[3] != "tcp":
        return None
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return None
    port = int(parts[4]) if parts[4].isascii() and parts[4].isdigit() and len(parts[4]) <= 5 else 0
    if ip.version != _KINDS[parts[1]] or "%" in parts[2] or not 0 < port < 65536:
        return None
    return ip, port


@dataclass(frozen=True)
class AnnouncedAddress:
    """An address that a node announces.

    Attributes:
        peer: peer ID, base58.
        addr: multiaddr without it, as we can dial it.
        near: whether it is in a network of the interface on which it was heard.
    """

    peer: str
    addr: str
    near: bool


def believable(text: str, interface: Interface) -> AnnouncedAddress | None:
    """Read what follows `dnsaddr=` in an announcement heard on `interface`.

    None where it is of no use here: no TCP address with a peer ID, one of loopback, or a public address that is not on
    the link (nobody should be able to send the whole network dialling a stranger).
    """
    if len(text) > limits.MAX_STRING or CIRCUIT in text:
        return None
    addr, separator, peer_text = text.replace("/ipfs/", "/p2p/").rpartition("/p2p/")
    parsed = _parse(addr) if separator else None
    peer = any_peer_id(peer_text) if parsed is not None else None
    if parsed is None or peer is None:
        return None
    ip, port = parsed
    if ip.version == 6 and ip.is_link_local:
        # It means something only together with the interface, which is ours to add.
        return AnnouncedAddress(peer, f"/ip6zone/{interface.name}/ip6/{ip}/tcp/{port}", True)
    near = interface.reaches(ip)
    if not _is_of_a_link(ip) or (reach_of_ip(ip) is Reach.PUBLIC and not near):
        return None
    return AnnouncedAddress(peer, f"/{'ip4' if ip.version == 4 else 'ip6'}/{ip}/tcp/{port}", near)
