"""Paths that end in a name: more names of one file, which cost nothing and go with it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.repo import named
from kachery_p2p.repo.repo import Repo
from tests.helpers.users import MALLORY, as_user, needs_root, open_folder

DATA = os.urandom(100_000)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "kachery") as made:
        yield made


def names_in(repo: Repo) -> list[str]:
    return sorted(path.name for path in (repo.directory / "names").rglob("*") if not path.is_dir() or path.is_symlink())


def bytes_in(folder: Path) -> int:
    """As `du` counts: each file once, whatever names it has."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in files}.values())


def test_names_are_more_names_of_the_one_copy(repo: Repo) -> None:
    """Several names of one file, and again: each path ends in its name and is the copy itself, also by where it really
    leads; not one byte more is on the disk."""
    stored = repo.store_bytes(DATA)
    before = bytes_in(repo.directory / "ipfs")
    for name in ("v.nii.gz", "session.nwb", "v.nii.gz", "Mäuse 12.csv"):
        path = repo.names.give(stored.cid, stored.path, name)
        assert path.name == os.path.basename(os.path.realpath(path)) == name
        assert path.is_relative_to(repo.directory / "names")
        assert os.path.samefile(path, stored.path)
        assert path.read_bytes() == DATA
    assert names_in(repo) == ["Mäuse 12.csv", "session.nwb", "v.nii.gz"]
    assert bytes_in(repo.directory / "names") == before == len(DATA)
    assert repo.verify() == []


def test_both_forms_of_a_cid_are_one_file(repo: Repo) -> None:
    """A name that was given to `Qm...` goes with `bafy...`."""
    stored = repo.store_bytes(DATA * 3, profile="unixfs-v0-2015")
    assert str(stored.cid).startswith("Qm")
    path = repo.names.give(stored.cid, stored.path, "x")
    assert repo.names.give(stored.cid.to_v1(), stored.path, "x") == path
    assert repo.remove(stored.cid.to_v1())
    assert not path.exists()


def test_a_linked_file_is_not_touched(repo: Repo, tmp_path: Path) -> None:
    """Its name is a symbolic link; its own name needs none. The file keeps its one name, and its time of change."""
    mine = tmp_path / "mine.bin"
    mine.write_bytes(DATA)
    stored = repo.link_file(mine)
    before = mine.stat()
    assert repo.names.give(stored.cid, stored.path, "mine.bin") == mine
    path = repo.names.give(stored.cid, stored.path, "v.nii.gz")
    assert (path.name, os.readlink(path)) == ("v.nii.gz", str(mine))
    assert mine.stat() == before
    assert repo.find_file(stored.cid) == mine
    assert repo.remove(stored.cid)
    assert names_in(repo) == []
    assert mine.read_bytes() == DATA


@pytest.mark.parametrize("how", ["removed", "set aside"])
def test_no_name_outlives_the_copy(repo: Repo, how: str) -> None:
    """What removes a copy, or sets it aside, takes its names away: no bytes are kept by a name alone."""
    stored = repo.store_bytes(DATA)
    other = repo.store_bytes(DATA[::-1])
    for name in ("a", "b"):
        repo.names.give(stored.cid, stored.path, name)
    repo.names.give(other.cid, other.path, "kept")
    if how == "removed":
        assert repo.remove(stored.cid)
    else:
        assert repo.quarantine(stored.cid)
    assert names_in(repo) == ["kept"]


@pytest.mark.parametrize("noticed_by", ["looking for the file", "verify"])
def test_a_copy_that_was_deleted_by_hand_is_gone(repo: Repo, noticed_by: str) -> None:
    """Its names would keep the bytes: whoever looks for the file, or verifies, takes them away."""
    stored = repo.store_bytes(DATA)
    other = repo.store_bytes(DATA[::-1])
    for name in ("a", "b"):
        repo.names.give(stored.cid, stored.path, name)
    repo.names.give(other.cid, other.path, "kept")
    stored.path.unlink()
    if noticed_by == "verify":
        assert [problem.what for problem in repo.verify()] == ["missing"]
    else:
        assert repo.find_file(stored.cid) is None
    assert names_in(repo) == ["kept"]
    assert bytes_in(repo.directory / "names") == len(DATA)


def test_a_name_leads_to_the_copy_that_is_there_now(repo: Repo) -> None:
    """A copy that was replaced behind our back takes the name over from the old one."""
    stored = repo.store_bytes(DATA)
    path = repo.names.give(stored.cid, stored.path, "x")
    old = path.stat().st_ino
    stored.path.unlink()
    stored.path.write_bytes(DATA)
    assert repo.names.give(stored.cid, stored.path, "x") == path
    assert path.stat().st_ino == stored.path.stat().st_ino != old


def test_without_hard_links_it_is_a_symbolic_one(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT and some network drives have none; another user's file may not be linked to. It leads there from wherever the
    data directory is moved to; one that leads nowhere is swept away."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("no hard links")

    stored = repo.store_bytes(DATA)
    monkeypatch.setattr(named.os, "link", refuse)
    path = repo.names.give(stored.cid, stored.path, "v.nii.gz")
    assert path.is_symlink()
    assert path.read_bytes() == DATA
    assert repo.names.give(stored.cid, stored.path, "v.nii.gz") == path
    copy = tmp_path / "elsewhere"
    shutil.copytree(repo.directory, copy, symlinks=True)
    assert (copy / path.relative_to(repo.directory)).resolve().is_relative_to(copy)
    stored.path.unlink()
    assert repo.names.sweep() == 1
    assert names_in(repo) == []


def test_where_no_name_can_be_given_the_copy_is(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not keep the file from who has it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(named, "make_folders", refuse)
    stored = repo.store_bytes(DATA)
    assert repo.names.give(stored.cid, stored.path, "x") == stored.path


def test_many_give_and_take_names_at_once(repo: Repo) -> None:
    """Threads that give names of one file while another forgets them: each gets a path that leads to the file at that
    moment, or the copy's own; nothing fails, and what is left is names of the copy."""
    stored = repo.store_bytes(DATA)
    failed: list[BaseException] = []
    done = threading.Event()

    def give(number: int) -> None:
        try:
            for turn in range(50):
                path = repo.names.give(stored.cid, stored.path, f"{number}-{turn % 3}")
                assert path == stored.path or path.parent.name == str(stored.cid)
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    def forget() -> None:
        while not done.is_set():
            repo.names.forget(stored.cid)

    givers = [threading.Thread(target=give, args=(number,)) for number in range(4)]
    taker = threading.Thread(target=forget)
    for thread in (taker, *givers):
        thread.start()
    for thread in givers:
        thread.join()
    done.set()
    taker.join()
    assert failed == []
    assert all(path.samefile(stored.path) for path in (repo.directory / "names").rglob("*-*"))


@needs_root
def test_a_directory_that_can_only_be_read_gets_names_elsewhere() -> None:
    """Another user's data: the name is a symbolic link in a folder of one's own; nothing is made in the directory."""
    with open_folder() as top:
        with Repo.open(top / "kachery") as repo:
            stored = repo.store_bytes(DATA)
            for folder in (repo.directory, *repo.directory.rglob("*")):
                folder.chmod(0o755 if folder.is_dir() else 0o644)

        def name() -> list[Any]:
            with Repo.open(top / "kachery") as reader:
                path = reader.find_file(stored.cid)
                assert path is not None
                given = reader.names.give(stored.cid, path, "v.nii.gz")
                return [given.name, given.is_symlink(), given.read_bytes() == DATA, reader.read_only]

        assert as_user(MALLORY, name) == ["v.nii.gz", True, True, True]
        assert not (top / "kachery" / "names").exists()
