"""The hash functions a block can be checked with, keyed by their multicodec numbers.

A multihash is `varint(code) varint(length) digest`. A digest may be truncated, down to 20 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ..errors import InvalidCID, UnsupportedCID
from .limits import MAX_DIGEST_SIZE, MIN_DIGEST_SIZE
from .varint import Buffer, encode_varint, read_varint

IDENTITY = 0x00
SHA2_256 = 0x12
SHA2_512 = 0x13
SHA3_512 = 0x14
SHA3_384 = 0x15
SHA3_256 = 0x16
SHA3_224 = 0x17
BLAKE3 = 0x1E
BLAKE2B_256 = 0xB220
BLAKE2S_256 = 0xB260

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


# code -> (name, longest digest in bytes, function(data, wanted length) -> at least that many bytes)
_FUNCTIONS: dict[int, tuple[str, int, Callable[[Buffer, int], bytes]]] = {
    SHA2_256: ("sha2-256", 32, lambda data, _n: _sha256(data).digest()),
    SHA2_512: ("sha2-512", 64, lambda data, _n: hashlib.sha512(data).digest()),
    SHA3_512: ("sha3-512", 64, lambda data, _n: hashlib.sha3_512(data).digest()),
    SHA3_384: ("sha3-384", 48, lambda data, _n: hashlib.sha3_384(data).digest()),
    SHA3_256: ("sha3-256", 32, lambda data, _n: hashlib.sha3_256(data).digest()),
    SHA3_224: ("sha3-224", 28, lambda data, _n: hashlib.sha3_224(data).digest()),
    BLAKE3: ("blake3", MAX_DIGEST_SIZE, _blake3),
    BLAKE2B_256: ("blake2b-256", 32, lambda data, _n: hashlib.blake2b(data, digest_size=32).digest()),
    BLAKE2S_256: ("blake2s-256", 32, lambda data, _n: hashlib.blake2s(data, digest_size=32).digest()),
}


def sha256_multihash(data: Buffer) -> bytes:
    """The sha2-256 multihash (34 bytes) of some bytes."""
    return b"\x12\x20" + _sha256(data).digest()


def check_digest(code: int, length: int) -> None:
    """Raise UnsupportedCID for a hash function nobody here can check, InvalidCID for a digest of an unsafe length."""
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
            f"{', '.join(name for name, _, _ in _FUNCTIONS.values())} and identity."
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

    `code` is the multicodec number of the hash function, `length` the number of digest bytes to keep (the whole
    digest, 32 bytes for BLAKE3, when not given). Raises UnsupportedCID for an unknown function and InvalidCID for a
    length that it does not have.
    """
    if code == SHA2_256 and (length is None or length == 32):
        return b"\x12\x20" + _sha256(data).digest()
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
    """(hash code, digest) of a whole multihash. Raises InvalidCID when it is not one; any hash code is accepted."""
    if multihash[:2] == b"\x12\x20" and len(multihash) == 34:
        return SHA2_256, multihash[2:]
    try:
        code, pos = read_varint(multihash, 0)
        length, pos = read_varint(multihash, pos)
    except ValueError as why:
        raise InvalidCID(f"A multihash is malformed: {why}.") from None
    if len(multihash) - pos != length:
        raise InvalidCID(f"A multihash says that its digest has {length} bytes, but {len(multihash) - pos} follow.")
    return code, bytes(multihash[pos:])


def verify_block(multihash: bytes, data: Buffer) -> bool:
    """True when `data` has this multihash. Raises UnsupportedCID or InvalidCID when that cannot be told."""
    if multihash[:2] == b"\x12\x20" and len(multihash) == 34:
        return _sha256(data).digest() == multihash[2:]
    code, digest = split_multihash(multihash)
    check_digest(code, len(digest))
    if code == IDENTITY:
        return bytes(data) == digest
    return _FUNCTIONS[code][2](data, len(digest))[: len(digest)] == digest
