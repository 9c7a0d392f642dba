"""A proof of ownership: an ID token whose nonce commits to a client's key, and what the client signed. Pure.

As JSON it is

    {"pk_token": {"payload": ..., "signatures": [{"protected": ..., "signature": ...}, {...}]}, "statement": ...}

`pk_token` is OpenPubkey's PK token, a JSON Web Signature (RFC 7515, section 7.2.1) of two signatures over the claims of
the ID token: first that of the issuer, exactly as it gave the token out; then that of the client, whose protected
header has its public key. `statement` is a message that the client signs afterwards ("osm", section 3.5 of the paper),
as compact JWS: when it got the token, and for which peer ID.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kachery_cloud.ownership.claims import (
    ALGORITHM,
    OSM,
    Malformed,
    client_claims,
    commitment,
    from_base64url,
    json_object,
    to_base64url,
)

if TYPE_CHECKING:
    from kachery_p2p.repo.keys import NodeKey

#: Characters of a proof as JSON. Google's ID tokens have 1,200, those of institutions with many claims some thousand.
MAX_PROOF = 32_768


@dataclass(frozen=True)
class Proof:
    """The texts that a proof is made of, each base64url, checked for their form alone.

    Attributes:
        payload: the claims of the ID token.
        issuer: the protected header of the issuer's signature.
        issuer_signature: over `issuer` and `payload`.
        client: the protected header of the client's signature: its claims.
        client_signature: over `client` and `payload`.
        statement: what the client signed when it had the token, as compact JWS.
    """

    payload: str
    issuer: str
    issuer_signature: str
    client: str
    client_signature: str
    statement: str

    @property
    def id_token(self) -> str:
        """The ID token as the issuer gave it out."""
        return f"{self.issuer}.{self.payload}.{self.issuer_signature}"

    @property
    def claims(self) -> dict[str, Any]:
        """What the ID token says.

        Raises:
            Malformed: it is not JSON.
        """
        return json_object(from_base64url(self.payload, "payload"), "payload")

    @property
    def pk_token(self) -> dict[str, Any]:
        """The PK token, as JSON."""
        signatures = [
            {"protected": self.issuer, "signature": self.issuer_signature},
            {"protected": self.client, "signature": self.client_signature},
        ]
        return {"payload": self.payload, "signatures": signatures}

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON; `read_proof` reads it."""
        return {"pk_token": self.pk_token, "statement": self.statement}


def new_nonce(identity: NodeKey, random: bytes) -> tuple[bytes, str]:
    """What a client says of its key, and the nonce that a sign-in has to carry. See `claims`."""
    claims = client_claims(identity.public, random)
    return claims, commitment(claims)


def make_proof(identity: NodeKey, claims: bytes, id_token: str, *, now: float) -> Proof:
    """Put a proof together. Whether it proves anything is for `verifying` to say.

    Args:
        identity: of the client.
        claims: that the nonce of the token commits to.
        id_token: as the issuer gave it out.
        now: seconds since the epoch.

    Raises:
        Malformed: the token is no compact JWS.
    """
    parts = id_token.split(".") if isinstance(id_token, str) else []
    if len(parts) != 3:
        raise Malformed("its ID token is not a JWS of three parts")
    issuer, payload, issuer_signature = parts
    client = to_base64url(claims)
    unstated = Proof(payload, issuer, issuer_signature, client, _sign(identity, f"{client}.{payload}"), "")
    header = {"alg": ALGORITHM, "kid": token_hash(unstated), "typ": OSM}
    said = {"peer": identity.peer_id, "time": int(now)}
    text = f"{to_base64url(_json(header))}.{to_base64url(_json(said))}"
    statement = f"{text}.{_sign(identity, text)}"
    return Proof(payload, issuer, issuer_signature, client, unstated.client_signature, statement)


def token_hash(proof: Proof) -> str:
    """What names the PK token in messages that its key signs: SHA3-256 of its JSON, as OpenPubkey writes it."""
    return commitment(json.dumps(proof.pk_token, separators=(",", ":")).encode())


def read_proof(value: Any) -> Proof:
    """A proof from JSON.

    Raises:
        Malformed: it is not of that form.
    """
    if not isinstance(value, dict) or not isinstance(value.get("pk_token"), dict):
        raise Malformed("it has no PK token")
    token = value["pk_token"]
    signatures = token.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 2:
        raise Malformed("its PK token does not have two signatures")
    if not all(isinstance(each, dict) and set(each) == {"protected", "signature"} for each in signatures):
        raise Malformed("its PK token has a signature with other parts than those that are signed")
    issuer, client = signatures
    texts = (
        token.get("payload"),
        issuer["protected"],
        issuer["signature"],
        client["protected"],
        client["signature"],
    )
    for text in texts:
        from_base64url(text, "PK token")
    statement = value.get("statement")
    if not isinstance(statement, str) or statement.count(".") != 2:
        raise Malformed("it has no statement of the client")
    for part in statement.split("."):
        from_base64url(part, "statement of the client")
    if sum(map(len, texts)) + len(statement) > MAX_PROOF:
        raise Malformed(f"it has more than {MAX_PROOF:,} characters")
    return Proof(*texts, statement)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sign(identity: NodeKey, text: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return to_base64url(Ed25519PrivateKey.from_private_bytes(identity.seed).sign(text.encode("ascii")))
