"""The log of who was given what: sums, bounds, other readers, and files that cannot be written."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

import pytest
import trio

from kachery_p2p.access import limits
from kachery_p2p.access.log import LOG_NAME, AccessLog, Belonging, read_entries
from kachery_p2p.errors import KacheryError, RepoError
from tests.helpers.clocks import PatientClock

DAY = 86_400.0


class Wall:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 20_000 * DAY

    def __call__(self) -> float:
        return self.now


def test_sums_by_peer_root_and_day(tmp_path: Path) -> None:
    """What one peer got of one root on one day is one row, whenever it was written; the newest come first."""
    wall = Wall()
    roots = {b"a1": Belonging(b"A", "private"), b"a2": Belonging(b"A", "private"), b"b1": Belonging(b"B", "x")}

    def belongings(multihashes: Collection[bytes]) -> dict[bytes, Belonging]:
        return {each: roots[each] for each in multihashes if each in roots}

    log = AccessLog(tmp_path / LOG_NAME, belongings, wall=wall)
    log.note("mouse", b"a1", 10)
    wall.now += 5
    log.note("mouse", b"a2", 20)
    log.note("man", b"a1", 10)
    log.flush()
    wall.now += 5
    log.note("mouse", b"a1", 10)
    log.note("mouse", b"b1", 1)
    log.note("mouse", b"unknown", 2)
    log.flush()
    wall.now += DAY
    log.note("mouse", b"a1", 10)
    log.close()
    found = read_entries(tmp_path)
    rows = [(e.day, e.peer, e.root, e.audience, e.bytes, e.blocks, e.first % DAY, e.last % DAY) for e in found]
    assert rows == [
        (20_001, "mouse", b"A", "private", 10, 1, 10, 10),
        (20_000, "mouse", b"", "", 2, 1, 10, 10),
        (20_000, "mouse", b"A", "private", 40, 3, 0, 10),
        (20_000, "mouse", b"B", "x", 1, 1, 10, 10),
        (20_000, "man", b"A", "private", 10, 1, 5, 5),
    ]
    assert read_entries(tmp_path, since=20_001 * DAY) == found[:1]
    assert log.entries() == found
    if os.name == "posix":
        assert (tmp_path / LOG_NAME).stat().st_mode & 0o777 == 0o600


def test_nothing_was_ever_written(tmp_path: Path) -> None:
    """Then there is nothing to read, and no file is made for it, neither by reading nor by a log without notes."""
    assert read_entries(tmp_path) == []
    AccessLog(tmp_path / LOG_NAME).close()
    assert list(tmp_path.iterdir()) == []


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In rows, of which the oldest go; in days; and in what waits to be written."""
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    wall = Wall()
    log = AccessLog(tmp_path / LOG_NAME, wall=wall)
    for number in range(25):
        wall.now += 1
        log.note(f"peer {number}", b"x", 1)
        if number % 7 == 0:
            log.flush()
    log.flush()
    assert [each.peer for each in log.entries()] == [f"peer {number}" for number in range(24, 14, -1)]
    wall.now += (limits.MAX_DAYS + 1) * DAY
    log.note("late", b"x", 1)
    log.flush()
    assert [each.peer for each in log.entries()] == ["late"]
    for _ in range(limits.MAX_PENDING + 5):
        log.note("busy", b"x", 1)
    log.close()
    assert log.entries()[0].blocks == limits.MAX_PENDING


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new one is begun, the old one kept; and who only reads it is told."""
    path = tmp_path / LOG_NAME
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    with pytest.raises(RepoError, match="damaged"):
        read_entries(tmp_path)
    log = AccessLog(path)
    log.note("mouse", b"x", 1)
    with caplog.at_level(logging.WARNING):
        log.close()
    assert "begun anew" in caplog.text
    assert [each.peer for each in read_entries(tmp_path)] == ["mouse"]
    assert path.with_suffix(".damaged").exists()


def test_a_file_of_another_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written to it, serving goes on, and the complaint is made once."""
    path = tmp_path / LOG_NAME
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=7")
    db.close()
    log = AccessLog(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.note("mouse", b"x", 1)
            log.flush()
    assert caplog.text.count("not written down") == 1
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (7,)
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    db.close()


def test_a_file_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Serving goes on without the log."""
    (tmp_path / LOG_NAME).mkdir()
    log = AccessLog(tmp_path / LOG_NAME)
    log.note("mouse", b"x", 1)
    with caplog.at_level(logging.WARNING):
        log.close()
    assert "not written down" in caplog.text


def test_what_blocks_belong_to_cannot_be_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Then that is complained of, and nothing else happens."""

    def fails(multihashes: object) -> dict[bytes, Belonging]:
        raise KacheryError("the catalog is gone")

    log = AccessLog(tmp_path / LOG_NAME, fails)
    log.note("mouse", b"x", 1)
    with caplog.at_level(logging.WARNING):
        log.flush()
    assert "the catalog is gone" in caplog.text


async def test_it_is_written_now_and_then_and_at_the_end(tmp_path: Path, patient_clock: PatientClock) -> None:
    """Every LOG_INTERVAL while it runs, and what is left when it is cancelled. Others read meanwhile."""
    log = AccessLog(tmp_path / LOG_NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        log.note("mouse", b"x", 1)
        await trio.sleep(2 * limits.LOG_INTERVAL)
        assert [each.peer for each in read_entries(tmp_path)] == ["mouse"]
        log.note("man", b"x", 1)
        nursery.cancel_scope.cancel()
    assert {each.peer for each in read_entries(tmp_path)} == {"mouse", "man"}
