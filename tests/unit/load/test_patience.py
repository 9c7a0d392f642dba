"""How long a load goes on: what counts as life, sources that come back, and what is said at the end."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap.session import WantAnswer
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import BlockTooLarge, ContentNotFound, DialError
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.errors import not_found
from kachery_p2p.load.interfaces import Place
from kachery_p2p.load.load import Load
from kachery_p2p.repo.download import Download
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.interfaces import Provider
from tests.helpers.clocks import PatientClock
from tests.unit.load.test_load import MIB, Block, EmptySession, RepoSession, make_load, no_dial, run, store

HINT = "/ip4/192.0.2.1/tcp/4001/p2p/source"


@pytest.fixture
def ours(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "theirs")


# --- work of its own ------------------------------------------------------------------------------------------------


async def test_a_slow_disk_is_no_silence(
    ours: Repo,
    theirs: Repo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patient_clock: PatientClock,
) -> None:
    """Writes that take longer than the timeout do not end a load: nobody else is to blame for them."""
    data = os.urandom(3 * MIB)
    cid = store(theirs, data, tmp_path)
    accept = Download.accept

    def slow(self: Download, *args: Any) -> None:
        trio.from_thread.run(trio.sleep, 100)
        accept(self, *args)

    monkeypatch.setattr(Download, "accept", slow)
    begun = trio.current_time()
    path, _ = await run(make_load(ours, RepoSession(theirs), timeout=60), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert trio.current_time() - begun >= 400


async def test_a_slow_disk_is_no_silence_where_leaves_are_put_in_their_place(
    ours: Repo,
    theirs: Repo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patient_clock: PatientClock,
) -> None:
    """The same where what comes is written by the exchange, in the thread in which it was hashed."""
    data = os.urandom(3 * MIB)
    cid = store(theirs, data, tmp_path)
    put = Download.put

    def slow(self: Download, *args: Any) -> bool:
        trio.from_thread.run(trio.sleep, 100)
        return put(self, *args)

    class Placing(RepoSession):
        shelf: Place
        placed: frozenset[bytes] = frozenset()

        def place(self, multihashes: Iterable[bytes], place: Place) -> None:
            self.shelf, self.placed = place, self.placed | frozenset(multihashes)

        async def receive(self) -> Block:
            cid, data, *_ = await super().receive()
            if cid.multihash not in self.placed:
                return Block(cid, data)
            assert await trio.to_thread.run_sync(self.shelf.put, cid.multihash, data)
            return Block(cid, b"", len(data))

    monkeypatch.setattr(Download, "put", slow)
    begun = trio.current_time()
    path, _ = await run(make_load(ours, Placing(theirs), timeout=60), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert trio.current_time() - begun >= 300


async def test_copying_repeated_leaves_is_no_silence(
    ours: Repo,
    theirs: Repo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patient_clock: PatientClock,
) -> None:
    """A leaf that is copied to where it is repeated needs nobody; meanwhile a missing block ends nothing."""
    from kachery_p2p.dag.profiles import Profile

    profile = Profile("test-64k", cid_version=1, chunk_size=65536, width=64, raw_leaves=True)
    data = b"\1" * (600 * 65536) + os.urandom(65536)
    cid = store(theirs, data, tmp_path, profile=profile)
    read = Download.read
    turns = 0

    def slow(self: Download, *args: Any) -> bytes:
        nonlocal turns
        turns += 1
        if turns % 6 == 0:
            trio.from_thread.run(trio.sleep, 100)
        return read(self, *args)

    monkeypatch.setattr(Download, "read", slow)
    path, _ = await run(make_load(ours, RepoSession(theirs), timeout=60), cid)  # type: ignore[misc]
    assert path.read_bytes() == data
    assert turns >= 12


async def test_walking_what_is_here_is_no_silence(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """However long a load looks through its own folders first, its timeout begins when it waits for somebody."""
    data = os.urandom(1000)
    cid = store(theirs, data, tmp_path)
    load = make_load(ours, RepoSession(theirs), timeout=60)

    async def work() -> tuple[Path, int]:
        await trio.sleep(3600)
        return await load.file(cid)

    path, _ = await run(load, cid, work)  # type: ignore[misc]
    assert path.read_bytes() == data


async def test_a_block_that_comes_slowly_is_no_silence(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """Over a very slow line a block may take longer than the timeout, as long as parts of it come."""
    cid = store(theirs, os.urandom(1000), tmp_path)

    class Slow(RepoSession):
        sign = 0.0

        def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
            self.later = list(cids)

        def last_sign(self) -> float:
            return self.sign

    session = Slow(theirs)

    async def line() -> None:
        for _ in range(10):
            await trio.sleep(50)
            session.sign = trio.current_time()
        RepoSession.want(session, session.later)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(line)
        _, size = await run(make_load(ours, session, timeout=60), cid)  # type: ignore[misc]
    assert size == 1000


# --- sources that come back -----------------------------------------------------------------------------------------


class Restarting(EmptySession):
    """A session whose only source goes away after some blocks; whoever is dialled again brings it back."""

    def __init__(self, store: Repo, leave_after: int) -> None:
        super().__init__(store, leave_after=leave_after)
        self.source: str | None = None

    def add_provider(self, peer_id: str) -> None:
        self.source = peer_id
        super().add_provider(peer_id)

    def lost(self) -> list[str]:
        return [self.source] if self.source and self.fetched and not self.providers else []

    def answers(self, cid: CID) -> dict[str, WantAnswer]:
        return dict.fromkeys(self.lost(), WantAnswer.GONE)


class Dialling:
    """Connects to a source once; then it is down until an instant, or to be found elsewhere. Remembers the dials."""

    def __init__(self, until: float, *, moved: str | None = None) -> None:
        self.dialled: list[tuple[float, str]] = []
        self._begun = trio.current_time()
        self._until = until
        self._moved = moved

    async def __call__(self, addr: str, addrs: Sequence[str]) -> str:
        await trio.lowlevel.checkpoint()
        now = trio.current_time() - self._begun
        self.dialled.append((now, addr))
        if len(self.dialled) > 1 and (now < self._until or (self._moved is not None and self._moved not in addrs)):
            raise DialError(f"Could not connect to {addr}: connection refused.")
        return "source"


async def test_a_source_that_restarts_is_dialled_again(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """A provider that was away for 40 of 60 seconds is found again, and nothing that came is fetched twice."""
    data = os.urandom(6 * MIB)
    cid = store(theirs, data, tmp_path)
    session = Restarting(theirs, leave_after=3)
    dial = Dialling(40)
    load = make_load(ours, session, connect=dial, timeout=60)
    path, _ = await load.run(cid, [HINT], lambda: load.file(cid))
    assert path.read_bytes() == data
    assert len(session.fetched) == len({each.multihash for each in session.fetched})
    again = [at for at, addr in dial.dialled if addr == HINT][1:]
    assert len(again) >= 8, "it is dialled every few seconds"
    assert 40 <= again[-1] < 46
    assert "source" in {addr for _, addr in dial.dialled}, "by its name, too: it may be known at another address"


async def test_a_source_that_moved_is_searched_for_again(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """One that comes back at another address is found there, although the search before found nobody."""
    data = os.urandom(6 * MIB)
    cid = store(theirs, data, tmp_path)
    new = "/ip4/192.0.2.2/tcp/5001"
    begun = trio.current_time()

    async def find(wanted: CID) -> AsyncGenerator[Provider, None]:
        await trio.sleep(0.1)
        if trio.current_time() - begun > 30:
            yield Provider("source", (new,), "dht")

    dial = Dialling(0, moved=new)
    load = make_load(ours, Restarting(theirs, leave_after=3), connect=dial, find=find, timeout=60)
    path, _ = await load.run(cid, [HINT], lambda: load.file(cid))
    assert path.read_bytes() == data


async def test_a_source_that_stays_away_costs_the_timeout(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """It is not given up before nothing has come for the timeout, and then it is said that it went away."""
    cid = store(theirs, os.urandom(6 * MIB), tmp_path)
    load = make_load(ours, Restarting(theirs, leave_after=3), connect=Dialling(1e9), timeout=60)
    begun = trio.current_time()
    with pytest.raises(ContentNotFound, match=r"Not all of .* came.*source went away.*Could not reach") as raised:
        await load.run(cid, [HINT], lambda: load.file(cid))
    assert 60 <= trio.current_time() - begun < 70
    assert "connection refused" in str(raised.value)


async def test_a_source_that_was_never_there_costs_no_timeout(
    ours: Repo, theirs: Repo, tmp_path: Path, patient_clock: PatientClock
) -> None:
    """Where nothing has come from anybody, a refused dial ends the load as soon as it is known."""
    cid = store(theirs, os.urandom(100), tmp_path)
    load = make_load(ours, EmptySession(theirs), connect=no_dial, timeout=60)
    begun = trio.current_time()
    with pytest.raises(ContentNotFound, match="connection refused"):
        await load.run(cid, [HINT], lambda: load.file(cid))
    assert trio.current_time() - begun < 5


# --- what is said ---------------------------------------------------------------------------------------------------

ROOT = CID.parse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
BLOCK = CID.parse("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")


class Told(RepoSession):
    """A session that ended in a certain way."""

    def __init__(
        self,
        answers: dict[str, WantAnswer],
        *,
        missing: Sequence[CID] = (ROOT,),
        gateways: dict[str, str] | None = None,
        too_large: dict[CID, int] | None = None,
    ) -> None:
        self._answers = answers
        self._missing = list(missing)
        self._gateways = gateways or {}
        self._large = too_large or {}

    def answers(self, cid: CID) -> dict[str, WantAnswer]:
        return self._answers

    def missing(self) -> list[CID]:
        return self._missing

    def gateways_said(self) -> dict[str, str]:
        return self._gateways

    def too_large(self) -> dict[CID, int]:
        return self._large


@pytest.mark.parametrize(
    ("session", "says", "not_says"),
    [
        (
            Told({"A": WantAnswer.LACKS}),
            ["Nobody who was asked has baf", "Asked 1 peer in 2.5 s: A does not have it."],
            [],
        ),
        (
            Told({"A": WantAnswer.SILENT}, missing=()),
            [f"{ROOT} did not come.", "Asked 1 peer in 2.5 s: A did not answer."],
            ["missing", "Nobody"],
        ),
        (
            Told({"A": WantAnswer.LACKS, "B": WantAnswer.SILENT, "C": WantAnswer.LACKS}, missing=[BLOCK]),
            [f"Not all of {ROOT} came", str(BLOCK), "Asked 3 peers", "A and C do not have it; B did not answer."],
            ["Nobody"],
        ),
        (
            Told({"A": WantAnswer.LACKS, "B": WantAnswer.LACKS}, missing=[BLOCK]),
            ["Nobody who was asked has all of"],
            [],
        ),
        (Told({"A": WantAnswer.BAD}), ["A sent wrong data, and is not asked any more."], ["Nobody who was asked"]),
        (Told({"A": WantAnswer.HAS}), ["A has it, but did not send it."], ["Nobody"]),
        (Told({"A": WantAnswer.GONE}), ["A went away."], ["Nobody"]),
        (
            Told({f"P{n}": WantAnswer.LACKS for n in range(9)}),
            ["Asked 9 peers", "P0, P1, P2, P3, P4 and 4 more do not have it."],
            ["P7"],
        ),
        (
            Told({}, gateways={"gateway:gw.example": "It answered with status 504."}),
            ["Asked 1 gateway in 2.5 s.", "The gateway gw.example: It answered with status 504."],
            ["peer in", "gateway:gw"],
        ),
        (
            Told({"A": WantAnswer.LACKS}, gateways={"gateway:a.example": "It does not have the block."}),
            ["Nobody who was asked has", "Asked 1 peer and 1 gateway in 2.5 s: A does not have it."],
            [],
        ),
        (Told({}), ["Nobody is connected who could have"], ["Asked"]),
    ],
)
def test_the_last_words(session: Told, says: list[str], not_says: list[str]) -> None:
    """The error tells apart who has it not, who kept silent and who left, and calls a gateway a gateway."""
    error = not_found(ROOT, ROOT, session, 2.5, {})
    assert type(error) is ContentNotFound
    for words in [*says, "kachery-cloud-node", "--peer"]:
        assert words in str(error)
    for words in not_says:
        assert words not in str(error)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (["own"], "Only your own machines were asked, as is said. Check"),
        (["g1", "own"], "Only members of the group g1 and your own machines were asked, as is said. Check"),
        (["g2", "g1"], "Only members of the groups g1, g2 and your own machines were asked, as is said. Check"),
    ],
)
def test_where_members_alone_were_asked(groups: list[str], says: str) -> None:
    """The error says who that is and how that was known, and what it names can be typed as it stands."""
    error = not_found(ROOT, ROOT, Told({}), 2.5, {}, groups=frozenset(groups), why="as is said")
    assert says in str(error)
    assert "not for everybody" not in str(error)
    assert str(error).endswith("kachery-cloud-group members g1" if groups != ["own"] else "PEERS.")


@pytest.mark.parametrize(
    "session",
    [Told({"A": WantAnswer.LACKS}, too_large={BLOCK: 3_000_000}), Told({"A": WantAnswer.TOO_LARGE}, missing=[BLOCK])],
)
def test_a_block_that_is_too_large_is_called_that(session: Told) -> None:
    """It is named, with the limit and how to store the data again; nobody is said to lack it."""
    error = not_found(ROOT, ROOT, session, 2.5, {})
    assert type(error) is BlockTooLarge
    for words in (str(BLOCK), str(ROOT), "2,097,152 bytes (2 MiB)", "smaller blocks", "kachery-cloud-store"):
        assert words in str(error)
    assert "Nobody" not in str(error)


async def test_a_silent_peer_is_called_silent(ours: Repo, theirs: Repo) -> None:
    """A load in real time that nobody answers says so, not that a block is missing."""

    class Silent(RepoSession):
        def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
            pass

    load = Load(ours, Downloads(ours), Silent(theirs), connect=no_dial, timeout=0.3, progress=lambda done, total: None)
    begun = time.monotonic()
    with pytest.raises(ContentNotFound, match=r"did not come.*peer-of-the-test did not answer"):
        await run(load, ROOT)
    assert time.monotonic() - begun >= 0.3
