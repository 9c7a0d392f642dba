"""CAR files: blocks one after the other (https://ipld.io/specs/transport/car/).

    CARv1: varint(length) DAG-CBOR {roots: [CID...], version: 1}      then for each block: varint(length) CID bytes
    CARv2: a fixed pragma of 11 bytes, a header of 40 bytes that says where a CARv1 lies inside, then that

The reader does no I/O: bytes go in as they come from a file or a gateway, checked blocks come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kachery_p2p.dag.cid import CID, read_cid, verify_block
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE, MAX_CAR_HEADER, MAX_CAR_ROOTS, MAX_CID_BYTES
from kachery_p2p.errors import HashMismatch, InvalidCID, MalformedDag
from kachery_p2p.wire import Buffer, encode_varint, read_varint

_PRAGMA_V2 = bytes.fromhex("0aa16776657273696f6e02")
_HEADER_V2 = 40
_LONGEST_SECTION = MAX_CID_BYTES + MAX_BLOCK_SIZE
#: Bytes taken at a time while it is not known where the next block begins: a little more than what stands in front of
#: one.
_HEAD_STEP = 192


def car_header(roots: Sequence[CID]) -> bytes:
    """The beginning of a CARv1 with these roots."""
    if len(roots) > MAX_CAR_ROOTS:
        raise ValueError(f"a CAR file with {len(roots)} roots is more than the {MAX_CAR_ROOTS} that are read")
    body = [b"\xa2\x65roots", _cbor_head(4, len(roots))]
    for root in roots:
        # Tag 42 is a CID, written as bytes after a zero, the prefix of the identity multibase.
        link = b"\0" + bytes(root)
        body += (b"\xd8\x2a", _cbor_head(2, len(link)), link)
    body.append(b"\x67version\x01")
    header = b"".join(body)
    return encode_varint(len(header)) + header


def car_section(cid: CID, size: int) -> bytes:
    """What stands in front of a block of `size` bytes."""
    name = bytes(cid)
    return encode_varint(len(name) + size) + name


def write_car(write: Callable[[Buffer], object], roots: Sequence[CID], blocks: Iterable[tuple[CID, Buffer]]) -> int:
    """Write a CARv1 with a file's `write`, one block at a time; returns how many bytes it has."""
    header = car_header(roots)
    write(header)
    total = len(header)
    for cid, block in blocks:
        head = car_section(cid, len(block))
        write(head)
        write(block)
        total += len(head) + len(block)
    return total


class CarReader:
    """Takes a CARv1 or CARv2 apart as it arrives.

        reader = CarReader()
        for chunk in source:
            for cid, block in reader.feed(chunk):
                ...
        reader.close()

    Every block is checked against its hash before it comes out. `roots` is None until the header is read. Blocks not
    asked for, duplicates and blocks out of order are for the user to judge. Memory: one section and one chunk. The
    bytes of a block are copied once, from the chunks to the block.

    Args:
        check: whether blocks are checked here. Without, that is left to the user, who can check many at once, in a
            thread, with `first_wrong`.

    A user who can look into the CAR file anywhere need not feed all of it: `coming` says which block has begun, `skip`
    leaves the rest of it out, and `position` is where the next bytes are to come from.
    """

    def __init__(self, *, check: bool = True) -> None:
        self.roots: list[CID] | None = None
        self.version: int | None = None
        self._check = check
        #: What is no part of a block yet: a header, or what stands in front of a block.
        self._buffer = bytearray()
        self._position = 0  # of the buffer's beginning in the CAR file
        self._end: int | None = None  # of the CARv1 within a CARv2
        self._skip_to = 0
        #: The block that is coming: its CID, what has come of it, and how many bytes have not.
        self._cid: CID | None = None
        self._parts: list[memoryview] = []
        self._missing = 0

    def feed(self, data: Buffer) -> Iterator[tuple[CID, bytes]]:
        """Take some more bytes; yields the blocks that are complete. Use up the iterator before feeding again.

        The bytes must not change afterwards.

        Raises:
            MalformedDag: the bytes are not a CAR file, or a section is larger than any block.
            HashMismatch: a block has the wrong bytes; names the CID.
            UnsupportedCID: a hash function cannot be checked.
        """
        chunk = memoryview(data)
        at = 0
        while True:
            if self._cid is not None:
                part = chunk[at : at + self._missing]
                at += len(part)
                if len(part):
                    self._parts.append(part)
                    self._missing -= len(part)
                    self._position += len(part)
                if self._missing:
                    return
                yield self._block()
            elif not self._begin_block():
                if at >= len(chunk):
                    return
                # A little at a time: what belongs to a block shall not take the way through the buffer.
                step = chunk[at : at + _HEAD_STEP]
                at += len(step)
                self._buffer += step

    @property
    def position(self) -> int:
        """How many bytes of the CAR file were taken in or skipped."""
        return self._position + len(self._buffer)

    @property
    def block_end(self) -> int:
        """Where, in the CAR file, the block ends that came out of `feed` last."""
        return self._position

    @property
    def at_end(self) -> bool:
        """Whether nothing more can come: of a CARv2, all but its index was read."""
        return self._end is not None and self._position >= self._end

    @property
    def coming(self) -> tuple[CID, int, int] | None:
        """The block of which only a part has come: its CID, where its bytes begin in the CAR file, and their number."""
        if self._cid is None:
            return None
        here = sum(map(len, self._parts))
        return self._cid, self._position - here, here + self._missing

    def skip(self) -> None:
        """Leave out the block that is coming: its user reads it elsewhere, or does not want it."""
        self._position += self._missing
        self._cid, self._missing = None, 0
        self._parts.clear()

    def close(self) -> None:
        """Say that nothing more comes.

        Raises:
            MalformedDag: the file ends within its header or a block.
        """
        ended_well = self._end is None or self._position >= self._end
        if self.roots is None or self._buffer or self._cid is not None or not ended_well:
            raise MalformedDag("The CAR file is cut short.")

    def _begin_block(self) -> bool:
        """Read what stands in front of the next block, if all of it is in the buffer."""
        if self.roots is None and not self._read_headers():
            return False
        size, start = self._section(_LONGEST_SECTION, "block", MAX_CID_BYTES)
        if size is None:
            return False
        head = bytes(self._buffer[: start + min(size, MAX_CID_BYTES)])
        try:
            cid, at = read_cid(head, start)
        except InvalidCID as error:
            raise MalformedDag(f"The CAR file has a block whose CID is broken. {error}") from None
        length = size - (at - start)
        if length > MAX_BLOCK_SIZE:
            raise MalformedDag(f"The CAR file has a block of {length} bytes, more than {MAX_BLOCK_SIZE}.")
        there = bytes(self._buffer[at : at + length])
        self._consume(at + len(there))
        self._cid, self._missing = cid, length - len(there)
        if there:
            self._parts.append(memoryview(there))
        return True

    def _block(self) -> tuple[CID, bytes]:
        cid, block = self._cid, b"".join(self._parts)
        assert cid is not None
        self._cid = None
        self._parts.clear()
        if self._check and first_wrong([(cid, block)]) is not None:
            raise wrong_block(cid)
        return cid, block

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self._position += count

    def _section(self, longest: int, what: str, needed: int) -> tuple[int | None, int]:
        """(size, where it begins) of the next section, once `needed` bytes of it are in the buffer; else (None, 0)."""
        if self._end is not None and self._position >= self._end:
            # What follows the CARv1 in a CARv2 is an index, which nobody here needs.
            self._consume(len(self._buffer))
            return None, 0
        buffer = self._buffer
        if not buffer or (len(buffer) < 9 and all(byte >= 128 for byte in buffer)):
            return None, 0
        try:
            size, start = read_varint(buffer, 0)
        except ValueError as error:
            raise MalformedDag(f"The CAR file is malformed: {error}.") from None
        if not 0 < size <= longest:
            raise MalformedDag(f"The CAR file has a {what} of {size} bytes, and {longest} are the most there can be.")
        if self._end is not None and self._position + start + size > self._end:
            raise MalformedDag("The CAR file has a block that reaches beyond its own end.")
        return (size, start) if len(buffer) >= start + min(size, needed) else (None, 0)

    def _read_headers(self) -> bool:
        if self.version is None:
            if len(self._buffer) < len(_PRAGMA_V2):
                # Every CAR is longer than this; a shorter one ends in `close`.
                return False
            self.version = 2 if self._buffer.startswith(_PRAGMA_V2) else 1
        if self.version == 2 and self._end is None:
            if len(self._buffer) < len(_PRAGMA_V2) + _HEADER_V2:
                return False
            fields = bytes(self._buffer[len(_PRAGMA_V2) : len(_PRAGMA_V2) + _HEADER_V2])
            offset = int.from_bytes(fields[16:24], "little")
            size = int.from_bytes(fields[24:32], "little")
            if offset < len(_PRAGMA_V2) + _HEADER_V2 or not size:
                raise MalformedDag("The CAR file is malformed: its data would lie within its own header.")
            self._skip_to, self._end = offset, offset + size
        if self._position < self._skip_to:
            self._consume(min(len(self._buffer), self._skip_to - self._position))
            if self._position < self._skip_to:
                return False
        # A page of HTML, sent by a gateway that failed, should be called what it is: a header begins with a map.
        if self.version == 1 and not any(byte >> 5 == 5 for byte in self._buffer[1:4]):
            raise MalformedDag("This is not a CAR file: it does not begin with a header.")
        size, start = self._section(MAX_CAR_HEADER, "header", MAX_CAR_HEADER)
        if size is None:
            return False
        self.roots = _decode_header(bytes(self._buffer[start : start + size]))
        self._consume(start + size)
        return True


def first_wrong(blocks: Sequence[tuple[CID, Buffer]]) -> int | None:
    """Which of these blocks is the first that has other bytes than its CID says; None when all are right.

    Raises:
        UnsupportedCID: a hash function cannot be checked.
    """
    for index, (cid, block) in enumerate(blocks):
        if not verify_block(cid.multihash, block):
            return index
    return None


def wrong_block(cid: CID) -> HashMismatch:
    """The error for a block that is wrong."""
    return HashMismatch(f"The CAR file has other bytes for {cid} than its hash promises.")


def _cbor_head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    width = 1 if value < 256 else 2
    return bytes([major << 5 | 23 + width]) + value.to_bytes(width, "big")


def _decode_header(header: bytes) -> list[CID]:
    try:
        return _parse_header(header)
    except (ValueError, IndexError) as error:
        raise MalformedDag(f"The header of the CAR file is malformed: {error}") from None


def _read_cbor_head(buf: bytes, pos: int) -> tuple[int, int, int]:
    """(major type, value, position after it) of one DAG-CBOR item."""
    major, short = buf[pos] >> 5, buf[pos] & 31
    pos += 1
    if short < 24:
        return major, short, pos
    if short > 27:
        raise ValueError("an item has no definite length.")
    width = 1 << (short - 24)
    if pos + width > len(buf):
        raise ValueError("it is cut short.")
    return major, int.from_bytes(buf[pos : pos + width], "big"), pos + width


def _parse_header(buf: bytes) -> list[CID]:
    """The roots of a CARv1 header, which is a map of `roots` and `version` and nothing else."""
    major, count, pos = _read_cbor_head(buf, 0)
    if major != 5 or count > 2:
        raise ValueError("it is not a map of roots and version.")
    roots: list[CID] = []
    version: int | None = None
    seen: set[bytes] = set()
    for _ in range(count):
        major, size, pos = _read_cbor_head(buf, pos)
        key, pos = buf[pos : pos + size], pos + size
        if major != 3 or key in seen:
            raise ValueError("it has a key twice, or one that is not text.")
        seen.add(key)
        if key == b"version":
            major, version, pos = _read_cbor_head(buf, pos)
            if major != 0:
                raise ValueError("its version is not a number.")
        elif key == b"roots":
            major, number, pos = _read_cbor_head(buf, pos)
            if major != 4 or number > MAX_CAR_ROOTS:
                raise ValueError(f"its roots are not a list of at most {MAX_CAR_ROOTS}.")
            for _ in range(number):
                root, pos = _read_link(buf, pos)
                roots.append(root)
        else:
            raise ValueError("it has a key that is neither roots nor version.")
    if version != 1:
        raise ValueError(f"its version is {version}, where only 1 can be.")
    if pos != len(buf):
        raise ValueError("something follows it.")
    return roots


def _read_link(buf: bytes, pos: int) -> tuple[CID, int]:
    tag, number, pos = _read_cbor_head(buf, pos)
    major, size, pos = _read_cbor_head(buf, pos)
    if tag != 6 or number != 42 or major != 2 or not size or pos + size > len(buf) or buf[pos] != 0:
        raise ValueError("a root is not a CID.")
    return CID.from_bytes(buf[pos + 1 : pos + size]), pos + size
