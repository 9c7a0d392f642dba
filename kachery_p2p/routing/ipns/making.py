"""IPNS records, made and signed (IPNS record specification, "Record Creation"). Pure: keys and times go in.

A record has the signed document of version 2, and for older readers the same fields with the signature of version 1.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

from kachery_p2p.errors import InvalidRecord
from kachery_p2p.peer_keys import ED25519, encode_key
from kachery_p2p.routing.dht import limits as dht_limits
from kachery_p2p.routing.dht.records import SIGNED_PREFIX, IpnsRecord
from kachery_p2p.wire import bytes_field, number_field

_MAX_SEQUENCE = 2**64 - 1
#: The keys of the document in the order of DAG-CBOR: short ones first.
_KEYS = ("TTL", "Value", "Sequence", "Validity", "ValidityType")


class Terms(NamedTuple):
    """What the next record of a name says of itself.

    Attributes:
        sequence: its version.
        valid_until: nanoseconds since the epoch.
    """

    sequence: int
    valid_until: int


def next_terms(value: bytes, newest: IpnsRecord | None, now: int, lifetime: int) -> Terms:
    """What the record that follows the newest one says, so that it counts from now on.

    A new value has the next number. The same value, kept alive, has the same number and is valid for longer.

    Args:
        value: the content path.
        newest: what was published last, by whomever has the key; expired records count, too.
        now: nanoseconds since the epoch.
        lifetime: nanoseconds for which it is to be valid.

    Raises:
        InvalidRecord: there is no greater number.
    """
    valid_until = now + lifetime
    if newest is None:
        return Terms(0, valid_until)
    if newest.value == value and valid_until > newest.valid_until:
        return Terms(newest.sequence, valid_until)
    if newest.sequence >= _MAX_SEQUENCE:
        raise InvalidRecord(
            "The newest record of this name has the greatest sequence number there is, so nothing can follow it. "
            "Publish under another key."
        )
    return Terms(newest.sequence + 1, valid_until)


def make_record(seed: bytes, value: bytes, terms: Terms, ttl: int) -> bytes:
    """A record, signed.

    Args:
        seed: the private Ed25519 key, 32 bytes.
        value: the content path, such as `/ipfs/bafy...`.
        terms: sequence and validity.
        ttl: nanoseconds for which it may be cached.

    Raises:
        InvalidRecord: it is larger than records may be.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    validity = time_text(terms.valid_until)
    document = _document(ttl, value, terms.sequence, validity)
    # Version 1 signs less, with the kind of validity in words.
    old = key.sign(value + validity + b"EOL")
    record = b"".join(
        (
            bytes_field(1, value),
            bytes_field(2, old),
            number_field(3, 0),
            bytes_field(4, validity),
            number_field(5, terms.sequence),
            number_field(6, ttl),
            bytes_field(8, key.sign(SIGNED_PREFIX + document)),
            bytes_field(9, document),
        )
    )
    if len(record) > dht_limits.MAX_RECORD_SIZE:
        raise InvalidRecord(
            f"A record that points to so long a path has {len(record):,} bytes, and {dht_limits.MAX_RECORD_SIZE:,} are "
            "the most there may be. Publish the directory, and let others add the path."
        )
    return record


def public_key(public: bytes) -> bytes:
    """The protobuf of an Ed25519 public key of 32 bytes, of which a name is made."""
    return encode_key(ED25519, public)


def time_text(nanoseconds: int) -> bytes:
    """A time as records write it (RFC 3339, in UTC, with nanoseconds)."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".encode()


def _document(ttl: int, value: bytes, sequence: int, validity: bytes) -> bytes:
    """The signed part, in DAG-CBOR."""
    values = {"TTL": ttl, "Value": value, "Sequence": sequence, "Validity": validity, "ValidityType": 0}
    parts = [_head(5, len(_KEYS))]
    for key in _KEYS:
        each = values[key]
        parts += [_head(3, len(key)), key.encode()]
        parts += [_head(0, each)] if isinstance(each, int) else [_head(2, len(each)), each]
    return b"".join(parts)


def _head(major: int, number: int) -> bytes:
    """How an item of DAG-CBOR begins: its kind and number, in the shortest form."""
    if number < 24:
        return bytes([major << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")
