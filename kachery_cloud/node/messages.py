"""What the processes of one data directory say to each other: the calls that a node answers, and their frames.

What the node itself is asked and answers is in `kachery_p2p.node.messages`. Here is what belongs to the processes: the
list of calls, but for the one that is in `status_messages`, and the frames of the control socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from kachery_p2p.json_shapes import OMITTED
from kachery_p2p.node.messages import (
    Announced,
    AnnounceRequest,
    Copies,
    CopiesRequest,
    JoinRequest,
    LeaveRequest,
    LoadRequest,
    LoadResult,
    OwnerRequest,
    PublishedName,
    PublishRequest,
    RemovedNote,
    ResolvedName,
    ResolveRequest,
    StoredNote,
    WaitPinnedRequest,
    Whereabouts,
    WhereisRequest,
)

Q = TypeVar("Q")
A = TypeVar("A")


class Progress(Protocol):
    """Called with bytes done and in all, by how many peers they came, and how many of those done were here before."""

    def __call__(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None: ...


class Telling(Progress, Protocol):
    """What a method says before it answers: called, how far it is; and parts of the answer that are known already."""

    def part(self, part: Any, /) -> None:
        """Say one part. It is in the answer as well, so what cannot be passed on at once comes with that."""
        ...


class TellNobody:
    """For a request that nobody watches."""

    def __call__(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None: ...

    def part(self, part: Any, /) -> None: ...


@dataclass(frozen=True)
class Nothing:
    """The request of a call that needs no words."""


# --- calls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call(Generic[Q, A]):
    """Something that a node can be asked.

    Attributes:
        name: of the call.
        request: the message that asks.
        answer: the kind of the answer.
        part: the kind of the parts that are said before the answer to who wants to hear them; None where there are
            none. The answer is then the whole, as a tuple of such parts.
    """

    name: str
    request: type[Q]
    answer: type[A]
    part: type[Any] | None = None


@dataclass(frozen=True)
class Method(Generic[Q, A]):
    """A call, and the function that answers it."""

    call: Call[Q, A]
    run: Callable[[Q, Telling], Awaitable[A]]


Methods: TypeAlias = Mapping[str, Method[Any, Any]]

LOAD = Call("load", LoadRequest, LoadResult)
#: The same three for members alone, by names that an older node does not know: it would pass over `groups` and
#: `members_only`, and ask everybody.
LOAD_FROM_MEMBERS = Call("load_from_members", LoadRequest, LoadResult)
WHEREIS_AT_MEMBERS = Call("whereis_at_members", WhereisRequest, tuple[Whereabouts, ...], part=Whereabouts)
COPIES_AT_MEMBERS = Call("copies_at_members", CopiesRequest, Copies)
WHEREIS = Call("whereis", WhereisRequest, tuple[Whereabouts, ...], part=Whereabouts)
ANNOUNCE = Call("announce", AnnounceRequest, Announced)
PUBLISH = Call("publish", PublishRequest, PublishedName)
RESOLVE = Call("resolve", ResolveRequest, ResolvedName)
#: The proof of who stands behind a peer, as text; empty where it hands over none.
OWNER = Call("owner", OwnerRequest, str)
NOTIFY_STORED = Call("notify_stored", StoredNote, type(None))
#: Who else has all of it, before it is removed here.
COPIES = Call("copies", CopiesRequest, Copies)
NOTIFY_REMOVED = Call("notify_removed", RemovedNote, type(None))
#: Who may see what has changed.
NOTIFY_ACCESS = Call("notify_access", Nothing, type(None))
#: Look at what is to be pinned, and ask those services again that refused.
WAKE_PINS = Call("wake_pins", Nothing, type(None))
#: Who has waited reads the rows in the outbox.
WAIT_PINNED = Call("wait_pinned", WaitPinnedRequest, type(None))
#: The ID of the group that was joined.
JOIN_GROUP = Call("join_group", JoinRequest, str)
#: Whether an owner has heard of it, or none has to.
LEAVE_GROUP = Call("leave_group", LeaveRequest, bool)
#: The files of groups were changed by another process.
GROUPS_CHANGED = Call("groups_changed", Nothing, type(None))
#: Whether `kachery-cloud-node` may take the place of the node.
YIELD_PLACE = Call("yield_place", Nothing, bool)


def by_name(*methods: Method[Any, Any]) -> Methods:
    """Methods by the names of their calls."""
    return {method.call.name: method for method in methods}


def call_for(
    request: LoadRequest | WhereisRequest | CopiesRequest, call: Call[Q, A], members: Call[Q, A]
) -> Call[Q, A]:
    """The call for a request: `members` where nobody but members is to hear of it."""
    return members if request.groups or request.members_only else call


def load_call(request: LoadRequest) -> Call[LoadRequest, LoadResult]:
    """The call that loads it."""
    return call_for(request, LOAD, LOAD_FROM_MEMBERS)


# --- frames of the control socket ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greeting:
    """The first line of a client. Any `version` can be read, so that the answer can name the right one."""

    secret: str
    version: Any = None


@dataclass(frozen=True)
class Welcome:
    """The first line of the node: its process, or why it does not speak to this client."""

    ok: bool
    pid: int | None = field(default=None, metadata=OMITTED)
    message: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True)
class Request:
    """A client calls. `id` is its own number for the answer; with `parts` it hears parts of that before.

    An older node does not know the word, and gives the answer alone. An older client does not say it.
    """

    id: int
    method: str
    params: Mapping[str, Any]
    parts: bool = field(default=False, metadata=OMITTED)


@dataclass(frozen=True)
class Cancel:
    """A client does not wait for the answer of this number any more."""

    cancel: int


@dataclass(frozen=True)
class ErrorText:
    """An error as it travels: the name of its class, and its text."""

    type: str
    message: str


@dataclass(frozen=True)
class Reply:
    """The node says how far it is, as `Progress` has it, or a part of the answer; or it ends: an error, or a result."""

    id: int | None
    progress: tuple[int, int] | None = field(default=None, metadata=OMITTED)
    peers: int | None = field(default=None, metadata=OMITTED)
    here: int | None = field(default=None, metadata=OMITTED)
    part: Any = field(default=None, metadata=OMITTED)
    error: ErrorText | None = field(default=None, metadata=OMITTED)
    result: Any = None
