"""Gateways and loads: what an answer becomes for the exchange, and that peers which are dialled come first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from kachery_p2p.bitswap.interfaces import GatewayAnswer, GatewaySource, NoBlock
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import FailureKind
from kachery_p2p.gateway.client.client import GatewayClient
from kachery_p2p.load.gateways import ANSWERS, ClientSource
from kachery_p2p.repo.repo import Repo
from tests.helpers import gateway_fakes as fakes
from tests.unit.load.test_load import EmptySession, make_load, store

DATA = os.urandom(1000)
BLOCK = CID(1, RAW, sha256_multihash(DATA))


async def take_all(blocks: Sequence[tuple[CID, bytes]]) -> bool:
    return True


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
                    await source.car(BLOCK, (0, 99), take_all, lambda size: None)
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
        (404, "text/plain", b"no", True, GatewayAnswer.LACKS, None),
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


async def test_a_peer_that_is_dialled_is_expected(tmp_path: Path) -> None:
    """The session hears of each dial, from its beginning to its end, so that gateways give the peer its time."""
    expected: list[bool] = []

    class Expecting(EmptySession):
        now = False

        @contextlib.contextmanager
        def expecting(self) -> Iterator[None]:
            self.now = True
            yield
            self.now = False

    with Repo.open(tmp_path / "ours") as ours, Repo.open(tmp_path / "theirs") as theirs:
        cid = store(theirs, DATA, tmp_path)
        session = Expecting(theirs)

        async def connect(addr: str, addrs: Sequence[str]) -> str:
            await trio.lowlevel.checkpoint()
            expected.append(session.now)
            return "peer"

        load = make_load(ours, session, connect=connect)
        path, _ = await load.run(cid, ["/ip4/192.0.2.1/tcp/4001/p2p/peer"], lambda: load.file(cid))
        assert path.read_bytes() == DATA
    assert expected == [True]
    assert not session.now
