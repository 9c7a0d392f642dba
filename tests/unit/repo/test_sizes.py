"""Files whose stated size is not that of their content (/proc, /sys, FUSE): they are read to the end, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import FileChanged, NotAFile
from kachery_p2p.repo import Repo
from kachery_p2p.repo.fileio import SourceFile

# No size, and a whole page stated for a few bytes.
CPUINFO = Path("/proc/cpuinfo")
MTU = Path("/sys/class/net/lo/mtu")

pytestmark = pytest.mark.skipif(
    not (CPUINFO.is_file() and MTU.is_file()), reason="needs /proc and /sys, whose files have sizes of their own kind"
)

# Many mappings, so that /proc/<pid>/maps is longer than one block and stays as it is.
MANY_MAPPINGS = """
import mmap, sys
area = [mmap.mmap(-1, 4096, prot=mmap.PROT_READ | (mmap.PROT_WRITE if i % 2 else 0)) for i in range(24_000)]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture(scope="module")
def maps() -> Iterator[Path]:
    """A file of /proc with more than a mebibyte in it, and the size 0."""
    with subprocess.Popen(
        [sys.executable, "-c", MANY_MAPPINGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        path = Path(f"/proc/{process.pid}/maps")
        if len(path.read_bytes()) < 1 << 20:
            pytest.skip("the system joins mappings, so the file is short")
        yield path
        process.kill()


def test_small_files_are_read_to_their_end(repo: Repo) -> None:
    """A file of size 0 with content, and one of 4096 stated bytes with four in it, are stored as what they hold."""
    assert os.stat(CPUINFO).st_size == 0
    assert os.stat(MTU).st_size == 4096
    for path in (CPUINFO, MTU):
        content = path.read_bytes()
        stored = repo.store_file(path)
        assert stored.path.read_bytes() == content != b""
        assert (stored.size, stored.cid) == (len(content), CID(1, RAW, sha256_multihash(content)))


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_long_file_without_size(repo: Repo, maps: Path, profile: str) -> None:
    """The same for a file of many blocks; and the bytes that were read are told while it is read."""
    told: list[tuple[int, int]] = []
    stored = repo.store_file(maps, profile=profile, progress=lambda done, total: told.append((done, total)))
    content = maps.read_bytes()
    assert stored.size == len(content) > 1 << 20
    assert stored.path.read_bytes() == content
    assert told[-1] == (len(content), len(content))
    assert repo.verify() == []
    assert list((repo.directory / "tmp").iterdir()) == []


def test_folder_counts_what_was_read(repo: Repo) -> None:
    """A folder of such files is stored whole, and its size is that of their content."""
    folder = MTU.parent / "statistics"
    contents = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    stored = repo.store_directory(folder)
    assert stored.size == sum(map(len, contents.values()))
    assert repo.verify([stored.cid]) == []


def test_link_is_refused(repo: Repo) -> None:
    """A file without a true size cannot be served in parts, so it is not linked; an empty file may be."""
    for path in (CPUINFO, MTU):
        with pytest.raises(NotAFile, match=r"store a copy of it instead"):
            repo.link_file(path)
    assert repo.list_files() == []
    empty = repo.directory.parent / "empty"
    empty.touch()
    assert repo.link_file(empty).size == 0


def test_limit_of_a_store_counts_what_is_read(monkeypatch: pytest.MonkeyPatch, maps: Path, tmp_path: Path) -> None:
    """The limit that the user has set holds for what is in the file, whatever its size says; nothing is left then."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "kachery"))
    monkeypatch.setenv("KACHERY_CLOUD_MAX_STORE_BYTES", "100")
    with pytest.raises(kcl.StoreTooLarge):
        kcl.store_file(CPUINFO, local=True)
    monkeypatch.setenv("KACHERY_CLOUD_MAX_STORE_BYTES", "500000")
    with pytest.raises(kcl.StoreTooLarge):
        kcl.store_file(maps, local=True)
    assert [path for path in (tmp_path / "kachery" / "ipfs").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "kachery" / "tmp").iterdir()) == []


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_growing_and_shrinking_files_are_told_from_these(tmp_path: Path, size: int) -> None:
    """Where the size follows the content, a file that grows or shrinks has changed, and does not misstate its size."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    with SourceFile(path) as source:
        assert not source.misstated()
        with open(path, "ab") as out:
            out.write(b"more")
        assert not source.misstated()
        with pytest.raises(FileChanged):
            source.check()
    if size:
        with SourceFile(path) as source:
            os.truncate(path, 7)
            assert not source.misstated()
            with pytest.raises(FileChanged):
                source.check()
