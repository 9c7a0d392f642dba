"""`/ipns/<name>`: where a name points now, and the record that says so.

Follows https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/. A name may point to something
else tomorrow, so caches are told to keep what is found there for as long as its record says, and no longer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, InvalidCID, InvalidName, UnsupportedCID
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.content import Content
from kachery_p2p.gateway.server.paths import TYPES, PathRefusal
from kachery_p2p.gateway.server.replies import HttpReply
from kachery_p2p.gateway.server.request import Request

T = TypeVar("T")


class Target(Protocol):
    """Where a name points: `path` is `/ipfs/<cid>...`, for the next `ttl` seconds. `names` are those on the way."""

    @property
    def path(self) -> str: ...

    @property
    def ttl(self) -> float: ...

    @property
    def names(self) -> tuple[str, ...]: ...


class NameRecord(Protocol):
    """The record of a name: `raw` as it was signed, to be believed for the next `ttl` seconds."""

    @property
    def raw(self) -> bytes: ...

    @property
    def ttl(self) -> float: ...


class NameSource(Protocol):
    """Resolves names, as `kachery_p2p.routing.ipns.service.Names` does. Without seconds to wait, nobody is asked.

    `owns` says whether a name is one of this machine.
    """

    async def resolve(self, text: str, *, timeout: float) -> Target: ...

    async def record(self, text: str, *, timeout: float) -> NameRecord: ...

    async def owns(self, text: str) -> bool: ...


class GatewayNames:
    """The names that a gateway resolves.

    Args:
        source: who knows them; None where none are resolved.
        turns: how many are looked for at once.
        asks: whether others are asked for them; else those of this machine are known, and those that were seen lately.
    """

    def __init__(self, source: NameSource | None, turns: trio.CapacityLimiter, *, asks: bool) -> None:
        self._source = source
        self._asks = asks
        self._turns = turns

    async def follow(self, request: Request, name: str, content: Content) -> None:
        """Find out where the name of a request points.

        A name of this machine that points to something which whoever asks may not see is one that points nowhere yet.

        Args:
            request: that has the name in its path.
            name: the name.
            content: as whoever asks sees it.

        Raises:
            PathRefusal: it points to no content, or that cannot be found out.
        """
        source = self._known(request)
        found = await self._ask(request, name, lambda seconds: source.resolve(name, timeout=seconds))
        head, *names = [part for part in found.path.removeprefix("/ipfs/").split("/") if part] or [""]
        try:
            root = CID.parse(head)
        except (InvalidCID, UnsupportedCID) as error:
            raise _bad(request, f"{name} points to no content: {error}") from None
        if any(part in (".", "..") or "\0" in part for part in names):
            raise _bad(request, f"{name} points to {found.path[:200]!a}, a path that cannot be followed.")
        if await content.is_hidden(root):
            for each in found.names:
                if await source.owns(each):
                    raise self._unknown(request, name)
        request.leads_to(root, tuple(names), found.ttl)

    async def record(self, request: Request, name: str, content: Content) -> HttpReply:
        """The record of a name, as it was signed. Arguments as for `follow`.

        Raises:
            PathRefusal: there is none, or it cannot be found.
        """
        source = self._known(request)
        if content.guards and await source.owns(name):
            await self.follow(request, name, content)
        found = await self._ask(request, name, lambda seconds: source.record(name, timeout=seconds))
        etag = f'"{hashlib.sha256(found.raw).hexdigest()[:32]}.ipns-record"'
        how = f"public, max-age={int(found.ttl)}"
        if request.has(etag):
            return request.not_modified(etag, how)
        headers = {
            **request.cached(etag, how),
            "content-type": TYPES["ipns-record"],
            **request.attached(f"{name}.ipns-record"),
        }
        return HttpReply(200, headers, found.raw)

    def _known(self, request: Request) -> NameSource:
        if self._source is None:
            raise PathRefusal(
                501, "This gateway does not resolve names (/ipns/). Ask for /ipfs/<cid>.", request.headers_found
            )
        return self._source

    async def _ask(self, request: Request, name: str, ask: Callable[[float], Awaitable[T]]) -> T:
        seconds = limits.RESOLVE_SECONDS if self._asks and not request.only_if_cached else 0.0
        try:
            async with self._turns:
                return await ask(seconds)
        except ContentNotFound as error:
            raise self._unknown(request, name) from error
        except InvalidName as error:
            raise _bad(request, str(error)) from error

    def _unknown(self, request: Request, name: str) -> PathRefusal:
        if request.only_if_cached:
            return PathRefusal(412, "", request.headers_found)
        if not self._asks:
            message = f"Where {name} points is not known on this machine, and this gateway asks nobody."
            return PathRefusal(404, message, request.headers_found)
        again = {"retry-after": str(limits.RETRY_AFTER), **request.headers_found}
        return PathRefusal(504, f"Nobody who was asked in time could say where {name} points.", again)


def _bad(request: Request, message: str) -> PathRefusal:
    """Who publishes the name has made a mistake, and neither the asker nor this gateway can mend it."""
    return PathRefusal(502, message, request.headers_found)
