"""The node's side of the control socket: it serves the other processes of its data directory, in trio."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kachery_cloud.node.control import (
    GREETING_TIMEOUT,
    MAX_LINE,
    VERSION,
    closed_in_forks,
    encode_error,
    encode_line,
)
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone, listen_unix, no_room, remove_socket
from kachery_cloud.node.messages import Cancel, Greeting, Method, Methods, Reply, Request, Welcome
from kachery_cloud.node.places import ClientPlace, Places
from kachery_p2p import descriptors
from kachery_p2p.errors import KacheryError, NodeError
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.json_shapes import WrongShape, from_json
from kachery_p2p.oserrors import explain

if TYPE_CHECKING:
    import trio
    from trio import TaskStatus

log = logging.getLogger("kachery_cloud.node.control")

#: The greeting is a secret and a number. Who sends more before it has shown the secret is not one of ours.
MAX_GREETING = 1024
#: Seconds between tries to write `node.json` where the disk has no room for it.
WRITE_AGAIN = 5.0
#: Requests that one client may have under way; a script that starts more waits for its own.
MAX_REQUESTS_PER_CLIENT = 64
#: Processes that may share one node. Each costs a task and a file descriptor; fewer where the node may open few files.
MAX_CLIENTS = 256
#: Progress lines are for a bar on a screen; more than this many a second only cost time.
PROGRESS_PER_SECOND = 20
#: Parts of an answer that wait for a client which reads slowly. Those beyond come with the answer.
PARTS_WAITING = 256


async def serve_control(
    directory: Path,
    methods: Methods,
    *,
    task_status: TaskStatus[ControlEndpoint] | None = None,
) -> None:
    """Serve ``methods`` to other processes until cancelled.

    Raises:
        NoPermission: the directory does not take the socket or ``node.json``.
        RepoError: the same for another reason. Where there is only no room for them, it serves all the same, and writes
            ``node.json`` when there is.
    """
    import trio

    listener, endpoint = await _listen(directory)
    places = Places(min(MAX_CLIENTS, descriptors.shares().control))

    async def on_connection(stream: trio.SocketStream) -> None:
        async with stream:
            with closed_in_forks(stream.socket.fileno()), places.taken() as place:
                if place is None:
                    return
                try:
                    await _serve_client(stream, endpoint.secret, methods, places, place)
                except Exception:  # whatever a client sent, it is this connection that ends
                    log.exception("a connection of another process of this directory failed")

    try:
        with closed_in_forks(listener.socket.fileno()):
            async with trio.open_nursery() as nursery:
                if not _write(endpoint, directory):
                    nursery.start_soon(_write_later, endpoint, directory)
                if task_status is not None:
                    task_status.started(endpoint)
                await trio.serve_listeners(on_connection, [listener])
    finally:
        with contextlib.suppress(OSError, NodeGone):
            if ControlEndpoint.read(directory) == endpoint:
                (directory / "node.json").unlink()
        if endpoint.path is not None:
            remove_socket(endpoint.path)
        await trio.aclose_forcefully(listener)


async def _listen(directory: Path) -> tuple[trio.SocketListener, ControlEndpoint]:
    import trio

    try:
        unix = await trio.to_thread.run_sync(listen_unix, directory)
    except OSError as error:
        if not no_room(error):
            raise explain(error, "making the node's socket in", directory) from error
        unix = None
    if unix is not None:
        sock, path = unix
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock)), ControlEndpoint.of_this_process(path, None)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    return listener, ControlEndpoint.of_this_process(None, listener.socket.getsockname()[1])


def _write(endpoint: ControlEndpoint, directory: Path) -> bool:
    """Write ``node.json``; false when there is no room for it."""
    try:
        endpoint.write(directory)
    except OSError as error:
        if no_room(error):
            return False
        raise explain(error, "writing", directory / "node.json") from error
    return True


async def _write_later(endpoint: ControlEndpoint, directory: Path) -> None:
    import trio

    log.warning(
        "There is no room on the disk for %s. The node serves others, but the processes of this machine do not find it "
        "before some space is freed.",
        directory / "node.json",
    )
    while True:
        await trio.sleep(WRITE_AGAIN)  # nothing tells when a disk has room again
        if _write(endpoint, directory):
            return


async def _serve_client(
    stream: trio.SocketStream, secret: str, methods: Methods, places: Places, place: ClientPlace
) -> None:
    import trio

    lines = _Lines(stream)
    line = None
    with trio.move_on_after(GREETING_TIMEOUT):
        line = await lines.next(MAX_GREETING)
    try:
        greeting = from_json(Greeting, line)
    except WrongShape:
        return
    # As bytes: text that is not ASCII cannot be compared.
    if not secrets.compare_digest(_bytes(greeting.secret), _bytes(secret)):
        return  # not one of ours: silence tells it nothing
    client = _Client(stream, methods)
    if greeting.version != VERSION:
        spoken = greeting.version if type(greeting.version) is int else "an unknown one"
        message = f"The node of this directory speaks control version {VERSION}, not {spoken}."
        await client.send(Welcome(False, message=message))
        return
    async with trio.open_nursery() as nursery:
        client.nursery = nursery
        place.waits = lambda: client.is_waited_for
        await client.send(Welcome(True, os.getpid()))
        while (line := await lines.next()) is not None:
            places.asked(place)
            await client.on_line(line)
        nursery.cancel_scope.cancel()  # the client has gone, and with it the one who waits for the answers


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Lines:
    """The JSON objects that arrive, until the other side leaves, breaks, or sends what is not a line of ours."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self, longest: int = MAX_LINE) -> dict[str, Any] | None:
        """The next one; None at the end, and for a line of more than `longest` bytes."""
        import trio

        while b"\n" not in self._buffer:
            try:
                data = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            self._buffer += data
            if not data or len(self._buffer) > MAX_LINE:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        if len(line) > longest:
            return None
        try:
            message = read_json(line)
        except InvalidJSON:
            return None
        return cast("dict[str, Any]", message) if isinstance(message, dict) else None


class _Client:
    """One other process and what it has asked for."""

    nursery: trio.Nursery

    def __init__(self, stream: trio.SocketStream, methods: Methods) -> None:
        import trio

        self._stream = stream
        self._methods = methods
        self._sending = trio.Lock()
        self._running: dict[int, trio.CancelScope] = {}

    @property
    def is_waited_for(self) -> bool:
        """Whether something it asked for is not answered yet."""
        return bool(self._running)

    async def send(self, frame: Welcome | Reply) -> None:
        """Send one line whole, or raise what `encode_line` does. A client that has gone or does not read is dropped."""
        import trio

        line = encode_line(frame)
        try:
            async with self._sending:
                # Shielded: half a line would confuse every later answer. Bounded: a client that never reads is cut off.
                with trio.fail_after(GREETING_TIMEOUT) as scope:
                    scope.shield = True
                    await self._stream.send_all(line)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(self._stream)  # the reading loop ends, and with it the client

    async def on_line(self, line: dict[str, Any]) -> None:
        """Begin what a line asks for, or refuse it."""
        import trio

        if "cancel" in line:
            with contextlib.suppress(WrongShape):
                scope = self._running.get(from_json(Cancel, line).cancel)
                if scope is not None:
                    scope.cancel()
            return
        try:
            request = from_json(Request, line)
        except WrongShape as error:
            await self._refuse(line, str(error))
            return
        method = self._methods.get(request.method)
        if method is None:
            await self._refuse(line, f"it does not know {request.method[:80]!r}")
        elif request.id in self._running or len(self._running) >= MAX_REQUESTS_PER_CLIENT:
            await self._refuse(line, "there are too many at once")
        else:
            self._running[request.id] = trio.CancelScope()
            self.nursery.start_soon(self._answer, request, method)

    async def _refuse(self, line: dict[str, Any], why: str) -> None:
        number = line.get("id")
        problem = NodeError(f"The node cannot take the request: {why}.")
        await self.send(Reply(number if type(number) is int else None, error=encode_error(problem)))

    async def _answer(self, request: Request, method: Method[Any, Any]) -> None:
        import trio

        telling = _Telling(request.id, self.send)
        reply: Reply | None = None
        with self._running[request.id]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(telling.pass_on_progress)
                if request.parts:
                    nursery.start_soon(telling.pass_on_parts)
                try:
                    reply = Reply(request.id, result=await method.run(_asked(request, method), telling))
                except Exception as error:  # it belongs to the client that asked, not to the node
                    if not isinstance(error, KacheryError):
                        log.exception("request %s failed", request.id)
                    reply = Reply(request.id, error=encode_error(error))
                nursery.cancel_scope.cancel()
        del self._running[request.id]
        if reply is None:
            reply = Reply(request.id, error=encode_error(NodeError("The request was cancelled.")))
        try:
            await self.send(reply)
        except (TypeError, ValueError, RecursionError) as error:
            log.error("the answer to request %s cannot be sent: %s", request.id, error)
            problem = NodeError("The node's answer is too long, or not of a kind that can be sent.")
            await self.send(Reply(request.id, error=encode_error(problem)))


class _Telling:
    """What a method says before it answers, on its way to the client. Nothing here makes the method wait."""

    def __init__(self, number: int, send: Callable[[Reply], Awaitable[None]]) -> None:
        import trio

        self._number = number
        self._send = send
        self._progress, self._to_show = trio.open_memory_channel[tuple[int, int, int, int]](1)
        self._parts, self._to_tell = trio.open_memory_channel[Any](PARTS_WAITING)

    def __call__(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None:
        import trio

        with contextlib.suppress(trio.WouldBlock):
            self._progress.send_nowait((done, total, peers, here))

    def part(self, part: Any, /) -> None:
        import trio

        with contextlib.suppress(trio.WouldBlock):
            self._parts.send_nowait(part)

    async def pass_on_progress(self) -> None:
        import trio

        async for done, total, peers, here in self._to_show:
            await self._send(Reply(self._number, progress=(done, total), peers=peers or None, here=here or None))
            await trio.sleep(1 / PROGRESS_PER_SECOND)  # no more often than a screen shows

    async def pass_on_parts(self) -> None:
        async for part in self._to_tell:
            await self._send(Reply(self._number, part=part))


def _asked(request: Request, method: Method[Any, Any]) -> Any:
    """The message of a request.

    Raises:
        NodeError: it is not the one of the call.
    """
    try:
        return from_json(method.call.request, request.params)
    except WrongShape as error:
        raise NodeError(f"The node cannot take the request: {error}.") from None
