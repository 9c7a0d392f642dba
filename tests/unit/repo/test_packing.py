"""Small files in packs: the same as files of their own to all who ask, and a path when one is asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.profiles import UNIXFS_V1_2025
from kachery_p2p.errors import RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo import packing as packing_module
from kachery_p2p.repo.catalog import SCHEMA_VERSION
from kachery_p2p.repo.kept_rows import STORED
from kachery_p2p.repo.limits import PACKED_BYTES
from kachery_p2p.repo.small import SmallFile

PROFILES = ("unixfs-v1-2025", "unixfs-v0-2015")
VALUES = [b'{"example":"dict"}', b"x", bytes(PACKED_BYTES), b"abc" * 1000]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "data") as opened:
        yield opened


def plain_files(directory: Path) -> list[Path]:
    """What is under ipfs/."""
    return sorted(path for path in (directory / "ipfs").rglob("*") if path.is_file())


def reopened(repo: Repo) -> Repo:
    repo.close()
    return Repo.open(repo.directory)


# --- what others see -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_a_value_is_what_a_file_would_be(repo: Repo, tmp_path: Path, profile: str) -> None:
    """The same CID, block, sizes and rows of lists as a file of its own, and no path before one is asked for."""
    with Repo.open(tmp_path / "other") as other:
        for data in VALUES:
            value, file = repo.store_value(data, profile=profile), other.store_bytes(data, profile=profile)
            assert (value.cid, value.size, value.dag_size) == (file.cid, file.size, file.dag_size)
            key = value.cid.multihash
            assert repo.get_block(key) == other.get_block(key)
            assert repo.get_blocks([key]) == other.get_blocks([key])
            assert repo.has_block(key) == other.has_block(key) == value.dag_size
            assert repo.block_sizes([key]) == {key: value.dag_size}
            assert repo.file_size(value.cid) == other.file_size(value.cid) == len(data)
            assert repo.packed_file(value.cid) == data
            assert repo.roots_among([key]) == {key}
        assert set(repo.roots()) == set(other.roots())
        assert set(repo.all_multihashes()) == set(other.all_multihashes())
        assert [(each.cid, each.kind, each.size, each.state) for each in repo.list_files()] == [
            (each.cid, each.kind, each.size, each.state) for each in other.list_files()
        ]
        assert repo.stats == other.stats
        assert repo.verify() == other.verify() == []
    assert plain_files(repo.directory) == []
    assert [path.name for path in (repo.directory / "packs").iterdir()] == ["1.car"]


def test_the_path_is_made_when_it_is_asked_for(repo: Repo) -> None:
    """It is where every file is, read-only, and the same from then on; lists have it once."""
    stored = [repo.store_value(data, profile=profile) for data in VALUES for profile in PROFILES]
    for each in stored:
        path = repo.find_file(each.cid)
        assert path is not None
        assert path == each.path == repo.path_for(each.cid)
        assert path.stat().st_mode & 0o222 == 0
        assert repo.find_file(each.cid) == path
    assert [path.read_bytes() for path in plain_files(repo.directory)] == [
        each.path.read_bytes() for each in sorted(stored, key=lambda each: each.path)
    ]
    assert len(repo.list_files()) == repo.stats.files == len(stored)
    assert repo.verify() == []


def test_many_ask_for_a_path_at_once(repo: Repo) -> None:
    """All get the same whole file."""
    cids = [repo.store_value(b"%d" % number).cid for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(repo.find_file, cids * 8))
    assert [path.read_bytes() for path in paths if path is not None] == [b"%d" % number for number in range(20)] * 8
    assert len(plain_files(repo.directory)) == 20


def test_large_values_and_other_hashes_are_files(repo: Repo) -> None:
    """Above some KiB, and where the hash is not sha2-256, a file of its own is made at once."""
    large = repo.store_value(bytes(PACKED_BYTES + 1))
    assert repo.packed_file(large.cid) is None
    assert repo.find_file(large.cid) == large.path
    other = CID(1, RAW, b"\x13\x40" + hashlib.sha512(b"value").digest())
    repo.add_small_files([(other, b"value")])
    assert repo.packed_file(other) is None
    assert plain_files(repo.directory) == sorted([large.path, repo.path_for(other)])


def test_what_is_here_is_not_written_again(repo: Repo) -> None:
    """Neither a value twice, nor one that is a file already; and a file that is a value becomes one."""
    repo.store_value(b"first")
    size = (repo.directory / "packs" / "1.car").stat().st_size
    repo.store_value(b"first")
    file = repo.store_bytes(b"second")
    assert repo.store_value(b"second").path == file.path
    assert (repo.directory / "packs" / "1.car").stat().st_size == size
    assert repo.store_bytes(b"first").path.read_bytes() == b"first"
    assert repo.stats.files == 2


def test_the_same_bytes_as_file_and_as_block(repo: Repo) -> None:
    """A leaf of the old profile, stored as raw bytes too: one block, two files, and each has its own content."""
    old = repo.store_value(b"content", profile="unixfs-v0-2015")
    block = repo.get_block(old.cid.multihash)
    assert block is not None
    raw = repo.store_value(block)
    assert raw.cid.multihash == old.cid.multihash
    assert repo.packed_file(old.cid) == b"content"
    assert repo.packed_file(raw.cid) == block
    assert repo.get_block(raw.cid.multihash) == block


def test_files_of_folders(repo: Repo, tmp_path: Path) -> None:
    """A folder that is stored, and one that is loaded: few inodes, and each file can be asked for."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(50):
        (folder / str(number)).write_bytes(b"%d" % number)
    (folder / "large").write_bytes(bytes(PACKED_BYTES + 1))
    repo.store_directory(folder)
    assert len(plain_files(repo.directory)) == 1
    assert repo.stats.files == 51
    with Repo.open(tmp_path / "loaded") as loaded:
        cids = [SmallFile.of(b"%d" % number, UNIXFS_V1_2025).cid for number in range(50)]
        loaded.add_small_files([(cid, b"%d" % number) for number, cid in enumerate(cids)])
        assert plain_files(loaded.directory) == []
        path = loaded.find_file(cids[7])
        assert path is not None
        assert path.read_bytes() == b"7"


def test_space(repo: Repo) -> None:
    """5 000 values of 64 bytes: three inodes and 12 KB each as files; in a pack some hundred bytes, and no inode."""

    def used() -> tuple[int, int]:
        entries = [path.lstat() for path in repo.directory.rglob("*")]
        return len(entries), sum(status.st_blocks * 512 for status in entries)

    inodes, size = used()
    wide = [SmallFile.of(b"%064d" % number, UNIXFS_V1_2025) for number in range(5000)]
    for start in range(0, 5000, 500):
        repo.add_small_files([(file.cid, file.data) for file in wide[start : start + 500]])
    assert repo.stats.files == 5000
    repo = reopened(repo)
    now, size_now = used()
    assert now - inodes <= 2  # the folder of packs, and the pack
    assert size_now - size < 5000 * 600
    repo.close()


# --- taking care of them ---------------------------------------------------------------------------------------------


def test_removing(repo: Repo) -> None:
    """A value that is removed is gone from the disk, and no rebuild brings it back; the others stay."""
    stored = [repo.store_value(b"secret %d" % number, profile=profile) for number in range(5) for profile in PROFILES]
    repo.find_file(stored[2].cid)
    for number in (0, 2, 5):
        assert repo.remove(stored[number].cid)
        assert not repo.remove(stored[number].cid)
    left = [each.cid for number, each in enumerate(stored) if number not in (0, 2, 5)]
    assert [each.cid for each in repo.list_files()] == left
    assert b"secret 0" not in (repo.directory / "packs" / "1.car").read_bytes().replace(b"secret 0", b"", 1)
    assert repo.verify() == []
    repo.close()
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as again:
        assert sorted(map(str, (each.cid for each in again.list_files()))) == sorted(map(str, left))
        assert again.find_file(stored[0].cid) is None


def test_a_value_asked_for_as_qm_and_removed_as_bafy(repo: Repo) -> None:
    """The two forms of a CID are one root."""
    old = repo.store_value(b"value", profile="unixfs-v0-2015").cid
    repo.store_value(b"another")
    assert old.version == 0
    assert repo.packed_file(old.to_v1()) == b"value"
    assert repo.remove(old.to_v1())
    assert repo.packed_file(old) is None
    assert b"value" not in (repo.directory / "packs" / "1.car").read_bytes()


def test_wrong_bytes(repo: Repo) -> None:
    """They are never given out; `verify` names the file; storing or loading it again puts it right."""
    first, second = repo.store_value(b"first value"), repo.store_value(b"second value")
    pack = repo.directory / "packs" / "1.car"
    pack.write_bytes(pack.read_bytes().replace(b"first value", b"First value"))
    assert repo.get_block(first.cid.multihash) is None
    assert repo.packed_file(first.cid) is None
    assert repo.find_file(first.cid) is None
    assert repo.packed_file(second.cid) == b"second value"
    (problem,) = repo.verify()
    assert (problem.cid, problem.path, problem.what) == (first.cid, pack, "damaged")
    assert repo.verify([second.cid]) == []
    repo.store_value(b"first value")
    assert repo.packed_file(first.cid) == b"first value"
    assert repo.verify() == []


def test_wrong_bytes_that_were_loaded_again_as_a_file(repo: Repo) -> None:
    """The file of its own is right, so nothing is wrong any more."""
    first = repo.store_value(b"first value")
    pack = repo.directory / "packs" / "1.car"
    pack.write_bytes(pack.read_bytes().replace(b"first value", b"First value"))
    repo.store_bytes(b"first value")
    assert repo.verify() == []
    assert repo.packed_file(first.cid) is None
    assert repo.find_file(first.cid) == first.path


def test_a_damaged_file_is_made_again_from_its_pack(repo: Repo) -> None:
    """The copy under ipfs/ went bad, the pack has not: the wrong one is set aside."""
    stored = repo.store_value(b"value")
    path = repo.find_file(stored.cid)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"other")
    assert repo.find_file(stored.cid) == path
    assert path.read_bytes() == b"value"
    assert [each.read_bytes() for each in (repo.directory / "damaged").iterdir()] == [b"other"]
    path.unlink()
    assert repo.find_file(stored.cid) == path
    assert repo.verify() == []


def test_a_pack_that_is_gone(repo: Repo) -> None:
    """What was in it is not here; `verify` says so, and values stored from then on are."""
    lost = [repo.store_value(b"%d" % number).cid for number in range(3)]
    (repo.directory / "packs" / "1.car").unlink()
    repo = reopened(repo)
    assert [repo.packed_file(cid) for cid in lost] == [None] * 3
    assert [problem.what for problem in repo.verify()] == ["missing"] * 3
    kept = repo.store_value(b"kept").cid
    repo.store_value(b"0")
    assert repo.packed_file(kept) == b"kept"
    assert len(repo.verify()) == 2
    repo.close()


def test_a_pack_that_lost_its_end(repo: Repo) -> None:
    """As a copy from before has: what is lost is missing, the rest is right, and new values do not mix with it."""
    cids = [repo.store_value(b"value %d" % number).cid for number in range(10)]
    pack = repo.directory / "packs" / "1.car"
    os.truncate(pack, pack.stat().st_size - 100)
    for number in range(10, 20):
        cids.append(repo.store_value(b"value %d" % number).cid)
    found = [repo.packed_file(cid) for cid in cids]
    assert found[:7] + found[10:] == [b"value %d" % number for number in range(20) if number not in (7, 8, 9)]
    repo.close()
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as again:
        assert [again.packed_file(cid) for cid in cids[10:]] == found[10:]


def test_sweeping_leaves_packed_files(repo: Repo) -> None:
    """They are roots."""
    stored = repo.store_value(b"value", profile="unixfs-v0-2015")
    assert repo.sweep(0) == (0, 0)
    assert repo.packed_file(stored.cid) == b"value"


def test_full_packs(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that is full is left alone, and the next has the next number."""
    monkeypatch.setattr(packing_module, "PACK_BYTES", 1000)
    stored = [repo.store_value(b"%0300d" % number) for number in range(10)]
    packs = sorted(path.name for path in (repo.directory / "packs").iterdir())
    assert packs == ["1.car", "2.car", "3.car", "4.car"]
    repo = reopened(repo)
    stored.append(repo.store_value(b"one more"))
    assert sorted(path.name for path in (repo.directory / "packs").iterdir()) == packs
    assert None not in [repo.packed_file(each.cid) for each in stored]
    repo.close()


# --- the catalog is lost, old or new ---------------------------------------------------------------------------------


def test_the_catalog_can_be_lost(repo: Repo) -> None:
    """All values come back from the packs, with the version of the CID they were asked by."""
    stored = [repo.store_value(data, profile=profile) for data in VALUES for profile in PROFILES]
    repo.find_file(stored[1].cid)
    before = {(each.cid, each.size, each.state) for each in repo.list_files()}
    repo.close()
    (repo.directory / "catalog.sqlite").unlink()
    with pytest.raises(RepoError, match="kachery-cloud repair"):
        Repo.open(repo.directory)
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as again:
        assert {(each.cid, each.size, each.state) for each in again.list_files()} == before
        assert again.verify() == []


def test_rows_that_are_lost_are_found_by_verify(repo: Repo) -> None:
    """The packs tell of them."""
    cids = [repo.store_value(b"%d" % number).cid for number in range(3)]
    with repo._catalog.write() as db:
        db.execute("DELETE FROM packed")
        db.execute("DELETE FROM roots")
    assert repo.packed_file(cids[1]) is None
    assert repo.verify() == []
    assert [repo.packed_file(cid) for cid in cids] == [b"0", b"1", b"2"]


def make_older(directory: Path, version: int = 2) -> None:
    """Take from a closed repo what an older version did not have."""
    later = "DROP TABLE seen; " + ("DROP TABLE packed; DROP TABLE packs; " if version < 3 else "")
    with closing(sqlite3.connect(directory / "catalog.sqlite")) as db:
        db.executescript(f"{later}PRAGMA user_version={version}")
    if version < 3:
        shutil.rmtree(directory / "packs", ignore_errors=True)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_directory_of_an_older_version(repo: Repo, version: int) -> None:
    """Nothing moves: what is there is read where it is, and new values go into packs. The version is ours then."""
    old = repo.store_bytes(b"old")
    repo.close()
    make_older(repo.directory, version)
    for _ in range(2):
        with Repo.open(repo.directory) as again:
            assert again.find_file(old.cid) == old.path
            new = again.store_value(b"new")
            assert again.packed_file(new.cid) == b"new"
            assert again.verify() == []
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_program_of_the_older_version_beside_ours(repo: Repo) -> None:
    """It has the catalog open since before, and sets the old version again: that is put right, and nothing is lost."""
    value = repo.store_value(b"value")
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as older:
        older.execute("PRAGMA user_version=2")
        repo = reopened(repo)
        assert repo.packed_file(value.cid) == b"value"
        assert older.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        repo.close()


def test_a_value_is_listed_with_the_same_commit(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes, its rows and its place on the list of what the user keeps: one transaction, also of many threads."""
    commits: list[int] = []
    write = repo._catalog.write

    def counted(*, durable: bool = False) -> AbstractContextManager[sqlite3.Connection]:
        commits.append(1)
        return write(durable=durable)

    monkeypatch.setattr(repo._catalog, "write", counted)
    stored = [repo.store_value(b"value %d" % number) for number in range(3)]
    assert len(commits) == 3
    again = repo.store_value(b"value 1")
    assert len(commits) == 3
    with ThreadPoolExecutor(8) as pool:
        stored += pool.map(lambda number: repo.store_value(b"thread %d" % number), range(40))
    assert len(commits) <= 43
    listed = {root.cid: root for root in repo.inventory.roots()}
    assert set(listed) == {each.cid for each in [*stored, again]}
    assert all(root.how == STORED and root.whole for root in listed.values())


def test_a_value_that_is_stored_while_it_is_removed_stays(repo: Repo) -> None:
    """A removal that was interrupted does not take away what was stored anew."""
    value = repo.store_value(b"value")
    key = bytes(value.cid.to_v1())
    repo.remove(value.cid)
    with repo._catalog.write() as db:
        db.execute("INSERT INTO going VALUES (?)", (key,))
    assert repo.store_value(b"value").cid == value.cid
    with closing(reopened(repo)) as again:
        assert again.packed_file(value.cid) == b"value"
        assert [root.cid for root in again.inventory.roots()] == [value.cid]
