"""A block that stands in a file more than once: it is fetched once, and what the DAG says of it is held against it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.errors import MalformedDag
from kachery_p2p.load.interfaces import LOOKAHEAD, Place
from kachery_p2p.repo.repo import Repo
from tests.unit.load.test_load import Block, RepoSession, make_load, run

LEAVES = [os.urandom(100) for _ in range(LOOKAHEAD + 100)]
RIGHT = CID(1, RAW, sha256_multihash(LEAVES[0]))
OTHER_CODEC = CID(1, DAG_PB, sha256_multihash(LEAVES[0]))


class Placing(RepoSession):
    """Puts blocks in their places, as the exchange does."""

    def __init__(self, store: Repo) -> None:
        super().__init__(store)
        self.places: dict[bytes, Place] = {}

    def place(self, multihashes: Iterable[bytes], place: Place) -> None:
        self.places.update(dict.fromkeys(multihashes, place))

    async def receive(self) -> Block:
        cid, data, *_ = await super().receive()
        place = self.places.pop(cid.multihash, None)
        if place is None or not await trio.to_thread.run_sync(place.put, cid.multihash, data):
            return Block(cid, data)
        return Block(cid, b"", len(data))


def made(store: Repo, parts: list[tuple[CID, int]]) -> CID:
    """The root of a file of these parts, with the size that it claims for each, in a store that has all blocks."""
    sizes = [size for _, size in parts]
    unixfs = encode(UnixFSData(DataType.FILE, filesize=sum(sizes), blocksizes=sizes))
    node = encode_node([PBLink("", cid, size) for cid, size in parts], unixfs)
    root = CID(1, DAG_PB, sha256_multihash(node))
    store.put_blocks([(root, node), *((CID(1, RAW, sha256_multihash(leaf)), leaf) for leaf in LEAVES)])
    return root


@pytest.fixture
def ours(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "theirs")


def distinct(count: int) -> list[tuple[CID, int]]:
    return [(CID(1, RAW, sha256_multihash(leaf)), len(leaf)) for leaf in LEAVES[1 : 1 + count]]


@pytest.mark.parametrize("session", [RepoSession, Placing])
@pytest.mark.parametrize("between", [0, LOOKAHEAD + 50])
async def test_it_is_fetched_once_and_written_everywhere(
    ours: Repo, theirs: Repo, session: type[RepoSession], between: int
) -> None:
    """Whether it comes again at once, or after more blocks than are asked for ahead."""
    root = made(theirs, [(RIGHT, 100), *distinct(between), (RIGHT, 100), (RIGHT, 100)])
    peer = session(theirs)
    path, _ = await run(make_load(ours, peer), root)  # type: ignore[misc]
    assert path.read_bytes() == b"".join([LEAVES[0], *LEAVES[1 : 1 + between], LEAVES[0], LEAVES[0]])
    assert peer.fetched.count(RIGHT) == 1


@pytest.mark.parametrize("session", [RepoSession, Placing])
@pytest.mark.parametrize("between", [0, LOOKAHEAD + 50])
@pytest.mark.parametrize("lie", [(RIGHT, 50), (RIGHT, 150), (OTHER_CODEC, 100)])
async def test_a_dag_that_says_something_else_of_it_is_refused(
    ours: Repo, theirs: Repo, session: type[RepoSession], between: int, lie: tuple[CID, int]
) -> None:
    """Another size, or another codec: the file that it describes does not exist."""
    root = made(theirs, [(RIGHT, 100), *distinct(between), lie])
    with pytest.raises(MalformedDag):
        await run(make_load(ours, session(theirs)), root)
    assert ours.find_file(root) is None
