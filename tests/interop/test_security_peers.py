"""TLS and Noise with real peers, whoever dials: which of the two is taken, and that data go over both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_p2p.errors import DialError
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.noise import NOISE
from kachery_p2p.transport.ping import PING
from kachery_p2p.transport.tls_records import TLS, TlsRecords
from scripts.data import write_random
from scripts.peers import GoLibp2p, Helia, Kubo, KuboDaemon, missing, missing_go, missing_kubo_daemon
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started, until
from tests.interop.common import V1, cid_of

_LOAD = "say(kcl.load_file(args[0], providers=args[1], timeout=args[2]))"
_STORE = "say(kcl.store_file(args[0], profile=args[1]))"

AnyPeer = KuboDaemon | Kubo | Helia | GoLibp2p


def daemon(without: str = "") -> Callable[[], KuboDaemon]:
    """The newest Kubo, perhaps without one of the protocols."""
    settings = {"Swarm": {"Transports": {"Security": {without: False}}}} if without else {}
    return lambda: KuboDaemon(settings=settings)


#: How each is started, what is taken when we dial, and when it does. Those that speak both offer either first.
PEERS: dict[str, tuple[Callable[[], AnyPeer], str, str]] = {
    "newest Kubo": (daemon(), TLS, TLS),
    "newest Kubo, TLS alone": (daemon("Noise"), TLS, TLS),
    "newest Kubo, Noise alone": (daemon("TLS"), NOISE, NOISE),
    "Kubo 0.22": (Kubo, TLS, NOISE),
    "Kubo 0.22, TLS alone": (lambda: Kubo(security="tls"), TLS, TLS),
    "Kubo 0.22, Noise alone": (lambda: Kubo(security="noise"), NOISE, NOISE),
    "go-libp2p": (GoLibp2p, TLS, NOISE),
    "go-libp2p, TLS alone": (lambda: GoLibp2p(security="tls"), TLS, TLS),
    "go-libp2p, Noise alone": (lambda: GoLibp2p(security="noise"), NOISE, NOISE),
    "Helia": (lambda: Helia(security="noise,tls"), TLS, NOISE),
    "Helia, TLS first": (lambda: Helia(security="tls,noise"), TLS, TLS),
    "Helia, TLS alone": (lambda: Helia(security="tls"), TLS, TLS),
    "Helia, Noise alone": (lambda: Helia(security="noise"), NOISE, NOISE),
}
TLS_ALONE = [name for name in PEERS if name.endswith("TLS alone") and "go-libp2p" not in name]


@pytest.fixture(scope="module")
def running() -> Iterator[Callable[[str], AnyPeer]]:
    """Starts a peer when it is first asked for; it lives for the tests of this module."""
    peers: dict[str, AnyPeer] = {}
    with ExitStack() as stack:

        def get(name: str) -> AnyPeer:
            reason = (missing_kubo_daemon if "newest" in name else missing_go if "go-" in name else missing)()
            if reason is not None and "CI" not in os.environ:
                pytest.skip(reason)
            if name not in peers:
                peers[name] = stack.enter_context(PEERS[name][0]())
            return peers[name]

        yield get


async def ping(host: Host, peer: str, count: int) -> None:
    async with await host.open_stream(peer, [PING]) as stream:
        for _ in range(count):
            payload = os.urandom(32)
            await stream.write(payload)
            assert await stream.read_exactly(32) == payload


def connection_of(host: Host) -> Connection:
    (connection,) = host.table
    return connection


@pytest.mark.parametrize("name", PEERS)
async def test_we_dial(nursery: trio.Nursery, running: Callable[[str], AnyPeer], name: str) -> None:
    """TLS is taken where the peer speaks it; both sides are identified, use streams, and part."""
    peer = await trio.to_thread.run_sync(running, name)
    host = await started(nursery)
    assert await host.connect(peer.addrs[0]) == peer.peer_id
    assert connection_of(host).security == PEERS[name][1]
    await until(lambda: host.agent_of(peer.peer_id))
    await ping(host, peer.peer_id, 20)
    await host.disconnect(peer.peer_id)
    assert host.connected() == []


@pytest.mark.parametrize("name", PEERS)
async def test_it_dials(nursery: trio.Nursery, running: Callable[[str], AnyPeer], name: str) -> None:
    """The peer gets what it prefers."""
    peer = await trio.to_thread.run_sync(running, name)
    host = await started(nursery)
    await trio.to_thread.run_sync(peer.connect, host.addresses()[0])
    await until(lambda: host.agent_of(peer.peer_id))
    assert connection_of(host).security == PEERS[name][2]
    await ping(host, peer.peer_id, 20)


@pytest.mark.parametrize("name", PEERS)
async def test_wrong_peer_id_is_noticed(nursery: trio.Nursery, running: Callable[[str], AnyPeer], name: str) -> None:
    """At the address of one peer nobody else is accepted, by either protocol, and the error says who is there."""
    peer = await trio.to_thread.run_sync(running, name)
    host, other = await started(nursery), await started(nursery)
    with pytest.raises(DialError, match=f"the peer there is {peer.peer_id}, not {other.peer_id}"):
        await host.connect(f"{peer.addrs[0].partition('/p2p/')[0]}/p2p/{other.peer_id}")
    await until(lambda: not host.connections())


@pytest.mark.parametrize("name", TLS_ALONE)
async def test_new_keys_on_the_way(nursery: trio.Nursery, running: Callable[[str], AnyPeer], name: str) -> None:
    """The peer follows when we take new keys, and goes on when we ask it for new ones."""
    peer = await trio.to_thread.run_sync(running, name)
    host = await started(nursery)
    await host.connect(peer.addrs[0])
    await until(lambda: host.agent_of(peer.peer_id))
    connection = connection_of(host)
    records = connection._records
    assert isinstance(records, TlsRecords)
    out = memoryview(bytearray(100))
    for asked in (b"\x00", b"\x01"):
        await until(lambda: connection._pending is None)  # what is sealed goes out before it
        before = records._receive._secret
        update = out[: records._seal_message(22, b"\x18\x00\x00\x01" + asked, out)]
        assert connection._io.send_nowait(update) == len(update)
        records._send.update()
        await ping(host, peer.peer_id, 5)
        assert (records._receive._secret != before) is (asked == b"\x01")


@pytest.mark.parametrize("name", TLS_ALONE)
def test_files_over_tls(
    running: Callable[[str], AnyPeer], workstation: Callable[..., Workstation], tmp_path: Path, name: str
) -> None:
    """A peer that speaks nothing else loads from us, and we from it, some megabytes."""
    peer: Any = running(name)
    station = workstation().start()
    source = write_random(tmp_path / "ours", 20_000_000, seed=71)
    uri = station.call(_STORE, source, V1)
    peer.connect(station.addr)
    peer.get(cid_of(uri), tmp_path / "copy", timeout=PATIENCE)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    source = write_random(tmp_path / "theirs", 20_000_000, seed=72)
    path = station.call(_LOAD, f"ipfs://{peer.add(source)}", peer.addrs, PATIENCE)
    assert Path(path).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("kind", ["newest Kubo", "Kubo 0.22", "Helia"])
async def test_tls_in_a_private_network(nursery: trio.Nursery, tmp_path: Path, kind: str) -> None:
    """Under a swarm key it is the same, whoever dials."""
    reason = missing_kubo_daemon() if kind == "newest Kubo" else missing()
    if reason is not None and "CI" not in os.environ:
        pytest.skip(reason)
    key = os.urandom(32)
    file = tmp_path / "repo" / "swarm.key"
    file.parent.mkdir()
    file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{key.hex()}\n")
    start: dict[str, Callable[[], AnyPeer]] = {
        "newest Kubo": lambda: KuboDaemon(tmp_path, settings={"Swarm": {"Transports": {"Security": {"Noise": False}}}}),
        "Kubo 0.22": lambda: Kubo(security="tls", swarm_key=file),
        "Helia": lambda: Helia(security="tls", swarm_key=file),
    }
    peer = await trio.to_thread.run_sync(start[kind])
    try:
        host = await started(nursery, swarm_key=key)
        await host.connect(peer.addrs[0])
        assert connection_of(host).security == TLS
        await ping(host, peer.peer_id, 5)
        await host.disconnect(peer.peer_id)
        await trio.to_thread.run_sync(peer.connect, host.addresses()[0])
        await until(lambda: host.agent_of(peer.peer_id))
        assert connection_of(host).security == TLS
        await ping(host, peer.peer_id, 5)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(peer.stop)
