"""What a client of an OpenID provider knows: which ones are used, whose an answer is, how a code is redeemed."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kachery_cloud.openid import AnotherIssuer, BadProvider, Provider, configuration_url, read_provider, token_requests

ISSUER = "https://id.example.org"
SAID: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": "https://keys.example.org/",
    "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", 5],
    "authorization_response_iss_parameter_supported": True,
}
HERE = "http://127.0.0.1:5000"


def test_what_a_provider_says() -> None:
    """The addresses may be of other hosts; what is not said has the default of the specification."""
    assert configuration_url(f"{ISSUER}/") == f"{ISSUER}/.well-known/openid-configuration"
    assert read_provider(ISSUER, SAID) == Provider(
        ISSUER,
        f"{ISSUER}/auth",
        f"{ISSUER}/token",
        "https://keys.example.org/",
        ("client_secret_post", "client_secret_basic"),
        names_issuer=True,
    )
    bare = {name: SAID[name] for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")}
    assert read_provider(ISSUER, bare).authentication == ("client_secret_basic",)
    assert not read_provider(ISSUER, bare).names_issuer


@pytest.mark.parametrize("said", ["https://evil.example", f"{ISSUER}/", None, 5])
def test_another_issuer(said: object) -> None:
    """The name must be the very same text."""
    with pytest.raises(AnotherIssuer) as caught:
        read_provider(ISSUER, {**SAID, "issuer": said})
    assert caught.value.said == said


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        "",
        "/token",
        "http://id.example.org/token",
        "http://127.0.0.1:5000/token",  # ours, named by somebody who is not here
        "ftp://id.example.org/token",
        "https:///token",
        "https://id.example.org@evil.example/token",
        "https://id.example.org/token#part",
        "https://id.example.org/to\nken",
        "https://id.exämple.org/token",
        "https://[::1/token",
    ],
)
def test_addresses_that_are_not_used(name: str, url: object) -> None:
    """Nothing goes out in the clear, to somebody hidden in the address, or to this machine for a stranger."""
    with pytest.raises(BadProvider, match=name):
        read_provider(ISSUER, {**SAID, name: url})


def test_a_provider_on_this_machine() -> None:
    """May be asked without TLS, and names addresses here."""
    said = {**SAID, "issuer": HERE, "jwks_uri": "http://localhost:5001/keys", "token_endpoint": "http://[::1]:1/token"}
    assert read_provider(HERE, said).keys == "http://localhost:5001/keys"
    with pytest.raises(BadProvider):
        read_provider(HERE, {**said, "jwks_uri": "http://id.example.org/keys"})
    with pytest.raises(BadProvider):  # one with TLS names nothing without it
        read_provider("https://localhost:5000", {**said, "issuer": "https://localhost:5000"})


@pytest.mark.parametrize(
    ("names_issuer", "named", "answers"),
    [
        (True, ISSUER, True),
        (True, None, False),
        (True, "https://evil.example", False),
        (False, ISSUER, True),
        (False, None, True),
        (False, "https://evil.example", False),
    ],
)
def test_whose_an_answer_is(names_issuer: bool, named: str | None, answers: bool) -> None:
    """One that names another provider is never taken; one that names none only where that is usual (RFC 9207)."""
    assert Provider(ISSUER, "", "", "", names_issuer=names_issuer).answers(named) is answers


@pytest.mark.parametrize(
    ("methods", "secret", "ways"),
    [
        (("client_secret_basic",), "", ["id"]),
        (("client_secret_basic",), "s", ["basic"]),
        (("client_secret_post",), "s", ["post"]),
        (("client_secret_post", "client_secret_basic"), "s", ["basic", "post"]),
        (("private_key_jwt",), "s", ["basic"]),
        ((), "s", ["basic"]),
    ],
)
def test_how_a_client_says_who_it_is(methods: tuple[str, ...], secret: str, ways: list[str]) -> None:
    """A secret goes either into the header or into the form, never into both; without one the client ID is named."""
    provider = Provider(ISSUER, "", "", "", methods)
    found: list[str] = []
    for way in token_requests(provider, "me", secret, redirect="http://x/", verifier="v", code="c"):
        assert {name: way.form[name] for name in ("grant_type", "code", "redirect_uri", "code_verifier")} == {
            "grant_type": "authorization_code",
            "code": "c",
            "redirect_uri": "http://x/",
            "code_verifier": "v",
        }
        basic = way.headers.get("Authorization")
        assert basic is None or "client_id" not in way.form
        found.append("basic" if basic else "post" if "client_secret" in way.form else "id")
    assert found == ways


def test_what_is_escaped_in_the_header() -> None:
    """Client ID and secret are form-encoded first (RFC 6749, section 2.3.1)."""
    (way,) = token_requests(Provider(ISSUER, "", "", ""), "a:b", "c d/é", redirect="", verifier="v", code="c")
    assert base64.b64decode(way.headers["Authorization"].removeprefix("Basic ")) == b"a%3Ab:c+d%2F%C3%A9"
