"""The IDs of groups, and what is derived from secrets: commitments, names on the wire, keys for other parts.

Each derivation has its own domain, so that what is made for one purpose tells nothing about another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from kachery_p2p.access.audience import GROUP_ID

_ID_DOMAIN = b"kachery group id 1\0"
_SECRET_DOMAIN = b"kachery group secret 1\0"
_TAG_DOMAIN = b"kachery group tag 1\0"

#: Bytes of a group's ID, of a seed and a secret, of a hash, and of a name on the wire.
ID_BYTES = 16
SECRET_BYTES = 32
HASH_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 16


def group_id(founder_key: bytes, seed: bytes) -> str:
    """The ID of a group: 26 letters of base32, lower case, of a SHA-256.

    Args:
        founder_key: the founder's public key, encoded as the protobuf `PublicKey`.
        seed: 32 random bytes.
    """
    digest = hashlib.sha256(_ID_DOMAIN + len(founder_key).to_bytes(2, "big") + founder_key + seed).digest()
    return id_text(digest[:ID_BYTES])


def id_text(raw: bytes) -> str:
    """The text of a binary ID."""
    return base64.b32encode(raw).decode().rstrip("=").lower()


def id_bytes(group: str) -> bytes:
    """The 16 bytes of an ID."""
    return base64.b32decode(group.upper() + "======")


def is_group_id(text: str) -> bool:
    """Whether a text can be the ID of a group."""
    return GROUP_ID.fullmatch(text) is not None and id_text(id_bytes(text)) == text


def commitment(group: str, number: int, secret: bytes) -> bytes:
    """By what a list names the secret of an epoch without telling it."""
    return hashlib.sha256(_SECRET_DOMAIN + id_bytes(group) + number.to_bytes(8, "big") + secret).digest()


def wire_tag(seed: bytes, group: str, nonce: bytes, sender: str, receiver: str) -> bytes:
    """How two members name a group to each other.

    The key is the seed of the group, which only members were ever given. The peers and a nonce are in it, so a name
    that was seen is of no use to anybody else, nor a second time.

    Args:
        seed: of the group.
        group: its ID.
        nonce: of this exchange.
        sender: peer ID of who says it.
        receiver: peer ID of who hears it.
    """
    message = b"\0".join((_TAG_DOMAIN, nonce, sender.encode(), receiver.encode(), id_bytes(group)))
    return hmac.digest(seed, message, "sha256")[:TAG_BYTES]


def derived_key(secret: bytes, purpose: bytes, context: bytes = b"", length: int = 32) -> bytes:
    """A key for one purpose from a group's secret: HKDF with SHA-256 (RFC 5869).

    Args:
        secret: 32 bytes, see `GroupSecrets.secrets_of`.
        purpose: what it is for, such as b"kachery provider key 1".
        context: whatever else it depends on.
        length: bytes of the key.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = len(purpose).to_bytes(2, "big") + purpose + context
    return HKDF(algorithm=SHA256(), length=length, salt=b"kachery group key 1", info=info).derive(secret)
