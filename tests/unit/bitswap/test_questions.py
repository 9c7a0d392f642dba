"""Asking single peers whether they have a block, and what becomes of blocks that are too large."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.messages import PROTOCOL_1_1, Presence, WantlistEntry, WantType, decode, encode, read_length
from kachery_p2p.bitswap.session import WantAnswer
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import BlockTooLarge, DialError, StreamError
from kachery_p2p.load.errors import not_found
from kachery_p2p.node.messages import WhereisRequest
from kachery_p2p.node.whereis import Whereis
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.router import Sighting
from kachery_p2p.wire import encode_varint
from tests.helpers.bitswap_fakes import MemoryStream, cid_of
from tests.helpers.patience import PATIENCE
from tests.unit.bitswap.test_exchange import MIB, Net, nodes, until


class Wire:
    """A peer written by hand: it hears what it is asked, and says what the test wants."""

    def __init__(self, net: Net, name: str) -> None:
        self.host = net.network.host(name)
        self.name = name
        self.entries: list[WantlistEntry] = []
        #: Whether it says DONT_HAVE to everything.
        self.answers = True
        for protocol in self.host.protocols:
            self.host.set_handler(protocol, self._hear)

    async def _hear(self, stream: MemoryStream) -> None:
        data = b""
        with contextlib.suppress(StreamError):  # the test ends, or the peers part
            while more := await stream.read():
                data += more
                while (head := read_length(data, 0, len(data))) is not None and len(data) >= sum(head):
                    size, start = head
                    body, data = data[start : start + size], data[start + size :]
                    for entry in decode(body).entries:
                        if not entry.cancel:
                            self.entries.append(entry)
                            await self._answer(entry)

    async def _answer(self, entry: WantlistEntry) -> None:
        if self.answers:
            parts = encode(presences=[Presence(entry.cid, False)])
            await self.say(b"".join(bytes(part) for part in parts))

    async def say(self, data: bytes, to: str = "us") -> MemoryStream:
        stream = await self.host.open_stream(to, self.host.protocols)
        await stream.write(data)
        return stream


# --- questions ------------------------------------------------------------------------------------------------------


async def test_each_peer_answers_for_itself() -> None:
    """Of two that have a large block and one that has not, each says so, and not a byte of the block is sent."""
    block = os.urandom(MIB)
    async with nodes() as net:
        await net.node("a", [block])
        await net.node("b", [])
        await net.node("c", [block])
        us = await net.node("us")
        found: dict[str, bool | None] = {}

        async def ask(peer: str) -> None:
            found[peer] = await us.exchange.ask(peer, cid_of(block))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for peer in ("a", "b", "c"):
                    nursery.start_soon(ask, peer)
        assert found == {"a": True, "b": False, "c": True}
        assert us.exchange.stats().total.bytes_received == 0


async def test_a_small_block_in_place_of_the_answer_is_an_answer() -> None:
    """A peer that sends a small block at once has it; that it comes, also too late, is no lie."""
    block = b"small"
    async with nodes() as net:
        a = await net.node("a", [block])
        us = await net.node("us")
        with trio.fail_after(PATIENCE):
            assert await us.exchange.ask("a", cid_of(block)) is True
            await a.exchange.ask("us", cid_of(b"nothing"))  # something goes on afterwards
        assert us.bad == []


async def test_a_peer_of_an_old_version_has_to_send_the_block() -> None:
    """Bitswap 1.1 has no such question: the block is asked for, and its coming is the answer."""
    block = os.urandom(5000)
    async with nodes() as net:
        await net.node("old", [block], protocols=[PROTOCOL_1_1])
        us = await net.node("us")
        with trio.fail_after(PATIENCE):
            assert await us.exchange.ask("old", cid_of(block)) is True


async def test_who_is_not_there_or_leaves_gives_no_answer() -> None:
    """A peer that is not connected, or leaves before it answers, has said nothing; nobody waits for ever."""
    async with nodes() as net:
        us = await net.node("us")
        silent = Wire(net, "silent")
        silent.answers = False
        net.network.connect("us", "silent")
        assert await us.exchange.ask("nobody", cid_of(b"x")) is None
        answers: list[bool | None] = []

        async def ask() -> None:
            answers.append(await us.exchange.ask("silent", cid_of(b"x")))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await until(lambda: bool(silent.entries))
                net.network.disconnect("us", "silent")
        assert answers == [None, None]
        assert [entry.want_type for entry in silent.entries] == [WantType.HAVE], "two who ask the same ask once"


async def test_a_load_of_the_same_block_does_not_answer_for_others() -> None:
    """While a session loads the block from one peer, the question to another is still that peer's own to answer."""
    block = os.urandom(MIB)
    async with nodes() as net:
        us = await net.node("us")
        other = Wire(net, "other")
        other.answers = False
        net.network.connect("us", "other")
        found: list[bool | None] = []

        async def ask() -> None:
            found.append(await us.exchange.ask("other", cid_of(block)))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery, us.exchange.new_session() as session:
                session.add_provider("other")
                session.want([cid_of(block)])
                await until(lambda: bool(other.entries))
                nursery.start_soon(ask)
                # When the block has come from another, what the session had asked is withdrawn; the question is put.
                other.answers = True
                await net.node("giver", [block])
                session.add_provider("giver")
                assert bytes((await session.receive()).data) == block
        assert found == [False]
        assert other.entries[-1].want_type is WantType.HAVE


async def test_what_a_peer_declined_a_session_is_its_answer() -> None:
    """A peer that has just said that it does not have a block is not asked the same again."""
    async with nodes() as net:
        us = await net.node("us")
        wire = Wire(net, "wire")
        net.network.connect("us", "wire")
        async with us.exchange.new_session() as session:
            session.add_provider("wire")
            session.want([cid_of(b"x")])
            with trio.fail_after(PATIENCE):
                await session.wait_exhausted()
                assert await us.exchange.ask("wire", cid_of(b"x")) is False
            assert session.answers(cid_of(b"x")) == {"wire": WantAnswer.LACKS}
        assert len(wire.entries) == 1


# --- whereis --------------------------------------------------------------------------------------------------------


class Found:
    """What a node finds: these providers; some of them cannot be dialled."""

    def __init__(self, named: Sequence[str], away: Sequence[str] = ()) -> None:
        self._named = named
        self._away = away

    async def dial(self, peer: str, addrs: Sequence[str], *, timeout: float) -> str:
        if peer in self._away:
            raise DialError(f"Could not connect to {peer}: connection refused.")
        return peer

    async def sightings(self, cid: CID, groups: object = None) -> AsyncGenerator[Sighting, None]:
        for peer in self._named:
            await trio.lowlevel.checkpoint()
            yield Sighting(Provider(peer, (f"/ip4/192.0.2.1/tcp/{len(peer)}",), "dht"), 0.5)


class Moved(Found):
    """One source names a peer at an address where it was; later another one where it is."""

    def __init__(self, named: Sequence[str], good: str) -> None:
        super().__init__(named)
        self._good = good
        self.tried: list[Sequence[str]] = []

    async def dial(self, peer: str, addrs: Sequence[str], *, timeout: float) -> str:
        self.tried.append(addrs)
        if self._good not in addrs:
            raise DialError(f"Could not connect to {peer}: connection refused.")
        return peer

    async def sightings(self, cid: CID, groups: object = None) -> AsyncGenerator[Sighting, None]:
        for at, (source, addr) in enumerate([("mdns", "/ip4/192.0.2.1/tcp/1"), ("dht", self._good)]):
            yield Sighting(Provider(self._named[0], (addr,), source), float(at))
            await trio.sleep(1)


def lookalike(node: Any, connected: Sequence[str] | None = None) -> Any:
    """A host for `Whereis`: that of a node, which no address of a URI leads to."""

    async def connect(addr: str) -> str:
        raise DialError(f"Could not connect to {addr}: no route.")

    names = node.host.connected if connected is None else lambda: connected
    dialled = {"silent": ["/ip4/192.0.2.7/tcp/7"]}
    said = {"lacks": ["/ip4/192.0.2.8/tcp/8/p2p/lacks"], "silent": ["/ip4/192.0.2.9/tcp/9/p2p/silent"]}
    return SimpleNamespace(
        peer_id="us",
        connected=names,
        connections=list,
        connect=connect,
        remote_addresses_of=lambda peer: dialled.get(peer, []),
        addresses_of=lambda peer: said.get(peer, []),
    )


async def test_whereis_believes_each_peer_for_itself(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has it, one that has not, one that keeps silent, and providers and hints that cannot be reached: each
    has its own row, with all that named it, and where there is no answer it is said why. Who answers is told at once.
    """
    from tests.helpers.bitswap_fakes import no_thread

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    block = os.urandom(MIB)
    told: list[tuple[str | None, bool | None, float]] = []
    async with nodes() as net:
        await net.node("has", [block])
        await net.node("lacks")
        us = await net.node("us")
        silent = Wire(net, "silent")
        silent.answers = False
        net.network.connect("us", "silent")
        whereis = Whereis(
            lookalike(us),
            us.exchange,
            Found(["has", "gone", "us"], away=["gone"]),  # type: ignore[arg-type]
            lambda row: told.append((row.peer, row.has, trio.current_time())),
        )
        begun = trio.current_time()
        rows = await whereis.run(WhereisRequest(cid_of(block), 15, ("/ip4/192.0.2.9/tcp/1/p2p/hinted",)))
        assert us.exchange.stats().total.bytes_received == 0
    answers = {(row.peer, *row.found_by): (row.has, row.error or "") for row in rows}
    assert answers[("has", "connected", "dht")] == (True, "")
    assert answers[("lacks", "connected")] == (False, "")
    assert answers[("silent", "connected")][0] is None
    assert "did not say within 10 s" in answers[("silent", "connected")][1]
    assert answers[("gone", "dht")] == (None, "Could not connect to gone: connection refused.")
    assert answers[("hinted", "hint")][0] is None
    assert "no route" in answers[("hinted", "hint")][1]
    assert len(answers) == len(rows) == 5
    # Where nobody named an address: the one that we dialled, else those that the peer says to have.
    where = {row.peer: row.addrs for row in rows}
    assert where["has"] == ("/ip4/192.0.2.1/tcp/3",)
    assert (where["silent"], where["lacks"]) == (("/ip4/192.0.2.7/tcp/7",), ("/ip4/192.0.2.8/tcp/8",))
    assert rows[0].peer == "has"
    assert {(peer, has) for peer, has, _ in told} == {("has", True), ("lacks", False)}
    assert all(when - begun < 10 for _, _, when in told)  # the silent one is not waited for


async def test_whereis_asks_again_at_new_addresses(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer whose first address leads nowhere is asked when another source knows a better one; it has one row."""
    from tests.helpers.bitswap_fakes import no_thread

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    block = os.urandom(MIB)
    async with nodes() as net:
        await net.node("has", [block])
        us = await net.node("us")
        finding = Moved(["has"], good="/ip4/192.0.2.2/tcp/2")
        host = lookalike(us, connected=())
        rows = await Whereis(host, us.exchange, finding).run(WhereisRequest(cid_of(block), 15))  # type: ignore[arg-type]
    (row,) = rows
    assert (row.peer, row.has, row.error, list(row.found_by)) == ("has", True, None, ["mdns", "dht"])
    assert [len(addrs) for addrs in finding.tried] == [1, 2]


# --- blocks that are too large --------------------------------------------------------------------------------------


def _body(cid: CID, block: bytes) -> bytes:
    """A message as Kubo sends it, whatever its size."""
    inner = b"\x0a\x04\x01\x55\x12\x20\x12" + encode_varint(len(block)) + block
    body = b"\x1a" + encode_varint(len(inner)) + inner
    return encode_varint(len(body)) + body


@pytest.mark.parametrize("size", [limits.MAX_BLOCK_SIZE + 1, 3 * MIB, 4 * MIB - 100, 4 * MIB, 9 * MIB])
async def test_a_peer_with_a_block_that_is_too_large_is_no_enemy(size: int) -> None:
    """However often it sends the block that was asked for, it is not reported; the session knows what is wrong."""
    block = os.urandom(size)
    cid = cid_of(block)
    async with nodes() as net:
        us = await net.node("us", [b"still served"])
        wire = Wire(net, "wire")
        wire.answers = False
        net.network.connect("us", "wire")
        for _ in range(limits.MAX_OFFENCES + 2):
            async with us.exchange.new_session() as session:
                session.add_provider("wire")
                session.want([cid])
                asked = len(wire.entries)
                await until(lambda asked=asked: len(wire.entries) > asked)
                stream = await wire.host.open_stream("us", wire.host.protocols)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_write, stream, _body(cid, block))
                    with trio.fail_after(PATIENCE):
                        await session.wait_exhausted()
                    nursery.cancel_scope.cancel()
                assert session.missing() == [cid]
                error = not_found(cid, cid, session, 1.0, {})  # type: ignore[arg-type]
                assert type(error) is BlockTooLarge
                assert str(cid) in str(error)
                if size < 4 * MIB - 50:
                    assert session.too_large() == {cid: size}
                    assert f"{size:,} bytes" in str(error)
                else:
                    assert session.answers(cid) == {"wire": WantAnswer.TOO_LARGE}
        assert us.bad == []
        assert us.exchange.stats().total.malformed == 0


async def _write(stream: MemoryStream, data: bytes) -> None:
    with contextlib.suppress(StreamError):  # a message that is too large is not read to its end
        await stream.write(data)


async def test_what_each_peer_said_is_known() -> None:
    """One that keeps silent, one that declined, one that left, one that lied: each is told apart."""
    cid = cid_of(b"wanted")
    async with nodes() as net:
        us = await net.node("us")
        wires = {name: Wire(net, name) for name in ("silent", "lacks", "leaves", "lies")}
        for name, wire in wires.items():
            wire.answers = name == "lacks"
            net.network.connect("us", name)
        async with us.exchange.new_session() as session:
            for name in wires:
                session.add_provider(name)
            session.want([cid])
            await until(lambda: all(wire.entries for wire in wires.values()))
            net.network.disconnect("us", "leaves")
            await wires["lies"].say(b"".join(bytes(part) for part in encode(blocks=[(cid, b"another")])))
            await until(lambda: bool(us.bad))
            await until(lambda: WantAnswer.LACKS in session.answers(cid).values())
            assert session.answers(cid) == {
                "lacks": WantAnswer.LACKS,
                "leaves": WantAnswer.GONE,
                "lies": WantAnswer.BAD,
                "silent": WantAnswer.SILENT,
            }
            assert session.lost() == [], "nobody has delivered yet"


async def test_a_peer_that_delivered_and_left_may_return() -> None:
    """Who gave a block and is gone is missed, until it is back; one that lied is not."""
    block = os.urandom(5000)
    async with nodes() as net:
        await net.node("giver", [block])
        us = await net.node("us")
        async with us.exchange.new_session() as session:
            session.add_provider("giver")
            session.want([cid_of(block)])
            with trio.fail_after(PATIENCE):
                await session.receive()
            assert not session.may_return()
            net.network.disconnect("us", "giver")
            assert session.lost() == ["giver"]
            net.network.connect("us", "giver")
            assert session.lost() == []
            us.exchange._drop("giver", "it lied")
            net.network.disconnect("us", "giver")
            assert not session.may_return()


async def test_the_one_that_is_too_large_among_many_is_found() -> None:
    """Where several blocks were asked for, they are asked for one by one: the others come, the large one is named."""
    large, small = os.urandom(5 * MIB), [os.urandom(50_000) for _ in range(6)]
    blocks = {cid_of(block).multihash: block for block in [*small[:3], large, *small[3:]]}
    async with nodes() as net:
        us = await net.node("us")
        wire = Wire(net, "wire")
        wire.answers = False
        net.network.connect("us", "wire")

        async def serve() -> None:
            for at in count():
                await until(lambda at=at: len(wire.entries) > at, seconds=60)
                block = blocks[wire.entries[at].cid.multihash]
                stream = await wire.host.open_stream("us", wire.host.protocols)
                await _write(stream, _body(cid_of(block), block))

        async with trio.open_nursery() as nursery, us.exchange.new_session() as session:
            session.add_provider("wire")
            # The first answer shows that it is fast, so that the others are asked for together.
            session.want([cid_of(small[0])])
            nursery.start_soon(serve)
            with trio.fail_after(PATIENCE):
                await session.receive()
                session.want([cid_of(block) for block in blocks.values()])
                got = {bytes((await session.receive()).data) for _ in range(6)}
                await session.wait_exhausted()
            assert got == set(small)
            assert session.missing() == [cid_of(large)]
            assert session.answers(cid_of(large)) == {"wire": WantAnswer.TOO_LARGE}
            nursery.cancel_scope.cancel()
        assert us.bad == []


async def test_a_large_message_that_nobody_asked_for_is_an_offence() -> None:
    """It is not read, and a peer that goes on like that is reported."""
    async with nodes() as net:
        us = await net.node("us")
        wire = Wire(net, "wire")
        net.network.connect("us", "wire")
        for _ in range(limits.MAX_OFFENCES):
            stream = await wire.say(encode_varint(9 * MIB))
            await until(lambda stream=stream: stream._in.broken or stream._out.broken)
        assert [peer for peer, _ in us.bad] == ["wire"]
