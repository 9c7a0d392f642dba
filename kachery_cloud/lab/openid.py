"""An OpenID provider as the lab asks it: discovery, the authorization code flow with PKCE, keys.

What is said in which words is in `kachery_cloud.openid`. The provider's address is a setting. What it says of itself
is fetched there and believed for an hour; all that it names has to be HTTPS as well, unless it is on this machine. No
redirect is followed, and answers are small. Keys are fetched again when a token is by one that is not known, which is
how providers change theirs; at most once a minute.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import trio

from kachery_cloud.lab.id_tokens import BadToken, SignedIn, check_id_token, keys_of
from kachery_cloud.openid import (
    MAX_ANSWER,
    AnotherIssuer,
    BadProvider,
    configuration_url,
    random_text,
    read_provider,
    sign_in_url,
    token_requests,
)
from kachery_cloud.openid import Provider as Described
from kachery_p2p.http import HttpBounds, HttpClient, HttpFailure
from kachery_p2p.json_reader import InvalidJSON, read_json

#: Seconds for an answer; somebody waits before a browser.
_PATIENCE = 20.0
#: Seconds for which what a provider says of itself, and its keys, are believed; and between two looks for newer keys.
_BELIEVED = 3600.0
_AGAIN = 60.0
_BOUNDS = HttpBounds(connect=10.0, redirects=0, connections=8, idle=2)
#: Characters of a code.
_MAX_CODE = 4096


class ProviderFailed(Exception):
    """The provider could not be asked, or answered with what it should not. The message is a sentence for people.

    Attributes:
        error: its word for it (RFC 6749, section 5.2), or empty.
    """

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class Asking:
    """One sign-in that has begun. What is in it comes back with the browser."""

    state: str
    nonce: str
    verifier: str


class ProviderClient:
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
        self._described: tuple[float, Described] | None = None
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
        provider = await self._discovered()
        asking = Asking(random_text(), nonce or random_text(), random_text(48))
        url = sign_in_url(
            provider,
            self._client_id,
            redirect_uri,
            state=asking.state,
            nonce=asking.nonce,
            verifier=asking.verifier,
        )
        return url, asking

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
        provider = await self._discovered()
        if not provider.answers(issuer):
            raise ProviderFailed("The answer is that of another provider.")
        if not 0 < len(code) <= _MAX_CODE:
            raise ProviderFailed("The provider sent no code.")
        ways = token_requests(
            provider,
            self._client_id,
            await trio.to_thread.run_sync(self._secret),
            redirect=redirect_uri,
            verifier=asking.verifier,
            code=code,
        )
        answer: dict[str, Any] = {}
        for number, way in enumerate(ways, 1):
            try:
                answer = await self._fetch(provider.token, "tokens", form=way.form, headers=way.headers)
            except ProviderFailed as refusal:
                if refusal.error != "invalid_client" or number == len(ways):
                    raise
            else:
                break
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

    async def _discovered(self) -> Described:
        async with self._asking:
            now = self._clock()
            if self._described is None or now - self._described[0] >= _BELIEVED:
                said = await self._fetch(configuration_url(self.issuer), "its configuration")
                try:
                    self._described = now, read_provider(self.issuer, said)
                except AnotherIssuer:
                    raise ProviderFailed(f"What is at {self.issuer} says that it is another provider.") from None
                except BadProvider as error:
                    raise ProviderFailed(f"The provider {self.issuer} {error}.") from None
            return self._described[1]

    async def _published(self, older_than: float = _BELIEVED) -> list[Mapping[str, Any]]:
        provider = await self._discovered()
        async with self._asking:
            now = self._clock()
            if self._keys is None or now - self._keys[0] >= older_than:
                answer = await self._fetch(provider.keys, "its keys")
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
                    status, data = answer.status, await answer.read(MAX_ANSWER)
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
            why = why if isinstance(why, str) and why.isprintable() and len(why) < 100 else ""
            said = f", and says {why}" if why else ""
            raise ProviderFailed(
                f"The provider {self.issuer} answered with status {status} when asked for {what}{said}.", why
            )
        return found


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
