"""UnixFS: what stands in the data of a dag-pb node that is a file or a directory (https://specs.ipfs.tech/unixfs/).

Data { Type = 1, Data = 2, filesize = 3, blocksizes = 4 (repeated), hashType = 5, fanout = 6, mode = 7,
       mtime = 8 { Seconds = 1, FractionalNanoseconds = 2 (fixed32) } }
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import MalformedDag
from kachery_p2p.wire import Buffer, count_repeats, encode_varint, read_varint

#: The only hash function of sharded directories.
MURMUR3_X64_64 = 0x22


class DataType(IntEnum):
    """What a UnixFS node is."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    HAMT_SHARD = 5


class UnixFSData(NamedTuple):
    """The decoded data of a node.

    `filesize` and `blocksizes` in bytes of file content; `mode` the POSIX permission bits; `mtime_s` seconds since
    1970 (may be negative), `mtime_ns` the nanoseconds within the second. None means absent.
    """

    kind: DataType
    data: Buffer | None = None
    filesize: int | None = None
    blocksizes: Sequence[int] = ()
    hash_type: int | None = None
    fanout: int | None = None
    mode: int | None = None
    mtime_s: int | None = None
    mtime_ns: int | None = None


class Attributes(NamedTuple):
    """What a node may say of a file, folder or link beside its content: its permissions, and when it was changed.

    Attributes:
        mode: permission bits; None where it says nothing.
        mtime_ns: nanoseconds since 1970; None where it says nothing.
    """

    mode: int | None = None
    mtime_ns: int | None = None

    @classmethod
    def of(cls, data: UnixFSData | None) -> Attributes | None:
        """Those of a node; None where it has none."""
        if data is None or (data.mode is None and data.mtime_s is None):
            return None
        return cls(data.mode, None if data.mtime_s is None else data.mtime_s * 1_000_000_000 + (data.mtime_ns or 0))

    def put_into(self, data: UnixFSData) -> UnixFSData:
        """The same node with these."""
        seconds, nanos = (None, None) if self.mtime_ns is None else divmod(self.mtime_ns, 1_000_000_000)
        return data._replace(mode=self.mode, mtime_s=seconds, mtime_ns=nanos)


#: Says nothing.
NO_ATTRIBUTES = Attributes()
#: Bytes that attributes add to a node at the most: three tags, a mode, seconds and nanoseconds, and longer lengths.
ATTRIBUTES_OVERHEAD = 32


def encode(node: UnixFSData) -> bytes:
    """Encode the data field. Zero nanoseconds are left out, as the specification demands.

    Raises:
        ValueError: nanoseconds outside 0 to 999 999 999, or numbers that do not fit their field.
    """
    parts = [b"\x08", encode_varint(node.kind)]
    if node.data is not None:
        parts += (b"\x12", encode_varint(len(node.data)), bytes(node.data))
    if node.filesize is not None:
        parts += (b"\x18", encode_varint(node.filesize))
    for size in node.blocksizes:
        parts += (b"\x20", encode_varint(size))
    if node.hash_type is not None:
        parts += (b"\x28", encode_varint(node.hash_type))
    if node.fanout is not None:
        parts += (b"\x30", encode_varint(node.fanout))
    if node.mode is not None:
        if not 0 <= node.mode < 1 << 32:
            raise ValueError(f"a mode of {node.mode:#o} does not fit in 32 bits")
        parts += (b"\x38", encode_varint(node.mode))
    if node.mtime_s is not None:
        if not -(1 << 63) <= node.mtime_s < 1 << 63:
            raise ValueError(f"a time of {node.mtime_s} seconds does not fit in 64 bits")
        time = b"\x08" + encode_varint(node.mtime_s & 0xFFFF_FFFF_FFFF_FFFF)
        nanos = node.mtime_ns or 0
        if not 0 <= nanos < 1_000_000_000:
            raise ValueError(f"{nanos} nanoseconds are not within a second")
        if nanos:
            time += b"\x15" + nanos.to_bytes(4, "little")
        parts += (b"\x42", encode_varint(len(time)), time)
    return b"".join(parts)


def decode(data: Buffer, cid: CID | None = None) -> UnixFSData:
    """Decode the data field of a node; `cid` names the block in errors. File data stays a view of the input.

    Fields that the specification does not know are skipped.

    Raises:
        MalformedDag: a missing or unknown type, repeated or mistyped fields, a mode over 32 bits, nanoseconds outside 1
            to 999 999 999, or bytes missing.
    """
    try:
        return _decode(memoryview(data))
    except ValueError as error:
        name = "A block" if cid is None else f"The block {cid}"
        raise MalformedDag(f"{name} is not valid UnixFS: {error}.") from None


#: Field number -> what it is, and its wire type (block sizes of wire type 0 are read before this is looked at).
_FIELDS = {
    1: ("type", 0),
    2: ("data", 2),
    3: ("filesize", 0),
    4: ("block sizes", 2),
    5: ("hash type", 0),
    6: ("fanout", 0),
    7: ("mode", 0),
    8: ("mtime", 2),
}


def _decode(view: memoryview) -> UnixFSData:
    end = len(view)
    # Numbers take few bytes and are read faster from bytes; file data may take a megabyte and stays where it is.
    buf: Buffer = view if end > 128 * 1024 else bytes(view)
    found: dict[int, int] = {}
    content: memoryview | None = None
    mtime_s: int | None = None
    mtime_ns: int | None = None
    blocksizes: list[int] = []
    add = blocksizes.append
    pos = 0
    while pos < end:
        tag = buf[pos]
        if tag == 0x20:
            # The hot loop of large files: one size for each link, nearly always the same one again.
            start = pos
            size, pos = read_varint(buf, pos + 1, 10)
            step = pos - start
            count = count_repeats(buf, start, step, step) if type(buf) is bytes else 1
            pos = start + count * step
            blocksizes += [size] * count
            continue
        tag, pos = read_varint(buf, pos, 5)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, pos = read_varint(buf, pos, 10)
            if field in (1, 3, 5, 6, 7):
                if field in found:
                    raise ValueError(f"its {_FIELDS[field][0]} stands there twice")
                found[field] = value
                continue
        elif wire == 2:
            size, pos = read_varint(buf, pos, 10)
            stop = pos + size
            if stop > end:
                raise ValueError("a field says it is longer than what is left")
            if field == 2:
                if content is not None:
                    raise ValueError("its data stands there twice")
                content = view[pos:stop]
            elif field == 4:
                # Packed numbers, which every protobuf reader must take too.
                while pos < stop:
                    size, pos = read_varint(buf, pos, 10)
                    add(size)
                if pos != stop:
                    raise ValueError("its packed block sizes end within a number")
            elif field == 8:
                if mtime_s is not None:
                    raise ValueError("its mtime stands there twice")
                mtime_s, mtime_ns = _decode_time(bytes(view[pos:stop]))
            pos = stop
        elif wire in (1, 5):
            pos += 8 if wire == 1 else 4
            if pos > end:
                raise ValueError("a field says it is longer than what is left")
        else:
            raise ValueError(f"it has a field of the wire type {wire}")
        if field == 0 or (field in _FIELDS and wire != _FIELDS[field][1]):
            raise ValueError(f"its field {field} has the wrong wire type")
    if 1 not in found:
        raise ValueError("it has no type")
    if found[1] > 5:
        raise ValueError(f"its type is {found[1]}, and there are only 0 to 5")
    mode = found.get(7)
    if mode is not None and mode >= 1 << 32:
        raise ValueError("its mode is more than 32 bits")
    return UnixFSData(
        DataType(found[1]), content, found.get(3), blocksizes, found.get(5), found.get(6), mode, mtime_s, mtime_ns
    )


def _decode_time(buf: bytes) -> tuple[int, int | None]:
    seconds: int | None = None
    nanos: int | None = None
    pos = 0
    while pos < len(buf):
        tag = buf[pos]
        pos += 1
        if tag == 0x08 and seconds is None:
            seconds, pos = read_varint(buf, pos, 10)
            if seconds >= 1 << 63:
                seconds -= 1 << 64
        elif tag == 0x15 and nanos is None:
            if pos + 4 > len(buf):
                raise ValueError("its mtime is cut short")
            nanos = int.from_bytes(buf[pos : pos + 4], "little")
            pos += 4
            if not 1 <= nanos <= 999_999_999:
                raise ValueError(f"its mtime has {nanos} nanoseconds, outside 1 to 999 999 999")
        else:
            raise ValueError("its mtime has a field that is unknown or repeated")
    if seconds is None:
        raise ValueError("its mtime has no seconds")
    return seconds, nanos
