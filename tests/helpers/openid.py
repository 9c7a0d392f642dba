"""An OpenID provider on loopback as a stand-in for Google, and what a browser does at it, over plain HTTP.

    with OpenIDProvider(clients=[web_client("http://127.0.0.1:8095/sign-in/callback")]) as provider:
        browser = Browser()
        back = browser.sign_in("http://127.0.0.1:8095/sign-in", "ada")  # where the provider sends the browser back to
        page = browser.get(back)

The provider is the npm package `oidc-provider`, which `scripts/peers/install` brings;
`scripts/peers/openid_provider.mjs` runs it, and has the other requests that `OpenIDProvider.call` takes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from scripts.peers import places
from scripts.peers.peer import Peer, PeerError

#: Users that a provider has unless it is told others.
ADA: dict[str, Any] = {"sub": "ada", "name": "Ada Lovelace", "email": "ada@example.org"}
GRACE: dict[str, Any] = {"sub": "grace", "name": "Grace Hopper", "email": "grace@example.org"}

#: The client that programs on people's machines sign in with; Google gives such a one a secret that is none.
DESKTOP_ID = "desktop"
DESKTOP_SECRET = "known-to-everybody"
DESKTOP: dict[str, Any] = {
    "client_id": DESKTOP_ID,
    "client_secret": DESKTOP_SECRET,
    "application_type": "native",  # any port of 127.0.0.1 will do
    "redirect_uris": ["http://127.0.0.1/"],
    "grant_types": ["authorization_code"],
    "response_types": ["code"],
}

_MOST_STEPS = 20
_SECONDS = 60.0


def web_client(*redirect_uris: str, client_id: str = "lab", client_secret: str = "lab-secret") -> dict[str, Any]:
    """A client as a lab's node registers one. It authenticates by HTTP Basic.

    Args:
        redirect_uris: where the provider may send browsers back to; each is compared as a whole.
        client_id: its name there.
        client_secret: its secret there.
    """
    return {
        "client_id": client_id,
        "client_secret": client_secret,
        "redirect_uris": list(redirect_uris),
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
    }


class OpenIDProvider(Peer):
    """A provider on a loopback port. Use as a context manager, or call `stop()`.

    Attributes:
        issuer: its URL, without a slash at the end.
    """

    def __init__(
        self,
        *,
        clients: Sequence[Mapping[str, Any]] = (DESKTOP,),
        users: Sequence[Mapping[str, Any]] = (ADA, GRACE),
        port: int = 0,
    ) -> None:
        """Starts it.

        Args:
            clients: as in OpenID Connect Dynamic Client Registration; see `DESKTOP` and `web_client`.
            users: their claims: "sub", "name", "email", and others such as "email_verified" or "hd".
            port: of 127.0.0.1; 0 for a free one.

        Raises:
            PeerError: it does not become ready.
        """
        reason = places.missing()
        if reason is not None:
            raise PeerError(reason)
        command = [str(places.node_program()), str(places.HERE / "openid_provider.mjs"), "--port", str(port)]
        command += ["--setup", json.dumps({"clients": list(clients), "users": list(users)})]
        super().__init__(command, folder=Path(tempfile.mkdtemp(prefix="openid-")), temporary=True)
        self.issuer = self.addrs[0]

    def add_client(self, client: Mapping[str, Any]) -> None:
        """Registers one more client, or another one under the same ID."""
        self.call("client", client=client)

    def add_user(self, user: Mapping[str, Any]) -> None:
        """Makes a user, or changes one."""
        self.call("user", user=user)

    def rotate(self, *, drop: bool = False) -> str:
        """Signs with a new key from now on; with `drop` the old ones are published no longer. Returns its `kid`."""
        return str(self.call("rotate", drop=drop)["kid"])

    def keys(self) -> dict[str, Any]:
        """The key set that it publishes."""
        return self.call("keys")

    def set_clock(self, offset: float) -> None:
        """Puts its clock so many seconds ahead of this machine's."""
        self.call("clock", offset=offset)

    def set_lifetime(self, seconds: int) -> None:
        """For how long ID tokens are good from now on."""
        self.call("lifetime", seconds=seconds)

    def sign_as_stranger(self, on: bool = True) -> None:
        """Signs ID tokens by the key of another issuer, while it publishes its own."""
        self.call("stranger", on=on)

    def go_down(self, on: bool = True) -> None:
        """Answers everything with status 503."""
        self.call("down", on=on)

    def token(self, claims: Mapping[str, Any], *, key: str = "own", header: Mapping[str, Any] | None = None) -> str:
        """A JWT of any content.

        Args:
            claims: all of them; nothing is added.
            key: "own", "stranger" (another issuer's, under the `kid` of its own), "none" (unsigned), or "public"
                (HS256 with the published key as the secret).
            header: goes before what the header would have.
        """
        return str(self.call("token", claims=claims, key=key, header=header or {})["token"])


class Browser:
    """What a person with a browser does, without one: cookies, redirects, and the forms of the provider."""

    def __init__(self) -> None:
        self.http = httpx.Client(timeout=_SECONDS, trust_env=False)

    def get(self, address: str) -> httpx.Response:
        """Opens an address and follows where it leads."""
        return self.http.get(address, follow_redirects=True)

    def sign_in(self, address: str, user: str = "ada", *, allow: bool = True) -> str:
        """Opens an address that leads to the provider, signs in there and allows what is asked for.

        Args:
            address: of the provider, or one that redirects there.
            user: the `sub` of the user.
            allow: False to say no when asked whether the client may know who one is.

        Returns:
            The address that the provider sends the browser back to. It was not opened yet.

        Raises:
            AssertionError: the provider shows something else; has its text.
        """
        response = self.http.get(address)
        provider: str | None = None
        for _ in range(_MOST_STEPS):
            here = str(response.url)
            if response.is_redirect:
                there = urljoin(here, response.headers["location"])
                # Who is still signed in at the provider sees no page there.
                if _is_answer(there) or (provider is not None and _origin(there) != provider):
                    return there
                response = self.http.get(there)
                continue
            assert response.status_code == 200, f"{here}: {response.status_code} {response.text}"
            provider = _origin(here)
            response = self.http.post(here, data=_answer(response.text, user, allow))
        raise AssertionError(f"it goes round in circles, at last at {response.url}")

    def close(self) -> None:
        """Lets the connections go."""
        self.http.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _answer(page: str, user: str, allow: bool) -> dict[str, str]:
    if 'name="login"' in page:
        assert f'value="{user}"' in page, f"no user {user}: {page}"
        return {"login": user}
    assert 'name="allow"' in page, page
    return {"allow": "1"} if allow else {"deny": "1"}


def _is_answer(address: str) -> bool:
    query = parse_qs(urlsplit(address).query)
    return "state" in query and ("code" in query or "error" in query)


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
