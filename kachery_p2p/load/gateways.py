"""The HTTP gateways of the node as sources of the block exchange, which knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.gateway.client.answers import FailureKind, GatewayRefusal

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.gateway.client.client import GatewayClient
    from kachery_p2p.gateway.client.gateway import Gateway

#: What each refusal means to the exchange.
ANSWERS = {
    FailureKind.ABSENT: GatewayAnswer.LACKS,
    FailureKind.BUSY: GatewayAnswer.BUSY,
    FailureKind.FAILED: GatewayAnswer.FAILED,
    FailureKind.USELESS: GatewayAnswer.BUSY,
    FailureKind.LIED: GatewayAnswer.LIED,
    FailureKind.NO_CAR: GatewayAnswer.NO_CAR,
}


class ClientSource:
    """One gateway of a `GatewayClient`; a `kachery_p2p.bitswap.interfaces.GatewaySource`."""

    def __init__(self, client: GatewayClient, gateway: Gateway) -> None:
        self._client = client
        self._gateway = gateway

    @property
    def name(self) -> str:
        """`gateway:<host>`."""
        return self._gateway.name

    @property
    def most_requests(self) -> int:
        """How many requests it takes at once: more over HTTP/2, where they share a connection."""
        return self._gateway.most_requests

    async def block(self, cid: CID, alive: Callable[[int], None]) -> bytes:
        """One block, verified.

        Raises:
            NoBlock: it did not come.
        """
        try:
            return await self._client.block(self._gateway, cid, alive)
        except GatewayRefusal as refusal:
            raise _no_block(refusal) from refusal

    async def car(
        self,
        cid: CID,
        span: tuple[int, int] | None,
        take: Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]],
        alive: Callable[[int], None],
    ) -> None:
        """The blocks of some bytes of a file, or of a directory, each verified.

        Raises:
            NoBlock: they did not come, or not all of them.
        """
        try:
            await self._client.car(self._gateway, cid, span, take, alive)
        except GatewayRefusal as refusal:
            raise _no_block(refusal) from refusal


def _no_block(refusal: GatewayRefusal) -> NoBlock:
    return NoBlock(ANSWERS[refusal.kind], str(refusal), refusal.pause)
