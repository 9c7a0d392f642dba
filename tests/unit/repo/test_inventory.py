"""What the user keeps: listed under its names, with how it is, and found again after the catalog was lost."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import RemovedMeanwhile, RepoBusy, RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo import inventory as inventory_module
from kachery_p2p.repo import listing as listing_module
from kachery_p2p.repo import removal_lock as lock_module
from kachery_p2p.repo import seen as seen_module
from kachery_p2p.repo.inventory import KeptRoot
from kachery_p2p.repo.kept_rows import LINKED, LOADED, STORED, Label
from kachery_p2p.repo.removal_lock import RemovalLock
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=3)
DATA = random.Random(1).randbytes(9_500)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(DATA)
    (tmp_path / "folder" / "sub" / "b").write_bytes(b"b")
    return tmp_path / "folder"


def shown(repo: Repo) -> list[tuple[str | None, int, bool]]:
    """Label, how and whether whole of all that is listed."""
    return [(root.labels[0].text if root.labels else None, root.how, root.whole) for root in repo.inventory.roots()]


def kept(repo: Repo, cid: CID) -> KeptRoot:
    found = repo.inventory.get(cid)
    assert found is not None
    return found


# --- listing ---------------------------------------------------------------------------------------------------------


def test_what_is_listed(repo: Repo, folder: Path) -> None:
    """What was stored or linked by itself, under the name of the file or the label; not what is in folders."""
    repo.store_directory(folder, profile=TINY)
    repo.link_file(folder / "sub" / "b", label="the label")
    value = repo.store_value(b"value")
    assert shown(repo) == [("folder", STORED, True), ("the label", LINKED, True), (None, STORED, True)]
    assert kept(repo, value.cid).path is None
    file = repo.store_file(folder / "a", profile=TINY)
    assert kept(repo, file.cid).labels == (Label("a"),)
    assert kept(repo, file.cid).path == file.path


def test_labels_add_up(repo: Repo, folder: Path) -> None:
    """A file stored again under another name has both; one that the user gave comes first, and none is lost."""
    for label in (None, "first", "second", None):
        repo.store_file(folder / "a", profile=TINY, label=label)
    (root,) = repo.inventory.roots()
    assert root.labels == (Label("second", given=True), Label("first", given=True), Label("a"))
    assert root.given


def test_the_newest_labels_stay(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a bound; what the user gave outlives names of files."""
    cid = repo.store_value(b"value", label="given").cid
    for number in range(40):
        repo.inventory.keep(cid, STORED, Label(f"name {number}"))
    labels = [label.text for label in kept(repo, cid).labels]
    assert len(labels) == 16
    assert labels[:2] == ["given", "name 39"]


def test_a_name_that_is_no_text(repo: Repo, tmp_path: Path) -> None:
    """The name of a file may have any bytes."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe.bin"
    Path(os.fsdecode(path)).write_bytes(b"data")
    repo.store_file(os.fsdecode(path))
    ((label, _, _),) = shown(repo)
    assert label is not None
    assert label.endswith(".bin")
    label.encode()


def test_storing_again_writes_nothing(repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the same is stored under the same name, the list is written once; its use, once an hour."""
    for racy in ("RACY_NS", "COARSE_RACY_NS"):  # a file that has just been made is noted at once
        monkeypatch.setattr(seen_module, racy, 0)
    cid = repo.store_file(folder / "a", profile=TINY).cid
    records = repo.inventory.records.path.stat().st_size
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        before = db.execute("PRAGMA data_version").fetchone()
        for _ in range(5):
            assert repo.store_file(folder / "a", profile=TINY).cid == cid
            repo.inventory.use(cid)
        assert db.execute("PRAGMA data_version").fetchone() == before
        used = kept(repo, cid).used
        monkeypatch.setattr(inventory_module.time, "time", lambda: used + 4_000.0)
        for _ in range(3):
            repo.inventory.use(cid)
        assert kept(repo, cid).used == used + 4_000.0
    assert repo.inventory.records.path.stat().st_size == records


def test_files_deleted_by_hand(repo: Repo, folder: Path) -> None:
    """Somebody ran rm in ipfs/, or in packs/: the list says that it is missing, and that a folder is not whole."""
    file = repo.store_file(folder / "a", profile=TINY)
    value = repo.store_value(b"value")
    cid = repo.store_directory(folder, profile=TINY).cid
    os.unlink(file.path)
    assert kept(repo, file.cid).problem == "missing"
    assert not kept(repo, file.cid).whole
    assert kept(repo, value.cid).whole
    found = repo.verify()
    assert {problem.what for problem in found} == {"missing"}
    assert all(f"kachery-cloud repair ipfs://{problem.cid}" in problem.detail for problem in found)
    assert kept(repo, cid).problem == "incomplete"
    os.unlink(repo.directory / "packs" / "1.car")
    assert kept(repo, value.cid).problem == "missing"
    for root in repo.inventory.roots():
        repo.removal.remove(root)
    assert repo.verify() == []


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_a_folder_deleted_by_hand(repo: Repo, folder: Path, link: bool) -> None:
    """A list sees that the folder is not whole, before anybody has asked for that file; what is left of it counts."""
    (folder / "c").write_bytes(DATA[::-1])
    cid = repo.store_directory(folder, profile=TINY, link=link).cid
    assert [root.whole for root in repo.inventory.roots()] == [True]
    gone = repo.find_file(repo.hash_file(folder / "a", profile=TINY))
    assert gone is not None
    gone.unlink()
    (root,) = repo.inventory.roots()
    assert (root.cid, root.whole, root.problem) == (cid, False, "incomplete")
    assert (root.size, root.here) == (2 * len(DATA) + 1, len(DATA) + 1)
    if not link:
        repo.store_directory(folder, profile=TINY)
        assert [(root.whole, root.here) for root in repo.inventory.roots()] == [(True, 2 * len(DATA) + 1)]


def test_a_file_that_is_listed_and_in_a_folder(repo: Repo, folder: Path) -> None:
    """Where it is gone, both are not whole."""
    file = repo.store_file(folder / "a", profile=TINY)
    repo.store_directory(folder, profile=TINY)
    file.path.unlink()
    assert [root.problem for root in repo.inventory.roots()] == ["missing", "incomplete"]


def test_a_list_looks_at_some_thousand_files(repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files the folders have, a list takes about as long: it looks at those that came last."""
    (folder / "c").write_bytes(DATA[::-1])
    repo.store_directory(folder, profile=TINY)
    for path in (repo.directory / "ipfs").rglob("baf*"):
        path.unlink()
    monkeypatch.setattr(listing_module, "LOOKED_INSIDE", 1)
    (root,) = repo.inventory.roots()
    assert (root.problem, root.here) == ("incomplete", len(DATA) + 1)


def test_a_linked_file_that_changed(repo: Repo, folder: Path) -> None:
    """It is said without reading it, and is as it was when the old file is there again."""
    cid = repo.link_file(folder / "a", profile=TINY).cid
    times = (folder / "a").stat()
    (folder / "a").write_bytes(b"something else")
    assert kept(repo, cid).problem == "changed"
    (folder / "a").write_bytes(DATA)
    os.utime(folder / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert repo.find_file(cid) == folder / "a"
    assert kept(repo, cid).whole


def test_a_part_is_listed(repo: Repo, folder: Path, tmp_path: Path) -> None:
    """A file being loaded is partial, with what is here of it; it goes like everything, but not while it is loaded."""
    with Repo.open(tmp_path / "other") as other:
        cid = other.store_file(folder / "a", profile=TINY).cid
    repo.inventory.name(cid, Label("coming.bin"))
    with repo.download(cid) as download:
        download.allocate(len(DATA))
        download.write(0, DATA[:5000])
        root = kept(repo, cid)
        assert (root.how, root.size, root.whole, root.labels) == (0, len(DATA), False, (Label("coming.bin"),))
        assert 0 < root.here <= len(DATA)
        with pytest.raises(RepoBusy, match="being loaded"):
            repo.removal.remove(root)
    repo.removal.remove(kept(repo, cid))
    assert repo.inventory.roots() == []
    assert list((repo.directory / "partial").iterdir()) == []


# --- the catalog lost, or older --------------------------------------------------------------------------------------


def test_labels_survive_a_lost_catalog(repo: Repo, folder: Path) -> None:
    """Labels, and what was loaded, come back; what was removed does not; what nothing tells of counts as stored."""
    file = repo.store_file(folder / "a", profile=TINY, label="mine")
    repo.store_directory(folder, profile=TINY)
    value = repo.store_value(b"value")
    repo.inventory.loaded(value.cid, Label("loaded"))
    unlabelled = repo.store_value(b"no label")
    gone = repo.store_value(b"gone", label="gone")
    repo.removal.remove(kept(repo, gone.cid))
    repo.close()
    for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
        (repo.directory / name).unlink(missing_ok=True)
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as again:
        found = {(root.cid, root.how, root.labels) for root in again.inventory.roots()}
        assert {(each[1], each[2]) for each in found if each[0] == file.cid} == {(STORED, (Label("mine", given=True),))}
        assert (unlabelled.cid, STORED, ()) in found
        assert {(how, labels) for cid, how, labels in found if cid == value.cid} == {
            (STORED | LOADED, (Label("loaded"),))
        }
        assert len(found) == 4
        assert all(root.whole for root in again.inventory.roots())


def test_a_damaged_line_of_labels(repo: Repo, folder: Path) -> None:
    """It is passed over, and the half line of a crash does not take the next one with it."""
    records = repo.inventory.records
    repo.store_file(folder / "a", profile=TINY, label="first")
    records.path.write_bytes(records.path.read_bytes() + b'12345678 {"cid": "half')
    repo.store_value(b"value", label="second")
    found, damaged = records.read()
    assert [record.label for record in found] == ["first", "second"]
    assert damaged == 1


def test_labels_are_tidied(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no longer holds is left out when the file has grown."""
    from kachery_p2p.repo import labels

    monkeypatch.setattr(labels, "LABEL_BYTES", 1000)
    for number in range(20):
        cid = repo.store_value(b"%d" % number, label=f"label {number}").cid
        if number:
            repo.removal.remove(kept(repo, cid))
    before = repo.inventory.records.path.stat().st_size
    repo.removal.tidy()
    assert repo.inventory.records.path.stat().st_size < before // 5
    assert [record.label for record in repo.inventory.records.read()[0]] == ["label 0"]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_older_catalog(repo: Repo, folder: Path, version: int) -> None:
    """What is in no folder was stored or linked by itself; opening it again changes nothing."""
    repo.store_directory(folder, profile=TINY)
    repo.store_value(b"value")
    repo.link_file(folder / "a", profile=TINY)
    other = repo.store_file(folder.parent / "folder" / "sub" / "b").cid
    repo.close()
    (repo.directory / "labels.txt").unlink()
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.executescript(f"DROP TABLE kept; DROP TABLE labels; DROP TABLE going; PRAGMA user_version={version}")
    for _ in range(2):
        with Repo.open(repo.directory) as again:
            found = {(root.directory, root.how) for root in again.inventory.roots()}
            # The linked file and `b` are in the folder, and nothing says that they were stored by themselves.
            assert found == {(True, STORED), (False, STORED)}
            assert again.inventory.get(other) is None
            assert again.verify() == []


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_removal_waits_for_stores(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes while something is stored; whoever waits too long is told, and two that store do not wait."""
    cid = repo.store_value(b"value").cid
    lock = RemovalLock(repo.directory)
    with lock.adding():
        assert repo.store_value(b"another").size == 7
        monkeypatch.setattr(lock_module, "LOCK_POLL_SECONDS", 0.001)
        with pytest.raises(RepoBusy, match="being stored"), RemovalLock(repo.directory).removing(0.01):
            pass
        done = threading.Thread(target=lambda: repo.removal.remove(kept(repo, cid)))
        done.start()
    done.join(60)
    assert repo.inventory.get(cid) is None


def test_stored_again_meanwhile(repo: Repo) -> None:
    """What was looked at, and was stored or labelled since, is not removed."""
    cid = repo.store_value(b"value").cid
    before = kept(repo, cid)
    repo.store_value(b"value", label="mine")
    with pytest.raises(RepoBusy, match="again"):
        repo.removal.remove(before)
    assert kept(repo, cid).given


def test_a_directory_that_was_moved_away(repo: Repo) -> None:
    """A program that has a directory open which is another one by now does not write to the wrong one."""
    os.rename(repo.directory, repo.directory.with_name("elsewhere"))
    with Repo.open(repo.directory):
        pass
    with pytest.raises(RepoError, match="was moved or replaced"):
        repo.store_value(b"value")


def test_a_loaded_folder_of_which_a_file_was_removed(repo: Repo, folder: Path, tmp_path: Path) -> None:
    """It is not kept as if it were whole: the load goes on for what is missing."""
    with Repo.open(tmp_path / "other") as other:
        cid = other.store_directory(folder, profile=TINY).cid
        nodes = other.get_nodes(list(other.inventory.members(cid).nodes))
        repo.put_blocks((CID(1, 0x70, multihash), block) for multihash, block in nodes.items())
    with pytest.raises(RemovedMeanwhile):
        repo.keep_directory(cid)
    assert repo.inventory.get(cid) is None


# --- removing --------------------------------------------------------------------------------------------------------


def test_what_others_share_stays(repo: Repo, folder: Path, tmp_path: Path) -> None:
    """A file goes with the last that has it: two folders, and itself."""
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "c").write_bytes(DATA)
    cid = repo.store_file(folder / "a", profile=TINY).cid
    first = repo.store_directory(folder, profile=TINY).cid
    second = repo.store_directory(tmp_path / "second", profile=TINY).cid
    assert repo.removal.remove(kept(repo, cid)).shared == 1
    assert repo.inventory.get(cid) is None
    done = repo.removal.remove(kept(repo, first))
    assert (done.files, done.shared) == (1, 1)
    path = repo.find_file(cid)
    assert path is not None
    assert path.read_bytes() == DATA
    assert repo.removal.remove(kept(repo, second)).files == 1
    assert repo.find_file(cid) is None
    assert repo.stats.blocks == 0
    assert list(repo.all_multihashes()) == []
    assert not any((repo.directory / "ipfs").iterdir())


def test_a_linked_file_is_only_forgotten(repo: Repo, folder: Path) -> None:
    """The user's own file stays as it is, and none of its blocks is served any more."""
    cid = repo.link_file(folder / "a", profile=TINY).cid
    assert repo.removal.loses(kept(repo, cid)) == []
    repo.removal.remove(kept(repo, cid))
    assert (folder / "a").read_bytes() == DATA
    assert repo.get_block(cid.multihash) is None
    assert repo.inventory.records.read()[0] == []


def test_what_would_be_lost(repo: Repo, folder: Path) -> None:
    """Copies, but for those of which the user has the file, unchanged, and those that are no copies any more."""
    stored = repo.store_file(folder / "a", profile=TINY)
    assert repo.removal.loses(kept(repo, stored.cid)) == [(stored.cid, len(DATA))]
    repo.link_file(folder / "a", profile=TINY)
    assert repo.removal.loses(kept(repo, stored.cid)) == []
    (folder / "a").write_bytes(b"other")
    assert repo.removal.loses(kept(repo, stored.cid)) == [(stored.cid, len(DATA))]
    os.unlink(stored.path)
    assert repo.removal.loses(kept(repo, stored.cid)) == []
    empty = repo.store_bytes(b"")
    assert repo.removal.loses(kept(repo, empty.cid)) == []


def test_the_sample_is_of_all_of_it(repo: Repo, folder: Path) -> None:
    """A small thing is asked about as a whole; of a large one so many blocks, the root always among them."""
    cid = repo.store_directory(folder, profile=TINY).cid
    everything = set(repo.all_multihashes())
    blocks, proofs = repo.removal.sample(kept(repo, cid), 256, 8)
    assert {each.multihash for each in blocks} == everything
    assert proofs[0] == cid
    assert len(proofs) == 9
    assert {each.multihash for each in proofs} <= everything
    blocks, proofs = repo.removal.sample(kept(repo, cid), 4, 2)
    assert len(blocks) == 5
    assert len(proofs) == 3


def test_usage_adds_up(repo: Repo, folder: Path) -> None:
    """Stored, loaded and linked are told apart, and a file that is there for two reasons is counted once."""
    repo.store_directory(folder, profile=TINY)
    value = repo.store_value(b"value")
    with repo._catalog.write() as db:
        db.execute("UPDATE kept SET how = ? WHERE key = ?", (LOADED, bytes(value.cid.to_v1())))
    repo.link_file(folder / "a", profile=TINY)
    rows = {row.what: (row.files, row.bytes) for row in repo.usage.read()}
    assert rows["stored"] == (2, len(DATA) + 1)
    assert rows["loaded"] == (1, 5)
    assert rows["linked"] == (1, len(DATA))
    assert rows["unlisted"] == (0, 0)


def test_compaction_while_others_read_and_write(repo: Repo) -> None:
    """Values are read by threads of another repo while their packs are compacted, and new ones come."""
    cids = [repo.store_value(b"value %d" % number * 100).cid for number in range(200)]
    for cid in cids[::2]:
        repo.removal.remove(kept(repo, cid))
    wrong: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for number in range(1, 200, 2):
                if other.packed_file(cids[number]) != b"value %d" % number * 100:
                    wrong.append(number)

    with Repo.open(repo.directory) as other:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        new = [other.store_value(b"new %d" % number).cid for number in range(5)]
        assert repo.removal.tidy() > 40_000
        stop.set()
        for reader in readers:
            reader.join(60)
        assert wrong == []
        assert [other.packed_file(cid) for cid in new] == [b"new %d" % number for number in range(5)]
    assert repo.verify() == []
    assert kept(repo, cids[1]).whole
