"""What the block exchange needs of the host it runs on and of the store it serves from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from kachery_p2p.wire import Buffer


class StreamLike(Protocol):
    """A bidirectional stream to a peer. Reading and writing raise `StreamError` when it breaks."""

    @property
    def peer(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    async def read(self, max_bytes: int = 65536) -> bytes: ...

    async def read_into(self, target: memoryview) -> None: ...

    async def write_parts(self, parts: Sequence[Buffer]) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class HostLike(Protocol):
    """The part of `kachery_p2p.transport.host.Host` that the exchange uses."""

    async def open_stream(self, peer_id: str, protocols: Sequence[str], *, timeout: float = 10) -> StreamLike: ...

    def set_handler(self, protocol: str, handler: Callable[[StreamLike], Awaitable[None]]) -> None: ...

    def on_connected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def on_disconnected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def connected(self) -> Iterable[str]: ...

    def protocols_of(self, peer_id: str) -> Iterable[str]: ...


class BlockStoreLike(Protocol):
    """The part of `kachery_p2p.repo.Repo` that the exchange serves from; called in threads.

    A store that has `block_sizes(multihashes) -> Mapping[bytes, int]`, which leaves out those it lacks, is asked for
    many at a time.
    """

    def has_block(self, multihash: bytes) -> int | None: ...

    def get_block(self, multihash: bytes) -> bytes | None: ...
