"""How far an address reaches, by the registries of special-purpose addresses; and that all are told the same."""

from __future__ import annotations

import ipaddress

import pytest

from kachery_cloud.settings.pin_services import PinSetting
from kachery_p2p import multiaddrs
from kachery_p2p.addresses import Reach, is_of_a_host, is_public, reach, reach_of_ip
from kachery_p2p.routing import text
from kachery_p2p.routing.dht import addresses as dht
from kachery_p2p.routing.mdns.addresses import Interface, believable
from kachery_p2p.transport.nat import endpoints
from kachery_p2p.transport.relay import scope

NOWHERE, LOOPBACK, LINK, PRIVATE, PUBLIC = Reach
PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"

#: Each line is one of the registries' (https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-), the
#: first and last address of a network and its neighbours, or a disguise of one of these.
IPS = [
    # IPv4
    ("0.0.0.0", NOWHERE),
    ("0.1.2.3", NOWHERE),
    ("1.0.0.0", PUBLIC),
    ("8.8.8.8", PUBLIC),
    ("9.255.255.255", PUBLIC),
    ("10.0.0.0", PRIVATE),
    ("10.255.255.255", PRIVATE),
    ("11.0.0.0", PUBLIC),
    ("100.63.255.255", PUBLIC),
    ("100.64.0.1", PRIVATE),
    ("100.127.255.255", PRIVATE),
    ("100.128.0.0", PUBLIC),
    ("127.0.0.1", LOOPBACK),
    ("127.255.255.254", LOOPBACK),
    ("169.254.169.254", LINK),
    ("172.15.255.255", PUBLIC),
    ("172.16.0.0", PRIVATE),
    ("172.31.255.255", PRIVATE),
    ("172.32.0.0", PUBLIC),
    ("192.0.0.1", NOWHERE),
    ("192.0.0.8", NOWHERE),
    ("192.0.0.9", PUBLIC),
    ("192.0.0.10", PUBLIC),
    ("192.0.0.11", NOWHERE),
    ("192.0.0.170", NOWHERE),
    ("192.0.2.1", NOWHERE),
    ("192.31.196.1", PUBLIC),
    ("192.52.193.1", PUBLIC),
    ("192.88.99.1", NOWHERE),
    ("192.168.1.1", PRIVATE),
    ("192.175.48.1", PUBLIC),
    ("198.17.255.255", PUBLIC),
    ("198.18.0.1", NOWHERE),
    ("198.19.255.255", NOWHERE),
    ("198.20.0.0", PUBLIC),
    ("198.51.100.7", NOWHERE),
    ("203.0.113.7", NOWHERE),
    ("223.255.255.255", PUBLIC),
    ("224.0.0.251", NOWHERE),
    ("239.255.255.250", NOWHERE),
    ("240.0.0.1", NOWHERE),
    ("255.255.255.255", NOWHERE),
    # IPv6
    ("::", NOWHERE),
    ("::1", LOOPBACK),
    ("::2", NOWHERE),
    ("::127.0.0.1", NOWHERE),
    ("::8.8.8.8", NOWHERE),
    ("::ffff:8.8.8.8", PUBLIC),
    ("::ffff:10.0.0.1", PRIVATE),
    ("::ffff:127.0.0.1", LOOPBACK),
    ("::ffff:169.254.169.254", LINK),
    ("::ffff:224.0.0.251", NOWHERE),
    ("::ffff:0:8.8.8.8", NOWHERE),
    ("64:ff9b::8.8.8.8", PUBLIC),
    ("64:ff9b::10.0.0.1", PRIVATE),
    ("64:ff9b::192.168.1.1", PRIVATE),
    ("64:ff9b::127.0.0.1", LOOPBACK),
    ("64:ff9b:0:0:0:1:808:808", NOWHERE),
    ("64:ff9b:1::8.8.8.8", PRIVATE),
    ("64:ff9b:1::10.0.0.1", PRIVATE),
    ("64:ff9b:2::", NOWHERE),
    ("100::1", NOWHERE),
    ("2001::1", NOWHERE),
    ("2001:0:808:808:0:0:f7f7:f7f7", PUBLIC),  # Teredo: server 8.8.8.8, client 8.8.8.8
    ("2001:0:808:808:0:0:f5ff:fffe", PRIVATE),  # client 10.0.0.1
    ("2001:0:a00:1:0:0:f7f7:f7f7", PRIVATE),  # server 10.0.0.1
    ("2001:1::1", PUBLIC),
    ("2001:1::4", NOWHERE),
    ("2001:2::1", NOWHERE),
    ("2001:3::1", PUBLIC),
    ("2001:4:112::1", PUBLIC),
    ("2001:10::1", NOWHERE),
    ("2001:20::1", PUBLIC),
    ("2001:200::1", PUBLIC),
    ("2001:db8::1", NOWHERE),
    ("2002:808:808::1", PUBLIC),  # 6to4 of 8.8.8.8
    ("2002:a00:1::1", PRIVATE),  # of 10.0.0.1
    ("2002:c0a8:101::1", PRIVATE),  # of 192.168.1.1
    ("2002:7f00:1::1", LOOPBACK),  # of 127.0.0.1
    ("2604:1380::1", PUBLIC),
    ("3fff::1", NOWHERE),
    ("3fff:1000::1", PUBLIC),
    ("4000::1", NOWHERE),
    ("5f00::1", NOWHERE),
    ("fc00::1", PRIVATE),
    ("fd12:3456::1", PRIVATE),
    ("fe80::1", LINK),
    ("fec0::1", PRIVATE),
    ("ff02::fb", NOWHERE),
    ("ff0e::1", NOWHERE),
]
NAMES = [
    ("localhost", LOOPBACK),
    ("localhost.", LOOPBACK),
    ("LOCALHOST", LOOPBACK),
    ("a.localhost", LOOPBACK),
    ("node.local", PRIVATE),
    ("nas.lan", PRIVATE),
    ("db.internal", PRIVATE),
    ("x.home.arpa", PRIVATE),
    ("nas", PRIVATE),
    ("example.org", PUBLIC),
    ("localhost.example.org", PUBLIC),
    ("", NOWHERE),
    ("fe80::1%eth0", LINK),
    ("fd00::1%eth0", LINK),
    ("[::1]", LOOPBACK),
]


@pytest.mark.parametrize(("host", "expected"), [*IPS, *NAMES])
def test_how_far_it_reaches(host: str, expected: Reach) -> None:
    """What the registries say, also for IPv4 addresses in the disguise of IPv6."""
    assert reach(host) is expected
    assert is_public(host) is (expected is PUBLIC)


@pytest.mark.parametrize(("host", "expected"), IPS)
def test_everybody_is_told_the_same(host: str, expected: Reach) -> None:
    """HTTP routers, the DHT, reachability, relays, mDNS and pinning services all take an address for what it is."""
    ip = ipaddress.ip_address(host)
    addr = f"/ip{ip.version}/{host}/tcp/4001"
    public = expected is PUBLIC
    assert reach_of_ip(ip) is expected
    assert (text.scope(addr) is text.AddressScope.PUBLIC) is public
    assert (text.scope(addr) is text.AddressScope.LOOPBACK) is (expected is LOOPBACK)
    raw = multiaddrs.to_binary(addr)
    assert [dht.is_public(raw), dht.is_loopback(raw)] == [public, expected is LOOPBACK]
    assert (dht.kind_of(raw) == dht.LAN) is (expected in (LINK, PRIVATE))
    assert scope.is_public(addr) is public
    assert scope.is_loopback(addr) is (expected is LOOPBACK)
    # Nobody listens at an IPv4 address that is written as IPv6.
    mapped = ip.version == 6 and ip.ipv4_mapped is not None
    assert endpoints.is_public(ip) is (public and not mapped)
    url = f"http://{host if ip.version == 4 else f'[{host}]'}:5001"
    assert PinSetting("x", url).is_local is not public
    if public or expected is LOOPBACK or not is_of_a_host(ip):
        assert believable(f"{addr}/p2p/{PEER}", Interface("eth0", 1, (), ())) is None


@pytest.mark.parametrize("name", ["localhost", "x.localhost"])
def test_a_name_of_this_machine_is_not_public(name: str) -> None:
    """A router on the internet cannot send us to our own machine by its name."""
    assert text.scope(f"/dns4/{name}/tcp/4001") is text.AddressScope.LOOPBACK
    assert text.scope("/dnsaddr/nas.local") is text.AddressScope.PRIVATE
    assert scope.is_loopback(f"/dns4/{name}/tcp/4001")
    assert not scope.is_public(f"/dns4/{name}/tcp/4001")
    assert dht.is_loopback(multiaddrs.to_binary(f"/dns4/{name}/tcp/4001"))


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("224.0.0.251", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("0.0.0.1", False),
        ("::", False),
        ("ff02::fb", False),
        ("::ffff:224.0.0.251", False),
        ("::ffff:0.0.0.0", False),
        ("64:ff9b::0.0.0.0", False),
        ("2002:e000:fb::", False),
        ("8.8.8.8", True),
        ("192.168.1.1", True),
        ("192.0.2.1", True),
        ("::ffff:8.8.8.8", True),
        ("::1", True),
        ("fe80::1", True),
    ],
)
def test_groups_and_any_address_are_never_dialled(host: str, good: bool) -> None:
    """They are told in every way of writing them, and are no addresses of a peer."""
    ip = ipaddress.ip_address(host)
    assert is_of_a_host(ip) is good
    assert (text.dialable(f"/ip{ip.version}/{host}/tcp/1", PEER) is not None) is good
