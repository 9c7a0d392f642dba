"""One connection over a channel in memory: what a peer's frames cost it, and who is woken by what."""

from __future__ import annotations

import struct

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kachery_p2p.transport import limits
from kachery_p2p.transport.connection import Connection, Shared
from kachery_p2p.transport.noise import NoiseRecords
from kachery_p2p.transport.security import Buffers
from kachery_p2p.transport.stream import Stream
from tests.helpers.transport_helpers import sealed

DATA, UPDATE, GO_AWAY = 0, 1, 3
SYN = 1
HEADER = struct.Struct("!BBHII")
KEYS = (b"a" * 32, b"b" * 32)


class Channel:
    """A channel in memory, on which all that was put in is received at once, and what is sent is kept."""

    def __init__(self) -> None:
        self.coming = b""
        self.sent = bytearray()
        self.packets = 0
        self.changed = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        self.coming += data
        self.changed.unpark_all()

    async def wait_readable(self) -> None:
        if not self.coming:
            await self.changed.park()

    def recv_into(self, buffer: memoryview) -> int:
        if not self.coming:
            raise BlockingIOError
        size = min(len(buffer), len(self.coming))
        buffer[:size] = self.coming[:size]
        self.coming = self.coming[size:]
        return size

    def send_nowait(self, data: memoryview) -> int:
        self.packets += 1
        self.sent += data
        return len(data)

    async def send_all(self, data: memoryview) -> None:
        self.packets += 1
        self.sent += data
        await trio.lowlevel.checkpoint()

    def shutdown_write(self) -> None:
        pass

    def close(self) -> None:
        pass


class Peer:
    """The other end of a connection whose streams are never read."""

    def __init__(self) -> None:
        self._records = NoiseRecords(*reversed(KEYS))
        self.channel = Channel()
        self.streams: list[Stream] = []
        self.connection = Connection(
            self.channel,
            NoiseRecords(*KEYS),
            peer="peer",
            address="",
            initiator=False,
            shared=Shared(),
            serve=self._serve,
        )

    async def _serve(self, stream: Stream) -> None:
        self.streams.append(stream)
        await trio.sleep_forever()

    def heard(self, data: bytes) -> bytes:
        """What it makes of what was sent to it."""
        buffer = memoryview(bytearray(data))
        return b"".join(self._records.read(buffer, len(buffer), Buffers()))

    async def say(self, data: bytes) -> float:
        """Send frames, wait until they are dealt with; by how much that changed the peer's account."""
        before = self.connection.allowance.units
        for message in sealed(self._records, data):
            self.channel.put(message)
        await wait_all_tasks_blocked()
        return self.connection.allowance.units - before


@pytest.mark.parametrize("read", [True, False])
async def test_bytes_that_are_not_read_pay_for_nothing(
    nursery: trio.Nursery, mock_clock: MockClock, read: bool
) -> None:
    """Bytes on a stream in use pay for the work that the peer makes. Those that were waiting when the stream was
    reset, and those that come for it afterwards, cost as much instead."""
    peer = Peer()
    nursery.start_soon(peer.connection.run)
    size = 8 * limits.BYTES_PER_UNIT
    frame = bytes(size)
    await peer.say(HEADER.pack(0, UPDATE, SYN, 1, 0))
    waiting = await peer.say(HEADER.pack(0, DATA, 0, 1, size) + frame)
    assert waiting == 8 - 1 - limits.RECEIVE_WORK - limits.MESSAGE_WORK
    (stream,) = peer.streams
    if read:
        await stream.read(size)
        nothing = await peer.say(HEADER.pack(0, UPDATE, 0, 1, 1))
        assert nothing == -1 - limits.RECEIVE_WORK - limits.MESSAGE_WORK
    else:
        stream.abort()
        late = await peer.say(HEADER.pack(0, DATA, 0, 1, size) + frame)
        assert late == waiting - 2 * 8 - 2 * 8


async def test_a_stream_that_is_given_up_makes_room(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    """Tasks that wait for a stream get one each as others are given up on this side, though the peer says nothing."""
    peer = Peer()
    nursery.start_soon(peer.connection.run)
    streams = [await peer.connection.open_stream() for _ in range(limits.MAX_UNACKNOWLEDGED)]
    opened: list[Stream] = []

    async def one_more() -> None:
        opened.append(await peer.connection.open_stream())

    for _ in range(3):
        nursery.start_soon(one_more)
    await wait_all_tasks_blocked()
    assert not opened
    for count, stream in enumerate(streams[:3], 1):
        stream.abort()
        await wait_all_tasks_blocked()
        assert len(opened) == count


async def test_a_new_connection_sends_few_packets(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    """What many tasks say at once goes out together: a kernel lets ten packets go before the first are confirmed."""
    peer = Peer()
    nursery.start_soon(peer.connection.run)
    await wait_all_tasks_blocked()
    channel = peer.channel
    before = channel.packets
    streams = [await peer.connection.open_stream() for _ in range(20)]
    for stream in streams:
        nursery.start_soon(stream.write, b"question")
    await wait_all_tasks_blocked()
    assert channel.packets == before + 1

    # Later nobody waits for the others' turn: what is written is with the kernel when `write` returns.
    for _ in range(limits.EARLY_FLUSHES):
        await streams[0].write(b"more")
        await wait_all_tasks_blocked()
    before = channel.packets
    await streams[0].write(b"more")
    assert channel.packets == before + 1


async def test_a_goodbye_goes_out_at_once(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    """Also on a new connection, where other things would wait for a turn; and what was written before it."""
    peer = Peer()
    nursery.start_soon(peer.connection.run)
    await wait_all_tasks_blocked()
    stream = await peer.connection.open_stream()
    sent = len(peer.channel.sent)
    told = peer.heard(bytes(peer.channel.sent))
    stream.submit([b"question"])
    peer.connection.flush()
    assert len(peer.channel.sent) == sent
    peer.connection.drop("enough")
    told += peer.heard(bytes(peer.channel.sent[sent:]))
    assert b"question" in told
    assert told.endswith(HEADER.pack(0, GO_AWAY, 0, 0, 0))
