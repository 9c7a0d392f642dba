"""The Bitswap message and its two wire formats (https://specs.ipfs.tech/bitswap-protocol/).

A message is a length (unsigned varint, minimal) and that many bytes of protobuf, at most 4 MiB. Blocks are never copied
here: decoding gives memory views of the body that was received, encoding gives a list of parts in which the blocks
stand as they are, for `Stream.write_parts`.

Versions: 1.2.0 has everything; 1.1.0 has no want types and no presences; 1.0.0 sends blocks bare, in another field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from kachery_p2p.bitswap import limits
from kachery_p2p.dag.cid import CID, DAG_PB, SHA2_256
from kachery_p2p.dag.varint import encode_varint
from kachery_p2p.errors import InvalidCID, MalformedMessage, UnsupportedCID

BytesLike = bytes | bytearray | memoryview

PROTOCOL_1_2 = "/ipfs/bitswap/1.2.0"
PROTOCOL_1_1 = "/ipfs/bitswap/1.1.0"
PROTOCOL_1_0 = "/ipfs/bitswap/1.0.0"
PROTOCOL_PLAIN = "/ipfs/bitswap"
#: In the order of preference, as they are offered.
PROTOCOLS = (PROTOCOL_1_2, PROTOCOL_1_1, PROTOCOL_1_0, PROTOCOL_PLAIN)


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
    data: BytesLike


class Presence(NamedTuple):
    """HAVE (`have` true) or DONT_HAVE."""

    cid: CID
    have: bool


@dataclass(slots=True)
class BitswapMessage:
    """One decoded message."""

    entries: list[WantlistEntry] = field(default_factory=list)
    full: bool = False
    blocks: list[Block] = field(default_factory=list)
    #: Blocks of more bytes than there may be: not to be used, but whoever wanted one is to know.
    too_large: list[Block] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    pending_bytes: int = 0
    #: Entries and presences skipped because their CID cannot be read.
    malformed: int = 0
    #: The same because there are too many, or of a kind or hash function that we do not know.
    dropped: int = 0
    #: Protobuf fields met so far.
    fields: int = 0


#: What a bare block of Bitswap 1.0.0 means.
CID_V0_PREFIX = Prefix(0, DAG_PB, SHA2_256, 32)
#: Four varints; a longer prefix is none.
_MAX_PREFIX = 40


# --- varints -------------------------------------------------------------------------------------------------------


def _varint(buf: BytesLike, pos: int, end: int) -> tuple[int, int]:
    """A protobuf varint: up to ten bytes, cut to 64 bits; need not be minimal."""
    if pos >= end:
        raise MalformedMessage("A Bitswap message ends in the middle of a number.")
    byte = buf[pos]
    if byte < 0x80:
        return byte, pos + 1
    value = byte & 0x7F
    shift = 7
    pos += 1
    while True:
        if pos >= end:
            raise MalformedMessage("A Bitswap message ends in the middle of a number.")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        shift += 7
        if shift > 63:
            raise MalformedMessage("A Bitswap message holds a number of more than ten bytes.")


def _int32(value: int) -> int:
    """The signed 32-bit number that a 64-bit varint stands for."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


def read_length(buf: BytesLike, pos: int, end: int) -> tuple[int, int] | None:
    """The length in front of a message, as a minimal unsigned varint; None while it is incomplete.

    Raises MessageTooLarge for a message that is longer than the protocol allows, MalformedMessage for an overlong form.
    """
    value = shift = 0
    start = pos
    while pos < end:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and pos - start > 1:
                raise MalformedMessage("The length of a Bitswap message is not in its shortest form.")
            if value > limits.MAX_MESSAGE_SIZE:
                raise MessageTooLarge(
                    f"A Bitswap message of {value} bytes was announced; the most is {limits.MAX_MESSAGE_SIZE}."
                )
            return value, pos
        shift += 7
        if shift > 28:
            raise MalformedMessage("The length of a Bitswap message is absurdly long.")
    return None


# --- decoding ------------------------------------------------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: The fields that are known, and their wire types.
_MESSAGE = {1: _BYTES, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT}
_WANTLIST = {1: _BYTES, 2: _VARINT}
_ENTRY = {1: _BYTES, 2: _VARINT, 3: _VARINT, 4: _VARINT, 5: _VARINT}
_BLOCK = {1: _BYTES, 2: _BYTES}
_PRESENCE = {1: _BYTES, 2: _VARINT}


def decode(body: BytesLike) -> BitswapMessage:
    """Read a message from its body (without the length). Blocks are views of `body`.

    Raises MalformedMessage when the body is not protobuf or breaks a limit. Entries and presences whose CID cannot be
    read are skipped and counted; too many of them make the message malformed.
    """
    view = memoryview(body)
    message = BitswapMessage()
    for number, value, stop in _fields(view, 0, len(view), _MESSAGE, message):
        if number == 1:
            _decode_wantlist(bytes(view[value:stop]), message)
        elif number == 2:
            _add_block(message, CID_V0_PREFIX, view[value:stop])
        elif number == 3:
            _decode_block(view, value, stop, message)
        elif number == 4:
            _decode_presence(bytes(view[value:stop]), message)
        else:
            message.pending_bytes = _int32(value)
    return message


def _fields(
    buf: BytesLike, pos: int, end: int, known: dict[int, int], message: BitswapMessage
) -> Iterator[tuple[int, int, int]]:
    """The known fields between two positions: (number, value, 0), or (number, start, stop) for bytes.

    Unknown fields are stepped over, as protobuf asks; a known one of the wrong type is refused.
    """
    count = message.fields
    while pos < end:
        count += 1
        if count > limits.MAX_FIELDS_PER_MESSAGE:
            raise MalformedMessage(f"A Bitswap message holds more than {limits.MAX_FIELDS_PER_MESSAGE} fields.")
        message.fields = count
        # Nearly all tags, lengths and numbers have one byte; the function call is for the others.
        tag = buf[pos]
        if tag < 0x80:
            pos += 1
        else:
            tag, pos = _varint(buf, pos, end)
        number, wire = tag >> 3, tag & 7
        expected = known.get(number)
        if number == 0 or (expected is not None and expected != wire):
            raise MalformedMessage(f"Field {number} of a Bitswap message has the wrong type.")
        if wire == _VARINT:
            value, pos = _varint(buf, pos, end)
            if expected is not None:
                yield number, value, 0
                count = message.fields
            continue
        if wire == _BYTES:
            if pos < end and buf[pos] < 0x80:
                length = buf[pos]
                pos += 1
            else:
                length, pos = _varint(buf, pos, end)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise MalformedMessage(f"Field {number} of a Bitswap message has the unknown type {wire}.")
        start, pos = pos, pos + length
        if pos > end:
            raise MalformedMessage(f"Field {number} of a Bitswap message reaches over its end.")
        if expected is not None:
            yield number, start, pos
            count = message.fields


def _decode_wantlist(buf: bytes, message: BitswapMessage) -> None:
    for number, value, stop in _fields(buf, 0, len(buf), _WANTLIST, message):
        if number == 2:
            message.full = message.full or bool(value)
        elif len(message.entries) < limits.MAX_ENTRIES_PER_MESSAGE:
            _decode_entry(buf, value, stop, message)
        else:
            # The rest of an overlong list is stepped over without a look.
            message.dropped += 1


def _decode_entry(buf: bytes, pos: int, end: int, message: BitswapMessage) -> None:
    raw = b""
    priority = cancel = want_type = dont_have = 0
    for number, value, stop in _fields(buf, pos, end, _ENTRY, message):
        if number == 1:
            raw = buf[value:stop]
        elif number == 2:
            priority = _int32(value)
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


def _decode_presence(buf: bytes, message: BitswapMessage) -> None:
    if len(message.presences) >= limits.MAX_PRESENCES_PER_MESSAGE:
        message.dropped += 1
        return
    raw, kind = b"", 0
    for number, value, stop in _fields(buf, 0, len(buf), _PRESENCE, message):
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


def _decode_block(view: memoryview, pos: int, end: int, message: BitswapMessage) -> None:
    prefix: Prefix | None = None
    data = view[end:end]
    for number, value, stop in _fields(view, pos, end, _BLOCK, message):
        if number == 1:
            prefix = read_prefix(bytes(view[value : min(stop, value + _MAX_PREFIX)]))
        else:
            data = view[value:stop]
    _add_block(message, prefix, data)


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
            value, pos = _varint(raw, pos, len(raw))
            values.append(value)
    except MalformedMessage:
        return None
    if len(values) != 4 or values[0] > 1:
        return None
    prefix = Prefix(*values)
    return prefix if prefix.version == 1 or prefix == CID_V0_PREFIX else None


# --- encoding ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def encode_prefix(version: int, codec: int, hash_code: int, hash_length: int) -> bytes:
    """The bytes in front of a block. For CIDv0: 0, dag-pb, sha2-256, 32."""
    return b"".join(map(encode_varint, (version, codec, hash_code, hash_length)))


def prefix_of(cid: CID) -> bytes:
    """The encoded prefix of a CID."""
    return encode_prefix(cid.version, cid.codec, cid.hash_code, len(cid.digest))


def _encode_entry(entry: WantlistEntry, presence: bool) -> bytes:
    cid, priority, cancel, want_type, dont_have = entry
    raw = bytes(cid)
    out = b"\x0a" + encode_varint(len(raw)) + raw
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
    blocks: Sequence[tuple[CID, BytesLike]] = (),
    presences: Iterable[Presence] = (),
    pending_bytes: int = 0,
) -> list[BytesLike]:
    """The parts of one message, its length first; the blocks are parts of their own, not copied.

    What the version cannot say is left out: presences before 1.2.0, want types before 1.2.0 (a HAVE entry must not be
    given for such a peer), prefixes before 1.1.0. Raises ValueError when the message would pass 4 MiB.
    """
    presence = speaks_presence(protocol)
    wants = b"".join(b"\x0a" + encode_varint(len(e)) + e for e in (_encode_entry(e, presence) for e in entries))
    if full:
        wants += b"\x10\x01"
    head: list[bytes] = []
    if wants:
        head.append(b"\x0a" + encode_varint(len(wants)) + wants)
    if presence:
        for cid, have in presences:
            raw = bytes(cid)
            body = b"\x0a" + encode_varint(len(raw)) + raw + (b"" if have else b"\x10\x01")
            head.append(b"\x22" + encode_varint(len(body)) + body)
        if pending_bytes > 0:
            head.append(b"\x28" + encode_varint(min(pending_bytes, 0x7FFF_FFFF)))
    parts: list[BytesLike] = []
    gathered = b"".join(head)
    size = 0
    for cid, data in blocks:
        length = encode_varint(len(data))
        if speaks_payload(protocol):
            prefix = prefix_of(cid)
            inner = b"\x0a" + encode_varint(len(prefix)) + prefix + b"\x12" + length
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
