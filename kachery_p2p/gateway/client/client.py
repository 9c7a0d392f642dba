"""Asking gateways for blocks (Trustless Gateway specification).

A block is asked for by its CID (`?format=raw`), and what comes is hashed before anybody sees it. A directory, or the
root of a file with its first bytes, is asked for as a CAR (`?format=car&dag-scope=entity`), which saves a round trip
for each level of the DAG; its blocks are checked one by one as they come. Which block is asked of which gateway, and
what becomes of one that refuses, is not decided here, but by `kachery_p2p.bitswap.gateways`.

Size, time and redirects are bounded, and HTTP/2 is spoken where the gateway does; see `kachery_p2p.http`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import trio

from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import GatewayError, HashMismatch, MalformedDag, UnsupportedCID
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
from kachery_p2p.http import HttpAnswer, HttpBounds, HttpClient, HttpFailure, HttpProblem

log = logging.getLogger("kachery_p2p.gateway")

_BOUNDS = HttpBounds(
    connect=limits.CONNECT_SECONDS,
    redirects=limits.MAX_REDIRECTS,
    connections=limits.MAX_GATEWAYS * limits.MAX_REQUESTS,
    idle=limits.MAX_GATEWAYS * limits.MAX_REQUESTS,
    drained=limits.MAX_DRAIN,
)
#: A gateway that announces such a length is honest: some nodes have blocks like that. It is not dropped as a liar.
_TOO_LARGE = f"It has a block of more than {limits.MAX_BLOCK_SIZE:,} bytes, which are the most there may be."


def _nothing(size: int) -> None:
    """Nothing is done about the bytes that come."""


class GatewayClient:
    """The gateways of a node.

    Args:
        urls: base URLs; more than MAX_GATEWAYS are not used.
        tokens: by base URL, sent as `Authorization: Bearer ...` to that gateway alone.
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
        self._http = HttpClient(_BOUNDS, http2=True)
        self._hashing = trio.CapacityLimiter(limits.HASH_THREADS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections until cancelled."""
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            await self._http.close()

    # --- asking -----------------------------------------------------------------------------------------------------

    async def block(self, gateway: Gateway, cid: CID, alive: Callable[[int], None] = _nothing) -> bytes:
        """One block, checked.

        Args:
            gateway: where to ask.
            cid: the block.
            alive: called with the number of bytes that came, while they come.

        Raises:
            GatewayRefusal: it did not come.
        """
        async with self._in_time(gateway):
            async with self._request(gateway, cid, {"format": "raw"}, RAW_TYPE) as answer:
                data = await self._body(answer, alive)
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
        """The blocks of a directory, or of some bytes of a file, root first.

        Args:
            gateway: where to ask.
            cid: the directory or the file.
            first: the first byte that is wanted of a file.
            last: the last one.
            on_block: called with each checked block as it comes; says whether more is wanted.
            alive: called with the number of bytes that came, while they come.

        Raises:
            GatewayRefusal: as `block`; blocks may have come before.
        """
        params = {"format": "car", "dag-scope": "entity", "entity-bytes": f"{first}:{last}"}
        size = 0
        reader = CarReader()
        accept = f"{CAR_TYPE}; version=1; order=dfs; dups=n"
        async with self._in_time(gateway), self._request(gateway, cid, params, accept) as answer:
            try:
                async with answer.chunks(limits.STALL_SECONDS) as chunks:
                    async for chunk in chunks:
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

    @contextlib.asynccontextmanager
    async def _request(
        self, gateway: Gateway, cid: CID, params: dict[str, str], accept: str
    ) -> AsyncIterator[HttpAnswer]:
        """The answer, when its head says that it is what was asked for. Follows redirects to the same block.

        Raises:
            GatewayRefusal: in plain words.
        """
        headers = {"accept": accept}
        if gateway.token is not None:
            headers["authorization"] = f"Bearer {gateway.token}"
        request = self._http.ask(
            "GET",
            f"{gateway.base}/ipfs/{cid.to_v1()}",
            params=params,
            headers=headers,
            seconds=limits.ANSWER_SECONDS,
            follow=lambda redirect: may_follow(redirect.before, redirect.after, cid),
        )
        try:
            async with request as answer:
                gateway.http2 = answer.http2
                try:
                    check_head(answer.status, answer.headers, car="car" in accept, wall=self._wall())
                except GatewayRefusal:
                    await answer.drain()
                    raise
                yield answer
        except HttpFailure as failure:
            if failure.problem is HttpProblem.REDIRECT:
                raise GatewayRefusal(FailureKind.USELESS, str(failure), limits.USELESS_SECONDS) from None
            raise GatewayRefusal(FailureKind.FAILED, str(failure)) from failure

    async def _body(self, answer: HttpAnswer, alive: Callable[[int], None]) -> bytes:
        """All of a raw block's answer.

        Raises:
            GatewayRefusal: it is longer than any block.
            HttpFailure: it does not come.
        """
        length = answer.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:12]) > limits.MAX_BLOCK_SIZE:
            raise GatewayRefusal(FailureKind.ABSENT, _TOO_LARGE)
        try:
            return await answer.read(limits.MAX_BLOCK_SIZE, stall=limits.STALL_SECONDS, heard=alive)
        except HttpFailure as failure:
            if failure.problem is HttpProblem.TOO_LARGE:
                raise GatewayRefusal(FailureKind.LIED, "It sends more than a block has.") from None
            raise

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
