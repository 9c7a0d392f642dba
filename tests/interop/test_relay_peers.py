"""Circuit relay v2 with Kubo as the relay and behind ours, and hole punching with it."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio

from kachery_p2p.errors import DialError
from kachery_p2p.transport.holepunch import DCUTR, HolePunch, HolePunchResult
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.ping import PING
from kachery_p2p.transport.relay.client import RelayClient
from kachery_p2p.transport.relay.messages import HOP
from kachery_p2p.transport.relay.service import RelayService
from scripts import lab as labs
from scripts.peers import Kubo
from tests.helpers.patience import PATIENCE, until, wait_until
from tests.helpers.transport_helpers import ECHO, echo, says_back, started

RELAYING = ["Swarm.Transports.Network.Relay=true"]
PUNCHING = "Swarm.EnableHolePunching=true"


async def pings(host: Host, peer: str) -> bool:
    """Whether a peer answers a ping."""
    async with await host.open_stream(peer, [PING]) as stream:
        await stream.write(bytes(range(32)))
        return bytes(await stream.read_exactly(32)) == bytes(range(32))


async def test_kubo_is_our_relay(nursery: trio.Nursery) -> None:
    """We reserve at a Kubo, find each other through it, and know the limits that it sets."""
    with Kubo(reachability="public", set=[*RELAYING, 'Swarm.RelayService={"Enabled": true}']) as kubo:
        a, b = await started(nursery, listen=()), await started(nursery, listen=())
        client = RelayClient(b, [kubo.addrs[0]])
        await nursery.start(client.run)
        client.enabled = True
        await until(client.addresses)
        (reservation,) = client.reservations()
        assert (reservation.relay, reservation.limit.duration, reservation.limit.data) == (kubo.peer_id, 120, 131072)
        await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
        assert await says_back(a, b.peer_id)
        assert await says_back(b, a.peer_id)
        relayed = [each for each in a.connections() + b.connections() if "/p2p-circuit" in each.addr]
        assert [each.limited for each in relayed] == [True, True]


async def test_kubo_is_reached_through_our_relay(nursery: trio.Nursery) -> None:
    """A Kubo that believes itself unreachable reserves at our relay, and we find it there."""
    relay = await started(nursery)
    service = RelayService(relay)
    nursery.start_soon(service.run)
    static = f'Swarm.RelayClient={{"Enabled": true, "StaticRelays": ["{relay.addresses()[0]}"]}}'
    with Kubo(reachability="private", set=[*RELAYING, static]) as kubo:
        await until(lambda: service.status()["reservations"])
        a = await started(nursery, listen=())
        await a.connect(f"{relay.addresses()[0]}/p2p-circuit/p2p/{kubo.peer_id}", timeout=PATIENCE)
        assert [each.addr for each in a.connections() if each.peer == kubo.peer_id] == [
            f"{relay.addresses()[0]}/p2p-circuit"
        ]
        assert await pings(a, kubo.peer_id)
        assert HOP not in a.protocols_of(kubo.peer_id)


async def test_kubo_reaches_us_through_our_relay(nursery: trio.Nursery) -> None:
    """Kubo dials a circuit address of ours."""
    relay, b = await started(nursery), await started(nursery, listen=())
    nursery.start_soon(RelayService(relay, is_friend=lambda peer: True).run)
    client = RelayClient(b, [relay.addresses()[0]])
    await nursery.start(client.run)
    client.enabled = True
    await until(client.addresses)
    with Kubo(set=RELAYING) as kubo:
        address = f"{client.addresses()[0]}/p2p/{b.peer_id}"
        await trio.to_thread.run_sync(lambda: kubo.connect(address))
        await until(lambda: kubo.peer_id in b.connected())
        assert await pings(b, kubo.peer_id)


def on(machine: labs.Host, program: Callable[[], Awaitable[None]]) -> None:
    """Run a trio program on a machine of the lab, in a thread that ends with the tests."""

    def work() -> None:
        with machine.entered():
            trio.run(program)

    threading.Thread(target=work, daemon=True).start()


@pytest.mark.skipif(labs.unavailable() is not None, reason=str(labs.unavailable()))
@pytest.mark.parametrize("kubo_begins", [True, False])
def test_a_hole_is_punched_with_kubo(kubo_begins: bool) -> None:
    """Behind two NATs, with our relay between, we and Kubo come to a direct connection, whichever side begins."""
    listen = ("/ip4/0.0.0.0/tcp/4001",)
    said: queue.Queue[str] = queue.Queue()
    results: queue.Queue[HolePunchResult] = queue.Queue()
    stop = threading.Event()
    hosts: list[Host] = []

    async def until_stopped() -> None:
        while not stop.is_set():  # noqa: ASYNC110 - it is set from another thread
            await trio.sleep(0.05)

    async def relay() -> None:
        async with trio.open_nursery() as nursery:
            host = Host(os.urandom(32), listen)
            await nursery.start(host.run)
            nursery.start_soon(RelayService(host, is_friend=lambda peer: True).run)
            hosts.append(host)
            said.put(host.addresses()[0])
            await until_stopped()
            nursery.cancel_scope.cancel()

    async def own(relay_address: str, kubo: str) -> None:
        async with trio.open_nursery() as nursery:
            host = Host(os.urandom(32), listen)
            host.set_handler(ECHO, echo)
            await nursery.start(host.run)
            punch = HolePunch(host)
            punch.on_result.subscribe(results.put)
            await nursery.start(punch.run)
            if kubo:
                await host.connect(relay_address)
                with trio.move_on_after(PATIENCE):
                    while kubo not in host.connected():
                        try:
                            await host.connect(f"{relay_address}/p2p-circuit/p2p/{kubo}")
                        except DialError:
                            await trio.sleep(0.5)
            else:
                client = RelayClient(host, [relay_address])
                await nursery.start(client.run)
                client.enabled = True
                await until(client.addresses)
                said.put(f"{client.addresses()[0]}/p2p/{host.peer_id}")
            await until_stopped()
            nursery.cancel_scope.cancel()

    with labs.Lab() as lab:
        internet = lab.network("11.0.0.0/24")
        homes = [lab.network(f"192.168.{number}.0/24") for number in (7, 8)]
        for number, home in enumerate(homes):
            lab.router(f"nat{number}", inside=home, outside=internet)
        here, there = [lab.host(f"host{number}", home) for number, home in enumerate(homes)]
        on(lab.host("relay", internet), relay)
        relay_address = said.get(timeout=PATIENCE)
        # Kubo believes an address that four others say they see it at, and punches no holes before.
        for number in range(4):
            on(lab.host(f"observer{number}", internet), relay)
        observers = [said.get(timeout=PATIENCE) for _ in range(4)]
        static = f'Swarm.RelayClient={{"Enabled": true, "StaticRelays": ["{relay_address}"]}}'
        with there.entered():
            kubo = Kubo(host="0.0.0.0", tcp=4001, reachability="private", set=[*RELAYING, PUNCHING, static])
        try:
            for observer in observers:
                kubo.connect(observer)
            # It looks now and then whether it has an address, and only then takes part.
            wait_until(lambda: any(DCUTR in host.protocols_of(kubo.peer_id) for host in hosts))
            if kubo_begins:
                on(here, lambda: own(relay_address, kubo.peer_id))
            else:
                on(here, lambda: own(relay_address, ""))
                kubo.connect(said.get(timeout=PATIENCE))
            result = results.get(timeout=PATIENCE)
        finally:
            stop.set()
            kubo.stop()
    assert result.ok, result.why
    assert result.began is not kubo_begins
