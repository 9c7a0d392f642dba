"""The node that is flooded: `python -m scripts.floods.target FOLDER`; prints its addresses as one line of JSON.

A whole node on loopback: blocks to serve, a DHT server with a full table, a relay, a gateway. For each line on standard
input it tells how its event loop has fared since the last one: CPU seconds of the process, and milliseconds of CPU that
one round of the event loop took (median, 95th percentile, most). Both are the same however busy the machine is.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.gateway.server.server import GatewayServer
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.transport import compat

BLOCKS, BLOCK_SIZE = 64, 64 * 1024
LARGE = 64 * 2**20
TABLE_PEERS = 400


def fill_table(dht: DHT) -> None:
    """Peers that are not there, so that a question costs what it costs in a real network."""
    from multiaddr import Multiaddr

    from kachery_p2p.peer_ids import peer_bytes

    table = dht._network.table
    for number in range(TABLE_PEERS):
        peer = compat.Keys.from_seed(number.to_bytes(32, "big")).peer_id
        addrs = (Multiaddr(f"/ip4/127.0.0.1/tcp/{20_000 + number}").to_bytes(),)
        table.consider(peer_bytes(peer), addrs, trio.current_time(), None)


class Probe:
    """Measures rounds of the event loop, in CPU time of its thread."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self._cpu = time.process_time()
        self._at = time.monotonic()

    async def run(self) -> None:
        while True:
            await trio.sleep(0.005)
            begun = time.thread_time()
            await trio.lowlevel.checkpoint()
            self.rounds.append(1000 * (time.thread_time() - begun))

    def report(self) -> dict[str, float]:
        rounds = sorted(self.rounds) or [0.0]
        cpu, at = time.process_time(), time.monotonic()
        share = (cpu - self._cpu) / (at - self._at)
        self.rounds, self._cpu, self._at = [], cpu, at
        median, high = rounds[len(rounds) // 2], rounds[min(int(len(rounds) * 0.95), len(rounds) - 1)]
        return {"cpu": share, "median": median, "high": high, "most": rounds[-1]}


async def main(folder: Path) -> None:
    """Serve from a data directory until the standard input ends."""
    repo = Repo.open(folder)
    blocks = [str(repo.store_bytes(os.urandom(BLOCK_SIZE)).cid) for _ in range(BLOCKS)]
    large = repo.store_bytes(os.urandom(LARGE)).cid
    leaves = [str(link.cid) for link in _links(repo, large)]
    options = NodeOptions(lan_dht=True, relay_service="on", reachability="public")
    node = Node(repo, load_or_create_identity(folder), listen=["/ip4/127.0.0.1/tcp/0"], options=options)
    server = GatewayServer(repo, "127.0.0.1:0")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            await nursery.start(server.run)
            for each in gc.get_objects():
                if isinstance(each, DHT):
                    fill_table(each)
            said = {"addr": node.host.addresses()[0], "gateway": server.url, "blocks": blocks, "leaves": leaves}
            print(json.dumps(said), flush=True)
            probe = Probe()
            nursery.start_soon(probe.run)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                print(json.dumps(probe.report()), flush=True)
            nursery.cancel_scope.cancel()
    finally:
        repo.close()


def _links(repo: Repo, root: CID) -> list:
    from kachery_p2p.dag.pb import decode_node

    block = repo.get_block(root.multihash)
    assert block is not None
    return list(decode_node(block).links)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
