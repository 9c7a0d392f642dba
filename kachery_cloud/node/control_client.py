"""The other processes' side of the control socket: plain threads and sockets.

A process that only talks to the node of another imports neither trio nor libp2p.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from kachery_cloud.node.control import (
    GREETING_TIMEOUT,
    MAX_LINE,
    VERSION,
    closed_in_forks,
    decode_error,
    encode_line,
)
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone
from kachery_cloud.node.messages import Call, Cancel, Greeting, Progress, Reply, Request, Welcome
from kachery_p2p.errors import NodeError
from kachery_p2p.json_reader import read_json
from kachery_p2p.json_shapes import WrongShape, from_json, to_json

log = logging.getLogger("kachery_cloud.node.control")

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass
class _Waiting:
    """A request under way: the call, who waits for its answer, and who hears of it before."""

    call: Call[Any, Any]
    future: Future[Any]
    progress: Progress | None
    part: Callable[[Any], None] | None


def _nothing(client: ControlClient) -> None:
    """Nothing is done when the node goes: this side has left."""


class ControlClient:
    """A connection to the node of a directory that another process holds. Thread-safe.

    Args:
        endpoint: where it listens.
        on_gone: called once, in a thread of its own, when the node goes away.

    Raises:
        NodeGone: no node answers there.
    """

    def __init__(self, endpoint: ControlEndpoint, on_gone: Callable[[ControlClient], None]) -> None:
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._next_id = 1
        self._waiting: dict[int, _Waiting] = {}
        self.gone = False
        try:
            self._sock = self._dial(endpoint)
        except (OSError, ValueError) as error:
            raise _silent(endpoint, error) from error
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
            self._sock.sendall(encode_line(Greeting(endpoint.secret, VERSION)))
            line = self._reader.readline(MAX_LINE)
            if not line:
                raise NodeGone(f"Process {endpoint.pid} is the node of this directory but closed the connection.")
            welcome = from_json(Welcome, read_json(line))
        except (OSError, ValueError) as error:
            raise _silent(endpoint, error) from error
        if not welcome.ok:
            raise NodeError(f"{welcome.message} Stop the older process or update it.")
        return endpoint.pid if welcome.pid is None else welcome.pid

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

    def start(
        self,
        call: Call[Q, A],
        request: Q,
        progress: Progress | None = None,
        part: Callable[[Any], None] | None = None,
    ) -> tuple[int, Future[A]]:
        """Ask; the future gets the result, a named error, or `NodeGone`.

        `progress` and `part` hear what is said before, in another thread. They must not block.

        Raises:
            NodeGone: it has left.
            NodeError: the request is too long.
        """
        future: Future[A] = Future()
        with self._lock:
            if self.gone:
                raise NodeGone("The process that was the node has left.")
            number, self._next_id = self._next_id, self._next_id + 1
            try:
                line = encode_line(Request(number, call.name, to_json(request), parts=part is not None))
            except ValueError as error:
                raise NodeError(f"The node cannot be asked this: {error}.") from error
            self._waiting[number] = _Waiting(call, future, progress, part)
            try:
                self._sock.sendall(line)
            except OSError as error:
                del self._waiting[number]
                raise NodeGone("The process that was the node has left.") from error
        return number, future

    def cancel(self, request_id: int) -> None:
        """Say that the answer is not waited for any more."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(encode_line(Cancel(request_id)))

    def close(self) -> None:
        """Leave. Requests under way are cancelled by the node."""
        self._on_gone = _nothing
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
            for waiting in left.values():
                waiting.future.set_exception(NodeGone("The process that was the node has left."))
            self._reader.close()
            self._sock.close()
            self._on_gone(self)

    def _on_message(self, message: Any) -> None:
        """Take an answer, or how far one is.

        Raises:
            ValueError: no node of ours sends this.
        """
        reply = from_json(Reply, message)
        if reply.id is None:
            return
        if reply.progress is not None:
            self._on_progress(reply.id, (*reply.progress, reply.peers or 0, reply.here or 0))
            return
        if reply.part is not None:
            self._on_part(reply.id, reply.part)
            return
        waiting = self._waiting.pop(reply.id, None)
        if waiting is None:
            return
        if reply.error is not None:
            waiting.future.set_exception(self._refusal(waiting.call, decode_error(reply.error)))
            return
        try:
            answer = from_json(waiting.call.answer, reply.result)
        except WrongShape as error:
            waiting.future.set_exception(self._unreadable(waiting.call, error))
        else:
            waiting.future.set_result(answer)

    def _refusal(self, call: Call[Any, Any], error: Exception) -> Exception:
        """An error of the node; where an older one does not know the call, what is to be done."""
        if isinstance(error, NodeError) and f"it does not know {call.name!r}" in str(error):
            return NodeError(
                f"Process {self.pid}, the node of this directory, is of an older version, which does not know "
                f"{call.name!r}. Nobody was asked. Stop that process, or update it."
            )
        return error

    def _unreadable(self, call: Call[Any, Any], error: WrongShape) -> NodeError:
        return NodeError(
            f"Process {self.pid}, the node of this directory, gave an answer to {call.name!r} that this version "
            f"cannot read: {error}. Stop the older of the two processes or update it."
        )

    def _on_part(self, number: int, told: Any) -> None:
        waiting = self._waiting.get(number)
        if waiting is None or waiting.part is None or waiting.call.part is None:
            return
        try:
            part = from_json(waiting.call.part, told)
        except WrongShape as error:
            del self._waiting[number]
            self.cancel(number)
            waiting.future.set_exception(self._unreadable(waiting.call, error))
            return
        waiting.part(part)

    def _on_progress(self, number: int, steps: tuple[int, int, int, int]) -> None:
        waiting = self._waiting.get(number)
        if waiting is None or waiting.progress is None:
            return
        try:
            waiting.progress(*steps)
        except Exception:
            # The answer is still to come; a bar that cannot be drawn does not keep it away.
            log.exception("showing the progress of a request failed")
            waiting.progress = None


def _silent(endpoint: ControlEndpoint, error: Exception) -> NodeGone:
    return NodeGone(f"Process {endpoint.pid} is the node of this directory but does not answer: {error}.")
