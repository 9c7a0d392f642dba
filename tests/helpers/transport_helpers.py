"""Hosts on loopback, and a peer that can be made to do anything, for the tests of the transport."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht.dht import DHT
from kachery_p2p.transport import compat
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.noise import SEALED_MESSAGE, Cipher, RecordReader
from kachery_p2p.transport.sockets import SocketIO, connect_tcp
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.upgrade import upgrade
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

    def __init__(self, io: SocketIO, cipher: Cipher, received: bytes, peer: str) -> None:
        self.io = io
        self.cipher = cipher
        self.records = RecordReader(cipher, received)
        self.peer = peer

    @classmethod
    async def connect(cls, host: Host, seed: bytes | None = None) -> Rogue:
        keys = compat.Keys.from_seed(seed or os.urandom(32))
        io = SocketIO(await connect_tcp("127.0.0.1", int(host.addresses()[0].split("/")[4])))
        secured = await upgrade(io, keys, initiator=True, expected=host.peer_id)
        return cls(io, secured.cipher, secured.received, keys.peer_id)

    async def frame(self, kind: int, flags: int, stream: int, length: int, payload: bytes = b"") -> None:
        await self.raw(self.HEADER.pack(0, kind, flags, stream, length) + payload)

    async def raw(self, data: bytes) -> None:
        for start in range(0, len(data), 65519):
            out = bytearray(SEALED_MESSAGE)
            size = self.cipher.seal(data[start : start + 65519], memoryview(out))
            await self.io.send_all(memoryview(out)[:size])

    async def read(self) -> bytes:
        """Some decrypted bytes; empty at the end."""
        buffer = memoryview(bytearray(1 << 20))
        while True:
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
            if data := b"".join(self.records.read(buffer, start + size)):
                return data

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
