"""How far an address reaches: the one place that knows which addresses are public, and which are not.

Follows the IANA registries of special-purpose addresses (RFC 6890, for IPv4 and IPv6) and RFC 4291. They are written
down here, and not asked of the standard library, because `is_global` and its like answer differently from one Python
to the next. An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4, Teredo) reaches no further than the
IPv4 address in it: such a disguise leads to a private network just as well.

Nothing here asks the network. What a name resolves to is known only once it is dialled; see `http_redirects`.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """From how far away an address can be meant; a larger number reaches further."""

    #: Nobody can be dialled there: unspecified, multicast, reserved, documentation, benchmarks.
    NOWHERE = 0
    #: This machine, whichever that is.
    LOOPBACK = 1
    #: One link: it means something only together with the interface.
    LINK = 2
    #: A network of somebody's own: private ranges, shared address space, unique local addresses, local names.
    PRIVATE = 3
    #: The same everywhere.
    PUBLIC = 4


_NETWORKS = {
    # --- IPv4, the most special first -------------------------------------------------------------------------------
    "192.0.0.9/32": Reach.PUBLIC,  # port control protocol anycast
    "192.0.0.10/32": Reach.PUBLIC,  # TURN anycast
    "0.0.0.0/8": Reach.NOWHERE,  # "this network"; 0.0.0.0 itself leads to loopback on many systems
    "10.0.0.0/8": Reach.PRIVATE,
    "100.64.0.0/10": Reach.PRIVATE,  # shared address space of carriers
    "127.0.0.0/8": Reach.LOOPBACK,
    "169.254.0.0/16": Reach.LINK,
    "172.16.0.0/12": Reach.PRIVATE,
    "192.0.0.0/24": Reach.NOWHERE,  # protocol assignments
    "192.0.2.0/24": Reach.NOWHERE,  # documentation
    "192.88.99.0/24": Reach.NOWHERE,  # 6to4 relays, withdrawn
    "192.168.0.0/16": Reach.PRIVATE,
    "198.18.0.0/15": Reach.NOWHERE,  # benchmarks
    "198.51.100.0/24": Reach.NOWHERE,  # documentation
    "203.0.113.0/24": Reach.NOWHERE,  # documentation
    "224.0.0.0/4": Reach.NOWHERE,  # multicast
    "240.0.0.0/4": Reach.NOWHERE,  # reserved, and broadcast
    "0.0.0.0/0": Reach.PUBLIC,
    # --- IPv6 -------------------------------------------------------------------------------------------------------
    "::1/128": Reach.LOOPBACK,
    "::/96": Reach.NOWHERE,  # unspecified, and IPv4-compatible addresses, which no system uses any more
    "64:ff9b:1::/48": Reach.PRIVATE,  # NAT64 of one network's own
    "2001:1::1/128": Reach.PUBLIC,  # port control protocol anycast
    "2001:1::2/128": Reach.PUBLIC,  # TURN anycast
    "2001:1::3/128": Reach.PUBLIC,  # DNS-SD service registration anycast
    "2001:3::/32": Reach.PUBLIC,  # AMT
    "2001:4:112::/48": Reach.PUBLIC,  # AS112
    "2001:20::/28": Reach.PUBLIC,  # ORCHIDv2
    "2001:30::/28": Reach.PUBLIC,  # drone remote IDs
    "2001::/23": Reach.NOWHERE,  # all other protocol assignments
    "2001:db8::/32": Reach.NOWHERE,  # documentation
    "3fff::/20": Reach.NOWHERE,  # documentation
    "2000::/3": Reach.PUBLIC,  # all that is given to anybody
    "fc00::/7": Reach.PRIVATE,  # unique local
    "fe80::/10": Reach.LINK,
    "fec0::/10": Reach.PRIVATE,  # site-local, withdrawn, still routed inside a site
    "::/0": Reach.NOWHERE,
}

_Rule = tuple[int, int, Reach]  # network, mask


def _rules() -> tuple[dict[int, list[_Rule]], list[_Rule]]:
    """For IPv4 by the first byte, which settles nearly all; for IPv6 in a list. The first that fits counts."""
    four: dict[int, list[_Rule]] = {first: [] for first in range(256)}
    six: list[_Rule] = []
    for text, reach_there in _NETWORKS.items():
        net = ipaddress.ip_network(text)
        rule = (int(net.network_address), int(net.netmask), reach_there)
        if net.version == 6:
            six.append(rule)
        else:
            for first in range(int(net.network_address) >> 24, (int(net.broadcast_address) >> 24) + 1):
                four[first].append(rule)
    return four, six


_RULES_4, _RULES_6 = _rules()
_MAPPED = 0xFFFF
_NAT64 = int(ipaddress.IPv6Address("64:ff9b::")) >> 32
_TEREDO = 0x2001_0000
_6TO4 = 0x2002
_LAST_32 = 0xFFFF_FFFF

_LOCAL_NAMES = (".local", ".lan", ".internal", ".home.arpa", ".localdomain")


def reach_of_packed(packed: bytes) -> Reach:
    """How far the IP address of these 4 or 16 bytes reaches."""
    number = int.from_bytes(packed, "big")
    return _reach_4(number) if len(packed) == 4 else _reach_6(number)


@lru_cache(maxsize=4096)
def reach_of_ip(ip: IP) -> Reach:
    """How far an IP address reaches."""
    return reach_of_packed(ip.packed)


def _reach_4(number: int) -> Reach:
    return next(found for net, mask, found in _RULES_4[number >> 24] if number & mask == net)


def _reach_6(number: int) -> Reach:
    inside = _carried(number)
    if inside:
        return min(map(_reach_4, inside))
    return next(found for net, mask, found in _RULES_6 if number & mask == net)


def _carried(number: int) -> tuple[int, ...]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if number >> 32 in (_MAPPED, _NAT64):  # mapped (RFC 4291), well-known NAT64 (RFC 6052)
        return (number & _LAST_32,)
    if number >> 112 == _6TO4:  # RFC 3056
        return (number >> 80 & _LAST_32,)
    if number >> 96 == _TEREDO:  # RFC 4380: the server, and the client with all bits turned over
        return number >> 64 & _LAST_32, ~number & _LAST_32
    return ()


def reach(host: str) -> Reach:
    """How far a host reaches: an IP address as text, perhaps with a zone (`%eth0`), or a name as far as it tells.

    A name of the public DNS counts as public, since nobody knows before it is resolved. `localhost` and what ends with
    it is loopback (RFC 6761), a name without a dot or with a local ending (RFC 6762, RFC 8375) is private.
    """
    bare, _, zone = host.strip("[]").partition("%")
    try:
        found = reach_of_ip(ipaddress.ip_address(bare))
    except ValueError:
        return _reach_of_name(host)
    return min(found, Reach.LINK) if zone else found


def _reach_of_name(host: str) -> Reach:
    name = host.rstrip(".").lower()
    if not name:
        return Reach.NOWHERE
    if name == "localhost" or name.endswith(".localhost"):
        return Reach.LOOPBACK
    return Reach.PRIVATE if "." not in name or name.endswith(_LOCAL_NAMES) else Reach.PUBLIC


def is_public(host: str) -> bool:
    """Whether a host means the same everywhere."""
    return reach(host) is Reach.PUBLIC


def is_of_a_host(ip: IP) -> bool:
    """Whether it can be the address of one machine.

    Not a group, a broadcast address or "any address" (which many systems take for their own), however it is written.
    """
    number = int(ip)
    if ip.version == 4:
        return _is_of_a_host(number)
    return number != 0 and number >> 120 != 0xFF and all(map(_is_of_a_host, _carried(number)))


def _is_of_a_host(number: int) -> bool:
    return number >> 24 != 0 and number >> 28 != 0xE and number != _LAST_32
