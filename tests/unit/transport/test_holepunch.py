"""Hole punching: who does what, what is reported, and real NATs where network namespaces are allowed."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from kachery_p2p.errors import MalformedMessage, StreamError
from kachery_p2p.transport.holepunch import (
    CONNECT,
    DCUTR,
    SYNC,
    HolePunch,
    HolePunchResult,
    encode_message,
    read_message,
)
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import DEFAULTS, TransportLimits
from kachery_p2p.transport.relay.client import RelayClient
from kachery_p2p.transport.relay.service import RelayService
from scripts import lab as labs
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import ECHO, echo, free_port, says_back, started


class Bytes:
    """Something to read a message from."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read_exactly(self, count: int, /) -> bytes:
        await trio.lowlevel.checkpoint()
        if len(self.data) < count:
            raise StreamError("The end.")
        data, self.data = self.data[:count], self.data[count:]
        return data

    async def write(self, data: bytes, /) -> None:
        raise AssertionError


async def test_messages() -> None:
    """Messages are read as written, with the specification's numbers; others are refused by name."""
    addrs = ["/ip4/1.2.3.4/tcp/5", "/ip6/::1/tcp/6"]
    assert await read_message(Bytes(encode_message(CONNECT, addrs)), CONNECT) == addrs
    assert encode_message(SYNC) == bytes.fromhex("03 08ac02")
    for bad in (encode_message(SYNC), bytes.fromhex("02 0a05"), b"\x00"):
        with pytest.raises(MalformedMessage):
            await read_message(Bytes(bad), CONNECT)
    with pytest.raises(StreamError, match="4097"):
        await read_message(Bytes(b"\x81\x20" + bytes(5000)), CONNECT)
    nonsense = encode_message(CONNECT)[:-2] + b"\x64" + b"\x12\x02\xff\xff" * 900
    nonsense = b"\xff" + nonsense
    with pytest.raises((MalformedMessage, StreamError)):
        await read_message(Bytes(nonsense), CONNECT)


async def relayed_pair(
    nursery: trio.Nursery,
    a_listen: Sequence[str],
    told: Sequence[str] | None = None,
    bounds: TransportLimits = DEFAULTS,
) -> tuple[Host, Host, list[HolePunchResult]]:
    """Two hosts that met through a relay, and their results as they come; `told` is what both say where they are."""
    relay = await started(nursery)
    nursery.start_soon(RelayService(relay, is_friend=lambda peer: True).run)
    a, b = await started(nursery, listen=a_listen, bounds=bounds), await started(nursery, bounds=bounds)
    results: list[HolePunchResult] = []
    for host in (a, b):
        punch = HolePunch(host, addresses=host.transport_addresses if told is None else lambda: told)
        punch.on_result.subscribe(results.append)
        await nursery.start(punch.run)
    client = RelayClient(b)
    await client.reserve(relay.addresses()[0])
    await a.connect(f"{client.addresses()[0]}/p2p/{b.peer_id}")
    return a, b, results


async def test_an_open_peer_is_dialled(nursery: trio.Nursery) -> None:
    """When the caller can be dialled, plain dialling is enough."""
    a, b, results = await relayed_pair(nursery, ["/ip4/127.0.0.1/tcp/0"])
    await until(lambda: results)
    assert [(each.peer, each.ok, each.began, each.attempts) for each in results] == [(a.peer_id, True, True, 0)]
    assert a.is_direct(b.peer_id)
    assert await says_back(a, b.peer_id)


async def test_the_called_side_begins(nursery: trio.Nursery) -> None:
    """A caller that cannot be dialled learns where the other is, and dials; both report it."""
    a, b, results = await relayed_pair(nursery, [])
    await until(lambda: len(results) == 2)
    assert {(each.peer, each.ok, each.began, each.attempts) for each in results} == {
        (a.peer_id, True, True, 1),
        (b.peer_id, True, False, 1),
    }
    assert b.is_direct(a.peer_id)
    assert await says_back(b, a.peer_id)


async def test_failure_is_reported(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """After three attempts both sides say that it failed, and the relayed connection goes on."""
    told = [f"/ip4/127.0.0.1/tcp/{free_port()}"]
    a, b, results = await relayed_pair(nursery, [], told, bounds=TransportLimits(punch_timeout=0.2))
    await until(lambda: len(results) == 2)
    assert {(each.peer, each.ok, each.began, each.attempts) for each in results} == {
        (a.peer_id, False, True, 3),
        (b.peer_id, False, False, 3),
    }
    assert all("stays on the relay" in each.why for each in results)
    assert not a.is_direct(b.peer_id)
    assert await says_back(a, b.peer_id)


async def test_only_over_relays(nursery: trio.Nursery) -> None:
    """Who asks for it on a direct connection is turned away."""
    a, b = await started(nursery), await started(nursery)
    await nursery.start(HolePunch(b).run)
    await a.connect(b.addresses()[0])

    async def ask() -> None:
        async with await a.open_stream(b.peer_id, [DCUTR]) as stream:
            await stream.write(encode_message(CONNECT, ["/ip4/1.2.3.4/tcp/5"]))
            await read_message(stream, CONNECT)

    with pytest.raises(StreamError, match="reset by the peer"):
        await ask()


# --- real NATs -----------------------------------------------------------------------------------------------------

LISTEN = ("/ip4/0.0.0.0/tcp/4001",)


class Machines:
    """Own nodes on machines of a lab, each in a thread of its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.said: queue.Queue[str] = queue.Queue()
        self.results: queue.Queue[HolePunchResult] = queue.Queue()
        self.threads: list[threading.Thread] = []

    def on(self, machine: labs.Host, program: Callable[[Host, trio.Nursery], Awaitable[None]]) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                host = Host(os.urandom(32), LISTEN)
                host.set_handler(ECHO, echo)
                await nursery.start(host.run)
                await program(host, nursery)
                while not self.stop.is_set():  # noqa: ASYNC110 - it is set from another thread
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()

        def work() -> None:
            with machine.entered():
                trio.run(main)

        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()

    async def relay(self, host: Host, nursery: trio.Nursery) -> None:
        nursery.start_soon(RelayService(host, is_friend=lambda peer: True).run)
        self.said.put(host.addresses()[0])

    async def punching(self, host: Host, nursery: trio.Nursery) -> None:
        punch = HolePunch(host)
        punch.on_result.subscribe(self.results.put)
        await nursery.start(punch.run)


@pytest.mark.skipif(labs.unavailable() is not None, reason=str(labs.unavailable()))
@pytest.mark.parametrize(
    ("nats", "ok"),
    [
        pytest.param(("port-preserving", "port-preserving"), True, id="both preserve ports"),
        pytest.param(("symmetric", "port-preserving"), False, id="one is symmetric", marks=pytest.mark.slow),
    ],
)
def test_two_nats(nats: tuple[str, str], ok: bool) -> None:
    """Behind NATs that keep ports, two nodes come to a direct TCP connection; behind others they stay on the relay.

    Either way both report it, and talk.
    """
    machines = Machines()
    talked: queue.Queue[bool] = queue.Queue()
    with labs.Lab() as lab:
        internet = lab.network("11.0.0.0/24")
        homes = [lab.network(f"192.168.{number}.0/24") for number in (7, 8)]
        for number, (home, nat) in enumerate(zip(homes, nats, strict=True)):
            lab.router(f"nat{number}", inside=home, outside=internet, nat=nat)
        a, b = [lab.host(f"host{number}", home) for number, home in enumerate(homes)]
        machines.on(lab.host("relay", internet), machines.relay)
        relay = machines.said.get(timeout=PATIENCE)

        async def called(host: Host, nursery: trio.Nursery) -> None:
            await machines.punching(host, nursery)
            client = RelayClient(host, [relay])
            await nursery.start(client.run)
            client.enabled = True
            await until(client.addresses)
            machines.said.put(f"{client.addresses()[0]}/p2p/{host.peer_id}")

        async def caller(host: Host, nursery: trio.Nursery) -> None:
            await machines.punching(host, nursery)
            peer = await host.connect(address)
            done = trio.Event()
            host.on_connection.subscribe(lambda connection: done.set())
            with trio.move_on_after(PATIENCE if ok else 0):
                await done.wait()
            talked.put(await says_back(host, peer) and host.is_direct(peer) is ok)

        try:
            machines.on(b, called)
            address = machines.said.get(timeout=PATIENCE)
            machines.on(a, caller)
            results = [machines.results.get(timeout=PATIENCE) for _ in range(2)]
            assert talked.get(timeout=PATIENCE)
        finally:
            machines.stop.set()
            for thread in machines.threads:
                thread.join(PATIENCE)
    assert [each.ok for each in results] == [ok, ok], results
    assert {each.began for each in results} == {True, False}
