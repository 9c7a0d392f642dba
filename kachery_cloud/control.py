"""How the processes of one data directory share one node: the control socket.

The process that holds the node lock listens on a Unix socket (``node.sock``, mode 0600; where the platform has none, on
a loopback TCP port) and writes ``node.json`` (mode 0600) beside it: where it listens, its process id, and a secret that
it made for this run. Every connection must open with that secret, so that another user of the machine, or a web page
that talks to loopback ports, gets nothing, whatever the transport.

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
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_p2p import errors, private
from kachery_p2p.errors import KacheryError, NodeError

if TYPE_CHECKING:
    import trio
    from trio import TaskStatus

    Progress = Callable[[int, int], None]
    Method = Callable[[dict[str, Any], Progress], Awaitable[Any]]

log = logging.getLogger("kachery_cloud.control")

VERSION = 1
#: A request or an answer is a few paths and addresses; more than this is not one of ours.
MAX_LINE = 1 << 20
#: Requests that one client may have under way; a script that starts more waits for its own.
MAX_REQUESTS_PER_CLIENT = 64
#: Processes that may share one node. Each costs a task and a file descriptor.
MAX_CLIENTS = 256
#: Progress lines are for a bar on a screen; more than this many a second only cost time.
PROGRESS_PER_SECOND = 20
#: A path of a Unix socket must fit into sockaddr_un (104 bytes on macOS, 108 on Linux).
MAX_SOCKET_PATH = 100
#: Seconds for the other side to answer the greeting: it is on the same machine.
GREETING_TIMEOUT = 10.0


class NodeGone(NodeError):
    """The process that was the node has left, or never answered. The caller may take its place."""


@dataclass(frozen=True)
class Endpoint:
    """Where the node of a directory listens, as written in ``node.json``."""

    pid: int
    secret: str
    path: str | None
    port: int | None

    @classmethod
    def read(cls, directory: Path) -> Endpoint:
        """Read ``node.json``. Raises `NodeGone` when there is none or it is not whole."""
        try:
            fields = json.loads((directory / "node.json").read_text())
            return cls(int(fields["pid"]), str(fields["secret"]), fields.get("path"), fields.get("port"))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise NodeGone(f"No node answers for {directory}: node.json cannot be read ({e}).") from e

    def write(self, directory: Path) -> None:
        """Write ``node.json`` whole or not at all, readable by its owner alone."""
        fd, name = tempfile.mkstemp(prefix="node.", suffix=".json", dir=directory)  # mkstemp makes it 0600
        with os.fdopen(fd, "w") as f:
            private.open_to_group(fd, directory, private.SHARED_FILE)
            json.dump(self.__dict__, f)
        os.replace(name, directory / "node.json")


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
    """One message as a line of JSON. Raises `ValueError` when it would be too long to be read back."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"a control message of {len(line)} bytes is over the limit of {MAX_LINE}")
    return line


def encode_error(error: BaseException) -> dict[str, str]:
    """A named error, or for anything else (a bug) its type and text, as it travels to the other process."""
    return {"type": type(error).__name__, "message": str(error)}


def decode_error(fields: dict[str, Any]) -> KacheryError:
    """The error object that `encode_error` described; unknown types become `NodeError`."""
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
    task_status: TaskStatus[Endpoint] | None = None,
) -> None:
    """Serve ``methods`` (async functions of parameters and a progress callback) to other processes until cancelled."""
    import trio

    listener, endpoint = await _listen(directory)
    endpoint.write(directory)
    slots = trio.Semaphore(MAX_CLIENTS)

    async def on_connection(stream: trio.SocketStream) -> None:
        async with stream:
            with closed_in_forks(stream.socket.fileno()):
                try:
                    slots.acquire_nowait()
                except trio.WouldBlock:
                    return
                try:
                    await _serve_client(stream, endpoint.secret, methods)
                finally:
                    slots.release()

    try:
        with closed_in_forks(listener.socket.fileno()):
            if task_status is not None:
                task_status.started(endpoint)
            await trio.serve_listeners(on_connection, [listener])
    finally:
        with contextlib.suppress(OSError):
            if Endpoint.read(directory) == endpoint:
                (directory / "node.json").unlink()
        if endpoint.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(endpoint.path)


async def _listen(directory: Path) -> tuple[trio.SocketListener, Endpoint]:
    import trio

    secret = secrets.token_hex(16)
    if hasattr(socket, "AF_UNIX") and os.name == "posix":
        path = _socket_path(directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a process that was killed; we hold the node lock, so nobody serves it
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        old_mask = os.umask(0o177)  # the socket must never exist with a wider mode, not even for an instant
        try:
            await sock.bind(path)
        finally:
            os.umask(old_mask)
        private.fit(Path(path))
        sock.listen(64)
        return trio.SocketListener(sock), Endpoint(os.getpid(), secret, path, None)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listeners[0], Endpoint(os.getpid(), secret, None, listeners[0].socket.getsockname()[1])


def _socket_path(directory: Path) -> str:
    """``node.sock`` in the directory, or in a private folder of the temporary directory when that path is too long."""
    path = str(directory / "node.sock")
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    return os.path.join(tempfile.mkdtemp(prefix="kachery-"), "node.sock")  # mkdtemp makes it 0700


async def _serve_client(stream: trio.SocketStream, secret: str, methods: dict[str, Method]) -> None:
    import trio

    lines = _Lines(stream)
    greeting = None
    with trio.move_on_after(GREETING_TIMEOUT):
        greeting = await lines.next()
    if greeting is None or not secrets.compare_digest(str(greeting.get("secret")), secret):
        return  # not one of ours: silence tells it nothing
    client = _Client(stream, methods)
    if greeting.get("version") != VERSION:
        message = f"The node of this directory speaks control version {VERSION}, not {greeting.get('version')}."
        await client.send({"ok": False, "message": message})
        return
    async with trio.open_nursery() as nursery:
        client.nursery = nursery
        await client.send({"ok": True, "pid": os.getpid()})
        while (line := await lines.next()) is not None:
            await client.on_line(line)
        nursery.cancel_scope.cancel()  # the client has gone: nobody waits for what it asked


class _Lines:
    """The JSON objects that arrive, until the other side leaves, breaks, or sends what is not a line of ours."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> dict[str, Any] | None:
        """The next one; None at the end."""
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
        try:
            message = json.loads(line)
        except ValueError:
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

    async def send(self, message: dict[str, Any]) -> None:
        """Send one line, whole. A client that has gone, or does not read, is dropped; nothing is raised."""
        import trio

        try:
            async with self._sending:
                # Shielded: half a line would confuse every later answer. Bounded: a client that never reads is cut off.
                with trio.fail_after(GREETING_TIMEOUT) as scope:
                    scope.shield = True
                    await self._stream.send_all(encode_line(message))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(self._stream)  # the reading loop ends, and with it the client

    async def on_line(self, line: dict[str, Any]) -> None:
        import trio

        if "cancel" in line:
            scope = self._running.get(line["cancel"])
            if scope is not None:
                scope.cancel()
            return
        request_id, name, params = line.get("id"), line.get("method"), line.get("params")
        method = self._methods.get(name) if isinstance(name, str) else None
        if (
            method is None
            or not isinstance(request_id, int)
            or not isinstance(params, dict)
            or request_id in self._running
            or len(self._running) >= MAX_REQUESTS_PER_CLIENT
        ):
            problem = NodeError(f"The node cannot take the request {name!r}: unknown, malformed, or too many at once.")
            await self.send({"id": request_id, "error": encode_error(problem)})
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
        await self.send(reply)


# --- the other processes' side (threads) ---------------------------------------------------------------------------


class ControlClient:
    """A connection to the node of a directory that another process holds. Thread-safe.

    Args:
        endpoint: where it listens.
        on_gone: called once, in a thread of its own, when the node goes away.

    Raises:
        NodeGone: nobody answers there.
    """

    def __init__(self, endpoint: Endpoint, on_gone: Callable[[ControlClient], None]) -> None:
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._next_id = 1
        self._waiting: dict[int, tuple[Future[Any], Progress | None]] = {}
        self.gone = False
        try:
            self._sock = self._dial(endpoint)
            self._reader = self._sock.makefile("rb")
            self._sock.sendall(encode_line({"secret": endpoint.secret, "version": VERSION}))
            greeting = json.loads(self._reader.readline(MAX_LINE) or b"null")
            self._sock.settimeout(None)
        except (OSError, ValueError) as e:
            raise NodeGone(f"Process {endpoint.pid} is the node of this directory but does not answer: {e}.") from e
        if not isinstance(greeting, dict):
            raise NodeGone(f"Process {endpoint.pid} is the node of this directory but closed the connection.")
        if not greeting.get("ok"):
            raise NodeError(str(greeting.get("message")) + " Stop the older process or update it.")
        self.pid = int(greeting["pid"])
        threading.Thread(target=self._read, name="kachery-control", daemon=True).start()

    def _dial(self, endpoint: Endpoint) -> socket.socket:
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
        """Ask; the future gets the result, a named error, or `NodeGone`."""
        future: Future[Any] = Future()
        with self._lock:
            if self.gone:
                raise NodeGone("The process that was the node has left.")
            request_id, self._next_id = self._next_id, self._next_id + 1
            self._waiting[request_id] = (future, progress)
            try:
                self._sock.sendall(encode_line({"id": request_id, "method": method, "params": params}))
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
        with closed_in_forks(self._sock.fileno()), contextlib.suppress(OSError, ValueError):
            while line := self._reader.readline(MAX_LINE):
                self._on_message(json.loads(line))
        with self._lock:
            self.gone = True
            left, self._waiting = self._waiting, {}
        for future, _ in left.values():
            future.set_exception(NodeGone("The process that was the node has left."))
        self._reader.close()
        self._sock.close()
        self._on_gone(self)

    def _on_message(self, message: dict[str, Any]) -> None:
        request_id = message.get("id")
        if not isinstance(request_id, int):
            return
        if "progress" in message:
            waiting = self._waiting.get(request_id)
            if waiting is not None and waiting[1] is not None:
                waiting[1](*message["progress"])
            return
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        if "error" in message:
            waiting[0].set_exception(decode_error(message["error"]))
        else:
            waiting[0].set_result(message.get("result"))
