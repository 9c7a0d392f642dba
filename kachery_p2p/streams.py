"""Streams to peers, and the host that opens them, as protocols see them that ask one question and get one answer.

Packages that use more of `kachery_p2p.transport` say so in their own `interfaces.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class StreamLike(Protocol):
    """A bidirectional stream to a peer. Reading and writing raise `StreamError` when it breaks."""

    @property
    def peer(self) -> str: ...

    async def read_exactly(self, count: int, /) -> bytes | bytearray: ...

    async def write(self, data: bytes, /) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class HostLike(Protocol):
    """What opens streams, and hands out those that peers open. Peer IDs are base58."""

    async def open_stream(self, peer_id: str, protocols: Sequence[str], *, timeout: float = 10) -> StreamLike: ...

    def set_handler(self, protocol: str, handler: Callable[[StreamLike], Awaitable[None]]) -> None: ...
