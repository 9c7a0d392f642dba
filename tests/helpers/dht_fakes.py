"""Peers, addresses and a small DHT in virtual time, for the tests of the DHT's core."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kachery_p2p.routing.dht.keys import BITS, kad_id
from kachery_p2p.routing.dht.lookup import Lookup

ED25519 = b"\x00\x24\x08\x01\x12\x20"


def peer_id(rng: random.Random) -> bytes:
    """A binary peer ID of an Ed25519 key."""
    return ED25519 + rng.randbytes(32)


def public_addr(rng: random.Random) -> bytes:
    """`/ip4/<public>/tcp/<port>`, each in another network as a rule."""
    return b"\x04" + bytes([rng.randrange(11, 99)]) + rng.randbytes(3) + b"\x06" + rng.randbytes(2)


def ip4(text: str, port: int = 4001) -> bytes:
    """`/ip4/<text>/tcp/<port>` in binary."""
    return b"\x04" + bytes(map(int, text.split("."))) + b"\x06" + port.to_bytes(2, "big")


def relayed(addr: bytes, relay: bytes) -> bytes:
    """The same through a relay: `<addr>/p2p/<relay>/p2p-circuit`."""
    return addr + b"\xa5\x03" + bytes([len(relay)]) + relay + b"\xa2\x02"


class Network:
    """Nodes with full routing tables of `k` peers a bucket. Some lie; some left, but are still in the tables."""

    def __init__(self, size: int, *, seed: int = 1, liars: float = 0.0, gone: float = 0.0, k: int = 20) -> None:
        self.rng = rng = random.Random(seed)
        self.k = k
        self.nodes = sorted((kad_id(peer), peer) for peer in (b"\x12\x20" + rng.randbytes(32) for _ in range(size)))
        self._places = [place for place, _ in self.nodes]
        peers = [peer for _, peer in self.nodes]
        self.liars = set(rng.sample(peers, int(size * liars)))
        honest = [peer for peer in peers if peer not in self.liars]
        self.gone = set(rng.sample(honest, int(len(honest) * gone)))
        self.alive = [peer for peer in honest if peer not in self.gone]
        self._liars = [(kad_id(peer), peer) for peer in self.liars]
        self._tables: dict[bytes, list[tuple[int, bytes]]] = {}
        #: Peers that liars made up.
        self.made_up: set[bytes] = set()

    def table(self, peer: bytes) -> list[tuple[int, bytes]]:
        """Whom a node knows: up to k peers for each length of common prefix."""
        table = self._tables.get(peer)
        if table is None:
            table = self._tables[peer] = []
            place = kad_id(peer)
            for number in range(24):
                low = ((place >> (BITS - 1 - number)) ^ 1) << (BITS - 1 - number)
                start, stop = (bisect_left(self._places, edge) for edge in (low, low + (1 << (BITS - 1 - number))))
                table += self.rng.sample(self.nodes[start:stop], min(self.k, stop - start))
        return table

    def named_by(self, peer: bytes, target: int) -> list[bytes]:
        """The honest answer of a node."""
        return [each for _, each in heapq.nsmallest(self.k, self.table(peer), key=lambda node: node[0] ^ target)]

    def nearest(self, target: int, *, liars: bool = False, count: int = 20) -> list[bytes]:
        """The nodes nearest to a place that are there: of all, or of the liars only."""
        nodes = self._liars if liars else [node for node in self.nodes if node[1] not in self.gone]
        return [each for _, each in heapq.nsmallest(count, nodes, key=lambda node: node[0] ^ target)]


#: What a liar answers: given the network and the target. None is silence.
Lie = Callable[[Network, int], "list[bytes] | None"]


def honest(network: Network, target: int) -> list[bytes] | None:
    """No lie; for networks without liars."""
    raise AssertionError


@dataclass
class Outcome:
    """What a simulated lookup came to."""

    lookup: Lookup
    seconds: float
    asked: list[bytes]
    nearest: list[bytes]

    def honest_nearest(self, network: Network) -> list[bytes]:
        return [peer for peer in self.nearest if peer not in network.liars]


def look_up(
    network: Network,
    target: int,
    lie: Lie = honest,
    *,
    made_up_answer: bool = False,
    dial_timeout: float = 5.0,
    latency: Callable[[bytes], float] | None = None,
    **options: Any,
) -> Outcome:
    """Run a lookup of an honest node to its end in virtual time."""
    rng = network.rng
    local = rng.choice(network.alive)
    lookup = Lookup(target, network.named_by(local, target), local=local, **options)
    nearest = network.nearest(target)
    lies: dict[bytes, list[bytes] | None] = {}
    events: list[tuple[float, int, bytes, bool]] = []
    asked: list[bytes] = []
    now = 0.0
    known = {peer for _, peer in network.nodes}
    while True:
        for peer in lookup.next(now):
            asked.append(peer)
            if peer in network.liars or peer not in known:
                lies[peer] = lie(network, target)
            there = peer in known and peer not in network.gone and lies.get(peer, []) is not None
            answers = there or (made_up_answer and peer not in known)
            delay = (latency(peer) if latency else rng.uniform(0.03, 0.3)) if answers else dial_timeout
            heapq.heappush(events, (now + delay, len(asked), peer, answers))
        if lookup.done:
            break
        assert events, "the lookup waits for nobody, and is not done"
        if events[0][0] > lookup.wake_at:
            now = max(now, lookup.wake_at) + 1e-6
            continue
        now, _, peer, answers = heapq.heappop(events)
        if not answers:
            lookup.failed(peer, now)
        elif peer in network.liars or peer not in known:
            lookup.answered(peer, lies[peer] or [], now)
        else:
            lookup.answered(peer, network.named_by(peer, target), now)
    return Outcome(lookup, now, asked, nearest)


def silence(network: Network, target: int) -> list[bytes] | None:
    """The liars do not answer."""
    return None


def each_other(network: Network, target: int) -> list[bytes] | None:
    """The liars name the nearest liars."""
    return network.nearest(target, liars=True)


def scattered(network: Network, target: int) -> list[bytes] | None:
    """The liars name some of the liars near the target, each of them others: so they come into all paths."""
    return network.rng.sample(network.nearest(target, liars=True, count=100), 20)


#: Places of made-up peers: near the target at will. A real liar finds such IDs by trial.
FORGED: dict[bytes, int] = {}


def made_up(network: Network, target: int) -> list[bytes] | None:
    """The liars name peers that are nearer than all real ones, new ones each time."""
    peers = [b"\x12\x20" + network.rng.randbytes(32) for _ in range(20)]
    for peer in peers:
        FORGED[peer] = target ^ network.rng.getrandbits(200)
    network.made_up.update(peers)
    return peers


def forged_kad_id(data: bytes) -> int:
    """`kad_id`, but made-up peers lie where their inventor wants them."""
    place = FORGED.get(data)
    return kad_id(data) if place is None else place
