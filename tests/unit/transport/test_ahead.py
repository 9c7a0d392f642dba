"""Streams whose protocol is taken for granted: the peer's answer is not waited for, and what happens when it is no."""

from __future__ import annotations

import pytest
import trio

from kachery_p2p.errors import ProtocolNotSupported, StreamReset
from kachery_p2p.transport import multistream
from kachery_p2p.transport.host import Host
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import ECHO, Rogue, started

DATA, UPDATE = 0, 1
SYN = 1
HELLO = multistream.encode_line(multistream.HEADER)
NO = multistream.encode_line(multistream.NOT_AVAILABLE)
NEWER = "/test/newer/1"


class Peer:
    """A peer that sends what the test says, and sorts what the host sends by stream."""

    def __init__(self, rogue: Rogue) -> None:
        self.rogue = rogue
        self._seen = b""

    async def received(self, stream: int, count: int) -> bytes:
        """The first `count` bytes that the host has sent on a stream."""
        while len(data := self._payloads().get(stream, b"")) < count:
            await self._more()
        return data

    async def proposed(self, protocol: str, after: int) -> int:
        """The number, above `after`, of the stream on which the host proposes a protocol and says no more."""
        while True:
            for stream, data in self._payloads().items():
                if stream > after and data == multistream.proposal_of(protocol):
                    return stream
            await self._more()

    async def _more(self) -> None:
        with trio.fail_after(PATIENCE):
            piece = await self.rogue.read()
        assert piece, "the host ended the connection"
        self._seen += piece

    def _payloads(self) -> dict[int, bytes]:
        payloads: dict[int, bytes] = {}
        at = 0
        while at + 12 <= len(self._seen):
            _, kind, _, stream, length = Rogue.HEADER.unpack_from(self._seen, at)
            at += 12
            if kind == DATA:
                payloads[stream] = payloads.get(stream, b"") + self._seen[at : at + length]
                at += length
        return payloads

    async def say(self, stream: int, data: bytes) -> None:
        """Answer on a stream of the host."""
        await self.rogue.frame(DATA, 0, stream, len(data), data)


async def met(host: Host) -> Peer:
    """A peer that the host is connected with; it is never identified, because it does not answer."""
    rogue = await Rogue.connect(host)
    await until(lambda: rogue.peer in host.connected())
    return Peer(rogue)


def never() -> None:
    """Called when the peer refuses, which it must not."""
    raise AssertionError("the peer did not refuse")


async def test_what_is_written_does_not_wait_for_the_answer(nursery: trio.Nursery) -> None:
    """Proposal and first bytes go out before the peer says a word; readers see what comes behind its answer only,
    wherever that is cut."""
    host = await started(nursery)
    peer = await met(host)
    stream = await host.open_stream(peer.rogue.peer, [ECHO], ahead=never)
    await stream.write(b"hello")
    proposal = multistream.proposal_of(ECHO)
    assert await peer.received(stream.id, len(proposal) + 5) == proposal + b"hello"
    for piece in (proposal[:3], proposal[3:-1], proposal[-1:] + b"wor", b"ld"):
        await peer.say(stream.id, piece)
    with trio.fail_after(PATIENCE):
        assert await stream.read_exactly(5) == b"world"
    peer.rogue.close()


@pytest.mark.parametrize("answer", [HELLO + NO, b"\x05what\n", HELLO[:-1] + b"?"])
async def test_a_peer_that_does_not_speak_it(nursery: trio.Nursery, answer: bytes) -> None:
    """Who opened the stream is told, though nobody reads from it; the stream is broken, and the next one is negotiated
    before anything is written."""
    host = await started(nursery)
    peer = await met(host)
    refused = trio.Event()
    stream = await host.open_stream(peer.rogue.peer, [ECHO], ahead=refused.set)
    await stream.write(b"hello")
    await peer.say(stream.id, answer)
    with trio.fail_after(PATIENCE):
        await refused.wait()
    with pytest.raises(StreamReset, match="does not speak it"):
        await stream.write(b"more")

    async def refuse() -> None:
        await peer.say(await peer.proposed(ECHO, stream.id), HELLO + NO)

    nursery.start_soon(refuse)
    with trio.fail_after(PATIENCE), pytest.raises(ProtocolNotSupported):
        await host.open_stream(peer.rogue.peer, [ECHO], ahead=never)
    peer.rogue.close()


async def test_a_peer_that_is_known_is_asked_for_what_it_speaks(nursery: trio.Nursery) -> None:
    """What it says of itself decides; a protocol that it does not name is asked for first."""
    a, b = await started(nursery), await started(nursery)
    await a.connect(b.addresses()[0])
    await until(lambda: ECHO in a.protocols_of(b.peer_id))
    async with await a.open_stream(b.peer_id, [NEWER, ECHO], ahead=never) as stream:
        assert stream.protocol == ECHO
        await stream.write(b"hello")
        assert await stream.read_exactly(5) == b"hello"
    with pytest.raises(ProtocolNotSupported):
        await a.open_stream(b.peer_id, [NEWER], ahead=never)


async def test_what_a_peer_opened_it_is_taken_to_speak(nursery: trio.Nursery) -> None:
    """A peer that is not identified yet, and has opened a stream of an older version, is answered in that one."""
    host = await started(nursery)
    peer = await met(host)
    proposal = multistream.proposal_of(ECHO)
    await peer.rogue.frame(UPDATE, SYN, 1, 0)
    await peer.rogue.frame(DATA, 0, 1, len(proposal), proposal)
    await peer.received(1, len(proposal))
    while ECHO not in host.table.info(peer.rogue.peer).opened:  # noted after the answer has gone out
        await trio.lowlevel.checkpoint()
    stream = await host.open_stream(peer.rogue.peer, [NEWER, ECHO], ahead=never)
    assert stream.protocol == ECHO
    peer.rogue.close()
