"""The measurements: lookups with and without liars, and what announcing costs for one CID and for many."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kachery_p2p.routing.dht.keys import BITS, kad_id
from kachery_p2p.routing.dht.sweep import NetworkSize
from kachery_p2p.routing.dht.table import RoutingTable
from scripts.simulation.client import Costs, LookupRun, RegionRun
from scripts.simulation.world import HOUR, World

#: Lookups under way at a time while many are measured.
AT_ONCE = 50
#: Regions under way at a time when there is no schedule to keep.
REGIONS_AT_ONCE = 3


@dataclass(frozen=True)
class Settings:
    """What is simulated."""

    nodes: int = 10_000
    liars: float = 0.2
    seed: int = 1
    #: Lookups of each kind.
    lookups: int = 1000
    #: CIDs to announce together.
    cids: tuple[int, ...] = (1, 1000, 100_000)
    #: CIDs of each number that are looked for afterwards.
    sample: int = 500
    #: Every CID is announced so often.
    interval: float = 22 * HOUR
    #: Time that passes before anything is measured, so that tables are as stale as they come to be.
    warm_up: float = 2 * HOUR

    def quick(self) -> Settings:
        """The same in some seconds."""
        return replace(self, nodes=1000, lookups=200, cids=(1, 100, 10_000), sample=200)


@dataclass
class Lookups:
    """What a number of lookups came to."""

    what: str
    tried: int = 0
    found: int = 0
    requests: float = 0.0
    failures: float = 0.0
    hops: float = 0.0
    #: Median and 95th percentile, in virtual seconds.
    median: float = 0.0
    slow: float = 0.0
    #: Of the honest among the true 20 closest, the part that was found (only where all closest are sought).
    right: float = 0.0


@dataclass
class Announcing:
    """What announcing a number of CIDs came to."""

    costs: Costs
    #: Lookups for a sample of them afterwards.
    later: Lookups
    #: How long after the announcements, in hours, from and to.
    age: tuple[float, float]


@dataclass
class Results:
    """All that was measured."""

    settings: Settings
    #: Without liars and with.
    honest: list[Lookups] = field(default_factory=list)
    lying: list[Lookups] = field(default_factory=list)
    announcing: list[Announcing] = field(default_factory=list)
    joins: int = 0
    hours: float = 0.0

    @property
    def one_lookup(self) -> float:
        """Requests of the lookup by which one CID is announced, in the same network."""
        return self.lying[0].requests

    @property
    def kept(self) -> bool:
        """Whether lookups work and the greatest sweep costs less than 1/20 of a lookup for each CID."""
        most = self.announcing[-1]
        return (
            all(each.found >= 0.95 * each.tried for each in [*self.honest, *self.lying, most.later])
            and most.costs.messages_per_key < self.one_lookup / 20
        )


def measure(settings: Settings, say: Callable[[str], None]) -> Results:
    """Run all measurements."""
    results = Results(settings)
    say(f"{settings.nodes} nodes without liars")
    results.honest = _lookups(_world(settings, 0.0), settings)
    say(f"{settings.nodes} nodes, {settings.liars:.0%} of them lying")
    world = _world(settings, settings.liars)
    results.lying = _lookups(world, settings)
    for count in settings.cids:
        say(f"announcing {count} CIDs")
        results.announcing.append(_announce(world, settings, count))
    results.joins = world.joins
    results.hours = world.now / HOUR
    return results


def _world(settings: Settings, liars: float) -> World:
    world = World(settings.nodes, liars=liars, seed=settings.seed)
    world.pass_time(settings.warm_up)
    return world


def made_keys(count: int, rng: random.Random) -> list[bytes]:
    """Multihashes of blocks that nobody has."""
    return [b"\x12\x20" + rng.randbytes(32) for _ in range(count)]


def _run_lookups(world: World, keys: Sequence[bytes], *, all_closest: bool) -> list[LookupRun]:
    """Each key looked up by a node of its own, some at a time."""
    done: list[LookupRun] = []
    left = list(reversed(keys))

    def begin() -> None:
        if left:
            node = world.random_honest()
            node.maintained = world.maintain(node.table, node.maintained)
            LookupRun(world, node.table, left.pop(), all_closest=all_closest, on_done=ended)

    def ended(run: LookupRun) -> None:
        done.append(run)
        begin()

    for _ in range(min(AT_ONCE, len(keys))):
        begin()
    world.run(lambda: len(done) == len(keys))
    return done


def _summary(what: str, runs: Sequence[LookupRun], found: int, succeeded: Sequence[LookupRun]) -> Lookups:
    seconds = sorted(run.seconds for run in succeeded) or [0.0]
    return Lookups(
        what,
        tried=len(runs),
        found=found,
        requests=statistics.mean(run.requests for run in runs),
        failures=statistics.mean(run.failures for run in runs),
        hops=statistics.mean(run.hops for run in succeeded) if succeeded else 0.0,
        median=statistics.median(seconds),
        slow=seconds[int(0.95 * (len(seconds) - 1))],
    )


def _lookups(world: World, settings: Settings) -> list[Lookups]:
    """Announce CIDs by a lookup each, half an hour later find them from elsewhere; look for some that are nowhere."""
    keys = made_keys(settings.lookups, world.rng)
    placed = places = kept = 0
    runs = _run_lookups(world, keys, all_closest=True)
    for run in runs:
        for peer in run.closest:
            world.deliver(peer, [run.key])
        right = world.honest_closest(run.place)
        have = sum(run.key in world.nodes[peer].records for peer in right)
        placed, places, kept = placed + have, places + len(right), kept + bool(have)
    announced = _summary("announce one CID (find its 20 closest)", runs, kept, runs)
    announced.right = placed / max(1, places)
    world.pass_time(HOUR / 2)
    return [
        announced,
        find(world, keys, "find the first provider"),
        _nothing(world, made_keys(settings.lookups // 4, world.rng)),
    ]


def find(world: World, keys: Sequence[bytes], what: str) -> Lookups:
    """Look for the first provider of each key."""
    runs = _run_lookups(world, keys, all_closest=False)
    succeeded = [run for run in runs if run.found]
    return _summary(what, runs, len(succeeded), succeeded)


def _nothing(world: World, keys: Sequence[bytes]) -> Lookups:
    runs = _run_lookups(world, keys, all_closest=False)
    # It is right when it ends without having found anything.
    right = [run for run in runs if not run.found]
    return _summary("find that there is no provider", runs, len(right), right)


def _announce(world: World, settings: Settings, count: int) -> Announcing:
    """Announce CIDs of one node, region by region, as the `Announcer` does.

    The greatest number is spread over the interval, and looked for at its end; the others go out at once.
    """
    rng = random.Random(settings.seed + count)
    keys = made_keys(count, rng)
    table = RoutingTable(rng.randbytes(34), rng=rng)
    world.fill(table)
    size = NetworkSize()
    costs = Costs()
    if count >= 64:
        _measure_size(world, table, size, costs)
    bits = size.region_bits(count)
    regions: dict[int, list[bytes]] = {}
    for key in keys:
        regions.setdefault(kad_id(key) >> (BITS - bits), []).append(key)
    began = world.now
    spread = count == max(settings.cids)
    left = sorted(regions.items(), reverse=True)
    done = 0
    checked = world.now

    def take() -> None:
        nonlocal checked
        if left:
            checked = world.maintain(table, checked)
            RegionRun(world, table, left.pop()[1], size, costs, ended)

    def ended() -> None:
        nonlocal done
        done += 1
        if not spread:
            take()

    if spread:
        for number in range(len(left)):
            world.at(began + settings.interval * number / len(left), take)
    else:
        for _ in range(REGIONS_AT_ONCE):
            take()
    world.run(lambda: done == len(regions))
    if spread:
        world.pass_time(max(0.0, began + settings.interval - world.now))
    oldest = (world.now - began) / HOUR
    sample = keys if len(keys) <= settings.sample else rng.sample(keys, settings.sample)
    # A single one is looked for from many places.
    sample = sample * max(1, min(settings.sample, 100) // len(sample))
    return Announcing(costs, find(world, sample, f"find one of the {count}"), (0.0, oldest))


def _measure_size(world: World, table: RoutingTable, size: NetworkSize, costs: Costs) -> None:
    """Four lookups from which the announcer knows how large the network is; they count."""
    done: list[LookupRun] = []
    for key in made_keys(4, world.rng):
        LookupRun(world, table, key, all_closest=True, on_done=done.append)
    world.run(lambda: len(done) == 4)
    for run in done:
        size.saw(run.place, [kad_id(peer) for peer in run.closest])
        costs.lookups += 1
        costs.requests += run.requests
        costs.failures += run.failures
