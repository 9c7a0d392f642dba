"""The Yamux core, without sockets: two cores back to back, and one against frames made by hand."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.transport import limits
from kachery_p2p.transport.yamux import ProtocolError, ReceiveBudget, YamuxCore, YamuxStream

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
HEADER = struct.Struct("!BBHII")


class Clock:
    """Time that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def frame(kind: int, flags: int, stream: int, length: int, payload: bytes = b"") -> bytearray:
    return bytearray(HEADER.pack(0, kind, flags, stream, length) + payload)


def receive(core: YamuxCore, data: bytearray) -> None:
    """Give a core the plaintext of one message, all at once."""
    for _ in core.parse(data):
        pass


def drain(core: YamuxCore, size: int = limits.NOISE_PLAINTEXT) -> bytes:
    """All that a core has to send."""
    out = bytearray(size)
    sent = b""
    while count := core.fill(memoryview(out)):
        sent += bytes(out[:count])
    return sent


def frames(data: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Cut what a core sent into (type, flags, stream, length, payload)."""
    found = []
    while data:
        version, kind, flags, stream, length = HEADER.unpack_from(data)
        assert version == 0
        size = length if kind == DATA else 0
        found.append((kind, flags, stream, length, data[12 : 12 + size]))
        data = data[12 + size :]
    return found


def exchange(left: YamuxCore, right: YamuxCore, size: int = limits.NOISE_PLAINTEXT) -> None:
    """Carry messages both ways until nobody has more to say."""
    while left.has_output or right.has_output:
        for source, target in ((left, right), (right, left)):
            out = bytearray(size)
            while count := source.fill(memoryview(out)):
                receive(target, out[:count])


def read_all(stream: YamuxStream) -> bytes:
    data = b""
    while chunk := stream.take(1 << 30):
        data += bytes(chunk)
    return data


def pair() -> tuple[YamuxCore, YamuxCore]:
    return YamuxCore(True, clock=Clock()), YamuxCore(False, clock=Clock())


def opened(left: YamuxCore, right: YamuxCore) -> tuple[YamuxStream, YamuxStream]:
    stream = left.open()
    exchange(left, right)
    return stream, right.accepted.popleft()


def test_first_frames_are_those_of_the_specification() -> None:
    """A stream begins with a window update carrying SYN, is answered by one with ACK; the opener counts odd."""
    left, right = pair()
    left.open()
    sent = drain(left)
    assert frames(sent) == [(UPDATE, SYN, 1, 0, b"")]
    receive(right, bytearray(sent))
    assert frames(drain(right)) == [(UPDATE, ACK, 1, 0, b"")]
    right.open()
    assert frames(drain(right)) == [(UPDATE, SYN, 2, 0, b"")]


def test_data_larger_than_the_window_waits_for_credit() -> None:
    """A sender stops at 256 KiB and goes on as the other side reads; nothing is lost or reordered."""
    left, right = pair()
    a, b = opened(left, right)
    data = random.Random(1).randbytes(3 * limits.INITIAL_WINDOW + 17)
    a.submit([data])
    exchange(left, right)
    assert a.out_bytes == len(data) - limits.INITIAL_WINDOW
    assert b.queued == limits.INITIAL_WINDOW
    received = b""
    while len(received) < len(data):
        received += read_all(b)
        exchange(left, right)
    assert received == data
    assert a.out_bytes == 0


@settings(max_examples=40)
@given(st.data())
def test_any_interleaving_delivers_every_byte_in_order(data: st.DataObject) -> None:
    """Whatever the sizes of writes, reads and messages, and however frames are cut: each stream's bytes arrive in
    order, FIN comes after them, and both tables are empty in the end."""
    left, right = pair()
    size = data.draw(st.sampled_from([24, 100, 1500, limits.NOISE_PLAINTEXT]), label="message size")
    cut = data.draw(st.sampled_from([1, 7, 13, 1000, 1 << 20]), label="received in pieces of")
    large = size * min(cut, size) // 30  # a few hundred pieces at most
    chance = random.Random(data.draw(st.integers(0, 2**32), label="seed"))
    pairs: list[tuple[YamuxStream, YamuxStream]] = []
    for _ in range(data.draw(st.integers(1, 4), label="streams")):
        opener, other = (left, right) if chance.random() < 0.5 else (right, left)
        a = opener.open()
        exchange(left, right)
        b = other.accepted.popleft()
        pairs += [(a, b), (b, a)]
    sent = {id(a): bytearray() for a, _ in pairs}
    got = {id(a): bytearray() for a, _ in pairs}
    for _ in range(40):
        a, b = chance.choice(pairs)
        if not a.out_bytes:
            parts = [
                chance.randbytes(chance.choice([0, 1, 11, min(500, large), min(200_000, large)]))
                for _ in range(chance.randint(1, 3))
            ]
            a.submit(parts)
            sent[id(a)] += b"".join(parts)
        carry(left, right, size, cut, chance)
        a, b = chance.choice(pairs)
        got[id(a)] += bytes(b.take(chance.choice([1, 100, 1 << 20])))
    for a, _ in pairs:
        a.finish()
    for _ in range(5000):
        carry(left, right, size, cut, chance)
        for a, b in pairs:
            target = bytearray(chance.choice([1000, 100_000]))
            count = b.take_into(memoryview(target))
            got[id(a)] += target[:count]
        if all(b.remote_fin and not b.queued for _, b in pairs):
            break
    assert [got[id(a)] for a, _ in pairs] == [sent[id(a)] for a, _ in pairs]
    assert left.streams == right.streams == {}
    assert (left.queued, left.budget.queued, right.queued, right.budget.queued) == (0, 0, 0, 0)


def carry(left: YamuxCore, right: YamuxCore, size: int, cut: int, chance: random.Random) -> None:
    for source, target in ((left, right), (right, left)):
        out = bytearray(size)
        for _ in range(chance.randint(0, 20)):
            count = source.fill(memoryview(out))
            if not count:
                break
            for start in range(0, count, cut):
                receive(target, out[start : min(start + cut, count)])


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=20), st.booleans())
def test_garbage_is_an_error_or_nothing(pieces: list[bytes], initiator: bool) -> None:
    """Random bytes end the connection with `ProtocolError` or mean nothing; they raise nothing else."""
    core = YamuxCore(initiator)
    try:
        for piece in pieces:
            receive(core, bytearray(piece))
            drain(core)
    except ProtocolError:
        pass


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 15), st.integers(0, 6), st.integers(0, 300_000), st.booleans()),
        max_size=40,
    )
)
def test_any_sequence_of_frames_keeps_the_books_straight(script: list[tuple[int, int, int, int, bool]]) -> None:
    """Frames in any order, most of them senseless: counters equal what is queued, and no window goes below 0."""
    core = YamuxCore(True)
    mine = [core.open() for _ in range(2)]
    try:
        for kind, flags, stream, length, read in script:
            payload = bytes(length) if kind == DATA else b""
            receive(core, frame(kind, flags, stream, length, payload))
            known = {each.id: each for each in [*mine, *core.accepted, *core.streams.values()]}.values()
            assert core.queued == core.budget.queued == sum(each.queued for each in known)
            assert all(each.receive_window >= 0 for each in known)
            if read:
                for each in known:
                    each.take(1000)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("version", bytearray(HEADER.pack(1, DATA, 0, 1, 0))),
        ("type", frame(4, 0, 1, 0)),
        ("flags", frame(UPDATE, 16, 1, 0)),
        ("a stream of ours", frame(UPDATE, SYN, 2, 0)),
        ("stream zero", frame(UPDATE, SYN, 0, 0)),
        ("never opened", frame(DATA, 0, 7, 1, b"x")),
        ("never opened by us", frame(UPDATE, 0, 2, 1)),
        ("opened twice", frame(UPDATE, SYN, 1, 0) + frame(UPDATE, SYN, 1, 0)),
        ("window overrun", frame(DATA, SYN, 1, limits.INITIAL_WINDOW + 1)),
        ("more than 4 GiB of credit", frame(UPDATE, SYN, 1, 0) + frame(UPDATE, 0, 1, 0xFFFFFFFF)),
        ("data after the end", frame(UPDATE, SYN | FIN, 1, 0) + frame(DATA, 0, 1, 1, b"x")),
    ],
)
def test_broken_rules_are_errors(what: str, bad: bytearray) -> None:
    """Each breach of the protocol ends the connection."""
    with pytest.raises(ProtocolError):
        receive(YamuxCore(False), bad)


def test_window_is_enforced_across_frames() -> None:
    """Bytes that were read but not granted again still count: a peer gets 256 KiB and not one byte more."""
    core = YamuxCore(False)
    receive(core, frame(DATA, SYN, 1, limits.INITIAL_WINDOW, bytes(limits.INITIAL_WINDOW)))
    core.accepted[0].take(limits.INITIAL_WINDOW // limits.GRANTS_PER_WINDOW - 1)
    assert UPDATE not in [kind for kind, flags, *_ in frames(drain(core)) if not flags & ACK]
    with pytest.raises(ProtocolError):
        receive(core, frame(DATA, 0, 1, 1, b"x"))


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | RST, SYN | ACK | FIN])
def test_flags_count_on_any_frame(flags: int) -> None:
    """FIN and RST count also on the frame that opens or acknowledges a stream, with and without payload."""
    for kind, payload in ((UPDATE, b""), (DATA, b""), (DATA, b"tail")):
        core = YamuxCore(False)
        receive(core, frame(kind, flags, 1, len(payload), payload))
        stream = core.accepted[0]
        if flags & FIN:
            assert bytes(stream.take(10)) == payload
            assert stream.remote_fin
        else:
            assert stream.reset_reason
        core = YamuxCore(True)
        mine = core.open()
        receive(core, frame(kind, flags & ~SYN | ACK, 1, len(payload), payload))
        assert mine.remote_fin if flags & FIN else mine.reset_reason


def test_ping_is_answered_with_its_number_before_any_data() -> None:
    """A ping is echoed, and control frames overtake bulk data."""
    left, right = pair()
    a, _ = opened(left, right)
    a.submit([bytes(200_000)])
    receive(left, frame(PING, SYN, 0, 77))
    assert frames(drain(left))[0] == (PING, ACK, 0, 77, b"")


def test_ping_measures_the_round_trip() -> None:
    """Our own ping, answered, gives the round trip time."""
    left, right = pair()
    clock = left.clock
    assert isinstance(clock, Clock)
    left.ping()
    sent = drain(left)
    clock.now += 0.25
    receive(right, bytearray(sent))
    receive(left, bytearray(drain(right)))
    assert left.round_trip == pytest.approx(0.25)


def test_streams_take_turns_frame_by_frame() -> None:
    """Two bulk streams and a small one: nobody waits for more than one frame of each other."""
    left, right = pair()
    streams = [opened(left, right)[0] for _ in range(3)]
    for stream, size in zip(streams, (200_000, 200_000, 10), strict=True):
        stream.submit([bytes(size)])
    order = [stream for kind, _, stream, _, _ in frames(drain(left)) if kind == DATA]
    assert order[:3] == [1, 3, 5]
    assert order[3:] == [1, 3, 1, 3, 1, 3][: len(order) - 3]


def test_bulk_frame_fills_a_message_exactly() -> None:
    """One data frame is one full Noise message, which is what makes bulk transfer fast."""
    left, right = pair()
    a, _ = opened(left, right)
    a.submit([bytes(200_000)])
    assert left.fill(memoryview(bytearray(limits.NOISE_PLAINTEXT))) == limits.NOISE_PLAINTEXT


@pytest.mark.parametrize(("round_trip", "most"), [(0.001, limits.NEAR_WINDOW), (0.2, limits.MAX_WINDOW)])
def test_window_grows_for_a_fast_reader_and_is_returned(round_trip: float, most: int) -> None:
    """A reader that keeps waiting and uses up its window quickly gets up to 16 MiB, and 32 from a peer far away; the
    budget gets it back."""
    left, right = pair()
    right.round_trip = round_trip
    clock = right.clock
    assert isinstance(clock, Clock)
    a, b = opened(left, right)
    for _ in range(40):
        a.submit([bytes(b.receive_window)])
        exchange(left, right)
        clock.now += 0.02
        b.starved = True
        while b.take(1 << 30):
            pass
        exchange(left, right)
    assert b.window == most
    assert right.extra_window == right.budget.window == most - limits.INITIAL_WINDOW
    a.finish()
    b.finish()
    exchange(left, right)
    assert right.extra_window == right.budget.window == 0


def test_credit_comes_back_before_half_of_the_window_is_used_up() -> None:
    """A quarter is granted when it was read: a peer far away must not run dry while TCP is still speeding up."""
    left, right = pair()
    a, b = opened(left, right)
    a.submit([bytes(limits.INITIAL_WINDOW)])
    exchange(left, right)
    b.take_into(memoryview(bytearray(limits.INITIAL_WINDOW // 4)))
    exchange(left, right)
    assert a.send_window == limits.INITIAL_WINDOW // 4


def test_a_new_stream_begins_with_what_another_has_got() -> None:
    """A peer that opens a stream for each message does not begin anew with each; others of the host are not touched,
    and the budget gets it back."""
    left, right = pair()
    a, b = opened(left, right)
    assert b.window == limits.INITIAL_WINDOW
    while b.window < limits.START_WINDOW:
        a.submit([bytes(b.receive_window)])
        exchange(left, right)
        b.starved = True
        while b.take(1 << 30):
            pass
        exchange(left, right)
    c, d = opened(left, right)
    exchange(left, right)
    assert c.send_window == d.window == d.receive_window == limits.START_WINDOW
    assert opened(right, left)[1].window == limits.INITIAL_WINDOW
    for stream in (a, b, c, d):
        stream.finish()
    exchange(left, right)
    assert right.extra_window == right.budget.window == 0


def test_window_stays_small_for_a_slow_or_idle_reader() -> None:
    """Neither a stream that nobody uses nor one read slowly gets a larger window."""
    left, right = pair()
    clock = right.clock
    assert isinstance(clock, Clock)
    a, b = opened(left, right)
    for _ in range(10):
        a.submit([bytes(b.receive_window)])
        exchange(left, right)
        clock.now += 10
        b.starved = True
        while b.take(1 << 30):
            pass
        exchange(left, right)
    assert b.window == limits.INITIAL_WINDOW


def test_windows_of_one_connection_are_bounded_together() -> None:
    """Many fast streams share the connection's budget."""
    left, right = pair()
    streams = [opened(left, right) for _ in range(8)]
    for _ in range(12):
        for a, b in streams:
            a.submit([bytes(b.receive_window)])
            exchange(left, right)
            b.starved = True
            while b.take(1 << 30):
                pass
            exchange(left, right)
    assert sum(b.window - limits.INITIAL_WINDOW for _, b in streams) <= limits.CONNECTION_WINDOW


def test_unread_streams_hit_the_connection_queue_limit() -> None:
    """A peer that fills stream after stream that nobody reads loses streams, not our memory; others still work."""
    left, right = pair()
    kept: list[YamuxStream] = []
    for _ in range(200):
        a, b = opened(left, right)
        kept.append(b)
        a.submit([bytes(limits.INITIAL_WINDOW)])
        exchange(left, right)
        assert right.queued <= limits.CONNECTION_QUEUE
    assert kept[0].queued == limits.INITIAL_WINDOW
    assert kept[-1].reset_reason
    while kept[0].take(1 << 20):
        pass
    a, b = opened(left, right)
    a.submit([b"x" * 1000])
    exchange(left, right)
    assert read_all(b) == b"x" * 1000


def test_single_byte_frames_cost_bytes_not_objects() -> None:
    """A peer that sends single bytes makes us hold few objects."""
    core = YamuxCore(False)
    receive(core, frame(UPDATE, SYN, 1, 0))
    for _ in range(100):
        receive(core, frame(DATA, 0, 1, 1, b"x") * 1000)
    stream = core.accepted[0]
    assert stream.queued == 100_000
    assert len(stream.chunks) <= 3
    assert read_all(stream) == b"x" * 100_000


def test_cancelled_write_leaves_whole_frames() -> None:
    """Bytes taken back after some were sent: what was sent is whole frames, and the other streams go on."""
    left, right = pair()
    a, b = opened(left, right)
    c, d = opened(left, right)
    a.submit([bytes(150_000)])
    out = bytearray(limits.NOISE_PLAINTEXT)
    count = left.fill(memoryview(out))
    receive(right, out[:count])
    assert a.withdraw() > 0
    a.tear_down("cancelled")
    c.submit([b"after"])
    exchange(left, right)
    assert b.reset_reason
    assert read_all(d) == b"after"


def test_refused_streams_are_reset_and_forgotten() -> None:
    """The stream above the limit gets RST at once; earlier ones are untouched."""
    core = YamuxCore(False)
    for i in range(limits.MAX_STREAMS):
        receive(core, frame(UPDATE, SYN, 2 * i + 1, 0))
    drain(core)
    receive(core, frame(UPDATE, SYN, 99_999, 0))
    assert frames(drain(core)) == [(UPDATE, RST, 99_999, 0, b"")]
    assert len(core.streams) == len(core.accepted) == limits.MAX_STREAMS


def test_streams_of_all_connections_are_bounded_together() -> None:
    """The host's limit holds over many connections, and a stream that ends makes room."""
    budget = ReceiveBudget(max_streams=10)
    cores = [YamuxCore(False, budget=budget) for _ in range(4)]
    for core in cores:
        for i in range(5):
            receive(core, frame(UPDATE, SYN, 2 * i + 1, 0))
    assert [len(core.streams) for core in cores] == [5, 5, 0, 0]
    receive(cores[0], frame(UPDATE, RST, 1, 0))
    cores[1].shut("gone")
    assert budget.streams == 4
    receive(cores[3], frame(UPDATE, SYN, 101, 0))
    assert len(cores[3].streams) == 1


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, SYN, 0, 1),
        frame(PING, ACK, 0, 1),
        frame(DATA, 0, 1, 0),
        frame(UPDATE, 0, 1, 0),
        frame(UPDATE, SYN, 3, 0) + frame(UPDATE, RST, 3, 0),
        frame(UPDATE, SYN, 2001, 0),
    ],
    ids=["ping", "pong", "empty data", "empty update", "open and reset", "refused stream"],
)
def test_floods_of_idle_frames_end_the_connection(flood: bytearray) -> None:
    """More than a few thousand frames that do nothing within a second are too many."""
    core = YamuxCore(False, clock=Clock())
    receive(core, frame(UPDATE, SYN, 1, 0))
    if flood == frame(UPDATE, SYN, 2001, 0):
        for i in range(1, limits.MAX_STREAMS):
            receive(core, frame(UPDATE, SYN, 2 * i + 1, 0))
    core.accepted.clear()

    def pour() -> None:
        for _ in range(int(limits.IDLE_FRAMES_BURST) + 10):
            receive(core, flood[:])
            core.accepted.clear()
            drain(core)

    with pytest.raises(ProtocolError):
        pour()


def test_pings_at_a_bearable_rate_are_answered_for_ever() -> None:
    """The bucket refills: a hundred pings a second harm nobody."""
    clock = Clock()
    core = YamuxCore(False, clock=clock)
    for i in range(20_000):
        clock.now += 0.01
        receive(core, frame(PING, SYN, 0, i))
        assert drain(core)


def test_answers_that_nobody_reads_are_bounded() -> None:
    """A peer that provokes answers and does not take them loses its connection before they fill the memory."""
    clock = Clock()
    core = YamuxCore(False, clock=clock)

    def pour() -> None:
        for i in range(20_000):
            clock.now += 1
            receive(core, frame(PING, SYN, 0, i))

    with pytest.raises(ProtocolError):
        pour()
    assert len(drain(core)) <= limits.MAX_CONTROL_BYTES


def test_late_frames_of_a_finished_stream_are_ignored() -> None:
    """Window updates and data for a stream we have reset are normal life and do no harm."""
    left, right = pair()
    a, _ = opened(left, right)
    a.tear_down("done")
    drain(left)
    for _ in range(5000):
        receive(left, frame(UPDATE, 0, 1, 100))
    receive(left, frame(DATA, 0, 1, 5, b"hello"))
    receive(left, frame(PING, SYN, 0, 3))
    assert frames(drain(left)) == [(PING, ACK, 0, 3, b"")]


def test_closed_stream_drops_what_comes_and_is_swept() -> None:
    """After we close a stream its data is dropped unseen; if the peer never ends its side, it is reset in the end."""
    left, right = pair()
    clock = left.clock
    assert isinstance(clock, Clock)
    a, b = opened(left, right)
    a.finish()
    a.stop_reading()
    exchange(left, right)
    assert b.remote_fin
    b.submit([bytes(50_000)])
    exchange(left, right)
    assert (a.queued, left.queued) == (0, 0)
    clock.now += limits.HALF_CLOSED_TIMEOUT + 1
    left.sweep()
    exchange(left, right)
    assert b.reset_reason
    assert left.streams == right.streams == {}


def test_reader_gets_what_came_before_the_connection_was_lost() -> None:
    """A peer that sends its answer, ends the stream and leaves has been heard; an unfinished stream is an error."""
    left, right = pair()
    a, b = opened(left, right)
    c, d = opened(left, right)
    a.submit([b"the answer"])
    a.finish()
    c.submit([b"half"])
    exchange(left, right)
    right.shut("gone")
    assert (read_all(b), b.remote_fin, b.reset_reason) == (b"the answer", True, "")
    assert d.reset_reason == "gone"
    assert right.budget.queued == 0


def test_finished_stream_that_is_let_go_gives_its_bytes_back() -> None:
    """The budget does not leak when a finished stream is dropped unread."""
    left, right = pair()
    a, b = opened(left, right)
    a.submit([bytes(1000)])
    a.finish()
    b.finish()
    exchange(left, right)
    assert right.streams == {}
    assert right.budget.queued == 1000
    del b
    assert right.budget.queued == 0


def test_unacknowledged_streams_are_counted() -> None:
    """We do not open a 257th stream that the peer has not acknowledged; an ACK makes room."""
    core = YamuxCore(True)
    for _ in range(limits.MAX_UNACKNOWLEDGED):
        assert core.can_open
        core.open()
    assert not core.can_open
    receive(core, frame(UPDATE, ACK, 1, 0))
    assert core.can_open


def test_bytes_that_nobody_reads_are_counted_once() -> None:
    """What was queued when a stream broke, what comes for one that is gone, and what comes after we closed: each byte
    is dropped once, and none that was read is."""
    left, right = pair()
    a, b = opened(left, right)
    a.submit([bytes(100_000)])
    exchange(left, right)
    b.take_into(memoryview(bytearray(30_000)))
    assert right.bytes_dropped == 0
    a.submit([bytes(50_000)])
    late = drain(left)
    b.tear_down("done")
    queued = right.bytes_dropped
    assert 60_000 < queued <= 70_000  # whole pieces are taken at a time
    receive(right, bytearray(late))
    assert right.bytes_dropped == queued + 50_000
    exchange(left, right)

    c, d = opened(left, right)
    d.stop_reading()
    c.submit([bytes(20_000)])
    exchange(left, right)
    assert right.bytes_dropped == queued + 70_000
    assert (left.bytes_dropped, right.queued) == (0, 0)
