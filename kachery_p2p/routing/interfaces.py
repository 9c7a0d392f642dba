"""What routing needs of the host it runs on, and what its sources and targets have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kachery_p2p import streams

if TYPE_CHECKING:
    from kachery_p2p.routing.dht.messages import DhtPeer


@dataclass(frozen=True)
class Provider:
    """A peer that is said to have something.

    Attributes:
        peer: peer ID, base58.
        addrs: multiaddrs without the peer ID; may be empty.
        source: who said so: `hint`, `connected`, `known`, `mdns`, `lan-dht`, `dht`, `delegated`.
    """

    peer: str
    addrs: tuple[str, ...]
    source: str


class ProviderSource(Protocol):
    """Something that can be asked who has a block."""

    @property
    def name(self) -> str: ...

    def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Providers, as they are found; ends when nothing more is to be found.

        Raises:
            KacheryError: they cannot be looked for. Nothing else is raised.
        """
        ...


class AnnounceTarget(Protocol):
    """A network in which keys are announced: a DHT."""

    @property
    def name(self) -> str:
        """`dht` or `lan-dht`: what was announced is remembered under this name."""
        ...

    @property
    def local(self) -> bool:
        """Whether its peers are neighbours."""
        ...

    async def wait_ready(self) -> None:
        """Return when there is a peer to ask."""
        ...

    async def closest(self, key: bytes) -> Sequence[DhtPeer]:
        """The 20 closest servers to a key as it stands on the wire that answered; fewer if there are no more."""
        ...

    async def deliver(self, peer: DhtPeer, keys: Sequence[bytes]) -> bool:
        """Send a peer one ADD_PROVIDER for each key, on one stream; whether it took them."""
        ...

    def peers(self) -> Collection[str]:
        """Peer IDs (base58) of the servers known now."""
        ...


class ValueRoute(Protocol):
    """Where IPNS records are kept by others: a DHT, or HTTP routers."""

    @property
    def name(self) -> str: ...

    async def put_value(self, key: bytes, value: bytes, /) -> int:
        """Give a record to others to keep; how many took it.

        Raises:
            KacheryError: nobody can be asked.
        """
        ...

    async def get_value(self, key: bytes, found: Callable[[bytes], None], /) -> object:
        """Look for the record of a key; `found` is called with each valid one that is better than those before.

        Raises:
            KacheryError: nobody can be asked.
        """
        ...


class StreamLike(streams.StreamLike, Protocol):
    """The same, of which the protocol that was agreed on is known, and that can be read in pieces."""

    @property
    def protocol(self) -> str: ...

    async def read(self, max_bytes: int = 65536) -> bytes: ...


class ConnectionLike(Protocol):
    """An open connection: with whom, the address of its other end, `"in"` or `"out"`, and its streams."""

    @property
    def peer(self) -> str: ...

    @property
    def addr(self) -> str: ...

    @property
    def direction(self) -> str: ...

    @property
    def streams(self) -> int: ...


class HostLike(Protocol):
    """The part of `kachery_p2p.transport.host.Host` that routing uses. Peer IDs are base58, addresses multiaddrs."""

    @property
    def peer_id(self) -> str: ...

    async def connect(self, addr: str, addrs: Sequence[str] = (), *, timeout: float = 10) -> str: ...

    async def open_stream(self, peer_id: str, protocols: Sequence[str], *, timeout: float = 10) -> StreamLike: ...

    def set_handler(self, protocol: str, handler: Callable[[StreamLike], Awaitable[None]]) -> None: ...

    def remove_handler(self, protocol: str) -> None: ...

    def on_connected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def on_disconnected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def on_identified(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def connected(self) -> Iterable[str]: ...

    def connections(self) -> Sequence[ConnectionLike]: ...

    async def disconnect(self, peer_id: str) -> None: ...

    def protocols_of(self, peer_id: str) -> frozenset[str]: ...

    def addresses_of(self, peer_id: str) -> list[str]: ...

    def remote_addresses_of(self, peer_id: str) -> list[str]: ...

    def transport_addresses(self) -> list[str]: ...

    def protect(self, peer_id: str, tag: str) -> None: ...

    def unprotect(self, peer_id: str, tag: str) -> bool: ...
