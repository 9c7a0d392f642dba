"""Loads from peers and HTTP gateways together: whole nodes, real gateways on loopback, a file of 300 MB."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_p2p.gateway.server.server import GatewayServer
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from scripts.data import sha256_of, write_random
from scripts.workstation import LISTEN, Workstation
from tests.helpers import gateway_fakes as fakes

SIZE = 300_000_000
MIB = 1 << 20


class Stored:
    """A file in a repo that a peer and a gateway serve from."""

    def __init__(self, folder: Path) -> None:
        self.source = write_random(folder / "source.dat", SIZE, seed=300)
        self.sha256 = sha256_of(self.source)
        self.repo = Repo.open(folder / "theirs")
        self.cid = self.repo.link_file(self.source).cid
        #: Bytes of all its blocks: the leaves are the file, and above them is one node.
        root = self.repo.get_block(self.cid.multihash)
        assert root is not None
        self.total = SIZE + len(root)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


@contextlib.asynccontextmanager
async def running(repo: Repo, folder: Path, **kwargs: Any) -> AsyncIterator[tuple[Node, trio.CancelScope]]:
    """A node on loopback, and the scope that ends it at once."""
    folder.mkdir(exist_ok=True)
    node = Node(repo, load_or_create_identity(folder), listen=[LISTEN], **kwargs)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await node.run(task_status=task_status)

        await nursery.start(run)
        yield node, scope
        nursery.cancel_scope.cancel()


def address(node: Node) -> str:
    return f"{node.host.addresses()[0].partition('/p2p/')[0]}/p2p/{node.host.peer_id}"


def at(share: float, act: Callable[[], object]) -> Callable[[int, int, int, int], None]:
    """A progress callback that acts once when so much is done."""
    done: list[bool] = []

    def progress(so_far: int, total: int, _peers: int, _here: int) -> None:
        if total and so_far >= share * total and not done:
            done.append(True)
            act()

    return progress


async def test_peers_vanish_at_half_and_the_gateway_finishes(stored: Stored, tmp_path: Path) -> None:
    """The gateway is left alone while a peer delivers, and brings the other half when it is gone."""
    asked_before: list[int] = []
    with fakes.serving(fakes.honest(stored.repo)) as gateway:
        options = NodeOptions(gateways=(gateway.url,))
        async with (
            running(stored.repo, tmp_path / "peer") as (peer, peer_scope),
            running(Repo.open(tmp_path / "ours"), tmp_path / "ours", options=options) as (node, _),
        ):

            def vanish() -> None:
                asked_before.append(len(gateway.requests))
                peer_scope.cancel()

            peer_id = peer.host.peer_id
            result = await node.load(LoadRequest(stored.cid, providers=(address(peer),)), at(0.5, vanish))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert asked_before == [0]
    sources = result.sources
    assert set(sources) == {peer_id, gateway.name}
    assert sum(sources.values()) == stored.total
    assert sources[peer_id] >= 0.45 * SIZE
    assert sources[gateway.name] >= 0.3 * SIZE


async def test_a_peer_that_appears_takes_over_from_the_gateway(stored: Stored, tmp_path: Path) -> None:
    """A gateway begins where there is no peer; when one comes that is as good, the gateway is hardly asked any more."""
    with fakes.serving(fakes.honest(stored.repo, rate=40 * MIB)) as gateway:
        options = NodeOptions(gateways=(gateway.url,))
        async with (
            running(stored.repo, tmp_path / "peer") as (peer, _),
            running(Repo.open(tmp_path / "ours"), tmp_path / "ours", options=options) as (node, _),
            trio.open_nursery() as nursery,
        ):
            peer_id = peer.host.peer_id
            begin = at(0.1, lambda: nursery.start_soon(node.connect, address(peer)))
            result = await node.load(LoadRequest(stored.cid), begin)
    assert sha256_of(Path(result.path or "")) == stored.sha256
    sources = result.sources
    assert set(sources) == {peer_id, gateway.name}
    assert sum(sources.values()) == stored.total
    assert sources[gateway.name] >= 0.1 * SIZE
    assert sources[peer_id] >= 0.5 * SIZE


async def test_a_node_with_peers_that_deliver_asks_no_gateway(tmp_path: Path) -> None:
    """A small file that a peer has comes before its head start is over: the gateway does not hear of it."""
    theirs = Repo.open(tmp_path / "theirs")
    cid = theirs.store_file(write_random(tmp_path / "source.dat", 3 * MIB, seed=1)).cid
    with fakes.serving(fakes.honest(theirs)) as gateway:
        options = NodeOptions(gateways=(gateway.url,))
        async with (
            running(theirs, tmp_path / "peer") as (peer, _),
            running(Repo.open(tmp_path / "ours"), tmp_path / "ours", options=options) as (node, _),
        ):
            result = await node.load(LoadRequest(cid, providers=(address(peer),)))
            assert list(result.sources) == [peer.host.peer_id]
    assert gateway.requests == []


@pytest.mark.parametrize("car", [True, False])
async def test_a_directory_from_a_gateway(tmp_path: Path, car: bool) -> None:
    """Folders, small files and large ones come from a gateway, whether it gives CARs or only blocks."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for i in range(30):
        write_random(source / "sub" / f"{i}.bin", 1000 + i, seed=i)
    write_random(source / "large.bin", 5 * MIB, seed=99)
    theirs, ours = Repo.open(tmp_path / "theirs"), Repo.open(tmp_path / "ours")
    cid = theirs.store_directory(source).cid
    with fakes.serving(fakes.honest(theirs, car=car)) as gateway:
        async with running(ours, tmp_path / "ours", options=NodeOptions(gateways=(gateway.url,))) as (node, _):
            await node.load(LoadRequest(cid, kind="directory"))
            large = await node.load(LoadRequest(cid, ("large.bin",)))
    assert sha256_of(Path(large.path or "")) == sha256_of(source / "large.bin")
    assert sum(asked.car for asked in gateway.requests) <= (40 if car else 1)


async def test_a_range_costs_about_a_block(stored: Stored, tmp_path: Path) -> None:
    """A few bytes of a large file are asked for as such: the node above them, and the leaf they are in."""
    with fakes.serving(fakes.honest(stored.repo)) as gateway:
        ours = Repo.open(tmp_path / "ours")
        async with running(ours, tmp_path / "ours", options=NodeOptions(gateways=(gateway.url,))) as (node, _):
            first = 200_000_000
            result = await node.load(LoadRequest(stored.cid, kind="bytes", start=first, end=first + 50))
            nothing = await node.load(LoadRequest(stored.cid, kind="bytes", start=0, end=0))
    with Path(result.path or "").open("rb") as ours_file, stored.source.open("rb") as theirs_file:
        ours_file.seek(first)
        theirs_file.seek(first)
        assert ours_file.read(50) == theirs_file.read(50)
    assert sum(result.sources.values()) < 1.2 * MIB
    assert nothing.size == SIZE
    assert len(gateway.requests) == 1


async def test_from_the_gateway_of_another_node(stored: Stored, tmp_path: Path) -> None:
    """Our client and our server understand each other: blocks and CARs, a large file and a directory."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for i in range(50):
        write_random(source / "sub" / f"{i}.bin", 1000 + i, seed=i)
    write_random(source / "large.bin", 5 * MIB, seed=98)
    folder = stored.repo.store_directory(source).cid
    server = GatewayServer(stored.repo, "127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        options = NodeOptions(gateways=(server.url,))
        async with running(Repo.open(tmp_path / "ours"), tmp_path / "ours", options=options) as (node, _):
            result = await node.load(LoadRequest(stored.cid))
            await node.load(LoadRequest(folder, kind="directory"))
            large = await node.load(LoadRequest(folder, ("large.bin",)))
            (status,) = node.status().gateways.values()
        nursery.cancel_scope.cancel()
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert result.sources == {f"gateway:{server.url.removeprefix('http://')}": stored.total}
    assert sha256_of(Path(large.path or "")) == sha256_of(source / "large.bin")
    assert status.refused == 0


async def test_what_arrived_from_a_gateway_is_not_fetched_again(tmp_path: Path) -> None:
    """A load that a gateway could not finish is gone on with by another one."""
    theirs = Repo.open(tmp_path / "theirs")
    data = write_random(tmp_path / "source.dat", 20 * MIB, seed=5)
    cid = theirs.store_file(data).cid
    ours = Repo.open(tmp_path / "ours")
    begun = trio.Event()
    with fakes.serving(fakes.honest(theirs, rate=20 * MIB)) as gateway:
        async with running(ours, tmp_path / "ours", options=NodeOptions(gateways=(gateway.url,))) as (node, _):
            with trio.CancelScope() as scope:
                await node.load(LoadRequest(cid), at(0.5, lambda: (begun.set(), scope.cancel())))
    assert begun.is_set()
    with fakes.serving(fakes.honest(theirs)) as second:
        async with running(ours, tmp_path / "ours", options=NodeOptions(gateways=(second.url,))) as (node, _):
            result = await node.load(LoadRequest(cid))
    assert sha256_of(Path(result.path or "")) == sha256_of(data)
    assert result.sources[second.name] <= 11 * MIB


def test_a_workstation_with_a_gateway_in_its_settings(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """KACHERY_CLOUD_GATEWAYS is enough; --verbose and load_file_info say where the bytes came from."""
    theirs = Repo.open(tmp_path / "theirs")
    source = write_random(tmp_path / "source.dat", 3 * MIB, seed=8)
    cid = theirs.store_file(source).cid
    with fakes.serving(fakes.honest(theirs)) as gateway:
        secret = "s3cret-token"
        settings = {
            "KACHERY_CLOUD_GATEWAYS": gateway.url,
            "KACHERY_CLOUD_GATEWAY_TOKENS": f"{gateway.url}={secret}",
        }
        machine = workstation(env=settings)
        info = machine.call("say(kcl.load_file_info(args[0]))", f"ipfs://{cid}")
        assert list(info["sources"]) == [gateway.name]
        done = machine.run("kachery-cloud-load", f"ipfs://{cid}", "--verbose")
        assert gateway.name in done.stderr
        assert secret not in done.stderr + done.stdout
        assert sha256_of(Path(done.stdout.strip())) == sha256_of(source)
        assert all(asked.headers["authorization"] == f"Bearer {secret}" for asked in gateway.requests)
