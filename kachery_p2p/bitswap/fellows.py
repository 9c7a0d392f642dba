"""Loading the same thing at the same time as others: who fetches what from the source. Sans-IO.

A peer that wants of us what we want ourselves is a *fellow*: it loads the same. If everybody asked the source for
everything, the source would send as many copies as there are loaders. So each block is one loader's to fetch, by a
rule that all of them can reckon from their peer IDs without a word to each other: the highest hash of ID and block.
Each asks the source for its own blocks, and the others for theirs when they say that they have them. Those who know
different fellows agree on most blocks all the same.

Nobody must rely on it. A fellow may be slow, lie or go, or use another program that knows no such rule. When a session
has nothing under way and nothing comes, those that have nothing to give are its fellows no more, for good, and it asks
the source for the rest (`SessionWatch`). Small blocks are not divided: to ask many who has them would cost more than
they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Set
from typing import Generic, Protocol, TypeVar

from kachery_p2p.bitswap import limits


class Peer(Hashable, Protocol):
    """What is used of a `kachery_p2p.bitswap.link.PeerLink`."""

    peer: str

    @property
    def usable(self) -> bool: ...


class Wanted(Hashable, Protocol):
    """What is used of a `kachery_p2p.bitswap.session.Want`."""

    multihash: bytes
    claimed: int

    @property
    def having(self) -> Set[Peer]: ...


P = TypeVar("P", bound=Peer)
W = TypeVar("W", bound=Wanted)


class Fellows(Generic[P, W]):
    """The fellows of one session. False while there are none."""

    def __init__(self) -> None:
        self._local = b""
        self._links: dict[P, bytes] = {}
        #: Those that were of no use. They are not taken again.
        self._useless: set[str] = set()
        #: Wants that a fellow is to fetch.
        self.left: set[W] = set()
        #: Since when nothing has been under way to us.
        self.idle_since = 0.0

    def __bool__(self) -> bool:
        return bool(self._links)

    def __contains__(self, link: P) -> bool:
        return link in self._links

    @property
    def links(self) -> list[P]:
        """All of them."""
        return list(self._links)

    def add(self, local: str, link: P) -> bool:
        """Take a peer as a fellow; `local` is our own ID. Returns whether it is a new one."""
        if link in self._links or link.peer in self._useless or len(self._links) >= limits.MAX_FELLOWS:
            return False
        self._local = local.encode()
        self._links[link] = link.peer.encode()
        return True

    def remove(self, link: P, *, useless: bool = False) -> bool:
        """It is a fellow no more, for good where it was of no use. Returns whether it was one."""
        if useless and len(self._useless) < limits.MAX_BAD_PEERS:
            self._useless.add(link.peer)
        return self._links.pop(link, None) is not None

    def have(self, want: W) -> bool:
        """Whether one that can be asked says that it has this block."""
        return any(link.usable and link in self._links for link in want.having)

    def divide(self, want: W) -> None:
        """Say whether a want is ours to fetch."""
        if not divides(want):
            return
        ours = _rank(self._local, want.multihash)
        if any(_rank(peer, want.multihash) > ours for peer in self._links.values()):
            self.left.add(want)


def divides(want: Wanted) -> bool:
    """Whether a want is large enough. Inner nodes, of which no size is known, are for everybody: more follows."""
    return want.claimed >= limits.LEAST_DIVIDED


def _rank(peer: bytes, multihash: bytes) -> bytes:
    return hashlib.blake2b(multihash, key=peer[-64:], digest_size=8).digest()
