"""Moving a data directory: what an interrupted move leaves. Kills at every step: `faults/test_inventory_kills.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kachery_p2p.errors import RepoError
from kachery_p2p.repo.layout import beside, moving_to
from kachery_p2p.repo.moving import move
from kachery_p2p.repo.repo import Repo


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with Repo.open(tmp_path / "data") as repo:
        repo.store_bytes(b"something")
    return tmp_path / "data"


def has_all(directory: Path) -> bool:
    with Repo.open(directory) as repo:
        return repo.stats.files == 1


def test_the_note_is_whole_or_not_there(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that is interrupted while it writes down where to leaves everything as it was, and no half of a note."""
    note = beside(directory, ".moving")

    def replace(source: str | Path, target: str | Path) -> None:
        assert Path(target) == note
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            move(directory, tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert move(directory, tmp_path / "there") == []
    assert has_all(directory)


def test_the_note_says_how_to_go_on(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and can be read by all who use the directory, before anything is moved; the same command goes on."""

    def rename(source: str | Path, target: str | Path) -> None:
        os.replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            move(directory, tmp_path / "there")
    assert moving_to(directory) == tmp_path / "there"
    assert beside(directory, ".moving").stat().st_mode & 0o444 == 0o444
    with pytest.raises(RepoError, match="kachery-cloud move"):
        Repo.open(directory)
    assert move(directory, tmp_path / "there") == []
    assert has_all(directory)


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX")
def test_what_is_no_note(tmp_path: Path) -> None:
    """A named pipe of that name hangs nobody."""
    os.mkfifo(tmp_path / "data.moving")
    assert moving_to(tmp_path / "data") is None
