"""An OpenID provider as a user asks it who signs in at this computer, in a thread without trio.

What goes out here are three requests to the provider: what it is (discovery), the keys that it signs with, and the code
for the ID token. None follows a redirect, and no answer may be long. Everything else is in `kachery_cloud.openid`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kachery_cloud.errors import SignInError
from kachery_cloud.openid import (
    MAX_ANSWER,
    AnotherIssuer,
    BadProvider,
    Provider,
    configuration_url,
    random_text,
    read_provider,
    sign_in_url,
    token_requests,
)
from kachery_cloud.ownership.archive import KeySet, public_keys
from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.redirect import NotOurs
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.text import printable, shortened

if TYPE_CHECKING:
    import httpx

#: Seconds for each step of a request.
TIMEOUT = 30.0


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
        return sign_in_url(
            self.provider,
            self.client_id,
            self.redirect,
            state=self.state,
            nonce=self.nonce,
            verifier=self.verifier,
        )


class ProviderRefused(SignInError):
    """Raised when a provider answers with an error; `error` is its word for it (RFC 6749, section 5.2), or empty."""

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


def begin(provider: Provider, client_id: str, client_secret: str, redirect: str, nonce: str) -> Attempt:
    """An attempt with a state and a verifier of its own."""
    return Attempt(provider, client_id, client_secret, redirect, nonce, random_text(), random_text(48))


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
    if len(issuers) > 1 or not attempt.provider.answers(issuers[0] if issuers else None):
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
    said = _ask(configuration_url(issuer), issuer)
    try:
        return read_provider(issuer, said)
    except AnotherIssuer as error:
        raise SignInError(
            f"{issuer} calls itself {_shown(error.said)}. Set KACHERY_CLOUD_OPENID_ISSUER to the name that it gives "
            "itself, if that is the right one."
        ) from None
    except BadProvider as error:
        raise SignInError(f"{issuer} {error}, so nobody can sign in there.") from None


def fetch_keys(provider: Provider, audiences: tuple[str, ...] = ()) -> KeySet:
    """The keys that a provider signs with now.

    Raises:
        SignInError: it does not answer, or not with keys.
    """
    found = _ask(provider.keys, provider.issuer)
    try:
        return KeySet(provider.issuer, time.time(), public_keys(found.get("keys")), audiences)
    except Malformed as error:
        raise SignInError(f"The keys of {provider.issuer} cannot be read: {error}.") from None


def redeem(attempt: Attempt, code: str) -> str:
    """The ID token for a code. It can be had once.

    Raises:
        SignInError: the provider does not give it.
    """
    provider = attempt.provider
    ways = token_requests(
        provider,
        attempt.client_id,
        attempt.client_secret,
        redirect=attempt.redirect,
        verifier=attempt.verifier,
        code=code,
    )
    found: dict[str, Any] = {}
    for number, way in enumerate(ways, 1):
        try:
            found = _ask(provider.token, provider.issuer, way.form, way.headers)
        except ProviderRefused as refusal:
            if refusal.error != "invalid_client" or number == len(ways):
                raise
        else:
            break
    token = found.get("id_token")
    if not isinstance(token, str):
        raise SignInError(f"{provider.issuer} gave out no ID token.")
    return token


def _ask(
    url: str, issuer: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    import httpx

    method = "GET" if form is None else "POST"
    told = {"Accept": "application/json"} if headers is None else dict(headers)

    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
            client.stream(method, url, data=form, headers=told) as got,
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
