"""ID tokens: what a provider says, and what somebody else could say in its place."""

from __future__ import annotations

import base64
import hmac
import json
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kachery_cloud.lab.id_tokens import LEEWAY, BadToken, SignedIn, check_id_token

NOW = 1_767_225_600.0
ISSUER = "https://accounts.example.org"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
STRANGER = RSAKey.generate_key(2048, {"kid": "one"})
PUBLISHED = [KEY.as_dict(private=False)]
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "lab",
    "sub": "ada",
    "nonce": "n-1",
    "iat": int(NOW) - 5,
    "exp": int(NOW) + 3600,
    "name": "Ada Lovelace",
    "email": "Ada@Example.org",
    "email_verified": True,
}


def token(claims: Mapping[str, Any] = CLAIMS, *, key: Any = KEY, alg: str = "RS256", **header: Any) -> str:
    """A token of any content."""
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    told = {"alg": alg, "kid": "one", **header}
    return jws.serialize_compact(told, json.dumps(claims).encode(), key, registry=registry)


def base64url(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def checked(text: str, keys: list[Any] = PUBLISHED, now: float = NOW) -> SignedIn:
    """Who a token says has signed in."""
    return check_id_token(text, keys, issuer=ISSUER, client_id="lab", nonce="n-1", now=now)


def test_who_has_signed_in() -> None:
    """Subject, name, and an address where it was verified."""
    assert checked(token()) == SignedIn("ada", "Ada Lovelace", "ada@example.org", None)
    assert checked(token({**CLAIMS, "email_verified": False})).email is None
    assert checked(token({**CLAIMS, "email_verified": "true"})).email is None
    assert checked(token({**CLAIMS, "hd": "Example.org"})).domain == "example.org"
    bare = {name: CLAIMS[name] for name in ("iss", "aud", "sub", "nonce", "iat", "exp")}
    assert checked(token(bare)) == SignedIn("ada", "", None, None)


@pytest.mark.parametrize(
    ("key", "alg"),
    [(STRANGER, "RS256"), (STRANGER, "PS256"), (ECKey.generate_key("P-256"), "ES256")],
)
def test_algorithms(key: Any, alg: str) -> None:
    """Those that providers sign with are taken, each with its kind of key."""
    published = {name: value for name, value in key.as_dict(private=False).items() if name != "alg"}
    assert checked(token(key=key, alg=alg), [{**published, "kid": "one"}]).subject == "ada"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"},
        {"iss": ISSUER + "/"},
        {"aud": "another"},
        {"aud": ["lab", "another"]},
        {"aud": ["lab", "another"], "azp": "another"},
        {"aud": None},
        {"azp": "another"},
        {"nonce": "n-2"},
        {"nonce": None},
        {"nonce": 1},
        {"exp": int(NOW - LEEWAY)},
        {"exp": None},
        {"exp": "9999999999"},
        {"iat": int(NOW + LEEWAY) + 1},
        {"nbf": int(NOW + LEEWAY) + 1},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
    ],
)
def test_claims_that_are_wrong(change: Mapping[str, Any]) -> None:
    """Of another issuer, for another application, sign-in or time, or of nobody: refused."""
    with pytest.raises(BadToken) as caught:
        checked(token({**CLAIMS, **change}))
    assert not caught.value.unknown_key


def test_several_audiences() -> None:
    """A token that we asked for may be for others as well."""
    assert checked(token({**CLAIMS, "aud": ["another", "lab"], "azp": "lab"})).subject == "ada"


def test_leeway() -> None:
    """Clocks may differ by a minute."""
    assert checked(token({**CLAIMS, "exp": int(NOW - LEEWAY) + 1})).subject == "ada"
    assert checked(token({**CLAIMS, "iat": int(NOW + LEEWAY)})).subject == "ada"


def test_signatures_of_others() -> None:
    """Signed by a stranger under the same name of a key, changed, unsigned, or by the public key as a secret."""
    with pytest.raises(BadToken, match="not signed it"):
        checked(token(key=STRANGER))
    head, payload, signature = token().split(".")
    other = token({**CLAIMS, "sub": "eve"}).split(".")[1]
    with pytest.raises(BadToken, match="not signed it"):
        checked(f"{head}.{other}.{signature}")
    with pytest.raises(BadToken, match="is signed by none"):
        checked("eyJhbGciOiJub25lIiwia2lkIjoib25lIn0." + payload + ".")
    symmetric = base64url(b'{"alg":"HS256","kid":"one"}')
    signed = f"{symmetric}.{payload}"
    by_secret = hmac.digest(KEY.as_pem(private=False), signed.encode(), "sha256")
    with pytest.raises(BadToken, match="HS256"):
        checked(f"{signed}.{base64url(by_secret)}")
    critical = base64url(b'{"alg":"RS256","kid":"one","crit":["x"],"x":1}')
    by_key = KEY.private_key.sign(f"{critical}.{payload}".encode(), PKCS1v15(), SHA256())
    with pytest.raises(BadToken):
        checked(f"{critical}.{payload}.{base64url(by_key)}")


def test_keys_that_are_not_published() -> None:
    """A key that is not known may be a newer one; one that is for something else, or weak, is none."""
    own = PUBLISHED[0]
    others = [{**own, "kid": "two"}, {**own, "use": "enc"}, {**own, "alg": "PS256"}, {"kty": "RSA", "kid": "one"}]
    for keys in ([], *([other] for other in others), [{"kid": "one"}], [{**own, "n": "é"}], [{**own, "n": 5}]):
        with pytest.raises(BadToken) as caught:
            checked(token(), keys)
        assert caught.value.unknown_key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024, auto_kid=False)
    with pytest.raises(BadToken) as caught:
        checked(token(key=weak), [{**weak.as_dict(private=False), "kid": "one"}])
    assert caught.value.unknown_key


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "a.b.c.d", "..", "x" * 40_000, "é.é.é"])
def test_what_is_no_token(text: str) -> None:
    """Refused, whatever it is."""
    with pytest.raises(BadToken):
        checked(text)
