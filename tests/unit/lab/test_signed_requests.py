"""Requests that a client signs: RFC 9421, in one form that we make and several that we take."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.lab import limits
from kachery_cloud.lab.signed_requests import BadSignature, Signed, check, sign
from kachery_p2p.repo.keys import new_identity

KEY = new_identity()
NOW = 1_767_225_600.0
PATHS = st.text("abcXYZ019-._~%/:@!$&'()*+,;=", max_size=30).map(lambda text: f"/{text}")
QUERIES = st.text("abc019-._~%/?:@!$&'()*+,;=", max_size=30)


@given(st.sampled_from(["GET", "POST", "DELETE", "PATCH"]), PATHS, QUERIES, st.binary(max_size=100))
def test_what_is_signed_is_taken(method: str, path: str, query: str, body: bytes) -> None:
    """Any request, as it is asked for."""
    url = f"https://Lab.example.org:443{path}?{query}"
    headers = sign(KEY, method, url, body, now=NOW, nonce="0123456789abcdef")
    found = check(method, "lab.example.org", path, query, headers, body, now=NOW)
    assert found == Signed(KEY.peer_id, "0123456789abcdef", int(NOW))


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_any_headers(inputs: str, signature: str, digest: str) -> None:
    """Whatever stands there, it is one error."""
    for text in (inputs, f"kachery={inputs}", f'kachery=("@method" "@authority" "@path" "@query");{inputs}'):
        headers = {"signature-input": text, "signature": signature, "content-digest": digest}
        with pytest.raises(BadSignature):
            check("GET", "a", "/", "", headers, b"", now=NOW)


def test_each_signature_has_a_nonce_of_its_own() -> None:
    """So that two requests alike are two."""
    first, second = (sign(KEY, "GET", "http://a/", now=NOW) for _ in range(2))
    assert first["signature-input"] != second["signature-input"]


@pytest.mark.parametrize("off", [limits.CLOCK_SECONDS, -limits.CLOCK_SECONDS])
def test_the_window(off: float) -> None:
    """Five minutes each way, and not a second more."""
    headers = sign(KEY, "GET", "http://a/", now=NOW)
    assert check("GET", "a", "/", "", headers, b"", now=NOW + off).peer == KEY.peer_id
    with pytest.raises(BadSignature, match="5 minutes are the most") as caught:
        check("GET", "a", "/", "", headers, b"", now=NOW + off + (1 if off > 0 else -1))
    assert caught.value.reason == "CLOCK"


def made(parameters: str, base: str, more: str = "") -> dict[str, str]:
    """Headers with a signature over a base of our own."""
    text = f'{base}\n"@signature-params": {parameters}'
    value = Ed25519PrivateKey.from_private_bytes(KEY.seed).sign(text.encode())
    signature = f"kachery=:{base64.b64encode(value).decode()}:"
    return {"signature-input": f"{more}kachery={parameters}", "signature": signature}


BASE = '"@query": ?\n"@path": /\n"@method": GET\n"@authority": a'
NAMES = '"@query" "@path" "@method" "@authority"'
TIME = f"created={int(NOW)}"


def test_as_others_write_it() -> None:
    """In another order, with spaces, among signatures of others, with headers that are covered as well."""
    parameters = f'({NAMES});keyid="{KEY.peer_id}";nonce="0123456789abcdef";{TIME}'
    headers = made(parameters, BASE, 'proxy=("@method");created=1, ')
    assert check("GET", "a", "/", "", headers, b"", now=NOW).peer == KEY.peer_id
    parameters = f'({NAMES} "date");{TIME};keyid="{KEY.peer_id}";nonce="0123456789abcdef"'
    headers = {**made(parameters, f'{BASE}\n"date": today'), "date": " today "}
    assert check("GET", "a", "/", "", headers, b"", now=NOW).peer == KEY.peer_id
    with pytest.raises(BadSignature):
        check("GET", "a", "/", "", {**headers, "date": "tomorrow"}, b"", now=NOW)


@pytest.mark.parametrize(
    "parameters",
    [
        f'({NAMES});keyid="KEY";nonce="0123456789abcdef"',
        f'({NAMES});{TIME};nonce="0123456789abcdef"',
        f'({NAMES});{TIME};keyid="KEY"',
        f'({NAMES});{TIME};keyid="KEY";nonce="short"',
        f'({NAMES});{TIME};keyid="KEY";nonce="{"x" * 200}"',
        f'({NAMES});{TIME};keyid="KEY";nonce="0123456789abcdef";alg="hmac-sha256"',
        f'({NAMES});{TIME};keyid="KEY";nonce="0123456789abcdef";expires={int(NOW) - 1}',
        f'({NAMES});{TIME};keyid="12D3KooW";nonce="0123456789abcdef"',
        f'({NAMES});{TIME};keyid="QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";nonce="0123456789abcdef"',
        f'({NAMES} "@method");{TIME};keyid="KEY";nonce="0123456789abcdef"',
        f'({NAMES} "@status");{TIME};keyid="KEY";nonce="0123456789abcdef"',
        f'("@query" "@path" "@authority");{TIME};keyid="KEY";nonce="0123456789abcdef"',
        f'("@query" "@path" "@method";req "@authority");{TIME};keyid="KEY";nonce="0123456789abcdef"',
    ],
)
def test_what_is_lacking(parameters: str) -> None:
    """Time, nonce, key, the parts that have to be covered: without one of them nothing is believed."""
    parameters = parameters.replace("KEY", KEY.peer_id)
    with pytest.raises(BadSignature):
        check("GET", "a", "/", "", made(parameters, BASE), b"", now=NOW)
