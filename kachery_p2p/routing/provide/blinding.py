"""What is announced of what is here: public roots by their multihash, those of groups under keys for their members.

Everything that the announcer lists, or is told, goes through here, and so does everything that it is about to send. So
the multihash of a root that is not public stands neither in a message to others nor in the tables of what was announced
when. Which key is of which root is known in memory alone, and worked out anew after a start.

What is for the user's own machines only, or for nobody, is not announced at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from kachery_p2p.access.audience import Audience
from kachery_p2p.access.gate import NoMembers
from kachery_p2p.access.interfaces import Audiences, GroupSecrets, Memberships
from kachery_p2p.routing import blinded

#: Multihashes whose audiences are looked up at once.
_STROKE = 1000


class Members(Memberships, GroupSecrets, Protocol):
    """Who is in which group, and the secrets of the groups."""


class NoGroups(NoMembers):
    """The same of a machine that is in no group, and whose user has no other machines."""

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        """None."""
        return ()


class Blinding:
    """Turns roots into the keys under which they are announced. Safe to use from many threads.

    Args:
        audiences: who may see which root.
        members: the groups of this machine, and their secrets.
        wall: the time of day in seconds; for tests.
    """

    def __init__(self, audiences: Audiences, members: Members, wall: Callable[[], float] = time.time) -> None:
        self._audiences = audiences
        self._members = members
        self._wall = wall
        self._lock = threading.Lock()
        #: The root of each key that was made, and in which listing that was done last.
        self._roots: dict[bytes, tuple[bytes, int]] = {}
        self._listing = 0

    def keys(self, multihashes: Iterable[bytes]) -> Iterator[bytes]:
        """Under which keys these roots are to be announced; asks the disk."""
        rows = iter(multihashes)
        while batch := list(islice(rows, _STROKE)):
            if not self._audiences.any_restricted():
                yield from batch
                continue
            restricted = self._audiences.audiences(batch)
            for multihash in batch:
                audience = restricted.get(multihash)
                if audience is None:
                    yield multihash
                else:
                    yield from self.keys_for(multihash, audience)

    def keys_for(self, multihash: bytes, audience: Audience) -> list[bytes]:
        """The keys of one root for this audience: its multihash, or those for the members of its groups, or none."""
        if audience.everyone:
            return [multihash]
        made: list[bytes] = []
        wall = self._wall()
        for group in sorted(audience.groups & self._members.own_groups()):
            for secret in self._members.secrets_of(group)[:1]:
                made += blinded.keys_to_announce(secret, multihash, wall)
        with self._lock:
            self._roots.update((key, (multihash, self._listing)) for key in made)
        return made

    def listed(self, multihashes: Iterable[bytes]) -> Iterator[bytes]:
        """`keys` of everything that is here. Keys that were made before and are none of these are forgotten."""
        with self._lock:
            self._listing += 1
            listing = self._listing
        yield from self.keys(multihashes)
        with self._lock:
            self._roots = {key: each for key, each in self._roots.items() if each[1] >= listing}

    def public(self, multihashes: Sequence[bytes]) -> Sequence[bytes]:
        """Those of these blocks that everybody may see; asks the disk."""
        if not multihashes or not self._audiences.any_restricted():
            return multihashes
        restricted = self._audiences.audiences(multihashes)
        return [multihash for multihash in multihashes if multihash not in restricted]

    def right(self, keys: Sequence[bytes], here: Callable[[Sequence[bytes]], Iterable[bytes]]) -> set[bytes]:
        """Those of some keys that may be announced now; asks the disk.

        Args:
            keys: what is about to be announced.
            here: of some multihashes those of roots, or blocks, that are here.
        """
        roots: dict[bytes, None] = {}
        plain: list[bytes] = []
        for key in keys:
            if key in self._roots:
                roots[self._roots[key][0]] = None
            else:
                plain.append(key)
        found = set(self.public(list(here(plain)))) if plain else set[bytes]()
        if roots:
            found.update(set(self.keys(here(list(roots)))) & set(keys))
        return found

    def root_of(self, key: bytes) -> bytes | None:
        """The root that is announced under this key; None where that is no key of ours, but perhaps a multihash."""
        found = self._roots.get(key)
        return None if found is None else found[0]
