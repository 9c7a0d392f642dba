"""The host among its like: connecting, identify, limits, stopping."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kachery_p2p.errors import AddressInUse, DialError, InvalidAddress, StreamError
from kachery_p2p.transport import limits, listener
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.identify import IDENTIFY
from kachery_p2p.transport.limits import DIAL_STAGGER, TransportLimits
from kachery_p2p.transport.stream import Stream
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import (
    ECHO,
    Rogue,
    Silent,
    echo,
    free_port,
    new_host,
    says_back,
    started,
    stop,
)


async def test_peers_connect_and_talk(nursery: trio.Nursery) -> None:
    """A full multiaddr connects; both sides know of it, are told once, and either one opens streams."""
    a, b = await started(nursery), await started(nursery)
    events: list[tuple[str, str]] = []
    a.on_connected.subscribe(lambda peer: events.append(("a", peer)))
    unsubscribe = b.on_connected.subscribe(lambda peer: events.append(("b", peer)))
    b.on_disconnected.subscribe(lambda peer: events.append(("b lost", peer)))
    assert await a.connect(b.addresses()[0]) == b.peer_id
    await until(lambda: b.connected() == [a.peer_id])
    assert await says_back(a, b.peer_id)
    assert await says_back(b, a.peer_id)
    assert await a.connect(b.addresses()[0]) == b.peer_id
    unsubscribe()
    assert [each.direction for each in a.connections() + b.connections()] == ["out", "in"]
    assert a.connections()[0].addr == b.transport_addresses()[0]
    await a.disconnect(b.peer_id)
    await until(lambda: not b.connected())
    assert a.connected() == []
    assert sorted(events) == [("a", b.peer_id), ("b", a.peer_id), ("b lost", a.peer_id)]


@pytest.mark.parametrize("form", ["without peer ID", "peer ID and addresses", "ip6", "name"])
async def test_ways_to_name_a_peer(nursery: trio.Nursery, form: str) -> None:
    """An address alone, a peer ID with addresses, IPv6 and names all lead to the peer."""
    b = await started(nursery, listen=("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"))
    a = await started(nursery, listen=())
    four, six = b.transport_addresses()
    if form == "without peer ID":
        assert await a.connect(four) == b.peer_id
        assert await a.connect(four) == b.peer_id
    elif form == "peer ID and addresses":
        await a.connect(b.peer_id, ["rubbish", "/ip4/127.0.0.1/udp/1/quic-v1", four])
    elif form == "ip6":
        await a.connect(f"{six}/p2p/{b.peer_id}")
    else:
        await a.connect(f"/dns4/localhost/tcp/{four.split('/')[4]}/p2p/{b.peer_id}")
    assert a.connected() == [b.peer_id]
    assert len(a.connections()) == 1
    assert await says_back(a, b.peer_id)


async def test_a_known_peer_can_be_dialled_by_its_id(nursery: trio.Nursery) -> None:
    """The addresses a peer gave in identify are remembered after it left."""
    a, b = await started(nursery), await started(nursery)
    with pytest.raises(DialError, match="No address of the peer"):
        await a.connect(b.peer_id)
    await b.connect(a.addresses()[0])
    await until(lambda: a.addresses_of(b.peer_id))
    await a.disconnect(b.peer_id)
    await until(lambda: not b.connected())
    assert await a.connect(b.peer_id) == b.peer_id
    assert a.connections()[0].direction == "out"


async def test_dial_error_names_each_reason(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """The error says of each address why it failed, in words."""
    a, b, c = [await started(nursery) for _ in range(3)]
    port = free_port()
    with Silent() as silent, pytest.raises(DialError) as caught:
        await a.connect(
            f"/ip4/127.0.0.1/tcp/{port}/p2p/{c.peer_id}",
            [
                f"{b.transport_addresses()[0]}/p2p/{c.peer_id}",
                f"/ip4/127.0.0.1/udp/{port}/quic-v1",
                f"/ip4/127.0.0.1/tcp/{port}/ws",
                silent.address,
                f"/dns4/nowhere.invalid/tcp/{port}",
                b.addresses()[0],
                "rubbish",
            ],
            timeout=1.7,
        )
    message = str(caught.value)
    for words in (
        f"/tcp/{port}/p2p/{c.peer_id}: connection refused",
        f"the peer there is {b.peer_id}, not {c.peer_id}",
        "the transport quic-v1 is not supported",
        "the transport ws is not supported",
        f"{silent.address}: no answer within 1.7 seconds",
        "that is the address of another peer",
        "rubbish: that is not a multiaddr",
    ):
        assert words in message


async def test_dialling_oneself_is_refused(nursery: trio.Nursery) -> None:
    """With or without the peer ID, a host does not connect to itself."""
    a = await started(nursery)
    for address in (a.addresses()[0], a.transport_addresses()[0]):
        with pytest.raises(DialError, match="this node itself"):
            await a.connect(address)


@pytest.mark.parametrize("text", ["", "rubbish", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/1/p2p/x"])
async def test_what_is_no_address_is_refused(nursery: trio.Nursery, text: str) -> None:
    """Text that is neither a multiaddr nor a peer ID is bad input, or has nothing to dial."""
    a = await started(nursery, listen=())
    with pytest.raises((InvalidAddress, DialError)):
        await a.connect(text)


async def test_dead_addresses_cost_a_quarter_second(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A silent address ahead of the good one costs a quarter of a second, and one that refuses nothing."""
    a, b = await started(nursery), await started(nursery)
    with Silent() as one, Silent() as two:
        begun = trio.current_time()
        await a.connect(b.peer_id, [one.address, f"/ip4/127.0.0.1/tcp/{free_port()}", two.address, *b.addresses()])
        assert trio.current_time() - begun == pytest.approx(2 * DIAL_STAGGER)
    assert len(a.connections()) == 1


async def test_slow_and_failed_dials_block_nobody(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """While one dial hangs another waits for nothing, and a dial that failed can be tried again at once."""
    a, b = await started(nursery), await started(nursery)
    with Silent() as silent:
        hanging = trio.CancelScope()

        async def hang() -> None:
            with hanging:
                await a.connect(silent.address, timeout=30)

        nursery.start_soon(hang)
        with pytest.raises(DialError):
            await a.connect(f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{b.peer_id}")
        begun = trio.current_time()
        await a.connect(b.addresses()[0])
        assert trio.current_time() == begun
        hanging.cancel()


async def test_dials_of_one_peer_share_a_connection(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Twenty callers, one of them impatient, lead to one connection; the impatient one fails alone."""
    a, b = await started(nursery), await started(nursery)
    failed: list[DialError] = []

    async def connect(addresses: list[str], timeout: float) -> None:
        try:
            await a.connect(b.peer_id, addresses, timeout=timeout)
        except DialError as error:
            failed.append(error)

    with Silent() as silent:
        async with trio.open_nursery() as callers:
            callers.start_soon(connect, [silent.address], 0.05)
            for _ in range(20):
                callers.start_soon(connect, [silent.address, b.addresses()[0]], 5)
    assert len(failed) == 1
    assert len(a.connections()) == len(b.connections()) == 1


async def test_simultaneous_dials_end_in_one_connection(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Both sides dial at once: streams work at every moment, and after a while one connection is left."""
    tidy = TransportLimits(duplicate_grace=0.2, housekeeping_interval=0.1)
    a, b = await started(nursery, bounds=tidy), await started(nursery, bounds=tidy)
    async with trio.open_nursery() as both:
        both.start_soon(a.connect, b.addresses()[0])
        both.start_soon(b.connect, a.addresses()[0])
    assert await says_back(a, b.peer_id)
    assert await says_back(b, a.peer_id)
    await trio.sleep(tidy.duplicate_grace + 2 * tidy.housekeeping_interval)
    assert len(a.connections()) == len(b.connections()) == 1
    assert await says_back(a, b.peer_id)
    await trio.sleep(tidy.duplicate_grace + 2 * tidy.housekeeping_interval)
    assert a.connected() == [b.peer_id]
    assert b.connected() == [a.peer_id]


async def test_busy_port_is_an_error(nursery: trio.Nursery) -> None:
    """Two nodes cannot share a port, and the second one says what to do."""
    a = await started(nursery)
    with pytest.raises(AddressInUse, match="another process listens"):
        await nursery.start(new_host(listen=(a.transport_addresses()[0],)).run)


async def test_foreign_address_is_an_error(nursery: trio.Nursery) -> None:
    """Listening on an address that this machine does not have is said so."""
    with pytest.raises(AddressInUse, match="does not have that address"):
        await nursery.start(new_host(listen=("/ip4/203.0.113.7/tcp/0",)).run)


async def test_default_list_goes_on_without_ipv6(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without IPv6 the default list means IPv4; an explicit IPv6 address is an error there."""
    real = listener.listen_tcp

    def without_ipv6(host: str, port: int, *, multiaddr: str) -> socket.socket:
        if ":" in host:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real("127.0.0.1", port, multiaddr=multiaddr)

    monkeypatch.setattr(listener, "listen_tcp", without_ipv6)
    host = Host(os.urandom(32))
    await nursery.start(host.run)
    assert all("/ip6/" not in each for each in host.addresses())
    with pytest.raises(AddressInUse, match="not supported"):
        await nursery.start(Host(os.urandom(32), ("/ip6/::1/tcp/0",)).run)


def open_files() -> int:
    """How many file descriptors this process has; 0 where that cannot be seen."""
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


async def test_stopping_frees_everything(nursery: trio.Nursery) -> None:
    """A cancelled host leaves: its peers notice at once, the port is free again, no socket stays open."""
    b = await started(nursery)
    before = open_files()
    port = free_port()
    for _ in range(3):
        async with trio.open_nursery() as inner:
            a = await started(inner, listen=(f"/ip4/127.0.0.1/tcp/{port}",))
            await a.connect(b.addresses()[0])
            stream = await b.open_stream(a.peer_id, [ECHO])
            await stop(a, inner.cancel_scope)
        await until(lambda: not b.connected())
        with pytest.raises(StreamError):
            await stream.write(b"x")
    await until(lambda: open_files() <= before)


async def test_leaving_waits_for_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer with which nothing runs is told goodbye, and not waited for, however long it takes to close its side."""
    for name in ("GOODBYE_TIMEOUT", "IDENTIFY_TIMEOUT"):
        monkeypatch.setattr(limits, name, 10 * PATIENCE)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as inner:
            host = await started(inner)
            silent = await Rogue.connect(host)
            await until(lambda: host.connected() == [silent.peer])
            inner.cancel_scope.cancel()
        goodbye = Rogue.HEADER.pack(0, 3, 0, 0, 0)
        assert goodbye in await silent.until_dropped()
    silent.close()


async def test_host_runs_once(nursery: trio.Nursery) -> None:
    """A second run is refused, not half done."""
    a = await started(nursery)
    with pytest.raises(RuntimeError, match="runs once"):
        await a.run()
    with pytest.raises(RuntimeError, match="not running"):
        await new_host().connect(a.addresses()[0])


async def test_addresses_are_dialable(nursery: trio.Nursery) -> None:
    """Wildcards are expanded, announced addresses come first, each address ends in the peer ID."""
    announced = "/ip4/203.0.113.7/tcp/4001"
    host = await started(nursery, listen=("/ip4/0.0.0.0/tcp/0",), announce=(announced,))
    addresses = host.addresses()
    assert addresses[0] == f"{announced}/p2p/{host.peer_id}"
    assert all(each.endswith(f"/p2p/{host.peer_id}") and "0.0.0.0" not in each for each in addresses)
    assert "/ip4/127.0.0.1/" in addresses[-1]
    dialler = await started(nursery, listen=())
    assert await dialler.connect(addresses[-1]) == host.peer_id


async def test_identify_tells_who_we_are(nursery: trio.Nursery) -> None:
    """Protocols, agent, addresses and the address we are seen at are known after a moment; new handlers follow."""
    a = await started(nursery, agent="test-agent/1")
    b = await started(nursery)
    assert b.protocols_of(a.peer_id) == frozenset()
    identified: list[str] = []
    b.on_identified.subscribe(identified.append)
    await b.connect(a.addresses()[0])
    await until(lambda: identified)
    assert ECHO in b.protocols_of(a.peer_id)
    assert b.agent_of(a.peer_id) == "test-agent/1"
    assert b.addresses_of(a.peer_id) == a.addresses()
    port = int(a.connections()[0].addr.split("/")[4])
    assert b.table.peek(a.peer_id).observed == f"/ip4/127.0.0.1/tcp/{port}"
    a.set_handler("/new/1", echo)
    await until(lambda: "/new/1" in b.protocols_of(a.peer_id))
    a.remove_handler("/new/1")
    await until(lambda: "/new/1" not in b.protocols_of(a.peer_id))


async def test_identify_holds_up_nothing(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """With a peer that never answers identify, streams open at once all the same."""
    a, b = await started(nursery), await started(nursery)

    async def never(stream: Stream) -> None:
        await trio.sleep_forever()

    b.set_handler(IDENTIFY, never)
    await a.connect(b.addresses()[0])
    begun = trio.current_time()
    assert await says_back(a, b.peer_id)
    assert trio.current_time() == begun


async def test_surplus_connections_are_closed(nursery: trio.Nursery) -> None:
    """Above the limit the least useful goes: not the protected one, not one in use, not the newest."""
    hub = await started(nursery, max_connections=4)
    peers = [await started(nursery) for _ in range(8)]
    await peers[0].connect(hub.addresses()[0])
    await until(lambda: hub.connected())
    hub.protect(peers[0].peer_id, "test")
    await peers[1].connect(hub.addresses()[0])
    busy = await peers[1].open_stream(hub.peer_id, [ECHO])
    for peer in peers[2:]:
        await peer.connect(hub.addresses()[0])
        await until(lambda peer=peer: peer.peer_id in hub.connected())
        assert len(hub.connections()) <= 4
    assert {peers[0].peer_id, peers[1].peer_id, peers[7].peer_id} <= set(hub.connected())
    await until(lambda: sum(bool(peer.connected()) for peer in peers) == 4)
    await busy.write(b"still here")
    assert await busy.read_exactly(10) == b"still here"
    assert hub.unprotect(peers[0].peer_id, "test") is False


async def test_ban_ends_and_prevents_connections(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A banned peer is dropped, cannot come back, is not dialled, and may come again when the ban is over."""
    a, b = await started(nursery), await started(nursery)
    await b.connect(a.addresses()[0])
    await until(lambda: a.connected())
    a.ban(b.peer_id, 600)
    assert a.connected() == []
    await until(lambda: not b.connected())
    with pytest.raises(DialError, match="banned"):
        await a.connect(b.addresses()[0])
    with pytest.raises(DialError, match="banned"):
        await a.connect(b.transport_addresses()[0])
    await b.connect(a.addresses()[0])  # the handshake is over before we are refused
    await until(lambda: not b.connected())
    await trio.sleep(600)
    assert await a.connect(b.addresses()[0]) == b.peer_id


async def test_private_networks_do_not_mix(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Hosts with the same swarm key talk; one with another key, or none, gets nowhere either way."""
    key, other = os.urandom(32), os.urandom(32)
    a, b = [await started(nursery, swarm_key=key) for _ in range(2)]
    stranger, public = await started(nursery, swarm_key=other), await started(nursery)
    await a.connect(b.addresses()[0])
    assert await says_back(a, b.peer_id, os.urandom(300_000))
    for outsider in (stranger, public):
        for x, y in ((a, outsider), (outsider, a)):
            with pytest.raises(DialError):
                await x.connect(y.addresses()[0])
    assert a.connected() == [b.peer_id]


async def test_dead_peer_is_noticed(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A peer that answers no ping is dropped; a quiet one that answers stays."""

    anxious = TransportLimits(keepalive_interval=0.1, keepalive_timeout=0.4)
    a, b = await started(nursery, bounds=anxious), await started(nursery)
    await b.connect(a.addresses()[0])
    dead = await Rogue.connect(a)
    await until(lambda: len(a.connected()) == 2)
    await trio.sleep(anxious.keepalive_timeout + anxious.keepalive_interval)
    assert a.connected() == [b.peer_id]
    assert await says_back(b, a.peer_id)
    dead.close()


async def test_nothing_is_logged_on_the_root(nursery: trio.Nursery) -> None:
    """Normal life, refused dials and broken handshakes write nothing to the user's screen."""
    script = """
import logging, os, socket, trio, trio.testing
from kachery_p2p.transport.host import Host
from kachery_p2p.errors import DialError
async def main():
    async with trio.open_nursery() as nursery:
        a, b = (Host(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) for _ in range(2))
        await nursery.start(a.run)
        await nursery.start(b.run)
        await a.connect(b.addresses()[0])
        port = int(b.addresses()[0].split("/")[4])
        for line in (b"rubbish", b"\\x13/multistream/1.0.0\\n\\x07/noise\\n\\x00\\x05aaaaa", b"\\x04\\xff\\xff\\n"):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(line)
        try:
            await a.connect(b.transport_addresses()[0] + "/p2p/12D3KooWRm8J3iL796zPFi2EtGGtUJn58AG67gcRzQ4FWjEkZTnG")
        except DialError:
            pass
        await trio.testing.wait_all_tasks_blocked(0.1)
        nursery.cancel_scope.cancel()
trio.run(main)
assert not logging.getLogger().handlers, logging.getLogger().handlers
"""
    result = await trio.run_process(
        [sys.executable, "-c", script], capture_stdout=True, capture_stderr=True, cwd=Path(__file__).parents[3]
    )
    assert (result.stdout, result.stderr) == (b"", b"")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_forked_child_keeps_no_socket(nursery: trio.Nursery) -> None:
    """A forked worker holds neither our port nor our connections."""
    script = """
import os, trio, trio.testing
from kachery_p2p.transport.host import Host
async def main():
    async with trio.open_nursery() as nursery:
        a, b = (Host(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) for _ in range(2))
        await nursery.start(a.run)
        await nursery.start(b.run)
        await a.connect(b.addresses()[0])
        await trio.testing.wait_all_tasks_blocked(0.1)
        pid = os.fork()
        if pid == 0:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd != "9999"
                     and os.path.islink(f"/proc/self/fd/{fd}")]
            inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
            table = open("/proc/net/tcp").read().split("\\n")[1:]
            os._exit(len([line for line in table if line and line.split()[9] in inodes]))
        assert os.waitpid(pid, 0)[1] == 0
        async with await a.open_stream(b.peer_id, ["/ipfs/ping/1.0.0"]) as stream:
            await stream.write(bytes(32))
            assert await stream.read_exactly(32) == bytes(32)
        nursery.cancel_scope.cancel()
if os.path.exists("/proc/net/tcp"):
    trio.run(main)
"""
    result = await trio.run_process(
        [sys.executable, "-c", script],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (result.returncode, result.stdout) == (0, b"")


async def test_callbacks_that_fail_harm_nobody(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a subscriber is logged under our name, and the others are called."""
    a, b = await started(nursery), await started(nursery)
    seen: list[str] = []

    def broken(peer: str) -> None:
        raise ValueError("a mistake")

    a.on_connected(broken)
    a.on_connected(seen.append)
    with caplog.at_level(logging.ERROR):
        await a.connect(b.addresses()[0])
    assert seen == [b.peer_id]
    assert {record.name for record in caplog.records} == {"kachery_p2p.transport"}
