"""Streams between two hosts: bytes, ends, errors, cancellation, handlers."""

from __future__ import annotations

import logging
import os

import pytest
import trio

from kachery_p2p.errors import ProtocolNotSupported, StreamEOF, StreamError, StreamReset
from kachery_p2p.transport import limits
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.ping import PING
from kachery_p2p.transport.stream import Stream
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import ECHO, says_back, started


@pytest.fixture
async def pair(nursery: trio.Nursery) -> tuple[Host, Host]:
    """Two connected hosts."""
    a, b = await started(nursery), await started(nursery)
    await a.connect(b.addresses()[0])
    return a, b


async def test_bytes_arrive_as_sent(pair: tuple[Host, Host]) -> None:
    """16 MiB there and back, written in parts of all sizes and read into a buffer, are the same bytes."""
    a, b = pair
    data = memoryview(os.urandom(16 << 20))
    async with await a.open_stream(b.peer_id, [ECHO]) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            start = 0
            for size in (1, 100, 65_507, 65_508, 1 << 20, 3 << 20):
                await stream.write_parts([b"", data[start : start + size // 2], data[start + size // 2 : start + size]])
                start += size
            await stream.write(data[start:])
            await stream.close_write()

        nursery.start_soon(send)
        received = bytearray(len(data))
        await stream.read_into(memoryview(received))
        assert received == data
        assert await stream.read() == b""


async def test_many_streams_at_once(pair: tuple[Host, Host]) -> None:
    """Two hundred streams at the same time each get their own bytes, both ways."""
    a, b = pair

    async def one(host: Host, peer: str) -> None:
        assert await says_back(host, peer, os.urandom(50_000))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one, a, b.peer_id)
                nursery.start_soon(one, b, a.peer_id)
    await until(lambda: [each.streams for each in a.connections() + b.connections()] == [0, 0])


async def test_more_streams_than_may_be_unacknowledged(patient_clock: PatientClock, pair: tuple[Host, Host]) -> None:
    """Opening 600 streams in one go waits for the peer's acknowledgements instead of failing."""
    a, b = pair
    streams: list[Stream] = []

    async def one() -> None:
        streams.append(await a.open_stream(b.peer_id, [ECHO], timeout=30))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(600):
                nursery.start_soon(one)
    assert len({stream.id for stream in streams}) == 600


async def test_opening_a_stream_is_quick(patient_clock: PatientClock, pair: tuple[Host, Host]) -> None:
    """A stream on an open connection takes a round trip and no pause: nothing on the way waits for a timer."""
    a, b = pair
    begun = trio.current_time()
    for _ in range(5):  # more would use up what a connection may cause at once, for virtual time saves up nothing
        stream = await a.open_stream(b.peer_id, [ECHO])
        await stream.close()
    assert trio.current_time() == begun


async def test_each_direction_ends_by_itself(pair: tuple[Host, Host]) -> None:
    """After `close_write` the peer reads the end and can still answer; reading past the end says `b""` again."""
    a, b = pair

    async def answer(stream: Stream) -> None:
        question = b""
        while data := await stream.read(3):
            question += data
        await stream.write(b"you asked " + question)

    b.set_handler("/test/ask", answer)
    stream = await a.open_stream(b.peer_id, ["/test/ask"])
    await stream.write(b"why?")
    await stream.close_write()
    with pytest.raises(StreamReset, match="closed by this side"):
        await stream.write(b"more")
    assert await stream.read_exactly(14) == b"you asked why?"
    assert await stream.read() == b""
    assert await stream.read() == b""
    assert stream.protocol == "/test/ask"
    assert stream.peer == b.peer_id


async def test_short_stream_is_an_error_for_exact_reads(pair: tuple[Host, Host]) -> None:
    """`read_exactly` and `read_into` say how many bytes were missing."""
    a, b = pair

    async def short(stream: Stream) -> None:
        await stream.write(b"abc")

    b.set_handler("/test/short", short)
    stream = await a.open_stream(b.peer_id, ["/test/short"])
    with pytest.raises(StreamEOF, match="3 of 10 bytes"):
        await stream.read_exactly(10)


async def test_reset_is_seen_by_both(pair: tuple[Host, Host]) -> None:
    """A reset ends waiting reads and writes on the other side with `StreamReset`, and only on that stream."""
    a, b = pair
    ended: list[str] = []
    entered = trio.Event()

    async def wait(stream: Stream) -> None:
        entered.set()
        try:
            await stream.read()
        except StreamReset as error:
            ended.append(str(error))
            raise

    b.set_handler("/test/wait", wait)
    stream = await a.open_stream(b.peer_id, ["/test/wait"])
    await entered.wait()
    await stream.reset()
    await until(lambda: ended)
    assert "reset by the peer" in ended[0]
    with pytest.raises(StreamReset):
        await stream.read()
    with pytest.raises(StreamReset):
        await stream.write(b"x")
    assert await says_back(a, b.peer_id)


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyError("x"), OSError("from a nursery")])
async def test_failing_handler_costs_its_stream_only(
    pair: tuple[Host, Host], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Whatever a handler raises: its stream is reset, it is logged, the host and the connection go on."""
    a, b = pair

    async def broken(stream: Stream) -> None:
        await stream.read(1)

        async def fail() -> None:
            raise error

        if isinstance(error, OSError):
            async with trio.open_nursery() as nursery:  # makes an exception group of it
                nursery.start_soon(fail)
        await fail()

    b.set_handler("/test/broken", broken)
    stream = await a.open_stream(b.peer_id, ["/test/broken"])
    await stream.write(b"x")
    with caplog.at_level(logging.WARNING), pytest.raises(StreamReset):
        await stream.read()
    assert [record.name for record in caplog.records] == ["kachery_p2p.transport"]
    assert await says_back(a, b.peer_id)


async def test_stream_ends_with_its_handler(pair: tuple[Host, Host]) -> None:
    """A handler that returns without closing has closed; what the peer still sends is dropped, not an error."""
    a, b = pair

    async def done(stream: Stream) -> None:
        await stream.write(b"bye")

    b.set_handler("/test/done", done)
    stream = await a.open_stream(b.peer_id, ["/test/done"])
    assert await stream.read_exactly(3) == b"bye"
    assert await stream.read() == b""
    await stream.write(bytes(100_000))
    await stream.close()
    await until(lambda: [each.streams for each in a.connections() + b.connections()] == [0, 0])


async def test_closed_stream_cannot_be_used(pair: tuple[Host, Host]) -> None:
    """After `close` reading and writing fail at once; closing again, and resetting, do no harm."""
    a, b = pair
    stream = await a.open_stream(b.peer_id, [ECHO])
    await stream.close()
    with pytest.raises(StreamReset, match="closed by this side"):
        await stream.read()
    with pytest.raises(StreamReset, match="closed by this side"):
        await stream.write(b"x")
    await stream.close()
    await stream.reset()


async def test_kept_stream_outlives_its_handler(pair: tuple[Host, Host]) -> None:
    """A handler can hand its stream on; it is open until somebody closes it."""
    a, b = pair
    kept: list[Stream] = []

    async def hand_on(stream: Stream) -> None:
        stream.keep()
        kept.append(stream)

    b.set_handler("/test/keep", hand_on)
    stream = await a.open_stream(b.peer_id, ["/test/keep"])
    await until(lambda: kept)
    await trio.testing.wait_all_tasks_blocked()
    await kept[0].write(b"late")
    assert await stream.read_exactly(4) == b"late"
    await kept[0].close()
    assert await stream.read() == b""


async def test_unknown_protocols_are_refused(pair: tuple[Host, Host]) -> None:
    """A peer that speaks none of the protocols says so, and the connection is as good as before."""
    a, b = pair
    with pytest.raises(ProtocolNotSupported, match="/x/1, /y/1"):
        await a.open_stream(b.peer_id, ["/x/1", "/y/1"])
    assert await says_back(a, b.peer_id)


async def test_first_common_protocol_is_taken(pair: tuple[Host, Host]) -> None:
    """Preference is the caller's order, before identify as after it."""
    a, b = pair

    async def name(stream: Stream) -> None:
        await stream.write(stream.protocol.encode())

    for protocol in ("/v/1", "/v/2"):
        b.set_handler(protocol, name)
    for wanted in (["/v/3", "/v/2", "/v/1"], ["/v/1", "/v/2"]):
        stream = await a.open_stream(b.peer_id, wanted)
        assert stream.protocol.encode() in await stream.read()
    await until(lambda: "/v/2" in a.protocols_of(b.peer_id))
    stream = await a.open_stream(b.peer_id, ["/v/3", "/v/2", "/v/1"])
    assert stream.protocol == "/v/2"


async def test_unanswered_negotiation_times_out(
    patient_clock: PatientClock, pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that never answers a proposal costs the timeout, and leaves no stream behind."""
    a, b = pair
    await until(lambda: a.protocols_of(b.peer_id))

    async def silence(stream: Stream, supported: object) -> str:
        await trio.sleep_forever()
        raise AssertionError

    from kachery_p2p.transport import multistream

    monkeypatch.setattr(multistream, "negotiate", silence)
    with pytest.raises(StreamError, match=r"did not answer within 0\.2 seconds"):
        await a.open_stream(b.peer_id, [ECHO], timeout=0.2)
    await until(lambda: [each.streams for each in a.connections() + b.connections()] == [0, 0])


async def test_streams_need_a_connection(pair: tuple[Host, Host]) -> None:
    """A peer that is not connected is an error at once; so is one that just left."""
    a, b = pair
    with pytest.raises(StreamError, match="no connection"):
        await b.open_stream("12D3KooWRm8J3iL796zPFi2EtGGtUJn58AG67gcRzQ4FWjEkZTnG", [ECHO])
    stream = await a.open_stream(b.peer_id, [ECHO])
    await b.disconnect(a.peer_id)
    with pytest.raises(StreamReset):
        await stream.read()
    with pytest.raises(StreamError):
        await a.open_stream(b.peer_id, [ECHO])


async def test_cancelled_write_resets_its_stream_only(patient_clock: PatientClock, pair: tuple[Host, Host]) -> None:
    """A write cancelled half way resets its stream; others, also while one is stuck, never notice."""
    a, b = pair

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    b.set_handler("/test/stuck", never_read)
    stream = await a.open_stream(b.peer_id, ["/test/stuck"])
    with trio.move_on_after(0.3) as scope:
        await stream.write(bytes(1 << 20))
    assert scope.cancelled_caught
    with pytest.raises(StreamReset, match="cancelled half way"):
        await stream.write(b"x")
    assert await says_back(a, b.peer_id, os.urandom(1 << 20))


async def test_writes_cancelled_at_random_never_break_the_connection(pair: tuple[Host, Host]) -> None:
    """Sixty writes cancelled after a few microseconds to milliseconds; another stream's bytes stay right throughout."""
    a, b = pair

    async def sink(stream: Stream) -> None:
        while await stream.read(1 << 20):
            pass

    b.set_handler("/test/sink", sink)
    data = os.urandom(2 << 20)

    async def disturb() -> None:
        for i in range(60):
            stream = await a.open_stream(b.peer_id, ["/test/sink"])
            with trio.move_on_after(0.0001 * (i % 20)):
                await stream.write(data)
            stream.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb)
        for _ in range(5):
            async with await a.open_stream(b.peer_id, [ECHO]) as stream, trio.open_nursery() as both:
                both.start_soon(stream.write, data)
                assert await stream.read_exactly(len(data)) == data
    assert len(a.connections()) == 1


async def test_cancelled_read_loses_nothing(patient_clock: PatientClock, pair: tuple[Host, Host]) -> None:
    """A `read` that is cancelled while it waits takes no byte with it."""
    a, b = pair

    async def slow(stream: Stream) -> None:
        for i in range(20):
            await trio.sleep(0.01)
            await stream.write(bytes([i]) * 10)

    b.set_handler("/test/slow", slow)
    stream = await a.open_stream(b.peer_id, ["/test/slow"])
    received = b""
    while True:
        with trio.move_on_after(0.003):
            data = await stream.read(7)
            if not data:
                break
            received += data
    assert received == b"".join(bytes([i]) * 10 for i in range(20))


async def test_second_reader_or_writer_is_refused(pair: tuple[Host, Host]) -> None:
    """Two tasks reading, or writing, one stream would mix their bytes: the second is told."""
    a, b = pair

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    b.set_handler("/test/stuck", never_read)
    stream = await a.open_stream(b.peer_id, ["/test/stuck"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.read)
        nursery.start_soon(stream.write, bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.read()
        with pytest.raises(trio.BusyResourceError):
            await stream.write(b"x")
        nursery.cancel_scope.cancel()


async def test_slow_reader_slows_the_writer(patient_clock: PatientClock, pair: tuple[Host, Host]) -> None:
    """A peer that does not read holds back the writer at the window; memory does not grow; then all arrives."""
    a, b = pair
    go = trio.Event()
    got: list[int] = []

    async def late(stream: Stream) -> None:
        await go.wait()
        total = 0
        while data := await stream.read(1 << 20):
            total += len(data)
        got.append(total)

    b.set_handler("/test/late", late)
    stream = await a.open_stream(b.peer_id, ["/test/late"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, bytes(8 << 20))
        await trio.sleep(1)  # time passes when the writer has come as far as it can
        assert stream.out_bytes > 7 << 20
        queued = next(iter(b.table)).core.queued
        assert 0 < queued <= limits.INITIAL_WINDOW
        go.set()
    await stream.close()
    await until(lambda: got)
    assert got == [8 << 20]


async def test_idle_streams_cost_no_window(pair: tuple[Host, Host]) -> None:
    """A thousand open streams hold no buffers and no part of the window budget."""
    a, b = pair
    for _ in range(1000):
        await a.open_stream(b.peer_id, [ECHO])
    core = next(iter(b.table)).core
    assert (core.queued, core.extra_window, core.budget.queued) == (0, 0, 0)


async def test_ping_protocol(pair: tuple[Host, Host]) -> None:
    """32 bytes come back, also when they arrive in pieces."""
    a, b = pair
    async with await a.open_stream(b.peer_id, [PING]) as stream:
        for payload in (os.urandom(32), os.urandom(32)):
            await stream.write(payload[:5])
            await stream.write(payload[5:])
            assert await stream.read_exactly(32) == payload


async def test_last_words_arrive_when_the_host_stops(pair: tuple[Host, Host], nursery: trio.Nursery) -> None:
    """What was written and closed before the host was cancelled reaches the peer."""
    a, _ = pair
    got: list[bytes] = []

    async def keep(stream: Stream) -> None:
        got.append(bytes(await stream.read_exactly(200_000)))

    a.set_handler("/test/keep", keep)
    async with trio.open_nursery() as inner:
        c = await started(inner)
        await c.connect(a.addresses()[0])
        stream = await c.open_stream(a.peer_id, ["/test/keep"])
        await stream.write(b"z" * 200_000)
        await stream.close()
        inner.cancel_scope.cancel()
    await until(lambda: got)
    assert got == [b"z" * 200_000]
