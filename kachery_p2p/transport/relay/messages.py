"""What is said on hop and stop streams (protobuf, each message behind its length), and reservation vouchers.

HopMessage and StopMessage differ only in the numbers of their fields and types, so one class serves for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.protocols import RELAY_HOP as HOP
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.envelopes import seal
from kachery_p2p.transport.relay import limits
from kachery_p2p.wire import (
    BYTES,
    VARINT,
    Schema,
    Source,
    WireError,
    bytes_field,
    delimited,
    fields,
    naming,
    number_field,
    read_delimited,
)

STOP = "/libp2p/circuit/relay/0.2.0/stop"

#: Signed envelopes (libp2p RFC 2) of vouchers: what the signature is for, and the multicodec of the payload.
_VOUCHER_DOMAIN = b"libp2p-relay-rsvp"
_VOUCHER_TYPE = b"\x03\x02"


class RelayMessageType(IntEnum):
    """What a message is; the numbers are ours, each protocol has its own."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class Status(IntEnum):
    """How a request ended."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_WORDS = {
    Status.RESERVATION_REFUSED: "it has no room for more reservations",
    Status.RESOURCE_LIMIT_EXCEEDED: "it carries as much as it can, or as it will for these peers",
    Status.PERMISSION_DENIED: "it does not relay for these peers",
    Status.CONNECTION_FAILED: "the peer behind it did not answer",
    Status.NO_RESERVATION: "the peer has no reservation there, so it is not connected to that relay",
    Status.MALFORMED_MESSAGE: "it did not understand the request",
    Status.UNEXPECTED_MESSAGE: "it did not expect the request",
}


def explain(status: int) -> str:
    """A status other than OK in plain words."""
    try:
        return _WORDS[Status(status)]
    except (ValueError, KeyError):
        return f"it answered with status {status}"


@dataclass(frozen=True)
class Limit:
    """What a relay allows one circuit: seconds, and bytes each way; 0 for no limit."""

    duration: int = 0
    data: int = 0

    @property
    def is_limited(self) -> bool:
        return bool(self.duration or self.data)


@dataclass(frozen=True)
class Reserved:
    """What a relay says of a reservation: Unix time at which it ends, binary addresses of the relay, voucher."""

    expire: int
    addrs: tuple[bytes, ...] = ()
    voucher: bytes = b""


@dataclass(frozen=True)
class RelayMessage:
    """A message of either protocol; `peer` is a binary peer ID."""

    kind: RelayMessageType
    peer: bytes = b""
    reservation: Reserved | None = None
    limit: Limit | None = None
    status: int = 0


@dataclass(frozen=True)
class _Numbers:
    """The field numbers and types of one of the two protocols; 0 stands for a field that it does not have."""

    kinds: tuple[RelayMessageType, ...]
    peer: int
    reservation: int
    limit: int
    status: int
    schema: Schema


_HOP = _Numbers(
    (RelayMessageType.RESERVE, RelayMessageType.CONNECT, RelayMessageType.STATUS),
    peer=2,
    reservation=3,
    limit=4,
    status=5,
    schema=Schema({1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT}),
)
_STOP = _Numbers(
    (RelayMessageType.CONNECT, RelayMessageType.STATUS),
    peer=2,
    reservation=0,
    limit=3,
    status=4,
    schema=Schema({1: VARINT, 2: BYTES, 3: BYTES, 4: VARINT}),
)


# --- encoding ------------------------------------------------------------------------------------------------------


def encode(protocol: str, message: RelayMessage) -> bytes:
    """A message of `HOP` or `STOP` with its length in front."""
    numbers = _HOP if protocol == HOP else _STOP
    body = number_field(1, numbers.kinds.index(message.kind))
    if message.peer:
        body += bytes_field(numbers.peer, bytes_field(1, message.peer))
    if message.reservation is not None:
        reserved = message.reservation
        inner = number_field(1, reserved.expire) + b"".join(bytes_field(2, addr) for addr in reserved.addrs)
        body += bytes_field(
            numbers.reservation, inner + (bytes_field(3, reserved.voucher) if reserved.voucher else b"")
        )
    if message.limit is not None:
        limit = message.limit
        body += bytes_field(numbers.limit, number_field(1, limit.duration) + number_field(2, limit.data))
    if message.status:
        body += number_field(numbers.status, message.status)
    return delimited(body)


# --- decoding ------------------------------------------------------------------------------------------------------

_PEER = Schema({1: BYTES})
_LIMIT = Schema({1: VARINT, 2: VARINT})
_RESERVATION = Schema({1: VARINT, 2: BYTES, 3: BYTES})


def decode(protocol: str, data: bytes) -> RelayMessage:
    """A message of `HOP` or `STOP`, without its length.

    Raises:
        MalformedMessage: it is not one.
    """
    with naming(f"A message of {protocol}"):
        return _decode(_HOP if protocol == HOP else _STOP, data)


def _decode(numbers: _Numbers, data: bytes) -> RelayMessage:
    kind: RelayMessageType | None = None
    peer, status = b"", 0
    reservation: Reserved | None = None
    limit: Limit | None = None
    for number, value, part in fields(data, numbers.schema):
        if number == 1:
            if value >= len(numbers.kinds):
                raise WireError(f"its type {value} is unknown")
            kind = numbers.kinds[value]
        elif number == numbers.peer:
            peer = next((each for _, _, each in fields(part, _PEER)), b"")
        elif number == numbers.reservation:
            reservation = _reserved(part)
        elif number == numbers.limit:
            found = {inner: each for inner, each, _ in fields(part, _LIMIT)}
            limit = Limit(found.get(1, 0), found.get(2, 0))
        else:
            status = value
    if kind is None:
        raise WireError("it does not say what it is")
    return RelayMessage(kind, peer, reservation, limit, status)


def _reserved(data: bytes) -> Reserved:
    expire, voucher = 0, b""
    addrs: list[bytes] = []
    for number, value, part in fields(data, _RESERVATION):
        if number == 1:
            expire = value
        elif number == 3:
            voucher = part
        elif len(addrs) < limits.MAX_ADDRESSES:
            addrs.append(part)
    return Reserved(expire, tuple(addrs), voucher)


async def read_message(channel: Source, protocol: str) -> RelayMessage:
    """Read one message, and not a byte more.

    Raises:
        MalformedMessage: it is not one, or too long.
        StreamError: the channel broke.
    """
    return decode(protocol, await read_delimited(channel, limits.MAX_MESSAGE, f"A peer sent a message of {protocol}"))


# --- vouchers ------------------------------------------------------------------------------------------------------


def seal_voucher(keys: Keys, peer: bytes, expire: int) -> bytes:
    """The signed promise that we relay for `peer` until `expire`, for whoever asks to see it."""
    payload = bytes_field(1, peer_bytes(keys.peer_id)) + bytes_field(2, peer) + number_field(3, expire)
    return seal(keys, _VOUCHER_DOMAIN, _VOUCHER_TYPE, payload)
