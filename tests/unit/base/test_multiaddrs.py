"""Multiaddrs written and in binary: as the package multiaddr has them, and strictly."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.peer_ids import peer_text

PEER = "12D3KooWRm8J3iL796zPFi2EtGGtUJn58AG67gcRzQ4FWjEkZTnG"
HASHED = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
CERTHASH = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g"

labels = st.from_regex(r"\A(?!..--)[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?\Z")
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
peers = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda digest: peer_text(b"\x12\x20" + digest)),
    st.binary(min_size=32, max_size=32).map(lambda key: peer_text(b"\x00\x24\x08\x01\x12\x20" + key)),
)
ports = st.integers(min_value=0, max_value=65535)
hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    # Which of two forms an address such as ::1.2.3.4 is written in differs: nobody can be reached at one.
    st.ip_addresses(v=6).filter(lambda ip: int(ip) >> 96 != 0 or int(ip) < 2).map(lambda ip: f"/ip6/{ip}"),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6", "dnsaddr"]), names).map(lambda pair: f"/{pair[0]}/{pair[1]}"),
)
transports = st.one_of(
    ports.map(lambda port: f"/tcp/{port}"),
    st.tuples(ports, st.sampled_from(["", "/ws", "/tls/ws", "/wss", "/http", "/tls/http", "/noise", "/https"])).map(
        lambda pair: f"/tcp/{pair[0]}{pair[1]}"
    ),
    ports.map(lambda port: f"/udp/{port}/quic-v1"),
    ports.map(lambda port: f"/udp/{port}/quic-v1/webtransport/certhash/{CERTHASH}/certhash/{CERTHASH}"),
    ports.map(lambda port: f"/udp/{port}/webrtc-direct/certhash/{CERTHASH}"),
    names.map(lambda name: f"/tcp/443/tls/sni/{name}/ws"),
)
ends = st.one_of(
    st.just(""),
    peers.map(lambda peer: f"/p2p/{peer}"),
    st.tuples(peers, peers).map(lambda pair: f"/p2p/{pair[0]}/p2p-circuit/p2p/{pair[1]}"),
)
addresses = st.tuples(hosts, transports, ends).map("".join)


@given(addresses)
def test_the_same_as_the_package(text: str) -> None:
    """Both directions, for every protocol that is read here."""
    theirs = Multiaddr(text)
    raw = multiaddrs.to_binary(text)
    assert raw == theirs.to_bytes()
    assert multiaddrs.to_text(raw) == str(theirs)
    assert multiaddrs.split(text) == [(protocol.name, value) for protocol, value in theirs.items()]


@pytest.mark.parametrize(
    "text",
    [
        "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234",
        "/unix/tmp/a.sock",
        "/dns4/bücher.example/tcp/80",
        "/ip4/192.0.2.1/tcp/80/http/http-path/a%2Fb",
        "/memory/7",
    ],
)
def test_rare_ones_are_left_to_the_package(text: str) -> None:
    """Whatever else the package knows is known here, in its own way."""
    theirs = Multiaddr(text)
    assert multiaddrs.to_binary(text) == theirs.to_bytes()
    assert multiaddrs.to_text(theirs.to_bytes()) == str(theirs)
    assert multiaddrs.split(text) == [(protocol.name, value) for protocol, value in theirs.items()]


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("/ip6/2001:DB8:0::1/tcp/5", "/ip6/2001:db8::1/tcp/5"),
        ("/ip6/::ffff:192.0.2.1/tcp/5", "/ip6/::ffff:192.0.2.1/tcp/5"),
        ("/ip4/192.0.2.1/tcp/0005/", "/ip4/192.0.2.1/tcp/5"),
        ("/p2p/bafzaajaiaejcb3tpvxt4xbfdv7ppqwn5sgv4kyl3xgbzwbuyqsy6ezk7ziqk6xw6", None),
    ],
)
def test_usual_forms(text: str, usual: str | None) -> None:
    """An address that can be written in several ways comes out in one; a peer ID in base58."""
    found = multiaddrs.to_text(multiaddrs.to_binary(text))
    assert found == usual if usual else found.startswith("/p2p/12D3KooW")


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "//", "nonsense", "ip4/1.2.3.4", "/ip4", "/ip4/", "/ip4/1.2.3/tcp/1", "/ip4/01.2.3.4"),
        *("/ip4/1.2.3.4/tcp", "/ip4/1.2.3.4//tcp/1", "/ip4/::1", "/ip6/1.2.3.4", "/ip6/fe80::1%eth0/tcp/1"),
        *("/p2p/", "/p2p/Qm", "/p2p/1111"),
        *(f"/ip4/1.2.3.4/tcp/{port}" for port in ("65536", "-1", "+1", " 1", "1_0", "x", "١", "99999999999")),
        *("/dns4/", "/dns4/a..b/tcp/1", "/dns4/-a/tcp/1", f"/dns4/{'a' * 64}/tcp/1", "/certhash/x", "/unheard-of/1"),
    ],
)
def test_no_multiaddrs(text: str) -> None:
    """What is none is refused, and the error shows it."""
    for read in (multiaddrs.to_binary, multiaddrs.split):
        with pytest.raises(InvalidAddress, match="is not a multiaddr"):
            read(text)


@given(addresses.flatmap(lambda text: st.tuples(st.just(text), st.integers(min_value=1, max_value=200))))
def test_cut_short(pair: tuple[str, int]) -> None:
    """A binary address that ends within a value is refused; one that ends after it is a shorter address."""
    text, size = pair
    raw = multiaddrs.to_binary(text)[:size]
    try:
        found = multiaddrs.to_text(raw)
    except InvalidAddress:
        return
    assert multiaddrs.to_binary(found) == raw
    assert text.startswith(found)


@given(st.binary(max_size=64))
def test_any_bytes(raw: bytes) -> None:
    """No bytes raise anything but `InvalidAddress`."""
    try:
        multiaddrs.to_text(raw)
    except InvalidAddress:
        pass


@given(st.text(max_size=40) | st.text(max_size=30).map(lambda text: f"/ip4/1.2.3.4/tcp/1/{text}"))
def test_any_text(text: str) -> None:
    """No text raises anything but `InvalidAddress`."""
    try:
        multiaddrs.split(text)
    except InvalidAddress:
        pass


def test_the_package_is_imported_when_it_is_needed() -> None:
    """The addresses that Kubo and Helia send do not need it."""
    common = [
        f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}",
        f"/ip6/::1/udp/4001/quic-v1/webtransport/certhash/{CERTHASH}/p2p/{HASHED}/p2p-circuit",
        "/dns4/example.org/tcp/443/tls/ws",
    ]
    code = f"""
import sys
from kachery_p2p import multiaddrs
for text in {common}:
    assert multiaddrs.to_text(multiaddrs.to_binary(text)) == text
print("multiaddr" in sys.modules)
multiaddrs.to_binary("/memory/7")
print("multiaddr" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
