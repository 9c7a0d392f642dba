"""Many that load one file at once get most of it from each other. Real nodes over loopback."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from tests.helpers.patience import PATIENCE

MIB = 1 << 20
LISTEN = "/ip4/127.0.0.1/tcp/0"
LOADERS = 5
SIZE = 48 * MIB + 12_345


async def _start(nursery: trio.Nursery, folder: Path) -> Node:
    folder.mkdir()
    node = Node(Repo.open(folder), load_or_create_identity(folder), listen=[LISTEN])
    await nursery.start(node.run)
    return node


def _address(node: Node) -> str:
    return node.host.addresses()[0]


async def test_what_was_here_is_told_apart(tmp_path: Path) -> None:
    """A load that goes on says how much of what is done was here before: the rest is what has come."""
    steps: list[tuple[int, int, int, int]] = []
    (tmp_path / "input").write_bytes(os.urandom(SIZE))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10 * PATIENCE):
            source = await _start(nursery, tmp_path / "source")
            cid = source.repo.store_file(tmp_path / "input").cid
            node = await _start(nursery, tmp_path / "loader")
            request = LoadRequest(cid, providers=(_address(source),))
            await node.load(replace(request, kind="bytes", start=0, end=32 * MIB))
            await node.load(request, lambda *step: steps.append(step))
        nursery.cancel_scope.cancel()
    done, total, peers, here = steps[-1]
    assert (done, total, peers, here) == (SIZE, SIZE, 1, 32 * MIB)
    assert all(0 <= found <= 32 * MIB for _, _, _, found in steps)
    assert [found for *_, found in steps] == sorted(found for *_, found in steps)


async def test_a_source_sends_little_more_than_one_copy(tmp_path: Path) -> None:
    """Loaders that are connected with each other serve each other what they have, while they still load the rest."""
    data = os.urandom(SIZE)
    (tmp_path / "input").write_bytes(data)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10 * PATIENCE):
            source = await _start(nursery, tmp_path / "source")
            cid = source.repo.store_file(tmp_path / "input").cid
            loaders = [await _start(nursery, tmp_path / f"loader-{n}") for n in range(LOADERS)]
            for n, one in enumerate(loaders):
                for other in loaders[:n]:
                    await one.connect(_address(other))
            paths: list[str] = []

            async def load(node: Node, cid: CID) -> None:
                result = await node.load(LoadRequest(cid, providers=(_address(source),)))
                paths.append(result.path or "")

            async with trio.open_nursery() as loading:
                for node in loaders:
                    loading.start_soon(load, node, cid)
        assert len(paths) == LOADERS
        assert all(Path(path).read_bytes() == data for path in paths)
        sent = source.exchange.stats().total.bytes_sent
        assert SIZE <= sent < 2 * SIZE
        assert all(node.exchange.stats().total.bytes_sent > 0 for node in loaders)
        nursery.cancel_scope.cancel()
