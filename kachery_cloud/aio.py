"""The functions of `kachery_cloud` for programs with an event loop: asyncio or trio.

    import asyncio
    import kachery_cloud as kcl

    async def main():
        uri = await kcl.aio.store_text("example text")
        print(await kcl.aio.load_text(uri))

    asyncio.run(main())

Each takes what the function of the same name takes, and raises the same. They block nothing: the work is done in
threads of their own. What iterates is for `async for`; what is opened is read by awaiting it. Where the task that waits
is cancelled, or its time is over (`asyncio.timeout`, `trio.move_on_after`), the load is cancelled too; what has arrived
stays on the disk for the next try.

All functions are here but those that touch neither disk nor network: `join`, `parse_uri` and `format_uri` are called as
they are, and so is `progress_to`, whose `with` may have `await` in it.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, overload

from kachery_cloud import (
    auditing,
    awaiting,
    cars,
    comparing,
    grouping,
    initialising,
    inventory,
    inventory_move,
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
from kachery_cloud.aio_files import AsyncFile, AsyncNpyFile
from kachery_cloud.figures import links as figure_links
from kachery_cloud.figures import storing as figure_storing
from kachery_cloud.opening import file as opening_file
from kachery_cloud.opening import npy as opening_npy
from kachery_cloud.ownership import answering
from kachery_cloud.settings import config

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "AsyncFile",
    "AsyncNpyFile",
    "access",
    "add_to_project",
    "announce",
    "audit",
    "cat_file",
    "change_project",
    "create_group",
    "create_project",
    "delete_project",
    "diff",
    "du",
    "export_car",
    "figure_link",
    "gc",
    "get",
    "get_node_info",
    "group_members",
    "groups",
    "import_car",
    "init",
    "invite",
    "iter_whereis",
    "join_group",
    "join_project",
    "leave_group",
    "link_file",
    "list_dir",
    "load_bytes",
    "load_config",
    "load_dir",
    "load_file",
    "load_file_info",
    "load_json",
    "load_npy",
    "load_pkl",
    "load_text",
    "move",
    "open_npy",
    "owner",
    "pin",
    "pins",
    "projects",
    "publish",
    "published",
    "remove",
    "remove_from_project",
    "remove_member",
    "repair",
    "resolve",
    "set_member_role",
    "set_visibility",
    "share",
    "status",
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
#: Names that are there, and that `from kachery_cloud.aio import *` does not bring: they are those of Python's own.
_NOT_FOR_STAR = ("list", "open")


def __dir__() -> builtins.list[str]:
    return sorted({*__all__, *_NOT_FOR_STAR})


def _awaitable(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    return awaiting.awaitable(function, __name__)


access = _awaitable(auditing.access)
add_to_project = _awaitable(lab_projects.add_to_project)
announce = _awaitable(upkeep.announce)
audit = _awaitable(auditing.audit)
cat_file = _awaitable(load.cat_file)
change_project = _awaitable(lab_projects.change_project)
create_group = _awaitable(grouping.create_group)
create_project = _awaitable(lab_projects.create_project)
delete_project = _awaitable(lab_projects.delete_project)
diff = _awaitable(comparing.diff)
du = _awaitable(inventory.du)
export_car = _awaitable(cars.export_car)
figure_link = _awaitable(figure_links.figure_link)
gc = _awaitable(inventory_removal.gc)
get = _awaitable(sharing.get)
get_node_info = _awaitable(upkeep.get_node_info)
group_members = _awaitable(grouping.group_members)
groups = _awaitable(grouping.groups)
import_car = _awaitable(cars.import_car)
init = _awaitable(initialising.init)
invite = _awaitable(grouping.invite)
join_group = _awaitable(grouping.join_group)
join_project = _awaitable(lab_projects.join_project)
leave_group = _awaitable(grouping.leave_group)
link_file = _awaitable(store.link_file)
list = _awaitable(inventory.list)
list_dir = _awaitable(load.list_dir)
load_bytes = _awaitable(load.load_bytes)
load_config = _awaitable(config.load_config)
load_dir = _awaitable(load.load_dir)
load_file = _awaitable(load.load_file)
load_file_info = _awaitable(load.load_file_info)
load_json = _awaitable(load.load_json)
load_npy = _awaitable(load.load_npy)
load_pkl = _awaitable(load.load_pkl)
load_text = _awaitable(load.load_text)
move = _awaitable(inventory_move.move)
owner = _awaitable(answering.owner)
pin = _awaitable(pinning.pin)
pins = _awaitable(pinning.pins)
projects = _awaitable(lab_projects.projects)
publish = _awaitable(publishing.publish)
published = _awaitable(publishing.published)
remove = _awaitable(inventory_removal.remove)
remove_from_project = _awaitable(lab_projects.remove_from_project)
remove_member = _awaitable(grouping.remove_member)
repair = _awaitable(upkeep.repair)
resolve = _awaitable(publishing.resolve)
set_member_role = _awaitable(grouping.set_member_role)
set_visibility = _awaitable(visibility.set_visibility)
share = _awaitable(sharing.share)
status = _awaitable(upkeep.status)
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
iter_whereis = awaiting.awaitable_steps(upkeep.iter_whereis, __name__)


@overload
async def open(uri: str | os.PathLike[str], mode: Literal["rb", "br"] = "rb", **how: Any) -> AsyncFile[bytes]: ...


@overload
async def open(uri: str | os.PathLike[str], mode: Literal["r", "rt", "tr"], **how: Any) -> AsyncFile[str]: ...


async def open(uri: str | os.PathLike[str], mode: Any = "rb", **how: Any) -> AsyncFile[Any]:
    """Open a file for reading, without loading it. A read fetches the blocks that it touches.

    Args:
        uri: as for `kachery_cloud.open`.
        mode: "rb" for bytes, "r" for text.
        how: what else `kachery_cloud.open` takes.

    Returns:
        A file whose `read` and other methods are awaited.

    Raises:
        KacheryError: what `kachery_cloud.open` raises.

    Example:
        >>> async with await kcl.aio.open(uri) as file:
        ...     header = await file.read(8)
    """
    return AsyncFile(await awaiting.in_thread(opening_file.open, uri, mode, **how))


async def open_npy(uri: str | os.PathLike[str], **how: Any) -> AsyncNpyFile:
    """Open an array of numpy without loading it. Slices of it fetch the blocks that they touch. Never unpickles.

    Args:
        uri: as for `kachery_cloud.open_npy`.
        how: what else `kachery_cloud.open_npy` takes.

    Returns:
        An array whose slices are awaited.

    Raises:
        KacheryError: what `kachery_cloud.open_npy` raises.

    Example:
        >>> async with await kcl.aio.open_npy(uri) as array:
        ...     part = await array[500:510, ::2]
    """
    return AsyncNpyFile(await awaiting.in_thread(opening_npy.open_npy, uri, **how))
