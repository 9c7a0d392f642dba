"""An honest peer of the node that is flooded: `python -m scripts.floods.honest`.

Its standard input is what the target printed, then a line for each measurement, such as
`{"seconds": 8.0, "bulk": true}`. It answers each with a line.

What is measured: the time from wanting a block of 64 KiB until it is there, one after the other; that of a small file
through the gateway, each over a connection of its own; and the rate of a bulk transfer of many MiB in blocks of 1 MiB.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import trio

from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.dag.cid import CID
from kachery_p2p.transport.host import Host

#: An answer that takes longer than this counts as none.
PATIENCE = 10.0
PAUSE = 0.02


class Nothing:
    """A store without blocks."""

    def has_block(self, multihash: bytes) -> int | None:
        return None

    def get_block(self, multihash: bytes) -> bytes | None:
        return None


async def block(exchange: Exchange, cid: CID) -> float:
    """Seconds until a block that is wanted is there."""
    begun = time.monotonic()
    with trio.fail_after(PATIENCE):
        async with exchange.new_session(discover=True) as session:
            session.want([cid])
            await session.receive()
    return time.monotonic() - begun


async def over_http(url: str, cid: str) -> float:
    """Seconds until a small file has come through the gateway, over a new connection.

    Raises:
        OSError: the gateway answers with another status than 200.
    """
    host, port = url.removeprefix("http://").split(":")
    begun = time.monotonic()
    with trio.fail_after(PATIENCE):
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(
                f"GET /ipfs/{cid} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            answer = b""
            while data := await stream.receive_some(65536):
                answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise OSError(answer[:20])
    return time.monotonic() - begun


async def bulk(exchange: Exchange, leaves: list[CID]) -> float:
    """MB/s of a bulk transfer."""
    begun = time.monotonic()
    size = 0
    with trio.move_on_after(PATIENCE):
        async with exchange.new_session(discover=True) as session:
            session.want(leaves)
            for _ in leaves:
                size += len((await session.receive()).data)
    return size / (time.monotonic() - begun) / 1e6


async def measure(exchange: Exchange, host: Host, said: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """One measurement: `said` is what the target printed, `order` a line of the standard input."""
    times: list[float] = []
    web: list[float] = []
    failed = web_failed = 0
    blocks = [CID.parse(each) for each in said["blocks"]]
    until = time.monotonic() + order["seconds"]

    async def blocks_over_and_over() -> None:
        nonlocal failed
        n = 0
        while time.monotonic() < until:
            try:
                if not host.connected():
                    await host.connect(said["addr"])
                times.append(await block(exchange, blocks[n % len(blocks)]))
            except Exception:  # noqa: BLE001 - whatever it was, there is no block
                failed += 1
            n += 1
            await trio.sleep(PAUSE)

    async def web_over_and_over() -> None:
        nonlocal web_failed
        n = 0
        while time.monotonic() < until:
            try:
                web.append(await over_http(said["gateway"], said["blocks"][n % len(blocks)]))
            except Exception:  # noqa: BLE001
                web_failed += 1
            n += 1
            await trio.sleep(PAUSE)

    newcomer: float | None = None

    async def meet() -> None:
        """Another honest peer, that was not connected before."""
        nonlocal newcomer
        begun = time.monotonic()
        async with trio.open_nursery() as nursery:
            other = Host(os.urandom(32), [])
            await nursery.start(other.run)
            while time.monotonic() < begun + 30:
                try:
                    await other.connect(said["addr"])
                    newcomer = time.monotonic() - begun
                    break
                except Exception:  # noqa: BLE001
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocks_over_and_over)
        if order.get("web"):
            nursery.start_soon(web_over_and_over)
        nursery.start_soon(meet)
    rate = None
    if order.get("bulk"):
        rate = await bulk(exchange, [CID.parse(each) for each in said["leaves"]])
    return {"blocks": times, "failed": failed, "web": web, "web_failed": web_failed, "newcomer": newcomer, "bulk": rate}


async def main() -> None:
    """Connect to the target, and measure as often as the standard input asks for it."""
    said = json.loads(sys.stdin.readline())
    host = Host(os.urandom(32), [])
    exchange = Exchange(host, Nothing())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await nursery.start(exchange.run)
        await host.connect(said["addr"])
        print(json.dumps("ready"), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await measure(exchange, host, said, json.loads(line))), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
