"""ID tokens: what an OpenID provider says of who has signed in (OpenID Connect Core 1.0, section 3.1.3.7). Pure.

The keys come in; they are those that the provider publishes at an address of its own, over HTTPS.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.text import printable, shortened

if TYPE_CHECKING:
    from joserfc.jwk import Key

#: By which tokens may be signed, and the kind of key that each takes. None of them takes a shared secret.
ALGORITHMS: Mapping[str, str] = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}
#: Seconds by which the clocks of provider and lab may differ.
LEEWAY = 60.0
#: Bits of an RSA key (RFC 7518, section 3.3), and characters of a token.
_RSA_BITS = range(2048, 8193)
_MAX_TOKEN = 32_768
#: Characters of a subject (OpenID Connect Core 1.0, section 2).
_MAX_SUBJECT = 255


class BadToken(ValueError):
    """An ID token says nothing that can be believed. The message is a sentence.

    Attributes:
        unknown_key: it is by a key that is not among those that are known, of which there may be newer ones.
    """

    def __init__(self, details: str, *, unknown_key: bool = False) -> None:
        super().__init__(details)
        self.unknown_key = unknown_key


@dataclass(frozen=True)
class SignedIn:
    """Who has signed in.

    Attributes:
        subject: what the provider calls him; nobody else there ever has it.
        name: empty where the provider says none.
        email: one that it has verified, in small letters; else None.
        domain: the organisation that the account belongs to, where the provider says one (`hd`, Google).
    """

    subject: str
    name: str
    email: str | None
    domain: str | None


def check_id_token(
    token: str, keys: Sequence[Mapping[str, Any]], *, issuer: str, client_id: str, nonce: str, now: float
) -> SignedIn:
    """Who a token says has signed in.

    Args:
        token: a compact JWS.
        keys: of the provider, each a JWK.
        issuer: who is to have made it.
        client_id: for whom.
        nonce: of this sign-in.
        now: seconds since 1970.

    Raises:
        BadToken: it does not say that to us, now.
    """
    claims = _claims(token, keys)
    if claims.get("iss") != issuer:
        raise BadToken("The ID token is by another issuer.")
    _check_audience(claims, client_id)
    shown = claims.get("nonce")
    if not isinstance(shown, str) or not hmac.compare_digest(shown.encode("utf-8", "replace"), nonce.encode()):
        raise BadToken("The ID token is for another sign-in: its nonce is not the one that was asked with.")
    _check_times(claims, now)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
        raise BadToken("The ID token names nobody.")
    email = claims.get("email")
    verified = isinstance(email, str) and claims.get("email_verified") is True and 3 <= len(email) <= 254
    domain = claims.get("hd")
    return SignedIn(
        subject=subject,
        name=_shown(claims.get("name")),
        email=email.strip().casefold() if verified and isinstance(email, str) and email.isprintable() else None,
        domain=domain.casefold() if isinstance(domain, str) else None,
    )


def keys_of(token: str, keys: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of some keys by which a token may be signed, which was checked already: the ones of its name."""
    from joserfc import jws

    registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    kid = jws.extract_compact(token.encode("ascii"), registry=registry).headers().get("kid")
    return [key for key in keys if kid is None or key.get("kid") == kid]


def _claims(token: str, keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands in a token, which one of the keys has signed."""
    from joserfc import jws
    from joserfc.errors import JoseError

    if not isinstance(token, str) or len(token) > _MAX_TOKEN or token.count(".") != 2:
        raise BadToken("The provider gave no ID token.")
    # Of the header's parts, "crit" alone changes what a signature means; it is checked.
    registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    try:
        header = jws.extract_compact(token.encode("utf-8", "replace"), registry=registry).headers()
    except (JoseError, ValueError):
        raise BadToken("The ID token cannot be read.") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise BadToken(f"The ID token is signed by {_shown(algorithm) or 'no algorithm'}, which is not taken here.")
    fitting = [key for key in keys if kid is None or key.get("kid") == kid]
    usable = [found for key in fitting if (found := _import(key, str(algorithm))) is not None]
    if not usable:
        raise BadToken("The ID token is signed by a key that the provider does not publish.", unknown_key=True)
    for key in usable:
        try:
            payload = jws.deserialize_compact(token, key, registry=registry).payload  # type: ignore[arg-type]
            claims = read_json(payload or b"")
        except (JoseError, ValueError, InvalidJSON):
            continue
        if isinstance(claims, dict):
            return claims
    raise BadToken("The ID token was changed, or the provider has not signed it.")


def _import(jwk: Mapping[str, Any], algorithm: str) -> Key | None:
    """A public key of a provider; None where it is not for signatures by that algorithm."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    kind = ALGORITHMS[algorithm]
    if jwk.get("kty") != kind or jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    public = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y") if isinstance(jwk.get(name), str)}
    try:
        if kind == "EC":
            return ECKey.import_key(public) if public.get("crv") == "P-256" else None
        modulus = base64.urlsafe_b64decode(public.get("n", "") + "==")
        bits = int.from_bytes(modulus, "big").bit_length()
        return RSAKey.import_key(public) if bits in _RSA_BITS else None
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    party = claims.get("azp", client_id if len(audiences) == 1 else None)
    if client_id not in audiences or party != client_id:
        raise BadToken("The ID token is for another application.")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    times: dict[str, float] = {}
    for name in ("exp", "iat", "nbf"):
        value = claims.get(name, 0 if name == "nbf" else None)
        if type(value) not in (int, float):
            raise BadToken(f"The ID token does not say {name} as a number.")
        times[name] = value
    if times["exp"] <= now - LEEWAY:
        raise BadToken(f"The ID token has expired {now - times['exp']:.0f} seconds ago; is the clock of the lab right?")
    if times["iat"] > now + LEEWAY or times["nbf"] > now + LEEWAY:
        raise BadToken(
            f"The ID token is from the future, by {max(times['iat'], times['nbf']) - now:.0f} seconds: the clock of "
            "the lab is behind that of the provider."
        )


def _shown(value: object) -> str:
    return shortened(printable(value.strip()), 100) if isinstance(value, str) else ""
