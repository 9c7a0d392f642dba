"""What a peer's streams cost it: nothing where they bring what was asked for."""

from __future__ import annotations

import os

import pytest
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.interfaces import StreamLike
from kachery_p2p.bitswap.messages import PROTOCOLS, Presence, encode
from kachery_p2p.dag.cid import CID
from tests.helpers.bitswap_fakes import MemoryHost, cid_of
from tests.unit.bitswap.test_exchange import collect, nodes, until


async def tell(
    host: MemoryHost, peer: str, *, blocks: list[tuple[CID, bytes]] | None = None, have: CID | None = None
) -> None:
    """One message on a stream of its own, as Kubo sends its replies."""
    stream = await host.open_stream(peer, PROTOCOLS)
    presences = [] if have is None else [Presence(have, have=True)]
    await stream.write_parts(encode(protocol=stream.protocol, blocks=blocks or [], presences=presences))
    await stream.close_write()


@pytest.mark.parametrize("size", [1000, limits.HASH_IN_THREAD + 1000])
async def test_a_stream_that_brings_what_is_wanted_is_not_held_against_its_peer(size: int) -> None:
    """Each is credited once, whether its block is hashed here or in a thread; one that says something is not."""
    blocks = [os.urandom(size) for _ in range(5)]
    cids = [cid_of(block) for block in blocks]
    async with nodes() as net:
        loader = await net.node("loader")
        kubo = net.network.host("kubo")

        async def hear(stream: StreamLike) -> None:
            while await stream.read():
                pass

        for protocol in PROTOCOLS:
            kubo.set_handler(protocol, hear)
        net.network.connect("loader", "kubo")
        async with loader.exchange.new_session(discover=True) as session:
            session.want(cids)
            await until(lambda: bool(kubo.inbound))
            await tell(kubo, "loader", have=cids[0])
            for cid, block in zip(cids, blocks, strict=True):
                await tell(kubo, "loader", blocks=[(cid, block)])
            assert set(await collect(session, len(blocks))) == {cid.multihash for cid in cids}
            await until(lambda: sum(stream.thanked for stream in loader.host.inbound) >= len(blocks))
            await trio.testing.wait_all_tasks_blocked()
        assert len(loader.host.inbound) == len(blocks) + 1
        assert sum(stream.thanked for stream in loader.host.inbound) == len(blocks)
