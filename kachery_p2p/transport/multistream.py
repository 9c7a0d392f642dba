"""multistream-select 1.0: the two sides agree on a protocol name.

Each message is a varint length, a name and a newline. The side that opened the channel proposes, the other
echoes the name or answers `na`. Header and first proposal are sent together, so that a first choice that fits
costs one round trip, and none where its answer is not waited for. (https://github.com/multiformats/multistream-select)

This is our own, about a hundred lines, because py-libp2p 0.8.1 decodes lines without catching
`UnicodeDecodeError` (`protocol_muxer/multiselect_communicator.py:58`), so that one bad byte from a peer ended
the host.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Protocol

from kachery_p2p.errors import ProtocolNotSupported, StreamError
from kachery_p2p.transport import limits
from kachery_p2p.wire import Source, delimited, read_delimited

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
LIST = "ls"


class Channel(Source, Protocol):
    """Something to negotiate on."""

    async def write(self, data: bytes, /) -> None: ...


def encode_line(name: str) -> bytes:
    """One multistream message."""
    return delimited(name.encode() + b"\n")


async def read_line(channel: Channel) -> str:
    """Read one multistream message.

    Raises:
        StreamError: it is malformed.
    """
    line = await read_delimited(channel, limits.MAX_PROTOCOL_NAME, "The peer sent a multistream message")
    if not line.endswith(b"\n"):
        raise StreamError("The peer sent a multistream message without a newline at its end.")
    try:
        return line[:-1].decode()
    except UnicodeDecodeError as error:
        raise StreamError("The peer sent a protocol name that is not UTF-8.") from error


def proposal_of(protocol: str) -> bytes:
    """What proposes one protocol, and what a peer that speaks it answers: the same lines.

    What is said in the protocol may follow at once. A peer that does not speak it takes that for garbage.
    """
    return encode_line(HEADER) + encode_line(protocol)


async def select(channel: Channel, protocols: Sequence[str]) -> str:
    """Propose `protocols` in turn; the first that the peer accepts.

    Raises:
        ProtocolNotSupported: the peer accepts none.
        StreamError: the peer answers something else, or the channel breaks.
    """
    head = encode_line(HEADER)
    for proposal in protocols:
        await channel.write(head + encode_line(proposal))
        if head:
            if (answer := await read_line(channel)) != HEADER:
                raise StreamError(f"The peer answered {answer!r} instead of {HEADER!r}.")
            head = b""
        answer = await read_line(channel)
        if answer == proposal:
            return proposal
        if answer != NOT_AVAILABLE:
            raise StreamError(f"The peer answered {answer!r} to the proposal {proposal!r}.")
    raise ProtocolNotSupported(f"The peer speaks none of {', '.join(protocols)}.")


async def negotiate(channel: Channel, supported: Container[str] | Iterable[str]) -> str:
    """Answer the peer's proposals until one is in `supported`, and return that one.

    Raises:
        StreamError: the peer sends nonsense, gives up, or makes more than `limits.MAX_PROPOSALS` proposals.
    """
    head = encode_line(HEADER)
    await channel.write(head)
    if (line := await read_line(channel)) != HEADER:
        raise StreamError(f"The peer began with {line!r} instead of {HEADER!r}.")
    for _ in range(limits.MAX_PROPOSALS):
        proposal = await read_line(channel)
        if proposal == LIST and isinstance(supported, Iterable):
            lines = b"".join(encode_line(name) for name in supported) + b"\n"
            await channel.write(delimited(lines))
        elif isinstance(supported, Container) and proposal in supported:
            await channel.write(encode_line(proposal))
            return proposal
        else:
            await channel.write(encode_line(NOT_AVAILABLE))
    raise StreamError(f"The peer made more than {limits.MAX_PROPOSALS} proposals, none of which is spoken here.")
