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
