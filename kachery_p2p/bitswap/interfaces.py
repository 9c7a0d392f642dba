"""What the block exchange needs of the host it runs on, of the store it serves from, and of HTTP gateways."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Protocol

from kachery_p2p.dag.cid import CID
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

    def useful(self) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class HostLike(Protocol):
    """The part of `kachery_p2p.transport.host.Host` that the exchange uses."""

    @property
    def peer_id(self) -> str: ...

    async def open_stream(
        self, peer_id: str, protocols: Sequence[str], *, timeout: float = 10, ahead: Callable[[], None] | None = None
    ) -> StreamLike: ...

    def set_handler(self, protocol: str, handler: Callable[[StreamLike], Awaitable[None]]) -> None: ...

    def on_connected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def on_disconnected(self, callback: Callable[[str], None]) -> Callable[[], None]: ...

    def connected(self) -> Iterable[str]: ...

    def protocols_of(self, peer_id: str) -> Iterable[str]: ...


class BlockStoreLike(Protocol):
    """The part of `kachery_p2p.repo.Repo` that the exchange serves from; called in threads.

    A store that has `block_sizes(multihashes) -> Mapping[bytes, int]`, which leaves out those it lacks, is asked for
    many at a time. One that has `read_leaves(multihashes, buffer) -> Sequence[memoryview | None]` puts large blocks
    into a buffer that is used again. Those for which it gives None are asked of
    `get_blocks(multihashes) -> Mapping[bytes, bytes]`, where it has that, and else of `get_block`.
    """

    def has_block(self, multihash: bytes) -> int | None: ...

    def get_block(self, multihash: bytes) -> bytes | None: ...


class Counted(Protocol):
    """Is told how much goes out; `kachery_p2p.node.served_log` has it. Cheap, in the event loop, and raises nothing."""

    def sent(self, peer: str, first: bytes, blocks: int, size: int) -> None:
        """A message went to a peer: the multihash of its first block, how many there were, and their bytes."""
        ...


class GatewayAnswer(Enum):
    """What a gateway that sent no block answered instead."""

    #: It does not have this block, or not now.
    LACKS = "lacks"
    #: It asks for a pause, or will not be of use before one is over.
    BUSY = "busy"
    #: It could not be reached, stalled, or broke off.
    FAILED = "failed"
    #: It sent other bytes than the hash promises.
    LIED = "lied"
    #: It does not give CARs; blocks perhaps.
    NO_CAR = "no car"


class NoBlock(Exception):
    """A request brought no block; says why, in words for people.

    Args:
        answer: what it means.
        why: what the gateway said or did.
        pause: seconds to stay away; None where that is not for the gateway to say.
    """

    def __init__(self, answer: GatewayAnswer, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.answer = answer
        self.pause = pause


class GatewaySource(Protocol):
    """A gateway, as it is asked over HTTP. What it returns is verified.

    `alive` is called with the number of bytes that came, while they come.
    """

    @property
    def name(self) -> str:
        """For statistics: `gateway:<host>`, which no peer is called."""
        ...

    @property
    def most_requests(self) -> int:
        """How many requests it takes at once."""
        ...

    async def block(self, cid: CID, alive: Callable[[int], None]) -> bytes:
        """One block.

        Raises:
            NoBlock: it did not come.
        """
        ...

    async def car(
        self,
        cid: CID,
        span: tuple[int, int] | None,
        take: Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]],
        alive: Callable[[int], None],
    ) -> None:
        """The blocks of a file or a directory, parents before their children.

        Args:
            cid: the root.
            span: the first and the last byte (inclusive) of a file; of a directory, its own blocks come then. None for
                all that is in and below a directory.
            take: given the blocks, some at a time, as they come; says whether more is wanted. While it waits nothing
                is read.
            alive: called with the number of bytes that came, while they come.

        Raises:
            NoBlock: as `block`; blocks may have come before.
        """
        ...
