"""The wire format: the same bytes as py-libp2p's generated classes, and nothing malformed gets through."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Theirs

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.peer_ids import is_peer_id
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, ValueRecord, decode, encode
from kachery_p2p.wire import encode_varint
from tests.helpers.dht_fakes import ED25519, ip4, peer_id, public_addr

rng = random.Random(1)

addrs = st.lists(st.binary(min_size=1, max_size=limits.MAX_ADDR_SIZE), max_size=4).map(tuple)
peers = st.builds(DhtPeer, st.binary(min_size=32, max_size=32).map(lambda raw: ED25519 + raw), addrs)
messages = st.builds(
    DhtMessage,
    st.sampled_from(MessageType),
    st.binary(max_size=200),
    st.none()
    | st.builds(ValueRecord, st.binary(max_size=200), st.binary(max_size=300), st.text("0123456789TZ:-.", max_size=40)),
    st.lists(peers, max_size=5).map(tuple),
    st.lists(peers, max_size=5).map(tuple),
)


@given(messages)
def test_there_and_back(message: DhtMessage) -> None:
    """What is encoded is decoded to the same."""
    assert decode(encode(message)) == message


@given(messages)
def test_the_same_as_the_generated_classes(message: DhtMessage) -> None:
    """py-libp2p's protobuf reads what we write, and we read what it writes."""
    theirs = Theirs()
    theirs.ParseFromString(encode(message))
    assert theirs.type == message.type
    assert theirs.key == message.key
    assert [(each.id, tuple(each.addrs)) for each in theirs.closerPeers] == [(p.id, p.addrs) for p in message.closer]
    assert [(each.id, tuple(each.addrs)) for each in theirs.providerPeers] == [
        (p.id, p.addrs) for p in message.providers
    ]
    if message.record:
        assert (theirs.record.key, theirs.record.value) == (message.record.key, message.record.value)
    assert decode(theirs.SerializeToString()) == message


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    """Any bytes are a message or malformed; nothing else is raised."""
    try:
        decode(data)
    except MalformedMessage:
        pass


@given(messages, st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte(message: DhtMessage, at: int, byte: int) -> None:
    """So is a message with one byte changed, or cut off anywhere."""
    data = bytearray(encode(message))
    if data:
        data[at % len(data)] = byte
    for each in (bytes(data), bytes(data)[: at % (len(data) + 1)]):
        try:
            decode(each)
        except MalformedMessage:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x06",  # an unknown type
        b"\x08",  # ends within a number
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x12\x05abc",  # reaches over the end
        b"\x0a\x01a",  # the type is no number
        b"\x00\x00",  # field 0
        b"\x0b",  # a group
        b"\x42\x04\x12\x09ab",  # within a peer
    ],
)
def test_malformed(data: bytes) -> None:
    """Bytes that are no message of this protocol are refused by name."""
    with pytest.raises(MalformedMessage):
        decode(data)


def test_unknown_fields_are_passed_over() -> None:
    """Fields of later versions, of any type, and the connection field of old ones do no harm."""
    peer = b"\x0a" + encode_varint(38) + peer_id(rng) + b"\x18\x01"
    data = (
        b"\x08\x04\x50\x00\x7d\x01\x02\x03\x04\x71\x01\x02\x03\x04\x05\x06\x07\x08\x42"
        + encode_varint(len(peer))
        + peer
    )
    message = decode(data)
    assert message.type is MessageType.FIND_NODE
    assert len(message.closer) == 1


def test_beyond_the_limits() -> None:
    """Peers and addresses beyond the limits, overlong addresses and what is no peer ID are left out; too many fields
    and too many bytes are refused."""
    crowd = tuple(DhtPeer(peer_id(rng), (public_addr(rng),)) for _ in range(1000))
    assert len(decode(encode(DhtMessage(MessageType.FIND_NODE, closer=crowd))).closer) == limits.MAX_PEERS_PER_MESSAGE
    assert (
        len(decode(encode(DhtMessage(MessageType.FIND_NODE, providers=crowd))).providers)
        == limits.MAX_PROVIDERS_PER_MESSAGE
    )
    many = DhtPeer(peer_id(rng), (bytes(300), *(ip4("8.8.8.8", port) for port in range(1, 3000))))
    (read,) = decode(encode(DhtMessage(MessageType.FIND_NODE, closer=(many, DhtPeer(b"me"), DhtPeer(b""))))).closer
    assert read.addrs == many.addrs[1 : 1 + limits.MAX_ADDRS_PER_PEER]
    with pytest.raises(MalformedMessage, match="fields"):
        decode(b"\x50\x00" * (limits.MAX_FIELDS_PER_MESSAGE + 1))
    with pytest.raises(MalformedMessage, match="fields"):
        decode(encode(DhtMessage(MessageType.FIND_NODE, closer=(DhtPeer(peer_id(rng), (b"a",) * 20000),))))
    with pytest.raises(MalformedMessage, match="most"):
        decode(bytes(limits.MAX_MESSAGE_SIZE + 1))


def test_peer_ids() -> None:
    """Hashes and inlined keys are peer IDs; multihashes of other things are not."""
    assert is_peer_id(peer_id(rng))
    assert is_peer_id(b"\x12\x20" + bytes(32))
    for raw in (
        b"",
        b"\x12\x20" + bytes(31),
        b"\x13\x20" + bytes(32),
        b"\x00\x05abc",
        b"\x00\xff" + bytes(255),
        bytes(34),
    ):
        assert not is_peer_id(raw)
