"""For whom what is being loaded is: who may hear of it, and who may have it from here afterwards.

What is loaded from a group stays in that group. So a machine that is in any group must know, of each thing that it
loads, for whom it is. It knows from three places, which are asked in this order:

* its own catalog, where a part of it is here already;
* the URI, which may name groups. That says who may be asked, and no more: whoever wrote it may be wrong, or lie;
* the members, each of which says for whom it has it (`/kachery/access/1.0.0`).

What counts of the last is what the peer said that sent the root's own block. Whoever has that block has been given the
data; others only know the CID, perhaps because they were asked, and could say what they like. Where nobody who can be
asked sent it, because it was here, it is the peer that sent most of the rest. A block from a peer that is no member of
anything here, or from a gateway, is for everybody: others have it already.

The root's block comes before all others, and nothing is written until it is known for whom it is. If nobody says, it is
for nobody else. Should it turn out to be for groups only now, then from now on nobody else hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from kachery_p2p.access.audience import NOBODY, PUBLIC, Audience

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.load.interfaces import Received

log = logging.getLogger("kachery_p2p.load.load")

#: Asks a connected peer for whom it has a root; None where it says nothing of that.
AskAudience = Callable[[str], Awaitable["Audience | None"]]


class Groups(Protocol):
    """What is used of `kachery_p2p.access.interfaces.Memberships`."""

    def groups_of(self, peer: str) -> frozenset[str]: ...


class SourcesLike(Protocol):
    """What is used of a `kachery_p2p.bitswap.handle.SessionStats`."""

    @property
    def sources(self) -> Mapping[str, int]: ...


class SessionLike(Protocol):
    """What is used of a `kachery_p2p.bitswap.handle.SessionHandle`."""

    def put_back(self, block: Any, /) -> None: ...

    def stats(self) -> SourcesLike: ...


class OriginLike(Protocol):
    """What a load needs of an `Origin`."""

    audience: Audience
    groups: frozenset[str] | None
    why: str
    decided: bool
    session: SessionLike

    async def came(self, blocks: Iterable[Received]) -> None: ...

    async def finish(self) -> None: ...


class Origin:
    """What is known of where the data of one load is from.

    Args:
        root: what was asked for.
        session: that of the load.
        memberships: who is in which group.
        ask: asks a peer for whom it has the root.
        groups: those whose members are asked; None where everybody is.
        known: for whom it is, where that is known: a part of it is here.
        told: what members said before the load began, by peer ID.
        why: how it is known that these alone may be asked, for an error.
        restricted: called with the groups that it is for, where everybody was asked before.

    Attributes:
        audience: for whom it is; `NOBODY` until that is known.
        groups: those whose members are asked now.
        why: as given, or as it was found out.
        decided: whether that is known.
        session: as given.
    """

    def __init__(
        self,
        root: CID,
        session: SessionLike,
        memberships: Groups,
        ask: AskAudience,
        *,
        groups: frozenset[str] | None = None,
        known: Audience | None = None,
        told: Mapping[str, Audience] | None = None,
        why: str = "",
        restricted: Callable[[frozenset[str]], None] = lambda groups: None,
    ) -> None:
        self.audience = known or NOBODY
        self.groups = groups
        self.why = why
        self.decided = self.audience != NOBODY
        self.session = session
        self._root = root.multihash
        self._memberships = memberships
        self._ask = ask
        self._told = dict(told or {})
        self._restricted = restricted

    async def came(self, blocks: Iterable[Received]) -> None:
        """These have come, and the load has not seen them yet."""
        if self.decided:
            return
        for block in blocks:
            if block.cid.multihash == self._root:
                await self._decide(block.peer)
                return

    async def finish(self) -> None:
        """All has come: where nothing is known, who sent most of it counts."""
        sources = self.session.stats().sources
        if not self.decided and sources:
            await self._decide(max(sources, key=lambda peer: sources[peer]))

    async def _decide(self, peer: str) -> None:
        audience = await self._audience_at(peer)
        if audience is None:
            log.info("the peer %s did not say for whom it has what is loaded, so for now it is for nobody else", peer)
            return
        self.decided = True
        self.audience = audience
        if not audience.everyone and self.groups is None:
            self.groups = audience.groups
            self.why = "for a member that has it says so"
            self._restricted(audience.groups)

    async def _audience_at(self, peer: str) -> Audience | None:
        """For whom a peer has it, as far as this machine is in it."""
        shared = self._memberships.groups_of(peer)
        if not shared:
            return PUBLIC
        told = self._told.get(peer) or await self._ask(peer)
        if told is None or told.everyone:
            return told
        # Somebody who left meanwhile is in none of them any more, and what it says counts for nothing.
        return Audience(groups=told.groups & shared) if told.groups & shared else None
