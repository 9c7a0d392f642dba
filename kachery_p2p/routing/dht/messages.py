"""The messages of `/ipfs/kad/1.0.0`, decoded and encoded (libp2p kad-dht specification). Without the length in front.

Written by hand: py-libp2p's generated classes bring all of py-libp2p with them, and most of a message is peers that
are passed on as they came. What is beyond a limit is cut off (peers, addresses) or refused (size, nesting, types).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from kachery_p2p.dag.varint import encode_varint
from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.dht import limits


class MessageType(IntEnum):
    """What is asked, or answered."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class DhtPeer:
    """A peer and where it can be dialled.

    Attributes:
        id: binary peer ID.
        addrs: binary multiaddrs, without the peer ID.
    """

    id: bytes
    addrs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """A value record: `received` is the time (RFC 3339) that the one who stores it noted, empty on the way there."""

    key: bytes
    value: bytes
    received: str = ""


@dataclass(frozen=True, slots=True)
class DhtMessage:
    """A request or its answer."""

    type: MessageType
    key: bytes = b""
    record: ValueRecord | None = None
    closer: tuple[DhtPeer, ...] = ()
    providers: tuple[DhtPeer, ...] = ()


_TYPES = tuple(MessageType)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


# --- encoding ------------------------------------------------------------------------------------------------------


def encode(message: DhtMessage) -> bytes:
    """The protobuf of a message."""
    parts: list[bytes] = []
    if message.type:
        parts.append(b"\x08" + encode_varint(message.type))
    if message.key:
        parts.append(b"\x12" + encode_varint(len(message.key)) + message.key)
    record = message.record
    if record is not None:
        body = b"\x0a" + encode_varint(len(record.key)) + record.key if record.key else b""
        if record.value:
            body += b"\x12" + encode_varint(len(record.value)) + record.value
        if record.received:
            received = record.received.encode()
            body += b"\x2a" + encode_varint(len(received)) + received
        parts.append(b"\x1a" + encode_varint(len(body)) + body)
    _encode_peers(parts, b"\x42", message.closer)
    _encode_peers(parts, b"\x4a", message.providers)
    return b"".join(parts)


def _encode_peers(parts: list[bytes], tag: bytes, peers: Iterable[DhtPeer]) -> None:
    for peer in peers:
        body = _encode_peer(peer.id, peer.addrs)
        parts += (tag, encode_varint(len(body)), body)


@lru_cache(maxsize=1024)
def _encode_peer(peer: bytes, addrs: tuple[bytes, ...]) -> bytes:
    """One peer. Remembered: a server names those of its table again and again."""
    inner = [b"\x0a", encode_varint(len(peer)), peer]
    for addr in addrs:
        inner += (b"\x12", encode_varint(len(addr)), addr)
    # Which peers it is connected to is nobody's business; readers have long ignored the field.
    return b"".join(inner)


# --- decoding ------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> DhtMessage:
    """Read a message.

    Peers without an ID, or with one that is none, are left out; so are addresses and peers beyond the limits.

    Raises:
        MalformedMessage: not protobuf, of an unknown type, or beyond the limits of size and nesting.
    """
    if len(data) > limits.MAX_MESSAGE_SIZE:
        raise MalformedMessage(f"A DHT message of {len(data)} bytes came; the most is {limits.MAX_MESSAGE_SIZE}.")
    kind = 0
    key = b""
    record: ValueRecord | None = None
    closer: list[DhtPeer] = []
    providers: list[DhtPeer] = []
    budget = limits.MAX_FIELDS_PER_MESSAGE
    pos, end = 0, len(data)
    while pos < end:
        budget -= 1
        number, wire, start, pos = read_field(data, pos, end)
        if wire == _VARINT:
            if number == 1:
                kind = start
        elif wire == _BYTES:
            if number == 8:
                if len(closer) < limits.MAX_PEERS_PER_MESSAGE:
                    budget -= _add_peer(data[start:pos], closer)
            elif number == 9:
                if len(providers) < limits.MAX_PROVIDERS_PER_MESSAGE:
                    budget -= _add_peer(data[start:pos], providers)
            elif number == 2:
                key = data[start:pos]
            elif number == 3:
                record = _decode_record(data, start, pos)
            elif number == 1:
                raise MalformedMessage("The type of a DHT message is not a number.")
        if budget < 0:
            raise MalformedMessage(f"A DHT message holds more than {limits.MAX_FIELDS_PER_MESSAGE} fields.")
    if kind >= len(_TYPES):
        raise MalformedMessage(f"A DHT message has the unknown type {kind}.")
    return DhtMessage(_TYPES[kind], key, record, tuple(closer), tuple(providers))


def _add_peer(body: bytes, peers: list[DhtPeer]) -> int:
    """Append a peer, if it is one; how many fields were read."""
    info, count = _known_peer(body) if len(body) <= _MAX_KNOWN_PEER else _peer(body)
    if info is not None:
        peers.append(info)
    return count


def _peer(body: bytes) -> tuple[DhtPeer | None, int]:
    """A peer from its protobuf, None without an ID that is one; and how many fields it has."""
    peer = b""
    addrs: list[bytes] = []
    count, pos, end = 0, 0, len(body)
    most, longest = limits.MAX_ADDRS_PER_PEER, limits.MAX_ADDR_SIZE
    while pos < end:
        count += 1
        tag = body[pos]
        # Nearly all that comes is an address or an ID of less than 128 bytes.
        if (tag == 0x12 or tag == 0x0A) and pos + 1 < end and body[pos + 1] < 0x80:
            start = pos + 2
            pos = start + body[pos + 1]
            if pos > end:
                raise MalformedMessage("A field of a DHT message reaches over its end.")
            number = tag >> 3
        else:
            number, wire, start, pos = read_field(body, pos, end)
            if wire != _BYTES:
                continue
        if number == 2:
            if len(addrs) < most and 0 < pos - start <= longest:
                addrs.append(body[start:pos])
        elif number == 1:
            peer = body[start:pos]
    return (DhtPeer(peer, tuple(addrs)) if is_peer_id(peer) else None), count


#: The same peers come in answer after answer of a lookup, and of the next one.
_known_peer = lru_cache(maxsize=4096)(_peer)
#: Longer ones are not remembered, so that the memory has a bound.
_MAX_KNOWN_PEER = 1024


def _decode_record(data: bytes, pos: int, end: int) -> ValueRecord:
    key = value = received = b""
    while pos < end:
        number, wire, start, pos = read_field(data, pos, end)
        if wire != _BYTES:
            continue
        if number == 1:
            key = data[start:pos]
        elif number == 2:
            value = data[start:pos]
        elif number == 5:
            received = data[start:pos]
    # Written by the peer for people to read: 35 characters are a time with nanoseconds and a zone.
    return ValueRecord(key, value, received[:40].decode("utf-8", "replace"))


def read_field(data: bytes, pos: int, end: int) -> tuple[int, int, int, int]:
    """One field: its number, its type, its value or where its bytes start, and the position after it."""
    tag, pos = read_number(data, pos, end)
    wire = tag & 7
    number = tag >> 3
    if not number:
        raise MalformedMessage("A field of a DHT message has the number 0.")
    if wire == _VARINT:
        value, pos = read_number(data, pos, end)
        return number, wire, value, pos
    if wire == _BYTES:
        length, pos = read_number(data, pos, end)
    elif wire == _FIXED64:
        length = 8
    elif wire == _FIXED32:
        length = 4
    else:
        raise MalformedMessage(f"A field of a DHT message has the unknown type {wire}.")
    if length > end - pos:
        raise MalformedMessage("A field of a DHT message reaches over its end.")
    return number, wire, pos, pos + length


def read_number(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A protobuf varint: up to ten bytes, cut to 64 bits; need not be minimal."""
    value = shift = 0
    while pos < end:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        shift += 7
        if shift > 63:
            raise MalformedMessage("A DHT message holds a number of more than ten bytes.")
    raise MalformedMessage("A DHT message ends in the middle of a number.")


def is_peer_id(raw: bytes) -> bool:
    """Whether bytes are a binary peer ID: the SHA-256 of a key, or a small key inlined (libp2p peer-ids)."""
    if len(raw) == 34:
        return raw[:2] in (b"\x12\x20", b"\x00\x20")
    return 3 <= len(raw) <= limits.MAX_PEER_ID_SIZE and raw[0] == 0 and raw[1] == len(raw) - 2
