"""What is at the paths of a folder: files, folders, links, and how large they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kachery_cloud.local import local_size, repository
from kachery_cloud.opening.asking import Steps
from kachery_cloud.opening.limits import ENTRIES_AT_ONCE

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kachery_cloud.request import Request
    from kachery_p2p.dag.cid import CID

V = TypeVar("V")


class Lately(Generic[V]):
    """Values by text, the last so many that were used. Safe to use from many threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> V | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def drop(self, key: str) -> None:
        with self._lock:
            self._values.pop(key, None)

    def put(self, key: str, value: V) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._most:
                self._values.popitem(last=False)


def info_of(path: str, cid: CID, kind: tuple[str, int | None], destination: str | None = None) -> dict[str, Any]:
    """What fsspec says of a path; `kind` is its type and its size in bytes.

    Of a link that is what it leads to; `destination` is what it points to, as it was written.
    """
    found: dict[str, Any] = {"name": path, "size": kind[1], "type": kind[0], "cid": str(cid)}
    if destination is not None:
        found.update(islink=True, destination=destination)
    return found


def listed_as(info: dict[str, Any]) -> dict[str, Any]:
    """The same where a folder is listed. A link to a folder is none there: whoever walks would go round in circles."""
    return {**info, "type": "link"} if info.get("islink") and info["type"] == "directory" else dict(info)


def kind_here(request: Request, cid: CID) -> tuple[str, int | None] | None:
    """What a CID names and how large it is, if that is known here."""
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.filenode import FileNode
    from kachery_p2p.dag.nodes import node_kind
    from kachery_p2p.dag.unixfs import DataType

    repo = repository(request.config)
    size = local_size(repo, cid)
    if size is not None:
        return "file", size
    if cid.codec != DAG_PB:
        return None
    block = repo.get_node(cid.multihash)
    if block is None:
        return None
    kind = node_kind(block, cid)
    if kind in (DataType.DIRECTORY, DataType.HAMT_SHARD):
        return "directory", None
    if kind is DataType.SYMLINK:
        return "link", 0
    return "file", FileNode(cid, block).size


def side_by_side(waiting: list[tuple[int, Steps[V]]], found: list[V | None]) -> Steps[None]:
    """Do several things, as many at a time as may be, and put each result in its place."""
    running: list[tuple[int, Steps[V], Sequence[Future[Any]]]] = []
    try:
        while waiting or running:
            ready = [each for each in running if any(future.done() for future in each[2])]
            running = [each for each in running if each not in ready]
            turns = [(place, steps) for place, steps, _ in ready]
            while waiting and len(running) + len(turns) < ENTRIES_AT_ONCE:
                turns.append(waiting.pop())
            for place, steps in turns:
                try:
                    running.append((place, steps, next(steps)))
                except StopIteration as stop:
                    found[place] = stop.value
            if running and (not waiting or len(running) >= ENTRIES_AT_ONCE):
                yield [future for each in running for future in each[2]]
    finally:
        for _, steps, _ in running:
            steps.close()
