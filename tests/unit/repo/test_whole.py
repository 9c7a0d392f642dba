"""Files read as such, and nodes kept decoded: never wrong bytes, never more than was allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.profiles import RANDOM_16K
from kachery_p2p.errors import IsADirectory
from kachery_p2p.repo.filenodes import FileNodes
from kachery_p2p.repo.repo import Repo

KIB = 1 << 10


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    (tmp_path / "file").write_bytes(made := os.urandom(300 * KIB + 7))
    return made


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "data")


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("profile", [None, "unixfs-v0-2015", "random-16k"])
def test_bytes_of_a_whole_file(repo: Repo, data: bytes, tmp_path: Path, link: bool, profile: str | None) -> None:
    """Of a copy and of a link, under any profile; nothing beyond its end, nothing of what is not here."""
    cid = (repo.link_file if link else repo.store_file)(tmp_path / "file", profile=profile).cid
    assert repo.read_file(cid, 0, len(data)) == data
    assert repo.read_file(cid, 1000, 1001) == data[1000:1001]
    assert repo.read_file(cid, 5, 5) == b""
    assert repo.read_file(cid, len(data) - 1, len(data) + 1) is None
    assert repo.read_file(CID(1, RAW, sha256_multihash(b"else")), 0, 1) is None


def _other_bytes(path: Path) -> None:
    """As long, and as old."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.write(b"changed")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _another_file(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(os.urandom(path.stat().st_size))
    os.replace(other, path)


@pytest.mark.parametrize("change", [_other_bytes, _another_file, os.unlink, lambda path: os.truncate(path, 5)])
def test_a_linked_file_that_changed_is_not_read(
    repo: Repo, data: bytes, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Not even where it was open from before."""
    cid = repo.link_file(tmp_path / "file").cid
    assert repo.read_file(cid, 0, 10) == data[:10]
    change(tmp_path / "file")
    assert repo.read_file(cid, 0, 10) is None
    assert repo.get_block(cid.multihash) is None


def test_another_copy_is_read_in_its_place(repo: Repo, data: bytes, tmp_path: Path) -> None:
    """A link that changed does not hide the copy that is as it was."""
    cid = repo.link_file(tmp_path / "file").cid
    repo.store_bytes(data)
    _another_file(tmp_path / "file")
    assert repo.read_file(cid, 0, len(data)) == data


def test_what_was_removed_is_not_read(repo: Repo, data: bytes, tmp_path: Path) -> None:
    """Neither its bytes nor its nodes."""
    cid = repo.store_file(tmp_path / "file", profile=RANDOM_16K).cid
    assert isinstance(repo.file_part(cid), FileNode)
    repo.remove(cid)
    assert repo.read_file(cid, 0, 1) is None
    assert len(repo.file_nodes) == 0


# --- decoded nodes ----------------------------------------------------------------------------------------------------


def test_a_root_is_decoded_once(repo: Repo, data: bytes, tmp_path: Path) -> None:
    """It comes as the same object, until the catalog does not have its block any more."""
    cid = repo.store_file(tmp_path / "file", profile=RANDOM_16K).cid
    node = repo.file_part(cid)
    assert isinstance(node, FileNode)
    assert node.size == len(data)
    assert repo.file_part(cid) is node
    leaf = node.children(0, 1)[0].cid
    assert repo.file_part(leaf) == data[: 16 * KIB]
    assert repo.file_part(CID(1, DAG_PB, sha256_multihash(b"else"))) is None
    with repo._catalog.write() as db:
        db.execute("DELETE FROM blocks")
    assert repo.file_part(cid) == node.block


def test_a_folder_is_no_part_of_a_file(repo: Repo, data: bytes, tmp_path: Path) -> None:
    """It is an error, and nothing is kept of it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").rename(tmp_path / "folder" / "file")
    cid = repo.store_directory(tmp_path / "folder").cid
    with pytest.raises(IsADirectory):
        repo.file_part(cid)
    assert len(repo.file_nodes) == 0


def test_decoded_nodes_are_bounded_by_their_bytes(repo: Repo, tmp_path: Path) -> None:
    """The one used longest ago makes room, and one that is larger than all the room is not kept."""
    nodes: list[FileNode] = []
    for number in range(5):
        (tmp_path / "file").write_bytes(os.urandom(64 * KIB + 1 + number))
        cid = repo.store_file(tmp_path / "file", profile=RANDOM_16K).cid
        block = repo.get_block(cid.multihash)
        assert block is not None
        nodes.append(FileNode(cid, block))
    cache = FileNodes(3 * nodes[0].memory)
    for node in nodes[:3]:
        cache.decode(node.cid, node.block)
    assert cache.get(nodes[0].cid) is not None
    for node in nodes[3:]:
        cache.decode(node.cid, node.block)
    assert [cache.get(node.cid) is not None for node in nodes] == [True, False, False, True, True]
    assert cache.memory == 3 * nodes[0].memory
    assert len(FileNodes(1)) == 0
    small = FileNodes(1)
    small.decode(nodes[0].cid, nodes[0].block)
    assert (len(small), small.memory) == (0, 0)
