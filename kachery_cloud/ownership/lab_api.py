"""Asking a lab's node over its API, from a client: requests that are signed, bear a secret, or show nothing.

No redirect is followed, for a signed request or a secret is for one node alone. Answers are bounded.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError, SignInError
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.text import printable, shortened
from kachery_p2p.urls import BadURL, base_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kachery_p2p.repo.keys import NodeKey

#: Seconds for each step of a request.
TIMEOUT = 30.0
#: Bytes of an answer: what a registration says has a proof in it; a list of usage has thousands of rows.
MAX_ANSWER = 4 << 20
_API = "/api/v1"


class Refused(SignInError):
    """Raised when a lab's node says no. `status` is that of HTTP, `reason` its word for it; empty for none."""

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Unreachable(SignInError):
    """Raised when a lab's node does not answer."""


def node_url(text: str) -> str:
    """The URL of a lab's node, as it is kept and asked.

    Raises:
        ConfigError: it is none.
    """
    try:
        return base_url(text, ["/pins", _API])
    except BadURL:
        raise ConfigError(
            f"{shortened(text, 100)!r} is not the URL of a lab's node. It looks like https://lab.example.org; ask "
            "whoever runs the node."
        ) from None


def in_the_clear(url: str) -> bool:
    """Whether others in the network could read what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")


class LabAPI:
    """The API of one node.

    Args:
        url: of the node.
        identity: of this client.
    """

    def __init__(self, url: str, identity: NodeKey) -> None:
        self.url = url
        self._identity = identity

    def about(self) -> dict[str, Any]:
        """What the node is.

        Raises:
            SignInError: there is no lab's node.
        """
        try:
            found = self._ask("GET", "")
        except Refused as refusal:
            # Perhaps it is no lab's node that says so.
            text = f"{self.url} answers with status {refusal.status}: {refusal}"
            raise Refused(text, refusal.status, refusal.reason, refusal.retry_after) from None
        if not isinstance(found.get("peer_id"), str) or not isinstance(found.get("name"), str):
            raise SignInError(f"{self.url} is no lab's node. Ask whoever runs it for its URL.")
        return found

    def signed(self, method: str, path: str, value: Any = None) -> dict[str, Any]:
        """A request that is signed with the key of this client.

        Raises:
            Refused: the node says no.
            Unreachable: it does not answer.
        """
        from kachery_cloud.lab.signed_requests import sign

        body = b"" if value is None else json.dumps(value).encode()
        headers = sign(self._identity, method, f"{self.url}{_API}{path}", body, now=time.time())
        return self._ask(method, path, body, headers)

    def with_secret(self, method: str, path: str, secret: str) -> dict[str, Any]:
        """A request that bears a token, or the secret of a registration.

        Raises:
            Refused: the node says no.
            Unreachable: it does not answer.
        """
        return self._ask(method, path, headers={"Authorization": f"Bearer {secret}"})

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        import httpx

        more = {"Accept": "application/json", **(headers or {})}
        if body:
            more["Content-Type"] = "application/json"
        try:
            with (
                httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream(method, f"{self.url}{_API}{path}", content=body or None, headers=more) as got,
            ):
                text = b""
                for part in got.iter_bytes():
                    text += part
                    if len(text) > MAX_ANSWER:
                        raise SignInError(f"{self.url} answers with more than {MAX_ANSWER:,} bytes.")
        except httpx.HTTPError as error:
            why = shortened(printable(str(error)), 200) or type(error).__name__
            raise Unreachable(f"{self.url} cannot be reached ({why}).") from None
        if got.status_code == 204:
            return {}
        try:
            found = read_json(text)
        except InvalidJSON:
            found = None
        if not got.is_success:
            raise self._refusal(got.status_code, found, got.headers)
        if not isinstance(found, dict):
            raise SignInError(f"{self.url} does not answer as a lab's node does. Ask whoever runs it for its URL.")
        return found

    def _refusal(self, status: int, found: Any, headers: Mapping[str, str]) -> Refused:
        if 300 <= status < 400:
            there = shortened(printable(headers.get("location", "")), 200)
            return Refused(f"{self.url} sends its visitors on to {there or 'elsewhere'}. Give that URL.", status, "")
        said = found.get("error") if isinstance(found, dict) else None
        details = said.get("details") if isinstance(said, dict) else None
        reason = said.get("reason") if isinstance(said, dict) else None
        # A sentence of the lab's says what is wrong; how it came here does not help.
        text = f"{self.url} answers with status {status}: There may be no lab's node."
        if isinstance(details, str) and isinstance(reason, str):
            text = shortened(printable(details), 500)
        after = headers.get("retry-after", "")
        return Refused(
            text,
            status,
            reason if isinstance(reason, str) else "",
            float(after) if after.isdecimal() else None,
        )
