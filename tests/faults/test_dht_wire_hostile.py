"""Peers that misuse the streams of the DHT: what they get, and that nobody else notices."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import pytest
import trio

from kachery_p2p.errors import MalformedMessage, StreamError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.protocols import KAD, LAN_KAD
from kachery_p2p.routing.dht import limits, shell_limits
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, decode, encode
from kachery_p2p.routing.dht.reach import without_peer
from kachery_p2p.routing.dht.rpc import frame, read_message
from kachery_p2p.routing.dht.shell_limits import ShellLimits
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import encode_varint
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import run_dht, started

Node = tuple[Host, DHT]
Handler = Callable[[Stream], Awaitable[None]]


def new_multihash() -> bytes:
    return b"\x12\x20" + sha256(os.urandom(16)).digest()


def made_up_peer() -> bytes:
    return b"\x00\x24\x08\x01\x12\x20" + os.urandom(32)


async def start(nursery: trio.Nursery, **options: Any) -> Node:
    host = await started(nursery)
    return host, await run_dht(nursery, host, **{"lan": True, **options})


async def honest_pair(nursery: trio.Nursery, **bounds: Any) -> tuple[Node, Node]:
    """Two nodes that know each other; the first one is the victim, within these `ShellLimits`."""
    victim = await start(nursery, bounds=ShellLimits(**bounds))
    friend = await start(nursery, bootstrap=victim[0].addresses())
    await until(lambda: victim[1].peers() and friend[1].peers())
    return victim, friend


async def still_works(victim: Node, friend: Node) -> None:
    """The friend announces to the victim and finds again what it has: the test of every attack."""
    multihash = new_multihash()
    with trio.fail_after(PATIENCE):
        assert await friend[1].deliver(DhtPeer(peer_bytes(victim[0].peer_id)), [multihash])
        found = [each.peer async for each in victim[1].find_providers(multihash)]
    assert friend[0].peer_id in found


# --- peers that ask ------------------------------------------------------------------------------------------------

GARBAGE = {
    "random": os.urandom(300),
    "zero length": b"\x00",
    "length without end": b"\xff" * 12,
    "four gigabytes": encode_varint(1 << 32),
    "more than a request may have": encode_varint(shell_limits.MAX_REQUEST_SIZE + 1) + bytes(100),
    "half a message": frame(DhtMessage(MessageType.FIND_NODE, b"k" * 40))[:-5],
    "unknown type": encode_varint(2) + b"\x08\x63",
    "not protobuf": encode_varint(20) + b"\xff" * 20,
    "no key": frame(DhtMessage(MessageType.GET_PROVIDERS)),
    "key too long": frame(DhtMessage(MessageType.ADD_PROVIDER, bytes(500))),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_its_stream(nursery: trio.Nursery, data: bytes) -> None:
    """Bytes that are no question end the stream they came on, and nothing else."""
    victim, friend = await honest_pair(nursery)
    host = await started(nursery)
    await host.connect(victim[0].addresses()[0])
    stream = await host.open_stream(victim[0].peer_id, [LAN_KAD])
    await stream.write(data)
    await stream.close_write()
    with trio.fail_after(PATIENCE):
        try:
            while await stream.read():
                pass
        except StreamError:
            pass
    await until(lambda: victim[0].peer_id in host.connected())
    await still_works(victim, friend)


async def test_silent_streams_lock_nobody_out(nursery: trio.Nursery) -> None:
    """However many streams a peer opens, few of them stay, and neither its own next one nor others' are refused."""
    victim, friend = await honest_pair(nursery, max_inbound=12)
    for _ in range(3):
        host = await started(nursery)
        await host.connect(victim[0].addresses()[0])
        for _ in range(30):
            stream = await host.open_stream(victim[0].peer_id, [LAN_KAD])
            await stream.write(b"\x05")  # the length of a message that never comes
    await until(lambda: victim[1].status()["streams"]["inbound"] <= 12)
    await still_works(victim, friend)
    status = victim[1].status()["streams"]
    assert status["inbound"] <= 12


async def test_a_dripping_peer_is_given_up(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """A message that comes byte by byte has its time, and then the stream is torn down."""
    victim, friend = await honest_pair(nursery, message_timeout=0.3)
    host = await started(nursery)
    await host.connect(victim[0].addresses()[0])
    stream = await host.open_stream(victim[0].peer_id, [LAN_KAD])
    await stream.write(encode_varint(1000))

    async def drip() -> None:
        while True:
            await stream.write(b"x")
            await trio.sleep(0.3 / 20)

    with trio.fail_after(PATIENCE), pytest.raises(StreamError):
        await drip()
    await still_works(victim, friend)


async def test_a_peer_that_reads_no_answers(patient_clock: PatientClock, nursery: trio.Nursery) -> None:
    """Whoever asks without end and reads nothing is stopped by its own stream, which ends after a while."""
    # At the usual rate it would take long to fill its own window.
    victim, friend = await honest_pair(nursery, answer_timeout=0.3, ask_rate=1e9, ask_pool=1e9)
    host = await started(nursery)
    await host.connect(victim[0].addresses()[0])
    stream = await host.open_stream(victim[0].peer_id, [LAN_KAD])
    question = frame(DhtMessage(MessageType.FIND_NODE, peer_bytes(friend[0].peer_id))) * 200

    async def flood() -> None:
        while True:
            await stream.write(question)

    with trio.fail_after(PATIENCE), pytest.raises(StreamError):
        await flood()
    await until(lambda: victim[1].status()["streams"]["inbound"] <= 2)
    await still_works(victim, friend)


async def test_records_for_others_and_wrong_addresses(nursery: trio.Nursery) -> None:
    """A record is stored only for its sender, with a bounded number of addresses of the right kind."""
    victim, friend = await honest_pair(nursery)
    host = await started(nursery)
    await host.connect(victim[0].addresses()[0])
    own = peer_bytes(host.peer_id)
    many = without_peer([f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 2000)])
    key, other_key = new_multihash(), new_multihash()
    stream = await host.open_stream(victim[0].peer_id, [LAN_KAD])
    for message in (
        DhtMessage(MessageType.ADD_PROVIDER, other_key, providers=(DhtPeer(peer_bytes(friend[0].peer_id), many[:1]),)),
        DhtMessage(MessageType.ADD_PROVIDER, key, providers=(DhtPeer(own, many),)),
        DhtMessage(MessageType.GET_PROVIDERS, other_key),
        DhtMessage(MessageType.GET_PROVIDERS, key),
    ):
        await stream.write(frame(message))
    nobody, me = [await read_message(stream, shell_limits.MAX_ANSWER_SIZE) for _ in range(2)]
    assert nobody is not None
    assert me is not None
    assert nobody.providers == ()
    assert [each.id for each in me.providers] == [own]
    assert 0 < len(me.providers[0].addrs) <= limits.MAX_ADDRS_PER_PEER
    assert victim[1].status()["records_held"] == 1


async def test_private_addresses_stay_out_of_the_public_dht(nursery: trio.Nursery) -> None:
    """The public DHT neither stores nor passes on nor dials private and loopback addresses, and admits no such peer."""
    host, dht = await start(nursery, lan=False, mode="server")
    other = await started(nursery)
    other.set_handler(KAD, lambda stream: stream.close())
    await other.connect(host.addresses()[0])
    await until(lambda: KAD in host.protocols_of(other.peer_id))
    own = DhtPeer(peer_bytes(other.peer_id), without_peer(["/ip4/127.0.0.1/tcp/9", "/ip4/192.168.1.7/tcp/4001"]))
    stream = await other.open_stream(host.peer_id, [KAD])
    key = new_multihash()
    await stream.write(frame(DhtMessage(MessageType.ADD_PROVIDER, key, providers=(own,))))
    await stream.write(frame(DhtMessage(MessageType.GET_PROVIDERS, key)))
    answer = await read_message(stream, shell_limits.MAX_ANSWER_SIZE)
    assert answer is not None
    assert (answer.providers, answer.closer) == ((), ())
    assert dht.peers() == []
    assert dht.status()["addresses"] == []
    assert not await dht.deliver(DhtPeer(own.id, own.addrs), [key])
    assert "no address" in dht.status()["errors"][-1]


# --- peers that answer ---------------------------------------------------------------------------------------------


async def read_one(stream: Stream) -> DhtMessage:
    message = await read_message(stream, shell_limits.MAX_REQUEST_SIZE)
    if message is None:
        raise StreamError("the peer is done")
    return message


async def silence(stream: Stream) -> None:
    await trio.sleep_forever()


async def hang_up(stream: Stream) -> None:
    await read_one(stream)


async def garbage(stream: Stream) -> None:
    await read_one(stream)
    await stream.write(encode_varint(50) + b"\xff" * 50)
    await trio.sleep_forever()


async def huge_length(stream: Stream) -> None:
    await read_one(stream)
    await stream.write(encode_varint(shell_limits.MAX_ANSWER_SIZE + 1))
    await trio.sleep_forever()


async def half(stream: Stream) -> None:
    await read_one(stream)
    await stream.write(encode_varint(shell_limits.MAX_ANSWER_SIZE) + bytes(1000))
    await trio.sleep_forever()


async def nonsense_types(stream: Stream) -> None:
    while True:
        await read_one(stream)
        await stream.write(frame(DhtMessage(MessageType.PUT_VALUE, b"?")))


async def echo_everything(stream: Stream) -> None:
    while True:
        await stream.write(frame(await read_one(stream)))


async def endless_liar(stream: Stream) -> None:
    """Names ever new peers that do not exist, many addresses each."""
    addrs = without_peer([f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 4)])
    while True:
        message = await read_one(stream)
        liars = tuple(DhtPeer(made_up_peer(), addrs) for _ in range(500))
        await stream.write(frame(DhtMessage(message.type, message.key, None, liars, liars)))


BAD_SERVERS = [silence, hang_up, garbage, huge_length, half, nonsense_types, echo_everything, endless_liar]


@pytest.mark.parametrize("handler", BAD_SERVERS, ids=lambda each: each.__name__)
async def test_lookups_get_past_bad_servers(
    patient_clock: PatientClock, nursery: trio.Nursery, handler: Handler
) -> None:
    """A search that meets a bad server ends in time and finds what honest servers know."""
    victim, friend = await honest_pair(nursery, request_timeout=1.0)
    provider = await start(nursery, bootstrap=friend[0].addresses())
    await until(lambda: len(provider[1].peers()) >= 1)
    multihash = new_multihash()
    assert await provider[1].deliver(DhtPeer(peer_bytes(friend[0].peer_id)), [multihash])
    bad = await started(nursery)
    bad.set_handler(LAN_KAD, handler)
    await victim[0].connect(bad.addresses()[0])
    # It stands in the table as if it had answered well once.
    victim[1]._network.table.consider(
        peer_bytes(bad.peer_id), without_peer(bad.addresses()), trio.current_time(), without_peer(bad.addresses())[0]
    )
    peers: list[str] = []
    with trio.fail_after(limits.LOOKUP_TIMEOUT):
        peers = [each.peer async for each in victim[1].find_providers(multihash)]
    assert provider[0].peer_id in peers
    assert len(peers) <= shell_limits.MAX_PROVIDERS
    assert len(victim[1].peers()) <= 3
    await still_works(victim, friend)
    status = victim[1].status()
    assert status["questions"]["sent"] < 3 * limits.MAX_MESSAGES


def test_a_codec_limit_stands_behind_the_wire() -> None:
    """Answers within the size limit are cut to the bounds of peers, so that memory does not follow the sender."""
    liars = tuple(DhtPeer(made_up_peer(), (b"\x04\x7f\x00\x00\x01\x06\x00\x01",)) for _ in range(2000))
    message = decode(encode(DhtMessage(MessageType.FIND_NODE, b"k", None, liars)))
    assert len(message.closer) == limits.MAX_PEERS_PER_MESSAGE
    with pytest.raises(MalformedMessage):
        decode(b"\xff" * 40)
