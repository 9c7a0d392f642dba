"""Many small files at once: looked for, read and placed together, with the answers that each alone would get."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_cloud.local import BlockNotLocal
from kachery_cloud.placing import place_directory
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.repo import Repo
from kachery_p2p.repo.layout import Layout


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "data") as opened:
        yield opened


def _multihash(number: int) -> bytes:
    return b"\x12\x20" + hashlib.sha256(b"%d" % number).digest()


def _some_cids(number: int) -> list[CID]:
    multihash = _multihash(number)
    short = b"\0" + bytes((number % 40,)) + bytes(number % 40)
    return [CID(1, RAW, multihash), CID(1, DAG_PB, multihash), CID(0, DAG_PB, multihash), CID(1, RAW, short)]


@pytest.mark.parametrize("number", range(80))
def test_the_folder_of_a_file_is_known_without_its_name(tmp_path: Path, number: int) -> None:
    """It is the folder that its path has, for CIDs of all forms and lengths."""
    layout = Layout(tmp_path)
    for cid in _some_cids(number):
        path = layout.path_for(cid)
        assert not layout.may_hold([cid]) or path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        assert layout.may_hold([cid]) == {cid}
        path.unlink()
        path.parent.rmdir()


def test_what_is_lacking_is_what_has_no_size(repo: Repo, tmp_path: Path) -> None:
    """Files of all kinds are found: packed, of their own, linked, and one that the catalog does not know."""
    (tmp_path / "linked").write_bytes(b"linked")
    here = [
        repo.store_value(b"packed").cid,
        repo.store_value(b"packed", profile="unixfs-v0-2015").cid,
        repo.store_bytes(b"own").cid,
        repo.link_file(tmp_path / "linked").cid,
    ]
    unknown = CID(1, RAW, b"\x12\x20" + hashlib.sha256(b"unknown").digest())
    path = repo.path_for(unknown)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"unknown")
    absent = [cid for number in range(50) for cid in _some_cids(number)[:3]]
    lacking = repo.many.lacking([*here, unknown, *absent])
    assert lacking == set(absent)
    assert [repo.file_size(cid) for cid in absent] == [None] * len(absent)
    assert [repo.file_size(cid) for cid in [*here, unknown]] == [6, 6, 3, 6, 7]


def test_packed_files_are_read_together(repo: Repo) -> None:
    """Those whose bytes are right; the others and files of their own are left out."""
    first, second = repo.store_value(b"first value").cid, repo.store_value(b"second value").cid
    own = repo.store_bytes(b"own").cid
    cids = [first, second, own, *_some_cids(1)[:3]]
    packed = repo.many.packed(cids)
    assert {cid: file.size for cid, file in packed.items()} == {first: 11, second: 12}
    assert {cid: file.read() for cid, file in packed.items()} == {first: b"first value", second: b"second value"}
    pack = repo.directory / "packs" / "1.car"
    pack.write_bytes(pack.read_bytes().replace(b"first value", b"First value"))
    assert {cid: file.read() for cid, file in packed.items()} == {first: None, second: b"second value"}


def test_a_folder_is_made_whatever_its_files_are(repo: Repo, tmp_path: Path) -> None:
    """More files than are read at once, in folders, some twice, with a path of their own or without."""
    source = tmp_path / "source"
    wanted = {f"{number % 7}/{number % 3}/{number}.txt": b"%d" % (number % 250) for number in range(400)}
    wanted |= {"large": os.urandom(100_000), "1/empty": b""}
    for name, data in wanted.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "1" / "up").symlink_to("../large")
    root = repo.store_directory(source).cid
    place_directory(repo, root, tmp_path / "copy")
    copy = tmp_path / "copy"
    found = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found.pop("1/up") == wanted["large"]
    assert found == wanted
    assert os.readlink(tmp_path / "copy" / "1" / "up") == "../large"


def test_bytes_that_went_bad_are_not_put_into_a_folder(repo: Repo, tmp_path: Path) -> None:
    """The same bytes are taken from elsewhere where they are right; else nothing is made, and they are loaded again."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / str(number)).write_bytes(b"value %d" % number)
    root = repo.store_directory(source).cid
    pack = repo.directory / "packs" / "1.car"
    pack.write_bytes(pack.read_bytes().replace(b"value 1", b"Value 1"))
    with pytest.raises(BlockNotLocal):
        place_directory(repo, root, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "source"]
    repo.store_bytes(b"value 1")
    place_directory(repo, root, tmp_path / "copy")
    assert (tmp_path / "copy" / "1").read_bytes() == b"value 1"
