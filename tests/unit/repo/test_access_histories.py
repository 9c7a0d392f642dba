"""Random histories of storing, linking, setting audiences, removing and collecting, on contents that overlap.

Two have the directory open. After each step every block is for exactly whom the roots are that have it.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo import Repo
from tests.helpers.profiles import custom_profile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the removal lock needs flock")

TINY = custom_profile(chunk_size=1000, width=3)
_LARGE = random.Random(5).randbytes(14_500)
#: A small one, one of three leaves, one of many that begins as that does, one that has its end, and one leaf of both.
CONTENTS = {
    "small": b"a small one",
    "middle": _LARGE[:2_500],
    "large": _LARGE,
    "end": _LARGE[9_000:],
    "leaf": _LARGE[9_000:10_000],
    "empty": b"",
}
FOLDERS = {
    "first": {"a": "small", "b": "middle"},
    "second": {"b": "middle", "c": "large", "sub/d": "leaf"},
    "third": {"sub/d": "leaf", "e": "empty"},
    "fourth": {"sub/d": "leaf", "sub/a": "small"},
}
A, B = group_audience(["a" * 26]), group_audience(["b" * 26])
AUDIENCES = st.sampled_from([PUBLIC, PRIVATE, A, B, A | B])
SAID = st.one_of(st.none(), AUDIENCES)
FILES = st.sampled_from(sorted(CONTENTS))
NAMES = st.sampled_from(sorted({*CONTENTS, *FOLDERS}))


def make(top: Path) -> None:
    """All that is stored here, as the user has it."""
    for name, data in CONTENTS.items():
        (top / name).write_bytes(data)
    for name, files in FOLDERS.items():
        for path, content in files.items():
            (top / name / path).parent.mkdir(parents=True, exist_ok=True)
            (top / name / path).write_bytes(CONTENTS[content])


@cache
def blocks_of(name: str) -> tuple[CID, frozenset[bytes]]:
    """A root, and all its blocks: those of a directory in which nothing else was stored."""
    with tempfile.TemporaryDirectory(prefix="kachery-alone-") as alone:
        make(Path(alone))
        with Repo.open(Path(alone, "data")) as repo:
            path = Path(alone, name)
            kept = repo.store_directory if name in FOLDERS else repo.store_file
            cid = kept(path, profile=TINY).cid
            return cid, frozenset(repo.all_multihashes()) | {cid.multihash}


class Histories(RuleBasedStateMachine):
    """One data directory, and for whom each of its roots must be."""

    @initialize()
    def begin(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="kachery-access-"))
        make(self.top)
        self.repos = [Repo.open(self.top / "data"), Repo.open(self.top / "data")]
        self.kept: dict[str, Audience] = {}
        self.linked: set[str] = set()

    def teardown(self) -> None:
        for repo in self.repos:
            repo.close()
        shutil.rmtree(self.top)

    # --- what it must be

    def of_block(self, multihash: bytes) -> Audience | None:
        """Who may see a block; None for one that no root has."""
        found = [audience for name, audience in self.kept.items() if multihash in blocks_of(name)[1]]
        together = NOBODY
        for audience in found:
            together |= audience
        return together if found else None

    def stored(self, name: str, said: Audience | None) -> None:
        known = self.kept.get(name)
        if said is None:
            said = known or self.of_block(blocks_of(name)[0].multihash) or PUBLIC
            if name == "empty":
                said = known or PUBLIC
        self.kept[name] = said if known is None else known | said

    # --- what is done

    def store(self, name: str, said: Audience | None, act: Callable[[], CID]) -> None:
        assert act() == blocks_of(name)[0]
        self.stored(name, said)

    @rule(name=FILES, said=SAID, who=st.integers(0, 1))
    def store_file(self, name: str, said: Audience | None, who: int) -> None:
        repo = self.repos[who]
        self.store(name, said, lambda: repo.store_file(self.top / name, profile=TINY, audience=said).cid)

    @rule(name=FILES, said=SAID, who=st.integers(0, 1))
    def store_value(self, name: str, said: Audience | None, who: int) -> None:
        repo = self.repos[who]
        self.store(name, said, lambda: repo.store_value(CONTENTS[name], profile=TINY, audience=said).cid)

    @rule(name=FILES, said=SAID, who=st.integers(0, 1))
    def link_file(self, name: str, said: Audience | None, who: int) -> None:
        repo = self.repos[who]
        self.store(name, said, lambda: repo.link_file(self.top / name, profile=TINY, audience=said).cid)

    @rule(name=st.sampled_from(sorted(FOLDERS)), said=SAID, who=st.integers(0, 1), link=st.booleans())
    def store_directory(self, name: str, said: Audience | None, who: int, link: bool) -> None:
        repo = self.repos[who]
        self.store(
            name, said, lambda: repo.store_directory(self.top / name, profile=TINY, audience=said, link=link).cid
        )

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), audience=AUDIENCES, who=st.integers(0, 1))
    def set_audience(self, data: st.DataObject, audience: Audience, who: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.kept)))
        self.repos[who].access.set_audience(blocks_of(name)[0], audience)
        self.kept[name] = audience

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), who=st.integers(0, 1), more=st.booleans())
    def remove(self, data: st.DataObject, who: int, more: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.kept)))
        repo = self.repos[who]
        root = repo.inventory.get(blocks_of(name)[0])
        assert root is not None
        repo.removal.remove(root, more=more)
        if more:
            repo.removal.tidy()
        del self.kept[name]

    @rule(who=st.integers(0, 1))
    def collect(self, who: int) -> None:
        self.repos[who].removal.tidy()

    @rule(who=st.integers(0, 1))
    def open_again(self, who: int) -> None:
        self.repos[who].close()
        self.repos[who] = Repo.open(self.top / "data")

    @rule(who=st.integers(0, 1))
    def repair_what_is_well(self, who: int) -> None:
        assert self.repos[who].verify() == []

    @rule(lost=st.booleans())
    def rebuild(self, lost: bool) -> None:
        """Also when the old catalog is gone: what was said is beside it."""
        for repo in self.repos:
            repo.close()
        if lost:
            for path in (self.top / "data").glob("catalog.sqlite*"):
                path.unlink()
        assert Repo.rebuild(self.top / "data") == []
        self.repos = [Repo.open(self.top / "data"), Repo.open(self.top / "data")]
        if lost:
            self.forget_what_is_not_written_down()

    def forget_what_is_not_written_down(self) -> None:
        """A file that was stored without a label, and is in a folder, is not known to have been stored by itself."""
        listed = {root.cid for root in self.repos[0].inventory.roots()}
        self.kept = {name: audience for name, audience in self.kept.items() if blocks_of(name)[0] in listed}

    # --- what holds

    @invariant()
    def all_blocks_are_for_whom_they_must_be(self) -> None:
        every = sorted({each for name in (*CONTENTS, *FOLDERS) for each in blocks_of(name)[1]})
        empty = blocks_of("empty")[0].multihash
        for repo in self.repos:
            found = repo.access.audiences(every)
            for multihash in every:
                must = self.of_block(multihash)
                if must is None:
                    assert repo.get_block(multihash) is None or multihash == empty
                elif multihash != empty:
                    assert found.get(multihash, PUBLIC) == must
            assert repo.access.any_restricted() == any(
                not audience.everyone and name != "empty" for name, audience in self.kept.items()
            )

    @invariant()
    def all_roots_are_told(self) -> None:
        for repo in self.repos:
            assert dict(repo.access.roots()) == {
                blocks_of(name)[0]: audience for name, audience in self.kept.items() if not audience.everyone
            }
            for name, audience in self.kept.items():
                cid, blocks = blocks_of(name)
                assert repo.access.audience_of(cid) == audience
                why = dict(repo.access.why(cid))
                assert why == {
                    blocks_of(other)[0]: also
                    for other, also in self.kept.items()
                    if other == name or (blocks & blocks_of(other)[1]) - {blocks_of("empty")[0].multihash}
                }


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
