"""Announcing many blocks at the price of walking the network once. Sans-IO.

A provider record belongs with the k = 20 peers closest to its key. To find these by a lookup for each key costs some
forty requests a key; but keys that lie close together have the same closest peers, and the ids of keys and of peers
are spread evenly. So the keys are sorted by their ids and cut into *regions* by prefix; the peers of a region are
learned by a few lookups; then each key is given to its closest among them, and all keys of one peer travel on one
stream. The idea is that of "provide sweep" in go-libp2p-kad-dht (2025).

What a lookup teaches. Let x be its target and c the number of leading bits that x shares with the k-th closest peer.
All peers that share more than c bits with x are then known: the *zone*, the prefix of x of c + 1 bits, is covered.
Two covered zones that are siblings make their parent covered. A key whose covered prefix holds k peers or more is
*settled*: its k closest all lie in that prefix, so they are exactly known, also for keys at the edge of a region.
Zones with fewer peers wait until their sibling is covered, which may lie outside the region.

Nearly every lookup is one for a key that is to be announced anyway, so few keys cost no more than a lookup each, and
the more keys there are, the fewer need one.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence

from kachery_p2p.routing.dht.keys import BITS, common_prefix, kad_id, key_in

#: Peers that share a region: eight replica sets, so that the pieces in which a region is explored are few at its edge.
REGION_PEERS = 160
#: Keys of one region that are worked on at once: what a sweep holds in memory, whatever the number of keys.
REGION_KEYS = 16384
#: Longest prefix of a region: a network of 160 million peers.
MAX_REGION_BITS = 20
#: Lookups of one region under way at the same time.
REGION_LOOKUPS = 3
#: A key whose lookup failed so often in one sweep is left to the next try.
LOOKUP_TRIES = 2
#: To make a key with a given prefix takes 2 ** bits hashes: 65 536 are 40 ms.
MAX_MADE_BITS = 16
#: Lookups for keys that were made up, for one region, besides one for each of its keys.
MAX_MADE_LOOKUPS = 32
#: Lookups from which the size of the network is estimated; the median of so many is good to a few per cent.
SIZE_SAMPLES = 32
#: A lookup that ends with fewer than k peers, in a network that was so many times k before, did not see all.
PARTIAL_FACTOR = 3


class NetworkSize:
    """How many servers the network has, from how densely they lie around the targets of lookups."""

    def __init__(self, k: int = 20) -> None:
        self.k = k
        self._samples: deque[float] = deque(maxlen=SIZE_SAMPLES)

    def saw(self, target: int, peers: Sequence[int]) -> None:
        """A lookup of `target` ended with these ids."""
        if not peers:
            return
        if len(peers) < self.k:
            self._samples.append(float(len(peers)))
            return
        distances = sorted(peer ^ target for peer in peers)
        # The k-th of N evenly spread points lies at k / (N + 1) of the whole.
        self._samples.append(max(float(len(peers)), len(peers) * 2.0**BITS / max(1, distances[-1]) - 1))

    @property
    def peers(self) -> float:
        """The estimate; 0 before the first lookup."""
        from statistics import median  # brings fractions and decimals with it

        return median(self._samples) if self._samples else 0.0

    def is_partial(self, peers: int) -> bool:
        """Whether a lookup that ended with so few peers must have missed some."""
        return peers < self.k and self.peers > PARTIAL_FACTOR * self.k

    def zone_bits(self) -> int:
        """Length of the prefix that one lookup covers."""
        return max(0, math.floor(math.log2(self.peers / self.k)) + 1) if self.peers > self.k else 0

    def region_bits(self, keys: int = 0) -> int:
        """Length of the prefixes that cut the key space into regions, for a network of this size and so many keys."""
        by_peers = math.log2(self.peers / REGION_PEERS) if self.peers > REGION_PEERS else 0.0
        by_keys = math.ceil(math.log2(keys / REGION_KEYS)) if keys > REGION_KEYS else 0
        return min(MAX_REGION_BITS, max(round(by_peers), by_keys))


class SweepSchedule:
    """When each region has its turn: the key space is walked once in an interval, from its beginning to its end.

    Args:
        epoch: when the walk began, in seconds.
        interval: seconds of one walk.
    """

    def __init__(self, epoch: float, interval: float) -> None:
        self.epoch = epoch
        self.interval = interval

    def due(self, region: int, bits: int, announced: float) -> float:
        """When keys of a region that were announced at that time are to be announced again.

        It is the turn of the region that comes first after half an interval: keys that are new, or late, come back
        into step with their neighbours within one and a half intervals, which leaves a record of 48 h enough life.
        """
        turn = self.epoch + self.interval * region / (1 << bits)
        since = announced + self.interval / 2
        return turn + math.ceil((since - turn) / self.interval) * self.interval

    def done_before(self, region: int, bits: int, now: float) -> float:
        """Keys of a region that were announced at this time or before are due now."""
        turn = self.epoch + self.interval * region / (1 << bits)
        return turn + math.floor((now - turn) / self.interval) * self.interval - self.interval / 2


class RegionSweep:
    """Finds the k closest peers of each of many keys.

    Args:
        keys: what is to be announced; in any order.
        k: copies of each record.
        zone_bits: what one lookup is expected to cover, see `NetworkSize.zone_bits`; keeps lookups apart that run
            side by side.
        rng: for keys that are made up where there is none of ours.
        parallel: lookups at a time.

    Use: look up what `next` returns, tell the outcome by `found` or `failed`, until `done`; then `deliveries`.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        *,
        k: int = 20,
        zone_bits: int = 0,
        rng: random.Random,
        parallel: int = REGION_LOOKUPS,
    ) -> None:
        self.k = k
        self._keys = sorted((kad_id(key), key) for key in set(keys))
        self._ids = [place for place, _ in self._keys]
        self._index = {key: n for n, (_, key) in enumerate(self._keys)}
        self._zone_bits = zone_bits
        self._rng = rng
        self._parallel = parallel
        #: Peers that answered: their ids in order, and who they are.
        self._peer_ids: list[int] = []
        self._peers: dict[int, bytes] = {}
        #: Maximal covered prefixes: (bits, prefix).
        self._covered: set[tuple[int, int]] = set()
        #: Keys with a lookup of their own that ended well, and those given up, by index.
        self._looked_up: set[int] = set()
        self._given_up: set[int] = set()
        self._failures: dict[int, int] = {}
        self._under_way: dict[bytes, int] = {}
        self._made = 0
        self.lookups = 0

    # --- exploring -------------------------------------------------------------------------------------------------

    def next(self) -> list[bytes]:
        """Keys to look up now; empty while enough are under way, and when all is known."""
        wanted: list[bytes] = []
        at = 0
        while at < len(self._ids) and len(self._under_way) < self._parallel:
            at, key = self._step(at)
            if key is not None:
                self._under_way[key] = kad_id(key)
                self.lookups += 1
                wanted.append(key)
        return wanted

    def _step(self, at: int) -> tuple[int, bytes | None]:
        """Look at the keys from index `at`: where to go on, and a key to look up."""
        if at in self._looked_up or at in self._given_up:
            return at + 1, None
        place, key = self._keys[at]
        zone = self._zone_of(place)
        if zone is None:
            # Its neighbours wait for what this lookup will cover.
            beyond = max(at + 1, self._end(self._zone_bits, place >> (BITS - self._zone_bits)))
            return beyond, None if self._is_near_another(place) else key
        bits, prefix = zone
        end = self._end(bits, prefix)
        if bits == 0 or len(self._peers_in(bits, prefix)) >= self.k:
            return end, None
        # Too few peers for the keys here: what lies beside must be known, too.
        sibling = prefix ^ 1
        if any(there >> (BITS - bits) == sibling for there in self._under_way.values()):
            return end, None
        if self._has_uncovered_key(bits, sibling):
            return end, None
        open_keys = [n for n in range(at, end) if n not in self._looked_up and n not in self._given_up]
        if len(open_keys) > 1 and self._made < MAX_MADE_LOOKUPS:
            made = self._make_key(bits, sibling)
            if made is not None:
                return end, made
        if self._is_near_another(place):
            return end, None
        return end, key

    def _is_near_another(self, place: int) -> bool:
        shift = BITS - self._zone_bits
        return any(there >> shift == place >> shift for there in self._under_way.values())

    def _zone_of(self, place: int) -> tuple[int, int] | None:
        for bits in {bits for bits, _ in self._covered}:
            if (bits, place >> (BITS - bits)) in self._covered:
                return bits, place >> (BITS - bits)
        return None

    def _end(self, bits: int, prefix: int) -> int:
        """Index of the first key behind a prefix."""
        return bisect_left(self._ids, (prefix + 1) << (BITS - bits))

    def _peers_in(self, bits: int, prefix: int) -> range:
        shift = BITS - bits
        return range(bisect_left(self._peer_ids, prefix << shift), bisect_left(self._peer_ids, (prefix + 1) << shift))

    def _has_uncovered_key(self, bits: int, prefix: int) -> bool:
        at = bisect_left(self._ids, prefix << (BITS - bits))
        end = self._end(bits, prefix)
        while at < end:
            zone = self._zone_of(self._ids[at])
            if zone is not None:
                at = self._end(*zone)
            elif at in self._given_up or at in self._looked_up:
                at += 1
            else:
                return True
        return False

    def _make_key(self, bits: int, prefix: int) -> bytes | None:
        """A multihash in the part of a prefix that is not covered, where there is no key of ours."""
        while any(b > bits and p >> (b - bits) == prefix for b, p in self._covered):
            bits, prefix = bits + 1, prefix << 1
            if (bits, prefix) in self._covered:
                prefix |= 1
        if bits > MAX_MADE_BITS:
            return None
        self._made += 1
        return key_in(prefix, bits, self._rng)

    def found(self, key: bytes, peers: Sequence[bytes], *, partial: bool = False) -> None:
        """The lookup of a key ended with these peers, all of which answered.

        Args:
            key: that was looked up.
            peers: binary peer IDs.
            partial: others are known to exist that were not reached; nothing is concluded from who is missing.
        """
        place = self._under_way.pop(key)
        if not peers:
            self._failed(key)
            return
        for peer in peers:
            there = kad_id(peer)
            if there not in self._peers:
                self._peers[there] = peer
                insort(self._peer_ids, there)
        if key in self._index:
            self._looked_up.add(self._index[key])
        if partial:
            return
        bits = 0
        if len(peers) >= self.k:
            bits = 1 + min(common_prefix(place, kad_id(peer)) for peer in peers)
        self._cover(bits, place >> (BITS - bits))

    def _cover(self, bits: int, prefix: int) -> None:
        if any(b <= bits and prefix >> (bits - b) == p for b, p in self._covered):
            return
        self._covered = {(b, p) for b, p in self._covered if b < bits or p >> (b - bits) != prefix}
        while bits and (bits, prefix ^ 1) in self._covered:
            self._covered.discard((bits, prefix ^ 1))
            bits, prefix = bits - 1, prefix >> 1
        self._covered.add((bits, prefix))

    def failed(self, key: bytes) -> None:
        """The lookup of a key came to nothing."""
        del self._under_way[key]
        self._failed(key)

    def _failed(self, key: bytes) -> None:
        at = self._index.get(key)
        if at is None:
            return  # one that was made up; their number is bounded
        self._failures[at] = self._failures.get(at, 0) + 1
        if self._failures[at] >= LOOKUP_TRIES:
            self._given_up.add(at)

    def give_up(self) -> None:
        """Nobody answers any more: look up nothing further; keys that are not settled get no deliveries."""
        for at, place in enumerate(self._ids):
            if at not in self._looked_up and not self._is_settled(place):
                self._given_up.add(at)

    @property
    def done(self) -> bool:
        """Whether all is known that can be: right after `next` had nothing to add."""
        return not self._under_way

    # --- the outcome -----------------------------------------------------------------------------------------------

    @property
    def peers(self) -> list[bytes]:
        """All peers that were met."""
        return list(self._peers.values())

    def _is_settled(self, place: int) -> bool:
        zone = self._zone_of(place)
        return zone is not None and (zone[0] == 0 or len(self._peers_in(*zone)) >= self.k)

    def deliveries(self) -> dict[bytes, list[bytes]]:
        """What each peer is to be given: its keys, in the order of their ids. Keys given up are with nobody."""
        given: dict[bytes, list[bytes]] = {}
        if self._peer_ids:
            self._assign(0, len(self._keys), self._peer_ids, 0, given)
        return given

    def _assign(self, start: int, end: int, peers: list[int], bits: int, given: dict[bytes, list[bytes]]) -> None:
        """Give the keys from index `start` to `end`, which share `bits` bits, to their closest of `peers`.

        As long as the half in which a key lies has k peers, those of the other half are all further away.
        """
        if start == end:
            return
        if len(peers) <= self.k or bits == BITS:
            self._give(start, end, peers, given)
            return
        bit = 1 << (BITS - 1 - bits)
        middle = bisect_left(self._ids, self._ids[start] & ~((bit << 1) - 1) | bit, start, end)
        lower, upper = [p for p in peers if not p & bit], [p for p in peers if p & bit]
        for half_start, half_end, half in ((start, middle, lower), (middle, end, upper)):
            if len(half) >= self.k:
                self._assign(half_start, half_end, half, bits + 1, given)
            else:
                self._give(half_start, half_end, peers, given)

    def _give(self, start: int, end: int, peers: list[int], given: dict[bytes, list[bytes]]) -> None:
        for at in range(start, end):
            if at in self._given_up:
                continue
            place, key = self._keys[at]
            for peer in sorted(peers, key=place.__xor__)[: self.k]:
                given.setdefault(self._peers[peer], []).append(key)
