"""When gateways join a load and stand back, and that each block is delivered once. Stand-ins and virtual time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap.handle import ReceivedBlock, SessionStats
from kachery_p2p.dag.cid import CID, DAG_PB, IDENTITY, RAW, sha256_multihash
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import FailureKind, GatewayRefusal
from kachery_p2p.gateway.client.gateway import Gateway
from kachery_p2p.load.sources import LoadSources, open_sources

KIB, MIB = 1 << 10, 1 << 20


def blocks(count: int, size: int = 64 * KIB, codec: int = RAW) -> dict[CID, bytes]:
    made = (os.urandom(size) for _ in range(count))
    return {CID(1, codec, sha256_multihash(data)): data for data in made}


class Peers:
    """A Bitswap session whose peer does what the test says."""

    def __init__(self) -> None:
        self.wanted: dict[bytes, CID] = {}
        self.cancelled: list[bytes] = []
        self.asking: set[bytes] = set()
        #: Whether there is a peer that may have what is wanted.
        self.able = True
        #: Blocks that this peer does not have.
        self.lacks: set[CID] = set()
        self._send, self._receive = trio.open_memory_channel[ReceivedBlock](10_000)

    def add_provider(self, peer_id: str) -> None:
        self.able = True

    def want(self, cids: Iterable[CID]) -> None:
        for cid in cids:
            self.wanted[cid.multihash] = cid
            if cid.hash_code == IDENTITY:
                self.bring(cid, b"inline", "")

    def cancel(self, multihashes: Iterable[bytes]) -> None:
        self.cancelled += multihashes
        for multihash in self.cancelled:
            self.wanted.pop(multihash, None)

    def bring(self, cid: CID, data: bytes, peer: str = "peer") -> None:
        self.wanted.pop(cid.multihash, None)
        self._send.send_nowait(ReceivedBlock(cid, data, peer))

    @property
    def untaken(self) -> int:
        return self._receive.statistics().current_buffer_used

    async def receive(self) -> ReceivedBlock:
        return await self._receive.receive()

    def missing(self) -> list[CID]:
        return [cid for cid in self.wanted.values() if not self.able or cid in self.lacks]

    def under_way(self, multihash: bytes) -> bool:
        return multihash in self.asking

    def peers(self) -> dict[str, object]:
        return {"peer": 0} if self.able else {}

    def lost(self) -> list[str]:
        return []

    def may_return(self) -> bool:
        return False

    def stats(self) -> SessionStats:
        return SessionStats(0, 0, 0, {})


class Gateways:
    """A client whose gateways have these blocks, each after some seconds; remembers when it was asked for what."""

    def __init__(self, has: dict[CID, bytes], *, seconds: float = 0.01, count: int = 1) -> None:
        self.gateways = [Gateway(f"https://gw{i}.net", car=False) for i in range(count)]
        self.has = has
        self.seconds = seconds
        self.asked: list[tuple[float, CID]] = []
        self.cancelled = 0
        #: Until then it cannot be reached, but for these blocks.
        self.down_until = 0.0
        self.given: set[CID] = set()

    async def block(self, gateway: Gateway, cid: CID) -> bytes:
        self.asked.append((trio.current_time(), cid))
        if self.down_until > trio.current_time() and cid not in self.given:
            refusal = GatewayRefusal(FailureKind.FAILED, "The request failed: connection refused.")
            gateway.refuse(refusal, trio.current_time())
            raise refusal
        gateway.in_flight += 1
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            gateway.in_flight -= 1
        if cid not in self.has:
            refusal = GatewayRefusal(FailureKind.ABSENT, "It does not have the block.")
            gateway.refuse(refusal, trio.current_time())
            raise refusal
        gateway.delivered(len(self.has[cid]), self.seconds)
        return self.has[cid]

    async def car(self, gateway: Gateway, cid: CID, first: int, last: int, on_block: Callable[..., bool]) -> None:
        self.asked.append((trio.current_time(), cid))
        for each, data in self.has.items():
            await trio.sleep(self.seconds)
            if not on_block(each, data):
                return


@contextlib.asynccontextmanager
async def sources(peers: Peers, gateways: Gateways, **kwargs: Any) -> AsyncIterator[LoadSources]:
    async with open_sources(peers, gateways, **kwargs) as opened:  # type: ignore[arg-type]
        yield opened


async def take(load: LoadSources, count: int) -> list[ReceivedBlock]:
    with trio.fail_after(600):
        return [await load.receive() for _ in range(count)]


# --- when they join ---------------------------------------------------------------------------------------------------


async def test_peers_have_a_head_start(autojump_clock: trio.testing.MockClock) -> None:
    """A gateway is asked two seconds after a peer that is there and says nothing."""
    all_blocks = blocks(3)
    peers, gateways = Peers(), Gateways(all_blocks)
    async with sources(peers, gateways) as load:
        begun = trio.current_time()
        load.want(all_blocks)
        await take(load, 3)
    assert set(peers.wanted) == set() or set(peers.cancelled) == {cid.multihash for cid in all_blocks}
    first = gateways.asked[0][0] - begun
    assert limits.HEAD_START <= first <= limits.HEAD_START + 0.2


async def test_where_nobody_is_known_gateways_begin_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """No peer, and none being dialled: the head start is a tenth of a second, once."""
    all_blocks = blocks(4)
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.able = False
    async with sources(peers, gateways) as load:
        for cid in all_blocks:  # one after the other, as in a directory
            load.want([cid])
            await take(load, 1)
        assert trio.current_time() < 0.5


async def test_while_a_peer_is_dialled_it_has_its_head_start(autojump_clock: trio.testing.MockClock) -> None:
    """The user named a peer: it is not overtaken while the connection is being made, but not waited for long."""
    all_blocks = blocks(1)
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.able = False

    async def connect(addr: str, addrs: Sequence[str]) -> str:
        await trio.sleep(10)
        return "peer"

    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        nursery.start_soon(load.watching(connect), "/ip4/192.0.2.7/tcp/4001", ())
        load.want(all_blocks)
        await take(load, 1)
        assert limits.HEAD_START <= gateways.asked[0][0] <= limits.HEAD_START + 0.2
        nursery.cancel_scope.cancel()


async def deliver(peers: Peers, all_blocks: dict[CID, bytes], per_second: float) -> None:
    """A peer that brings what is wanted from the front, at this many blocks per second, while they are taken."""
    while True:
        await trio.sleep(1 / per_second)
        cid = next((cid for cid in peers.wanted.values() if cid not in peers.lacks), None)
        if cid is not None and peers.untaken < 1:
            peers.bring(cid, all_blocks[cid])


async def test_peers_that_deliver_well_are_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    """A load of twenty seconds at 2 MiB per second goes by without any gateway."""
    all_blocks = blocks(160, 256 * KIB)
    peers, gateways = Peers(), Gateways(all_blocks)
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, peers, all_blocks, 8.0)
        load.want(all_blocks)
        await take(load, 160)
        nursery.cancel_scope.cancel()
    assert gateways.asked == []


async def test_slow_peers_are_helped_from_the_back(autojump_clock: trio.testing.MockClock) -> None:
    """Peers at 128 KiB per second and a gateway share the work, and meet in the middle; the counts add up."""
    all_blocks = blocks(100)
    order = list(all_blocks)
    peers, gateways = Peers(), Gateways(all_blocks, seconds=0.2)
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, peers, all_blocks, 2.0)
        load.want(all_blocks)
        got = await take(load, 100)
        nursery.cancel_scope.cancel()
        stats = load.stats()
    assert {block.cid for block in got} == set(order)
    assert {cid for _, cid in gateways.asked[:2]} == set(order[-2:])
    assert stats.sources["gateway:gw0.net"] > 70 * 64 * KIB
    assert set(stats.sources) == {"peer", "gateway:gw0.net"}
    assert sum(stats.sources.values()) == stats.bytes == 100 * 64 * KIB


async def test_gateways_stand_back_when_a_peer_delivers_well(autojump_clock: trio.testing.MockClock) -> None:
    """It began with a gateway; a peer that comes and is half as good takes over within seconds."""
    all_blocks = blocks(1200)
    peers, gateways = Peers(), Gateways(all_blocks, seconds=0.4)
    peers.able = False
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        load.want(all_blocks)
        await take(load, 300)
        peers.able = True
        nursery.start_soon(deliver, peers, all_blocks, 50.0)
        await take(load, 900)
        nursery.cancel_scope.cancel()
        ended = trio.current_time()
    assert gateways.asked[-1][0] < ended - 5
    assert load.stats().sources["peer"] > 500 * 64 * KIB


async def test_peers_are_not_to_blame_for_a_load_that_is_slow(autojump_clock: trio.testing.MockClock) -> None:
    """Where blocks came and wait to be taken, as for a slow disk, no gateway is asked for more."""
    all_blocks = blocks(60, 512 * KIB)
    peers, gateways = Peers(), Gateways(all_blocks)
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, peers, all_blocks, 3.0)
        load.want(all_blocks)
        await take(load, 5)
        await trio.sleep(20)
        await take(load, 55)
        nursery.cancel_scope.cancel()
    assert gateways.asked == []


async def test_gateways_take_over_from_peers_that_vanish(autojump_clock: trio.testing.MockClock) -> None:
    """When nobody else can supply a block, the gateway is asked at once."""
    all_blocks = blocks(50, 256 * KIB)
    peers, gateways = Peers(), Gateways(all_blocks)
    async with sources(peers, gateways) as load:
        load.want(all_blocks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, peers, all_blocks, 10.0)
            await take(load, 25)
            nursery.cancel_scope.cancel()
        peers.able = False
        gone = trio.current_time()
        await take(load, 25)
    assert gateways.asked[0][0] - gone <= 0.2


async def test_what_peers_lack_comes_from_a_gateway_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that delivers well, but has not all of it: gateways bring the rest, and stand by otherwise."""
    all_blocks = blocks(160, 256 * KIB)
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.lacks = set(list(all_blocks)[::20])
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        nursery.start_soon(deliver, peers, all_blocks, 20.0)
        for first in range(0, 160, 40):  # in parts, as a load asks
            load.want(list(all_blocks)[first : first + 40])
            await take(load, 40)
        nursery.cancel_scope.cancel()
    late = [cid for at, cid in gateways.asked if at > limits.HEAD_START + limits.RATE_SECONDS + 1]
    assert {cid for _, cid in gateways.asked} >= peers.lacks
    assert set(late) <= peers.lacks
    assert late


async def test_what_a_peer_is_sending_is_not_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """Unless nothing came from any peer for a second: then it is taken over, too."""
    all_blocks = blocks(3)
    sending, other, brought = all_blocks
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.asking = {sending.multihash}
    async with sources(peers, gateways) as load:
        load.want(all_blocks)
        await trio.sleep(1.8)
        peers.bring(brought, all_blocks[brought])
        await take(load, 3)
    (at_first, first), (at_last, last) = gateways.asked
    assert (first, last) == (other, sending)
    assert at_first < 2.2
    assert 2.8 <= at_last < 3.0


# --- each block once --------------------------------------------------------------------------------------------------


async def test_a_block_that_both_bring_is_delivered_and_counted_once(autojump_clock: trio.testing.MockClock) -> None:
    """The peer's want is cancelled when a gateway was first, and what the peer sends nevertheless is dropped."""
    all_blocks = blocks(2)
    (first, data), (second, other) = all_blocks.items()
    peers, gateways = Peers(), Gateways({first: data})
    async with sources(peers, gateways) as load:
        load.want([first])
        await take(load, 1)
        assert peers.cancelled == [first.multihash]
        peers.bring(first, data)
        load.want([second])
        peers.bring(second, other)
        assert (await take(load, 1))[0].cid == second
        assert load.stats().sources == {"gateway:gw0.net": len(data), "peer": len(other)}


async def test_a_request_is_dropped_when_a_peer_was_faster(autojump_clock: trio.testing.MockClock) -> None:
    """The connection is given back at once."""
    all_blocks = blocks(1)
    ((cid, data),) = all_blocks.items()
    peers, gateways = Peers(), Gateways(all_blocks, seconds=20)
    async with sources(peers, gateways) as load:
        load.want([cid])
        await trio.sleep(limits.HEAD_START + 1)
        peers.bring(cid, data)
        assert (await take(load, 1))[0].peer == "peer"
        await trio.testing.wait_all_tasks_blocked()
        assert (len(gateways.asked), gateways.cancelled) == (1, 1)


async def test_what_is_cancelled_is_not_fetched(autojump_clock: trio.testing.MockClock) -> None:
    """Neither from peers nor from gateways."""
    all_blocks = blocks(1)
    (cid,) = all_blocks
    peers, gateways = Peers(), Gateways(all_blocks, seconds=5)
    async with sources(peers, gateways) as load:
        load.want([cid])
        await trio.sleep(limits.HEAD_START + 1)
        load.cancel([cid.multihash])
        await trio.testing.wait_all_tasks_blocked()
    assert (gateways.cancelled, peers.cancelled) == (1, [cid.multihash])


async def test_a_block_in_its_cid_is_asked_of_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """It counts for no source."""
    cid = CID(1, RAW, bytes([IDENTITY, 6]) + b"inline")
    peers, gateways = Peers(), Gateways({})
    async with sources(peers, gateways) as load:
        load.want([cid])
        assert bytes((await take(load, 1))[0].data) == b"inline"
        assert load.stats().sources == {}
    assert gateways.asked == []


async def test_a_load_that_does_not_take_what_came_asks_for_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """Memory is bounded: what arrived and waits, and what is under way."""
    all_blocks = blocks(60, MIB)
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.able = False
    async with sources(peers, gateways) as load:
        load.want(all_blocks)
        await trio.sleep(30)
        assert len(gateways.asked) <= limits.MAX_BUFFERED // MIB + limits.MAX_REQUESTS
        await take(load, 60)


async def test_a_car_brings_what_is_wanted_next(autojump_clock: trio.testing.MockClock) -> None:
    """What came in a CAR before it was wanted is there at once, and nobody is asked for it."""
    root = blocks(1, codec=DAG_PB)
    leaves = blocks(3)
    peers, gateways = Peers(), Gateways({**root, **leaves})
    peers.able = False
    gateways.gateways[0].car = True
    async with sources(peers, gateways) as load:
        load.want(root)
        await take(load, 1)
        await trio.sleep(1)
        load.want(leaves)
        await take(load, 3)
        assert load.stats().sources == {"gateway:gw0.net": 4 * 64 * KIB}
    assert len(gateways.asked) == 1
    assert set(peers.wanted) <= {cid.multihash for cid in root}


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_exhausted_is_when_neither_can_supply_it(autojump_clock: trio.testing.MockClock) -> None:
    """Not while a gateway may have the block; then for all who wait."""
    (missing,) = blocks(1)
    peers, gateways = Peers(), Gateways({}, seconds=3)
    peers.able = False
    woken: list[float] = []
    async with sources(peers, gateways) as load, trio.open_nursery() as nursery:
        load.want([missing])

        async def wait() -> None:
            await load.wait_exhausted()
            woken.append(trio.current_time())

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(1)
        assert (woken, load.missing()) == ([], [])
    assert [round(each) for each in woken] == [3, 3]
    assert load.missing() == [missing]
    assert load.gateways_said() == {"gateway:gw0.net": "It does not have the block."}


async def test_a_gateway_that_has_nothing_is_soon_asked_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """A hundred blocks do not cost a hundred requests to a gateway that had none of the first."""
    all_blocks = blocks(100)
    peers, gateways = Peers(), Gateways({})
    peers.able = False
    async with sources(peers, gateways) as load:
        load.want(all_blocks)
        await load.wait_exhausted()
        await trio.sleep(10)
    assert len(gateways.asked) <= limits.MAX_ABSENT + limits.FIRST_WINDOW


async def test_who_waits_for_a_load_that_is_over_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """As with a session of Bitswap."""

    async def wait(load: LoadSources) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await load.receive()

    async with trio.open_nursery() as nursery, sources(Peers(), Gateways({})) as load:
        nursery.start_soon(wait, load)
        await trio.testing.wait_all_tasks_blocked()


async def test_an_error_of_the_load_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    """Not in a group, though tasks run beside it."""
    with pytest.raises(LookupError, match="mine"):
        async with sources(Peers(), Gateways({})):
            raise LookupError("mine")


async def test_a_gateway_that_restarts_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    """One that delivered and cannot be reached for half a minute is tried again until it is back; what is missing
    meanwhile is said to be missing, and that somebody may return."""
    all_blocks = blocks(2)
    first, second = all_blocks
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.able = False
    gateways.down_until, gateways.given = trio.current_time() + 25, {first}
    async with sources(peers, gateways) as load:
        load.want([first])
        await take(load, 1)
        assert not load.may_return()
        load.want([second])
        await load.wait_exhausted()
        assert load.missing() == [second]
        assert load.may_return()
        (block,) = await take(load, 1)
        assert block.cid == second
        assert 25 <= trio.current_time() < 60
        assert not load.may_return()


async def test_a_gateway_that_never_delivered_is_not_missed(autojump_clock: trio.testing.MockClock) -> None:
    """Where a gateway cannot be reached from the beginning, nobody may return."""
    all_blocks = blocks(1)
    peers, gateways = Peers(), Gateways(all_blocks)
    peers.able = False
    gateways.down_until = 1e9
    async with sources(peers, gateways) as load:
        load.want(all_blocks)
        await load.wait_exhausted()
        assert not load.may_return()
