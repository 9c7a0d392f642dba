"""Folders have the CIDs that Kubo gives them: followed links, what is left out, permissions and times."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.profiles import Profile
from kachery_p2p.repo import Repo
from kachery_p2p.repo.scanning import FolderOptions
from scripts.peers.places import KUBO_PROGRAM

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not KUBO_PROGRAM.exists() and not os.environ.get("CI"), reason="Kubo is not installed"),
]
#: What Kubo does with `--preserve-...`: its raw leaves have no room for them.
SMALL = Profile("small", chunk_size=1024, width=1024, shard_threshold=1000)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., str]:
    """`ipfs add -r` of a folder; says its CID."""
    environment = {**os.environ, "IPFS_PATH": str(tmp_path / "kubo")}

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [KUBO_PROGRAM, *map(str, arguments)], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    run("init", "--empty-repo", "--profile=test,unixfs-v1-2025")
    run("config", "--json", "Import.UnixFSHAMTDirectorySizeThreshold", '"1000B"')
    return lambda *arguments: run("add", "-r", "-Q", "--hidden", *arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "folder"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "many").mkdir()
    for number in range(60):
        (top / "many" / f"file-{number}").write_text(str(number))
    (top / ".hidden").write_bytes(b"hidden")
    (top / "none").write_bytes(b"")
    (top / "one").write_bytes(bytes(1024))
    (top / "sub" / "several").write_bytes(bytes(5000))
    (top / "sub" / "link").symlink_to("../one")
    for name, mode in {".hidden": 0o4711, "none": 0o000, "one": 0o644, "sub/empty": 0o1777}.items():
        (top / name).chmod(mode)
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        seconds = (number - 5) * 30_000_000
        nanos = 0 if number % 3 else 123_456_789
        os.utime(path, ns=(0, seconds * 1_000_000_000 + nanos), follow_symlinks=False)
    return top


def test_permissions_and_times(repo: Repo, folder: Path, add: Callable[..., str]) -> None:
    """Of files of no, one and several chunks, folders, sharded ones too, and links; before 1970; with setuid."""
    if os.geteuid() != 0:
        (folder / "none").chmod(0o400)
    ours = repo.store_directory(folder, profile=SMALL, options=FolderOptions(preserve=True)).cid
    kept = ("--preserve-mode", "--preserve-mtime", "--raw-leaves=false", "--chunker=size-1024")
    assert str(ours) == add(*kept, folder)
    (folder / "sub" / "link").unlink()
    link = repo.store_directory(folder, profile=SMALL, options=FolderOptions(preserve=True, link=True)).cid
    assert str(link) == add(*kept, folder)


def test_links_that_are_followed(repo: Repo, folder: Path, tmp_path: Path, add: Callable[..., str]) -> None:
    """What they point to stands in their place."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"x")
    (folder / "out").symlink_to(tmp_path / "outside" / "x")
    (folder / "none").chmod(0o600)
    ours = repo.store_directory(folder, profile=SMALL, options=FolderOptions(follow=True)).cid
    assert str(ours) == add("--dereference-symlinks", "--chunker=size-1024", folder)
    kept = repo.store_directory(folder, profile=SMALL, options=FolderOptions(exclude=("out", "/many/"))).cid
    assert str(kept) == add("--ignore=out", "--ignore=many", "--chunker=size-1024", folder)
