"""Peer IDs: the hash of a node's public key, or a small key itself.

Everywhere in this node a peer ID is base58 text (`12D3KooW...`, `Qm...`); on the wire it is a multihash in binary.
Others also write it as a CIDv1 of codec libp2p-key, in any multibase.
(https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md)
"""

from __future__ import annotations

import base64
from functools import lru_cache
from hashlib import sha256

import base58

from kachery_p2p.errors import InvalidAddress

#: How a CIDv1 of codec libp2p-key begins.
_LIBP2P_KEY = b"\x01\x72"
#: An encoded key up to this size is its own ID, by the specification.
_MAX_INLINED = 42
#: An inlined key behind the code and the length of its multihash.
_MAX_BYTES = 2 + _MAX_INLINED
#: The longest ID as a CID has 46 bytes: 93 characters in base 16. Only base 2 and base 8 take more.
_MAX_TEXT = 128
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def is_peer_id(raw: bytes) -> bool:
    """Whether bytes are a binary peer ID: the SHA-256 of a key, or a small key inlined."""
    if len(raw) == 34:
        return raw[:2] in (b"\x12\x20", b"\x00\x20")
    return 3 <= len(raw) <= _MAX_BYTES and raw[0] == 0 and raw[1] == len(raw) - 2


def peer_id_of_key(encoded: bytes) -> bytes:
    """The binary peer ID of a public key, encoded as the protobuf `PublicKey`."""
    if len(encoded) <= _MAX_INLINED:
        return b"\x00" + bytes([len(encoded)]) + encoded
    return b"\x12\x20" + sha256(encoded).digest()


@lru_cache(maxsize=16384)
def peer_text(raw: bytes) -> str:
    """The base58 text of a binary peer ID."""
    return base58.b58encode(raw).decode()


@lru_cache(maxsize=16384)
def peer_bytes(peer: str) -> bytes:
    """The binary form of a peer ID in base58.

    Raises:
        InvalidAddress: it is not one.
    """
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        raw = b""
    if not is_peer_id(raw):
        raise InvalidAddress(f"{peer[:100]!r} is not a peer ID.")
    return raw


def peer_cid(peer: str) -> str:
    """A peer ID in base58 as CIDv1 of codec libp2p-key, base32: the form that HTTP routers are asked with."""
    return "b" + base64.b32encode(_LIBP2P_KEY + base58.b58decode(peer)).decode().rstrip("=").lower()


def base36(raw: bytes) -> str:
    """A binary peer ID as CIDv1 of codec libp2p-key, base36: the form in which names of IPNS are written."""
    number = int.from_bytes(_LIBP2P_KEY + raw, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_BASE36[digit])
    return "k" + "".join(reversed(digits))


def parse_peer_id(text: str) -> str:
    """Any written form of a peer ID as base58.

    Raises:
        InvalidAddress: it is not a peer ID.
    """
    peer = any_peer_id(text)
    if peer is None:
        raise InvalidAddress(f"{text[:100]!r} is not a peer ID.")
    return peer


def any_peer_id(text: str) -> str | None:
    """Any written form of a peer ID as base58; None for every other text."""
    return _any_peer_id(text) if 8 <= len(text) <= _MAX_TEXT else None


@lru_cache(maxsize=4096)
def _any_peer_id(text: str) -> str | None:
    try:
        raw = _decode(text)
    except ValueError:
        return None
    return peer_text(raw) if is_peer_id(raw) else None


def _decode(text: str) -> bytes:
    if text[0] in "1Q":
        return base58.b58decode(text)
    # The forms that HTTP routers and Kubo write, of which answers are full, and rare ones by the library.
    if text[0] == "b":
        cid = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
    elif text[0] == "k":
        cid = _base36(text[1:])
    elif text[0] == "z":
        cid = base58.b58decode(text[1:])
    else:
        import multibase

        cid = bytes(multibase.decode(text))
    return cid[2:] if cid[:2] == _LIBP2P_KEY else b""


def _base36(text: str) -> bytes:
    number = 0
    for letter in text:
        number = number * 36 + _BASE36.index(letter)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
