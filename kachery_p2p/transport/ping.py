"""Ping: whatever 32 bytes come in go back (libp2p ping specification).

py-libp2p's `PingService` (`host/ping.py`) does the same, but keeps an entry for every peer that ever pinged.
"""

from __future__ import annotations

import trio

from kachery_p2p.transport import limits
from kachery_p2p.transport.stream import Stream

PING = "/ipfs/ping/1.0.0"
SIZE = 32


async def serve_ping(stream: Stream) -> None:
    """Handler of `PING`: answers until the peer ends the stream or falls silent."""
    payload = bytearray(SIZE)
    while True:
        with trio.move_on_after(limits.PING_IDLE_TIMEOUT) as idle:
            first = await stream.read(SIZE)
            if not first:
                return
            payload[: len(first)] = first
            if len(first) < SIZE:
                await stream.read_into(memoryview(payload)[len(first) :])
            await stream.write(payload)
        if idle.cancelled_caught:
            return
