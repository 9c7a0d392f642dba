"""The base URLs of gateways, routers and pinning services: one table for all three."""

from __future__ import annotations

import pytest

from kachery_p2p.errors import GatewayError, InvalidPinService, RoutingError
from kachery_p2p.gateway.client import answers
from kachery_p2p.pinning.config import PinService
from kachery_p2p.routing import delegated
from kachery_p2p.urls import BadURL, URLFault, base_url, without_user


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://a.example", "https://a.example"),
        (" https://a.example/ \n", "https://a.example"),
        ("HTTPS://A.Example:8443/Path/", "https://a.example:8443/Path"),
        ("http://[2001:DB8::1]:80/x/y", "http://[2001:db8::1]:80/x/y"),
        ("http://127.0.0.1:5001/api/v0", "http://127.0.0.1:5001"),
        ("http://127.0.0.1:5001/api/v0/x", "http://127.0.0.1:5001/api/v0/x"),
    ],
)
def test_bases_are_as_people_write_them(url: str, base: str) -> None:
    """Blanks, slashes, capitals of the host and the end that is the server's own do not count."""
    assert base_url(url, ("/api/v0",)) == base
    assert base_url(base_url(url, ("/api/v0",)), ("/api/v0",)) == base


BAD = [
    ("", URLFault.NOT_HTTP),
    ("a.example", URLFault.NOT_HTTP),
    ("/ip4/127.0.0.1/tcp/80", URLFault.NOT_HTTP),
    ("ftp://a.example", URLFault.NOT_HTTP),
    ("https://", URLFault.NOT_HTTP),
    ("https://a.example:0", URLFault.NOT_HTTP),
    ("https://a b.example", URLFault.NOT_HTTP),
    ("https://a.example/x\x1b[2J", URLFault.NOT_HTTP),
    ("https://a.example:port", URLFault.UNREADABLE),
    ("https://[::1", URLFault.UNREADABLE),
    ("https://a.example/?token=secret", URLFault.QUERY),
    ("https://a.example/#secret", URLFault.QUERY),
]


@pytest.mark.parametrize(("url", "fault"), BAD)
def test_what_is_no_base(url: str, fault: URLFault) -> None:
    """Each says of what kind it is, and gateways, routers and pinning services refuse the same."""
    with pytest.raises(BadURL) as caught:
        base_url(url)
    assert caught.value.fault is fault
    with pytest.raises(GatewayError):
        answers.parse_url(url)
    with pytest.raises(RoutingError):
        delegated.parse_url(url)
    with pytest.raises(InvalidPinService):
        PinService("lab", url)


def test_a_user_in_a_url() -> None:
    """Is refused, and not repeated, but for routers, where it is kept and not shown."""
    url = "https://Me:Secret@A.example/x"
    with pytest.raises(BadURL) as caught:
        base_url(url)
    assert (caught.value.fault, caught.value.host) == (URLFault.USER, "a.example")
    assert "Secret" not in str(caught.value)
    assert base_url(url, user=True) == "https://Me:Secret@a.example/x"
    assert without_user(base_url(url, user=True)) == "https://a.example/x"
    assert delegated.parse_url(url) == "https://Me:Secret@a.example/x"
    with pytest.raises(GatewayError, match="a user"):
        answers.parse_url(url)
    with pytest.raises(InvalidPinService, match="as the token"):
        PinService("lab", url)
