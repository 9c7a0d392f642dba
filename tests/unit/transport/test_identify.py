"""What a peer says of itself: whole, in pieces, too much of it, or nonsense."""

from __future__ import annotations

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify

from kachery_p2p.errors import StreamError
from kachery_p2p.multiaddrs import to_binary
from kachery_p2p.transport import limits
from kachery_p2p.transport.identify import IDENTIFY, read_identify
from kachery_p2p.transport.peers import PeerInfo
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import bytes_field, delimited, number_field
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started

OTHER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


async def said(nursery: trio.Nursery, answer: bytes) -> PeerInfo:
    """What is read of a peer that answers with these bytes."""
    peer, host = await started(nursery), await started(nursery)

    async def speak(stream: Stream) -> None:
        await stream.write(answer)

    peer.set_handler(IDENTIFY, speak)
    await host.connect(peer.addresses()[0])
    with trio.fail_after(PATIENCE):
        async with await host.open_stream(peer.peer_id, [IDENTIFY]) as stream:
            return await read_identify(stream, host.peer_id)


def in_messages(*messages: bytes) -> bytes:
    return b"".join(map(delimited, messages))


async def test_a_whole_answer(nursery: trio.Nursery) -> None:
    """As py-libp2p's protobuf writes it; what we do not know is passed over."""
    message = Identify(
        protocol_version="p/1",
        agent_version="an agent",
        public_key=b"key",
        listen_addrs=[to_binary(f"/ip4/192.0.2.{number}/tcp/4001") for number in (1, 2, 1)],
        observed_addr=to_binary("/ip4/198.51.100.1/tcp/9"),
        protocols=["/a/1", "/b/2"],
        signedPeerRecord=b"record",
    )
    info = await said(
        nursery, in_messages(message.SerializeToString() + bytes_field(99, b"more") + number_field(98, 7))
    )
    assert info == PeerInfo(
        protocols=frozenset({"/a/1", "/b/2"}),
        agent="an agent",
        addresses=("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.2/tcp/4001"),
        observed="/ip4/198.51.100.1/tcp/9",
        identified=True,
    )


async def test_an_answer_in_pieces(nursery: trio.Nursery) -> None:
    """Lists go on in the next message; of other things the last word counts."""
    info = await said(
        nursery,
        in_messages(
            bytes_field(3, b"/a/1") + bytes_field(6, b"first"), b"", bytes_field(6, b"last") + bytes_field(3, b"/b/2")
        ),
    )
    assert (info.protocols, info.agent) == (frozenset({"/a/1", "/b/2"}), "last")


async def test_addresses_of_others_and_nonsense_are_left_out(nursery: trio.Nursery) -> None:
    """What cannot be read, and what names another peer, is no address of this one."""
    good = to_binary("/ip4/192.0.2.1/tcp/1")
    raws = (b"", b"\xff\xff", good[:-1], to_binary(f"/ip4/192.0.2.9/tcp/1/p2p/{OTHER}"), good)
    info = await said(nursery, in_messages(b"".join(bytes_field(2, raw) for raw in raws)))
    assert info.addresses == ("/ip4/192.0.2.1/tcp/1",)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x05\x1a\x02/a",
        in_messages(b"\x1a\x7f/a"),
        in_messages(b"\x18\x01"),
        in_messages(bytes_field(3, b"\xff")),
        in_messages(bytes_field(6, b"\xff")),
        in_messages(bytes_field(3, b"") * (limits.MAX_IDENTIFY_FIELDS + 1)),
        in_messages(*[bytes_field(99, b"")] * (limits.MAX_IDENTIFY_FIELDS + 1)),
        in_messages(bytes_field(6, bytes(limits.MAX_IDENTIFY))),
        in_messages(*[b""] * (limits.MAX_IDENTIFY + 2)),
    ],
    ids=[
        "nothing",
        "cut short",
        "field cut short",
        "wrong type",
        "no text",
        "agent",
        "fields",
        "more",
        "long",
        "endless",
    ],
)
async def test_what_is_refused(nursery: trio.Nursery, answer: bytes) -> None:
    """Nonsense and too much of anything are errors of the stream, and name the peer."""
    with pytest.raises(StreamError, match=r"peer .*12D3KooW|closed|end"):
        await said(nursery, answer)


async def test_ours_is_read_by_others_and_by_us(nursery: trio.Nursery) -> None:
    """A host's own answer has all that it serves, and where it listens."""
    a, b = [await started(nursery) for _ in range(2)]
    await a.connect(b.addresses()[0])
    async with await a.open_stream(b.peer_id, [IDENTIFY]) as stream:
        info = await read_identify(stream, a.peer_id)
    assert info.protocols == frozenset(b.protocols())
    assert list(info.addresses) == b.transport_addresses()
