"""The messages of AutoNAT v1 and v2: bytes in, values out (libp2p specifications autonat-v1 and autonat-v2).

Both are protobuf, and small; what of them is used is read here field by field. Fields that are not known are passed
over. Whatever a peer sends comes back as a value or as `MalformedMessage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.transport.multistream import encode_varint
from kachery_p2p.transport.nat import limits

V1 = "/libp2p/autonat/1.0.0"
V2_DIAL = "/libp2p/autonat/2/dial-request"
V2_BACK = "/libp2p/autonat/2/dial-back"


class V1Status(IntEnum):
    OK = 0
    DIAL_ERROR = 100
    DIAL_REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


class V2Status(IntEnum):
    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class DialStatus(IntEnum):
    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200


@dataclass(frozen=True)
class V1Dial:
    """A request of version 1: dial me. Addresses are binary multiaddrs; `peer` is a binary peer ID, perhaps empty."""

    peer: bytes
    addresses: tuple[bytes, ...]


@dataclass(frozen=True)
class V1Response:
    """The answer to it. `address` is the one that was dialled, where the server tells it."""

    status: int
    text: str = ""
    address: bytes = b""


@dataclass(frozen=True)
class DialRequest:
    """A request of version 2: dial the first of these that you can, and hand over the nonce there."""

    addresses: tuple[bytes, ...]
    nonce: int


@dataclass(frozen=True)
class DialResponse:
    """The answer to it. `index` says which address of the request was dialled."""

    status: int
    index: int = 0
    dial: int = DialStatus.UNUSED


@dataclass(frozen=True)
class DialDataRequest:
    """The price of dialling an address that is not the requester's own."""

    index: int
    size: int


@dataclass(frozen=True)
class DialData:
    """A part of it. Only its size matters."""

    size: int


V2Message = DialRequest | DialResponse | DialDataRequest | DialData


# --- protobuf ------------------------------------------------------------------------------------------------------


def _varint(raw: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while pos < len(raw) and shift < 70:
        byte = raw[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        shift += 7
    raise MalformedMessage("An AutoNAT message has a number that does not end.")


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers with their values: numbers, or bytes. Raises `MalformedMessage`."""
    pos = 0
    while pos < len(raw):
        key, pos = _varint(raw, pos)
        kind = key & 7
        if kind == 0:
            value, pos = _varint(raw, pos)
            yield key >> 3, value
            continue
        if kind == 2:
            size, pos = _varint(raw, pos)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MalformedMessage("An AutoNAT message has a field of an unknown kind.")
        if size > len(raw) - pos:
            raise MalformedMessage("An AutoNAT message ends within a field.")
        part = raw[pos : pos + size]
        yield key >> 3, part if kind == 2 else int.from_bytes(part, "little")
        pos += size


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise MalformedMessage("An AutoNAT message has bytes where a number belongs.")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise MalformedMessage("An AutoNAT message has a number where bytes belong.")
    return value


def _put(field: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return encode_varint(field << 3) + encode_varint(value)
    return encode_varint(field << 3 | 2) + encode_varint(len(value)) + value


def _fixed64(field: int, value: int) -> bytes:
    return encode_varint(field << 3 | 1) + value.to_bytes(8, "little")


# --- version 1 -----------------------------------------------------------------------------------------------------


def encode_v1(message: V1Dial | V1Response) -> bytes:
    """One message of version 1, without its length."""
    if isinstance(message, V1Dial):
        peer = _put(1, message.peer) + b"".join(_put(2, each) for each in message.addresses)
        return _put(1, 0) + _put(2, _put(1, peer))
    body = _put(1, message.status)
    if message.text:
        body += _put(2, message.text.encode())
    if message.address:
        body += _put(3, message.address)
    return _put(1, 1) + _put(3, body)


def decode_v1(raw: bytes) -> V1Dial | V1Response:
    """One message of version 1. Addresses beyond `limits.MAX_REQUEST_ADDRESSES` are not kept.

    Raises:
        MalformedMessage: it is none.
    """
    kind, dial, response = 0, None, None
    for field, value in _fields(raw):
        if field == 1:
            kind = _number(value)
        elif field == 2:
            dial = _bytes(value)
        elif field == 3:
            response = _bytes(value)
    if kind == 0 and dial is not None:
        return _decode_v1_dial(dial)
    if kind == 1 and response is not None:
        status, text, address = 0, "", b""
        for field, value in _fields(response):
            if field == 1:
                status = _number(value)
            elif field == 2:
                text = _bytes(value)[:200].decode("utf-8", "replace")
            elif field == 3:
                address = _bytes(value)
        return V1Response(status, text, address)
    raise MalformedMessage("An AutoNAT message is neither a request nor an answer.")


def _decode_v1_dial(raw: bytes) -> V1Dial:
    peer, addresses = b"", []
    for field, value in _fields(raw):
        if field != 1:
            continue
        for inner, part in _fields(_bytes(value)):
            if inner == 1:
                peer = _bytes(part)
            elif inner == 2 and len(addresses) < limits.MAX_REQUEST_ADDRESSES:
                addresses.append(_bytes(part))
    return V1Dial(peer, tuple(addresses))


# --- version 2 -----------------------------------------------------------------------------------------------------


def encode_v2(message: DialRequest | DialResponse | DialDataRequest) -> bytes:
    """One message of the dial-request protocol, without its length."""
    if isinstance(message, DialRequest):
        return _put(1, b"".join(_put(1, each) for each in message.addresses) + _fixed64(2, message.nonce))
    if isinstance(message, DialResponse):
        return _put(2, _put(1, message.status) + _put(2, message.index) + _put(3, message.dial))
    return _put(3, _put(1, message.index) + _put(2, message.size))


def encode_dial_data(data: bytes) -> bytes:
    """One message of dial data, without its length."""
    return _put(4, _put(1, data))


def decode_v2(raw: bytes) -> V2Message:
    """One message of the dial-request protocol. Addresses beyond `limits.MAX_REQUEST_ADDRESSES` are not kept.

    Raises:
        MalformedMessage: it is none.
    """
    found: V2Message | None = None
    for field, value in _fields(raw):
        if field == 1:
            found = _decode_request(_bytes(value))
        elif field == 2:
            numbers = _numbers(_bytes(value))
            found = DialResponse(numbers.get(1, 0), numbers.get(2, 0), numbers.get(3, 0))
        elif field == 3:
            numbers = _numbers(_bytes(value))
            found = DialDataRequest(numbers.get(1, 0), numbers.get(2, 0))
        elif field == 4:
            found = DialData(sum(len(_bytes(part)) for inner, part in _fields(_bytes(value)) if inner == 1))
    if found is None:
        raise MalformedMessage("An AutoNAT message is empty.")
    return found


def _decode_request(raw: bytes) -> DialRequest:
    addresses: list[bytes] = []
    nonce = 0
    for field, value in _fields(raw):
        if field == 1 and len(addresses) < limits.MAX_REQUEST_ADDRESSES:
            addresses.append(_bytes(value))
        elif field == 2:
            nonce = _number(value)
    return DialRequest(tuple(addresses), nonce)


def _numbers(raw: bytes) -> dict[int, int]:
    return {field: _number(value) for field, value in _fields(raw)}


def encode_dial_back(nonce: int) -> bytes:
    """The one message of the dial-back protocol, without its length."""
    return _fixed64(1, nonce)


def decode_dial_back(raw: bytes) -> int:
    """The nonce. Raises `MalformedMessage`."""
    nonce = _numbers(raw).get(1)
    if nonce is None:
        raise MalformedMessage("An AutoNAT dial back has no nonce.")
    return nonce


#: The answer to a dial back: a `DialBackResponse` whose status is OK, written out although it is the default,
#: because a message of no bytes is easily taken for none.
DIAL_BACK_RESPONSE = _put(1, 0)


def framed(body: bytes) -> bytes:
    """A message with its length, as it goes on the stream."""
    return encode_varint(len(body)) + body
