"""What public functions tell, as objects.

Commands print those that are made of other objects. What users get of these is a `Record` with the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kachery_cloud.inventory_tables import Column, Table
from kachery_cloud.node.status_messages import RunningNode
from kachery_cloud.records import Record, absent
from kachery_p2p.json_shapes import FLAT, OMITTED
from kachery_p2p.node.messages import Whereabouts
from kachery_p2p.repo.checking import Problem


@dataclass(frozen=True)
class SharedDirectory:
    """A data directory of others that is read beneath one's own.

    Attributes:
        directory: its path.
        files: how many are in it, linked ones too; None where it cannot be used now.
        bytes: of these.
        problem: why it cannot be used now; empty where it can.
    """

    directory: str
    files: int | None
    bytes: int | None
    problem: str = ""


@dataclass(frozen=True)
class GroupFacts:
    """A group that this machine is in, or was removed from.

    Attributes:
        group: its ID.
        name: what it is called.
        role: of this machine: "owner", "writer" or "reader"; "removed" where an owner has removed it.
        members: how many machines are in it, this one among them; 0 where it was removed.
        roots: how many files and folders here are for them.
    """

    group: str
    name: str
    role: str
    members: int
    roots: int


@dataclass(frozen=True, kw_only=True)
class Visible:
    """What here is not for everybody.

    Attributes:
        groups: that this machine is in, or was removed from.
        restricted: how many files and folders are for groups, or private.
        own_peers: the user's other machines.
    """

    groups: tuple[GroupFacts, ...] = ()
    restricted: int = 0
    own_peers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Running:
    """A node runs here: what it says of itself, and what is to be said beside it."""

    running: bool = True
    found: RunningNode = field(metadata=FLAT)
    warnings: tuple[str, ...] = ()
    shared: tuple[SharedDirectory, ...] = field(default=(), metadata=OMITTED)
    visible: Visible | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True)
class Elsewhere:
    """The node of the directory runs on another machine: which, its process there, since when, and what to do."""

    host: str
    pid: int
    since: float
    what: str


@dataclass(frozen=True)
class PinCounts:
    """How many files and directories are in which state at which pinning service."""

    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong here."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """No node runs here: who it would be, and what it would do.

    Attributes:
        peer_id: None before the first start.
        settings: by their names in the settings file; and `sources`, by which it would find data.
    """

    running: bool = False
    directory: str
    peer_id: str | None
    private_network: bool
    warnings: tuple[str, ...]
    swarm_key_fingerprint: str | None = field(default=None, metadata=OMITTED)
    settings: Mapping[str, Any]
    pinning: PinCounts
    errors: tuple[Trouble, ...] = field(default=(), metadata=OMITTED)
    elsewhere: Elsewhere | None = field(default=None, metadata=OMITTED)
    shared: tuple[SharedDirectory, ...] = field(default=(), metadata=OMITTED)
    visible: Visible | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True)
class Here(Whereabouts):
    """This machine has it: the `path` of a file, None for a directory."""

    path: str | None = None


# --- what users get --------------------------------------------------------------------------------------------------


class Status(Record):
    """What the node of this machine is doing. A dict of the same, too.

    Those with a default are missing in the dict where they have nothing to say: most of them where no node runs.

    Attributes:
        running: whether a node runs here.
        directory: the data directory.
        peer_id: who this machine is; None before the first start.
        private_network: whether it speaks to holders of a swarm key alone.
        warnings: what is to be looked after, as sentences.
        pinning: how many files and directories are in which state at which pinning service, as "counts"; of a running
            node also its "services".
        errors: what went wrong lately, each with "what".
        swarm_key_fingerprint: of the swarm key, without giving it away; None without one.
        pid: the process of the node; None where none runs.
        addresses: multiaddrs to give to others.
        announced: the same, each with "addr" and "why".
        not_announced: the others.
        reachability: whether others can dial it: "state", "why" and "port_mapping".
        connected: the peers that it is connected to, each with "peer", "addr" and "direction".
        unreachable_peers: why configured peers are not connected, by multiaddr.
        relay: relays by which it can be reached.
        hole_punches: how often a way through a relay became a direct one.
        sources: how it finds data.
        providing: what it announces, and how far that is.
        finds: providers that were found lately.
        gateways: those that loads are helped by.
        blocks_received: since the start, as all counters.
        bytes_received: of these blocks.
        duplicate_blocks: that were here already.
        duplicate_bytes: of these.
        blocks_sent: to others.
        bytes_sent: of these.
        malformed: messages of others that could not be read.
        gateway: the HTTP gateway that it serves: "url" and "fetch".
        pinning_service: the URL of the pinning service that it serves.
        lab: the URL of the lab's pages that it serves.
        follows: the nodes that it follows, by name.
        settings: where none runs: the settings, and "sources", by which it would find data.
        elsewhere: where the node runs on another machine: "host", "pid", "since" and "what" to do.
        shared: the directories of others beneath this one, each with "directory", "files", "bytes" and "problem".
        visible: where not all is for everybody: "groups", "restricted" (how many files and folders) and "own_peers".
    """

    running: bool
    directory: str
    peer_id: str | None
    private_network: bool
    warnings: list[str]
    pinning: dict[str, Any]
    errors: list[dict[str, Any]] = absent(list)
    swarm_key_fingerprint: str | None = None
    pid: int | None = None
    addresses: list[str] = absent(list)
    announced: list[dict[str, str]] = absent(list)
    not_announced: list[dict[str, str]] = absent(list)
    reachability: dict[str, str] | None = None
    connected: list[dict[str, str]] = absent(list)
    unreachable_peers: dict[str, str] = absent(dict)
    relay: dict[str, Any] | None = None
    hole_punches: dict[str, Any] | None = None
    sources: dict[str, dict[str, Any]] = absent(dict)
    providing: dict[str, Any] | None = None
    finds: list[dict[str, Any]] = absent(list)
    gateways: dict[str, dict[str, Any]] = absent(dict)
    blocks_received: int = 0
    bytes_received: int = 0
    duplicate_blocks: int = 0
    duplicate_bytes: int = 0
    blocks_sent: int = 0
    bytes_sent: int = 0
    malformed: int = 0
    gateway: dict[str, Any] | None = None
    pinning_service: str | None = None
    lab: str | None = None
    follows: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    elsewhere: dict[str, Any] | None = None
    shared: list[dict[str, Any]] = absent(list)
    visible: dict[str, Any] | None = None


class WhereisRow(Record):
    """Somebody who was asked for a file or directory. A dict of the same, too.

    Attributes:
        peer: its ID; empty for an address without one that leads nowhere.
        has: True or False, as it answered itself; None where it could not be asked, and `error` says why.
        addrs: multiaddrs.
        source: what named it first: "hint" for the URI and `providers`, "group" for the list of its members,
            "connected", "known", "mdns", "lan-dht", "dht" or "delegated"; "here" for this machine.
        seconds: after which that was.
        found_by: all that named it, and after how many seconds each.
        connected: whether there is a connection to it now.
        round_trip_ms: to it and back, in milliseconds, or None.
        error: why it could not be asked; missing in the dict where it could.
        path: where the file is on this machine; missing in the dict of others, None of a directory.
    """

    peer: str | None
    addrs: list[str]
    source: str
    seconds: float
    connected: bool
    round_trip_ms: float | None
    has: bool | None
    error: str | None = None
    found_by: dict[str, float]
    path: str | None = None


class WhereisTable(Table[WhereisRow]):
    """Who has a file or directory; of what `whereis` returns."""

    row_type = WhereisRow
    columns = (
        Column[WhereisRow]("peer", lambda row: row.peer or " ".join(row.addrs)),
        Column[WhereisRow]("has it", lambda row: {True: "yes", False: "no", None: "?"}[row.has]),
        Column[WhereisRow]("found by", lambda row: ", ".join(row.found_by)),
        Column[WhereisRow]("seconds", lambda row: f"{row.seconds:.1f}", right=True),
        Column[WhereisRow]("round trip", lambda row: f"{row.round_trip_ms:.0f} ms" if row.round_trip_ms else "", True),
        Column[WhereisRow]("connected", lambda row: "yes" if row.connected else ""),
        Column[WhereisRow]("addresses", lambda row: " ".join(row.addrs)),
        Column[WhereisRow]("path", lambda row: row.path or ""),
        Column[WhereisRow]("error", lambda row: row.error or ""),
    )


class Announcement(Record):
    """What came of an announcement. A dict of the same, too.

    Attributes:
        copies: how many peers keep a record of it now; 0 where no peer could be told.
        seconds: how long that took.
    """

    copies: int
    seconds: float


class ProblemTable(Table[Problem]):
    """What is damaged, changed or missing; of what `verify` and `move` return."""

    row_type = Problem
    columns = (
        Column[Problem]("what", lambda row: row.what),
        Column[Problem]("path", lambda row: str(row.path)),
        Column[Problem]("detail", lambda row: row.detail),
        Column[Problem]("cid", lambda row: str(row.cid)),
    )


class Repaired(Record):
    """What `repair` did. A dict of the same, too.

    Attributes:
        problems: what could not be brought back, each a `Problem(cid, path, what, detail)`.
        files: how many are here now; missing in the dict where only some URIs were repaired, as are those that follow.
        linked_files: how many of them are links.
        directories: how many are here now.
        pins: None where nothing was wrong with the list of what is to be pinned; else "kept" and "begun_anew": rows as
            they were, and rows that wait again because little more than their CID could be read; and "aside": where the
            damaged list is, None for one that was missing.
        routing: whether what the node has learned about the network was damaged.
    """

    problems: ProblemTable
    files: int | None = None
    linked_files: int | None = None
    directories: int | None = None
    pins: dict[str, Any] | None = None
    routing: bool | None = None
