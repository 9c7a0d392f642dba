"""Permissions and times of a folder, by choice."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.local import close_repositories, repository
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.profiles import LEAF_OVERHEAD, Profile
from kachery_p2p.repo import Repo, hashing, seen


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(seen, "RACY_NS", -10_000_000_000)
    yield tmp_path / "data"
    close_repositories()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "folder"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "none").write_bytes(b"")
    (top / "sub" / "large").write_bytes(random.Random(3).randbytes(2_500_000))
    (top / "link").symlink_to("run.sh")
    for number, (name, mode) in enumerate({"run.sh": 0o4755, "none": 0o600, "sub/large": 0o666}.items()):
        (top / name).chmod(mode)
        os.utime(top / name, ns=(0, 1_500_000_000_123_456_789 + number))
    os.utime(top / "link", ns=(0, 1_400_000_000_000_000_000), follow_symlinks=False)
    (top / "sub" / "empty").chmod(0o500)
    for name in ("sub/empty", "sub", "."):
        os.utime(top / name, ns=(0, -86_400_000_000_000))
    return top


def times(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.lstat().st_mtime_ns for path in [top, *top.rglob("*")]}


def modes(top: Path) -> dict[str, int]:
    return {str(p.relative_to(top)): p.stat().st_mode & 0o7777 for p in [top, *top.rglob("*")] if not p.is_symlink()}


@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
def test_they_come_back(folder: Path, tmp_path: Path, link: bool) -> None:
    """On a new folder and on one that is there; without setuid, and with nothing that others may write to."""
    (tmp_path / "umask").mkdir()
    uri = kcl.store_dir(folder, preserve=True, local=True, link=link)
    out = Path(kcl.load_dir(uri, tmp_path / "out"))
    assert times(out) == times(folder)
    assert modes(out) == {
        **modes(folder), ".": 0o755, "sub": 0o755, "run.sh": 0o755, "sub/large": 0o644, "sub/empty": 0o700,
    }  # fmt: skip
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in ("run.sh", "none", "sub/large"))
    os.utime(out / "run.sh", ns=(0, 0))
    (out / "none").chmod(0o644)
    (out / "sub" / "large").write_bytes(b"")
    (out / "mine").write_bytes(b"")
    assert kcl.load_dir(uri, out).written == 1
    (out / "mine").unlink()
    os.utime(out, ns=(0, -86_400_000_000_000))
    assert (times(out), modes(out)["none"]) == (times(folder), 0o600)


@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
def test_they_are_part_of_the_uri(folder: Path, tmp_path: Path, link: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them it is another; a changed time is another; unchanged, nothing is read again."""
    plain = kcl.store_dir(folder, local=True)
    uri = kcl.store_dir(folder, preserve=True, local=True, link=link)
    assert uri != plain
    assert kcl.load_bytes(f"{uri}/sub/large") == kcl.load_bytes(f"{plain}/sub/large")
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "read_at", lambda *_: pytest.fail("it was read"))
        assert kcl.store_dir(folder, preserve=True, local=True, link=link) == uri
        assert kcl.store_dir(folder, local=True) == plain
    os.utime(folder / "run.sh", ns=(0, 1))
    assert kcl.store_dir(folder, preserve=True, local=True, link=link) != uri
    assert kcl.store_dir(folder, local=True) == plain
    assert repository(kcl.load_config()).verify() == []


@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
def test_the_catalog_may_be_lost(folder: Path, tmp_path: Path, data: Path, link: bool) -> None:
    """What the profile does not give again is written down."""
    uri = kcl.store_dir(folder, preserve=True, local=True, link=link)
    close_repositories()
    for name in ("", "-wal", "-shm"):
        (data / f"catalog.sqlite{name}").unlink(missing_ok=True)
    assert Repo.rebuild(data) == []
    out = Path(kcl.load_dir(uri, tmp_path / "out", local_only=True))
    assert times(out) == times(folder)
    assert (out / "run.sh").read_bytes() == (folder / "run.sh").read_bytes()


def test_blocks_stay_within_what_peers_accept(folder: Path) -> None:
    """Also of a profile with the largest chunks that there can be."""
    (folder / "large").write_bytes(bytes(3 * MAX_BLOCK_SIZE // 2))
    (folder / "chunk").write_bytes(bytes(MAX_BLOCK_SIZE - 48))
    repo = repository(kcl.load_config())
    for raw in (True, False):
        largest = MAX_BLOCK_SIZE if raw else MAX_BLOCK_SIZE - LEAF_OVERHEAD
        profile = Profile("largest", chunk_size=largest, raw_leaves=raw)
        kcl.store_dir(folder, profile=profile, preserve=True, local=True)
    sizes = repo.block_sizes(list(repo.all_multihashes()))
    assert MAX_BLOCK_SIZE - 100 < max(sizes.values()) <= MAX_BLOCK_SIZE


def test_a_touched_file_takes_no_room_again(folder: Path) -> None:
    """Its bytes are here under another root."""
    kcl.store_dir(folder, preserve=True, local=True)
    os.utime(folder / "sub" / "large", ns=(0, 1))
    kcl.store_dir(folder, preserve=True, local=True)
    repo = repository(kcl.load_config())
    large = [each.path for each in repo.list_files() if each.kind == "file" and each.size == 2_500_000]
    assert len({path.stat().st_ino for path in large if path is not None}) == 1
    assert len(large) == 2
