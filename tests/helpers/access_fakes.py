<<<<<<< HEAD
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
=======
"""Members and audiences that a test says, where neither groups nor a catalog are what it is about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from kachery_p2p.access.audience import Audience
from tests.helpers.bitswap_fakes import MemoryStore

#: The IDs of two groups.
MICE, MEN = "m" * 26, "n" * 26


class Members:
    """Which peers are in which groups."""

    def __init__(self, groups: Mapping[str, Collection[str]]) -> None:
        self.groups = {peer: frozenset(names) for peer, names in groups.items()}
        self.callbacks: list[Callable[[], None]] = []

    def groups_of(self, peer: str) -> frozenset[str]:
        return self.groups.get(peer, frozenset())

    def own_groups(self) -> frozenset[str]:
        return frozenset({MICE, MEN})

    def members_of(self, group: str) -> Collection[str]:
        return [peer for peer, names in self.groups.items() if group in names]

    def addresses_of(self, peer: str) -> Collection[str]:
        return ()

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def change(self, groups: Mapping[str, Collection[str]]) -> None:
        """Others are in the groups from now on."""
        self.groups = {peer: frozenset(names) for peer, names in groups.items()}
        for callback in list(self.callbacks):
            callback()


class SaidAudiences:
    """Who may see which block. Counts the questions."""

    def __init__(self) -> None:
        self.said: dict[bytes, Audience] = {}
        self.questions = 0
        self.fails = False

    def any_restricted(self) -> bool:
        return bool(self.said)

    def audiences(self, multihashes: Collection[bytes]) -> Mapping[bytes, Audience]:
        self.questions += 1
        if self.fails:
            raise RuntimeError("the catalog is gone")
        return {multihash: self.said[multihash] for multihash in multihashes if multihash in self.said}


class CountingStore(MemoryStore):
    """Remembers what it was asked: for how many blocks, and how many of them it had."""

    def __init__(self, blocks: Collection[bytes] = ()) -> None:
        super().__init__(blocks)
        self.asked: list[tuple[str, int, int]] = []

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        found = super().block_sizes(multihashes)
        self.asked.append(("sizes", len(multihashes), len(found)))
        return found

    def get_block(self, multihash: bytes) -> bytes | None:
        found = super().get_block(multihash)
        self.asked.append(("block", 1, int(found is not None)))
        return found
>>>>>>> gate
