"""What is done with blocks in a thread: they are hashed, many at a time, and put where a session wants them."""

from __future__ import annotations

import os
import threading

import pytest
import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.buffers import Buffers
from kachery_p2p.bitswap.handle import ReceivedBlock
from kachery_p2p.bitswap.messages import PROTOCOL_1_2, encode
from kachery_p2p.bitswap.reader import ByteBudget, MessageReader
from kachery_p2p.dag.cid import sha256_multihash
from kachery_p2p.errors import DiskFull
from kachery_p2p.wire import Buffer
from tests.faults.test_bitswap_hostile import scene
from tests.helpers.bitswap_fakes import MemoryStream, cid_of
from tests.helpers.patience import PATIENCE
from tests.unit.bitswap.test_exchange import nodes, until

KIB, MIB = 1024, 1 << 20


class Shelf:
    """A place that keeps copies of what is put there."""

    def __init__(self, *, refuses: Exception | None = None) -> None:
        self.there: dict[bytes, bytes] = {}
        self.threads: set[int] = set()
        self.refuses = refuses

    def put(self, multihash: bytes, data: Buffer) -> bool:
        self.threads.add(threading.get_ident())
        if self.refuses is not None:
            raise self.refuses
        if multihash in self.there:
            return False
        self.there[multihash] = bytes(data)
        return True


async def receive(session, count: int) -> list[ReceivedBlock]:
    found: list[ReceivedBlock] = []
    with trio.fail_after(PATIENCE):
        while len(found) < count:
            found += await session.receive_all()
    return found


async def test_blocks_are_put_in_their_place_in_the_thread_that_hashes_them() -> None:
    """The session hears of it, and is given no bytes. What is too small for a thread comes as bytes."""
    large, small = [os.urandom(300 * KIB + n) for n in range(20)], [os.urandom(1000) for _ in range(3)]
    async with nodes() as net:
        await net.node("a", large + small)
        b = await net.node("b")
        shelf = Shelf()
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            cids = [cid_of(block) for block in large + small]
            session.place([cid.multihash for cid in cids], shelf)
            session.want(cids)
            got = await receive(session, len(cids))
            assert {block.cid for block in got} == set(cids)
            for block in got:
                if block.placed:
                    assert block.data == b""
                    assert block.placed == block.size == len(shelf.there[block.cid.multihash])
                else:
                    assert sha256_multihash(block.data) == block.cid.multihash
            assert all(shelf.there[cid_of(data).multihash] == data for data in large)
            assert threading.get_ident() not in shelf.threads
            assert session.stats().bytes == sum(map(len, large + small))
            assert not b.exchange._places


async def test_another_session_gets_the_bytes() -> None:
    """A block that one session has a place for is given to the other one whole."""
    blocks = [os.urandom(MIB) for _ in range(4)]
    async with nodes() as net:
        b = await net.node("b")
        async with b.exchange.new_session() as placing, b.exchange.new_session() as other:
            shelf = Shelf()
            cids = [cid_of(block) for block in blocks]
            placing.place([cid.multihash for cid in cids], shelf)
            for session in (placing, other):
                session.want(cids)
                session.add_provider("a")
            await net.node("a", blocks)
            assert all(block.placed for block in await receive(placing, len(cids)))
            assert {bytes(block.data) for block in await receive(other, len(cids))} == set(blocks)
            assert set(shelf.there.values()) == set(blocks)


async def test_what_cannot_be_put_there_comes_as_bytes() -> None:
    """The session then meets the same error where it can be told."""
    blocks = [os.urandom(MIB) for _ in range(4)]
    async with nodes() as net:
        await net.node("a", blocks)
        b = await net.node("b")
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            cids = [cid_of(block) for block in blocks]
            session.place([cid.multihash for cid in cids], Shelf(refuses=DiskFull("The disk is full.")))
            session.want(cids)
            got = await receive(session, len(cids))
            assert {bytes(block.data) for block in got} == set(blocks)
            assert not any(block.placed for block in got)


async def test_wrong_bytes_reach_no_place() -> None:
    """What is put in a place has the hash that was wanted, whatever else comes in the same message."""
    async with scene() as s, s.good.new_session() as session:
        shelf = Shelf()
        right, wrong = s.blocks[0], os.urandom(50_000)
        session.place([cid_of(right).multihash], shelf)
        session.want([cid_of(right)])
        session.add_provider("evil")
        await s.evil.wanted(1)
        await s.evil.say(b"".join(encode(blocks=[(cid_of(right), wrong), (cid_of(right), right)])))
        await until(lambda: bool(s.bad))
        assert [peer for peer, _ in s.bad] == ["evil"]
        assert set(shelf.there.values()) <= {right}
        # It is still wanted, and comes from somebody else.
        session.add_provider("honest")
        (block,) = await receive(session, 1)
        assert (block.peer, sha256_multihash(block.data)) == ("honest", cid_of(right).multihash)


async def test_a_session_that_ends_leaves_no_place_behind() -> None:
    """Nor does it matter to what comes later."""
    block = os.urandom(MIB)
    async with nodes() as net:
        b = await net.node("b")
        shelf = Shelf()
        async with b.exchange.new_session() as session:
            session.place([cid_of(block).multihash], shelf)
            session.want([cid_of(block)])
        assert not b.exchange._places
        await net.node("a", [block])
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            session.want([cid_of(block)])
            (got,) = await receive(session, 1)
            assert bytes(got.data) == block
        assert not shelf.there


async def test_what_is_looked_at_is_not_overwritten() -> None:
    """Blocks that were received and kept stay as they are while hundreds of others come through the same buffers."""
    blocks = [os.urandom(512 * KIB) for _ in range(120)]
    async with nodes() as net:
        await net.node("a", blocks)
        b = await net.node("b")
        shelf = Shelf()
        async with b.exchange.new_session() as session:
            session.add_provider("a")
            cids = [cid_of(block) for block in blocks]
            session.place([cid.multihash for cid in cids[::2]], shelf)
            session.want(cids)
            kept = [block for block in await receive(session, len(cids)) if not block.placed]
            assert {bytes(block.data) for block in kept} == set(blocks[1::2])
            assert set(shelf.there.values()) == set(blocks[::2])


async def test_what_comes_meanwhile_is_taken_along_by_the_next_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that come while others are hashed go to the thread together, and not more of them than is bounded."""
    blocks = [os.urandom(100 * KIB) for _ in range(40)]
    held, trips = trio.Event(), list[int]()
    to_thread = trio.to_thread.run_sync

    async def slow(function, *args, **options):
        if function.__name__ == "_check":
            trips.append(sum(len(arrived.blocks) for arrived in args[0]))
            if len(trips) == 1:
                await held.wait()
        return await to_thread(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)
    async with scene() as s, s.good.new_session() as session:
        session.want([cid_of(block) for block in blocks])
        session.add_provider("evil")
        await s.evil.wanted(1)
        for block in blocks:
            stream = await s.evil.say(b"".join(encode(blocks=[(cid_of(block), block)])))
            await stream.close_write()
        held.set()
        await receive(session, len(blocks))
    assert len(trips) <= 4
    assert trips[0] == 1
    assert sum(trips) == len(blocks)
    assert max(trips) <= limits.HASH_TRIP // (100 * KIB) + 1


def test_buffers_are_used_again_within_bounds() -> None:
    """The same memory comes back for a message of about that size; what is kept is bounded, the oldest goes first."""
    buffers = Buffers(4 * MIB)
    first = buffers.take(MIB + 50)
    assert len(first) >= MIB + 50
    buffers.give_back(first)
    assert buffers.take(MIB + 40) is first
    buffers.give_back(first)
    assert buffers.take(300 * KIB) is not first  # it would hold three times what is counted
    assert buffers.take(2 * MIB) is not first
    others = [buffers.take(MIB) for _ in range(6)]
    assert others[0] is first
    for each in others:
        buffers.give_back(each)
    assert buffers.kept <= 4 * MIB
    assert buffers.take(MIB) is not first


async def test_memory_is_used_again_only_when_nobody_looks_at_it() -> None:
    """Not while blocks of a message are with somebody, nor where others in the same message are still looked at."""
    async with nodes() as net:
        a, b = net.network.host("a"), net.network.host("b")
        heard: list[MemoryStream] = []
        came = trio.Event()

        async def hear(stream: MemoryStream) -> None:
            heard.append(stream)
            came.set()
            await trio.sleep_forever()

        b.set_handler(PROTOCOL_1_2, hear)
        net.network.connect("a", "b")
        stream = await a.open_stream("b", [PROTOCOL_1_2])
        await came.wait()
        budget, buffers = ByteBudget(8 * MIB), Buffers(8 * MIB)
        reader = MessageReader(heard[0], (budget,), lambda size: None, buffers)
        for reusable, looked_at in ((True, True), (False, False), (True, False)):
            block = os.urandom(300 * KIB)
            net.nursery.start_soon(stream.write_parts, encode(blocks=[(cid_of(block), block)]))
            with trio.fail_after(PATIENCE):
                body = await reader.next()
            assert body is not None
            assert bytes(body).endswith(block)
            del body
            done = reader.hand_over(reusable=reusable)
            reader.done()
            assert budget.used > 300 * KIB  # until it was dealt with
            done(looked_at)
            assert budget.used == 0
            assert bool(buffers.kept) == (reusable and not looked_at)
