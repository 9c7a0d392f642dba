"""Who has a root that is for a group: its members, and nobody else.

They are found in two ways. The list of members says where each said that it can be reached; those that are connected
are asked anyway. And the DHTs and routers are asked for the keys under which members announce it (`routing.blinded`).
Anybody who saw such a key can put a record of himself under it. So whoever is found and is no member is left out: a
question to him would tell him the CID.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TYPE_CHECKING

from kachery_p2p.access.audience import OWN
from kachery_p2p.routing import blinded
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.router import Router, Sighting

if TYPE_CHECKING:
    from kachery_p2p.routing.provide.blinding import Members

#: Members of all groups together that are tried at the addresses which are known of them, each time that is done. In a
#: group of more, chance decides: most of those who are there are connected anyway, and those who have it announce it.
MAX_LISTED = 32
#: Keys that are asked for: those of two groups with three secrets, in three periods. Each is a lookup in each DHT.
MAX_KEYS = 18


class MemberSearch:
    """Finds members that may have a root.

    Args:
        router: is asked for the keys.
        members: who is in which group, and the secrets.
        known: gives addresses of peers that were met before, beside those that members told.
        local: our own peer ID.
        rng: randomness.
        wall: the time of day in seconds; for tests.
    """

    def __init__(
        self,
        router: Router,
        members: Members,
        *,
        known: Callable[[str], Iterable[str]] | None = None,
        local: str = "",
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._router = router
        self._members = members
        self._known = known
        self._local = local
        self._rng = rng or random.Random()
        self._wall = wall

    def admits(self, groups: Iterable[str]) -> Callable[[str], bool]:
        """Says of a peer ID whether that peer is in one of these groups now, or one of the user's own machines."""
        wanted = frozenset(groups) | {OWN}
        return lambda peer: not wanted.isdisjoint(self._members.groups_of(peer))

    def listed(self, groups: Iterable[str]) -> list[Provider]:
        """Own machines and members of these groups, with the addresses that are known of them."""
        own = list(self._members.members_of(OWN))
        others = list({peer for group in groups for peer in self._members.members_of(group)}.difference(own))
        self._rng.shuffle(others)
        found: list[Provider] = []
        for peer in (*own, *others):
            told = [addr.removesuffix(f"/p2p/{peer}") for addr in self._members.addresses_of(peer)]
            met = self._known(peer) if self._known is not None else ()
            addrs = tuple(dict.fromkeys([*told, *met]))
            if addrs and peer != self._local:
                found.append(Provider(peer, addrs, "group"))
                if len(found) == MAX_LISTED:
                    break
        return found

    def keys(self, groups: Iterable[str], multihash: bytes) -> list[bytes]:
        """The keys under which members of these groups may have announced a root, the likeliest first."""
        wall = self._wall()
        each = [blinded.keys_to_ask(self._members.secrets_of(group), multihash, wall) for group in groups]
        longest = max(map(len, each), default=0)
        in_turn = [keys[turn] for turn in range(longest) for keys in each if turn < len(keys)]
        return in_turn[:MAX_KEYS]

    async def find_providers(
        self, groups: Iterable[str], multihash: bytes, *, label: str = ""
    ) -> AsyncGenerator[Provider, None]:
        """Members that may have it, as they are found.

        Args:
            groups: whose members are asked.
            multihash: of the root.
            label: what the status calls it.
        """
        async with contextlib.aclosing(self.search(groups, multihash, label=label)) as found:
            async for sighting in found:
                yield sighting.provider

    async def search(
        self, groups: Iterable[str], multihash: bytes, *, label: str = "", fresh: bool = False
    ) -> AsyncGenerator[Sighting, None]:
        """The same, but everything that every source says; see `Router.search`."""
        groups = sorted(groups)
        admits = self.admits(groups)
        for provider in self.listed(groups):
            yield Sighting(provider, 0.0)
        keys = self.keys(groups, multihash)
        if not keys:
            return
        search = self._router.search(keys[0], also=keys[1:], label=label, fresh=fresh)
        async with contextlib.aclosing(search) as found:
            async for sighting in found:
                if admits(sighting.provider.peer):
                    yield sighting
