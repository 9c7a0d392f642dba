"""Our DHT with one real peer at a time, on loopback: Kubo, Helia, go-libp2p."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.transport.host import Host
from scripts.peers import Kubo, Peer
from tests.conftest import StartGoLibp2p, StartHelia, StartKubo
from tests.helpers.patience import PATIENCE, until
from tests.interop.dht_common import announce, call, cid_text, new_multihash, providers, start_dht


@pytest.fixture
async def ours(nursery: trio.Nursery) -> tuple[Host, DHT]:
    """One node of ours, a server of the LAN DHT."""
    return await start_dht(nursery)


@pytest.fixture(params=["kubo", "helia", "golibp2p"])
def real(request: pytest.FixtureRequest) -> Peer:
    """A real peer, a server of the LAN DHT; one kind after the other."""
    start = request.getfixturevalue(f"start_{request.param}")
    return start(
        **{"kubo": {"no_fsync": True}, "helia": {"in_memory": True, "dht": "lan"}, "golibp2p": {}}[request.param]
    )


async def meet(ours: tuple[Host, DHT], real: Peer) -> None:
    host, dht = ours
    await host.connect(real.addrs[0])
    await until(lambda: dht.peers() == [real.peer_id])


async def test_what_we_announce_they_find(ours: tuple[Host, DHT], real: Peer) -> None:
    """A record that we deliver is taken by every kind of peer, and those that can be asked find us with our address."""
    host, dht = ours
    await meet(ours, real)
    multihash = new_multihash()
    assert await announce(dht, multihash) == 1
    found = await providers(dht, multihash)
    assert found == []  # we do not name ourselves, but the peer has the record:
    if not isinstance(real, Kubo):  # its library has no call for it; the network test sees what it finds
        answer = await call(real, "find_providers", cid=cid_text(multihash))
        assert [each["id"] for each in answer["providers"]] == [host.peer_id]
        assert answer["providers"][0]["addrs"][0].startswith(host.transport_addresses()[0])


async def test_what_they_announce_we_find(ours: tuple[Host, DHT], real: Peer, tmp_path: Path) -> None:
    """What a peer announces reaches our server, and a second node of ours finds it by us and by the peer itself."""
    host, dht = ours
    await meet(ours, real)
    if isinstance(real, Kubo):
        path = tmp_path / "file"
        path.write_bytes(new_multihash())
        multihash = CID.parse(await trio.to_thread.run_sync(real.add, path)).multihash
    else:
        multihash = new_multihash()
        with trio.fail_after(PATIENCE):
            while not dht.status()["records_held"]:
                # On a busy machine Helia may give up on peers whose answers come late, and says nothing.
                await call(real, "provide", cid=cid_text(multihash))
                with trio.move_on_after(PATIENCE / 10):
                    await until(lambda: dht.status()["records_held"])
    await until(lambda: dht.status()["records_held"])
    async with trio.open_nursery() as nursery:
        _, other = await start_dht(nursery, bootstrap=host.addresses())
        await until(lambda: len(other.peers()) == 2)
        found = await providers(other, multihash)
        nursery.cancel_scope.cancel()
    assert {each.peer for each in found} == {real.peer_id}
    assert any(f"{addr}/p2p/{real.peer_id}" == real.addrs[0] for each in found for addr in each.addrs)


async def test_their_search_goes_through_our_server(
    ours: tuple[Host, DHT],
    start_helia: StartHelia,
    start_golibp2p: StartGoLibp2p,
) -> None:
    """Two peers that know nobody but us find each other's records by our server, and each other's addresses."""
    _, dht = ours
    helia = start_helia(in_memory=True, dht="lan")
    go = start_golibp2p()
    for peer in (helia, go):
        await call(peer, "connect", addr=ours[0].addresses()[0])
    await until(lambda: len(dht.peers()) == 2)
    for giver, taker in ((helia, go), (go, helia)):
        multihash = new_multihash()
        await call(giver, "provide", cid=cid_text(multihash))
        answer = await call(taker, "find_providers", cid=cid_text(multihash))
        assert giver.peer_id in [each["id"] for each in answer["providers"]]


async def test_kubo_uses_one_stream_for_many_messages(
    ours: tuple[Host, DHT],
    start_kubo: StartKubo,
    tmp_path: Path,
) -> None:
    """Kubo announces and then looks for a peer on the same stream: ADD_PROVIDER gets no answer that could be mistaken
    for the next one's."""
    host, dht = ours
    kubo = start_kubo(no_fsync=True)
    await meet(ours, kubo)
    # Kubo leaves loopback addresses out of what it tells others, but uses them itself.
    async with trio.open_nursery() as nursery:
        stranger, _ = await start_dht(nursery, bootstrap=host.addresses())
        await until(lambda: stranger.peer_id in dht.peers())
        for number in range(3):
            held = dht.status()["records_held"]  # Kubo announces some things of its own, too
            path = tmp_path / f"file-{number}"
            path.write_bytes(new_multihash())
            await trio.to_thread.run_sync(kubo.add, path)
            await until(lambda held=held: dht.status()["records_held"] > held)
            found = await call(kubo, "find_peer", peer=stranger.peer_id, seconds=10)
            assert found["addrs"], dht.status()
        nursery.cancel_scope.cancel()
    status = dht.status()
    assert status["served"]["add_provider"] >= 3
    assert status["served"]["find_node"] >= 3
    assert status["streams"]["inbound"] <= 3
    assert status["questions"]["refused"] == 0
