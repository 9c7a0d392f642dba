"""A gateway over TLS and HTTP/2, served by hypercorn on loopback with a certificate made for the test."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import GatewayRefusal
from kachery_p2p.gateway.client.client import GatewayClient
from tests.helpers.certificates import self_signed

DATA = os.urandom(300_000)
BLOCK = CID(1, RAW, sha256_multihash(DATA))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


async def started(nursery: trio.Nursery, certificate: Path, seen: list[tuple[str, Any]]) -> str:
    """A gateway that has one block. Its URL."""

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        seen.append((scope["http_version"], tuple(scope["client"])))
        headers = [(b"content-type", b"application/vnd.ipld.raw")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": DATA})

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = str(certificate)
    config.accesslog = config.errorlog = None
    (bound,) = await nursery.start(partial(serve, app, config, mode="asgi"))  # type: ignore[arg-type]
    return bound.replace("http://", "https://")


async def test_blocks_over_one_http2_connection(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests at once share a connection, and more may be made than over HTTP/1.1."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    seen: list[tuple[str, Any]] = []
    async with trio.open_nursery() as nursery:
        url = await started(nursery, certificate, seen)
        client = GatewayClient([url])
        await nursery.start(client.run)
        (gateway,) = client.gateways

        async def fetch() -> None:
            assert await client.block(gateway, BLOCK) == DATA

        await fetch()
        for _ in range(3):
            async with trio.open_nursery() as requests:
                for _ in range(12):
                    requests.start_soon(fetch)
        nursery.cancel_scope.cancel()
    assert [version for version, _ in seen] == ["2"] * 37
    assert len({peer for _, peer in seen}) == 1
    assert gateway.http2
    assert gateway.most_requests == limits.MAX_REQUESTS_HTTP2 > limits.MAX_REQUESTS


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    """Blocks prove themselves, but tokens and what is asked for shall not go to just anybody."""
    seen: list[tuple[str, Any]] = []
    async with trio.open_nursery() as nursery:
        url = await started(nursery, certificate, seen)
        client = GatewayClient([url], {url: "s3cret"})
        await nursery.start(client.run)
        with pytest.raises(GatewayRefusal, match=r"(?i)certificate"):
            await client.block(client.gateways[0], BLOCK)
        nursery.cancel_scope.cancel()
    assert seen == []
