"""For the tests of pinning: a service that really fetches, and a node that asks it, both on loopback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.node.messages import WaitPinnedRequest
from kachery_p2p.node.node import Node
from kachery_p2p.node.pins import Keeping
from kachery_p2p.pinning import OUTBOX_NAME, PinEntry, PinOutbox, PinService
from kachery_p2p.pinning.limits import WorkerPace
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from scripts.pinning_service import LISTEN, PinningService
from tests.helpers.patience import PATIENCE

#: Nothing is waited for longer than a test has patience.
FAST = WorkerPace(
    first=0.05, last=0.4, rate=0.3, refused=60.0, poll_first=0.05, poll_last=0.1, failed=0.05, settle=0.1, look=0.1
)
NAME = "lab"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.asynccontextmanager
async def serving(folder: Path, port: int = 0) -> AsyncIterator[PinningService]:
    """A service that runs as long as this does."""
    service = PinningService(folder, port=port)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        with trio.fail_after(PATIENCE):
            yield service
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def storing(
    folder: Path,
    services: Sequence[PinService],
    *,
    pace: WorkerPace = FAST,
    listen: Sequence[str] = (LISTEN,),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Node]:
    """A node whose outbox is carried out."""
    with Repo.open(folder) as repo:
        node = Node(repo, load_or_create_identity(folder), listen=listen)
        node.keeping = Keeping(node.host, node.exchange, repo, services, pace=pace, wall=wall)
        _record(node.keeping)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            yield node
            nursery.cancel_scope.cancel()


def config(service: PinningService, kind: str = "pinning", **values: object) -> PinService:
    values = {"name": NAME, "url": service.url, "token": service.token, "kind": kind, **values}
    return PinService(**values)  # pyright: ignore[reportArgumentType]


async def store(node: Node, data: bytes) -> str:
    """The CID of some bytes, which are in the node's repo then."""
    stored = await trio.to_thread.run_sync(node.repo.store_bytes, data)
    return str(stored.cid)


async def pin(
    node: Node, cid: str, size: int | None = None, name: str = "", meta: Mapping[str, str] | None = None
) -> None:
    """Have the service keep a root, as the functions for users do it: write it down, and wake the node."""
    await trio.to_thread.run_sync(node.keeping.outbox.add, cid, NAME, name, meta, size)
    node.keeping.wake(again=True)


async def unpin(node: Node, cid: str, service: str = NAME) -> bool:
    """Have a service no longer keep a root; whether it was to keep it."""
    done = await trio.to_thread.run_sync(node.keeping.outbox.remove, cid, service)
    node.keeping.wake(again=True)
    return done


async def wait_pinned(node: Node, cid: str, timeout: float = 60.0) -> PinEntry:
    """Wait until the row of a root is verified, or as far as it gets; that row."""
    (row,) = await node.keeping.wait_pinned(WaitPinnedRequest(CID.parse(cid), True, timeout=timeout))
    return row


async def row_that(node: Node, fits: Callable[[PinEntry], bool], cid: str | None = None) -> PinEntry:
    """Wait for a row of the outbox, the one of `cid` or the only one, to be as `fits` says."""
    worker = node.keeping.worker
    assert worker is not None
    while True:
        seen = worker.changes.count
        entries = await trio.to_thread.run_sync(node.keeping.outbox.list)
        rows = [row for row in entries if cid in (None, row.cid)]
        if rows and fits(rows[0]):
            return rows[0]
        await worker.changes.wait(seen)


def written_elsewhere(node: Node, *args: Any, **values: Any) -> None:
    """Add a row to the outbox, as another process of the data directory does."""
    outbox = PinOutbox(node.repo.directory / OUTBOX_NAME)
    outbox.add(*args, **values)
    outbox.close()


#: All rows as they were ever written, of each `Keeping` that a test has started.
_written: WeakKeyDictionary[Keeping, list[PinEntry]] = WeakKeyDictionary()


def _record(keeping: Keeping) -> None:
    outbox, rows = keeping.outbox, _written.setdefault(keeping, [])
    update, tell = outbox.update, outbox.tell

    def recorded_update(entry: PinEntry, **values: Any) -> PinEntry | None:
        now = update(entry, **values)
        if now is not None:
            rows.append(now)
        return now

    def recorded_tell(*args: Any, **options: Any) -> None:
        tell(*args, **options)
        rows.extend(outbox.list())

    outbox.update, outbox.tell = recorded_update, recorded_tell


async def row_that_was(node: Node, fits: Callable[[PinEntry], bool]) -> PinEntry:
    """The same for what may be over by the time that a test looks, such as an error before a second try: each row
    counts as it was written."""
    worker = node.keeping.worker
    assert worker is not None
    while True:
        seen = worker.changes.count
        for entry in _written[node.keeping]:
            if fits(entry):
                return entry
        await worker.changes.wait(seen)
