"""Where members were met: kept in memory, and over a restart. Nothing of it is lost that cannot be learned again."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from kachery_p2p.membership import limits
from kachery_p2p.membership.invitations import usable_addresses

if TYPE_CHECKING:
    from kachery_p2p.membership.store import GroupStore


class Addresses:
    """Multiaddrs of members, without the peer ID at the end. Every method may be called in any thread.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: GroupStore) -> None:
        self._store = store
        self._known: dict[str, tuple[str, ...]] = {}
        self._saved: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def of(self, peer: str) -> tuple[str, ...]:
        """Those of one peer, the best first."""
        return self._known.get(peer, ())

    def seen(self, peer: str, addresses: Iterable[str]) -> None:
        """A member was reached at, or says it listens at, these; the first ones count most."""
        with self._lock:
            every = dict.fromkeys([*usable_addresses(list(addresses), peer), *self._known.get(peer, ())])
            self._known[peer] = tuple(every)[: limits.MAX_ADDRESSES]

    def heard(self, peer: str, addresses: Iterable[str]) -> None:
        """Another member has met a member at these. They count less than where this machine has."""
        with self._lock:
            every = dict.fromkeys([*self._known.get(peer, ()), *addresses])
            self._known[peer] = tuple(every)[: limits.MAX_ADDRESSES]

    def read(self) -> None:
        """Recall what was written down."""
        with self._lock:
            self._saved = self._store.read_addresses()
            self._known = {**self._saved, **self._known}

    def save(self, members: Container[str]) -> None:
        """Write down those of members, and forget those of others.

        Raises:
            NoPermission, DiskFull: the disk does not take it.
        """
        with self._lock:
            self._known = {peer: each for peer, each in self._known.items() if peer in members}
            known = dict(self._known)
        if known != self._saved:
            with self._store.lock():
                self._store.write_addresses(known)
            self._saved = known
