"""The gateway of the newest Kubo as the source of our loads: files and folders as CARs, parts of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.gateway.client.client import GatewayClient
from kachery_p2p.node.messages import LoadRequest
from scripts.data import sha256_of, write_many, write_random
from scripts.peers import KuboDaemon, missing_kubo_daemon
from tests.faults.test_gateway_faults import node_with
from tests.helpers.patience import PATIENCE

MIB = 1 << 20


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    """A daemon whose gateway answers for what it has."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)
    with KuboDaemon(tmp_path_factory.mktemp("kubo"), settings={"Gateway": {"NoFetch": True}}) as daemon:
        yield daemon


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What our client asked of gateways: "block" or "car", once for each request."""
    requests: list[str] = []
    real = {"block": GatewayClient.block, "car": GatewayClient.car}

    def noting(name: str) -> object:
        def ask(self: GatewayClient, *args: object) -> object:
            requests.append(name)
            return real[name](self, *args)  # type: ignore[arg-type]

        return ask

    for name in real:
        monkeypatch.setattr(GatewayClient, name, noting(name))
    return requests


@pytest.mark.parametrize("options", [[], ["--cid-version=0", "--raw-leaves=false", "--chunker=size-262144"]])
async def test_a_file_from_kubos_gateway(
    kubo: KuboDaemon, asked: list[str], tmp_path: Path, options: list[str]
) -> None:
    """In chunks of 1 MiB and raw leaves, and in the old way, with two levels of nodes."""
    source = write_random(tmp_path / "source.dat", 60 * MIB + 5, seed=len(options))
    cid = kubo.run("add", "-Q", *options, source).strip()
    async with node_with(tmp_path / "ours", kubo.gateway) as node:
        with trio.fail_after(PATIENCE):
            result = await node.load(LoadRequest(CID.parse(cid)))
        (status,) = node.status().gateways.values()
    assert sha256_of(Path(result.path or "")) == sha256_of(source)
    assert status.refused == 0
    assert len(asked) <= 40


async def test_a_part_of_a_file_from_kubos_gateway(kubo: KuboDaemon, asked: list[str], tmp_path: Path) -> None:
    """A few bytes in the middle take one request, though there are nodes above them."""
    source = write_random(tmp_path / "source.dat", 60 * MIB + 5, seed=7)
    cid = kubo.run("add", "-Q", "--cid-version=0", "--raw-leaves=false", "--chunker=size-262144", source).strip()
    async with node_with(tmp_path / "ours", kubo.gateway) as node:
        with trio.fail_after(PATIENCE):
            result = await node.load(LoadRequest(CID.parse(cid), kind="bytes", start=50 * MIB, end=50 * MIB + 9))
    with Path(result.path or "").open("rb") as ours, source.open("rb") as theirs:
        ours.seek(50 * MIB)
        theirs.seek(50 * MIB)
        assert ours.read(9) == theirs.read(9)
    assert asked == ["car"]
    assert sum(result.sources.values()) < MIB


async def test_a_folder_from_kubos_gateway(kubo: KuboDaemon, asked: list[str], tmp_path: Path) -> None:
    """Thousands of small files, in a sharded folder and below it, take some requests, not thousands."""
    folder = write_many(tmp_path / "folder", 5000, 300)
    write_many(folder / "sub", 200, 3000)
    cid = kubo.run("add", "-Q", "-r", "--cid-version=1", folder).strip()
    async with node_with(tmp_path / "ours", kubo.gateway) as node:
        with trio.fail_after(PATIENCE):
            await node.load(LoadRequest(CID.parse(cid), kind="directory"))
            assert len(asked) <= 20
            for name in ("sub/", ""):
                path = min((folder / name).glob("*.dat"), default=None) or min(
                    each for each in (folder / name).iterdir() if each.is_file()
                )
                names = tuple(path.relative_to(folder).parts)
                found = await node.load(LoadRequest(CID.parse(cid), names))
                assert found.sources == {}
                assert sha256_of(Path(found.path or "")) == sha256_of(path)
