"""Exchanges that talk to each other over in-memory streams."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.handle import ReceivedBlock, SessionHandle
from kachery_p2p.bitswap.messages import PROTOCOL_1_0, PROTOCOL_1_1, PROTOCOL_PLAIN
from kachery_p2p.dag.cid import CID, RAW
from tests.helpers.bitswap_fakes import MemoryNetwork, MemoryStore, cid_of, no_thread
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE

MIB = 1 << 20


class Node:
    """An exchange with its host and store."""

    def __init__(self, network: MemoryNetwork, name: str, blocks: list[bytes], protocols: list[str] | None) -> None:
        self.name = name
        self.host = network.host(name) if protocols is None else network.host(name, protocols)
        self.store = MemoryStore(blocks)
        self.bad: list[tuple[str, str]] = []
        self.exchange = Exchange(self.host, self.store, on_bad_peer=lambda peer, why: self.bad.append((peer, why)))


class Net:
    """Nodes in one nursery, all connected unless said otherwise."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork(nursery)
        self.nodes: dict[str, Node] = {}

    async def node(
        self, name: str, blocks: list[bytes] | None = None, *, protocols: list[str] | None = None, connect: bool = True
    ) -> Node:
        node = Node(self.network, name, blocks or [], protocols)
        await self.nursery.start(node.exchange.run)
        if connect:
            for other in self.nodes:
                self.network.connect(name, other)
        self.nodes[name] = node
        return node


@asynccontextmanager
async def nodes() -> AsyncIterator[Net]:
    async with trio.open_nursery() as nursery:
        yield Net(nursery)
        nursery.cancel_scope.cancel()


async def collect(session: SessionHandle, count: int, seconds: float = PATIENCE) -> dict[bytes, bytes]:
    got: dict[bytes, bytes] = {}
    with trio.fail_after(seconds):
        while len(got) < count:
            block = await session.receive()
            assert block.cid.multihash not in got
            got[block.cid.multihash] = bytes(block.data)
    return got


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


async def test_blocks_of_all_sizes_arrive() -> None:
    """Tiny, small, 1 MiB and 2 MiB blocks, CIDv0 and CIDv1, come through with the CIDs they were asked by."""
    blocks = [b"x", os.urandom(1000), os.urandom(1025), os.urandom(40_000), os.urandom(MIB), os.urandom(2 * MIB)]
    async with nodes() as net:
        await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            cids = [cid_of(block, version=n % 2) for n, block in enumerate(blocks)]
            session.want(cids)
            with trio.fail_after(PATIENCE):
                received = [await session.receive() for _ in cids]
            assert {(r.cid, bytes(r.data), r.peer) for r in received} == {
                (cid, block, "a") for cid, block in zip(cids, blocks, strict=True)
            }
            assert not b.exchange.client.wants
            assert session.stats().duplicates == 0
            assert session.asked() == ["a"]
            assert session.peers()["a"].blocks == len(blocks)
        total = b.exchange.stats().total
        assert (total.blocks_received, total.bytes_received) == (len(blocks), sum(map(len, blocks)))
        assert net.nodes["a"].exchange.stats().total.blocks_sent == len(blocks)


async def test_many_blocks_come_from_several_peers() -> None:
    """A load of 2 000 blocks is spread over the peers, each block sent once (but for the endgame)."""
    blocks = [os.urandom(3000) for _ in range(2000)]
    async with nodes() as net:
        for name in "abc":
            await net.node(name, blocks)
        d = await net.node("d")
        async with d.exchange.new_session() as session:
            for name in "abc":
                session.add_provider(name)
            session.want([cid_of(block) for block in blocks])
            await collect(session, len(blocks))
            sent = sum(net.nodes[name].exchange.stats().total.blocks_sent for name in "abc")
            assert sent <= len(blocks) + 60


async def test_replies_never_go_back_on_the_stream_of_the_request() -> None:
    """Wants and replies travel on streams of their own: nothing is written to a stream that the other side opened."""
    block = os.urandom(5000)
    async with nodes() as net:
        a = await net.node("a", [block])
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(block)])
            await collect(session, 1)
        for stream in [*a.host.inbound, *b.host.inbound]:
            assert not stream._out.buffer
            assert not stream._out.total
        assert a.host.outbound
        assert b.host.outbound


@pytest.mark.parametrize("protocol", [PROTOCOL_1_1, PROTOCOL_1_0, PROTOCOL_PLAIN])
async def test_old_versions_in_both_directions(protocol: str) -> None:
    """A peer that speaks only an older version gets blocks from us and gives us its own."""
    mine, theirs = os.urandom(70_000), os.urandom(70_000)
    async with nodes() as net:
        old = await net.node("old", [theirs], protocols=[protocol])
        new = await net.node("new", [mine])
        async with new.exchange.new_session() as session:
            session.add_provider("old")
            session.want([cid_of(theirs, version=0)])
            assert list((await collect(session, 1)).values()) == [theirs]
        async with old.exchange.new_session() as session:
            session.add_provider("new")
            session.want([cid_of(mine, version=0)])
            assert list((await collect(session, 1)).values()) == [mine]


async def test_nobody_has_it() -> None:
    """wait_exhausted returns when all peers said no, names the block, and not before."""
    block = os.urandom(100)
    async with nodes() as net:
        for name in "abc":
            await net.node(name)
        d = await net.node("d")
        async with d.exchange.new_session() as session:
            for name in "abc":
                session.add_provider(name)
            with trio.move_on_after(0.05) as nothing_wanted:
                await session.wait_exhausted()
            assert nothing_wanted.cancelled_caught
            session.want([cid_of(block)])
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()
            assert session.missing() == [cid_of(block)]
            assert session.asked() == ["a", "b", "c"]
            # Somebody who has it comes: it is not exhausted any more, and the block arrives.
            await net.node("e", [block])
            session.add_provider("e")
            assert list((await collect(session, 1)).values()) == [block]
            with trio.move_on_after(0.05) as found:
                await session.wait_exhausted()
            assert found.cancelled_caught


async def test_a_block_that_a_peer_gets_later_comes_then() -> None:
    """After DONT_HAVE the want stays with the peer; notify sends it on its way."""
    block = os.urandom(100_000)
    async with nodes() as net:
        a = await net.node("a")
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(block)])
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()
            cid = a.store.add(block)
            a.exchange.notify([cid.multihash])
            assert list((await collect(session, 1)).values()) == [block]


async def test_discovery_among_connected_peers() -> None:
    """A session with `discover` asks connected peers nobody named, those that connect later too."""
    one, two = os.urandom(5000), os.urandom(5000)
    async with nodes() as net:
        await net.node("a", [one])
        b = await net.node("b")
        async with b.exchange.new_session(discover=True) as session:
            session.want([cid_of(one), cid_of(two)])
            await collect(session, 1)
            await net.node("c", [two])
            await collect(session, 1)


async def test_two_sessions_share_one_request() -> None:
    """A block wanted by two sessions is sent once and delivered to both."""
    blocks = [os.urandom(60_000) for _ in range(30)]
    async with nodes() as net:
        a = await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as one, b.exchange.new_session() as two:
            for session in (one, two):
                session.add_provider("a")
                session.want([cid_of(block) for block in blocks])
            assert await collect(one, 30) == await collect(two, 30)
        assert a.exchange.stats().total.blocks_sent == 30


async def test_one_who_does_not_receive_stops_the_fetching_but_not_the_others(patient_clock: PatientClock) -> None:
    """Back-pressure: unread blocks stay within the budget, and another session over the same peer goes on."""
    blocks = [os.urandom(8) * (MIB // 8) for _ in range(100)]
    async with nodes() as net:
        await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as lazy, b.exchange.new_session() as busy:
            for session in (lazy, busy):
                session.add_provider("a")
            lazy.want([cid_of(block) for block in blocks[:60]])
            await until(lambda: b.exchange.stats().total.blocks_received > 10)
            await trio.sleep(1)  # time passes only when nothing more is done
            stopped_at = b.exchange.stats().total.blocks_received
            assert stopped_at * MIB <= limits.MAX_IN_FLIGHT
            await trio.sleep(0.5)
            assert b.exchange.stats().total.blocks_received == stopped_at
            busy.want([cid_of(block) for block in blocks[60:]])
            await collect(busy, 40)
            await collect(lazy, 60)


async def test_identity_blocks_need_nobody() -> None:
    """A CID that carries its block is answered at once."""
    async with nodes() as net:
        a = await net.node("a")
        async with a.exchange.new_session() as session:
            cid = CID(1, RAW, b"\0\x05hello")
            session.want([cid])
            with trio.fail_after(PATIENCE):
                assert await session.receive() == ReceivedBlock(cid, b"hello", "")


async def test_a_peer_that_leaves_and_comes_back_is_asked_again() -> None:
    """A named provider that reconnects takes part again."""
    blocks = [os.urandom(200_000) for _ in range(40)]
    async with nodes() as net:
        await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(block) for block in blocks])
            got = await collect(session, 10)
            net.network.disconnect("a", "b")
            got |= await collect(session, session.stats().blocks - len(got))
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()
            net.network.connect("a", "b")
            got |= await collect(session, 40 - len(got))
            assert len(got) == 40


async def test_a_broken_stream_is_opened_anew() -> None:
    """Wants and replies survive a stream that breaks, or one that cannot be opened the first time."""
    blocks = [os.urandom(2000) for _ in range(3)]
    async with nodes() as net:
        a = await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            for block in blocks:
                a.host.fail_next = b.host.fail_next = 1
                session.want([cid_of(block)])
                await collect(session, 1)
                for stream in [*a.host.outbound, *b.host.outbound]:
                    await stream.reset()
        assert a.host.failures
        assert b.host.failures


async def test_a_peer_without_bitswap_counts_as_one_that_cannot_supply() -> None:
    """When no stream can be opened, the session is exhausted instead of waiting for ever."""
    async with nodes() as net:
        await net.node("a", protocols=["/other/1.0.0"])
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(b"x")])
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()


async def test_streams_are_closed_when_idle(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some seconds without a message and the streams are closed in good order; the next want opens one again."""
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    one, two = os.urandom(100), os.urandom(100)
    async with nodes() as net:
        a = await net.node("a", [one, two])
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(one)])
            assert (await session.receive()).data == one
            await trio.sleep(limits.STREAM_IDLE_CLOSE + 1)
            for stream in [*a.host.outbound, *b.host.outbound]:
                assert stream._out.ended
                assert not stream.was_reset
            session.want([cid_of(two)])
            assert (await session.receive()).data == two
        assert (a.host.opened, b.host.opened) == (2, 2)


async def test_closing_a_session_cancels_at_the_peers() -> None:
    """After a session ends the peer no longer holds its wants, and receivers are told."""
    async with nodes() as net:
        a = await net.node("a")
        b = await net.node("b")
        session = b.exchange.new_session()
        session.add_provider("a")
        session.want([cid_of(b"x"), cid_of(b"y")])
        with trio.fail_after(PATIENCE):
            await session.wait_exhausted()
        assert len(a.exchange._engine.ledgers["b"].wants) == 2

        async def receiver() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await session.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver)
            await trio.testing.wait_all_tasks_blocked()
            session.close()
        await until(lambda: not a.exchange._engine.ledgers["b"].wants)
        assert not b.exchange.client.wants


async def test_a_store_that_fails_says_dont_have() -> None:
    """Errors of the store do not reach the network as anything but DONT_HAVE, and serving goes on."""
    good, broken = os.urandom(5000), os.urandom(5000)
    async with nodes() as net:
        a = await net.node("a", [good, broken])
        inner = a.store.get_block

        def get_block(multihash: bytes) -> bytes | None:
            if multihash == cid_of(broken).multihash:
                raise RuntimeError("the disk is on fire")
            return inner(multihash)

        a.store.get_block = get_block  # type: ignore[method-assign]
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(good), cid_of(broken)])
            assert list((await collect(session, 1)).values()) == [good]
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()
            assert session.missing() == [cid_of(broken)]


async def test_it_stops_cleanly_in_the_middle() -> None:
    """Cancelling the exchange while blocks fly leaves no task and no error behind, and closes its sessions.

    Several times, because what comes in may meet it at any point of its end.
    """
    blocks = [os.urandom(MIB) for _ in range(20)]
    async with nodes() as net:
        await net.node("a", blocks)
        for name in "bcdefghi":
            node = Node(net.network, name, [], None)
            async with trio.open_nursery() as nursery:
                await nursery.start(node.exchange.run)
                net.network.connect("a", name)
                session = node.exchange.new_session()
                session.add_provider("a")
                session.want([cid_of(block) for block in blocks])
                await session.receive()
                nursery.cancel_scope.cancel()
            with pytest.raises(trio.ClosedResourceError):
                await session.receive()


async def test_several_may_wait_until_nobody_is_left() -> None:
    """Whoever waits for exhaustion is woken by it, however many do, whenever they began, and again the next time."""
    missing = cid_of(b"nobody has this")
    async with nodes() as net:
        await net.node("a")
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            for _ in range(2):
                with trio.fail_after(PATIENCE):
                    async with trio.open_nursery() as waiting:
                        session.add_provider("a")
                        session.want([missing])
                        for _ in range(3):
                            waiting.start_soon(session.wait_exhausted)
                            await trio.lowlevel.checkpoint()
