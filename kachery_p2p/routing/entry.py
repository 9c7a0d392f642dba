"""One entry of the address book: a peer, its addresses, and what both are worth. No input or output."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from kachery_p2p import protocols
from kachery_p2p.routing import limits, text
from kachery_p2p.units import DAY

#: Where an address came from, most believed first. Only `dialled` says that it worked.
ORIGINS = ("dialled", "configured", "mdns", "identify", "dht")

#: Protocols of interest, and the short names they are kept under.
_SPOKEN = {
    protocols.KAD: "kad",
    protocols.LAN_KAD: "lan-kad",
    protocols.RELAY_HOP: "hop",
    **dict.fromkeys(protocols.BITSWAP, "bitswap"),
}
SPOKEN_NAMES = frozenset(_SPOKEN.values())


def spoken(names: Collection[str]) -> frozenset[str]:
    """The protocols of interest among these, by their short names."""
    return frozenset(short for long, short in _SPOKEN.items() if long in names)


class Shelf(IntEnum):
    """What a peer is to us; the lower, the longer it is kept."""

    USEFUL = 0
    LOCAL = 1
    SERVED = 2
    MET = 3
    HEARD = 4


#: How many peers each shelf holds.
ROOM = {
    Shelf.USEFUL: limits.MAX_USEFUL_PEERS,
    Shelf.LOCAL: limits.MAX_LOCAL_PEERS,
    Shelf.SERVED: limits.MAX_SERVED_PEERS,
    Shelf.MET: limits.MAX_MET_STRANGERS,
    Shelf.HEARD: limits.MAX_HEARD_STRANGERS,
}

_DAYS = {
    Shelf.USEFUL: limits.USEFUL_DAYS,
    Shelf.LOCAL: limits.LOCAL_DAYS,
    Shelf.SERVED: limits.LOCAL_DAYS,
    Shelf.MET: limits.STRANGER_DAYS,
    Shelf.HEARD: limits.STRANGER_DAYS,
}


@dataclass(slots=True)
class KnownAddress:
    """One address of one peer. Times are seconds since the epoch, 0 for never.

    Attributes:
        told: when somebody last named it, or it answered.
        success: when it last answered us with this peer behind it. 0: never, it is not proven.
        seconds: how long connecting took, last time; before it was measured, that of a far and slow machine.
        failures: since it last answered.
    """

    addr: str
    origin: str
    told: float = 0.0
    success: float = 0.0
    failure: float = 0.0
    seconds: float = 1.0
    successes: int = 0
    failures: int = 0

    def rank(self) -> tuple[object, ...]:
        """Sorts addresses best first: those that answered last time, by speed; relays after direct ones."""
        believed = ORIGINS.index(self.origin)
        if self.success:
            group = 2 if self.failures else 0
        elif self.failures:
            group = 4
        else:
            group = 3 if self.origin == "dht" else 1
        order = (0.0, self.seconds) if group == 0 else (self.failures, believed)
        return (group, text.relayed(self.addr), *order)

    def worth(self) -> tuple[object, ...]:
        """Sorts addresses by what is lost with them, dearest first."""
        return (not self.success, -self.success, self.failures, ORIGINS.index(self.origin), -self.told)

    def stale(self, now: float) -> bool:
        """Whether it has failed for so long that it is not worth a dial any more."""
        if self.failures < limits.MIN_FAILURES_TO_DROP:
            return False
        days = limits.FAILING_ADDRESS_DAYS if self.success else limits.UNPROVEN_ADDRESS_DAYS
        return now - max(self.success, self.told) > days * DAY


@dataclass(slots=True)
class PeerEntry:
    """One peer.

    Attributes:
        received: bytes of blocks it gave us; `useful` when it last did.
        served: when we last gave it a block.
        seen: when it was last connected; when it was last heard of, where it never was.
        met: when it was first connected.
        configured: when the user last named it.
        local: when it was last met on the local network.
        shelved: the shelf it is counted on.
    """

    peer: str
    agent: str = ""
    speaks: frozenset[str] = frozenset()
    received: int = 0
    useful: float = 0.0
    served: float = 0.0
    seen: float = 0.0
    met: float = 0.0
    configured: float = 0.0
    local: float = 0.0
    addrs: dict[str, KnownAddress] = field(default_factory=dict)
    shelved: Shelf | None = None

    @property
    def shelf(self) -> Shelf:
        """Where it belongs."""
        if self.received:
            return Shelf.USEFUL
        if self.configured or self.local:
            return Shelf.LOCAL
        if self.served:
            return Shelf.SERVED
        return Shelf.MET if any(each.success for each in self.addrs.values()) else Shelf.HEARD

    def last_use(self) -> float:
        """When it last was what its shelf says; when it was last seen, for a stranger."""
        return max(self.useful, self.configured, self.local, self.served) or self.seen

    def expires(self) -> float:
        """When it is to be forgotten."""
        days = limits.USEFUL_DAYS if self.configured else _DAYS[self.shelf]
        return max(self.seen, self.last_use()) + days * DAY

    def best(self) -> tuple[str, ...]:
        """Its addresses, best first."""
        return tuple(each.addr for each in sorted(self.addrs.values(), key=KnownAddress.rank))

    def resting(self, now: float) -> bool:
        """Whether all its addresses have failed just now."""
        return all(each.failures and now - each.failure < limits.DEAD_PAUSE for each in self.addrs.values())

    def failing(self) -> bool:
        """Whether none of its addresses has answered for some tries."""
        return all(each.failures >= limits.MIN_FAILURES_TO_DROP for each in self.addrs.values())

    def tell(self, addrs: Collection[str], origin: str, now: float) -> None:
        """Enter addresses that were named, and were not dialled."""
        for addr in text.dialable_addresses(addrs, self.peer):
            address = self.addrs.get(addr)
            if address is None:
                self.addrs[addr] = KnownAddress(addr, origin, told=now)
            else:
                address.told = now
                if ORIGINS.index(origin) < ORIGINS.index(address.origin):
                    address.origin = origin
        self.trim()

    def trim(self) -> None:
        """Keep the best addresses; ones that never answered have a smaller share of their own."""
        unproven = sorted((each for each in self.addrs.values() if not each.success), key=KnownAddress.worth)
        for each in unproven[limits.MAX_UNPROVEN_PER_PEER :]:
            del self.addrs[each.addr]
        if len(self.addrs) > limits.MAX_ADDRS_PER_PEER:
            kept = sorted(self.addrs.values(), key=KnownAddress.worth)[: limits.MAX_ADDRS_PER_PEER]
            self.addrs = {each.addr: each for each in kept}


def least_worth(entries: Collection[PeerEntry], shelf: Shelf, newcomer: PeerEntry) -> list[PeerEntry]:
    """The entries of one full shelf, the first to go first; the newcomer last."""
    by_age = sorted(entries, key=lambda each: (each is newcomer, each.last_use()))
    if shelf is Shelf.USEFUL:
        # Many identities that each gave one small block must not push out the machine that gave terabytes once.
        half = len(by_age) // 2
        return sorted(by_age[:half], key=lambda each: each.received) + by_age[half:]
    if shelf in (Shelf.MET, Shelf.HEARD):
        # Of strangers, each network keeps its latest before any network keeps its second latest, and so on.
        crowd: dict[str, int] = {}
        order: list[tuple[bool, int, PeerEntry]] = []
        for each in reversed(by_age):
            addrs = each.best()
            where = text.network(addrs[0]) if addrs else ""
            crowd[where] = crowd.get(where, 0) + 1
            order.append((each is newcomer, -crowd[where], each))
        order.reverse()
        order.sort(key=lambda item: item[:2])
        return [each for _, _, each in order]
    return by_age
