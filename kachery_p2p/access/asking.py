"""`/kachery/access/1.0.0`: a peer asks for whom a root is that it is about to load.

What is loaded from a group stays in that group, so whoever loads must know. The answer is for those who may see the
root: `public`, or the IDs of the groups that both are in and that may load it. Others get the same answer as for a root
that is not here, after the same work, and nobody hears of a group that it is not in itself.

On a stream the asker sends one question and ends its side; the answer comes, and the stream ends. Both are protobuf
with its length in front (a varint):

    question    1: multihash, bytes, repeated (up to MAX_ASKED)
    answer      1: text, bytes, repeated: one for each multihash, in the same order. Empty where the root is not here;
                   else `public`, `private` (the user's own machines), or the IDs of groups, sorted and joined by commas
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import trio

from kachery_p2p.access import limits
from kachery_p2p.access.audience import PUBLIC, Audience, parse_audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.errors import KacheryError, MalformedMessage, ProtocolNotSupported, StreamError
from kachery_p2p.streams import HostLike, StreamLike
from kachery_p2p.wire import BYTES, Schema, WireError, bytes_field, delimited, fields, read_delimited

log = logging.getLogger("kachery_p2p.access")

PROTOCOL = "/kachery/access/1.0.0"

_ITEM = 1
_SCHEMA = Schema({_ITEM: BYTES})


class StoreLike(Protocol):
    """What is asked whether a root is here; in threads."""

    def block_sizes(self, multihashes: Sequence[bytes]) -> Mapping[bytes, int]: ...


class AudienceServer:
    """Answers for whom roots are.

    Args:
        gate: decides who may see what.
        store: what is here.

    `host.set_handler(PROTOCOL, server.handle)` is all that it needs.
    """

    def __init__(self, gate: Gate, store: StoreLike) -> None:
        self._gate = gate
        self._store = store
        self._threads = trio.CapacityLimiter(1)
        self._asking: Counter[str] = Counter()

    async def handle(self, stream: StreamLike) -> None:
        """One question, and its answer.

        Raises:
            StreamError: the question makes no sense, or the stream breaks.
        """
        peer = stream.peer
        if self._asking[peer] >= limits.MAX_ASKING_EACH:
            await stream.reset()
            return
        self._asking[peer] += 1
        try:
            with trio.move_on_after(limits.ASK_SECONDS) as patience:
                question = await read_delimited(stream, limits.MAX_QUESTION, f"The peer {peer} sent a question")
                asked = decode(question)
                if any(len(multihash) > limits.MAX_MULTIHASH for multihash in asked):
                    raise MalformedMessage(f"The peer {peer} asked for a multihash that is too long.")
                told = await trio.to_thread.run_sync(self.answer, peer, asked, limiter=self._threads)
                await stream.write(encode([text.encode() for text in told]))
            if patience.cancelled_caught:
                await stream.reset()
        finally:
            self._asking[peer] -= 1
            if not self._asking[peer]:
                del self._asking[peer]

    def answer(self, peer: str, multihashes: Sequence[bytes]) -> list[str]:
        """In a thread: what a peer is told of each of these; empty for what is not here, and for what is not for it."""
        try:
            here = self._gate.look([(peer, multihash) for multihash in multihashes], self._store.block_sizes)
            told = [multihash for multihash, size in zip(multihashes, here, strict=True) if size is not None]
            audiences = self._gate.audiences(told)
            groups = self._gate.groups_with(peer)
        except KacheryError:
            log.exception("For whom roots are cannot be looked up")
            return [""] * len(multihashes)
        return [
            "" if size is None else _told(audiences.get(multihash, PUBLIC), groups)
            for multihash, size in zip(multihashes, here, strict=True)
        ]


def _told(audience: Audience, groups: frozenset[str]) -> str:
    if audience.everyone:
        return str(audience)
    shared = sorted(audience.groups & groups)[: limits.MAX_GROUPS]
    return str(Audience(groups=frozenset(shared)))


async def ask_audience(
    host: HostLike, peer: str, multihashes: Collection[bytes], *, timeout: float = limits.ANSWER_SECONDS
) -> dict[bytes, Audience] | None:
    """Ask a connected peer for whom roots are.

    Args:
        host: that has the connection.
        peer: its ID.
        multihashes: of the roots.
        timeout: seconds for each MAX_ASKED of them.

    Returns:
        Of those that it has and lets us see: for whom they are, as it says. Whether this machine is in the groups that
        it names is for the caller to see. None where it does not know the question (another program, or an older
        version), or does not answer.
    """
    wanted = list(dict.fromkeys(multihashes))
    found: dict[bytes, Audience] = {}
    for start in range(0, len(wanted), limits.MAX_ASKED):
        batch = wanted[start : start + limits.MAX_ASKED]
        try:
            with trio.fail_after(timeout):
                told = await _ask(host, peer, batch, timeout)
        except ProtocolNotSupported:
            return None
        except (KacheryError, trio.TooSlowError) as error:
            log.debug("asking %s for whom roots are: %s", peer, error)
            return None
        found.update((multihash, each) for multihash, each in zip(batch, told, strict=True) if each is not None)
    return found


async def _ask(host: HostLike, peer: str, batch: Sequence[bytes], timeout: float) -> list[Audience | None]:
    stream = await host.open_stream(peer, (PROTOCOL,), timeout=timeout)
    try:
        await stream.write(encode(batch))
        told = decode(await read_delimited(stream, limits.MAX_ANSWER, f"The peer {peer} sent an answer"))
        if len(told) != len(batch):
            raise MalformedMessage(f"The peer {peer} was asked for {len(batch)} roots and answered for {len(told)}.")
        audiences = [_read(peer, text) if text else None for text in told]
    except BaseException:
        with trio.CancelScope(shield=True):
            await stream.reset()
        raise
    try:
        await stream.close()
    except StreamError as error:
        log.debug("closing a stream to %s: %s", peer, error)
    return audiences


def _read(peer: str, text: bytes) -> Audience:
    try:
        found = parse_audience(text.decode("ascii"))
    except (UnicodeDecodeError, KacheryError):
        raise MalformedMessage(f"The peer {peer} named an audience that makes no sense.") from None
    if len(found.groups) > limits.MAX_GROUPS:
        raise MalformedMessage(f"The peer {peer} named too many groups.")
    return found


# --- messages --------------------------------------------------------------------------------------------------------


def encode(items: Sequence[bytes]) -> bytes:
    """A question (multihashes) or an answer (texts), with its length in front."""
    return delimited(b"".join(bytes_field(_ITEM, item) for item in items))


def decode(message: bytes) -> list[bytes]:
    """The items of a question or an answer.

    Raises:
        MalformedMessage: it is neither, or has too many.
    """
    try:
        items = [value for _, _, value in fields(message, _SCHEMA)]
    except WireError as error:
        raise MalformedMessage(f"A message about audiences is malformed: {error}.") from error
    if len(items) > limits.MAX_ASKED:
        raise MalformedMessage(f"A message about audiences has {len(items)} items; {limits.MAX_ASKED} are the most.")
    return items
