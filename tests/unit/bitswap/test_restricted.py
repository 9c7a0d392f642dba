"""A session that talks to some peers only: the others hear of nothing that it wants."""

from __future__ import annotations

import os

import trio
import trio.testing

from kachery_p2p.dag.cid import sha256_multihash
from tests.helpers.bitswap_fakes import cid_of
from tests.helpers.bitswap_sim import SimGateway, SimPeer
from tests.unit.bitswap.test_exchange import Node, collect, nodes, until
from tests.unit.bitswap.test_gateways import all_came, swarm, want

BLOCKS = [os.urandom(3000) for _ in range(40)]
CIDS = [cid_of(block) for block in BLOCKS]


def streams_to(node: Node, peer: str) -> int:
    """How many streams were opened to a peer: a want needs one."""
    return sum(stream.peer == peer for stream in node.host.outbound)


async def test_only_those_are_asked_that_may_hear() -> None:
    """Others have the same blocks and are connected, or are named by the URI: not a byte goes to them."""
    async with nodes() as net:
        for name in ("member", "stranger", "named"):
            await net.node(name, BLOCKS)
        us = await net.node("us")
        async with us.exchange.new_session(discover=True, admits=lambda peer: peer == "member") as session:
            session.add_provider("named")
            session.want(CIDS)
            got = await collect(session, len(CIDS))
            assert got == {sha256_multihash(block): block for block in BLOCKS}
            assert session.asked() == ["member"]
        await trio.testing.wait_all_tasks_blocked()
        assert (streams_to(us, "stranger"), streams_to(us, "named")) == (0, 0)


async def test_who_connects_later_is_asked_only_if_it_may_hear() -> None:
    """Where nobody who may has a block, the session runs dry, though strangers have it."""
    async with nodes() as net:
        us = await net.node("us")
        async with us.exchange.new_session(discover=True, admits=lambda peer: peer == "member") as session:
            session.want(CIDS)
            await net.node("stranger", BLOCKS)
            await net.node("member", [])
            with trio.fail_after(5):
                await session.wait_exhausted()
            await until(lambda: session.asked() == ["member"])
            assert session.missing()
        assert streams_to(us, "stranger") == 0


async def test_who_is_removed_while_it_lasts_hears_of_no_more() -> None:
    """What it was asked is taken back; who becomes a member is asked from then on."""
    members = {"former"}
    async with nodes() as net:
        former = await net.node("former", [])
        await net.node("new", BLOCKS)
        us = await net.node("us")
        async with us.exchange.new_session(discover=True, admits=lambda peer: peer in members) as session:
            session.want(CIDS[:20])
            await until(lambda: len(former.exchange._engine.waiting([cid.multihash for cid in CIDS[:20]])) == 1)
            members.clear()
            members.add("new")
            us.exchange.look_again()
            await collect(session, 20)
            # Told to forget it, and not asked for the rest.
            await until(lambda: not former.exchange._engine.waiting([cid.multihash for cid in CIDS]))
            session.want(CIDS[20:])
            await collect(session, 20)
            assert session.stats().sources.keys() == {"new"}
        assert not former.exchange._engine.waiting([cid.multihash for cid in CIDS])


async def test_a_session_that_is_restricted_while_it_lasts() -> None:
    """It turned out that what is wanted is for a group: strangers are not asked for the rest."""
    async with nodes() as net:
        for name in ("member", "stranger"):
            await net.node(name, BLOCKS)
        us = await net.node("us")
        async with us.exchange.new_session(discover=True) as session:
            session.want(CIDS[:1])
            await collect(session, 1)
            session.restrict(lambda peer: peer == "member")
            before = session.stats().sources.get("stranger", 0)
            session.want(CIDS[1:])
            await collect(session, len(CIDS) - 1)
            assert session.stats().sources.get("stranger", 0) == before
            assert "stranger" not in session.peers() or session.peers()["stranger"].state == "gone"


async def test_another_session_goes_on_with_the_same_block() -> None:
    """What a public load wants of a stranger, too, stays wanted there when the other one lets go of that peer."""
    async with nodes() as net:
        stranger = await net.node("stranger", [])
        us = await net.node("us")
        async with us.exchange.new_session(discover=True) as first, us.exchange.new_session(discover=True) as second:
            first.want(CIDS[:3])
            second.want(CIDS[:3])
            keys = [cid.multihash for cid in CIDS[:3]]
            await until(lambda: sum(map(len, stranger.exchange._engine.waiting(keys).values())) == 3)
            first.restrict(lambda peer: False)
            for block in BLOCKS[:3]:
                stranger.store.add(block)
            stranger.exchange.notify(keys)
            await collect(second, 3)
            await collect(first, 3)


async def test_a_block_that_is_put_back_is_asked_for_once() -> None:
    """It comes again when it is wanted again, with the peer that it came from, and counts once."""
    async with nodes() as net:
        member = await net.node("member", BLOCKS)
        us = await net.node("us")
        async with us.exchange.new_session(discover=True) as session:
            session.want(CIDS[:1])
            (block,) = await session.receive_all()
            session.put_back(block)
            session.want(CIDS[:1])
            assert await session.receive() == block
            assert session.stats().sources == {"member": len(BLOCKS[0])}
        assert member.exchange.stats().total.blocks_sent == 1


def test_a_gateway_hears_of_nothing_more() -> None:
    """Once a session is restricted, no gateway is asked for what it wants, however slow or empty the peers are."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("member", 100e3, 0.05))
    want(sim, session, 20)
    assert all_came(sim, session, 20)
    assert gateway.asked, "it helps as long as it may"
    sim.client.restrict(session, lambda peer: peer == "member", sim.now)
    before = len(gateway.asked)
    want(sim, session, 60, 20)
    assert all_came(sim, session, 80)
    assert len(gateway.asked) == before
    assert not session.gateways
