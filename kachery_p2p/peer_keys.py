"""Public keys of peers, of all four kinds that libp2p knows, and what was signed with them.

On the wire a key is the protobuf `PublicKey{type, data}`; the peer ID is made of it, see `peer_ids`.
(https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.wire import BYTES, VARINT, Schema, WireError, bytes_field, fields, number_field

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

#: The kinds of keys, by their numbers on the wire.
RSA, ED25519, SECP256K1, ECDSA = range(4)
#: libp2p refuses shorter RSA keys; longer ones take too long to check.
_RSA_BITS = range(2048, 8193)
_SCHEMA = Schema({1: VARINT, 2: BYTES})

#: Takes a signature and what was signed; raises an error where the two do not belong together.
_Check = Callable[[bytes, bytes], None]
#: The bytes of a key as all write them, and how its signatures are checked.
_Read = tuple[bytes, _Check]


class UnusableKey(ValueError):
    """A public key that cannot be read. The text is half a sentence: "it is of an unknown kind"."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A peer's public key.

    Attributes:
        encoded: the protobuf in its one proper form, however it came: one key has one peer ID.
    """

    encoded: bytes
    _check: _Check = field(repr=False, compare=False)

    @property
    def peer(self) -> str:
        """The peer ID of whoever has the private key, in base58."""
        return peer_text(peer_id_of_key(self.encoded))

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Whether a signature of some data was made with the private key."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._check(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


def encode_key(kind: int, data: bytes) -> bytes:
    """The protobuf of a public key."""
    return number_field(1, kind) + bytes_field(2, data)


def read_public_key(encoded: bytes) -> PublicKey:
    """A key from its protobuf.

    Raises:
        UnusableKey: it is not a key, or of a kind or length that is not in use.
    """
    kind, data = -1, b""
    try:
        for number, value, part in fields(encoded, _SCHEMA):
            if number == 1:
                kind = value
            else:
                data = part
    except WireError as error:
        raise UnusableKey(str(error)) from error
    reader = _READERS.get(kind)
    if reader is None:
        raise UnusableKey("it is of an unknown kind")
    try:
        proper, check = reader(data)
        return PublicKey(encode_key(kind, proper), check)
    except UnusableKey:
        raise
    except Exception as error:
        # `cryptography` has ValueError, TypeError and several of its own for bytes that are no key.
        raise UnusableKey("its bytes are not a key") from error


# Each kind is imported when a key of it is met. All but the first are rare.


def _ed25519(data: bytes) -> _Read:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return data, Ed25519PublicKey.from_public_bytes(data).verify


def _rsa(data: bytes) -> _Read:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(data)
    if not isinstance(key, RSAPublicKey) or key.key_size not in _RSA_BITS:
        raise UnusableKey("it is an RSA key that is too short or too long, or none")
    return _der(key), lambda signature, signed: key.verify(signature, signed, PKCS1v15(), SHA256())


def _ecdsa(data: bytes) -> _Read:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(data)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, (SECP256R1, SECP384R1, SECP521R1)):
        raise UnusableKey("it is an ECDSA key of an unknown curve, or none")
    return _der(key), _checks_ecdsa(key)


def _secp256k1(data: bytes) -> _Read:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256K1(), data)
        return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint), _checks_ecdsa(key)
    except UnsupportedAlgorithm:
        # Distributions build OpenSSL without this curve. py-libp2p brings a library of its own for it.
        return _secp256k1_by_libp2p(data)


def _checks_ecdsa(key: EllipticCurvePublicKey) -> _Check:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA as Algorithm
    from cryptography.hazmat.primitives.hashes import SHA256

    return lambda signature, signed: key.verify(signature, signed, Algorithm(SHA256()))


def _der(key: RSAPublicKey | EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _secp256k1_by_libp2p(data: bytes) -> _Read:
    """Costs a second and 80 MiB, once."""
    from libp2p.crypto.secp256k1 import Secp256k1PublicKey

    key = Secp256k1PublicKey.from_bytes(data)

    def check(signature: bytes, signed: bytes) -> None:
        if not key.verify(signed, signature):
            raise ValueError("the signature is wrong")

    return key.to_bytes(), check


_READERS: dict[int, Callable[[bytes], _Read]] = {
    RSA: _rsa,
    ED25519: _ed25519,
    SECP256K1: _secp256k1,
    ECDSA: _ecdsa,
}
