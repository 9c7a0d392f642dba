"""The gateway that we serve, among those who mean ill: tricks in paths, absurd DAGs, slow readers, crowds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h2.connection
import httpx
import pytest
import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.errors import ContentNotFound, DiskFull
from kachery_p2p.gateway.server.server import GatewayServer
from tests.helpers.clocks import PatientClock
from tests.helpers.gateway_served import SIZE, Served, car_blocks, gateway, served
from tests.helpers.patience import PATIENCE

LARGE = 24 * 2**20


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def connected(client: httpx.AsyncClient) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", httpx.URL(client.base_url).port or 0)
    async with stream:
        yield stream


async def said(stream: trio.SocketStream) -> bytes:
    """All that the other side still says, to its end."""
    parts = []
    try:
        while part := await stream.receive_some(65536):
            parts.append(part)
    except trio.BrokenResourceError:  # it may end with a reset: what it had no room for is lost
        pass
    return b"".join(parts)


async def asked(client: httpx.AsyncClient, request: bytes) -> bytes:
    async with connected(client) as stream:
        await stream.send_all(request)
        return await said(stream)


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/ipfs/{dir}/../../../etc/passwd", 400),
        ("/ipfs/{dir}/%2e%2e/notes.txt", 400),
        ("/ipfs/{dir}/deep%2F..%2Fnotes.txt", 400),
        ("/ipfs/{dir}/..%2f..%2fetc", 400),
        ("/ipfs/{dir}/notes.txt%00.png", 400),
        ("/ipfs/{dir}/%ff%fe", 400),
        ("/ipfs/{dir}/%c0%ae%c0%ae", 400),
        ("/ipfs/{dir}/%zz", 400),
        ("/ipfs/{dir}//notes.txt", 400),
        ("//evil.example/ipfs/{dir}", 404),
        ("http://evil.example/ipfs/{dir}", 400),
        ("*", 400),
        ("/ipfs/{dir}/" + "a/" * 300, 414),
        ("/ipfs/{dir}/" + "a" * 9000, 414),
        ("/ipfs/{dir}?" + "a" * 5000, 414),
        ("/ipfs/" + "b" * 600, 400),
        ("/ipfs/{dir}?" + "&".join(f"a{i}=1" for i in range(100)), 400),
        ("/ipfs/{dir}\\..\\..", 400),
    ],
)
async def test_tricks_in_paths(here: Served, target: str, status: int) -> None:
    """No spelling of a path leads out of the DAG, or makes the gateway fail; each is refused with a sentence."""
    async with gateway(here.repo) as client:
        answer = await asked(client, get(target.replace("{dir}", str(here.directory))))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == str(status).encode()
        assert body.strip().endswith((b".", b"?")) or b"/ipfs" in body
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /ipfs/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_request(here: Served, request_bytes: bytes) -> None:
    """Bytes that are no HTTP, or too much of it, end their own connection and nothing else."""
    async with gateway(here.repo) as client:
        async with connected(client) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(request_bytes)
                await stream.send_eof()
            answer = await said(stream)
        assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 500"))
        assert (await client.get("/health")).status_code == 200


async def test_a_websocket_is_not_served(here: Served) -> None:
    """There is nothing to talk to: a WebSocket gets no connection."""
    head = (
        "GET /ipfs/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with gateway(here.repo) as client:
        assert b" 101 " not in (await asked(client, head.encode())).split(b"\r\n")[0]
        assert (await client.get("/health")).status_code == 200


async def test_a_body_without_end(here: Served) -> None:
    """Whoever sends a body is refused at once, and what follows is not taken."""
    async with gateway(here.repo) as client:
        async with connected(client) as stream:
            await stream.send_all(b"POST /ipfs/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
            assert b" 405 " in await stream.receive_some(1000)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(bytes(512 * 2**20))
        assert (await client.get("/health")).status_code == 200


# --- absurd DAGs -----------------------------------------------------------------------------------------------------


def node(here: Served, links: list[PBLink], data: UnixFSData) -> CID:
    block = encode_node(links, encode(data))
    cid = CID(1, DAG_PB, sha256_multihash(block))
    here.repo.put_blocks([(cid, block)])
    return cid


def of_file(here: Served, parts: list[tuple[CID, int]], size: int | None = None) -> CID:
    total = sum(each for _, each in parts) if size is None else size
    links = [PBLink("", cid, each) for cid, each in parts]
    return node(here, links, UnixFSData(DataType.FILE, None, total, [each for _, each in parts]))


async def test_a_file_larger_than_the_world(here: Served) -> None:
    """A few blocks that claim to be 2**61 bytes are served bit by bit; asking for a part costs a part."""
    leaf = here.store(b"x" * 1000)
    at, size = leaf, 1000
    while size < 2**61:
        at, size = of_file(here, [(at, size)] * 2), 2 * size
        if size > 2**40:
            break
    async with gateway(here.repo) as client:
        head = await client.head(f"/ipfs/{at}")
        assert int(head.headers["content-length"]) == size
        middle = await client.get(f"/ipfs/{at}", headers={"range": f"bytes={size // 2}-{size // 2 + 999}"})
        assert middle.content == b"x" * 1000
        for scope in ("all", "entity"):
            with trio.fail_after(PATIENCE):
                car = await client.get(f"/ipfs/{at}?format=car&dag-scope={scope}")
            assert 30 < len(car_blocks(car.content)) < 50
        async with client.stream("GET", f"/ipfs/{at}") as answer:
            async for piece in answer.aiter_raw():
                assert piece.startswith(b"x")
                break
        assert (await client.get("/health")).status_code == 200


async def test_a_dag_that_goes_down_for_ever(here: Served) -> None:
    """Nesting beyond reason is refused as a file, and ends a CAR, without harm."""
    at, size = here.store(b"x" * 10), 10
    for _ in range(100):
        at = of_file(here, [(at, size)])
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{at}")
        assert answer.status_code == 422
        assert "deep" in answer.text
        assert len(car_blocks((await client.get(f"/ipfs/{at}?format=car")).content)) == 101


@pytest.mark.parametrize(
    ("data", "links"),
    [
        (UnixFSData(DataType.FILE, b"abc", 7), 0),
        (UnixFSData(DataType.FILE, None, 10, [10]), 2),
        (UnixFSData(DataType.FILE, None, 0, [0]), 1),
        (UnixFSData(DataType.METADATA), 0),
        (UnixFSData(DataType.HAMT_SHARD, b"\1", hash_type=0x22, fanout=3), 1),
        (UnixFSData(DataType.HAMT_SHARD, b"\1", hash_type=0x99, fanout=256), 1),
        (UnixFSData(DataType.DIRECTORY), 2),
    ],
)
async def test_nodes_that_make_no_sense(here: Served, data: UnixFSData, links: int) -> None:
    """A block that hashes right and lies is an answer with a reason, never bytes."""
    cid = node(here, [PBLink("00", here.file, 10)] * links, data)
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{cid}/")
        assert answer.status_code in (422, 404)
        assert answer.headers["content-type"].startswith("text/plain")
        assert (await client.get(f"/ipfs/{cid}?format=raw")).status_code == 200


async def test_a_directory_with_two_of_a_name(here: Served) -> None:
    """A directory in which a name means two things is not listed, and neither is found in it."""
    cid = node(here, [PBLink("a", here.file, 1), PBLink("a", here.directory, 1)], UnixFSData(DataType.DIRECTORY))
    async with gateway(here.repo) as client:
        assert (await client.get(f"/ipfs/{cid}/")).status_code == 422
        assert (await client.get(f"/ipfs/{cid}/a")).status_code == 404


async def test_a_block_that_is_missing_in_the_middle(here: Served) -> None:
    """Where a block is missing further on, the answer is cut short, and never passes for a whole one."""
    gone = CID(1, RAW, sha256_multihash(b"never stored"))
    parts = [(here.store(bytes([i]) * 2**20), 2**20) for i in range(4)]
    cid = of_file(here, [*parts, (gone, 12)])
    async with gateway(here.repo) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/ipfs/{cid}")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/ipfs/{cid}?format=car")
        first = await client.get(f"/ipfs/{cid}", headers={"range": "bytes=0-9"})
        assert first.content == bytes(10)
        last = await client.get(f"/ipfs/{cid}", headers={"range": "bytes=-5"})
        assert last.status_code == 404
        assert str(gone) in last.text


async def test_links_beyond_number_in_a_car(here: Served) -> None:
    """A CAR whose bookkeeping would outgrow its bounds is cut short."""
    cid = node(here, [PBLink(f"{i}", here.file, 1) for i in range(200)], UnixFSData(DataType.DIRECTORY))
    top = node(here, [PBLink(f"{i}", cid, 1) for i in range(200)], UnixFSData(DataType.DIRECTORY))
    bounds: tuple[dict[str, Any], ...] = ({"max_car_pending": 3}, {"max_car_remembered": 3})
    for bound in bounds:
        async with gateway(here.repo, **bound) as client:
            # All fits in the first piece, so that even the status can tell.
            assert (await client.get(f"/ipfs/{top}?format=car")).status_code == 422
    async with gateway(here.repo) as client:
        assert (await client.get(f"/ipfs/{top}?format=car")).status_code == 200


async def test_a_directory_too_large_to_list(here: Served) -> None:
    """A page has its bound, and a directory of too many parts is refused."""
    cid = node(here, [PBLink(f"{i}", here.file, 1) for i in range(10)], UnixFSData(DataType.DIRECTORY))
    async with gateway(here.repo, max_entries_shown=3) as client:
        page = (await client.get(f"/ipfs/{cid}/")).text.partition("<main")[2]
        assert page.count("<a ") == 3 + 2
        assert "and 7 more" in page
    async with gateway(here.repo, max_listing_bytes=10) as client:
        assert (await client.get(f"/ipfs/{cid}/")).status_code == 422


# --- readers and crowds ----------------------------------------------------------------------------------------------


async def test_a_reader_that_stands_still(patient_clock: PatientClock, here: Served) -> None:
    """Who takes nothing loses the connection in time; others are served meanwhile."""
    cid = here.store(bytes(LARGE))
    async with gateway(here.repo, send_seconds=0.5) as client, connected(client) as stream:
        await stream.send_all(get(f"/ipfs/{cid}"))
        await stream.receive_some(1)
        assert (await client.get(f"/ipfs/{here.file}")).content == here.data
        await trio.sleep(0.5 + 1)
        assert len(await said(stream)) < LARGE


async def test_a_reader_over_http_2_that_stands_still(patient_clock: PatientClock, here: Served) -> None:
    """Over HTTP/2 nothing is sent without the reader's leave; one that never gives it loses its turn in time, too."""
    cid = here.store(bytes(LARGE))
    speaker = h2.connection.H2Connection()
    speaker.initiate_connection()
    headers = {":method": "GET", ":path": f"/ipfs/{cid}", ":scheme": "http", ":authority": "localhost"}
    speaker.send_headers(1, list(headers.items()), end_stream=True)
    async with gateway(here.repo, send_seconds=0.3, max_running=1) as client, connected(client) as stream:
        await stream.send_all(speaker.data_to_send())
        received = 0
        while received < 65_535:  # the leave that every stream begins with
            received += len(await stream.receive_some(65536))
        assert (await client.get(f"/ipfs/{here.file}")).content == here.data


async def test_a_reader_that_stands_still_does_not_keep_the_node_from_stopping(
    patient_clock: PatientClock, here: Served
) -> None:
    """The gateway stops at once, whoever is being served."""
    cid = here.store(bytes(LARGE))
    server = GatewayServer(here.repo, "127.0.0.1:0")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            stream = await trio.open_tcp_stream("127.0.0.1", httpx.URL(server.url).port or 0)
            await stream.send_all(get(f"/ipfs/{cid}"))
            await stream.receive_some(1)
            begun = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == begun
        await stream.aclose()


async def test_a_request_that_never_ends(patient_clock: PatientClock, here: Served) -> None:
    """Who sends a request letter by letter (slowloris) loses the connection in time."""
    async with gateway(here.repo, idle_seconds=0.5) as client, connected(client) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: loc")
        begun = trio.current_time()
        assert await said(stream) == b""
        assert trio.current_time() - begun <= 0.5 + 1


async def test_a_reader_that_goes_away(
    patient_clock: PatientClock, here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read any more for a reader that has gone."""
    cid = here.store(b"".join(bytes([i]) * 2**20 for i in range(200)))
    read = []
    get_block = here.repo.get_block

    def counted(multihash: bytes) -> bytes | None:
        read.append(multihash)
        return get_block(multihash)

    monkeypatch.setattr(here.repo, "get_block", counted)
    async with gateway(here.repo) as client:
        async with connected(client) as stream:
            await stream.send_all(get(f"/ipfs/{cid}"))
            await stream.receive_some(1)
        await trio.sleep(1)  # time passes only when nothing more is done
        before = len(read)
        await trio.sleep(60)
        assert len(read) == before < 100
        assert (await client.get("/health")).status_code == 200


async def test_too_many_connections(here: Served) -> None:
    """Beyond its number of connections, all of which wait for answers, the gateway says so; it takes new ones when old
    ones end."""
    asked_for, release = trio.Semaphore(0), trio.Event()

    async def fetch(cid: CID, path: Any, **more: Any) -> Any:
        asked_for.release()
        await release.wait()
        raise ContentNotFound("Nobody has it.")

    absent = CID(1, RAW, sha256_multihash(b"absent"))
    async with gateway(here.repo, fetch=fetch, max_connections=3) as client:
        async with contextlib.AsyncExitStack() as crowd:
            streams = [await crowd.enter_async_context(connected(client)) for _ in range(3)]
            for stream in streams:
                await stream.send_all(get(f"/ipfs/{absent}"))
                await asked_for.acquire()
            answer = await asked(client, get("/health"))
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 5" in answer
            release.set()
            assert (await said(streams[-1])).startswith(b"HTTP/1.1 504")
        assert (await asked(client, get("/health"))).startswith(b"HTTP/1.1 200")


async def test_too_many_requests(patient_clock: PatientClock, here: Served) -> None:
    """Requests wait for their turn; those for which there is no room to wait, or no turn in time, are told when to
    come again."""
    release = trio.Event()

    async def fetch(cid: CID, path: Any, **more: Any) -> Any:
        await release.wait()
        raise ContentNotFound("Nobody has it.")

    absent = CID(1, RAW, sha256_multihash(b"absent"))
    send, receive = trio.open_memory_channel[int](4)
    one_by_one = gateway(here.repo, fetch=fetch, max_running=1, max_waiting=1, wait_seconds=1.0)
    async with one_by_one as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answer = await client.get(f"/ipfs/{absent}")
            await send.send(answer.status_code)
            assert answer.status_code != 503 or answer.headers["retry-after"] == "5"

        for _ in range(4):
            nursery.start_soon(ask)
        assert [await receive.receive() for _ in range(3)] == [503] * 3
        release.set()
        assert await receive.receive() == 504
        assert (await client.get(f"/ipfs/{here.file}")).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux only")
async def test_one_machine_cannot_take_all_turns(patient_clock: PatientClock, here: Served) -> None:
    """However many requests of one address are under way, another address gets its turn."""
    cid = here.store(bytes(LARGE))
    async with gateway(here.repo, max_running=3, max_running_each=2) as client, contextlib.AsyncExitStack() as crowd:
        for number in range(6):
            stream = await crowd.enter_async_context(connected(client))
            await stream.send_all(get(f"/ipfs/{cid}"))
            if number < 2:
                await stream.receive_some(1)  # it is being served, and takes no more
        other = httpx.AsyncHTTPTransport(local_address="127.0.0.2", trust_env=False)
        async with httpx.AsyncClient(base_url=client.base_url, transport=other) as elsewhere:
            begun = trio.current_time()
            assert (await elsewhere.get(f"/ipfs/{here.file}")).content == here.data
            assert trio.current_time() == begun


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [(ContentNotFound("Asked 12D3KooWsecret at /ip4/10.0.0.7/tcp/1"), 504), (DiskFull("/home/me/x is full"), 507)],
)
async def test_what_the_node_says_stays_here(here: Served, error: Exception, status: int) -> None:
    """An answer names neither peers nor folders of this machine, whatever an error said."""

    async def fetch(cid: CID, path: Any, **more: Any) -> Any:
        raise error

    absent = CID(1, RAW, sha256_multihash(b"absent"))
    async with gateway(here.repo, fetch=fetch) as client:
        answer = await client.get(f"/ipfs/{absent}")
        assert answer.status_code == status
        assert "12D3" not in answer.text
        assert "/home" not in answer.text
        cached = await client.get(f"/ipfs/{absent}", headers={"cache-control": "only-if-cached"})
        assert cached.status_code == 412


async def test_a_fetched_file_that_moves_away(here: Served, tmp_path: Path) -> None:
    """A partial file that was finished and moved between the load and the reading is asked for again, and not for
    ever."""
    data = here.data
    leaves = [data[i : i + 2**20] for i in range(0, SIZE, 2**20)]
    root = of_file(here, [(CID(1, RAW, sha256_multihash(leaf + b"!")), len(leaf)) for leaf in leaves])
    place = tmp_path / "partial"
    place.write_bytes(data)
    calls: list[tuple[int, int]] = []

    async def fetch(cid: CID, path: Any, *, kind: str, start: int | None = None, end: int | None = None) -> Any:
        assert (cid, kind) == (root, "bytes")
        calls.append((start or 0, end or 0))
        there = len(calls) % 2 == 0 and len(calls) < 20
        return SimpleNamespace(path=str(place if there else tmp_path / "gone"))

    async with gateway(here.repo, fetch=fetch) as client:
        answer = await client.get(f"/ipfs/{root}?filename=x.dat")
        assert answer.content == data
        assert calls[-1][1] == SIZE
        del calls[:]
        calls.extend([(0, 0)] * 20)
        answer = await client.get(f"/ipfs/{root}?filename=x.dat")
        assert answer.status_code == 404
