"""The gateway that we serve, when it is full: who makes room, and for whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import pytest
import trio

from tests.faults.test_gateway_server_hostile import LARGE, asked, connected, get, said
from tests.helpers.clocks import PatientClock
from tests.helpers.gateway_served import Served, gateway, served


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


async def test_the_connection_that_is_silent_for_longest_makes_room(here: Served) -> None:
    """However many connections say nothing, every newcomer is served; who was answered last stays longest."""
    async with gateway(here.repo, max_connections=3) as client, contextlib.AsyncExitStack() as crowd:
        silent = [await crowd.enter_async_context(connected(client)) for _ in range(2)]
        used = await crowd.enter_async_context(connected(client))
        await used.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await used.receive_some(4096)).startswith(b"HTTP/1.1 200")
        for each in silent:
            late = await crowd.enter_async_context(connected(client))
            await late.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await late.receive_some(4096)).startswith(b"HTTP/1.1 200")
            assert await said(each) == b""
        await used.send_all(get("/health"))
        assert b"HTTP/1.1 200" in await said(used)


async def test_a_thousand_silent_connections(here: Served) -> None:
    """More silent connections than there are places, made anew all the time, keep nobody out."""
    async with gateway(here.repo, max_connections=16) as client, contextlib.AsyncExitStack() as crowd:
        for _ in range(20):
            for _ in range(20):
                await crowd.enter_async_context(connected(client))
            assert (await asked(client, get("/health"))).startswith(b"HTTP/1.1 200")


async def test_readers_that_stand_still_make_way(patient_clock: PatientClock, here: Served) -> None:
    """Answers that nobody takes, over HTTP/1.1 or in an HTTP/2 window that is never opened, hold no turn for which
    others wait."""
    cid = here.store(bytes(LARGE))
    impatient = gateway(here.repo, max_running_each=2, crowded_seconds=0.2, watch_interval=0.1)
    async with impatient as client, connected(client) as plain, connected(client) as windowless:
        await plain.send_all(get(f"/ipfs/{cid}"))
        talk = h2.connection.H2Connection()
        talk.initiate_connection()
        head = [(":method", "GET"), (":path", f"/ipfs/{cid}"), (":scheme", "http"), (":authority", "localhost")]
        talk.send_headers(1, head, end_stream=True)
        await windowless.send_all(talk.data_to_send())
        await windowless.receive_some(1)
        await plain.receive_some(1)
        begun = trio.current_time()
        assert (await client.get("/health")).status_code == 200
        assert trio.current_time() - begun <= 0.2 + 2 * 0.1


async def test_frames_that_ask_nothing_are_taken_at_a_pace(here: Served) -> None:
    """A flood of HTTP/2 pings fills its own socket; others are answered meanwhile."""
    async with gateway(here.repo) as client, connected(client) as stream, trio.open_nursery() as nursery:
        talk = h2.connection.H2Connection()
        talk.initiate_connection()
        await stream.send_all(talk.data_to_send())
        sent = 0

        async def drain() -> None:
            while await stream.receive_some(65536):
                pass

        async def flood() -> None:
            nonlocal sent
            while True:
                await stream.send_all(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh" * 4000)
                sent += 4000

        nursery.start_soon(drain)
        nursery.start_soon(flood)
        for _ in range(10):
            assert (await client.get("/health")).status_code == 200
        nursery.cancel_scope.cancel()
