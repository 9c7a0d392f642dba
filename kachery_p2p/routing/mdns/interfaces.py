"""The network interfaces of this machine, and the multicast sockets on them.

Each interface has a socket of its own for IPv4 and for IPv6, bound to the group's address: what arrives is known to
come from that interface, and packets sent to this machine alone stay with other programs that use port 5353 (avahi,
systemd-resolved), with which it is shared.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Protocol

import ifaddr
import trio

from kachery_p2p.routing.mdns import limits
from kachery_p2p.routing.mdns.addresses import Interface, announced_on

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
#: RFC 6762, 11: what has another value once came through a router.
_HOPS = 255

_LINUX = sys.platform == "linux"
#: Linux: only packets to groups that this very socket has joined (not in Python's module `socket`).
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x40, 0x1000


class LinkSocket(Protocol):
    """One way to the machines on an interface."""

    async def receive(self) -> list[tuple[bytes, str, int]]:
        """What has come, at least one packet: the bytes, and the sender's IP address and port.

        Raises:
            OSError: the interface is gone.
            trio.ClosedResourceError: it was closed here.
        """
        ...

    def send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        """Send to all on the link, or to one address.

        Raises:
            OSError: the system cannot send it.
        """
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Machine(Protocol):
    """What `Mdns` needs of the machine it runs on."""

    def interfaces(self, own: Iterable[str]) -> list[Interface]:
        """The interfaces on which these multiaddrs of ours can be reached by others."""
        ...

    def open(self, interface: Interface) -> tuple[list[LinkSocket], list[str]]:
        """Sockets on an interface, and in plain words what could not be opened."""
        ...


class System:
    """The real machine."""

    def interfaces(self, own: Iterable[str]) -> list[Interface]:
        """The interfaces on which these multiaddrs of ours can be reached by others: those that are up only."""
        own = list(own)
        found = []
        for adapter in ifaddr.get_adapters():
            networks = []
            for entry in adapter.ips:
                host = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
                networks.append(ipaddress.ip_interface(f"{host.partition('%')[0]}/{entry.network_prefix}"))
            announced = announced_on(networks, own)
            name = os.fsdecode(adapter.name)
            if announced and adapter.index is not None and _can_multicast(name):
                found.append(Interface(name, adapter.index, tuple(networks), tuple(announced)))
        return found[: limits.MAX_INTERFACES]

    def open(self, interface: Interface) -> tuple[list[LinkSocket], list[str]]:
        """Sockets on an interface, and in plain words what could not be opened."""
        sockets: list[LinkSocket] = []
        problems = []
        if (address := interface.ipv4) is not None:
            try:
                sockets.append(_Socket4(interface, address))
            except OSError as error:
                problems.append(_explained(error, interface, "IPv4"))
        if interface.ipv6 and socket.has_ipv6:
            try:
                sockets.append(_Socket6(interface))
            except OSError as error:
                problems.append(_explained(error, interface, "IPv6"))
        return sockets, problems


def _can_multicast(name: str) -> bool:
    """Whether an interface is up, plugged in, and knows multicast. Elsewhere than on Linux that shows when sending."""
    if not _LINUX:
        return True
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            reply = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode()[:15], 0))
        except OSError:
            return False
    wanted = _IFF_UP | _IFF_RUNNING | _IFF_MULTICAST
    return struct.unpack_from("H", reply, 16)[0] & wanted == wanted


def _explained(error: OSError, interface: Interface, family: str) -> str:
    where = f"{family} on {interface.name}"
    if error.errno == errno.EADDRINUSE:
        return f"Port {PORT} (mDNS, {where}) is held by a program that does not share it."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"The system does not permit multicast (mDNS, {where})."
    return f"Multicast does not work (mDNS, {where}): {error.strerror or error}."


class _Socket:
    """What both kinds share."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._group: tuple[str, int] | tuple[str, int, int, int] = (GROUP4, PORT)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    async def receive(self) -> list[tuple[bytes, str, int]]:
        """See `LinkSocket`."""
        while True:
            packets = []
            await trio.lowlevel.wait_readable(self._socket)
            for _ in range(limits.RECEIVE_BATCH):
                try:
                    data, sender = self._socket.recvfrom(limits.MAX_RECEIVED + 1)
                except (BlockingIOError, InterruptedError):
                    break
                packets.append((data, str(sender[0]).partition("%")[0], int(sender[1])))
            if packets:
                return packets

    def send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        """See `LinkSocket`. A packet for which the system has no room is lost, as any may be."""
        try:
            self._socket.sendto(data, self._group if to is None else self._one(*to))
        except (BlockingIOError, InterruptedError):
            return

    def _one(self, host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        return host, port

    def close(self) -> None:
        """See `LinkSocket`. Whoever waits in `receive` gets `trio.ClosedResourceError`."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _Socket4(_Socket):
    def __init__(self, interface: Interface, address: str) -> None:
        super().__init__(socket.AF_INET)
        sock = self._socket
        try:
            if _LINUX:
                # struct ip_mreqn: by index, for two interfaces may have the same address.
                which = struct.pack("=4s4si", bytes(4), socket.inet_aton(address), interface.index)
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            else:
                which = socket.inet_aton(address)
            sock.bind(("" if sys.platform == "win32" else GROUP4, PORT))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, which)
            member = socket.inet_aton(GROUP4) + (which[4:] if _LINUX else which)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        except BaseException:
            sock.close()
            raise


class _Socket6(_Socket):
    def __init__(self, interface: Interface) -> None:
        super().__init__(socket.AF_INET6)
        sock = self._socket
        self._index = interface.index
        self._group = (GROUP6, PORT, 0, interface.index)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if _LINUX:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            sock.bind(("::", PORT) if sys.platform == "win32" else self._group)
            index = struct.pack("@I", interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            member = socket.inet_pton(socket.AF_INET6, GROUP6) + index
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        except BaseException:
            sock.close()
            raise

    def _one(self, host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        return host, port, 0, self._index if ipaddress.ip_address(host).is_link_local else 0
