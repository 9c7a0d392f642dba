"""The names a lab goes by, and the ways that lead on within it."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kachery_cloud.lab.origins import is_loopback, is_own, normal, own_path

BASE = "https://lab.example.org"


@given(st.text(max_size=30).map(lambda text: f"/{text}") | st.text("/\\.:@evil \t\n%#?", max_size=20))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("https://evil.example")
@example("/%2f/evil.example")
@example("javascript:alert(1)")
def test_no_way_leads_elsewhere(text: str) -> None:
    """Whatever `next` says, a browser stays. It takes a backslash for a slash, and skips control characters."""
    found = own_path(text)
    as_browsers_do = "".join(char for char in found if char not in "\t\n\r").replace("\\", "/").strip()
    assert urlsplit(urljoin(BASE, as_browsers_do)).netloc == "lab.example.org"
    assert found.startswith("/")


def test_own_ways() -> None:
    """Paths of ours are kept as they are."""
    for path in ("/", "/files?project=a&label=b%20c", "/register/Ab-_9#x"):
        assert own_path(path) == path
    assert own_path(None) == own_path("") == own_path("files") == "/"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8095", "127.0.0.1", "[::1]:8095", "192.0.2.7:8095", "localhost:8095", "LocalHost", "Lab.example.org"],
)
def test_names_of_ours(host: str) -> None:
    """Addresses, which nobody can point elsewhere; this machine; the name of the settings."""
    assert is_own(host, BASE)


@pytest.mark.parametrize(
    "host",
    ["", "lab.example.org.evil.example", "evil.example", "lab.example.org@evil.example", "a b", "[::1", "x:y",
     "127.0.0.1/../", "evil.localhost", "0x7f.1", "lab.example.org:80:80"],
)  # fmt: skip
def test_names_of_others(host: str) -> None:
    """Everything else."""
    assert not is_own(host, BASE)
    assert not is_own("lab.example.org", None)


def test_normal_authorities() -> None:
    """Small letters, and no port that goes without saying."""
    assert normal("https", "Lab.Example.org:443") == "lab.example.org"
    assert normal("http", "lab.example.org:443") == "lab.example.org:443"
    assert normal("http", "[::1]:80") == "[::1]"


def test_loopback() -> None:
    """This machine, by address or name."""
    assert all(map(is_loopback, ("127.0.0.1:1", "localhost", "[::1]:80", "127.9.9.9")))
    assert not any(map(is_loopback, ("192.0.2.1", "localhost.evil.example", "")))
