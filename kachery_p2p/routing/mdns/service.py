"""`Mdns`: finding, and being found by, the nodes on the same network.

One task looks at the interfaces every half minute, one reads each socket, and one sends what is due and reports what
has changed. All decisions are made by the cores (`Book`, `InterfaceSchedule`, `SenderPace`); nothing that comes from
the network ends a task.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
import string
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.mdns import limits, packets
from kachery_p2p.routing.mdns.addresses import Interface
from kachery_p2p.routing.mdns.book import Book
from kachery_p2p.routing.mdns.interfaces import PORT, LinkSocket, Machine, System
from kachery_p2p.routing.mdns.pace import SenderPace
from kachery_p2p.routing.mdns.schedule import InterfaceSchedule
from kachery_p2p.waking import Flag, Signal

log = logging.getLogger("kachery_p2p.routing.mdns")

_LABEL_CHARACTERS = string.ascii_lowercase + string.digits


@dataclass
class _Counters:
    """Packets, by what became of them. `other`: about printers and the like, not read; `dropped`: one flood or more."""

    sent: int = 0
    received: int = 0
    other: int = 0
    malformed: int = 0
    dropped: int = 0


@dataclass(eq=False)
class _Link:
    """An interface in use."""

    interface: Interface
    schedule: InterfaceSchedule
    sockets: list[LinkSocket] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    #: whether nothing could be sent the last time, or a socket cannot be read any more
    mute: bool = False
    deaf: bool = False
    services_wanted: bool = False


class Mdns:
    """Discovery of peers on the local network (libp2p mdns specification).

    Args:
        peer_id: ours, base58.
        addresses: gives the multiaddrs that we listen on, with or without `/p2p/<peer ID>`; asked again every half
            minute. Only interfaces that have one of these addresses are used: none, and no socket, while there is
            nothing but loopback.
        on_found: called with a peer ID and its multiaddrs (without the peer ID, best first) when the peer appears,
            comes back, or has other addresses.
        on_gone: called with a peer ID when the peer said goodbye or was not heard of for the time it had set.
        machine: network interfaces and sockets; for tests.
        rng: randomness; for tests.

    Where port 5353 cannot be had, or multicast does not work, `status()` says so; it is tried again every half minute.
    """

    name = "mdns"

    def __init__(
        self,
        *,
        peer_id: str,
        addresses: Callable[[], list[str]],
        on_found: Callable[[str, list[str]], None],
        on_gone: Callable[[str], None] | None = None,
        machine: Machine | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._peer_id = peer_id
        self._addresses = addresses
        self._on_found, self._on_gone = on_found, on_gone
        self._machine: Machine = System() if machine is None else machine
        self._rng = random.Random() if rng is None else rng
        length = self._rng.randint(32, 63)
        #: the random name under which this node is announced
        self.label = "".join(self._rng.choices(_LABEL_CHARACTERS, k=length)).encode()
        self._book = Book(peer_id)
        self._links: dict[tuple[str, int], _Link] = {}
        self._pace = SenderPace(0.0)
        self._counters = _Counters()
        self._last_error: str | None = None
        self._nursery: trio.Nursery | None = None
        self._settled_at = -math.inf
        #: there is something to send or to report; a peer came
        self._work, self._news = Flag(), Signal()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for peers until cancelled; then say goodbye. Raises nothing."""
        now = trio.current_time()
        self._pace = SenderPace(now)
        self._settled_at = now + limits.SETTLE_SECONDS
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._look()
                nursery.start_soon(self._watch)
                nursery.start_soon(self._drive)
                task_status.started()
        finally:
            self._nursery = None
            for link in list(self._links.values()):
                self._leave(link)

    # --- interfaces ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await trio.sleep(limits.LOOK_INTERVAL)
            self._look()

    def _look(self) -> None:
        """Take up new interfaces, leave old ones, and try again what failed."""
        own = [each.partition("/p2p/")[0] for each in self._addresses()]
        try:
            found = {(each.name, each.index): each for each in self._machine.interfaces(own)}
        except OSError as error:
            self._trouble(f"The network interfaces cannot be listed: {error.strerror or error}.")
            return
        now = trio.current_time()
        for key, link in list(self._links.items()):
            old, new = link.interface, found.get(key)
            if new is None or link.mute or link.deaf or (new.ipv4, new.ipv6) != (old.ipv4, old.ipv6):
                self._leave(link)
                if new is None:
                    self._book.leave(old.index, now)
            else:
                link.interface = new
                if new.announced != old.announced:
                    # Kubo takes new addresses of a name it knows only after a goodbye.
                    self._send(link, packets.goodbye(self.label))
                    link.schedule.announce(now)
                if link.problems:
                    self._open(link)
        for key, interface in found.items():
            if key not in self._links:
                link = self._links[key] = _Link(interface, InterfaceSchedule(now, self._rng))
                self._open(link)
        self._work.set()

    def _open(self, link: _Link) -> None:
        """Open the sockets of an interface; where some are open, only if now there are more."""
        assert self._nursery is not None
        sockets, problems = self._machine.open(link.interface)
        if link.problems and len(problems) >= len(link.problems):
            for each in sockets:
                each.close()
            return
        for each in link.sockets:
            each.close()
        link.sockets, link.problems = sockets, problems
        link.schedule = InterfaceSchedule(trio.current_time(), self._rng)
        for problem in problems:
            self._trouble(f"{problem} It is tried again every {limits.LOOK_INTERVAL:.0f} s.")
        for each in sockets:
            self._nursery.start_soon(self._receive, link, each)

    def _leave(self, link: _Link) -> None:
        """Say goodbye on an interface, and close its sockets."""
        self._send(link, packets.goodbye(self.label))
        for each in link.sockets:
            each.close()
        link.sockets = []
        del self._links[link.interface.name, link.interface.index]

    def _trouble(self, problem: str) -> None:
        if problem != self._last_error:
            log.info("%s", problem)
        self._last_error = problem

    # --- sending ---------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Send what is due, and report what has changed."""
        while True:
            now = trio.current_time()
            next_at = math.inf
            for link in self._links.values():
                refresh_at = self._book.refresh_at(link.interface.index)
                if link.schedule.take_query(refresh_at, now):
                    self._send(link, packets.query(self._book.known(link.interface.index, now)))
                if link.schedule.take_answer(now):
                    self._announce(link)
                next_at = min(next_at, link.schedule.next_at(refresh_at))
            self._report(now)
            next_at = min(next_at, self._book.next_at())
            # Packets that come in crowds are worked off in rounds.
            await trio.sleep(limits.ROUND_PAUSE)
            with trio.move_on_at(next_at):
                await self._work.take()

    def _announce(self, link: _Link) -> None:
        if link.services_wanted:
            link.services_wanted = False
            self._send(link, packets.services())
        for data in packets.answers(self.label, self._peer_id, link.interface.announced):
            self._send(link, data)

    def _send(self, link: _Link, data: bytes) -> None:
        """Send to everybody on an interface, over IPv4 and IPv6."""
        errors = []
        for each in link.sockets:
            try:
                each.send(data)
                self._counters.sent += 1
            except OSError as error:
                errors.append(error)
                self._trouble(f"Sending on {link.interface.name} failed (mDNS): {error.strerror or error}.")
        link.mute = bool(errors) and len(errors) == len(link.sockets)

    # --- receiving -------------------------------------------------------------------------------------------------

    async def _receive(self, link: _Link, sock: LinkSocket) -> None:
        while True:
            try:
                received = await sock.receive()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._trouble(f"Receiving on {link.interface.name} failed (mDNS): {error.strerror or error}.")
                link.deaf = True
                return
            for data, host, port in received:
                self._take(self._link_of(link, host), sock, data, host, port)

    def _link_of(self, link: _Link, host: str) -> _Link:
        """The interface that a packet came by.

        A system may hand IPv4 packets of one interface to the socket of another (Linux was seen to, with several
        sockets on one port), so the sender's network decides.
        """
        ip = ipaddress.ip_address(host)
        if ip.is_link_local or link.interface.reaches(ip):
            return link
        return next((each for each in self._links.values() if each.interface.reaches(ip)), link)

    def _take(self, link: _Link, sock: LinkSocket, data: bytes, host: str, port: int) -> None:
        """One packet."""
        self._counters.received += 1
        now = trio.current_time()
        if not packets.about_libp2p(data):
            self._counters.other += 1
            return
        if not self._pace.admit(host, now):
            self._counters.dropped += 1
            return
        try:
            packet = packets.decode(data)
        except MalformedMessage as error:
            self._counters.malformed += 1
            log.debug("from %s: %s", host, error)
            return
        if not packet.response:
            self._answer(link, sock, packet, host, port, now)
        elif port == PORT:  # RFC 6762, 6: answers from another port are not to be believed
            for said in packets.heard(packet):
                if said.name != self.label:
                    self._book.hear(said, link.interface, host, now)
            self._work.set()

    def _answer(self, link: _Link, sock: LinkSocket, packet: packets.Packet, host: str, port: int, now: float) -> None:
        about_us, services = packets.asks_for(packet, self.label), packets.asks_for_services(packet)
        if not about_us and not services:
            return
        if port != PORT:
            self._answer_one(link, sock, packet, host, port, now)
            return
        if not packet.records and any(each.name == packets.SERVICE for each in packet.questions):
            link.schedule.heard_question(now)
        if services or not packets.knows(packet, self.label):
            link.services_wanted |= services
            link.schedule.asked(now)
            self._work.set()

    def _answer_one(
        self, link: _Link, sock: LinkSocket, packet: packets.Packet, host: str, port: int, now: float
    ) -> None:
        """Answer a one-shot resolver, such as `dig`, that wants to be answered alone (RFC 6762, 6.7).

        Only on the link: nobody shall direct our answers at a stranger.
        """
        if (
            len(packet.questions) != 1
            or not link.interface.reaches(ipaddress.ip_address(host))
            or not link.schedule.may_answer_one(now)
        ):
            return
        if packets.asks_for_services(packet):
            replies = [packets.services(to=packet)]
        else:
            # One packet: more would not be waited for.
            replies = list(packets.answers(self.label, self._peer_id, link.interface.announced, to=packet))[:1]
        for data in replies:
            try:
                sock.send(data, (host, port))
                self._counters.sent += 1
            except OSError as error:
                log.debug("answering %s: %s", host, error)

    # --- what is known ---------------------------------------------------------------------------------------------

    def _report(self, now: float) -> None:
        for report in self._book.take_reports(now):
            if report.addrs:
                log.debug("found %s at %s", report.peer, ", ".join(report.addrs))
                self._news.notify()
                self._on_found(report.peer, list(report.addrs))
            elif self._on_gone is not None:
                self._on_gone(report.peer)

    def peers(self) -> dict[str, list[str]]:
        """The peers on the local network, with their multiaddrs, best first."""
        return {peer: list(addrs) for peer, addrs in self._book.peers().items()}

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Peers on the local network, any of which may have the block: mDNS does not know what they have.

        Ends at once, except in the first seconds, while answers are still coming.
        """
        told: set[str] = set()
        while len(told) < limits.MAX_PROVIDERS:
            # Looked up anew after each yield: no peer that came meanwhile is missed by waiting for the next one.
            new = next((each for each in self._book.peers().items() if each[0] not in told), None)
            if new is not None:
                told.add(new[0])
                yield Provider(*new, self.name)
            elif not self._links or trio.current_time() >= self._settled_at:
                return
            else:
                with trio.move_on_at(self._settled_at):
                    await self._news.wait()

    def status(self) -> dict[str, Any]:
        """Interfaces in use, peers seen, packets, the last error; plain JSON values, times in seconds."""
        try:
            ages = self._book.ages(trio.current_time())
        except RuntimeError:  # asked from outside of trio
            ages = {}
        unused = asdict(self._book.counters)
        return {
            "state": self._state(),
            "interfaces": [
                {
                    "name": link.interface.name,
                    "announced": list(link.interface.announced),
                    "problems": list(link.problems),
                }
                for link in self._links.values()
            ],
            "peers": [
                {
                    "peer": peer,
                    "addrs": list(addrs),
                    "known_for": round(ages[peer][0], 1) if peer in ages else None,
                    "heard_ago": round(ages[peer][1], 1) if peer in ages else None,
                }
                for peer, addrs in self._book.peers().items()
            ],
            "packets": asdict(self._counters),
            "not_believed": unused,
            "last_error": self._last_error,
        }

    def _state(self) -> str:
        """In plain words."""
        if self._nursery is None:
            return "Not running."
        if not self._links:
            return "There is no network interface to look for peers on: the node listens on this machine only."
        good = [link for link in self._links.values() if link.sockets and not link.mute and not link.deaf]
        working = [link.interface.name for link in good]
        if not working:
            return f"Peers on the local network cannot be found: {self._last_error}"
        return f"Looking for peers on {', '.join(working)}."
