"""HTTP routers: what is asked, what is read of the answers, and when a router is left alone. Real HTTP on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import base58
import pytest
import trio

from kachery_p2p.errors import RoutingError
from kachery_p2p.peer_ids import any_peer_id, peer_cid
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.answers import AnswerReader, freshness
from kachery_p2p.routing.delegated import Delegated, parse_url
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.limits import RouterPatience
from tests.helpers.patience import PATIENCE, until

KEY = b"\x12\x20" + bytes(range(32))
NDJSON = "application/x-ndjson"
JSON = "application/json"


def peer(number: int) -> str:
    """A peer ID of its own for each number."""
    return base58.b58encode(b"\x12\x20" + number.to_bytes(32, "big")).decode()


def record(number: int, *addrs: str, **more: object) -> dict[str, Any]:
    return {"Schema": "peer", "ID": peer(number), "Addrs": list(addrs), **more}


class Request(BaseHTTPRequestHandler):
    """Answers with what the test's function writes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        router = self.server
        assert isinstance(router, HttpRouter)
        router.paths.append(self.path)
        router.requests.append({name.lower(): value for name, value in self.headers.items()})
        with contextlib.suppress(OSError):
            router.answer(self)

    def send(self, body: bytes | str, status: int = 200, kind: str = JSON, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def start_stream(self, kind: str = NDJSON) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class HttpRouter(ThreadingHTTPServer):
    """An HTTP server on loopback whose answers are a function of the test."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Request], None]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.paths: list[str] = []
        self.requests: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(answer: Callable[[Request], None]) -> Iterator[HttpRouter]:
    with HttpRouter(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def asking(*urls: str, patience: RouterPatience | None = None) -> AsyncIterator[Delegated]:
    delegated = Delegated(urls, patience=patience)
    async with trio.open_nursery() as nursery:
        await nursery.start(delegated.run)
        with trio.fail_after(PATIENCE):
            yield delegated
        nursery.cancel_scope.cancel()


async def providers(delegated: Delegated, key: bytes = KEY) -> list[Provider]:
    async with contextlib.aclosing(delegated.find_providers(key)) as found:
        return [each async for each in found]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- asking ---------------------------------------------------------------------------------------------------------


async def test_the_request_is_the_one_of_the_specification() -> None:
    """A GET of /routing/v1/providers/<CIDv1>, that asks for a stream, uncompressed, of what we can use."""
    with serving(lambda request: request.send("", 404)) as server:
        async with asking(server.url + "/") as delegated:
            assert await providers(delegated) == []
        url = urlsplit(server.paths[0])
        assert url.path == f"/routing/v1/providers/{text.raw_cid(KEY)}"
        query = parse_qs(url.query)
        assert "transport-bitswap,unknown" in query["filter-protocols"]
        assert {"tcp", "unknown", "!ws"} <= set(query["filter-addrs"][0].split(","))
        headers = server.requests[0]
        assert headers["accept"].startswith(NDJSON)
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("kachery")


async def test_streamed_records_come_as_they_are_sent() -> None:
    """A provider in the first line is given while the router still looks for the second."""
    proceed = threading.Event()

    def answer(request: Request) -> None:
        request.start_stream()
        request.wfile.write(json.dumps(record(1, "/ip4/127.0.0.1/tcp/1")).encode() + b"\n")
        request.wfile.flush()
        proceed.wait(PATIENCE)
        request.wfile.write(json.dumps(record(2)).encode())

    with serving(answer) as server:
        async with asking(server.url) as delegated, contextlib.aclosing(delegated.find_providers(KEY)) as found:
            assert await anext(found) == Provider(peer(1), ("/ip4/127.0.0.1/tcp/1",), "delegated")
            assert not proceed.is_set()
            proceed.set()
            assert [each.peer async for each in found] == [peer(2)]


async def test_one_document_is_read_too() -> None:
    """A router that knows no streaming answers with a list; null instead of a list is an empty one."""
    documents = [{"Providers": [record(1), record(2)]}, {"Providers": None}, {}]
    with serving(lambda request: request.send(json.dumps(documents.pop(0)))) as server:
        async with asking(server.url) as delegated:
            assert [each.peer for each in await providers(delegated)] == [peer(1), peer(2)]
            assert await providers(delegated) == []
            assert await providers(delegated) == []
            assert delegated.status()["last_error"] is None


async def test_all_routers_are_asked_at_once_and_bad_ones_do_not_count() -> None:
    """One that hangs and one that is away hold up nobody; what failed is in the status, in words."""
    hang = threading.Event()

    def wait(request: Request) -> None:
        hang.wait(PATIENCE)

    good = serving(lambda request: request.send(json.dumps({"Providers": [record(1)]})))
    away = "http://127.0.0.1:9"
    with good as fast, serving(wait) as slow:
        async with asking(slow.url, away, fast.url) as delegated:
            async with contextlib.aclosing(delegated.find_providers(KEY)) as found:
                assert (await anext(found)).peer == peer(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(providers, delegated)
                await until(lambda: "failed" in (delegated.status()["routers"][away]["last_error"] or ""))
                nursery.cancel_scope.cancel()
        hang.set()


async def test_when_none_answers_it_says_why() -> None:
    """Only when every router failed does the source fail, naming each."""
    with serving(lambda request: request.send("oops", 500)) as server:
        async with asking(server.url, "http://127.0.0.1:9") as delegated:
            with pytest.raises(RoutingError, match=r"status 500") as caught:
                await providers(delegated)
            assert "127.0.0.1:9" in str(caught.value)
            with pytest.raises(RoutingError, match=r"left alone for \d more seconds"):
                await providers(delegated)


async def test_peers_are_found() -> None:
    """/routing/v1/peers/<peer ID as CIDv1> gives the addresses of that peer, and of no other."""
    answer = {
        "Peers": [
            record(1, "/ip4/127.0.0.1/tcp/1", f"/ip4/127.0.0.1/tcp/2/p2p/{peer(1)}"),
            record(2, "/ip4/127.0.0.1/tcp/3"),
        ]
    }
    with serving(lambda request: request.send(json.dumps(answer))) as server:
        async with asking(server.url) as delegated:
            assert await delegated.find_peer(peer(1)) == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
            assert await delegated.find_peer("nonsense") == ()
        assert server.paths[0].partition("?")[0] == f"/routing/v1/peers/{peer_cid(peer(1))}"
        assert any_peer_id(peer_cid(peer(1))) == peer(1)


async def test_no_routers_no_question() -> None:
    """An empty list is a source that knows nothing, without errors."""
    async with asking() as delegated:
        assert await providers(delegated) == []


async def test_not_running_is_said() -> None:
    """Before `run` the source fails with a sentence."""
    with pytest.raises(RoutingError, match="not running"):
        await providers(Delegated(["http://127.0.0.1:9"]))


# --- restraint ------------------------------------------------------------------------------------------------------


async def test_too_many_requests_is_obeyed() -> None:
    """After 429 with Retry-After the router hears nothing from us until then."""
    with serving(lambda request: request.send("", 429, retry_after="120")) as server:
        async with asking(server.url) as delegated:
            for _ in range(5):
                with pytest.raises(RoutingError, match="too often"):
                    await providers(delegated)
            assert 100 < delegated.status()["routers"][server.url]["resting"] <= 120
        assert len(server.paths) == 1


async def test_failures_make_pauses_that_grow(
    mock_clock: trio.testing.MockClock,
) -> None:
    """A failing router rests, longer each time; one good answer and it is asked as before."""
    mock_clock.rate = 1
    statuses = [500, 500, 500, 404, 500]
    with serving(lambda request: request.send("", statuses.pop(0))) as server:
        async with asking(server.url) as delegated:
            pauses = []
            for _ in range(3):
                with pytest.raises(RoutingError, match="status 500"):
                    await providers(delegated)
                pauses.append(delegated.status()["routers"][server.url]["resting"])
                with pytest.raises(RoutingError, match="left alone"):
                    await providers(delegated)
                mock_clock.jump(pauses[-1])
            assert pauses[0] < pauses[1] < pauses[2] <= 4 * RouterPatience().rest_first
            assert await providers(delegated) == []
            with pytest.raises(RoutingError, match="status 500"):
                await providers(delegated)
            assert delegated.status()["routers"][server.url]["resting"] <= RouterPatience().rest_first


async def test_answers_are_kept_as_long_as_the_router_says() -> None:
    """Cache-Control: max-age saves the second request; no-store does not."""
    control = "public, max-age=300, stale-while-revalidate=172800"

    def answer(request: Request) -> None:
        request.send(json.dumps({"Providers": [record(1)]}), cache_control=control)

    with serving(answer) as server:
        async with asking(server.url) as delegated:
            for _ in range(3):
                assert len(await providers(delegated)) == 1
            assert len(server.paths) == 1
            control = "no-store, max-age=300"
            other = b"\x12\x20" + bytes(32)
            for _ in range(3):
                assert len(await providers(delegated, other)) == 1
            assert len(server.paths) == 4


def test_how_long_an_answer_may_be_kept() -> None:
    """What the router says within our bounds; nonsense counts as nothing."""
    assert freshness({"cache-control": "max-age=15"}, found=True) == 15
    assert freshness({"cache-control": "max-age=15", "age": "10"}, found=True) == 5
    assert freshness({"cache-control": "max-age=15", "age": "20"}, found=True) == 0
    assert freshness({"cache-control": "max-age=99999"}, found=True) == limits.MAX_AGE_FOUND
    assert freshness({"cache-control": "max-age=99999"}, found=False) == limits.MAX_AGE_NOTHING
    assert [freshness({"cache-control": each}, found=True) for each in ("", "no-cache", "max-age=x", "max-age")] == [
        0
    ] * 4


async def test_redirects_are_followed_a_little() -> None:
    """A router may have moved; one that sends us in circles has not."""

    def answer(request: Request) -> None:
        if "/round" in request.path:
            request.send("", 302, location=f"http://{request.headers['host']}{request.path}")
        elif "/old" in request.path:
            request.send("", 307, location=request.path.replace("/old", "/new"))
        else:
            request.send(json.dumps({"Providers": [record(1)]}))

    with serving(answer) as server:
        async with asking(server.url + "/old") as delegated:
            assert len(await providers(delegated)) == 1
        server.paths.clear()
        async with asking(server.url + "/round") as delegated:
            with pytest.raises(RoutingError, match="sends us on"):
                await providers(delegated)
        assert len(server.paths) == limits.MAX_REDIRECTS + 1


async def test_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used for a router, and NO_PROXY spares it."""
    with serving(lambda request: request.send(json.dumps({"Providers": [record(1)]}))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with asking("http://router.invalid") as delegated:
            assert len(await providers(delegated)) == 1
        assert proxy.paths[0].startswith("http://router.invalid/routing/v1/")
        with serving(lambda request: request.send("", 404)) as router:
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            async with asking(router.url) as delegated:
                assert await providers(delegated) == []
            assert len(router.paths) == len(proxy.paths) == 1


# --- reading --------------------------------------------------------------------------------------------------------


def read(
    *records: object, key: str = "Providers", nearest: text.AddressScope = text.AddressScope.LOOPBACK
) -> list[tuple[str, Sequence[str]]]:
    reader = AnswerReader(key, streamed=False, nearest=nearest)
    return [
        (each.peer, each.addrs)
        for piece in (reader.feed(json.dumps({key: records}).encode()), reader.end())
        for each in piece
    ]


def test_records_are_read_by_their_schema() -> None:
    """`peer` and the older `bitswap` are read; unknown schemas, other protocols and what is no peer are passed over."""
    good = "/ip4/192.0.2.1/tcp/4001"
    assert read(
        record(1, good),
        record(2, good, Protocols=["transport-bitswap", "transport-ipfs-gateway-http"]),
        record(3, good, Protocols=["transport-graphsync-filecoinv1"]),
        {"Schema": "bitswap", "Protocol": "transport-bitswap", "ID": peer(4), "Addrs": [good]},
        {"Schema": "graphsync", "Protocol": "transport-graphsync-filecoinv1", "ID": peer(5), "Addrs": [good]},
        {"Schema": "new", "ID": peer(6)},
        {"Schema": "peer", "ID": "nobody"},
        {"Schema": "peer", "ID": 7},
        {"Schema": "peer", "ID": peer(8), "Addrs": None, "Protocols": None, "Extra": {"a": 1}},
        {"Schema": "peer", "ID": peer(9), "Addrs": {"a": 1}, "Protocols": "x"},
        record(10, "/ip4/192.0.2.1/udp/4001/quic-v1", "/dns4/a.example/tcp/443/wss", good, good),
        {"Schema": "peer", "ID": peer_cid(peer(11)), "Addrs": [5, good]},
    ) == [
        (peer(1), (good,)),
        (peer(2), (good,)),
        (peer(4), (good,)),
        (peer(8), ()),
        (peer(9), ()),
        (peer(10), (good,)),
        (peer(11), (good,)),
    ]


def test_a_router_far_away_does_not_name_our_network() -> None:
    """Addresses nearer to us than the router itself are not taken: a public one cannot make us dial the LAN."""
    addrs = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/8.8.8.8/tcp/1", "/dns4/a.example/tcp/1"]
    for nearest, first in (
        (text.AddressScope.LOOPBACK, 0),
        (text.AddressScope.PRIVATE, 1),
        (text.AddressScope.PUBLIC, 2),
    ):
        assert read(record(1, *addrs), nearest=nearest) == [(peer(1), tuple(addrs[first:]))]


def test_addresses_of_routers() -> None:
    """URLs with or without the path; anything else is an error that says how one looks."""
    assert parse_url("https://a.example/") == "https://a.example"
    assert parse_url("https://a.example/x/routing/v1/") == "https://a.example/x"
    assert parse_url("http://[::1]:8080/routing/v1/providers") == "http://[::1]:8080"
    for bad in (
        "",
        "a.example",
        "ftp://a.example",
        "https://",
        "https://a:b",
        "https://a.example/?x=1",
        "/ip4/1.2.3.4",
    ):
        with pytest.raises(RoutingError, match="HTTP router"):
            parse_url(bad)


async def test_passwords_are_not_shown() -> None:
    """A password in a router's URL is in neither the status nor an error."""
    async with asking("http://user:secret@127.0.0.1:9") as delegated:
        with pytest.raises(RoutingError) as caught:
            await providers(delegated)
        assert "secret" not in f"{caught.value}{delegated.status()}"


async def test_a_caller_that_leaves_ends_the_request() -> None:
    """Closing the generator closes the connection, and the next find works."""
    closed = threading.Event()
    begun = threading.Event()

    def answer(request: Request) -> None:
        request.start_stream()
        begun.set()
        try:
            while True:
                request.wfile.write(json.dumps(record(1)).encode() + b"\n" + b" " * 1000 + b"\n")
                time.sleep(0.01)
        except OSError:
            closed.set()

    with serving(answer) as server:
        async with asking(server.url) as delegated:
            async with contextlib.aclosing(delegated.find_providers(KEY)) as found:
                await anext(found)
            assert await trio.to_thread.run_sync(closed.wait, PATIENCE)
            async with contextlib.aclosing(delegated.find_providers(KEY)) as found:
                assert (await anext(found)).peer == peer(1)
