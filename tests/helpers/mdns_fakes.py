"""Networks without sockets, for the tests of mDNS: everything sent is delivered to everybody, the sender included."""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Iterable

import base58
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import trio

from kachery_p2p.routing.mdns import Mdns
from kachery_p2p.routing.mdns.addresses import Interface, announced_on
from kachery_p2p.routing.mdns.interfaces import PORT, LinkSocket


def peer_id(number: int | None = None) -> str:
    """An Ed25519 peer ID: of that number, or a random one."""
    key = os.urandom(32) if number is None else number.to_bytes(32, "big")
    return base58.b58encode(b"\x00\x24\x08\x01\x12\x20" + key).decode()


def interface(*own: str, name: str = "eth0", index: int = 2, also: Iterable[str] = ("fe80::1/64",)) -> Interface:
    """An interface with these addresses (`10.1.0.1/24`), where our node listens on port 4001 of each."""
    networks = tuple(ipaddress.ip_interface(each) for each in (*own, *also))
    addrs = [f"/ip{each.version}/{each.ip}/tcp/4001" for each in networks]
    return Interface(name, index, networks, tuple(announced_on(networks, addrs)))


class Lan:
    """A network."""

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        #: all packets, with the time, the sender's address, and None or whom alone they were for
        self.sent: list[tuple[float, str, tuple[str, int] | None, bytes]] = []

    def deliver(self, data: bytes, sender: str, port: int = PORT) -> None:
        """A packet arrives at everybody."""
        for each in [each for each in self.sockets if not each.cut]:
            each.arrived(data, sender, port)


class FakeSocket:
    """A socket on a `Lan`."""

    def __init__(self, lan: Lan, address: str) -> None:
        self.lan, self.address = lan, address
        self.error: OSError | None = None
        self.broken: OSError | None = None  # raised by `receive`
        self.cut = False  # nothing gets through, in either direction
        self._waiting: list[tuple[bytes, str, int]] = []
        self._some = trio.Event()
        self._closed = False
        lan.sockets.append(self)

    def arrived(self, data: bytes, sender: str, port: int) -> None:
        self._waiting.append((data, sender, port))
        self._some.set()

    async def receive(self) -> list[tuple[bytes, str, int]]:
        await self._some.wait()
        if self._closed:
            raise trio.ClosedResourceError
        if self.broken is not None:
            raise self.broken
        self._some = trio.Event()
        packets, self._waiting = self._waiting, []
        return packets

    def send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.lan.sent.append((trio.current_time(), self.address, to, data))
        if to is None and not self.cut:
            self.lan.deliver(data, self.address)

    def close(self) -> None:
        assert not self._closed
        self._closed = True
        self.lan.sockets.remove(self)
        self._some.set()


class FakeMachine:
    """A machine with interfaces that can be changed while it runs."""

    def __init__(self, **lans: tuple[Lan, Interface]) -> None:
        self.lans = lans
        self.problems: list[str] = []
        self.opened: list[FakeSocket] = []

    def interfaces(self, own: Iterable[str]) -> list[Interface]:
        return [each for _, each in self.lans.values() if each.announced]

    def open(self, interface: Interface) -> tuple[list[LinkSocket], list[str]]:
        if self.problems:
            return [], list(self.problems)
        sock = FakeSocket(self.lans[interface.name][0], interface.ipv4 or "fe80::1")
        self.opened.append(sock)
        return [sock], []


class Node:
    """An `Mdns` on a fake machine, and what it reported."""

    def __init__(self, machine: FakeMachine, number: int) -> None:
        self.machine = machine
        self.peer = peer_id(number)
        self.found: list[tuple[float, str, list[str]]] = []
        self.gone: list[tuple[float, str]] = []
        self.mdns = Mdns(
            peer_id=self.peer,
            addresses=list,
            on_found=lambda peer, addrs: self.found.append((trio.current_time(), peer, addrs)),
            on_gone=lambda peer: self.gone.append((trio.current_time(), peer)),
            machine=machine,
            rng=random.Random(number),
        )
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            await self.mdns.run(task_status=task_status)


def node_on(lan: Lan, number: int) -> Node:
    """A node on a network, with the address 10.1.0.<number>."""
    return Node(FakeMachine(eth0=(lan, interface(f"10.1.0.{number}/24"))), number)


# --- what others send ----------------------------------------------------------------------------------------------


def message(response: bool, *records: str, additional: Iterable[str] = ()) -> bytes:
    """A packet of dnspython's making; records in the form of zone files, all names complete."""
    made = dns.message.Message(0)
    made.flags = dns.flags.QR | dns.flags.AA if response else dns.flags.Flag(0)
    for section, texts in ((made.answer, records), (made.additional, additional)):
        for text in texts:
            name, ttl, kind, data = text.split(None, 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made.to_wire()


def helia(name: str, peer: str, *addrs: str, ttl: int = 120) -> bytes:
    """An answer as @libp2p/mdns sends it: one TXT record for each address, all of them answers, nothing else."""
    own = f"{name}._p2p._udp.local."
    texts = [f'{own} {ttl} TXT "dnsaddr={addr}/p2p/{peer}"' for addr in addrs]
    return message(True, f"_p2p._udp.local. {ttl} PTR {own}", *texts)


def kubo(name: str, peer: str, *addrs: str, ttl: int = 3200) -> bytes:
    """An answer as go-libp2p's zeroconf sends it: one TXT record with all addresses, additional as are SRV and A."""
    own = f"{name}._p2p._udp.local."
    strings = " ".join(f'"dnsaddr={addr}/p2p/{peer}"' for addr in addrs)
    additional = [
        f"{own} {ttl} SRV 0 0 4001 {name}.local.",
        f"{own} {ttl} TXT {strings}",
        f"{name}.local. {ttl} A {addrs[0].split('/')[2]}",
    ]
    return message(True, f"_p2p._udp.local. {ttl} PTR {own}", additional=additional)


def kubo_goodbye(name: str) -> bytes:
    """What zeroconf sends when it is shut down: all records, as answers, with no time to live."""
    own = f"{name}._p2p._udp.local."
    return message(
        True,
        f"{own} 0 SRV 0 0 4001 {name}.local.",
        f'{own} 0 TXT "dnsaddr=/ip4/10.1.0.3/tcp/4001/p2p/{peer_id(3)}"',
        f"_p2p._udp.local. 0 PTR {own}",
        "_services._dns-sd._udp.local. 0 PTR _p2p._udp.local.",
        f"{name}.local. 0 A 10.1.0.3",
    )
