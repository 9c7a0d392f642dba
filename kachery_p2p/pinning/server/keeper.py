"""What the pinning service needs of the node. `kachery_p2p.node.pin_server` has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kachery_p2p.dag.cid import CID

#: Called with bytes that are here, and bytes in all, as far as that is known.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ServiceFigures:
    """How the program that serves is doing, for `/metrics`.

    Attributes:
        uptime: seconds since its start.
        storage_limit: bytes that the data directory may take; None for no limit.
        storage_used: that it took at the last look; None before the first.
        cache_bytes: of these, bytes that may go.
        evicted_bytes, evicted_roots: that went to make room, since the start.
        scrubbed_bytes: that were read and compared with their hashes, since the start.
        damaged: things that are damaged now.
        mended: that were brought back, since the start.
        scrubbed_at: when all was last read through, in seconds since 1970; 0 where it never was.
        connections: open ones, by kind.
        lag_buckets: upper ends of the histogram of how late the event loop was, in seconds.
        lag_counts: of looks in each of them, and above the last.
        lag_seconds: the sum of all.
    """

    uptime: float
    storage_limit: int | None
    storage_used: int | None
    cache_bytes: int
    evicted_bytes: int
    evicted_roots: int
    scrubbed_bytes: int
    damaged: int
    mended: int
    scrubbed_at: float
    connections: Mapping[str, int]
    lag_buckets: Sequence[float]
    lag_counts: Sequence[int]
    lag_seconds: float


@dataclass(frozen=True)
class Figures:
    """What the node is doing, for `/metrics`.

    Attributes:
        peers: that it is connected to.
        blocks_received, bytes_received, blocks_sent, bytes_sent: over Bitswap, since the start.
        dht_peers: in the routing table of each DHT that it takes part in.
        disk_used: bytes of the data directory's files; None where that was not counted yet.
        disk_free: bytes that the file system has left.
        service: how the program is doing; None where it is no service.
    """

    peers: int
    blocks_received: int
    bytes_received: int
    blocks_sent: int
    bytes_sent: int
    dht_peers: Mapping[str, int] = field(default_factory=dict[str, int])
    disk_used: int | None = None
    disk_free: int = 0
    service: ServiceFigures | None = None


@dataclass(frozen=True)
class Brought:
    """What came in a CAR file.

    Attributes:
        roots: that it names, each once; of a file its bytes, of a directory None.
        blocks: how many it has.
        size: bytes of these.
    """

    roots: tuple[tuple[CID, int | None], ...]
    blocks: int
    size: int


class Keeper(Protocol):
    """Fetches, keeps and lets go roots."""

    async def kept_as(self, root: CID) -> int | None:
        """As what a root is kept now (`kachery_p2p.repo.kept_rows`); None where nothing of it is here."""
        ...

    async def kept(self) -> set[bytes]:
        """What is kept for others now: binary CIDv1."""
        ...

    async def size_here(self, root: CID, groups: Sequence[str] = ()) -> int | None:
        """Bytes of a root of which all is here; None where it is not. `groups` as for `fetch`."""
        ...

    async def ask_size(
        self, root: CID, origins: Sequence[str], silence: float, groups: Sequence[str] = ()
    ) -> int | None:
        """Bytes of a file, as its first block says; None for a directory. `groups` as for `fetch`.

        Raises:
            KacheryError: it cannot be had, or not read.
        """
        ...

    async def fetch(
        self, root: CID, origins: Sequence[str], silence: float, progress: Progress, groups: Sequence[str] = ()
    ) -> None:
        """Bring all of a root to this machine, verified.

        Args:
            root: which.
            origins: multiaddrs of those who should have it; those that cannot be dialled are passed over.
            silence: seconds without anything after which it is given up.
            progress: hears how far it is.
            groups: that whoever pins it may store for. What is for others is as if nobody had it.

        Raises:
            KacheryError: it cannot be had, or not kept.
        """
        ...

    async def bring(self, file: Any, begun: Callable[[Sequence[CID]], Awaitable[None]]) -> Brought:
        """Bring to this machine what the roots of a CAR file lead to, verified.

        Args:
            file: has `read1(size)`, which is called in a thread, and blocks until there is something.
            begun: is told the roots, before anything of them is kept.

        Raises:
            KacheryError: it is no CAR file, lacks blocks or has wrong ones, or cannot be kept.
        """
        ...

    async def keep(self, root: CID, before: int | None) -> int:
        """Keep for others a root that was fetched, and announce it.

        Args:
            root: which.
            before: as what it was kept when it was first wanted.

        Returns:
            Bytes of it.
        """
        ...

    async def let_go(self, root: CID, before: int | None) -> None:
        """Keep a root for others no more; it goes, if it is here for nothing else.

        Raises:
            RepoBusy: it cannot be done now.
        """
        ...

    def addresses(self) -> list[str]:
        """Multiaddrs at which peers can dial us; one with the peer ID alone where there are none."""
        ...

    async def check(self) -> str:
        """Why data cannot be kept now; empty where it can."""
        ...

    async def figures(self) -> Figures:
        """What the node is doing."""
        ...
