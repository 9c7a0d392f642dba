"""dag-pb: the codec of blocks that link to other blocks (https://ipld.io/specs/codecs/dag-pb/spec/).

    PBLink { Hash = 1: CID, Name = 2: string, Tsize = 3: uint64 }     PBNode { Links = 2, Data = 1 }

Nodes are written links first, as the specification says. Tests hold all of it to what the package ipld-dag-pb makes,
which is not used beside that, for reasons that were measured:

- Its decoder takes 19 ms for a node of 1024 links, and a load of a large file decodes one such node per gibibyte and
  each wrapped leaf besides; `decode_node` here takes 2 ms, and `filenode.FileNode`, which makes no object of each link,
  a tenth of that. It is also stricter: the package accepts links without a CID, varints that are not minimal, and
  varints over 64 bits.
- Its encoder copies byte by byte, 31 us for each link, which is more than all other work on a leaf but its hash, and
  half of what it takes to store a folder again that has not changed. It reckons lengths with floating point, and writes
  wrong ones for numbers of 54 bits and more. Importing it costs 0.2 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, fast_cid, read_cid
from kachery_p2p.dag.hashes import SHA2_256_PREFIX
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.errors import InvalidCID, MalformedDag, UnsupportedCID
from kachery_p2p.wire import Buffer, count_repeats, encode_varint, read_varint


class PBLink(NamedTuple):
    """A link of a node.

    Attributes:
        name: None when absent, which is not the same bytes as ''.
        cid: where it leads.
        tsize: Tsize, the size of all blocks below it as the writer of the node claims; None when absent.
    """

    name: str | None
    cid: CID
    tsize: int | None


class PBNode(NamedTuple):
    """A decoded node. `data` is None when the field is absent."""

    links: Sequence[PBLink]
    data: Buffer | None


class LinksAlike(NamedTuple):
    """How a node begins whose first links differ in their digests alone, as nearly all of a large file do.

    Attributes:
        link: the first of them.
        number: how many there are.
        stride: bytes of each.
        digest: where the digest of the first one begins in the block.
    """

    link: PBLink
    number: int
    stride: int
    digest: int


class _Bad(Exception):
    """Carries half a sentence up to the place that knows the CID."""


def link_bytes(cid: bytes, name: bytes | None, tsize: int | None) -> bytes:
    """One link as it stands in a node, tag and length included. `name` is UTF-8."""
    parts = [b"\x0a", encode_varint(len(cid)), cid]
    if name is not None:
        parts += (b"\x12", encode_varint(len(name)), name)
    if tsize is not None:
        parts += (b"\x18", encode_varint(tsize))
    body = b"".join(parts)
    return b"\x12" + encode_varint(len(body)) + body


def node_bytes(links: Iterable[bytes], data: Buffer | None) -> bytes:
    """A node out of links made by `link_bytes`, and its data."""
    if data is None:
        return b"".join(links)
    return b"".join((*links, b"\x0a", encode_varint(len(data)), data))


def encode_node(links: Sequence[PBLink], data: Buffer | None) -> bytes:
    """Encode a node, links first and in the order given.

    Raises:
        ValueError: a Tsize is below 0, or 2**64 or more.
    """
    encoded = []
    for name, cid, tsize in links:
        if tsize is not None and not 0 <= tsize < 1 << 64:
            raise ValueError(f"a Tsize of {tsize} cannot be encoded")
        encoded.append(link_bytes(bytes(cid), None if name is None else name.encode(), tsize))
    return node_bytes(encoded, data)


def decode_node(block: Buffer, cid: CID | None = None) -> PBNode:
    """Decode a block, links first or data first.

    `cid` only serves to name the block in errors. `data` is a view of the block.

    Raises:
        MalformedDag: it is not exactly one node: unknown, repeated or misplaced fields, links without a CID or with a
            broken one, names that are not UTF-8, varints that are too long or not minimal, bytes missing.
        UnsupportedCID: a link's hash function cannot be checked.
    """
    buf = block if type(block) is bytes else bytes(block)
    try:
        return _decode(buf)
    except (_Bad, InvalidCID) as error:
        raise MalformedDag(f"{_name(cid)} is not valid dag-pb: {error}") from None
    except UnsupportedCID as error:
        raise UnsupportedCID(f"{_name(cid)} links to a block that cannot be checked. {error}") from None


def links_alike(block: bytes) -> LinksAlike | None:
    """The links at the beginning of a block that are like the first one but for 32 bytes of sha2-256.

    They are compared column by column, without a step of Python for each. What follows them is to be decoded as a node
    of its own. None where there are no two such links, and where `decode_node` has to say what is wrong.
    """
    if block[:1] != b"\x12" or len(block) > MAX_BLOCK_SIZE:
        return None
    try:
        stride, _ = _length(block, 1, len(block))
        link = _decode(block[:stride]).links[0]
    except (_Bad, InvalidCID, UnsupportedCID):
        return None
    multihash = link.cid.multihash
    if link.name or len(multihash) != 34 or multihash[:2] != SHA2_256_PREFIX:
        return None
    digest = block.index(multihash, 0, stride) + 2
    count = min(
        count_repeats(block, 0, stride, digest),
        count_repeats(block, digest + 32, stride, stride - digest - 32),
    )
    return LinksAlike(link, count, stride, digest) if count > 1 else None


def _name(cid: CID | None) -> str:
    return "A block" if cid is None else f"The block {cid}"


def _length(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """Read the length of a field: (position where it ends, position where it begins)."""
    if pos < end and buf[pos] < 128:
        stop = pos + 1 + buf[pos]
        pos += 1
    else:
        try:
            size, pos = read_varint(buf, pos, 10)
        except ValueError as error:
            raise _Bad(f"{error}.") from None
        stop = pos + size
    if stop > end:
        raise _Bad("a field says it is longer than what is left.")
    return stop, pos


def _tsize(buf: bytes, pos: int) -> tuple[int, int]:
    try:
        return read_varint(buf, pos, 10)
    except ValueError as error:
        raise _Bad(f"{error}.") from None


def _like_the_last(buf: bytes, start: int, hash_end: int, stop: int, links: list[PBLink]) -> int:
    """Read on while links differ from the one just read, at `start` to `stop`, in the digest alone.

    Nearly all links of a large file are so: their CIDs are of one kind, they have no names, and one Tsize.

    Returns:
        The position after them.
    """
    name, cid, tsize = links[-1]
    if cid.multihash[:2] != SHA2_256_PREFIX or len(cid.multihash) != 34:
        return stop
    version, codec = cid.version, cid.codec
    head = buf[start : hash_end - 32]
    tail = buf[hash_end:stop]
    step = stop - start
    to_hash, to_tail = len(head) - 2, hash_end - start
    add, new_link, same = links.append, tuple.__new__, buf.startswith
    pos = stop
    while same(head, pos) and same(tail, pos + to_tail):
        cid = fast_cid(version, codec, buf[pos + to_hash : pos + to_tail])
        add(new_link(PBLink, (name, cid, tsize)))
        pos += step
    return pos


def _decode(buf: bytes) -> PBNode:
    size = len(buf)
    if size > MAX_BLOCK_SIZE:
        raise _Bad(f"it has {size} bytes, and a block has at most {MAX_BLOCK_SIZE}.")
    links: list[PBLink] = []
    add = links.append
    data: Buffer | None = None
    links_done = False
    pos = 0
    while pos < size:
        tag = buf[pos]
        if tag == 0x12:
            if links_done:
                raise _Bad("links stand on both sides of the data.")
            start = pos
            stop, pos = _length(buf, pos + 1, size)
            if pos + 2 > stop or buf[pos] != 0x0A:
                raise _Bad("a link does not begin with a CID.")
            end, pos = _length(buf, pos + 1, stop)
            link_cid, after = read_cid(buf[pos:end])
            if after != end - pos:
                raise _Bad("a link has more bytes than its CID.")
            pos = hash_end = end
            name: str | None = None
            tsize: int | None = None
            if pos < stop and buf[pos] == 0x12:
                end, pos = _length(buf, pos + 1, stop)
                if end == pos:
                    name = ""
                else:
                    try:
                        name = buf[pos:end].decode("utf-8")
                    except UnicodeDecodeError:
                        raise _Bad("the name of a link is not UTF-8.") from None
                pos = end
            if pos < stop and buf[pos] == 0x18:
                tsize, pos = _tsize(buf, pos + 1)
            if pos != stop:
                raise _Bad("a link has a field that is unknown, repeated or out of order, or a length that lies.")
            add(PBLink(name, link_cid, tsize))
            if not name:
                pos = _like_the_last(buf, start, hash_end, stop, links)
        elif tag == 0x0A:
            if data is not None:
                raise _Bad("it has two data fields.")
            stop, pos = _length(buf, pos + 1, size)
            data = memoryview(buf)[pos:stop]
            pos = stop
            links_done = bool(links)
        else:
            raise _Bad(f"it has a field with the tag 0x{tag:02x}, which dag-pb does not know.")
    return PBNode(links, data)
