"""The block without bytes: known to everybody, so never asked for; sent to whoever asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import trio

import kachery_cloud as kcl
from kachery_cloud.placing import place_directory
from kachery_p2p.bitswap.engine import Engine
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.messages import WantlistEntry, WantType, decode, encode, read_length
from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID, RAW, hash_block
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.load import Load
from kachery_p2p.pinning import blocks
from kachery_p2p.repo.repo import Repo
from tests.helpers.bitswap_fakes import MemoryNetwork, MemoryStore
from tests.helpers.gateway_served import car_blocks, gateway, served
from tests.helpers.patience import PATIENCE
from tests.unit.load.test_load import RepoSession, no_dial

EMPTY = CID.parse("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
OTHERS = [CID(1, RAW, hash_block(code, b"")) for code in (0x11, 0x1B, 0x1E, 0xB214)]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo.open(tmp_path / "repo")


@pytest.mark.parametrize("cid", [EMPTY, *OTHERS], ids=str)
def test_a_repo_always_has_it(repo: Repo, cid: CID) -> None:
    """A repo in which nothing is stored gives the empty block, so that every peer, CAR and gateway gets it from us."""
    assert repo.get_block(cid.multihash) == b""
    assert repo.has_block(cid.multihash) == 0
    assert repo.block_sizes([cid.multihash]) == {cid.multihash: 0}


async def test_a_session_never_asks_for_it() -> None:
    """A want for it is answered at once, though nobody is connected."""
    async with trio.open_nursery() as nursery:
        exchange = Exchange(MemoryNetwork(nursery).host("a"), MemoryStore())
        await nursery.start(exchange.run)
        with trio.fail_after(PATIENCE):
            async with exchange.new_session() as session:
                session.want([EMPTY, *OTHERS])
                got = [await session.receive() for _ in range(5)]
                assert not exchange.client.wants
        assert [(block.cid, bytes(block.data), block.peer) for block in got] == [
            (cid, b"", "") for cid in [EMPTY, *OTHERS]
        ]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", list(WantType))
def test_it_is_sent_to_a_peer_that_asks(repo: Repo, kind: WantType) -> None:
    """A peer that wants it, or asks whether we have it, gets a block of no bytes, not the bare answer HAVE."""
    engine = Engine()
    engine.receive("peer", [WantlistEntry(EMPTY, 1, False, kind, True)], False)
    wants = engine.take_lookups()
    engine.looked_up(wants, [repo.has_block(want.cid.multihash) for want in wants])
    reply = engine.next_reply()
    assert reply is not None
    assert not reply.presences
    parts = encode(blocks=[(want.cid, b"") for want in reply.wants])
    wire = b"".join(bytes(part) for part in parts)
    head = read_length(wire, 0, len(wire))
    assert head is not None
    (block,) = decode(wire[head[1] :]).blocks
    assert bytes(block.data) == b""
    assert block.prefix is not None
    assert hash_block(block.prefix.hash_code, block.data) == EMPTY.multihash


def _folder(repo: Repo, where: Path) -> CID:
    where.mkdir()
    (where / "empty").touch()
    (where / "also empty").touch()
    (where / "full").write_bytes(b"full")
    return repo.store_directory(where).cid


async def test_a_folder_with_an_empty_file_loads_from_one_who_does_not_send_it(repo: Repo, tmp_path: Path) -> None:
    """A peer such as Kubo, which never sends the empty block, still gives whole folders."""
    theirs = Repo.open(tmp_path / "theirs")
    root = _folder(theirs, tmp_path / "folder")

    class KuboLike(RepoSession):
        def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
            super().want(cid for cid in cids if cid.multihash != EMPTY.multihash)

    session = KuboLike(theirs)
    load = Load(repo, Downloads(repo), session, connect=no_dial, timeout=60, progress=lambda done, total: None)
    directory = DirectoryLoad(load, repo, lambda done, total: None)
    await load.run(root, [], lambda: directory.run(root))
    made = tmp_path / "made"
    place_directory(repo, root, made)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        "empty": b"",
        "also empty": b"",
        "full": b"full",
    }


def test_a_car_for_a_pinning_service_has_it(repo: Repo, tmp_path: Path) -> None:
    """Whoever takes a CAR gets all of the DAG, and need not know the empty block."""
    root = _folder(repo, tmp_path / "folder")
    reader = CarReader()
    got = dict(pair for piece in blocks.car(root, repo) for pair in reader.feed(piece))
    reader.close()
    assert got[EMPTY] == b""
    assert len(got) == 3
    assert blocks.plan(root, repo).blocks == 3


@pytest.mark.parametrize("cid", [EMPTY, *OTHERS], ids=str)
def test_the_empty_file_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cid: CID) -> None:
    """An empty file is loaded into a new data directory without asking anybody."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "home"))
    path = kcl.load_file(f"ipfs://{cid}", local_only=True)
    assert Path(path).read_bytes() == b""
    assert kcl.load_bytes(f"ipfs://{cid}", local_only=True) == b""


async def test_the_gateway_gives_it(tmp_path: Path) -> None:
    """As a block, as a file, and in the CAR of a folder, also where nobody has stored it."""
    with served(tmp_path) as made:
        root = _folder(made.repo, tmp_path / "with-empties")
        async with gateway(made.repo) as client:
            block = await client.get(f"/ipfs/{OTHERS[0]}?format=raw")
            assert (block.status_code, block.content) == (200, b"")
            plain = await client.get(f"/ipfs/{root}/empty")
            assert (plain.status_code, plain.content) == (200, b"")
            car = await client.get(f"/ipfs/{root}?format=car&dag-scope=all")
            assert (EMPTY, b"") in car_blocks(car.content)
