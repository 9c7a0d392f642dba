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
from kachery_p2p.dag.cid import CID, DAG_PB, SHA2_256
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


class WantType(IntEnum):
    """What a want asks for: the block, or only whether the peer has it."""

    BLOCK = 0
    HAVE = 1


class Entry(NamedTuple):
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
class Message:
    """One decoded message. `malformed` counts what was skipped: unreadable CIDs, unknown want types, too many entries."""

    entries: list[Entry] = field(default_factory=list)
    full: bool = False
    blocks: list[Block] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    pending_bytes: int = 0
    malformed: int = 0
    dropped: int = 0


#: What a bare block of Bitswap 1.0.0 means.
CID_V0_PREFIX = Prefix(0, DAG_PB, SHA2_256, 32)


# --- varints -------------------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128, minimal."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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

    Raises MalformedMessage for an overlong form or a message that is longer than the protocol allows.
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
                raise MalformedMessage(
                    f"A Bitswap message of {value} bytes was announced; the most is {limits.MAX_MESSAGE_SIZE}."
                )
            return value, pos
        shift += 7
        if shift > 28:
            raise MalformedMessage("The length of a Bitswap message is absurdly long.")
    return None


# --- decoding ------------------------------------------------------------------------------------------------------


def decode(body: BytesLike) -> Message:
    """Read a message from its body (without the length). Blocks are views of `body`.

    Raises MalformedMessage when the body is not protobuf or breaks a limit. Entries and presences whose CID cannot be
    read are skipped and counted in `malformed`.
    """
    view = memoryview(body)
    message = Message()
    pos, end = 0, len(view)
    while pos < end:
        tag, pos = _varint(view, pos, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise MalformedMessage("A Bitswap message holds a field of number 0.")
        if wire == 2:
            length, pos = _varint(view, pos, end)
            stop = pos + length
            if stop > end:
                raise MalformedMessage("A field of a Bitswap message is longer than the message.")
            if number == 1:
                _decode_wantlist(bytes(view[pos:stop]), message)
            elif number == 2:
                _add_block(message, CID_V0_PREFIX, view[pos:stop])
            elif number == 3:
                _decode_block(view, pos, stop, message)
            elif number == 4:
                _decode_presence(bytes(view[pos:stop]), message)
            elif number == 5:
                raise MalformedMessage("A field of a Bitswap message has the wrong type.")
            pos = stop
        elif wire == 0:
            if number <= 4:
                raise MalformedMessage("A field of a Bitswap message has the wrong type.")
            value, pos = _varint(view, pos, end)
            if number == 5:
                message.pending_bytes = _int32(value)
        else:
            pos = _skip(number, wire, pos, end, 4 if number <= 5 else 0)
        if message.malformed > limits.MAX_MALFORMED_PER_MESSAGE:
            raise MalformedMessage(f"A Bitswap message holds {message.malformed} unreadable CIDs.")
    return message


def _skip(number: int, wire: int, pos: int, end: int, known: int) -> int:
    """Step over a fixed-width field of a number we do not know."""
    size = {1: 8, 5: 4}.get(wire, 0)
    if known or not size or pos + size > end:
        raise MalformedMessage(f"Field {number} of a Bitswap message cannot be read.")
    return pos + size


def _decode_wantlist(buf: bytes, message: Message) -> None:
    pos, end = 0, len(buf)
    room = limits.MAX_ENTRIES_PER_MESSAGE
    while pos < end:
        tag, pos = _varint(buf, pos, end)
        if tag == 0x0A:
            length, pos = _varint(buf, pos, end)
            stop = pos + length
            if stop > end:
                raise MalformedMessage("An entry of a wantlist is longer than the wantlist.")
            # The rest of an overlong list is stepped over without a look.
            if len(message.entries) < room:
                _decode_entry(buf, pos, stop, message)
                if message.malformed > limits.MAX_MALFORMED_PER_MESSAGE:
                    raise MalformedMessage(f"A Bitswap message holds {message.malformed} unreadable CIDs.")
            else:
                message.dropped += 1
            pos = stop
        elif tag == 0x10:
            value, pos = _varint(buf, pos, end)
            message.full = message.full or bool(value)
        else:
            _, pos = _field(buf, tag, pos, end, known=2)


def _field(buf: bytes, tag: int, pos: int, end: int, known: int) -> tuple[int | bytes, int]:
    """One field of a small message; refuses a known field of the wrong type."""
    number, wire = tag >> 3, tag & 7
    if number == 0:
        raise MalformedMessage("A Bitswap message holds a field of number 0.")
    if wire == 0:
        return _varint(buf, pos, end)
    if wire == 2:
        length, pos = _varint(buf, pos, end)
        if pos + length > end:
            raise MalformedMessage("A field of a Bitswap message is longer than the message.")
        return buf[pos : pos + length], pos + length
    return 0, _skip(number, wire, pos, end, number <= known)


def _decode_entry(buf: bytes, pos: int, end: int, message: Message) -> None:
    raw = b""
    priority, cancel, want_type, dont_have = 0, False, 0, False
    while pos < end:
        tag = buf[pos]
        if tag == 0x0A:
            length, pos = _varint(buf, pos + 1, end)
            if pos + length > end:
                raise MalformedMessage("A CID in a wantlist is longer than its entry.")
            raw = buf[pos : pos + length]
            pos += length
            continue
        tag, pos = _varint(buf, pos, end)
        number = tag >> 3
        value, pos = _field(buf, tag, pos, end, known=5)
        if number > 5:
            continue
        if not isinstance(value, int):
            raise MalformedMessage("A field of a wantlist entry has the wrong type.")
        if number == 2:
            priority = _int32(value)
        elif number == 3:
            cancel = bool(value)
        elif number == 4:
            want_type = value
        elif number == 5:
            dont_have = bool(value)
    cid = read_wire_cid(raw)
    if cid is None or (want_type > 1 and not cancel):
        message.malformed += 1
        return
    message.entries.append(Entry(cid, priority, cancel, WantType.HAVE if want_type == 1 else WantType.BLOCK, dont_have))


def read_wire_cid(raw: bytes) -> CID | None:
    """A binary CID, or None when it is not one."""
    if not raw or len(raw) > limits.MAX_CID_SIZE:
        return None
    try:
        return CID.from_bytes(raw)
    except (InvalidCID, UnsupportedCID):
        return None


def _decode_presence(buf: bytes, message: Message) -> None:
    if len(message.presences) >= limits.MAX_PRESENCES_PER_MESSAGE:
        message.dropped += 1
        return
    pos, end = 0, len(buf)
    raw, kind = b"", 0
    while pos < end:
        tag, pos = _varint(buf, pos, end)
        value, pos = _field(buf, tag, pos, end, known=2)
        if tag == 0x0A and isinstance(value, bytes):
            raw = value
        elif tag == 0x10 and isinstance(value, int):
            kind = value
        elif tag >> 3 <= 2:
            raise MalformedMessage("A field of a block presence has the wrong type.")
    cid = read_wire_cid(raw)
    if cid is None:
        message.malformed += 1
    elif kind <= 1:
        message.presences.append(Presence(cid, kind == 0))
    else:
        # A later version may know more than HAVE and DONT_HAVE; that is no offence.
        message.dropped += 1


def _decode_block(view: memoryview, pos: int, end: int, message: Message) -> None:
    prefix: Prefix | None = None
    data: memoryview = view[end:end]
    while pos < end:
        tag, pos = _varint(view, pos, end)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, pos = _varint(view, pos, end)
            stop = pos + length
            if stop > end:
                raise MalformedMessage("A field of a block is longer than the block.")
            if number == 1:
                prefix = read_prefix(bytes(view[pos : min(stop, pos + 64)]))
            elif number == 2:
                data = view[pos:stop]
            pos = stop
        elif wire == 0 and number > 2:
            _, pos = _varint(view, pos, end)
        else:
            pos = _skip(number, wire, pos, end, number <= 2)
    _add_block(message, prefix, data)


def _add_block(message: Message, prefix: Prefix | None, data: memoryview) -> None:
    if len(data) > limits.MAX_BLOCK_SIZE:
        raise MalformedMessage(f"A block of {len(data)} bytes came; the most is {limits.MAX_BLOCK_SIZE}.")
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


def _encode_entry(entry: Entry, presence: bool) -> bytes:
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
    entries: Iterable[Entry] = (),
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
