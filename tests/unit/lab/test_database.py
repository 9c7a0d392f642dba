"""`lab.sqlite`: tables of many parts in one file, each with its versions."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_p2p.errors import RepoError

FIRST = Tables("things", ("CREATE TABLE things (id INTEGER PRIMARY KEY)",))
SECOND = Tables("things", (*FIRST.steps, "ALTER TABLE things ADD COLUMN name TEXT; CREATE INDEX i ON things (name)"))
OTHER = Tables("others", ("CREATE TABLE others (id INTEGER PRIMARY KEY)",))


def opened(folder: Path, *parts: Tables) -> LabDatabase:
    """The database with the tables of some parts."""
    database = LabDatabase(folder)
    for part in parts:
        database.use(part)
    return database


def test_parts_come_and_grow(tmp_path: Path) -> None:
    """Tables are made when they are first needed, and brought up to date with what is in them."""
    database = opened(tmp_path, FIRST, FIRST)
    with database.write() as db:
        db.execute("INSERT INTO things (id) VALUES (7)")
    database.use(OTHER)
    assert database.all("SELECT * FROM others") == []
    database.close()
    later = opened(tmp_path, OTHER, SECOND)
    assert later.all("SELECT id, name FROM things") == [(7, None)]
    later.close()
    assert opened(tmp_path, SECOND).one("SELECT version FROM parts WHERE name = 'things'") == (2,)
    assert stat.S_IMODE(later.path.stat().st_mode) == 0o600


def test_a_newer_version(tmp_path: Path) -> None:
    """It is said what is of which version; nothing is changed."""
    opened(tmp_path, SECOND).one("SELECT 1")
    with pytest.raises(RepoError, match="has format 2 of things, and this version of the program knows 1"):
        opened(tmp_path, FIRST).one("SELECT 1")
    assert opened(tmp_path, SECOND).all("SELECT * FROM things") == []


def test_a_step_that_fails(tmp_path: Path) -> None:
    """Then nothing of it was done, and a program that knows better can do it."""
    broken = Tables("things", ("CREATE TABLE things (id INTEGER PRIMARY KEY); CREATE TABLE things (x)",))
    with pytest.raises(RepoError):
        opened(tmp_path, broken).one("SELECT 1")
    assert opened(tmp_path, FIRST).all("SELECT * FROM things") == []


def test_many_at_once(tmp_path: Path) -> None:
    """Threads and objects that come at the same time make the tables once."""
    databases = [opened(tmp_path, SECOND, OTHER) for _ in range(4)]
    failures: list[BaseException] = []
    ready = threading.Barrier(8)

    def work(database: LabDatabase, number: int) -> None:
        try:
            ready.wait()
            with database.write() as db:
                db.execute("INSERT INTO things (id, name) VALUES (?, 'x')", (number,))
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(databases[number % 4], number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert databases[0].one("SELECT count(*) FROM things") == (8,)
