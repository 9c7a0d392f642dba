"""AutoNAT between our own hosts, over real connections on loopback."""

from __future__ import annotations

import ipaddress
import random
import sys

import pytest
import trio

from kachery_p2p.errors import StreamError
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat import AutonatClient
from kachery_p2p.transport.nat.autonat_messages import V1, V2_DIAL
from kachery_p2p.transport.nat.autonat_server import AutonatServer, RateLimit
from kachery_p2p.transport.nat.endpoints import TcpEndpoint, from_text
from kachery_p2p.transport.nat.reachability import Reachability
from tests.helpers.clocks import PatientClock
from tests.helpers.nat_helpers import IMPATIENT, loopback, meet, new_server, running
from tests.helpers.patience import until
from tests.helpers.transport_helpers import free_port, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")


def listens(host: Host) -> list[TcpEndpoint]:
    return [each for each in map(from_text, host.listen_addresses()) if each is not None]


def nothing_there() -> TcpEndpoint:
    """An address of loopback at which nothing listens."""
    return TcpEndpoint(ipaddress.ip_address("127.0.0.1"), free_port())


async def new_client(nursery: trio.Nursery, **options: object) -> tuple[Host, AutonatClient]:
    host = await started(nursery, **options)
    client = AutonatClient(host, bounds=IMPATIENT)
    client.start()
    return host, client


@pytest.mark.parametrize("version", [1, 2])
async def test_reached(patient_clock: PatientClock, nursery: trio.Nursery, version: int) -> None:
    """A server reaches us where we listen, in either version, over a connection of its own that it closes again."""
    server, service = await new_server(nursery, versions=[version])
    host, client = await new_client(nursery)
    await meet(host, server)
    assert client.speaks(server.peer_id) == {1: V1, 2: V2_DIAL}[version]
    strangers: list[str] = []
    host.on_connected(strangers.append)
    answer = await client.ask(server.peer_id, listens(host), listens(host))
    assert answer.overall
    assert answer.reached == {listens(host)[0]: True}
    assert (service.served, service.reached) == (1, 1)
    assert strangers
    assert server.peer_id not in strangers
    await until(lambda: host.connected() == [server.peer_id])


@pytest.mark.parametrize("version", [1, 2])
async def test_not_reached(patient_clock: PatientClock, nursery: trio.Nursery, version: int) -> None:
    """Where nothing listens nobody is reached. Version 2 says so of each address."""
    server, _ = await new_server(nursery, versions=[version])
    host, client = await new_client(nursery, listen=())
    await meet(host, server)
    missing = nothing_there()
    answer = await client.ask(server.peer_id, [missing], [])
    assert not answer.overall
    assert answer.reached == ({missing: False} if version == 2 else {})


async def test_each_address_by_itself(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Version 2 tells the address that works from the one that does not, in one go."""
    server, _ = await new_server(nursery)
    host, client = await new_client(nursery)
    await meet(host, server)
    missing = nothing_there()
    answer = await client.ask(server.peer_id, [missing, *listens(host)], [])
    assert answer.reached == {missing: False, listens(host)[0]: True}
    assert answer.overall


async def test_another_ip_costs_dial_data(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """An address that is not the one the request comes from is dialled after 30 to 100 kB were sent for it."""
    server, _ = await new_server(nursery)
    host, client = await new_client(nursery, listen=("/ip4/127.7.0.1/tcp/0",))
    await meet(host, server)
    before = next(each.bytes_received for each in server.connections())
    answer = await client.ask(server.peer_id, listens(host), [])
    assert answer.reached == {listens(host)[0]: True}
    paid = next(each.bytes_received for each in server.connections()) - before
    assert limits.MIN_DIAL_DATA <= paid <= limits.MAX_DIAL_DATA + 4096


async def test_private_network(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """With a swarm key the dial back speaks it, too."""
    key = bytes(range(32))
    server, _ = await new_server(nursery, swarm_key=key)
    host, client = await new_client(nursery, swarm_key=key)
    await meet(host, server)
    assert (await client.ask(server.peer_id, listens(host), [])).overall


async def test_version_1_never_dials_another_ip(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Addresses of others in a request become the requester's own: a victim is not dialled."""
    server, service = await new_server(nursery, versions=[1])
    dialled: list[TcpEndpoint] = []
    connect = service._connect

    async def record(target: TcpEndpoint, peer: str):
        dialled.append(target)
        return await connect(target, peer)

    service._connect = record
    host, client = await new_client(nursery, listen=())
    await meet(host, server)
    victim = TcpEndpoint(ipaddress.ip_address("127.66.66.66"), 80)
    await client.ask(server.peer_id, [victim], [])
    assert dialled
    assert {str(each.ip) for each in dialled} == {"127.0.0.1"}
    assert 80 in {each.port for each in dialled}


async def test_private_requesters_are_refused(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A server does not dial private addresses, nor serve those who come from one."""
    server = await started(nursery)
    service = AutonatServer(server, bounds=IMPATIENT)  # counts public addresses only
    service.enable(True)
    host, client = await new_client(nursery)
    await meet(host, server)
    with pytest.raises(StreamError, match="did not dial back"):
        await client.ask(server.peer_id, listens(host), [])
    server.remove_handler(V2_DIAL)
    await until(lambda: V2_DIAL not in host.protocols_of(server.peer_id))
    with pytest.raises(StreamError, match="not served from here"):
        await client.ask(server.peer_id, listens(host), [])
    assert service.served == 0


async def test_rate_limit(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """One peer gets so many answers a minute and no more."""
    server, service = await new_server(nursery)
    host, client = await new_client(nursery)
    await meet(host, server)
    for _ in range(limits.SERVER_REQUESTS_PER_PEER):
        await client.ask(server.peer_id, listens(host), [])
    with pytest.raises(StreamError, match="status 100"):
        await client.ask(server.peer_id, listens(host), [])
    assert service.served == limits.SERVER_REQUESTS_PER_PEER


def test_rate_limit_counts() -> None:
    """Peers, IP addresses and the sum are limited each, and the window slides."""
    rate = RateLimit()
    ips = [ipaddress.ip_address(f"11.0.0.{number}") for number in range(1, 200)]
    assert [rate.accept("p", ips[n], 0) for n in range(9)].count(True) == limits.SERVER_REQUESTS_PER_PEER
    assert [rate.accept(f"q{n}", ips[100], 0) for n in range(30)].count(True) == limits.SERVER_REQUESTS_PER_IP
    left = limits.SERVER_REQUESTS - limits.SERVER_REQUESTS_PER_PEER - limits.SERVER_REQUESTS_PER_IP
    assert [rate.accept(f"r{n}", ips[n], 1) for n in range(90)].count(True) == left
    assert rate.accept("p", ips[0], limits.SERVER_WINDOW)
    assert len(rate._served) <= limits.SERVER_REQUESTS


async def test_reachability_over_the_wire(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Three servers of either version make a node that listens public; what they cannot reach makes one private."""
    servers = [(await new_server(nursery, 10 + n, versions=[1 + n % 2]))[0] for n in range(3)]
    for listen, state in ((("/ip4/127.0.0.1/tcp/0",), "public"), ((), "private")):
        host = await started(nursery, listen=listen)
        reach = Reachability(host, counts=loopback, map_ports=False, rng=random.Random(1), bounds=IMPATIENT)
        host.advertise = reach.advertise
        async with running(reach):
            await meet(host, *servers)
            await until(lambda reach=reach, state=state: reach.state == state)
            status = reach.status()
            assert "3 of 3 peers could" in status["why"]
            assert status["errors"] == []
            assert host.transport_addresses() == host.listen_addresses()
            # The status page and the control socket ask from other threads.
            assert await trio.to_thread.run_sync(host.transport_addresses) == host.listen_addresses()
            assert (await trio.to_thread.run_sync(reach.status))["state"] == state
