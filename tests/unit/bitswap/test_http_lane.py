"""Sessions whose blocks come over HTTP: requests, CARs, cancelling, who is counted. A stand-in for the HTTP client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.handle import ReceivedBlock, SessionHandle
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.dag.cid import CID, DAG_PB, IDENTITY, RAW, sha256_multihash
from tests.helpers.bitswap_fakes import MemoryNetwork, MemoryStore, no_thread

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time must not jump while a thread works."""
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)


def blocks(count: int, size: int = 64 * KIB, codec: int = RAW) -> dict[CID, bytes]:
    made = (os.urandom(size) for _ in range(count))
    return {CID(1, codec, sha256_multihash(data)): data for data in made}


class Source:
    """A gateway that has these blocks, and sends each after some seconds; remembers what it was asked for."""

    def __init__(
        self, has: dict[CID, bytes], *, seconds: float = 0.01, name: str = "gateway:a", car: bool = False
    ) -> None:
        self.name = name
        self.most_requests = 8
        self.has = has
        self.seconds = seconds
        self.gives_cars = car
        self.refuses: NoBlock | None = None
        self.asked: list[tuple[CID, tuple[int, int] | None]] = []
        #: What CARs have brought.
        self.sent: list[CID] = []
        self.cancelled = 0

    async def block(self, cid: CID, alive: Callable[[int], None]) -> bytes:
        self.asked.append((cid, None))
        await self._wait()
        if self.refuses is not None:
            raise self.refuses
        if cid not in self.has:
            raise NoBlock(GatewayAnswer.LACKS, "It does not have the block.")
        return self.has[cid]

    async def car(
        self,
        cid: CID,
        span: tuple[int, int] | None,
        take: Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]],
        alive: Callable[[int], None],
    ) -> None:
        self.asked.append((cid, span))
        if not self.gives_cars:
            await self._wait()
            raise NoBlock(GatewayAnswer.NO_CAR, "It gives no CAR (status 400).")
        for each, data in self.has.items():
            await self._wait()
            self.sent.append(each)
            if not await take([(each, data)]):
                return

    async def _wait(self) -> None:
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise


class Scene:
    """An exchange with gateways, and a peer that has some blocks."""

    def __init__(self, nursery: trio.Nursery, sources: tuple[Source, ...]) -> None:
        self.network = MemoryNetwork(nursery)
        self.theirs = MemoryStore()
        self.peer = Exchange(self.network.host("peer"), self.theirs)
        self.bad: list[str] = []
        self.ours = Exchange(
            self.network.host("ours"),
            MemoryStore(),
            on_bad_peer=lambda peer, why: self.bad.append(peer),
            gateways=sources,
        )

    def brings(self, *data: bytes) -> None:
        """The peer gets blocks, and sends those that it was asked for."""
        self.peer.notify([self.theirs.add(each).multihash for each in data])


@asynccontextmanager
async def scene(*sources: Source) -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        made = Scene(nursery, sources)
        await nursery.start(made.peer.run)
        await nursery.start(made.ours.run)
        yield made
        nursery.cancel_scope.cancel()


async def take(session: SessionHandle, count: int) -> list[ReceivedBlock]:
    with trio.fail_after(600):
        return [await session.receive() for _ in range(count)]


# --- blocks -----------------------------------------------------------------------------------------------------------


async def test_blocks_come_over_http(autojump_clock: trio.testing.MockClock) -> None:
    """Without any peer, with the CIDs they were asked by; they are counted for the gateway, and none is a peer's."""
    all_blocks = blocks(40)
    source = Source(all_blocks)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want(all_blocks)
        got = await take(session, 40)
        assert {block.cid: bytes(block.data) for block in got} == all_blocks
        assert {block.peer for block in got} == {"gateway:a"}
        assert session.stats().sources == {"gateway:a": 40 * 64 * KIB}
        assert (session.asked(), session.peers(), session.lost()) == ([], {}, [])
        assert s.ours.gateways()["gateway:a"]["blocks"] == 40
        assert s.ours.stats().total.blocks_received == 0
    assert len(source.asked) == 40


async def test_a_session_that_wants_no_help_asks_no_gateway(autojump_clock: trio.testing.MockClock) -> None:
    """Gateways are for those who say so: whether a peer has a block is not told by a gateway."""
    (cid,) = all_blocks = blocks(1)
    source = Source(all_blocks)
    async with scene(source) as s, s.ours.new_session() as session:
        session.want([cid])
        await session.wait_exhausted()
        await trio.sleep(60)
    assert source.asked == []


async def test_while_a_peer_is_dialled_gateways_wait(autojump_clock: trio.testing.MockClock) -> None:
    """Not longer than the head start."""
    all_blocks = blocks(2)
    first, second = all_blocks
    source = Source(all_blocks)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        begun = trio.current_time()
        with session.expecting():
            session.want([first])
            await take(session, 1)
            assert limits.HEAD_START <= trio.current_time() - begun <= limits.HEAD_START + 0.3
        session.want([second])
        await take(session, 1)


async def test_a_block_that_both_bring_is_delivered_and_counted_once(autojump_clock: trio.testing.MockClock) -> None:
    """What the peer sends after a gateway was first is late and no lie, and does not come out a second time."""
    (first, data), (second, other) = blocks(2).items()
    source = Source({first: data})
    async with scene(source) as s, s.ours.new_session(gateways=True, discover=True) as session:
        s.network.connect("peer", "ours")
        session.want([first])
        assert (await take(session, 1))[0].peer == "gateway:a"
        s.brings(data, other)
        session.want([second])
        assert [block.cid for block in await take(session, 1)] == [second]
        assert session.stats().sources == {"gateway:a": len(data), "peer": len(other)}
        assert s.bad == []


async def test_a_request_is_dropped_when_a_peer_was_faster(autojump_clock: trio.testing.MockClock) -> None:
    """The connection is given back at once."""
    ((cid, data),) = blocks(1).items()
    source = Source({cid: data}, seconds=20)
    async with scene(source) as s, s.ours.new_session(gateways=True, discover=True) as session:
        s.network.connect("peer", "ours")
        session.want([cid])
        await trio.sleep(limits.HEAD_START + 1)
        assert len(source.asked) == 1
        s.brings(data)
        assert (await take(session, 1))[0].peer == "peer"
        await trio.testing.wait_all_tasks_blocked()
        assert source.cancelled == 1


async def test_what_is_given_up_is_not_fetched(autojump_clock: trio.testing.MockClock) -> None:
    """When a session ends, its requests end: blocks and CARs."""
    leaf, root = blocks(1), blocks(1, codec=DAG_PB)
    source = Source({**root, **leaf}, seconds=5, car=True)
    async with scene(source) as s:
        async with s.ours.new_session(gateways=True) as session:
            session.want(root)
            await take(session, 1)
        async with s.ours.new_session(gateways=True) as session:
            session.want(leaf)
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert [span is not None for _, span in source.asked] == [True, False]
        assert source.cancelled == 2


async def test_two_sessions_share_a_request(autojump_clock: trio.testing.MockClock) -> None:
    """A block that two want is asked for once, and survives the one that asked."""
    all_blocks = blocks(1)
    source = Source(all_blocks, seconds=3)
    async with scene(source) as s, s.ours.new_session(gateways=True) as second:
        async with s.ours.new_session(gateways=True) as first:
            first.want(all_blocks)
            second.want(all_blocks)
            await trio.sleep(1)
        assert len(await take(second, 1)) == 1
    assert len(source.asked) == 1


async def test_a_block_in_its_cid_is_asked_of_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """It counts for no source."""
    cid = CID(1, RAW, bytes([IDENTITY, 6]) + b"inline")
    source = Source({})
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want([cid])
        assert bytes((await take(session, 1))[0].data) == b"inline"
        assert session.stats().sources == {}
    assert source.asked == []


async def test_a_load_that_does_not_take_what_came_asks_for_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """Memory is bounded: what arrived and waits, and what is under way."""
    all_blocks = blocks(60, MIB)
    source = Source(all_blocks)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want(all_blocks)
        await trio.sleep(30)
        assert len(source.asked) <= limits.MAX_IN_FLIGHT // MIB
        await take(session, 60)


async def test_a_slow_block_is_a_sign_of_life(autojump_clock: trio.testing.MockClock) -> None:
    """Parts of a block that comes slowly keep the gateway from being stalled, and the load from giving up."""

    class Slow(Source):
        async def block(self, cid: CID, alive: Callable[[int], None]) -> bytes:
            self.asked.append((cid, None))
            for _ in range(20):
                await trio.sleep(5)
                alive(limits.LIFE_SIGN_BYTES)
            return self.has[cid]

    all_blocks = blocks(1, MIB)
    source = Slow(all_blocks)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want(all_blocks)
        await trio.sleep(50)
        assert trio.current_time() - session.last_sign() <= 5
        assert s.ours.gateways()["gateway:a"]["resting"] == 0
        await take(session, 1)
    assert len(source.asked) == 1


# --- CARs -------------------------------------------------------------------------------------------------------------


async def test_a_car_brings_what_is_wanted_next(autojump_clock: trio.testing.MockClock) -> None:
    """What came in a CAR before it was wanted is there at once, and is asked of nobody."""
    root, leaves = blocks(1, codec=DAG_PB), blocks(3)
    source = Source({**root, **leaves}, car=True)
    async with scene(source) as s, s.ours.new_session(gateways=True, first=100, last=199) as session:
        session.want(root)
        await take(session, 1)
        await trio.sleep(1)
        session.want(leaves)
        got = await take(session, 3)
        assert {block.cid: bytes(block.data) for block in got} == leaves
        assert session.stats().sources == {"gateway:a": 4 * 64 * KIB}
    assert source.asked == [(next(iter(root)), (100, 199))]


async def test_what_a_car_is_bringing_is_not_asked_for_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    """Leaves that are wanted while it comes are waited for, as long as it does not pause."""
    root, leaves = blocks(1, codec=DAG_PB), blocks(10)
    source = Source({**root, **leaves}, seconds=0.3, car=True)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want(root)
        await take(session, 1)
        session.want(leaves)
        await take(session, 10)
    assert len(source.asked) == 1


async def test_a_gateway_without_cars_is_asked_block_by_block(autojump_clock: trio.testing.MockClock) -> None:
    """The answer that it gives none costs a request, once, and nothing is held against it."""
    root, leaves = blocks(2, codec=DAG_PB), blocks(3)
    source = Source({**root, **leaves})
    async with scene(source) as s:
        for cid in root:
            async with s.ours.new_session(gateways=True) as session:
                session.want([cid])
                await take(session, 1)
                session.want(leaves)
                await take(session, 3)
        assert s.ours.gateways()["gateway:a"]["resting"] == 0
    assert [span is not None for _, span in source.asked].count(True) == 1


async def test_a_car_of_other_things_is_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    """Where the CAR ends without the block that was asked for, the block is asked for by itself."""
    (root, data), *_ = blocks(1, codec=DAG_PB).items()

    class Wrong(Source):
        async def car(
            self, cid: CID, span: tuple[int, int] | None, take: Callable[..., Awaitable[bool]], alive: object
        ) -> None:
            self.asked.append((cid, span))
            await self._wait()
            assert await take(list(blocks(2).items()))

    source = Wrong({root: data})
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want([root])
        await take(session, 1)
    assert source.asked == [(root, (0, limits.FIRST_HEAD_BYTES - 1)), (root, None)]


async def test_what_a_car_brings_ahead_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A CAR of more than there is room for is not read on until there is; what is wanted meanwhile and is not among it
    is asked for by itself."""
    root, leaves = blocks(1, codec=DAG_PB), blocks(40, MIB)
    last = list(leaves)[-1]
    source = Source({**root, **leaves}, car=True)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want(root)
        await take(session, 1)
        await trio.sleep(10)
        assert len(source.sent) == 2 + limits.MAX_AHEAD // MIB
        session.want([last])  # too far away for what is kept
        assert [block.cid for block in await take(session, 1)] == [last]
        session.want(leaves)
        got = await take(session, 40)
        assert {block.cid: bytes(block.data) for block in got} == leaves
    assert source.asked[1:] == [(last, None)]


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_exhausted_is_when_neither_peers_nor_gateways_can_supply_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not while a gateway may have the block; then for all who wait."""
    (missing,) = blocks(1)
    source = Source({}, seconds=3)
    woken: list[float] = []
    async with scene(source) as s, s.ours.new_session(gateways=True) as session, trio.open_nursery() as nursery:
        begun = trio.current_time()
        session.want([missing])

        async def wait() -> None:
            await session.wait_exhausted()
            woken.append(trio.current_time() - begun)

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(1)
        assert (woken, session.missing()) == ([], [])
        await trio.sleep(5)
        assert [round(each) for each in woken] == [3, 3]
        assert session.missing() == [missing]
        assert session.gateways_said() == {"gateway:a": "It does not have the block."}
        assert not session.may_return()


async def test_a_liar_is_dropped_and_is_no_peer(autojump_clock: trio.testing.MockClock) -> None:
    """Wrong bytes cost the gateway its place for good; nothing is banned by its name."""
    all_blocks = blocks(5)
    liar = Source({}, name="gateway:liar")
    liar.refuses = NoBlock(GatewayAnswer.LIED, "It sent other bytes.")
    honest = Source(all_blocks, seconds=0.2, name="gateway:honest")
    async with scene(liar, honest) as s:
        for _ in range(2):
            async with s.ours.new_session(gateways=True) as session:
                session.want(all_blocks)
                assert {block.peer for block in await take(session, 5)} == {"gateway:honest"}
        assert s.ours.gateways()["gateway:liar"]["dropped"] == "It sent other bytes."
        assert s.bad == []
    assert len(liar.asked) == 1


async def test_who_waits_for_a_session_that_is_over_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """Also when a gateway would still deliver."""
    all_blocks = blocks(1)

    async def wait(session: SessionHandle) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await session.receive()

    async with scene(Source(all_blocks, seconds=10)) as s, trio.open_nursery() as nursery:
        session = s.ours.new_session(gateways=True)
        session.want(all_blocks)
        nursery.start_soon(wait, session)
        await trio.sleep(2)
        session.close()


async def test_an_error_of_the_load_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    """Not in a group, though requests are under way."""
    all_blocks = blocks(1)
    async with scene(source := Source(all_blocks, seconds=10)) as s:

        async def fail() -> None:
            async with s.ours.new_session(gateways=True) as session:
                session.want(all_blocks)
                await trio.sleep(2)
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await fail()
        await trio.testing.wait_all_tasks_blocked()
        assert source.cancelled == 1
