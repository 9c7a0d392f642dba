"""Leaves of partial files are read into the buffer of a reply, and small files of packs many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.repo import Repo
from tests.unit.load.test_arriving import Held, leaves_of
from tests.unit.load.test_load import MIB, RepoSession, store


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


def read(held: Held, cids: list[CID], size: int) -> list[bytes | None]:
    """What is read into a buffer of this size; what is not in the buffer is None."""
    buffer = bytearray(size)
    found = held.store.read_leaves([cid.multihash for cid in cids], memoryview(buffer))
    assert all(part is None or part.obj is buffer for part in found)
    return [None if part is None else bytes(part) for part in found]


async def test_leaves_of_partial_and_of_whole_files_share_a_buffer(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """Each in its own part of the buffer, while there is room; what has no room, or is not here, is left out."""
    whole = leaves_of(ours, store(ours, os.urandom(2 * MIB), tmp_path))
    partial = leaves_of(theirs, cid := store(theirs, os.urandom(5 * MIB), tmp_path))
    held = Held(ours, RepoSession(theirs, withhold=4))
    asked = [whole[0], partial[0], partial[4], whole[1], partial[2]]
    blocks = [ours.get_block(each.multihash) or theirs.get_block(each.multihash) for each in asked]

    def looks() -> None:
        assert read(held, asked, 4 * MIB) == [blocks[0], blocks[1], None, blocks[3], blocks[4]]
        assert read(held, asked[1:3], MIB - 1) == [None, None]
        assert read(held, [partial[0], partial[1]], MIB + 5) == [blocks[1], None]

    await held.file(cid, looks)
    assert read(held, asked, 4 * MIB) == [blocks[0], None, None, blocks[3], None]


async def test_bytes_that_changed_are_not_put_into_the_buffer(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """What is no longer right is left out, and what comes behind it takes its place."""
    leaves = leaves_of(theirs, cid := store(theirs, os.urandom(5 * MIB), tmp_path))
    held = Held(ours, RepoSession(theirs, withhold=4))

    def looks() -> None:
        (partial,) = (ours.directory / "partial").iterdir()
        with partial.open("r+b") as file:
            file.seek(MIB + 100)
            file.write(b"spoilt")
        blocks = [theirs.get_block(leaf.multihash) for leaf in leaves[:3]]
        assert read(held, leaves[:3], 2 * MIB) == [blocks[0], None, blocks[2]]

    await held.file(cid, looks)


async def test_leaves_in_a_wrapping_are_left_to_get_block(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """A leaf of the old profile is not in the file as it is sent."""
    cid = store(theirs, os.urandom(MIB), tmp_path, profile="unixfs-v0-2015")
    leaves = leaves_of(theirs, cid)
    held = Held(ours, RepoSession(theirs, withhold=3))

    def looks() -> None:
        assert read(held, leaves[:1], MIB) == [None]
        assert held.store.get_block(leaves[0].multihash) == theirs.get_block(leaves[0].multihash)

    await held.file(cid, looks)


async def test_small_files_are_given_many_at_a_time(ours: Repo, theirs: Repo) -> None:
    """Those of packs, all that are here, and no others."""
    cids = [ours.store_value(b"value %d" % number).cid for number in range(50)]
    absent = theirs.store_value(b"absent").cid
    held = Held(ours, RepoSession(theirs))
    found = held.store.get_blocks([cid.multihash for cid in [*cids, absent]])
    assert found == {cid.multihash: b"value %d" % number for number, cid in enumerate(cids)}
