"""Looking after a repo: verify, quarantine, remove, sweep, adopt, rebuild."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.errors import DamagedFile, RepoError, UnsupportedCID
from kachery_p2p.repo import Repo
from kachery_p2p.repo.limits import TASK_BYTES
from tests.helpers.profiles import custom_profile
from tests.helpers.repo_helpers import is_directory

TINY = custom_profile(chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(9_500)
LARGE = random.Random(2).randbytes(2 * TASK_BYTES + 99)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def flip(path: Path, at: int) -> None:
    """Change one bit as a failing disk does: without a trace in the file's times."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as out:
        out.seek(at)
        byte = out.read(1)
        out.seek(at)
        out.write(bytes([byte[0] ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_verify_finds_nothing_where_nothing_is_wrong(repo: Repo, tmp_path: Path) -> None:
    """Everything of a sound repo passes, and progress ends at the sum of all sizes."""
    (tmp_path / "linked").write_bytes(DATA)
    sizes = [
        repo.store_bytes(LARGE).size,
        repo.store_bytes(b"").size,
        repo.store_bytes(b"small", profile="unixfs-v0-2015").size,
        repo.store_bytes(DATA, profile=custom_profile("unixfs-v0-2015", chunk_size=100, width=3)).size,
        repo.link_file(tmp_path / "linked", profile=TINY).size,
    ]
    seen: list[tuple[int, int]] = []
    assert repo.verify(progress=lambda done, total: seen.append((done, total))) == []
    assert seen == sorted(seen)
    assert seen[-1] == (sum(sizes), sum(sizes))


@pytest.mark.parametrize("at", [0, TASK_BYTES + 5, len(LARGE) - 1], ids=["first", "middle", "last"])
def test_verify_finds_a_flipped_bit(repo: Repo, at: int) -> None:
    """One wrong bit, which size and time do not betray, is found; the file is named, kept, and not served any more."""
    good = repo.store_bytes(DATA)
    bad = repo.store_bytes(LARGE)
    flip(bad.path, at)
    (problem,) = repo.verify()
    assert (problem.cid, problem.path, problem.what) == (bad.cid, bad.path, "damaged")
    assert str(bad.path) in problem.detail
    assert bad.path.exists()
    with pytest.raises(DamagedFile):
        repo.find_file(bad.cid)
    assert repo.get_block(sha256_multihash(LARGE[: 1 << 20])) is None
    assert repo.find_file(good.cid) == good.path
    flip(bad.path, at)
    assert repo.verify() == []
    assert repo.find_file(bad.cid) == bad.path


def test_verify_names_changed_and_missing_files(repo: Repo, tmp_path: Path) -> None:
    """Changed and missing linked files, and a missing copy of ours, are each said for what they are."""
    for name in ("changed", "missing", "sound"):
        (tmp_path / name).write_bytes(DATA + name.encode())
        repo.link_file(tmp_path / name)
    gone = repo.store_bytes(b"gone")
    gone.path.unlink()
    (tmp_path / "changed").write_bytes(DATA)
    (tmp_path / "missing").unlink()
    problems = {problem.path: problem.what for problem in repo.verify()}
    assert problems == {tmp_path / "changed": "changed", tmp_path / "missing": "missing", gone.path: "missing"}
    states = {entry.path: entry.state for entry in repo.list_files()}
    assert states == {
        tmp_path / "changed": "changed",
        tmp_path / "missing": "missing",
        tmp_path / "sound": "ok",
        gone.path: "missing",
    }


def test_verify_of_named_roots(repo: Repo) -> None:
    """Only what is named is looked at, and what is named but not here is said."""
    one, two = repo.store_bytes(b"one"), repo.store_bytes(b"two")
    flip(one.path, 0)
    assert repo.verify([two.cid]) == []
    unknown = CID(1, RAW, sha256_multihash(b"unknown"))
    assert [(p.cid, p.what) for p in repo.verify([unknown, one.cid])] == [(unknown, "missing"), (one.cid, "damaged")]


def test_verify_of_a_directory_looks_at_its_files(repo: Repo, tmp_path: Path) -> None:
    """Verifying a directory verifies the files in and below it."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(b"a")
    (tmp_path / "folder" / "sub" / "b").write_bytes(DATA)
    (tmp_path / "folder" / "link").symlink_to("a")
    folder = repo.store_directory(tmp_path / "folder", profile=TINY)
    elsewhere = repo.store_bytes(b"elsewhere")
    flip(elsewhere.path, 0)
    assert repo.verify([folder.cid]) == []
    flip(repo.store_bytes(DATA, profile=TINY).path, 7)
    (problem,) = repo.verify([folder.cid])
    assert problem.what == "damaged"


def spoil_root_node(repo: Repo, cid: CID) -> None:
    with repo._catalog.write() as db:
        db.execute("UPDATE blocks SET data = zeroblob(10) WHERE multihash = ?", (cid.multihash,))


def test_verify_finds_and_mends_wrong_blocks_in_the_catalog(repo: Repo) -> None:
    """An inner node that went bad in the catalog is found, and made again from the file where that is possible."""
    for profile in (TINY, None, "unixfs-v0-2015"):
        stored = repo.store_bytes(LARGE[:3_000_000], profile=profile or "unixfs-v1-2025")
        spoil_root_node(repo, stored.cid)
        assert [(problem.cid, problem.what) for problem in repo.verify()] == [(stored.cid.to_v1(), "damaged")]
        assert repo.verify() == []
        assert repo.get_node(stored.cid.multihash) is not None


def test_verify_does_not_blame_the_file_for_a_lost_node(repo: Repo) -> None:
    """When a node went bad that nothing can make again, the file is not called damaged, for nobody can tell; from its
    record it can be made again."""
    stored = repo.store_bytes(DATA, profile=TINY)
    with repo._catalog.write() as db:
        db.execute("UPDATE roots SET profile = NULL")
    record = repo._placer.nodes.path_for(stored.cid)
    content = record.read_bytes()
    record.unlink()
    spoil_root_node(repo, stored.cid)
    assert [problem.what for problem in repo.verify()] == ["damaged", "missing", "unknown"]
    assert [entry.state for entry in repo.list_files()] == ["ok"]
    record.write_bytes(content)
    assert [problem.what for problem in repo.verify()] == ["damaged"]
    assert repo.verify() == []


def test_file_without_rows_is_adopted_when_asked_for(repo: Repo) -> None:
    """A crash after the rename, before the rows: the file is found, and then served as if nothing had been."""
    for data, profile in (
        (b"small", None),
        (b"small", "unixfs-v0-2015"),
        (LARGE, None),
        (LARGE, "unixfs-v0-2015"),
        (DATA, TINY),
        (b"", None),
    ):
        stored = repo.store_bytes(data, profile=profile)
        if profile is not TINY:
            forget_everything(repo)
        else:
            forget_everything(repo, but="blocks")
        assert repo.list_files() == []
        assert repo.find_file(stored.cid) == stored.path
        assert repo.get_block(sha256_multihash(data[:1000])) == data[:1000] or profile is not TINY
        assert repo.has_block(stored.cid.multihash) is not None
        assert repo.verify() == []


def forget_everything(repo: Repo, but: str = "") -> None:
    with repo._catalog.write() as db:
        for table in {"leaves", "files", "roots", "blocks"} - {but}:
            db.execute(f"DELETE FROM {table}")


def test_wrong_file_without_rows_is_not_adopted(repo: Repo) -> None:
    """A file under ipfs/ whose bytes are not those of its name is refused, whoever put it there."""
    for cid in (
        CID(1, RAW, sha256_multihash(b"right")),
        CID(1, DAG_PB, sha256_multihash(b"right")),
        CID(0, DAG_PB, sha256_multihash(b"right")),
    ):
        path = repo.path_for(cid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"wrong")
        with pytest.raises(DamagedFile, match=str(cid)):
            repo.find_file(cid)
        assert repo.list_files() == []
        assert path.exists()


def test_all_unknown_files_are_adopted(repo: Repo) -> None:
    """After the loss of all rows, adopt_unknown finds every file again, and says which are wrong."""
    stored = [repo.store_bytes(b"%d" % i) for i in range(20)] + [repo.store_bytes(LARGE)]
    flip(stored[3].path, 0)
    forget_everything(repo)
    (repo.directory / "ipfs" / "notes.txt").write_bytes(b"somebody's notes")
    problems = repo.adopt_unknown()
    assert [problem.cid for problem in problems] == [stored[3].cid]
    assert {entry.cid for entry in repo.list_files()} == {s.cid for s in stored} - {stored[3].cid}
    assert repo.adopt_unknown() == problems


def test_remove_deletes_our_copy_and_keeps_linked_files(repo: Repo, tmp_path: Path) -> None:
    """A removed root is gone from disk and catalog; a linked file is only forgotten."""
    path = tmp_path / "linked"
    path.write_bytes(DATA)
    repo.link_file(path, profile=TINY)
    stored = repo.store_bytes(DATA, profile=TINY)
    other = repo.store_bytes(b"other")
    assert repo.remove(stored.cid)
    assert not stored.path.exists()
    assert path.read_bytes() == DATA
    assert repo.find_file(stored.cid) is None
    assert repo.get_block(sha256_multihash(DATA[:1000])) is None
    assert [entry.cid for entry in repo.list_files()] == [other.cid]
    assert not repo.remove(stored.cid)


def test_sweep_keeps_what_is_reached(repo: Repo, tmp_path: Path) -> None:
    """Sweep drops inner nodes of removed roots, and none that a root, a directory or a partial file needs."""
    (tmp_path / "folder").mkdir()
    for i in range(5):
        (tmp_path / "folder" / str(i)).write_bytes(DATA[i * 1000 :])
    kept = repo.store_bytes(DATA, profile=TINY)
    folder = repo.store_directory(tmp_path / "folder", profile=TINY)
    removed = repo.store_bytes(LARGE, profile=TINY.__class__("x", chunk_size=100_000, width=3))
    blocks = repo.stats.blocks
    assert repo.sweep(min_age=-1) == (0, 0)
    repo.remove(removed.cid)
    partial = repo.download(removed.cid)
    assert repo.sweep(min_age=-1) == (0, 0)
    partial.close()
    partial.path.unlink()
    assert repo.sweep(min_age=3600) == (0, 0)
    dropped, size = repo.sweep(min_age=-1)
    assert dropped > 50
    assert size > 5000
    assert repo.stats.blocks == blocks - dropped
    assert repo.verify([kept.cid, folder.cid]) == []
    assert repo.verify() == []


def test_quarantine_of_nothing(repo: Repo) -> None:
    """There is nothing to move for a root that is not here."""
    assert repo.quarantine(CID(1, RAW, sha256_multihash(b"unknown"))) is None


def test_list_and_stats(repo: Repo, tmp_path: Path) -> None:
    """The list names every place of every root, oldest first; the statistics count them."""
    begun = time.time()
    (tmp_path / "linked").write_bytes(DATA)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a")
    linked = repo.link_file(tmp_path / "linked")
    stored = repo.store_bytes(DATA)
    old = repo.store_bytes(b"v0", profile="unixfs-v0-2015")
    folder = repo.store_directory(tmp_path / "folder")
    listed = repo.list_files()
    assert [(e.cid, e.kind, e.linked, e.size) for e in listed] == [
        (stored.cid, "file", False, len(DATA)),
        (linked.cid, "file", True, len(DATA)),
        (old.cid, "file", False, 2),
        (CID(1, RAW, sha256_multihash(b"a")), "file", False, 1),
        (folder.cid, "directory", False, 1),
    ]
    assert listed[4].path is None
    assert all(begun <= entry.added <= time.time() for entry in listed)
    stats = repo.stats
    assert stats[:5] == (3, len(DATA) + 3, 1, len(DATA), 1)
    assert is_directory(repo, folder.cid)
    assert not is_directory(repo, stored.cid)
    assert repo.find_file(folder.cid) is None


def test_cid_too_long_for_a_name(repo: Repo) -> None:
    """An identity CID that cannot be a file name is refused in words."""
    with pytest.raises(UnsupportedCID, match="too long"):
        repo.path_for(CID(1, RAW, b"\0\x80\x02" + bytes(256)))


# --- the catalog's file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["garbage", "cut", "pages"])
def test_damaged_catalog_is_said_and_can_be_rebuilt(tmp_path: Path, damage: str) -> None:
    """A damaged catalog is an error that says how to rebuild it; rebuilt, all files are there, and the damaged one is
    kept."""
    with Repo.open(tmp_path / "repo") as repo:
        stored = [repo.store_bytes(b"%d" % i) for i in range(50)]
        stored += [repo.store_bytes(LARGE), repo.store_bytes(LARGE, profile="unixfs-v0-2015")]
    path = tmp_path / "repo" / "catalog.sqlite"
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 3])
    else:
        path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))
    with pytest.raises(RepoError, match=r"kachery-cloud repair") as caught:
        Repo.open(tmp_path / "repo")
    assert str(path) in str(caught.value)
    assert Repo.rebuild(tmp_path / "repo") == []
    with Repo.open(tmp_path / "repo") as repo:
        assert {entry.cid for entry in repo.list_files()} == {s.cid for s in stored}
        assert repo.verify() == []
    assert [p for p in (tmp_path / "repo" / "damaged").iterdir() if p.name.startswith("catalog.sqlite")]


def test_rebuild_keeps_links_directories_and_unusual_files(tmp_path: Path) -> None:
    """What proves itself is taken over from the old catalog: links, directories, and the inner nodes of files cut in a
    way that their bytes alone do not tell."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a")
    for name in ("linked", "changed"):
        (tmp_path / name).write_bytes(DATA + name.encode())
    with Repo.open(tmp_path / "repo") as repo:
        folder = repo.store_directory(tmp_path / "folder")
        linked = repo.link_file(tmp_path / "linked", profile=TINY)
        changed = repo.link_file(tmp_path / "changed", profile=TINY)
        unusual = repo.store_bytes(LARGE, profile=custom_profile(chunk_size=77_777, width=5))
    (tmp_path / "changed").write_bytes(b"other")
    problems = Repo.rebuild(tmp_path / "repo")
    assert [(problem.cid, problem.what) for problem in problems] == [(changed.cid, "changed")]
    with Repo.open(tmp_path / "repo") as repo:
        assert repo.find_file(linked.cid) == tmp_path / "linked"
        assert repo.find_file(unusual.cid) == unusual.path
        assert is_directory(repo, folder.cid)
        assert repo.get_node(folder.cid.multihash) is not None
        assert [(problem.cid, problem.what) for problem in repo.verify()] == [(changed.cid, "changed")]
        assert repo.remove(changed.cid)
        assert repo.verify() == []


def test_catalog_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """A catalog that a later version made is not touched."""
    with Repo.open(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    db.execute("PRAGMA user_version=5")
    db.close()
    with pytest.raises(RepoError, match="newer version"):
        Repo.open(tmp_path)


def test_other_database_is_left_alone(tmp_path: Path) -> None:
    """An SQLite database of some other program is not taken for a catalog."""
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(RepoError, match="not a catalog"):
        Repo.open(tmp_path)
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]
    db.close()


def test_many_threads_store_at_once(repo: Repo) -> None:
    """Threads that store, look up and read at the same time do not disturb each other, and their connections end
    with them."""
    done: list[int] = []

    def work(number: int) -> None:
        for i in range(8):
            stored = repo.store_bytes(b"%d" % (i + number % 2))
            assert repo.find_file(stored.cid) == stored.path
            assert repo.get_block(stored.cid.multihash) == b"%d" % (i + number % 2)
        done.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert len(repo.list_files()) == 9
    assert len(repo._catalog._all) == 1
