"""Asking gateways for blocks (Trustless Gateway specification).

A block is asked for by its CID (`?format=raw`), and what comes is hashed before anybody sees it. A directory, or the
root of a file with its first bytes, is asked for as a CAR (`?format=car&dag-scope=entity`), which saves a round trip
for each level of the DAG; its blocks are checked one by one as they come. Which block is asked of which gateway, and
what becomes of one that refuses, is not decided here, but by `kachery_p2p.bitswap.gateways`.

Size, time and redirects are bounded. Proxies come from the environment (HTTPS_PROXY, NO_PROXY ...) as with any HTTP
client, TLS certificates are verified, and HTTP/2 is spoken where the gateway does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import trio

from kachery_p2p import __version__
from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import GatewayError, HashMismatch, MalformedDag, UnsupportedCID, plain_words
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import (
    CAR_TYPE,
    RAW_TYPE,
    FailureKind,
    GatewayRefusal,
    check_head,
    may_follow,
    parse_url,
)
from kachery_p2p.gateway.client.gateway import Gateway
from kachery_p2p.http_redirects import NotFollowed, RedirectWatch

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("kachery_p2p.gateway")

_HEADERS = {
    # Blocks do not shrink, and compressed answers could unfold to anything.
    "accept-encoding": "identity",
    "user-agent": f"kachery-p2p/{__version__}",
}
# A gateway that announces such a length is honest: some nodes have blocks like that. It is not dropped as a liar.
_TOO_LARGE = f"It has a block of more than {limits.MAX_BLOCK_SIZE:,} bytes, which are the most there may be."


def _nothing(size: int) -> None:
    """Nothing is done about the bytes that come."""


class GatewayClient:
    """The gateways of a node.

    Args:
        urls: base URLs; more than MAX_GATEWAYS are not used.
        tokens: by base URL, sent as `Authorization: Bearer ...` to that gateway and nobody else.
        wall: seconds since the epoch.

    Raises:
        GatewayError: a URL is none, or a token has none of the URLs or cannot be sent.

    It runs once: `await nursery.start(client.run)`.
    """

    def __init__(
        self, urls: Sequence[str], tokens: Mapping[str, str] | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        bases = list(dict.fromkeys(parse_url(url) for url in urls))
        if len(bases) > limits.MAX_GATEWAYS:
            log.warning("only the first %d of %d gateways are used", limits.MAX_GATEWAYS, len(bases))
        given = {parse_url(url): token.strip() for url, token in (tokens or {}).items()}
        for base, token in given.items():
            if base not in bases:
                raise GatewayError(f"There is a token for {base}, which is none of the gateways.")
            if not token.isascii() or not token.isprintable() or " " in token or not token:
                raise GatewayError(f"The token for {base} is empty, or has characters in it that no token has.")
        self.gateways = [Gateway(base, given.get(base)) for base in bases[: limits.MAX_GATEWAYS]]
        self._wall = wall
        self._client: httpx.AsyncClient | None = None
        self._watch = RedirectWatch()
        self._opening = trio.Lock()
        self._hashing = trio.CapacityLimiter(limits.HASH_THREADS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections until cancelled."""
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            if self._client is not None:
                with trio.move_on_after(1, shield=True):
                    await self._client.aclose()
                self._client = None

    # --- asking -----------------------------------------------------------------------------------------------------

    async def block(self, gateway: Gateway, cid: CID, alive: Callable[[int], None] = _nothing) -> bytes:
        """One block, checked.

        Args:
            alive: called with the number of bytes that came, while they come.

        Raises:
            GatewayRefusal: it did not come.
        """
        async with self._in_time(gateway):
            async with self._request(gateway, cid, {"format": "raw"}, RAW_TYPE) as response:
                data = await self._body(response, alive)
            await self._check(cid, data)
        return data

    async def car(
        self,
        gateway: Gateway,
        cid: CID,
        first: int,
        last: int,
        on_block: Callable[[CID, bytes], bool],
        alive: Callable[[int], None] = _nothing,
    ) -> None:
        """The blocks of a directory, or of the bytes `first` to `last` (inclusive) of a file, root first.

        Args:
            on_block: called with each checked block as it comes; says whether more is wanted.
            alive: called with the number of bytes that came, while they come.

        Raises:
            GatewayRefusal: as `block`; blocks may have come before.
        """
        params = {"format": "car", "dag-scope": "entity", "entity-bytes": f"{first}:{last}"}
        size = 0
        reader = CarReader()
        accept = f"{CAR_TYPE}; version=1; order=dfs; dups=n"
        async with self._in_time(gateway), self._request(gateway, cid, params, accept) as response:
            try:
                async with _chunks(response) as chunks:
                    while chunk := await _next(chunks):
                        size += len(chunk)
                        alive(len(chunk))
                        for found, data in reader.feed(chunk):
                            if not on_block(found, data):
                                return
                        if size > limits.MAX_CAR_SIZE:
                            return
                reader.close()
            except HashMismatch as error:
                raise GatewayRefusal(FailureKind.LIED, str(error)) from error
            except (MalformedDag, UnsupportedCID) as error:
                raise GatewayRefusal(FailureKind.NO_CAR, str(error)) from error

    @contextlib.asynccontextmanager
    async def _in_time(self, gateway: Gateway) -> AsyncIterator[None]:
        """Give a request as a whole its time."""
        try:
            with trio.fail_after(limits.REQUEST_SECONDS):
                yield
        except GatewayRefusal as refusal:
            log.debug("%s: %s", gateway.name, refusal)
            raise
        except trio.TooSlowError:
            why = f"It did not finish its answer within {limits.REQUEST_SECONDS:g} seconds."
            log.debug("%s: %s", gateway.name, why)
            raise GatewayRefusal(FailureKind.FAILED, why) from None

    # --- one request ------------------------------------------------------------------------------------------------

    async def _open(self) -> httpx.AsyncClient:
        """The HTTP client; made when it is first needed, in a thread, since importing it takes a fifth of a second."""
        async with self._opening:
            if self._client is None:

                def make() -> httpx.AsyncClient:
                    httpx = importlib.import_module("httpx")
                    # It writes each header that it packs to its log, and a token is one.
                    logging.getLogger("hpack").setLevel(logging.WARNING)
                    return httpx.AsyncClient(
                        headers=_HEADERS,
                        http2=importlib.util.find_spec("h2") is not None,
                        # How long to wait is decided here, with scopes around what is waited for.
                        timeout=httpx.Timeout(None, connect=limits.CONNECT_SECONDS),
                        limits=httpx.Limits(
                            max_connections=limits.MAX_GATEWAYS * limits.MAX_REQUESTS,
                            max_keepalive_connections=limits.MAX_GATEWAYS * limits.MAX_REQUESTS,
                        ),
                    )

                try:
                    self._client = await trio.to_thread.run_sync(make)
                except (ImportError, OSError, ValueError) as error:
                    # A proxy or a file of certificates that the environment names, most likely.
                    raise GatewayRefusal(FailureKind.FAILED, f"The HTTP client cannot be made: {error}.") from error
            return self._client

    @contextlib.asynccontextmanager
    async def _request(
        self, gateway: Gateway, cid: CID, params: dict[str, str], accept: str
    ) -> AsyncIterator[httpx.Response]:
        """The answer, when its head says that it is what was asked for. Follows redirects to the same block.

        Raises:
            GatewayRefusal: in plain words.
        """
        client = await self._open()
        httpx = importlib.import_module("httpx")
        headers = {"accept": accept}
        if gateway.token is not None:
            headers["authorization"] = f"Bearer {gateway.token}"
        response: httpx.Response | None = None
        try:
            first = request = client.build_request(
                "GET", f"{gateway.base}/ipfs/{cid.to_v1()}", params=params, headers=headers
            )
            request.extensions = self._watch.first(request)
            for _ in range(limits.MAX_REDIRECTS + 1):
                with trio.fail_after(limits.ANSWER_SECONDS):
                    response = await client.send(request, stream=True, follow_redirects=False)
                gateway.http2 = response.http_version == "HTTP/2"
                onward = response.next_request
                if onward is None or not may_follow(str(response.url), str(onward.url), cid):
                    break
                await _leave(response)
                request = onward
                request.extensions = self._watch.redirected(request, first)
            else:
                raise GatewayRefusal(FailureKind.USELESS, "It sends us on too often.", limits.USELESS_SECONDS)
            assert response is not None
            try:
                check_head(response.status_code, response.headers, car="car" in accept, wall=self._wall())
            except GatewayRefusal:
                await _drain(response)
                raise
            yield response
        except NotFollowed as why:
            raise GatewayRefusal(FailureKind.USELESS, str(why), limits.USELESS_SECONDS) from None
        except trio.TooSlowError:
            raise GatewayRefusal(
                FailureKind.FAILED, f"It did not answer within {limits.ANSWER_SECONDS:g} seconds."
            ) from None
        except httpx.ConnectTimeout:
            raise GatewayRefusal(
                FailureKind.FAILED, f"No connection within {limits.CONNECT_SECONDS:g} seconds."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            raise GatewayRefusal(FailureKind.FAILED, f"The request failed: {plain_words(error)}.") from error
        finally:
            if response is not None:
                await _leave(response)

    async def _body(self, response: httpx.Response, alive: Callable[[int], None]) -> bytes:
        """All of a raw block's answer.

        Raises:
            GatewayRefusal: it is longer than any block.
        """
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:12]) > limits.MAX_BLOCK_SIZE:
            raise GatewayRefusal(FailureKind.ABSENT, _TOO_LARGE)
        parts: list[bytes] = []
        size = 0
        async with _chunks(response) as chunks:
            while chunk := await _next(chunks):
                size += len(chunk)
                alive(len(chunk))
                if size > limits.MAX_BLOCK_SIZE:
                    raise GatewayRefusal(FailureKind.LIED, "It sends more than a block has.")
                parts.append(chunk)
        return b"".join(parts)

    async def _check(self, cid: CID, data: bytes) -> None:
        try:
            if len(data) < limits.HASH_IN_THREAD:
                good = verify_block(cid.multihash, data)
            else:
                good = await trio.to_thread.run_sync(verify_block, cid.multihash, data, limiter=self._hashing)
        except UnsupportedCID as error:
            raise GatewayRefusal(FailureKind.ABSENT, str(error)) from error
        if not good:
            raise GatewayRefusal(FailureKind.LIED, f"It sent other bytes for {cid} than its hash promises.")


def _chunks(response: httpx.Response) -> contextlib.aclosing[AsyncGenerator[bytes, None]]:
    """The body as it comes, to be closed even where it is not read to its end."""
    return contextlib.aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw()))


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes:
    """The next bytes of a body; empty at its end.

    Raises:
        GatewayRefusal: they do not come within STALL_SECONDS.
    """
    with trio.move_on_after(limits.STALL_SECONDS):
        async for chunk in chunks:
            if chunk:
                return chunk
        return b""
    raise GatewayRefusal(FailureKind.FAILED, f"It stopped in the middle for {limits.STALL_SECONDS:g} seconds.")


async def _drain(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    size = 0
    with trio.move_on_after(limits.STALL_SECONDS):
        async with _chunks(response) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > limits.MAX_DRAIN:
                    return


async def _leave(response: httpx.Response) -> None:
    with trio.move_on_after(1, shield=True):
        await response.aclose()
