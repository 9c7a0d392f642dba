"""Proofs of ownership that tests make themselves: an issuer that signs whatever it is told to."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kachery_cloud.ownership.claims import to_base64url
from kachery_cloud.ownership.proofs import Proof, make_proof, new_nonce
from kachery_cloud.ownership.verifying import Issuer
from kachery_p2p.repo.keys import NodeKey, new_identity

ISSUER = "https://id.example.org"
CLIENT = "lab-client"
#: When the user of the tests signs in, and when the client has the token: seconds since the epoch.
SIGNED_IN = 1_767_225_600
GOT = SIGNED_IN + 5

RSA = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
STRANGER = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "e1"})
ME = new_identity()
OTHER = new_identity()

CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "sub": "1234",
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "email_verified": True,
    "iat": SIGNED_IN,
    "exp": SIGNED_IN + 3600,
}


def issuers(*keys: Any, audiences: tuple[str, ...] = (CLIENT,)) -> dict[str, Issuer]:
    """What a verifier knows: by default the issuer's right keys."""
    return {ISSUER: Issuer(tuple(key.as_dict(private=False) for key in keys or (RSA, EC)), frozenset(audiences))}


def id_token(claims: Mapping[str, Any], key: Any = RSA, header: Mapping[str, Any] | None = None) -> str:
    """An ID token that says just that, signed by a key. Algorithms that nobody should take can be asked for, too."""
    whole = {"alg": "ES256" if key is EC else "RS256", "kid": key.kid, **(header or {})}
    whole = {name: value for name, value in whole.items() if value is not None}
    text = ".".join(to_base64url(json.dumps(part).encode()) for part in (whole, dict(claims)))
    if whole["alg"] == "none":
        return f"{text}."
    if whole["alg"] == "HS256":  # with the public key as a secret that everybody knows; the library refuses to
        secret = RSA.as_pem(private=False)
        return f"{text}.{to_base64url(hmac.digest(secret, text.encode(), 'sha256'))}"
    registry = jws.JWSRegistry(algorithms=["RS256", "RS384", "ES256"], strict_check_header=False)
    return jws.serialize_compact(whole, json.dumps(dict(claims)), key, registry=registry)


def proof(
    *,
    identity: NodeKey = ME,
    nonce_of: NodeKey | None = None,
    key: Any = RSA,
    header: Mapping[str, Any] | None = None,
    now: float = GOT,
    **changes: Any,
) -> Proof:
    """A proof, good but for what is changed of its claims; None takes one away."""
    claims, nonce = new_nonce(identity, bytes(range(32)))
    if nonce_of is not None:
        nonce = new_nonce(nonce_of, bytes(range(32)))[1]
    said = {**CLAIMS, "nonce": nonce, **changes}
    token = id_token({name: value for name, value in said.items() if value is not None}, key, header)
    return make_proof(identity, claims, token, now=now)


@cache
def good() -> Proof:
    """The same good proof each time: making one takes a signature of RSA."""
    return proof()
