"""The functions of `kachery_cloud` for programs with an event loop: asyncio or trio.

    import asyncio
    import kachery_cloud as kcl

    async def main():
        uri = await kcl.aio.store_text("example text")
        print(await kcl.aio.load_text(uri))

    asyncio.run(main())

Each takes what the function of the same name takes, and raises the same. They block nothing: the work is done in
threads of their own. What iterates is for `async for`. Where the task that waits is cancelled, or its time is over
(`asyncio.timeout`, `trio.move_on_after`), the load is cancelled too; what has arrived stays on the disk for the next
try.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial, update_wrapper
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio.lowlevel import RunVar

from kachery_cloud import (
    cars,
    comparing,
    grouping,
    inventory_removal,
    lab_projects,
    lab_usage,
    load,
    pinning,
    publishing,
    sharing,
    store,
    upkeep,
    visibility,
)
from kachery_cloud.cancelling import Cancellation
from kachery_cloud.figures import links as figure_links
from kachery_cloud.figures import storing as figure_storing
from kachery_cloud.ownership import answering

P = ParamSpec("P")
T = TypeVar("T")

#: Calls at once for one event loop; more wait for their turn. They have threads of their own, so that the loop's other
#: work in threads (files, names of hosts) does not wait for loads.
CALLS_AT_ONCE = 64

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("kachery_cloud_calls")

__all__ = [
    "add_to_project",
    "announce",
    "change_project",
    "create_group",
    "create_project",
    "delete_project",
    "diff",
    "export_car",
    "figure_link",
    "get",
    "group_members",
    "import_car",
    "invite",
    "iter_whereis",
    "join_group",
    "join_project",
    "leave_group",
    "link_file",
    "list_dir",
    "load_bytes",
    "load_dir",
    "load_file",
    "load_file_info",
    "load_json",
    "load_npy",
    "load_pkl",
    "load_text",
    "owner",
    "pin",
    "projects",
    "publish",
    "remove",
    "remove_from_project",
    "remove_member",
    "resolve",
    "set_member_role",
    "set_visibility",
    "share",
    "store_bytes",
    "store_dir",
    "store_figure",
    "store_file",
    "store_json",
    "store_npy",
    "store_pkl",
    "store_text",
    "unpin",
    "usage",
    "verify",
    "wait_pinned",
    "whereis",
]


def _awaitable(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        cancellation = Cancellation()

        def work() -> T:
            return cancellation.run(function, *args, **kwargs)

        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_calls())
        except anyio.get_cancelled_exc_class():
            cancellation.cancel()
            raise

    update_wrapper(call, function)
    call.__module__ = __name__
    return call


def _awaitable_steps(function: Callable[P, Iterator[T]]) -> Callable[P, AsyncGenerator[T, None]]:
    start = _awaitable(function)

    async def iterate(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        steps = await start(*args, **kwargs)
        step = _awaitable(partial(next, steps, None))
        try:
            while (found := await step()) is not None:
                yield found
        finally:
            # A step that was cancelled may still be on its way out of its thread, and then ends what it waits for.
            with suppress(ValueError):
                steps.close()  # type: ignore[attr-defined]

    update_wrapper(iterate, function)
    iterate.__module__ = __name__
    return iterate


def _calls() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(CALLS_AT_ONCE)
        _limiter.set(limiter)
        return limiter


add_to_project = _awaitable(lab_projects.add_to_project)
announce = _awaitable(upkeep.announce)
change_project = _awaitable(lab_projects.change_project)
create_group = _awaitable(grouping.create_group)
create_project = _awaitable(lab_projects.create_project)
delete_project = _awaitable(lab_projects.delete_project)
diff = _awaitable(comparing.diff)
export_car = _awaitable(cars.export_car)
figure_link = _awaitable(figure_links.figure_link)
get = _awaitable(sharing.get)
group_members = _awaitable(grouping.group_members)
import_car = _awaitable(cars.import_car)
invite = _awaitable(grouping.invite)
join_group = _awaitable(grouping.join_group)
join_project = _awaitable(lab_projects.join_project)
leave_group = _awaitable(grouping.leave_group)
link_file = _awaitable(store.link_file)
list_dir = _awaitable(load.list_dir)
load_bytes = _awaitable(load.load_bytes)
load_dir = _awaitable(load.load_dir)
load_file = _awaitable(load.load_file)
load_file_info = _awaitable(load.load_file_info)
load_json = _awaitable(load.load_json)
load_npy = _awaitable(load.load_npy)
load_pkl = _awaitable(load.load_pkl)
load_text = _awaitable(load.load_text)
owner = _awaitable(answering.owner)
pin = _awaitable(pinning.pin)
projects = _awaitable(lab_projects.projects)
publish = _awaitable(publishing.publish)
remove = _awaitable(inventory_removal.remove)
remove_from_project = _awaitable(lab_projects.remove_from_project)
remove_member = _awaitable(grouping.remove_member)
resolve = _awaitable(publishing.resolve)
set_member_role = _awaitable(grouping.set_member_role)
set_visibility = _awaitable(visibility.set_visibility)
share = _awaitable(sharing.share)
store_bytes = _awaitable(store.store_bytes)
store_dir = _awaitable(store.store_dir)
store_figure = _awaitable(figure_storing.store_figure)
store_file = _awaitable(store.store_file)
store_json = _awaitable(store.store_json)
store_npy = _awaitable(store.store_npy)
store_pkl = _awaitable(store.store_pkl)
store_text = _awaitable(store.store_text)
unpin = _awaitable(pinning.unpin)
usage = _awaitable(lab_usage.usage)
verify = _awaitable(upkeep.verify)
wait_pinned = _awaitable(pinning.wait_pinned)
whereis = _awaitable(upkeep.whereis)
iter_whereis = _awaitable_steps(upkeep.iter_whereis)
