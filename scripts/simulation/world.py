"""Ten thousand nodes in virtual time: who is there, what each one answers, and how long that takes.

Every node has a real `RoutingTable`. At the beginning these are filled from the list of all nodes, which is what a
network comes to that has run for a while. From then on nodes leave and others join, and the tables go stale: a node
notices that another one left when it checks it, up to ten minutes later; a newcomer is known to those it met while
it filled its own table.

How long nodes stay is log-normal with a long tail (an assumption): many leave within the hour, some stay for weeks. At
any time most of the nodes present are of the second kind.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.table import RoutingTable

K = 20
HOUR = 3600.0

#: How long nodes stay: median, and the standard deviation of the logarithm.
MEDIAN_SESSION = 1.5 * HOUR
SESSION_SPREAD = 2.0
#: A node checks each peer of its table so often.
CHECK_EVERY = 600.0
#: Round trips between two nodes: median and spread of the logarithm. The first question also makes a connection.
MEDIAN_ROUND_TRIP, ROUND_TRIP_SPREAD = 0.12, 0.5
DIAL_ROUND_TRIPS = 3
#: A dial to a node that left: half of the addresses refuse, of the others nothing is heard.
REFUSED_AFTER, DIAL_TIMEOUT = 0.3, 5.0
#: A connected node that does not answer.
REQUEST_TIMEOUT = 10.0
#: IDs that the inventors have made up beforehand, for each node that exists: whatever is looked for, twenty of them
#: are nearer to it than nearly all that exist. Each inventor names some of the nearest so many.
MADE_UP_IDS, NEAREST_MADE_UP = 13.1072, 100


class Manners(IntEnum):
    """How a node behaves."""

    HONEST = 0
    #: Names peers that do not exist, nearer to the target than any that does.
    INVENTOR = 1
    #: Names only liars, as many and as near as there are.
    CLIQUE = 2
    #: Names the right peers, but takes no record and denies having any.
    DENIER = 3
    #: Takes connections and answers nothing.
    SILENT = 4


LIARS = (Manners.INVENTOR, Manners.CLIQUE, Manners.DENIER, Manners.SILENT)


@dataclass(eq=False, slots=True)
class Node:
    """One server of the DHT."""

    peer: bytes
    place: int
    manners: Manners
    joined: float
    leaves: float
    table: RoutingTable
    maintained: float = 0.0
    records: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Answer:
    """What a question brought: None for `closer` when nothing came."""

    closer: list[bytes] | None
    providers: bool
    seconds: float


class World:
    """The network.

    Args:
        nodes: servers at any time.
        liars: the part of them that lies, split evenly among the kinds.
        churn: whether nodes leave and join.
    """

    def __init__(self, nodes: int, *, liars: float, seed: int, churn: bool = True) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.liars = liars
        self.nodes: dict[bytes, Node] = {}
        #: When peers left that are gone.
        self.left: dict[bytes, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._born = 0
        #: All nodes present, and the liars of the clique, by place.
        self._places: list[tuple[int, bytes]] = []
        self._clique: list[tuple[int, bytes]] = []
        self._made_up: list[tuple[int, bytes]] = []
        if liars:
            invented = (_peer_id(b"made up %d" % n) for n in range(round(MADE_UP_IDS * nodes)))
            # Hashed here: `kad_id` remembers, and has better things to remember.
            self._made_up = sorted((int.from_bytes(sha256(peer).digest(), "big"), peer) for peer in invented)
        self.joins = 0
        self._populate(nodes, churn)

    # --- time

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something done at a time."""
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, what))

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until a condition holds."""
        while self._events and not until():
            self.now, _, what = heapq.heappop(self._events)
            what()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    # --- who is there

    def _populate(self, count: int, churn: bool) -> None:
        mu = math.log(MEDIAN_SESSION)
        for _ in range(count):
            # Whoever is found present at some moment is one of those that stay long: the law is biased by the length.
            stays = math.exp(self.rng.gauss(mu + SESSION_SPREAD**2, SESSION_SPREAD)) * self.rng.random()
            self._add(self.now + stays if churn else math.inf)
        for node in list(self.nodes.values()):
            self.fill(node.table)
            if churn:
                self.at(node.leaves, lambda node=node: self._leave(node))

    def _add(self, leaves: float) -> Node:
        self._born += 1
        peer = _peer_id(b"peer %d" % self._born)
        manners = self.rng.choice(LIARS) if self.rng.random() < self.liars else Manners.HONEST
        table = RoutingTable(peer, rng=self.rng)
        node = self.nodes[peer] = Node(peer, kad_id(peer), manners, self.now, leaves, table, maintained=self.now)
        insort(self._places, (node.place, peer))
        if manners is Manners.CLIQUE:
            insort(self._clique, (node.place, peer))
        return node

    def _leave(self, node: Node) -> None:
        del self.nodes[node.peer]
        self.left[node.peer] = self.now
        for places in (self._places, self._clique):
            at = bisect_left(places, (node.place, node.peer))
            if at < len(places) and places[at][1] == node.peer:
                del places[at]
        self._join()

    def _join(self) -> None:
        self.joins += 1
        stays = math.exp(self.rng.gauss(math.log(MEDIAN_SESSION), SESSION_SPREAD))
        node = self._add(self.now + stays)
        self.at(node.leaves, lambda: self._leave(node))
        self.fill(node.table)
        # Those that it asked while it filled its table take it into theirs, where there is room.
        for other in [*self.true_closest(node.place, K + 1), *node.table]:
            if other != node.peer:
                self.nodes[other].table.consider(node.peer, (), self.now)

    def fill(self, table: RoutingTable) -> None:
        """Fill a table as lookups of its own ID and into each bucket do."""
        own = table.local_id
        for bits in range(256):
            shift = 255 - bits
            prefix = (own >> shift) ^ 1
            start = bisect_left(self._places, (prefix << shift, b""))
            end = bisect_left(self._places, ((prefix + 1) << shift, b""))
            for at in self.rng.sample(range(start, end), min(K, end - start)):
                table.consider(self._places[at][1], (), self.now)
            if not self._any_within(own, bits + 1):
                break

    def _any_within(self, place: int, bits: int) -> bool:
        shift = 256 - bits
        prefix = place >> shift
        start = bisect_left(self._places, (prefix << shift, b""))
        end = bisect_left(self._places, ((prefix + 1) << shift, b""))
        return end - start > 1

    def true_closest(self, place: int, count: int = K) -> list[bytes]:
        """The closest nodes that are there, honest or not."""
        return _closest(self._places, place, count)

    def honest_closest(self, place: int, count: int = K) -> list[bytes]:
        """The closest honest nodes among so many closest ones of all."""
        return [peer for peer in self.true_closest(place, count) if self.nodes[peer].manners is Manners.HONEST]

    def random_honest(self) -> Node:
        """Any honest node that is there."""
        while True:
            node = self.nodes[self.rng.choice(self._places)[1]]
            if node.manners is Manners.HONEST:
                return node

    def maintain(self, table: RoutingTable, since: float) -> float:
        """What the checks of a node have found out by now: peers that left before it last asked them are gone.

        Returns:
            The time, to be given as `since` the next time.
        """
        if self.now - since < CHECK_EVERY / 10:
            return since
        for peer in list(table):
            gone = self.left.get(peer)
            if gone is not None:
                # Each peer is checked every ten minutes, each pair at its own moment.
                phase = CHECK_EVERY * ((peer[-1] ^ table.local[-1]) + 0.5) / 256
                checked = math.floor((self.now - phase) / CHECK_EVERY) * CHECK_EVERY + phase
                if gone <= checked:
                    table.dead(peer, self.now)
        return self.now

    # --- questions

    def ask(self, peer: bytes, key: bytes, place: int, *, connected: bool) -> Answer:
        """Ask a node for the peers closest to a key, and for its providers."""
        node = self.nodes.get(peer)
        trip = MEDIAN_ROUND_TRIP * math.exp(self.rng.gauss(0, ROUND_TRIP_SPREAD))
        if node is None:
            return Answer(None, False, REFUSED_AFTER if self.rng.random() < 0.5 else DIAL_TIMEOUT)
        seconds = trip if connected else trip * (1 + DIAL_ROUND_TRIPS)
        if node.manners is Manners.SILENT:
            return Answer(None, False, seconds + REQUEST_TIMEOUT)
        if node.manners is Manners.INVENTOR:
            named = self.rng.sample(_closest(self._made_up, place, NEAREST_MADE_UP), K)
            return Answer(named, False, seconds)
        if node.manners is Manners.CLIQUE:
            return Answer(_closest(self._clique, place, K), False, seconds)
        node.maintained = self.maintain(node.table, node.maintained)
        return Answer(node.table.nearest(place, K), key in node.records, seconds)

    def deliver(self, peer: bytes, keys: Sequence[bytes]) -> tuple[bool, float]:
        """Give a node records; whether it took the bytes, and the seconds."""
        node = self.nodes.get(peer)
        if node is None:
            return False, REFUSED_AFTER if self.rng.random() < 0.5 else DIAL_TIMEOUT
        if node.manners is Manners.HONEST:
            node.records.update(keys)
        return True, MEDIAN_ROUND_TRIP * math.exp(self.rng.gauss(0, ROUND_TRIP_SPREAD))


def _peer_id(seed: bytes) -> bytes:
    """A binary peer ID as of an Ed25519 key."""
    return b"\x00\x24\x08\x01\x12\x20" + sha256(seed).digest()


def _closest(places: list[tuple[int, bytes]], place: int, count: int) -> list[bytes]:
    """The `count` entries closest to a place, of a sorted list."""
    bits = max(0, (len(places) // max(1, count)).bit_length() - 1)
    while True:
        shift = 256 - bits
        prefix = place >> shift
        start = bisect_left(places, (prefix << shift, b""))
        end = bisect_left(places, ((prefix + 1) << shift, b""))
        if end - start >= count or bits == 0:
            near = sorted(places[start:end], key=lambda entry: entry[0] ^ place)
            return [peer for _, peer in near[:count]]
        bits -= 1
