"""Certificates of libp2p's TLS: which are good, whose they are, and every way in which one is not."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.transport import compat, limits
from kachery_p2p.transport.tls_certificate import BadCertificate, make_certificate, peer_of
from kachery_p2p.wire import bytes_field, number_field
from tests.helpers.tls_helpers import (
    DAY,
    NOW,
    Identity,
    der,
    ecdsa_identity,
    ed25519_identity,
    encoded,
    forge,
    rsa_identity,
    secp256k1_identity,
)

#: The certificates that the specification and go-libp2p give as tests, with the peer ID of each, or none for a bad one.
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "libp2p_tls.json").read_text(encoding="utf-8")
)
#: A key that may not stand there, in the form of one that may.
OTHER_TYPE = der(ed25519.Ed25519PrivateKey.generate().public_key())
OTHER = x509.ObjectIdentifier("1.2.3.4.5")


@pytest.mark.parametrize("vector", VECTORS, ids=[each["name"] for each in VECTORS])
def test_published_certificates(vector: dict[str, Any]) -> None:
    """Those of every key type are read as others read them, and the one with a wrong signature is refused."""
    certificate = bytes.fromhex(vector["certificate"])
    if vector["peer"] is None:
        with pytest.raises(BadCertificate, match="wrong signature"):
            peer_of(certificate)
    else:
        assert peer_of(certificate) == vector["peer"]


def test_our_own_certificate() -> None:
    """It is a good one, of our peer ID, at any time, and names neither a person nor a moment."""
    keys = compat.Keys.from_seed(os.urandom(32))
    key, certificate = make_certificate(keys.public_key, keys.sign)
    for now in (datetime(1990, 1, 1, tzinfo=timezone.utc), None, datetime(2200, 1, 1, tzinfo=timezone.utc)):
        assert peer_of(certificate.public_bytes(Encoding.DER), now) == peer_text(peer_id_of_key(keys.public_key))
    assert certificate.public_key() == key.public_key()
    assert certificate.subject == x509.Name([])
    (extension,) = certificate.extensions
    assert extension.critical


@pytest.mark.parametrize("make", [ed25519_identity, rsa_identity, secp256k1_identity, ecdsa_identity])
def test_every_type_of_identity(make: Any) -> None:
    """Whatever key a peer has, its certificate says who it is."""
    identity: Identity = make()
    assert peer_of(forge(identity).der) == identity.peer


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves(curve: ec.EllipticCurve) -> None:
    """ECDSA keys are not P-256 alone."""
    identity = ecdsa_identity(curve)
    assert peer_of(forge(identity).der) == identity.peer


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (ed25519.Ed25519PrivateKey.generate(), None),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    ],
    ids=["Ed25519", "RSA", "P-384"],
)
def test_every_type_of_certificate_key(key: Any, digest: Any) -> None:
    """The key of the certificate may be of another type than that of the peer."""
    identity = ed25519_identity()
    assert peer_of(forge(identity, key=key, digest=digest).der) == identity.peer


def test_one_key_has_one_id() -> None:
    """However a peer writes its key, the ID is that of the usual form."""
    identity = secp256k1_identity()
    raw = identity.public_key[4:]
    odd = bytes_field(2, raw) + number_field(1, 2) + number_field(7, 7)
    assert peer_of(forge(identity, public_key=odd).der) == identity.peer


def test_other_extensions_are_ignored() -> None:
    """Those that are not critical may say what they like."""
    identity = ed25519_identity()
    more = ((x509.UnrecognizedExtension(OTHER, b"x"), False), (x509.BasicConstraints(True, None), False))
    assert peer_of(forge(identity, more=more).der) == identity.peer


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "not yet valid": ({"since": NOW + DAY, "until": NOW + 2 * DAY}, "valid from .* Is the clock right"),
    "expired": ({"since": NOW - 2 * DAY, "until": NOW - timedelta(minutes=1)}, "valid from .* Is the clock right"),
    "no extension": ({"extension": False}, "does not say which peer"),
    "another extension": (
        {"extension": False, "more": ((x509.UnrecognizedExtension(OTHER, b"x"), False),)},
        "does not say which peer",
    ),
    "unknown critical extension": (
        {"more": ((x509.UnrecognizedExtension(OTHER, b"x"), True),)},
        "critical extension 1.2.3.4.5",
    ),
    "known critical extension": ({"more": ((x509.BasicConstraints(True, None), True),)}, "critical extension"),
    "signature of nothing": ({"signature": bytes(64)}, "wrong signature"),
    "signature cut short": ({"signature": bytes(10)}, "wrong signature|malformed"),
    "signature of another key": ({"public_key": ed25519_identity().public_key}, "wrong signature"),
    "signature of something else": ({"signed": b"something else"}, "wrong signature"),
    "signature without the prefix": ({"signed": b"libp2p-tls-handshake"}, "wrong signature"),
    "not by itself": ({"issuer": "somebody"}, "not signed by itself"),
    "signed with another key": ({"signer": ec.generate_private_key(ec.SECP256R1())}, "wrong signature"),
    "small key": ({"key": rsa.generate_private_key(65537, 1024)}, "RSA key of 1024 bits"),
    "small identity": ({"identity": rsa_identity(1024)}, "RSA key that is too short"),
    "weak curve": ({"identity": ecdsa_identity(ec.SECP224R1())}, "unknown curve, or none"),
    "another type": (
        {"public_key": encoded(3, der(ed25519.Ed25519PrivateKey.generate().public_key()))},
        "unknown curve, or none",
    ),
    "unknown type": ({"public_key": encoded(4, bytes(32))}, "unknown kind"),
    "no type": ({"public_key": bytes_field(2, bytes(32))}, "unknown kind"),
    "no key": ({"public_key": number_field(1, 1)}, "cannot be used"),
    "key cut short": ({"public_key": encoded(1, bytes(31))}, "cannot be used"),
    "not protobuf": ({"public_key": b"\xff" * 20}, "cannot be used"),
    "a type that is text": ({"public_key": bytes_field(1, b"1")}, "cannot be used"),
    "point that is none": ({"public_key": encoded(2, b"\x02" + b"\xff" * 32)}, "cannot be used"),
    "RSA of garbage": ({"public_key": encoded(0, b"\x30\x82\xff\xff")}, "cannot be used"),
    "empty": ({"value": b""}, "no key where"),
    "not a sequence": ({"value": b"\x04\x02ab"}, "no key where"),
    "sequence of one": ({"value": b"\x30\x04\x04\x02ab"}, "no key where"),
    "longer than it is": ({"value": b"\x30\x84\xff\xff\xff\xff"}, "cut short"),
    "endless length": ({"value": b"\x30\xff" + b"\xff" * 127}, "cut short"),
    "length not shortest": ({"value": b"\x30\x81\x04\x04\x00\x04\x00"}, "not written as it must"),
    "something behind": ({"value": b"\x30\x04\x04\x00\x04\x00x"}, "something behind"),
    "something within": ({"value": b"\x30\x06\x04\x00\x04\x00\x04\x00"}, "something behind"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_bad_certificates(options: dict[str, Any], words: str) -> None:
    """Each is refused in words that say what is wrong."""
    with pytest.raises(BadCertificate, match=words):
        peer_of(forge(**options).der)


def test_huge_rsa_keys_are_not_even_tried() -> None:
    """A key of 64 000 bits costs a look at its size, wherever it stands."""
    huge = rsa.RSAPublicNumbers(65537, (1 << 64_000) - 1).public_key()
    signer = rsa.generate_private_key(65537, 2048)
    with pytest.raises(BadCertificate, match="too short or too long"):
        peer_of(forge(public_key=encoded(0, der(huge))).der)
    with pytest.raises(BadCertificate, match="RSA key of 64000 bits"):
        peer_of(forge(key=signer, shown_key=huge).der)
    assert limits.MAX_RSA_BITS < 64_000


@settings(max_examples=200)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_bit_turned(where: int, bit: int) -> None:
    """A damaged certificate is never another peer's, and never an error of any other kind."""
    identity = ed25519_identity()
    data = bytearray(forge(identity).der)
    data[where % len(data)] ^= 1 << bit
    try:
        assert peer_of(bytes(data)) == identity.peer
    except BadCertificate:
        return


def test_extension_twice() -> None:
    """Two answers to whose it is are none."""
    beside = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2")
    data = forge(more=((x509.UnrecognizedExtension(beside, b"x"), False),)).der
    # The library makes no such certificate, so the second one is renamed afterwards.
    number = bytes.fromhex("2b0601040183a25a01")
    assert data.count(number + b"\x02") == 1
    with pytest.raises(BadCertificate, match=r"malformed: Duplicate"):
        peer_of(data.replace(number + b"\x02", number + b"\x01"))


@pytest.mark.parametrize("data", [b"", b"certificate", b"\x30\x82\xff\xff", bytes(1000)])
def test_no_certificate_at_all(data: bytes) -> None:
    """Bytes that are none are refused like a bad one."""
    with pytest.raises(BadCertificate, match="malformed"):
        peer_of(data)
