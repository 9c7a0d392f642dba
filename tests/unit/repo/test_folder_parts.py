"""Files that are read through a folder by their paths: the folder is listed with what is here of it, not each file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.access.audience import group_audience
from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.errors import RepoBusy
from kachery_p2p.repo import Repo
from kachery_p2p.repo.inventory import KeptRoot
from kachery_p2p.repo.kept_rows import LOADED, Label

FILES = {name: name.encode() * 1000 for name in ("a", "b", "c", "d")}


class Others:
    """A folder that lies elsewhere, and what loading it brings."""

    def __init__(self, repo: Repo, folder: Path) -> None:
        self.root = repo.store_directory(folder).cid
        self._repo = repo
        tree = repo.inventory.members(self.root)
        self.nodes = [(CID(1, DAG_PB, multihash), repo.get_block(multihash) or b"") for multihash in tree.nodes]
        self.cids = {Path(entry).name: repo.hash_file(folder / entry) for entry in ("a", "b", "sub/c", "sub/d")}

    def read(self, repo: Repo, *names: str) -> None:
        """What a node does that reads these files by their paths."""
        repo.put_blocks(self.nodes)
        for name in names:
            repo.add_small_files([(self.cids[name], FILES[name])])
            repo.inventory.loaded_part(self.root, self.cids[name])


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for name, data in FILES.items():
        (tmp_path / "folder" / ("sub" if name in "cd" else "") / name).write_bytes(data)
    with Repo.open(tmp_path / "others") as opened:
        yield Others(opened, tmp_path / "folder")


def only(repo: Repo) -> KeptRoot:
    (root,) = repo.inventory.roots()
    return root


def test_one_row_for_the_folder(repo: Repo, others: Others) -> None:
    """With the bytes of it that are here, its label, and how large it is as its node says."""
    repo.inventory.name(others.root, Label("session"))
    others.read(repo, "a")
    others.read(repo, "a", "c")
    root = only(repo)
    assert (root.cid, root.directory, root.how, root.here, root.whole) == (others.root, True, 0, 2000, False)
    assert root.problem == "incomplete"
    assert root.labels == (Label("session"),)
    assert root.size is not None
    assert 4000 <= root.size < 5000
    assert repo.inventory.get(others.root) == root
    assert repo.inventory.get(others.cids["a"]) is None
    assert {row.what: row.bytes for row in repo.usage.read()}["loaded"] == 2000
    assert repo.verify() == []
    assert repo.verify([others.root]) == []
    assert repo.removal.leftovers() == []


def test_a_file_that_is_half_here(repo: Repo, others: Others) -> None:
    """Of a range that was read, what came counts; it is no row of its own, and goes with the folder, but not while it
    is being loaded."""
    others.read(repo, "a")
    with repo.download(others.cids["b"]) as download:
        download.allocate(1000)
        download.write(0, FILES["b"][:600])
        repo.inventory.loaded_part(others.root, others.cids["b"])
        assert only(repo).here > 1000
        with pytest.raises(RepoBusy, match="being loaded"):
            repo.removal.remove(only(repo))
    assert {cid for cid, _ in repo.removal.loses(only(repo))} == {others.cids["a"], others.cids["b"]}
    repo.removal.remove(only(repo))
    assert repo.inventory.roots() == []
    assert list((repo.directory / "partial").iterdir()) == []


def test_all_of_it_is_loaded(repo: Repo, others: Others) -> None:
    """Then it is a folder like others, with the label that it had; and goes as a whole."""
    repo.inventory.name(others.root, Label("session"))
    others.read(repo, "a")
    others.read(repo, "b", "c", "d")
    repo.keep_directory(others.root)
    root = only(repo)
    assert (root.how, root.here, root.whole, root.labels) == (LOADED, 4000, True, (Label("session"),))
    others.read(repo, "a")  # what is read now is in a folder that is here
    assert only(repo) == root
    repo.removal.remove(root)
    assert repo.inventory.roots() == []
    assert list(repo.all_multihashes()) == []


def test_removing_takes_what_nothing_else_has(repo: Repo, others: Others, tmp_path: Path) -> None:
    """The parts and the nodes go; what was loaded by itself, and what another folder has, stays."""
    others.read(repo, "a", "b", "c")
    repo.inventory.loaded(others.cids["b"], Label("b"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "c").write_bytes(FILES["c"])
    mine = repo.store_directory(tmp_path / "mine").cid
    root = repo.inventory.get(others.root)
    assert root is not None
    removed = repo.removal.remove(root)
    assert removed.shared == 2
    assert {each.cid for each in repo.inventory.roots()} == {mine, others.cids["b"]}
    assert repo.file_size(others.cids["a"]) is None
    assert repo.get_block(others.root.multihash) is None
    assert repo.verify() == []


def test_what_a_folder_in_part_has_stays(repo: Repo, others: Others) -> None:
    """A file that was also loaded by itself is taken off the list alone; the folder in part has it still."""
    others.read(repo, "a", "b")
    repo.inventory.loaded(others.cids["a"], Label("a"))
    file = repo.inventory.get(others.cids["a"])
    assert file is not None
    assert file.how == LOADED
    assert repo.removal.remove(file).shared == 1
    assert only(repo).here == 2000


def test_its_nodes_stay(repo: Repo, others: Others) -> None:
    """Paths in it are still known after a sweep of nodes that nothing needs."""
    others.read(repo, "a")
    repo.sweep(-1)
    assert repo.inventory.members(others.root).broken == []


def test_a_removal_that_was_interrupted(repo: Repo, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it next ends it."""
    others.read(repo, "a", "c")

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repo.removal, "_destroy", killed)
        with pytest.raises(KeyboardInterrupt):
            repo.removal.remove(only(repo))
    assert repo.inventory.roots() == []
    repo.close()
    with Repo.open(repo.directory) as again:
        assert again.inventory.roots() == []
        assert list(again.all_multihashes()) == []


def test_a_catalog_that_is_lost(repo: Repo, others: Others) -> None:
    """The files are parts of that folder still, with its label, and go with it."""
    repo.inventory.name(others.root, Label("session"))
    others.read(repo, "a", "c")
    before = only(repo)
    repo.close()
    for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
        (repo.directory / name).unlink(missing_ok=True)
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as again:
        after = only(again)
        assert (after.cid, after.here, after.how, after.labels) == (before.cid, 2000, 0, before.labels)
        again.removal.remove(after)
        assert again.inventory.roots() == []
        assert again.inventory.records.read() == ([], 0)


def test_a_directory_of_before(repo: Repo, others: Others) -> None:
    """Rows that each file got then stay rows, and can be removed; nothing else is listed for it."""
    others.read(repo, "a", "b")
    for name in "ab":
        repo.inventory.loaded(others.cids[name], Label(name))
    repo.close()
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.executescript("DROP TABLE parts; DELETE FROM kept WHERE how = 0")
    with Repo.open(repo.directory) as again:
        assert {(root.cid, root.how) for root in again.inventory.roots()} == {
            (others.cids["a"], LOADED),
            (others.cids["b"], LOADED),
        }
        others.read(again, "c")
        root = again.inventory.get(others.root)
        assert root is not None
        assert root.here == 1000
        for each in again.inventory.roots():
            again.removal.remove(each)
        assert again.inventory.roots() == []


def test_what_is_for_a_group_stays_there(repo: Repo, others: Others) -> None:
    """A folder of a group of which a part is here is for that group; so is a file of it that is then asked for by
    itself, and the whole folder when it is loaded."""
    group = group_audience(["a" * 26])

    def read(*names: str) -> None:
        with repo.access.claim(group) as claim:
            repo.put_blocks(others.nodes, claim)
            for name in names:
                repo.add_small_files([(others.cids[name], FILES[name])], claim)
                repo.inventory.loaded_part(others.root, others.cids[name], claim)

    read("a")
    read("b")
    assert repo.access.audience_of(others.root) == group
    repo.inventory.loaded_alone(others.cids["a"], Label("a"))
    assert repo.access.audience_of(others.cids["a"]) == group
    read("c", "d")
    with repo.access.claim(group) as claim:
        repo.keep_directory(others.root, claim=claim)
    blocks = [others.root.multihash, *(cid.multihash for cid in others.cids.values())]
    assert repo.access.audiences(blocks) == dict.fromkeys(blocks, group)
    assert [cid for cid, _ in repo.access.roots()] == [others.root, others.cids["a"]]
    for each in repo.inventory.roots():
        repo.removal.remove(each)
    assert repo.access.roots() == []
    assert not repo.access.any_restricted()
