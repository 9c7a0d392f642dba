"""The second place: whatever happens to the catalog, the loss is said, and a repair brings every root back."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.nodes import drive, symlink_target
from kachery_p2p.dag.profiles import UNIXFS_V1_2025
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import NotADirectory, RepoBusy, RepoError
from kachery_p2p.repo import NodeLock, Repo
from tests.helpers.profiles import custom_profile
from tests.helpers.repo_helpers import is_directory

LARGE = random.Random(7).randbytes(5_300_000)
# Many levels, and folders that are split into shards at a few entries.
DEEP = custom_profile("unixfs-v0-2015", chunk_size=10_000, width=3)
SHARDED = replace(UNIXFS_V1_2025, shard_threshold=500, hamt_fanout=8)

CATALOG = "catalog.sqlite"


@dataclass
class Filled:
    """A data directory with a root of every kind, closed, and what each root must give."""

    directory: Path
    files: dict[CID, bytes] = field(default_factory=dict)
    folders: dict[CID, dict[str, object]] = field(default_factory=dict)
    sizes: dict[CID, int] = field(default_factory=dict)

    def check(self, repo: Repo) -> None:
        """Every root loads, and is what it was."""
        for cid, content in self.files.items():
            path = repo.find_file(cid)
            assert path is not None, cid
            assert path.read_bytes() == content
            if cid.codec == 0x70:
                assert repo.get_block(cid.multihash) is not None
        for cid, content in self.folders.items():
            assert contents(repo, cid) == content
            assert is_directory(repo, cid)
        assert {entry.cid: entry.size for entry in repo.list_files()} == self.sizes
        assert set(repo.roots()) == {cid.multihash for cid in self.sizes}


def contents(repo: Repo, cid: CID) -> dict[str, object]:
    """A directory as a tree of names, with the bytes of its files."""
    found: dict[str, object] = {}

    def blocks(cids: list[CID]) -> list[bytes]:
        here = repo.get_blocks([cid.multihash for cid in cids])
        return [here[cid.multihash] for cid in cids]

    for entry in drive(list_directory(cid), blocks):
        path = repo.find_file(entry.cid)
        if path is not None:
            found[entry.name] = path.read_bytes()
            continue
        (block,) = blocks([entry.cid])
        try:
            found[entry.name] = contents(repo, entry.cid)
        except NotADirectory:
            found[entry.name] = symlink_target(block, entry.cid)
    return found


def make_tree(folder: Path, entries: int) -> dict[str, object]:
    tree: dict[str, object] = {}
    folder.mkdir()
    for i in range(entries):
        tree[f"file {i}"] = b"%d" % (i % 20)
    tree["a long one"] = LARGE[:1_500_000]
    for name, content in tree.items():
        (folder / name).write_bytes(content)  # type: ignore[arg-type]
    (folder / "link").symlink_to("file 0")
    tree["link"] = "file 0"
    for name in ("below", "same"):
        (folder / name).mkdir()
        (folder / name / "deep").write_bytes(b"deep")
        tree[name] = {"deep": b"deep"}
    return tree


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    base = tmp_path_factory.mktemp("made")
    filled = Filled(base / "repo")
    with Repo.open(base / "other") as other, Repo.open(filled.directory) as repo:
        for data, profile in (
            (b"", None),
            (b"small", None),
            (b"small", "unixfs-v0-2015"),
            (LARGE, None),
            (LARGE, "unixfs-v0-2015"),
            (LARGE[:2_000_000], DEEP),
        ):
            filled.files[repo.store_bytes(data, profile=profile).cid] = data
        (base / "linked").write_bytes(LARGE[1:])
        filled.files[repo.link_file(base / "linked", profile=DEEP).cid] = LARGE[1:]
        odd = base / os.fsdecode(b"odd \xff name")
        odd.write_bytes(LARGE[2:])
        filled.files[repo.link_file(odd).cid] = LARGE[2:]
        # Loaded, cut in a way that its bytes do not tell.
        loaded = other.store_bytes(LARGE[3:3_000_000], profile=custom_profile(chunk_size=70_001, width=4))
        load_file(other, repo, loaded.cid)
        filled.files[loaded.cid] = LARGE[3:3_000_000]
        tree = make_tree(base / "plain", 5)
        filled.folders[repo.store_directory(base / "plain").cid] = tree
        filled.folders[repo.store_directory(base / "plain", profile="unixfs-v0-2015").cid] = tree
        tree = make_tree(base / "sharded", 100)
        filled.folders[repo.store_directory(base / "sharded", profile=SHARDED).cid] = tree
        tree = make_tree(base / "linked folder", 3)
        filled.folders[repo.store_directory(base / "linked folder", link=True).cid] = tree
        tree = make_tree(base / "of another", 60)
        theirs = other.store_directory(base / "of another", profile=SHARDED)
        load_folder(other, repo, theirs.cid)
        filled.folders[theirs.cid] = tree
        filled.sizes = {entry.cid: entry.size for entry in repo.list_files()}
        assert filled.sizes[theirs.cid] == theirs.size
        filled.check(repo)
        assert repo.verify() == []
    return filled


@pytest.fixture
def filled(made: Filled, tmp_path: Path) -> Filled:
    shutil.copytree(made.directory, tmp_path / "repo")
    return Filled(tmp_path / "repo", made.files, made.folders, made.sizes)


def load_file(source: Repo, target: Repo, cid: CID) -> None:
    walk = FileWalk(cid)
    with target.download(cid) as download:
        while not walk.finished:
            for ref in walk.take(50):
                block = source.get_block(ref.cid.multihash)
                assert block is not None
                pieces = walk.feed(ref, block)
                if ref.depth == 0:
                    download.allocate(walk.size or 0)
                download.accept(ref, block, pieces)
        download.finish(walk.size or 0)


def load_folder(source: Repo, target: Repo, cid: CID) -> None:
    """What a load of a directory leaves in the repo."""
    from kachery_p2p.repo.tree import read_tree

    tree = read_tree(cid, source.get_blocks)
    blocks = source.get_blocks(list(tree.nodes))
    target.put_blocks([(CID(1, 0x70, multihash), block) for multihash, block in blocks.items()])
    for file in tree.files:
        if file.codec == 0x70:
            load_file(source, target, file)
        else:
            path = source.find_file(file)
            assert path is not None
            target.add_small_files([(file, path.read_bytes())])
    target.keep_directory(cid)


def repaired(filled: Filled) -> None:
    assert Repo.rebuild(filled.directory) == []
    with Repo.open(filled.directory) as repo:
        filled.check(repo)
        assert repo.verify() == []
    assert not list(filled.directory.glob("repaired.*"))


def with_log(filled: Filled) -> None:
    """Leave the last commits in the log, as a process does that is killed."""
    db = filled.directory / CATALOG
    log = db.with_name(f"{CATALOG}-wal")
    with Repo.open(filled.directory) as repo:
        for i in range(30):
            repo.store_bytes(b"in the log %d" % i)
        content, logged = db.read_bytes(), log.read_bytes()
        filled.sizes = {entry.cid: entry.size for entry in repo.list_files()}
    db.write_bytes(content)
    log.write_bytes(logged)


# --- lost as a whole -----------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [remove, empty])
def test_lost_catalog_is_said_and_brought_back(filled: Filled, lose: Callable[[Path], None]) -> None:
    """A catalog that is gone or empty is never made anew over files that it listed: opening names the command, as often
    as it is tried; the command brings every root back."""
    lose(filled.directory / CATALOG)
    for _ in range(2):
        with pytest.raises(RepoError, match=r"missing or empty.* kachery-cloud repair"):
            Repo.open(filled.directory)
    repaired(filled)


@pytest.mark.parametrize("left", [0.5, 0.9])
def test_cut_catalog(filled: Filled, left: float) -> None:
    """Half a catalog is an error that names the command."""
    path = filled.directory / CATALOG
    os.truncate(path, int(path.stat().st_size * left))
    with pytest.raises(RepoError, match=r"damaged.* kachery-cloud repair"):
        Repo.open(filled.directory)
    repaired(filled)
    assert list((filled.directory / "damaged").glob(f"{CATALOG}.*"))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("target", [CATALOG, f"{CATALOG}-wal"])
def test_flipped_bytes(filled: Filled, seed: int, target: str) -> None:
    """Wrong bytes anywhere in the catalog or its log, seen by SQLite or not: a repair takes none of them over."""
    with_log(filled)
    rng = random.Random(seed)
    path = filled.directory / target
    content = bytearray(path.read_bytes())
    for _ in range(1 + seed * 5):
        # The version of the format is told apart from damage only roughly, so it is left as it is.
        content[rng.randrange(100, len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    repaired(filled)


def test_lost_log(filled: Filled) -> None:
    """When the log is gone, the catalog lacks the last commits: files are found again when they are asked for, `verify`
    names a directory that is lost, and the repair brings it back."""
    db = filled.directory / CATALOG
    before = db.read_bytes()
    folder = filled.directory.parent / "later"
    tree = make_tree(folder, 4)
    with Repo.open(filled.directory) as repo:
        stored = repo.store_directory(folder)
        linked = repo.link_file(folder / "a long one")
        sizes = {entry.cid: entry.size for entry in repo.list_files()}
    db.write_bytes(before)
    for suffix in ("-wal", "-shm"):
        db.with_name(CATALOG + suffix).unlink(missing_ok=True)
    with Repo.open(filled.directory) as repo:
        (problem,) = repo.verify()
        assert (problem.cid, problem.what) == (stored.cid, "missing")
        assert "kachery-cloud repair" in problem.detail
        assert repo.find_file(linked.cid) is not None
    filled.sizes, filled.folders = sizes, {**filled.folders, stored.cid: tree}
    repaired(filled)


def test_interrupted_repair_leaves_the_loss_visible(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that ends half-way has replaced nothing: the loss is said as before, and the next repair is whole."""
    (filled.directory / CATALOG).unlink()

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Repo.rebuild(filled.directory, progress=stop)
    with pytest.raises(RepoError, match="kachery-cloud repair"):
        Repo.open(filled.directory)
    repaired(filled)


def test_no_repair_beside_a_node(filled: Filled) -> None:
    """While a node runs nothing is replaced under it."""
    lock = NodeLock(filled.directory)
    assert lock.try_acquire()
    try:
        with pytest.raises(RepoBusy, match="Stop it"):
            Repo.rebuild(filled.directory)
    finally:
        lock.release()
    repaired(filled)


def test_newer_catalog_is_not_replaced(filled: Filled) -> None:
    """A sound catalog of a later version is not repaired away."""
    db = sqlite3.connect(filled.directory / CATALOG)
    db.execute("PRAGMA user_version=5")
    db.close()
    with pytest.raises(RepoError, match="newer version"):
        Repo.rebuild(filled.directory)


# --- the second place itself ---------------------------------------------------------------------------------------


def records(filled: Filled) -> list[Path]:
    return sorted((filled.directory / "nodes").rglob("*.car"))


def test_damaged_second_place_is_said_and_written_anew(filled: Filled) -> None:
    """`verify` names records that are damaged or gone, and lines of links; a repair writes them anew from the catalog
    and the files, and keeps the damaged ones."""
    paths = records(filled)
    paths[0].chmod(0o644)
    paths[0].write_bytes(paths[0].read_bytes()[:-20])
    paths[1].unlink()
    for link in (filled.directory / "links").iterdir():
        link.chmod(0o644)
        link.write_bytes(link.read_bytes().replace(b"cid", b"cie"))
    with Repo.open(filled.directory) as repo:
        problems = repo.verify()
        assert len(problems) == 3
        assert all("kachery-cloud repair" in problem.detail for problem in problems)
        filled.check(repo)
    repaired(filled)
    assert len(records(filled)) == len(paths)
    assert list((filled.directory / "damaged").glob("*.car.1"))
    assert list((filled.directory / "damaged").glob("links.*"))
    (filled.directory / CATALOG).unlink()
    repaired(filled)


def test_storing_again_writes_nothing(filled: Filled, made: Filled) -> None:
    """What is stored, loaded or linked again leaves both places as they are, to the byte and the time."""

    def state() -> dict[Path, tuple[int, int]]:
        found = [path for name in ("ipfs", "nodes", "links") for path in (filled.directory / name).rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found if path.is_file()}

    before = state()
    base = made.directory.parent
    with Repo.open(filled.directory) as repo:
        # The copy that this test works on has other inodes than are recorded.
        assert repo.verify() == []
        repo.store_directory(base / "plain")
        repo.store_directory(base / "sharded", profile=SHARDED)
        repo.store_directory(base / "linked folder", link=True)
        repo.link_file(base / "linked", profile=DEEP)
        repo.store_bytes(LARGE, profile="unixfs-v0-2015")
        for cid in filled.folders:
            repo.keep_directory(cid)
    assert state() == before


def test_many_links_are_joined(tmp_path: Path) -> None:
    """Links made one by one do not leave a file each: there are never more than some, and none is lost."""
    with Repo.open(tmp_path / "repo") as repo:
        made = {}
        for i in range(150):
            (tmp_path / str(i)).write_bytes(b"link %d" % i)
            os.utime(tmp_path / str(i), (1, 1))
            made[repo.link_file(tmp_path / str(i)).cid] = tmp_path / str(i)
            assert len(list((tmp_path / "repo" / "links").iterdir())) <= 65
    (tmp_path / "repo" / CATALOG).unlink()
    assert Repo.rebuild(tmp_path / "repo") == []
    with Repo.open(tmp_path / "repo") as repo:
        assert {entry.cid: entry.path for entry in repo.list_files()} == made


def test_removed_roots_do_not_come_back(filled: Filled) -> None:
    """What was removed is gone from the second place too."""
    with Repo.open(filled.directory) as repo:
        for cid in list(filled.sizes):
            assert repo.remove(cid)
        assert repo.verify() == []
    (filled.directory / CATALOG).unlink()
    assert not records(filled)
    with Repo.open(filled.directory) as repo:
        assert repo.list_files() == []


def test_changed_and_missing_links_are_named(filled: Filled, made: Filled) -> None:
    """A link whose file is away, or is another, is named by the repair; when it is back, `verify` takes it in."""
    linked = made.directory.parent / "linked"
    (cid,) = [cid for cid, content in filled.files.items() if content == LARGE[1:]]
    away = linked.with_name("away")
    linked.rename(away)
    try:
        (filled.directory / CATALOG).unlink()
        assert [(p.cid, p.what) for p in Repo.rebuild(filled.directory)] == [(cid, "missing")]
        linked.write_bytes(b"other")
        assert [(p.cid, p.what) for p in Repo.rebuild(filled.directory)] == [(cid, "changed")]
    finally:
        away.replace(linked)
    with Repo.open(filled.directory) as repo:
        assert repo.verify() == []
        filled.check(repo)


# --- directories of older versions -----------------------------------------------------------------------------------


def as_version_1(filled: Filled) -> None:
    shutil.rmtree(filled.directory / "nodes")
    shutil.rmtree(filled.directory / "links")
    db = sqlite3.connect(filled.directory / CATALOG)
    db.execute("PRAGMA user_version=1")
    db.close()


def test_older_directory_gets_its_second_place_when_it_is_opened(filled: Filled) -> None:
    """A directory of the version before has it after the first open, also for nodes that no root is known for."""
    as_version_1(filled)
    loaded = list(filled.folders)[-1]
    with sqlite3.connect(filled.directory / CATALOG) as db:
        # That version knew no loaded directory as a root.
        db.execute("DELETE FROM roots WHERE key = ?", (bytes(loaded.to_v1()),))
    db.close()
    with Repo.open(filled.directory) as repo:
        assert repo.verify() == []
    db = sqlite3.connect(filled.directory / CATALOG)
    assert db.execute("PRAGMA user_version").fetchone() == (4,)
    db.close()
    (filled.directory / CATALOG).unlink()
    assert Repo.rebuild(filled.directory) == []
    with Repo.open(filled.directory) as repo:
        assert contents(repo, loaded) == filled.folders[loaded]
        repo.keep_directory(loaded)
        filled.check(repo)


def test_interrupted_take_over_is_done_again(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all of it is written, the directory counts as one of the older version."""
    from kachery_p2p.repo.records import NodeRecords

    as_version_1(filled)
    keep, calls = NodeRecords.keep, []

    def stop(self: NodeRecords, *args: object, **options: object) -> Path:
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return keep(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeRecords, "keep", stop)
    with pytest.raises(KeyboardInterrupt):
        Repo.open(filled.directory)
    monkeypatch.undo()
    with Repo.open(filled.directory) as repo:
        assert repo.verify() == []
    (filled.directory / CATALOG).unlink()
    repaired(filled)


def test_damaged_older_directory_gives_what_proves_itself(filled: Filled) -> None:
    """Without a second place, the damaged catalog itself is read as far as it can be."""
    as_version_1(filled)
    Repo.rebuild(filled.directory)
    with Repo.open(filled.directory) as repo:
        filled.check(repo)
        assert repo.verify() == []
