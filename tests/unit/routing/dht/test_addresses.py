"""Keys and addresses: places, prefixes, and which address belongs into which DHT."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.routing.dht import addresses, limits
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.keys import common_prefix, distance, kad_id, key_in
from tests.helpers.dht_fakes import ip4, peer_id, relayed

WAN, LAN = DhtScope(lan=False), DhtScope(lan=True)


def test_places() -> None:
    """A place is the SHA-256 as a number; distance is XOR; the prefix counts leading bits."""
    assert kad_id(b"x") == int(sha256(b"x").hexdigest(), 16)
    assert distance(0b1100, 0b1010) == 0b0110
    assert common_prefix(5, 5) == 256
    assert common_prefix(0, 1 << 255) == 0
    assert common_prefix(0, 1 << 250) == 5


@pytest.mark.parametrize("length", [0, 1, 5, 12])
def test_keys_in_a_region(length: int) -> None:
    """Keys found by trial lie in the region that was asked for, and differ each time."""
    rng = random.Random(1)
    prefix = rng.getrandbits(length) if length else 0
    assert kad_id(key_in(prefix, length, rng)) >> (256 - length) == prefix
    assert key_in(prefix, length, rng) != key_in(prefix, length, rng)
    with pytest.raises(ValueError):
        key_in(1 << length, length, rng)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/ip4/8.8.8.8/tcp/4001", addresses.PUBLIC),
        ("/ip4/8.8.8.8/udp/4001/quic-v1", addresses.PUBLIC),
        ("/ip6/2604:1380::1/tcp/4001", addresses.PUBLIC),
        ("/dns4/example.org/tcp/443/wss", addresses.PUBLIC),
        ("/dns4/nas.local/tcp/4001", addresses.LAN),
        ("/ip4/10.1.2.3/tcp/1", addresses.LAN),
        ("/ip4/172.31.0.1/tcp/1", addresses.LAN),
        ("/ip4/192.168.1.1/tcp/1", addresses.LAN),
        ("/ip4/169.254.0.9/tcp/1", addresses.LAN),
        ("/ip4/100.64.0.1/tcp/1", addresses.LAN),
        ("/ip6/fd00::1/tcp/1", addresses.LAN),
        ("/ip6/fe80::1/tcp/1", addresses.LAN),
        ("/ip6/::ffff:10.0.0.1/tcp/1", addresses.LAN),
        ("/ip4/127.0.0.1/tcp/1", addresses.LOOPBACK),
        ("/ip6/::1/tcp/1", addresses.LOOPBACK),
        ("/dns4/localhost/tcp/1", addresses.LOOPBACK),
        ("/ip4/0.0.0.0/tcp/1", 0),
        ("/ip6/::/tcp/1", 0),
        ("/ip4/224.0.0.251/udp/5353", 0),
        ("/ip4/192.0.2.7/tcp/1", 0),
        ("/ip6/2001:db8::1/tcp/1", 0),
        ("/tcp/4001", 0),
    ],
)
def test_where_an_address_lies(text: str, kind: int) -> None:
    """Public, LAN, loopback or nowhere, by its first component; and text and bytes are the same address."""
    raw = multiaddrs.to_binary(text)
    assert addresses.kind_of(raw) == kind
    assert multiaddrs.to_text(raw) == text
    assert [addresses.is_public(raw), addresses.is_loopback(raw)] == [
        kind == each for each in (addresses.PUBLIC, addresses.LOOPBACK)
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x04\x08\x08",
        ip4("8.8.8.8")[:-1],
        ip4("8.8.8.8") + b"\xff\xff\xff",
        ip4("8.8.8.8") + b"\xa5\x03\x7fxx",
        b"\x35\x02\xff\xfe",
        b"\x04" + bytes(300),
        b"\x2a\x04eth0\x29" + bytes(15) + b"\x01",
    ],
)
def test_malformed_addresses(raw: bytes) -> None:
    """What cannot be read to its end, has a zone, or is too long leads nowhere."""
    assert addresses.kind_of(raw) == 0
    assert WAN.usable([raw]) == LAN.usable([raw]) == ()


def test_text_errors() -> None:
    """What is no address raises InvalidAddress, or is left out of a list."""
    with pytest.raises(InvalidAddress):
        multiaddrs.to_binary("/nonsense/1")
    with pytest.raises(InvalidAddress):
        multiaddrs.to_text(b"\xff\xff")
    good = "/ip4/8.8.8.8/tcp/1"
    assert addresses.from_texts([good, "x"]) == (multiaddrs.to_binary(good),)
    assert addresses.to_texts([b"\xff\xff", multiaddrs.to_binary(good)]) == (good,)


def test_scopes() -> None:
    """Public addresses only into the public DHT; all but loopback into the LAN's; loopback where that is allowed."""
    rng = random.Random(2)
    public, lan, loop = ip4("8.8.8.8"), ip4("192.168.0.2"), ip4("127.0.0.1")
    relay = relayed(public, peer_id(rng))
    everything = (public, lan, loop, relay, public)
    assert WAN.usable(everything) == (public, relay)
    assert LAN.usable(everything) == (public, lan, relay)
    assert DhtScope(lan=False, allow_loopback=True).usable(everything) == (public, loop, relay)
    assert DhtScope(lan=True, allow_loopback=True).usable(everything) == (public, lan, loop, relay)
    assert addresses.is_relayed(relay)
    assert not addresses.is_relayed(public)


def test_who_may_enter() -> None:
    """Into the public table with a public address of one's own, into the LAN's from the LAN."""
    rng = random.Random(3)
    public, lan, loop = ip4("8.8.8.8"), ip4("192.168.0.2"), ip4("127.0.0.1")
    relay = relayed(public, peer_id(rng))
    assert WAN.admits([lan, public])
    assert not WAN.admits([lan, loop])
    assert not WAN.admits([relay])
    assert LAN.admits([lan, public])
    assert not LAN.admits([public])
    # What it says of itself does not make it a neighbour: where it is seen does.
    assert not LAN.admits([lan], public)
    assert LAN.admits([lan], ip4("192.168.0.9"))
    assert not LAN.admits([loop])
    assert DhtScope(lan=True, allow_loopback=True).admits([loop], loop)
    assert WAN.may_ask([public])
    assert not WAN.may_ask([lan, relay])
    assert LAN.may_ask([public])
    assert not LAN.may_ask([])


def test_ip_groups() -> None:
    """IPv4 counts by /16, however it is written, IPv6 by /32; names do not count."""
    group = addresses.ip_group
    assert group(ip4("8.8.1.1")) == group(ip4("8.8.200.9", 99))
    assert group(ip4("8.8.1.1")) != group(ip4("8.9.1.1"))
    assert group(multiaddrs.to_binary("/ip6/::ffff:8.8.3.3/tcp/1")) == group(ip4("8.8.1.1"))
    one, two, other = (
        group(multiaddrs.to_binary(f"/ip6/{ip}/tcp/1")) for ip in ("2604:1380::1", "2604:1380:9::2", "2604:1381::1")
    )
    assert one == two != other
    assert group(multiaddrs.to_binary("/dns4/example.org/tcp/1")) is None


def test_no_more_than_a_peer_may_have() -> None:
    """Thousands of addresses are cut to the limit."""
    many = [ip4(f"8.8.{n >> 8}.{n & 255}") for n in range(5000)]
    assert len(WAN.usable(many)) == limits.MAX_ADDRS_PER_PEER
