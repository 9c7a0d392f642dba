"""What a process says of the node that it runs. Apart from `messages`, as in `kachery_p2p.node`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kachery_cloud.node.messages import Call, Nothing
from kachery_p2p.json_shapes import FLAT, OMITTED
from kachery_p2p.node.status_messages import NodeStatus


@dataclass(frozen=True)
class ServedGateway:
    """The HTTP gateway that the process of the node serves, and whether it fetches what is not here."""

    url: str
    fetch: bool


@dataclass(frozen=True)
class FollowedNode:
    """How following another node goes: why it cannot be now, pins taken since the start, and pins that are to go."""

    problem: str
    new: int
    missing: int


@dataclass(frozen=True)
class RunningNode:
    """What a node is doing, for which directory, and in which process; the URLs of its pinning service and its lab."""

    node: NodeStatus = field(metadata=FLAT)
    directory: str
    pid: int
    gateway: ServedGateway | None = field(default=None, metadata=OMITTED)
    pinning_service: str | None = field(default=None, metadata=OMITTED)
    lab: str | None = field(default=None, metadata=OMITTED)
    follows: Mapping[str, FollowedNode] | None = field(default=None, metadata=OMITTED)


STATUS = Call("status", Nothing, RunningNode)
