"""Work that waits for the node: written once, and run by a thread or by an event loop of asyncio.

It is a generator. What it yields are the futures of which it waits for one; what it returns is its result. Between two
waits it may look into the catalog and read files, so an event loop has that done by a thread, in short turns: no thread
waits for the network, and a program that ends does not wait for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

from kachery_cloud.errors import NodeError
from kachery_cloud.node.endpoint import NodeGone

if TYPE_CHECKING:
    from kachery_cloud.request import Request
    from kachery_p2p.node.messages import LoadKind, LoadResult

T = TypeVar("T")
Steps = Generator[Sequence["Future[Any]"], None, T]


def run(steps: Steps[T]) -> T:
    """Do it in this thread."""
    with contextlib.closing(steps):
        while True:
            try:
                futures = next(steps)
            except StopIteration as stop:
                return stop.value
            wait(futures, return_when=FIRST_COMPLETED)


async def run_async(steps: Steps[T]) -> T:
    """Do it while the event loop does other things."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        while True:
            futures, result = await asyncio.to_thread(_next, steps)
            if not futures:
                return result[0]
            came = asyncio.Event()

            def wake(_: object, came: asyncio.Event = came) -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
                    loop.call_soon_threadsafe(came.set)

            # They are not wrapped: a task that is cancelled would cancel what others wait for, too.
            for future in futures:
                future.add_done_callback(wake)
            await came.wait()
    finally:
        # A cancellation may come while a thread is in it: then it ends when it is collected.
        with contextlib.suppress(ValueError):
            steps.close()


def _next(steps: Steps[T]) -> tuple[Sequence[Future[Any]], list[T]]:
    try:
        return next(steps), []
    except StopIteration as stop:
        return (), [stop.value]


def ask(
    request: Request, kind: LoadKind, *, start: int | None = None, end: int | None = None, follow: bool = True
) -> Steps[LoadResult]:
    """Have the node load something, to be read. The next node is asked where one goes away.

    Where `follow` is not set, a link at the end of the path is not followed.

    Raises:
        KacheryError: see `kachery_cloud.load.load_file`.
    """
    from kachery_cloud.node.connection import MAX_TAKEOVERS, get_connection
    from kachery_cloud.node.messages import load_call

    wanted = request.wanted(kind, start=start, end=end, part=True, follow=follow)
    for _ in range(MAX_TAKEOVERS):
        begun = get_connection(request.config).begin(load_call(wanted), wanted)
        try:
            while not begun.future.done():
                yield [begun.future]
            return begun.future.result()
        except NodeGone:
            begun.forget()
        finally:
            if not begun.future.done():
                begun.cancel()
    raise NodeError(f"The node of {request.config.directory} went away {MAX_TAKEOVERS} times during one request.")
