"""CAR files: written, read as they arrive, and refused when they lie."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag import CID, DAG_PB, RAW, hash_block, sha256_multihash
from kachery_p2p.dag.car import CarReader, car_header, car_section, write_car
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.errors import HashMismatch, MalformedDag, UnsupportedCID
from kachery_p2p.wire import encode_varint

A, B = b"first block", b"second"
CID_A, CID_B = CID(1, RAW, sha256_multihash(A)), CID(0, DAG_PB, sha256_multihash(B))


def car(roots: list[CID], blocks: list[tuple[CID, bytes]]) -> bytes:
    out = io.BytesIO()
    assert write_car(out.write, roots, blocks) == len(out.getvalue())
    return out.getvalue()


def v2(inner: bytes, gap: int = 0, index: bytes = b"") -> bytes:
    header = bytes(16) + (51 + gap).to_bytes(8, "little") + len(inner).to_bytes(8, "little") + bytes(8)
    return bytes.fromhex("0aa16776657273696f6e02") + header + bytes(gap) + inner + index


def read(data: bytes, step: int = 1 << 20) -> tuple[list[CID] | None, list[tuple[CID, bytes]]]:
    reader = CarReader()
    blocks = []
    for start in range(0, len(data), step):
        blocks += reader.feed(data[start : start + step])
    reader.close()
    return reader.roots, blocks


blocks_of_any_hash = st.lists(
    st.builds(
        lambda d, code: (CID(1, RAW, hash_block(code, d)), d), st.binary(max_size=90), st.sampled_from([0, 0x12, 0x13])
    ),
    max_size=5,
)


@given(blocks_of_any_hash, st.integers(1, 200), st.booleans(), st.integers(0, 70), st.binary(max_size=30))
def test_round_trip(blocks: list[tuple[CID, bytes]], step: int, second: bool, gap: int, index: bytes) -> None:
    """What is written is read, in version 1 and inside version 2, in pieces of any size."""
    roots = [cid for cid, _ in blocks]
    data = car(roots, blocks)
    assert read(v2(data, gap, index) if second else data, step) == (roots, blocks)


def test_header_bytes() -> None:
    """The header is the DAG-CBOR that the specification shows, roots before version."""
    header = car_header([CID_A])
    assert (
        header
        == bytes([len(header) - 1]) + b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + bytes(CID_A) + b"\x67version\x01"
    )
    assert car_header([])[1:] == b"\xa2\x65roots\x80\x67version\x01"


def test_cuts() -> None:
    """A file cut anywhere gives the blocks before the cut, and then an error unless the cut is between two blocks."""
    data = car([CID_A], [(CID_A, A), (CID_B, B)])
    ends = [len(car([CID_A], [])), len(car([CID_A], [(CID_A, A)])), len(data)]
    for cut in range(len(data) + 1):
        reader = CarReader()
        got = list(reader.feed(data[:cut]))
        assert len(got) == sum(cut >= end for end in ends[1:])
        if cut in ends:
            reader.close()
        else:
            with pytest.raises(MalformedDag, match="cut short"):
                reader.close()


def test_cut_version_2() -> None:
    """A version 2 file that ends before the data it promises is cut short, even between two blocks."""
    inner = car([CID_A], [(CID_A, A), (CID_B, B)])
    reader = CarReader()
    assert len(list(reader.feed(v2(inner)[: 51 + len(car([CID_A], [(CID_A, A)]))]))) == 1
    with pytest.raises(MalformedDag, match="cut short"):
        reader.close()


def test_wrong_bytes() -> None:
    """A block with other bytes than its CID promises is named; the good ones before it come out first."""
    reader = CarReader()
    blocks = reader.feed(car([], [(CID_A, A), (CID_B, A)]))
    assert next(blocks) == (CID_A, A)
    with pytest.raises(HashMismatch, match=str(CID_B)):
        next(blocks)


def test_unknown_hash() -> None:
    """A block whose hash nobody can check is refused by name."""
    data = car_header([]) + encode_varint(40) + b"\x01\x55\xd5\x01\x20" + bytes(35)
    with pytest.raises(UnsupportedCID, match="0xd5"):
        read(data)


HEAD = car_header([])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut short"),
        (b"<html>not a car</html>", "not a CAR file"),
        (b"\xff" * 30, "not a CAR file"),
        (encode_varint(10**6) + b"\xa2" + bytes(20), "header of 1000000 bytes"),
        (HEAD + car_section(CID_A, MAX_BLOCK_SIZE + 1000), "a block of"),
        (HEAD + b"\x00", "a block of 0 bytes"),
        (HEAD + b"\x02ab", "broken"),
        (b"\x0b" + b"\xa1\x67version\x02" + b"xx", "malformed"),
        (b"\x0a" + b"\xa1\x67version\x03" + b"x", "version is 3"),
        (b"\x0b" + b"\xa1\x67version\x01\x00" + b"x", "follows"),
        (b"\x0a" + b"\xa1\x65roots\x80\x00\x00", "version is None"),
        (b"\x0b" + b"\xa1\x65other\x80\x00\x00\x00", "neither roots nor version"),
        (b"\x0b" + b"\xa2\x65roots\x9f\xff\x60" + b"x", "definite length"),
        (b"\x0c" + b"\xa2\x65roots\x81\x01\x60\x60\x60", "malformed"),
        (v2(HEAD)[:30] + bytes(40), "own header"),
        (v2(car([], [(CID_A, A)])[:-3]), "beyond its own end"),
    ],
)
def test_malformed(data: bytes, says: str) -> None:
    """What is no CAR file, or claims sections larger than any block, is refused before it is stored up."""
    with pytest.raises(MalformedDag, match=says):
        read(data, 7)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_garbage(noise: bytes, at: int) -> None:
    """Noise anywhere in a CAR file ends in a named error or in blocks that are right."""
    data = car([CID_A], [(CID_A, A), (CID_B, B)])
    try:
        _, blocks = read(data[:at] + noise + data[at + len(noise) :], 9)
    except (MalformedDag, HashMismatch, UnsupportedCID):
        return
    for cid, block in blocks:
        assert hash_block(cid.hash_code, block, len(cid.digest)) == cid.multihash


def test_too_many_roots() -> None:
    """A header is bounded, when written and when read."""
    with pytest.raises(ValueError, match="roots"):
        car_header([CID_A] * 2000)
    body = b"\xa2\x65roots\x99\x07\xd0"
    with pytest.raises(MalformedDag, match="roots"):
        read(encode_varint(len(body) + 2000) + body + bytes(2000))
