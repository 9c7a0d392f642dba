"""Loads for somebody unknown: what everybody may have, and nothing else.

A node loads with the rights of its user: members of its groups give it what is for them. What it loads for a stranger,
as a gateway does, must not be that. So such a load

* puts what comes into a repo of its own, so that nothing of it depends on what is restricted here, or changes that;
* of what is here sees what everybody may (`PublicLoad`);
* asks whoever is no member of any group of this machine. A member is asked only once it has said that it has the root
  for everybody, and of each block that it sends it is asked the same (`PublicOrigin`).

A member that gave something else, because a public directory leads to what is for a group there, is asked no more, and
the load ends as one does that finds nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.access.audience import PUBLIC, Audience
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.load.load import Load

if TYPE_CHECKING:
    from kachery_p2p.access.gate import Gate
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.filenode import FileNode
    from kachery_p2p.load.interfaces import Received
    from kachery_p2p.load.origin import Groups, SessionLike
    from kachery_p2p.repo.contents import Contents

#: Asks a connected member for whom it has some blocks; None where it says nothing of that.
AskAudiences = Callable[[str, Sequence[bytes]], Awaitable["Mapping[bytes, Audience] | None"]]


class PublicOrigin:
    """Sees that all that one load takes is for everybody. It stands where an `Origin` does.

    Args:
        root: what was asked for.
        memberships: who is in which group.
        ask: see `AskAudiences`.
        look_again: called when somebody may be asked who might not before, or the other way round.

    Attributes:
        audience: everybody.
        groups: None: it is looked for everywhere.
        why: empty, for nobody is left out.
        decided: it is.
        session: that of the load.
    """

    audience = PUBLIC
    groups: frozenset[str] | None = None
    why = ""
    decided = True
    session: SessionLike

    def __init__(
        self, root: CID, memberships: Groups, ask: AskAudiences, look_again: Callable[[], None] = lambda: None
    ) -> None:
        self._root = root
        self._memberships = memberships
        self._ask = ask
        self._look_again = look_again
        #: Members: those that have the root for everybody, and those that were asked, or are to be.
        self._public: set[str] = set()
        self._known: set[str] = set()
        self._to_ask: trio.MemorySendChannel[str]
        self._to_ask, self._questions = trio.open_memory_channel[str](1024)

    def admits(self, peer: str) -> bool:
        """Whether a peer may be asked for blocks."""
        if peer in self._public or not self._memberships.groups_of(peer):
            return True
        if peer not in self._known:
            self._known.add(peer)
            try:
                self._to_ask.send_nowait(peer)
            except trio.WouldBlock:  # so many members are asked already
                self._known.discard(peer)
        return False

    async def run(self) -> None:
        """Ask members whether they have the root for everybody, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for peer in self._questions:
                nursery.start_soon(self._ask_first, peer)

    async def _ask_first(self, peer: str) -> None:
        told = await self._ask(peer, [self._root.multihash])
        if told is not None and told.get(self._root.multihash) == PUBLIC:
            self._public.add(peer)
            self._look_again()

    async def came(self, blocks: Iterable[Received]) -> None:
        """These have come, and the load has not seen them yet.

        Raises:
            ContentNotFound: a member has sent something that is not for everybody.
        """
        of: dict[str, list[bytes]] = {}
        for block in blocks:
            if self._memberships.groups_of(block.peer):
                of.setdefault(block.peer, []).append(block.cid.multihash)
        for peer, multihashes in of.items():
            told = await self._ask(peer, multihashes)
            if told is None or any(told.get(each) != PUBLIC for each in multihashes):
                self._public.discard(peer)
                self._look_again()
                raise ContentNotFound(f"Nobody else was found that has all of ipfs://{self._root}.")

    async def finish(self) -> None:
        """All has come."""


class PublicLoad(Load):
    """A load into a repo of its own, which sees of what is here what everybody may see.

    Args:
        here: what is here.
        gate: decides what everybody may see.
        more: see `Load`.
    """

    def __init__(self, here: Contents, gate: Gate, *more: Any, **named: Any) -> None:
        super().__init__(*more, **named)
        self._here = here
        self._gate = gate
        self._places_early = False  # it must be known first that it is for everybody

    def _look_up(self, multihashes: Sequence[bytes]) -> tuple[set[bytes], dict[bytes, bytes]]:
        kept, found = super()._look_up(multihashes)
        lacking = [each for each in multihashes if each not in found]
        blocks = self._gate.look([(None, each) for each in lacking], self._here.get_blocks) if lacking else ()
        found.update((each, block) for each, block in zip(lacking, blocks, strict=True) if block is not None)
        return kept, found

    def local_part(self, cid: CID) -> bytes | FileNode | None:
        """In a thread: a part of a file, if it is in either."""
        part = super().local_part(cid)
        return self._gate.look([(None, cid.multihash)], self._here.get_blocks)[0] if part is None else part
