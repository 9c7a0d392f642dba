"""The key space: 256-bit numbers, the SHA-256 of what stands on the wire; the distance of two is their XOR.

A peer's place is `kad_id` of its binary peer ID, a block's that of its multihash (libp2p kad-dht specification).
"""

from __future__ import annotations

import random
from functools import lru_cache
from hashlib import sha256

BITS = 256


@lru_cache(maxsize=16384)
def kad_id(data: bytes) -> int:
    """The place of a binary peer ID or a multihash. Remembered, as the same peers come up all the time."""
    return int.from_bytes(sha256(data).digest(), "big")


def distance(a: int, b: int) -> int:
    """The distance of two places."""
    return a ^ b


def common_prefix(a: int, b: int) -> int:
    """How many leading bits are the same: 256 for equal ones."""
    return BITS - (a ^ b).bit_length()


def key_in(prefix_bits: int, length: int, rng: random.Random) -> bytes:
    """A key in the form of a multihash whose place begins with the given bits, found by trial.

    Only hashes of keys count on the wire, so a place cannot be asked for directly. Takes about 2**length microseconds.

    Raises:
        ValueError: the prefix is longer than the trial may take, or does not fit in `length` bits.
    """
    if not 0 <= length <= 20 or not 0 <= prefix_bits < 1 << length:
        raise ValueError(f"No key can be found by trial for a prefix of {length} bits.")
    shift = 32 - length
    head = b"\x12\x20" + rng.getrandbits(224).to_bytes(28, "big")
    start = rng.getrandbits(32)
    count = 0
    while True:
        key = head + ((start + count) & 0xFFFF_FFFF).to_bytes(4, "big")
        if int.from_bytes(sha256(key).digest()[:4], "big") >> shift == prefix_bits:
            return key
        count += 1
