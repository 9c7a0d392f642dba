"""Asking other people's servers over HTTP: the one client of gateways, routers and pinning services.

What all three need is here, and nothing that only one of them needs:

- httpx is imported, and its client made, when the first request goes out, in a thread: it takes a fifth of a second.
- A redirect is followed where the asker allows it, and where `http_redirects` does, a bounded number of times.
- A request, its head and each piece of its body have a bounded time. Bodies are never unpacked, and never read whole
  without a bound.
- Whatever goes wrong is an `HttpFailure` in plain words: "It ..." or "No connection ...", to be put behind a name.

Proxies come from the environment (HTTPS_PROXY, NO_PROXY ...) as with any HTTP client; TLS certificates are verified.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib
import importlib.util
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import trio

from kachery_p2p import __version__
from kachery_p2p.errors import plain_words
from kachery_p2p.http_redirects import NotFollowed, RedirectWatch, check_redirect

if TYPE_CHECKING:
    import httpx

#: Seconds for closing a line, which must not hold up a task that has been cancelled.
_CLOSING_SECONDS = 1.0
#: Seconds for reading a short body that is not wanted: a slower connection is not worth keeping.
_DRAINING_SECONDS = 5.0


class HttpProblem(Enum):
    """Why there is no answer, or not all of it."""

    #: The client cannot be made: a proxy, or a file of certificates, that the environment names.
    CLIENT = "client"
    #: No connection.
    UNREACHABLE = "unreachable"
    #: Not in time.
    SLOW = "slow"
    #: The line broke, or what came over it is not HTTP.
    BROKEN = "broken"
    #: A redirect that is not followed.
    REDIRECT = "redirect"
    #: The body is longer than was to be read.
    TOO_LARGE = "too large"


class HttpFailure(Exception):
    """A request failed. The message is one sentence, to be put behind the server's name.

    Attributes:
        problem: of what kind it is.
        words: what the system or the library said, without a full stop; empty where they said nothing.
    """

    def __init__(self, problem: HttpProblem, message: str, words: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.words = words


@dataclass(frozen=True)
class HttpBounds:
    """Bounds of one client. Times in seconds.

    Attributes:
        connect: for a connection, TLS included.
        write: without a byte of a request's body going out.
        redirects: followed for one request.
        connections, idle: open at once, and kept for later requests.
        drained: bytes read of a body that is not wanted, so that its connection can be used again.
    """

    connect: float
    redirects: int
    connections: int
    idle: int
    write: float = 30.0
    drained: int = 16 << 10


@dataclass(frozen=True)
class Redirect:
    """Where a server sends us: from one URL to another, and whether the method stays (a POST may become a GET)."""

    before: str
    after: str
    status: int
    same_method: bool


#: Whether a redirect is followed; else its own answer is given. It may raise, as `check_redirect` does.
Follow = Callable[[Redirect], bool]


def follow_checked(redirect: Redirect) -> bool:
    """Follow wherever `check_redirect` lets us.

    Raises:
        NotFollowed: it does not.
    """
    check_redirect(redirect.before, redirect.after)
    return True


class HttpAnswer:
    """An answer whose head has come.

    Attributes:
        status: the number.
        headers: by name, capitals do not matter.
        http2: whether it came over HTTP/2.
        server: the IP address at the other end of the line, a proxy's perhaps; empty where it is not known.
    """

    def __init__(self, response: httpx.Response, drained: int) -> None:
        self._response = response
        self._drained = drained
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.http2 = response.http_version == "HTTP/2"
        stream = response.extensions.get("network_stream")
        address = stream.get_extra_info("server_addr") if stream is not None else None
        self.server = str(address[0]) if address else ""

    def chunks(self, stall: float = math.inf) -> contextlib.aclosing[AsyncGenerator[bytes, None]]:
        """The body as it comes; to be used with `async with`, so that it is closed where it is left early.

        Args:
            stall: seconds without a byte after which it is given up.

        Raises:
            HttpFailure: from the iteration: it stalls, or the line breaks.
        """
        return contextlib.aclosing(self._chunks(stall))

    async def _chunks(self, stall: float) -> AsyncGenerator[bytes, None]:
        stream = cast("AsyncGenerator[bytes, None]", self._response.aiter_raw())
        async with contextlib.aclosing(stream):
            while True:
                chunk = None
                try:
                    with trio.move_on_after(stall):
                        chunk = await anext(stream, b"")
                except _errors() as error:
                    raise _failure(error) from error
                if chunk is None:
                    raise HttpFailure(HttpProblem.SLOW, f"It stopped in the middle for {stall:g} seconds.")
                if not chunk:
                    return
                yield chunk

    async def read(self, most: int, *, stall: float = math.inf, heard: Callable[[int], None] | None = None) -> bytes:
        """All of the body.

        Args:
            most: bytes that it may have.
            stall: seconds without a byte after which it is given up.
            heard: called with the number of bytes that came, while they come.

        Raises:
            HttpFailure: as `chunks`, or it has more than `most` bytes.
        """
        parts: list[bytes] = []
        size = 0
        async with self.chunks(stall) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if heard is not None:
                    heard(len(chunk))
                if size > most:
                    raise HttpFailure(HttpProblem.TOO_LARGE, f"It answers with more than {most:,} bytes.")
                parts.append(chunk)
        return b"".join(parts)

    async def start(self, most: int) -> bytes:
        """The first `most` bytes of the body, or all of a shorter one; for words about a refusal.

        Raises:
            HttpFailure: as `chunks`.
        """
        found = bytearray()
        async with self.chunks() as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) > most:
                    break
        return bytes(found[:most])

    async def drain(self) -> None:
        """Read a short body that is not wanted, so that the connection can be used again.

        One that is long, or slow, is left; a line that breaks meanwhile is no failure.
        """
        with contextlib.suppress(HttpFailure), trio.move_on_after(_DRAINING_SECONDS):
            await self.start(self._drained)


class HttpClient:
    """Asks servers. Must be closed.

    Args:
        bounds: see `HttpBounds`.
        headers: sent with each request.
        http2: speak HTTP/2 where the server does, and the package for it is here.
    """

    def __init__(self, bounds: HttpBounds, *, headers: Mapping[str, str] | None = None, http2: bool = False) -> None:
        self._bounds = bounds
        self._headers = {
            # What we are sent is small, or does not shrink; compressed answers could unfold to anything.
            "accept-encoding": "identity",
            "user-agent": f"kachery-p2p/{__version__}",
            **(headers or {}),
        }
        self._http2 = http2
        self._watch = RedirectWatch()
        self._client: httpx.AsyncClient | None = None
        self._opening = trio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            with trio.move_on_after(_CLOSING_SECONDS, shield=True):
                await self._client.aclose()
            self._client = None

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = math.inf,
        follow: Follow = follow_checked,
    ) -> AsyncIterator[HttpAnswer]:
        """Send a request; the answer is there within the block, its head read and its body not.

        Args:
            method: such as "GET".
            url: where it is sent.
            params: added to the query of the URL.
            json: a body that is sent as JSON.
            content: a body that is sent as it comes. Such a request is never sent on to where a redirect leads.
            headers: further ones.
            seconds: until the answer begins. With `content` they begin to count after the last byte of the body, which
                takes as long as it takes.
            follow: which redirects are followed.

        Raises:
            HttpFailure: no answer came; and whatever `follow` raises.
        """
        client = await self._open()
        try:
            response = await self._answered(client, method, url, params, json, content, headers, seconds, follow)
        except NotFollowed as error:
            raise HttpFailure(HttpProblem.REDIRECT, str(error)) from None
        except _errors() as error:
            raise _failure(error, self._bounds.connect) from error
        try:
            yield HttpAnswer(response, self._bounds.drained)
        finally:
            await _leave(response)

    async def _answered(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        json: Any,
        content: AsyncIterable[bytes] | None,
        headers: Mapping[str, str] | None,
        seconds: float,
        follow: Follow,
    ) -> httpx.Response:
        """The last answer on the way that redirects lead."""
        first = request = client.build_request(method, url, params=params, json=json, content=content, headers=headers)
        request.extensions = self._watch.first(request)
        if content is not None:
            wait = None if seconds == math.inf else seconds
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": wait, "pool": wait}
        for _ in range(self._bounds.redirects + 1):
            response = None
            with trio.move_on_after(seconds if content is None else math.inf):
                response = await client.send(request, stream=True, follow_redirects=False)
            if response is None:
                raise HttpFailure(HttpProblem.SLOW, f"It did not answer within {seconds:g} seconds.")
            onward = response.next_request
            if onward is None or content is not None:
                return response
            try:
                same_method = onward.method == request.method
                going = follow(Redirect(str(response.url), str(onward.url), response.status_code, same_method))
            except BaseException:
                await _leave(response)
                raise
            if not going:
                return response
            await _leave(response)
            onward.extensions = self._watch.redirected(onward, first)
            request = onward
        raise HttpFailure(HttpProblem.REDIRECT, f"It sends us on more than {self._bounds.redirects} times.")

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await trio.to_thread.run_sync(self._make)
                except (ImportError, OSError, ValueError) as error:
                    words = plain_words(error)
                    raise HttpFailure(HttpProblem.CLIENT, f"The HTTP client cannot be made: {words}.", words) from error
            return self._client

    def _make(self) -> httpx.AsyncClient:
        httpx = importlib.import_module("httpx")
        if self._http2:
            # It writes each header that it packs to its log, and a token is one.
            logging.getLogger("hpack").setLevel(logging.WARNING)
        return httpx.AsyncClient(
            headers=self._headers,
            http2=self._http2 and importlib.util.find_spec("h2") is not None,
            # How long to wait for an answer is decided here, with scopes around what is waited for.
            timeout=httpx.Timeout(None, connect=self._bounds.connect, write=self._bounds.write),
            limits=httpx.Limits(max_connections=self._bounds.connections, max_keepalive_connections=self._bounds.idle),
        )


def _errors() -> tuple[type[BaseException], ...]:
    """What httpx raises when a request fails. It has been imported by then."""
    httpx = importlib.import_module("httpx")
    return httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError


def _failure(error: BaseException, connect: float = 0.0) -> HttpFailure:
    httpx = importlib.import_module("httpx")
    words = plain_words(error)
    if isinstance(error, httpx.ConnectTimeout):
        return HttpFailure(HttpProblem.UNREACHABLE, f"No connection within {connect:g} seconds.")
    if isinstance(error, httpx.TimeoutException):
        return HttpFailure(HttpProblem.SLOW, "It did not answer in time.")
    problem = HttpProblem.UNREACHABLE if isinstance(error, httpx.ConnectError) else HttpProblem.BROKEN
    return HttpFailure(problem, f"The request failed: {words}.", words)


async def _leave(response: httpx.Response) -> None:
    with trio.move_on_after(_CLOSING_SECONDS, shield=True):
        await response.aclose()


# --- headers --------------------------------------------------------------------------------------------------------


def media_type(headers: Mapping[str, str]) -> str:
    """The type of a body in small letters, without parameters; empty where none is given."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def packing(headers: Mapping[str, str]) -> str:
    """In which encoding a body is packed, which we never ask for; empty where it comes as it is."""
    encoding = headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def retry_after(headers: Mapping[str, str], wall: float, *, longest: float) -> float | None:
    """The seconds for which a server asks to be left alone (`Retry-After`, RFC 9110: a number, or a date).

    A date is compared with the `Date` of the same answer, where there is one: both are of one clock, and ours may be
    wrong.

    Args:
        headers: by names in small letters.
        wall: seconds since 1970.
        longest: no pause is longer.

    Returns:
        None where it asks for nothing that makes sense.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), longest)
    until, now = http_date(value), http_date(headers.get("date", ""))
    if until is None:
        return None
    return min(max(0.0, until - (wall if now is None else now)), longest)


def http_date(value: str) -> float | None:
    """A date of a header in seconds since 1970; None when it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
