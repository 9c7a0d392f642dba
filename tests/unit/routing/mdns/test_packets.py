"""DNS packets of libp2p's discovery: what others write is read, what we write others can read."""

from __future__ import annotations

import struct

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.mdns import limits, packets
from tests.helpers import mdns_fakes as fakes

PEER = fakes.peer_id(7)
LABEL = b"a" * 32


def test_reads_helia() -> None:
    """Helia's answer, one TXT record for each address and no SRV, gives all its addresses."""
    data = fakes.helia("Ab3", PEER, "/ip4/10.1.0.3/tcp/4001", "/ip4/127.0.0.1/tcp/4001")
    packet = packets.decode(data)
    assert packet.response
    [node] = packets.heard(packet)
    assert (node.name, node.ttl, node.flush) == (b"ab3", 120, False)
    assert node.texts == [f"/ip4/10.1.0.3/tcp/4001/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"]


def test_reads_kubo() -> None:
    """Kubo's answer, one TXT record with several strings among the additional records, gives all its addresses."""
    [node] = packets.heard(packets.decode(fakes.kubo("k", PEER, "/ip4/10.1.0.3/tcp/4001", "/ip6/fd00::3/tcp/4001")))
    assert node.texts == [f"/ip4/10.1.0.3/tcp/4001/p2p/{PEER}", f"/ip6/fd00::3/tcp/4001/p2p/{PEER}"]
    [node] = packets.heard(packets.decode(fakes.kubo_goodbye("k")))
    assert node.ttl == 0


def test_answer_is_read_by_a_dns_library() -> None:
    """Our answer has a PTR record as answer, and SRV, TXT and addresses additional; it fits the one Kubo needs."""
    addrs = ["/ip4/10.1.0.3/tcp/4001", "/ip6/fd00::3/tcp/4002", "/ip4/10.1.0.3/tcp/4003"]
    [data] = packets.answers(LABEL, PEER, addrs)
    assert packets.about_libp2p(data)
    message = dns.message.from_wire(data)
    [ptr] = message.answer
    own = str(ptr[0])
    assert (ptr.name.to_text(), own) == ("_p2p._udp.local.", f"{LABEL.decode()}._p2p._udp.local.")
    kinds = {each.rdtype: each for each in message.additional}
    assert {name.name.to_text() for name in message.additional} == {own, f"{LABEL.decode()}.local."}
    [txt] = kinds[dns.rdatatype.TXT]
    assert [each.decode() for each in txt.strings] == [f"dnsaddr={addr}/p2p/{PEER}" for addr in addrs]
    # The top bit of the class tells caches to forget older records; without it they are plain Internet records.
    assert {each.rdclass for each in message.additional} == {packets.IN | packets.TOP_BIT}
    [srv] = kinds[dns.rdatatype.SRV]
    [a], [aaaa] = kinds[dns.rdatatype.A], kinds[dns.rdatatype.AAAA]
    assert srv.to_wire()[4:6] == (4001).to_bytes(2, "big")
    assert a.to_wire() == bytes([10, 1, 0, 3])
    assert aaaa.to_wire()[:2] == b"\xfd\x00"


@given(st.integers(1, 60), st.integers(32, 63))
@settings(max_examples=40)
def test_many_addresses_are_split(count: int, length: int) -> None:
    """However many addresses, no packet is longer than every network carries, each stands by itself, none is lost."""
    addrs = [f"/ip6/fd00::{number:x}/tcp/{4000 + number}" for number in range(count)]
    label = b"x" * length
    texts = []
    for data in packets.answers(label, PEER, addrs):
        assert len(data) <= limits.MAX_SENT
        [node] = packets.heard(packets.decode(data))
        assert (node.name, node.ttl, node.flush) == (label, limits.TTL, True)
        texts += node.texts
        dns.message.from_wire(data)
    assert texts == [f"{addr}/p2p/{PEER}" for addr in addrs]


def test_long_addresses_are_left_out() -> None:
    """What does not fit into a string of a TXT record is not announced, and does not hold up the rest."""
    peer = "P" * 222
    short, long = "/ip4/1.0.0.3/tcp/1", "/ip4/10.11.12.13/tcp/4001"
    [data] = packets.answers(LABEL, peer, [long, short])
    assert packets.heard(packets.decode(data))[0].texts == [f"{short}/p2p/{peer}"]


def test_query() -> None:
    """The question is for PTR records, and names those that need not answer, as many as fit."""
    message = dns.message.from_wire(packets.query([(b"n" * 40, 100.9)]))
    [question] = message.question
    assert question.to_text() == "_p2p._udp.local. IN PTR"
    assert not message.flags
    assert [each.ttl for each in message.answer] == [100]
    data = packets.query((b"%060d" % number, 300.0) for number in range(1000))
    assert len(data) <= limits.MAX_SENT
    assert len(packets.decode(data).records) > 10


def test_who_is_asked() -> None:
    """All nodes, one node's records and one node's host name concern us; another node's, or another service, do not."""

    def asks(name: str, kind: str) -> packets.Packet:
        return packets.decode(dns.message.make_query(name, kind, flags=0).to_wire())

    label = LABEL.decode()
    for name, kind in [
        ("_P2P._udp.local.", "PTR"),
        ("_p2p._udp.local.", "ANY"),
        (f"{label}._p2p._udp.local.", "TXT"),
        (f"{label}._p2p._udp.local.", "SRV"),
        (f"{label}.local.", "AAAA"),
    ]:
        assert packets.asks_for(asks(name, kind), LABEL), name
    for name, kind in [
        ("_p2p._udp.local.", "TXT"),
        ("_p2p._tcp.local.", "PTR"),
        ("other._p2p._udp.local.", "TXT"),
        ("_services._dns-sd._udp.local.", "PTR"),
    ]:
        assert not packets.asks_for(asks(name, kind), LABEL), name
    assert packets.asks_for_services(asks("_services._dns-sd._udp.local.", "PTR"))


def test_known_answers() -> None:
    """We need not answer one who knows us for half our time to come, but do if it will forget us sooner."""
    assert packets.knows(packets.decode(packets.query([(LABEL, limits.TTL / 2)])), LABEL)
    assert not packets.knows(packets.decode(packets.query([(LABEL, limits.TTL / 2 - 1)])), LABEL)
    assert not packets.knows(packets.decode(packets.query([(b"b" * 32, limits.TTL)])), LABEL)


def test_one_shot_answer() -> None:
    """A one-shot resolver gets its id and question back, and may keep the answer for ten seconds only."""
    asked = dns.message.make_query("_p2p._udp.local.", "PTR", flags=0)
    [data] = packets.answers(LABEL, PEER, ["/ip4/10.1.0.3/tcp/4001"], to=packets.decode(asked.to_wire()))
    reply = dns.message.from_wire(data)
    assert asked.is_response(reply)
    assert {each.ttl for each in (*reply.answer, *reply.additional)} == {limits.LEGACY_TTL}


def test_other_services_are_not_read() -> None:
    """Packets about printers are told from ours without being read."""
    printer = fakes.message(True, "_ipp._tcp.local. 120 PTR printer._ipp._tcp.local.")
    assert not packets.about_libp2p(printer)
    assert packets.about_libp2p(fakes.helia("x", PEER, "/ip4/10.1.0.3/tcp/1").upper())


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever comes is read or is a `MalformedMessage`."""
    try:
        packets.heard(packets.decode(data))
    except MalformedMessage:
        pass


@given(st.data())
@settings(max_examples=200)
def test_damaged_packets(data: st.DataObject) -> None:
    """A good packet, cut or with bytes changed, is read or is a `MalformedMessage`."""
    good = bytearray(fakes.kubo("k" * 40, PEER, "/ip4/10.1.0.3/tcp/4001", "/ip6/fd00::3/tcp/4001"))
    for _ in range(data.draw(st.integers(0, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        packets.heard(packets.decode(bytes(good[: data.draw(st.integers(0, len(good)))])))
    except MalformedMessage:
        pass


def header(questions: int = 0, answers: int = 0, flags: int = 0x8400) -> bytes:
    return struct.pack("!6H", 0, flags, questions, answers, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header()[:11],
        header(1) + b"\xc0\x0c" + b"\0\x0c\0\x01",  # a name that is a link to itself
        header(2) + b"\x01a\xc0\x12\0\x0c\0\x01" + b"\x01b\xc0\x0c\0\x0c\0\x01",  # a link forward
        header(1) + b"\x40" + bytes(64) + b"\0\x0c\0\x01",  # a kind of label that does not exist
        header(1) + (b"\x3f" + b"a" * 63) * 4 + b"\0" + b"\0\x0c\0\x01",  # 257 bytes of name
        header(0, 1) + b"\0" + struct.pack("!HHIH", 16, 1, 120, 5) + b"\x09aaaa",  # a string beyond its record
        header(0, 1) + b"\0" + struct.pack("!HHIH", 12, 1, 120, 3) + b"\0\0\0",  # a name shorter than its record
        header(0, 1) + b"\0" + struct.pack("!HHIH", 1, 1, 120, 60000),  # a record beyond the packet
        header(65535),
        header(0, 65535),
        header(flags=0x8403),  # a response code
        header(flags=0x2800),  # an update
        header() + bytes(9000),
    ],
)
def test_malformed(data: bytes) -> None:
    """Each of these is refused."""
    with pytest.raises(MalformedMessage):
        packets.decode(data)


def test_long_chains_of_links() -> None:
    """Names that are chains of thousands of links are refused, and cost nothing."""
    chain = b"".join(struct.pack("!H", 0xC000 | 12 + 2 * max(number - 1, 0)) for number in range(4000))
    body = b"\0\0" + chain
    record = struct.pack("!HHIH", 99, 1, 120, len(body))
    data = header(0, 2) + b"\0" + record + body + struct.pack("!H", 0xC000 | 12 + 11 + len(body) - 2) + record
    with pytest.raises(MalformedMessage):
        packets.decode(data)
