"""Stores and loads in programs with an event loop: nothing is blocked, and what is cancelled ends."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import trio

import kachery_cloud as kcl
from kachery_cloud import aio
from kachery_cloud.cancelling import Cancellation, Cancelled, check, result_of
from kachery_cloud.local import close_outboxes, close_repositories
from kachery_cloud.node.connection import NodeConnection, close_all
from kachery_cloud.progress import progress_bar
from tests.helpers.patience import PATIENCE, wait_until

ABSENT = "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"
#: Somebody who takes the connection and never says a word keeps a load waiting.
NOBODY = "/ip4/127.0.0.1/tcp/{}/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield
    close_all()
    close_repositories()
    close_outboxes()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a peer that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield NOBODY.format(server.getsockname()[1])


class Calls:
    """The threads that wait for a node, as they come and go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.under_way: list[str] = []
        self.begun = threading.Event()
        call = NodeConnection.load

        def counted(connection: NodeConnection, *args: object) -> object:
            self.under_way.append(threading.current_thread().name)
            self.begun.set()
            try:
                return call(connection, *args)  # type: ignore[arg-type]
            finally:
                self.under_way.pop()

        monkeypatch.setattr(NodeConnection, "load", counted)


# --- asyncio and trio ----------------------------------------------------------------------------------------------


def test_asyncio() -> None:
    """Values go in and come out, many at once."""

    async def work() -> list[object]:
        uris = await asyncio.gather(*(aio.store_json({"n": n}, local=True) for n in range(100)))
        assert len(set(uris)) == 100
        return list(await asyncio.gather(*(aio.load_json(uri) for uri in uris)))

    assert asyncio.run(work()) == [{"n": n} for n in range(100)]
    assert asyncio.run(work()) == [{"n": n} for n in range(100)]  # another loop in the same process


def test_trio(tmp_path: Path) -> None:
    """The same under trio; a node that runs in this process is another run of trio, and does not mind."""
    source = tmp_path / "session.dat"
    source.write_bytes(b"bytes" * 1000)

    async def work() -> bytes:
        uri = await aio.store_file(source)
        return Path(await aio.load_file(uri)).read_bytes()

    assert trio.run(work) == source.read_bytes()


@pytest.mark.parametrize("framework", ["asyncio", "trio"])
def test_errors_are_those_of_the_function(framework: str) -> None:
    """Their sentence too, and no group around them."""

    async def work() -> None:
        with pytest.raises(kcl.InvalidCID, match="nonsense"):
            await aio.load_text("nonsense")
        with pytest.raises(kcl.ContentNotFound, match="only local data"):
            await aio.load_text(ABSENT, local_only=True)

    if framework == "asyncio":
        asyncio.run(work())
    else:
        trio.run(work)


def test_a_task_of_asyncio_that_is_cancelled(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    """The load ends with it, though its own time is long; others go on, and the loop runs all the while."""
    calls = Calls(monkeypatch)

    async def work() -> None:
        mine = asyncio.create_task(aio.load_text(ABSENT, providers=[silent], timeout=10 * PATIENCE))
        assert await asyncio.to_thread(calls.begun.wait, PATIENCE)
        mine.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mine

    asyncio.run(work())
    wait_until(lambda: not calls.under_way, "the thread of the load ends")


def test_a_trio_scope_that_is_cancelled(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    """The same by the scope around it."""
    calls = Calls(monkeypatch)

    async def work() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    assert await trio.to_thread.run_sync(calls.begun.wait, PATIENCE)
                    scope.cancel()

                nursery.start_soon(give_up)
                await aio.load_text(ABSENT, providers=[silent], timeout=10 * PATIENCE)
        assert scope.cancelled_caught

    trio.run(work)
    wait_until(lambda: not calls.under_way, "the thread of the load ends")


def test_a_store_that_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at its next step, and leaves nothing behind."""
    from kachery_cloud import progress

    source = tmp_path / "large.dat"
    source.write_bytes(bytes(50_000_000))
    cancellation = Cancellation()

    def cancel_first(*_: object) -> None:
        cancellation.cancel()
        check()

    monkeypatch.setattr(progress, "check", cancel_first)
    with pytest.raises(Cancelled):
        cancellation.run(kcl.store_file, source, local=True)
    data = Path(kcl.load_config().directory)
    assert not [path for path in (data / "tmp").rglob("*") if path.is_file()]
    assert not [path for path in (data / "ipfs").rglob("*") if path.is_file()]


def test_functions_say_what_those_that_block_say() -> None:
    """Names, arguments and texts; those with an event loop are all that have a use there."""
    for name in aio.__all__:
        function, blocking = getattr(aio, name), getattr(kcl, name)
        steps = name.startswith("iter_")
        assert (inspect.isasyncgenfunction if steps else inspect.iscoroutinefunction)(function), name
        assert inspect.signature(function) == inspect.signature(blocking), name
        assert function.__doc__ == blocking.__doc__, name
    without = {"cat_file", "format_uri", "get_node_info", "init", "join", "load_config", "parse_uri", "pins"}
    without |= {"progress_to", "repair", "status", "du", "gc", "move", "open_npy", "published", "groups"}
    without |= {"access", "audit"}
    functions = {name for name in kcl.__all__ if inspect.isfunction(getattr(kcl, name))}
    assert functions - set(aio.__all__) == without


# --- cancellations -------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_lost() -> None:
    """A result that is there is given, whatever comes later; no cancellation is needed to wait."""
    future: Future[int] = Future()
    future.set_result(3)
    assert result_of(future) == 3
    assert Cancellation().run(result_of, future) == 3


def test_cancelled_before_it_began() -> None:
    """Nothing is begun then."""
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        cancellation.run(pytest.fail, "it was begun")


def test_a_thread_that_waits_is_woken() -> None:
    """And what it waits for is left as it is."""
    cancellation, future = Cancellation(), Future[int]()
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            cancellation.run(result_of, future)
        except Cancelled as error:
            ended.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    cancellation.cancel()
    thread.join(PATIENCE)
    assert ended == [Cancelled]
    assert not future.done()


def test_others_are_not_cancelled() -> None:
    """What one call is told is not heard by another, nor by work that belongs to no call."""
    cancellation = Cancellation()
    cancellation.cancel()
    Cancellation().run(check)
    check()
    with progress_bar("work", enabled=False) as update:
        update(1, 2)
