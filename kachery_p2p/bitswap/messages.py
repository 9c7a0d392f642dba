"""The Bitswap message and its two wire formats (https://specs.ipfs.tech/bitswap-protocol/).

A message is a length (unsigned varint, minimal) and that many bytes of protobuf, at most 4 MiB. Blocks are never copied
here: decoding gives memory views of the body that was received, encoding gives a list of parts in which the blocks
stand as they are, for `Stream.write_parts`.

Versions: 1.2.0 has everything; 1.1.0 has no want types and no presences; 1.0.0 sends blocks bare, in another field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from kachery_p2p.bitswap import limits
from kachery_p2p.dag.cid import CID, DAG_PB, SHA2_256, split_multihash
from kachery_p2p.errors import InvalidCID, MalformedMessage, UnsupportedCID
from kachery_p2p.protocols import BITSWAP as PROTOCOLS
from kachery_p2p.wire import (
    BYTES,
    VARINT,
    Budget,
    Buffer,
    Schema,
    WireError,
    bytes_field,
    encode_varint,
    int32,
    length_at,
    number_field,
    read_number,
    scan,
)

PROTOCOL_1_2, PROTOCOL_1_1, PROTOCOL_1_0, PROTOCOL_PLAIN = PROTOCOLS


def speaks_presence(protocol: str) -> bool:
    """Whether HAVE and DONT_HAVE exist in this version."""
    return protocol == PROTOCOL_1_2


def speaks_payload(protocol: str) -> bool:
    """Whether blocks travel with their CID prefix (1.1.0 and later)."""
    return protocol in (PROTOCOL_1_2, PROTOCOL_1_1)


class MessageTooLarge(MalformedMessage):
    """The length in front of a message is more than the protocol allows: it may hold a block that is too large."""


class WantType(IntEnum):
    """What a want asks for: the block, or only whether the peer has it."""

    BLOCK = 0
    HAVE = 1


_WANT_TYPES = (WantType.BLOCK, WantType.HAVE)


class WantlistEntry(NamedTuple):
    """One entry of a wantlist."""

    cid: CID
    priority: int = 1
    cancel: bool = False
    want_type: WantType = WantType.BLOCK
    send_dont_have: bool = False


class Prefix(NamedTuple):
    """A CID without its digest; stands in front of each block."""

    version: int
    codec: int
    hash_code: int
    hash_length: int


class Block(NamedTuple):
    """A block as it came: the prefix says how to hash it. `None` stands for an unreadable prefix."""

    prefix: Prefix | None
    data: Buffer


class Presence(NamedTuple):
    """HAVE (`have` true) or DONT_HAVE."""

    cid: CID
    have: bool


@dataclass(slots=True)
class BitswapMessage:
    """One decoded message."""

    entries: list[WantlistEntry] = field(default_factory=list[WantlistEntry])
    full: bool = False
    blocks: list[Block] = field(default_factory=list[Block])
    #: Blocks of more bytes than there may be: not to be used, but those who want one are told.
    too_large: list[Block] = field(default_factory=list[Block])
    presences: list[Presence] = field(default_factory=list[Presence])
    pending_bytes: int = 0
    #: Entries and presences skipped because their CID cannot be read.
    malformed: int = 0
    #: The same because there are too many, or of a kind or hash function that we do not know.
    dropped: int = 0


#: What a bare block of Bitswap 1.0.0 means.
CID_V0_PREFIX = Prefix(0, DAG_PB, SHA2_256, 32)
#: Four varints of up to ten bytes; what is longer is not a prefix.
_MAX_PREFIX = 40


# --- decoding ------------------------------------------------------------------------------------------------------

#: The fields that are known, and their wire types.
_MESSAGE = Schema({1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT})
_WANTLIST = Schema({1: BYTES, 2: VARINT})
_ENTRY = Schema({1: BYTES, 2: VARINT, 3: VARINT, 4: VARINT, 5: VARINT})
_BLOCK = Schema({1: BYTES, 2: BYTES})
_PRESENCE = Schema({1: BYTES, 2: VARINT})


def read_length(buf: Buffer, pos: int, end: int) -> tuple[int, int] | None:
    """The length in front of a message: (length, position after it). None while it is incomplete.

    Raises:
        MessageTooLarge: the message is longer than the protocol allows.
        MalformedMessage: the length is not in its shortest form, or absurdly long.
    """
    try:
        found = length_at(buf, pos, end)
    except WireError as error:
        raise MalformedMessage(f"The length of a Bitswap message is malformed: {error}.") from error
    if found is not None and found[0] > limits.MAX_MESSAGE_SIZE:
        raise MessageTooLarge(
            f"A Bitswap message of {found[0]} bytes was announced; the most is {limits.MAX_MESSAGE_SIZE}."
        )
    return found


def decode(body: Buffer) -> BitswapMessage:
    """Read a message from its body (without the length). Blocks are views of `body`.

    Entries and presences whose CID cannot be read are skipped and counted; too many of them make the message malformed.

    Raises:
        MalformedMessage: the body is not protobuf, or breaks a limit.
    """
    view = memoryview(body)
    message = BitswapMessage()
    budget = Budget(limits.MAX_FIELDS_PER_MESSAGE)
    try:
        for number, value, stop in scan(view, 0, len(view), _MESSAGE, budget):
            if number == 1:
                _decode_wantlist(bytes(view[value:stop]), message, budget)
            elif number == 2:
                _add_block(message, CID_V0_PREFIX, view[value:stop])
            elif number == 3:
                _decode_block(view, value, stop, message, budget)
            elif number == 4:
                _decode_presence(bytes(view[value:stop]), message, budget)
            else:
                message.pending_bytes = int32(value)
    except WireError as error:
        raise MalformedMessage(f"A Bitswap message is malformed: {error}.") from error
    return message


def _decode_wantlist(buf: bytes, message: BitswapMessage, budget: Budget) -> None:
    for number, value, stop in scan(buf, 0, len(buf), _WANTLIST, budget):
        if number == 2:
            message.full = message.full or bool(value)
        elif len(message.entries) < limits.MAX_ENTRIES_PER_MESSAGE:
            _decode_entry(buf, value, stop, message, budget)
        else:
            # The rest of an overlong list is stepped over without a look.
            message.dropped += 1


def _decode_entry(buf: bytes, pos: int, end: int, message: BitswapMessage, budget: Budget) -> None:
    raw = b""
    priority = cancel = want_type = dont_have = 0
    for number, value, stop in scan(buf, pos, end, _ENTRY, budget):
        if number == 1:
            raw = buf[value:stop]
        elif number == 2:
            priority = value if value < 1 << 31 else int32(value)
        elif number == 3:
            cancel = value
        elif number == 4:
            want_type = value
        else:
            dont_have = value
    cid = _wire_cid(raw, message)
    if cid is None:
        return
    if want_type > 1:
        # Not a kind of want that we know how to answer.
        message.dropped += 1
        return
    message.entries.append(WantlistEntry(cid, priority, bool(cancel), _WANT_TYPES[want_type], bool(dont_have)))


def _wire_cid(raw: bytes, message: BitswapMessage) -> CID | None:
    """A binary CID, or None, counted, when it is not one or we could not check its blocks anyway."""
    try:
        if len(raw) <= limits.MAX_CID_SIZE:
            return CID.from_bytes(raw)
    except UnsupportedCID:
        message.dropped += 1
        return None
    except InvalidCID:
        pass
    message.malformed += 1
    if message.malformed > limits.MAX_MALFORMED_PER_MESSAGE:
        raise MalformedMessage(f"A Bitswap message holds {message.malformed} unreadable CIDs.")
    return None


def _decode_presence(buf: bytes, message: BitswapMessage, budget: Budget) -> None:
    if len(message.presences) >= limits.MAX_PRESENCES_PER_MESSAGE:
        message.dropped += 1
        return
    raw, kind = b"", 0
    for number, value, stop in scan(buf, 0, len(buf), _PRESENCE, budget):
        if number == 1:
            raw = buf[value:stop]
        else:
            kind = value
    cid = _wire_cid(raw, message)
    if cid is None:
        return
    if kind <= 1:
        message.presences.append(Presence(cid, kind == 0))
    else:
        # A later version may know more than HAVE and DONT_HAVE; that is no offence.
        message.dropped += 1


def _decode_block(view: memoryview, pos: int, end: int, message: BitswapMessage, budget: Budget) -> None:
    prefix: Prefix | None = None
    data: memoryview | None = None
    for number, value, stop in scan(view, pos, end, _BLOCK, budget):
        if number == 1:
            prefix = read_prefix(bytes(view[value:stop])) if stop - value <= _MAX_PREFIX else None
        else:
            data = view[value:stop]
    _add_block(message, prefix, view[end:end] if data is None else data)


def _add_block(message: BitswapMessage, prefix: Prefix | None, data: memoryview) -> None:
    if len(data) > limits.MAX_BLOCK_SIZE:
        message.too_large.append(Block(prefix, data))
        return
    if len(message.blocks) >= limits.MAX_BLOCKS_PER_MESSAGE:
        raise MalformedMessage(f"A message holds more than {limits.MAX_BLOCKS_PER_MESSAGE} blocks.")
    message.blocks.append(Block(prefix, data))


@lru_cache(maxsize=256)
def read_prefix(raw: bytes) -> Prefix | None:
    """Version, codec, hash function and hash length; None when they cannot be read or contradict each other."""
    values: list[int] = []
    pos = 0
    try:
        while pos < len(raw) and len(values) < 5:
            value, pos = read_number(raw, pos, len(raw))
            values.append(value)
    except WireError:
        return None
    if len(values) != 4 or values[0] > 1:
        return None
    prefix = Prefix(*values)
    return prefix if prefix.version == 1 or prefix == CID_V0_PREFIX else None


# --- encoding ------------------------------------------------------------------------------------------------------


def _prefix_field(cid: CID) -> bytes:
    """The field of a block that says how to hash it. For CIDv0: 0, dag-pb, sha2-256, 32."""
    code, digest = split_multihash(cid.multihash)
    return _encode_prefix(cid.version, cid.codec, code, len(digest))


@lru_cache(maxsize=256)
def _encode_prefix(*numbers: int) -> bytes:
    return bytes_field(1, b"".join(map(encode_varint, numbers)))


def _encode_entry(entry: WantlistEntry, presence: bool) -> bytes:
    cid, priority, cancel, want_type, dont_have = entry
    out = bytes_field(1, bytes(cid))
    if priority:
        out += b"\x10" + encode_varint(priority & 0xFFFF_FFFF_FFFF_FFFF)
    if cancel:
        return out + b"\x18\x01"
    if presence:
        if want_type:
            out += b"\x20\x01"
        if dont_have:
            out += b"\x28\x01"
    return out


def encode(
    *,
    protocol: str = PROTOCOL_1_2,
    entries: Iterable[WantlistEntry] = (),
    full: bool = False,
    blocks: Sequence[tuple[CID, Buffer]] = (),
    presences: Iterable[Presence] = (),
    pending_bytes: int = 0,
) -> list[Buffer]:
    """The parts of one message, its length first; the blocks are parts of their own, not copied.

    What the version cannot say is left out: presences before 1.2.0, want types before 1.2.0 (a HAVE entry must not be
    given for such a peer), prefixes before 1.1.0.

    Raises:
        ValueError: the message would have more than 4 MiB.
    """
    presence = speaks_presence(protocol)
    wants = b"".join([bytes_field(1, _encode_entry(entry, presence)) for entry in entries])
    if full:
        wants += number_field(2, 1)
    head: list[bytes] = []
    if wants:
        head.append(bytes_field(1, wants))
    if presence:
        for cid, have in presences:
            body = bytes_field(1, bytes(cid))
            head.append(bytes_field(4, body if have else body + b"\x10\x01"))
        if pending_bytes > 0:
            head.append(number_field(5, min(pending_bytes, 0x7FFF_FFFF)))
    parts: list[Buffer] = []
    gathered = b"".join(head)
    size = 0
    for cid, data in blocks:
        length = encode_varint(len(data))
        if speaks_payload(protocol):
            inner = _prefix_field(cid) + b"\x12" + length
            gathered += b"\x1a" + encode_varint(len(inner) + len(data)) + inner
        else:
            gathered += b"\x12" + length
        size += len(gathered) + len(data)
        parts.append(gathered)
        parts.append(data)
        gathered = b""
    size += len(gathered)
    if gathered:
        parts.append(gathered)
    if size > limits.MAX_MESSAGE_SIZE:
        raise ValueError(f"A Bitswap message of {size} bytes cannot be sent; the most is {limits.MAX_MESSAGE_SIZE}.")
    length = encode_varint(size)
    if parts and isinstance(parts[0], bytes):
        parts[0] = length + parts[0]
    else:
        parts.insert(0, length)
    return parts
