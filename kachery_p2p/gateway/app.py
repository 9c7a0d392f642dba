"""The gateway as an ASGI application: https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/.

    GET, HEAD  /ipfs/<cid>[/<name>...]     a file (or part of it), the page of a directory; a block; a CAR
    OPTIONS    anything                    yes, any web page may ask
    GET, HEAD  /, /health                  what this is

What a CID leads to never changes, so its CID is the ETag and caches may keep it. Everything here can be read by
anyone who knows a CID and can reach the port: there are no secrets, no cookies and no writing. That is why any origin
is let in (CORS), and why a Host that is a name of somebody's is not: see `paths.check_host`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import trio
from starlette.datastructures import Headers

from ..dag.cid import DAG_PB, RAW
from ..dag.nodes import symlink_target
from ..dag.unixfs import Kind
from ..errors import (
    ContentNotFound,
    DiskFull,
    InvalidName,
    KacheryError,
    MalformedDag,
    NotADirectory,
    PathNotFound,
    UnsupportedCID,
)
from . import server_limits as limits
from .cars import CarPieces, CarRequest
from .content import Content, Found, NotHere
from .pages import (
    PAGE_HEADERS,
    content_headers,
    directory_etag,
    directory_page,
    disposition,
    type_by_content,
    type_by_name,
    welcome_page,
)
from .paths import RAW_TYPE, ContentPath, Refusal, Wanted, check_host, parse_path, wanted_format
from .ranges import entity_bytes, matches, requested_range

log = logging.getLogger("kachery_p2p.gateway")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Pieces = AsyncGenerator[bytes, None]

#: As long as caches keep anything: 48 weeks, the figure of the specification.
_FOR_EVER = "public, max-age=29030400, immutable"
#: A page that is generated may look better next week.
_GENERATED = "public, max-age=604800, stale-while-revalidate=2678400"
_METHODS = "GET, HEAD, OPTIONS"
_ALWAYS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Location, "
    "Content-Range, ETag, Retry-After, X-Ipfs-Path, X-Ipfs-Roots",
    # Pages that keep others out (COEP, as those with shared memory do) may use us, too.
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}


class Answer:
    """Status, headers, and a body: bytes, or pieces that are read while they are sent."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes | Pieces = b"") -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body

    @classmethod
    def text(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        return cls(
            status,
            {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **(headers or {})},
            message.encode("utf-8", "replace") + b"\n",
        )

    async def send(self, method: str, send: Send) -> None:
        headers = {**_ALWAYS, **self.headers}
        if isinstance(self.body, bytes) and self.status not in (204, 304):
            headers.setdefault("content-length", str(len(self.body)))
        if method == "HEAD" or isinstance(self.body, bytes):
            await self._start(send, headers)
            await _send_body(send, self.body if isinstance(self.body, bytes) and method != "HEAD" else b"", more=False)
            return
        async with contextlib.aclosing(self.body) as pieces:
            await self._start(send, headers)
            try:
                async for piece in pieces:
                    await _send_body(send, piece, more=True)
            except (KacheryError, trio.TooSlowError) as error:
                # The status is sent. All that can be said now is that the body is cut short: it is not ended.
                log.info("an answer was cut short: %s", error)
                return
            await _send_body(send, b"", more=False)

    async def _start(self, send: Send, headers: Mapping[str, str]) -> None:
        encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})


async def _send_body(send: Send, data: bytes, *, more: bool) -> None:
    # Over HTTP/2 a reader that stands still shows only here; over HTTP/1.1 the connection notices first.
    with trio.fail_after(2 * limits.SEND_SECONDS):
        await send({"type": "http.response.body", "body": data, "more_body": more})


class _Turns:
    """How many requests are answered at once, of all and of each address; the others wait."""

    def __init__(self) -> None:
        self._all = trio.CapacityLimiter(limits.MAX_RUNNING)
        self._each: dict[str, trio.CapacityLimiter] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def take(self, address: str) -> AsyncIterator[bool]:
        """Wait for a turn, and have it while this lasts; False when there is none to be had."""
        if self._waiting >= limits.MAX_WAITING:
            yield False
            return
        own = self._each.setdefault(address, trio.CapacityLimiter(limits.MAX_RUNNING_EACH))
        try:
            async with contextlib.AsyncExitStack() as held:
                self._waiting += 1
                try:
                    with trio.move_on_after(limits.WAIT_SECONDS) as patience:
                        for limiter in (own, self._all):
                            await limiter.acquire()
                            held.callback(limiter.release)
                finally:
                    self._waiting -= 1
                yield not patience.cancelled_caught
        finally:
            if not own.borrowed_tokens and not own.statistics().tasks_waiting:
                self._each.pop(address, None)


class Gateway:
    """The ASGI application.

    Args:
        names: host names by which it may be called, besides addresses and localhost.
        agent: what the page of the gateway says it is.
    """

    def __init__(self, content: Content, *, names: Iterable[str] = (), agent: str = "kachery-cloud") -> None:
        self._content = content
        self._names = frozenset(names)
        self._agent = agent
        self._turns = _Turns()

    @property
    def fetches(self) -> bool:
        """Whether what is not here is fetched from the network."""
        return self._content.fetches

    @property
    def crowded(self) -> bool:
        """Whether requests wait for their turn."""
        return self._turns.waiting > 0

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: Send) -> None:
        """Answer one request, when it is its turn. Other kinds than HTTP are not answered, which ends them."""
        if scope["type"] != "http":
            return
        method = scope["method"]
        full = Answer.text(503, "This gateway has too much to do. Try again.", {"retry-after": str(limits.RETRY_AFTER)})
        client = scope.get("client") or ("",)
        async with self._turns.take(client[0]) as taken:
            answer = await self._answer(scope, method) if taken else full
            await answer.send(method, send)

    async def _answer(self, scope: Mapping[str, Any], method: str) -> Answer:
        headers = Headers(raw=list(scope["headers"]))
        try:
            check_host(headers.get("host"), self._names)
            if method == "OPTIONS":
                return _preflight(headers)
            if method not in ("GET", "HEAD"):
                raise Refusal(405, f"This gateway only gives out data: {_METHODS}.", {"allow": _METHODS})
            raw = scope["raw_path"].decode("ascii", "replace")
            if raw == "/":
                page = welcome_page(self._agent, fetches=self._content.fetches)
                return Answer(200, {**PAGE_HEADERS, "cache-control": "no-cache"}, page)
            if raw == "/health":
                about = {"status": "ok", "agent": self._agent, "fetch": self._content.fetches}
                body = json.dumps(about).encode()
                return Answer(200, {"content-type": "application/json", "cache-control": "no-store"}, body)
            if len(scope["query_string"]) > limits.MAX_QUERY_LENGTH:
                raise Refusal(414, "The part of the address behind the question mark is too long.")
            request = _Request(parse_path(raw), scope["query_string"].decode("ascii", "replace"), headers)
            request.head = method == "HEAD"
            try:
                return await self._content_answer(request)
            except KacheryError as error:
                raise _refusal(error, request) from error
        except Refusal as refusal:
            return Answer.text(refusal.status, refusal.message, refusal.headers)

    async def _content_answer(self, request: _Request) -> Answer:
        path, wanted = request.path, request.wanted
        found = await self._content.find(path.root, path.names, fetch=not request.only_if_cached)
        request.found(found)
        if wanted.format == "raw":
            return self._raw(request, found)
        if wanted.format == "car":
            return await self._car(request, found)
        kind = found.kind
        if kind in (Kind.DIRECTORY, Kind.HAMT_SHARD):
            return await self._directory(request, found)
        if kind is Kind.SYMLINK:
            return Answer(
                200,
                {**request.cached(f'"{found.cid}"', _FOR_EVER), "content-type": "inode/symlink"},
                symlink_target(found.block, found.cid).encode("utf-8", "replace"),
            )
        return await self._file(request, found, path.names[-1] if path.names else "")

    # --- kinds of answers

    def _raw(self, request: _Request, found: Found) -> Answer:
        etag = f'"{found.cid}.raw"'
        if request.has(etag):
            return request.not_modified(etag)
        name = request.query.get("filename") or f"{found.cid}.bin"
        headers = {"content-type": RAW_TYPE, "content-disposition": disposition("attachment", name)}
        return Answer(200, {**request.cached(etag, _FOR_EVER), **headers}, found.block)

    async def _car(self, request: _Request, found: Found) -> Answer:
        car = request.car()
        etag = car.etag(request.path.text)
        if request.has(etag):
            return request.not_modified(etag)
        if self._content.fetches and not request.only_if_cached:
            await self._fetch_for_car(car, found)
        if car.part is not None and found.kind in (Kind.FILE, Kind.RAW):
            first, size = car.part[0], found.size
            if first >= size > 0:
                raise Refusal(400, f"entity-bytes begins at {first}, and the file has {size} bytes.")
        pieces = CarPieces(self._content, found, car)
        first = await self._content.in_thread(pieces.next)  # what is wrong at once is told by the status

        async def body() -> Pieces:
            piece = first
            while piece:
                yield piece
                piece = await self._content.in_thread(pieces.next)

        name = request.query.get("filename") or f"{request.path.root}.car"
        headers = {
            "content-type": car.content_type,
            "content-disposition": disposition("attachment", name),
            "accept-ranges": "none",
        }
        return Answer(200, {**request.cached(etag, _FOR_EVER), **headers}, body())

    async def _fetch_for_car(self, car: CarRequest, found: Found) -> None:
        if car.scope == "block" or found.cid.codec not in (RAW, DAG_PB):
            return
        directory = found.kind in (Kind.DIRECTORY, Kind.HAMT_SHARD)
        if not directory and found.kind is Kind.SYMLINK:
            return
        await self._content.make_local(
            found.cid, "file" if not directory else "directory" if car.scope == "all" else "listing"
        )

    async def _directory(self, request: _Request, found: Found) -> Answer:
        path = request.path
        if not path.slash:
            # Relative links of the page need it. The place is a path, so it cannot lead to another machine.
            query = f"?{request.query_text}" if request.query_text else ""
            return Answer.text(
                301,
                f"This is a directory: {path.shown}/",
                {"location": f"{path.text}/{query}", "cache-control": _FOR_EVER, **request.headers_found},
            )
        index = await self._content.entry(found, "index.html")
        if index is not None and index.kind in (Kind.FILE, Kind.RAW):
            return await self._file(request, index, "index.html")
        etag = directory_etag(found.cid)
        if request.has(etag):
            return request.not_modified(etag, _GENERATED)
        entries, count = await self._content.entries(found)
        page = await self._content.in_thread(lambda: directory_page(path, found.cid, entries, count))
        return Answer(200, {**request.cached(etag, _GENERATED), **PAGE_HEADERS}, page)

    async def _file(self, request: _Request, found: Found, name: str) -> Answer:
        etag = f'"{found.cid}"'
        if request.has(etag):
            return request.not_modified(etag)
        name = request.query.get("filename") or name
        size = found.size
        part = None
        if request.headers.get("if-range") in (None, etag):
            try:
                part = requested_range(request.headers.get("range"), size)
            except Refusal as refusal:
                refusal.headers.update(request.headers_found)
                raise
        start, end = part or (0, size)
        kind = type_by_name(name) or type_by_content(await self._content.head(found))
        download = request.query.get("download") == "true"
        headers = {
            **request.cached(etag, _FOR_EVER),
            **content_headers(kind),
            "accept-ranges": "bytes",
            "content-length": str(end - start),
        }
        if name or download:
            how = "attachment" if download else "inline"
            headers["content-disposition"] = disposition(how, name or str(found.cid))
        if part is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        status = 200 if part is None else 206
        if start == end or request.head:
            return Answer(status, headers)
        pieces = self._content.pieces(found, start, end)
        try:
            first = await anext(pieces)  # what is wrong at once is told by the status
        except BaseException:
            await pieces.aclose()
            raise
        return Answer(status, headers, _with_first(first, pieces))


async def _with_first(first: bytes, rest: Pieces) -> Pieces:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


class _Request:
    """A request for content: what it asks for, and the headers that its answers have in common."""

    def __init__(self, path: ContentPath, query: str, headers: Headers) -> None:
        self.path = path
        self.query_text = query
        try:
            self.query = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=limits.MAX_QUERY_FIELDS))
        except ValueError:
            raise Refusal(400, "The part of the address behind the question mark has too many parts.") from None
        self.headers = headers
        self.wanted: Wanted = wanted_format(self.query, ", ".join(headers.getlist("accept")))
        self.head = False
        directives = (each.strip().lower() for each in headers.get("cache-control", "").split(","))
        self.only_if_cached = "only-if-cached" in directives
        self.headers_found: dict[str, str] = {"x-ipfs-path": path.text}
        if headers.get("service-worker") == "script":
            # It would stand between this gateway and everything else that is read from it.
            raise Refusal(400, "A service worker cannot be registered here: all content shares this origin.")

    def found(self, found: Found) -> None:
        """Where the path led, for the headers."""
        self.headers_found["x-ipfs-roots"] = ",".join(map(str, found.roots))

    def has(self, etag: str) -> bool:
        """Whether the asker has it already."""
        return matches(self.headers.get("if-none-match"), etag)

    def cached(self, etag: str, how: str) -> dict[str, str]:
        """The headers of an answer that caches may keep."""
        headers = {"etag": etag, "cache-control": how, "vary": "Accept", **self.headers_found}
        if self.wanted.format is not None and not self.wanted.named:
            query = f"{self.query_text}&" if self.query_text else ""
            headers["content-location"] = f"{self.path.text}?{query}format={self.wanted.format}"
        return headers

    def not_modified(self, etag: str, how: str = _FOR_EVER) -> Answer:
        """What the asker has is right."""
        return Answer(304, self.cached(etag, how))

    def car(self) -> CarRequest:
        """Which blocks are asked for. Raises Refusal."""
        part = self.query.get("entity-bytes")
        scope = self.query.get("dag-scope", "all" if part is None else "entity")
        if scope == "block":
            return CarRequest("block", None, self.wanted.dups)
        if scope == "entity" or (scope == "all" and part is not None):
            return CarRequest("entity", None if part is None else entity_bytes(part), self.wanted.dups)
        if scope == "all":
            return CarRequest("all", None, self.wanted.dups)
        raise Refusal(400, f"dag-scope is {scope[:40]!a}; it can be block, entity or all.")


def _preflight(headers: Headers) -> Answer:
    """A browser asks whether a page of another origin may ask us. It may, for what can be asked at all."""
    allowed = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": "Accept, Cache-Control, Content-Type, If-None-Match, If-Range, Range, "
        "User-Agent, X-Requested-With",
        "access-control-max-age": "86400",
        "allow": _METHODS,
    }
    if headers.get("access-control-request-private-network") == "true":
        # A public page asks for something on this machine: to know the CID is all the permission there is.
        allowed["access-control-allow-private-network"] = "true"
    return Answer(204, allowed)


def _refusal(error: KacheryError, request: _Request) -> Refusal:
    """What an error means to whoever asked. Never names a file or a folder of this machine."""
    path = request.path.shown
    if isinstance(error, NotHere):
        if request.only_if_cached:
            return Refusal(412, f"{path} is not here, and only what is here was asked for.")
        return Refusal(404, f"{path} is not here: the block {error.cid} is missing on this machine.")
    if isinstance(error, (PathNotFound, NotADirectory)):
        return Refusal(404, str(error), request.headers_found)
    if isinstance(error, ContentNotFound):
        return Refusal(504, f"Nobody who was asked in time has all of {path}.")
    if isinstance(error, InvalidName):
        return Refusal(400, str(error))
    if isinstance(error, UnsupportedCID):
        return Refusal(406, f"{error} Ask for the block itself with ?format=raw.")
    if isinstance(error, MalformedDag):
        return Refusal(422, str(error))
    if isinstance(error, DiskFull):
        return Refusal(507, f"There is no room on this machine for {path}.")
    log.warning("could not answer for %s: %s", request.path.text, error)
    return Refusal(500, "This gateway cannot read what was asked for; its log says why.")
