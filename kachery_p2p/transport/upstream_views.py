"""Views of our connections and streams with py-libp2p's interfaces, and the other way round; see `upstream.py`."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import NoReturn, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetConn, INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from kachery_p2p.errors import StreamError
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.stream import Stream


def no_such_thing(what: str) -> NoReturn:
    """For the parts of the interfaces that only a host of py-libp2p's own has."""
    raise NotImplementedError(f"{what} is not offered by this host")


class MuxedView(IMuxedConn):
    """A connection, as protocols look at it through `stream.muxed_conn`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.peer_id = ID.from_base58(connection.peer)
        self.event_started = trio.Event()
        self.event_started.set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MuxedView) and other.connection is self.connection

    def __hash__(self) -> int:
        return hash(self.connection)

    @property
    def is_initiator(self) -> bool:
        return self.connection.initiator

    async def start(self) -> None:
        await self.connection.closed.wait()

    async def close(self) -> None:
        await self.connection.close()

    @property
    def is_established(self) -> bool:
        return not self.connection.is_closed

    @property
    def is_closed(self) -> bool:
        return self.connection.is_closed

    async def open_stream(self) -> IMuxedStream:
        return cast(IMuxedStream, StreamView(await self.connection.open_stream()))

    async def accept_stream(self) -> IMuxedStream:
        no_such_thing("accepting streams by hand")

    def get_transport_addresses(self) -> list[Multiaddr]:
        return [Multiaddr(self.connection.address)]

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED if "/p2p-circuit" in self.connection.address else ConnectionType.DIRECT

    def get_remote_address(self) -> tuple[str, int] | None:
        parts = self.connection.address.split("/")
        if len(parts) == 5 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp":
            return parts[2], int(parts[4])
        return None


class StreamView(INetStream):
    """A stream with py-libp2p's manners: exceptions of its types, the end of the input as an exception too."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.muxed_conn = MuxedView(stream.connection)
        self.metric_send_channel = None

    def get_protocol(self) -> TProtocol | None:
        return TProtocol(self.stream.protocol) or None

    def set_protocol(self, protocol_id: TProtocol) -> None:
        self.stream.protocol = str(protocol_id)

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        try:
            data = await self.stream.read(n if n is not None and n > 0 else 65536)
        except StreamError as error:
            raise StreamReset(str(error)) from error
        if not data:
            raise StreamEOF("the peer ended its side")
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.write(data)
        except StreamError as error:
            raise (StreamClosed if self.stream.fin_wanted else StreamReset)(str(error)) from error

    async def close(self) -> None:
        await self.stream.close()

    async def close_write(self) -> None:
        await self.stream.close_write()

    async def close_read(self) -> None:
        self.stream.stop_reading()

    async def reset(self) -> None:
        await self.stream.reset()

    def is_closed(self) -> bool:
        stream = self.stream
        return bool(
            stream.reset_reason or stream.broken or (stream.fin_wanted and (stream.remote_fin or stream.discard))
        )

    def get_remote_address(self) -> tuple[str, int] | None:
        return MuxedView(self.stream.connection).get_remote_address()


class ConnectionView(INetConn):
    """A connection, as protocols look at it through `network.connections`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.muxed_conn = MuxedView(connection)
        self.event_started = self.muxed_conn.event_started

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionView) and other.connection is self.connection

    def __hash__(self) -> int:
        return hash(self.connection)

    @property
    def is_closed(self) -> bool:
        return self.connection.is_closed

    async def close(self) -> None:
        await self.connection.close()

    async def new_stream(self) -> INetStream:
        return StreamView(await self.connection.open_stream())

    def get_streams(self) -> tuple[INetStream, ...]:
        return tuple(StreamView(each) for each in self.connection.core.streams.values() if isinstance(each, Stream))

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.muxed_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.muxed_conn.get_connection_type()

    def set_transport_info(self, addresses: list[Multiaddr], conn_type: ConnectionType) -> None:
        """The relay protocol tells which circuit a connection came through."""
        if addresses:
            self.connection.address = str(addresses[0])


class RawConnectionIO:
    """py-libp2p's raw connection (the far end of a relayed circuit, say) as a `ByteIO`."""

    def __init__(self, raw: IRawConnection, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._raw = raw
        self._spawn = spawn
        self._chunk = b""
        self._ended = False

    async def wait_readable(self) -> None:
        if self._chunk or self._ended:
            await trio.lowlevel.checkpoint()
            return
        try:
            self._chunk = await self._raw.read(65536) or b""
        except (StreamReset, StreamClosed) as error:
            raise OSError(errno.ECONNRESET, "the relayed connection broke") from error
        except StreamEOF:
            self._chunk = b""
        self._ended = not self._chunk

    def recv_into(self, buffer: memoryview) -> int:
        if not self._chunk:
            if self._ended:
                return 0
            raise BlockingIOError
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size

    def send_nowait(self, data: memoryview) -> int:
        return 0

    async def send_all(self, data: memoryview) -> None:
        try:
            await self._raw.write(bytes(data))
        except (StreamReset, StreamClosed) as error:
            raise OSError(errno.ECONNRESET, "the relayed connection broke") from error

    def shutdown_write(self) -> None:
        """Raw connections cannot be closed by half."""

    def close(self) -> None:
        self._ended = True
        self._spawn(self._raw.close)
