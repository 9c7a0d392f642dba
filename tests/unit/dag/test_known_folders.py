"""Paths through folders that were decoded before: nothing is asked for twice, and what is kept changes no answer."""

from __future__ import annotations

import pytest

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.paths import FolderKey, FolderNode, drive, resolve_path
from kachery_p2p.dag.pb import PBLink
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import KacheryError, MalformedDag, NotADirectory, PathNotFound
from kachery_p2p.repo.decoded import Decoded
from tests.unit.dag.test_directory import FILE, Store, always_sharded, hostile, profile

NAMES = [f"chunk-{number}" for number in range(2000)]


def known() -> Decoded[FolderKey, FolderNode]:
    return Decoded(64 << 20)


def leaf(name: str) -> CID:
    return CID(1, RAW, sha256_multihash(name.encode()))


def folder_of(store: Store, names: list[str], *, sharded: bool) -> CID:
    builder = DirectoryBuilder(always_sharded() if sharded else profile(), store.keep)
    for name in names:
        builder.add(name, leaf(name), 1)
    return builder.finish().cid


@pytest.mark.parametrize("sharded", [False, True])
def test_each_node_is_asked_for_once(sharded: bool) -> None:
    """However many entries of a folder are looked up, plain or sharded; the answers are those of the blocks."""
    store, folders = Store(), known()
    inner = folder_of(store, NAMES, sharded=sharded)
    root = store.plain([PBLink("c", inner, 1)])
    for name in NAMES:
        assert drive(resolve_path(root, ["c", name], folders), store).cid == leaf(name)
    asked = len(store.batches)
    assert asked == len(store.blocks) == len(folders)
    for name in NAMES:
        assert drive(resolve_path(root, ["c", name], folders), store).cid == leaf(name)
    with pytest.raises(PathNotFound):
        drive(resolve_path(root, ["c", "another"], folders), store)
    assert len(store.batches) - asked <= 1  # the shard in which that would stand


def test_what_is_refused_stays_refused() -> None:
    """A name that stands twice, what is no folder, a shard that does not belong: each time, also when it is known."""
    store, folders = Store(), known()
    twice = store.plain([PBLink("a", FILE, 1), PBLink("b", FILE, 1), PBLink("a", FILE, 2)])
    link = store.plain([], DataType.SYMLINK)
    for _ in range(2):
        assert drive(resolve_path(twice, ["b"], folders), store).cid == FILE
        with pytest.raises(MalformedDag, match="two entries"):
            drive(resolve_path(twice, ["a"], folders), store)
        with pytest.raises(NotADirectory):
            drive(resolve_path(link, ["a"], folders), store)
    for root, _ in hostile(store):
        for _ in range(2):
            with pytest.raises(KacheryError) as fresh:
                drive(resolve_path(root, ["a"]), store)
            with pytest.raises(type(fresh.value)):
                drive(resolve_path(root, ["a"], folders), store)


def test_they_are_bounded_by_their_bytes() -> None:
    """The folder used longest ago makes room, and is read again."""
    store = Store()
    roots = [folder_of(store, [f"{number}-{name}" for name in NAMES[:100]], sharded=False) for number in range(4)]
    one = known()
    drive(resolve_path(roots[0], ["0-chunk-0"], one), store)
    folders: Decoded[FolderKey, FolderNode] = Decoded(2 * one.memory + 100)
    for number, root in enumerate(roots):
        drive(resolve_path(root, [f"{number}-chunk-7"], folders), store)
        assert folders.memory <= 2 * one.memory + 100
    assert len(folders) == 2
    store.batches.clear()
    drive(resolve_path(roots[3], ["3-chunk-9"], folders), store)
    assert store.batches == []
    drive(resolve_path(roots[0], ["0-chunk-9"], folders), store)
    assert store.batches == [1]
