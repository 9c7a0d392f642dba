"""The node behind a script or a notebook: started on first need, shared by the processes of one directory.

A `NodeConnection` stands for "the node of this directory", in whichever process that is at the moment. The first
process that needs the network takes the node lock and runs the node in a background thread
(`kachery_cloud.node.thread`); the others speak to it through the control socket (`kachery_cloud.node.control`). When
the process that was the node leaves, each of the others notices at once, one of them takes the lock, and requests that
were under way are asked again: a load then continues from what is on disk.

Threads and forks: everything here may be called from any thread. A forked child starts with no connection; when it
needs one it joins its parent's node like any other process.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from kachery_cloud.cancelling import Cancelled, next_of, result_of
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone, node_elsewhere, silent_holder
from kachery_cloud.node.limits import LOCK_PAUSE, SETTLING, TIMES, NodeTimes
from kachery_cloud.node.messages import (
    ANNOUNCE,
    COPIES,
    COPIES_AT_MEMBERS,
    JOIN_GROUP,
    LEAVE_GROUP,
    NOTIFY_ACCESS,
    NOTIFY_REMOVED,
    NOTIFY_STORED,
    OWNER,
    PUBLISH,
    RESOLVE,
    WAIT_PINNED,
    WAKE_PINS,
    WHEREIS,
    WHEREIS_AT_MEMBERS,
    Call,
    Nothing,
    call_for,
    load_call,
)
from kachery_cloud.node.thread import STOP_TIMEOUT, NodeThread
from kachery_p2p.errors import KacheryError, NodeError
from kachery_p2p.node.messages import RemovedNote, StoredNote
from kachery_p2p.repo.locks import NodeLock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kachery_cloud.node.messages import Progress
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.messages import (
        Announced,
        AnnounceRequest,
        Copies,
        CopiesRequest,
        JoinRequest,
        LeaveRequest,
        LoadRequest,
        LoadResult,
        OwnerRequest,
        PublishedName,
        PublishRequest,
        ResolvedName,
        ResolveRequest,
        WaitPinnedRequest,
        Whereabouts,
        WhereisRequest,
    )

Q = TypeVar("Q")
A = TypeVar("A")
P = TypeVar("P")

log = logging.getLogger("kachery_cloud.node.connection")

#: Things that a node is still to be told. It hears of more than these when it next lists what is here.
MAX_UNTOLD = 100_000
#: Of these, how many the node is told at once: a script that stores one value after the other is not to keep it busy.
MAX_TOLD = 256
#: Seconds at exit for telling the node of another process what was stored last.
TELL_TIMEOUT = 5.0
#: Requests under way; the next one waits. A node refuses more than 64 of one process, and is told things beside these.
MAX_UNDER_WAY = 60
#: How often one request is asked again because the node went away under it.
MAX_TAKEOVERS = 8
#: Seconds for a node on this machine to take note of a CID.
NOTIFY_TIMEOUT = 10.0
#: Seconds that a process which handed its place over waits for the new node before it takes the place back.
HAND_OVER_GRACE = 15.0
#: Seconds to wait at exit for a node that is still starting. It is not needed any more; but where the interpreter ends
#: under a thread that is in code written in Rust or C++ (it imports some), the process aborts or hangs.
STOP_STARTING_TIMEOUT = 20.0


class Backend(Protocol):
    """A node to ask: the one in this process, or another process's."""

    gone: bool

    def start(
        self,
        call: Call[Q, A],
        request: Q,
        progress: Progress | None = None,
        part: Callable[[Any], None] | None = None,
    ) -> tuple[int, Future[A]]: ...
    def cancel(self, request_id: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Begun(Generic[A]):
    """A request under way.

    Attributes:
        future: gets the answer, a named error, or `NodeGone`.
        cancel: say that the answer is not waited for any more.
        forget: say that the node was gone, so that the next request goes to another one.
    """

    future: Future[A]
    cancel: Callable[[], None]
    forget: Callable[[], None]


class NodeConnection:
    """The node of one data directory, for this process. Get one from `get_connection`."""

    def __init__(self, config: Config, times: NodeTimes = TIMES) -> None:
        self._config = config
        self._times = times
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._room = threading.Semaphore(MAX_UNDER_WAY)
        self._establishing: Future[Backend] = Future()
        self._untold: deque[CID] = deque(maxlen=MAX_UNTOLD)
        self._pins_changed = False
        self._telling = False
        self._all_told = threading.Condition(self._mutex)
        self._establish_soon(0.0)

    # --- what callers ask

    def load(self, request: LoadRequest, progress: Progress | None = None) -> LoadResult:
        """Load a file, a range of one, or a directory.

        Blocks until it is done. Ctrl-C cancels it; what has arrived stays on disk for the next try.
        """
        return self._call(load_call(request), request, progress)

    def status(self) -> RunningNode:
        """What the node is doing."""
        from kachery_cloud.node.status_messages import STATUS

        return self._call(STATUS, Nothing())

    def whereis(self, request: WhereisRequest) -> Iterator[Whereabouts]:
        """Who has a root: each as soon as it has answered, and at the end all that were found."""
        return self._parts(call_for(request, WHEREIS, WHEREIS_AT_MEMBERS), request)

    def copies(self, request: CopiesRequest) -> Copies:
        """Who else has all of a root."""
        return self._call(call_for(request, COPIES, COPIES_AT_MEMBERS), request)

    def notify_removed(self, cids: Sequence[CID]) -> None:
        """Tell the node what was removed from the directory."""
        self._call(NOTIFY_REMOVED, RemovedNote(tuple(cids)))

    def announce(self, request: AnnounceRequest) -> Announced:
        """Announce a root and wait for it."""
        return self._call(ANNOUNCE, request)

    def publish(self, request: PublishRequest) -> PublishedName:
        """Let a name of this machine point to a path."""
        return self._call(PUBLISH, request)

    def resolve(self, request: ResolveRequest) -> ResolvedName:
        """Where a name leads."""
        return self._call(RESOLVE, request)

    def owner(self, request: OwnerRequest) -> str:
        """The proof of who stands behind a peer, as it hands it over."""
        return self._call(OWNER, request)

    def join_group(self, request: JoinRequest) -> str:
        """Join a group; its ID."""
        return self._call(JOIN_GROUP, request)

    def leave_group(self, request: LeaveRequest) -> bool:
        """Leave a group; whether an owner has heard of it, or none has to."""
        return self._call(LEAVE_GROUP, request)

    def wait_pinned(self, request: WaitPinnedRequest) -> None:
        """Wait for pinning services. What came of it is in the outbox."""
        self._call(WAIT_PINNED, request)

    def notify_stored(self, cid: CID) -> None:
        """Tell the node that the data of a CID is here now. Does not wait for the node; `close` does, for a while."""
        with self._mutex:
            if not self._untold or self._untold[-1] != cid:
                self._untold.append(cid)
        self._tell()

    def notify_pins_changed(self) -> None:
        """Tell the node to look at what is to be pinned. Does not wait for the node; `close` does, for a while."""
        with self._mutex:
            self._pins_changed = True
        self._tell()

    def _tell(self) -> None:
        with self._mutex:
            if self._telling:
                return
            self._telling = True
            establishing = self._establishing
        establishing.add_done_callback(self._tell_next)

    def _tell_next(self, established: Future[Backend]) -> None:
        """Tell the node one thing, with all that came since the last. Its answer brings the next."""
        with self._mutex:
            cids = [self._untold.popleft() for _ in range(min(len(self._untold), MAX_TOLD))]
            pins_changed = self._pins_changed and not cids
            if pins_changed:
                self._pins_changed = False
            elif not cids:
                self._telling = False
                self._all_told.notify_all()
                return
        with contextlib.suppress(NodeGone):
            if established.exception() is None:
                node = established.result()
                if cids:
                    answer = node.start(NOTIFY_STORED, StoredNote(cids[0], tuple(cids[1:])))[1]
                else:
                    answer = node.start(WAKE_PINS, Nothing())[1]
                answer.add_done_callback(lambda _: self._tell_next(established))
                return
        # The node could not start, or is just leaving. The next one lists what is here by itself.
        with self._mutex:
            self._untold.clear()
            self._pins_changed = False
            self._telling = False
            self._all_told.notify_all()

    def ask(self, call: Call[Nothing, A], timeout: float) -> A:
        """Ask the node that there is, or that is being started.

        Raises:
            NodeGone: it has left; no other is started.
        """
        with self._mutex:
            establishing = self._establishing
        return establishing.result(timeout).start(call, Nothing())[1].result(timeout)

    # --- which node answers

    def _call(self, call: Call[Q, A], request: Q, progress: Progress | None = None) -> A:
        for attempt in range(MAX_TAKEOVERS):
            begun = self.begin(call, request, progress)
            try:
                return result_of(begun.future)
            except NodeGone:
                log.info("the node went away during %s (%d); asking the next one", call.name, attempt + 1)
                begun.forget()
            except (KeyboardInterrupt, Cancelled):
                begun.cancel()
                with contextlib.suppress(Exception):  # the interrupt is the news, not how the load ended
                    begun.future.result(timeout=STOP_TIMEOUT)
                raise
        raise self._went_away()

    def _parts(self, call: Call[Q, tuple[P, ...]], request: Q) -> Iterator[P]:
        """Ask for a list; each part as it comes, and then the parts of the answer.

        Where the node goes away under it and another is asked, parts come again. Who stops before the end cancels the
        request.
        """
        for attempt in range(MAX_TAKEOVERS):
            # Bounded by what the node has to say; the thread that hears it must not wait for who reads.
            told: SimpleQueue[tuple[P, ...]] = SimpleQueue()
            begun = self.begin(call, request, part=lambda part, told=told: told.put((part,)))
            begun.future.add_done_callback(lambda _, told=told: told.put(()))
            try:
                while parts := next_of(told):
                    yield from parts
                yield from begun.future.result()
                return
            except NodeGone:
                log.info("the node went away during %s (%d); asking the next one", call.name, attempt + 1)
                begun.forget()
            finally:
                if not begun.future.done():
                    begun.cancel()
        raise self._went_away()

    def begin(
        self,
        call: Call[Q, A],
        request: Q,
        progress: Progress | None = None,
        part: Callable[[Any], None] | None = None,
    ) -> Begun[A]:
        """Ask the node, and do not wait for the answer.

        It waits for the node where that is just starting, and while too many requests are under way.
        """
        self._room.acquire()
        future: Future[A] | None = None
        try:
            for _ in range(MAX_TAKEOVERS):
                backend = self._backend()
                try:
                    request_id, future = backend.start(call, request, progress, part)
                except NodeGone:
                    self._forget(backend)
                    continue
                return Begun(future, partial(backend.cancel, request_id), partial(self._forget, backend))
            raise self._went_away()
        finally:
            if future is None:
                self._room.release()
            else:
                future.add_done_callback(lambda _: self._room.release())

    def _went_away(self) -> NodeError:
        return NodeError(f"The node of {self._config.directory} went away {MAX_TAKEOVERS} times during one request.")

    def _backend(self) -> Backend:
        with self._mutex:
            establishing = self._establishing
        if establishing.done() and establishing.exception() is not None:
            # A node that could not start is tried again by the next call, not remembered as broken for ever.
            self._establish_soon(0.0)
            establishing = self._establishing
        return result_of(establishing)

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
                if time.monotonic() > begun + grace + self._times.establish:
                    raise NodeError(silent_holder(self._config.directory))
                if self._closed.wait(LOCK_PAUSE):
                    raise NodeGone("This process is leaving.")
        except BaseException as error:  # noqa: BLE001 - handed to those who wait
            result.set_exception(error)
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
        with self._mutex:
            if not self._telling:
                # Nobody needs a node any more: whoever waits for a lock to become the node, or for the one that has it,
                # is not waited for. One that is starting already is.
                self._closed.set()
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


def ask_running_node(config: Config, call: Call[Nothing, A], times: NodeTimes = TIMES) -> A:
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
            return connection.ask(call, times.answer)
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
            return client.start(call, Nothing())[1].result(times.answer)
        finally:
            client.close()
    except concurrent.futures.TimeoutError:
        raise NodeError(
            f"The node of {config.directory} does not answer within {times.answer:.0f} s. "
            f"{silent_holder(config.directory)}"
        ) from None


def tell_running_node(config: Config, cid: CID) -> bool:
    """Tell the node of the directory, if one runs, of new data; false when none does. Never starts one."""
    return _tell(config, NOTIFY_STORED, StoredNote(cid))


def tell_removed(config: Config, cids: Sequence[CID]) -> bool:
    """Tell the node of the directory, if one runs, what was removed; false when none does. Never starts one."""
    with _connections_mutex:
        connection = _connections.get(config.directory)
    if connection is not None:
        connection.notify_removed(cids)
        return True
    return _tell(config, NOTIFY_REMOVED, RemovedNote(tuple(cids)))


def tell_access(config: Config) -> bool:
    """Tell the node of the directory, if one runs, that others may see what is here now; false when none does.

    What nobody may see any more is not given away from the moment of that change on, whether the node is told or not.
    """
    return _tell(config, NOTIFY_ACCESS, Nothing())


def _tell(config: Config, call: Call[Q, None], note: Q) -> bool:
    try:
        client = ControlClient(ControlEndpoint.read(config.directory), on_gone=lambda _: None)
        try:
            client.start(call, note)[1].result(timeout=NOTIFY_TIMEOUT)
        finally:
            client.close()
    except (NodeGone, concurrent.futures.TimeoutError):
        return False
    return True


def announce_in_background(config: Config, cid: CID, *, pins_changed: bool = False) -> None:
    """Start or join the node of the directory without waiting for it, and tell it of the new data.

    With `pins_changed` it is also told to look at what is to be pinned.
    """
    try:
        connection = get_connection(config)
        connection.notify_stored(cid)
        if pins_changed:
            connection.notify_pins_changed()
    except (KacheryError, OSError) as error:
        # The data is stored; that it cannot be served right now must not look like a failed store.
        warnings.warn(f"Stored, but not served to others yet: {error}", RuntimeWarning, stacklevel=4)


def close_all() -> None:
    """Stop what this process runs in the background. Called at interpreter exit; a later call starts afresh."""
    with _connections_mutex:
        leaving = list(_connections.values())
        _connections.clear()
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
