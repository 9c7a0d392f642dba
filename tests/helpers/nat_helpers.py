"""For the tests of reachability: hosts on loopback that take loopback for the Internet, and a host without sockets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import trio

from kachery_p2p.errors import StreamError
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.nat.autonat import AutonatClient, DialBackAnswer
from kachery_p2p.transport.nat.autonat_messages import V1, V2_DIAL
from kachery_p2p.transport.nat.autonat_server import AutonatServer
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.nat.reachability import Reachability
from kachery_p2p.transport.peers import Hook
from tests.helpers.patience import until
from tests.helpers.transport_helpers import started

#: What strangers have to wait for on the internet, a test need not.
IMPATIENT = NatLimits(failure_delay=0.2, dial_data_pause=0.01, settle=0.05)


def loopback(ip: IP) -> bool:
    """Takes 127.0.0.0/8 for the public Internet; it has 256 networks in it."""
    return ip.is_loopback


async def new_server(
    nursery: trio.Nursery,
    network: int = 1,
    *,
    versions: Sequence[int] = (1, 2),
    bounds: NatLimits = IMPATIENT,
    **options: Any,
) -> tuple[Host, AutonatServer]:
    """A host at 127.`network`.0.1 that dials back whoever asks."""
    host = await started(nursery, listen=(f"/ip4/127.{network}.0.1/tcp/0",), **options)
    server = AutonatServer(host, swarm_key=options.get("swarm_key"), counts=loopback, bounds=bounds)
    server.enable(True)
    if 1 not in versions:
        host.remove_handler(V1)
    if 2 not in versions:
        host.remove_handler(V2_DIAL)
    return host, server


async def meet(host: Host, *others: Host) -> None:
    """`host` connects to the others, and all know what the others speak."""
    for other in others:
        await host.connect(other.addresses()[0])
        await until(lambda other=other: host.table.peek(other.peer_id).identified)
        await until(lambda other=other: other.table.peek(host.peer_id).identified)


@contextlib.asynccontextmanager
async def running(reach: Reachability) -> AsyncIterator[Reachability]:
    """Reachability at work."""
    async with trio.open_nursery() as nursery:
        await nursery.start(reach.run)
        yield reach
        nursery.cancel_scope.cancel()


class FakeHost:
    """As much of a host as `Reachability` looks at.

    `answers` gives what each server says of an address; None refuses.
    """

    peer_id = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"

    def __init__(self, *listening: str) -> None:
        self.listening = list(listening)
        self.answers: dict[str, Callable[[TcpEndpoint], bool] | bool | None] = {}
        self.where: dict[str, str] = {}
        self.observed: dict[str, str] = {}
        self.asked: list[tuple[float, str, tuple[TcpEndpoint, ...]]] = []
        self.pushes = 0
        self.handlers: set[str] = set()
        self.protocols: dict[str, frozenset[str]] = {}
        self.on_identified: Hook[str] = Hook()
        self.table = SimpleNamespace(of=self._of, peek=self._peek)

    def meet(
        self,
        peer: str,
        ip: str,
        answer: Callable[[TcpEndpoint], bool] | bool | None = None,
        *,
        sees: str = "",
        server: bool = True,
    ) -> None:
        """A peer connected from or at an address, and was identified."""
        self.where[peer] = f"/ip4/{ip}/tcp/4001" if not ip.startswith("/") else ip
        self.answers[peer] = answer
        self.observed[peer] = sees
        self.protocols[peer] = frozenset({V2_DIAL} if server else ())
        self.on_identified.emit(peer)

    def leave(self, peer: str) -> None:
        del self.where[peer]

    def _of(self, peer: str) -> list[Any]:
        return [SimpleNamespace(address=self.where[peer])] if peer in self.where else []

    def _peek(self, peer: str) -> Any:
        return SimpleNamespace(observed=self.observed.get(peer, ""))

    def connected(self) -> list[str]:
        return list(self.where)

    def protocols_of(self, peer: str) -> frozenset[str]:
        return self.protocols.get(peer, frozenset())

    def listen_addresses(self) -> list[str]:
        return list(self.listening)

    def transport_addresses(self) -> list[str]:
        return list(self.listening)

    def set_handler(self, protocol: str, handler: object) -> None:
        self.handlers.add(protocol)

    def remove_handler(self, protocol: str) -> None:
        self.handlers.discard(protocol)

    def addresses_changed(self) -> None:
        self.pushes += 1


class FakeClient(AutonatClient):
    """Answers as the fake host says."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(cast(Host, host))
        self.fake = host

    async def ask(
        self, peer: str, addresses: Sequence[TcpEndpoint], listening: Sequence[TcpEndpoint]
    ) -> DialBackAnswer:
        self.fake.asked.append((trio.current_time(), peer, tuple(addresses)))
        await trio.sleep(0.1)
        says = self.fake.answers[peer]
        if says is None:
            raise StreamError(f"The peer {peer} did not dial back: status 100.")
        reached = {each: says if isinstance(says, bool) else says(each) for each in addresses}
        return DialBackAnswer(reached, any(reached.values()))


class FakeReachability(Reachability):
    """Without port mapping, and without the thread that looks for the gateway: virtual time would run away from it."""

    gateway = ""

    async def _address_by_gateway(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.gateway


def fake_reachability(host: FakeHost, **options: Any) -> FakeReachability:
    """Reachability on a fake host."""
    reach = FakeReachability(cast(Host, host), map_ports=False, **options)
    reach._client = FakeClient(host)
    return reach
