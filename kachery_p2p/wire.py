"""Protobuf and varints, for every protocol and file format that this node reads or writes by hand.

Two kinds of varint look the same and have different rules:

- A *number* of protobuf (`read_number`) has up to ten bytes and is cut to 64 bits. It may be written longer than it
  needs to be. (https://protobuf.dev/programming-guides/encoding/)
- A *varint* of multiformats (`read_varint`) must be in its shortest form, and has at most nine bytes unless the caller
  allows more. CIDs, multihashes, CAR files and the lengths in front of messages are made of these.
  (https://github.com/multiformats/unsigned-varint)

A protobuf message is read in one of three ways, from the simplest to the fastest: `fields` gives values; `scan` gives
positions, so that nothing is copied, and counts the fields; `read_field` reads one field. The first two know from a
schema which fields to expect: the number of each and its wire type. A known field of another type is refused. Unknown
fields are stepped over, as protobuf asks. Groups, which protobuf gave up long ago, are refused.

What is wrong with a message is told by `WireError` as half a sentence, such as "it ends within a number". The caller
puts the name of its protocol in front, as `naming` does: "A DHT message is malformed: it ends within a number."
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from kachery_p2p.errors import MalformedMessage

Buffer = bytes | bytearray | memoryview

#: The wire types of protobuf. 3 and 4 are groups.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: Multiformats varints have at most nine bytes (63 bits), by their specification.
MAX_VARINT_BYTES = 9
#: Five bytes announce up to 32 GiB; the longest message of any protocol here has 4 MiB.
MAX_LENGTH_BYTES = 5

_ONE_BYTE = [bytes([n]) for n in range(128)]
_BYTES_TAG = [bytes([n << 3 | BYTES]) for n in range(16)]
_CUT = 0xFFFF_FFFF_FFFF_FFFF


class WireError(ValueError):
    """Bytes that are not what they should be. The text is half a sentence: "it ends within a number"."""


@contextmanager
def naming(message: str) -> Generator[None, None, None]:
    """Turns a `WireError` within into a `MalformedMessage` that begins with `message`: "A DHT message"."""
    try:
        yield
    except WireError as error:
        raise MalformedMessage(f"{message} is malformed: {error}.") from error


# --- numbers -------------------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """A number from 0 to 2**64 - 1 as a varint. The same for protobuf and multiformats.

    Raises:
        ValueError: it is outside this range.
    """
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} does not fit in a varint of 64 bits")
    out = bytearray()
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_size(value: int) -> int:
    """How many bytes the varint of a non-negative number takes."""
    return 1 if value < 128 else (value.bit_length() + 6) // 7


def read_varint(buf: Buffer, pos: int, max_bytes: int = MAX_VARINT_BYTES) -> tuple[int, int]:
    """Read one varint in its shortest form: (value, position after it).

    Raises:
        WireError: it is cut short, longer than `max_bytes`, or not in its shortest form.
    """
    end = len(buf)
    if pos >= end:
        raise WireError("it ends where a varint should begin")
    byte = buf[pos]
    if byte < 128:
        return byte, pos + 1
    value = byte & 0x7F
    shift = 7
    start = pos
    pos += 1
    while True:
        if pos - start >= max_bytes:
            raise WireError(f"a varint is longer than {max_bytes} bytes")
        if pos >= end:
            raise WireError("it ends within a varint")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            if byte == 0:
                raise WireError("a varint is not in its shortest form")
            if value > _CUT:
                raise WireError("a varint does not fit in 64 bits")
            return value, pos
        shift += 7


def count_repeats(buf: bytes, start: int, stride: int, width: int) -> int:
    """How often the `width` bytes at `start` stand there again and again, `stride` bytes from one to the next.

    Columns of bytes are compared, so that it takes no step of Python for each time.
    """
    count = (len(buf) - start - width) // stride + 1
    for at in range(start, start + width):
        column = buf[at : at + (count - 1) * stride + 1 : stride]
        count = len(column) - len(column.lstrip(column[:1]))
    return count


def read_number(buf: Buffer, pos: int, end: int) -> tuple[int, int]:
    """Read one number of protobuf: (value, position after it).

    Raises:
        WireError: it is cut short, or has more than ten bytes.
    """
    value = shift = 0
    while pos < end:
        byte = buf[pos]
        pos += 1
        if byte < 128:
            return (value | byte << shift) & _CUT, pos
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift == 70:
            raise WireError("a number is longer than 10 bytes")
    raise WireError("it ends within a number")


def int32(value: int) -> int:
    """The signed number of 32 bits that a number of protobuf stands for."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


# --- reading a message ---------------------------------------------------------------------------------------------


class Schema:
    """The fields of a message that are known: the wire type of each number."""

    __slots__ = ("by_tag", "wires")

    def __init__(self, wires: Mapping[int, int]) -> None:
        self.wires = dict(wires)
        #: The wire types once more, by tags of one byte.
        self.by_tag = {number << 3 | wire: wire for number, wire in wires.items() if number < 16}


class Budget:
    """How many more fields a message may have, those of the messages within it included."""

    __slots__ = ("left", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.left = most


def read_field(buf: Buffer, pos: int, end: int) -> tuple[int, int, int, int]:
    """Read one field: (its number, its wire type, its value or where its bytes begin, the position after it).

    Raises:
        WireError: it is cut short, or has the number 0 or an unknown wire type.
    """
    if pos < end and (tag := buf[pos]) < 128:
        pos += 1
    else:
        tag, pos = read_number(buf, pos, end)
    wire = tag & 7
    number = tag >> 3
    if not number:
        raise WireError("it has a field with the number 0")
    if wire == VARINT:
        value, pos = read_number(buf, pos, end)
        return number, wire, value, pos
    if wire == BYTES:
        length, pos = read_number(buf, pos, end)
    elif wire == FIXED64:
        length = 8
    elif wire == FIXED32:
        length = 4
    else:
        raise WireError(f"it has a field of the unknown type {wire}")
    if length > end - pos:
        raise WireError(f"it ends within its field {number}")
    return number, wire, pos, pos + length


def scan(buf: Buffer, pos: int, end: int, schema: Schema, budget: Budget) -> Iterator[tuple[int, int, int]]:
    """The known fields between two positions: (number, value, 0) for numbers, else (number, start, stop).

    Raises:
        WireError: the bytes are not protobuf, a known field is of another type, or the budget is spent.
    """
    known = schema.by_tag.get
    while pos < end:
        budget.left -= 1
        if budget.left < 0:
            raise WireError(f"it has more than {budget.most} fields")
        tag = buf[pos]
        wire = known(tag)
        # This is the inner loop of Bitswap. Nearly all tags, lengths and numbers have one byte.
        if wire == BYTES:
            pos += 1
            if pos < end and (value := buf[pos]) < 128:
                pos += 1
            else:
                value, pos = read_number(buf, pos, end)
            start = pos
            pos += value
            if pos > end:
                raise WireError(f"it ends within its field {tag >> 3}")
            yield tag >> 3, start, pos
        elif wire == VARINT:
            pos += 1
            if pos < end and (value := buf[pos]) < 128:
                pos += 1
            else:
                value, pos = read_number(buf, pos, end)
            yield tag >> 3, value, 0
        else:
            number, wire, value, pos = read_field(buf, pos, end)
            expected = schema.wires.get(number)
            if expected is None:
                continue
            if expected != wire:
                raise WireError(f"its field {number} is of the wrong type")
            yield number, value, 0 if wire == VARINT else pos


def fields(data: bytes, schema: Schema) -> Iterator[tuple[int, int, bytes]]:
    """The known fields of a short message: (number, value, b"") for numbers, (number, 0, bytes) for bytes.

    Raises:
        WireError: the bytes are not protobuf, or a known field is of another type.
    """
    wires = schema.wires
    pos, end = 0, len(data)
    while pos < end:
        number, wire, value, pos = read_field(data, pos, end)
        expected = wires.get(number)
        if expected is None:
            continue
        if expected != wire:
            raise WireError(f"its field {number} is of the wrong type")
        if wire == VARINT:
            yield number, value, b""
        elif wire == BYTES:
            yield number, 0, data[value:pos]
        else:
            yield number, int.from_bytes(data[value:pos], "little"), b""


# --- writing a message ---------------------------------------------------------------------------------------------


def number_field(number: int, value: int) -> bytes:
    """A field with a number from 0 to 2**64 - 1 in it."""
    return encode_varint(number << 3) + encode_varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field with bytes in it, which may be another message."""
    size = len(value)
    if size < 128 and number < 16:
        return _BYTES_TAG[number] + _ONE_BYTE[size] + value
    return encode_varint(number << 3 | BYTES) + encode_varint(size) + value


def fixed64_field(number: int, value: int) -> bytes:
    """A field with a number in it that always takes eight bytes."""
    return encode_varint(number << 3 | FIXED64) + value.to_bytes(8, "little")


# --- messages on a stream ------------------------------------------------------------------------------------------


class Source(Protocol):
    """Something that messages come from."""

    async def read_exactly(self, count: int, /) -> bytes | bytearray: ...


def delimited(body: bytes) -> bytes:
    """A message with its length in front, as it goes on a stream."""
    return encode_varint(len(body)) + body


def length_at(buf: Buffer, pos: int, end: int) -> tuple[int, int] | None:
    """The length in front of a message: (length, position after it). None while it is incomplete.

    Raises:
        WireError: it is not in its shortest form, or has more than five bytes.
    """
    value = shift = 0
    start = pos
    while pos < end:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            if byte == 0 and pos - start > 1:
                raise WireError("it is not in its shortest form")
            return value, pos
        shift += 7
        if shift == 7 * MAX_LENGTH_BYTES:
            raise WireError(f"it has more than {MAX_LENGTH_BYTES} bytes")
    return None


async def read_length(source: Source, most: int, sender: str, first: bytes | bytearray = b"") -> int:
    """Read the length in front of a message, and not a byte more.

    Args:
        source: what it comes from.
        most: bytes that the message may have.
        sender: the start of a sentence for errors: "The peer sent an identify message".
        first: what was read of the length already.

    Raises:
        MalformedMessage: it is more than `most`, not in its shortest form, or absurdly long.
        StreamError: the source broke.
    """
    head = bytearray(first)
    try:
        while (found := length_at(head, 0, len(head))) is None:
            head += await source.read_exactly(1)
    except WireError as error:
        raise MalformedMessage(f"{sender} with a malformed length: {error}.") from error
    length = found[0]
    if length > most:
        raise MalformedMessage(f"{sender} of {length} bytes; the most is {most}.")
    return length


async def read_delimited(source: Source, most: int, sender: str) -> bytes:
    """Read a message with its length in front, and not a byte more. Arguments and errors as for `read_length`."""
    return bytes(await source.read_exactly(await read_length(source, most, sender)))
