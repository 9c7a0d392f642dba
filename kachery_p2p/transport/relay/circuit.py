"""A stream as the channel below a connection, and asking a relay for one."""

from __future__ import annotations

import errno
import os

import trio

from kachery_p2p.errors import KacheryError, RelayRefused, StreamError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.transport import limits as transport_limits
from kachery_p2p.transport.addresses import Address
from kachery_p2p.transport.interfaces import CircuitHost
from kachery_p2p.transport.relay import limits
from kachery_p2p.transport.relay.messages import (
    HOP,
    RelayMessage,
    RelayMessageType,
    Status,
    encode,
    explain,
    read_message,
)
from kachery_p2p.transport.stream import Stream


class CircuitIO:
    """A stream as a `ByteIO`. Its errors come as `OSError`, as those of a socket do."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def wait_readable(self) -> None:
        try:
            await self._stream.wait_readable()
        except StreamError as error:
            raise _broken(error) from error

    def recv_into(self, buffer: memoryview) -> int:
        stream = self._stream
        size = stream.take_into(buffer)
        if size:
            stream.connection.flush()
            return size
        if stream.reset_reason or stream.discard:
            raise ConnectionResetError(errno.ECONNRESET, stream.reset_reason or os.strerror(errno.ECONNRESET))
        if stream.remote_fin:
            return 0
        stream.starved = True  # so that the window grows while the connection waits for more
        raise BlockingIOError

    def send_nowait(self, data: memoryview) -> int:
        stream = self._stream
        if stream.reset_reason or stream.broken or stream.fin_wanted:
            raise BrokenPipeError(errno.EPIPE, stream.reset_reason or stream.broken or os.strerror(errno.EPIPE))
        if stream.out_bytes:
            return 0
        stream.submit((data,))
        stream.connection.flush()
        return len(data) - stream.withdraw()

    async def send_all(self, data: memoryview) -> None:
        try:
            for start in range(0, len(data), limits.SEND_PIECE):
                with trio.fail_after(transport_limits.DEFAULTS.write_stall_timeout):
                    await self._stream.write(data[start : start + limits.SEND_PIECE])
        except StreamError as error:
            raise _broken(error) from error
        except trio.TooSlowError as error:
            raise TimeoutError(errno.ETIMEDOUT, "the relay takes no more bytes") from error

    def shutdown_write(self) -> None:
        self._stream.finish()
        self._stream.connection.flush()

    def close(self) -> None:
        stream = self._stream
        if stream.fin_wanted and not stream.remote_fin:
            stream.abort("the other side did not end the connection")
            return
        stream.finish()
        if not stream.discard:
            stream.stop_reading()
        stream.wake_reader()
        stream.connection.flush()


def _broken(error: StreamError) -> OSError:
    return ConnectionResetError(errno.ECONNRESET, str(error).rstrip("."))


async def connect_relay(host: CircuitHost, relay: Address) -> str:
    """Be connected with a relay, directly; its peer ID.

    Raises:
        RelayRefused: it can only be reached through another relay.
        DialError, InvalidAddress: it cannot be reached.
    """
    peer = relay.peer
    if peer is None or not host.is_direct(peer):
        peer = await host.connect(relay.text if relay.kind else str(peer), timeout=limits.RESERVE_TIMEOUT)
    if not host.is_direct(peer):
        raise RelayRefused(f"the relay {peer} itself is reached through a relay only")
    return peer


async def open_circuit(host: CircuitHost, relay: Address, peer: str, *, timeout: float) -> tuple[CircuitIO, bool]:
    """A channel to a peer through a relay that it has reserved a slot at, and whether the relay sets limits to it.

    Raises:
        RelayRefused: the relay says no, and why.
        DialError, StreamError: the relay cannot be reached, or breaks off.
    """
    try:
        with trio.fail_after(timeout):
            relay_peer = await connect_relay(host, relay)
            stream = await host.open_stream(relay_peer, (HOP,))
            try:
                await stream.write(encode(HOP, RelayMessage(RelayMessageType.CONNECT, peer=peer_bytes(peer))))
                answer = await read_message(stream, HOP)
                if answer.kind is not RelayMessageType.STATUS or answer.status != Status.OK:
                    raise RelayRefused(f"the relay {relay_peer} says no: {explain(answer.status)}")
            except BaseException:
                stream.abort()
                raise
    except trio.TooSlowError as error:
        raise RelayRefused(f"the relay {relay.peer} did not answer in time") from error
    return CircuitIO(stream), answer.limit is not None and answer.limit.is_limited


#: What asking a relay may raise.
FAILURES = (KacheryError, OSError, trio.ClosedResourceError, trio.BrokenResourceError)
