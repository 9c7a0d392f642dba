"""A file that is half here, and for some alone: others see nothing of it, from the first block on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.access.audience import Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.repo.repo import Repo
from tests.helpers.access_fakes import MICE, Members
from tests.unit.load.test_arriving import Held, leaves_of
from tests.unit.load.test_load import MIB, RepoSession, store

FOR_MICE = Audience(groups=frozenset({MICE}))


@pytest.fixture
def repos(tmp_path: Path) -> Iterator[tuple[Repo, Repo]]:
    """Ours, and that of whoever has the file."""
    with Repo.open(tmp_path / "ours") as ours, Repo.open(tmp_path / "theirs") as theirs:
        yield ours, theirs


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
async def test_a_partial_file(repos: tuple[Repo, Repo], tmp_path: Path, profile: str) -> None:
    """Its leaves and nodes are told of as they come, and are there for members alone; when it is left, as well."""
    ours, theirs = repos
    cid = store(theirs, os.urandom(5 * MIB + 7), tmp_path, profile=profile)
    blocks = [cid.multihash, *(leaf.multihash for leaf in leaves_of(theirs, cid))]
    held = Held(ours, RepoSession(theirs, withhold=4))
    gate = Gate(Members({"mouse": {MICE}}), ours.access)
    counts: list[int] = []

    def looks() -> None:
        here = held.store.block_sizes(blocks)
        counts.append(len(here))
        for peer, sizes in (("mouse", here), ("outsider", {}), (None, {})):
            found = gate.look([(peer, each) for each in blocks], held.store.block_sizes)
            assert found == [sizes.get(each) for each in blocks]
        assert set(held.told) >= set(here)

    with ours.access.claim(FOR_MICE) as claim:
        held._load.claim = claim
        await held.file(cid, looks)
    assert counts[0] >= 2
    looks()
    assert counts[1] >= 1  # the nodes, which are in the catalog
