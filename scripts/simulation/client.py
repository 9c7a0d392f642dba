"""What a node does in the simulated network: lookups and sweeps, as the shells of the DHT and the announcer do them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.lookup import Lookup
from kachery_p2p.routing.dht.sweep import NetworkSize, RegionSweep
from kachery_p2p.routing.dht.table import RoutingTable
from scripts.simulation.world import Answer, K, World

#: Deliveries of one region under way at a time.
DELIVERIES = 16


class LookupRun:
    """One lookup in virtual time.

    Args:
        table: of the node that looks.
        all_closest: find the k closest; otherwise the first provider.
        on_done: called with this.
    """

    def __init__(
        self,
        world: World,
        table: RoutingTable,
        key: bytes,
        *,
        all_closest: bool,
        on_done: Callable[[LookupRun], None],
    ) -> None:
        self.key = key
        self.place = kad_id(key)
        self.requests = 0
        self.failures = 0
        self.found = False
        #: Steps from our table to the peer that knew a provider, or to the furthest of the closest.
        self.hops = 0
        self.seconds = 0.0
        self.closest: list[bytes] = []
        self._world = world
        self._table = table
        self._all = all_closest
        self._on_done = on_done
        self._began = world.now
        self._wake = float("inf")
        self._over = False
        seeds = table.nearest(self.place, K)
        self._depth = dict.fromkeys(seeds, 1)
        self._lookup = Lookup(self.place, seeds, local=table.local, all_closest=all_closest)
        world.at(world.now, self._step)

    def _step(self) -> None:
        if self._over:
            return
        world = self._world
        for peer in self._lookup.next(world.now):
            self.requests += 1
            answer = world.ask(peer, self.key, self.place, connected=False)
            world.at(world.now + answer.seconds, lambda peer=peer, answer=answer: self._told(peer, answer))
        if self._lookup.done:
            self._finish()
            return
        wake = self._lookup.wake_at
        if wake < self._wake or self._wake <= world.now:
            self._wake = wake
            world.at(max(wake, world.now + 0.001), self._step)

    def _told(self, peer: bytes, answer: Answer) -> None:
        world = self._world
        if answer.closer is None:
            self.failures += 1
            self._table.dead(peer, world.now)
        else:
            self._table.consider(peer, (), world.now)
        if self._over:
            return
        if answer.closer is None:
            self._lookup.failed(peer, world.now)
        else:
            depth = self._depth[peer] + 1
            for each in answer.closer:
                self._depth.setdefault(each, depth)
            self._lookup.answered(peer, answer.closer, world.now)
            if answer.providers and not self._all:
                self.found = True
                self.hops = depth - 1
                self._finish()
                return
        self._step()

    def _finish(self) -> None:
        self._over = True
        self.seconds = self._world.now - self._began
        self.closest = self._lookup.closest()
        if self._all:
            self.hops = max((self._depth[peer] for peer in self.closest), default=0)
        self._on_done(self)


@dataclass
class Costs:
    """What was sent to announce keys."""

    keys: int = 0
    lookups: int = 0
    requests: int = 0
    failures: int = 0
    deliveries: int = 0
    records: int = 0
    #: Of the honest ones among the true 20 closest, those that got the record, and all of them.
    placed: int = 0
    places: int = 0
    #: Keys that no honest node of the true closest got.
    lost: int = 0
    seconds: float = 0.0

    @property
    def messages_per_key(self) -> float:
        """Requests and deliveries (streams), for one key."""
        return (self.requests + self.deliveries) / max(1, self.keys)


class RegionRun:
    """A region announced, as the announcer does it: explored by lookups, then delivered."""

    def __init__(
        self,
        world: World,
        table: RoutingTable,
        keys: Sequence[bytes],
        size: NetworkSize,
        costs: Costs,
        on_done: Callable[[], None],
    ) -> None:
        self._world = world
        self._table = table
        self._keys = keys
        self._size = size
        self._costs = costs
        self._on_done = on_done
        self._sweep = RegionSweep(keys, zone_bits=size.zone_bits(), rng=random.Random(1))
        self._queue: deque[tuple[bytes, list[bytes]]] = deque()
        self._under_way = 0
        self._began = world.now
        self._finished = False
        self._explore()

    def _explore(self) -> None:
        for key in self._sweep.next():
            LookupRun(self._world, self._table, key, all_closest=True, on_done=self._looked)
        if self._sweep.done and not self._finished:
            self._finished = True
            self._queue.extend(self._sweep.deliveries().items())
            self._deliver()

    def _looked(self, run: LookupRun) -> None:
        costs = self._costs
        costs.lookups += 1
        costs.requests += run.requests
        costs.failures += run.failures
        partial = self._size.is_partial(len(run.closest))
        self._size.saw(run.place, [kad_id(peer) for peer in run.closest])
        if run.closest:
            self._sweep.found(run.key, run.closest, partial=partial)
        else:
            self._sweep.failed(run.key)
        self._explore()

    def _deliver(self) -> None:
        while self._queue and self._under_way < DELIVERIES:
            peer, keys = self._queue.popleft()
            taken, seconds = self._world.deliver(peer, keys)
            self._costs.deliveries += 1
            if taken:
                self._costs.records += len(keys)
            self._under_way += 1
            self._world.at(self._world.now + seconds, self._delivered)
        if not self._queue and not self._under_way:
            self._check()
            self._costs.keys += len(self._keys)
            self._costs.seconds += self._world.now - self._began
            self._on_done()

    def _delivered(self) -> None:
        self._under_way -= 1
        self._deliver()

    def _check(self) -> None:
        """Which of the nodes that should have the records do."""
        world, costs = self._world, self._costs
        for key in self._keys:
            right = world.honest_closest(kad_id(key))
            have = sum(key in world.nodes[peer].records for peer in right)
            costs.placed += have
            costs.places += len(right)
            costs.lost += not have
