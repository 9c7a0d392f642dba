"""The hash functions of CIDs: each that Kubo takes, against what Kubo gives."""

from __future__ import annotations

import pytest

from kachery_p2p.dag import CID, RAW, hash_block, inline_block, known_block, verify_block
from kachery_p2p.dag.hashes import _FUNCTIONS, names_nothing
from kachery_p2p.errors import InvalidCID, UnsupportedCID

HELLO = b"hello world"
#: What `ipfs add --raw-leaves --cid-version 1 --hash=NAME` of Kubo 0.43.1 gives for the eleven bytes above.
FROM_KUBO = {
    "sha1": "bafkrcfbkvzwdlskpz62blw7jl5aixhhjd3uen3i",
    "sha2-256": "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
    "sha2-512": "bafkrgqbqt3gerhas23vuzrapkdeqf4vu2dwxp3srdj6hvg6nhsug2tgyn6mj3u23yx7utftq3i2ckw2fwdh5qmhid5qf3t35yvkc5e5ottlw6",  # noqa: E501
    "sha3-512": "bafkriqeeaadgkpu2zhuvcf5blsivzkvyczrjdduslxu6abhxot7yfvyhtjanjut3dm3smv6gdvdni4bqjsempcfturjhvudu2homx3s5xkuzu",  # noqa: E501
    "sha3-384": "bafkrkmedx7zi3xq3dp2ycadryzsdychfwbn5xa3o77lqwqb6vdvauy2nysmx5mifhkrvsp2zb6oggyyn3efq",
    "sha3-256": "bafkrmidejpgh4vsdomcatgnkzcphmixtzjy7xiozol6zjiy4hp57etrzha",
    "sha3-224": "bafkrohg7w7yyy57jfc5vn6xlfwrhfen5pef4cbc43zc7giilw3cq",
    "shake-256": "bafkrsqbws5y3wlfz2kyeyhkuzssipy3s3hyyp5z7por7mw4vzdxhpggfe72phqwvlqwuniu7f2kf2ru4hxzhqu5ionjhd5omfwpirfkegvyrm",  # noqa: E501
    "keccak-256": "bafkrwichc4zilkgxgqpf5fzpyz3sqy4e7abpr32cuxwf6a537isuzma7vu",
    "keccak-512": "bafkr2qb64k2aar5yayhwrrtsiilvmyhuc5gqv5oadvdrndwcb3lbtmfxyqqyd5akuecg6opc56ppy2iqpavjtdqacpixermjk6kx7leuaw3h2",  # noqa: E501
    "blake3": "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq",
    "dbl-sha2-256": "bafkvmif4mlklqdm6g3nctqlmlvgz6eltd43akldsianhnqr4b622tn2eem",
    "blake2b-160": "bafkzjzaccryor3hf4kj6dpnamtpo62yib3o6gvybb4",
    "blake2b-256": "bafk2bzaceaswza5ss4iu2ia3galz6pyo6dfm5f4dmiw2lf2de22dmf4k533ba",
    "blake2b-512": "bafk4bzaciabbz3mhteuwz3ffk6bsvokbuufuuepygr4m6fa7kh4th5stvop3zqc2an6n3pwqnyyjx4zusqwe4wgn6gsg4i3zchgnp7hzpb6ly76q",  # noqa: E501
    "blake2s-256": "bafk6bzacecnoy2agpfcwced6lffr62uknmgjfiglvgwplzpjhtfan54bqe5qw",
}
EMPTY_RAW = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


@pytest.mark.parametrize("name", FROM_KUBO)
def test_every_hash_function_of_kubo(name: str) -> None:
    """A CID that Kubo makes with any of its hash functions is read, its block is checked, and a wrong one refused."""
    cid = CID.parse(FROM_KUBO[name])
    assert _FUNCTIONS[cid.hash_code][0] == name
    assert verify_block(cid.multihash, HELLO)
    assert verify_block(cid.multihash, memoryview(HELLO))
    assert not verify_block(cid.multihash, HELLO + b"!")
    assert hash_block(cid.hash_code, HELLO) == cid.multihash


@pytest.mark.parametrize(("code", "size"), [(0x1A, 28), (0x1C, 48), (0xB201 + 27, 28), (0xB241 + 23, 24)])
def test_whole_families(code: int, size: int) -> None:
    """Of keccak, BLAKE2b and BLAKE2s every length is known that is long enough to be safe."""
    multihash = hash_block(code, HELLO)
    assert len(CID(1, RAW, multihash).digest) == size
    assert verify_block(multihash, HELLO)


@pytest.mark.parametrize("code", [0xB200 + 19, 0xB240 + 19, 0xB200 + 65, 0xB240 + 33, 0xD5, 0x22, 0x18])
def test_what_kubo_refuses(code: int) -> None:
    """BLAKE2 below 160 bits, MD5, murmur3 and SHAKE-128 prove too little, or are no hash functions of IPFS."""
    with pytest.raises(UnsupportedCID, match=r"keccak-256.*blake2b-160 to -512"):
        hash_block(code, HELLO)


@pytest.mark.parametrize(("code", "length"), [(0x11, 21), (0x56, 33), (0x1B, 33), (0x19, 65), (0x1E, 129), (0x1B, 19)])
def test_lengths(code: int, length: int) -> None:
    """A digest has at least 20 bytes and at most as many as its function gives."""
    with pytest.raises(InvalidCID):
        hash_block(code, HELLO, length)
    assert len(hash_block(code, HELLO, 20)) > 20


def test_shortened_digests_are_the_beginning_of_the_whole() -> None:
    """A digest that was cut off is checked as such, in the functions of any length, too."""
    for code in _FUNCTIONS:
        whole = CID(1, RAW, hash_block(code, HELLO))
        short = CID(1, RAW, hash_block(code, HELLO, 20))
        assert whole.digest.startswith(short.digest)
        assert verify_block(short.multihash, HELLO)


def test_the_empty_block_is_known_to_everybody() -> None:
    """Whatever hash function and codec name it, a block of no bytes need not be fetched; it is no identity CID."""
    assert known_block(CID.parse(EMPTY_RAW)) == b""
    assert inline_block(CID.parse(EMPTY_RAW)) is None
    for code in [*_FUNCTIONS, 0]:
        assert names_nothing(hash_block(code, b""))
        assert not names_nothing(hash_block(code, b"\0"))
    assert names_nothing(hash_block(0x12, b"", 20))
    assert known_block(CID.parse(FROM_KUBO["sha1"])) is None
    assert known_block(CID(1, RAW, hash_block(0, b"in the CID"))) == b"in the CID"


@pytest.mark.parametrize("multihash", [b"", b"\x12", b"\x12\x20", b"\xd5\x01\x10" + bytes(16), b"\xff" * 40])
def test_what_is_no_hash_names_nothing_of_the_kind(multihash: bytes) -> None:
    """Bytes that are no multihash, or of a function that is not known, are not the empty block."""
    assert not names_nothing(multihash)
