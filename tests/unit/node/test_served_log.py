"""How much each peer was given, by day: what is counted, how it is kept, and that it is bounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.node import served_log
from kachery_p2p.node.served_log import LOG_NAME, OTHERS, KeptRow, ServedLog, ServedRow
from tests.helpers.clocks import PatientClock

DAY = 86_400.0
NOON = 20_000 * DAY + 12 * 3600


class Wall:
    """A clock that the test moves."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def owners(known: Mapping[bytes, str]) -> served_log.Owners:
    """Knows of some blocks what they are a part of."""

    def find(multihashes: Collection[bytes]) -> Mapping[bytes, str]:
        return {each: known[each] for each in multihashes if each in known}

    return find


async def test_what_is_sent_is_summed_up_by_day_and_peer(tmp_path: Path) -> None:
    """Over several flushes, and two days."""
    wall = Wall()
    log = ServedLog(tmp_path / LOG_NAME, owners({b"a": "reef", b"b": "atlas"}), wall=wall)
    log.sent("ann", b"a", 2, 200)
    log.sent("ann", b"a", 1, 100)
    log.sent("bob", b"b", 1, 10)
    await log.flush()
    log.sent("ann", b"a", 1, 1)
    await log.flush()
    wall.now += DAY
    log.sent("ann", b"a", 1, 5)
    await log.flush()
    assert log.served(0, 30_000) == [
        ServedRow(20_000, "ann", "reef", 4, 301),
        ServedRow(20_000, "bob", "atlas", 1, 10),
        ServedRow(20_001, "ann", "reef", 1, 5),
    ]
    assert [row.day for row in log.served(20_001, 20_001)] == [20_001]
    log.close()


async def test_what_is_not_known_counts_for_what_the_peer_was_given_last(tmp_path: Path) -> None:
    """Inner nodes, and files of a folder; but not what is known to be of nothing."""
    log = ServedLog(tmp_path / LOG_NAME, owners({b"root": "reef", b"loose": ""}), wall=Wall())
    log.sent("ann", b"root", 1, 1)
    log.sent("ann", b"leaf", 1, 10)
    log.sent("bob", b"leaf", 1, 100)
    await log.flush()
    log.sent("ann", b"other leaf", 1, 1000)
    await log.flush()
    log.sent("ann", b"loose", 1, 10_000)
    log.sent("ann", b"more", 1, 100_000)
    await log.flush()
    assert {(row.peer, row.what): row.bytes for row in log.served(0, 30_000)} == {
        ("ann", "reef"): 1011,
        ("bob", ""): 100,
        ("ann", ""): 110_000,
    }
    log.close()


async def test_it_is_written_once_a_minute_and_at_the_end(tmp_path: Path, patient_clock: PatientClock) -> None:
    """So a process that is killed loses a minute at most."""
    log = ServedLog(tmp_path / LOG_NAME, wall=Wall())
    reader = ServedLog(tmp_path / LOG_NAME, wall=Wall())
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        log.sent("ann", b"a", 1, 10)
        assert reader.served(0, 30_000) == []
        await trio.sleep(served_log.INTERVAL + 1)
        assert [row.bytes for row in reader.served(0, 30_000)] == [10]
        log.sent("ann", b"a", 1, 5)
        nursery.cancel_scope.cancel()
    assert [row.bytes for row in reader.served(0, 30_000)] == [15]
    reader.close()


async def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers and rows of a day, and what waits to be written: nothing is lost, but who it was."""
    monkeypatch.setattr(served_log, "MAX_PENDING", 10)
    monkeypatch.setattr(served_log, "MAX_PEERS", 4)
    log = ServedLog(tmp_path / LOG_NAME, wall=Wall())
    for number in range(100):
        log.sent(f"peer{number}", f"{number}".encode(), 1, 1)
    assert len(log._pending) <= 21
    await log.flush()
    rows = log.served(0, 30_000)
    assert sum(row.bytes for row in rows) == sum(row.blocks for row in rows) == 100
    assert {row.peer for row in rows} == {"peer0", "peer1", "peer2", "peer3", OTHERS}
    log.close()


async def test_a_day_has_so_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them it is not told apart any more of what something was a part."""
    monkeypatch.setattr(served_log, "MAX_ROWS", 5)
    log = ServedLog(tmp_path / LOG_NAME, owners({bytes([n]): f"p{n}" for n in range(50)}), wall=Wall())
    for number in range(50):
        log.sent("ann", bytes([number]), 1, 1)
        if number % 7 == 0:
            await log.flush()
    await log.flush()
    rows = log.served(0, 30_000)
    assert len(rows) <= 6
    assert sum(row.bytes for row in rows) == 50
    log.close()


async def test_old_days_are_summed_up_by_month(tmp_path: Path) -> None:
    """After a year and some days; the sums stay what they were."""
    wall = Wall()
    log = ServedLog(tmp_path / LOG_NAME, wall=wall)
    for _ in range(600):
        log.sent("ann", b"a", 1, 1)
        await log.flush()
        await trio.to_thread.run_sync(log.note_kept, {("client:ann", "reef"): (1, 7)})
        wall.now += DAY
    rows = log.served(0, 40_000)
    assert sum(row.bytes for row in rows) == 600
    assert len(rows) < 450
    assert len({row.day for row in log.kept(0, 40_000)}) < 450
    log.close()


async def test_what_is_kept_is_what_was_noted_last(tmp_path: Path) -> None:
    """Of each day the last note; and what was so before the first day that is asked for."""
    wall = Wall()
    log = ServedLog(tmp_path / LOG_NAME, wall=wall)
    assert log.kept(0, 30_000) == []
    log.note_kept({("a", "reef"): (1, 10)})
    log.note_kept({("a", "reef"): (2, 20), ("b", ""): (1, 1)})
    wall.now += 3 * DAY
    log.note_kept({})
    first = [KeptRow(20_000, "a", "reef", 2, 20), KeptRow(20_000, "b", "", 1, 1)]
    assert log.kept(20_002, 20_002) == first
    assert log.kept(20_000, 20_003) == [*first, KeptRow(20_003, "", "", 0, 0)]
    log.close()


async def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once. A damaged one is kept aside, and a new one is begun."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / LOG_NAME).mkdir()
    log = ServedLog(folder / LOG_NAME, wall=Wall())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.sent("ann", b"a", 1, 10)
            await log.flush()
    assert caplog.text.count("is not written down") == 1
    (tmp_path / LOG_NAME).write_bytes(b"this is no database" * 100)
    other = ServedLog(tmp_path / LOG_NAME, wall=Wall())
    other.sent("ann", b"a", 1, 10)
    await other.flush()
    assert [row.bytes for row in other.served(0, 30_000)] == [10]
    assert (tmp_path / "usage.damaged").exists()
    other.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 4), st.integers(1, 1000))))
def test_nothing_is_lost_or_counted_twice(sent: list[tuple[int, int, int, int]]) -> None:
    """Whatever is known of what was sent."""
    log = ServedLog(Path("/nowhere"), owners({bytes([0]): "a", bytes([1]): "b", bytes([2]): ""}))
    for peer, block, blocks, size in sent:
        log.sent(f"{peer}", bytes([block]), blocks, size)
    sums = log._summed(log._pending)
    for peer in range(4):
        mine = [each for (name, _), each in sums.items() if name == f"{peer}"]
        assert sum(each[0] for each in mine) == sum(blocks for name, _, blocks, _ in sent if name == peer)
        assert sum(each[1] for each in mine) == sum(size for name, _, _, size in sent if name == peer)


async def test_what_another_is_writing_is_waited_for(tmp_path: Path) -> None:
    """Two that ask at the same time both find all that was counted before, although one of them writes it down."""
    begun, goes_on = threading.Event(), threading.Event()

    def slow(multihashes: Collection[bytes]) -> Mapping[bytes, str]:
        begun.set()
        goes_on.wait()
        return {}

    log = ServedLog(tmp_path / LOG_NAME, slow, wall=Wall())
    log.sent("ann", b"a", 1, 100)
    found: list[int] = []

    async def ask() -> None:
        await log.flush()
        found.append(sum(row.bytes for row in log.served(0, 30_000)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(begun.wait)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        early = list(found)
        goes_on.set()
    assert (early, found) == ([], [100, 100])
    log.close()
