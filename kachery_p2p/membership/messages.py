"""The messages of groups on a stream: sent and received within bounds of time and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import MalformedMessage, StreamError
from kachery_p2p.membership import limits
from kachery_p2p.membership.protocol import Answer, Opening, read_answer, read_opening
from kachery_p2p.wire import delimited, naming, read_delimited

if TYPE_CHECKING:
    from kachery_p2p.transport.stream import Stream


async def send(stream: Stream, message: bytes) -> None:
    """Send a message with its length in front.

    Raises:
        StreamError: the stream broke, or the peer does not read.
    """
    with trio.move_on_after(limits.MESSAGE_TIMEOUT) as waited:
        await stream.write(delimited(message))
    if waited.cancelled_caught:
        raise StreamError(f"The peer {stream.peer} does not read a message about groups.")


async def receive_opening(stream: Stream) -> Opening:
    """A first message.

    Raises:
        StreamError: the stream broke, or what comes is none, too long or too slow.
    """
    raw = await _receive(stream, limits.MAX_OPENING)
    with naming(f"A message about groups by {stream.peer}"):
        return read_opening(raw)


async def receive_answer(stream: Stream) -> Answer:
    """A second or third message.

    Raises:
        StreamError: as for `receive_opening`.
    """
    raw = await _receive(stream, limits.MAX_MESSAGE)
    with naming(f"A message about groups by {stream.peer}"):
        return read_answer(raw)


async def _receive(stream: Stream, most: int) -> bytes:
    with trio.move_on_after(limits.MESSAGE_TIMEOUT):
        return await read_delimited(stream, most, f"The peer {stream.peer} sent a message about groups")
    raise MalformedMessage(f"The peer {stream.peer} does not finish a message about groups.")


def why_refused(refusal: str) -> str:
    """Why a machine is not let in, and what to do."""
    return {
        "used": "The invitation was used already, by another machine: each is for one. Ask for a new one.",
        "expired": "The invitation has expired. Ask for a new one.",
        "refused": "The inviter cannot let this machine in any more: it may be an owner no longer, or the group is "
        "full. Ask an owner for a new invitation.",
    }.get(refusal, "The inviter does not know this invitation. Ask for a new one.")
