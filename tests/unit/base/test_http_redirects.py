"""Redirects: what every HTTP client of ours follows, and what none of them does. Real HTTP on loopback."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import outcome
import pytest
import trio

from kachery_p2p.addresses import Reach
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import RoutingError
from kachery_p2p.gateway.client import limits as client_limits
from kachery_p2p.gateway.client.answers import GatewayRefusal
from kachery_p2p.gateway.client.client import GatewayClient
from kachery_p2p.http_redirects import NotFollowed, check_redirect
from kachery_p2p.routing import limits as routing_limits
from kachery_p2p.routing.delegated import Delegated
from tests.helpers import gateway_fakes as fakes
from tests.helpers.gateway_fakes import Answer, Asked
from tests.helpers.patience import PATIENCE

T = TypeVar("T")
DATA = b"a block"
BLOCK = CID(1, RAW, sha256_multihash(DATA))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("https://a.org/x", "https://a.org/y", None),
        ("https://a.org/x", "https://a.org:443/y", None),
        ("http://a.org/x", "https://a.org/y", None),
        ("https://a.org/x", "https://b.org/y", None),
        ("http://a.org:8080/x", "http://A.org.:8080/y", None),
        ("http://192.168.1.7:80/x", "http://192.168.1.8:80/y", None),
        ("http://127.0.0.1:5001/x", "https://a.org/y", None),
        ("https://a.org/x", "http://a.org/y", "without encryption"),
        ("https://a.org/x", "https://a.org:8443/y", "another port"),
        ("http://a.org/x", "http://a.org:5001/y", "another port"),
        ("http://a.org:8080/x", "https://a.org/y", "another port"),
        ("http://a.org/x", "http://a.org:99999/y", "another port"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:5001/api/v0/shutdown", "another port"),
        ("http://127.0.0.1:8080/x", "http://localhost:5001/api/v0/shutdown", "another port"),
        ("http://192.168.1.7/x", "http://127.0.0.1/y", "our own network"),
        ("https://a.org/x", "https://127.0.0.1/y", "our own network"),
        ("https://a.org/x", "https://localhost/y", "our own network"),
        ("https://a.org/x", "https://nas.local/y", "our own network"),
        ("https://a.org/x", "https://nas/y", "our own network"),
        ("https://a.org/x", "https://10.0.0.1/y", "our own network"),
        ("https://a.org/x", "https://169.254.169.254/latest/meta-data", "our own network"),
        ("https://a.org/x", "https://[::ffff:127.0.0.1]/y", "our own network"),
        ("https://a.org/x", "https://[64:ff9b::7f00:1]/y", "our own network"),
        ("https://a.org/x", "https://[2002:7f00:1::]/y", "our own network"),
        ("https://a.org/x", "https://[fec0::1]/y", "our own network"),
        ("https://a.org/x", "https://0.0.0.0/y", "our own network"),
        ("https://8.8.8.8/x", "https://100.64.0.1/y", "our own network"),
        ("https://a.org/x", "https://me:secret@a.org/y", "a user"),
        ("https://a.org/x", "ftp://a.org/y", "no HTTP address"),
        ("https://a.org/x", "file:///etc/passwd", "no HTTP address"),
    ],
)
def test_the_text_of_a_redirect(before: str, after: str, why: str | None) -> None:
    """Neither off TLS, nor to another port of the host, nor from far away to something near us."""
    if why is None:
        check_redirect(before, after)
    else:
        with pytest.raises(NotFollowed, match=why):
            check_redirect(before, after)


class _Names(trio.abc.HostnameResolver):
    """All names of the test are this machine."""

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise OSError("not needed here")


async def _ask_router(url: str) -> Sequence[object]:
    delegated = Delegated([url])

    async def ask() -> Sequence[object]:
        return [each async for each in delegated.find_providers(BLOCK.multihash)]

    return await _while_running(delegated.run, ask)


async def _ask_gateway(url: str) -> bytes:
    client = GatewayClient([url])
    return await _while_running(client.run, lambda: client.block(client.gateways[0], BLOCK))


async def _while_running(run: Callable[..., Awaitable[None]], ask: Callable[[], Awaitable[T]]) -> T:
    """Ask while it runs, and raise what is raised, not a group of it."""
    answer: outcome.Outcome[T]
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        with trio.fail_after(PATIENCE):
            answer = await outcome.acapture(ask)
        nursery.cancel_scope.cancel()
    return answer.unwrap()


def _sends_to(place: str) -> fakes.Behave:
    """Redirects to there, whatever is asked."""
    return lambda answer, asked: answer.send(302, b"", "text/plain", location=place.format(path=asked.path))


async def test_a_name_that_resolves_into_our_network_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public router or gateway sends us to a public name, which stands for this machine: nobody there is asked.

    The first request goes through a proxy, as the only way to have a public host in a test; the second does not.
    """
    trio.socket.set_custom_hostname_resolver(_Names())
    with fakes.serving(lambda answer, asked: answer.send(200, DATA)) as inside:
        port = inside.url.rpartition(":")[2]
        to = f"http://rebound.example.net:{port}" + "{path}"
        with fakes.serving(_sends_to(to)) as router:
            monkeypatch.setenv("HTTP_PROXY", router.url)
            monkeypatch.setenv("NO_PROXY", "rebound.example.net,sub.gw.example.org")
            with pytest.raises(RoutingError, match=r"rebound\.example\.net, whose address is one of our own network"):
                await _ask_router("http://router.example.org")
            assert len(router.requests) == 1
        to = f"http://sub.gw.example.org:{port}" + "{path}"
        with fakes.serving(_sends_to(to)) as gateway:
            monkeypatch.setenv("HTTP_PROXY", gateway.url)
            with pytest.raises(GatewayRefusal, match=r"sub\.gw\.example\.org, whose address is one of our own network"):
                await _ask_gateway(f"http://gw.example.org:{port}")
            assert len(gateway.requests) == 1
        assert inside.requests == []


async def test_a_router_of_our_own_network_may_send_us_on_in_it() -> None:
    """A public name that stands for an address near us is our own choice, and so are its neighbours."""
    trio.socket.set_custom_hostname_resolver(_Names())
    with fakes.serving(lambda answer, asked: answer.send(404, b"", "text/plain")) as second:
        to = f"http://other.example.org:{second.url.rpartition(':')[2]}" + "{path}"
        with fakes.serving(_sends_to(to)) as first:
            assert await _ask_router(f"http://router.example.org:{first.url.rpartition(':')[2]}") == []
        assert len(second.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_another_port_of_this_machine_is_not_asked(host: str) -> None:
    """Neither a router nor a gateway sends us to another server on its machine."""
    with fakes.serving(lambda answer, asked: answer.send(200, DATA)) as other:
        to = other.url.replace("127.0.0.1", host) + "{path}"
        with fakes.serving(_sends_to(to)) as server:
            with pytest.raises(RoutingError, match="another port"):
                await _ask_router(server.url)
            with pytest.raises(GatewayRefusal, match="browsers"):
                await _ask_gateway(server.url)
        assert other.requests == []


async def test_sent_on_too_often() -> None:
    """One redirect more than is followed is said to be that, and is not read as an answer."""
    count = 0

    def behave(answer: Answer, asked: Asked) -> None:
        nonlocal count
        count += 1
        answer.send(302, b"further", "text/plain", location=f"/{count}/ipfs/{BLOCK}")

    with fakes.serving(behave) as gateway:
        with pytest.raises(GatewayRefusal, match="sends us on more than"):
            await _ask_gateway(gateway.url)
        assert count == client_limits.MAX_REDIRECTS + 1
    with fakes.serving(_sends_to("{path}")) as router:
        with pytest.raises(RoutingError, match="sends us on more than"):
            await _ask_router(router.url)
        assert len(router.requests) == routing_limits.MAX_REDIRECTS + 1


def test_reaches_are_ordered() -> None:
    """What is nearer is smaller; the rule for redirects stands on that."""
    assert Reach.NOWHERE < Reach.LOOPBACK < Reach.LINK < Reach.PRIVATE < Reach.PUBLIC
