"""Multiaddrs: which can be dialled, what names resolve to, and under which addresses this machine can be reached."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from kachery_p2p import multiaddrs
from kachery_p2p.errors import DialError, InvalidAddress
from kachery_p2p.peer_ids import parse_peer_id
from kachery_p2p.protocols import CIRCUIT, HOSTS
from kachery_p2p.transport import limits
from kachery_p2p.transport.dns_txt import txt_records


@dataclass(frozen=True)
class Address:
    """A parsed multiaddr.

    Attributes:
        text: as it was given.
        kind: `ip4`, `ip6`, `dns`, `dns4`, `dns6`, `dnsaddr`, or `circuit` for one through a relay; empty when `problem`
            is set.
        host: IP address (with `%zone` where one was given) or name.
        port: TCP port; 0 for dnsaddr.
        peer: the peer ID it ends with, base58; `None` without.
        problem: why it cannot be dialled, in plain words; empty when it can.
        relay: of a circuit, the relay's own address; it has a `peer`, and may be nothing but that.
    """

    text: str
    kind: str
    host: str
    port: int
    peer: str | None
    problem: str = ""
    relay: Address | None = None

    @property
    def transport(self) -> str:
        """The multiaddr without the peer ID."""
        if self.relay is not None:
            return f"{self.relay.transport}/p2p/{self.relay.peer}/p2p-circuit"
        return self.text.partition("/p2p/")[0] if not self.kind else tcp_multiaddr(self.kind, self.host, self.port)


def tcp_multiaddr(kind: str, host: str, port: int) -> str:
    """`/ip4/127.0.0.1/tcp/4001` and the like."""
    address, _, zone = host.partition("%")
    prefix = f"/ip6zone/{zone}" if zone else ""
    return f"{prefix}/{kind}/{address}" + ("" if kind == "dnsaddr" else f"/tcp/{port}")


def socket_multiaddr(name: Sequence[object]) -> str:
    """The multiaddr of what `getpeername` or `accept` gave."""
    host, port = str(name[0]), int(str(name[1]))
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return tcp_multiaddr("ip6" if ":" in host else "ip4", host, port)


def parse_address(text: str) -> Address:
    """Parse a multiaddr.

    An address that is well-formed but of a transport this node does not have comes back with `problem` set.

    Raises:
        InvalidAddress: it does not parse.
    """
    zone, rest = "", text.replace("/ipfs/", "/p2p/")  # the old name of /p2p
    if CIRCUIT in rest:
        return _parse_circuit(text, rest)
    if rest.startswith("/ip6zone/"):
        # The package multiaddr takes the name of the zone for binary parts, so it is cut off before.
        _, _, zone, tail = rest.split("/", 3) if rest.count("/") > 3 else ("", "", "", "")
        zone, rest = f"%{zone}", f"/{tail}"
    try:
        parts = multiaddrs.split(rest)
        if zone and parts[0][0] != "ip6":
            raise InvalidAddress("a zone belongs to an IPv6 address")
    except InvalidAddress as error:
        raise InvalidAddress(
            f"{text!r} is not a multiaddr. One looks like /ip4/192.168.1.7/tcp/4001/p2p/12D3Koo..."
        ) from error
    names = [name for name, _ in parts]
    peer = None
    if names[-1:] == ["p2p"]:
        peer = parse_peer_id(str(parts[-1][1]))
        parts, names = parts[:-1], names[:-1]
    if names == ["dnsaddr"]:
        return Address(text, "dnsaddr", str(parts[0][1]), 0, peer)
    if len(names) == 2 and names[0] in HOSTS and names[1] == "tcp":
        return Address(text, names[0], f"{parts[0][1]}{zone}", int(str(parts[1][1])), peer)
    if not names:
        return Address(text, "", "", 0, peer, "there is nothing to dial but a peer ID")
    used = [name for name in names[1:] if name not in ("udp", "tcp")] or names
    return Address(text, "", "", 0, peer, f"the transport {'/'.join(used)} is not supported, only tcp is")


def _parse_circuit(text: str, rest: str) -> Address:
    """`<address of the relay>/p2p/<relay>/p2p-circuit`, with or without `/p2p/<peer ID>` at its end."""
    head, _, tail = rest.partition(CIRCUIT)
    relay = parse_address(head) if head else None
    peer = parse_peer_id(tail[len("/p2p/") :]) if tail.startswith("/p2p/") and tail.count("/") == 2 else None
    if tail and peer is None:
        problem = (
            "a relay behind a relay is not supported" if CIRCUIT in tail else "what follows the relay is no peer ID"
        )
        return Address(text, "", "", 0, None, problem)
    if relay is None or relay.peer is None:
        return Address(text, "", "", 0, peer, "it does not say which relay")
    if relay.peer == peer:
        return Address(text, "", "", 0, peer, "a peer is not its own relay")
    bare = head == f"/p2p/{head.rpartition('/')[2]}"  # then the relay may be known, or connected
    problem = "" if bare else relay.problem
    return Address(text, "" if problem else "circuit", "", 0, peer, problem, relay)


async def resolve(address: Address, depth: int = 0) -> list[Address]:
    """The IP addresses behind a name; the address itself where it is one already.

    Raises:
        DialError: the name does not resolve; says so in plain words.
    """
    if address.kind in ("ip4", "ip6", "circuit"):
        return [address]
    if address.kind == "dnsaddr":
        return await _resolve_dnsaddr(address, depth)
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    try:
        answers = await trio.socket.getaddrinfo(address.host, address.port, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DialError(f"the name {address.host} does not resolve") from error
    found: dict[str, Address] = {}
    for answer_family, _, _, _, name in answers[: limits.MAX_DNS_ANSWERS]:
        host = str(name[0])
        kind = "ip6" if answer_family == socket.AF_INET6 else "ip4"
        found.setdefault(host, Address(address.text, kind, host, address.port, address.peer))
    if not found:
        raise DialError(f"the name {address.host} has no address of that kind")
    return list(found.values())


async def _resolve_dnsaddr(address: Address, depth: int) -> list[Address]:
    """TXT records of `_dnsaddr.<name>` (multiformats DNSADDR), without those of another peer than the wanted one."""
    if depth >= limits.MAX_DNSADDR_DEPTH:
        raise DialError(f"the dnsaddr records of {address.host} point at each other")
    records = await txt_records(f"_dnsaddr.{address.host}")
    found: list[Address] = []
    for record in records[: limits.MAX_DIAL_ADDRESSES]:
        key, _, value = record.partition("=")
        if key != "dnsaddr":
            continue
        try:
            target = parse_address(value)
        except InvalidAddress:
            continue
        if target.problem or (address.peer and target.peer and target.peer != address.peer):
            continue
        try:
            found += await resolve(target, depth + 1)
        except DialError:
            continue
    if not found:
        raise DialError(f"the dnsaddr records of {address.host} name no address that can be dialled")
    return found[: limits.MAX_DNS_ANSWERS]


def parse_listen(text: str) -> Address:
    """A multiaddr to listen on: an IP address and a TCP port.

    Raises:
        InvalidAddress: it is something else, or names a peer.
    """
    address = parse_address(text)
    if address.kind not in ("ip4", "ip6") or address.peer:
        raise InvalidAddress(f"{text!r} is not an address to listen on; one looks like /ip4/0.0.0.0/tcp/4001.")
    return address


def expand(bound: Iterable[tuple[str, int]]) -> list[str]:
    """The multiaddrs under which sockets bound to these IP addresses can be dialled.

    A wildcard becomes the addresses of the network interfaces: link-local ones are left out (they mean nothing without
    a zone, which is another one on each machine), loopback comes last.
    """
    first: dict[str, None] = {}
    last: dict[str, None] = {}
    for host, port in bound:
        ip = ipaddress.ip_address(host.partition("%")[0])
        hosts = interface_addresses(ip.version) if ip.is_unspecified else [host]
        for each in hosts:
            text = tcp_multiaddr("ip6" if ":" in each else "ip4", each, port)
            (last if ipaddress.ip_address(each.partition("%")[0]).is_loopback else first)[text] = None
    return [*first, *last]


def interface_addresses(version: int) -> list[str]:
    """The IP addresses of this machine of one version, loopback included, link-local ones not."""
    import ifaddr

    found: dict[str, None] = {}
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            host = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            ip = ipaddress.ip_address(host.partition("%")[0])
            if ip.version == version and not ip.is_link_local:
                found[str(ip)] = None
    return list(found)
