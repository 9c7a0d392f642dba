"""Which redirects an HTTP client of ours follows.

A server can answer with another address. It must not use us to reach what it cannot reach itself: another port of its
host, machines of our own network, this machine. So each redirect is checked twice. Its text is checked before it is
followed. The address is checked when the line is open and nothing has been sent yet, because a name can resolve to any
address, and to another one the second time. Where a proxy makes the connection, the proxy decides what may be reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kachery_p2p.addresses import Reach, reach

if TYPE_CHECKING:
    import httpx

_PORTS = {"http": 80, "https": 443}


class NotFollowed(Exception):
    """A redirect is not followed; says why, as a sentence that begins with "It"."""


def check_redirect(before: str, after: str) -> None:
    """Look at the text of a redirect.

    Raises:
        NotFollowed: it leads off TLS, off HTTP, to another port of the same host, or from far away to an address that
            is nearer to us; or a user or password stands in it.
    """
    old, new = urlsplit(before), urlsplit(after)
    host = new.hostname or ""
    if new.scheme not in _PORTS or not host:
        raise NotFollowed("It sends us on to what is no HTTP address.")
    if "@" in new.netloc:
        raise NotFollowed(f"It sends us on to {host} with a user in the address.")
    if old.scheme == "https" and new.scheme != "https":
        raise NotFollowed(f"It sends us on to {host} without encryption.")
    far, near = reach(old.hostname or ""), reach(host)
    if near < far:
        raise NotFollowed(f"It sends us on to {host}, which is an address of our own network.")
    if (_same_host(old.hostname or "", host) or near is Reach.LOOPBACK) and not same_port(before, after):
        raise NotFollowed(f"It sends us on to another port of {host}.")


def same_port(before: str, after: str) -> bool:
    """Whether two URLs have the same port; from http to https on the usual ports counts as the same."""
    old, new = _port(before), _port(after)
    return old[1] == new[1] or (old, new) == (("http", 80), ("https", 443))


def _port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        return parts.scheme, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return parts.scheme, -1


def _same_host(one: str, other: str) -> bool:
    return one.rstrip(".").lower() == other.rstrip(".").lower()


class RedirectWatch:
    """Looks at the addresses that the requests of one client connect to.

    Ask `first` and `redirected` for what to give a request as its `trace` extension.
    """

    def __init__(self) -> None:
        #: By host name of our own choice: how far the address reached that it stood for.
        self._reached: dict[str, Reach] = {}

    def first(self, request: httpx.Request) -> dict[str, Any]:
        """The extensions of a request to an address from our settings: whatever it resolves to is fine."""
        return {**request.extensions, "trace": self._trace(_host(request), None)}

    def redirected(self, request: httpx.Request, first: httpx.Request) -> dict[str, Any]:
        """The extensions of a request that a redirect made, when `first` was the one that we began with."""
        host, begun = _host(request), _host(first)
        if _same_host(host, begun):
            return {**request.extensions}
        nearest = min(reach(begun), self._reached.get(begun, Reach.PUBLIC))
        return {**request.extensions, "trace": self._trace(host, nearest)}

    def _trace(self, host: str, nearest: Reach | None) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
        connecting = ""

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal connecting
            if event == "connection.connect_tcp.started":
                connecting = str(info["host"])
            elif event == "connection.connect_tcp.complete" and connecting == host:  # else it is a proxy
                stream = info["return_value"]
                found = reach(str(stream.get_extra_info("server_addr")[0]))
                if nearest is None:
                    self._reached[host] = found
                elif found < nearest:
                    await stream.aclose()
                    raise NotFollowed(f"It sends us on to {host}, whose address is one of our own network.")

        return trace


def _host(request: httpx.Request) -> str:
    return request.url.raw_host.decode("ascii")
