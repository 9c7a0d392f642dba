"""What a node is asked, and what it answers: the same objects in its own process and, as JSON, in another one.

Written and read by `kachery_p2p.json_shapes`, whose text says what other versions may leave out or add. Nothing of the
network is imported here: a process that only talks to the node of another needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from kachery_p2p.dag.cid import CID
from kachery_p2p.json_shapes import FLAT, OMITTED, Bounds

#: Seconds that a node can be told to be patient: a day.
MAX_SECONDS = 86_400.0
#: Offsets are kept in 63 bits, as file systems do.
MAX_OFFSET = (1 << 63) - 1

Seconds: TypeAlias = Annotated[float, Bounds(1e-9, MAX_SECONDS, f"a number of seconds up to {MAX_SECONDS:.0f}")]
Offset: TypeAlias = Annotated[int, Bounds(0, MAX_OFFSET, "a number of bytes")]
LoadKind: TypeAlias = Literal["file", "bytes", "directory", "listing", "info"]

# --- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadRequest:
    """Bring a file, a byte range of one, or a directory to this machine.

    Attributes:
        cid: the root.
        path: names of directory entries to follow from the root.
        kind: "file"; "bytes" (then `start` and `end`, exclusive, say which); "directory" with all that is in it;
            "listing", only what a directory's entries are; or "info", only what it is and how large, which needs no
            room on the disk.
        providers: multiaddrs of peers that may have it, besides all connected ones.
        timeout: seconds without a single block after which it is given up.
    """

    cid: CID
    path: tuple[str, ...] = ()
    kind: LoadKind = "file"
    start: Offset | None = None
    end: Offset | None = None
    providers: tuple[str, ...] = ()
    timeout: Seconds = 60.0


@dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    Attributes:
        cid: of the file or directory that the path leads to.
        path: where the bytes of a file, or of a range, are. None for "directory", "listing" and "info".
        size: bytes of the whole file. None for "directory" and "listing", and for "info" of a directory.
        sources: bytes fetched, by peer ID or `gateway:<host>`.
        seconds: how long it took.
    """

    cid: CID
    path: str | None = None
    size: int | None = None
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0


# --- who has it, and who is told -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WhereisRequest:
    """Who has a root? Asked for at most `timeout` seconds. `providers` are asked beside those that are found."""

    cid: CID
    timeout: Seconds
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whereabouts:
    """A peer as one source named it, and what it says itself.

    Attributes:
        peer: its ID; empty for an address without one that leads nowhere.
        addrs: multiaddrs, as the source named them.
        source: "hint", "connected", "known", "mdns", "lan-dht", "dht" or "delegated".
        seconds: after which it was named.
        connected: whether there is a connection to it now.
        round_trip_ms: to it and back; None where that was not measured.
        has: what it answered; None where it could not be asked, or did not answer, and `error` says why.
    """

    peer: str | None
    addrs: tuple[str, ...]
    source: str
    seconds: float
    connected: bool
    round_trip_ms: float | None
    has: bool | None
    error: str | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True)
class AnnounceRequest:
    """Announce a root, and wait until that is done, or for `timeout` seconds."""

    cid: CID
    timeout: Seconds


@dataclass(frozen=True)
class Announced:
    """How many peers keep a record of it now (0 where no peer could be told), and after how many seconds."""

    copies: int
    seconds: float


@dataclass(frozen=True)
class StoredNote:
    """The data of a CID is here now, and of `more`."""

    cid: CID
    more: tuple[CID, ...] = field(default=(), metadata=OMITTED)


# --- pinning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WaitPinnedRequest:
    """Wait until pinning services have a root, or until nothing more happens without the user.

    Attributes:
        services: their names; empty for all that are to keep it.
        verified: wait for the proof, not only for the claim of the service.
        timeout: seconds; None waits without end.
    """

    cid: CID
    verified: bool
    services: tuple[str, ...] = ()
    timeout: Seconds | None = None


@dataclass(frozen=True)
class Sending:
    """An upload under way: bytes sent, and bytes in all."""

    sent: int
    size: int


@dataclass(frozen=True)
class ServiceStatus:
    """How a pinning service has been doing.

    Attributes:
        resting: seconds for which it is left alone.
        problem: why, in one word; empty where all is well.
        last_error: the same in a sentence.
        last_error_at: seconds since 1970.
        sending: the uploads under way, by CID.
    """

    url: str
    kind: str
    resting: float
    problem: str
    last_error: str
    last_error_at: float | None
    sending: Mapping[str, Sending] = field(default_factory=dict[str, Sending])


@dataclass(frozen=True)
class PinningStatus:
    """The services that this node uses, how many rows are in which state at which service, and what hinders all."""

    services: Mapping[str, ServiceStatus] = field(default_factory=dict[str, ServiceStatus])
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    error: str = ""


# --- status ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConnectedPeer:
    """A connection. `direction` is "in" or "out"."""

    peer: str
    addr: str
    direction: str


@dataclass(frozen=True)
class ExplainedAddress:
    """An address of this node, and why it is told to others, or is not."""

    addr: str
    why: str


@dataclass(frozen=True)
class ReachabilityStatus:
    """Whether others can dial this node ("public", "private" or "unknown"), why we think so, and the mapped port."""

    state: str
    why: str
    port_mapping: str


@dataclass(frozen=True)
class RelaySlot:
    """A reservation at a relay, for another `expires_in` seconds. Limits are for each circuit; 0 is none."""

    relay: str
    addresses: tuple[str, ...]
    expires_in: int
    seconds_per_circuit: int
    bytes_per_circuit: int


@dataclass(frozen=True)
class RelayingStatus:
    """What this node relays for others now, and what it has relayed since the start."""

    reservations: int
    open_circuits: int
    reserved: int = 0
    refused: int = 0
    circuits: int = 0
    failed: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class RelayStatus:
    """Relays through which this node can be reached, why others refused, and what it relays itself, if it does."""

    enabled: bool
    relays: tuple[RelaySlot, ...]
    failures: Mapping[str, str]
    serving: RelayingStatus | None


@dataclass(frozen=True)
class PunchStatus:
    """How an attempt to get a direct connection to a peer ended; see `kachery_p2p.transport.holepunch`."""

    peer: str
    ok: bool
    began: bool
    attempts: int
    rtt: float
    why: str


@dataclass(frozen=True)
class PunchesStatus:
    """How often a connection through a relay led to a direct one, and how the last attempts ended."""

    succeeded: int
    failed: int
    last: tuple[PunchStatus, ...]


@dataclass(frozen=True)
class SourceStatus:
    """A way to find providers: whether it is in use, and if not, why. Each has further `figures` of its own."""

    on: bool
    why: str = field(default="", metadata=OMITTED)
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any], metadata=FLAT)


@dataclass(frozen=True)
class TargetStatus:
    """How far the announcements in one network are; see `kachery_p2p.routing.provide`.

    Attributes:
        ready: whether it has peers.
        last_turn, next_turn: seconds since 1970.
    """

    ready: bool
    keys: int
    announced: int
    waiting: int
    overdue: int
    regions: int
    network_size: int
    last_turn: float | None
    next_turn: float | None
    lookups: int
    deliveries: int
    records: int
    failures: int
    last_error: str


@dataclass(frozen=True)
class ProvidingStatus:
    """What is announced, and how far that is, over all networks.

    Attributes:
        strategy: "off", "roots" or "all".
        next_seconds: until it goes on; None where there is nothing to wait for.
        overdue, targets: None where nothing is announced.
    """

    strategy: str
    keys: int = 0
    announced: int = 0
    waiting: int = 0
    overdue: int | None = field(default=None, metadata=OMITTED)
    next_seconds: float | None = None
    last_error: str = ""
    targets: Mapping[str, TargetStatus] | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True)
class FindStatus:
    """A provider that was found `ago` seconds ago, after `seconds` of searching."""

    cid: str
    source: str
    peer: str
    seconds: float
    ago: float


@dataclass(frozen=True)
class PastError:
    """What went wrong, `ago` seconds ago."""

    ago: float
    what: str


@dataclass(frozen=True)
class GatewayStatus:
    """How a gateway that loads are helped by has been doing.

    Attributes:
        resting: seconds for which it is left alone.
        dropped: why it is not used any more; empty where it is.
    """

    blocks: int
    bytes: int
    refused: int
    resting: float
    dropped: str
    last_error: str


@dataclass(frozen=True)
class DiscoveryStatus:
    """How the node finds others and is found."""

    private_network: bool
    swarm_key_fingerprint: str | None
    reachability: ReachabilityStatus
    announced: tuple[ExplainedAddress, ...]
    not_announced: tuple[ExplainedAddress, ...]
    relay: RelayStatus
    hole_punches: PunchesStatus
    sources: Mapping[str, SourceStatus]
    providing: ProvidingStatus
    finds: tuple[FindStatus, ...]
    errors: tuple[PastError, ...]


@dataclass(frozen=True)
class TrafficStatus:
    """Blocks and bytes since the start; `malformed` counts messages."""

    blocks_received: int
    bytes_received: int
    duplicate_blocks: int
    duplicate_bytes: int
    blocks_sent: int
    bytes_sent: int
    malformed: int


@dataclass(frozen=True)
class NodeStatus:
    """What a node is doing.

    Attributes:
        addresses: multiaddrs to give to others.
        unreachable_peers: why configured peers are not connected, by multiaddr.
        gateways: those that loads are helped by, by name.
    """

    peer_id: str
    addresses: tuple[str, ...]
    connected: tuple[ConnectedPeer, ...]
    unreachable_peers: Mapping[str, str]
    pinning: PinningStatus
    gateways: Mapping[str, GatewayStatus]
    discovery: DiscoveryStatus = field(metadata=FLAT)
    traffic: TrafficStatus = field(metadata=FLAT)
