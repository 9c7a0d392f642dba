"""The gateways of the HTTP client as sources of the exchange: what an answer becomes. A real server on loopback."""

from __future__ import annotations

import os

import pytest
import trio

from kachery_p2p.bitswap.interfaces import GatewayAnswer, GatewaySource, NoBlock
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import FailureKind
from kachery_p2p.gateway.client.client import GatewayClient
from kachery_p2p.load.gateways import ANSWERS, ClientSource
from tests.helpers import gateway_fakes as fakes

DATA = os.urandom(1000)
BLOCK = CID(1, RAW, sha256_multihash(DATA))


async def ask(behave: fakes.Behave, *, car: bool = False) -> bytes | NoBlock:
    answer: bytes | NoBlock = b""
    with fakes.serving(behave) as gateway:
        client = GatewayClient([gateway.url])
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            source: GatewaySource = ClientSource(client, client.gateways[0])
            assert (source.name, source.most_requests) == (gateway.name, limits.MAX_REQUESTS)
            try:
                if car:
                    await source.car(BLOCK, 0, 99, lambda cid, data: True, lambda size: None)
                else:
                    answer = await source.block(BLOCK, lambda size: None)
            except NoBlock as error:
                answer = error
            nursery.cancel_scope.cancel()
    return answer


async def test_a_block() -> None:
    """Bytes are a block."""
    assert await ask(lambda answer, asked: answer.send(200, DATA)) == DATA


@pytest.mark.parametrize(
    ("status", "kind", "body", "car", "becomes", "pause"),
    [
        (404, "text/plain", b"no", False, GatewayAnswer.LACKS, None),
        (429, "text/plain", b"no", False, GatewayAnswer.BUSY, limits.BUSY_SECONDS),
        (200, "text/html", b"<html>", False, GatewayAnswer.BUSY, limits.USELESS_SECONDS),
        (200, fakes.RAW, b"other bytes", False, GatewayAnswer.LIED, None),
        (400, "text/plain", b"no", True, GatewayAnswer.NO_CAR, None),
    ],
)
async def test_what_is_no_block(
    status: int, kind: str, body: bytes, car: bool, becomes: GatewayAnswer, pause: float | None
) -> None:
    """404 is DONT_HAVE; a pause is kept as long as it was asked for; other bytes are a lie."""
    refusal = await ask(lambda answer, asked: answer.send(status, body, kind), car=car)
    assert isinstance(refusal, NoBlock)
    assert (refusal.answer, refusal.pause) == (becomes, pause)


def test_every_failure_has_an_answer() -> None:
    """None of them is an error of the program."""
    assert set(ANSWERS) == set(FailureKind)
