"""Asking gateways for blocks (Trustless Gateway specification).

A block is asked for by its CID (`?format=raw`), and what comes is hashed before anybody sees it. Many are asked for as
a CAR: the bytes of a file from one place to another (`?format=car&dag-scope=entity&entity-bytes=`), or all that is in a
directory (`dag-scope=all`). Its blocks are checked as they come, and what came before the first wrong one is good.
Which block is asked of which gateway, and what becomes of one that refuses, is not decided here, but by
`kachery_p2p.bitswap.gateways`.

Size, time and redirects are bounded, and HTTP/2 is spoken where the gateway does; see `kachery_p2p.http`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import trio

from kachery_p2p.dag.car import CarReader, first_wrong, wrong_block
from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import GatewayError, HashMismatch, MalformedDag, UnsupportedCID
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import (
    FailureKind,
    GatewayRefusal,
    check_head,
    may_follow,
    parse_url,
)
from kachery_p2p.gateway.client.gateway import Gateway
from kachery_p2p.gateway.media_types import CAR_TYPE, RAW_TYPE
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
        async with self._told(gateway):
            with trio.move_on_after(limits.REQUEST_SECONDS):
                async with self._request(gateway, cid, {"format": "raw"}, RAW_TYPE) as answer:
                    data = await self._body(answer, alive)
                await self._check(cid, data)
                return data
            why = f"It did not finish its answer within {limits.REQUEST_SECONDS:g} seconds."
            raise GatewayRefusal(FailureKind.FAILED, why)

    async def car(
        self,
        gateway: Gateway,
        cid: CID,
        span: tuple[int, int] | None,
        take: Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]],
        alive: Callable[[int], None] = _nothing,
    ) -> None:
        """The blocks of a file or a directory, parents before their children.

        Args:
            gateway: where to ask.
            cid: the file or the directory.
            span: the first and the last byte that are wanted of a file; of a directory, its own blocks come then. None
                for all that is in and below a directory.
            take: given the checked blocks, some at a time, in the order in which they come; says whether more is
                wanted. While it waits nothing is read, and that time does not count.
            alive: called with the number of bytes that came, while they come.

        Raises:
            GatewayRefusal: as `block`; blocks may have come before.
        """
        params = {"format": "car", "dag-scope": "all"}
        most = math.inf
        if span is not None:
            params |= {"dag-scope": "entity", "entity-bytes": f"{span[0]}:{span[1]}"}
            most = span[1] - span[0] + limits.MAX_CAR_BESIDE
        accept = f"{CAR_TYPE}; version=1; order=dfs; dups=n"
        reader = CarReader(check=False)
        some = False
        size = 0
        with trio.CancelScope(deadline=trio.current_time() + limits.REQUEST_SECONDS) as scope:
            async with self._told(gateway), self._request(gateway, cid, params, accept) as answer:
                try:
                    async with answer.chunks(limits.STALL_SECONDS) as chunks:
                        async for chunk in chunks:
                            size += len(chunk)
                            alive(len(chunk))
                            left = scope.deadline - trio.current_time() + len(chunk) / limits.LEAST_RATE
                            scope.deadline = math.inf
                            blocks, error = _blocks_of(reader, chunk)
                            some = some or bool(blocks)
                            if blocks and not await self._give(blocks, take):
                                return
                            if error is not None:
                                raise error
                            scope.deadline = trio.current_time() + left
                            if size > most:
                                return
                    reader.close()
                except HashMismatch as error:
                    raise GatewayRefusal(FailureKind.LIED, str(error)) from error
                except (MalformedDag, UnsupportedCID) as error:
                    # One that was right so far was cut short.
                    raise GatewayRefusal(FailureKind.FAILED if some else FailureKind.NO_CAR, str(error)) from error
        if scope.cancelled_caught:
            raise GatewayRefusal(FailureKind.FAILED, "It sends its answer too slowly.")

    async def _give(
        self, blocks: Sequence[tuple[CID, bytes]], take: Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]]
    ) -> bool:
        """Check blocks, and hand on those that come before the first wrong one.

        Raises:
            HashMismatch: there is a wrong one.
            UnsupportedCID: a hash function cannot be checked.
        """
        if sum(len(block) for _, block in blocks) < limits.HASH_IN_THREAD:
            wrong = first_wrong(blocks)
        else:
            wrong = await trio.to_thread.run_sync(first_wrong, blocks, limiter=self._hashing)
        if wrong is None:
            return await take(blocks)
        if wrong:
            await take(blocks[:wrong])
        raise wrong_block(blocks[wrong][0])

    @contextlib.asynccontextmanager
    async def _told(self, gateway: Gateway) -> AsyncIterator[None]:
        """What a gateway refuses is in the log."""
        try:
            yield
        except GatewayRefusal as refusal:
            log.debug("%s: %s", gateway.name, refusal)
            raise

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


def _blocks_of(reader: CarReader, chunk: bytes) -> tuple[list[tuple[CID, bytes]], MalformedDag | UnsupportedCID | None]:
    """The blocks that are complete with this chunk, and what is wrong behind them."""
    blocks: list[tuple[CID, bytes]] = []
    try:
        for each in reader.feed(chunk):
            blocks.append(each)
    except (MalformedDag, UnsupportedCID) as error:
        return blocks, error
    return blocks, None
