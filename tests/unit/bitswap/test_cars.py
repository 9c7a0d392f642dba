"""Files and directories that come as CARs: how many requests, how much at once, and CARs that are wrong.

A stand-in for the HTTP client, which hands on only blocks whose hash is right: nothing is hashed here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.handle import SessionHandle
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.places import Places
from kachery_p2p.dag.cid import CID, DAG_PB
from tests.helpers.bitswap_fakes import no_thread
from tests.helpers.bitswap_sim import made_cid
from tests.unit.bitswap.test_http_lane import KIB, MIB, Source, blocks, scene, take

Blocks = Sequence[tuple[CID, bytes]]
Take = Callable[[Blocks], Awaitable[bool]]


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time must not jump while a thread works."""
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)


class File:
    """A file of leaves of one size below one root. In memory it has one leaf."""

    def __init__(self, count: int, size: int = 256 * KIB) -> None:
        self.size = size
        self.leaves = dict.fromkeys(map(made_cid, range(count)), bytes(size))
        ((self.root, self.node),) = blocks(1, codec=DAG_PB).items()

    def places(self) -> list[tuple[bytes, int, int]]:
        return [(cid.multihash, i * self.size, self.size) for i, cid in enumerate(self.leaves)]

    def part(self, span: tuple[int, int] | None) -> list[tuple[CID, bytes]]:
        """What a gateway gives of it: the root, and the leaves that have bytes of the span."""
        first, last = (0, math.inf) if span is None else span
        here = [(i * self.size, each) for i, each in enumerate(self.leaves.items())]
        return [(self.root, self.node), *(each for at, each in here if at <= last and at + self.size > first)]


class FileSource(Source):
    """A gateway that has the file, and gives CARs of its bytes, one block after the other."""

    def __init__(self, file: File, *, seconds: float = 0.001, name: str = "gateway:a") -> None:
        super().__init__({file.root: file.node, **file.leaves}, seconds=seconds, name=name, car=True)
        self.file = file
        #: Blocks of one CAR after which it breaks off.
        self.cuts_after = math.inf
        self.under_way = self.most_under_way = 0

    def part(self, span: tuple[int, int] | None) -> list[tuple[CID, bytes]]:
        return self.file.part(span)

    async def car(self, cid: CID, span: tuple[int, int] | None, take: Take, alive: Callable[[int], None]) -> None:
        self.asked.append((cid, span))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for count, each in enumerate(self.part(span)):
                if count >= self.cuts_after:
                    raise NoBlock(GatewayAnswer.FAILED, "The CAR file is cut short.")
                await self._wait()
                self.sent.append(each[0])
                if not await take([each]):
                    return
        finally:
            self.under_way -= 1

    @property
    def cars(self) -> list[tuple[int, int]]:
        """The spans that were asked for."""
        return [span for _, span in self.asked if span is not None]

    @property
    def single(self) -> list[CID]:
        """The blocks that were asked for by themselves."""
        return [cid for cid, span in self.asked if span is None]


async def load(session: SessionHandle, file: File, *, ahead: int = 384) -> list[CID]:
    """As a load does it: the root, and then its leaves, some hundred ahead of what has come."""
    session.want([file.root])
    got = [block.cid for block in await take(session, 1)]
    leaves, places = list(file.leaves), file.places()
    for first in range(0, len(leaves), ahead):
        session.locate(file.root, places[first : first + ahead])
        session.want(leaves[first : first + ahead])
        for block in await take(session, len(leaves[first : first + ahead])):
            assert file.leaves[block.cid] == block.data
            got.append(block.cid)
    return got


async def test_a_file_takes_some_dozens_of_requests(autojump_clock: trio.testing.MockClock) -> None:
    """1 GiB from one gateway: CARs of up to 16 MiB, few at a time, no leaf twice, none by itself."""
    file = File(1024, MIB)
    source = FileSource(file)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        got = await load(session, file)
    assert set(got) == {file.root, *file.leaves}
    assert len(source.asked) <= 100
    assert source.single == []
    assert max(last + 1 - first for first, last in source.cars) == limits.CAR_BYTES
    assert source.most_under_way <= 4
    assert len([cid for cid in source.sent if cid != file.root]) == 1024


async def test_what_is_on_its_way_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A load that does not take what came is not sent more than the budget, however large the CARs are."""
    file = File(200, MIB)
    source = FileSource(file)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want([file.root])
        await take(session, 1)
        session.locate(file.root, file.places())
        session.want(file.leaves)
        await trio.sleep(60)  # of virtual time: whatever would be sent has been sent by then
        assert len(source.sent) - len(source.cars) <= (limits.MAX_IN_FLIGHT + limits.MAX_AHEAD) // MIB
        await take(session, 200)


async def test_only_what_is_missing_is_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """Where part of a file is here, a CAR is of bytes that lie side by side; a leaf between others comes by itself."""
    file = File(40)
    source = FileSource(file)
    leaves = list(file.leaves)
    missing = [*leaves[3:7], leaves[20], *leaves[30:33]]
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.locate(file.root, [place for place in file.places() if place[0] in {c.multihash for c in missing}])
        session.want(missing)
        await take(session, len(missing))
    assert {cid for cid in source.sent if cid != file.root} | set(source.single) == set(missing)
    assert leaves[20] in source.single
    assert len(source.asked) <= 5


async def test_a_car_that_is_cut_keeps_what_came(autojump_clock: trio.testing.MockClock) -> None:
    """The next ones are smaller; nothing comes twice, and the gateway is not left alone for it."""
    file = File(200)
    source = FileSource(file)
    source.cuts_after = 12
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        await load(session, file)
        assert s.ours.gateways()["gateway:a"]["resting"] == 0
    came = [cid for cid in source.sent if cid != file.root]
    assert len(came) == len(set(came))
    assert {*came, *source.single} >= set(file.leaves)
    assert len(source.asked) <= 60


async def test_a_gateway_that_ignores_entity_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """It sends the file from its beginning each time: it is asked block by block from then on, and is no liar."""
    file = File(100)

    class Ignoring(FileSource):
        def part(self, span: tuple[int, int] | None) -> list[tuple[CID, bytes]]:
            return self.file.part(None)

    source = Ignoring(file)
    leaves = list(file.leaves)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.locate(file.root, file.places())
        session.want(leaves[60:])
        got = await take(session, 40)
        assert {block.cid for block in got} == set(leaves[60:])
        assert s.ours.gateways()["gateway:a"]["dropped"] == ""
    assert len(source.cars) == 1
    assert len(source.sent) * 256 * KIB <= limits.MAX_STRAY + 2 * MIB


@pytest.mark.parametrize("how", ["backwards", "twice", "foreign"])
async def test_blocks_in_another_order_twice_or_foreign(autojump_clock: trio.testing.MockClock, how: str) -> None:
    """What is right is taken whatever stands between; each block is delivered once."""
    file = File(100)
    foreign = list(blocks(100, 1 * KIB).items())

    class Odd(FileSource):
        def part(self, span: tuple[int, int] | None) -> list[tuple[CID, bytes]]:
            part = super().part(span)
            if how == "backwards":
                return part[::-1]
            if how == "twice":
                return [each for each in part for _ in range(2)]
            return [each for pair in zip(part, foreign, strict=False) for each in pair]

    source = Odd(file)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        got = await load(session, file)
        assert s.ours.gateways()["gateway:a"]["dropped"] == ""
    assert sorted(map(str, got)) == sorted(map(str, [file.root, *file.leaves]))
    assert len(source.asked) <= 30


async def test_a_lie_ends_the_gateway_and_keeps_what_was_right(autojump_clock: trio.testing.MockClock) -> None:
    """The first wrong block drops it for good. What came before that is delivered, and the rest has nobody left."""
    file = File(64)

    class Liar(FileSource):
        async def car(self, cid: CID, span: tuple[int, int] | None, take: Take, alive: Callable[[int], None]) -> None:
            self.asked.append((cid, span))
            for each in self.part(span)[:5]:
                await self._wait()
                assert await take([each])
            raise NoBlock(GatewayAnswer.LIED, "It sent other bytes.")

    liar = Liar(file, name="gateway:liar")
    leaves = list(file.leaves)
    async with scene(liar) as s, s.ours.new_session(gateways=True) as session:
        session.want([file.root])
        await take(session, 1)
        session.locate(file.root, file.places())
        session.want(leaves)
        assert [block.cid for block in await take(session, 4)] == leaves[:4]
        await session.wait_exhausted()
        assert set(session.missing()) == set(leaves[4:])
        assert s.ours.gateways()["gateway:liar"]["dropped"] == "It sent other bytes."
    assert len(liar.asked) == 1


async def test_a_car_that_stands_still_loses_its_wants(autojump_clock: trio.testing.MockClock) -> None:
    """What it does not bring is had from another gateway; what it brought is not asked for again."""
    file = File(64)

    class Stalling(FileSource):
        async def car(self, cid: CID, span: tuple[int, int] | None, take: Take, alive: Callable[[int], None]) -> None:
            self.asked.append((cid, span))
            for each in self.part(span)[:5]:
                await self._wait()
                self.sent.append(each[0])
                assert await take([each])
            await trio.sleep_forever()

    stalling, honest = Stalling(file, name="gateway:stalls"), FileSource(file, name="gateway:b")
    async with scene(stalling, honest) as s, s.ours.new_session(gateways=True) as session:
        got = await load(session, file)
    assert len(set(got)) == 65
    assert not set(stalling.sent[1:]) & set(honest.single)


@pytest.mark.parametrize("answer", [GatewayAnswer.LACKS, GatewayAnswer.NO_CAR])
async def test_a_gateway_that_gives_no_cars(autojump_clock: trio.testing.MockClock, answer: GatewayAnswer) -> None:
    """Whether it says so clearly or answers 404: it is asked block by block after a few requests, and is left alone
    for nothing."""
    file = File(100)

    class Plain(FileSource):
        async def car(self, cid: CID, span: tuple[int, int] | None, take: Take, alive: Callable[[int], None]) -> None:
            self.asked.append((cid, span))
            await self._wait()
            raise NoBlock(answer, "It does not have the block (status 404).")

    source = Plain(file)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        await load(session, file)
        assert s.ours.gateways()["gateway:a"]["resting"] == 0
    assert len(source.cars) <= limits.MAX_CAR_REFUSALS + 1
    assert len(source.single) == 101


# --- directories ----------------------------------------------------------------------------------------------------


class TreeSource(Source):
    """A gateway that has a directory: one node, and files below it in this order."""

    def __init__(self, files: dict[CID, bytes], *, seconds: float = 0.0001) -> None:
        self.root, self.node = next(iter(blocks(1, 4 * KIB, codec=DAG_PB).items()))
        super().__init__({self.root: self.node, **files}, seconds=seconds, car=True)
        self.files = files

    async def car(self, cid: CID, span: tuple[int, int] | None, take: Take, alive: Callable[[int], None]) -> None:
        self.asked.append((cid, span))
        # "all" is asked for without a span; with one, a directory is its own blocks.
        for each in self.has.items() if span is None else [(self.root, self.node)]:
            await self._wait()
            self.sent.append(each[0])
            if not await take([each]):
                return


async def test_a_directory_of_thousands_of_files_takes_two_requests(autojump_clock: trio.testing.MockClock) -> None:
    """One for its listing, one for all that is in it, also where that is more than is kept ahead of its time."""
    source = TreeSource(files := blocks(6000, 4 * KIB))
    wanted = list(files)
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want([source.root])
        await take(session, 1)
        session.gather(source.root)
        for first in range(0, 6000, 200):
            session.want(wanted[first : first + 200])
            assert {block.cid for block in await take(session, 200)} == set(wanted[first : first + 200])
    assert len(source.asked) == 2
    assert len(source.sent) == 6002


async def test_files_in_another_order_than_the_directory(autojump_clock: trio.testing.MockClock) -> None:
    """What comes before it is wanted is kept within a bound; what does not come in time is asked for by itself. No more
    is read than is wanted or kept."""
    source = TreeSource(files := blocks(600, 64 * KIB))
    wanted = list(files)[::-1]
    most = 0
    async with scene(source) as s, s.ours.new_session(gateways=True) as session:
        session.want([source.root])
        await take(session, 1)
        session.gather(source.root)
        for first in range(0, 600, 50):
            session.want(wanted[first : first + 50])
            await take(session, 50)
            most = max(most, len(source.sent) - 2 - first - 50)
    assert most * 64 * KIB <= limits.MAX_AHEAD + 50 * 64 * KIB
    assert len(source.asked) - 2 <= 600 - limits.MAX_AHEAD // (64 * KIB)


async def test_a_peer_that_delivers_is_not_overtaken_by_a_directory(autojump_clock: trio.testing.MockClock) -> None:
    """Where peers bring the files, no gateway is asked for all of the directory."""
    source = TreeSource(files := blocks(100, 4 * KIB))
    async with scene(source) as s, s.ours.new_session(gateways=True, discover=True) as session:
        s.network.connect("peer", "ours")
        s.brings(source.node, *files.values())
        session.want([source.root])
        await take(session, 1)
        session.gather(source.root)
        session.want(files)
        await take(session, 100)
    assert source.asked == []


# --- places -----------------------------------------------------------------------------------------------------------


def test_rows_of_places() -> None:
    """A row is what lies side by side, within so many bytes, as far as it fits; a block that is in the file twice ends
    it."""
    file = File(10, 1 * KIB)
    names = [cid.multihash for cid in file.leaves]
    places = Places()
    places.add(file.root, file.places(), names)
    everything = lambda multihash: True  # noqa: E731 - shorter to read
    assert places.row(names[2], 4 * KIB, everything, backwards=False) == names[2:6]
    assert places.row(names[7], 3 * KIB + 1, everything, backwards=True) == names[5:8]
    assert places.row(names[0], MIB, lambda multihash: multihash != names[3], backwards=False) == names[:3]
    assert places.row(b"elsewhere", MIB, everything, backwards=False) == [b"elsewhere"]
    assert places.span(names[2:6]) == (file.root, 2 * KIB, 6 * KIB - 1)
    places.add(file.root, [(names[1], 20 * KIB, KIB)], names)
    assert places.row(names[0], MIB, everything, backwards=False) == names[:1]


def test_places_that_nobody_wants_are_forgotten() -> None:
    """However many are said."""
    places = Places()
    root = File(1).root
    for number in range(3 * limits.MAX_PLACES):
        places.add(root, [(number.to_bytes(4, "big"), number, 1)], ())
    known = sum(places.of(number.to_bytes(4, "big")) is not None for number in range(3 * limits.MAX_PLACES))
    assert known <= limits.MAX_PLACES
