"""Who a proof says it was, or why it says nothing. Pure and offline: keys, time and policy come in.

What a good proof says: at some time, the issuer saw this user sign in at one of the accepted clients, with a nonce that
nobody could have made who did not know the peer's key; and whoever holds that key agreed within the life of the token.
So who looks has to have the issuer's keys from somewhere that it trusts (see `archive`), never from the proof.

The accepted clients (`aud`) matter: another application at the same provider could ask its users to sign in with a
nonce for somebody else's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kachery_cloud.errors import ProofRefused
from kachery_cloud.ownership.claims import OSM, Malformed, commitment, from_base64url, json_object, key_in
from kachery_cloud.ownership.proofs import Proof, token_hash
from kachery_cloud.records import Shown
from kachery_p2p.text import printable, shortened, span_text

if TYPE_CHECKING:
    from joserfc.jwk import Key

#: All that providers sign ID tokens with in practice; Google uses the first. None of them takes a shared secret.
ALGORITHMS = ("RS256", "PS256", "ES256")
#: Bits of an issuer's RSA key (RFC 7518, section 3.3).
_RSA_BITS = 2048
#: Characters of a name or an e-mail address that are shown.
_MOST_SHOWN = 254


@dataclass(frozen=True)
class Issuer:
    """What is known of an issuer.

    Attributes:
        keys: its public keys, each a JWK (RFC 7517).
        audiences: the client IDs at which people may have signed in.
    """

    keys: tuple[Mapping[str, Any], ...]
    audiences: frozenset[str]


@dataclass(frozen=True)
class Policy:
    """What a proof must fulfil besides its signatures.

    Attributes:
        max_age: seconds since the sign-in; None for any. The proof says who signed in then, and people leave labs.
        skew: seconds by which clocks may differ.
    """

    max_age: float | None = None
    skew: float = 300.0


@dataclass(frozen=True)
class Owner(Shown):
    """Who signed in, and at which machine, as a proof says.

    Attributes:
        peer: the peer ID of the machine.
        issuer: of the ID token, such as `https://accounts.google.com`.
        subject: what the issuer calls the user: no other user ever has it.
        name: of the user, as the issuer says it; empty where it does not.
        email: the same; empty unless the issuer says that it was verified.
        signed_in: when, in seconds since the epoch.
        audience: the client ID at which it was.
    """

    peer: str
    issuer: str
    subject: str
    name: str
    email: str
    signed_in: int
    audience: str

    times = ("signed_in",)


def verify(
    proof: Proof, peer_id: str, issuers: Mapping[str, Issuer], now: float, policy: Policy | None = None
) -> Owner:
    """Who a proof says owns a machine.

    Args:
        proof: as it came.
        peer_id: of the machine that it is to be about, in base58.
        issuers: those that are believed, by their URLs.
        now: seconds since the epoch.
        policy: what else it must fulfil.

    Raises:
        ProofRefused: it does not prove that, with the reason.
    """
    policy = policy or Policy()
    try:
        _check_client(proof, peer_id)
        claims = proof.claims
        issuer = _check_issuer(proof, claims, issuers)
        audience = _check_audience(claims, issuer)
        _check_nonce(proof, claims)
        signed_in = _check_times(proof, peer_id, claims, now, policy)
    except Malformed as error:
        raise ProofRefused(f"The proof cannot be read: {error}.", "MALFORMED") from None
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:  # OpenID Connect Core 1.0, section 2
        raise ProofRefused("The proof cannot be read: its ID token names no user.", "MALFORMED")
    verified = claims.get("email_verified") is True
    return Owner(
        peer=peer_id,
        issuer=claims["iss"],
        subject=subject,
        name=_shown(claims.get("name")),
        email=_shown(claims.get("email")) if verified else "",
        signed_in=signed_in,
        audience=audience,
    )


def key_name(proof: Proof) -> tuple[str, str]:
    """The issuer that a proof names, and the ID of the key that signed it (`kid`; empty for none). Nothing is checked.

    Raises:
        Malformed: it cannot be read.
    """
    issuer = proof.claims.get("iss")
    kid = json_object(from_base64url(proof.issuer, "header of the issuer"), "header of the issuer").get("kid")
    return issuer if isinstance(issuer, str) else "", kid if isinstance(kid, str) else ""


# --- each of the checks ----------------------------------------------------------------------------------------------


def _check_client(proof: Proof, peer_id: str) -> None:
    """The claims are about the key of the peer, and its holder has signed them with the token."""
    from kachery_p2p.peer_keys import ED25519, encode_key, read_public_key

    public = key_in(from_base64url(proof.client, "header of the client"))
    key = read_public_key(encode_key(ED25519, public))
    if key.peer != peer_id:
        raise ProofRefused(f"The proof is about {key.peer}, not about {shortened(peer_id, 60)}.", "PEER")
    signature = from_base64url(proof.client_signature, "signature of the client")
    if not key.has_signed(f"{proof.client}.{proof.payload}".encode(), signature):
        raise ProofRefused("The proof was not signed by the key of the machine that it is about.", "SIGNATURE")
    text, _, signed = proof.statement.rpartition(".")
    header = json_object(from_base64url(text.partition(".")[0], "statement"), "statement")
    if (header.get("alg"), header.get("typ")) != ("EdDSA", OSM) or header.get("kid") != token_hash(proof):
        raise ProofRefused("The statement in the proof is about another ID token.", "SIGNATURE")
    if not key.has_signed(text.encode(), from_base64url(signed, "statement")):
        raise ProofRefused("The statement in the proof was not signed by the key of the machine.", "SIGNATURE")


def _check_issuer(proof: Proof, claims: Mapping[str, Any], issuers: Mapping[str, Issuer]) -> Issuer:
    """One of the issuers that are believed has signed the ID token."""
    from joserfc import jws
    from joserfc.errors import JoseError

    named = claims.get("iss")
    issuer = issuers.get(named) if isinstance(named, str) else None
    if issuer is None:
        raise ProofRefused(
            f"The proof is by {_shown(named) or 'nobody'}, which is no issuer to believe here.", "ISSUER"
        )
    header = json_object(from_base64url(proof.issuer, "header of the issuer"), "header of the issuer")
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise ProofRefused(
            f"The ID token is signed by {_shown(algorithm) or 'no algorithm'}, which proves nothing.", "ALGORITHM"
        )
    keys = [key for key in issuer.keys if key.get("kid") == kid and isinstance(kid, str)]
    usable = [found for key in keys if (found := _import(key, algorithm)) is not None]
    if not usable:
        raise ProofRefused(
            f"The ID token is signed by a key ({_shown(kid) or 'without a name'}) that is not known to be one of "
            f"{named}.",
            "UNKNOWN_KEY",
        )
    # Of the header's parts, "crit" alone changes what a signature means; it is checked.
    registry = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    for key in usable:
        try:
            jws.deserialize_compact(proof.id_token, key, registry=registry)  # type: ignore[arg-type]
        except (JoseError, ValueError):
            continue
        return issuer
    raise ProofRefused(f"The ID token was changed, or {named} has not signed it.", "SIGNATURE")


def _import(jwk: Mapping[str, Any], algorithm: str) -> Key | None:
    """A public key of an issuer; None where it is not for signatures by that algorithm."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    kind = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}[algorithm]
    if jwk.get("kty") != kind or jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    public = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in jwk}
    try:
        if kind == "EC":
            return ECKey.import_key(public) if jwk.get("crv") == "P-256" else None
        modulus = from_base64url(jwk.get("n"), "key")
        return RSAKey.import_key(public) if int.from_bytes(modulus, "big").bit_length() >= _RSA_BITS else None
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _check_audience(claims: Mapping[str, Any], issuer: Issuer) -> str:
    """The token was given out to one of the accepted clients; of several, to that which asked (`azp`)."""
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    party = claims.get("azp", audiences[0] if len(audiences) == 1 else None)
    if party not in audiences or not isinstance(party, str) or party not in issuer.audiences:
        raise ProofRefused(
            f"Somebody signed in at another application ({_shown(party) or 'without a name'}), so it does not count "
            "here.",
            "AUDIENCE",
        )
    return party


def _check_nonce(proof: Proof, claims: Mapping[str, Any]) -> None:
    if claims.get("nonce") != commitment(from_base64url(proof.client, "header of the client")):
        raise ProofRefused("The ID token is not for this machine's key: its nonce does not commit to it.", "NONCE")


def _check_times(proof: Proof, peer_id: str, claims: Mapping[str, Any], now: float, policy: Policy) -> int:
    """The client signed within the life of the token, and none of it is in the future, or too long ago."""
    said = json_object(from_base64url(proof.statement.split(".")[1], "statement"), "statement")
    begins, ends, signed = _number(claims.get("iat")), _number(claims.get("exp")), _number(said.get("time"))
    if said.get("peer") != peer_id:
        raise ProofRefused("The statement in the proof is about another machine.", "PEER")
    if begins > now + policy.skew:
        raise ProofRefused(
            f"The ID token is from the future, by {span_text(begins - now)}: the clock of this computer is behind.",
            "TIME",
        )
    if ends <= begins or not begins - policy.skew <= signed <= ends + policy.skew:
        raise ProofRefused(
            "The ID token had expired, or did not exist yet, when the machine signed that it is about itself.", "TIME"
        )
    if signed > now + policy.skew:
        raise ProofRefused("The machine signed the proof in the future.", "TIME")
    if policy.max_age is not None and now - begins > policy.max_age + policy.skew:
        raise ProofRefused(
            f"Its user signed in {span_text(now - begins)} ago; more than {span_text(policy.max_age)} is too long.",
            "TOO_OLD",
        )
    return int(begins)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise Malformed("one of its times is no number")
    return value


def _shown(value: Any) -> str:
    """Text of a stranger, for people; empty for everything else."""
    return shortened(printable(value), _MOST_SHOWN) if isinstance(value, str) else ""
