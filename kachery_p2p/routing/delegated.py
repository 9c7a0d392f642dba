"""HTTP routers: somebody else's server, asked who has a block (Delegated Routing V1 HTTP API, `/routing/v1`).

All routers are asked at once, and their records are passed on as they stream in (`application/x-ndjson`; a router that
answers with one JSON document is read, too). Nothing a router says is believed further than that it is worth a dial:
records are cut to peer IDs and addresses that can be dialled, and a router on the public internet is not heard when it
names addresses of our own network. Size, time, redirects and number of records are bounded; a router that fails is left
alone for a while, and one that says for how long (Retry-After) is obeyed.

Proxies come from the environment (HTTPS_PROXY, NO_PROXY ...) as with any HTTP client; TLS certificates are verified.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import SplitResult, urlsplit

import trio

from kachery_p2p import __version__
from kachery_p2p.errors import RoutingError, plain_words
from kachery_p2p.http_redirects import NotFollowed, RedirectWatch, check_redirect
from kachery_p2p.peer_ids import any_peer_id, peer_cid
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.answers import AnswerReader, Cache, PeerRecord, freshness, retry_after
from kachery_p2p.routing.interfaces import Provider

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("kachery_p2p.routing")

#: What we can use (IPIP-484): Bitswap over TCP without WebSockets or TLS, and records that do not say.
_FILTERS = {"filter-addrs": "tcp,dnsaddr,unknown,!tls,!ws,!wss", "filter-protocols": "transport-bitswap,unknown"}

_HEADERS = {
    "accept": "application/x-ndjson, application/json;q=0.9",
    # Compressed answers could unfold to anything, and records are small.
    "accept-encoding": "identity",
    "user-agent": f"kachery-p2p/{__version__}",
}


def parse_url(url: str) -> str:
    """The base URL of a router, without `/routing/v1` at its end.

    Raises:
        RoutingError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, SplitResult("", "", "", "", "")
    if not good or parts.query or parts.fragment or not url.isprintable():
        raise RoutingError(
            f"{url!r} is not the address of an HTTP router. One looks like https://delegated-ipfs.dev or "
            "http://192.168.1.7:8080."
        )
    path = parts.path.rstrip("/")
    for end in ("/providers", "/routing/v1"):
        path = path[: -len(end)].rstrip("/") if path.endswith(end) else path
    return f"{parts.scheme}://{parts.netloc}{path}"


def _shown(url: str) -> str:
    """A URL for messages, without a password in it."""
    parts = urlsplit(url)
    return url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)


@dataclass(eq=False)
class _RouterHealth:
    """One router, and how it has been doing."""

    url: str
    slots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(limits.MAX_REQUESTS_PER_ROUTER))
    failures: int = 0  # since it last answered
    rest_until: float = 0.0
    asked: int = 0
    answered: int = 0
    last_error: str = ""
    last_error_at: float | None = None

    @property
    def name(self) -> str:
        return _shown(self.url)


class _Failed(Exception):
    """A request failed; says why, and for how long the router asks to be left alone."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


class Delegated:
    """HTTP routers as one source of providers.

    Args:
        urls: base URLs; more than MAX_ROUTERS are not used.
        wall: seconds since the epoch.

    Raises:
        RoutingError: one of them is not an http or https URL.

    It runs once: `await nursery.start(delegated.run)`.
    """

    name = "delegated"

    def __init__(self, urls: Sequence[str], *, wall: Callable[[], float] = time.time) -> None:
        bases = list(dict.fromkeys(parse_url(url) for url in urls))
        if len(bases) > limits.MAX_ROUTERS:
            log.warning("only the first %d of %d HTTP routers are used", limits.MAX_ROUTERS, len(bases))
        self._routers = [_RouterHealth(base) for base in bases[: limits.MAX_ROUTERS]]
        self._wall = wall
        self._cache = Cache()
        self._nursery: trio.Nursery | None = None
        self._client: httpx.AsyncClient | None = None
        self._watch = RedirectWatch()
        self._opening = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the requests until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            if self._client is not None:
                with trio.move_on_after(1, shield=True):
                    await self._client.aclose()
                self._client = None

    # --- asking -----------------------------------------------------------------------------------------------------

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Providers of a block, as the routers name them.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        if not self._routers:
            return
        send, receive = self._channel()
        errors: list[str] = []
        scope = trio.CancelScope()
        self._start(scope, f"/routing/v1/providers/{text.raw_cid(multihash)}", "Providers", send, errors)
        try:
            async for record in receive:
                yield Provider(record.peer, record.addrs, self.name)
        finally:
            scope.cancel()
            receive.close()
        self._raise_if_all_failed(errors)

    async def find_peer(self, peer: str) -> tuple[str, ...]:
        """Addresses of a peer, of all routers together; empty when none knows it.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        found: dict[str, None] = {}
        if not self._routers or any_peer_id(peer) != peer:
            return ()
        send, receive = self._channel()
        errors: list[str] = []
        scope = trio.CancelScope()
        self._start(scope, f"/routing/v1/peers/{peer_cid(peer)}", "Peers", send, errors)
        try:
            async for record in receive:
                if record.peer == peer:
                    found.update(dict.fromkeys(record.addrs))
        finally:
            scope.cancel()
            receive.close()
        self._raise_if_all_failed(errors)
        return tuple(found)[: limits.MAX_ADDRS_PER_PROVIDER]

    def _channel(self) -> tuple[trio.MemorySendChannel[PeerRecord], trio.MemoryReceiveChannel[PeerRecord]]:
        """Has room for all that may come: a caller that reads slowly must not make a router look slow."""
        return trio.open_memory_channel[PeerRecord](limits.MAX_RECORDS * len(self._routers))

    def _start(
        self, scope: trio.CancelScope, path: str, key: str, send: trio.MemorySendChannel[PeerRecord], errors: list[str]
    ) -> None:
        if self._nursery is None:
            raise RoutingError("HTTP routers cannot be asked: the node is not running.")
        self._nursery.start_soon(self._ask_all, scope, path, key, send, errors)

    def _raise_if_all_failed(self, errors: list[str]) -> None:
        if len(errors) == len(self._routers):
            raise RoutingError(" ".join(errors)[: limits.MAX_ERROR_LENGTH])

    async def _ask_all(
        self, scope: trio.CancelScope, path: str, key: str, send: trio.MemorySendChannel[PeerRecord], errors: list[str]
    ) -> None:
        with scope, send:
            async with trio.open_nursery() as nursery:
                for router in self._routers:
                    nursery.start_soon(self._ask, router, path, key, send, errors)

    async def _ask(
        self, router: _RouterHealth, path: str, key: str, send: trio.MemorySendChannel[PeerRecord], errors: list[str]
    ) -> None:
        """Ask one router, and send on what it says. Only cancellation gets out of here."""
        url = router.url + path
        now = trio.current_time()
        cached = self._cache.get(url, now)
        try:
            if cached is not None:
                for record in cached:
                    await send.send(record)
                return
            if now < router.rest_until:
                errors.append(
                    f"{router.name} is left alone for {router.rest_until - now:.0f} more seconds: {router.last_error}"
                )
                return
            try:
                with trio.fail_after(limits.ROUTER_SECONDS):
                    async with router.slots:
                        router.asked += 1
                        await self._request(url, key, send)
            except trio.TooSlowError:
                raise _Failed(f"It did not finish its answer within {limits.ROUTER_SECONDS:g} seconds.") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # nobody listens any more
        except _Failed as error:
            errors.append(self._failed(router, str(error), error.pause))
            return
        except Exception as error:
            log.exception("asking %s failed", router.name)
            errors.append(self._failed(router, f"It failed unexpectedly: {type(error).__name__}: {error}", None))
            return
        router.answered += 1
        router.failures = 0

    def _failed(self, router: _RouterHealth, why: str, pause: float | None) -> str:
        router.failures += 1
        rest = min(limits.ROUTER_REST_FIRST * 2 ** min(router.failures - 1, 16), limits.ROUTER_REST_LAST)
        router.rest_until = trio.current_time() + (rest if pause is None else min(pause, limits.MAX_RETRY_AFTER))
        router.last_error = why[: limits.MAX_ERROR_LENGTH]
        router.last_error_at = self._wall()
        log.debug("%s: %s", router.name, why)
        return f"{router.name}: {why}"

    # --- one request ------------------------------------------------------------------------------------------------

    async def _open(self) -> httpx.AsyncClient:
        """The HTTP client; made when it is first needed, in a thread, since importing it takes a fifth of a second."""
        async with self._opening:
            if self._client is None:

                def make() -> httpx.AsyncClient:
                    httpx = importlib.import_module("httpx")
                    return httpx.AsyncClient(
                        headers=_HEADERS,
                        timeout=httpx.Timeout(limits.ROUTER_SECONDS, connect=limits.ROUTER_CONNECT_SECONDS),
                        limits=httpx.Limits(
                            max_connections=limits.MAX_ROUTERS * limits.MAX_REQUESTS_PER_ROUTER,
                            max_keepalive_connections=2 * limits.MAX_ROUTERS,
                        ),
                    )

                try:
                    self._client = await trio.to_thread.run_sync(make)
                except (ImportError, OSError, ValueError) as error:
                    # A proxy or a file of certificates that the environment names, most likely.
                    raise _Failed(f"The HTTP client cannot be made: {error}.") from error
            return self._client

    async def _request(self, url: str, key: str, send: trio.MemorySendChannel[PeerRecord]) -> None:
        """Ask and send on the records, following redirects.

        Raises:
            _Failed: in plain words.
        """
        client = await self._open()
        httpx = importlib.import_module("httpx")
        try:
            first = request = client.build_request("GET", url, params=_FILTERS)
            request.extensions = self._watch.first(request)
            for _ in range(limits.MAX_REDIRECTS + 1):
                response = await client.send(request, stream=True, follow_redirects=False)
                try:
                    if response.next_request is None:
                        await self._answer(url, response, key, send)
                        return
                    request = response.next_request
                    check_redirect(str(response.url), str(request.url))
                    request.extensions = self._watch.redirected(request, first)
                finally:
                    with trio.move_on_after(1, shield=True):
                        await response.aclose()
            raise _Failed(f"It sends us on more than {limits.MAX_REDIRECTS} times.")
        except NotFollowed as why:
            raise _Failed(str(why)) from None
        except httpx.ConnectTimeout:
            raise _Failed(f"No connection within {limits.ROUTER_CONNECT_SECONDS:g} seconds.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            raise _Failed(f"The request failed: {plain_words(error)}.") from error

    async def _answer(
        self, url: str, response: httpx.Response, key: str, send: trio.MemorySendChannel[PeerRecord]
    ) -> None:
        status = response.status_code
        now = trio.current_time()
        if status in (429, 503):
            pause = retry_after(response.headers.get("retry-after"), self._wall())
            if status == 429:
                raise _Failed("It says that we ask too often.", limits.DEFAULT_RETRY_AFTER if pause is None else pause)
            raise _Failed("It says that it is not available now (status 503).", pause)
        if status == 404:
            self._cache.put(url, (), freshness(response.headers, found=False), now)
            await _drain(response)
            return
        if status != 200:
            raise _Failed(f"It answers with status {status}.")
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _Failed(f"It answers in the encoding {encoding[:20]!r}, which was not asked for.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/x-ndjson", "application/json"):
            raise _Failed(f"It answers with {kind[:60] or 'an unknown type'}, not with routing records.")
        reader = AnswerReader(key, streamed=kind == "application/x-ndjson", nearest=_nearest(response))
        records: list[PeerRecord] = []
        try:
            async with _chunks(response) as chunks:
                async for chunk in chunks:
                    for record in reader.feed(chunk):
                        records.append(record)
                        await send.send(record)
                    if reader.full:
                        return
            for record in reader.end():
                records.append(record)
                await send.send(record)
        except RoutingError as error:
            raise _Failed(str(error)) from error
        self._cache.put(url, tuple(records), freshness(response.headers, found=bool(records)), now)

    def status(self) -> dict[str, Any]:
        """How each router has been doing, and what went wrong last, as plain JSON values."""
        now = trio.current_time()
        latest = max(self._routers, key=lambda router: router.last_error_at or 0.0, default=None)
        error = None
        if latest is not None and latest.last_error:
            error = {"text": f"{latest.name}: {latest.last_error}", "at": latest.last_error_at}
        return {
            "routers": {
                router.name: {
                    "asked": router.asked,
                    "answered": router.answered,
                    "resting": max(0.0, router.rest_until - now),
                    "last_error": router.last_error,
                }
                for router in self._routers
            },
            "last_error": error,
        }


def _chunks(response: httpx.Response) -> contextlib.aclosing[AsyncGenerator[bytes, None]]:
    """The body as it comes, to be closed even where it is not read to its end."""
    return contextlib.aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw()))


async def _drain(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    size = 0
    async with _chunks(response) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if size > limits.MAX_LINE_SIZE:
                return


def _nearest(response: httpx.Response) -> text.AddressScope:
    """The nearest addresses that a router may name: as far away from us as it is itself (or the proxy before it)."""
    stream = response.extensions.get("network_stream")
    name = stream.get_extra_info("server_addr") if stream is not None else None
    return text.host_scope(str(name[0])) if name else text.AddressScope.PUBLIC
