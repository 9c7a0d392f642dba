"""An OpenID provider as the lab asks it: discovery, the authorization code flow with PKCE, keys.

(OpenID Connect Core and Discovery 1.0, RFC 7636, RFC 9207.) The provider's address is a setting. What it says of itself
is fetched there and believed for an hour; all that it names has to be HTTPS as well, unless it is on this machine. No
redirect is followed, and answers are small. Keys are fetched again when a token is by one that is not known, which is
how providers change theirs; at most once a minute.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import trio

from kachery_cloud.lab.id_tokens import BadToken, SignedIn, check_id_token, keys_of
from kachery_cloud.lab.origins import is_loopback
from kachery_p2p.http import HttpBounds, HttpClient, HttpFailure
from kachery_p2p.json_reader import InvalidJSON, read_json

#: Bytes of an answer: the key set of a large provider has some thousand.
_MAX_ANSWER = 256 * 1024
#: Seconds for an answer; somebody waits before a browser.
_PATIENCE = 20.0
#: Seconds for which what a provider says of itself, and its keys, are believed; and between two looks for newer keys.
_BELIEVED = 3600.0
_AGAIN = 60.0
_BOUNDS = HttpBounds(connect=10.0, redirects=0, connections=8, idle=2)
#: Characters of a code.
_MAX_CODE = 4096


class ProviderFailed(Exception):
    """The provider could not be asked, or answered with what it should not. The message is a sentence for people."""


@dataclass(frozen=True)
class Asking:
    """One sign-in that has begun. What is in it comes back with the browser."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class _Endpoints:
    authorization: str
    token: str
    keys: str
    #: Whether answers name the issuer (RFC 9207).
    names_issuer: bool
    #: Whether the secret goes into the body instead of a header.
    secret_in_body: bool


class Provider:
    """An OpenID provider.

    Args:
        issuer: its URL.
        client_id: what it calls us.
        secret: gives the secret that it gave us; empty where it gave none.
        wall: seconds since 1970.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        secret: Callable[[], str],
        *,
        wall: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._secret = secret
        self._wall = wall
        self._clock = clock
        self._http = HttpClient(_BOUNDS)
        self._endpoints: tuple[float, _Endpoints] | None = None
        self._keys: tuple[float, list[Mapping[str, Any]]] | None = None
        self._asking = trio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def begin(self, redirect_uri: str, nonce: str | None = None) -> tuple[str, Asking]:
        """Where the browser is to go, and what is to be kept until it is back.

        Args:
            redirect_uri: where it is sent back to.
            nonce: that the ID token is to have; a random one where it is None.

        Raises:
            ProviderFailed: the provider does not say where.
        """
        endpoints = await self._discovered()
        asking = Asking(secrets.token_urlsafe(32), nonce or secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        challenge = hashlib.sha256(asking.verifier.encode("ascii")).digest()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid email profile",
            "state": asking.state,
            "nonce": asking.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).decode("ascii").rstrip("="),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(endpoints.authorization).query else "?"
        return f"{endpoints.authorization}{joint}{urlencode(query)}", asking

    async def proof(self, token: str) -> str:
        """An ID token with all that somebody needs who is to check it later: JSON for `kachery_cloud.ownership`."""
        proof = {
            "id_token": token,
            "issuer": self.issuer,
            "client_id": self._client_id,
            "keys": keys_of(token, await self._published()),
        }
        return json.dumps(proof)

    async def finish(self, asking: Asking, code: str, redirect_uri: str, issuer: str | None) -> tuple[SignedIn, str]:
        """Who has signed in, when the browser is back with a code; and the ID token that says so.

        Args:
            asking: what was kept.
            code: that the browser brought.
            redirect_uri: the same as before.
            issuer: that the browser brought (`iss`); None where there was none.

        Raises:
            ProviderFailed: the provider does not take the code, or what it gives for it is not to be believed.
        """
        endpoints = await self._discovered()
        if issuer != self.issuer and (issuer is not None or endpoints.names_issuer):
            raise ProviderFailed("The answer is that of another provider.")  # a mix-up attack (RFC 9207)
        if not 0 < len(code) <= _MAX_CODE:
            raise ProviderFailed("The provider sent no code.")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": asking.verifier,
        }
        headers = {"accept": "application/json"}
        secret = await trio.to_thread.run_sync(self._secret)
        if secret and not endpoints.secret_in_body:
            # RFC 6749, section 2.3.1: both are escaped before they are put together.
            pair = f"{quote(self._client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode('ascii')).decode('ascii')}"
        else:
            form["client_id"] = self._client_id
            if secret:
                form["client_secret"] = secret
        answer = await self._fetch(endpoints.token, "tokens", form=form, headers=headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ProviderFailed("The provider gave no ID token.")
        return await self._check(token, asking.nonce), token

    async def _check(self, token: str, nonce: str) -> SignedIn:
        def check(keys: list[Mapping[str, Any]]) -> SignedIn:
            return check_id_token(
                token, keys, issuer=self.issuer, client_id=self._client_id, nonce=nonce, now=self._wall()
            )

        try:
            try:
                return check(await self._published())
            except BadToken as error:
                if not error.unknown_key:
                    raise
                return check(await self._published(_AGAIN))
        except BadToken as error:
            raise ProviderFailed(str(error)) from None

    # --- what it says of itself -------------------------------------------------------------------------------------

    async def _discovered(self) -> _Endpoints:
        async with self._asking:
            now = self._clock()
            if self._endpoints is None or now - self._endpoints[0] >= _BELIEVED:
                url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
                self._endpoints = now, self._read_endpoints(await self._fetch(url, "its configuration"))
            return self._endpoints[1]

    def _read_endpoints(self, found: Mapping[str, Any]) -> _Endpoints:
        if found.get("issuer") != self.issuer:
            raise ProviderFailed(f"What is at {self.issuer} says that it is another provider.")
        methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return _Endpoints(
            authorization=self._checked(found.get("authorization_endpoint")),
            token=self._checked(found.get("token_endpoint")),
            keys=self._checked(found.get("jwks_uri")),
            names_issuer=found.get("authorization_response_iss_parameter_supported") is True,
            secret_in_body=isinstance(methods, list)
            and "client_secret_basic" not in methods
            and "client_secret_post" in methods,
        )

    def _checked(self, url: object) -> str:
        """An address that the provider names: HTTPS, or on this machine where the provider is."""
        try:
            parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
            good = parts is not None and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment
        except ValueError:
            parts, good = None, False
        if parts is None or not good or not (parts.scheme == "https" or self._is_here(parts.scheme, parts.netloc)):
            raise ProviderFailed("The provider names an address that is no HTTPS one.")
        return parts.geturl()

    def _is_here(self, scheme: str, netloc: str) -> bool:
        own = urlsplit(self.issuer)
        return scheme == "http" == own.scheme and is_loopback(netloc) and is_loopback(own.netloc)

    async def _published(self, older_than: float = _BELIEVED) -> list[Mapping[str, Any]]:
        endpoints = await self._discovered()
        async with self._asking:
            now = self._clock()
            if self._keys is None or now - self._keys[0] >= older_than:
                answer = await self._fetch(endpoints.keys, "its keys")
                keys = answer.get("keys")
                if not isinstance(keys, list):
                    raise ProviderFailed("The provider does not say its keys.")
                self._keys = now, [key for key in keys if isinstance(key, dict)]
            return self._keys[1]

    async def _fetch(
        self,
        url: str,
        what: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object at an address of the provider."""
        told = dict(headers or {})
        content = None
        if form is not None:
            body = urlencode(form).encode("ascii")
            told |= {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
            content = _once(body)
        status, data = 0, b""
        try:
            with trio.move_on_after(_PATIENCE) as patience:
                async with self._http.ask(
                    "GET" if form is None else "POST",
                    url,
                    content=content,
                    headers=told,
                    seconds=_PATIENCE,
                    follow=lambda redirect: False,
                ) as answer:
                    status, data = answer.status, await answer.read(_MAX_ANSWER)
        except HttpFailure as error:
            raise ProviderFailed(f"The provider {self.issuer} could not be asked for {what}: {error}") from None
        if patience.cancelled_caught:
            raise ProviderFailed(f"The provider {self.issuer} did not answer in time when asked for {what}.")
        try:
            found = read_json(data)
        except InvalidJSON:
            found = None
        if status != 200 or not isinstance(found, dict):
            why = found.get("error") if isinstance(found, dict) else None
            said = f", and says {why}" if isinstance(why, str) and why.isprintable() and len(why) < 100 else ""
            raise ProviderFailed(
                f"The provider {self.issuer} answered with status {status} when asked for {what}{said}."
            )
        return found


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
