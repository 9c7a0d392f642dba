"""How the processes of one data directory share one node: the control socket.

The process that holds the node lock listens on a Unix socket (``node.sock``; where there can be none, on a loopback TCP
port) and writes ``node.json`` beside it: where it listens, its process id and machine, and a secret that it made for
this run (`kachery_cloud.node.endpoint`). Every connection must open with that secret, so that another user of the
machine, or a web page that talks to loopback ports, gets nothing, whatever the transport. What a connection sends can
end that connection, never the node.

Both directions speak one JSON object a line::

    -> {"secret": "...", "version": 1}
    <- {"ok": true, "pid": 4711}
    -> {"id": 7, "method": "load", "params": {...}}
    <- {"id": 7, "progress": [1048576, 200000128]}
    <- {"id": 7, "result": {...}}     or     {"id": 7, "error": {"type": "DiskFull", "message": "..."}}
    -> {"cancel": 7}

Data never crosses this socket: both processes see the same directory, so an answer is a path. The client side is plain
threads and sockets; a process that only talks to another's node imports neither trio nor libp2p.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.node.endpoint import (
    ControlEndpoint,
    NodeElsewhere,
    NodeGone,
    listen_unix,
    no_room,
    remove_socket,
)
from kachery_cloud.node.places import ClientPlace, Places
from kachery_p2p import descriptors, errors
from kachery_p2p.errors import KacheryError, NodeError
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.oserrors import explain

if TYPE_CHECKING:
    import trio
    from trio import TaskStatus

    Progress = Callable[[int, int], None]
    Method = Callable[[dict[str, Any], Progress], Awaitable[Any]]

log = logging.getLogger("kachery_cloud.node.control")

VERSION = 1
#: A request or an answer is a few paths and addresses; more than this is not one of ours.
MAX_LINE = 1 << 20
#: The greeting is a secret and a number. Who sends more before it has shown the secret is not one of ours.
MAX_GREETING = 1024
#: Characters of an error's text on the wire; a longer one could make an answer that cannot be sent.
MAX_ERROR_TEXT = 20_000
#: Seconds between tries to write `node.json` where the disk has no room for it.
WRITE_AGAIN = 5.0
#: Requests that one client may have under way; a script that starts more waits for its own.
MAX_REQUESTS_PER_CLIENT = 64
#: Processes that may share one node. Each costs a task and a file descriptor; fewer where the node may open few files.
MAX_CLIENTS = 256
#: Progress lines are for a bar on a screen; more than this many a second only cost time.
PROGRESS_PER_SECOND = 20
#: Seconds for the other side to answer the greeting: it is on the same machine.
GREETING_TIMEOUT = 10.0


__all__ = ["ControlClient", "ControlEndpoint", "NodeElsewhere", "NodeGone", "serve_control"]


# --- forked children ------------------------------------------------------------------------------------------------

_open_fds: set[int] = set()


@contextlib.contextmanager
def closed_in_forks(fd: int) -> Iterator[None]:
    """While this lasts, a forked child does not keep ``fd`` open.

    A child that held a copy of a control socket would hide from the other processes that the node has gone.
    """
    _open_fds.add(fd)
    try:
        yield
    finally:
        _open_fds.discard(fd)


def _close_after_fork() -> None:
    # Replaced, not closed: the child still has the Python objects, and one that is collected closes its number again.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _open_fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)
    _open_fds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


# --- what crosses the wire -----------------------------------------------------------------------------------------


def encode_line(message: dict[str, Any]) -> bytes:
    """One message as a line of JSON. Raises `ValueError` when it would not be read back: it is too long, or a number
    that JSON does not have is in it."""
    line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"a control message of {len(line)} bytes is over the limit of {MAX_LINE}")
    return line


def encode_error(error: BaseException) -> dict[str, str]:
    """A named error, or for anything else (a bug) its type and text, as it travels to the other process."""
    return {"type": type(error).__name__, "message": str(error)[:MAX_ERROR_TEXT]}


def decode_error(fields: Any) -> KacheryError:
    """The error object that `encode_error` described; unknown types become `NodeError`."""
    if not isinstance(fields, dict):
        return NodeError("The node failed, and does not say why.")
    kind = getattr(errors, str(fields.get("type")), None)
    message = str(fields.get("message"))
    if isinstance(kind, type) and issubclass(kind, KacheryError):
        return kind(message)
    return NodeError(f"The node failed ({fields.get('type')}): {message}")


# --- the node's side (trio) ----------------------------------------------------------------------------------------


async def serve_control(
    directory: Path,
    methods: dict[str, Method],
    *,
    task_status: TaskStatus[ControlEndpoint] | None = None,
) -> None:
    """Serve ``methods`` (async functions of parameters and a progress callback) to other processes until cancelled.

    Raises:
        NoPermission, RepoError: the directory does not take the socket or ``node.json``. Where there is only no room
            for them, it serves all the same, and writes ``node.json`` when there is.
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
    except OSError as e:
        if not no_room(e):
            raise explain(e, "making the node's socket in", directory) from e
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
    except OSError as e:
        if no_room(e):
            return False
        raise explain(e, "writing", directory / "node.json") from e
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
    stream: trio.SocketStream, secret: str, methods: dict[str, Method], places: Places, place: ClientPlace
) -> None:
    import trio

    lines = _Lines(stream)
    greeting = None
    with trio.move_on_after(GREETING_TIMEOUT):
        greeting = await lines.next(MAX_GREETING)
    shown = greeting.get("secret") if greeting is not None else None
    # As bytes: text that is not ASCII cannot be compared.
    if greeting is None or not isinstance(shown, str) or not secrets.compare_digest(_bytes(shown), _bytes(secret)):
        return  # not one of ours: silence tells it nothing
    client = _Client(stream, methods)
    version = greeting.get("version")
    if version != VERSION:
        spoken = version if type(version) is int else "an unknown one"
        message = f"The node of this directory speaks control version {VERSION}, not {spoken}."
        await client.send({"ok": False, "message": message})
        return
    async with trio.open_nursery() as nursery:
        client.nursery = nursery
        place.waits = lambda: client.is_waited_for
        await client.send({"ok": True, "pid": os.getpid()})
        while (line := await lines.next()) is not None:
            places.asked(place)
            await client.on_line(line)
        nursery.cancel_scope.cancel()  # the client has gone: nobody waits for what it asked


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
        return message if isinstance(message, dict) else None


class _Client:
    """One other process and what it has asked for."""

    nursery: trio.Nursery

    def __init__(self, stream: trio.SocketStream, methods: dict[str, Method]) -> None:
        import trio

        self._stream = stream
        self._methods = methods
        self._sending = trio.Lock()
        self._running: dict[int, trio.CancelScope] = {}

    @property
    def is_waited_for(self) -> bool:
        """Whether something it asked for is not answered yet."""
        return bool(self._running)

    async def send(self, message: dict[str, Any]) -> None:
        """Send one line whole, or raise what `encode_line` does. A client that has gone or does not read is dropped."""
        import trio

        line = encode_line(message)
        try:
            async with self._sending:
                # Shielded: half a line would confuse every later answer. Bounded: a client that never reads is cut off.
                with trio.fail_after(GREETING_TIMEOUT) as scope:
                    scope.shield = True
                    await self._stream.send_all(line)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(self._stream)  # the reading loop ends, and with it the client

    async def on_line(self, line: dict[str, Any]) -> None:
        import trio

        if "cancel" in line:
            scope = self._running.get(line["cancel"]) if type(line["cancel"]) is int else None
            if scope is not None:
                scope.cancel()
            return
        request_id, name, params = line.get("id"), line.get("method"), line.get("params")
        method = self._methods.get(name) if isinstance(name, str) else None
        if (
            method is None
            or type(request_id) is not int
            or not isinstance(params, dict)
            or request_id in self._running
            or len(self._running) >= MAX_REQUESTS_PER_CLIENT
        ):
            asked = repr(name[:80]) if isinstance(name, str) else "without a name"
            problem = NodeError(f"The node cannot take the request {asked}: unknown, malformed, or too many at once.")
            answered = request_id if type(request_id) is int else None
            await self.send({"id": answered, "error": encode_error(problem)})
            return
        self._running[request_id] = trio.CancelScope()
        self.nursery.start_soon(self._answer, request_id, method, params)

    async def _answer(self, request_id: int, method: Method, params: dict[str, Any]) -> None:
        import trio

        send_progress, receive_progress = trio.open_memory_channel[tuple[int, int]](1)

        def progress(done: int, total: int) -> None:
            with contextlib.suppress(trio.WouldBlock):
                send_progress.send_nowait((done, total))

        async def pass_on_progress() -> None:
            async for done, total in receive_progress:
                await self.send({"id": request_id, "progress": [done, total]})
                await trio.sleep(1 / PROGRESS_PER_SECOND)  # no more often than a screen shows

        reply: dict[str, Any] | None = None
        with self._running[request_id]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_on_progress)
                try:
                    reply = {"id": request_id, "result": await method(params, progress)}
                except Exception as e:  # it belongs to the client that asked, not to the node
                    if not isinstance(e, KacheryError):
                        log.exception("request %s failed", request_id)
                    reply = {"id": request_id, "error": encode_error(e)}
                nursery.cancel_scope.cancel()
        del self._running[request_id]
        if reply is None:
            reply = {"id": request_id, "error": encode_error(NodeError("The request was cancelled."))}
        try:
            await self.send(reply)
        except (TypeError, ValueError, RecursionError) as e:
            log.error("the answer to request %s cannot be sent: %s", request_id, e)
            problem = NodeError("The node's answer is too long, or not of a kind that can be sent.")
            await self.send({"id": request_id, "error": encode_error(problem)})


# --- the other processes' side (threads) ---------------------------------------------------------------------------


class ControlClient:
    """A connection to the node of a directory that another process holds. Thread-safe.

    Args:
        endpoint: where it listens.
        on_gone: called once, in a thread of its own, when the node goes away.

    Raises:
        NodeGone: nobody answers there.
    """

    def __init__(self, endpoint: ControlEndpoint, on_gone: Callable[[ControlClient], None]) -> None:
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._next_id = 1
        self._waiting: dict[int, tuple[Future[Any], Progress | None]] = {}
        self.gone = False
        try:
            self._sock = self._dial(endpoint)
        except (OSError, ValueError) as e:
            raise NodeGone(f"Process {endpoint.pid} is the node of this directory but does not answer: {e}.") from e
        self._reader = self._sock.makefile("rb")
        try:
            self.pid = self._greet(endpoint)
            self._sock.settimeout(None)
        except BaseException:
            self._reader.close()
            self._sock.close()
            raise
        threading.Thread(target=self._read, name="kachery-control", daemon=True).start()

    def _greet(self, endpoint: ControlEndpoint) -> int:
        try:
            self._sock.sendall(encode_line({"secret": endpoint.secret, "version": VERSION}))
            line = self._reader.readline(MAX_LINE)
            greeting = read_json(line) if line else None
        except (OSError, InvalidJSON) as e:
            raise NodeGone(f"Process {endpoint.pid} is the node of this directory but does not answer: {e}.") from e
        if not isinstance(greeting, dict):
            raise NodeGone(f"Process {endpoint.pid} is the node of this directory but closed the connection.")
        if not greeting.get("ok"):
            raise NodeError(f"{greeting.get('message')} Stop the older process or update it.")
        pid = greeting.get("pid")
        return pid if type(pid) is int else endpoint.pid

    def _dial(self, endpoint: ControlEndpoint) -> socket.socket:
        if endpoint.path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(GREETING_TIMEOUT)
                sock.connect(endpoint.path)
            except BaseException:
                sock.close()
                raise
            return sock
        return socket.create_connection(("127.0.0.1", endpoint.port or 0), timeout=GREETING_TIMEOUT)

    def start(self, method: str, params: dict[str, Any], progress: Progress | None) -> tuple[int, Future[Any]]:
        """Ask; the future gets the result, a named error, or `NodeGone`.

        Raises:
            NodeGone: it has left. NodeError: the request is too long.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self.gone:
                raise NodeGone("The process that was the node has left.")
            request_id, self._next_id = self._next_id, self._next_id + 1
            try:
                line = encode_line({"id": request_id, "method": method, "params": params})
            except ValueError as e:
                raise NodeError(f"The node cannot be asked this: {e}.") from e
            self._waiting[request_id] = (future, progress)
            try:
                self._sock.sendall(line)
            except OSError as e:
                del self._waiting[request_id]
                raise NodeGone("The process that was the node has left.") from e
        return request_id, future

    def cancel(self, request_id: int) -> None:
        """Say that nobody waits for the answer any more."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(encode_line({"cancel": request_id}))

    def close(self) -> None:
        """Leave. Requests under way are cancelled by the node."""
        self._on_gone = lambda client: None
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _read(self) -> None:
        try:
            with closed_in_forks(self._sock.fileno()), contextlib.suppress(OSError, ValueError):
                while line := self._reader.readline(MAX_LINE):
                    self._on_message(read_json(line))
        finally:
            with self._lock:
                self.gone = True
                left, self._waiting = self._waiting, {}
            for future, _ in left.values():
                future.set_exception(NodeGone("The process that was the node has left."))
            self._reader.close()
            self._sock.close()
            self._on_gone(self)

    def _on_message(self, message: Any) -> None:
        """Raises `ValueError` for what no node of ours sends."""
        if not isinstance(message, dict):
            raise ValueError("an object is meant")
        request_id = message.get("id")
        if type(request_id) is not int:
            return
        if "progress" in message:
            self._on_progress(request_id, message["progress"])
            return
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        if "error" in message:
            waiting[0].set_exception(decode_error(message["error"]))
        else:
            waiting[0].set_result(message.get("result"))

    def _on_progress(self, request_id: int, steps: Any) -> None:
        if not isinstance(steps, list) or len(steps) != 2 or not all(type(each) is int for each in steps):
            raise ValueError("progress is two numbers")
        waiting = self._waiting.get(request_id)
        if waiting is None or waiting[1] is None:
            return
        try:
            waiting[1](*steps)
        except Exception:
            # The answer is still to come; a bar that cannot be drawn does not keep it away.
            log.exception("showing the progress of a request failed")
            self._waiting[request_id] = (waiting[0], None)
