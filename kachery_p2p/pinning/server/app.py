"""The pinning service as an ASGI application: https://ipfs.github.io/pinning-services-api-spec/, version 1.0.0.

    GET, POST           /pins                  list pins; add one
    GET, POST, DELETE   /pins/{requestid}      one pin: look at it, replace it, delete it
    POST                /api/v0/version        what this is: Kubo's client asks before each command
    POST                /api/v0/dag/import     send CAR files, and pin what they hold (`imports`)
    GET                 /follow                for a node that follows this one: see `following`
    OPTIONS             all of these           any web page may ask
    GET, HEAD           /healthz, /readyz      whether the process lives; whether it can do its work
    GET, HEAD           /metrics               figures for Prometheus

Pins are reached with a token (`Authorization: Bearer`), and each token reaches its own alone. There are no cookies, so
a page of another origin can do nothing that its visitor has not given it a token for; any origin is let in (CORS).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import trio

from kachery_p2p import __version__
from kachery_p2p.errors import DiskFull, KacheryError
from kachery_p2p.http_server import Send, Turns, framing_fault
from kachery_p2p.http_server_limits import RETRY_AFTER, HttpLimits
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.imports import Importer
from kachery_p2p.pinning.server.keeper import Keeper
from kachery_p2p.pinning.server.metrics import CONTENT_TYPE, Metrics
from kachery_p2p.pinning.server.queue import PinQueue
from kachery_p2p.pinning.server.requests import PinObject, Refusal, bad_request, read_filters, read_pin, time_text
from kachery_p2p.pinning.server.rows import Pin, Token
from kachery_p2p.pinning.server.store import PinStore

log = logging.getLogger("kachery_p2p.pinning.server")

T = TypeVar("T")
Receive = Callable[[], Awaitable[dict[str, Any]]]

_PINS_METHODS = "GET, POST, DELETE, OPTIONS"
_ALWAYS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": _PINS_METHODS,
    "access-control-allow-headers": "Accept, Authorization, Cache-Control, Content-Type, User-Agent, X-Requested-With",
    "access-control-expose-headers": "Content-Length, Content-Type, Retry-After, WWW-Authenticate",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}
_IMPORT = "/api/v0/dag/import"
_VERSION = "/api/v0/version"
#: Threads that look into the database for requests.
_THREADS = 8


class _Answer:
    """Status, headers and body."""

    def __init__(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = {**_ALWAYS, **(headers or {})}

    @classmethod
    def json(cls, status: int, value: Any, headers: Mapping[str, str] | None = None) -> _Answer:
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return cls(status, body, {"content-type": "application/json", **(headers or {})})

    @classmethod
    def text(cls, status: int, text: str) -> _Answer:
        return cls(status, text.encode() + b"\n", {"content-type": "text/plain; charset=utf-8"})

    @classmethod
    def refused(cls, refusal: Refusal) -> _Answer:
        """As the specification has them (`Failure`)."""
        error = {"reason": refusal.reason, "details": refusal.details}
        return cls.json(refusal.status, {"error": error}, refusal.headers)

    @classmethod
    def rpc_refused(cls, refusal: Refusal) -> _Answer:
        """As the RPC API of Kubo has them, whose clients show the message."""
        error = {"Message": refusal.details, "Code": 0, "Type": "error"}
        return cls.json(refusal.status, error, refusal.headers)

    async def send(self, head: bool, send: Send, patience: float) -> None:
        headers = dict(self.headers)
        if self.status != 204:
            headers["content-length"] = str(len(self.body))
        encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
        with trio.fail_after(patience):
            await send({"type": "http.response.body", "body": b"" if head else self.body, "more_body": False})


class PinApp:
    """The ASGI application.

    Args:
        store: of pins and tokens.
        queue: is woken when there is something new.
        keeper: of the node.
        bounds: of the listener.
        most_bytes: that one CAR file may have.
        admit: may refuse a pin of somebody, by raising `Refusal`. Called in a thread.
    """

    def __init__(
        self,
        store: PinStore,
        queue: PinQueue,
        keeper: Keeper,
        bounds: HttpLimits,
        *,
        admit: Callable[[Token, PinObject], None] = lambda token, wanted: None,
        most_bytes: int = limits.DEFAULT_UPLOAD,
    ) -> None:
        self._admit = admit
        self._store = store
        self._importer = Importer(store, queue, keeper, most_bytes=most_bytes, admit=admit)
        self._queue = queue
        self._keeper = keeper
        self._bounds = bounds
        self._turns = Turns(bounds)
        self._metrics = Metrics()
        self._threads = trio.CapacityLimiter(_THREADS)

    @property
    def crowded(self) -> bool:
        """Whether requests wait for their turn."""
        return self._turns.waiting > 0

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, when it is its turn. Other kinds than HTTP are not answered, which ends them."""
        if scope["type"] != "http":
            return
        begun, method = time.perf_counter(), scope["method"]
        parts = scope["raw_path"].decode("ascii", "replace").split("/")[1:]
        route = _route(parts)
        client = scope.get("client") or ("",)
        body = _Body(scope, receive)
        async with self._turns.take(client[0]) as taken:
            answer = await self._answer(scope, parts, route, body) if taken else _too_much()
            if not body.finished and scope["http_version"].startswith("1"):
                # What was not read could be taken for another request, so nothing may follow on this connection.
                answer.headers["connection"] = "close"
            try:
                await answer.send(method == "HEAD", send, 2 * self._bounds.send_seconds)
            finally:  # whoever has all of it may be gone before this goes on
                known = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
                self._metrics.answered(known, route or "other", answer.status, time.perf_counter() - begun)

    async def _answer(self, scope: Mapping[str, Any], parts: list[str], route: str, body: _Body) -> _Answer:
        try:
            fault = framing_fault(scope)
            if fault is not None:
                raise Refusal(fault[0], "BAD_REQUEST", fault[1])
            if route in ("/healthz", "/readyz", "/metrics"):
                return await self._about(scope["method"], route)
            if route == "/follow":
                return await self._follow(scope)
            if route in (_IMPORT, _VERSION):
                return await self._rpc(scope, route, body)
            if route:
                return await self._pins(scope, unquote(parts[1], errors="replace") if parts[1:] else "", body)
            raise Refusal(404, "NOT_FOUND", "There is nothing here. Pins are at /pins.")
        except Refusal as refusal:
            return _Answer.rpc_refused(refusal) if route in (_IMPORT, _VERSION) else _Answer.refused(refusal)
        except DiskFull as error:
            log.warning("a request could not be noted: %s", error)
            details = "The disk of this service is full. Try again later."
            return _Answer.refused(Refusal(507, "INSUFFICIENT_STORAGE", details, {"retry-after": "300"}))
        except KacheryError as error:
            log.warning("a request could not be carried out: %s", error)
            return _Answer.refused(_broken("This service cannot reach its list of pins now. Try again later."))
        except Exception:
            # One request that goes wrong must not end the node; who asked hears of it in the form that he reads.
            log.exception("a request ended by a mistake of this program")
            return _Answer.refused(_broken("This service made a mistake, which is in its log."))

    # --- pins -------------------------------------------------------------------------------------------------------

    async def _pins(self, scope: Mapping[str, Any], request_id: str, body: _Body) -> _Answer:
        method = scope["method"]
        allowed = ("GET", "POST", "DELETE") if request_id else ("GET", "POST")
        if method == "OPTIONS":
            return _preflight(scope, (*allowed, "OPTIONS"))
        if method not in allowed:
            allow = ", ".join((*allowed, "OPTIONS"))
            raise Refusal(405, "METHOD_NOT_ALLOWED", f"Here there are {allow}.", {"allow": allow})
        token = await self._token(scope)
        if await self._do(self._store.following.rights, token.id) is not None:
            return await self._for_follower(scope, request_id)
        if request_id and method == "GET":
            pin = await self._do(self._store.get, token, request_id)
            if pin is None:
                raise _not_found()
            return _Answer.json(200, self._shown(pin))
        if method == "DELETE":
            if not await self._do(self._store.delete, token, request_id):
                raise _not_found()
            self._queue.wake()
            return _Answer(202)
        if method == "POST":
            return await self._add(token, request_id or None, await body.read())
        count, found = await self._do(self._store.list, token, read_filters(_fields(scope)))
        return _Answer.json(200, {"count": count, "results": [self._shown(pin) for pin in found]})

    async def _for_follower(self, scope: Mapping[str, Any], request_id: str) -> _Answer:
        """The pins of all, for a node that follows this one: whose they are is told, too."""
        if scope["method"] != "GET" or request_id:
            raise Refusal(
                403, "FORBIDDEN", "This token is for a node that follows this one. It may list pins, no more."
            )
        count, found = await self._do(self._store.list, None, read_filters(_fields(scope)))
        names = await self._do(self._store.names)
        results = [self._shown(pin) for pin in found]
        for shown, pin in zip(results, found, strict=True):
            shown["info"]["owner"] = names.get(pin.owner, "")
        return _Answer.json(200, {"count": count, "results": results})

    async def _follow(self, scope: Mapping[str, Any]) -> _Answer:
        """What a node that follows this one needs beside the list of pins."""
        if scope["method"] != "GET":
            raise Refusal(405, "METHOD_NOT_ALLOWED", "Here there is GET.", {"allow": "GET"})
        token = await self._token(scope)
        following = self._store.following
        hands_tokens = await self._do(following.rights, token.id)
        if hands_tokens is None:
            details = "Only a token for nodes that follow this one may ask that: kachery-cloud-node tokens add "
            "NAME --follow"
            raise Refusal(403, "FORBIDDEN", details)
        fields = dict(_fields(scope))
        theirs, after = fields.get("list", ""), fields.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 18:
            raise bad_request("after must be a number.")
        deleted = await self._do(following.deleted, theirs[:64], int(after), limits.MAX_LISTED)
        found: dict[str, Any] = {"list": await self._do(lambda: following.list_id), "deleted": deleted}
        if hands_tokens:
            tokens = await self._do(following.tokens)
            found["tokens"] = [{"name": each.name, "hash": each.hash.hex(), "quota": each.quota} for each in tokens]
            found["accounts"] = await self._do(following.accounts)
        return _Answer.json(200, found)

    async def _add(self, token: Token, replaces: str | None, body: bytes) -> _Answer:
        wanted = read_pin(body)
        await self._do(self._admit, token, wanted)
        size = await self._keeper.size_here(wanted.cid)

        def add() -> Pin | None:
            return self._store.add(token, wanted, size, replaces=replaces)

        pin = await self._do(add)
        if pin is None:
            raise _not_found()
        self._queue.wake()
        return _Answer.json(202, self._shown(pin))

    async def _rpc(self, scope: Mapping[str, Any], route: str, body: _Body) -> _Answer:
        if scope["method"] == "OPTIONS":
            return _preflight(scope, ("POST", "OPTIONS"))
        if scope["method"] != "POST":
            raise Refusal(405, "METHOD_NOT_ALLOWED", "Here there is POST.", {"allow": "POST, OPTIONS"})
        if len(scope["query_string"]) > limits.MAX_QUERY_LENGTH:
            raise Refusal(414, "URI_TOO_LONG", "The part of the address behind the question mark is too long.")
        token = await self._token(scope)
        if await self._do(self._store.following.rights, token.id) is not None:
            raise Refusal(
                403, "FORBIDDEN", "This token is for a node that follows this one. It may list pins, no more."
            )
        if route == _VERSION:
            return _Answer.json(200, {"Version": __version__, "Commit": "", "Repo": "", "System": "", "Golang": ""})
        try:
            async with aclosing(body.chunks()) as chunks:
                lines = await self._importer.take(token, scope, chunks)
        except (Refusal, KacheryError):
            await body.drain()
            raise
        # Kubo's clients read on, object by object, where they are told that the answer comes in pieces.
        return _Answer(200, lines, {"content-type": "application/json", "x-chunked-output": "1"})

    async def _token(self, scope: Mapping[str, Any]) -> Token:
        """Whose request it is.

        Raises:
            Refusal: nobody's.
        """
        headers = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        scheme, _, text = (headers[0] if len(headers) == 1 else b"").decode("latin-1").strip().partition(" ")
        token = None
        if scheme.lower() == "bearer" and text.strip():
            token = await self._do(self._store.token, text.strip())
        if token is None:
            challenge = 'Bearer realm="kachery-cloud"' + (', error="invalid_token"' if headers else "")
            raise Refusal(401, "UNAUTHORIZED", "Access token is missing or invalid", {"www-authenticate": challenge})
        return token

    def _shown(self, pin: Pin) -> dict[str, Any]:
        """A PinStatus object."""
        info = {}
        if pin.details:
            info["status_details"] = pin.details
        if pin.size is not None:
            info["raw_size"] = str(pin.size)
        shown: dict[str, Any] = {"cid": pin.cid}
        for name in ("name", "origins", "meta"):
            if value := getattr(pin, name):
                shown[name] = value
        return {
            "requestid": pin.request_id,
            "status": pin.status,
            "created": time_text(pin.created),
            "pin": shown,
            "delegates": self._keeper.addresses()[: limits.MAX_ADDRESSES],
            "info": info,
        }

    # --- how it is --------------------------------------------------------------------------------------------------

    async def _about(self, method: str, route: str) -> _Answer:
        if method not in ("GET", "HEAD"):
            raise Refusal(405, "METHOD_NOT_ALLOWED", "Here there are GET and HEAD.", {"allow": "GET, HEAD"})
        if route == "/healthz":
            return _Answer.text(200, "ok")
        if route == "/readyz":
            why = await self._keeper.check()
            if not why:
                try:
                    await self._do(self._store.check)
                except KacheryError as error:
                    log.warning("the pinning service is not ready: %s", error)
                    why = "the list of pins cannot be written"
            return _Answer.text(503, f"not ready: {why}") if why else _Answer.text(200, "ready")
        node = await self._keeper.figures()
        pins = await self._do(self._store.counts)
        return _Answer(200, self._metrics.text(node, pins, self._queue.running), {"content-type": CONTENT_TYPE})

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)


class _Body:
    """What comes behind the head of a request."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive) -> None:
        self._receive = receive
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        chunked = any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"])
        self._length = int(lengths[0]) if lengths and lengths[0].isdigit() else 0
        #: Whether nothing of it is left to read.
        self.finished = not chunked and not self._length

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All of it, as it comes.

        Raises:
            Refusal: it stops coming, or is cut short.
        """
        # A body that trickles would keep its place from others for ever. What we take ourselves is not counted.
        waited, size = 0.0, 0
        while True:
            message, begun = None, trio.current_time()
            with trio.move_on_after(limits.UPLOAD_SECONDS - waited):
                message = await self._receive()
            waited += trio.current_time() - begun
            if message is None:
                raise Refusal(408, "REQUEST_TIMEOUT", "The body of the request does not come, or too slowly.")
            if message["type"] != "http.request":
                raise bad_request("The request was cut short.")
            size += len(message.get("body", b""))
            if size >= limits.UPLOAD_STEP:
                waited, size = 0.0, 0
            yield message.get("body", b"")
            if not message.get("more_body"):
                self.finished = True
                return

    async def drain(self) -> None:
        """Take what is still coming, as far as that is little: many clients read no answer before all is sent."""
        size = 0
        with trio.move_on_after(limits.DRAIN_SECONDS):
            while not self.finished and size < limits.MAX_DRAIN:
                message = await self._receive()
                if message["type"] != "http.request":
                    return
                size += len(message.get("body", b""))
                self.finished = not message.get("more_body")

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refusal: it is too large, or does not come.
        """
        data = bytearray()
        with trio.move_on_after(limits.BODY_SECONDS) as patience:
            while len(data) <= limits.MAX_BODY >= self._length:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise bad_request("The request was cut short.")
                data += message.get("body", b"")
                if not message.get("more_body"):
                    self.finished = True
                    break
        if patience.cancelled_caught:
            raise Refusal(408, "REQUEST_TIMEOUT", "The body of the request did not come.")
        if len(data) > limits.MAX_BODY or self._length > limits.MAX_BODY:
            raise Refusal(413, "PAYLOAD_TOO_LARGE", f"A pin object has at most {limits.MAX_BODY} bytes here.")
        return bytes(data)


def _route(parts: list[str]) -> str:
    """What a path leads to, for all pins the same; empty where it leads nowhere."""
    if parts[-1:] == [""] and len(parts) > 1:
        parts = parts[:-1]  # a slash at the end is meant kindly
    if parts == ["pins"]:
        return "/pins"
    if len(parts) == 2 and parts[0] == "pins" and parts[1]:
        return "/pins/{requestid}"
    for path in (_IMPORT, _VERSION):
        if parts == path.split("/")[1:]:
            return path
    return f"/{parts[0]}" if parts in (["healthz"], ["readyz"], ["metrics"], ["follow"]) else ""


def _fields(scope: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields behind the question mark.

    Raises:
        Refusal: they cannot be read, or are too long.
    """
    if len(scope["query_string"]) > limits.MAX_QUERY_LENGTH:
        raise Refusal(414, "URI_TOO_LONG", "The part of the address behind the question mark is too long.")
    query = scope["query_string"].decode("ascii", "replace")
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise bad_request("What is behind the question mark cannot be read.") from None


def _preflight(scope: Mapping[str, Any], methods: tuple[str, ...]) -> _Answer:
    """A browser asks whether a page of another origin may ask us. With a token it may."""
    headers = {"access-control-max-age": "86400", "allow": ", ".join(methods)}
    if (b"access-control-request-private-network", b"true") in scope["headers"]:
        headers["access-control-allow-private-network"] = "true"
    return _Answer(204, headers=headers)


def _not_found() -> Refusal:
    return Refusal(404, "NOT_FOUND", "The specified resource was not found")


def _broken(details: str) -> Refusal:
    return Refusal(500, "INTERNAL_SERVER_ERROR", details)


def _too_much() -> _Answer:
    again = {"retry-after": str(RETRY_AFTER)}
    return _Answer.refused(Refusal(503, "SERVICE_UNAVAILABLE", "There is too much to do. Try again.", again))
