"""Whether somebody else has all of a root, seen and verified now: what must be known before the copy here is removed.

What others say is not enough, and fetching all of it would be a load. So each peer that is found is asked three things:

* whether it has the root;
* whether it has each of some hundred blocks, chosen by chance by whoever asks. Peers are honest as a rule, but many
  have only a part: one that lacks a hundredth of the blocks is found out by 256 of them in 92 of 100 cases, and a file
  of up to 256 blocks is asked about as a whole;
* to give some of these blocks, the root among them. They are hashed. A peer that only says that it has them, or whose
  disk is broken, does not pass. One that lacks half of the bytes passes one time in 256.

Two machines could ask each other at the same time, and then both remove theirs. So while a node asks, and until its own
copy is gone, it says of this root that it does not have it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.node.messages import Copies, CopySeen
from kachery_p2p.node.whereis import ANSWER_TIMEOUT, ASKED_AT_ONCE, MAX_PEERS
from kachery_p2p.transport.limits import DIAL_TIMEOUT

if TYPE_CHECKING:
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.node.messages import CopiesRequest
    from kachery_p2p.transport.host import Host

#: Seconds for the blocks that a peer is asked to give: some MiB.
PROOF_TIMEOUT = 60.0
#: Seconds for which this node does not say that it has a root, after another copy was seen: in that time it is removed.
HIDDEN_SECONDS = 60.0
#: Blocks that one peer is asked about at once.
ASKED_OF_ONE = 64


class CopySearch:
    """One question. Use once.

    Args:
        host, exchange, finding: of the node.
        request: what is asked.
        groups: that the root is for, of which only the members are asked; None where it is for everybody.
    """

    def __init__(
        self,
        host: Host,
        exchange: Exchange,
        finding: Finding,
        request: CopiesRequest,
        groups: frozenset[str] | None = None,
    ) -> None:
        self._groups = groups
        self._admits = None if groups is None else finding.members.admits(groups)
        self._host = host
        self._exchange = exchange
        self._finding = finding
        self._request = request
        self._slots = trio.Semaphore(ASKED_AT_ONCE)
        self._tried: set[str] = set()
        self._seen: list[CopySeen] = []
        self._partly: list[str] = []
        self._silent: list[str] = []
        self._lacking = 0

    async def run(self) -> Copies:
        """Ask until one copy is verified, all were asked, or the time is over."""
        with trio.move_on_after(self._request.timeout):
            async with trio.open_nursery() as nursery:
                for addr in self._request.providers:
                    nursery.start_soon(self._dial, nursery, addr)
                for peer in self._host.connected():
                    self._try(nursery, peer, ())
                async with contextlib.aclosing(self._finding.sightings(self._request.cid, self._groups)) as sightings:
                    async for each in sightings:
                        self._try(nursery, each.provider.peer, tuple(each.provider.addrs))
        return Copies(tuple(self._seen), len(self._tried), tuple(self._partly), tuple(self._silent), self._lacking)

    async def _dial(self, nursery: trio.Nursery, addr: str) -> None:
        try:
            peer = await self._host.connect(addr)
        except KacheryError as error:
            self._tried.add(addr)
            self._silent.append(str(error))
            return
        self._try(nursery, peer, ())

    def _try(self, nursery: trio.Nursery, peer: str, addrs: tuple[str, ...]) -> None:
        if self._admits is not None and not self._admits(peer):
            return
        if peer not in self._tried and peer != self._host.peer_id and len(self._tried) < MAX_PEERS:
            self._tried.add(peer)
            nursery.start_soon(self._look_at, nursery, peer, addrs)

    async def _look_at(self, nursery: trio.Nursery, peer: str, addrs: tuple[str, ...]) -> None:
        async with self._slots:
            try:
                await self._finding.dial(peer, addrs, timeout=DIAL_TIMEOUT)
            except KacheryError as error:
                self._silent.append(str(error))
                return
            with trio.move_on_after(ANSWER_TIMEOUT) as late:
                if not await self._exchange.ask(peer, self._request.cid):
                    self._lacking += 1
                    return
                if not await self._has_all(peer):
                    self._partly.append(peer)
                    return
            given = 0
            if not late.cancelled_caught:
                with trio.move_on_after(PROOF_TIMEOUT):
                    given = await self._gives(peer)
            if given < len(self._request.proofs):
                self._partly.append(peer)
                return
            self._seen.append(CopySeen(peer, len(self._request.blocks), given))
            nursery.cancel_scope.cancel()

    async def _has_all(self, peer: str) -> bool:
        """Whether a peer says that it has all blocks that are asked about."""
        left = list(self._request.blocks)
        lacks = False

        async with trio.open_nursery() as nursery:

            async def work() -> None:
                nonlocal lacks
                while left:
                    if not await self._exchange.ask(peer, left.pop()):
                        lacks = True
                        nursery.cancel_scope.cancel()

            for _ in range(min(ASKED_OF_ONE, len(left))):
                nursery.start_soon(work)
        return not lacks

    async def _gives(self, peer: str) -> int:
        """How many of the blocks that it is asked for a peer gives. Their hashes are checked by the exchange."""
        wanted: set[CID] = set(self._request.proofs)
        given = 0
        async with self._exchange.new_session(admits=self._admits) as session, trio.open_nursery() as nursery:

            async def refused() -> None:
                await session.wait_exhausted()
                nursery.cancel_scope.cancel()

            session.add_provider(peer)
            session.want(list(wanted))
            nursery.start_soon(refused)
            while given < len(wanted):
                block = await session.receive()
                if block.peer not in (peer, ""):  # a block that everybody has comes from nobody
                    break
                given += 1
            nursery.cancel_scope.cancel()
        return len(self._request.proofs) if given == len(wanted) else given
