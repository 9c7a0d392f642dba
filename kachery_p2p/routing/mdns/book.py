"""Which peers were heard of on the local network. Sans-IO.

A node announces itself under a random name, on each interface by itself; one peer may therefore be known under several
names (it was started again) and on several interfaces (a cable and a radio). A peer's addresses are those of all its
records that still hold. `take_reports` says what changed, each peer at most once in `limits.REPORT_PAUSE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from kachery_p2p.routing.mdns import limits
from kachery_p2p.routing.mdns.addresses import Interface, believable
from kachery_p2p.routing.mdns.packets import Heard


@dataclass(slots=True)
class _Address:
    heard: float
    expires: float
    near: bool


@dataclass(slots=True)
class _Node:
    """What one random name said on one interface."""

    peer: str
    sender: str
    ttl: float
    heard: float
    addrs: dict[str, _Address] = field(default_factory=dict)
    leaving: bool = False
    #: when the last of its addresses expires, and when the first does
    expires: float = 0.0
    soonest: float = 0.0

    def expire_by(self, when: float, older_than: float = math.inf) -> None:
        """Let addresses last heard before `older_than` expire at `when`, if they would later."""
        for each in self.addrs.values():
            if each.heard < older_than:
                each.expires = min(each.expires, when)
        self.note()

    def note(self) -> None:
        """The addresses have changed."""
        times = [each.expires for each in self.addrs.values()]
        self.expires, self.soonest = max(times, default=-math.inf), min(times, default=-math.inf)


@dataclass(slots=True)
class _Peer:
    nodes: dict[tuple[int, bytes], _Node] = field(default_factory=dict)
    first: float = 0.0
    #: when it was reported last, and the addresses of that time; None: as gone, or never
    reported: float = -math.inf
    told: frozenset[str] | None = None


@dataclass(frozen=True)
class Report:
    """A peer that is there, with its addresses, best first; or one that is gone, without any."""

    peer: str
    addrs: tuple[str, ...]


@dataclass
class BookCounters:
    """What was not believed."""

    own_peer_id: int = 0
    without_address: int = 0
    refused: int = 0


class Book:
    """Nodes and peers that were heard of.

    Args:
        own: our peer ID. What is said about it by others is not believed.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._nodes: dict[tuple[int, bytes], _Node] = {}
        self._peers: dict[str, _Peer] = {}
        self._dirty: dict[str, None] = {}
        self._senders: dict[str, int] = {}
        self.counters = BookCounters()

    # --- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, said: Heard, interface: Interface, sender: str, now: float) -> None:
        """A node was announced, or said goodbye, on an interface; `sender` is the IP address it came from."""
        key = (interface.index, said.name)
        node = self._nodes.get(key)
        if said.ttl == 0:
            if node is not None:
                node.leaving = True
                node.expire_by(now + limits.GOODBYE_GRACE)
            return
        found = [each for text in said.texts if (each := believable(text, interface)) is not None]
        if not found:
            self.counters.without_address += bool(said.texts)
            return
        # One name speaks for one peer. What it says of others is not believed.
        peer = found[0].peer if node is None else node.peer
        found = [each for each in found if each.peer == peer]
        if peer == self._own:
            self.counters.own_peer_id += 1
            return
        if node is None:
            node = self._admit(key, peer, sender, now)
            if node is None:
                self.counters.refused += 1
                return
        node.heard, node.leaving = now, False
        node.ttl = min(max(said.ttl, limits.MIN_TTL), limits.MAX_TTL)
        if said.flush:
            # Others of the same second are the rest of one long announcement.
            node.expire_by(now + limits.GOODBYE_GRACE, older_than=now - limits.GOODBYE_GRACE)
        for each in found[: limits.MAX_ADDRESSES]:
            node.addrs.pop(each.addr, None)
            node.addrs[each.addr] = _Address(now, now + node.ttl, each.near)
        while len(node.addrs) > limits.MAX_ADDRESSES:
            del node.addrs[next(iter(node.addrs))]
        node.note()
        self._dirty[peer] = None

    def _admit(self, key: tuple[int, bytes], peer: str, sender: str, now: float) -> _Node | None:
        """Make room for a node; None when its sender has enough, or all have."""
        count = self._senders.get(sender, 0)
        if count >= limits.MAX_NODES_PER_SENDER or len(self._nodes) >= limits.MAX_NODES:
            return None
        self._senders[sender] = count + 1
        node = self._nodes[key] = _Node(peer, sender, 0, now)
        entry = self._peers.get(peer)
        if entry is None:
            entry = self._peers[peer] = _Peer(first=now)
        entry.nodes[key] = node
        return node

    def leave(self, index: int, now: float) -> None:
        """An interface is not in use any more: what was heard on it holds no longer."""
        for key, node in self._nodes.items():
            if key[0] == index:
                node.expire_by(now)
        self._expire(now)

    def _expire(self, now: float) -> None:
        for key, node in [(key, node) for key, node in self._nodes.items() if node.soonest <= now]:
            for addr in [addr for addr, each in node.addrs.items() if each.expires <= now]:
                del node.addrs[addr]
            node.note()
            self._dirty[node.peer] = None
            if not node.addrs:
                del self._nodes[key]
                del self._peers[node.peer].nodes[key]
                self._senders[node.sender] -= 1
                if not self._senders[node.sender]:
                    del self._senders[node.sender]

    # --- telling ---------------------------------------------------------------------------------------------------

    def take_reports(self, now: float) -> list[Report]:
        """What has changed and not been told yet."""
        self._expire(now)
        reports = []
        for peer in list(self._dirty):
            entry = self._peers[peer]
            if entry.reported + limits.REPORT_PAUSE > now:
                continue
            del self._dirty[peer]
            addrs = self._addresses(entry)
            known = frozenset(addrs)
            if addrs and known != entry.told:
                entry.told, entry.reported = known, now
                reports.append(Report(peer, addrs))
            elif not addrs:
                if entry.told is not None:
                    entry.told, entry.reported = None, now
                    reports.append(Report(peer, ()))
                # It is remembered for a moment: who comes and goes all the time is reported once in a while only.
                self._dirty[peer] = None
        for peer in [peer for peer in self._dirty if self._forgettable(self._peers[peer], now)]:
            del self._dirty[peer], self._peers[peer]
        return reports

    @staticmethod
    def _forgettable(entry: _Peer, now: float) -> bool:
        return not entry.nodes and entry.told is None and entry.reported + limits.REPORT_PAUSE <= now

    @staticmethod
    def _addresses(entry: _Peer) -> tuple[str, ...]:
        """The node heard last first, and of each what is near before what is not."""
        found: dict[str, None] = {}
        for node in sorted(entry.nodes.values(), key=lambda node: -node.heard):
            for addr, _ in sorted(node.addrs.items(), key=lambda item: not item[1].near):
                found[addr] = None
        return tuple(found)

    def next_at(self) -> float:
        """When `take_reports` has something to do again, if nothing is heard."""
        times = [node.soonest for node in self._nodes.values()]
        times += [self._peers[peer].reported + limits.REPORT_PAUSE for peer in self._dirty]
        return min(times, default=math.inf)

    # --- asking again ----------------------------------------------------------------------------------------------

    def refresh_at(self, index: int) -> float:
        """When a record heard on an interface should be asked for again, before it expires."""
        times = (
            node.expires - (1 - limits.REFRESH_AT) * node.ttl
            for key, node in self._nodes.items()
            if key[0] == index and not node.leaving
        )
        return min(times, default=math.inf)

    def known(self, index: int, now: float) -> Iterator[tuple[bytes, float]]:
        """Name and remaining seconds of the nodes on an interface that need not answer a question now."""
        for key, node in self._nodes.items():
            if key[0] == index and node.expires - now > node.ttl / 2:
                yield key[1], node.expires - now

    # --- what is known ---------------------------------------------------------------------------------------------

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The peers that are there, with their addresses, best first."""
        return {peer: addrs for peer, entry in self._peers.items() if (addrs := self._addresses(entry))}

    def ages(self, now: float) -> dict[str, tuple[float, float]]:
        """For each peer, the seconds since it was heard first and last."""
        return {
            peer: (now - entry.first, now - max(node.heard for node in entry.nodes.values()))
            for peer, entry in self._peers.items()
            if entry.nodes
        }
