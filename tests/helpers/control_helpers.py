"""A control server in a thread of its own, as in real life, and ways to speak to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import trio
import trio.testing

from kachery_cloud.node.control import MAX_LINE
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.control_server import PROGRESS_PER_SECOND, serve_control
from kachery_cloud.node.endpoint import ControlEndpoint
from kachery_cloud.node.messages import Call, Method, Methods, Telling, by_name
from kachery_p2p.errors import DiskFull
from kachery_p2p.repo.locks import NodeLock
from tests.helpers.patience import PATIENCE

#: Calls whose request and answer are JSON of any kind.
CALLS: dict[str, Call[Any, Any]] = {
    name: Call(name, Mapping[str, Any], cast("type[Any]", Any))
    for name in ("echo", "count", "fail", "crash", "hang", "unsendable", "verbose", "no-such-method")
}
CALLS["list"] = Call("list", Mapping[str, Any], tuple[str, ...], part=str)


class Server:
    """A control server with a few methods."""

    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cancelled = threading.Event()
        self.begun = threading.Event()
        ready: Future[None] = Future()

        async def echo(params: dict[str, Any], progress: Any) -> Any:
            return params

        async def count(params: dict[str, Any], progress: Any) -> Any:
            for i in range(3):
                progress(i + 1, 3, 7, 1)
                await trio.sleep(2 / PROGRESS_PER_SECOND)  # the pace at which progress is passed on
            return "counted"

        async def fail(params: dict[str, Any], progress: Any) -> Any:
            raise DiskFull("There is no room left on /data.")

        async def crash(params: dict[str, Any], progress: Any) -> Any:
            raise ZeroDivisionError("a bug")

        async def hang(params: dict[str, Any], progress: Any) -> Any:
            self.begun.set()
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()

        async def unsendable(params: dict[str, Any], progress: Any) -> Any:
            return {"long": "x" * (2 * MAX_LINE), "set": {1}, "nan": float("nan")}[params["what"]]

        async def verbose(params: dict[str, Any], progress: Any) -> Any:
            raise DiskFull("x" * (2 * MAX_LINE))

        async def list(params: dict[str, Any], telling: Telling) -> tuple[str, ...]:
            parts = tuple(f"part {i}" for i in range(params["parts"]))
            for part in parts:
                telling.part(part)
            await trio.testing.wait_all_tasks_blocked()
            return parts

        runs = (echo, count, fail, crash, hang, unsendable, verbose, list)
        methods = by_name(*(Method(CALLS[run.__name__], run) for run in runs))

        async def main() -> None:
            self.token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await nursery.start(serve_control, directory, methods)
                ready.set_result(None)

        self.thread = threading.Thread(target=trio.run, args=(main,))
        self.thread.start()
        ready.result(PATIENCE)

    def stop(self) -> None:
        self.token.run_sync_soon(self.nursery.cancel_scope.cancel)
        self.thread.join(PATIENCE)


@contextlib.contextmanager
def served(directory: Path, methods: Methods) -> Iterator[trio.lowlevel.TrioToken]:
    """These methods, as those of a node of a directory in another process, which holds its lock; its trio run."""
    lock = NodeLock(directory)
    assert lock.try_acquire()
    ready: Future[tuple[trio.lowlevel.TrioToken, trio.Nursery]] = Future()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, directory, methods)
            ready.set_result((trio.lowlevel.current_trio_token(), nursery))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    token, nursery = ready.result(PATIENCE)
    try:
        yield token
    finally:
        token.run_sync_soon(nursery.cancel_scope.cancel)
        thread.join(PATIENCE)
        lock.release()


def ask(client: ControlClient, method: str, params: dict[str, Any], progress: Any = None) -> Any:
    return client.start(CALLS[method], params, progress)[1].result(PATIENCE)


def answer_to(directory: Path, *sent: bytes, secret: bool = False) -> bytes:
    """What the node answers to bytes, up to its end; with `secret`, they come behind a proper greeting."""
    endpoint = ControlEndpoint.read(directory)
    assert endpoint.path is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(endpoint.path)
        answer = b""
        try:
            if secret:
                sock.sendall(json.dumps({"secret": endpoint.secret, "version": 1}).encode() + b"\n")
            for part in sent:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # dropped before it had read all of it
        return answer


class RawClient:
    """A connection that has said its greeting, to speak the lines of other versions."""

    def __init__(self, directory: Path) -> None:
        endpoint = ControlEndpoint.read(directory)
        assert endpoint.path is not None
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(endpoint.path)
        self._reader = self._sock.makefile("rb")
        assert self.ask({"secret": endpoint.secret, "version": 1})["ok"]

    def ask(self, frame: dict[str, Any]) -> Any:
        """Send a line; the next one that comes."""
        self._sock.sendall(json.dumps(frame).encode() + b"\n")
        return json.loads(self._reader.readline())

    def close(self) -> None:
        self._reader.close()
        self._sock.close()


def is_served(directory: Path) -> bool:
    """Whether an honest client gets its answer."""
    client = ControlClient(ControlEndpoint.read(directory), on_gone=lambda client: None)
    try:
        return ask(client, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    finally:
        client.close()
