"""The gateway as an ASGI application: https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/.

    GET, HEAD  /ipfs/<cid>[/<name>...]     a file (or part of it), the page of a directory; a block; a CAR
    GET, HEAD  /ipns/<name>[/<name>...]    the same of what a name points to; the name's record
    OPTIONS    anything                    yes, any web page may ask
    GET, HEAD  /, /health                  what this is
    GET, HEAD  other paths                 pages of the program that runs it (`sites`)

What a CID leads to never changes, so its CID is the ETag and caches may keep it; what a name leads to they keep for as
long as its record says. What is for everyone can be read by anyone who knows a CID and can reach the port: there are no
cookies and no writing. That is why any origin is let in (CORS), and why a Host that is a name of somebody's
is not: see `paths.check_host`. What is for some alone is not here for those who ask without a word. With the token of
the user (`token`) everything is read that the user may read; such answers are for no cache that others use, and for no
page of another origin, but those that the user has named.

A browser may ask its user before a page of the internet asks this machine or its network at all
(https://wicg.github.io/local-network-access/): that is between the two, and there is no header for it. Older browsers
sent a preflight for it (Private Network Access), which is answered yes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import trio
from starlette.datastructures import Headers

from kachery_p2p.errors import KacheryError
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.content import Content
from kachery_p2p.gateway.server.formats import answer_for
from kachery_p2p.gateway.server.names import GatewayNames, NameSource
from kachery_p2p.gateway.server.pages import PAGE_HEADERS, error_page, welcome_page
from kachery_p2p.gateway.server.paths import NamePath, PathRefusal, check_host, parse_path
from kachery_p2p.gateway.server.replies import ALLOWED_HEADERS, METHODS, HttpReply, Send
from kachery_p2p.gateway.server.request import Request, refusal_for
from kachery_p2p.gateway.server.sites import Site, SiteFiles
from kachery_p2p.gateway.server.token import is_bearer, shows_token
from kachery_p2p.http_server import Turns, framing_fault

log = logging.getLogger("kachery_p2p.gateway")


class GatewayApp:
    """The ASGI application.

    Args:
        names: host names by which it may be called, besides addresses and localhost.
        agent: what the page of the gateway says it is.
        resolver: resolves `/ipns/` names; None where none are.
        token: reads the token of the user, in a thread; None where there is none, and nobody is the user.
        origins: of pages that may use the token, such as `https://lab.example.org`.
        sites: what else is served.
    """

    def __init__(
        self,
        content: Content,
        *,
        names: Iterable[str] = (),
        agent: str = "kachery-cloud",
        resolver: NameSource | None = None,
        token: Callable[[], str | None] = lambda: None,
        origins: Iterable[str] = (),
        sites: Sequence[Site] = (),
    ) -> None:
        self._origins = frozenset(origins)
        self._sites = [SiteFiles(site) for site in sites]
        self._content = content
        self._own = content.for_user()
        self._token = token
        self._resolver = resolver
        self._resolves = trio.CapacityLimiter(limits.MAX_RESOLVES)
        self._names = frozenset(names)
        self._agent = agent
        self._limits = content.limits
        self._turns = Turns(content.limits)

    @property
    def fetches(self) -> bool:
        """Whether what is not here is fetched from the network."""
        return self._own.fetches

    @property
    def crowded(self) -> bool:
        """Whether requests wait for their turn."""
        return self._turns.waiting > 0

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: Send) -> None:
        """Answer one request, when it is its turn. Other kinds than HTTP are not answered, which ends them."""
        if scope["type"] != "http":
            return
        method = scope["method"]
        full = HttpReply.text(
            503, "This gateway has too much to do. Try again.", {"retry-after": str(limits.RETRY_AFTER)}
        )
        client = scope.get("client") or ("",)
        async with self._turns.take(client[0]) as taken:
            answer = await self._answer(scope, method) if taken else full
            if _has_body(scope) and scope["http_version"].startswith("1"):
                # Nothing here reads a body. What follows it on the connection could be taken for another request by
                # whoever stands between, so nothing may follow.
                answer.headers["connection"] = "close"
            await answer.send(method, send, patience=2 * self._limits.send_seconds)

    async def _answer(self, scope: Mapping[str, Any], method: str) -> HttpReply:
        headers = Headers(raw=list(scope["headers"]))
        try:
            _check_framing(scope)
            check_host(headers.get("host"), self._names)
            if method == "OPTIONS":
                return _preflight(headers, self._origins)
            if method not in ("GET", "HEAD"):
                raise PathRefusal(405, f"This gateway only gives out data: {METHODS}.", {"allow": METHODS})
            if await self._is_user(headers):
                return _for_one_alone(await self._found(scope, method, headers, self._own), headers.get("origin"))
            return await self._found(scope, method, headers, self._content)
        except PathRefusal as refusal:
            return _refused(refusal, headers)

    async def _is_user(self, headers: Headers) -> bool:
        """Whether a request is the user's.

        Raises:
            PathRefusal: 401 for a wrong token; 403 where a page of another origin shows any.
        """
        header = headers.get("authorization")
        if header is None:
            return False
        origin = headers.get("origin")
        if (
            is_bearer(header)
            and origin is not None
            and not _same_origin(origin, headers)
            and origin not in self._origins
        ):
            raise PathRefusal(
                403,
                f"Pages of {origin[:80]!a} may not use the token of this gateway. What is public is given without it. "
                "The user of this gateway can allow them with the setting gateway_origins.",
                {"vary": "Authorization, Origin"},
            )
        try:
            token = await self._content.in_thread(self._token)
        except KacheryError as error:
            log.warning("the token of the gateway cannot be read: %s", error)
            token = None
        shown = shows_token(header, token)
        if shown is False:
            raise PathRefusal(
                401,
                "This is not the token of this gateway. On its machine, kachery-cloud gateway-token prints it.",
                {"www-authenticate": 'Bearer realm="kachery-cloud", error="invalid_token"', "vary": "Authorization"},
            )
        return bool(shown)

    async def _found(self, scope: Mapping[str, Any], method: str, headers: Headers, content: Content) -> HttpReply:
        """The answer to a GET or HEAD, of what may be seen in `content`."""
        try:
            return await self._content_at(scope, method, headers, content)
        except PathRefusal as refusal:
            return _refused(refusal, headers)

    async def _content_at(self, scope: Mapping[str, Any], method: str, headers: Headers, content: Content) -> HttpReply:
        """The same.

        Raises:
            PathRefusal: there is none.
        """
        raw = scope["raw_path"].decode("ascii", "replace")
        if raw == "/":
            links = [(each.site.path, each.site.title) for each in self._sites if each.site.title]
            page = welcome_page(self._agent, fetches=self.fetches, links=links)
            return HttpReply(200, {**PAGE_HEADERS, "cache-control": "no-cache"}, page)
        if raw == "/health":
            about = {"status": "ok", "agent": self._agent, "fetch": self.fetches}
            body = json.dumps(about).encode()
            return HttpReply(200, {"content-type": "application/json", "cache-control": "no-store"}, body)
        for files in self._sites:
            if raw.startswith(files.site.path):
                name, host = raw.removeprefix(files.site.path), headers.get("host", "")
                found = await content.in_thread(lambda: files.reply(name, host, headers))  # noqa: B023 - run at once
                if found is None:
                    raise PathRefusal(404, f"There is no {name[:80]!a} here.")
                return found
            if raw == files.site.path.rstrip("/"):
                raise PathRefusal(301, f"This is at {files.site.path}", {"location": files.site.path})
        if len(scope["query_string"]) > limits.MAX_QUERY_LENGTH:
            raise PathRefusal(414, "The part of the address behind the question mark is too long.")
        query = scope["query_string"].decode("ascii", "replace")
        request = Request(parse_path(raw), query, headers, head=method == "HEAD")
        try:
            if isinstance(request.path, NamePath):
                names = GatewayNames(self._resolver, self._resolves, asks=self.fetches)
                if request.wanted.format == "ipns-record":
                    return await names.record(request, request.path.name, content)
                await names.follow(request, request.path.name, content)
            return await answer_for(content, request, [each.site for each in self._sites])
        except KacheryError as error:
            raise refusal_for(error, request) from error


def _refused(refusal: PathRefusal, headers: Headers) -> HttpReply:
    """That something is refused: as a page where a browser shows it, else as a line of text."""
    if not refusal.message:
        return HttpReply(refusal.status, {"cache-control": "no-store", **refusal.headers})
    if "text/html" in headers.get("accept", ""):
        said = {"cache-control": "no-store", "vary": "Accept", **refusal.headers, **PAGE_HEADERS}
        return HttpReply(refusal.status, said, error_page(refusal.status, refusal.message))
    return HttpReply.text(refusal.status, refusal.message, refusal.headers)


def _same_origin(origin: str, headers: Headers) -> bool:
    """Whether a page is of this gateway. By which scheme it is spoken to, a proxy before it may know alone."""
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and host != "" and host == headers.get("host", "").lower()


def _for_one_alone(reply: HttpReply, origin: str | None) -> HttpReply:
    """An answer to the user: no cache may keep it that others use, nor give it to a request without the token.

    A page of another origin that asks is one that may.
    """
    caching = reply.headers.get("cache-control", "")
    kept = [each for each in (part.strip() for part in caching.split(",")) if each and each != "public"]
    reply.headers["cache-control"] = ", ".join(["private", *kept])
    reply.headers["vary"] = ", ".join(filter(None, (reply.headers.get("vary"), "Authorization, Origin")))
    if origin is not None:
        reply.headers["access-control-allow-origin"] = origin
    return reply


def _preflight(headers: Headers, origins: frozenset[str]) -> HttpReply:
    """A browser asks whether a page of another origin may ask us. It may, for what can be asked at all.

    The token it may show where the user has named it.
    """
    allowed = {
        "access-control-max-age": "86400",
        "allow": METHODS,
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
    }
    origin = headers.get("origin")
    if origin is not None and origin in origins:
        allowed["access-control-allow-origin"] = origin
        allowed["access-control-allow-headers"] = f"Authorization, {ALLOWED_HEADERS}"
    if headers.get("access-control-request-private-network") == "true":
        # A public page asks for something on this machine: to know the CID is all the permission there is.
        allowed["access-control-allow-private-network"] = "true"
    return HttpReply(204, allowed)


def _has_body(scope: Mapping[str, Any]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in scope["headers"]
    )


def _check_framing(scope: Mapping[str, Any]) -> None:
    """Refuse what `framing_fault` finds.

    Raises:
        PathRefusal: 400, 431.
    """
    fault = framing_fault(scope)
    if fault is not None:
        raise PathRefusal(*fault)
