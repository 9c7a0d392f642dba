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
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from kachery_p2p.errors import InvalidRecord, RoutingError
from kachery_p2p.http import HttpAnswer, HttpBounds, HttpClient, HttpFailure, media_type, packing, retry_after
from kachery_p2p.peer_ids import any_peer_id, base36, peer_cid
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.answers import AnswerReader, Cache, PeerRecord, freshness
from kachery_p2p.routing.dht import limits as dht_limits
from kachery_p2p.routing.dht import records
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.limits import RouterPatience
from kachery_p2p.urls import BadURL, base_url, without_user

log = logging.getLogger("kachery_p2p.routing")

#: What we can use (IPIP-484): Bitswap over TCP without WebSockets or TLS, and records that do not say.
_FILTERS = {"filter-addrs": "tcp,dnsaddr,unknown,!tls,!ws,!wss", "filter-protocols": "transport-bitswap,unknown"}

#: What an IPNS record is sent as.
_RECORD = "application/vnd.ipfs.ipns-record"

_BOUNDS = HttpBounds(
    connect=limits.ROUTER_CONNECT_SECONDS,
    redirects=limits.MAX_REDIRECTS,
    connections=limits.MAX_ROUTERS * limits.MAX_REQUESTS_PER_ROUTER,
    idle=2 * limits.MAX_ROUTERS,
    drained=limits.MAX_LINE_SIZE,
)


def parse_url(url: str) -> str:
    """The base URL of a router, without `/routing/v1` at its end.

    Raises:
        RoutingError: it is not an http or https URL.
    """
    try:
        return base_url(url, ("/providers", "/routing/v1"), user=True)
    except BadURL:
        raise RoutingError(
            f"{url!r} is not the address of an HTTP router. One looks like https://delegated-ipfs.dev or "
            "http://192.168.1.7:8080."
        ) from None


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
        return without_user(self.url)

    def resting_for(self, now: float) -> str:
        """Why it is not asked now."""
        return f"{self.name} is left alone for {self.rest_until - now:.0f} more seconds: {self.last_error}"


class _Failed(Exception):
    """A request failed; says why, and for how long the router asks to be left alone."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


class Delegated:
    """HTTP routers as one source of providers.

    Args:
        urls: base URLs; more than MAX_ROUTERS are not used.
        patience: how long they are waited for, and left alone.
        wall: seconds since the epoch.

    Raises:
        RoutingError: one of them is not an http or https URL.

    It runs once: `await nursery.start(delegated.run)`.
    """

    name = "delegated"

    def __init__(
        self,
        urls: Sequence[str],
        *,
        patience: RouterPatience | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        bases = list(dict.fromkeys(parse_url(url) for url in urls))
        if len(bases) > limits.MAX_ROUTERS:
            log.warning("only the first %d of %d HTTP routers are used", limits.MAX_ROUTERS, len(bases))
        self._routers = [_RouterHealth(base) for base in bases[: limits.MAX_ROUTERS]]
        self._patience = patience or RouterPatience()
        self._wall = wall
        self._cache = Cache()
        self._nursery: trio.Nursery | None = None
        self._http = HttpClient(_BOUNDS, headers={"accept": "application/x-ndjson, application/json;q=0.9"})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the requests until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            await self._http.close()

    # --- asking -----------------------------------------------------------------------------------------------------

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Providers of a block, as the routers name them.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        path = f"/routing/v1/providers/{text.raw_cid(multihash)}"
        async with contextlib.aclosing(self._records(path, "Providers")) as records:
            async for record in records:
                yield Provider(record.peer, record.addrs, self.name)

    async def find_peer(self, peer: str) -> tuple[str, ...]:
        """Addresses of a peer, of all routers together; empty when none knows it.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        found: dict[str, None] = {}
        if any_peer_id(peer) != peer:
            return ()
        async with contextlib.aclosing(self._records(f"/routing/v1/peers/{peer_cid(peer)}", "Peers")) as records:
            async for record in records:
                if record.peer == peer:
                    found.update(dict.fromkeys(record.addrs))
        return tuple(found)[: limits.MAX_ADDRS_PER_PROVIDER]

    # --- names ------------------------------------------------------------------------------------------------------

    async def get_value(self, key: bytes, found: Callable[[bytes], None]) -> None:
        """Ask all routers for the record of an IPNS name; `found` is called with each valid one.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        name = key.removeprefix(records.IPNS)

        async def get(router: _RouterHealth) -> None:
            url = f"{router.url}/routing/v1/ipns/{base36(name)}"
            async with self._http.ask("GET", url, headers={"accept": _RECORD}) as answer:
                if answer.status == 404:
                    await answer.drain()
                    return
                self._check_answer(answer)
                value = await answer.read(dht_limits.MAX_RECORD_SIZE)
            try:
                records.validate(key, value, self._wall())
            except InvalidRecord as error:
                raise _Failed(str(error)) from error
            found(value)

        await self._all_routers(get)

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Give the record of an IPNS name to all routers; how many took it.

        Raises:
            RoutingError: none of the routers answered; says why for each.
        """
        name = key.removeprefix(records.IPNS)
        taken = 0

        async def put(router: _RouterHealth) -> None:
            nonlocal taken

            async def body() -> AsyncGenerator[bytes, None]:
                yield value

            url = f"{router.url}/routing/v1/ipns/{base36(name)}"
            # With its length: not every router takes a body that comes in pieces.
            headers = {"content-type": _RECORD, "content-length": str(len(value))}
            async with self._http.ask("PUT", url, content=body(), headers=headers) as answer:
                self._check_answer(answer)
                taken += 1
                await answer.drain()

        await self._all_routers(put)
        return taken

    async def _all_routers(self, ask: Callable[[_RouterHealth], Awaitable[None]]) -> None:
        """Ask each router that is not left alone at the moment.

        Raises:
            RoutingError: none of them answered.
        """
        errors: list[str] = []

        async def one(router: _RouterHealth) -> None:
            now = trio.current_time()
            if now < router.rest_until:
                errors.append(router.resting_for(now))
                return
            try:
                with trio.fail_after(self._patience.answer):
                    async with router.slots:
                        router.asked += 1
                        await ask(router)
            except trio.TooSlowError:
                why = f"It did not finish its answer within {self._patience.answer:g} seconds."
                errors.append(self._failed(router, why, None))
            except HttpFailure as error:
                errors.append(self._failed(router, str(error), None))
            except _Failed as error:
                errors.append(self._failed(router, str(error), error.pause))
            else:
                router.answered += 1
                router.failures = 0

        async with trio.open_nursery() as nursery:
            for router in self._routers:
                nursery.start_soon(one, router)
        if self._routers and len(errors) == len(self._routers):
            raise RoutingError(" ".join(errors)[: limits.MAX_ERROR_LENGTH])

    def _check_answer(self, answer: HttpAnswer) -> None:
        """Whether a router did what it was asked.

        Raises:
            _Failed: it did not; in plain words.
        """
        status = answer.status
        if status in (429, 503):
            pause = retry_after(answer.headers, self._wall(), longest=limits.MAX_RETRY_AFTER)
            if status == 429:
                raise _Failed("It says that we ask too often.", limits.DEFAULT_RETRY_AFTER if pause is None else pause)
            raise _Failed("It says that it is not available now (status 503).", pause)
        if status != 200:
            raise _Failed(f"It answers with status {status}.")
        if encoding := packing(answer.headers):
            raise _Failed(f"It answers in the encoding {encoding[:20]!r}, which was not asked for.")

    # --- providers and peers ----------------------------------------------------------------------------------------

    async def _records(self, path: str, key: str) -> AsyncGenerator[PeerRecord, None]:
        """What all routers say, as it comes.

        Raises:
            RoutingError: none of them answered.
        """
        if not self._routers:
            return
        if self._nursery is None:
            raise RoutingError("HTTP routers cannot be asked: the node is not running.")
        # Has room for all that may come: a caller that reads slowly must not make a router look slow.
        send, receive = trio.open_memory_channel[PeerRecord](limits.MAX_RECORDS * len(self._routers))
        errors: list[str] = []
        scope = trio.CancelScope()
        self._nursery.start_soon(self._ask_all, scope, path, key, send, errors)
        try:
            async for record in receive:
                yield record
        finally:
            scope.cancel()
            receive.close()
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
                errors.append(router.resting_for(now))
                return
            try:
                with trio.fail_after(self._patience.answer):
                    async with router.slots:
                        router.asked += 1
                        async with self._http.ask("GET", url, params=_FILTERS) as answer:
                            await self._read(url, answer, key, send)
            except trio.TooSlowError:
                raise _Failed(f"It did not finish its answer within {self._patience.answer:g} seconds.") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the caller has left
        except HttpFailure as error:
            errors.append(self._failed(router, str(error), None))
            return
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
        patience = self._patience
        rest = min(patience.rest_first * 2 ** min(router.failures - 1, 16), patience.rest_last)
        router.rest_until = trio.current_time() + (rest if pause is None else pause)
        router.last_error = why[: limits.MAX_ERROR_LENGTH]
        router.last_error_at = self._wall()
        log.debug("%s: %s", router.name, why)
        return f"{router.name}: {why}"

    async def _read(self, url: str, answer: HttpAnswer, key: str, send: trio.MemorySendChannel[PeerRecord]) -> None:
        """Send on the records of an answer.

        Raises:
            _Failed: it has none; in plain words.
            HttpFailure: the line broke.
        """
        now = trio.current_time()
        if answer.status == 404:
            self._cache.put(url, (), freshness(answer.headers, found=False), now)
            await answer.drain()
            return
        self._check_answer(answer)
        kind = media_type(answer.headers)
        if kind not in ("application/x-ndjson", "application/json"):
            raise _Failed(f"It answers with {kind[:60] or 'an unknown type'}, not with routing records.")
        # A router names no addresses that are nearer to us than it is itself, or the proxy before it.
        nearest = text.host_scope(answer.server) if answer.server else text.AddressScope.PUBLIC
        reader = AnswerReader(key, streamed=kind == "application/x-ndjson", nearest=nearest)
        records: list[PeerRecord] = []
        try:
            async with answer.chunks() as chunks:
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
        self._cache.put(url, tuple(records), freshness(answer.headers, found=bool(records)), now)

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
