"""Sources of providers that lie, flood, stall and babble: the load that asks gets what the honest ones say."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import DialError, RoutingError
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.address_book import KnownPeers
from kachery_p2p.routing.answers import AnswerReader
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.limits import RouterPatience
from tests.helpers.certificates import self_signed
from tests.unit.routing.test_delegated import (
    JSON,
    KEY,
    NDJSON,
    HttpRouter,
    Request,
    _no_proxies,
    asking,
    peer,
    providers,
    record,
    serving,
)
from tests.unit.routing.test_router import ScriptedSource, addr, all_of, running

__all__ = ["_no_proxies"]

# --- router ---------------------------------------------------------------------------------------------------------


class HostileSource(ScriptedSource):
    """A source whose answer is a generator of the test."""

    def __init__(self, answer: Callable[[], AsyncGenerator[Provider, None]]) -> None:
        super().__init__("dht")
        self.answer = answer

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        self.asked += 1
        async with contextlib.aclosing(self.answer()) as found:
            async for each in found:
                yield each
        self.closed += 1


async def endless_peers() -> AsyncGenerator[Provider, None]:
    """Never waits, never ends, and names more addresses than anyone has."""
    addrs = tuple(addr(n) for n in range(1, 5000))
    number = 1000
    while True:
        number += 1
        yield Provider(peer(number), addrs, "dht")


async def endless_repetition() -> AsyncGenerator[Provider, None]:
    while True:
        yield Provider(peer(1), (addr(1),), "dht")


async def endless_nonsense() -> AsyncGenerator[Provider, None]:
    number = 0
    while True:
        number += 1
        yield Provider(f"12D3KooW{number}", ("/ip4/999.0.0.1/tcp/1", "\x00" * 100_000), "dht")


@pytest.mark.parametrize("answer", [endless_peers, endless_repetition, endless_nonsense])
async def test_a_flood_is_cut_off(
    autojump_clock: trio.testing.MockClock, answer: Callable[[], AsyncGenerator[Provider, None]]
) -> None:
    """A source that speaks without end and without pause gets its share, and the others are heard beside it."""
    good = ScriptedSource("lan-dht", [(1, peer(7), [addr(7)])])
    async with running(HostileSource(answer), good) as router:
        with trio.fail_after(10):
            found = await all_of(router)
        assert Provider(peer(7), (addr(7),), "lan-dht") in found
        assert len(found) <= limits.MAX_PROVIDERS_PER_SOURCE + 1
        assert all(len(each.addrs) <= limits.MAX_ADDRS_PER_PROVIDER for each in found)


async def test_a_flood_leaves_others_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    """While a source speaks without pause, other tasks run between any two of its providers."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with running(HostileSource(endless_peers)) as router, trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await all_of(router)
        nursery.cancel_scope.cancel()
    assert turns >= limits.MAX_PROVIDERS_PER_SOURCE


async def test_addresses_of_one_peer_are_bounded_over_all_that_is_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A peer named again and again with other addresses has no more of them than one named once."""

    async def answer() -> AsyncGenerator[Provider, None]:
        for number in range(1, 200):
            yield Provider(peer(1), (addr(2 * number), addr(2 * number + 1)), "dht")

    second = ScriptedSource("lan-dht", [(1, peer(1), [addr(10_000 + n) for n in range(100)])])
    async with running(HostileSource(answer), second) as router:
        found = await all_of(router)
        assert sum(len(each.addrs) for each in found) <= limits.MAX_ADDRS_PER_PROVIDER


async def test_failures_of_any_kind_stay_inside(autojump_clock: trio.testing.MockClock) -> None:
    """Groups of errors, errors while closing, and things that are not providers end only that source's answer."""

    async def group() -> AsyncGenerator[Provider, None]:
        yield Provider(peer(1), (), "dht")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)

    async def refuse() -> None:
        raise DialError("No.")

    async def closing() -> AsyncGenerator[Provider, None]:
        try:
            while True:
                yield Provider(peer(1), (), "dht")
        finally:
            raise ValueError("no")

    async def other() -> AsyncGenerator[Any, None]:
        yield 5

    for answer in (group, closing, other):
        good = ScriptedSource("lan-dht", [(1, peer(7), [addr(7)])])
        async with running(HostileSource(answer), good) as router:
            assert peer(7) in [each.peer for each in await all_of(router)]
            assert router.status()["sources"]["dht"]["failed"] == 1


async def test_a_stuck_source_does_not_gather_finds(autojump_clock: trio.testing.MockClock) -> None:
    """With thousands of finds and a source that never answers, its queue is bounded and every find ends in time."""
    stuck = ScriptedSource("dht", end=trio.sleep_forever)
    good = ScriptedSource("lan-dht", [(0, peer(7), [addr(7)])])
    total = limits.MAX_WAITING_PER_SOURCE + limits.MAX_ASKS_PER_SOURCE + 100
    found: list[int] = []
    async with running(stuck, good) as router:
        begun = trio.current_time()

        async def find(number: int) -> None:
            found.append(len(await all_of(router, b"\x12\x20" + number.to_bytes(32, "big"))))

        async with trio.open_nursery() as nursery:
            for number in range(total):
                nursery.start_soon(find, number)
                if number % 500 == 0:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            status = router.status()["sources"]["dht"]
            assert status["waiting"] <= limits.MAX_WAITING_PER_SOURCE
            assert status["running"] <= limits.MAX_ASKS_PER_SOURCE
        assert trio.current_time() - begun <= limits.ASK_SECONDS + 1
        assert found == [1] * total


# --- text -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200), st.text(max_size=200))
def test_text_of_strangers_raises_nothing(some: str, more: str) -> None:
    """Whatever is written for a peer ID or an address is a good one or none."""
    for name in (some, "Qm" + some, "1" + some, "b" + some, "k" + some, "z" + some):
        found = any_peer_id(name)
        assert found is None or any_peer_id(found) == found
    for written in (some, "/ip4/" + some + "/tcp/1", "/ip6/::1/tcp/" + some, f"/dns4/{some}/{more}", f"/{some}/{more}"):
        good = text.dialable(written, peer(1))
        assert good is None or text.dialable(good, peer(1)) == good
        text.scope(written)
        text.network(written)


@given(
    st.binary(max_size=2000)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.sampled_from(["peer", "Schema", "ID"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["Schema", "ID", "Addrs", "Protocols", "Providers"]), inner, max_size=4)
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode()),
    st.booleans(),
)
def test_answers_of_strangers_raise_nothing_else(data: bytes, streamed: bool) -> None:
    """Whatever a router sends is records, or one named error."""
    reader = AnswerReader("Providers", streamed=streamed, nearest=text.AddressScope.PUBLIC)
    with contextlib.suppress(RoutingError):
        for piece in (reader.feed(data[:700]), reader.feed(data[700:]), reader.end()):
            assert all(any_peer_id(each.peer) == each.peer for each in piece)


# --- HTTP routers ---------------------------------------------------------------------------------------------------


def endless(piece: bytes, kind: str) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        request.start_stream(kind)
        while True:
            request.wfile.write(piece)

    return answer


def cut_short(request: Request) -> None:
    request.send_response(200)
    request.send_header("content-type", JSON)
    request.send_header("content-length", "1000")
    request.end_headers()
    request.wfile.write(b'{"Providers": [')
    request.close_connection = True


def not_http(request: Request) -> None:
    request.wfile.write(b"\x13/multistream/1.0.0\n" * 100)
    request.close_connection = True


def many_headers(request: Request) -> None:
    request.send_response(200)
    for number in range(10_000):
        request.send_header(f"x-{number}", "x" * 100)
    request.end_headers()


def bomb(request: Request) -> None:
    request.send(gzip.compress(bytes(5 << 20)), content_encoding="gzip")


HOSTILE_ANSWERS: dict[str, tuple[Callable[[Request], None], str]] = {
    "endless document": (endless(b" " * 65536, JSON), "bigger than"),
    "endless line": (endless(b"x" * 65536, NDJSON), "longer than"),
    "endless blank lines": (endless(b"\n" * 65536, NDJSON), "bigger than"),
    "endless garbage lines": (endless(b"garbage\n" * 100, NDJSON), "not made of routing records"),
    "a web page": (lambda request: request.send("<html>Sign in</html>", kind="text/html"), "text/html"),
    "a web page that says it is a stream": (lambda r: r.send("<html>Sign in</html>", kind=NDJSON), "routing records"),
    "a web page that says it is JSON": (lambda r: r.send("<html>Sign in</html>"), "not a JSON document"),
    "another document": (lambda request: request.send("[1, 2]"), "not a JSON document"),
    "no list": (lambda request: request.send('{"Providers": {"a": 1}}'), "not a JSON document"),
    "deep": (lambda request: request.send("[" * 200_000), "not a JSON document"),
    "a long number": (lambda request: request.send('{"Providers": ' + "9" * 900_000 + "}"), "not a JSON document"),
    "numbers as records": (lambda r: r.send(json.dumps({"Providers": [1] * 50})), "not made of routing records"),
    "packed": (bomb, "encoding 'gzip'"),
    "cut short": (cut_short, "failed"),
    "not HTTP": (not_http, "failed"),
    "many headers": (many_headers, "failed"),
    "sent to a file": (lambda request: request.send("", 302, location="file:///etc/passwd"), "no HTTP address"),
    "sent nowhere": (lambda request: request.send("", 302, location="http://[/"), "failed"),
    "no type": (lambda request: request.send("{}", kind=""), "not with routing records"),
    "teapot": (lambda request: request.send("{}", 418), "status 418"),
}


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
async def test_a_router_that_babbles(name: str) -> None:
    """Every kind of nonsense is one named error in words; a good router beside it is heard."""
    answer, expected = HOSTILE_ANSWERS[name]
    with serving(answer) as bad:
        async with asking(bad.url) as delegated:
            with pytest.raises(RoutingError, match=expected):
                await providers(delegated)
        with serving(lambda request: request.send(json.dumps({"Providers": [record(1)]}))) as good:
            async with asking(bad.url, good.url) as delegated:
                assert [each.peer for each in await providers(delegated)] == [peer(1)]
                assert delegated.status()["routers"][bad.url]["last_error"]


async def test_a_router_that_names_thousands_is_heard_for_some() -> None:
    """An endless stream of good records ends after so many, and is no error."""
    piece = b"".join(
        json.dumps(record(number, *(addr(n) for n in range(1, 60)))).encode() + b"\n" for number in range(1, 60)
    )
    with serving(endless(piece, NDJSON)) as server:
        async with asking(server.url) as delegated:
            found = await providers(delegated)
            assert len(found) == limits.MAX_RECORDS
            assert all(len(each.addrs) <= limits.MAX_ADDRS_PER_PROVIDER for each in found)
            assert delegated.status()["last_error"] is None


async def test_a_router_that_drips_is_given_up(mock_clock: trio.testing.MockClock) -> None:
    """Bytes that come one by one do not keep a find alive; what came in time counts."""
    mock_clock.rate = 1

    def answer(request: Request) -> None:
        request.start_stream()
        request.wfile.write(json.dumps(record(1)).encode() + b"\n")
        while True:
            request.wfile.write(b" ")
            time.sleep(0.02)

    with serving(answer) as server:
        asked = asking(server.url)
        async with asked as delegated, contextlib.aclosing(delegated.find_providers(KEY)) as found:
            assert (await anext(found)).peer == peer(1)
            patience = RouterPatience()
            mock_clock.jump(patience.answer)
            with pytest.raises(RoutingError, match=rf"within {patience.answer:g} seconds"):
                await anext(found)


@contextlib.contextmanager
def serving_tls(certificate: Path, answer: Callable[[Request], None]):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HttpRouter(answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_router_must_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends the request; one that the environment trusts is taken."""
    certificate = self_signed(tmp_path)
    with serving_tls(certificate, lambda request: request.send(json.dumps({"Providers": [record(1)]}))) as url:
        async with asking(url) as delegated:
            with pytest.raises(RoutingError, match="certificate"):
                await providers(delegated)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with asking(url) as delegated:
            assert [each.peer for each in await providers(delegated)] == [peer(1)]


async def test_a_router_does_not_send_us_on_unencrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect from https to http is refused: nobody on the way is to read what we look for."""
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(lambda request: request.send(json.dumps({"Providers": [record(1)]}))) as plain:
        with serving_tls(certificate, lambda request: request.send("", 302, location=plain.url + "/x")) as url:
            async with asking(url) as delegated:
                with pytest.raises(RoutingError, match="without encryption"):
                    await providers(delegated)
        assert plain.paths == []


async def test_an_unusable_environment_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy or a certificate file that cannot be used is an error in words, and ends nothing else."""
    monkeypatch.setenv("HTTP_PROXY", "http://:::")
    async with asking("http://127.0.0.1:9") as delegated:
        with pytest.raises(RoutingError):
            await providers(delegated)
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    async with asking("http://127.0.0.1:9") as delegated:
        with pytest.raises(RoutingError):
            await providers(delegated)


# --- address book ---------------------------------------------------------------------------------------------------

_PEERS = st.sampled_from([*(peer(n) for n in range(1, 30)), "nonsense", ""])
_ADDRS = st.sampled_from(
    [addr(1), addr(2), "/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1/p2p/" + peer(3), "junk", "", "/ip6/::1/tcp/5"]
)
_EVENTS = st.one_of(
    st.tuples(st.just("connected"), _PEERS, st.none() | _ADDRS, st.floats(0, 10)),
    st.tuples(st.just("failed"), _PEERS, _ADDRS),
    st.tuples(st.just("heard"), _PEERS, st.lists(_ADDRS), st.sampled_from(["configured", "mdns", "dht"])),
    st.tuples(
        st.just("identified"), _PEERS, st.lists(_ADDRS), st.text(), st.lists(st.sampled_from(["/ipfs/kad/1.0.0"]))
    ),
    st.tuples(st.just("useful"), _PEERS, st.integers(0, 2**50)),
    st.tuples(st.just("served"), _PEERS),
    st.tuples(st.just("forget"), _PEERS),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(_EVENTS, st.floats(0, 10 * 86400)), max_size=60))
def test_any_course_of_events_can_be_written_and_read(events: list[tuple[tuple[Any, ...], float]]) -> None:
    """Whatever happens in whatever order, the book that is read again says what the one that was written said."""
    now = 1.8e9

    def wall() -> float:
        return now

    db = Database(None)
    known = KnownPeers(db, wall=wall)
    for (name, *args), pause in events:
        getattr(known, name)(*args)
        now += pause
        assert all(addrs for _, addrs in known.candidates(100))
    trio.run(known.flush)
    again = KnownPeers(db, wall=wall)
    db.close()
    assert again.candidates(100) == known.candidates(100)
    assert sorted(again.dht_seeds(100)) == sorted(known.dht_seeds(100))
    assert again.status()["shelves"] == known.status()["shelves"]
