"""The one HTTP client, against real servers on loopback; and what headers mean."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from kachery_p2p.http import (
    HttpBounds,
    HttpClient,
    HttpFailure,
    HttpProblem,
    Redirect,
    http_date,
    media_type,
    packing,
    retry_after,
)
from tests.helpers import gateway_fakes as fakes
from tests.helpers.gateway_fakes import Answer, Asked

BOUNDS = HttpBounds(connect=5.0, redirects=2, connections=4, idle=2, drained=1000)
NOW = 1_800_000_000.0
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.asynccontextmanager
async def client(bounds: HttpBounds = BOUNDS) -> AsyncIterator[HttpClient]:
    http = HttpClient(bounds, headers={"accept": "text/x-test"})
    try:
        with trio.fail_after(30):
            yield http
    finally:
        await http.close()


def in_pieces(answer: Answer, *pieces: bytes, length: int | None = None) -> None:
    """An answer whose pieces are sent one by one."""
    answer.send_response(200)
    answer.send_header("content-length", str(sum(map(len, pieces)) if length is None else length))
    answer.end_headers()
    for piece in pieces:
        answer.wfile.write(piece)
        answer.wfile.flush()


# --- asking ---------------------------------------------------------------------------------------------------------


async def test_a_request_and_its_answer() -> None:
    """Our headers go out, and no compression is asked for; the body comes as it is, whole or piece by piece."""
    with fakes.serving(lambda answer, asked: answer.send(200, b"abc" * 10, "Text/Plain; charset=x")) as server:
        async with client() as http:
            async with http.ask("GET", server.url, params={"a": "b c"}, headers={"x-more": "1"}) as answer:
                assert (answer.status, media_type(answer.headers), answer.server) == (200, "text/plain", "127.0.0.1")
                assert await answer.read(30) == b"abc" * 10
            async with http.ask("GET", server.url) as answer, answer.chunks() as chunks:
                assert b"".join([chunk async for chunk in chunks]) == b"abc" * 10
    asked = server.requests[0]
    assert asked.query == {"a": "b c"}
    assert asked.headers["accept"] == "text/x-test"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["x-more"] == "1"
    assert asked.headers["user-agent"].startswith("kachery")


async def test_bodies_have_a_bound() -> None:
    """A body that is longer than was to be read is a failure; of a refusal only the first words are read."""
    with fakes.serving(lambda answer, asked: answer.send(200, b"x" * 100)) as server:
        async with client() as http:
            async with http.ask("GET", server.url) as answer:
                with pytest.raises(HttpFailure, match="more than 99 bytes") as caught:
                    await answer.read(99)
                assert caught.value.problem is HttpProblem.TOO_LARGE
            async with http.ask("GET", server.url) as answer:
                assert await answer.start(7) == b"x" * 7


async def test_a_drained_connection_is_used_again() -> None:
    """A short body that is not wanted is read to its end; a long one costs the connection instead."""
    ports: list[int] = []

    def behave(answer: Answer, asked: Asked) -> None:
        ports.append(answer.client_address[1])
        answer.send(404, b"x" * int(asked.query["size"]))

    with fakes.serving(behave) as server:
        async with client() as http:
            for size in ("1000", "10000000", "1000"):
                async with http.ask("GET", server.url, params={"size": size}) as answer:
                    await answer.drain()
    assert ports[0] == ports[1] != ports[2]


# --- what goes wrong ------------------------------------------------------------------------------------------------


async def test_nothing_there(free_port: Callable[[], int]) -> None:
    """A port on which nothing listens is told in the words of the system."""
    async with client() as http:
        with pytest.raises(HttpFailure, match=r"The request failed: .*\.") as caught:
            async with http.ask("GET", f"http://127.0.0.1:{free_port()}"):
                pass
    assert caught.value.problem is HttpProblem.UNREACHABLE
    assert caught.value.words


async def test_an_answer_that_does_not_begin() -> None:
    """The head has its time, after which the request is given up."""

    def behave(answer: Answer, asked: Asked) -> None:
        answer.gateway.gone.wait(20)

    with fakes.serving(behave) as server:
        async with client() as http:
            with pytest.raises(HttpFailure, match=r"did not answer within 0\.2 seconds") as caught:
                async with http.ask("GET", server.url, seconds=0.2):
                    pass
    assert caught.value.problem is HttpProblem.SLOW


async def test_a_body_that_stalls_or_breaks() -> None:
    """Both are told apart, and what came before counts."""

    def behave(answer: Answer, asked: Asked) -> None:
        in_pieces(answer, b"begun", length=100)
        if "stall" in asked.path:
            answer.gateway.gone.wait(20)
        answer.close_connection = True

    with fakes.serving(behave) as server:
        async with client() as http:
            for way, problem, words in (
                ("stall", HttpProblem.SLOW, r"stopped in the middle for 0\.3 seconds"),
                ("break", HttpProblem.BROKEN, "The request failed: .*"),
            ):
                async with http.ask("GET", f"{server.url}/{way}") as answer, answer.chunks(0.3) as chunks:
                    assert await anext(chunks) == b"begun"
                    with pytest.raises(HttpFailure, match=words) as caught:
                        await anext(chunks)
                assert caught.value.problem is problem


async def test_an_upload_takes_as_long_as_it_takes() -> None:
    """The time for the answer begins after the last byte of the body, and then it counts."""
    hang = False

    def behave(answer: Answer, asked: Asked) -> None:
        body = answer.rfile.read(int(asked.headers["content-length"]))
        if hang:
            answer.gateway.gone.wait(20)
        answer.send(200, body)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"12345"
            await trio.sleep(0.3)

    with fakes.serving(behave) as server:
        async with client() as http:
            headers = {"content-length": "20"}
            async with http.ask("POST", server.url, content=slowly(), headers=headers, seconds=0.9) as answer:
                assert await answer.read(100) == b"12345" * 4
            hang = True
            with pytest.raises(HttpFailure, match="in time") as caught:
                async with http.ask("POST", server.url, content=slowly(), headers=headers, seconds=0.3):
                    pass
            assert caught.value.problem is HttpProblem.SLOW


async def test_the_errors_of_the_asker_are_its_own() -> None:
    """What is raised within the block comes out as it is, whatever the line is doing."""
    with fakes.serving(lambda answer, asked: answer.send(200, b"abc")) as server:
        async with client() as http:
            for error in (OSError("disk"), ValueError("value"), KeyError("key")):
                with pytest.raises(type(error)) as caught:
                    async with http.ask("GET", server.url):
                        raise error
                assert caught.value is error


async def test_a_client_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that makes no sense is said with the first request, and not before; it is tried again."""
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    async with client() as http:
        with pytest.raises(HttpFailure, match="The HTTP client cannot be made") as caught:
            async with http.ask("GET", "http://127.0.0.1:9"):
                pass
        assert caught.value.problem is HttpProblem.CLIENT
        monkeypatch.delenv("HTTP_PROXY")
        with fakes.serving(lambda answer, asked: answer.send(200, b"abc")) as server:
            async with http.ask("GET", server.url) as answer:
                assert await answer.read(3) == b"abc"


def test_httpx_is_imported_with_the_first_request() -> None:
    """Making a client is cheap: a node that asks nobody never imports it."""
    code = (
        "import sys; from kachery_p2p.http import HttpBounds, HttpClient\n"
        "HttpClient(HttpBounds(connect=1, redirects=1, connections=1, idle=1)); print('httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# --- redirects ------------------------------------------------------------------------------------------------------


async def test_the_asker_decides_where_a_redirect_leads() -> None:
    """It sees both URLs, the status and whether the method stays; it can follow, take the answer, or refuse."""

    def behave(answer: Answer, asked: Asked) -> None:
        if asked.path == "/there":
            answer.send(200, b"there")
        else:
            answer.send(307, b"away", location="/there")

    class Refused(Exception):
        pass

    seen: list[Redirect] = []

    def refuse(redirect: Redirect) -> bool:
        seen.append(redirect)
        raise Refused

    with fakes.serving(behave) as server:
        async with client() as http:
            async with http.ask("GET", server.url) as answer:
                assert await answer.read(10) == b"there"
            async with http.ask("GET", server.url, follow=lambda redirect: False) as answer:
                assert (answer.status, await answer.read(10)) == (307, b"away")
            with pytest.raises(Refused):
                async with http.ask("GET", server.url, follow=refuse):
                    pass
        assert seen == [Redirect(server.url, f"{server.url}/there", 307, True)]


async def test_redirects_without_end() -> None:
    """As many as the bounds say are followed, and one more is a failure."""
    with fakes.serving(lambda answer, asked: answer.send(302, location="/on")) as server:
        async with client() as http:
            with pytest.raises(HttpFailure, match="more than 2 times") as caught:
                async with http.ask("GET", server.url):
                    pass
        assert caught.value.problem is HttpProblem.REDIRECT
        assert len(server.requests) == 3


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("17", "", 17.0),
        (" 0 ", "", 0.0),
        ("9" * 400, "", 3600.0),
        ("Fri, 15 Jan 2027 08:01:30 GMT", "", 90.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", "", 0.0),
        ("Sun, 01 Jan 2125 00:00:00 GMT", "", 3600.0),
        # By the server's own clock, which is two minutes behind ours, it is still a while.
        ("Fri, 15 Jan 2027 08:00:00 GMT", "Fri, 15 Jan 2027 07:58:00 GMT", 120.0),
        ("Fri, 15 Jan 2027 08:00:00 GMT", "Fri, 15 Jan 2027 08:02:00 GMT", 0.0),
        ("Fri, 15 Jan 2027 08:01:30 GMT", "yesterday", 90.0),
        ("", DATE, None),
        ("soon", DATE, None),
        ("-5", "", None),
        ("²", "", None),
        ("1.5", "", None),
    ],
)
def test_retry_after(value: str, date: str, seconds: float | None) -> None:
    """Seconds, or a date by the clock of the server; up to the longest pause; nonsense asks for nothing."""
    assert http_date(DATE) == NOW
    assert retry_after({"retry-after": value, "date": date}, NOW, longest=3600.0) == seconds


def test_no_retry_after() -> None:
    """Where the header is not there, nothing is asked for."""
    assert retry_after({}, NOW, longest=3600.0) is None


def test_types_and_encodings() -> None:
    """Parameters, blanks and capitals do not count."""
    assert media_type({"content-type": " Application/JSON ; q=1"}) == "application/json"
    assert media_type({}) == ""
    assert [packing({"content-encoding": each}) for each in ("", " Identity ", "GZIP")] == ["", "", "gzip"]
    assert packing({}) == ""
    assert time.gmtime(NOW)[:4] == (2027, 1, 15, 8)
