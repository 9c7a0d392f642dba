"""CIDs: text, bytes, hashes, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag import CID, DAG_PB, RAW, hash_block, inline_block, read_cid, sha256_multihash, verify_block
from kachery_p2p.dag.cid import LIBP2P_KEY, codec_name
from kachery_p2p.dag.hashes import BLAKE3, SHA2_512, SHA3_224, SHA3_256, SHA3_384, SHA3_512
from kachery_p2p.errors import InvalidCID, UnsupportedCID

V1 = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
V0 = "QmWfVY9y3xjsixTgbd9AorQxH7VtMpzfx2HaWtsoUYecaX"
BLAKE2B_256, BLAKE2S_256 = 0xB220, 0xB260
CHECKABLE = [SHA2_512, SHA3_224, SHA3_256, SHA3_384, SHA3_512, BLAKE2B_256, BLAKE2S_256, BLAKE3, 0x12, 0x00]


def test_version_1() -> None:
    """A base32 CID reads as what it says and writes back the same text."""
    cid = CID.parse(V1)
    assert (cid.version, cid.codec, cid.hash_code) == (1, RAW, 0x12)
    assert cid.digest == hashlib.sha256(b"hello world").digest()
    assert str(cid) == V1
    assert CID.from_bytes(bytes(cid)) == cid


def test_version_0() -> None:
    """Qm... is version 0: its bytes are the multihash alone. The version 1 form is another CID of the same block."""
    cid = CID.parse(V0)
    assert (cid.version, cid.codec) == (0, DAG_PB)
    assert str(cid) == V0
    assert bytes(cid) == cid.multihash
    assert CID.from_bytes(bytes(cid)) == cid
    assert cid.to_v1() != cid
    assert cid.to_v1().multihash == cid.multihash
    assert cid.to_v1().to_v1() is not None
    assert str(cid.to_v1()).startswith("bafybei")


def test_codecs_have_names() -> None:
    """Those of the table of multicodecs; the others go by their number."""
    assert [codec_name(code) for code in (RAW, DAG_PB, LIBP2P_KEY, 0x71)] == ["raw", "dag-pb", "libp2p-key", "dag-cbor"]
    assert codec_name(0x1FFFFF) == "codec 0x1fffff"


@pytest.mark.parametrize("base", ["base32", "base36", "base58btc", "base16", "base64url", "base10"])
def test_agrees_with_multiformats(base: str) -> None:
    """multiformats reads what we write, and we read what it writes in any base."""
    from multiformats import CID as Theirs

    theirs = Theirs.decode(V1)
    assert bytes(theirs) == bytes(CID.parse(V1))
    assert CID.parse(str(theirs.set(base=base))) == CID.parse(V1)


def test_agrees_with_py_cid() -> None:
    """py-cid reads what we write, and writes what we read."""
    import cid as py_cid

    for text in (V1, V0):
        theirs, ours = py_cid.make_cid(text), CID.parse(text)
        assert (theirs.version, theirs.multihash, theirs.buffer) == (ours.version, ours.multihash, bytes(ours))


#: What `ipfs cid format -v 1 -b NAME` of Kubo 0.43.1 gives for V1: all of `ipfs multibase list` but for identity,
#: which is no text. (Base 2 is written with all digits of the first byte, too.)
FROM_KUBO = {
    "base2": "0" + "".join(f"{byte:08b}" for byte in bytes(CID.parse(V1))),
    "base32": "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
    "base32upper": "BAFKREIFZJUT3TE2NHYEKKLSS27NH3K72YSCO7Y32KOAO5EEI66WOF36N5E",
    "base32pad": "cafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e======",
    "base32padupper": "CAFKREIFZJUT3TE2NHYEKKLSS27NH3K72YSCO7Y32KOAO5EEI66WOF36N5E======",
    "base16": "f01551220b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    "base16upper": "F01551220B94D27B9934D3E08A52E52D7DA7DABFAC484EFE37A5380EE9088F7ACE2EFCDE9",
    "base36": "k2cwued9o1pvrt3q271rrqbo49x30tbxwpoeaq75z14e5ui2rzygpbe1",
    "base36upper": "K2CWUED9O1PVRT3Q271RRQBO49X30TBXWPOEAQ75Z14E5UI2RZYGPBE1",
    "base64": "mAVUSILlNJ7mTTT4IpS5S19p9q/rEhO/jelOA7pCI96zi783p",
    "base64pad": "MAVUSILlNJ7mTTT4IpS5S19p9q/rEhO/jelOA7pCI96zi783p",
    "base32hexpad": "t05ah485p9kjrj4qd7o4aabiiqvd7ravqoi2evorqae0et448uume5rudt4======",
    "base32hexpadupper": "T05AH485P9KJRJ4QD7O4AABIIQVD7RAVQOI2EVORQAE0ET448UUME5RUDT4======",
    "base64url": "uAVUSILlNJ7mTTT4IpS5S19p9q_rEhO_jelOA7pCI96zi783p",
    "base64urlpad": "UAVUSILlNJ7mTTT4IpS5S19p9q_rEhO_jelOA7pCI96zi783p",
    "base32hex": "v05ah485p9kjrj4qd7o4aabiiqvd7ravqoi2evorqae0et448uume5rudt4",
    "base32hexupper": "V05AH485P9KJRJ4QD7O4AABIIQVD7RAVQOI2EVORQAE0ET448UUME5RUDT4",
    "base58btc": "zb2rhj7crUKTQYRGCRATFaQ6YFLTde2YzdqbbhAASkL9uRDXn",
    "base58flickr": "ZA2RGJ7BRtjspxqgcqasfzp6xfksCD2xZCQAAGaarKk9UqdwM",
    "base256emoji": "🚀🪐👀💻😅🍺🙈💙🍺😫🙈🌸🌔🌞☺❣🧐😗💘🤨🍎💎😐👅👆💐😜😕🤢🔴😹🎼😶💆👅🙅💣",
}


@pytest.mark.parametrize("base", FROM_KUBO)
def test_every_base_of_kubo(base: str) -> None:
    """A CID that Kubo wrote in any of its bases is the CID that it was."""
    assert str(CID.parse(FROM_KUBO[base])) == V1


@pytest.mark.parametrize("text", ["0", "01", "0" + "2" * 288, "0" + "0" * 287, "0" + "1" * 1313])
def test_bad_base_2(text: str) -> None:
    """Base 2 that is no whole number of bytes, has other digits or is too long is refused."""
    with pytest.raises(InvalidCID):
        CID.parse(text)


BASES = ["base16", "base16upper", "base32", "base32upper", "base32pad", "base32padupper", "base32hex"]
BASES += ["base32hexupper", "base32hexpad", "base32hexpadupper", "base36", "base36upper", "base58btc", "base58flickr"]
BASES += ["base64", "base64pad", "base64url", "base64urlpad", "base256emoji", "base8", "base10", "base32z"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("code", [0x12, 0x13, 0x1E])
def test_any_base(base: str, code: int) -> None:
    """Every multibase text of a CID gives the same CID, also of one with the longest digest there is."""
    import multibase

    cid = CID(1, RAW, hash_block(code, b"hello world", 128 if code == 0x1E else None))
    assert CID.parse(multibase.encode(base, bytes(cid)).decode()) == cid


def test_case_of_base32_does_not_matter() -> None:
    """Base32 is read in either case, as it may have been typed or passed through a host name."""
    assert CID.parse("b" + V1[1:].upper()) == CID.parse(V1)
    assert CID.parse("B" + V1[1:]) == CID.parse(V1)


def text_of(data: bytes) -> str:
    import multibase

    return multibase.encode("base32", data).decode()


SHA = b"\x12\x20" + bytes(32)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (V1[:-1], "cut off"),
        (V1[:-8], "cut off"),
        (V1[:-1] + "f", "mistyped"),
        (V0[:-1], "46 characters"),
        (V0 + "a", "46 characters"),
        (V0[:-1] + "0", "characters that its base does not use"),
        ("b" + V1[1:-1] + "!", "characters that base32 does not use"),
        (V1 + "aaaaaaaa", "bytes that do not belong"),
        ("hello", "not a CID"),
        ("?afkrei", "names no base"),
        ("ipfs://" + V1, "address or a path"),
        ("/ipfs/" + V1, "address or a path"),
        (V1 + "/a.txt", "address or a path"),
        (" " + V1, "white space"),
        ("b" + "a" * 600, "no CID is that long"),
        ("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5", "peer ID"),
        ("ümlaut", "names no base"),
        ("z" + V0, "without a prefix"),
        (text_of(b"\x01\x55\x12\x10" + bytes(16)), "fewer than 20"),
        (text_of(b"\x01\x55\x12\x21" + bytes(33)), "at most 32"),
        (text_of(b"\x01\x55\x00\x81\x01" + bytes(129)), "more than 128"),
        (text_of(b"\x02\x55" + SHA), "begins with 2"),
        (text_of(b"\x00\x55" + SHA), "begins with 0"),
        (text_of(b"\x01\xd5\x00" + SHA), "shortest form"),
        (text_of(b"\x01" + b"\x80" * 9 + b"\x01" + SHA), "longer than 9 bytes"),
        (text_of(b"\x01\x55"), "ends where a varint"),
        (text_of(b"\x01\x55\x92"), "ends within a varint"),
    ],
)
def test_bad_text(text: str, says: str) -> None:
    """Text that is no CID is refused with a sentence that says what is wrong with it."""
    with pytest.raises(InvalidCID) as caught:
        CID.parse(text)
    assert says in str(caught.value)
    assert str(caught.value).endswith((".", "..."))


def test_unknown_hash_function_is_named() -> None:
    """A well-formed CID of a hash function that nobody here can check is unsupported, and the code is named."""
    with pytest.raises(UnsupportedCID, match="0xd5"):
        CID.parse(text_of(b"\x01\x55\xd5\x01\x20" + bytes(32)))


def test_any_codec_parses() -> None:
    """Whether a codec can be read is decided where it is read, not here."""
    assert CID.parse(text_of(b"\x01\x71" + SHA)).codec == 0x71
    assert CID.parse(text_of(b"\x01\x80\x02" + SHA)).codec == 256


@given(st.binary(max_size=60))
def test_garbage_bytes(data: bytes) -> None:
    """Any bytes are a CID that writes back as the same bytes, or one of the two named errors."""
    try:
        cid = CID.from_bytes(data)
    except (InvalidCID, UnsupportedCID):
        return
    assert bytes(cid) == data


@given(st.text(max_size=80))
def test_garbage_text(text: str) -> None:
    """Any text is a CID or one of the two named errors."""
    try:
        cid = CID.parse(text)
    except (InvalidCID, UnsupportedCID):
        return
    assert CID.parse(str(cid)) == cid


@given(
    st.integers(0, 2**32),
    st.sampled_from(CHECKABLE),
    st.binary(max_size=100),
    st.binary(max_size=9),
    st.booleans(),
)
def test_read_in_the_middle(codec: int, code: int, data: bytes, around: bytes, view: bool) -> None:
    """A binary CID is read where it stands, from bytes or a view, and the position behind it is returned."""
    cid = CID(1, codec, hash_block(code, data))
    buf = around + bytes(cid) + around
    got, end = read_cid(memoryview(buf) if view else buf, len(around))
    assert (got, end) == (cid, len(around) + len(bytes(cid)))
    assert CID.parse(str(cid)) == cid
    assert (cid.hash_code, len(cid.digest) > 0) == (code, code != 0 or len(data) > 0)


def test_truncated_bytes() -> None:
    """Every cut of a binary CID is refused."""
    for cid in (CID.parse(V1), CID.parse(V0), CID(1, 300, hash_block(BLAKE2B_256, b"x"))):
        whole = bytes(cid)
        for cut in range(len(whole)):
            with pytest.raises(InvalidCID):
                CID.from_bytes(whole[:cut])


def test_version_0_is_dag_pb_with_sha256() -> None:
    """Version 0 cannot say anything but dag-pb and sha2-256, and there is no version 2."""
    for version, codec, multihash in ((0, RAW, SHA), (0, DAG_PB, hash_block(SHA2_512, b"")), (2, RAW, SHA)):
        with pytest.raises(InvalidCID):
            CID(version, codec, multihash)


def test_is_a_value() -> None:
    """Equal CIDs hash alike, cannot be changed, and survive copying and pickling (to a worker process)."""
    cid = CID.parse(V1)
    other = CID.from_bytes(bytes(cid))
    assert len({cid, other, CID.parse(V0)}) == 2
    assert copy.deepcopy(cid) == cid
    assert pickle.loads(pickle.dumps(cid)) == cid
    with pytest.raises(AttributeError):
        cid.codec = DAG_PB
    with pytest.raises(AttributeError):
        other.multihash = b""
    assert cid != V1
    assert repr(cid) == f"CID({V1})"


@pytest.mark.parametrize("code", CHECKABLE)
def test_verify(code: int) -> None:
    """Every supported hash function tells the right block from a wrong one."""
    multihash = hash_block(code, b"some block")
    assert verify_block(multihash, b"some block")
    assert verify_block(multihash, memoryview(b"some block"))
    assert not verify_block(multihash, b"some block.")


def test_hash_functions_are_the_right_ones() -> None:
    """Digests are those of the standard library and of the multicodec table."""
    data = b"abc"
    assert sha256_multihash(data) == b"\x12\x20" + hashlib.sha256(data).digest()
    assert hash_block(SHA2_512, data) == b"\x13\x40" + hashlib.sha512(data).digest()
    assert hash_block(SHA3_256, data) == b"\x16\x20" + hashlib.sha3_256(data).digest()
    assert hash_block(BLAKE2B_256, data) == b"\xa0\xe4\x02\x20" + hashlib.blake2b(data, digest_size=32).digest()
    assert hash_block(BLAKE2S_256, data) == b"\xe0\xe4\x02\x20" + hashlib.blake2s(data, digest_size=32).digest()
    assert hash_block(BLAKE3, data)[:6].hex() == "1e206437b3ac"


def test_truncated_digests() -> None:
    """A digest cut to 20 bytes still checks; a shorter one is refused, whoever made it."""
    cut = hash_block(SHA2_512, b"data", 20)
    assert verify_block(cut, b"data")
    assert not verify_block(cut, b"date")
    with pytest.raises(InvalidCID):
        hash_block(SHA2_512, b"data", 19)
    with pytest.raises(InvalidCID):
        verify_block(b"\x12\x04" + hashlib.sha256(b"data").digest()[:4], b"data")
    with pytest.raises(UnsupportedCID):
        verify_block(b"\x99\x01\x20" + bytes(32), b"data")
    with pytest.raises(UnsupportedCID):
        hash_block(0x1234, b"data")


def test_identity() -> None:
    """An identity CID carries its block; nothing else does."""
    cid = CID(1, RAW, hash_block(0, b"inline"))
    assert inline_block(cid) == b"inline"
    assert inline_block(CID(1, RAW, hash_block(0, b""))) == b""
    assert inline_block(CID.parse(V1)) is None
    with pytest.raises(InvalidCID):
        hash_block(0, bytes(129))
