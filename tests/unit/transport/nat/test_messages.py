"""AutoNAT messages and endpoints: the bytes of the specifications, and nothing but named errors for other bytes."""

from __future__ import annotations

import ipaddress

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.transport.nat import autonat_messages as m
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.endpoints import TcpEndpoint, from_binary, from_text, is_public, network_of

Field = descriptor_pb2.FieldDescriptorProto

#: the messages as the specifications declare them: name -> fields (name, number, type or message, repeated)
SCHEMA: dict[str, list[tuple[str, int, int | str, bool]]] = {
    "PeerInfo": [("id", 1, Field.TYPE_BYTES, False), ("addrs", 2, Field.TYPE_BYTES, True)],
    "Dial": [("peer", 1, "PeerInfo", False)],
    "Response": [
        ("status", 1, Field.TYPE_INT32, False),
        ("statusText", 2, Field.TYPE_STRING, False),
        ("addr", 3, Field.TYPE_BYTES, False),
    ],
    "V1": [
        ("type", 1, Field.TYPE_INT32, False),
        ("dial", 2, "Dial", False),
        ("dialResponse", 3, "Response", False),
    ],
    "DialRequest": [("addrs", 1, Field.TYPE_BYTES, True), ("nonce", 2, Field.TYPE_FIXED64, False)],
    "DialResponse": [
        ("status", 1, Field.TYPE_INT32, False),
        ("addrIdx", 2, Field.TYPE_UINT32, False),
        ("dialStatus", 3, Field.TYPE_INT32, False),
    ],
    "DialDataRequest": [("addrIdx", 1, Field.TYPE_UINT32, False), ("numBytes", 2, Field.TYPE_UINT64, False)],
    "DialDataResponse": [("data", 1, Field.TYPE_BYTES, False)],
    "V2": [
        ("dialRequest", 1, "DialRequest", False),
        ("dialResponse", 2, "DialResponse", False),
        ("dialDataRequest", 3, "DialDataRequest", False),
        ("dialDataResponse", 4, "DialDataResponse", False),
    ],
    "DialBack": [("nonce", 1, Field.TYPE_FIXED64, False)],
}


def _protobuf() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="autonat.proto", package="t", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            entry = message.field.add(name=field, number=number)
            entry.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                entry.type, entry.type_name = Field.TYPE_MESSAGE, f".t.{kind}"
            else:
                entry.type = kind  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in SCHEMA}


PB = _protobuf()
ADDRESS = TcpEndpoint(ipaddress.ip_address("11.22.33.44"), 4001)


def read(kind: str, raw: bytes):
    message = PB[kind]()
    message.ParseFromString(raw)
    return message


def test_version_1_as_protobuf_reads_it() -> None:
    """Requests and answers of version 1 are the specification's, field by field."""
    request = read("V1", m.encode_v1(m.V1Dial(b"peer", (ADDRESS.binary, b"x"))))
    assert (request.type, request.dial.peer.id, list(request.dial.peer.addrs)) == (0, b"peer", [ADDRESS.binary, b"x"])
    answer = read("V1", m.encode_v1(m.V1Response(m.V1Status.DIAL_ERROR, "no", b"a")))
    said = answer.dialResponse
    assert (answer.type, said.status, said.statusText, said.addr) == (1, 100, "no", b"a")


def test_version_1_as_protobuf_writes_it() -> None:
    """What other implementations write is read."""
    request = PB["V1"](type=0)
    request.dial.peer.id = b"peer"
    request.dial.peer.addrs.extend([b"a"] * 100)
    read_back = m.decode_v1(request.SerializeToString())
    assert read_back == m.V1Dial(b"peer", (b"a",) * limits.MAX_REQUEST_ADDRESSES)
    answer = PB["V1"](type=1)
    answer.dialResponse.status = 0
    answer.dialResponse.addr = ADDRESS.binary
    assert m.decode_v1(answer.SerializeToString()) == m.V1Response(0, "", ADDRESS.binary)


def test_version_2_both_ways() -> None:
    """The same for the messages of version 2."""
    nonce = 0xFEDC_BA98_7654_3210
    request = m.DialRequest((ADDRESS.binary, b"x"), nonce)
    parsed = read("V2", m.encode_v2(request)).dialRequest
    assert (list(parsed.addrs), parsed.nonce) == ([ADDRESS.binary, b"x"], nonce)
    for message, kind in (
        (request, "V2"),
        (m.DialResponse(200, 1, 100), "V2"),
        (m.DialDataRequest(2, 70_000), "V2"),
    ):
        assert m.decode_v2(read(kind, m.encode_v2(message)).SerializeToString()) == message
    response = read("V2", m.encode_v2(m.DialResponse(200, 1, 100))).dialResponse
    assert (response.status, response.addrIdx, response.dialStatus) == (200, 1, 100)
    asked = read("V2", m.encode_v2(m.DialDataRequest(2, 70_000))).dialDataRequest
    assert (asked.addrIdx, asked.numBytes) == (2, 70_000)
    assert read("V2", m.encode_dial_data(b"12345")).dialDataResponse.data == b"12345"
    assert m.decode_v2(m.encode_dial_data(b"12345")) == m.DialData(5)
    assert read("DialBack", m.encode_dial_back(nonce)).nonce == nonce
    assert m.decode_dial_back(PB["DialBack"](nonce=nonce).SerializeToString()) == nonce


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(raw: bytes) -> None:
    """Whatever a peer sends is a message or `MalformedMessage`, never another error."""
    for decode in (m.decode_v1, m.decode_v2, m.decode_dial_back):
        try:
            decode(raw)
        except MalformedMessage:
            pass
    endpoint = from_binary(raw)
    assert endpoint is None or endpoint.binary == raw


@given(st.data())
def test_damaged_messages(data: st.DataObject) -> None:
    """The same for messages that are almost right."""
    raw = bytearray(m.encode_v2(m.DialRequest((ADDRESS.binary,) * 3, 7)) + m.encode_v1(m.V1Dial(b"p", (b"a",))))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for decode in (m.decode_v1, m.decode_v2, m.decode_dial_back):
        try:
            decode(bytes(raw))
        except MalformedMessage:
            pass


@pytest.mark.parametrize("text", ["/ip4/11.22.33.44/tcp/4001", "/ip6/2a00::1/tcp/65535"])
def test_endpoints_are_multiaddrs(text: str) -> None:
    """Text and bytes are those of the multiaddr library, both ways."""
    endpoint = from_text(text)
    assert endpoint is not None
    assert endpoint.text == text
    assert endpoint.binary == Multiaddr(text).to_bytes()
    assert from_binary(endpoint.binary) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/ip4/1.2.3.4/udp/4001",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/1.2.3.4/tcp/70000",
        "/ip6/1.2.3.4/tcp/4001",
        "/dns4/example.org/tcp/4001",
        "/ip4/1.2.3.4/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit",
        "/ip4/1.2.3.4/tcp/4001/ws",
    ],
)
def test_other_addresses_are_no_endpoints(text: str) -> None:
    """Names, relays, other transports and nonsense are passed over, not guessed at."""
    assert from_text(text) is None


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("8.8.8.8", True),
        ("11.0.0.1", True),
        ("2a00:1450::1", True),
        ("10.1.2.3", False),
        ("172.20.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.1.1", False),
        ("127.0.0.1", False),
        ("203.0.113.9", False),
        ("224.0.0.251", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("::ffff:8.8.8.8", False),
    ],
)
def test_public_addresses(ip: str, public: bool) -> None:
    """Only addresses of the public Internet are public, as Kubo has it."""
    assert is_public(ipaddress.ip_address(ip)) is public


def test_networks() -> None:
    """A /16 of IPv4 and a /32 of IPv6 are one network each."""
    assert network_of(ipaddress.ip_address("11.22.1.1")) == network_of(ipaddress.ip_address("11.22.200.9"))
    assert network_of(ipaddress.ip_address("11.22.1.1")) != network_of(ipaddress.ip_address("11.23.1.1"))
    assert network_of(ipaddress.ip_address("2a00:1::1")) == network_of(ipaddress.ip_address("2a00:1:ffff::9"))
    assert TcpEndpoint(ipaddress.ip_address("11.22.1.1"), 1).text == "/ip4/11.22.1.1/tcp/1"
