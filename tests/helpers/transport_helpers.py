"""Hosts on loopback, and a peer that can be made to do anything, for the tests of the transport."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.transport import compat, limits
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.security import Buffers, RecordError, Records
from kachery_p2p.transport.sockets import SocketIO, connect_tcp
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.upgrade import SECURITY, upgrade
from tests.helpers.patience import PATIENCE, until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    """Send back what comes."""
    while data := await stream.read(1 << 20):
        await stream.write(data)


def is_protected(host: Host, peer: str) -> bool:
    """Whether the connection of a peer is kept: taking away a protection that it does not have tells it."""
    return host.unprotect(peer, "a tag that nothing has")


def new_host(**options: Any) -> Host:
    """A host on a free loopback port that serves `ECHO`."""
    host = Host(os.urandom(32), options.pop("listen", LOOPBACK), **options)
    host.set_handler(ECHO, echo)
    return host


async def started(nursery: trio.Nursery, **options: Any) -> Host:
    """The same, running."""
    host = new_host(**options)
    await nursery.start(host.run)
    return host


async def run_dht(nursery: trio.Nursery, host: Host, **options: Any) -> DHT:
    """A DHT of the host that runs until the nursery ends, and the database in memory that it then closes."""
    db = Database(None)
    dht = DHT(host, db, **options)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with closing(db):
            await dht.run(task_status=task_status)

    await nursery.start(run)
    return dht


async def stop(host: Host, scope: trio.CancelScope) -> None:
    """Cancel a host that runs in `scope`, and wait until its port is free."""
    port = int(host.addresses()[0].split("/")[4])
    scope.cancel()

    def refused() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    with trio.CancelScope(shield=True):
        await until(refused)


async def says_back(host: Host, peer: str, data: bytes = b"are you there?") -> bool:
    """Whether a peer's echo works."""
    async with await host.open_stream(peer, [ECHO]) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, data)
        return bytes(await stream.read_exactly(len(data))) == data


async def still_serves(host: Host) -> None:
    """A new, honest peer connects and is served: the test of every attack."""
    async with trio.open_nursery() as nursery:
        honest = await started(nursery)
        with trio.fail_after(PATIENCE):
            peer = await honest.connect(host.addresses()[0])
            assert await says_back(honest, peer)
        nursery.cancel_scope.cancel()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def sealed(records: Records, data: bytes) -> list[bytes]:
    """Any amount of plaintext as the messages of a record layer."""
    messages: list[bytes] = []
    for start in range(0, len(data), records.fill):
        piece = data[start : start + records.fill]
        out = memoryview(bytearray(limits.SEALED_MESSAGE))
        messages.append(bytes(out[: records.seal(memoryview(bytearray(piece + b"?")), len(piece), out)]))
    return messages


class Silent:
    """A TCP port that accepts and says nothing."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.address = f"/ip4/127.0.0.1/tcp/{self.sock.getsockname()[1]}"

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Rogue:
    """A peer with a valid identity and a good handshake that then sends whatever frames the test wants."""

    HEADER = struct.Struct("!BBHII")

    def __init__(self, io: SocketIO, records: Records, peer: str) -> None:
        self.io = io
        self.records = records
        self.peer = peer
        self.alert = ""  # that of the host, when it ended the connection with one

    @classmethod
    async def connect(cls, host: Host, seed: bytes | None = None, security: Sequence[str] = SECURITY) -> Rogue:
        keys = compat.Keys.from_seed(seed or os.urandom(32))
        io = SocketIO(await connect_tcp("127.0.0.1", int(host.addresses()[0].split("/")[4])))
        secured = await upgrade(io, keys, initiator=True, expected=host.peer_id, security=security)
        return cls(io, secured.records, keys.peer_id)

    async def frame(self, kind: int, flags: int, stream: int, length: int, payload: bytes = b"") -> None:
        await self.raw(self.HEADER.pack(0, kind, flags, stream, length) + payload)

    async def raw(self, data: bytes) -> None:
        for message in sealed(self.records, data):
            await self.io.send_all(memoryview(message))

    async def read(self) -> bytes:
        """Some decrypted bytes; empty at the end."""
        buffer = memoryview(bytearray(1 << 20))
        while not self.alert and not self.records.ended:
            start = self.records.prepare(buffer)
            try:
                size = self.io.recv_into(buffer[start:])
            except BlockingIOError:
                try:
                    await self.io.wait_readable()
                except trio.ClosedResourceError:
                    return b""
                continue
            except OSError:
                return b""
            if not size:
                return b""
            data = b""
            try:
                for message in self.records.read(buffer, start + size, Buffers()):
                    data += message
            except RecordError as error:
                self.alert = str(error)
            if data:
                return data
        return b""

    async def until_dropped(self) -> bytes:
        """Read until the host closes the connection; what came."""
        seen = b""
        with trio.fail_after(PATIENCE):
            while data := await self.read():
                seen += data
        return seen

    def close(self) -> None:
        self.io.close()


async def tolerant(work: Callable[[], Awaitable[None]]) -> None:
    """Run an attack whose connection may be closed under it."""
    try:
        await work()
    except (OSError, KacheryError, trio.ClosedResourceError):
        await trio.lowlevel.checkpoint()
