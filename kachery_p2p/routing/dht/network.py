"""The DHT as seen by a client: asking one peer, checking one, and looking up who is nearest to a key.

Everything that answers is a server and is offered to the routing table; what fails leaves it. While no connection is
left at all nobody is thrown out: then it is this machine that is cut off, and the table is what brings it back.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError, StreamError
from kachery_p2p.peer_ids import peer_bytes, peer_text
from kachery_p2p.routing.dht import limits, shell_limits
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.lookup import Lookup
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType
from kachery_p2p.routing.dht.reach import DhtConnections, bare
from kachery_p2p.routing.dht.rpc import Rpc
from kachery_p2p.routing.dht.shell_limits import ShellLimits
from kachery_p2p.routing.dht.table import RoutingTable
from kachery_p2p.waking import Flag, Signal

if TYPE_CHECKING:
    from kachery_p2p.routing.dht.addresses import DhtScope
    from kachery_p2p.routing.interfaces import HostLike

log = logging.getLogger("kachery_p2p.routing")

#: Looks at each answer of a lookup: who answered, and what.
Look = Callable[[DhtPeer, DhtMessage], Awaitable[None]]


class Network:
    """The peers of one DHT, and questions to them.

    Args:
        host: connections and streams.
        protocol: the name of the DHT's protocol.
        scope: which addresses belong into this DHT.
        answer: answers the questions of peers (see `Rpc`).
        rng: for the routing table.
        bounds: of this DHT.
    """

    def __init__(
        self,
        host: HostLike,
        protocol: str,
        scope: DhtScope,
        answer: Callable[[DhtMessage, str], DhtMessage | None],
        rng: random.Random,
        bounds: ShellLimits,
    ) -> None:
        self.limits = bounds
        self.host = host
        self.scope = scope
        self.local = peer_bytes(host.peer_id)
        self.rpc = Rpc(host, protocol, answer, bounds)
        self.reach = DhtConnections(host, scope, bounds)
        self.table = RoutingTable(self.local, scope=scope, rng=rng)
        #: peers that came into the table so far, and the signal that one more did
        self.newcomers = 0
        self.grown = Signal()
        self.errors: deque[str] = deque(maxlen=shell_limits.MAX_ERRORS)
        self.lookups = 0
        self._foreground = trio.Semaphore(shell_limits.MAX_LOOKUPS)
        self._background = trio.Semaphore(shell_limits.MAX_BACKGROUND_LOOKUPS)

    def note(self, problem: str) -> None:
        """Remember an error for the status; the same one twice in a row counts once."""
        if not self.errors or self.errors[-1] != problem:
            self.errors.append(problem[: shell_limits.MAX_ERROR_LENGTH])

    # --- one peer --------------------------------------------------------------------------------------------------

    async def ask(self, peer: bytes, addrs: Sequence[bytes], message: DhtMessage) -> DhtMessage:
        """Connect to a peer, if need be, and ask it.

        Raises:
            DialError, StreamError: it cannot be reached, is no server of this DHT, or does not answer.
        """
        return await self._exchange(peer, addrs, lambda text: self.rpc.ask(text, message))

    async def tell(
        self, peer: bytes, addrs: Sequence[bytes], messages: Sequence[DhtMessage], last: DhtMessage
    ) -> DhtMessage:
        """The same for messages without an answer, followed by a question whose answer shows that they were taken."""
        return await self._exchange(peer, addrs, lambda text: self.rpc.tell(text, messages, last))

    async def _exchange(
        self, peer: bytes, addrs: Sequence[bytes], action: Callable[[str], Awaitable[DhtMessage]]
    ) -> DhtMessage:
        try:
            answer = await action(await self.reach.connect(peer, addrs))
        except KacheryError as error:
            log.debug("%s: %s", peer_text(peer), error)
            if any(True for _ in self.host.connected()):
                self.table.dead(peer, trio.current_time())
            raise
        self.seen(peer, addrs)
        return answer

    async def check(self, peer: bytes, addrs: Sequence[bytes]) -> bool:
        """Whether a peer answers as a server of this DHT; it is in the table then, if there is room, and out if not."""
        try:
            await self.ask(peer, addrs, DhtMessage(MessageType.FIND_NODE, self.local))
        except KacheryError:
            return False
        return True

    def seen(self, peer: bytes, addrs: Sequence[bytes]) -> None:
        """A peer has just proved to be a server."""
        now = trio.current_time()
        if peer in self.table:
            self.table.alive(peer, now)
            return
        text = peer_text(peer)
        said = self.reach.addresses_of(text) or addrs
        if self.table.consider(peer, said, now, self.reach.remote_of(text)):
            self.newcomers += 1
            self.grown.notify()

    def readdress(self, peer: bytes) -> None:
        """A peer of the table has told us where it listens now."""
        text = peer_text(peer)
        said = self.reach.addresses_of(text)
        if said:
            self.table.consider(peer, said, trio.current_time(), self.reach.remote_of(text))

    # --- lookups ---------------------------------------------------------------------------------------------------

    async def lookup(
        self,
        question: DhtMessage,
        *,
        look: Look | None = None,
        enough: trio.Event | None = None,
        all_closest: bool = False,
        background: bool = False,
        linger: float = shell_limits.LINGER,
    ) -> list[DhtPeer]:
        """Put a question to the peers nearest to its key, and to ever nearer ones that the answers name.

        Args:
            question: what is asked; its key says whom to ask.
            look: sees each answer; the peer that gave it counts as asked until this returns.
            enough: ends the lookup when set.
            all_closest: go on until all of the k nearest have answered.
            background: nobody waits for it; it does not take the place of those for which somebody does.
            linger: seconds for which slow peers may still answer when the lookup could end without them; one that
                wants the k nearest waits only while it has fewer.

        Returns:
            The nearest peers that answered, nearest first; none when the table is empty.
        """
        async with self._background if background else self._foreground:
            self.lookups += 1
            return await self._lookup(question, look, enough, all_closest, linger)

    async def _lookup(
        self, question: DhtMessage, look: Look | None, enough: trio.Event | None, all_closest: bool, linger: float
    ) -> list[DhtPeer]:
        target = kad_id(question.key)
        seeds = self.table.nearest_infos(target)
        known: dict[bytes, tuple[bytes, ...]] = {info.id: info.addrs for info in seeds}
        core = Lookup(target, known, local=self.local, all_closest=all_closest)
        changed = Flag()

        async def ask(peer: bytes) -> None:
            info = DhtPeer(peer, known[peer])
            try:
                answer = await self.ask(peer, info.addrs, question)
                closer = self._learn(known, answer.closer)
                if look is not None:
                    await look(info, answer)
            except KacheryError:
                core.failed(peer, trio.current_time())
            else:
                core.answered(peer, closer, trio.current_time())
            changed.set()

        async def end_early(event: trio.Event, scope: trio.CancelScope) -> None:
            await event.wait()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            if enough is not None:
                nursery.start_soon(end_early, enough, nursery.cancel_scope)
            while not core.done:
                for peer in core.next(trio.current_time()):
                    nursery.start_soon(ask, peer)
                if core.done:
                    break
                with trio.move_on_at(core.wake_at):
                    await changed.take()
            with trio.move_on_after(linger):
                while core.waiting() and not (all_closest and len(core.closest()) >= core.k):
                    await changed.take()
            nursery.cancel_scope.cancel()
        return [DhtPeer(peer, known[peer]) for peer in core.closest()]

    def _learn(self, known: dict[bytes, tuple[bytes, ...]], infos: Iterable[DhtPeer]) -> list[bytes]:
        """The peers of an answer that may be asked, their addresses noted."""
        closer: list[bytes] = []
        for info in bare(infos):
            peer = info.id
            if peer == self.local:
                continue
            addrs = known.get(peer)
            usable = self.scope.usable(info.addrs)
            if addrs is not None:
                # The first answer may have lied about its addresses; two such are enough to remember.
                if len(addrs) < limits.MAX_ADDRS_PER_PEER:
                    known[peer] = tuple(dict.fromkeys((*addrs, *usable)))[: limits.MAX_ADDRS_PER_PEER]
            elif len(known) >= shell_limits.MAX_LOOKUP_ADDRS:
                continue
            elif self.scope.may_ask(info.addrs):
                known[peer] = usable
            elif peer in self.table or self.reach.is_connected(peer):
                # Kubo leaves out loopback addresses; we may know how to get there all the same.
                own = self.table.info(peer)
                known[peer] = usable if own is None else own.addrs
            else:
                continue
            closer.append(peer)
        return closer

    def require_peers(self) -> None:
        """Make sure that there is a peer to ask.

        Raises:
            StreamError: no peer of this DHT is known yet.
        """
        if not len(self.table):
            raise StreamError(f"No peer of the DHT {self.rpc.protocol} is known yet.")
