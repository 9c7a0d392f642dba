"""Directories that hold the same folder many times: honest ones load, absurd ones are refused before any work."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud import placing
from kachery_cloud.errors import DiskFull
from kachery_cloud.placing import place_directory
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.limits import MAX_TREE_DEPTH
from kachery_p2p.dag.tree import UNCOUNTABLE, TreeShape, shape_of
from kachery_p2p.errors import InvalidName, MalformedDag, RepoError
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.limits import LoadLimits
from kachery_p2p.pinning import blocks
from kachery_p2p.repo import storing
from kachery_p2p.repo.catalog import DIRECTORY
from kachery_p2p.repo.placing import add_root
from kachery_p2p.repo.repo import Repo
from tests.unit.load.test_load import RepoSession, make_load, run


@pytest.fixture
def ours(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "theirs")


def folder(repo: Repo, entries: Iterable[tuple[str, CID]]) -> CID:
    """A directory of these entries, its blocks in the repo."""
    builder = DirectoryBuilder("unixfs-v1-2025", on_node=lambda cid, block: repo.put_blocks([(cid, block)]))
    for name, cid in entries:
        builder.add(name, cid, 100)
    return builder.finish().cid


def file(repo: Repo, tmp_path: Path, data: bytes) -> CID:
    path = tmp_path / "input"
    path.write_bytes(data)
    return repo.store_file(path).cid


def laughs(repo: Repo, leaf: CID, levels: int) -> CID:
    """Folders that each hold the one below twice: 2 ** `levels` files, in as many blocks as levels."""
    at = leaf
    for _ in range(levels):
        at = folder(repo, [("a", at), ("b", at)])
    return at


# --- measuring ------------------------------------------------------------------------------------------------------


def test_a_shape_is_counted_without_unfolding() -> None:
    """Forty folders that double are 2 ** 41 - 2 entries; counts beyond all sense stop, and the depth is exact."""
    doubling = {n: [(n + 1, 0), (n + 1, 0)] for n in range(39)} | {39: [(40, 7), (41, 7)]}
    assert shape_of(0, doubling) == TreeShape(2**41 - 2, 7 * 2**40, 40)
    endless = {n: [(n + 1, 0), (n + 1, 0)] for n in range(5000)} | {5000: []}
    assert shape_of(0, endless) == TreeShape(UNCOUNTABLE, 0, 5001)


def test_depth_is_that_of_the_longest_way() -> None:
    """A folder that is near the top and deep down counts where it is deepest."""
    assert shape_of("top", {"top": [("x", 0), ("a", 0)], "a": [("b", 0)], "b": [("x", 0)], "x": []}).depth == 4


@given(st.data())
def test_shapes_are_those_of_the_unfolded_tree(data: st.DataObject) -> None:
    """For any small tree the counts are those of walking it whole."""
    count = data.draw(st.integers(1, 6))
    folders = {
        n: data.draw(st.lists(st.tuples(st.integers(n + 1, n + 4), st.integers(0, 9)), max_size=4))
        for n in range(count)
    }

    def unfold(which: int) -> TreeShape:
        held = [(unfold(w) if w in folders else None, size) for w, size in folders[which]]
        return TreeShape(
            sum(1 + (inner.entries if inner else 0) for inner, _ in held),
            sum(inner.size if inner else size for inner, size in held),
            1 + max((inner.depth for inner, _ in held if inner), default=0),
        )

    assert shape_of(0, folders) == unfold(0)


# --- loading --------------------------------------------------------------------------------------------------------


async def _load(repo: Repo, session: RepoSession, root: CID, **kwargs: object) -> None:
    load = make_load(repo, session, **kwargs)
    await run(load, root, lambda: DirectoryLoad(load, repo, lambda done, total: None).run(root))


@pytest.mark.parametrize("levels", [23, 40, 200])
async def test_a_million_laughs_are_refused_at_once(ours: Repo, theirs: Repo, tmp_path: Path, levels: int) -> None:
    """A few small blocks that claim 2 ** 23 folders and more cost a look at each block, and no file is fetched."""
    leaf = file(theirs, tmp_path, b"ha")
    root = laughs(theirs, leaf, levels)
    session = RepoSession(theirs)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidName, match="more than 5,000,000 entries"):
            await _load(ours, session, root)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(session.fetched) == levels
    assert leaf not in session.fetched
    assert peak < 20_000_000


async def test_too_deep_is_refused(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """Folders within folders beyond what a file system can hold are refused, also where a short way leads there."""
    at = folder(theirs, [("file", file(theirs, tmp_path, b"x"))])
    chain = [at]
    for _ in range(200):
        chain.append(folder(theirs, [("down", chain[-1])]))
    for _ in range(200):
        at = folder(theirs, [("down", at), ("also", chain[100])])
    top = folder(theirs, [("deep", at)])
    deeper = folder(theirs, [("x", chain[-1]), ("y", folder(theirs, [("z", _stack(theirs, chain[-1], 60))]))])
    with pytest.raises(InvalidName, match="more than 256 folders deep"):
        await _load(ours, RepoSession(theirs), top)
    with pytest.raises(InvalidName, match="more than 256 folders deep"):
        await _load(ours, RepoSession(theirs), deeper)


def _stack(repo: Repo, at: CID, count: int) -> CID:
    for _ in range(count):
        at = folder(repo, [("down", at)])
    return at


async def test_nodes_without_end_are_not_held(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """The shards of a directory that are asked for together are held together, so they may only be so large.

    Those of many folders are not: each goes to the disk when it has come.
    """
    leaf = file(theirs, tmp_path, b"x")
    sharded = folder(theirs, [(f"{'name' * 50} {i}", leaf) for i in range(1500)])
    with pytest.raises(MalformedDag, match="side by side"):
        await _load(ours, RepoSession(theirs), sharded, limits=LoadLimits(step_bytes=1000))
    await _load(ours, RepoSession(theirs), sharded)
    folders = [folder(theirs, [(f"{'name' * 50} {i}", leaf)]) for i in range(10)]
    root = folder(theirs, [(f"{i}", cid) for i, cid in enumerate(folders)])
    await _load(ours, RepoSession(theirs), root, limits=LoadLimits(step_bytes=1000))


async def test_one_folder_in_ten_thousand_places_loads(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """That a folder is used again and again is no offence: it is read once, and is made everywhere."""
    inner = folder(theirs, [("file", file(theirs, tmp_path, b"same")), ("link", _link(theirs))])
    hundred = folder(theirs, [(f"{n:02}", inner) for n in range(100)])
    root = folder(theirs, [(f"{n:02}", hundred) for n in range(100)])
    session = RepoSession(theirs)
    await _load(ours, session, root)
    assert len(session.fetched) == len(set(session.fetched)) == 5
    made = tmp_path / "made"
    place_directory(ours, root, made)
    uses = list(made.glob("*/*"))
    assert len(uses) == 10_000
    for each in uses[::999]:
        assert (each / "file").read_bytes() == b"same"
        assert (each / "link").readlink() == Path("file")


def _link(repo: Repo) -> CID:
    from kachery_p2p.dag.directory import symlink_block

    cid, block = symlink_block("unixfs-v1-2025", "file")
    repo.put_blocks([(cid, block)])
    return cid


# --- making it on disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [23, 40, 200])
def test_what_is_here_is_not_unfolded_either(ours: Repo, tmp_path: Path, levels: int) -> None:
    """The same tree, all of whose blocks are here already, is refused before a folder is made."""
    root = laughs(ours, file(ours, tmp_path, b"ha"), levels)
    with pytest.raises(InvalidName, match="more than 5,000,000 entries"):
        place_directory(ours, root, tmp_path / "made")
    assert not list(tmp_path.glob("*made*"))


def test_a_tree_that_is_larger_than_the_disk_is_not_begun(
    ours: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file in a thousand places needs room for all of them, where copies take room: it is told before the first."""
    data = bytes(1_000_000)
    inner = folder(ours, [("file", file(ours, tmp_path, data))])
    root = folder(ours, [(f"use-{n}", inner) for n in range(1000)])
    monkeypatch.setattr(placing, "clone_file", lambda source, target: False)
    monkeypatch.setattr(storing, "free_bytes", lambda folder: 500_000_000)
    copied: list[object] = []
    monkeypatch.setattr(shutil, "copyfileobj", lambda *args: copied.append(args))
    with pytest.raises(DiskFull, match=r"1,000,000,000 bytes more.*500,000,000 left"):
        place_directory(ours, root, tmp_path / "made")
    assert not copied
    assert not list(tmp_path.glob("*made*"))


async def test_the_deepest_folder_that_is_stored_can_be_loaded(ours: Repo, theirs: Repo, tmp_path: Path) -> None:
    """Storing, loading and making a tree have one bound; one folder more is refused by all of them."""
    top = tmp_path / "input"
    deepest = top.joinpath(*["d"] * (MAX_TREE_DEPTH - 1))
    deepest.mkdir(parents=True)
    (deepest / "file").write_bytes(b"deep")
    root = theirs.store_directory(top).cid
    await _load(ours, RepoSession(theirs), root)
    place_directory(ours, root, tmp_path / "made")
    assert (tmp_path / "made" / deepest.relative_to(top) / "file").read_bytes() == b"deep"
    (deepest / "d").mkdir()
    with pytest.raises(RepoError, match="more than 256 folders deep"):
        theirs.store_directory(top)
    with pytest.raises(InvalidName, match="more than 256 folders deep"):
        await _load(ours, RepoSession(theirs), folder(theirs, [("d", root)]))


def test_no_other_walk_unfolds_it(ours: Repo, tmp_path: Path) -> None:
    """Checking, sweeping, sending to a pinning service and asking whether all is here look at each block once."""
    levels = 40
    root = laughs(ours, file(ours, tmp_path, b"ha"), levels)
    assert blocks.plan(root, ours).blocks == levels + 1
    assert sum(1 for _ in blocks.car(root, ours)) == levels + 2
    with ours._catalog.write() as db:
        add_root(db, root, DIRECTORY, 0, None)
    assert ours.verify([root]) == []
    assert ours.sweep(min_age=-1) == (0, 0)
    os.environ["KACHERY_CLOUD_DIR"] = str(ours.directory)
    info = kcl.load_file_info(f"ipfs://{root}", local_only=True)
    assert (info["kind"], info["local"]) == ("directory", True)


def test_codecs_tell_files_from_folders(ours: Repo, tmp_path: Path) -> None:
    """The bytes of a folder, named as a raw block, are a file; the same hash as a folder is one."""
    inner = folder(ours, [("file", file(ours, tmp_path, b"x"))])
    raw = CID(1, RAW, inner.multihash)
    block = ours.get_block(inner.multihash)
    assert block is not None
    ours.add_small_files([(raw, block)])
    root = folder(ours, [("as-file", raw), ("as-folder", inner)])
    place_directory(ours, root, tmp_path / "made")
    assert (tmp_path / "made" / "as-file").read_bytes() == block
    assert (tmp_path / "made" / "as-folder" / "file").read_bytes() == b"x"
