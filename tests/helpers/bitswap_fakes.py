"""An in-memory host and store, so that exchanges can talk within one trio loop without a network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import trio

from kachery_p2p.bitswap.messages import PROTOCOLS
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.errors import ProtocolNotSupported, StreamEOF, StreamReset

Handler = Callable[["MemoryStream"], Awaitable[None]]


def cid_of(data: bytes, version: int = 1) -> CID:
    """The CID of a raw block (version 1) or of some dag-pb bytes (version 0)."""
    return CID(version, RAW if version else DAG_PB, sha256_multihash(data))


async def no_thread(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """In place of `trio.to_thread.run_sync` where virtual time runs: it must not jump while a thread works."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class MemoryStore:
    """Blocks in a dictionary; counts what is read."""

    def __init__(self, blocks: Iterable[bytes] = ()) -> None:
        self.blocks = {sha256_multihash(block): block for block in blocks}
        self.reads = 0

    def add(self, block: bytes) -> CID:
        cid = cid_of(block)
        self.blocks[cid.multihash] = block
        return cid

    def has_block(self, multihash: bytes) -> int | None:
        block = self.blocks.get(multihash)
        return None if block is None else len(block)

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        return {multihash: len(self.blocks[multihash]) for multihash in multihashes if multihash in self.blocks}

    def get_block(self, multihash: bytes) -> bytes | None:
        self.reads += 1
        return self.blocks.get(multihash)


class _Pipe:
    """One direction of a stream: bounded, so that a reader who does not read stops the writer."""

    def __init__(self, size: int = 256 * 1024) -> None:
        self.size = size
        self.buffer = bytearray()
        self.ended = False
        self.broken = False
        self.discard = False
        self.changed = trio.Event()
        self.total = 0

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def put(self, data: memoryview) -> None:
        while len(data):
            if self.broken:
                raise StreamReset("the stream was reset")
            if self.ended:
                raise StreamReset("the stream was closed by this side")
            if self.discard:
                self.total += len(data)
                return
            room = self.size - len(self.buffer)
            if room <= 0:
                await self.changed.wait()
                continue
            self.buffer += data[:room]
            self.total += min(room, len(data))
            data = data[room:]
            self.notify()

    async def get(self, count: int) -> bytes:
        while not self.buffer:
            if self.broken:
                raise StreamReset("the stream was reset")
            if self.ended:
                return b""
            await self.changed.wait()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.notify()
        return data


class MemoryStream:
    """One end of a stream."""

    def __init__(self, peer: str, protocol: str, reads: _Pipe, writes: _Pipe) -> None:
        self.peer = peer
        self.protocol = protocol
        self._in = reads
        self._out = writes
        self.was_reset = False
        #: How often it was said to have brought something that was asked for.
        self.thanked = 0

    def useful(self) -> None:
        self.thanked += 1

    async def read(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        return await self._in.get(max_bytes)

    async def read_into(self, target: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        done = 0
        while done < len(target):
            piece = await self._in.get(len(target) - done)
            if not piece:
                raise StreamEOF(f"the stream ended after {done} of {len(target)} bytes")
            target[done : done + len(piece)] = piece
            done += len(piece)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self.write_parts([data])

    async def write_parts(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        await trio.lowlevel.checkpoint()
        for part in parts:
            await self._out.put(memoryview(part))

    async def close_write(self) -> None:
        self._out.ended = True
        self._out.notify()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        self._in.discard = True
        self._in.buffer.clear()
        self._in.notify()
        await self.close_write()

    async def reset(self) -> None:
        self.was_reset = True
        for pipe in (self._in, self._out):
            pipe.broken = True
            pipe.notify()
        await trio.lowlevel.checkpoint()


class MemoryNetwork:
    """All hosts, and the nursery in which their handlers run."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: dict[str, MemoryHost] = {}
        self.pipe_size = 256 * 1024

    def host(self, peer: str, protocols: Sequence[str] = PROTOCOLS) -> MemoryHost:
        return MemoryHost(self, peer, protocols)

    def connect(self, a: str, b: str) -> None:
        for one, other in ((a, b), (b, a)):
            host = self.hosts[one]
            if other not in host.peers:
                host.peers[other] = []
                for callback in list(host.connect_callbacks):
                    callback(other)

    def disconnect(self, a: str, b: str) -> None:
        for one, other in ((a, b), (b, a)):
            host = self.hosts[one]
            for stream in host.peers.pop(other, []):
                for pipe in (stream._in, stream._out):
                    pipe.broken = True
                    pipe.notify()
            for callback in list(host.disconnect_callbacks):
                callback(other)


class MemoryHost:
    """As much of the real host as the exchange needs."""

    def __init__(self, network: MemoryNetwork, peer: str, protocols: Sequence[str]) -> None:
        self.network = network
        self.peer_id = peer
        self.protocols = protocols
        self.handlers: dict[str, Handler] = {}
        self.peers: dict[str, list[MemoryStream]] = {}
        self.connect_callbacks: list[Callable[[str], None]] = []
        self.disconnect_callbacks: list[Callable[[str], None]] = []
        self.opened = 0
        self.failures = 0
        #: How many of the next open_stream calls fail.
        self.fail_next = 0
        self.inbound: list[MemoryStream] = []
        self.outbound: list[MemoryStream] = []
        network.hosts[peer] = self

    async def open_stream(
        self, peer_id: str, protocols: Sequence[str], *, timeout: float = 10, ahead: Callable[[], None] | None = None
    ) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        self.opened += 1
        if self.fail_next:
            self.fail_next -= 1
            self.failures += 1
            raise StreamReset("no stream today")
        if peer_id not in self.peers:
            raise StreamReset(f"{peer_id} is not connected")
        other = self.network.hosts[peer_id]
        for protocol in protocols:
            if protocol in other.protocols and protocol in other.handlers:
                there, back = _Pipe(self.network.pipe_size), _Pipe(self.network.pipe_size)
                mine = MemoryStream(peer_id, protocol, back, there)
                theirs = MemoryStream(self.peer_id, protocol, there, back)
                self.peers[peer_id].append(mine)
                self.outbound.append(mine)
                other.inbound.append(theirs)
                self.network.nursery.start_soon(other.run_handler, protocol, theirs)
                return mine
        raise ProtocolNotSupported(f"{peer_id} speaks none of {protocols}")

    async def run_handler(self, protocol: str, stream: MemoryStream) -> None:
        try:
            await self.handlers[protocol](stream)
        except Exception:
            await stream.reset()
            raise

    def set_handler(self, protocol: str, handler: Handler) -> None:
        self.handlers[protocol] = handler

    def on_connected(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self.connect_callbacks.append(callback)
        return lambda: self.connect_callbacks.remove(callback)

    def on_disconnected(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self.disconnect_callbacks.append(callback)
        return lambda: self.disconnect_callbacks.remove(callback)

    def connected(self) -> list[str]:
        return list(self.peers)

    def protocols_of(self, peer_id: str) -> frozenset[str]:
        return frozenset(self.network.hosts[peer_id].protocols)
