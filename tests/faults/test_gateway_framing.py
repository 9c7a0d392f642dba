"""Requests that two servers could take for different ones, and heads that are too large: raw bytes over TCP."""

from __future__ import annotations

import email
import email.message
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from kachery_p2p.gateway.server import limits
from tests.helpers.gateway_served import Served, gateway, served
from tests.helpers.patience import PATIENCE


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


async def exchange(client: httpx.AsyncClient, data: bytes) -> bytes:
    """Send bytes, and read until the gateway closes the connection. Fails when it never does."""
    url = client.base_url
    stream = await trio.open_tcp_stream(url.host, url.port or 80)
    received = b""
    async with stream:
        with trio.fail_after(PATIENCE):
            await stream.send_all(data)
            while chunk := await stream.receive_some(65536):
                received += chunk
    return received


def request(first: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([first, "Host: 127.0.0.1", *headers, "", ""]).encode("ascii") + body


#: What an attacker would like to have answered as a request of its own.
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("order", [1, -1])
async def test_two_lengths_of_a_body(here: Served, method: str, order: int) -> None:
    """Content-Length with Transfer-Encoding is refused with 400, and the connection closed (RFC 9112, section 6.3)."""
    lengths = ["Content-Length: 6", "Transfer-Encoding: chunked"][::order]
    async with gateway(here.repo) as client:
        answer = await exchange(client, request(f"{method} / HTTP/1.1", *lengths, body=b"0\r\n\r\nX" + SMUGGLED))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
        (["Content-Length: 1000000000000"], b"hello"),
    ],
)
async def test_a_request_with_a_body_is_the_last(here: Served, headers: list[str], body: bytes) -> None:
    """A body means nothing here. It is not read, and nothing that follows it is taken for a request."""
    async with gateway(here.repo) as client:
        data = request(f"GET /ipfs/{here.file} HTTP/1.1", "Range: bytes=0-1", *headers, body=body + SMUGGLED)
        answer = await exchange(client, data)
        assert answer.startswith(b"HTTP/1.1 206 ")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x5"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Content-Length : 5"],
        ["Bad\x01Name: 1"],
    ],
)
async def test_lengths_that_make_no_sense(here: Served, headers: list[str]) -> None:
    """What cannot be read for sure is refused, and the connection closed."""
    async with gateway(here.repo) as client:
        answer = await exchange(client, request("GET /health HTTP/1.1", *headers, body=b"hello" + SMUGGLED))
        assert answer[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5", b"")
        assert answer.count(b"HTTP/1.1 ") <= 1


async def test_a_request_without_a_body_keeps_its_connection(here: Served) -> None:
    """Content-Length: 0 is no body: the next request is answered on the same connection."""
    async with gateway(here.repo) as client:
        first = request("GET /health HTTP/1.1", "Content-Length: 0")
        last = request("GET /health HTTP/1.1", "Connection: close")
        answer = await exchange(client, first + last)
        assert answer.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("how", ["one long value", "many short ones", "a long path"])
async def test_a_large_head_in_one_packet(here: Served, how: str) -> None:
    """A head beyond MAX_REQUEST_HEAD is refused, also where it comes as a whole, and the gateway goes on."""
    size = limits.MAX_REQUEST_HEAD
    head = {
        "one long value": request("GET /health HTTP/1.1", "X: " + "a" * size),
        "many short ones": request("GET /health HTTP/1.1", *(f"X{n}: {n}" for n in range(size // 8))),
        "a long path": request(f"GET /ipfs/{'a' * size} HTTP/1.1"),
    }[how]
    async with gateway(here.repo) as client:
        answer = await exchange(client, head[:-2] + b"Connection: close\r\n\r\n")
        assert answer.split(b" ")[1] in (b"431", b"414", b"400")
        assert (await client.get("/health")).status_code == 200


async def test_a_head_that_fits_is_served(here: Served) -> None:
    """Heads as large as browsers with many cookies send are fine."""
    async with gateway(here.repo) as client:
        answer = await client.get("/health", headers={"cookie": "a" * (limits.MAX_REQUEST_HEAD // 2)})
        assert answer.status_code == 200


async def test_several_ranges_at_once(here: Served) -> None:
    """Several byte ranges come as parts of one answer, each with its place (RFC 9110, section 14.6)."""

    ranges = [(0, 9), (2**20 - 5, 2**20 + 5), (3 * 2**20, 3 * 2**20 + 99)]
    wanted = "bytes=" + ", ".join(f"{first}-{last}" for first, last in ranges) + ", 99999999-"
    async with gateway(here.repo) as client:
        for query in ("", "?filename=a.txt"):
            answer = await client.get(f"/ipfs/{here.file}{query}", headers={"range": wanted})
            assert answer.status_code == 206
            kind = answer.headers["content-type"]
            assert kind.startswith("multipart/byteranges; boundary=")
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert "content-range" not in answer.headers
            message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + answer.content)
            parts = message.get_payload()
            assert isinstance(parts, list)
            assert len(parts) == len(ranges)
            for part, (first, last) in zip(parts, ranges, strict=True):
                assert isinstance(part, email.message.Message)
                assert part["content-range"] == f"bytes {first}-{last}/{len(here.data)}"
                assert part["content-type"] == ("text/plain; charset=utf-8" if query else "application/octet-stream")
            boundary = kind.partition("boundary=")[2].encode()
            bodies = [piece.partition(b"\r\n\r\n")[2][:-2] for piece in answer.content.split(b"--" + boundary)[1:-1]]
            assert bodies == [here.data[first : last + 1] for first, last in ranges]
