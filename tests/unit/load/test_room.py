"""How much room on the disk a load needs: what it fetches, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.errors import DiskFull, NotAFile
from kachery_p2p.repo import download
from kachery_p2p.repo.repo import Repo
from tests.unit.load.test_load import MIB, RepoSession, make_load, run, store

#: Of the disk that these loads have.
ROOM = 200 * MIB
GIB = 1 << 30


@pytest.fixture
def ours(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "theirs")


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "free_bytes", lambda folder: ROOM)


def huge(repo: Repo, tmp_path: Path, size: int = 20 * GIB) -> CID:
    """A file of some GiB that is one leaf of 1 MiB again and again, so that it costs little to make."""
    leaf = store(repo, bytes(range(256)) * 4096, tmp_path)
    assert leaf.codec == RAW
    middle = _node(repo, leaf, MIB, 1024)
    return _node(repo, middle, GIB, size // GIB)


def _node(repo: Repo, below: CID, size: int, count: int) -> CID:
    about = UnixFSData(DataType.FILE, None, size * count, [size] * count)
    block = encode_node([PBLink("", below, size)] * count, encode(about))
    cid = CID(1, DAG_PB, sha256_multihash(block))
    repo.put_blocks([(cid, block)])
    return cid


async def test_a_range_needs_room_for_itself(ours: Repo, theirs: Repo, tmp_path: Path, small_disk: None) -> None:
    """A thousand bytes of 20 GiB are loaded onto a disk that has 200 MiB left, wherever they lie in the file."""
    cid = huge(theirs, tmp_path)
    for start in (0, 7 * GIB + 4095, 20 * GIB - 1000):
        session = RepoSession(theirs)
        load = make_load(ours, session)
        path, size = await run(load, cid, lambda load=load, start=start: load.file(cid, start, start + 1000))  # type: ignore[misc]
        assert size == 20 * GIB
        with open(path, "rb") as file:
            file.seek(start)
            assert file.read(1000) == bytes((start + i) % 256 for i in range(1000))
        assert len(session.fetched) <= 3
    assert os.stat(path).st_blocks * 512 < 10 * MIB


async def test_what_has_no_room_is_refused_at_once(ours: Repo, theirs: Repo, tmp_path: Path, small_disk: None) -> None:
    """The whole file, and a range that is larger than the disk, end before the first leaf is fetched; how much is
    missing is said."""
    cid = huge(theirs, tmp_path)
    for start, end, needs in ((0, None, 20 * GIB), (GIB, 3 * GIB, 2 * GIB)):
        session = RepoSession(theirs)
        load = make_load(ours, session)
        with pytest.raises(DiskFull, match=f"{needs} bytes more.*{ROOM} left"):
            await run(load, cid, lambda load=load, start=start, end=end: load.file(cid, start, end))
        assert all(each.codec == DAG_PB for each in session.fetched)


async def test_a_range_that_is_here_needs_no_room(
    ours: Repo, theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full, what was loaded before can be read again."""
    data = os.urandom(8 * MIB)
    cid = store(theirs, data, tmp_path)
    load = make_load(ours, RepoSession(theirs))
    await run(load, cid, lambda: load.file(cid, MIB, 3 * MIB))
    monkeypatch.setattr(download, "free_bytes", lambda folder: 0)
    again = make_load(ours, RepoSession(theirs))
    path, _ = await run(again, cid, lambda: again.file(cid, MIB + 5, 3 * MIB - 5))  # type: ignore[misc]
    assert path.read_bytes()[MIB + 5 : 3 * MIB - 5] == data[MIB + 5 : 3 * MIB - 5]
    more = make_load(ours, RepoSession(theirs))
    with pytest.raises(DiskFull, match=f"needs {MIB} bytes more"):
        await run(more, cid, lambda: more.file(cid, 2 * MIB, 4 * MIB))


async def test_what_it_is_costs_one_block_and_no_room(
    ours: Repo, theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a file, and that something is a directory, are told by the root block; nothing is written."""
    cid = huge(theirs, tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in range(3000):
        (folder / f"a rather long name, so that the directory has many parts {n:06}").touch()
    directory = theirs.store_directory(folder).cid
    raw = store(theirs, b"raw", tmp_path)

    def full(*args: object) -> None:
        raise DiskFull("The disk is full.")

    for name in ("put_blocks", "download", "add_small_files"):
        monkeypatch.setattr(ours, name, full)
    for each, size in ((cid, 20 * GIB), (directory, None), (raw, 3)):
        session = RepoSession(theirs)
        load = make_load(ours, session)
        assert await run(load, each, lambda load=load, each=each: load.size(each)) == size
        assert session.fetched == [each]
    (folder / "link").symlink_to("x")
    link = next(iter(_links(theirs, theirs.store_directory(folder).cid)))
    load = make_load(ours, RepoSession(theirs))
    with pytest.raises(NotAFile, match="symbolic link"):
        await run(load, link, lambda: load.size(link))


def _links(repo: Repo, directory: CID) -> list[CID]:
    from kachery_p2p.dag.directory import list_directory
    from kachery_p2p.dag.nodes import drive

    entries = drive(list_directory(directory), lambda cids: [repo.get_block(cid.multihash) or b"" for cid in cids])
    return [entry.cid for entry in entries if entry.name == "link"]


_ON_A_SMALL_DISK = """
import asyncio, os, sys
import kachery_cloud as kcl
uri, addr, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
info = kcl.load_file_info(uri, providers=[addr])
assert (info["size"], info["kind"]) == (20 << 30, "file"), info
data = kcl.load_bytes(uri, start, start + 1000, providers=[addr])
assert data == bytes((start + i) % 256 for i in range(1000))
status = os.statvfs(os.environ["KACHERY_CLOUD_DIR"])
assert status.f_blocks * status.f_frsize <= 32 << 20
try:
    kcl.load_file(uri, providers=[addr])
except kcl.errors.DiskFull:
    print("as promised")
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root of Linux makes a small disk")
def test_on_a_real_small_disk(workstation, tmp_path: Path) -> None:
    """1000 bytes and the size of a 20 GiB file of another machine, on a file system of 32 MiB: both are given, and the
    whole file is refused."""
    provider = workstation()
    with Repo.open(provider.directory) as repo:
        cid = huge(repo, tmp_path)
    provider.start()
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            'mount -t tmpfs -o size=32m small "$1" && shift && exec "$@"',
            "sh",
            str(disk),
            sys.executable,
            "-c",
            _ON_A_SMALL_DISK,
            f"ipfs://{cid}",
            provider.addr,
            str(7 * GIB + 4095),
        ],
        env={**provider.env, "KACHERY_CLOUD_DIR": str(disk)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "as promised"
