"""Peers that lie about our addresses, or would use us against others. Whatever they do, the host serves on."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio

from kachery_p2p.errors import StreamError
from kachery_p2p.transport import multistream
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.nat import autonat_messages as m
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat import AutonatClient
from kachery_p2p.transport.nat.autonat_messages import V1, V2_BACK, V2_DIAL
from kachery_p2p.transport.nat.autonat_server import read_message
from kachery_p2p.transport.nat.endpoints import TcpEndpoint, from_text
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.nat.reachability import Reachability
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import delimited
from tests.helpers.clocks import PatientClock
from tests.helpers.nat_helpers import loopback, meet, new_server, running
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import started, still_serves, tolerant

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")

Handler = Callable[[Stream], Awaitable[None]]


HASTY = NatLimits(
    server_timeout=1.0,
    failure_delay=0.1,
    dial_back_timeout=0.3,
    nonce_timeout=0.3,
    dial_data_pause=0.0,
    settle=0.05,
)


def endpoint(host: Host) -> TcpEndpoint:
    found = from_text(host.listen_addresses()[0])
    assert found is not None
    return found


class Victim:
    """A port of somebody else, which counts who connects."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.66.66.66", 0))
        self.sock.listen()
        self.sock.setblocking(False)
        self.endpoint = TcpEndpoint(ipaddress.ip_address("127.66.66.66"), self.sock.getsockname()[1])

    def connections(self) -> int:
        count = 0
        while True:
            try:
                self.sock.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


# --- against the server ----------------------------------------------------------------------------------------------

REQUEST = delimited(m.encode_v2(m.DialRequest((b"\x04\x7f\x00\x00\x01\x06\x0f\xa1",), 1)))
GARBAGE = {
    "nothing": b"",
    "random": os.urandom(500),
    "empty message": b"\0",
    "too long": b"\xff\xff\xff\xff\x0f",
    "endless length": b"\xff" * 20,
    "half a message": REQUEST[:-3],
    "an answer": delimited(m.encode_v2(m.DialResponse(200))),
    "an answer of version 1": delimited(m.encode_v1(m.V1Response(0))),
    "somebody else's peer ID": delimited(m.encode_v1(m.V1Dial(b"somebody else", (b"",)))),
    "group fields": b"\x02\x0b\x0c",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("protocol", [V1, V2_DIAL, V2_BACK])
async def test_garbage_requests(
    patient_clock: PatientClock, nursery: trio.Nursery, protocol: str, garbage: bytes
) -> None:
    """Nonsense ends its stream, and nothing else."""
    server, service = await new_server(nursery, bounds=HASTY)
    AutonatClient(server, bounds=HASTY).start()
    rogue = await started(nursery)
    await meet(rogue, server)

    async def attack() -> None:
        stream = await rogue.open_stream(server.peer_id, [protocol])
        await stream.write(garbage)
        await stream.close_write()
        while await stream.read(1000):
            pass

    with trio.fail_after(PATIENCE):
        await tolerant(attack)
    assert service.reached == 0
    await until(lambda: service.busy == 0)
    await still_serves(server)


async def test_silent_requesters(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Streams on which nothing comes are dropped after a while; those beyond the limit at once."""
    server, service = await new_server(nursery, bounds=HASTY)
    rogue = await started(nursery)
    await meet(rogue, server)
    streams = []
    for _ in range(3 * limits.SERVER_CONCURRENT):
        with contextlib.suppress(StreamError):
            streams.append(await rogue.open_stream(server.peer_id, [V2_DIAL]))
    assert service.busy == limits.SERVER_CONCURRENT
    with trio.fail_after(PATIENCE):
        for stream in streams:
            with pytest.raises(StreamError):
                await stream.read_exactly(1)
    await until(lambda: service.busy == 0)
    await still_serves(server)


async def test_thousands_of_addresses(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A request with more addresses than anyone has is too long, and as many as fit are cut."""
    server, service = await new_server(nursery, bounds=HASTY, versions=[1])
    rogue = await started(nursery, listen=())
    await meet(rogue, server)
    dialled: list[TcpEndpoint] = []

    async def record(target: TcpEndpoint, peer: str) -> object:
        dialled.append(target)
        raise OSError

    service._connect = record  # type: ignore[assignment]
    addresses = [TcpEndpoint(ipaddress.ip_address("127.0.0.1"), port).binary for port in range(1, 700)]
    stream = await rogue.open_stream(server.peer_id, [V1])
    await stream.write(delimited(m.encode_v1(m.V1Dial(b"", tuple(addresses)))))
    assert m.decode_v1(await read_message(stream)) == m.V1Response(m.V1Status.DIAL_ERROR, "dial failed")
    assert len(dialled) == limits.MAX_DIAL_BACKS


async def test_a_victim_is_not_dialled_for_nothing(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Version 2 dials somebody else's address only after it was paid for, in no crumbs, and once."""
    server, _ = await new_server(nursery, bounds=HASTY)
    rogue = await started(nursery)
    await meet(rogue, server)
    with Victim() as victim:
        request = delimited(m.encode_v2(m.DialRequest((victim.endpoint.binary,), 1)))

        async def ask() -> tuple[Stream, int]:
            stream = await rogue.open_stream(server.peer_id, [V2_DIAL])
            await stream.write(request)
            price = m.decode_v2(await read_message(stream))
            assert isinstance(price, m.DialDataRequest)
            assert limits.MIN_DIAL_DATA <= price.size <= limits.MAX_DIAL_DATA
            return stream, price.size

        # Nothing, crumbs, one byte too few, and another request instead.
        stream, _ = await ask()
        await stream.close_write()
        stream, _ = await ask()
        await stream.write(delimited(m.encode_dial_data(b"x")))
        with pytest.raises(StreamError), trio.fail_after(HASTY.server_timeout / 2):
            await stream.read(1)
        stream, size = await ask()
        for start in range(0, size - 1, 4000):
            await stream.write(delimited(m.encode_dial_data(bytes(min(4000, size - 1 - start)))))
        stream, _ = await ask()
        await stream.write(request)
        await trio.sleep(HASTY.server_timeout + HASTY.dial_data_pause + 1)
        assert victim.connections() == 0

        stream, size = await ask()
        for _ in range(0, size, 4000):
            await stream.write(delimited(m.encode_dial_data(bytes(4000))))
        answer = m.decode_v2(await read_message(stream))
        assert answer in (m.DialResponse(200, 0, 100), m.DialResponse(200, 0, 101))
        assert victim.connections() == 1


# --- against the client ----------------------------------------------------------------------------------------------


async def lying(nursery: trio.Nursery, protocol: str, lie: Handler) -> tuple[Host, AutonatClient, Host]:
    """A client, and a server that answers as `lie` does."""
    liar = await started(nursery, listen=("/ip4/127.9.0.1/tcp/0",))
    liar.set_handler(protocol, lie)
    host = await started(nursery)
    client = AutonatClient(host, bounds=HASTY)
    client.start()
    await meet(host, liar)
    return host, client, liar


def answering(*bodies: bytes) -> Handler:
    async def lie(stream: Stream) -> None:
        await read_message(stream)
        for body in bodies:
            await stream.write(delimited(body))

    return lie


LIES = {
    "reached, without a nonce": (m.encode_v2(m.DialResponse(200, 0, 200)),),
    "dial back failed, without a nonce": (m.encode_v2(m.DialResponse(200, 0, 101)),),
    "an address it was not given": (m.encode_v2(m.DialResponse(200, 7, 200)),),
    "a status that means nothing": (m.encode_v2(m.DialResponse(200, 0, 77)),),
    "unused": (m.encode_v2(m.DialResponse(200, 0, 0)),),
    "refused": (m.encode_v2(m.DialResponse(101)),),
    "a request": (m.encode_v2(m.DialRequest((), 1)),),
    "too much dial data": (m.encode_v2(m.DialDataRequest(0, limits.MAX_DIAL_DATA + 1)),),
    "endless dial data": (m.encode_v2(m.DialDataRequest(0, 2**63)),),
    "dial data twice": (m.encode_v2(m.DialDataRequest(0, 100)),) * 2,
    "dial data for no address": (m.encode_v2(m.DialDataRequest(9, 100)),),
    "garbage": (b"\xff" * 50,),
    "nothing": (),
}


@pytest.mark.parametrize("bodies", LIES.values(), ids=list(LIES))
async def test_lying_servers(patient_clock: PatientClock, nursery: trio.Nursery, bodies: tuple[bytes, ...]) -> None:
    """What a version 2 server cannot prove is an error, not an answer."""
    host, client, liar = await lying(nursery, V2_DIAL, answering(*bodies))
    with pytest.raises(StreamError), trio.fail_after(PATIENCE):
        await client.ask(liar.peer_id, [endpoint(host)], [])
    sent = sum(each.bytes_sent for each in host.connections())
    assert sent < limits.MAX_DIAL_DATA
    assert not client._expected
    await still_serves(host)


async def test_a_nonce_on_our_own_connection_proves_nothing(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A server that hands the nonce back on a connection we opened, this or another, has not dialled us."""
    refused: list[StreamError] = []

    async def lie(stream: Stream) -> None:
        request = m.decode_v2(await read_message(stream))
        assert isinstance(request, m.DialRequest)
        for connection in liar.table.of(stream.peer):
            try:
                async with await connection.open_stream() as back:
                    await multistream.select(back, [V2_BACK])
                    await back.write(delimited(m.encode_dial_back(request.nonce)))
                    await back.read_exactly(1)
            except StreamError as error:
                refused.append(error)
        await stream.write(delimited(m.encode_v2(m.DialResponse(200, 0, 200))))

    host, client, liar = await lying(nursery, V2_DIAL, lie)
    await host.connect(liar.addresses()[0], fresh=True)
    await until(lambda: len(liar.table.of(host.peer_id)) == 2)
    with pytest.raises(StreamError, match="nothing came"):
        await client.ask(liar.peer_id, [endpoint(host)], [])
    assert len(refused) == 2


async def test_version_1_garbage(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """An answer of version 1 with an address that is none counts for the node, not for any address."""
    host, client, liar = await lying(nursery, V1, answering(m.encode_v1(m.V1Response(0, "", b"\xff" * 9))))
    answer = await client.ask(liar.peer_id, [], [endpoint(host)])
    assert (answer.overall, answer.reached) == (True, {})
    for body in (b"", b"\xff", m.encode_v1(m.V1Dial(b"", ())), m.encode_v1(m.V1Response(300, "\0" * 999))):
        liar.set_handler(V1, answering(body))
        with pytest.raises(StreamError):
            await client.ask(liar.peer_id, [], [endpoint(host)])


async def test_a_victims_address_is_never_announced(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Two networks of version 1 liars claim to have reached us at a victim's address: peers are not told of it."""
    victim = TcpEndpoint(ipaddress.ip_address("127.66.66.66"), 80)
    host = await started(nursery)
    reach = Reachability(host, counts=loopback, map_ports=False, bounds=HASTY)
    host.advertise = reach.advertise
    asked: list[str] = []

    async def lie(stream: Stream) -> None:
        asked.append(stream.peer)
        await answering(m.encode_v1(m.V1Response(0, "", victim.binary)))(stream)

    async with running(reach):
        for number in range(2):
            liar = await started(nursery, listen=(f"/ip4/127.{20 + number}.0.1/tcp/0",))
            liar.set_handler(V1, lie)
            await meet(host, liar)
        await until(lambda: len(asked) == 2)
        await trio.sleep(limits.WATCH_INTERVAL)
        assert victim.text not in host.transport_addresses()
        assert reach.state == "unknown"
        assert "too few" in reach.why()
    await still_serves(host)


async def test_observed_lies_by_identify(
    patient_clock: PatientClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten peers of two networks that claim in identify to see us at a victim's address are not believed."""
    from kachery_p2p.transport import identify

    honest = identify.IdentifyAnswers.message
    victim = "/ip4/127.66.66.66/tcp/80"
    host = await started(nursery)

    def message(self: identify.IdentifyAnswers, addresses: object, protocols: object, observed: str) -> bytes:
        return honest(self, addresses, protocols, observed if self is host._identify._identity else victim)  # type: ignore[arg-type]

    monkeypatch.setattr(identify.IdentifyAnswers, "message", message)
    reach = Reachability(host, counts=loopback, map_ports=False, bounds=HASTY)
    host.advertise = reach.advertise
    async with running(reach):
        liars = [await started(nursery, listen=(f"/ip4/127.{20 + number % 2}.0.1/tcp/0",)) for number in range(10)]
        await meet(host, *liars)
        assert reach._observed.by(liars[0].peer_id) == from_text(victim)
        assert victim not in host.transport_addresses()
        assert reach.status()["observed"] == []
