"""What public functions tell, as objects. Commands print these; users get them as dictionaries with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kachery_cloud.node.status_messages import RunningNode
from kachery_p2p.json_shapes import FLAT, OMITTED
from kachery_p2p.node.messages import Whereabouts


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
