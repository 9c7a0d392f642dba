"""Serving HTTP: the sockets, and the HTTP server (hypercorn) behind them. What answers is an ASGI application.

The gateway and the pinning service are served by it. hypercorn speaks HTTP; what it leaves to others is done here:

- It shields its sends from cancellation, so a reader that stands still would hold a task for ever, and keep the node
  from stopping. `_Guarded` stands between it and the socket: each SEND_STEP has its time, and closing the socket ends
  whatever waits for it.
- It works on for a reader that has gone, and keeps the connection for its idle time. `_Guarded` cancels all that
  belongs to the connection instead.
- It takes any number of connections. Here they are counted; when there are too many, the one that has asked nothing for
  longest makes room for a new one, first among those of the address that has most.
- It gives an HTTP/2 reader that opens no window all the time in the world. `_watch` does not, least of all while others
  wait for their turn.
- It deals with all HTTP/2 frames that have come in one go. `_Guarded` hands them over in small pieces, and at a pace.

Listening anywhere but on loopback is for the user to choose, and is logged by whoever serves.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import trio

from kachery_p2p import descriptors
from kachery_p2p import http_server_limits as limits
from kachery_p2p.errors import AddressInUse
from kachery_p2p.groups import group_of, most_crowded
from kachery_p2p.http_address import parse_address
from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.turns import Allowance, Pool
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from hypercorn.config import Config

log = logging.getLogger("kachery_p2p.http")

Send = Callable[[dict[str, Any]], Awaitable[None]]


class AsgiApp(Protocol):
    """What answers requests."""

    @property
    def crowded(self) -> bool:
        """Whether requests wait for their turn."""
        ...

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        """Answer one request."""
        ...


def framing_fault(scope: Mapping[str, Any]) -> tuple[int, str] | None:
    """What is wrong with a request that two servers could read as two different ones, or whose head is too large.

    The HTTP server bounds a head that comes in pieces; one that comes at once is there before it is counted.

    Returns:
        Status and sentence: 400 (RFC 9112, section 6.3) or 431; None where nothing is.
    """
    names = [name.lower() for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        return 400, "The request has both Transfer-Encoding and Content-Length."
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > limits.MAX_REQUEST_HEAD:
        return 431, f"The headers have {size} bytes; {limits.MAX_REQUEST_HEAD} are the most there can be."
    return None


class Turns:
    """How many requests are answered at once, of all and of each address; the others wait."""

    def __init__(self, bounds: HttpLimits) -> None:
        self._limits = bounds
        self._all = trio.CapacityLimiter(bounds.max_running)
        self._each: dict[str, trio.CapacityLimiter] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def take(self, address: str) -> AsyncIterator[bool]:
        """Wait for a turn, and have it while this lasts; False when there is none to be had."""
        if self._waiting >= self._limits.max_waiting:
            yield False
            return
        own = self._each.setdefault(address, trio.CapacityLimiter(self._limits.max_running_each))
        try:
            async with contextlib.AsyncExitStack() as held:
                self._waiting += 1
                try:
                    with trio.move_on_after(self._limits.wait_seconds) as patience:
                        for limiter in (own, self._all):
                            await limiter.acquire()
                            held.callback(limiter.release)
                finally:
                    self._waiting -= 1
                yield not patience.cancelled_caught
        finally:
            if not own.borrowed_tokens and not own.statistics().tasks_waiting:
                self._each.pop(address, None)


class HttpServer:
    """An ASGI application, served over HTTP.

    Args:
        app: answers.
        address: see `kachery_p2p.http_address.parse_address`; port 0 is a free one.
        what: what it is, as in "The gateway".
        option: of the command, by which another address is chosen.
        bounds: what it gives to those who read from it.
        max_connections: at once, where there may be fewer than `bounds` say.
        tls: certificate and key, where it speaks HTTPS.

    Attributes:
        on_answered: is told of each answer: the scope of the request, and bytes of the body. Cheap, and raises nothing.

    Raises:
        InvalidAddress: `address` is none.

    Use::

        await nursery.start(server.run)
        print(server.url)
    """

    def __init__(
        self,
        app: AsgiApp,
        address: str,
        *,
        what: str,
        option: str,
        bounds: HttpLimits,
        max_connections: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = bounds
        self._host, self._port = parse_address(address)
        self._asgi = app
        self._what = what
        self._option = option
        self._tls = tls
        self._connections: set[_Guarded] = set()
        self._max_connections = min(bounds.max_connections, max_connections or descriptors.shares().gateway)
        self._refusals = 0
        self._accepting = trio.CancelScope()
        self.on_answered: Callable[[Mapping[str, Any], int], None] | None = None
        self._answered = Signal()
        self._pool = Pool(limits.H2_RATE)

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:8090`."""
        scheme = "http" if self._tls is None else "https"
        address = ipaddress.ip_address(self._host)
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        return f"{scheme}://{address if address.version == 4 else f'[{address}]'}:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def drain(self) -> None:
        """Take no more connections, and wait until no request is being answered. For whoever stops, and has a bound."""
        self._accepting.cancel()
        while any(each.running for each in self._connections):
            await self._answered.wait()

    def use_tls(self, tls: ssl.SSLContext) -> bool:
        """Speak HTTPS with another certificate on connections that come from now on; False where it speaks HTTP."""
        if self._tls is not None:
            self._tls = tls
        return self._tls is not None

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can use it."""
        return not ipaddress.ip_address(self._host).is_loopback

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled.

        Raises:
            AddressInUse: somebody else listens there, or this machine does not have the address.
        """
        listeners = await self._listen()
        self._port = listeners[0].socket.getsockname()[1]
        self._config = await trio.to_thread.run_sync(_http_config, self._limits)
        self._listening()
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._watch)
                task_status.started()
                with self._accepting:
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)
                await trio.sleep_forever()  # no more come; those that are here are answered
            finally:
                for connection in list(self._connections):
                    connection.abort()

    def _listening(self) -> None:
        """Called when it has begun to listen."""

    async def _listen(self) -> list[trio.SocketListener]:
        try:
            return await trio.open_tcp_listeners(self._port, host=self._host, backlog=limits.BACKLOG)
        except OSError as error:
            why = "in use already" if error.errno == errno.EADDRINUSE else f"not to be had: {error}"
            raise AddressInUse(
                f"{self._what} cannot listen on {self._host}, port {self._port}: it is {why}. Choose another with "
                f"{self._option}, such as {self._option} 127.0.0.1:0 for a free port."
            ) from error

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= self._max_connections and not self._make_room():
            if self._refusals < limits.MAX_REFUSALS:
                self._refusals += 1
                try:
                    await self._turn_away(stream)
                finally:
                    self._refusals -= 1
            await trio.aclose_forcefully(stream)
            return
        try:
            with trio.CancelScope() as scope:
                guarded = self._guard(stream, scope)
                self._connections.add(guarded)
                try:
                    await self._speak(guarded)
                finally:
                    self._connections.discard(guarded)
                    guarded.abort()
        # Around the scope: what breaks while it is cancelled comes in one group with the cancellation, which the scope
        # takes out of it.
        except Exception as error:  # noqa: BLE001 - one connection must not take the node with it
            log.info("a connection ended badly: %r", error)

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        """There are too many connections: say so, without reading what is asked. With TLS nothing can be said."""
        if self._tls is not None:
            return
        text = f"{self._what} has too many connections. Try again.\n".encode("ascii")
        head = (
            f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {limits.RETRY_AFTER}\r\nConnection: close\r\n"
            "Access-Control-Allow-Origin: *\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\n\r\n"
        )
        with trio.move_on_after(limits.REFUSE_SECONDS):
            try:
                await stream.send_all(head.encode("ascii") + text)
                await stream.send_eof()
                while await stream.receive_some(limits.KIB):  # a close before it was read would take the answer with it
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _guard(self, stream: trio.SocketStream, scope: trio.CancelScope) -> _Guarded:
        seconds = self._limits.send_seconds
        if self._tls is None:
            return _Guarded(stream, stream, scope, self._pool, seconds)
        inside = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        return _GuardedTls(inside, stream, scope, self._pool, seconds)

    def _make_room(self) -> bool:
        """Close the connection that has asked nothing for longest, of the address that has most; False without one."""
        silent = sorted((each for each in self._connections if not each.running), key=lambda each: each.quiet_since)
        victim = most_crowded({each: each.group for each in silent}, [each.group for each in self._connections])
        if victim is None:
            return False
        log.debug("too many connections: one from %s that asks nothing is closed", victim.group)
        self._connections.discard(victim)
        victim.abort()
        return True

    async def _watch(self) -> None:
        """Close the connections that do not take their answers."""
        while True:
            await trio.sleep(self._limits.watch_interval)
            patience = self._limits.crowded_seconds if self._asgi.crowded else self._limits.send_seconds
            now = trio.current_time()
            for each in [each for each in self._connections if each.stuck_for(now) >= patience]:
                log.debug("a connection from %s does not take its answer", each.group)
                self._connections.discard(each)
                each.abort()

    async def _speak(self, stream: _Guarded) -> None:
        """HTTP, until the connection ends."""
        from hypercorn.app_wrappers import ASGIWrapper
        from hypercorn.protocol.h2 import H2Protocol
        from hypercorn.trio.tcp_server import TCPServer
        from hypercorn.trio.worker_context import WorkerContext
        from hypercorn.typing import ConnectionState

        async def answer(scope: Mapping[str, Any], receive: object, send: Send) -> None:
            size = 0

            async def counted(message: dict[str, Any]) -> None:
                nonlocal size
                await send(message)
                size += len(message.get("body", b""))

            try:
                await stream.call(self._asgi, scope, receive, counted)
            finally:
                self._answered.notify()
                if size and self.on_answered is not None:
                    self.on_answered(scope, size)

        app = ASGIWrapper(cast("Any", answer))
        server = TCPServer(app, self._config, WorkerContext(None), ConnectionState({}), cast("Any", stream))
        stream.is_h2 = lambda: isinstance(server.protocol.protocol, H2Protocol)
        await server.run()


def _http_config(bounds: HttpLimits) -> Config:
    from hypercorn.config import Config

    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("kachery_p2p.http.server")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.MAX_REQUEST_HEAD
    config.h2_max_header_list_size = limits.MAX_REQUEST_HEAD
    config.h2_max_concurrent_streams = bounds.max_running
    config.keep_alive_timeout = bounds.idle_seconds
    config.ssl_handshake_timeout = bounds.idle_seconds
    return config


class _Guarded:
    """A connection as hypercorn sees it: the parts of a `trio.SocketStream` that it uses.

    `inside` is what requests and answers go through: the connection itself, or TLS on it.

    Attributes:
        group: where it comes from.
        running: requests that are being answered.
        quiet_since: when it was opened, or its last request was answered.
        is_h2: tells whether it speaks HTTP/2.
    """

    def __init__(
        self,
        inside: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        stream: trio.SocketStream,
        scope: trio.CancelScope,
        pool: Pool,
        send_seconds: float,
    ) -> None:
        self._send_seconds = send_seconds
        self._stream = inside
        self._scope = scope
        self.socket = stream.socket
        self.group = _group(stream)
        self.running = 0
        self.quiet_since = self._moved_at = trio.current_time()
        self._offering = 0
        self._allowance = Allowance(limits.H2_RATE, limits.H2_BURST, pool)
        self.is_h2: Callable[[], bool] = lambda: False

    async def call(self, app: AsgiApp, scope: Mapping[str, Any], receive: object, send: Send) -> None:
        """Have a request answered by the application, noting what becomes of it."""

        async def watched(message: dict[str, Any]) -> None:
            self._offering += 1
            self._moved_at = trio.current_time()
            try:
                await send(message)
            finally:
                self._offering -= 1

        self.running += 1
        if self.is_h2():
            self._allowance.spend(limits.H2_REQUEST_COST)
        try:
            await app(scope, receive, watched)
        finally:
            self.running -= 1
            self.quiet_since = trio.current_time()

    def stuck_for(self, now: float) -> float:
        """Seconds for which an answer is there and nothing of it was taken."""
        return now - self._moved_at if self._offering else 0.0

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), limits.SEND_STEP):
            step = view[start : start + limits.SEND_STEP]
            with trio.move_on_after(self._send_seconds) as patience:
                try:
                    for at in range(0, len(step), limits.PROGRESS_STEP):
                        await self._stream.send_all(step[at : at + limits.PROGRESS_STEP])
                        self._moved_at = trio.current_time()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._scope.cancel()
                    raise
            if patience.cancelled_caught:
                self.abort()
                raise trio.BrokenResourceError("the other side takes nothing")
        self._allowance.spend(-len(view) / limits.H2_SENT_PER_UNIT)

    async def receive_some(self, most: int) -> bytes:
        data = b""
        try:
            if self.is_h2():
                await self._allowance.settle()
                most = min(most, limits.H2_PIECE)
            data = bytes(await self._stream.receive_some(most))
            if self.is_h2():
                self._allowance.spend(len(data))
        finally:
            if not data:
                # Nobody is there any more. hypercorn would work on for them, and then wait out its idle time.
                self._scope.cancel()
        return data

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            # Whoever still works for this connection, or waits to hear from it, does so in vain.
            self._scope.cancel()

    def abort(self) -> None:
        """End the connection now; whatever waits for it fails."""
        self.socket.close()
        self._scope.cancel()


class _GuardedTls(_Guarded):
    """The same with TLS: hypercorn tells the two apart by what they have."""

    async def do_handshake(self) -> None:
        assert isinstance(self._stream, trio.SSLStream)
        await self._stream.do_handshake()

    def selected_alpn_protocol(self) -> str | None:
        assert isinstance(self._stream, trio.SSLStream)
        return cast("str | None", self._stream.selected_alpn_protocol())

    @property
    def transport_stream(self) -> _GuardedTls:
        return self  # of which hypercorn takes the socket


def _group(stream: trio.SocketStream) -> str:
    try:
        return group_of(stream.socket.getpeername()[0])
    except OSError:  # gone already
        return ""
