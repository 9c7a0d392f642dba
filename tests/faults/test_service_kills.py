"""Making room, killed with -9 before each of its steps: nothing is lost that should stay, what was begun goes on."""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.node.scrub_state import STATE_NAME, Damaged, ScrubState, read_state, write_state
from kachery_p2p.repo import Repo
from kachery_p2p.repo.kept_rows import LOADED
from kachery_p2p.repo.scrubbing import ScrubPlace
from tests.helpers.dying import dies
from tests.helpers.profiles import custom_profile
from tests.unit.repo.test_scrubbing import flip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does"),
]

TINY = custom_profile(chunk_size=1000, width=3)
#: More steps than any of these takes.
MOST = 400


class Filled:
    """A directory with loaded files, a loaded folder, small loaded values, and something stored that shares bytes."""

    def __init__(self, top: Path) -> None:
        self.directory = top / "data"
        folder = top / "folder"
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"{number}").write_bytes(random.Random(number).randbytes(5_000))
        with Repo.open(self.directory) as repo:
            self.stored = repo.store_bytes(random.Random(0).randbytes(5_000), profile=TINY).cid
            cached = [repo.store_directory(folder, profile=TINY).cid]
            cached += [repo.store_bytes(random.Random(10 + n).randbytes(5_000), profile=TINY).cid for n in range(3)]
            cached += [repo.store_value(b"value %d" % number * 50).cid for number in range(3)]
            self.cached = cached
            with repo._catalog.write() as db:
                for age, cid in enumerate(cached):
                    used = time.time() - 10_000 + age
                    db.execute("UPDATE kept SET how = ?, used = ? WHERE key = ?", (LOADED, used, bytes(cid.to_v1())))

    def check(self, repo: Repo) -> set[CID]:
        """What is listed is here, whole; and what was stored is."""
        listed = {root.cid for root in repo.inventory.roots()}
        assert all(root.whole for root in repo.inventory.roots())
        path = repo.find_file(self.stored)
        assert path is not None
        assert path.read_bytes() == random.Random(0).randbytes(5_000)
        assert self.stored in listed
        return listed


def evict(repo: Repo, most: int) -> None:
    repo.eviction.evict(most, now=time.time(), rest=60)
    repo.removal.tidy()


def test_room_is_made(tmp_path: Path) -> None:
    """After each step the directory opens, all that is listed can be read, and the next go ends what was begun."""
    for steps in range(MOST):
        filled = Filled(tmp_path / str(steps))

        def work(filled: Filled = filled) -> None:
            with Repo.open(filled.directory) as repo:
                evict(repo, 1 << 30)

        killed = dies(steps, work)
        with Repo.open(filled.directory) as repo:
            listed = filled.check(repo)
            # They went in their order: what is left is the end of the list.
            left = [cid in listed for cid in filled.cached]
            assert left == sorted(left)
            assert repo.verify() == []
            evict(repo, 1 << 30)
            assert filled.check(repo) == {filled.stored}
            assert repo.verify() == []
            assert repo.removal.leftovers() == []
            assert [path for path in (filled.directory / "ipfs").rglob("*") if path.is_file()] == [
                repo.path_for(filled.stored)
            ]
        shutil.rmtree(tmp_path / str(steps))
        if not killed:
            assert steps > 20
            return
    raise AssertionError("it does not end")


def test_what_was_read_is_noted(tmp_path: Path) -> None:
    """After each step of reading, setting aside and noting: the state can be read, as it was before or as it is after,
    and the damage is found again by whoever goes on from there."""
    for steps in range(MOST):
        filled = Filled(tmp_path / str(steps))
        path = filled.directory / STATE_NAME
        with Repo.open(filled.directory) as repo:
            file = repo.find_file(filled.stored)
        assert file is not None
        flip(file, 2_500)
        before = ScrubState(begun=1.0)
        write_state(path, before)

        def work(filled: Filled = filled, path: Path = path, before: ScrubState = before) -> None:
            with Repo.open(filled.directory) as repo:
                place: ScrubPlace | None = ScrubPlace()
                damaged: list[Damaged] = []
                while place is not None:
                    step = repo.scrubber.step(place)
                    damaged += [Damaged(str(each.cid), str(each.path), each.what, "", 2.0) for each in step.problems]
                    place = step.place
                write_state(path, replace(before, stage="end", damaged=tuple(damaged)))
                for each in damaged:
                    repo.quarantine(CID.parse(each.cid))

        killed = dies(steps, work)
        state = read_state(path)
        assert len(list(filled.directory.glob(".scrub.json.*"))) <= 1, "that of the one who was killed"
        assert state == before or [each.cid for each in state.damaged] == [str(filled.stored)]
        with Repo.open(filled.directory) as repo:
            assert [problem.cid for problem in repo.verify()] == [filled.stored]
        shutil.rmtree(tmp_path / str(steps))
        if not killed:
            assert steps > 3
            assert state.stage == "end"
            return
    raise AssertionError("it does not end")
