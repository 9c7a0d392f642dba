"""Getting to peers by whatever is known of where they are. What comes of it goes to the address book."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import DialError, KacheryError

if TYPE_CHECKING:
    from kachery_p2p.routing.address_book import KnownPeers
    from kachery_p2p.routing.dht.dht import DHT
    from kachery_p2p.transport.host import Host

log = logging.getLogger("kachery_p2p.node.node")

#: Seconds to dial a peer of the local network, or one from the address book: it answers soon or is away.
FOUND_PEER_TIMEOUT = 5.0
#: Peers dialled at once because they were found, and not because somebody asked for them.
DIALS_AT_ONCE = 8


class Dialler:
    """Dials for one node.

    Args:
        host: of the node.
        known: its address book, where it keeps one.
        dhts: that are asked where a peer is now, in this order.
    """

    def __init__(self, host: Host, known: KnownPeers | None, dhts: Iterable[DHT]) -> None:
        self._host = host
        self._known = known
        self._dhts = list(dhts)
        self._slots = trio.Semaphore(DIALS_AT_ONCE)

    async def dial(self, peer: str, addrs: Sequence[str], *, timeout: float) -> str:
        """Connect to a peer at these addresses and those of the address book.

        Where none of them leads to it, the DHTs are asked where it is now: a provider record may be a day old, and a
        laptop is somewhere else by then.

        Returns:
            The peer.

        Raises:
            DialError: no address is known, or none leads to it; says why for each.
        """
        recalled = self._known.addresses(peer) if self._known is not None else ()
        every = list(dict.fromkeys([*addrs, *recalled]))
        if not every and peer not in self._host.connected():
            return await self._dial(peer, await self._look_up(peer), timeout)
        try:
            return await self._dial(peer, every, timeout)
        except DialError:
            elsewhere = [addr for addr in await self._look_up(peer) if addr not in every]
            if not elsewhere:
                raise
            return await self._dial(peer, elsewhere, timeout)

    async def dial_quietly(self, peer: str, addrs: Sequence[str]) -> None:
        """Connect to a peer that may be of use, if it answers soon; a few at a time."""
        try:
            async with self._slots:
                await self._dial(peer, addrs, FOUND_PEER_TIMEOUT)
        except KacheryError as error:
            log.debug("%s", error)

    async def _dial(self, peer: str, addrs: Sequence[str], timeout: float) -> str:
        known = self._known
        begun = trio.current_time()
        try:
            await self._host.connect(peer, addrs, timeout=timeout)
        except DialError:
            if known is not None:
                for addr in addrs:
                    known.failed(peer, addr)
            raise
        if known is not None:
            used = self._host.remote_addresses_of(peer)
            known.connected(peer, used[0] if used else None, trio.current_time() - begun)
        return peer

    async def _look_up(self, peer: str) -> list[str]:
        for dht in self._dhts:
            if found := await dht.find_peer(peer):
                return list(found)
        return []
