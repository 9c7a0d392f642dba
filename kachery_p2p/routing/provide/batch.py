"""One batch of keys announced to one target: the closest peers found, the records delivered."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.messages import DhtPeer
from kachery_p2p.routing.dht.sweep import NetworkSize, RegionSweep
from kachery_p2p.routing.provide import limits

if TYPE_CHECKING:
    from kachery_p2p.routing.interfaces import AnnounceTarget

log = logging.getLogger("kachery_p2p.routing")


@dataclass
class BatchCounters:
    """What was sent to one target since the node started."""

    lookups: int = 0
    deliveries: int = 0
    records: int = 0
    failures: int = 0


@dataclass
class Outcome:
    """What came of a batch.

    Attributes:
        copies: for each key the peers that took it, and the peers it was meant for.
        taken: peers that took all that was theirs.
        refused: peers that did not.
        met: peers that answered lookups.
        absent: keys that were not announced, because they are no longer here.
    """

    copies: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    taken: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    met: set[bytes] = field(default_factory=set)
    absent: set[bytes] = field(default_factory=set)


class Sender:
    """Runs batches for one target, with bounds on what is under way in all of them together.

    Args:
        on_lost: called when the target turns out to have no peers.
        here: those of some keys that are here; called in a thread. Others are not announced, whoever asks for it.
    """

    def __init__(
        self,
        target: AnnounceTarget,
        rng: random.Random,
        on_lost: Callable[[], None],
        here: Callable[[Sequence[bytes]], Container[bytes]],
    ) -> None:
        self.target = target
        self._here = here
        self.size = NetworkSize()
        self.counters = BatchCounters()
        self.last_error = ""
        self._rng = rng
        self._on_lost = on_lost
        self._lookups = trio.CapacityLimiter(limits.LOOKUPS)
        self._deliveries = trio.CapacityLimiter(limits.DELIVERIES)

    async def look_up(self, key: bytes) -> tuple[Sequence[DhtPeer], bool]:
        """The closest peers of a key, and whether there must be others that were missed. Nobody when it fails."""
        async with self._lookups:
            self.counters.lookups += 1
            try:
                infos = await self.target.closest(key)
            except KacheryError as error:
                self._failed(f"lookup: {error}")
                infos = []
        missed = self.size.is_partial(len(infos))
        self.size.saw(kad_id(key), [kad_id(info.id) for info in infos])
        if not infos and not self.target.peers():
            self._on_lost()
        return infos, missed

    async def measure(self) -> None:
        """Learn the size of the network by lookups of made-up keys."""
        async with trio.open_nursery() as nursery:
            for _ in range(limits.MEASURE_LOOKUPS):
                key = b"\x12\x20" + self._rng.getrandbits(256).to_bytes(32, "big")
                nursery.start_soon(self.look_up, key)

    async def send(
        self,
        keys: Sequence[bytes],
        *,
        only: Container[bytes] | None = None,
        wants: Callable[[bytes, bytes], bool] | None = None,
    ) -> Outcome:
        """Announce keys of one region, or few keys.

        Args:
            keys: multihashes.
            only: deliver to these peers alone.
            wants: whether a peer is to be given a key.
        """
        here = await trio.to_thread.run_sync(self._here, keys)
        outcome = Outcome(absent={key for key in keys if key not in here})
        keys = [key for key in keys if key in here]
        if not keys:
            return outcome
        infos: dict[bytes, DhtPeer] = {}
        make = partial(RegionSweep, keys, zone_bits=self.size.zone_bits(), rng=self._rng)
        many = len(keys) > limits.IN_THREAD
        sweep = await trio.to_thread.run_sync(make) if many else make()
        failures = 0

        async def look(key: bytes) -> None:
            nonlocal failures
            found, missed = await self.look_up(key)
            if found:
                failures = 0
                infos.update((info.id, info) for info in found)
                sweep.found(key, [info.id for info in found], partial=missed)
            else:
                failures += 1
                sweep.failed(key)
                if failures >= limits.FAILURES_IN_A_ROW or not self.target.peers():
                    sweep.give_up()
            begin()

        def begin() -> None:
            for key in sweep.next():
                nursery.start_soon(look, key)

        async with trio.open_nursery() as nursery:
            begin()
        shares = await trio.to_thread.run_sync(sweep.deliveries) if many else sweep.deliveries()
        outcome.met = set(infos)
        async with trio.open_nursery() as nursery:
            for peer, share in shares.items():
                if only is not None and peer not in only:
                    continue
                wanted = share if wants is None else [key for key in share if wants(peer, key)]
                for key in wanted:
                    took, meant = outcome.copies.get(key, (0, 0))
                    outcome.copies[key] = (took, meant + 1)
                if not wanted:
                    continue
                # No task before there is room: there may be hundreds.
                token = object()
                await self._deliveries.acquire_on_behalf_of(token)
                nursery.start_soon(self._deliver, infos[peer], wanted, outcome, token)
        return outcome

    async def _deliver(self, info: DhtPeer, keys: list[bytes], outcome: Outcome, token: object) -> None:
        try:
            for at in range(0, len(keys), limits.KEYS_PER_DELIVERY):
                part = keys[at : at + limits.KEYS_PER_DELIVERY]
                taken = False
                try:
                    with trio.move_on_after(limits.DELIVERY_TIMEOUT) as scope:
                        self.counters.deliveries += 1
                        taken = await self.target.deliver(info, part)
                    if scope.cancelled_caught:
                        self._failed(f"delivery: not taken within {limits.DELIVERY_TIMEOUT:g} s")
                except KacheryError as error:
                    self._failed(f"delivery: {error}")
                if not taken:
                    outcome.refused.add(info.id)
                    return
                self.counters.records += len(part)
                for key in part:
                    took, meant = outcome.copies[key]
                    outcome.copies[key] = (took + 1, meant)
            outcome.taken.add(info.id)
        finally:
            self._deliveries.release_on_behalf_of(token)

    def _failed(self, why: str) -> None:
        self.counters.failures += 1
        self.last_error = why
        log.debug("announcing to %s: %s", self.target.name, why)
