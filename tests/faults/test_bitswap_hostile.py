"""Peers that lie, flood, stall and babble, against the real exchange: they hurt nobody but themselves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.messages import (
    PROTOCOL_1_2,
    PROTOCOLS,
    BitswapMessage,
    Presence,
    WantlistEntry,
    WantType,
    decode,
    encode,
    read_length,
)
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.errors import StreamError, StreamReset
from kachery_p2p.wire import encode_varint
from tests.helpers.bitswap_fakes import MemoryNetwork, MemoryStore, MemoryStream, cid_of, no_thread
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)


class Adversary:
    """A host without an exchange: keeps what it is told, says what the test makes it say."""

    def __init__(self, network: MemoryNetwork, name: str = "evil") -> None:
        self.name = name
        self.host = network.host(name)
        self.messages: list[BitswapMessage] = []
        self.heard = trio.Event()
        self.deaf = False
        for protocol in PROTOCOLS:
            self.host.set_handler(protocol, self._listen)

    async def _listen(self, stream: MemoryStream) -> None:
        if self.deaf:
            await trio.sleep_forever()
        buffer = b""
        try:
            while data := await stream.read(1 << 20):
                buffer += data
                while (found := read_length(buffer, 0, len(buffer))) and len(buffer) >= sum(found):
                    size, start = found
                    self.messages.append(decode(buffer[start : start + size]))
                    buffer = buffer[start + size :]
                    self.heard.set()
                    self.heard = trio.Event()
        except StreamError:
            pass

    async def wanted(self, count: int = 1) -> list[CID]:
        """Wait until so many blocks or questions were asked of it."""
        with trio.fail_after(PATIENCE):
            while len(found := [e.cid for m in self.messages for e in m.entries if not e.cancel]) < count:
                await self.heard.wait()
        return found

    async def open(self, to: str = "good") -> MemoryStream:
        return await self.host.open_stream(to, [PROTOCOL_1_2])

    async def say(self, data: bytes, to: str = "good") -> MemoryStream:
        """Raw bytes on a new stream."""
        stream = await self.open(to)
        try:
            await stream.write(data)
        except StreamReset:
            pass  # they do not even listen
        return stream


class Scene:
    """An honest server, a good node with a session, and one adversary; all connected."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork(nursery)
        self.nursery = nursery
        self.blocks = [os.urandom(50_000) for _ in range(20)]
        self.honest_store = MemoryStore(self.blocks)
        self.store = MemoryStore([os.urandom(50_000) for _ in range(20)])
        self.bad: list[tuple[str, str]] = []
        self.honest = Exchange(self.network.host("honest"), self.honest_store)
        self.good = Exchange(
            self.network.host("good"), self.store, on_bad_peer=lambda peer, why: self.bad.append((peer, why))
        )
        self.evil = Adversary(self.network)

    async def start(self) -> None:
        await self.nursery.start(self.honest.run)
        await self.nursery.start(self.good.run)
        self.network.connect("good", "evil")
        self.network.connect("good", "honest")

    async def still_works(self) -> None:
        """The good node still fetches from and serves the honest one."""
        with trio.fail_after(PATIENCE):
            async with self.good.new_session() as session:
                session.add_provider("honest")
                session.want([cid_of(block) for block in self.blocks])
                for _ in self.blocks:
                    await session.receive()
            async with self.honest.new_session() as session:
                session.add_provider("good")
                session.want([cid_of(block) for block in self.store.blocks.values()])
                for _ in self.store.blocks:
                    await session.receive()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        made = Scene(nursery)
        await made.start()
        yield made
        nursery.cancel_scope.cancel()


async def gone(stream: MemoryStream) -> None:
    """Wait until the other side has torn this stream down."""
    with trio.fail_after(PATIENCE):
        try:
            while await stream.read():
                pass
        except StreamReset:
            return
    pytest.fail("the stream was closed in good order")


def message(**parts: Any) -> bytes:
    return b"".join(bytes(part) for part in encode(**parts))


async def test_wrong_bytes() -> None:
    """A peer that answers with other bytes is dropped with its first block, reported once, and never asked again."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        session.want([cid_of(block) for block in s.blocks])
        cid = (await s.evil.wanted())[0]
        stream = await s.evil.say(message(blocks=[(cid, os.urandom(50_000))]))
        await gone(stream)
        assert [peer for peer, _ in s.bad] == ["evil"]
        assert "evil" not in session.peers()
        # The load goes on elsewhere.
        session.add_provider("honest")
        with trio.fail_after(PATIENCE):
            for _ in s.blocks:
                assert (await session.receive()).peer == "honest"
        # And whatever it says now is not listened to.
        session.add_provider("evil")
        assert "evil" not in session.peers()
        await gone(await s.evil.say(message(presences=[Presence(cid, True)])))
        assert len(s.bad) == 1
        await s.still_works()


async def test_blocks_that_nobody_asked_for() -> None:
    """A peer that pushes blocks is dropped, also when nothing at all is wanted."""
    async with scene() as s:
        await gone(await s.evil.say(message(blocks=[(cid_of(b"spam"), b"spam")])))
        assert [peer for peer, _ in s.bad] == ["evil"]
        await s.still_works()


@pytest.mark.parametrize("prefix", [b"", b"\1\x55\x11\x14", b"\1\x55\0\5", b"\1\x55\x12\x05", b"\7\7\7\7"])
async def test_prefixes_that_cannot_be_right(prefix: bytes) -> None:
    """A right block under a prefix with a weak, unknown, cut or senseless hash does not count as the block."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        session.want([cid_of(s.blocks[0])])
        await s.evil.wanted()
        block = b"\x0a" + bytes([len(prefix)]) + prefix + b"\x12" + encode_varint(50_000) + s.blocks[0]
        body = b"\x1a" + encode_varint(len(block)) + block
        await gone(await s.evil.say(encode_varint(len(body)) + body))
        assert [peer for peer, _ in s.bad] == ["evil"]
        assert session.stats().blocks == 0


async def test_late_duplicates_are_no_lie() -> None:
    """A block that came twice, or after it was cancelled, is counted and nothing more."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        one, two = s.blocks[:2]
        session.want([cid_of(one)])
        await s.evil.wanted(1)
        stream = await s.evil.say(message(blocks=[(cid_of(one), one)]) * 2)
        await session.receive()
        async with s.good.new_session() as given_up:
            given_up.add_provider("evil")
            given_up.want([cid_of(two)])
            await s.evil.wanted(2)
        await stream.write(message(blocks=[(cid_of(two), two)]))
        await stream.close_write()
        with trio.fail_after(PATIENCE):
            while await stream.read():
                pass
        assert s.bad == []
        assert session.stats().duplicates == 2
        assert s.good.stats().peers["evil"].duplicate_bytes == 100_000


async def test_truncated_messages() -> None:
    """Streams that end within a message are reset; after a few of them the peer is reported."""
    async with scene() as s:
        whole = message(entries=[WantlistEntry(cid_of(b"x"))])
        for count, cut in enumerate((1, len(whole) // 2, len(whole) - 1, 2), 1):
            stream = await s.evil.say(whole[:cut])
            await stream.close_write()
            await gone(stream)
            assert len(s.bad) == (1 if count >= limits.MAX_OFFENCES else 0)
        await s.still_works()


async def test_exactly_four_mebibytes_and_one_byte_more() -> None:
    """A message of 4 MiB is read; one of 4 MiB + 1 resets the stream before a byte of it is kept."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        blocks = [os.urandom(2 * MIB), os.urandom(MIB), os.urandom(MIB - 100)]
        parts = [(cid_of(block), block) for block in blocks]
        size = sum(len(part) for part in encode(blocks=parts))
        blocks[-1] = os.urandom(len(blocks[-1]) + limits.MAX_MESSAGE_SIZE - size + 4)
        parts[-1] = (cid_of(blocks[-1]), blocks[-1])
        whole = message(blocks=parts)
        assert read_length(whole, 0, 4) == (limits.MAX_MESSAGE_SIZE, 4)
        session.want([cid for cid, _ in parts])
        await s.evil.wanted()
        await s.evil.say(whole)
        with trio.fail_after(PATIENCE):
            assert {bytes((await session.receive()).data) for _ in parts} == set(blocks)
        await gone(await s.evil.say(encode_varint(limits.MAX_MESSAGE_SIZE + 1)))
        assert s.good.stats().peers["evil"].malformed == 1
        await s.still_works()


async def test_blocks_of_more_than_two_mebibytes() -> None:
    """A block over 2 MiB that nobody asked for is a protocol error, although it fits in a message."""
    async with scene() as s:
        big = b"\x12" + encode_varint(limits.MAX_BLOCK_SIZE + 1) + bytes(limits.MAX_BLOCK_SIZE + 1)
        body = b"\x1a" + encode_varint(len(big)) + big
        await gone(await s.evil.say(encode_varint(len(body)) + body))
        await s.still_works()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x00",  # a length that is not minimal
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an absurd one
        b"\x05hello",  # not protobuf
        b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
        os.urandom(64) + b"\xff" * 64,
    ],
)
async def test_garbage(data: bytes) -> None:
    """Anything that is not a message resets the stream, and repeated it gets the peer reported."""
    async with scene() as s:
        for _ in range(limits.MAX_OFFENCES):
            stream = await s.evil.say(data)
            await stream.close_write()
            await gone(stream)
        assert [peer for peer, _ in s.bad] == ["evil"]
        await s.still_works()


async def test_malformed_cids_in_a_wantlist() -> None:
    """A few unreadable CIDs are skipped and counted, the rest is answered; many of them reset the stream."""
    async with scene() as s:
        cid = next(iter(s.store.blocks))
        good = message(entries=[WantlistEntry(CID(1, RAW, cid))])[1:]
        junk = b"\x0a\x06\x0a\x04\x0a\x02zz"
        body = junk * 3 + good
        await s.evil.say(encode_varint(len(body)) + body)
        with trio.fail_after(PATIENCE):
            while not any(m.blocks for m in s.evil.messages):
                await s.evil.heard.wait()
        assert s.good.stats().peers["evil"].malformed == 3
        body = junk * 100
        await gone(await s.evil.say(encode_varint(len(body)) + body))
        await s.still_works()


async def test_negative_priorities_and_unknown_kinds() -> None:
    """Strange numbers in entries are taken as they are or passed over; the peer keeps its place."""
    async with scene() as s:
        (first, one), (second, _) = list(s.store.blocks.items())[:2]
        odd = b"\x0a" + bytes([34]) + second + b"\x20\x07"
        body = message(entries=[WantlistEntry(CID(1, RAW, first), -(2**31))])[1:] + b"\x0a\x28\x0a\x26" + odd
        await s.evil.say(encode_varint(len(body)) + body)
        with trio.fail_after(PATIENCE):
            while not any(m.blocks for m in s.evil.messages):
                await s.evil.heard.wait()
        assert [bytes(b.data) for m in s.evil.messages for b in m.blocks] == [one]
        assert s.bad == []
        await s.still_works()


async def test_a_hundred_thousand_wants() -> None:
    """Wants beyond 1024 are declined, not remembered; others are served in the meantime."""
    async with scene() as s:
        cids = [CID(1, RAW, b"\x12\x20" + n.to_bytes(32, "big")) for n in range(100_000)]
        stream = await s.evil.open()
        for first in range(0, len(cids), 2000):
            batch = [WantlistEntry(cid, 1, False, WantType.BLOCK, True) for cid in cids[first : first + 2000]]
            await stream.write(message(entries=batch))
            ledger = s.good._engine.ledgers.get("evil")
            if ledger is not None:
                assert len(ledger.wants) <= limits.MAX_WANTS_PER_PEER
                assert len(ledger.presences) <= limits.MAX_QUEUED_PRESENCES + limits.MAX_ENTRIES_PER_MESSAGE
        await s.still_works()
        with trio.fail_after(PATIENCE):
            while sum(len(m.presences) for m in s.evil.messages) < len(cids):
                await s.evil.heard.wait()
        assert len(s.good._engine.ledgers["evil"].wants) <= limits.MAX_WANTS_PER_PEER
        assert len(s.good._engine._waiting) <= limits.MAX_WANTS_PER_PEER


async def test_a_flood_of_messages() -> None:
    """Thousands of small messages, wants and cancels in turns, leave nothing behind and let others through."""
    async with scene() as s:
        entry = WantlistEntry(cid_of(b"nothing"), 1, False, WantType.HAVE, True)
        pair = message(entries=[entry]) + message(entries=[entry._replace(cancel=True)])
        done = trio.Event()

        async def flood() -> None:
            stream = await s.evil.open()
            for _ in range(200):
                await stream.write(pair * 20)
            done.set()

        s.nursery.start_soon(flood)
        await s.still_works()
        with trio.fail_after(PATIENCE):
            await done.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not s.good._engine.ledgers["evil"].wants
        assert s.bad == []


async def test_presences_for_things_not_asked() -> None:
    """HAVE and DONT_HAVE out of the blue neither attract wants nor end a search."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("honest")
        session.want([cid_of(b"somewhere else")])
        with trio.fail_after(PATIENCE):
            await session.wait_exhausted()
        flood = [Presence(cid_of(str(n).encode()), n % 2 == 0) for n in range(3000)]
        flood.append(Presence(cid_of(b"somewhere else"), True))
        stream = await s.evil.say(message(presences=flood))
        await stream.close_write()
        with trio.fail_after(PATIENCE):
            while await stream.read():
                pass
        assert s.evil.messages == []
        assert session.missing() == [cid_of(b"somewhere else")]
        await s.still_works()


async def test_silence(patient_clock: PatientClock) -> None:
    """A peer that takes wants and never answers loses them to one that comes later."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        session.want([cid_of(block) for block in s.blocks])
        await s.evil.wanted()
        await trio.sleep(60)
        session.add_provider("honest")
        started = trio.current_time()
        for _ in s.blocks:
            assert (await session.receive()).peer == "honest"
        assert trio.current_time() - started < limits.STALL_SECONDS + 1
        assert s.bad == []


async def test_half_a_message_and_then_silence(patient_clock: PatientClock) -> None:
    """Bodies that stop coming are given up, so their memory is free again; the others are not held up meanwhile."""
    async with scene() as s:
        streams = [
            await s.evil.say(encode_varint(limits.MAX_MESSAGE_SIZE) + bytes(100))
            for _ in range(limits.MAX_INBOUND_STREAMS_PER_PEER)
        ]
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < s.good._budget.used <= limits.MAX_INBOUND_BYTES_PER_PEER
        await s.still_works()
        await trio.sleep(limits.BODY_STALL_TIMEOUT * (limits.MAX_INBOUND_STREAMS_PER_PEER + 2))
        for stream in streams:
            await gone(stream)
        assert s.good._budget.used == 0
        assert [peer for peer, _ in s.bad] == ["evil"]


async def test_bodies_that_drip_make_way(patient_clock: PatientClock) -> None:
    """Messages that come a little at a time, never silent for long, do not keep the room that others need: blocks of an
    honest peer are taken all the same, and nobody is called bad for a slow line."""
    async with scene() as s, trio.open_nursery() as nursery:

        async def drip(adversary: Adversary) -> None:
            stream = await adversary.say(encode_varint(limits.MAX_MESSAGE_SIZE))
            with suppress(StreamError):
                while True:
                    await stream.write_parts([bytes(16 * 1024)])
                    await trio.sleep(2)

        for number in range(limits.MAX_INBOUND_BYTES // limits.MAX_INBOUND_BYTES_PER_PEER):
            adversary = Adversary(s.network, f"evil-{number}")
            s.network.connect("good", adversary.name)
            for _ in range(limits.MAX_INBOUND_BYTES_PER_PEER // limits.MAX_MESSAGE_SIZE):
                nursery.start_soon(drip, adversary)
        await trio.sleep(1)
        assert s.good._budget.used == limits.MAX_INBOUND_BYTES
        await s.still_works()
        assert s.bad == []
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_read(patient_clock: PatientClock) -> None:
    """Replies that are not read block nobody else, and are dropped with all their wants after a minute."""
    async with scene() as s:
        s.evil.deaf = True
        blocks = [os.urandom(8) * (MIB // 8) for _ in range(10)]
        cids = [s.store.add(block) for block in blocks]
        await s.evil.say(message(entries=[WantlistEntry(cid) for cid in cids]))
        await trio.testing.wait_all_tasks_blocked()
        ledger = s.good._engine.ledgers["evil"]
        assert 0 < ledger.outstanding <= limits.MAX_OUTSTANDING_PER_PEER
        await s.still_works()
        await trio.sleep(limits.REPLY_STALL_TIMEOUT + 5)
        assert "evil" not in s.good._engine.ledgers
        assert s.good._engine.outstanding == 0
        # It may come back to its senses.
        s.evil.deaf = False
        await s.evil.say(message(entries=[WantlistEntry(cids[0])]))
        with trio.fail_after(PATIENCE):
            while not any(m.blocks for m in s.evil.messages):
                await s.evil.heard.wait()


async def test_many_peers_that_do_not_read(patient_clock: PatientClock) -> None:
    """When deaf peers hold all the memory for replies they make way, in seconds, for one that reads."""
    async with scene() as s:
        cids = [s.store.add(os.urandom(8) * (2 * MIB // 8)) for _ in range(3)]
        for n in range(24):
            deaf = Adversary(s.network, f"deaf{n}")
            deaf.deaf = True
            s.network.connect("good", deaf.name)
            await deaf.say(message(entries=[WantlistEntry(cid) for cid in cids]))
        await trio.testing.wait_all_tasks_blocked()
        assert s.good._engine.outstanding <= limits.MAX_OUTSTANDING + 2 * MIB
        started = trio.current_time()
        await s.still_works()
        assert trio.current_time() - started <= 2 * limits.REPLY_STALL_CROWDED + 3


async def test_more_streams_than_are_read_at_once() -> None:
    """Streams beyond the limit wait their turn and lose nothing; far beyond it they are reset."""
    async with scene() as s, s.good.new_session() as session:
        session.add_provider("evil")
        blocks = [os.urandom(1000) for _ in range(limits.MAX_INBOUND_STREAMS_PER_PEER * 2)]
        idle = [await s.evil.open() for _ in range(limits.MAX_INBOUND_STREAMS_PER_PEER)]
        session.want([cid_of(block) for block in blocks])
        await s.evil.wanted(1)
        for block in blocks:
            stream = await s.evil.say(message(blocks=[(cid_of(block), block)]))
            await stream.close_write()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert session.stats().blocks == 0
        for stream in idle:
            await stream.close_write()
        with trio.fail_after(PATIENCE):
            for _ in blocks:
                await session.receive()
        too_many = [await s.evil.open() for _ in range(limits.MAX_WAITING_STREAMS_PER_PEER + 40)]
        await gone(too_many[-1])
        await s.still_works()
