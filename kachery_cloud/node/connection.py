"""The node behind a script or a notebook: started on first need, shared by the processes of one directory.

A `NodeConnection` stands for "the node of this directory", whoever that is at the moment. The first process that needs
the network takes the node lock and runs the node in a background thread (`NodeThread`); the others speak to it through
the control socket (`kachery_cloud.node.control`). When the process that was the node leaves, each of the others notices
at once, one of them takes the lock, and requests that were under way are asked again: a load then continues from what
is on disk.

Threads and forks: everything here may be called from any thread. A forked child starts with no connection; when it
needs one it joins its parent's node like any other process.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from kachery_cloud.node.control import ControlClient, ControlEndpoint, NodeGone
from kachery_cloud.node.endpoint import node_elsewhere, silent_holder
from kachery_p2p.errors import NodeError
from kachery_p2p.repo.locks import NodeLock

if TYPE_CHECKING:
    from pathlib import Path

    from kachery_cloud.node.control import Progress
    from kachery_cloud.settings.config import Config

log = logging.getLogger("kachery_cloud.node.connection")

#: Seconds to become the node or reach the one that is: starting one takes about two on a slow machine.
ESTABLISH_TIMEOUT = 30.0
#: Seconds after which what stands in the file of a held lock is believed: who takes the lock writes at once.
SETTLING = 1.0
#: Seconds between looks at a lock that another process holds while it starts or leaves.
ESTABLISH_PAUSE = 0.05
#: Things that a node is still to be told. It hears of more than these when it next lists what is here.
MAX_UNTOLD = 100_000
#: Seconds at exit for telling the node of another process what was stored last.
TELL_TIMEOUT = 5.0
#: How often one request is asked again because the node went away under it.
MAX_TAKEOVERS = 8
#: Seconds for a node, perhaps one that is still starting, to say what it is doing.
ANSWER_TIMEOUT = 30.0
#: Seconds that a process which handed its place over waits for the new node before it takes the place back.
HAND_OVER_GRACE = 15.0
#: Seconds for the node to say goodbye to its peers when the interpreter exits.
STOP_TIMEOUT = 5.0
#: Seconds to wait at exit for a node that is still starting: nobody has needed it yet.
STOP_STARTING_TIMEOUT = 0.5


class Backend(Protocol):
    """A node to ask: the one in this process, or another process's."""

    gone: bool

    def start(self, method: str, params: dict[str, Any], progress: Progress | None) -> tuple[int, Future[Any]]: ...
    def cancel(self, request_id: int) -> None: ...
    def close(self) -> None: ...


class NodeThread:
    """The node of a directory, running in a background thread of this process.

    Args:
        lock: the node lock, held; released when the thread ends.
        on_gone: called in the thread when the node has stopped.

    Raises:
        KacheryError: the node could not start.
    """

    def __init__(self, config: Config, lock: Any, on_gone: Callable[[NodeThread], None]) -> None:
        self._config = config
        self._lock = lock
        self._on_gone = on_gone
        self._ready: Future[None] = Future()
        self.handed_over = False
        self._pending: dict[int, tuple[Future[Any], Any]] = {}
        self._next_id = 1
        self._mutex = threading.Lock()
        self.gone = False
        self._thread = threading.Thread(target=self._main, name="kachery-node", daemon=True)
        self._thread.start()
        self._ready.result()

    def _main(self) -> None:
        hook = sys.excepthook
        import trio

        from kachery_cloud.node.serve import plain_error

        if sys.version_info < (3, 11):
            # What trio needs for exception groups there sets the hook of the whole process, which is the user's.
            sys.excepthook = hook

        error: BaseException = NodeGone("The node of this process has stopped.")
        try:
            trio.run(self._run, strict_exception_groups=True)
        except BaseException as e:  # whatever it was, it is handed to those who wait for the node
            error = plain_error(e)
            if self._ready.done():
                log.error("the node stopped", exc_info=e)
        finally:
            self._lock.release()
            with self._mutex:
                self.gone = True
                left, self._pending = self._pending, {}
            for future, _ in left.values():
                future.set_exception(NodeGone("The node of this process has stopped."))
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                self._on_gone(self)

    async def _run(self) -> None:
        import trio

        from kachery_cloud.node.serve import run_node

        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery

            async def serve(*, task_status: Any) -> None:
                await run_node(self._config, hand_over=self._hand_over, task_status=task_status)

            self._methods = await nursery.start(serve)
            self._ready.set_result(None)
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def _hand_over(self) -> bool:
        """``kachery-cloud-node`` asks for the place. It takes a connection that ends for the same yes as the answer."""
        self.handed_over = True
        self._stop.set()
        return True

    def start(self, method: str, params: dict[str, Any], progress: Progress | None) -> tuple[int, Future[Any]]:
        import trio

        future: Future[Any] = Future()
        scope = trio.CancelScope()
        with self._mutex:
            if self.gone:
                raise NodeGone("The node of this process has stopped.")
            request_id, self._next_id = self._next_id, self._next_id + 1
            self._pending[request_id] = (future, scope)

        async def answer() -> None:
            outcome: Any = NodeError("The request was cancelled.")
            with scope:
                try:
                    outcome = (await self._methods[method](params, progress or (lambda done, total: None)),)
                except Exception as e:  # noqa: BLE001 - it belongs to the caller
                    outcome = e
            with self._mutex:
                waiting = self._pending.pop(request_id, None)
            if waiting is None:
                return
            if isinstance(outcome, tuple):
                future.set_result(outcome[0])
            else:
                future.set_exception(outcome)

        try:
            self._token.run_sync_soon(lambda: self._nursery.start_soon(answer))
        except trio.RunFinishedError as e:
            raise NodeGone("The node of this process has stopped.") from e
        return request_id, future

    def cancel(self, request_id: int) -> None:
        with self._mutex:
            pending = self._pending.get(request_id)
        if pending is not None:
            self._soon(pending[1].cancel)

    def close(self) -> None:
        self._soon(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT)

    def _soon(self, function: Callable[[], None]) -> None:
        import trio

        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)


class NodeConnection:
    """The node of one data directory, for this process. Get one from `get_connection`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._establishing: Future[Backend] = Future()
        self._untold: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MAX_UNTOLD)
        self._telling = False
        self._all_told = threading.Condition(self._mutex)
        self._establish_soon(0.0)

    # --- what callers ask

    def load(self, target: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Load a file, a range of one, or a directory; see `kachery_p2p.node.node.Node.load` for target and result.

        Blocks until it is done. Ctrl-C cancels it; what has arrived stays on disk for the next try.
        """
        return self._call("load", target, progress)

    def status(self) -> dict[str, Any]:
        """Peer ID, addresses, connected peers and counters of the node."""
        return self._call("status", {}, None)

    def whereis(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """Who has a CID; see `kachery_p2p.node.node.Node.whereis` for target and result."""
        return self._call("whereis", target, None)

    def announce(self, target: dict[str, Any]) -> dict[str, Any]:
        """Announce a root and wait for it; see `kachery_p2p.node.node.Node.announce` for target and result."""
        return self._call("announce", target, None)

    def wait_pinned(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """Wait for pinning services; see `kachery_p2p.node.pins.Keeping.wait_pinned` for target and result."""
        return self._call("wait_pinned", target, None)

    def connect(self, addr: str) -> str:
        """Connect to a peer by multiaddr; returns its peer ID."""
        return self._call("connect", {"addr": addr}, None)

    def notify_stored(self, cid: str) -> None:
        """Tell the node that the data of a CID is here now. Does not wait for the node; `close` does, for a while."""
        self._tell("notify_stored", {"cid": cid})

    def notify_pins_changed(self) -> None:
        """Tell the node to look at what is to be pinned. Does not wait for the node; `close` does, for a while."""
        self._tell("wake_pins", {})

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        with self._mutex:
            if (method, params) not in list(self._untold)[-1:]:
                self._untold.append((method, params))
            if self._telling:
                return
            self._telling = True
            establishing = self._establishing
        establishing.add_done_callback(self._tell_next)

    def _tell_next(self, established: Future[Backend]) -> None:
        """Tell the node of one thing. Its answer brings the next, so that it is never asked too much at once."""
        with self._mutex:
            if not self._untold:
                self._telling = False
                self._all_told.notify_all()
                return
            method, params = self._untold.popleft()
        with contextlib.suppress(NodeGone):
            if established.exception() is None:
                answer = established.result().start(method, params, None)[1]
                answer.add_done_callback(lambda _: self._tell_next(established))
                return
        # A node that could not start, or is just leaving, has nobody waiting; the next one lists what is here.
        with self._mutex:
            self._untold.clear()
            self._telling = False
            self._all_told.notify_all()

    def ask(self, method: str, timeout: float) -> Any:
        """Ask the node that there is, or that is being started. Raises `NodeGone` rather than becoming one."""
        with self._mutex:
            establishing = self._establishing
        return establishing.result(timeout).start(method, {}, None)[1].result(timeout)

    # --- which node answers

    def _call(self, method: str, params: dict[str, Any], progress: Progress | None) -> Any:
        for attempt in range(MAX_TAKEOVERS):
            backend = self._backend()
            try:
                request_id, future = backend.start(method, params, progress)
            except NodeGone:
                self._forget(backend)
                continue
            try:
                return future.result()
            except NodeGone:
                log.info("the node went away during %s (%d); asking the next one", method, attempt + 1)
                self._forget(backend)
            except KeyboardInterrupt:
                backend.cancel(request_id)
                with contextlib.suppress(Exception):  # the user's interrupt is the news, not how the load ended
                    future.result(timeout=STOP_TIMEOUT)
                raise
        raise NodeError(f"The node of {self._config.directory} went away {MAX_TAKEOVERS} times during one request.")

    def _backend(self) -> Backend:
        with self._mutex:
            establishing = self._establishing
        if establishing.done() and establishing.exception() is not None:
            # A node that could not start is tried again by the next call, not remembered as broken for ever.
            self._establish_soon(0.0)
            establishing = self._establishing
        return establishing.result()

    def _forget(self, backend: Backend, grace: float = 0.0) -> None:
        """This backend is gone: establish another, unless that is under way already."""
        with self._mutex:
            current = self._establishing
            if not current.done() or current.exception() is not None or current.result() is not backend:
                return
        self._establish_soon(grace)

    def _establish_soon(self, grace: float) -> None:
        with self._mutex:
            if self._closed.is_set():
                return
            self._establishing = Future()
        threading.Thread(
            target=self._establish, args=(self._establishing, grace), name="kachery-connect", daemon=True
        ).start()

    def _establish(self, result: Future[Backend], grace: float) -> None:
        """Become the node, or reach the process that is. For ``grace`` seconds leave the place to another process."""
        begun = time.monotonic()
        try:
            while True:
                backend = self._try_once(may_become_node=time.monotonic() >= begun + grace)
                if backend is not None:
                    break
                if time.monotonic() > begun + grace + SETTLING:
                    # Only a lock that is held for a while: its file names the last holder until the next has written.
                    self._refuse_elsewhere()
                if time.monotonic() > begun + grace + ESTABLISH_TIMEOUT:
                    raise NodeError(silent_holder(self._config.directory))
                # The lock is a file lock of another process: there is no event to wait for that all platforms have.
                if self._closed.wait(ESTABLISH_PAUSE):
                    raise NodeGone("This process is leaving.")
        except BaseException as e:  # noqa: BLE001 - handed to whoever waits
            result.set_exception(e)
        else:
            result.set_result(backend)
            if self._closed.is_set():
                backend.close()
            elif backend.gone:  # before it was known here
                self._forget(backend)

    def _try_once(self, may_become_node: bool) -> Backend | None:
        lock = NodeLock(self._config.directory)
        if may_become_node and lock.try_acquire():
            return NodeThread(self._config, lock, on_gone=self._forget_node_thread)
        try:
            return ControlClient(ControlEndpoint.read(self._config.directory), on_gone=self._forget)
        except NodeGone:
            return None

    def _refuse_elsewhere(self) -> None:
        elsewhere = node_elsewhere(self._config.directory)
        if elsewhere is not None:
            raise elsewhere

    def _forget_node_thread(self, thread: NodeThread) -> None:
        self._forget(thread, HAND_OVER_GRACE if thread.handed_over else 0.0)

    def close(self) -> None:
        """Leave: stop the node if it runs here, so that another process may take over."""
        # A node that never started needs no goodbye.
        with contextlib.suppress(Exception):
            if isinstance(self._establishing.result(timeout=STOP_STARTING_TIMEOUT), ControlClient):
                # The last thing that a short script did may be to store something: the node is to hear of it.
                with self._all_told:
                    self._all_told.wait_for(lambda: not self._telling, timeout=TELL_TIMEOUT)
        self._closed.set()
        with contextlib.suppress(Exception):
            self._establishing.result(timeout=0).close()


# --- one connection per directory and process ----------------------------------------------------------------------

_connections: dict[Path, NodeConnection] = {}
_connections_mutex = threading.Lock()


def get_connection(config: Config) -> NodeConnection:
    """The connection of this process to the node of ``config.directory``; starts the node in the background if needed.

    Returns at once; the first call on the connection waits until the node is there.
    """
    with _connections_mutex:
        connection = _connections.get(config.directory)
        if connection is None:
            connection = _connections[config.directory] = NodeConnection(config)
        return connection


def ask_running_node(config: Config, method: str) -> Any:
    """Ask the node of ``config.directory``, in whichever process it is. Never starts one.

    Raises:
        NodeGone: none runs, or it has just left.
        NodeElsewhere: it runs on another machine.
        NodeError: it does not answer.
    """
    with _connections_mutex:
        connection = _connections.get(config.directory)
    try:
        if connection is not None:
            return connection.ask(method, ANSWER_TIMEOUT)
        elsewhere = node_elsewhere(config.directory)
        if elsewhere is not None:
            raise elsewhere
        try:
            endpoint = ControlEndpoint.read(config.directory)
        except NodeGone:
            if NodeLock(config.directory).is_held():
                raise NodeError(silent_holder(config.directory)) from None
            raise
        client = ControlClient(endpoint, on_gone=lambda client: None)
        try:
            return client.start(method, {}, None)[1].result(ANSWER_TIMEOUT)
        finally:
            client.close()
    except concurrent.futures.TimeoutError:
        raise NodeError(
            f"The node of {config.directory} does not answer within {ANSWER_TIMEOUT:.0f} s. "
            f"{silent_holder(config.directory)}"
        ) from None


def close_all() -> None:
    """Stop what this process runs in the background. Called at interpreter exit; a later call starts afresh."""
    with _connections_mutex:
        leaving, remaining = list(_connections.values()), {}
        _connections.clear()
        _connections.update(remaining)
    for connection in leaving:
        connection.close()


def _forget_after_fork() -> None:
    """In a forked child the threads are gone: it starts with no connection and joins its parent's node on need."""
    global _connections_mutex
    _connections_mutex = threading.Lock()
    _connections.clear()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
