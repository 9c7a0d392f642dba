"""What a node is asked, and what it answers: the same objects in its own process and, as JSON, in another one.

Written and read by `kachery_p2p.json_shapes`, whose text says what other versions may leave out or add. Nothing of the
network is imported here: a process that only talks to the node of another needs none of it. What a node says of itself
is in `status_messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from kachery_p2p.dag.cid import CID
from kachery_p2p.json_shapes import OMITTED, Bounds

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
        path: names of directory entries to follow from the root, and the symbolic links among them.
        kind: "file"; "bytes" (then `start` and `end`, exclusive, say which); "directory" with all that is in it;
            "listing", only what a directory's entries are; or "info", only what it is and how large, which needs no
            room on the disk.
        providers: multiaddrs of peers that may have it, besides all connected ones.
        timeout: seconds without a single block after which it is given up.
        part: of a file that is read through the folder which `path` begins in: it is not listed by itself, but as a
            part of that folder. So it is with "bytes" and a path, always.
        groups: the IDs of groups that it is for. Where there are any, nobody but their members, and the user's own
            machines, hears of it.
        members_only: nobody but members of the groups of this machine, and the user's own machines, is to hear of it,
            whatever is known of it.
        follow: whether the last name of `path` is followed, where it is a symbolic link; the others always are.
    """

    cid: CID
    path: tuple[str, ...] = ()
    kind: LoadKind = "file"
    start: Offset | None = None
    end: Offset | None = None
    providers: tuple[str, ...] = ()
    timeout: Seconds = 60.0
    part: bool = field(default=False, metadata=OMITTED)
    groups: tuple[str, ...] = field(default=(), metadata=OMITTED)
    members_only: bool = field(default=False, metadata=OMITTED)
    follow: bool = field(default=True, metadata=OMITTED)


@dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    Attributes:
        cid: of the file or directory that the path leads to.
        path: where the bytes of a file, or of a range, are. None for "directory", "listing" and "info".
        size: bytes of the whole file. None for "directory" and "listing", and for "info" of a directory or of a
            symbolic link.
        sources: bytes fetched, by peer ID or `gateway:<host>`.
        seconds: how long it took.
        dag_size: for "info" of a directory, bytes of all blocks in and below it, as its first block states them.
        destination: for "info", what the last name of the path points to, where that is a symbolic link. Where it was
            not to be followed, `cid` is that of the link.
    """

    cid: CID
    path: str | None = None
    size: int | None = None
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    dag_size: int | None = field(default=None, metadata=OMITTED)
    destination: str | None = field(default=None, metadata=OMITTED)


# --- who has it, and who is told -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WhereisRequest:
    """Who has a root? Asked for at most `timeout` seconds. `providers` are asked beside those that are found.

    `groups` and `members_only` are as in `LoadRequest`.
    """

    cid: CID
    timeout: Seconds
    providers: tuple[str, ...] = ()
    groups: tuple[str, ...] = field(default=(), metadata=OMITTED)
    members_only: bool = field(default=False, metadata=OMITTED)


@dataclass(frozen=True)
class Whereabouts:
    """A peer, how it was found, and what it says itself.

    Attributes:
        peer: its ID; empty for an address without one that leads nowhere.
        addrs: multiaddrs, as it was named with.
        source: what named it first: "hint", "connected", "known", "mdns", "lan-dht", "dht", "delegated", or
            "group": the list of its members.
        seconds: after which that was.
        connected: whether there is a connection to it now.
        round_trip_ms: to it and back; None where that was not measured.
        has: what it answered; None where it could not be asked, or did not answer, and `error` says why.
        error: also of an address in the URI or the call that does not lead to it.
        found_by: all that named it, and after how many seconds each. Older nodes have none of it, and give a row for
            each that named it.
    """

    peer: str | None
    addrs: tuple[str, ...]
    source: str
    seconds: float
    connected: bool
    round_trip_ms: float | None
    has: bool | None
    error: str | None = field(default=None, metadata=OMITTED)
    found_by: Mapping[str, float] = field(default_factory=dict[str, float])


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


# --- who stands behind a machine -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnerRequest:
    """Who stands behind a peer, as it says itself?

    The answer is its proof, as text; empty where it has none, or none for us.

    Attributes:
        peer: its ID.
        addrs: multiaddrs at which it may be, besides those that are found.
        timeout: seconds in which it must be reached.
    """

    peer: str
    addrs: tuple[str, ...]
    timeout: Seconds


# --- names -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResolveRequest:
    """Where does a name lead? `name` is an IPNS name in any form, or one of the DNS. For at most `timeout` seconds."""

    name: str
    timeout: Seconds


@dataclass(frozen=True)
class ResolvedName:
    """Where a name leads.

    Attributes:
        path: `/ipfs/...`, with names as they are in the directories.
        names: those on the way, the one that was asked for first.
        sequence: of the record; None where only the DNS was asked.
        valid_until: seconds since the epoch, or None.
        ttl: seconds for which the record may be remembered, or None.
        fresh: whether it was heard now, or lately enough for the record; else it is one that was seen before and is
            still valid, and nobody could be asked.
    """

    path: str
    names: tuple[str, ...]
    sequence: int | None = None
    valid_until: float | None = None
    ttl: float | None = None
    fresh: bool = True


@dataclass(frozen=True)
class PublishRequest:
    """Let a name of this machine point to a path.

    Attributes:
        key: the name of the key; "self" is the machine's own. It is made where it is missing.
        path: `/ipfs/...`.
        ttl: seconds for which others may remember it.
        timeout: seconds for the search for an older record, and for the sending.
    """

    key: str
    path: str
    ttl: Annotated[float, Bounds(0.0, MAX_SECONDS, f"a number of seconds up to {MAX_SECONDS:.0f}")]
    timeout: Seconds


@dataclass(frozen=True)
class PublishedName:
    """What was published.

    Attributes:
        name: the IPNS name, as `k51...`.
        path: where it points.
        sequence: of the record.
        valid_until: seconds since the epoch.
        copies: how many DHT servers and routers took it; 0 where nobody could be reached.
        routes: how many DHTs and kinds of routers there are to send it to; 0 where all are switched off.
    """

    name: str
    path: str
    sequence: int
    valid_until: float
    copies: int
    routes: int


@dataclass(frozen=True)
class StoredNote:
    """The data of a CID is here now, and of `more`."""

    cid: CID
    more: tuple[CID, ...] = field(default=(), metadata=OMITTED)


# --- removing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopiesRequest:
    """Does anybody else have all of a root? See `kachery_p2p.node.copies`.

    Attributes:
        cid: the root.
        blocks: of it, that a peer is asked about.
        proofs: of it, that a peer must give.
        timeout: seconds to search for at most.
        providers: multiaddrs of peers to ask, besides those that are found.
        groups, members_only: as in `LoadRequest`.
    """

    cid: CID
    blocks: tuple[CID, ...]
    proofs: tuple[CID, ...]
    timeout: Seconds
    providers: tuple[str, ...] = ()
    groups: tuple[str, ...] = field(default=(), metadata=OMITTED)
    members_only: bool = field(default=False, metadata=OMITTED)


@dataclass(frozen=True)
class CopySeen:
    """A peer that says that it has so many blocks, and gave so many of them."""

    peer: str
    blocks: int
    given: int


@dataclass(frozen=True)
class Copies:
    """What came of it.

    Attributes:
        seen: peers that have all of it, as far as could be seen.
        asked: how many were found.
        partly: those that have the root, and not all of it.
        silent: why others could not be asked.
        lacking: how many said that they do not have it.
    """

    seen: tuple[CopySeen, ...] = ()
    asked: int = 0
    partly: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    lacking: int = 0


@dataclass(frozen=True)
class RemovedNote:
    """These roots were removed, or were to be removed and stay."""

    cids: tuple[CID, ...]


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


# --- groups ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JoinRequest:
    """Join a group by an invitation, within so many seconds. `label` is what this machine is to be called there."""

    invitation: str
    label: str = ""
    timeout: Seconds = 60.0


@dataclass(frozen=True)
class LeaveRequest:
    """Leave a group, by its ID, and try for so many seconds to tell an owner."""

    group: str
    timeout: Seconds = 20.0
