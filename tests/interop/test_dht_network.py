"""Networks of real peers and our own nodes, in a network namespace: does everyone find what everyone has?

Kubo keeps loopback addresses out of both of its DHTs, so all of this runs on one machine of a `scripts.lab`: most of it
in the LAN DHT, with a private address, and some in the public DHT, with one that counts as public (there a table takes
only three peers of one network). Our nodes are hosts with a DHT (and Bitswap, where Kubo is to fetch) in the
process of the test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.dag.cid import CID
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.transport.host import Host
from scripts.lab import Host as Machine
from scripts.lab import Lab, unavailable
from scripts.peers import GoLibp2p, Helia, Kubo, Peer, PeerError, missing, missing_go
from tests.helpers.bitswap_fakes import MemoryStore
from tests.helpers.patience import PATIENCE, until
from tests.interop.dht_common import announce, call, cid_text, new_multihash, providers, start_dht

pytestmark = pytest.mark.slow

KUBOS, HELIAS, OURS, HIDDEN = 3, 2, 20, 3
SERVERS, TARGETS = 6, 12


@pytest.fixture(params=["10.7.0.0/24"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with a private address, or another one, and nothing else on its network."""
    reason = missing() or missing_go() or unavailable()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test networks, but {reason}")
        pytest.skip(reason)
    with Lab() as lab:
        machine = lab.host("all", lab.network(request.param))
        with machine.entered():
            yield machine


async def start_hidden(
    nursery: trio.Nursery, listen: str, bootstrap: list[str], *, lan: bool = True
) -> tuple[Host, DHT, CID]:
    """A node of ours with one block, that announces but is no server, so that only its record leads to it."""
    host, dht = await start_dht(nursery, listen=listen, lan=lan, mode="client", bootstrap=bootstrap)
    store = MemoryStore()
    cid = store.add(os.urandom(2000))
    await nursery.start(Exchange(host, store).run)
    return host, dht, cid


async def hide(host: Host, *peers: Peer) -> None:
    """Part with these peers: what they are to find, they have to look for."""
    for peer in peers:
        await host.disconnect(peer.peer_id)


async def succeeds(real: Peer, command: str, /, **args: object) -> bool:
    """Whether a request to a real peer works and, where it names addresses, finds some."""
    try:
        result = await call(real, command, **args)
    except PeerError:
        return False
    return bool(result.get("addrs", True))


async def until_found(dht: DHT, multihash: bytes, provider: str) -> None:
    """Search again and again, until a provider is named."""
    with trio.fail_after(PATIENCE):
        while provider not in {each.peer for each in await providers(dht, multihash)}:  # noqa: ASYNC110 - Kubo tells nobody
            await trio.sleep(0.2)


async def finds(peer: Peer, multihash: bytes, provider: str) -> bool:
    """Whether a search of Helia or go-libp2p names a provider with an address."""
    answer = await call(peer, "find_providers", cid=cid_text(multihash))
    return any(each["id"] == provider and each["addrs"] for each in answer["providers"])


def test_everyone_finds_what_everyone_has(machine: Machine, tmp_path: Path) -> None:
    """3 Kubo, 2 Helia, 1 go-libp2p and 20 of ours in one network: each announces something, each finds all of it."""
    listen = f"/ip4/{machine.address}/tcp/0"
    figures: dict[str, str] = {}
    with ExitStack() as stack:
        kubos = [stack.enter_context(Kubo(host=machine.address, no_fsync=True)) for _ in range(KUBOS)]
        helias = [stack.enter_context(Helia(host=machine.address, dht="lan", in_memory=True)) for _ in range(HELIAS)]
        go = stack.enter_context(GoLibp2p(host=machine.address))

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                entry = [kubo.addrs[0] for kubo in kubos]
                for number, peer in enumerate([*kubos[1:], *helias, go]):
                    await call(peer, "connect", addr=entry[number % 2])
                ours = [await start_dht(nursery, listen=listen, bootstrap=[entry[n % KUBOS]]) for n in range(OURS)]
                real = {peer.peer_id for peer in (*kubos, *helias, go)}
                everyone = real | {host.peer_id for host, _ in ours}
                await until(lambda: all(len(set(dht.peers()) & everyone) >= 24 for _, dht in ours))

                # --- everyone announces something
                has: dict[bytes, str] = {}
                for host, dht in ours:
                    has[multihash := new_multihash()] = host.peer_id
                    assert await announce(dht, multihash) >= 19
                for peer in (*helias, go):
                    has[multihash := new_multihash()] = peer.peer_id
                    await call(peer, "provide", cid=cid_text(multihash))
                for number, kubo in enumerate(kubos):
                    path = tmp_path / f"kubo-{number}"
                    path.write_bytes(os.urandom(1000))
                    cid = await call(kubo, "add", path=str(path))
                    has[CID.parse(cid["cid"]).multihash] = kubo.peer_id
                hidden = [await start_hidden(nursery, listen, entry[:1]) for _ in range(HIDDEN)]
                for host, dht, cid in hidden:
                    await until(lambda dht=dht: len(dht.peers()) >= 20)
                    assert await announce(dht, cid.multihash) >= 19
                    await hide(host, *kubos)
                for multihash, owner in has.items():
                    if owner in {kubo.peer_id for kubo in kubos}:  # it gathers what it is to announce for a moment
                        await until_found(ours[0][1], multihash, owner)

                # --- and looks for the others'
                began = time.monotonic()
                found = total = 0
                kinds = {peer.peer_id: type(peer).__name__ for peer in (*kubos, *helias, go)}
                missed: dict[str, int] = {}
                for host, dht in ours:
                    for multihash, owner in has.items():
                        if owner != host.peer_id:
                            total += 1
                            ok = any(each.peer == owner and each.addrs for each in await providers(dht, multihash))
                            found += ok
                            kind = kinds.get(owner, "ours")
                            missed[kind] = missed.get(kind, 0) + (not ok)
                figures["ours find everyone's"] = (
                    f"{found}/{total} in {time.monotonic() - began:.1f} s, missed {missed}"
                )
                assert found >= 0.99 * total, figures

                for peer in (*helias, go):
                    found = total = 0
                    for multihash, owner in has.items():
                        if owner != peer.peer_id:
                            total += 1
                            found += await finds(peer, multihash, owner)
                    figures[f"{type(peer).__name__} finds everyone's"] = f"{found}/{total}"
                    assert found >= 0.95 * total, figures

                found = total = 0
                for kubo in kubos:
                    for _, _, cid in hidden:
                        total += 1
                        found += await succeeds(kubo, "pin", cid=str(cid))
                figures["Kubo finds and fetches ours"] = f"{found}/{total}"
                assert found == total, figures
                found = total = 0
                for kubo in kubos:
                    for other in everyone - {kubo.peer_id}:
                        total += 1
                        found += await succeeds(kubo, "find_peer", peer=other, seconds=10)
                figures["Kubo finds peers"] = f"{found}/{total}"
                refused = sum(dht.status()["questions"]["refused"] for _, dht in ours)
                figures["questions served by ours"] = str(sum(d.status()["questions"]["received"] for _, d in ours))
                figures["refused"] = str(refused)
                nursery.cancel_scope.cancel()

        try:
            trio.run(main)
        finally:
            print("\n".join(f"{name}: {figure}" for name, figure in figures.items()))


@pytest.mark.parametrize("servers", ["kubo", "ours"])
def test_lookups_of_kubo_by_our_servers(machine: Machine, servers: str) -> None:
    """A Kubo node that knows only servers of one kind finds as much by ours as by its own kind: everything.

    It fetches blocks of nodes that it has no connection with, and asks for the addresses of peers.
    """
    listen = f"/ip4/{machine.address}/tcp/0"
    with ExitStack() as stack:
        asker = stack.enter_context(Kubo(host=machine.address, no_fsync=True, routing="dhtclient"))
        go = stack.enter_context(GoLibp2p(host=machine.address, dht_mode="client"))
        kubos = [
            stack.enter_context(Kubo(host=machine.address, no_fsync=True))
            for _ in range(SERVERS if servers == "kubo" else 0)
        ]

        async def main() -> dict[str, int]:
            counts = {"pin": 0, "find_peer": 0, "find_providers": 0}
            async with trio.open_nursery() as nursery:
                if servers == "kubo":
                    addrs = [kubo.addrs[0] for kubo in kubos]
                    for kubo in kubos[1:]:
                        await call(kubo, "connect", addr=addrs[0])
                else:
                    first = await start_dht(nursery, listen=listen)
                    more = [
                        await start_dht(nursery, listen=listen, bootstrap=first[0].addresses())
                        for _ in range(SERVERS - 1)
                    ]
                    await until(lambda: all(len(dht.peers()) == SERVERS - 1 for _, dht in (first, *more)))
                    addrs = [host.addresses()[0] for host, _ in (first, *more)]
                for peer in (asker, go):
                    for addr in addrs[:2]:
                        await call(peer, "connect", addr=addr)
                targets = [await start_hidden(nursery, listen, addrs[:2]) for _ in range(TARGETS)]
                for host, dht, cid in targets:
                    # Kubo stays a server of the LAN DHT whatever its routing is: it must not get the record itself.
                    await until(lambda dht=dht: len(set(dht.peers()) - {asker.peer_id}) == SERVERS)
                    assert await announce(dht, cid.multihash, but=[asker, go]) == SERVERS
                    await hide(host, asker, go)
                for host, _, cid in targets:
                    counts["find_providers"] += await finds(go, cid.multihash, host.peer_id)
                    counts["find_peer"] += await succeeds(asker, "find_peer", peer=host.peer_id, seconds=10)
                    counts["pin"] += await succeeds(asker, "pin", cid=str(cid))
                nursery.cancel_scope.cancel()
            return counts

        counts = trio.run(main)
    print(f"by servers of {servers}: {counts} of {TARGETS} each")
    assert counts == dict.fromkeys(counts, TARGETS)


@pytest.mark.parametrize("machine", ["11.7.0.0/24"], indirect=True)
def test_the_public_dht_with_kubo(machine: Machine, tmp_path: Path) -> None:
    """In the public DHT, with public addresses: we find what Kubo announces, and Kubo fetches what we announce."""
    listen = f"/ip4/{machine.address}/tcp/0"
    with ExitStack() as stack:
        options = {"host": machine.address, "no_fsync": True, "reachability": "public"}
        server, asker = [stack.enter_context(Kubo(**options)) for _ in range(2)]

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                ours = await start_dht(nursery, listen=listen, lan=False, mode="server", bootstrap=server.addrs)
                await until(lambda: server.peer_id in ours[1].peers())
                await call(asker, "connect", addr=ours[0].addresses()[0])
                await until(lambda: asker.peer_id in ours[1].peers())
                # Kubo -> us
                path = tmp_path / "file"
                path.write_bytes(os.urandom(1000))
                cid = CID.parse((await call(server, "add", path=str(path)))["cid"])
                await until(lambda: ours[1].status()["records_held"])
                assert {each.peer for each in await providers(ours[1], cid.multihash)} == {server.peer_id}
                # us -> Kubo
                host, dht, ours_cid = await start_hidden(nursery, listen, ours[0].addresses(), lan=False)
                await until(dht.peers)
                assert await announce(dht, ours_cid.multihash, but=[asker]) >= 1
                await hide(host, asker)
                assert await succeeds(asker, "pin", cid=str(ours_cid))
                nursery.cancel_scope.cancel()

        trio.run(main)
