"""Directories of others beneath one's own: what is found there, and what is wrong with them ends nothing."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import DamagedFile, NoPermission, RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo import layers as layers_module
from kachery_p2p.repo.layers import Layer, Opened
from tests.helpers.profiles import custom_profile

RAW_LEAVES = custom_profile(chunk_size=1000, width=4)
WRAPPED = custom_profile("unixfs-v0-2015", chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(9_500)
SMALL = b"small enough for a pack"


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as opened:
        yield opened


@pytest.fixture
def mine(tmp_path: Path, theirs: Repo) -> Iterator[Repo]:
    with Repo.open(tmp_path / "mine", layers=[theirs.directory]) as opened:
        yield opened


def all_of(directory: Path) -> list[tuple[str, int, int]]:
    """Everything in a folder, with what shows a change."""
    return sorted(
        (str(path), status.st_mtime_ns, status.st_size)
        for path in (directory, *directory.rglob("*"))
        if (status := path.lstat())
    )


def test_a_whole_file_is_used_where_it_lies(theirs: Repo, mine: Repo) -> None:
    """The path is in the layer, nothing is copied, and the layer is not changed, though this user may write to it."""
    cid = theirs.store_bytes(DATA, profile=RAW_LEAVES).cid
    small = theirs.store_value(SMALL).cid
    before = all_of(theirs.directory)
    path = mine.find_file(cid)
    assert path is not None
    assert path.is_relative_to(theirs.directory)
    assert path.read_bytes() == DATA
    assert mine.file_size(cid) == len(DATA)
    assert mine.packed_file(small) == SMALL
    unpacked = mine.find_file(small)
    assert unpacked is not None
    assert not unpacked.is_relative_to(theirs.directory)
    assert unpacked.read_bytes() == SMALL
    assert {found: file.read() for found, file in mine.many.packed([small, cid]).items()} == {small: SMALL}
    assert mine.list_files() == []
    assert all_of(theirs.directory) == before


def test_own_comes_first(theirs: Repo, mine: Repo) -> None:
    """What is in one's own directory is used from there."""
    cid = theirs.store_bytes(DATA).cid
    mine.store_bytes(DATA)
    path = mine.find_file(cid)
    assert path is not None
    assert path.is_relative_to(mine.directory)


def test_a_damaged_copy_of_ones_own_does_not_matter(theirs: Repo, mine: Repo) -> None:
    """Where a layer has the file, it is used; without a layer, the damage is said."""
    cid = theirs.store_bytes(DATA).cid
    path = mine.store_bytes(DATA).path
    assert path is not None
    os.chmod(path, 0o644)
    path.write_bytes(b"x" * len(DATA))
    found = mine.find_file(cid)
    assert found is not None
    assert found.is_relative_to(theirs.directory)
    mine.put_beneath([])
    with pytest.raises(DamagedFile):
        mine.find_file(cid)


def test_own_is_what_others_are_given(theirs: Repo, mine: Repo) -> None:
    """What lies in a layer alone is found for this user, and is not among what the node serves and announces."""
    cid = theirs.store_bytes(DATA, profile=RAW_LEAVES).cid
    assert mine.has_block(cid.multihash)
    assert mine.get_block(cid.multihash) == theirs.get_block(cid.multihash)
    assert mine.file_part(cid) is not None
    assert mine.own.has_block(cid.multihash) is None
    assert mine.own.get_block(cid.multihash) is None
    assert mine.own.block_sizes([cid.multihash]) == {}
    assert mine.own.file_nodes.get(cid) is None
    assert list(mine.roots()) == list(mine.all_multihashes()) == []
    assert mine.roots_among([cid.multihash]) == set()


@pytest.mark.parametrize("profile", [RAW_LEAVES, WRAPPED])
def test_what_is_there_in_part_is_not_fetched(theirs: Repo, mine: Repo, tmp_path: Path, profile: Profile) -> None:
    """Blocks that a layer has of a partial file are taken from there; only the others are fetched."""
    with Repo.open(tmp_path / "source") as source:
        cid = source.store_bytes(DATA, profile=profile).cid
        fetch(theirs, source, cid, stop_after=5)
        there = [path for path in theirs.directory.joinpath("partial").iterdir() if path.stat().st_size]
        assert there
        before = all_of(theirs.directory)
        fetched = fetch(mine, source, cid)
        with Repo.open(tmp_path / "alone") as alone:
            needed = fetch(alone, source, cid)
    assert len(fetched) == len(needed) - 5
    found = mine.own.find_file(cid)
    assert found is not None
    assert found.read_bytes() == DATA
    assert all_of(theirs.directory) == before


def fetch(repo: Repo, source: Repo, cid: CID, *, stop_after: int = 10**9) -> list[CID]:
    """Load a file as the node does, taking blocks from another repo. Returns the CIDs that had to be fetched."""
    walk = FileWalk(cid)
    fetched: list[CID] = []
    with repo.download(cid) as download:
        while not walk.finished:
            refs = walk.take(7)
            for ref, present in zip(refs, download.has(refs), strict=True):
                if present:
                    walk.skip(ref)
                    continue
                block = repo.get_block(ref.cid.multihash)
                if block is None:
                    if len(fetched) >= stop_after:
                        return fetched
                    block = source.get_block(ref.cid.multihash)
                    fetched.append(ref.cid)
                assert block is not None
                pieces = walk.feed(ref, block)
                if ref.length is None:
                    assert walk.size is not None
                    download.allocate(walk.size)
                download.accept(ref, block, pieces)
        assert walk.size is not None
        download.finish(walk.size)
    return fetched


def test_wrong_bytes_in_a_layer_are_not_used(theirs: Repo, mine: Repo, tmp_path: Path) -> None:
    """A changed file there is not given out, nor its wrong blocks; the right ones of it are."""
    stored = theirs.store_bytes(DATA, profile=RAW_LEAVES)
    assert stored.path is not None
    os.chmod(stored.path, 0o644)
    with open(stored.path, "r+b") as file:
        file.seek(2_500)
        file.write(b"other")
    assert mine.find_file(stored.cid) is None
    with Repo.open(tmp_path / "source") as source:
        source.store_bytes(DATA, profile=RAW_LEAVES)
        fetched = fetch(mine, source, stored.cid)
    assert len(fetched) == 1
    found = mine.own.find_file(stored.cid)
    assert found is not None
    assert found.read_bytes() == DATA


def test_a_list_that_lies(theirs: Repo, mine: Repo, tmp_path: Path) -> None:
    """Blocks are hashed before they are copied, whatever the catalog of the layer says of their file."""
    stored = theirs.store_bytes(DATA, profile=RAW_LEAVES)
    assert stored.path is not None
    os.chmod(stored.path, 0o644)
    stored.path.write_bytes(b"x" * len(DATA))
    status = stored.path.stat()
    theirs.close()
    with closing(sqlite3.connect(theirs.directory / "catalog.sqlite")) as db:
        db.execute(
            "UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, state = 0",
            (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino),
        )
        db.commit()
    with Repo.open(tmp_path / "source") as source:
        source.store_bytes(DATA, profile=RAW_LEAVES)
        leaves = [each for each in source.all_multihashes() if source.get_node(each) is None]
        assert len(leaves) == 10
        assert [mine.get_block(each) for each in leaves] == [None] * 10
        assert mine.get_blocks(leaves) == {}
        assert len(fetch(mine, source, stored.cid)) == 10
    found = mine.own.find_file(stored.cid)
    assert found is not None
    assert found.read_bytes() == DATA


def test_the_layer_grows_meanwhile(theirs: Repo, mine: Repo) -> None:
    """What its owner stores or removes while it is open here is seen at once."""
    assert mine.find_file(theirs.store_bytes(b"first" * 10_000).cid)
    cid = theirs.store_bytes(b"second" * 10_000).cid
    assert mine.find_file(cid)
    theirs.remove(cid)
    assert mine.find_file(cid) is None
    cid = theirs.store_bytes(b"third" * 10_000).cid
    theirs.close()
    assert mine.find_file(cid)


def test_in_use_on_another_machine(theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network file system the other machine's locks and shared memory are not used; what it stores is seen."""
    monkeypatch.setattr("kachery_p2p.repo.remaking.network_file_system", lambda directory: "nfs4")
    monkeypatch.setattr(layers_module, "network_file_system", lambda directory: "nfs4")
    first = theirs.store_bytes(b"first" * 10_000).cid
    theirs._catalog.let_go()  # its log is written back
    opened: list[str] = []
    connect = sqlite3.connect

    def noting(database: str, *args: object, **kwargs: object) -> object:
        opened.append(str(database))
        return connect(database, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", noting)
    with Repo.open(tmp_path / "mine", layers=[theirs.directory]) as mine:
        assert mine.find_file(first)
        second = theirs.store_bytes(b"second" * 10_000).cid
        if hasattr(
            sqlite3.Connection, "setconfig"
        ):  # else, whoever may write there sees it when the log is written back
            assert mine.find_file(second)
        theirs.close()
        assert mine.find_file(second)
    ways = [each.partition("?")[2] for each in opened if str(theirs.directory) in each]
    assert ways
    assert all("unix-none" in way or "immutable" in way for way in ways if way)


def test_its_own_directory_is_no_layer(tmp_path: Path) -> None:
    """A list for all of a lab may name one's own directory, also by another path."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "mine")
    with Repo.open(tmp_path / "mine", layers=[tmp_path / "mine", tmp_path / "other"]) as mine:
        assert mine.layers.first(lambda contents: contents) is None
        assert mine.layers.states() == []
        assert mine.find_file(mine.store_bytes(DATA).cid)


def spoil(directory: Path, how: str) -> None:
    catalog = directory / "catalog.sqlite"
    if how == "missing":
        shutil.rmtree(directory)
    elif how == "not mounted":
        shutil.rmtree(directory)
        directory.mkdir()
    elif how == "corrupt":
        catalog.write_bytes(b"no database " * 700)
    elif how == "newer":
        with closing(sqlite3.connect(catalog)) as db:
            db.execute("PRAGMA user_version=99")
    elif how == "a file":
        shutil.rmtree(directory)
        directory.write_text("x")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "not there"),
        ("not mounted", "no data directory"),
        ("corrupt", "damaged"),
        ("newer", "format 99"),
        ("a file", "not there"),
    ],
)
def test_what_is_wrong_is_said_once(
    tmp_path: Path, theirs: Repo, how: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer that cannot be used ends no look-up; one line names it and says why, and so does its state."""
    cid = theirs.store_bytes(DATA).cid
    theirs.close()
    good = tmp_path / "good"
    shutil.copytree(theirs.directory, good)
    spoil(theirs.directory, how)
    with caplog.at_level(logging.WARNING), Repo.open(tmp_path / "mine", layers=[theirs.directory, good]) as mine:
        for _ in range(3):
            path = mine.find_file(cid)
            assert path is not None
            assert path.is_relative_to(good)
        first, second = mine.layers.states()
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(theirs.directory) in line
    assert says in line
    assert "loads go on" in line
    assert first.problem == line
    assert first.stats is None
    assert second.problem == ""
    assert second.stats is not None
    assert second.stats.files == 1


def test_it_comes_back(tmp_path: Path, theirs: Repo) -> None:
    """A layer that was not there is tried again after a rest."""
    cid = theirs.store_bytes(DATA).cid
    theirs.close()
    away = tmp_path / "away"
    theirs.directory.rename(away)
    layer = Layer(theirs.directory, Repo.open_to_read, rest=0.0)
    assert layer.look(lambda opened: opened.own.find_file(cid)) is None
    assert "not there" in layer.problem
    away.rename(theirs.directory)
    assert layer.look(lambda opened: opened.own.find_file(cid)) is not None
    assert layer.problem == ""
    layer.close()


def test_it_rests(tmp_path: Path) -> None:
    """What is wrong is not looked at again by each look-up."""
    tried: list[Path] = []

    def broken(directory: Path) -> Opened:
        tried.append(directory)
        raise RepoError("It is broken.")

    layer = Layer(tmp_path, broken)
    for _ in range(5):
        assert layer.look(lambda opened: opened.own) is None
    assert tried == [tmp_path]


def test_a_server_that_does_not_answer(tmp_path: Path, theirs: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs is given up, and not asked again during the rest; nothing waits for it at the end."""
    monkeypatch.setattr(layers_module, "network_file_system", lambda directory: "nfs4")
    cid = theirs.store_bytes(DATA).cid
    hanging, asked = threading.Event(), threading.Event()
    layer = Layer(theirs.directory, Repo.open_to_read, silence=0.05)
    assert layer.look(lambda opened: opened.own.find_file(cid)) is not None

    def never(*args: object) -> None:
        asked.set()
        hanging.wait(60)

    monkeypatch.setattr(os, "statvfs", never)
    monkeypatch.setattr(layers_module, "LAYER_PROBE_SECONDS", -1.0)
    assert layer.look(lambda opened: opened.own.find_file(cid)) is None
    assert asked.is_set()
    assert "does not answer" in layer.problem
    asked.clear()
    assert layer.look(lambda opened: opened.own.find_file(cid)) is None
    assert not asked.is_set()
    layer.close()
    hanging.set()


def test_slow_is_not_silent(theirs: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long, such as hashing a large file, goes on as long as the file system answers."""
    monkeypatch.setattr(layers_module, "network_file_system", lambda directory: "nfs4")
    layer = Layer(theirs.directory, Repo.open_to_read, silence=0.01)
    assert layer.look(lambda opened: True)
    probed = threading.Semaphore(0)
    statvfs = os.statvfs

    def noted(path: Path) -> os.statvfs_result:
        probed.release()
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", noted)

    def slow(opened: Opened) -> bool:
        for _ in range(3):
            assert probed.acquire(timeout=60)
        return True

    assert layer.look(slow)
    layer.close()


def test_a_copied_layer_is_hashed_once(theirs: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a directory has other inodes than its catalog says: each file is hashed once in a process."""
    cid = theirs.store_bytes(DATA).cid
    theirs.close()
    shutil.copytree(theirs.directory, tmp_path / "copy")
    hashed: list[object] = []
    with Repo.open(tmp_path / "mine", layers=[tmp_path / "copy"]) as mine:
        check = layers_contents_check(mine, hashed)
        for _ in range(3):
            assert mine.find_file(cid)
    assert check
    assert len(hashed) == 1


def layers_contents_check(mine: Repo, hashed: list[object]) -> bool:
    """Note each file that is hashed in the first layer."""
    (layer,) = mine.layers
    contents = layer.look(lambda opened: opened.own)
    assert contents is not None
    checker = contents._checker
    check = checker.check

    def noting(*args: object, **kwargs: object) -> object:
        hashed.append(args)
        return check(*args, **kwargs)  # type: ignore[arg-type]

    checker.check = noting  # type: ignore[method-assign, assignment]
    return True


def test_nothing_is_written_through_a_layer(theirs: Repo) -> None:
    """One that is opened as a layer refuses all that would change it, whoever may write to it."""
    theirs.store_bytes(DATA)
    with Repo.open_to_read(theirs.directory) as opened:
        for work in (
            lambda: opened.store_bytes(b"x"),
            lambda: opened.sweep(),
            lambda: opened.quarantine(theirs.store_bytes(DATA).cid),
        ):
            with pytest.raises(NoPermission):
                work()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_over_a_fork(theirs: Repo, mine: Repo) -> None:
    """The connections of layers are closed before a fork, and both sides go on."""
    cid = theirs.store_bytes(DATA).cid
    assert mine.find_file(cid)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if mine.find_file(cid) and mine.get_block(cid.multihash) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert mine.find_file(cid)
