"""Many clients of one node, in one process: each has its own peer ID and connection, and fetches a block now and then.

`python -m scripts.lab_clients ADDRESS COUNT SECONDS` reads CIDs from its standard input, one a line; it says
"connected COUNT" when all are connected, and fetches until it is killed. Each client waits so many seconds at most
between two blocks.
"""

from __future__ import annotations

import os
import random
import sys

import trio

from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.dag.cid import CID
from kachery_p2p.transport.host import Host


class _Empty:
    """A client that has nothing."""

    def has_block(self, multihash: bytes) -> int | None:
        del multihash
        return None

    def get_block(self, multihash: bytes) -> bytes | None:
        del multihash
        return None


async def _client(
    address: str, cids: list[CID], pause: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    host = Host(os.urandom(32), ())
    exchange = Exchange(host, _Empty())
    node = address.rpartition("/")[2]
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await nursery.start(exchange.run)
        await host.connect(node, [address], timeout=120)
        task_status.started()
        while True:
            await trio.sleep(random.uniform(0, pause))
            async with exchange.new_session() as session:
                session.add_provider(node)
                session.want([random.choice(cids)])
                await session.receive()


async def _run(address: str, count: int, pause: float) -> None:
    cids = [CID.parse(line.strip()) for line in sys.stdin]
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            await nursery.start(_client, address, cids, pause)
        print(f"connected {count}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_run, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
