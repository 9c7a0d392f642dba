"""The listener of HTTP: whatever becomes of one connection, the others go on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from kachery_p2p.gateway.server.limits import DEFAULTS
from kachery_p2p.http_server import HttpServer
from tests.helpers.patience import PATIENCE


class Hello:
    """An application that says hello."""

    crowded = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})


async def test_what_breaks_while_a_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody goes away in the middle: one task of the connection is cancelled, another one breaks. The errors come
    in one group, which ends neither the listener nor the node."""
    server = HttpServer(Hello(), "127.0.0.1:0", what="The test", option="--test", bounds=DEFAULTS)
    speak = server._speak
    broken = trio.Event()

    async def breaks(stream: Any) -> None:
        async def fails_at_its_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                broken.set()
                raise trio.BrokenResourceError("the other side has gone")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_at_its_end)
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            stream._scope.cancel()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            monkeypatch.setattr(server, "_speak", breaks)
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as http:
                with pytest.raises(httpx.HTTPError):
                    await http.get("/")
                await broken.wait()
                monkeypatch.setattr(server, "_speak", speak)
                assert (await http.get("/")).text == "hello"
            nursery.cancel_scope.cancel()
