"""The base URLs of servers that users name: gateways, routers, pinning services. One reader for all of them.

Pure, and quick to import: settings are read with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from urllib.parse import urlsplit


class URLFault(Enum):
    """What is wrong with a URL."""

    #: It cannot be taken apart: a port that is no number, a bracket that does not close.
    UNREADABLE = "unreadable"
    #: It has a user, perhaps with a password, which must not be repeated in a message.
    USER = "user"
    #: It has a query or a fragment; a token may stand there, so it must not be repeated, either.
    QUERY = "query"
    #: It is no http or https URL with a host, or it has blanks or control characters in it.
    NOT_HTTP = "not http"


class BadURL(ValueError):
    """A URL is not the base of a server. `fault` says why; `host` is what of it can be shown, or empty."""

    def __init__(self, fault: URLFault, host: str = "") -> None:
        super().__init__(f"not the base URL of a server: {fault.value}")
        self.fault = fault
        self.host = host


def base_url(url: str, endings: Sequence[str] = (), *, user: bool = False) -> str:
    """The base URL of a server: scheme, host in small letters, port and path; no slash at its end.

    Args:
        url: as a user writes it; blanks around it do not count.
        endings: paths such as `/routing/v1` that the server's own ways begin with: each is cut off, in this order.
        user: whether a user and a password may stand in it.

    Raises:
        BadURL: it is no such URL.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise BadURL(URLFault.UNREADABLE) from None
    who, at, where = parts.netloc.rpartition("@")
    if at and not user:
        raise BadURL(URLFault.USER, parts.hostname or "")
    if parts.query or parts.fragment:
        raise BadURL(URLFault.QUERY, parts.hostname or "")
    if not good or not text.isprintable() or " " in text:
        raise BadURL(URLFault.NOT_HTTP)
    path = parts.path.rstrip("/")
    for end in endings:
        path = path.removesuffix(end).rstrip("/")
    return f"{parts.scheme}://{who}{at}{where.lower()}{path}"


def without_user(url: str) -> str:
    """A URL for messages, without the user and the password in it."""
    netloc = urlsplit(url).netloc
    return url.replace(netloc, netloc.rpartition("@")[2], 1)
