"""What identify and the circuits of relays need of the host, which is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.peers import Hook, PeerTable
from kachery_p2p.transport.stream import Stream


class CircuitHost(Protocol):
    """The part of `kachery_p2p.transport.host.Host` that asking a relay for a circuit uses."""

    def is_direct(self, peer_id: str) -> bool: ...

    async def connect(self, addr: str, *, timeout: float) -> str: ...

    async def open_stream(self, peer_id: str, protocols: Sequence[str]) -> Stream: ...


class IdentifyHost(Protocol):
    """The part of `kachery_p2p.transport.host.Host` that identify uses."""

    @property
    def keys(self) -> Keys: ...

    @property
    def peer_id(self) -> str: ...

    @property
    def table(self) -> PeerTable: ...

    @property
    def on_identified(self) -> Hook[str]: ...

    def transport_addresses(self) -> Iterable[str]: ...

    def protocols(self) -> Iterable[str]: ...

    def connected(self) -> Iterable[str]: ...

    def protocols_of(self, peer_id: str) -> frozenset[str]: ...

    async def open_stream(self, peer_id: str, protocols: Sequence[str]) -> Stream: ...
