"""Notes before the CID: URIs that a shell leaves alone, whatever is in them, and that mean what the usual form does."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import InvalidAddress, InvalidURI, KacheryError
from kachery_cloud.uri import ContentURI, join, parse_uri
from kachery_cloud.uri_notes import MAX_ADDRESSES

V1 = "bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga"
V0 = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"
ME = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RELAY = "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust"
#: What needs no quotes in a shell, as a person would write the list down.
PLAIN = re.compile(r"[A-Za-z0-9:/._\-=%@+]+")

names = st.text(max_size=20).filter(lambda s: s not in ("", ".", "..") and "/" not in s and "\0" not in s)
ports = st.integers(0, 65535)
hosts = (
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}")
    | st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}")
    | st.sampled_from(["/dns4/a.example.org", "/dns/xn--mller-kva.example", "/dnsaddr/a.org"])
)
ways = st.builds(lambda host, port: host if host.startswith("/dnsaddr") else f"{host}/tcp/{port}", hosts, ports)
direct = st.builds(lambda way, peer: way + peer, ways, st.sampled_from(["", f"/p2p/{ME}", f"/p2p/{RELAY}"]))
relayed = ways.map(lambda way: f"{way}/p2p/{RELAY}/p2p-circuit/p2p/{ME}")
providers = st.lists(direct | relayed | st.sampled_from([f"/p2p/{ME}", f"/p2p/{RELAY}"]), max_size=8, unique=True)


@given(st.sampled_from([V1, V0]), st.lists(names, max_size=3), st.none() | st.text(max_size=30), providers)
def test_what_is_written_is_read(cid: str, path: list[str], label: str | None, addresses: list[str]) -> None:
    """Any label, path and addresses: only plain characters, the meaning of the usual form, and the same text again. Who
    reads it as RFC 3986 says finds the CID as the host, and the path."""
    uri = ContentURI(cid, tuple(path), label, tuple(addresses))
    text = uri.pasteable
    assert PLAIN.fullmatch(text)
    assert parse_uri(text) == parse_uri(str(uri)) == uri
    assert parse_uri(text).pasteable == text
    parts = urlsplit(text)
    assert (parts.scheme, parts.netloc.rpartition("@")[2], parts.query, parts.fragment) == ("ipfs", cid, "", "")
    assert ("@" in parts.netloc) == (label is not None or bool(addresses))


@given(st.lists(names, min_size=1, max_size=3), st.none() | st.text(max_size=20), providers)
def test_a_path_can_be_put_behind_it_in_every_order(path: list[str], label: str | None, addresses: list[str]) -> None:
    """Appended as text, joined before or after the notes are made, or with a query besides: all mean one thing."""
    uri = ContentURI(V1, (), label, tuple(addresses))
    inside = ContentURI(V1, tuple(path), label, tuple(addresses))
    tail = "/" + ContentURI(V1, tuple(path)).locator.partition("/" + V1 + "/")[2]
    assert parse_uri(uri.pasteable + tail) == inside
    assert parse_uri(join(uri.pasteable, *path)) == inside
    assert parse_uri(join(str(uri), *path)) == inside
    assert parse_uri(parse_uri(join(V1, *path) + str(uri)[len(f"ipfs://{V1}") :]).pasteable) == inside


def test_it_looks_like_this() -> None:
    """The ID of a peer stands once for all its addresses."""
    addresses = (f"/ip4/192.168.1.20/tcp/4001/p2p/{ME}", f"/ip4/11.0.0.9/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{ME}")
    assert ContentURI(V1, ("a b",), "v.nii.gz", addresses).pasteable == (
        f"ipfs://label=v.nii.gz+provider={ME}=ip4:192.168.1.20:tcp:4001=ip4:11.0.0.9:tcp:4001:p2p:{RELAY}:p2p-circuit"
        f"@{V1}/a%20b"
    )
    assert ContentURI(V1, ("a~b",)).pasteable == f"ipfs://{V1}/a%7Eb"


def test_notes_and_query_together() -> None:
    """Both may stand; what is said twice is said once, but for two labels."""
    one, two = f"/ip4/11.0.0.9/tcp/1/p2p/{ME}", "/dns4/a.org/tcp/1"
    text = f"ipfs://provider={ME}=ip4:11.0.0.9:tcp:1@{V1}/a?label=x&provider={two}&provider={one}"
    assert parse_uri(text) == ContentURI(V1, ("a",), "x", (one, two))
    with pytest.raises(InvalidURI, match="two labels"):
        parse_uri(f"ipfs://label=x@{V1}?label=x")
    with pytest.raises(InvalidURI, match="two labels"):
        parse_uri(f"ipfs://label=x+label=x@{V1}")


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ("me", "'me' before its '@'"),
        ("me:secret", "nor may it be a user"),
        ("", "'' before its '@'"),
        ("label=a+", "'' before its '@'"),
        ("labels=a", "'labels=a' before"),
        ("label=a=b", "neither a label nor"),
        ("provider", "neither a label nor"),
        ("provider=", "neither a label nor"),
        ("label=a/b", "%2F"),
        ("label=a?b", "%3F"),
        ("provider=/ip4/11.0.0.9/tcp/1", "provider=ip4:192.168.1.20:tcp:4001"),
        ("label=%ff", "UTF-8"),
        ("label=%zz", "%25"),
        ("label=a#b", "%23"),
        ("provider=ip4:999.0.0.9:tcp:1", "not a multiaddr"),
        ("provider=ip4:11.0.0.9:tcp:99999", "not a multiaddr"),
        ("provider=ip4:11.0.0.9:tcp", "not the address of a peer"),
        ("provider=hello", "not the address of a peer"),
        (f"provider={ME}=", "not the address of a peer"),
        (f"provider={ME}==ip4:1.1.1.1:tcp:1", "not the address of a peer"),
        # Round in a circle, or through more relays than one.
        (f"provider={ME}=ip4:11.0.0.9:tcp:1:p2p:{ME}:p2p-circuit", "back to where it came from"),
        (f"provider=p2p:{RELAY}:p2p-circuit:p2p:{ME}:p2p-circuit:p2p:{RELAY}", "through one relay"),
        (f"provider={ME}=p2p:{RELAY}:p2p-circuit:p2p-circuit", "through one relay"),
        (f"provider={ME}=ip4:11.0.0.9:tcp:1:p2p:{RELAY}", "is no part of an address"),
        ("+".join(f"provider=ip4:11.0.0.{n}:tcp:1" for n in range(MAX_ADDRESSES + 1)), "More than 16"),
        (f"provider={ME}" + "".join(f"=ip4:11.0.0.{n}:tcp:1" for n in range(MAX_ADDRESSES + 1)), "More than 16"),
        ("label=" + "a" * 17_000, "too long"),
    ],
)
def test_hostile_and_mistyped_notes_are_refused_with_a_sentence(notes: str, says: str) -> None:
    """Nothing in them is passed over, and nobody is dialled who cannot be meant."""
    with pytest.raises((InvalidURI, InvalidAddress), match=re.escape(says)) as caught:
        parse_uri(f"ipfs://{notes}@{V1}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("form", ["label=x@{}", "/ipfs/label=x@{}"])
def test_notes_need_the_scheme(form: str) -> None:
    """Only after `ipfs://` can something stand before the CID."""
    with pytest.raises(InvalidURI, match="ipfs://"):
        parse_uri(form.format(V1))


texts = ["label=", "provider=", "+", "=", ":", "@", "%20", "%2F", "%", "~", "ip4:11.0.0.9:tcp:1", "p2p", "p2p-circuit"]
pieces = st.sampled_from([*texts, "/", "?", "&", "é", "x", V1, "label=x", ME, RELAY])


@given(st.lists(pieces, max_size=8).map("".join))
def test_any_mixture_is_read_whole_or_refused(notes: str) -> None:
    """It is refused with a sentence, or what was read is written and read again, and every letter of it was read."""
    uri, error = None, ""
    try:
        uri = parse_uri(f"ipfs://{notes}@{V1}")
    except KacheryError as why:
        error = str(why)
    assert error.isprintable()
    if uri is None:
        return
    assert parse_uri(uri.pasteable) == uri
    said = "".join([uri.cid, *uri.path, uri.label or "", *uri.providers])
    for piece in ("é", "x", ME, RELAY):
        assert (piece in notes) <= (piece in said)
