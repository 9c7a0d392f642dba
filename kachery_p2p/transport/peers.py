"""Which peers are connected, and which connection has to go when there are too many. No input or output."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kachery_p2p.groups import group_of_multiaddr
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport import limits
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.limits import TransportLimits

log = logging.getLogger("kachery_p2p.transport")

T = TypeVar("T")


class Hook(Generic[T]):
    """Synchronous callbacks for an event. An exception of one is logged; the others are called all the same."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[T], object]] = {}

    def subscribe(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Call `callback` with each event, in the trio thread; what is returned ends that."""
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    __call__ = subscribe

    def emit(self, value: T) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback(value)
            except Exception:
                log.exception("a callback failed")


@dataclass(frozen=True)
class ConnectionInfo:
    """An open connection, for display.

    Attributes:
        peer: peer ID, base58.
        addr: multiaddr of the other end, without the peer ID.
        direction: `in` or `out`.
        opened_at: trio clock.
        streams: open streams.
        bytes_received: payload of all streams.
        bytes_sent: payload of all streams.
        round_trip: seconds, 0.0 before the first ping was answered.
        limited: a relay carries it, and will cut it after some time or some bytes.
        security: the security protocol.
    """

    peer: str
    addr: str
    direction: str
    opened_at: float
    streams: int
    bytes_received: int
    bytes_sent: int
    round_trip: float
    limited: bool = False
    security: str = ""


@dataclass
class PeerInfo:
    """What a peer says of itself (identify). None of it is verified but the ID it was said under."""

    protocols: frozenset[str] = frozenset()
    agent: str = ""
    addresses: tuple[str, ...] = ()
    observed: str = ""  # the address at which it sees us
    identified: bool = False
    #: Protocols that we serve, of which it has opened streams: it may not have been identified yet.
    opened: set[str] = field(default_factory=set[str])
    #: It once did not speak a protocol that it was taken to speak: from then on it is asked first.
    asked_first: bool = False


def _usefulness(each: Connection) -> tuple[bool, bool, float]:
    return (each.is_used, each.initiator, each.used_at)


@dataclass
class PeerTable:
    """Connections by peer, protections, bans and what peers said of themselves.

    Args:
        local: our peer ID.
        max_connections: above this, `surplus` names connections to close.
        limits: of the host.
    """

    local: str
    max_connections: int
    limits: TransportLimits = limits.DEFAULTS
    _connections: dict[str, list[Connection]] = field(default_factory=dict)
    _info: OrderedDict[str, PeerInfo] = field(default_factory=OrderedDict)
    _protected: dict[str, set[str]] = field(default_factory=dict)
    _banned: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Connection]:
        return iter([each for group in self._connections.values() for each in group])

    def __len__(self) -> int:
        return sum(map(len, self._connections.values()))

    def peers(self) -> list[str]:
        return list(self._connections)

    def of(self, peer: str) -> list[Connection]:
        """All connections of a peer, oldest first."""
        return list(self._connections.get(peer, ()))

    def add(self, connection: Connection) -> bool:
        """Enter a connection; whether it is the first one of its peer."""
        group = self._connections.setdefault(connection.peer, [])
        group.append(connection)
        return len(group) == 1

    def remove(self, connection: Connection) -> bool:
        """Take a connection out; whether it was the last one of its peer."""
        group = self._connections.get(connection.peer, [])
        if connection not in group:
            return False
        group.remove(connection)
        if group:
            return False
        del self._connections[connection.peer]
        return True

    def best(self, peer: str) -> Connection | None:
        """The connection for new streams.

        When both sides dialled at once there are two. Both sides prefer the one that the smaller peer ID opened, so
        that all traffic gathers on one and the other can go. Relayed ones come last.
        """
        first = min(self.local, peer)

        def rank(each: Connection) -> tuple[bool, bool, float]:
            other_side = (self.local if each.initiator else peer) != first
            return (CIRCUIT in each.address, other_side, each.opened_at)

        group = self._connections.get(peer, ())
        usable = (each for each in group if not each.is_closed and each.core.remote_gone is None)
        return min(usable, key=rank, default=None)

    def surplus(self, newest: Connection) -> list[Connection]:
        """Connections to close because `newest` is one too many, for its peer or for the host.

        The least useful go first: those of an address from which more than its share have come, then those not in use,
        then those the other side opened, then those unused for longest. Protected peers stay, and so does the newest,
        else a full host would never meet anybody new.
        """
        victims: list[Connection] = []
        own = [each for each in self.of(newest.peer) if each is not newest]
        excess = len(own) + 1 - limits.MAX_CONNECTIONS_PER_PEER
        if excess > 0:
            victims += sorted(own, key=_usefulness)[:excess]
        excess = len(self) - len(victims) - self.max_connections
        if excess > 0:
            others = [
                each for each in self if each is not newest and each not in victims and each.peer not in self._protected
            ]
            crowded = self._crowded()
            others.sort(key=lambda each: (not crowded(each), *_usefulness(each)))
            victims += others[:excess]
        return victims

    def _crowded(self) -> Callable[[Connection], bool]:
        """Tells the connections of an address from which more than its share have come."""
        groups = Counter(group_of_multiaddr(each.address) for each in self if not each.initiator)
        share = max(1, int(self.max_connections * limits.ADDRESS_SHARE))
        if len(groups) == 1:  # a reverse proxy, a lab behind one address, this machine: there is nobody to share with
            return lambda each: False
        return lambda each: (
            not each.initiator and bool(group := group_of_multiaddr(each.address)) and (groups[group] > share)
        )

    def least_useful(self) -> Connection | None:
        """The connection that can best be spared; None when all are in use, or protected."""
        idle = [each for each in self if not each.is_used and each.peer not in self._protected]
        return min(idle, key=_usefulness, default=None)

    def idle_duplicates(self, now: float) -> list[Connection]:
        """Connections that are neither the preferred one of their peer, nor new, nor in use."""
        return [
            each
            for peer, group in self._connections.items()
            if len(group) > 1
            for each in group
            if each is not self.best(peer)
            and not each.stream_count
            and now - each.opened_at > self.limits.duplicate_grace
        ]

    def superseded(self, now: float) -> list[Connection]:
        """Relayed connections of peers with which there has been a direct one for long enough."""
        return [
            each
            for peer, group in self._connections.items()
            if len(group) > 1 and (best := self.best(peer)) is not None and CIRCUIT not in best.address
            for each in group
            if CIRCUIT in each.address and now - best.opened_at > self.limits.relayed_grace
        ]

    def info(self, peer: str) -> PeerInfo:
        """What is known of a peer; a blank entry is made where there is none."""
        entry = self._info.get(peer)
        if entry is None:
            entry = self._info[peer] = PeerInfo()
            for old in list(self._info):
                if len(self._info) <= 4 * self.limits.max_connections:
                    break
                if old not in self._connections and old != peer:
                    del self._info[old]
        self._info.move_to_end(peer)
        return entry

    def peek(self, peer: str) -> PeerInfo:
        """The same without making an entry."""
        return self._info.get(peer) or PeerInfo()

    def protect(self, peer: str, tag: str) -> None:
        self._protected.setdefault(peer, set()).add(tag)

    def unprotect(self, peer: str, tag: str) -> bool:
        """Take one protection away; whether others remain."""
        tags = self._protected.get(peer, set())
        tags.discard(tag)
        if not tags:
            self._protected.pop(peer, None)
        return bool(tags)

    def ban(self, peer: str, until: float) -> None:
        if len(self._banned) >= self.limits.max_bans and peer not in self._banned:
            del self._banned[min(self._banned, key=self._banned.__getitem__)]
        self._banned[peer] = until

    def banned(self, peer: str, now: float) -> float:
        """For how many seconds more a peer is banned; 0 when it is not."""
        until = self._banned.get(peer)
        if until is None:
            return 0.0
        if until <= now:
            del self._banned[peer]
            return 0.0
        return until - now
