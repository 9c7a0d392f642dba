"""Keys and IPNS records made the long way, for the tests of value records."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from kachery_p2p.peer_ids import peer_id_of_key
from kachery_p2p.wire import encode_varint

PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field."""
    if isinstance(value, int):
        return encode_varint(number << 3) + encode_varint(value)
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def public_key(key: PrivateKey) -> bytes:
    """The protobuf of its public key (libp2p peer-ids)."""
    public = key.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return field(1, 1) + field(2, public.public_bytes_raw())
    if isinstance(public, rsa.RSAPublicKey) or public.curve.name != "secp256k1":
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return field(1, 0 if isinstance(public, rsa.RSAPublicKey) else 3) + field(2, der)
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return field(1, 2) + field(2, point)


def sign(key: PrivateKey, data: bytes) -> bytes:
    """A signature as libp2p makes it with that kind of key."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def cbor(value: Any) -> bytes:
    """DAG-CBOR of numbers, bytes, texts, lists and maps."""

    def head(major: int, number: int) -> bytes:
        if number < 24:
            return bytes([major << 5 | number])
        size = next(n for n in (1, 2, 4, 8) if number < 1 << 8 * n)
        return bytes([major << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")

    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    items = sorted(value.items(), key=lambda item: (len(item[0]), item[0]))
    return head(5, len(items)) + b"".join(cbor(key) + cbor(each) for key, each in items)


def document(**changes: Any) -> dict[str, Any]:
    """The signed fields of a record that is valid to the end of 2099; None removes one."""
    fields = {
        "Value": b"/ipfs/bafkqaddwgevxmmraojswg33smq",
        "Validity": b"2099-12-31T23:59:59.123456789Z",
        "ValidityType": 0,
        "Sequence": 7,
        "TTL": 300_000_000_000,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def ipns(key: PrivateKey, *, legacy: dict[int, bytes | int] | None = None, **changes: Any) -> bytes:
    """A record of version 2; with `legacy`, the fields of version 1 as well, some of them changed."""
    fields = document(**changes)
    data = cbor(fields)
    entry = b""
    if legacy is not None:
        old = {
            1: fields["Value"],
            2: b"an old signature, not looked at",
            3: fields["ValidityType"],
            4: fields["Validity"],
            5: fields["Sequence"],
            6: fields["TTL"],
            **legacy,
        }
        entry = b"".join(field(number, value) for number, value in old.items())
    encoded = public_key(key)
    if len(encoded) > 42:
        entry += field(7, encoded)
    return entry + field(8, sign(key, b"ipns-signature:" + data)) + field(9, data)


def name_of(key: PrivateKey) -> bytes:
    """The record's key in the DHT."""
    return b"/ipns/" + peer_id_of_key(public_key(key))
