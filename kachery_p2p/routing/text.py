"""Peer IDs and addresses as strangers write them, and what of that is worth dialling. Pure functions on text.

Everything that comes from an HTTP router, a DHT record or an old database goes through here, so that the rest of the
node sees only peer IDs in base58 and addresses of transports that it has: IP or DNS name, TCP, perhaps through a relay.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache

from kachery_p2p import addresses
from kachery_p2p.addresses import Reach
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.protocols import CIRCUIT, HOSTS
from kachery_p2p.routing import limits


def raw_cid(multihash: bytes) -> str:
    """The CIDv1 of codec raw, base32: what routing knows of a block whose codec it was not told."""
    return "b" + base64.b32encode(b"\x01\x55" + multihash).decode().rstrip("=").lower()


@lru_cache(maxsize=8192)
def dialable(text: str, peer: str) -> str | None:
    """An address of `peer` without that peer's ID at its end; None when it is not one that this node can dial.

    What can be dialled: `/ip4|ip6|dns|dns4|dns6/.../tcp/N`, `/dnsaddr/...`, and `/p2p/<relay>/p2p-circuit`, alone or
    after the first of these.
    """
    if (
        len(text) > limits.MAX_ADDRESS_LENGTH
        or text[:1] != "/"
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        return None
    parts = text.rstrip("/").split("/")[1:]
    zone = parts[:1] == ["ip6zone"]
    body = parts[2:] if zone else parts
    if len(body) >= 2 and body[-2] in ("p2p", "ipfs"):
        if any_peer_id(body[-1]) != peer:
            return None
        body = body[:-2]
    core = body
    if len(body) >= 3 and body[-1] == "p2p-circuit" and body[-3] in ("p2p", "ipfs"):
        relay = any_peer_id(body[-2])
        if relay is None or relay == peer:
            return None
        core = body[:-3]
        body = [*core, "p2p", relay, "p2p-circuit"]
        if not core and not zone:
            return "/" + "/".join(body)
    if len(core) == 2 and core[0] == "dnsaddr" and core[1] and core is body and not zone:
        return "/" + "/".join(body)
    if len(core) != 4 or core[0] not in HOSTS or core[2] != "tcp" or not _is_port(core[3]):
        return None
    if core[0] in ("ip4", "ip6"):
        try:
            ip = (ipaddress.IPv4Address if core[0] == "ip4" else ipaddress.IPv6Address)(core[1])
        except ValueError:
            return None
        if not addresses.is_of_a_host(ip) or "%" in core[1] or (zone and core[0] != "ip6"):
            return None
    elif not core[1] or zone:
        return None
    return "/" + "/".join([*(parts[:2] if zone else []), *body])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def dialable_addresses(addrs: Iterable[object], peer: str) -> tuple[str, ...]:
    """Those of `addrs` that can be dialled, each once, in their order, at most MAX_ADDRS_PER_PROVIDER.

    What is not text is passed over, and no more than MAX_ADDRS_READ are looked at.
    """
    found: dict[str, None] = {}
    for count, each in enumerate(addrs):
        if count >= limits.MAX_ADDRS_READ or len(found) >= limits.MAX_ADDRS_PER_PROVIDER:
            break
        good = dialable(each, peer) if isinstance(each, str) and len(each) <= limits.MAX_ADDRESS_LENGTH else None
        if good is not None:
            found[good] = None
    return tuple(found)


class AddressScope(IntEnum):
    """From how far away an address can be meant."""

    LOOPBACK = 0
    PRIVATE = 1
    PUBLIC = 2


def scope(addr: str) -> AddressScope:
    """How far an address reaches. A name of the public DNS counts as public, since nobody knows before asking."""
    parts = addr.split("/")
    if parts[1:2] == ["ip6zone"]:
        return AddressScope.PRIVATE
    return host_scope(parts[2]) if len(parts) > 2 and parts[1] in (*HOSTS, "dnsaddr") else AddressScope.PUBLIC


@lru_cache(maxsize=4096)
def host_scope(host: str) -> AddressScope:
    """How far an IP address or a name reaches. What is neither loopback nor public is of some network in between."""
    found = addresses.reach(host)
    return {Reach.LOOPBACK: AddressScope.LOOPBACK, Reach.PUBLIC: AddressScope.PUBLIC}.get(found, AddressScope.PRIVATE)


def network(addr: str) -> str:
    """The network that an address is in, for telling strangers apart: IPv4 /16, IPv6 /32, or the name."""
    parts = addr.split("/")
    if len(parts) > 2 and parts[1] == "ip4":
        return ".".join(parts[2].split(".")[:2])
    if len(parts) > 2 and parts[1] == "ip6":
        try:
            return ipaddress.IPv6Address(parts[2].partition("%")[0]).exploded[:9]
        except ValueError:
            return parts[2]
    return parts[2] if len(parts) > 2 else addr


def relayed(addr: str) -> bool:
    """Whether an address leads through a relay."""
    return addr.endswith(CIRCUIT)
