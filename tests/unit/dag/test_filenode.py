"""Nodes of files: what is found in them by halving is what is found by reading them link by link."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag import CID, DAG_PB, RAW, DataType, sha256_multihash
from kachery_p2p.dag.cid import hash_block
from kachery_p2p.dag.filenode import Child, FileNode
from kachery_p2p.dag.pb import PBLink, decode_node, link_bytes, links_alike, node_bytes
from kachery_p2p.dag.unixfs import UnixFSData, decode, encode
from kachery_p2p.errors import BlockTooLarge, IsADirectory, MalformedDag, NotAFile, UnsupportedCID
from kachery_p2p.wire import count_repeats

MIB = 1 << 20
KINDS = [
    lambda data: CID(1, RAW, sha256_multihash(data)),
    lambda data: CID(1, DAG_PB, sha256_multihash(data)),
    lambda data: CID(0, DAG_PB, sha256_multihash(data)),
    lambda data: CID(1, RAW, hash_block(0x13, data)),
]


def make(cids: list[CID], sizes: list[int], inline: bytes = b"", **more: object) -> bytes:
    fields = {"kind": DataType.FILE, "filesize": sum(sizes) + len(inline), "blocksizes": sizes, **more}
    data = encode(UnixFSData(data=inline or None, **fields))  # type: ignore[arg-type]
    return node_bytes([link_bytes(bytes(cid), b"", size + 7) for cid, size in zip(cids, sizes, strict=True)], data)


def cid_of(block: bytes) -> CID:
    return CID(1, DAG_PB, sha256_multihash(block))


def by_hand(block: bytes) -> list[Child]:
    """All children, read link by link."""
    links, data = decode_node(block)
    assert data is not None
    node = decode(data)
    at = len(node.data or b"")
    found: list[Child] = []
    for link, size in zip(links, node.blocksizes, strict=True):
        found.append(Child(link.cid, at, size))
        at += size
    return found


#: Runs of children of one kind and size, as files have them, and of any.
runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300), st.integers(1, 6)), max_size=5)


@settings(max_examples=200)
@given(runs, st.binary(max_size=9), st.lists(st.tuples(st.integers(-5, 5000), st.integers(-5, 5000)), max_size=6))
def test_children_of_a_range(runs: list[tuple[int, int, int]], inline: bytes, ranges: list[tuple[int, int]]) -> None:
    """Those that have bytes in it, whatever kinds of links and sizes stand side by side."""
    parts = [(KINDS[kind](os.urandom(8)), size) for kind, size, count in runs for _ in range(count)]
    block = make([cid for cid, _ in parts], [size for _, size in parts], inline)
    node = FileNode(cid_of(block), block)
    everything = by_hand(block)
    assert (node.count, node.size, bytes(node.data)) == (len(parts), sum(s for _, s in parts) + len(inline), inline)
    assert node.children(0, node.size) == everything
    for start, end in ranges:
        expected = [each for each in everything if each.offset < end and each.offset + each.length > start]
        assert node.children(start, end) == (expected if start < end else [])


def test_a_large_node_makes_no_object_of_each_link() -> None:
    """It takes little more than its block, and a child is what stands there."""
    cids = [KINDS[0](os.urandom(8)) for _ in range(1024)]
    block = make(cids, [MIB] * 1023 + [17])
    node = FileNode(cid_of(block), block)
    assert node.memory <= len(block) + 12 * 1024
    assert node.children(500 * MIB + 3, 500 * MIB + 4) == [Child(cids[500], 500 * MIB, MIB)]
    assert node.children(1023 * MIB - 1, 1023 * MIB + 1) == [
        Child(cids[1022], 1022 * MIB, MIB),
        Child(cids[1023], 1023 * MIB, 17),
    ]


ONE_PART = encode(UnixFSData(DataType.FILE, filesize=1, blocksizes=[1]))


@pytest.mark.parametrize(
    ("block", "error", "words"),
    [
        (make([KINDS[0](b"a")] * 2, [5, 0]), MalformedDag, "without any bytes"),
        (make([KINDS[0](b"a")] * 2, [5, 5], filesize=11), MalformedDag, "claims 11 bytes"),
        (make([KINDS[0](b"a")] * 2, [5, 5], blocksizes=[5, 5, 5]), MalformedDag, "2 links, but states the sizes of 3"),
        (make([KINDS[0](b"a")] * 3, [5, 5, 2 * MIB + 1]), BlockTooLarge, "store it again in smaller blocks"),
        (make([CID(1, 0x71, sha256_multihash(b""))], [5]), MalformedDag, "cannot be part of a file"),
        (make([], [], kind=DataType.DIRECTORY), IsADirectory, "is a directory"),
        (make([], [], b"x", kind=DataType.SYMLINK), NotAFile, "symbolic link"),
        (node_bytes([link_bytes(bytes(KINDS[0](b"a")), b"", 1)] * 3, None), MalformedDag, "no data"),
        (node_bytes([link_bytes(bytes(KINDS[0](b"a")), b"x", 1)], ONE_PART), MalformedDag, "a name"),
        (make([KINDS[0](b"a")] * 3, [5] * 3)[:-1], MalformedDag, "valid dag-pb"),
    ],
)
def test_what_is_no_node_of_a_file(block: bytes, error: type[Exception], words: str) -> None:
    """Each claim is checked, also those of links that are not looked at one by one."""
    with pytest.raises(error, match=words):
        FileNode(cid_of(block), block)


def test_links_on_both_sides_of_the_data() -> None:
    """Are refused also where the first of them are alike."""
    link = link_bytes(bytes(KINDS[0](b"a")), b"", 1)
    block = make([KINDS[0](b"a")] * 3, [5] * 3) + link
    with pytest.raises(MalformedDag, match="on both sides"):
        FileNode(cid_of(block), block)


def test_a_link_that_cannot_be_checked() -> None:
    """Is named as such."""
    block = node_bytes([link_bytes(b"\x01\x55\x99\x01\x14" + bytes(20), b"", 1)], None)
    with pytest.raises(UnsupportedCID):
        FileNode(cid_of(block), block)


def test_links_alike_end_where_one_differs() -> None:
    """In its codec, its name or its size; what follows is left for others to read."""
    cids = [KINDS[0](os.urandom(4)) for _ in range(4)]
    same = [link_bytes(bytes(cid), b"", 9) for cid in cids]
    others = (link_bytes(bytes(KINDS[1](b"x")), b"", 9), link_bytes(bytes(cids[0]), b"", 8), b"\x0a\x00")
    for other in others:
        alike = links_alike(b"".join((*same, other, same[0])))
        assert alike is not None
        assert (alike.number, alike.link) == (4, PBLink("", cids[0], 9))
    assert links_alike(b"".join(same[:1])) is None
    assert links_alike(b"") is None
    assert links_alike(link_bytes(bytes(cids[0]), b"n", 9) * 3) is None


@given(st.binary(min_size=1, max_size=4), st.integers(0, 9), st.binary(max_size=12), st.binary(max_size=3))
def test_repeats_are_counted(piece: bytes, times: int, rest: bytes, before: bytes) -> None:
    """As many as stand there from the first on, the first included."""
    buf = before + piece * (times + 1) + rest
    expected = 0
    while buf.startswith(piece, len(before) + expected * len(piece)):
        expected += 1
    assert count_repeats(buf, len(before), len(piece), len(piece)) == expected
