"""What a client of an OpenID provider has to know, whatever it sends its requests with: authorization code with PKCE.

(OpenID Connect Core 1.0 and Discovery 1.0; RFC 6749, 7636 and 9207.) Pure: no request is made here.
`ownership/openid.py` makes them for a user who signs in at this computer, `lab/openid.py` for one who signs in at the
lab's pages.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from kachery_p2p.addresses import Reach, reach

SCOPE = "openid email profile"
#: Bytes of an answer: the key set of a large provider has some thousand.
MAX_ANSWER = 256 << 10


class BadProvider(ValueError):
    """Raised for a provider that is not to be used. The message goes on after its name: `calls itself …`."""


class AnotherIssuer(BadProvider):
    """Raised when a provider gives itself another name; `said` is that name, whatever it is."""

    def __init__(self, said: object) -> None:
        super().__init__("calls itself by another name")
        self.said = said


@dataclass(frozen=True)
class Provider:
    """What a provider says of itself (Discovery 1.0, section 3).

    Attributes:
        issuer: its name, which is a URL.
        authorization: the page on which users sign in.
        token: where a code is redeemed.
        keys: where the keys are that it signs with.
        authentication: how clients may say who they are at `token`.
        names_issuer: whether each answer that a browser brings names the issuer (RFC 9207).
    """

    issuer: str
    authorization: str
    token: str
    keys: str
    authentication: tuple[str, ...] = ("client_secret_basic",)
    names_issuer: bool = False

    def answers(self, named: str | None) -> bool:
        """Whether an answer is from this provider, by the issuer that it names (`iss`; None where it names none).

        Else it may be one that another provider gave, to have its code redeemed here (a mix-up attack, RFC 9207).
        """
        return named == self.issuer or (named is None and not self.names_issuer)


def configuration_url(issuer: str) -> str:
    """Where a provider says what it is."""
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def read_provider(issuer: str, said: Mapping[str, Any]) -> Provider:
    """A provider, from what is at its `configuration_url`.

    Raises:
        AnotherIssuer: it calls itself otherwise.
        BadProvider: it names no address, or one that is neither HTTPS nor, as the provider, on this machine.
    """
    if said.get("issuer") != issuer:
        raise AnotherIssuer(said.get("issuer"))
    urls: list[str] = []
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        url = said.get(name)
        if not isinstance(url, str) or not _is_usable(url, issuer):
            raise BadProvider(f"names no https URL as its {name}")
        urls.append(url)
    methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Provider(
        issuer,
        *urls,
        authentication=tuple(each for each in methods if isinstance(each, str)) if isinstance(methods, list) else (),
        names_issuer=said.get("authorization_response_iss_parameter_supported") is True,
    )


def _is_usable(url: str, issuer: str) -> bool:
    if not url.isascii() or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc or parts.fragment:
            return False
        own = urlsplit(issuer)
        plain = parts.scheme == own.scheme == "http" and _is_here(parts.hostname) and _is_here(own.hostname)
    except ValueError:
        return False
    return parts.scheme == "https" or plain


def _is_here(host: str | None) -> bool:
    return reach(host or "") is Reach.LOOPBACK


def random_text(count: int = 32) -> str:
    """So many random bytes, as text: for states, nonces and verifiers."""
    return secrets.token_urlsafe(count)


def sign_in_url(provider: Provider, client_id: str, redirect: str, *, state: str, nonce: str, verifier: str) -> str:
    """The page on which the user signs in.

    Args:
        provider: whose.
        client_id: that it gave out.
        redirect: where the browser is sent back to.
        state: what the answer has to carry.
        nonce: what the ID token has to carry.
        verifier: what the code can be redeemed with; only its hash is in the link (RFC 7636).
    """
    challenge = hashlib.sha256(verifier.encode("ascii")).digest()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect,
        "scope": SCOPE,
        "state": state,
        "nonce": nonce,
        "code_challenge": base64.urlsafe_b64encode(challenge).decode("ascii").rstrip("="),
        "code_challenge_method": "S256",
    }
    joint = "&" if urlsplit(provider.authorization).query else "?"
    return f"{provider.authorization}{joint}{urlencode(query)}"


@dataclass(frozen=True)
class TokenRequest:
    """One way to redeem a code: what is posted to the provider's `token`, as a form."""

    headers: Mapping[str, str]
    form: Mapping[str, str]


def token_requests(
    provider: Provider, client_id: str, client_secret: str, *, redirect: str, verifier: str, code: str
) -> Sequence[TokenRequest]:
    """The ways to redeem a code, best first.

    Which of the two a client with a secret has to use is registered with it, and not known here: where the provider
    knows both and answers `invalid_client`, the code is still good for the other one.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect,
        "code_verifier": verifier,
    }
    headers = {"Accept": "application/json"}
    if not client_secret:
        return [TokenRequest(headers, {**form, "client_id": client_id})]
    methods = provider.authentication
    ways: list[TokenRequest] = []
    if "client_secret_basic" in methods or "client_secret_post" not in methods:
        # Both parts are form-encoded before they are put together (RFC 6749, section 2.3.1).
        pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode("ascii")
        ways.append(TokenRequest({**headers, "Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}, form))
    if "client_secret_post" in methods:
        ways.append(TokenRequest(headers, {**form, "client_id": client_id, "client_secret": client_secret}))
    return ways
