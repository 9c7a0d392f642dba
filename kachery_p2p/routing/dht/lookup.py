"""One lookup: who is nearest to a place in the key space. Sans-IO.

`next` says whom to ask; `answered` and `failed` tell what became of it.

Every answer names peers that are nearer; the nearest of these are asked in turn, `alpha` at a time (Kademlia). Some
peers lie: they name each other, peers that do not exist, or ever nearer ones without end. So a lookup is `PATHS`
lookups that share no peer (S/Kademlia):

* The seeds are dealt to the paths; a peer belongs to the path that heard of it first. A path that falls into the hands
  of liars who name each other keeps these for itself, and the others pass by them.
* A path has arrived when the `beta` nearest peers it knows have answered, the lookup when all paths have. With
  `all_closest` the k nearest of all paths together are then asked as well.
* Who names peers has credit for three questions, and for two more with each of them that answers. Peers of whose
  sources none has credit do not count as near, and are asked only where nobody else is left: made-up ones cost a
  liar's name and little else.
* A path that is still on its way after `NEAREST_FIRST` questions may be chasing made-up peers. From then on every other
  question goes to a nominee of the source that is the fewest steps from a seed and had the fewest questions yet.
* Questions are bounded for each path and in all, as are the peers remembered, and the time.

Nobody holds the others up: a question that is open for `SLOW_AFTER` gives up its place, and the lookup may end without
it. An answer that comes later still counts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from enum import IntEnum
from heapq import nsmallest

from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.keys import kad_id


class _PeerState(IntEnum):
    HEARD = 0
    WAITING = 1
    ANSWERED = 2
    FAILED = 3


#: Sources remembered for one peer: when none of three is to be believed, a fourth would not help much.
_MAX_SOURCES = 3
#: Questions that a source is believed for at first, and for each of its nominees that answered.
_CREDIT, _CREDIT_PER_ANSWER = 3, 2


class _Peer:
    """A peer that the lookup knows. Ordered by distance."""

    __slots__ = ("asked_at", "credit", "depth", "distance", "id", "path", "slow", "sources", "spent", "state")

    def __init__(self, peer: bytes, distance: int, path: _Path, source: _Peer | None) -> None:
        self.id = peer
        self.distance = distance
        self.path = path
        #: Who named it; empty for a seed.
        self.sources: list[_Peer] = [] if source is None else [source]
        #: Steps from a seed.
        self.depth: int = 0 if source is None else source.depth + 1
        self.state = _PeerState.HEARD
        self.asked_at = 0.0
        self.slow = False
        #: How many of those that it was the first to name were asked.
        self.spent = 0
        #: How many of them may be asked.
        self.credit = _CREDIT

    def __lt__(self, other: _Peer) -> bool:
        return self.distance < other.distance

    @property
    def distrusted(self) -> bool:
        """Whether all who named it have used up their credit."""
        for source in self.sources:
            if source.spent < source.credit:
                return False
        return bool(self.sources)


class _Path:
    """One of the disjoint paths."""

    __slots__ = ("asked", "open", "peers")

    def __init__(self) -> None:
        #: Nearest first, without those that failed.
        self.peers: list[_Peer] = []
        self.asked = 0
        #: Questions that are open and not slow.
        self.open = 0


class Lookup:
    """The search for the peers nearest to a place.

    Args:
        target: the place.
        seeds: the nearest peers we know, nearest first.
        local: our own peer ID, which others will name.
        all_closest: go on until the k nearest have answered (to store something with them), not only the beta nearest
            of each path.
    """

    def __init__(
        self,
        target: int,
        seeds: Iterable[bytes],
        *,
        local: bytes = b"",
        k: int = limits.K,
        alpha: int = limits.ALPHA,
        all_closest: bool = False,
        paths: int = limits.PATHS,
        timeout: float = limits.LOOKUP_TIMEOUT,
    ) -> None:
        self.target = target
        self.k = k
        self.alpha = alpha
        self.all_closest = all_closest
        self.timeout = timeout
        #: Questions asked so far.
        self.messages = 0
        #: Whether there is nothing more to ask or to wait for.
        self.done = False
        self._local = local
        self._paths = [_Path() for _ in range(paths)]
        self._peers: dict[bytes, _Peer] = {}
        self._waiting: dict[bytes, _Peer] = {}
        self._fresh = 0
        self._turn = 0
        self._started: float | None = None
        self._follow_up = False
        for index, peer in enumerate(dict.fromkeys(seeds)):
            if peer != local:
                self._learn(peer, kad_id(peer) ^ target, self._paths[index % paths], None)
        self.done = not self._peers
        #: Questions that one path may have open.
        self._share = max(limits.BETA, -(-alpha // paths))

    # --- what happened ---------------------------------------------------------------------------------------------

    def answered(self, peer: bytes, closer: Sequence[bytes], now: float) -> None:
        """A peer that was asked answered, and named others. The shell leaves out those that it may not ask."""
        entry = self._close(peer)
        if entry is None:
            return
        entry.state = _PeerState.ANSWERED
        for source in entry.sources[:1]:
            source.credit += _CREDIT_PER_ANSWER
        target = self.target
        named = sorted({(kad_id(each) ^ target, each) for each in closer[: limits.MAX_PEERS_PER_MESSAGE]})
        # Paths with nobody on them take a share: a lookup may begin with a single seed.
        takers = [entry.path, *(path for path in self._paths if not path.peers)]
        turn = 0
        for distance, each in named[: self.k + 1]:
            known = self._peers.get(each)
            if known is not None:
                if known.sources and len(known.sources) < _MAX_SOURCES and entry not in known.sources:
                    known.sources.append(entry)
            elif each != self._local and len(self._peers) < limits.MAX_PEERS_PER_LOOKUP:
                self._learn(each, distance, takers[turn % len(takers)], entry)
                turn += 1
        self._settle(now)

    def failed(self, peer: bytes, now: float) -> None:
        """A peer that was asked could not be reached, did not answer in time, or answered with nonsense."""
        entry = self._close(peer)
        if entry is None:
            return
        entry.state = _PeerState.FAILED
        entry.path.peers.remove(entry)
        self._settle(now)

    def _learn(self, peer: bytes, distance: int, path: _Path, source: _Peer | None) -> None:
        entry = self._peers[peer] = _Peer(peer, distance, path, source)
        insort(path.peers, entry)

    def _close(self, peer: bytes) -> _Peer | None:
        """The peer, if a question to it was open; it is not any more."""
        entry = self._waiting.pop(peer, None)
        if entry is not None and not entry.slow:
            entry.path.open -= 1
            self._fresh -= 1
        return entry

    # --- whom to ask -----------------------------------------------------------------------------------------------

    def next(self, now: float) -> list[bytes]:
        """Peers to ask now: each must be reported as `answered` or `failed` in the end."""
        if self._started is None:
            self._started = now
        self._settle(now)
        chosen: list[bytes] = []
        while not self.done and self._fresh < self.alpha and len(self._waiting) < limits.MAX_IN_FLIGHT:
            entry = self._pick()
            if entry is None:
                break
            entry.state = _PeerState.WAITING
            entry.asked_at = now
            entry.path.open += 1
            entry.path.asked += 1
            for source in entry.sources[:1]:
                source.spent += 1
            self._waiting[entry.id] = entry
            self._fresh += 1
            self.messages += 1
            chosen.append(entry.id)
        if not chosen:
            self._settle(now)
        return chosen

    @property
    def wake_at(self) -> float:
        """When to call `next` again even if nothing happens: a question turns slow, or time is up."""
        fresh = [entry.asked_at + limits.SLOW_AFTER for entry in self._waiting.values() if not entry.slow]
        return min([*fresh, (self._started or 0.0) + self.timeout])

    def _settle(self, now: float) -> None:
        """Look at the clock, and whether the lookup is done."""
        for entry in self._waiting.values():
            if not entry.slow and now >= entry.asked_at + limits.SLOW_AFTER:  # as `wake_at` has it, to the last bit
                entry.slow = True
                entry.path.open -= 1
                self._fresh -= 1
        if self._started is not None and now >= self._started + self.timeout:
            self.done = True
        elif not self.done:
            self.done = self._arrived()

    def _arrived(self) -> bool:
        if not self._follow_up and all(map(self._path_done, self._paths)):
            self._follow_up = True
        if not self._follow_up:
            return False
        return not self.all_closest or (not self._fresh and self._pick_closest() is None)

    def _path_done(self, path: _Path) -> bool:
        """Whether the beta nearest have answered, or there is nobody left to ask or to wait for."""
        answered = 0
        doubtful = False
        spent = path.asked >= self._path_budget
        for entry in path.peers:
            if entry.state is _PeerState.ANSWERED:
                answered += 1
                if answered == limits.BETA:
                    return True
            elif entry.state is _PeerState.WAITING:
                if not entry.slow:
                    return False
            elif not spent:
                if not entry.distrusted:
                    return False
                doubtful = True
        # Too few have answered to do without those.
        return not doubtful

    @property
    def _path_budget(self) -> int:
        return max(1, min(limits.MAX_MESSAGES_PER_PATH, limits.MAX_MESSAGES // len(self._paths)))

    def _pick(self) -> _Peer | None:
        if self._follow_up:
            return self._pick_closest()
        # The paths take turns, those with the fewest open questions first.
        count = len(self._paths)
        order = sorted(range(count), key=lambda n: (self._paths[n].open, (n - self._turn) % count))
        for number in order:
            path = self._paths[number]
            if path.open < self._share and path.asked < self._path_budget and not self._path_done(path):
                entry = self._pick_from(path)
                if entry is not None:
                    self._turn = number + 1
                    return entry
        return None

    def _pick_from(self, path: _Path) -> _Peer | None:
        if path.asked < limits.NEAREST_FIRST or path.asked % 2 == 0:
            for entry in path.peers:
                if entry.state is _PeerState.HEARD and not entry.distrusted:
                    return entry
        return min(
            (entry for entry in path.peers if entry.state is _PeerState.HEARD),
            key=lambda entry: (entry.depth, entry.sources[0].spent if entry.sources else 0, entry.distance),
            default=None,
        )

    def _pick_closest(self) -> _Peer | None:
        """Of the k nearest of all paths, one that has not been asked."""
        if not self.all_closest or self.messages >= limits.MAX_MESSAGES + 2 * self.k:
            return None
        # Those whom nobody with credit has named come last: they are asked when there are fewer than k others.
        live = (
            (entry.state is _PeerState.HEARD and entry.distrusted, entry)
            for path in self._paths
            for entry in path.peers
            if not entry.slow
        )
        for _, entry in nsmallest(self.k, live):
            if entry.state is _PeerState.HEARD:
                return entry
        return None

    # --- what came of it -------------------------------------------------------------------------------------------

    def closest(self, count: int | None = None) -> list[bytes]:
        """Those who answered, nearest first: k of them if no other number is given."""
        answered = sorted(entry for entry in self._peers.values() if entry.state is _PeerState.ANSWERED)
        return [entry.id for entry in answered[: self.k if count is None else count]]

    def waiting(self) -> list[bytes]:
        """Those whose answers are still to come."""
        return list(self._waiting)
