"""An OpenID provider from the client's side: authorization code with PKCE.

(OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636, RFC 8252.)

What goes out here are three requests to the provider: what it is (discovery), the keys that it signs with, and the code
for the ID token. None follows a redirect, and no answer may be long. Everything else is pure.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

from kachery_cloud.errors import SignInError
from kachery_cloud.ownership.archive import KeySet, public_keys
from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.redirect import NotOurs
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.text import printable, shortened

if TYPE_CHECKING:
    import httpx

SCOPE = "openid email profile"
#: Seconds for each step of a request.
TIMEOUT = 30.0
#: Bytes of an answer; Google's have 2 KiB.
MAX_ANSWER = 256 << 10
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Provider:
    """What a provider says of itself (OpenID Connect Discovery 1.0): where to go for what."""

    issuer: str
    authorization: str
    token: str
    keys: str
    authentication: tuple[str, ...]


@dataclass(frozen=True)
class Attempt:
    """One sign-in that was begun. All that is random in it is for this one alone.

    Attributes:
        provider: at which.
        client_id: that it gave out.
        client_secret: that goes with it; empty for none.
        redirect: where the browser is sent back to.
        nonce: what the ID token has to carry.
        state: what the answer has to carry.
        verifier: what the code can be redeemed with.
    """

    provider: Provider
    client_id: str
    client_secret: str
    redirect: str
    nonce: str
    state: str
    verifier: str

    @property
    def url(self) -> str:
        """The page of the provider on which the user signs in."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.client_id,
                "redirect_uri": self.redirect,
                "scope": SCOPE,
                "state": self.state,
                "nonce": self.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        mark = "&" if urlsplit(self.provider.authorization).query else "?"
        return f"{self.provider.authorization}{mark}{query}"


class ProviderRefused(SignInError):
    """Raised when a provider answers with an error; `error` is its word for it (RFC 6749, section 5.2), or empty."""

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


def begin(provider: Provider, client_id: str, client_secret: str, redirect: str, nonce: str) -> Attempt:
    """An attempt with a state and a verifier of its own."""
    return Attempt(
        provider, client_id, client_secret, redirect, nonce, secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    )


def read_answer(attempt: Attempt, address: str) -> str:
    """The code that the provider has given the browser, from the address that it sent it to.

    Args:
        attempt: that it must answer.
        address: all of it, as the browser shows it.

    Raises:
        NotOurs: it is no such address, or answers another attempt.
        SignInError: the provider, or the user, said no.
    """
    try:
        query = parse_qs(urlsplit(address.strip()).query, max_num_fields=50)
    except ValueError:
        query = {}
    states, codes, errors = (query.get(name, []) for name in ("state", "code", "error"))
    if len(states) != 1 or not (codes or errors):
        raise NotOurs(
            "That is not the address that the sign-in page has led to. It begins with "
            f"{attempt.redirect} and has code= and state= in it: copy all of it."
        )
    if not secrets.compare_digest(states[0].encode(), attempt.state.encode()):
        raise NotOurs("That address belongs to another sign-in (its state is another one). Use the link above.")
    issuers = query.get("iss", [])
    if issuers and issuers != [attempt.provider.issuer]:  # RFC 9207
        raise NotOurs("That address comes from another provider than the one that was asked.")
    if errors:
        said = errors[0] + "".join(f": {each}" for each in query.get("error_description", [])[:1])
        raise SignInError(f"Nobody signed in: {attempt.provider.issuer} says {_shown(said)}.")
    if len(codes) != 1:
        raise NotOurs("That address has more than one code in it.")
    return codes[0]


# --- requests --------------------------------------------------------------------------------------------------------


def discover(issuer: str) -> Provider:
    """Ask a provider what it is.

    Raises:
        SignInError: it does not answer, or not as one.
    """
    found = _ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", issuer)
    if found.get("issuer") != issuer:
        raise SignInError(
            f"{issuer} calls itself {_shown(found.get('issuer'))}. Set KACHERY_CLOUD_OPENID_ISSUER to the name that it "
            "gives itself, if that is the right one."
        )
    plain = urlsplit(issuer).hostname in _LOOPBACK
    urls: list[str] = []
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        url = found.get(name)
        parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
        if parts is None or not (parts.scheme == "https" or (plain and parts.hostname in _LOOPBACK)):
            raise SignInError(f"{issuer} names no https URL as its {name}, so nobody can sign in there.")
        urls.append(str(url))
    methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    named = tuple(each for each in methods if isinstance(each, str)) if isinstance(methods, list) else ()
    return Provider(issuer, *urls, authentication=named)


def fetch_keys(provider: Provider, audiences: tuple[str, ...] = ()) -> KeySet:
    """The keys that a provider signs with now.

    Raises:
        SignInError: it does not answer, or not with keys.
    """
    found = _ask("GET", provider.keys, provider.issuer)
    try:
        return KeySet(provider.issuer, time.time(), public_keys(found.get("keys")), audiences)
    except Malformed as error:
        raise SignInError(f"The keys of {provider.issuer} cannot be read: {error}.") from None


def redeem(attempt: Attempt, code: str) -> str:
    """The ID token for a code. It can be had once.

    Raises:
        SignInError: the provider does not give it.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": attempt.redirect,
        "code_verifier": attempt.verifier,
    }
    found: dict[str, Any] = {}
    ways = _authentications(attempt)
    for number, (headers, more) in enumerate(ways, 1):
        try:
            found = _ask("POST", attempt.provider.token, attempt.provider.issuer, {**form, **more}, headers)
        except ProviderRefused as refusal:
            # Which of the two ways a client has to use is registered with it. Until it is known, the code stays good.
            if refusal.error != "invalid_client" or number == len(ways):
                raise
        else:
            break
    token = found.get("id_token")
    if not isinstance(token, str):
        raise SignInError(f"{attempt.provider.issuer} gave out no ID token.")
    return token


def _authentications(attempt: Attempt) -> list[tuple[dict[str, str], dict[str, str]]]:
    """The ways in which the client may say who it is, each as headers and as fields of the form."""
    if not attempt.client_secret:
        return [({}, {"client_id": attempt.client_id})]
    # Both parts are form-encoded first (RFC 6749, section 2.3.1).
    pair = f"{quote_plus(attempt.client_id)}:{quote_plus(attempt.client_secret)}"
    basic: dict[str, str] = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    post = {"client_id": attempt.client_id, "client_secret": attempt.client_secret}
    methods = attempt.provider.authentication
    ways = [(basic, {})] if "client_secret_basic" in methods or "client_secret_post" not in methods else []
    return [*ways, ({}, post)] if "client_secret_post" in methods else ways


def _ask(
    method: str,
    url: str,
    issuer: str,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    import httpx

    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
            client.stream(method, url, data=form, headers={"Accept": "application/json", **(headers or {})}) as got,
        ):
            status, body = got.status_code, _body(got, issuer)
    except httpx.HTTPError as error:
        why = shortened(printable(str(error)), 200) or type(error).__name__
        raise SignInError(
            f"{issuer} cannot be reached ({why}). Nothing has changed here; try again later: kachery-cloud-init"
        ) from None
    try:
        found = read_json(body)
    except InvalidJSON:
        found = None
    if status != 200:
        said = found if isinstance(found, dict) else {}
        words = [said.get(name) for name in ("error", "error_description")]
        why = ": ".join(_shown(each) for each in words if isinstance(each, str))
        error = said.get("error")
        raise ProviderRefused(
            f"{issuer} answers with status {status}{f' ({why})' if why else ''}. {_advice(said)}",
            error if isinstance(error, str) else "",
        )
    if not isinstance(found, dict):
        raise SignInError(f"{issuer} does not answer as an OpenID provider does.")
    return found


def _body(got: httpx.Response, issuer: str) -> bytes:
    body = b""
    for part in got.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER:
            raise SignInError(f"{issuer} answers with more than {MAX_ANSWER:,} bytes.")
    return body


def _advice(said: Mapping[str, Any]) -> str:
    return {
        "invalid_client": "Look at the settings openid_client_id and openid_client_secret.",
        "invalid_grant": "The code was used already, or came too late. Begin again: kachery-cloud-init",
    }.get(str(said.get("error")), "Nothing has changed here; try again later: kachery-cloud-init")


def _shown(value: Any) -> str:
    return shortened(printable(value), 200) if isinstance(value, str) else "nothing"
