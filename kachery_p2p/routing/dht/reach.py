"""Getting to a peer of the DHT: its addresses, its connection, and letting go of connections that lookups left behind.

Inside the DHT a peer is its binary ID and an address a binary multiaddr; the host knows both as text. This is where
the two meet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import DialError
from kachery_p2p.peer_ids import peer_bytes, peer_text
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.routing.dht import addresses, shell_limits
from kachery_p2p.routing.dht.messages import DhtPeer
from kachery_p2p.routing.dht.shell_limits import ShellLimits

if TYPE_CHECKING:
    from kachery_p2p.routing.dht.addresses import DhtScope
    from kachery_p2p.routing.interfaces import HostLike

#: The code of `/p2p/` in a binary multiaddr.
_P2P = b"\xa5\x03"
#: The tag under which the connections to the nearest peers are protected.
_NEAR = "dht-near"
#: A tag that nobody sets: taking it back tells whether anybody protects the peer.
_NONE = "dht-none"


def bare(infos: Iterable[DhtPeer]) -> tuple[DhtPeer, ...]:
    """Peers whose addresses do not end in their own ID: Helia writes it behind each, the others do not."""
    found: list[DhtPeer] = []
    for info in infos:
        suffix = _P2P + bytes([len(info.id)]) + info.id
        if any(addr.endswith(suffix) for addr in info.addrs):
            info = DhtPeer(info.id, tuple(addr.removesuffix(suffix) for addr in info.addrs))
        found.append(info)
    return tuple(found)


def without_peer(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Binary forms of addresses that may end in a peer ID, without it; those that cannot be read are left out."""
    return addresses.from_texts(text.rpartition("/p2p/")[0] if _ends_in_peer(text) else text for text in texts)


def _ends_in_peer(text: str) -> bool:
    head, middle, tail = text.rpartition("/p2p/")
    return bool(middle) and bool(head) and "/" not in tail


class DhtConnections:
    """Connections to peers of one DHT.

    Args:
        host: what dials.
        scope: which addresses may be dialled for this DHT.
        bounds: of this DHT.
    """

    def __init__(self, host: HostLike, scope: DhtScope, bounds: ShellLimits) -> None:
        self._limits = bounds
        self._host = host
        self.scope = scope
        self._slots = trio.Semaphore(shell_limits.MAX_DIALS)
        #: until when a peer is left alone
        self._unreachable: OrderedDict[bytes, float] = OrderedDict()
        #: peers to which we have dialled, the one used longest ago first
        self._dialled: OrderedDict[str, None] = OrderedDict()
        self._near: set[str] = set()
        self.dials = self.failed = 0

    # --- addresses -------------------------------------------------------------------------------------------------

    def own_addresses(self) -> tuple[bytes, ...]:
        """Where others of this DHT can dial us; may be empty."""
        return self.scope.usable(without_peer(self._host.transport_addresses()))

    def own_info(self) -> DhtPeer:
        """Ourselves, as others are told."""
        return DhtPeer(peer_bytes(self._host.peer_id), self.own_addresses())

    def addresses_of(self, peer: str) -> tuple[bytes, ...]:
        """Where a peer says it listens, and where we dialled it."""
        said = without_peer(self._host.addresses_of(peer))
        dialled = without_peer(self._host.remote_addresses_of(peer))
        return self.scope.usable(tuple(dict.fromkeys([*dialled, *said])))

    def remote_of(self, peer: str) -> bytes | None:
        """The address at which we see a connected peer: one that we dialled, or else one that it came from."""
        seen = [each for each in self._host.connections() if each.peer == peer]
        seen.sort(key=lambda each: (CIRCUIT in each.addr, each.direction != "out"))
        found = without_peer(each.addr for each in seen[:1])
        return found[0] if found else None

    def is_connected(self, peer: bytes) -> bool:
        """Whether there is a connection with a peer now."""
        return peer_text(peer) in self._host.connected()

    # --- connections -----------------------------------------------------------------------------------------------

    async def connect(self, peer: bytes, addrs: Sequence[bytes]) -> str:
        """Connect to a peer, unless it is connected; its peer ID as text.

        Raises:
            DialError: no address led to it, just now or a short while ago.
        """
        text = peer_text(peer)
        if text in self._dialled:
            self._dialled.move_to_end(text)
        if text in self._host.connected():
            return text
        now = trio.current_time()
        until = self._unreachable.get(peer)
        if until is not None and now < until:
            raise DialError(f"The peer {text} could not be reached a moment ago.")
        usable = addresses.to_texts(self.scope.usable(addrs))
        try:
            with trio.fail_after(shell_limits.LOOKUP_DIAL_TIMEOUT + 1):
                async with self._slots:
                    self.dials += 1
                    await self._host.connect(text, usable, timeout=shell_limits.LOOKUP_DIAL_TIMEOUT)
        except trio.TooSlowError as error:  # it waited for its turn
            raise DialError(f"There was no time to dial the peer {text}.") from error
        except DialError:
            self.failed += 1
            self._unreachable[peer] = now + self._limits.dial_pause
            self._unreachable.move_to_end(peer)
            while len(self._unreachable) > shell_limits.MAX_UNREACHABLE:
                self._unreachable.popitem(last=False)
            raise
        self._unreachable.pop(peer, None)
        self._dialled[text] = None
        return text

    async def connect_address(self, addr: str) -> bytes:
        """Connect to a configured multiaddr; the peer that answered.

        Raises:
            DialError: nobody answers there.
            InvalidAddress: it is not a multiaddr that can be dialled.
        """
        async with self._slots:
            self.dials += 1
            return peer_bytes(await self._host.connect(addr, timeout=2 * shell_limits.LOOKUP_DIAL_TIMEOUT))

    def arrived(self, peer: bytes) -> None:
        """A peer connected by itself: it can be reached."""
        self._unreachable.pop(peer, None)

    def keep_near(self, nearest: Iterable[bytes]) -> None:
        """These few are nearest to us: their connections are protected, those of former ones are not any more."""
        near = {peer_text(peer) for peer in nearest}
        for peer in self._near - near:
            self._host.unprotect(peer, _NEAR)
        for peer in near - self._near:
            self._host.protect(peer, _NEAR)
        self._near = near

    async def trim(self) -> None:
        """Close connections that lookups opened, once there are too many of them and where nobody else uses them."""
        connected = set(self._host.connected())
        for peer in [each for each in self._dialled if each not in connected]:
            del self._dialled[peer]
        excess = len(self._dialled) - self._limits.max_dialled
        if excess <= 0:
            return
        busy = {each.peer for each in self._host.connections() if each.streams}
        for peer in list(self._dialled):
            if excess <= 0:
                return
            if peer in busy or peer in self._near or self._host.unprotect(peer, _NONE):
                continue
            del self._dialled[peer]
            excess -= 1
            await self._host.disconnect(peer)
