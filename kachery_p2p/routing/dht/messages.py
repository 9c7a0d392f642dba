"""The messages of `/ipfs/kad/1.0.0`, decoded and encoded (libp2p kad-dht specification). Without the length in front.

Written by hand: py-libp2p's generated classes bring all of py-libp2p with them, and most of a message is peers that
are passed on as they came. What is beyond a limit is cut off (peers, addresses) or refused (size, nesting, types).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.peer_ids import is_peer_id
from kachery_p2p.routing.dht import limits
from kachery_p2p.wire import BYTES, VARINT, WireError, bytes_field, number_field, read_field


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


# --- encoding ------------------------------------------------------------------------------------------------------


def encode(message: DhtMessage) -> bytes:
    """The protobuf of a message."""
    parts: list[bytes] = []
    if message.type:
        parts.append(number_field(1, message.type))
    if message.key:
        parts.append(bytes_field(2, message.key))
    record = message.record
    if record is not None:
        body = bytes_field(1, record.key) if record.key else b""
        if record.value:
            body += bytes_field(2, record.value)
        if record.received:
            body += bytes_field(5, record.received.encode())
        parts.append(bytes_field(3, body))
    parts += [_peer_field(8, peer.id, peer.addrs) for peer in message.closer]
    parts += [_peer_field(9, peer.id, peer.addrs) for peer in message.providers]
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _peer_field(number: int, peer: bytes, addrs: tuple[bytes, ...]) -> bytes:
    """One peer. Remembered: a server names those of its table again and again."""
    # The field that says which peers it is connected to is left out: readers have long ignored it.
    return bytes_field(number, bytes_field(1, peer) + b"".join([bytes_field(2, addr) for addr in addrs]))


# --- decoding ------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> DhtMessage:
    """Read a message.

    Peers without an ID, or with bytes that are not one, are left out; so are addresses and peers beyond the limits.

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
    try:
        while pos < end:
            budget -= 1
            number, wire, start, pos = read_field(data, pos, end)
            if wire == VARINT:
                if number == 1:
                    kind = start
            elif wire == BYTES:
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
                    raise WireError("its type is not a number")
            if budget < 0:
                raise WireError(f"it has more than {limits.MAX_FIELDS_PER_MESSAGE} fields")
        if kind >= len(_TYPES):
            raise WireError(f"its type {kind} is unknown")
    except WireError as error:
        raise MalformedMessage(f"A DHT message is malformed: {error}.") from error
    return DhtMessage(_TYPES[kind], key, record, tuple(closer), tuple(providers))


def _add_peer(body: bytes, peers: list[DhtPeer]) -> int:
    """Append a peer, if it is one. Returns how many fields were read."""
    info, count = _known_peer(body) if len(body) <= _MAX_KNOWN_PEER else _peer(body)
    if info is not None:
        peers.append(info)
    return count


def _peer(body: bytes) -> tuple[DhtPeer | None, int]:
    """A peer from its protobuf (None without a valid ID), and how many fields it has."""
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
                raise WireError("it ends within a field of a peer")
            number = tag >> 3
        else:
            number, wire, start, pos = read_field(body, pos, end)
            if wire != BYTES:
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
        if wire != BYTES:
            continue
        if number == 1:
            key = data[start:pos]
        elif number == 2:
            value = data[start:pos]
        elif number == 5:
            received = data[start:pos]
    # Written by the peer for people to read: 35 characters are a time with nanoseconds and a zone.
    return ValueRecord(key, value, received[:40].decode("utf-8", "replace"))
