"""The messages of AutoNAT v1 and v2: bytes in, values out (libp2p specifications autonat-v1 and autonat-v2).

Both are protobuf, and small. Whatever a peer sends comes back as a value or as `MalformedMessage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from kachery_p2p.transport.nat import limits
from kachery_p2p.wire import (
    BYTES,
    FIXED64,
    VARINT,
    Schema,
    WireError,
    bytes_field,
    fields,
    fixed64_field,
    naming,
    number_field,
)

V1 = "/libp2p/autonat/1.0.0"
V2_DIAL = "/libp2p/autonat/2/dial-request"
V2_BACK = "/libp2p/autonat/2/dial-back"


class V1Status(IntEnum):
    """The result in an answer of version 1."""

    OK = 0
    DIAL_ERROR = 100
    DIAL_REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


class V2Status(IntEnum):
    """What became of a request of version 2."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class DialStatus(IntEnum):
    """What became of the dial in version 2."""

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


# --- version 1 -----------------------------------------------------------------------------------------------------


def encode_v1(message: V1Dial | V1Response) -> bytes:
    """One message of version 1, without its length."""
    if isinstance(message, V1Dial):
        peer = bytes_field(1, message.peer) + b"".join(bytes_field(2, each) for each in message.addresses)
        return number_field(1, 0) + bytes_field(2, bytes_field(1, peer))
    body = number_field(1, message.status)
    if message.text:
        body += bytes_field(2, message.text.encode())
    if message.address:
        body += bytes_field(3, message.address)
    return number_field(1, 1) + bytes_field(3, body)


_V1_MESSAGE = Schema({1: VARINT, 2: BYTES, 3: BYTES})
_V1_DIAL = Schema({1: BYTES})
_V1_PEER = Schema({1: BYTES, 2: BYTES})
_V1_RESPONSE = Schema({1: VARINT, 2: BYTES, 3: BYTES})


@naming("An AutoNAT message")
def decode_v1(raw: bytes) -> V1Dial | V1Response:
    """One message of version 1. Addresses beyond `limits.MAX_REQUEST_ADDRESSES` are not kept.

    Raises:
        MalformedMessage: it is not one.
    """
    kind, dial, response = 0, None, None
    for field, value, part in fields(raw, _V1_MESSAGE):
        if field == 1:
            kind = value
        elif field == 2:
            dial = part
        else:
            response = part
    if kind == 0 and dial is not None:
        return _decode_v1_dial(dial)
    if kind == 1 and response is not None:
        status, text, address = 0, "", b""
        for field, value, part in fields(response, _V1_RESPONSE):
            if field == 1:
                status = value
            elif field == 2:
                text = part[:200].decode("utf-8", "replace")
            else:
                address = part
        return V1Response(status, text, address)
    raise WireError("it is neither a request nor an answer")


def _decode_v1_dial(raw: bytes) -> V1Dial:
    peer, addresses = b"", []
    for _, _, body in fields(raw, _V1_DIAL):
        for field, _, part in fields(body, _V1_PEER):
            if field == 1:
                peer = part
            elif len(addresses) < limits.MAX_REQUEST_ADDRESSES:
                addresses.append(part)
    return V1Dial(peer, tuple(addresses))


# --- version 2 -----------------------------------------------------------------------------------------------------


def encode_v2(message: DialRequest | DialResponse | DialDataRequest) -> bytes:
    """One message of the dial-request protocol, without its length."""
    if isinstance(message, DialRequest):
        addresses = b"".join(bytes_field(1, each) for each in message.addresses)
        return bytes_field(1, addresses + fixed64_field(2, message.nonce))
    if isinstance(message, DialResponse):
        return bytes_field(
            2, number_field(1, message.status) + number_field(2, message.index) + number_field(3, message.dial)
        )
    return bytes_field(3, number_field(1, message.index) + number_field(2, message.size))


def encode_dial_data(data: bytes) -> bytes:
    """One message of dial data, without its length."""
    return bytes_field(4, bytes_field(1, data))


_V2_MESSAGE = Schema({1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES})
_DIAL_REQUEST = Schema({1: BYTES, 2: FIXED64})
_DIAL_RESPONSE = Schema({1: VARINT, 2: VARINT, 3: VARINT})
_DIAL_DATA_REQUEST = Schema({1: VARINT, 2: VARINT})
_DIAL_DATA = Schema({1: BYTES})
_DIAL_BACK = Schema({1: FIXED64})


@naming("An AutoNAT message")
def decode_v2(raw: bytes) -> V2Message:
    """One message of the dial-request protocol. Addresses beyond `limits.MAX_REQUEST_ADDRESSES` are not kept.

    Raises:
        MalformedMessage: it is not one.
    """
    found: V2Message | None = None
    for field, _, part in fields(raw, _V2_MESSAGE):
        if field == 1:
            found = _decode_request(part)
        elif field == 2:
            numbers = _numbers(part, _DIAL_RESPONSE)
            found = DialResponse(numbers.get(1, 0), numbers.get(2, 0), numbers.get(3, 0))
        elif field == 3:
            numbers = _numbers(part, _DIAL_DATA_REQUEST)
            found = DialDataRequest(numbers.get(1, 0), numbers.get(2, 0))
        else:
            found = DialData(sum(len(data) for _, _, data in fields(part, _DIAL_DATA)))
    if found is None:
        raise WireError("it is empty")
    return found


def _decode_request(raw: bytes) -> DialRequest:
    addresses: list[bytes] = []
    nonce = 0
    for field, value, part in fields(raw, _DIAL_REQUEST):
        if field == 2:
            nonce = value
        elif len(addresses) < limits.MAX_REQUEST_ADDRESSES:
            addresses.append(part)
    return DialRequest(tuple(addresses), nonce)


def _numbers(raw: bytes, schema: Schema) -> dict[int, int]:
    return {field: value for field, value, _ in fields(raw, schema)}


def encode_dial_back(nonce: int) -> bytes:
    """The one message of the dial-back protocol, without its length."""
    return fixed64_field(1, nonce)


@naming("An AutoNAT message")
def decode_dial_back(raw: bytes) -> int:
    """The nonce.

    Raises:
        MalformedMessage: there is none.
    """
    nonce = _numbers(raw, _DIAL_BACK).get(1)
    if nonce is None:
        raise WireError("it is a dial back without a nonce")
    return nonce


#: The answer to a dial back: a `DialBackResponse` whose status is OK. It is written out although it is the default,
#: because a message of no bytes is easily taken for no message.
DIAL_BACK_RESPONSE = number_field(1, 0)
