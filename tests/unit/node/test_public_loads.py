"""A gateway of a machine that is in a group fetches for strangers: what everybody may have, and nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio

from kachery_cloud.node.serve import GatewayChoice, _gateway_server
from kachery_cloud.settings.config import Config
from kachery_p2p.access.audience import PRIVATE, PUBLIC, group_audience
from kachery_p2p.dag.cid import CID, sha256_multihash
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.gateway.server.token import gateway_token
from kachery_p2p.node import public_loads as module
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from tests.helpers.group_network import Lab, Three, audiences, blocks_of, stored
from tests.helpers.patience import PATIENCE

MIB = 1 << 20
#: For a load that is to find nothing.
SOON = 3.0


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(2 * PATIENCE):
                yield Lab(tmp_path, nursery, stack)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def three(lab: Lab) -> Three:
    outsider, alice, bob = [await lab.node(name) for name in ("outsider", "alice", "bob")]
    await lab.met(outsider, alice, bob)
    return Three(alice, bob, outsider, await lab.join(alice, bob))


@contextlib.asynccontextmanager
async def gateway(node: Node, timeout: float = PATIENCE) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway of a node that fetches, as `kachery-cloud-node` puts it together."""
    config = Config(directory=node.repo.directory, timeout=timeout)
    server = _gateway_server(node, config, GatewayChoice("127.0.0.1:0", fetch=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with httpx.AsyncClient(base_url=server.url, timeout=4 * PATIENCE, trust_env=False) as http:
            yield http
        nursery.cancel_scope.cancel()


def listing(node: Node, name: str, target: CID, size: int) -> CID:
    """A directory that anybody may have and that leads to something."""
    blocks: list[tuple[CID, bytes]] = []
    builder = DirectoryBuilder("unixfs-v1-2025", lambda cid, block: blocks.append((cid, block)))
    builder.add(name, target, size)
    cid = builder.finish().cid
    node.repo.put_blocks(blocks)
    return cid


def here(node: Node) -> set[str]:
    """The audiences of all that is here, and what is listed."""
    return audiences(node, blocks_of(node)) | {str(root.cid) for root in node.repo.inventory.roots()}


async def test_what_is_public_elsewhere_is_fetched(three: Three) -> None:
    """Files, ranges and folders, from strangers; nothing of what is here changes, and nothing is listed."""
    alice, outsider = three.alice, three.outsider
    await stored(alice, b"a secret of the group", group_audience([three.group]))
    data = os.urandom(3 * MIB + 17)
    cid = await stored(outsider, data)
    folder = listing(outsider, "data.bin", cid, len(data))
    before = here(alice)
    async with gateway(alice) as http:
        part = await http.get(f"/ipfs/{cid}", headers={"range": "bytes=2000000-2000099"})
        assert (part.status_code, part.content) == (206, data[2_000_000:2_000_100])
        assert (await http.get(f"/ipfs/{cid}")).content == data
        assert (await http.get(f"/ipfs/{folder}/data.bin")).content == data
        assert "data.bin" in (await http.get(f"/ipfs/{folder}/")).text
        car = await http.get(f"/ipfs/{folder}?format=car")
        assert (car.status_code, len(car.content) > len(data)) == (200, True)
    assert here(alice) == before
    with pytest.raises(ContentNotFound):
        await three.bob.load(LoadRequest(cid, providers=(), timeout=SOON, members_only=True))


@pytest.mark.parametrize("whose", ["here", "a member's"])
async def test_what_is_for_members_is_as_if_nobody_had_it(three: Three, whose: str) -> None:
    """What is here for some, and what a fellow member would give to this machine: the answer is that of what is not
    anywhere. With the token the user gets both."""
    alice, bob = three.alice, three.bob
    data = os.urandom(MIB + 1)
    cid = await stored(alice if whose == "here" else bob, data, group_audience([three.group]))
    missing = CID(cid.version, cid.codec, sha256_multihash(b"nothing"))
    sent = bob.exchange.stats().total.blocks_sent
    async with gateway(alice, SOON) as http:
        found, nothing = [await http.get(f"/ipfs/{each}") for each in (cid, missing)]
        assert found.status_code == nothing.status_code == 504
        assert found.text.replace(str(cid), "CID") == nothing.text.replace(str(missing), "CID")
        assert bob.exchange.stats().total.blocks_sent == sent, "it was not even asked for"
        token = await trio.to_thread.run_sync(gateway_token, alice.repo.directory)
        answer = await http.get(f"/ipfs/{cid}", headers={"authorization": f"Bearer {token}"})
        assert answer.content == data
        assert (await http.get(f"/ipfs/{cid}")).status_code == 504, "what the user has read is nothing to others"


async def test_what_is_restricted_here_and_public_elsewhere(three: Three) -> None:
    """It is fetched as if it were not here, so that whoever offers it himself does not learn that it is. What the user
    said of it stays as it is."""
    alice, outsider = three.alice, three.outsider
    data = os.urandom(2 * MIB + 1)
    cid = await stored(alice, data, PRIVATE)
    mine = audiences(alice, blocks_of(alice))
    assert await stored(outsider, data) == cid
    async with gateway(alice) as http:
        assert (await http.get(f"/ipfs/{cid}")).content == data
    assert outsider.exchange.stats().total.bytes_sent >= len(data)
    assert audiences(alice, blocks_of(alice)) == mine == {"private"}


async def test_what_a_member_has_for_everybody(three: Three) -> None:
    """It is asked first, and then gives it."""
    data = os.urandom(2 * MIB + 1)
    cid = await stored(three.bob, data)
    async with gateway(three.alice) as http:
        assert (await http.get(f"/ipfs/{cid}")).content == data


async def test_a_public_folder_of_a_member_that_leads_to_a_secret(three: Three) -> None:
    """A stranger may have made it, and had the member load it. What it leads to does not come out."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    secret = os.urandom(1000)
    cid = await stored(bob, secret, group_audience([three.group]))
    trap = listing(outsider, "secret", cid, len(secret))
    await bob.load(LoadRequest(trap, kind="listing", timeout=PATIENCE))
    assert bob.repo.access.audience_of(trap) == PUBLIC
    async with gateway(alice, SOON) as http:
        for path in (f"/ipfs/{trap}/secret", f"/ipfs/{trap}?format=car", f"/ipfs/{trap}/secret?format=raw"):
            answer = await http.get(path)
            assert answer.status_code in (404, 504), path
            assert secret not in answer.content
    contents = alice.public_loads.contents
    assert contents is not None
    assert not contents.has_block(cid.multihash)


async def test_it_is_bounded_and_goes_with_the_node(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used longest ago makes room; a start takes away what a kill has left."""
    monkeypatch.setattr(module, "MOST_BYTES", 5 * MIB)
    monkeypatch.setattr(module, "LEFT_BYTES", 3 * MIB)
    outsider = await lab.node("outsider")
    folder = lab.folder / "alice" / module.FOLDER
    folder.mkdir(parents=True)
    (folder / "left").write_bytes(b"by a kill")
    alice = await lab.node("alice")
    await lab.met(outsider, alice)
    cids = [await stored(outsider, os.urandom(2 * MIB)) for _ in range(4)]
    for cid in cids:
        await alice.load_public(LoadRequest(cid, timeout=PATIENCE))
    assert not (folder / "left").exists()
    contents = alice.public_loads.contents
    assert contents is not None
    assert contents.has_block(cids[-1].multihash)
    assert not contents.has_block(cids[0].multihash)
    assert not alice.repo.has_block(cids[-1].multihash)
