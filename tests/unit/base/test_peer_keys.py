"""Public keys of peers: all four kinds, each in its one form, and only what its owner signed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from libp2p.crypto.secp256k1 import create_new_key_pair

from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.peer_keys import UnusableKey, read_public_key
from tests.helpers.dht_ipns import PrivateKey, field, public_key, sign

KEYS: dict[str, PrivateKey] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_signatures(kind: str) -> None:
    """A signature of the key over these bytes, and no other."""
    private = KEYS[kind]
    key = read_public_key(public_key(private))
    signature = sign(private, b"data")
    assert key.peer == peer_text(peer_id_of_key(public_key(private)))
    assert key.has_signed(b"data", signature)
    assert not key.has_signed(b"other data", signature)
    assert not key.has_signed(b"data", b"")
    assert not key.has_signed(b"data", signature[:-1])
    assert not key.has_signed(b"data", bytes([signature[0] ^ 1]) + signature[1:])


def test_one_form() -> None:
    """However the protobuf was written, it is one key and one peer ID."""
    encoded = public_key(KEYS["ed25519"])
    key = read_public_key(encoded)
    for other in (encoded[2:] + encoded[:2], encoded + field(9, b"more"), encoded[:2] + encoded):
        assert read_public_key(other) == key
        assert read_public_key(other).peer == key.peer
    curve = KEYS["secp256k1"]
    assert isinstance(curve, ec.EllipticCurvePrivateKey)
    point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert read_public_key(field(1, 2) + field(2, point)).encoded == public_key(curve)


@pytest.mark.parametrize(
    "encoded",
    [
        *(b"", b"\xff", b"\x08\x01", b"\x12\x01x", b"\x08\x04\x12\x01x", b"\x0a\x00\x12\x00"),
        *(field(1, kind) + field(2, b"nonsense") for kind in range(4)),
        field(1, 0) + field(2, public_key(KEYS["ecdsa"])[4:]),
        field(1, 3) + field(2, public_key(ec.generate_private_key(ec.BrainpoolP256R1()))[4:]),
        public_key(rsa.generate_private_key(65537, 1024)),
    ],
    ids=[
        *("empty", "cut tag", "no key", "no kind", "unknown kind", "empty fields"),
        *(f"nonsense of kind {kind}" for kind in range(4)),
        *("another kind of key", "unknown curve", "short RSA key"),
    ],
)
def test_no_keys(encoded: bytes) -> None:
    """What is no key, or not one that is in use, is `UnusableKey`."""
    with pytest.raises(UnusableKey):
        read_public_key(encoded)


def test_where_the_curve_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this system's OpenSSL lacks secp256k1, py-libp2p's library reads such keys, with the same verdicts."""

    def refuse(*args: object) -> None:
        raise UnsupportedAlgorithm("no such curve")

    pair = create_new_key_pair()
    signature = pair.private_key.sign(b"data")
    assert read_public_key(pair.public_key.serialize()).has_signed(b"data", signature)
    monkeypatch.setattr(ec.EllipticCurvePublicKey, "from_encoded_point", refuse)
    key = read_public_key(pair.public_key.serialize())
    assert key.encoded == pair.public_key.serialize()
    assert key.has_signed(b"data", signature)
    for wrong in (b"", b"x", signature[:-1], pair.private_key.sign(b"other data")):
        assert not key.has_signed(b"data", wrong)
    with pytest.raises(UnusableKey):
        read_public_key(field(1, 2) + field(2, b"nonsense"))


def test_libp2p_is_not_needed_for_the_others() -> None:
    """Keys of all kinds are read without it where OpenSSL has the curve."""
    code = f"""
import sys
from kachery_p2p.peer_keys import read_public_key
for encoded in {[public_key(key) for key in KEYS.values()]}:
    read_public_key(encoded)
print("libp2p" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
