"""Multiaddrs: parsing, names, and our own addresses."""

from __future__ import annotations

import ipaddress
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import DialError, InvalidAddress
from kachery_p2p.peer_ids import parse_peer_id
from kachery_p2p.transport import addresses, dns_txt
from kachery_p2p.transport.addresses import (
    expand,
    parse_address,
    parse_listen,
    resolve,
    socket_multiaddr,
)
from tests.helpers.name_server import NameServer

PEER = "12D3KooWRm8J3iL796zPFi2EtGGtUJn58AG67gcRzQ4FWjEkZTnG"
OTHER = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "peer"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "ip4", "127.0.0.1", 4001, None),
        (f"/ip6/::1/tcp/4001/p2p/{PEER}", "ip6", "::1", 4001, PEER),
        (f"/ip4/1.2.3.4/tcp/1/ipfs/{OTHER}", "ip4", "1.2.3.4", 1, OTHER),
        (f"/dns4/example.org/tcp/80/p2p/{PEER}", "dns4", "example.org", 80, PEER),
        ("/dns/example.org/tcp/80", "dns", "example.org", 80, None),
        (f"/dnsaddr/bootstrap.example.org/p2p/{PEER}", "dnsaddr", "bootstrap.example.org", 0, PEER),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/5", "ip6", "fe80::1%eth0", 5, None),
    ],
)
def test_dialable_addresses(text: str, kind: str, host: str, port: int, peer: str | None) -> None:
    """Every form that can be dialled is taken apart."""
    address = parse_address(text)
    assert (address.kind, address.host, address.port, address.peer, address.problem) == (kind, host, port, peer, "")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/{PEER}", "quic-v1"),
        ("/ip4/1.2.3.4/tcp/4001/ws", "ws"),
        ("/dns4/example.org/tcp/443/wss", "wss"),
        ("/ip4/1.2.3.4/udp/4001", "ip4"),
        (f"/ip4/1.2.3.4/tcp/4001/p2p-circuit/p2p/{PEER}", "which relay"),
        (f"/p2p/{PEER}", "nothing to dial"),
    ],
)
def test_other_transports_are_named(text: str, word: str) -> None:
    """A well-formed address of another transport is no error but a reason, in plain words."""
    assert word in parse_address(text).problem


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "nonsense", "/ip4", "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/tcp/70000", "/ip4/1.2.3.4/tcp/x"),
        *("/ip6/zz/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/xyz", "/ip4/1.2.3.4/tcp/1/p2p/1111", "/ip4/1.2.3.4/tcp/1/p2p"),
        *("http://a.b", "/é/1", "/ip6zone/eth0", "/ip6zone/eth0/ip4/1.2.3.4/tcp/5"),
    ],
)
def test_what_is_no_multiaddr_is_refused(text: str) -> None:
    """Text that does not parse is `InvalidAddress`, and says what one looks like."""
    with pytest.raises(InvalidAddress):
        parse_address(text)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"/ip4/1.2.3.4/tcp/1/p2p/{text}"))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text raises anything but `InvalidAddress`."""
    try:
        parse_address(text)
    except InvalidAddress:
        pass


@pytest.mark.parametrize("listen", ["/dns4/localhost/tcp/1", f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}", "/ip4/1.2.3.4/udp/1"])
def test_only_ip_and_tcp_can_be_listened_on(listen: str) -> None:
    """Names, peer IDs and other transports are refused."""
    with pytest.raises(InvalidAddress):
        parse_listen(listen)


def test_peer_ids_in_all_written_forms() -> None:
    """base58 and CID forms of a peer ID are the same peer; nonsense is refused."""
    from libp2p.peer.id import ID

    raw = ID.from_base58(PEER).to_bytes()
    assert parse_peer_id(PEER) == PEER
    assert parse_peer_id(OTHER) == OTHER
    assert parse_peer_id(ID(b"\x01\x72" + raw).to_multibase("base32")) == PEER
    for text in ("", "Qm", "12D3", "0OIl", PEER[:-1], PEER + "1", "zzzz", "bafkqaaa"):
        with pytest.raises(InvalidAddress):
            parse_peer_id(text)


async def test_ip_addresses_need_no_resolver() -> None:
    """An IP address resolves to itself."""
    address = parse_address("/ip4/1.2.3.4/tcp/5")
    assert await resolve(address) == [address]


async def test_names_resolve_to_all_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name gives each of its IP addresses once, with the port and the peer of the multiaddr."""
    asked = []

    async def getaddrinfo(host: str, port: int, family: int = 0, type: int = 0) -> list[object]:
        asked.append((host, port, family, type))
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.2.3.4", port))
        return [entry, entry, (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    found = await resolve(parse_address(f"/dns/example.org/tcp/7/p2p/{PEER}"))
    expected = [("ip4", "1.2.3.4", 7, PEER), ("ip6", "2001:db8::1", 7, PEER)]
    assert [(each.kind, each.host, each.port, each.peer) for each in found] == expected
    await resolve(parse_address("/dns6/example.org/tcp/7"))
    assert [family for _, _, family, _ in asked] == [socket.AF_UNSPEC, socket.AF_INET6]


async def test_names_that_do_not_resolve_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DNS failure names the name."""

    async def getaddrinfo(*args: object, **kwargs: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(DialError, match=r"nowhere\.invalid does not resolve"):
        await resolve(parse_address("/dns4/nowhere.invalid/tcp/7"))


async def test_dnsaddr_records_lead_on(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """TXT records give addresses; those of other peers, of other transports and nonsense are left out."""
    lines = [f"dnsaddr=/ip4/1.2.3.4/tcp/5/p2p/{PEER}", f"dnsaddr=/ip4/9.9.9.9/tcp/5/p2p/{OTHER}", "dnsaddr=x"]
    lines += [f"dnsaddr=/ip4/1.2.3.4/udp/5/quic-v1/p2p/{PEER}", "v=spf1"]
    server = await nursery.start(NameServer({"_dnsaddr.example.org.": lines}).run)
    monkeypatch.setattr(dns_txt, "name_servers", lambda: [server])
    found = await resolve(parse_address(f"/dnsaddr/example.org/p2p/{PEER}"))
    assert [(each.host, each.peer) for each in found] == [("1.2.3.4", PEER)]


async def test_dnsaddr_records_that_point_at_each_other_end(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of dnsaddr records is an error, and soon."""
    server = await nursery.start(NameServer({"_dnsaddr.example.org.": ["dnsaddr=/dnsaddr/example.org"]}).run)
    monkeypatch.setattr(dns_txt, "name_servers", lambda: [server])
    with pytest.raises(DialError):
        await resolve(parse_address("/dnsaddr/example.org"))


def test_wildcard_becomes_the_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.0.0.0 and :: are never told to anybody; loopback comes last."""
    table = {4: ["127.0.0.1", "192.168.1.7"], 6: ["::1", "2001:db8::7"]}
    monkeypatch.setattr(addresses, "interface_addresses", lambda version: table[version])
    assert expand([("0.0.0.0", 4001), ("::", 4002), ("10.0.0.1", 5)]) == [
        "/ip4/192.168.1.7/tcp/4001",
        "/ip6/2001:db8::7/tcp/4002",
        "/ip4/10.0.0.1/tcp/5",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/tcp/4002",
    ]


def test_interfaces_of_this_machine() -> None:
    """Loopback is found, link-local addresses are not, and the version is the one asked for."""
    found = addresses.interface_addresses(4)
    assert "127.0.0.1" in found
    for version in (4, 6):
        for text in addresses.interface_addresses(version):
            ip = ipaddress.ip_address(text)
            assert ip.version == version
            assert not ip.is_link_local


def test_socket_names_become_multiaddrs() -> None:
    """What the socket module says, as a multiaddr; IPv4 in IPv6 is IPv4."""
    assert socket_multiaddr(("1.2.3.4", 5)) == "/ip4/1.2.3.4/tcp/5"
    assert socket_multiaddr(("::1", 5, 0, 0)) == "/ip6/::1/tcp/5"
    assert socket_multiaddr(("::ffff:1.2.3.4", 5, 0, 0)) == "/ip4/1.2.3.4/tcp/5"
    assert socket_multiaddr(("fe80::1%eth0", 5, 0, 2)) == "/ip6zone/eth0/ip6/fe80::1/tcp/5"
