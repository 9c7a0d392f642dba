"""dag-pb and UnixFS: what is written, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipld_dag_pb.decode import decode_node as package_decode
from ipld_dag_pb.encode import encode_node as package_encode

from kachery_p2p.dag import CID, DAG_PB, RAW, DataType, hash_block, sha256_multihash, unixfs
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.pb import PBLink, decode_node, encode_node, link_bytes, node_bytes
from kachery_p2p.dag.unixfs import UnixFSData
from kachery_p2p.errors import MalformedDag, UnsupportedCID

LEAF = CID(1, RAW, sha256_multihash(b"leaf"))
OLD = CID(0, DAG_PB, sha256_multihash(b"old"))
ODD = CID(1, 0x71, hash_block(0x13, b"odd"))

cids = st.sampled_from([LEAF, OLD, ODD, CID(1, RAW, hash_block(0, b"inline"))])
names = st.none() | st.just("") | st.text(max_size=200)
links = st.lists(st.builds(PBLink, names, cids, st.none() | st.integers(0, 2**53 - 1)), max_size=6)


@given(links, st.none() | st.binary(max_size=200))
def test_round_trip(some: list[PBLink], data: bytes | None) -> None:
    """A node reads back as it was written, links first or data first, also from a view."""
    block = encode_node(some, data)
    again = decode_node(memoryview(block))
    assert list(again.links) == some
    assert (None if again.data is None else bytes(again.data)) == data
    if data is not None:
        rest = len(block) - len(node_bytes([], data))
        data_first = block[rest:] + block[:rest]
        assert list(decode_node(data_first).links) == some


@given(links, st.none() | st.binary(max_size=200))
def test_agrees_with_the_package(some: list[PBLink], data: bytes | None) -> None:
    """Our encoder writes the same bytes as ipld-dag-pb, and our decoder reads the same as its."""
    ours = encode_node(some, data)
    theirs = package_decode(ours)
    assert bytes(package_encode(theirs)) == ours
    for mine, raw in zip(decode_node(ours).links, theirs.links, strict=True):
        assert bytes(mine.cid) == raw.hash
        assert mine.name == getattr(raw, "name", None)
        assert mine.tsize == getattr(raw, "t_size", None)


def test_sizes_the_package_gets_wrong() -> None:
    """ipld-dag-pb writes a wrong length for some numbers of 54 bits and more; 64 are the most that can be."""
    for size in (2**53, 2**64 - 1):
        assert decode_node(encode_node([PBLink("", LEAF, size)], None)).links[0].tsize == size
    for size in (-1, 2**64):
        with pytest.raises(ValueError, match="Tsize"):
            encode_node([PBLink("", LEAF, size)], None)


GOOD = link_bytes(bytes(LEAF), b"name", 5)
LEAF_FIELD = b"\x0a\x24" + bytes(LEAF)


def link(body: bytes) -> bytes:
    return b"\x12" + bytes([len(body)]) + body


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (GOOD[:-1], "longer than what is left"),
        (GOOD + b"\x12", "ends where a varint"),
        (GOOD + b"\x00", "tag 0x00"),
        (GOOD + b"\x1a\x00", "tag 0x1a"),
        (b"\x0a\x05ab", "longer than what is left"),
        (b"\x0a\x01a\x0a\x01b", "two data fields"),
        (GOOD + b"\x0a\x01a" + GOOD, "both sides"),
        (GOOD[:2] + b"\x0b" + GOOD[3:], "begin with a CID"),
        (link(b""), "begin with a CID"),
        (link(b"\x12\x01a"), "begin with a CID"),
        (link(LEAF_FIELD + LEAF_FIELD), "repeated"),
        (link(LEAF_FIELD + b"\x12\x01a\x12\x01b"), "repeated"),
        (link(LEAF_FIELD + b"\x18\x01\x18\x01"), "repeated"),
        (link(LEAF_FIELD + b"\x18\x01\x12\x01a"), "out of order"),
        (link(LEAF_FIELD + b"\x20\x01"), "unknown"),
        (link(LEAF_FIELD + b"\x12\x05a"), "longer than what is left"),
        (link(LEAF_FIELD + b"\x12\x02\xff\xfe"), "not UTF-8"),
        (link(LEAF_FIELD + b"\x12\x03\xed\xa0\x80"), "not UTF-8"),
        (link(LEAF_FIELD + b"\x18\x80\x00"), "shortest form"),
        (link(LEAF_FIELD + b"\x18" + b"\xff" * 9 + b"\x02"), "64 bits"),
        (link(LEAF_FIELD + b"\x18" + b"\xff" * 10 + b"\x01"), "longer than"),
        (link(LEAF_FIELD + b"\x18\x80"), "ends within"),
        (link(b"\x0a\x25" + bytes(LEAF) + b"x"), "more bytes than its CID"),
        (link(b"\x0a\x23" + bytes(LEAF)[:-1]), "cut off"),
        (link(b"\x0a\x00"), "not a CID"),
        (b"\x12" + b"\xff" * 9 + b"\x01" + LEAF_FIELD, "longer than what is left"),
        (b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "longer than 10"),
        (bytes(MAX_BLOCK_SIZE + 1), "a block has at most"),
    ],
)
def test_bad_nodes(block: bytes, says: str) -> None:
    """A block that is not exactly one node is refused, naming its CID and what is wrong."""
    cid = CID(1, DAG_PB, sha256_multihash(block))
    with pytest.raises(MalformedDag) as caught:
        decode_node(block, cid)
    assert str(cid) in str(caught.value)
    assert says in str(caught.value)


def test_link_of_unknown_hash() -> None:
    """A link whose hash nobody can check is unsupported rather than malformed, and the block is named."""
    cid = CID(1, DAG_PB, sha256_multihash(b""))
    with pytest.raises(UnsupportedCID, match=str(cid)):
        decode_node(link(b"\x0a\x25\x01\x55\xd5\x01\x20" + bytes(32)), cid)


@given(st.binary(max_size=120))
def test_garbage(data: bytes) -> None:
    """Any bytes decode to a node that encodes as the same bytes (one order of fields aside), or are refused."""
    try:
        node = decode_node(data)
    except (MalformedDag, UnsupportedCID):
        return
    again = node_bytes(
        [link_bytes(bytes(c), None if n is None else n.encode(), t) for n, c, t in node.links],
        None if node.data is None else bytes(node.data),
    )
    assert sorted(again) == sorted(data)


@given(links, st.binary(min_size=1, max_size=40), st.data())
def test_flipped_bytes(some: list[PBLink], data: bytes, draw: st.DataObject) -> None:
    """A node with any one byte changed, or cut anywhere, is either another well-formed node or a named error."""
    block = bytearray(encode_node(some, data))
    at = draw.draw(st.integers(0, len(block) - 1))
    block[at] = draw.draw(st.integers(0, 255))
    for mutant in (bytes(block), bytes(block[:at])):
        try:
            node = decode_node(mutant)
            if node.data is not None:
                unixfs.decode(node.data)
        except (MalformedDag, UnsupportedCID):
            pass


def test_decoding_is_fast() -> None:
    """A node of 1024 links decodes in a few milliseconds (the package takes six times as long)."""
    cids = [CID(1, RAW, sha256_multihash(bytes([i & 255, i >> 8]))) for i in range(1024)]
    block = node_bytes([link_bytes(bytes(c), b"", 1 << 20) for c in cids], b"\x08\x02")
    best = min(_timed(block) for _ in range(7))
    assert [x.cid for x in decode_node(block).links] == cids
    assert best < 0.015, f"{best * 1e3:.1f} ms"


def _timed(block: bytes) -> float:
    start = time.process_time()
    decode_node(block)
    return time.process_time() - start


# --- UnixFS ----------------------------------------------------------------------------------------------------------

numbers = st.none() | st.integers(0, 2**64 - 1)
seconds = st.none() | st.integers(-(2**63), 2**63 - 1)


@given(
    st.sampled_from(DataType),
    st.none() | st.binary(max_size=50),
    numbers,
    st.lists(st.integers(0, 2**64 - 1) | st.just(7), max_size=9),
    numbers,
    numbers,
    st.none() | st.integers(0, 2**32 - 1),
    seconds,
    st.integers(0, 999_999_999),
)
def test_unixfs_round_trip(kind, data, size, sizes, hash_type, fanout, mode, time_s, nanos) -> None:
    """UnixFS data reads back as it was written; zero nanoseconds are not written."""
    node = UnixFSData(kind, data, size, sizes, hash_type, fanout, mode, time_s, nanos)
    again = unixfs.decode(unixfs.encode(node))
    expected = nanos if time_s is not None and nanos else None
    assert again._replace(data=None) == node._replace(data=None, mtime_ns=expected)
    assert (None if again.data is None else bytes(again.data)) == data


def test_unixfs_known_bytes() -> None:
    """The fields stand where the specification puts them."""
    node = UnixFSData(DataType.FILE, b"ab", 2, (), None, None, 0o644, -1, 5)
    assert unixfs.encode(node).hex() == "080212026162180238a403421008ffffffffffffffffff011505000000"


def test_unixfs_takes_packed_sizes_and_unknown_fields() -> None:
    """Packed block sizes and fields from the future are read as every protobuf reader does."""
    data = bytes.fromhex("080222030506071812aa0101ffb00105bd0100000000b9010000000000000000")
    assert unixfs.decode(data) == UnixFSData(DataType.FILE, None, 18, [5, 6, 7])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "no type"),
        ("1800", "no type"),
        ("0806", "type is 6"),
        ("08020802", "type stands there twice"),
        ("080218011801", "filesize stands there twice"),
        ("080212001200", "data stands there twice"),
        ("0802120561", "longer than what is left"),
        ("08022202ff", "longer than what is left"),
        ("0802220180", "ends within"),
        ("08020001", "field 0"),
        ("080210011234", "wrong wire type"),
        ("08021a0161", "wrong wire type"),
        ("0b", "wire type 3"),
        ("0802388080808010", "more than 32 bits"),
        ("08024200", "no seconds"),
        ("0802420408010801", "unknown or repeated"),
        ("0802420708011500000000", "nanoseconds"),
        ("0802420708011500ca9a3b", "nanoseconds"),
        ("08024204080115ff", "cut short"),
        ("080220ffffffffffffffffff02", "64 bits"),
        ("0880", "ends within"),
        ("0802b901ff", "longer than what is left"),
    ],
)
def test_bad_unixfs(data: str, says: str) -> None:
    """UnixFS data that makes no sense is refused, naming the block and what is wrong."""
    with pytest.raises(MalformedDag) as caught:
        unixfs.decode(bytes.fromhex(data), LEAF)
    assert str(LEAF) in str(caught.value)
    assert says in str(caught.value)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_unixfs_garbage(data: bytes) -> None:
    """Any bytes are UnixFS data or a named error."""
    try:
        unixfs.decode(b"\x08\x02" + data)
    except MalformedDag:
        pass


def test_unixfs_refuses_to_write_nonsense() -> None:
    """Numbers that do not fit their field are a mistake of the caller."""
    for node in (
        UnixFSData(DataType.FILE, mode=2**32),
        UnixFSData(DataType.FILE, mtime_s=2**63),
        UnixFSData(DataType.FILE, mtime_s=0, mtime_ns=10**9),
    ):
        with pytest.raises(ValueError):
            unixfs.encode(node)
