"""The parts that decide, where there is nothing to decide: no groups, no own machines, and everything is for everybody."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from kachery_p2p.access.audience import Audience


class NoGroups:
    """`Memberships` and `GroupSecrets` of a machine that is in no group and has no other machines of its user."""

    def groups_of(self, peer: str) -> frozenset[str]:
        return frozenset()

    def own_groups(self) -> frozenset[str]:
        return frozenset()

    def members_of(self, group: str) -> Collection[str]:
        return ()

    def addresses_of(self, peer: str) -> Collection[str]:
        return ()

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        return ()


class AllPublic:
    """`Audiences` of a repo in which there is nothing that not everyone may see."""

    def any_restricted(self) -> bool:
        return False

    def audiences(self, multihashes: Collection[bytes]) -> Mapping[bytes, Audience]:
        return {}
