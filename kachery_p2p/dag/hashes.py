"""The hash functions a block can be checked with, keyed by their multicodec numbers: those that Kubo takes.

A multihash is `varint(code) varint(length) digest`. A digest may be truncated, down to 20 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

from kachery_p2p.dag.limits import MAX_DIGEST_SIZE, MIN_DIGEST_SIZE
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.wire import Buffer, encode_varint, read_varint

IDENTITY = 0x00
SHA1 = 0x11
SHA2_256 = 0x12
SHA2_512 = 0x13
SHA3_512 = 0x14
SHA3_384 = 0x15
SHA3_256 = 0x16
SHA3_224 = 0x17
SHAKE_256 = 0x19
KECCAK_224 = 0x1A
KECCAK_256 = 0x1B
KECCAK_384 = 0x1C
KECCAK_512 = 0x1D
BLAKE3 = 0x1E
DBL_SHA2_256 = 0x56
#: BLAKE2 has a code for each length of its digest, and gives another digest for each: these plus the bytes.
_BLAKE2B = 0xB200
_BLAKE2S = 0xB240

#: How a multihash of sha2-256 with all its 32 bytes begins.
SHA2_256_PREFIX = bytes((SHA2_256, 32))

_sha256 = hashlib.sha256


def _blake3(data: Buffer, length: int) -> bytes:
    try:
        from blake3 import blake3
    except ImportError:
        raise UnsupportedCID(
            "A block is named by a BLAKE3 hash, and the package 'blake3' that checks it is not installed. "
            "Install it with: pip install blake3"
        ) from None
    return blake3(data).digest(length=length)


def _keccak(bits: int) -> Callable[[Buffer, int], bytes]:
    """The function as it was before it became SHA-3, which pads in another way."""

    def digest(data: Buffer, _length: int) -> bytes:
        # Rare, and it costs some milliseconds to load.
        from Crypto.Hash import keccak

        return keccak.new(digest_bits=bits, data=data).digest()

    return digest


def _blake2b(size: int) -> Callable[[Buffer, int], bytes]:
    return lambda data, _n: hashlib.blake2b(data, digest_size=size).digest()


def _blake2s(size: int) -> Callable[[Buffer, int], bytes]:
    return lambda data, _n: hashlib.blake2s(data, digest_size=size).digest()


#: code -> (name, longest digest in bytes, function(data, wanted length) -> at least that many bytes)
_FUNCTIONS: dict[int, tuple[str, int, Callable[[Buffer, int], bytes]]] = {
    SHA2_256: ("sha2-256", 32, lambda data, _n: _sha256(data).digest()),
    SHA2_512: ("sha2-512", 64, lambda data, _n: hashlib.sha512(data).digest()),
    # Bitcoin's way to use it.
    DBL_SHA2_256: ("dbl-sha2-256", 32, lambda data, _n: _sha256(_sha256(data).digest()).digest()),
    SHA3_512: ("sha3-512", 64, lambda data, _n: hashlib.sha3_512(data).digest()),
    SHA3_384: ("sha3-384", 48, lambda data, _n: hashlib.sha3_384(data).digest()),
    SHA3_256: ("sha3-256", 32, lambda data, _n: hashlib.sha3_256(data).digest()),
    SHA3_224: ("sha3-224", 28, lambda data, _n: hashlib.sha3_224(data).digest()),
    SHAKE_256: ("shake-256", 64, lambda data, _n: hashlib.shake_256(data).digest(64)),
    KECCAK_224: ("keccak-224", 28, _keccak(224)),
    KECCAK_256: ("keccak-256", 32, _keccak(256)),
    KECCAK_384: ("keccak-384", 48, _keccak(384)),
    KECCAK_512: ("keccak-512", 64, _keccak(512)),
    BLAKE3: ("blake3", MAX_DIGEST_SIZE, _blake3),
    # Two blocks with one hash can be made, with effort; Git's objects are named by it all the same.
    SHA1: ("sha1", 20, lambda data, _n: hashlib.sha1(data, usedforsecurity=False).digest()),
    **{_BLAKE2B + n: (f"blake2b-{8 * n}", n, _blake2b(n)) for n in range(MIN_DIGEST_SIZE, 65)},
    **{_BLAKE2S + n: (f"blake2s-{8 * n}", n, _blake2s(n)) for n in range(MIN_DIGEST_SIZE, 33)},
}
#: As they are told to the user: the many lengths of BLAKE2 in two words.
_NAMES = [
    *(name for name, _, _ in _FUNCTIONS.values() if not name.startswith("blake2")),
    f"blake2b-{8 * MIN_DIGEST_SIZE} to -512",
    f"blake2s-{8 * MIN_DIGEST_SIZE} to -256",
]

#: The multihash of no bytes at all, in the hash function that nearly everybody uses.
_EMPTY_SHA2_256 = SHA2_256_PREFIX + _sha256(b"").digest()


def names_nothing(multihash: bytes) -> bool:
    """Whether this is the hash of a block without bytes, in any hash function: everybody knows that block."""
    if multihash[:2] == SHA2_256_PREFIX and len(multihash) == 34:
        return multihash == _EMPTY_SHA2_256
    try:
        code, digest = split_multihash(multihash)
        return multihash == _hash_of_nothing(code, len(digest))
    except (InvalidCID, UnsupportedCID):
        return False


@lru_cache(maxsize=256)
def _hash_of_nothing(code: int, length: int) -> bytes:
    return hash_block(code, b"", length)


def sha256_multihash(data: Buffer) -> bytes:
    """The sha2-256 multihash (34 bytes) of some bytes."""
    return SHA2_256_PREFIX + _sha256(data).digest()


def check_digest(code: int, length: int) -> None:
    """Refuse a hash function that cannot be checked here, and a digest of an unsafe length.

    Raises:
        UnsupportedCID: the hash function is not known here.
        InvalidCID: the digest is too short or too long.
    """
    if code == SHA2_256 and length == 32:
        return
    if code == IDENTITY:
        if length > MAX_DIGEST_SIZE:
            raise InvalidCID(f"This CID carries {length} bytes inline; more than {MAX_DIGEST_SIZE} are not accepted.")
        return
    known = _FUNCTIONS.get(code)
    if known is None:
        raise UnsupportedCID(
            f"This CID uses the hash function with the code 0x{code:x}, which this node cannot check. It knows "
            f"{', '.join(_NAMES)} and identity."
        )
    name, longest, _ = known
    if length < MIN_DIGEST_SIZE:
        raise InvalidCID(
            f"This CID has only {length} bytes of a {name} hash; fewer than {MIN_DIGEST_SIZE} prove nothing. "
            "It was probably cut off."
        )
    if length > longest:
        raise InvalidCID(f"This CID claims {length} bytes of a {name} hash, which has at most {longest}.")


def hash_block(code: int, data: Buffer, length: int | None = None) -> bytes:
    """The multihash of a block.

    Args:
        code: the multicodec number of the hash function.
        data: the block.
        length: the number of digest bytes to keep; None for the whole digest (32 bytes for BLAKE3).

    Raises:
        UnsupportedCID: the function is unknown.
        InvalidCID: it has no digest of that length.
    """
    if code == SHA2_256 and (length is None or length == 32):
        return SHA2_256_PREFIX + _sha256(data).digest()
    if code == IDENTITY:
        digest = bytes(data)
        if length is not None and length != len(digest):
            raise InvalidCID(f"Identity needs all {len(digest)} bytes of the block, not {length}.")
        check_digest(code, len(digest))
    else:
        if length is None:
            length = 32 if code == BLAKE3 else _FUNCTIONS[code][1] if code in _FUNCTIONS else 32
        check_digest(code, length)
        digest = _FUNCTIONS[code][2](data, length)[:length]
    return encode_varint(code) + encode_varint(len(digest)) + digest


def split_multihash(multihash: bytes) -> tuple[int, bytes]:
    """(hash code, digest) of a whole multihash. Any hash code is accepted.

    Raises:
        InvalidCID: it is not a multihash.
    """
    if multihash[:2] == SHA2_256_PREFIX and len(multihash) == 34:
        return SHA2_256, multihash[2:]
    try:
        code, pos = read_varint(multihash, 0)
        length, pos = read_varint(multihash, pos)
    except ValueError as error:
        raise InvalidCID(f"A multihash is malformed: {error}.") from None
    if len(multihash) - pos != length:
        raise InvalidCID(f"A multihash says that its digest has {length} bytes, but {len(multihash) - pos} follow.")
    return code, bytes(multihash[pos:])


def verify_block(multihash: bytes, data: Buffer) -> bool:
    """True when `data` has this multihash.

    Raises:
        UnsupportedCID, InvalidCID: it cannot be told.
    """
    if multihash[:2] == SHA2_256_PREFIX and len(multihash) == 34:
        return _sha256(data).digest() == multihash[2:]
    code, digest = split_multihash(multihash)
    check_digest(code, len(digest))
    if code == IDENTITY:
        return bytes(data) == digest
    return _FUNCTIONS[code][2](data, len(digest))[: len(digest)] == digest
