"""A damaged database and the one that takes its place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.repo.damaged import files_of, fresh_beside, is_sound, open_damaged, put_in_place


def made(path: Path, rows: int = 1) -> Path:
    """A database with some rows."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE numbers (number INTEGER)")
        db.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(rows)])
        db.commit()
    return path


def sound(path: Path) -> bool:
    with closing(open_damaged(path)) as db:
        return is_sound(db)


def test_what_is_sound(tmp_path: Path) -> None:
    """A whole database is; one with a page of nonsense, and a file that is no database, are not."""
    path = made(tmp_path / "a ?#%.sqlite", rows=5000)
    assert sound(path)
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    assert not sound(path)
    path.write_bytes(b"not a database at all" * 100)
    assert not sound(path)


def test_looking_writes_nothing(tmp_path: Path) -> None:
    """A connection that looks at a database cannot change it, and makes no file."""
    path = made(tmp_path / "a.sqlite")
    with closing(open_damaged(path)) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("INSERT INTO numbers VALUES (7)")
    assert [file.name for file in tmp_path.iterdir()] == ["a.sqlite"]
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        open_damaged(tmp_path / "none.sqlite")


def test_left_overs_of_an_interrupted_repair_go(tmp_path: Path) -> None:
    """A repair begins with an empty place for the new database."""
    fresh = fresh_beside(tmp_path / "a.sqlite")
    assert fresh == tmp_path / "repaired.a.sqlite"
    for file in files_of(fresh):
        file.write_bytes(b"half")
    assert fresh_beside(tmp_path / "a.sqlite") == fresh
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("anew", [True, False])
def test_a_new_one_takes_its_place(tmp_path: Path, anew: bool) -> None:
    """The damaged one is kept with its logs under a name of its own; where no new one was made, there is none then."""
    path, kept_in = tmp_path / "a.sqlite", tmp_path / "damaged"
    kept_in.mkdir()
    for file in files_of(path):
        file.write_bytes(file.name.encode())
    fresh = fresh_beside(path)
    if anew:
        made(fresh)
    kept = put_in_place(fresh, path, kept_in, "the database")
    assert [file.read_bytes() for file in files_of(kept)] == [file.name.encode() for file in files_of(path)]
    assert kept.parent == kept_in
    assert path.exists() is anew
    assert not fresh.exists()
    assert not any(file.exists() for file in files_of(path)[1:])
