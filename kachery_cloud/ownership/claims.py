"""What a client says of its key before its user signs in, and the nonce that commits to it. Pure.

These are the client-instance claims of OpenPubkey (section 3.1 of https://eprint.iacr.org/2023/296): a JSON object with
the public key as JWK, the algorithm, and 256 random bits, so that nobody learns the key from the nonce. The nonce is
the SHA3-256 of its bytes, in base64url. Later the same bytes are the protected header of the client's signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from kachery_p2p.json_reader import InvalidJSON, read_json

#: Bytes of `rz`, the random part.
RANDOM_BYTES = 32
ALGORITHM = "EdDSA"
#: The type of a client's signature in a PK token, and of a message that is signed later.
CIC = "CIC"
OSM = "osm"


class Malformed(ValueError):
    """What was given is not of the form that it must have. The message is half a sentence: "its ... is ..."."""


def client_claims(public: bytes, random: bytes) -> bytes:
    """The claims of a client, as the JSON text that is hashed and signed: sorted keys and no blanks.

    Args:
        public: the Ed25519 key, 32 bytes.
        random: 32 random bytes, for this sign-in alone.
    """
    jwk = {"alg": ALGORITHM, "crv": "Ed25519", "kty": "OKP", "x": to_base64url(public)}
    claims = {"alg": ALGORITHM, "rz": random.hex(), "typ": CIC, "upk": jwk}
    return json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()


def commitment(claims: bytes) -> str:
    """The nonce that commits to claims: 43 characters."""
    return to_base64url(hashlib.sha3_256(claims).digest())


def key_in(claims: bytes) -> bytes:
    """The public key that claims are about, after all that they must have was checked.

    Raises:
        Malformed: they are not the claims of a client with an Ed25519 key.
    """
    found = json_object(claims, "header of the client")
    if found.get("alg") != ALGORITHM or found.get("typ") != CIC:
        raise Malformed(f"its header of the client is not of the algorithm {ALGORITHM} and the type {CIC}")
    if not isinstance(found.get("rz"), str) or not re.fullmatch(r"[0-9a-f]{64}", found["rz"]):
        raise Malformed("its header of the client has no 256 random bits")
    jwk = found.get("upk")
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise Malformed("its header of the client has no Ed25519 key")
    public = from_base64url(jwk.get("x"), "key of the client")
    if len(public) != 32 or "d" in jwk:
        raise Malformed("its key of the client is not an Ed25519 public key")
    return public


# --- what all of these texts are made of -----------------------------------------------------------------------------


def to_base64url(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: Any, what: str) -> bytes:
    """The bytes that `to_base64url` made a text of; no other text of the same bytes is taken.

    Raises:
        Malformed: it is none; names `what`.
    """
    if isinstance(text, str) and text.isascii():
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            data = None
        if data is not None and to_base64url(data) == text:
            return data
    raise Malformed(f"its {what} is not base64url")


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """The object that a JSON text is.

    Raises:
        Malformed: it is none; names `what`.
    """
    try:
        found = read_json(data)
    except InvalidJSON as error:
        raise Malformed(f"its {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Malformed(f"its {what} is not a JSON object")
    return found
