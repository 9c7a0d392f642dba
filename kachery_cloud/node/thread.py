"""The node of a data directory in a background thread of this process: it runs trio there, and other threads ask it."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from kachery_cloud.node.endpoint import NodeGone
from kachery_p2p.errors import NodeError

if TYPE_CHECKING:
    from kachery_cloud.node.messages import Call, Methods, Progress
    from kachery_cloud.settings.config import Config
    from kachery_p2p.repo.locks import NodeLock

log = logging.getLogger("kachery_cloud.node.connection")

Q = TypeVar("Q")
A = TypeVar("A")

#: Seconds for the node to say goodbye to its peers when the interpreter exits.
STOP_TIMEOUT = 5.0


class _Telling:
    """What a method says before it answers, to those who hear it in this process."""

    def __init__(self, progress: Progress | None, part: Callable[[Any], None] | None) -> None:
        self._progress = progress
        self._part = part

    def __call__(self, done: int, total: int, peers: int = 0, here: int = 0, /) -> None:
        if self._progress is not None:
            self._progress(done, total, peers, here)

    def part(self, part: Any, /) -> None:
        if self._part is not None:
            self._part(part)


class NodeThread:
    """The node of a directory, running in a background thread of this process.

    Args:
        lock: the node lock, held; released when the thread ends.
        on_gone: called in the thread when the node has stopped.

    Raises:
        KacheryError: the node could not start.
    """

    def __init__(self, config: Config, lock: NodeLock, on_gone: Callable[[NodeThread], None]) -> None:
        self._config = config
        self._lock = lock
        self._on_gone = on_gone
        self._ready: Future[None] = Future()
        self.handed_over = False
        self._pending: dict[int, tuple[Future[Any], Any]] = {}
        self._next_id = 1
        self._methods: Methods = {}
        self._mutex = threading.Lock()
        self.gone = False
        self._thread = threading.Thread(target=self._main, name="kachery-node", daemon=True)
        self._thread.start()
        self._ready.result()

    def _main(self) -> None:
        hook = sys.excepthook
        import trio

        from kachery_cloud.node.serve import plain_error
        from kachery_p2p.clock import RunningClock

        if sys.version_info < (3, 11):
            # What trio needs for exception groups there sets the hook of the whole process, which is the user's.
            sys.excepthook = hook

        failure: BaseException = NodeGone("The node of this process has stopped.")
        try:
            trio.run(self._run, strict_exception_groups=True, clock=RunningClock())
        except BaseException as error:  # whatever it was, it is handed to those who wait for the node
            failure = plain_error(error)
            if self._ready.done():
                log.error("the node stopped", exc_info=error)
        finally:
            self._lock.release()
            with self._mutex:
                self.gone = True
                left, self._pending = self._pending, {}
            for future, _ in left.values():
                future.set_exception(NodeGone("The node of this process has stopped."))
            if not self._ready.done():
                self._ready.set_exception(failure)
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

    def start(
        self,
        call: Call[Q, A],
        request: Q,
        progress: Progress | None = None,
        part: Callable[[Any], None] | None = None,
    ) -> tuple[int, Future[A]]:
        """Ask; the future gets the result, what the node raised, or `NodeGone`.

        `progress` and `part` hear what is said before, in the thread of the node. They must not block.
        """
        import trio

        future: Future[A] = Future()
        scope = trio.CancelScope()
        with self._mutex:
            if self.gone:
                raise NodeGone("The node of this process has stopped.")
            request_id, self._next_id = self._next_id, self._next_id + 1
            self._pending[request_id] = (future, scope)

        async def answer() -> None:
            result: Any = None
            failure: BaseException | None = NodeError("The request was cancelled.")
            with scope:
                try:
                    run = self._methods[call.name].run
                    result = await run(request, _Telling(progress, part))
                    failure = None
                except Exception as error:  # noqa: BLE001 - it belongs to the caller
                    failure = error
            with self._mutex:
                waiting = self._pending.pop(request_id, None)
            if waiting is None:
                return
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

        try:
            self._token.run_sync_soon(lambda: self._nursery.start_soon(answer))
        except trio.RunFinishedError as error:
            raise NodeGone("The node of this process has stopped.") from error
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
