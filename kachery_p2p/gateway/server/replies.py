"""Answers: status, headers and body, as they are handed to the HTTP server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import trio

from kachery_p2p.errors import KacheryError

log = logging.getLogger("kachery_p2p.gateway")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Pieces = AsyncGenerator[bytes, None]

#: As long as caches keep anything: 48 weeks, the figure of the specification.
FOR_EVER = "public, max-age=29030400, immutable"
#: A page that is generated may look better next week.
GENERATED = "public, max-age=604800, stale-while-revalidate=2678400"
METHODS = "GET, HEAD, OPTIONS"
#: What pages of any origin may send. The token (Authorization) is not among it.
ALLOWED_HEADERS = "Accept, Cache-Control, Content-Type, If-None-Match, If-Range, Range, User-Agent, X-Requested-With"
_ALWAYS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": METHODS,
    "access-control-allow-headers": ALLOWED_HEADERS,
    "access-control-expose-headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Location, "
    "Content-Range, ETag, Ipfs-Uri, Retry-After, X-Chunked-Output, X-Ipfs-Path, X-Ipfs-Roots, X-Stream-Output",
    # Pages that keep others out (COEP, as those with shared memory do) may use us, too.
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}


class HttpReply:
    """Status, headers, and a body: bytes, or pieces that are read while they are sent.

    To HEAD the body may be None, for pieces that GET would send. Then `headers` alone say how long it is, if that is
    known: what has no length must not be called empty (RFC 9110, section 8.6).
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes | Pieces | None = b"") -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body

    @classmethod
    def text(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> HttpReply:
        return cls(
            status,
            {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **(headers or {})},
            message.encode("utf-8", "replace") + b"\n",
        )

    async def send(self, method: str, send: Send, *, patience: float) -> None:
        """Send the answer to a request.

        Args:
            method: of the request; HEAD gets no body.
            send: takes the messages of ASGI.
            patience: seconds that the reader has to take each piece.

        Raises:
            TooSlowError: it did not take a body that is one piece.
        """

        async def give(data: bytes, *, more: bool) -> None:
            # Over HTTP/2 a reader that stands still shows only here; over HTTP/1.1 the connection notices first.
            with trio.fail_after(patience):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        headers = {**_ALWAYS, **self.headers}
        if isinstance(self.body, bytes) and self.status not in (204, 304):
            headers.setdefault("content-length", str(len(self.body)))
        if method == "HEAD" or self.body is None or isinstance(self.body, bytes):
            await self._start(send, headers)
            await give(self.body if isinstance(self.body, bytes) and method != "HEAD" else b"", more=False)
            return
        async with contextlib.aclosing(self.body) as pieces:
            await self._start(send, headers)
            try:
                async for piece in pieces:
                    await give(piece, more=True)
            except (KacheryError, trio.TooSlowError) as error:
                # The status is sent. All that can be said now is that the body is cut short: it is not ended.
                log.info("an answer was cut short: %s", error)
                return
            await give(b"", more=False)

    async def _start(self, send: Send, headers: Mapping[str, str]) -> None:
        encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
