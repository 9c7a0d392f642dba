"""Databases that are only read, and that somebody may be writing to whose locks are not seen."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.sqlite import Settings, SQLiteFile

SETTINGS = Settings("the list", "nothing is harmed", "", lambda db: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list.sqlite"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE things (name)")
        db.execute("INSERT INTO things VALUES ('first')")
        yield db


@pytest.mark.parametrize("apart", [False, True])
def test_a_log_that_is_being_written_is_left(path: Path, writer: sqlite3.Connection, apart: bool) -> None:
    """A reader who could delete the log of a writer does not, also where it finds nothing in it that was committed."""
    writer.execute("PRAGMA wal_checkpoint(RESTART)")
    writer.execute("PRAGMA cache_size=5")
    writer.execute("BEGIN")
    writer.executemany(
        "INSERT INTO things VALUES (?)", ((os.urandom(500),) for _ in range(2000))
    )  # some are in the log
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_ino, log.stat().st_size
    reader = SQLiteFile(path, SETTINGS, read_only=True, apart=apart)
    assert reader.one("SELECT count(*) FROM things") == (1,)
    reader.close()
    assert (log.stat().st_ino, log.stat().st_size) == before
    writer.execute("COMMIT")
    assert reader.path is not None
    again = SQLiteFile(path, SETTINGS, read_only=True)
    assert again.one("SELECT count(*) FROM things") == (2001,)
    again.close()


@pytest.mark.parametrize("apart", [False, True])
def test_nothing_is_made_beside_it(path: Path, writer: sqlite3.Connection, apart: bool) -> None:
    """Whoever only reads makes neither a log nor what goes with it, also where he might."""
    writer.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    reader = SQLiteFile(path, SETTINGS, read_only=True, apart=apart)
    assert reader.one("SELECT name FROM things") == ("first",)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    reader.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_another_machine_commits_is_seen(path: Path, writer: sqlite3.Connection) -> None:
    """Not by its shared memory, but because the files have changed."""
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    reader = SQLiteFile(path, SETTINGS, read_only=True, apart=True)
    assert reader.all("SELECT name FROM things") == [("first",)]
    writer.execute("INSERT INTO things VALUES ('second')")
    if hasattr(sqlite3.Connection, "setconfig"):  # else it is seen when it is in the database itself
        assert reader.all("SELECT name FROM things") == [("first",), ("second",)]
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert reader.all("SELECT name FROM things") == [("first",), ("second",)]
    reader.close()


_KILLED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE things (name)")
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.executemany("INSERT INTO things VALUES (?)", [(str(n),) for n in range(int(sys.argv[2]))])
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_writer_that_was_killed_in_the_middle(path: Path, opened: str) -> None:
    """The index of its log has halves that differ, and only a writer may mend that. It is read without the index."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path), "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        reader = SQLiteFile(path, SETTINGS, read_only=True)
        if opened == "before":
            assert reader.one("SELECT count(*) FROM things") == (3,)
        process.kill()
    with open(path.with_name(path.name + "-shm"), "r+b") as index:
        index.seek(8)
        index.write(b"\xff\xff\xff\xff")
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_size
    # Before Python 3.12, whoever might delete the log does not read it: what is in the database itself is seen then.
    least = 3 if hasattr(sqlite3.Connection, "setconfig") else 0
    assert reader.one("SELECT count(*) FROM things")[0] in (least, 3)
    reader.close()
    assert log.stat().st_size == before
    with closing(sqlite3.connect(path)) as db:  # whoever may write brings it in order
        assert db.execute("SELECT count(*) FROM things").fetchone() == (3,)
    again = SQLiteFile(path, SETTINGS, read_only=True)
    assert again.one("SELECT count(*) FROM things") == (3,)
    again.close()
