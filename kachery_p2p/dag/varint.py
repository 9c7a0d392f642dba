"""Unsigned varints as multiformats define them: little-endian groups of seven bits, minimal, at most nine bytes."""

from __future__ import annotations

from kachery_p2p.dag.limits import MAX_VARINT_BYTES

Buffer = bytes | bytearray | memoryview

_ONE_BYTE = [bytes([n]) for n in range(128)]


def encode_varint(value: int) -> bytes:
    """The varint of a number from 0 to 2**64 - 1 (protobuf needs the 64th bit). Raises ValueError outside it."""
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
    """Read one varint at `pos`: (value, position after it).

    Raises ValueError, with a part of a sentence as text, when it is cut short, longer than `max_bytes`, or not in
    its shortest form.
    """
    end = len(buf)
    if pos >= end:
        raise ValueError("it ends where a varint should begin")
    byte = buf[pos]
    if byte < 128:
        return byte, pos + 1
    value = byte & 0x7F
    shift = 7
    start = pos
    pos += 1
    while True:
        if pos - start >= max_bytes:
            raise ValueError(f"a varint is longer than {max_bytes} bytes")
        if pos >= end:
            raise ValueError("it ends within a varint")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            if byte == 0:
                raise ValueError("a varint is not in its shortest form")
            if value >= 1 << 64:
                raise ValueError("a varint does not fit in 64 bits")
            return value, pos
        shift += 7
