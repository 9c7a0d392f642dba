"""Removing, compacting and moving, killed with -9 before each of their steps: what is listed can be read, and the same
command ends what was begun."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo.moving import move
from tests.helpers.dying import dies
from tests.helpers.profiles import custom_profile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does"),
]

TINY = custom_profile(chunk_size=1000, width=3)
DATA = random.Random(1).randbytes(9_500)
#: More steps than any of these takes.
MOST = 400


class Filled:
    """A directory with a folder, a file that is in it and was stored by itself, a linked file, and small values."""

    def __init__(self, top: Path) -> None:
        self.directory = top / "data"
        self.user = top / "user"
        (self.user / "folder" / "sub").mkdir(parents=True)
        (self.user / "folder" / "shared").write_bytes(DATA)
        (self.user / "folder" / "own").write_bytes(DATA[::-1])
        (self.user / "folder" / "sub" / "small").write_bytes(b"small")
        (self.user / "linked").write_bytes(DATA[5_000:])
        with Repo.open(self.directory) as repo:
            self.folder = repo.store_directory(self.user / "folder", profile=TINY).cid
            self.shared = repo.store_file(self.user / "folder" / "shared", profile=TINY).cid
            self.linked = repo.link_file(self.user / "linked", profile=TINY).cid
            self.values = [repo.store_value(b"value %d" % number * 50).cid for number in range(20)]

    def check(self, repo: Repo) -> set[CID]:
        """All that is listed can be read, bit for bit. What is listed."""
        listed = {root.cid for root in repo.inventory.roots()}
        for root in repo.inventory.roots():
            assert root.whole
        if self.folder in listed:
            assert repo.inventory.lacking(self.folder) == (0, 3)
            names = {"shared": DATA, "own": DATA[::-1], "small": b"small"}
            found = [repo.find_file(cid) for cid in repo.inventory.members(self.folder).files]
            assert sorted(path.read_bytes() for path in found if path is not None) == sorted(names.values())
        for cid, data in ((self.shared, DATA), (self.linked, DATA[5_000:])):
            if cid in listed:
                path = repo.find_file(cid)
                assert path is not None
                assert path.read_bytes() == data
        for number, cid in enumerate(self.values):
            if cid in listed:
                assert repo.packed_file(cid) == b"value %d" % number * 50
        assert (self.user / "linked").read_bytes() == DATA[5_000:]
        return listed


def at_each_step(tmp_path: Path, act: Callable[[Filled, Repo], None], then: Callable[[Filled, Repo], None]) -> int:
    """Do something to a directory in a process that is killed after 0, 1, 2 ... steps, until it is done; the steps.

    After each, `then` looks at the directory as another process finds it.
    """
    for steps in range(MOST):
        filled = Filled(tmp_path / str(steps))

        def work(filled: Filled = filled) -> None:
            with Repo.open(filled.directory) as repo:
                act(filled, repo)

        killed = dies(steps, work)
        with Repo.open(filled.directory) as repo:
            then(filled, repo)
        shutil.rmtree(tmp_path / str(steps))
        if not killed:
            return steps
    raise AssertionError("it does not end")


def remove(repo: Repo, cid: CID) -> None:
    root = repo.inventory.get(cid)
    if root is not None:
        repo.removal.remove(root)


def test_a_folder_is_removed(tmp_path: Path) -> None:
    """It is there whole, or gone; what was stored by itself stays, and nothing of the rest is left."""

    def then(filled: Filled, repo: Repo) -> None:
        listed = filled.check(repo)
        assert {filled.shared, filled.linked, *filled.values} <= listed
        remove(repo, filled.folder)
        assert filled.check(repo) == {filled.shared, filled.linked, *filled.values}
        assert repo.verify() == []
        assert repo.removal.leftovers() == []
        assert repo.get_block(filled.folder.multihash) is None

    assert at_each_step(tmp_path, lambda filled, repo: remove(repo, filled.folder), then) > 8


def test_values_and_links_are_removed_and_packs_compacted(tmp_path: Path) -> None:
    """Each value that stays is there after each step, and in the end the pack is small, and has no other."""

    def act(filled: Filled, repo: Repo) -> None:
        for cid in (*filled.values[:18], filled.linked):
            remove(repo, cid)
        repo.removal.tidy()

    def then(filled: Filled, repo: Repo) -> None:
        listed = filled.check(repo)
        assert {filled.shared, filled.folder, *filled.values[18:]} <= listed
        act(filled, repo)
        assert filled.check(repo) == {filled.shared, filled.folder, *filled.values[18:]}
        assert repo.verify() == []
        assert sum(path.stat().st_size for path in (filled.directory / "packs").iterdir()) < 2_000

    assert at_each_step(tmp_path, act, then) > 20


@pytest.mark.parametrize("disk", ["the same disk", "another disk"])
def test_moved(tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step the directory is used as before, or says how to go on; and then everything is in the new place,
    once, and the old name leads there."""
    from kachery_p2p.repo import moving

    if disk == "another disk":
        monkeypatch.setattr(moving, "_same_disk", lambda one, other: False)
    for steps in range(MOST):
        filled = Filled(tmp_path / str(steps))
        target = tmp_path / str(steps) / "new"
        killed = dies(steps, lambda filled=filled, target=target: move(filled.directory, target))
        everything = {filled.folder, filled.shared, filled.linked, *filled.values}
        try:
            with Repo.open(filled.directory) as repo:
                assert filled.check(repo) == everything
                more = repo.store_value(b"stored in between").cid
        except RepoError as error:
            assert f"kachery-cloud move {target}" in str(error)  # noqa: PT017
            more = None
        assert move(filled.directory, target) == [] if killed else True
        assert filled.directory.is_symlink()
        assert filled.directory.resolve() == target
        assert sorted(path.name for path in (tmp_path / str(steps)).iterdir()) == ["data", "new", "user"]
        with Repo.open(filled.directory) as repo:
            assert filled.check(repo) == everything | ({more} if more is not None else set())
            assert repo.verify() == []
        shutil.rmtree(tmp_path / str(steps))
        if not killed:
            assert steps > 3
            return
    raise AssertionError("it does not end")
