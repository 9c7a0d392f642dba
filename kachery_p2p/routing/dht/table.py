"""The routing table: peers that speak the protocol and were seen alive, in buckets by how near they are. Sans-IO.

Bucket `n` holds peers whose place shares exactly `n` leading bits with ours, at most k of them. A peer for which there
is no room waits; when one of the bucket dies, the one that was seen last takes its place. Long life is worth more than
novelty, so nobody who answers is ever pushed out, and a flood of new peers gains nothing (Kademlia, section 2.2).

In the public table, peers of one IP group (/16, or /32 of IPv6) may hold two places of a bucket and three in all, as
in Kubo: whoever wants to surround us must have addresses in many networks. Loopback addresses are not counted.

Only peers that speak the protocol as servers may be given to `consider`; who does is known to the shell.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.addresses import LOOPBACK, DhtScope, ip_group, kind_of
from kachery_p2p.routing.dht.keys import BITS, common_prefix, kad_id, key_in
from kachery_p2p.routing.dht.messages import DhtPeer


class _Entry:
    """A peer of the table, or one that waits."""

    __slots__ = ("checked", "groups", "id", "info", "place", "seen")

    def __init__(self, info: DhtPeer, place: int, groups: tuple[bytes, ...], now: float) -> None:
        self.info = info
        self.id = info.id
        self.place = place
        self.groups = groups
        #: When it was last heard of.
        self.seen = now
        #: When it was last handed out to be checked.
        self.checked = now


class RoutingTable:
    """The peers we know.

    Args:
        local: our binary peer ID.
        scope: which addresses belong into it; None takes all (simulations).
        k: places in a bucket.
    """

    def __init__(
        self,
        local: bytes,
        *,
        scope: DhtScope | None = None,
        k: int = limits.K,
        rng: random.Random | None = None,
    ) -> None:
        self.local = local
        self.local_id = kad_id(local)
        self.scope = scope
        self.k = k
        self._rng = rng or random.Random()
        self._diverse = scope is not None and not scope.lan  # whether IP groups are counted
        self._buckets: dict[int, dict[bytes, _Entry]] = {}
        self._waiting: dict[int, dict[bytes, _Entry]] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._groups: dict[bytes, int] = {}
        self._bucket_groups: dict[tuple[int, bytes], int] = {}
        self._refreshed: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: object) -> bool:
        return peer in self._entries

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    # --- who comes in and who goes out -----------------------------------------------------------------------------

    def consider(self, peer: bytes, addrs: Sequence[bytes], now: float, remote: bytes | None = None) -> bool:
        """A peer that speaks the protocol answered us, or connected: note it.

        Args:
            peer: binary peer ID.
            addrs: binary multiaddrs it is said to have; unusable ones are left out.
            now: trio's clock.
            remote: the address at which we see it: decides who is on the LAN, and counts for diversity.

        Returns:
            Whether it stands in the table now.
        """
        if peer == self.local:
            return False
        entry = self._entries.get(peer)
        if entry is not None:
            entry.seen = now
            if entry.info.addrs != addrs:
                self._readdress(entry, addrs, remote)
            return peer in self._entries
        scope = self.scope
        if scope is None:
            info = DhtPeer(peer, tuple(addrs))
        else:
            usable = scope.usable(addrs)
            if not usable or not scope.admits(addrs, remote):
                return False
            info = DhtPeer(peer, usable)
        place = kad_id(peer)
        number = common_prefix(place, self.local_id)
        entry = _Entry(info, place, self._groups_of(info, remote), now)
        bucket = self._buckets.setdefault(number, {})
        if not self._diverse_enough(number, entry):
            return False
        if len(bucket) < self.k:
            self._put(number, entry)
            return True
        waiting = self._waiting.setdefault(number, {})
        waiting.pop(peer, None)
        waiting[peer] = entry
        if len(waiting) > limits.MAX_WAITING_PER_BUCKET:
            # The one that was seen longest ago: dicts keep the order of insertion.
            del waiting[next(iter(waiting))]
        return False

    def alive(self, peer: bytes, now: float) -> None:
        """The peer answered."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.seen = now

    def dead(self, peer: bytes, now: float) -> bytes | None:
        """The peer could not be reached, did not answer, or ceased to be a server: out with it.

        Returns:
            The one that took its place, if one waited.
        """
        entry = self._entries.get(peer)
        if entry is None:
            for waiting in self._waiting.values():
                waiting.pop(peer, None)
            return None
        number = common_prefix(entry.place, self.local_id)
        self._drop(number, entry)
        waiting = self._waiting.get(number, {})
        while waiting:
            _, heir = waiting.popitem()
            if self._diverse_enough(number, heir):
                # Seen before, not now: it is among the first to be checked.
                heir.checked = heir.seen
                self._put(number, heir)
                return heir.id
        return None

    def _put(self, number: int, entry: _Entry) -> None:
        self._buckets[number][entry.id] = entry
        self._entries[entry.id] = entry
        self._waiting.get(number, {}).pop(entry.id, None)
        self._count(number, entry.groups, 1)

    def _drop(self, number: int, entry: _Entry) -> None:
        del self._buckets[number][entry.id]
        del self._entries[entry.id]
        self._count(number, entry.groups, -1)

    def _readdress(self, entry: _Entry, addrs: Sequence[bytes], remote: bytes | None) -> None:
        """New addresses of a peer we have: they must stand the same tests."""
        usable = tuple(addrs) if self.scope is None else self.scope.usable(addrs)
        if not usable or usable == entry.info.addrs or (self.scope and not self.scope.admits(addrs, remote)):
            return
        number = common_prefix(entry.place, self.local_id)
        moved = _Entry(DhtPeer(entry.id, usable), entry.place, (), entry.seen)
        moved.groups = self._groups_of(moved.info, remote)
        if moved.groups != entry.groups:
            self._count(number, entry.groups, -1)
            allowed = self._diverse_enough(number, moved)
            if allowed:
                entry.groups = moved.groups
            self._count(number, entry.groups, 1)
            if not allowed:
                # It keeps the addresses under which it was let in.
                return
        entry.info = moved.info

    # --- diversity -------------------------------------------------------------------------------------------------

    def _groups_of(self, info: DhtPeer, remote: bytes | None) -> tuple[bytes, ...]:
        if not self._diverse:
            return ()
        # Where we see it cannot be made up; without that, all that it claims counts.
        addrs = info.addrs if remote is None else (remote,)
        groups = (ip_group(addr) for addr in addrs if not kind_of(addr) & LOOPBACK)
        return tuple(dict.fromkeys(group for group in groups if group is not None))[: limits.MAX_GROUPS_PER_PEER]

    def _diverse_enough(self, number: int, entry: _Entry) -> bool:
        return all(
            self._groups.get(group, 0) < limits.MAX_PER_GROUP_IN_TABLE
            and self._bucket_groups.get((number, group), 0) < limits.MAX_PER_GROUP_IN_BUCKET
            for group in entry.groups
        )

    def _count(self, number: int, groups: Iterable[bytes], step: int) -> None:
        for group in groups:
            left = self._groups.get(group, 0) + step
            if left:
                self._groups[group] = left
            else:
                self._groups.pop(group, None)
            left = self._bucket_groups.get((number, group), 0) + step
            if left:
                self._bucket_groups[number, group] = left
            else:
                self._bucket_groups.pop((number, group), None)

    # --- asking it -------------------------------------------------------------------------------------------------

    def nearest(self, place: int, count: int = limits.K) -> list[bytes]:
        """The peers nearest to a place, nearest first."""
        return [entry.id for entry in self._nearest(place, count)]

    def nearest_infos(self, place: int, count: int = limits.K) -> list[DhtPeer]:
        """The same with their addresses."""
        return [entry.info for entry in self._nearest(place, count)]

    def _nearest(self, place: int, count: int) -> list[_Entry]:
        # Seen from the place, all of bucket n (the bits it shares with us) are nearer than all deeper buckets, and
        # these are nearer than the shallower ones, which follow one by one. So few have to be sorted.
        number = common_prefix(place, self.local_id)
        found: list[_Entry] = []
        buckets = self._buckets
        if number in buckets:
            found = sorted(buckets[number].values(), key=lambda entry: entry.place ^ place)
        if len(found) < count:
            deeper = [entry for n, bucket in buckets.items() if n > number for entry in bucket.values()]
            deeper.sort(key=lambda entry: entry.place ^ place)
            found += deeper
        for n in range(number - 1, -1, -1):
            if len(found) >= count:
                break
            if n in buckets:
                found += sorted(buckets[n].values(), key=lambda entry: entry.place ^ place)
        return found[:count]

    def info(self, peer: bytes) -> DhtPeer | None:
        """The addresses of a peer of the table."""
        entry = self._entries.get(peer)
        return None if entry is None else entry.info

    def to_check(self, now: float, count: int = limits.MAX_CHECKS) -> list[DhtPeer]:
        """Peers to be asked whether they live, longest silent first. Report each as `alive` or `dead`.

        A peer is handed out once in the time after which it would be due.
        """
        due: list[_Entry] = []
        for number, bucket in self._buckets.items():
            crowded = bool(self._waiting.get(number)) and len(bucket) >= self.k
            after = limits.CHECK_CROWDED_AFTER if crowded else limits.CHECK_AFTER
            due += [entry for entry in bucket.values() if now - max(entry.seen, entry.checked) >= after]
        due.sort(key=lambda entry: entry.seen)
        for entry in due[:count]:
            entry.checked = now
        return [entry.info for entry in due[:count]]

    # --- refreshing it ---------------------------------------------------------------------------------------------

    def to_refresh(self, now: float) -> list[int]:
        """The buckets into which a lookup should go now, shallow ones first; they count as refreshed from here on.

        All up to the deepest that has a peer, but none beyond the depth for which a key can be found. The lookup of
        our own ID, which the shell does as often, covers what is deeper.
        """
        deepest = max((number for number, bucket in self._buckets.items() if bucket), default=-1)
        due = [
            number
            for number in range(min(deepest, limits.MAX_REFRESH_PREFIX - 1) + 1)
            if now - self._refreshed.get(number, -limits.REFRESH_INTERVAL) >= limits.REFRESH_INTERVAL
        ]
        self._refreshed.update(dict.fromkeys(due, now))
        return due

    def refresh_key(self, number: int) -> bytes:
        """A key to look up whose place lies in a bucket that `to_refresh` gave."""
        # The first `number` bits are ours, the next one is not.
        prefix = (self.local_id >> (BITS - number - 1)) ^ 1
        return key_in(prefix, number + 1, self._rng)
