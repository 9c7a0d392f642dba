"""The block exchange behind a gate: for who may not see a block it is not here, in each way in which that is told."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from kachery_p2p.access.audience import OWN, PRIVATE, Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.bitswap.engine import Engine
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.messages import (
    PROTOCOL_1_0,
    PROTOCOL_1_1,
    PROTOCOL_1_2,
    PROTOCOL_PLAIN,
    PROTOCOLS,
    WantlistEntry,
    WantType,
    decode,
    encode,
    read_length,
)
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import StreamError
from tests.helpers.access_fakes import MICE, CountingStore, Members, SaidAudiences
from tests.helpers.bitswap_fakes import MemoryNetwork, MemoryStream, cid_of, no_thread
from tests.helpers.patience import PATIENCE

FOR_MICE = Audience(groups=frozenset({MICE}))
#: What a peer was told: ("block" | "have" | "dont have", CID).
Told = tuple[str, CID]

#: All ways of asking: for the block or whether it is there, and whether a DONT_HAVE is wanted.
WAYS = [(kind, dont_have) for kind in (WantType.BLOCK, WantType.HAVE) for dont_have in (True, False)]


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)


class Served:
    """Keeps what was given away."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, bytes, int]] = []

    def note(self, peer: str, multihash: bytes, size: int) -> None:
        self.notes.append((peer, multihash, size))


class Asker:
    """A peer without an exchange: says what it wants, and keeps what it is told, in order."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self.name = name
        self.host = network.host(name)
        self.told: list[Told] = []
        #: Kept closed, it takes nothing.
        self.reading = trio.Event()
        self.reading.set()
        for protocol in PROTOCOLS:
            self.host.set_handler(protocol, self._listen)

    async def _listen(self, stream: MemoryStream) -> None:
        buffer = b""
        try:
            while True:
                await self.reading.wait()
                data = await stream.read(1 << 20)
                if not data:
                    return
                buffer += data
                while (found := read_length(buffer, 0, len(buffer))) and len(buffer) >= sum(found):
                    size, start = found
                    message = decode(buffer[start : start + size])
                    self.told += [("block", cid_of(bytes(block.data))) for block in message.blocks]
                    self.told += [("have" if has else "dont have", cid) for cid, has in message.presences]
                    buffer = buffer[start + size :]
        except StreamError:
            pass

    async def ask(
        self,
        cids: Sequence[CID],
        kind: WantType = WantType.BLOCK,
        *,
        dont_have: bool = True,
        full: bool = False,
        cancel: bool = False,
        protocol: str = PROTOCOL_1_2,
    ) -> None:
        """Send a wantlist, and wait until nothing more is done about it."""
        entries = [WantlistEntry(cid, 1, cancel, kind, dont_have) for cid in cids]
        stream = await self.host.open_stream("server", [protocol])
        await stream.write(b"".join(bytes(part) for part in encode(protocol=protocol, entries=entries, full=full)))
        await stream.close_write()
        await quiet()

    def took(self) -> list[Told]:
        """What it was told since the last time."""
        told, self.told = self.told, []
        return told


async def quiet() -> None:
    """Until no task has anything to do."""
    await trio.testing.wait_all_tasks_blocked(0.005)


class Scene:
    """A server with blocks for everyone and blocks for the mice, and some peers that are connected with it."""

    def __init__(self, network: MemoryNetwork, names: Sequence[str]) -> None:
        self.public = [os.urandom(3000) for _ in range(4)]
        self.secret = [os.urandom(3000) for _ in range(4)]
        self.store = CountingStore([*self.public, *self.secret])
        self.audiences = SaidAudiences()
        for block in self.secret:
            self.audiences.said[cid_of(block).multihash] = FOR_MICE
        self.members = Members({"mouse": {MICE}})
        self.gate = Gate(self.members, self.audiences)
        self.served = Served()
        self.exchange = Exchange(network.host("server"), self.store, gate=self.gate, served=self.served)
        self.network = network
        self.peers = {name: Asker(network, name) for name in names}

    async def come(self, block: bytes, audience: Audience | None = None) -> CID:
        """A block arrives here, for some audience."""
        cid = cid_of(block)
        if audience is not None:
            self.audiences.said[cid.multihash] = audience
        self.store.add(block)
        self.exchange.notify([cid.multihash])
        await quiet()
        return cid


@asynccontextmanager
async def scene(*names: str) -> AsyncIterator[Scene]:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            network = MemoryNetwork(nursery)
            made = Scene(network, names or ("mouse", "outsider"))
            await nursery.start(made.exchange.run)
            for name in made.peers:
                network.connect("server", name)
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("kind", "dont_have"), WAYS)
async def test_guessed_cids(kind: WantType, dont_have: bool) -> None:
    """Who may not see a block hears of it what it hears of one that is not here; a member gets it."""
    async with scene() as s:
        secret, nothing = cid_of(s.secret[0]), cid_of(b"not here")
        outsider, mouse = s.peers["outsider"], s.peers["mouse"]
        answers: list[list[str]] = []
        work = []
        for cid in (nothing, secret):
            s.store.asked.clear()
            await outsider.ask([cid], kind, dont_have=dont_have)
            answers.append([what for what, about in outsider.took() if about == cid])
            work.append(list(s.store.asked))
        assert answers[0] == answers[1] == (["dont have"] if dont_have else [])
        assert work[0] == work[1] == [("sizes", 1, 0)]
        assert not s.served.notes
        await mouse.ask([secret], kind, dont_have=dont_have)
        assert mouse.took() == [("block" if kind is WantType.BLOCK else "have", secret)]


@pytest.mark.parametrize("protocol", [PROTOCOL_1_1, PROTOCOL_1_0, PROTOCOL_PLAIN])
async def test_older_versions(protocol: str) -> None:
    """They have no word for a block that is not here: silence, for what is hidden as well."""
    async with scene() as s:
        outsider = s.peers["outsider"]
        outsider.host.protocols = [protocol]
        for cid in (cid_of(b"not here"), cid_of(s.secret[0])):
            s.store.asked.clear()
            await outsider.ask([cid], protocol=protocol)
            assert outsider.took() == []
            assert s.store.asked == [("sizes", 1, 0)]
        await outsider.ask([cid_of(s.public[0])], protocol=protocol)
        assert outsider.took() == [("block", cid_of(s.public[0]))]


async def test_public_blocks_are_for_everyone() -> None:
    """Beside others that are not; and nothing is noted of them."""
    async with scene() as s:
        everything = [*s.public, *s.secret]
        await s.peers["outsider"].ask([cid_of(block) for block in everything])
        told = s.peers["outsider"].took()
        assert {cid for what, cid in told if what == "block"} == {cid_of(block) for block in s.public}
        assert {cid for what, cid in told if what == "dont have"} == {cid_of(block) for block in s.secret}
        await s.peers["mouse"].ask([cid_of(block) for block in everything])
        assert {cid for _, cid in s.peers["mouse"].took()} == {cid_of(block) for block in everything}
        assert set(s.served.notes) == {("mouse", cid_of(block).multihash, 3000) for block in s.secret}


async def test_a_full_wantlist() -> None:
    """It is answered as the same wants one by one, and a second one again."""
    async with scene() as s:
        cids = [cid_of(s.public[0]), cid_of(s.secret[0]), cid_of(b"not here")]
        for _ in range(2):
            await s.peers["outsider"].ask(cids, full=True)
            assert Counter(s.peers["outsider"].took()) == Counter(
                [("block", cids[0]), ("dont have", cids[1]), ("dont have", cids[2])]
            )


async def test_the_user_s_own_machines() -> None:
    """They see what is private, and members of groups do not."""
    async with scene("laptop", "mouse") as s:
        s.members.groups["laptop"] = frozenset({OWN})
        cid = await s.come(b"mine", PRIVATE)
        for name in ("laptop", "mouse"):
            await s.peers[name].ask([cid])
        assert s.peers["laptop"].took() == [("block", cid)]
        assert s.peers["mouse"].took() == [("dont have", cid)]


@pytest.mark.parametrize(("kind", "dont_have"), WAYS)
async def test_a_block_that_arrives_while_an_outsider_waits(kind: WantType, dont_have: bool) -> None:
    """Who waits for it hears nothing, neither a block nor another DONT_HAVE; a member that waits gets it."""
    async with scene() as s:
        cid = cid_of(b"to come")
        for peer in s.peers.values():
            await peer.ask([cid], kind, dont_have=dont_have)
            assert peer.took() == ([("dont have", cid)] if dont_have else [])
        await s.come(b"to come", FOR_MICE)
        assert s.peers["outsider"].took() == []
        # A small block goes out in place of a HAVE.
        assert s.peers["mouse"].took() == [("block", cid)]
        # It is still waited for: when it is for everyone, it comes.
        del s.audiences.said[cid.multihash]
        s.gate.changed()
        await quiet()
        assert s.peers["outsider"].took() == [("block", cid)]


async def test_asked_again_it_is_answered_again() -> None:
    """Each want is answered once, that of an outsider as any other."""
    async with scene() as s:
        secret, nothing = cid_of(s.secret[0]), cid_of(b"not here")
        for _ in range(3):
            await s.peers["outsider"].ask([secret, nothing])
            assert Counter(s.peers["outsider"].took()) == Counter([("dont have", secret), ("dont have", nothing)])
            await s.peers["outsider"].ask([secret, nothing], cancel=True)
            assert s.peers["outsider"].took() == []


async def test_a_member_that_is_removed() -> None:
    """It has a connection from before, wants that wait, and replies that are read: it gets nothing more."""
    async with scene() as s:
        s.network.pipe_size = 4096
        mouse = s.peers["mouse"]
        mouse.reading = trio.Event()
        blocks = [os.urandom(200_000) for _ in range(60)]
        cids = [await s.come(block, FOR_MICE) for block in blocks]
        public = await s.come(os.urandom(100_000))
        await mouse.ask([*cids, public])
        assert s.store.reads > 0
        s.members.change({})
        mouse.reading.set()
        await quiet()
        told = mouse.took()
        given = {cid for what, cid in told if what == "block"}
        # What was being written when it happened is cut off: of a message of up to 4 MiB no block got through.
        assert given == {public}
        assert {cid for what, cid in told if what == "dont have"} == set(cids)
        await mouse.ask(cids)
        assert [what for what, _ in mouse.took()] == ["dont have"] * len(cids)
        # Taken in again, it gets what it waits for.
        s.members.change({"mouse": {MICE}})
        await quiet()
        assert {cid for what, cid in mouse.took() if what == "block"} == set(cids)


async def test_a_member_that_loses_one_thing_after_the_other() -> None:
    """Each time the message that is being written is cut off, and another one begun with what is left."""
    rats = "r" * 26
    async with scene() as s:
        s.network.pipe_size = 4096
        s.members.change({"mouse": {MICE, rats}})
        mouse = s.peers["mouse"]
        mouse.reading = trio.Event()
        theirs = [await s.come(os.urandom(50_000), FOR_MICE) for _ in range(3)]
        others = [await s.come(os.urandom(50_000), Audience(groups=frozenset({rats}))) for _ in range(3)]
        public = await s.come(os.urandom(50_000))
        await mouse.ask([*theirs, *others, public])
        for left in ({rats}, set[str]()):
            s.members.change({"mouse": left})
            await quiet()
        mouse.reading.set()
        await quiet()
        told = mouse.took()
        assert Counter(told) == Counter([("block", public), *(("dont have", cid) for cid in (*theirs, *others))])


async def test_an_audience_that_becomes_narrower() -> None:
    """What was found for a peer is not given to it any more, without a word to the exchange."""
    async with scene() as s:
        mouse, cid = s.peers["mouse"], cid_of(s.secret[0])
        get_block = s.store.get_block

        def narrow(multihash: bytes) -> bytes | None:
            s.audiences.said[cid.multihash] = PRIVATE
            return get_block(multihash)

        s.store.get_block = narrow  # type: ignore[method-assign]
        await mouse.ask([cid])
        assert mouse.took() == [("dont have", cid)]
        assert not s.served.notes


async def test_a_have_that_is_not_true_any_more() -> None:
    """A HAVE that waits to be sent is taken back; the want then waits like any other."""
    async with scene() as s:
        s.network.pipe_size = 4096
        mouse = s.peers["mouse"]
        mouse.reading = trio.Event()
        big = [await s.come(os.urandom(200_000)) for _ in range(8)]
        cids = [await s.come(os.urandom(5000), FOR_MICE) for _ in range(3)]
        await mouse.ask(big)
        await mouse.ask(cids[:2], WantType.HAVE)
        await mouse.ask(cids[2:], WantType.HAVE, dont_have=False)
        s.members.change({})
        mouse.reading.set()
        await quiet()
        told = [each for each in mouse.took() if each[1] in cids]
        assert Counter(told) == Counter([("dont have", cids[0]), ("dont have", cids[1])])
        s.members.change({"mouse": {MICE}})
        await quiet()
        assert Counter(mouse.took()) == Counter(("have", cid) for cid in cids)


async def test_audiences_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody gets anything then, and the exchange goes on when they can be read again."""
    async with scene() as s:
        s.audiences.fails = True
        with caplog.at_level(logging.CRITICAL + 1):
            await s.peers["mouse"].ask([cid_of(s.public[0]), cid_of(s.secret[0])])
        assert [what for what, _ in s.peers["mouse"].took()] == ["dont have"] * 2
        s.audiences.fails = False
        await s.peers["mouse"].ask([cid_of(s.public[1]), cid_of(s.secret[1])])
        assert [what for what, _ in s.peers["mouse"].took()] == ["block"] * 2


async def test_audiences_that_cannot_be_read_when_a_reply_is(caplog: pytest.LogCaptureFixture) -> None:
    """What was found before is not given then."""
    async with scene() as s:
        get_block = s.store.get_block

        def fails(multihash: bytes) -> bytes | None:
            s.audiences.fails = True
            return get_block(multihash)

        s.store.get_block = fails  # type: ignore[method-assign]
        with caplog.at_level(logging.CRITICAL + 1):
            await s.peers["mouse"].ask([cid_of(s.secret[0])])
        assert s.peers["mouse"].took() == [("dont have", cid_of(s.secret[0]))]


async def test_wants_of_outsiders_make_no_fellows() -> None:
    """A session that asks members alone neither asks nor tells an outsider that waits for the same block."""
    async with scene() as s:
        cid = cid_of(b"x" * 300_000)
        await s.peers["outsider"].ask([cid], WantType.BLOCK)
        async with s.exchange.new_session() as session:
            session.add_provider("mouse")
            session.want([cid], {cid.multihash: 300_000})
            await quiet()
            assert session.asked() == ["mouse"]
            # Whoever wants of us what we want becomes no fellow when it is not of the session.
            await s.peers["outsider"].ask([cid], WantType.HAVE)
            assert session.asked() == ["mouse"]
        assert {what for what, _ in s.peers["outsider"].took()} == {"dont have"}


async def test_statistics_over_10_000_asks() -> None:
    """Nothing that an outsider sees, and no work of the store, tells what is hidden from what is not here."""
    rng = random.Random(12)
    async with scene() as s:
        hidden = [cid_of(block) for block in s.secret]
        hidden += [await s.come(rng.randbytes(2000), FOR_MICE) for _ in range(96)]
        absent = [cid_of(rng.randbytes(2000)) for _ in range(100)]
        outsider = s.peers["outsider"]
        answers: dict[CID, list[tuple[str, ...]]] = {cid: [] for cid in (*hidden, *absent)}
        work: dict[bool, list[tuple[tuple[str, int, int], ...]]] = {True: [], False: []}
        asks = 0
        while asks < 10_000:
            kind, dont_have = WAYS[rng.randrange(len(WAYS))]
            of_hidden = bool(rng.getrandbits(1))
            batch = rng.sample(hidden if of_hidden else absent, 25)
            s.store.asked.clear()
            await outsider.ask(batch, kind, dont_have=dont_have)
            told = outsider.took()
            for cid in batch:
                answers[cid].append(tuple(what for what, about in told if about == cid))
                assert answers[cid][-1] == (("dont have",) if dont_have else ())
            work[of_hidden].append(tuple(s.store.asked))
            await outsider.ask(batch, cancel=True)
            assert not outsider.took()
            asks += len(batch)
        assert set(work[True]) == set(work[False]) == {(("sizes", 25, 0),)}
        # Mixed with what there is, too: the store does the same for 10 that are hidden as for 10 that are not here.
        for batch in (hidden[:10], absent[:10]):
            s.store.asked.clear()
            await outsider.ask([*batch, *(cid_of(block) for block in s.public)])
            assert s.store.asked[0] == ("sizes", 14, 4)
            assert sorted(what for what, _ in outsider.took()) == ["block"] * 4 + ["dont have"] * 10
            await outsider.ask(batch, cancel=True)


# --- the core --------------------------------------------------------------------------------------------------------


def looked_up(engine: Engine, size: int | None) -> None:
    while batch := engine.take_lookups():
        engine.looked_up(batch, [size] * len(batch))


def test_dont_have_is_told_once() -> None:
    """However often a want is looked up; when the peer asks again it is told again."""
    engine = Engine()
    cid = cid_of(b"x")
    entry = WantlistEntry(cid, 1, False, WantType.BLOCK, True)
    engine.receive("peer", [entry], False)
    looked_up(engine, None)
    reply = engine.next_reply()
    assert reply is not None
    assert [each.have for each in reply.presences] == [False]
    engine.finished(reply, 0, 0)
    for _ in range(3):
        assert engine.look_again()
        looked_up(engine, None)
        assert engine.next_reply() is None
    engine.receive("peer", [entry], False)
    looked_up(engine, None)
    reply = engine.next_reply()
    assert reply is not None
    assert [each.have for each in reply.presences] == [False]


def test_a_change_while_a_block_is_looked_up() -> None:
    """The answer is of before: it is looked up once more."""
    engine = Engine()
    engine.receive("peer", [WantlistEntry(cid_of(b"x"), 1, False, WantType.BLOCK, True)], False)
    batch = engine.take_lookups()
    engine.look_again()
    engine.looked_up(batch, [None])
    assert engine.next_reply() is None
    batch = engine.take_lookups()
    assert len(batch) == 1
    engine.looked_up(batch, [5])
    reply = engine.next_reply()
    assert reply is not None
    assert len(reply.wants) == 1


def test_a_have_that_is_withheld_from_a_peer_that_has_gone_or_asked_anew() -> None:
    """Nothing is left behind of the one, and the other is answered for what it asked."""
    engine = Engine()
    cid = cid_of(b"x")
    entry = WantlistEntry(cid, 1, False, WantType.HAVE, True)
    for again in (False, True):
        engine.receive("peer", [entry], False)
        looked_up(engine, 5000)
        reply = engine.next_reply()
        assert reply is not None
        (want,) = reply.haves
        if again:
            engine.receive("peer", [entry], False)
        else:
            engine.cancel_all("peer")
        assert engine.withheld(want) is None
        engine.finished(reply, 0, 0)
    assert len(engine.ledgers["peer"].wants) == 1
    assert not engine.waiting([cid.multihash])
