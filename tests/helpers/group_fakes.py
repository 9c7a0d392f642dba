"""Groups and audiences as tables that a test fills."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping

from kachery_p2p.access.audience import OWN, Audience

#: IDs of groups.
G1 = "a" * 26
G2 = "b" * 26


class FakeMembers:
    """Who is in which group, as one machine sees it.

    Attributes:
        members: peers by group; `OWN` is a group, too. This machine is in each of the others.
        addresses: of peers.
        secrets: of groups; made from the ID where there is no entry.
    """

    def __init__(self, **members: Iterable[str]) -> None:
        self.members = {group: set(peers) for group, peers in members.items()}
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.secrets: dict[str, tuple[bytes, ...]] = {}
        self._callbacks: list[Callable[[], None]] = []

    def add(self, group: str, *peers: str) -> None:
        """This machine and these peers are in a group now."""
        self.members.setdefault(group, set()).update(peers)
        self.changed()

    def remove(self, group: str, peer: str) -> None:
        """A peer is no longer in a group."""
        self.members[group].discard(peer)
        self.changed()

    def changed(self) -> None:
        """Tell those who want to know."""
        for callback in list(self._callbacks):
            callback()

    def groups_of(self, peer: str) -> frozenset[str]:
        return frozenset(group for group, peers in self.members.items() if peer in peers)

    def own_groups(self) -> frozenset[str]:
        return frozenset(self.members.keys() - {OWN})

    def members_of(self, group: str) -> Collection[str]:
        return sorted(self.members.get(group, ()))

    def addresses_of(self, peer: str) -> Collection[str]:
        return self.addresses.get(peer, ())

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        return self.secrets.get(group, (hashlib.sha256(group.encode()).digest(),))


class FakeAudiences:
    """For whom blocks are; those that are not in the table are for everybody."""

    def __init__(self, table: Mapping[bytes, Audience] | None = None) -> None:
        self.table = dict(table or {})

    def any_restricted(self) -> bool:
        return bool(self.table)

    def audiences(self, multihashes: Collection[bytes]) -> dict[bytes, Audience]:
        return {each: self.table[each] for each in multihashes if each in self.table}
