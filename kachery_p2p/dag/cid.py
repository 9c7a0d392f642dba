"""Content identifiers: version, codec and multihash.

Follows https://github.com/multiformats/cid. The binary form is parsed here, strictly: shortest varints of at most
nine bytes, no trailing bytes, digests of a length that their function has. The text form goes through py-multibase,
which is imported on first need; only base32, the form this node writes everywhere, uses the standard library.

What other packages offer was tried (py-multibase 2.0, py-cid 0.5, multiformats 0.3.1), and is used so far as it serves:

- py-multibase reads every base that Kubo writes, and takes 25 ms to load. It is lax: it takes text that is cut short by
  a character or has one too many, and left-over bits that are not zero. So what it reads is written again and compared.
- py-cid stands on py-multibase: it takes one character too many and left-over bits, too. It also refuses CIDs of
  codecs that are not in its table. With all of that checked again nothing is left for it to do here; the tests hold us
  to it for CIDs that both read.
- multiformats is strict about left-over bits, but takes padding where a base has none, cannot read `base256emoji`,
  which Kubo writes, and takes 150 ms to load. It knows the names of codecs (`codec_name`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from kachery_p2p.dag.hashes import (
    IDENTITY,
    SHA2_256,
    SHA2_256_PREFIX,
    check_digest,
    hash_block,
    names_nothing,
    sha256_multihash,
    split_multihash,
    verify_block,
)
from kachery_p2p.dag.limits import MAX_CID_BASE2, MAX_CID_TEXT
from kachery_p2p.errors import InvalidCID
from kachery_p2p.wire import Buffer, encode_varint, read_varint

__all__ = [
    "CID",
    "DAG_PB",
    "IDENTITY",
    "LIBP2P_KEY",
    "RAW",
    "SHA2_256",
    "codec_name",
    "fast_cid",
    "hash_block",
    "inline_block",
    "known_block",
    "names_nothing",
    "read_cid",
    "sha256_multihash",
    "split_multihash",
    "verify_block",
]

RAW = 0x55
DAG_PB = 0x70
#: Peer IDs and IPNS names are written as CIDs of this codec.
LIBP2P_KEY = 0x72

_PREFIX_RAW = bytes((1, RAW)) + SHA2_256_PREFIX
_PREFIX_DAG_PB = bytes((1, DAG_PB)) + SHA2_256_PREFIX

_set: Callable[[Any, str, Any], None] = object.__setattr__


class _Fields:
    """What a CID is made of. Apart, so that `fast_cid` can fill the fields before the object is frozen."""

    __slots__ = ("codec", "multihash", "version")

    def __init__(self, version: int, codec: int, multihash: bytes) -> None:
        self.version = version
        self.codec = codec
        self.multihash = multihash


class CID(_Fields):
    """A content identifier: `version` (0 or 1), `codec` (multicodec number) and `multihash` (bytes). Immutable.

    Two CIDs are equal when all three are; the version counts, so a CIDv0 differs from its CIDv1 form. The node keys
    blocks by `multihash` alone. `bytes(cid)` is the binary form, `str(cid)` base32 for version 1 and base58btc for
    version 0.
    """

    __slots__ = ()

    def __init__(self, version: int, codec: int, multihash: bytes) -> None:
        if version == 0:
            if codec != DAG_PB or len(multihash) != 34 or multihash[:2] != SHA2_256_PREFIX:
                raise InvalidCID("A CID of version 0 is always dag-pb with a sha2-256 hash of 32 bytes.")
        elif version != 1:
            raise InvalidCID(f"There is no CID version {version}; only 0 and 1 exist.")
        _set(self, "version", version)
        _set(self, "codec", codec)
        _set(self, "multihash", multihash)

    @classmethod
    def parse(cls, text: str) -> CID:
        """Read a CID from text: `Qm...` (version 0), or any multibase that py-multibase knows (version 1).

        Raises:
            InvalidCID: it is not one; says what is wrong.
            UnsupportedCID: it is well-formed, but made with a hash function that this node cannot check.
        """
        if not isinstance(text, str):
            raise InvalidCID(f"A CID is text, not {type(text).__name__}.")
        return _parse(text)

    @classmethod
    def from_bytes(cls, data: Buffer) -> CID:
        """Read a CID from its binary form, all of `data`.

        Raises:
            InvalidCID: it is malformed, cut short, or followed by other bytes.
            UnsupportedCID: its hash function cannot be checked.
        """
        cid, end = read_cid(data, 0)
        if end != len(data):
            raise InvalidCID(f"The CID {cid} is followed by {len(data) - end} bytes that do not belong to it.")
        return cid

    @property
    def hash_code(self) -> int:
        """The multicodec number of the hash function."""
        return split_multihash(self.multihash)[0]

    @property
    def digest(self) -> bytes:
        """The digest, without the hash function's code and length."""
        return split_multihash(self.multihash)[1]

    def to_v1(self) -> CID:
        """The same block as a CID of version 1."""
        return self if self.version == 1 else CID(1, self.codec, self.multihash)

    def __bytes__(self) -> bytes:
        if self.version == 0:
            return self.multihash
        if self.codec < 128:
            return bytes((1, self.codec)) + self.multihash
        return b"\x01" + encode_varint(self.codec) + self.multihash

    def __str__(self) -> str:
        if self.version == 0:
            return _base58(self.multihash)
        return _base32(bytes(self))

    def __repr__(self) -> str:
        return f"CID({self})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CID):
            return NotImplemented
        return self.multihash == other.multihash and self.codec == other.codec and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.multihash)

    def __reduce__(self) -> tuple[Callable[..., CID], tuple[int, int, bytes]]:
        return CID, (self.version, self.codec, self.multihash)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a CID cannot be changed (tried to set {name})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a CID cannot be changed (tried to delete {name})")


def fast_cid(version: int, codec: int, multihash: bytes) -> CID:
    """A CID of parts that are known to be right, at half the cost of `CID(...)`: one is made for each leaf."""
    cid = _Fields(version, codec, multihash)
    cid.__class__ = CID
    return cid  # type: ignore[return-value]


def read_cid(buf: Buffer, pos: int = 0) -> tuple[CID, int]:
    """Read one binary CID at `pos`: (CID, position after it).

    Raises:
        InvalidCID: it is malformed or cut short.
        UnsupportedCID: its hash function cannot be checked.
    """
    prefix = buf[pos : pos + 4]
    if prefix in (_PREFIX_RAW, _PREFIX_DAG_PB):
        end = pos + 36
        if end <= len(buf):
            return fast_cid(1, buf[pos + 1], bytes(buf[pos + 2 : end])), end
    elif prefix[:2] == SHA2_256_PREFIX:
        end = pos + 34
        if end > len(buf):
            raise InvalidCID(f"A CID of version 0 has 34 bytes, but only {len(buf) - pos} are here: it was cut off.")
        return CID(0, DAG_PB, bytes(buf[pos:end])), end
    try:
        version, pos = read_varint(buf, pos)
        if version != 1:
            raise InvalidCID(
                f"This is not a CID: it begins with {version}, which is neither version 1 nor a sha2-256 multihash "
                "(version 0)."
            )
        codec, start = read_varint(buf, pos)
        code, pos = read_varint(buf, start)
        length, pos = read_varint(buf, pos)
    except ValueError as error:
        if isinstance(error, InvalidCID):
            raise
        raise InvalidCID(f"This is not a CID: {error}.") from None
    check_digest(code, length)
    end = pos + length
    if end > len(buf):
        raise InvalidCID(
            f"This CID should have {length} bytes of hash, but only {len(buf) - pos} are here: it was cut off."
        )
    return CID(1, codec, bytes(buf[start:end])), end


def inline_block(cid: CID) -> bytes | None:
    """The block that an identity CID carries in itself, or None for every other CID: it is neither fetched nor sent."""
    if cid.multihash[0] != IDENTITY:
        return None
    code, digest = split_multihash(cid.multihash)
    return digest if code == IDENTITY else None


def known_block(cid: CID) -> bytes | None:
    """The block that everybody has: that of an identity CID, and the empty one. None for every other CID.

    It need not be fetched, nor be on disk. The empty block must not be waited for: Kubo says that it has it, and does
    not send it. It is sent to those who ask for it, as every other block is.
    """
    if names_nothing(cid.multihash):
        return b""
    return inline_block(cid)


def codec_name(codec: int) -> str:
    """What a codec is called ("dag-cbor"), for errors. Loads the table of multicodecs, which takes some 0.15 s."""
    from multiformats import multicodec

    return multicodec.get(code=codec).name if multicodec.exists(code=codec) else f"codec {codec:#x}"


# The same few CIDs are written again and again, and base64 writes base32 in Python, some 15 us each.
@lru_cache(maxsize=4096)
def _base32(cid: bytes) -> str:
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


@lru_cache(maxsize=4096)
def _base58(multihash: bytes) -> str:
    from multibase import encode

    return encode("base58btc", multihash).decode("ascii")[1:]


#: Multibase prefixes of bases in which the case of letters means nothing, with the case their alphabet is written in.
_LOWER_CASE = "fvtbck"
_UPPER_CASE = "FVTBCK"

_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")


@lru_cache(maxsize=4096)
def _parse(text: str) -> CID:
    if not text:
        raise InvalidCID("The CID is empty.")
    shown = text if len(text) <= 80 else text[:77] + "..."
    if len(text) > (MAX_CID_BASE2 if text[0] == "0" else MAX_CID_TEXT):
        raise InvalidCID(f"'{shown}' has {len(text)} characters; no CID is that long.")
    if ("/" in text and text[0] not in "mM") or ":" in text:
        raise InvalidCID(f"'{shown}' is an address or a path, not a CID: a CID is a single word such as bafkrei...")
    if any(c.isspace() for c in text):
        raise InvalidCID(f"'{shown}' has white space in it, so it is not a CID.")
    version0 = text.startswith("Qm")
    if version0 and len(text) != 46:
        raise InvalidCID(
            f"'{shown}' looks like a CID of version 0, but those have 46 characters and this has {len(text)}: "
            "it was cut off or something was added."
        )
    if not version0 and text[0] == "1" and len(text) > 40:
        raise InvalidCID(f"'{shown}' is not a CID; it looks like a peer ID.")
    data = _decode_text("z" + text if version0 else text, shown)
    try:
        cid = CID.from_bytes(data)
    except InvalidCID as error:
        raise InvalidCID(f"'{shown}' is not a valid CID. {error}") from None
    if cid.version == 0 and not version0:
        raise InvalidCID(f"'{shown}' is not a CID: version 0 is written in base58 as Qm..., without a prefix.")
    return cid


def _decode_text(text: str, shown: str) -> bytes:
    """Undo multibase, refusing text that is not what the base would have written (other case aside)."""
    if text[0] in _LOWER_CASE:
        text = text.lower()
    elif text[0] in _UPPER_CASE:
        text = text.upper()
    if text[0] == "b":
        return _decode_base32(text, shown)
    if text[0] == "0":
        return _decode_base2(text[1:], shown)

    from multibase import decode, encode
    from multibase.exceptions import DecodingError, InvalidMultibaseStringError, UnsupportedEncodingError

    try:
        name, data = decode(text, return_encoding=True)
        again = encode(name, data).decode("utf-8")
    except (InvalidMultibaseStringError, UnsupportedEncodingError):
        raise InvalidCID(
            f"'{shown}' is not a CID: its first character names no base. CIDs begin with Qm, b, z, k, f, u, m ..."
        ) from None
    except (DecodingError, ValueError):
        raise InvalidCID(f"'{shown}' is not a CID: it has characters that its base does not use.") from None
    if name == "identity" or again != text or not data:
        raise InvalidCID(f"'{shown}' is not a CID: it is no whole {name} text, so it was cut off or mistyped.")
    return bytes(data)


def _decode_base2(bits: str, shown: str) -> bytes:
    """Eight digits a byte, also for the first, whose leading zeros py-multibase leaves out and others do not."""
    if not bits or len(bits) % 8 or not {"0", "1"}.issuperset(bits):
        raise InvalidCID(f"'{shown}' is not a CID: base2 is written with eight digits, 0 or 1, for each byte.")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _decode_base32(text: str, shown: str) -> bytes:
    if not _BASE32.issuperset(text):
        raise InvalidCID(f"'{shown}' is not a CID: it has characters that base32 does not use (a-z and 2-7).")
    try:
        data = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
    except ValueError:
        data = b""
    # Bits left over at the end must be zero, or two texts would name one CID.
    if not data or _base32(data) != text:
        raise InvalidCID(f"'{shown}' is not a CID: it is no whole base32 text, so it was cut off or mistyped.")
    return data
