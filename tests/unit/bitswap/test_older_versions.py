"""Exchanges over real hosts, one of which speaks older versions only and has not said so."""

from __future__ import annotations

import os

import pytest
import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.messages import PROTOCOL_1_0, PROTOCOL_1_1
from kachery_p2p.protocols import BITSWAP
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.identify import IDENTIFY
from tests.helpers.bitswap_fakes import MemoryStore, cid_of
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started


async def exchanging(nursery: trio.Nursery, block: bytes) -> tuple[Host, Exchange]:
    """A host with an exchange that has one block."""
    host = await started(nursery)
    exchange = Exchange(host, MemoryStore([block]))
    await nursery.start(exchange.run)
    return host, exchange


@pytest.mark.parametrize("protocol", [PROTOCOL_1_1, PROTOCOL_1_0])
async def test_wants_and_blocks_get_through(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """The newest version is taken for granted; where it is refused, all that was said is said again in an older one.
    That holds for wants, and for the answer to a peer that asks in the older one. Nobody is taken for
    stalled meanwhile."""
    monkeypatch.setattr(limits, "STALL_SECONDS", 1e6)
    ours, theirs = os.urandom(70_000), os.urandom(70_000)
    new, new_exchange = await exchanging(nursery, ours)
    old, old_exchange = await exchanging(nursery, theirs)
    for name in BITSWAP:
        if name != protocol:
            old.remove_handler(name)
    old.remove_handler(IDENTIFY)
    await new.connect(old.addresses()[0])
    for exchange, peer, block in ((new_exchange, old.peer_id, theirs), (old_exchange, new.peer_id, ours)):
        async with exchange.new_session() as session:
            session.add_provider(peer)
            session.want([cid_of(block, version=0)])
            with trio.fail_after(PATIENCE):
                assert bytes((await session.receive()).data) == block
    assert not new.protocols_of(old.peer_id), "it was not to be identified"
