"""Asking gateways: what is taken as an answer, and what is not. Real servers on loopback."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import GatewayError
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import (
    FailureKind,
    GatewayRefusal,
    check_head,
    may_follow,
    parse_url,
)
from kachery_p2p.gateway.client.client import GatewayClient
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.repo import Repo
from tests.helpers import gateway_fakes as fakes
from tests.helpers.gateway_fakes import Answer, Asked

MIB = 1 << 20
NOW = 1_790_000_000.0
TOKEN = "s3cret-t0ken"
DATA = os.urandom(100_000)
BLOCK = CID(1, RAW, sha256_multihash(DATA))


@contextlib.asynccontextmanager
async def client_of(*urls: str, tokens: Mapping[str, str] | None = None) -> AsyncIterator[GatewayClient]:
    client = GatewayClient(urls, tokens)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


def gives(data: bytes = DATA, kind: str = fakes.RAW, status: int = 200, **headers: str) -> fakes.Behave:
    return lambda answer, asked: answer.send(status, data, kind, **headers)


# --- one block ------------------------------------------------------------------------------------------------------


async def test_a_block_is_asked_for_as_the_specification_says() -> None:
    """`/ipfs/<cid>?format=raw` with its media type, uncompressed."""
    with fakes.serving(gives()) as gateway:
        async with client_of(gateway.url) as client:
            assert await client.block(client.gateways[0], BLOCK) == DATA
    (asked,) = gateway.requests
    assert (asked.path, asked.query) == (f"/ipfs/{BLOCK}", {"format": "raw"})
    assert asked.headers["accept"] == "application/vnd.ipld.raw"
    assert asked.headers["accept-encoding"] == "identity"
    assert "authorization" not in asked.headers


async def test_one_wrong_byte_is_a_lie() -> None:
    """Bytes with another hash reach nobody."""
    with fakes.serving(gives(DATA[:-1] + bytes([DATA[-1] ^ 1]))) as bad:
        async with client_of(bad.url) as client:
            gateway = client.gateways[0]
            with pytest.raises(GatewayRefusal, match="than its hash promises") as refusal:
                await client.block(gateway, BLOCK)
            assert refusal.value.kind is FailureKind.LIED


async def test_a_token_goes_to_its_gateway_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """It is sent as Bearer, not to another gateway, not after a redirect to another host, and it is in no text."""
    caplog.set_level(logging.DEBUG)
    with fakes.serving(gives()) as other, fakes.serving(gives(status=403)) as own:
        options = NodeOptions(gateways=(own.url, other.url), gateway_tokens={own.url: TOKEN})
        async with client_of(*options.gateways, tokens=options.gateway_tokens) as client:
            with pytest.raises(GatewayRefusal) as refusal:
                await client.block(client.gateways[0], BLOCK)
            await client.block(client.gateways[1], BLOCK)
            told = [repr(client.gateways), str(refusal.value), repr(options), caplog.text]
    assert own.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "authorization" not in other.requests[0].headers
    assert not any(TOKEN in text for text in told)


async def test_connections_are_used_again() -> None:
    """Ten blocks, and ten refusals, cost one connection."""
    ports: set[int] = set()

    def behave(answer: Answer, asked: Asked) -> None:
        ports.add(answer.client_address[1])
        (gives() if len(answer.gateway.requests) % 2 else gives(b"no", "text/plain", 404))(answer, asked)

    with fakes.serving(behave) as gateway:
        async with client_of(gateway.url) as client:
            for _ in range(20):
                with contextlib.suppress(GatewayRefusal):
                    await client.block(client.gateways[0], BLOCK)
    assert (len(gateway.requests), len(ports)) == (20, 1)


async def test_a_redirect_to_the_same_block_is_followed_and_no_other() -> None:
    """On the same host; to a page, or to somebody else's host, it says that the block is not here."""

    def behave(answer: Answer, asked: Asked) -> None:
        if asked.path == f"/ipfs/{BLOCK}":
            answer.send(301, location=f"/new/ipfs/{BLOCK}?format=raw")
        else:
            answer.send(200, DATA)

    with fakes.serving(behave) as gateway, fakes.serving(gives()) as elsewhere:
        away = elsewhere.url.replace("127.0.0.1", "localhost") + f"/ipfs/{BLOCK}"
        with fakes.serving(gives(b"", status=302, location=away)) as second:
            async with client_of(gateway.url, second.url) as client:
                assert await client.block(client.gateways[0], BLOCK) == DATA
                with pytest.raises(GatewayRefusal, match="browsers"):
                    await client.block(client.gateways[1], BLOCK)
    assert elsewhere.requests == []


async def test_proxies_of_the_environment_are_used_and_no_proxy_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY takes the requests, unless NO_PROXY names the host."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with fakes.serving(gives()) as proxy, fakes.serving(gives()) as direct:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with client_of("http://gateway.invalid") as client:
            assert await client.block(client.gateways[0], BLOCK) == DATA
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with client_of(direct.url) as client:
            assert await client.block(client.gateways[0], BLOCK) == DATA
    assert [asked.headers["host"] for asked in proxy.requests] == ["gateway.invalid"]
    assert len(direct.requests) == 1


async def test_httpx_is_imported_when_a_gateway_is_asked() -> None:
    """A node with gateways that asks none of them does not pay for the HTTP client."""
    code = (
        "import sys, kachery_p2p.gateway.client.client as c; c.GatewayClient(['http://127.0.0.1:1']);"
        "print('httpx' in sys.modules)"
    )
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert done.stdout == b"False\n"


async def test_bytes_are_told_of_while_they_come() -> None:
    """So that a slow block is known to be on its way."""
    told: list[int] = []
    with fakes.serving(gives()) as gateway:
        async with client_of(gateway.url) as client:
            await client.block(client.gateways[0], BLOCK, told.append)
    assert sum(told) == len(DATA)


# --- CARs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


def taking(came: list[tuple[CID, bytes]]) -> Callable[[Sequence[tuple[CID, bytes]]], Awaitable[bool]]:
    """Takes all that comes."""

    async def take(blocks: Sequence[tuple[CID, bytes]]) -> bool:
        came.extend(blocks)
        return True

    return take


async def test_a_car_brings_a_file_and_its_nodes(theirs: Repo, tmp_path: Path) -> None:
    """`dag-scope=entity` and `entity-bytes`: the root first, then the leaves of the range, each checked."""
    (tmp_path / "f").write_bytes(data := os.urandom(5 * MIB))
    cid = theirs.store_file(tmp_path / "f").cid
    came: list[tuple[CID, bytes]] = []
    with fakes.serving(fakes.honest(theirs)) as gateway:
        async with client_of(gateway.url) as client:
            await client.car(client.gateways[0], cid, (0, 2 * MIB - 1), taking(came))
    assert came[0][0] == cid
    assert b"".join(block for _, block in came[1:]) == data[: 2 * MIB]
    (asked,) = gateway.requests
    assert asked.query == {"format": "car", "dag-scope": "entity", "entity-bytes": f"0:{2 * MIB - 1}"}
    assert asked.headers["accept"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"


async def test_a_lie_in_a_car_is_seen_by_nobody(theirs: Repo, tmp_path: Path) -> None:
    """The blocks before it were true and are kept; the false one does not come out."""
    (tmp_path / "f").write_bytes(os.urandom(5 * MIB))
    cid = theirs.store_file(tmp_path / "f").cid
    came: list[tuple[CID, bytes]] = []
    with fakes.serving(fakes.liar(theirs)) as gateway:
        async with client_of(gateway.url) as client:
            with pytest.raises(GatewayRefusal) as refusal:
                await client.car(client.gateways[0], cid, (0, MIB), taking(came))
            assert refusal.value.kind is FailureKind.LIED
    assert len(came) == 2


async def test_what_is_no_car() -> None:
    """An answer that is no CAR says that the gateway gives none, and nothing worse."""
    for behave in (gives(b"no", "text/plain", 400), gives(), gives(b"<html>", fakes.CAR)):
        with fakes.serving(behave) as gateway:
            async with client_of(gateway.url) as client:
                with pytest.raises(GatewayRefusal) as refusal:
                    await client.car(client.gateways[0], BLOCK, (0, MIB), taking([]))
                assert (refusal.value.kind, refusal.value.pause) == (FailureKind.NO_CAR, None)


# --- the head of an answer ------------------------------------------------------------------------------------------

PAST, FUTURE = "Sat, 01 Aug 2026 00:00:00 GMT", "Sat, 01 Aug 2037 00:00:00 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "pause"),
    [
        (404, {}, FailureKind.ABSENT, None),
        (410, {}, FailureKind.ABSENT, None),
        (451, {}, FailureKind.ABSENT, None),
        (500, {}, FailureKind.ABSENT, None),
        (504, {}, FailureKind.ABSENT, None),
        (403, {}, FailureKind.ABSENT, None),
        (401, {}, FailureKind.USELESS, limits.USELESS_SECONDS),
        (302, {}, FailureKind.USELESS, limits.USELESS_SECONDS),
        (410, {"sunset": PAST}, FailureKind.USELESS, limits.MAX_RETRY_AFTER),
        (404, {"sunset": FUTURE}, FailureKind.ABSENT, None),
        (429, {}, FailureKind.BUSY, limits.BUSY_SECONDS),
        (429, {"retry-after": "7"}, FailureKind.BUSY, 7.0),
        (429, {"retry-after": "1" * 400}, FailureKind.BUSY, limits.MAX_RETRY_AFTER),
        (503, {}, FailureKind.BUSY, None),
        (502, {"retry-after": "9"}, FailureKind.BUSY, 9.0),
        (200, {"content-type": "text/html; charset=utf-8"}, FailureKind.USELESS, limits.USELESS_SECONDS),
        (200, {}, FailureKind.USELESS, limits.USELESS_SECONDS),
        (200, {"content-type": fakes.RAW, "content-encoding": "br"}, FailureKind.USELESS, limits.USELESS_SECONDS),
    ],
)
def test_what_an_answer_without_a_block_means(
    status: int, headers: dict[str, str], kind: FailureKind, pause: float | None
) -> None:
    """Not here, come back later, or never: with the pause that the answer asks for, within bounds."""
    with pytest.raises(GatewayRefusal) as refusal:
        check_head(status, headers, car=False, wall=NOW)
    assert (refusal.value.kind, refusal.value.pause) == (kind, pause)


def test_a_block_is_a_block_also_from_a_service_that_will_end() -> None:
    """`Sunset` in the future, or on a good answer, changes nothing."""
    for sunset in (PAST, FUTURE, "soon"):
        check_head(200, {"content-type": fakes.RAW, "sunset": sunset}, car=False, wall=NOW)


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [
        ("https://gw.net/ipfs/{cid}", "https://{cid}.ipfs.gw.net/?format=raw", True),
        ("https://ipfs.gw.net/ipfs/{cid}", "https://{cid}.ipfs.gw.net/", True),
        ("https://gw.net/ipfs/{cid}", "https://www.gw.net/ipfs/{cid}", True),
        ("https://www.gw.net/ipfs/{cid}", "https://gw.net/ipfs/{cid}?format=raw", True),
        ("http://gw.net/ipfs/{cid}", "https://gw.net/ipfs/{cid}", True),
        ("https://gw.net/ipfs/{cid}", "http://gw.net/ipfs/{cid}", False),
        ("https://gw.net/ipfs/{cid}", "https://gw.net/welcome.html", False),
        ("https://gw.net/ipfs/{cid}", "https://other.net/ipfs/{cid}", False),
        ("https://gw.net/ipfs/{cid}", "https://{cid}.ipfs.other.net/", False),
        ("https://gw.net/ipfs/{cid}", "https://evilgw.net/ipfs/{cid}", False),
        ("https://gw.net/ipfs/{cid}", "http://127.0.0.1:5001/api/v0/shutdown", False),
        ("https://gw.net/ipfs/{cid}", "https://gw.net/ipfs/bafkqaaa", False),
        ("https://gw.net/ipfs/{cid}", "https://bafkqaaa.ipfs.gw.net/", False),
        ("https://gw.net/ipfs/{cid}", "ftp://gw.net/ipfs/{cid}", False),
    ],
)
def test_redirects_that_are_followed(before: str, after: str, good: bool) -> None:
    """To the same block on the same site, its subdomain included; never off TLS, nor to where a stranger likes."""
    assert may_follow(before.format(cid=BLOCK), after.format(cid=BLOCK), BLOCK) is good


# --- settings -------------------------------------------------------------------------------------------------------


def test_urls() -> None:
    """A path below the host is kept, `/ipfs` at the end is not part of it."""
    assert parse_url(" https://Gateway.example.org/ipfs/ ") == "https://gateway.example.org"
    assert parse_url("http://127.0.0.1:8080/lab") == "http://127.0.0.1:8080/lab"


@pytest.mark.parametrize("url", ["", "gw.net", "ftp://gw.net", "https://", "http://[::1", "http://a:b", "http://a:0"])
def test_what_is_no_url(url: str) -> None:
    """It is an error that says what one looks like."""
    with pytest.raises(GatewayError):
        parse_url(url)


@pytest.mark.parametrize("url", ["https://user:s3cret@gw.net", "https://gw.net/?key=s3cret", "https://gw.net/#s3cret"])
def test_no_password_in_a_url(url: str) -> None:
    """A secret belongs into the tokens; the error does not repeat it."""
    with pytest.raises(GatewayError, match=r"gw\.net") as error:
        parse_url(url)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel"])
def test_tokens_that_cannot_be_sent(token: str) -> None:
    """They are refused before the node starts, without being repeated."""
    with pytest.raises(GatewayError) as error:
        GatewayClient(["https://gw.net"], {"https://gw.net": token})
    assert "schl" not in str(error.value)
    with pytest.raises(GatewayError, match="none of the gateways"):
        GatewayClient(["https://gw.net"], {"https://other.net": "t"})
