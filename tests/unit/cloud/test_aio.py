"""Stores and loads in programs with an event loop: nothing is blocked, and what is cancelled ends."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
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


#: Public functions that have no use in an event loop of their own, and why.
WITHOUT = {
    "format_uri": "text becomes text",
    "join": "text becomes text",
    "parse_uri": "text becomes text",
    "progress_to": "it sets something for what is called in its `with`, which may be awaited",
}
#: These give something else than the functions of the same name: what they open is read by awaiting it.
OPENING = {"open", "open_npy"}


def test_every_function_that_touches_disk_or_network_can_be_awaited() -> None:
    """All public functions are there, but for those that are named with a reason; and nothing else is shown."""
    functions = {name for name in (*kcl.__all__, *kcl._NOT_FOR_STAR) if inspect.isfunction(getattr(kcl, name))}
    awaited = {name for name in dir(aio) if inspect.isfunction(getattr(aio, name))}
    assert awaited == functions - set(WITHOUT)
    assert set(dir(aio)) - awaited == {"AsyncFile", "AsyncNpyFile"}
    assert set(aio.__all__) == set(dir(aio)) - set(aio._NOT_FOR_STAR)
    assert all(WITHOUT.values())


def test_functions_say_what_those_that_block_say() -> None:
    """Names, arguments and texts."""
    for name in dir(aio):
        function, blocking = getattr(aio, name), getattr(kcl, name, name)
        if not inspect.isfunction(function) or not callable(blocking):
            continue
        steps = name.startswith("iter_")
        assert (inspect.isasyncgenfunction if steps else inspect.iscoroutinefunction)(function), name
        assert (function.__module__, function.__name__) == (aio.__name__, name)
        if name not in OPENING:
            assert inspect.signature(function) == inspect.signature(blocking), name
            assert function.__doc__ == blocking.__doc__, name


def test_what_is_here_is_told_in_an_event_loop() -> None:
    """Lists and states, which touch the disk."""

    async def work() -> tuple[object, ...]:
        await aio.store_text("text", label="a.txt", local=True)
        (item,) = await aio.list(find="a.txt")
        status = await aio.status()
        return item.label, (await aio.du()).total > 0, status.running, await aio.pins(), (await aio.init()).directory

    assert asyncio.run(work()) == ("a.txt", True, False, [], str(kcl.load_config().directory))
    assert trio.run(work)[0] == "a.txt"


# --- what is opened ------------------------------------------------------------------------------------------------


def test_a_file_is_read_by_awaiting_it() -> None:
    """Bytes, lines and text, at the position and anywhere; it is closed at the end."""

    async def work() -> None:
        uri = await aio.store_text("one\ntwo\nthree", local=True)
        async with await aio.open(uri) as file:
            assert (file.size, file.uri) == (13, uri)
            assert await file.read(3) == b"one"
            assert (await file.readline(), await file.tell()) == (b"\n", 4)
            assert await asyncio.gather(file.read_at(0, 3), file.read_at(4, 3)) == [b"one", b"two"]
            assert await file.cat_ranges([(0, 1), (4, 5)]) == [b"o", b"t"]
            assert await file.seek(0) == 0
            assert [line async for line in file] == [b"one\n", b"two\n", b"three"]
        assert file.file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        async with await aio.open(uri, "r", encoding="ascii") as text:
            assert await text.read(5) == "one\nt"
            assert await text.readlines() == ["wo\n", "three"]
        with pytest.raises(kcl.InvalidArgument, match="mode"):
            await aio.open(uri, "w")  # type: ignore[call-overload]

    asyncio.run(work())


def test_an_array_is_read_by_awaiting_its_slices() -> None:
    """What is touched, as the array that blocks gives it."""
    values = np.arange(60).reshape(20, 3)

    async def work() -> None:
        uri = await aio.store_npy(values, local=True)
        async with await aio.open_npy(uri) as array:
            assert (array.shape, array.ndim, array.size, len(array), array.dtype) == ((20, 3), 2, 60, 20, values.dtype)
            first, second = await asyncio.gather(array[2:4, ::2], array[-1])
            assert first.tolist() == values[2:4, ::2].tolist()
            assert second.tolist() == values[-1].tolist()

    asyncio.run(work())


async def test_a_read_that_is_cancelled(silent: str) -> None:
    """It is not waited for, under trio as under asyncio."""
    with trio.move_on_after(0):
        await aio.open(ABSENT, providers=[silent], timeout=10 * PATIENCE)
        raise AssertionError("nobody can have it")


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
