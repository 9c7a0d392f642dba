"""The TLS record layer: published values, what may come between the data, and what a peer must not send."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kachery_p2p.transport import limits
from kachery_p2p.transport.security import Buffers, RecordError
from kachery_p2p.transport.tls_records import SUITES, TlsRecords, expand_label
from tests.helpers.transport_helpers import sealed
from tests.unit.transport.test_records import read, tls_pair

ALERT, HANDSHAKE, DATA = 21, 22, 23
TICKET, KEY_UPDATE = 4, 24
CLOSE_NOTIFY = b"\x01\x00"

# The example of RFC 8448, section 3.
CLIENT_SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
CLIENT_DATA = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a297"
    "7014bd1e3deae63aeebb21694915e4"
)


class Peer:
    """The other end of a record layer, which may send records of any kind."""

    def __init__(self, suite: str = "TLS_AES_128_GCM_SHA256", *, client: bool = False, **options: Any) -> None:
        pair = tls_pair(suite, **options)
        self.records, self.ours = pair if client else reversed(pair)

    def sends(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        """A record."""
        out = memoryview(bytearray(68 * 1024))
        return (
            bytes(out[: self.records._seal_message(kind, content, out)])
            if not padding
            else self._padded(kind, content, padding)
        )

    def _padded(self, kind: int, content: bytes, padding: int) -> bytes:
        key = self.records._send
        inner = content + bytes((kind,)) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        record = header + key.aead.encrypt((key.nonce ^ key.records).to_bytes(12, "big"), inner, header)
        key.records += 1
        return record

    def says(self, data: bytes) -> bytes:
        """Data, as it should be sent."""
        return b"".join(sealed(self.records, data))

    def hears(self, data: bytes) -> list[bytes]:
        """What it makes of what this side sends."""
        return read(self.records, b"".join(sealed(self.ours, data)))


def handshake(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def test_published_values() -> None:
    """Keys, a record, and the first record of the other direction are those of RFC 8448."""
    assert expand_label(CLIENT_SECRET, b"key", 16, "sha256").hex() == "17422dda596ed5d9acd890e3c63f5051"
    assert expand_label(CLIENT_SECRET, b"iv", 12, "sha256").hex() == "5b78923dee08579033e523d9"
    assert expand_label(SERVER_SECRET, b"key", 16, "sha256").hex() == "9f02283b6c9c07efc26bb9f2ac92e356"
    client = TlsRecords(SUITES["TLS_AES_128_GCM_SHA256"], CLIENT_SECRET, SERVER_SECRET, initiator=True)
    server = TlsRecords(SUITES["TLS_AES_128_GCM_SHA256"], SERVER_SECRET, CLIENT_SECRET, initiator=False)
    assert sealed(client, bytes(range(50))) == [CLIENT_DATA]
    assert read(server, CLIENT_DATA) == [bytes(range(50))]


@pytest.mark.parametrize("suite", SUITES)
def test_full_messages_are_full_records(suite: str) -> None:
    """128 KiB of the muxer are eight records of 16 KiB, and come out in two pieces."""
    peer = Peer(suite)
    data = os.urandom(limits.TLS_MESSAGE)
    (message,) = sealed(peer.records, data)
    assert len(message) == limits.TLS_MESSAGE + 8 * 22
    assert [message[i : i + 5].hex() for i in range(0, len(message), 16384 + 22)] == ["1703034011"] * 8
    assert read(peer.ours, message) == [data[:65536], data[65536:]]


@pytest.mark.parametrize("suite", SUITES)
def test_full_messages_in_large_records(suite: str) -> None:
    """126 KiB of the muxer are two records of 63 KiB, and come out in two pieces. What is shorter is one."""
    peer = Peer(suite, large=True)
    data = os.urandom(limits.TLS_LARGE_MESSAGE)
    (message,) = sealed(peer.records, data)
    assert len(message) == limits.TLS_LARGE_MESSAGE + 2 * 22
    assert [message[i : i + 5].hex() for i in (0, limits.TLS_LARGE_RECORD + 22)] == ["170303fc11"] * 2
    assert read(peer.ours, message) == [data[:64512], data[64512:]]
    assert len(peer.says(data[:20_000])) == 20_022


@pytest.mark.parametrize(("large", "longest"), [(False, 16384), (True, 64512)])
def test_records_are_not_longer_than_was_agreed(large: bool, longest: int) -> None:
    """A peer that has not agreed on large records gets an alert for one, and so does one that exceeds those."""
    peer = Peer(large=large)
    assert read(peer.ours, peer.sends(DATA, bytes(longest))) == [bytes(longest)]
    with pytest.raises(RecordError, match=f"{longest + 1} bytes in one TLS record"):
        read(peer.ours, peer.sends(DATA, bytes(longest + 1)))
    peer = Peer(large=large)
    with pytest.raises(RecordError, match=f"a TLS record of {longest + 257} bytes"):
        read(peer.ours, peer.sends(DATA, bytes(longest + 240)))


def test_padding_is_taken_off() -> None:
    """Zeros behind the content are of no meaning, however many; and those of the content stay."""
    peer = Peer()
    for content in (b"a", b"a\x00\x00", bytes(5), os.urandom(16384)):
        for padding in (1, 100, 16640 - 17 - len(content)):
            if 0 < padding <= 16640 - 17 - len(content):
                assert read(peer.ours, peer.sends(DATA, content, padding)) == [content]


def test_data_without_data_is_nothing() -> None:
    """An empty record comes out as an empty message, which the muxer counts; in its place between the others."""
    peer = Peer()
    assert read(peer.ours, peer.says(b"a") + peer.sends(DATA, b"") + peer.sends(DATA, b"", 99) + peer.says(b"b")) == [
        b"a",
        b"",
        b"",
        b"b",
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_the_peer_takes_new_keys(suite: str) -> None:
    """A key update is followed as often as it comes, between data of one piece of input."""
    peer = Peer(suite)
    sent = b""
    for number in range(5):
        sent += peer.says(b"%d" % number) + peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x00"))
        peer.records._send.update()
    assert [each for each in read(peer.ours, sent + peer.says(b"end")) if each] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"end",
    ]
    assert peer.hears(b"no answer was asked for") == [b"no answer was asked for"]
    assert peer.ours._send.records == 1


def test_the_peer_asks_for_new_keys() -> None:
    """It gets one in front of the next data, however often it asked, and hears on."""
    peer = Peer()
    sent = b""
    for _ in range(3):
        sent += peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x01"))
        peer.records._send.update()
    assert not any(read(peer.ours, sent))
    assert peer.hears(b"first") == [b"", b"", b"first"]
    assert peer.hears(b"second") == [b"second"]


@pytest.mark.parametrize("suite", SUITES)
def test_a_key_is_used_for_so_many_records(suite: str) -> None:
    """Before it is worn out this side takes a new one, in front of a message, and the peer follows."""
    peer = Peer(suite, records_per_key=10)
    heard: list[bytes] = []
    for number in range(50):
        heard += [each for each in peer.hears(b"%d" % number) if each]
        assert peer.ours._send.records <= 10
    assert heard == [b"%d" % number for number in range(50)]
    assert limits.TLS_RECORDS_PER_KEY * 2**14 < 2**38.5  # RFC 8446, section 5.5
    assert limits.TLS_LARGE_RECORDS_PER_KEY * limits.TLS_LARGE_RECORD < 2**38.5


def test_session_tickets_are_ignored() -> None:
    """Those of a server; however they are cut, and several in a record."""
    peer = Peer()
    ticket = handshake(TICKET, os.urandom(1200))
    sent = peer.sends(HANDSHAKE, ticket + ticket) + peer.says(b"data")
    for i in range(0, len(ticket), 500):
        sent += peer.sends(HANDSHAKE, ticket[i : i + 500])
    assert [each for each in read(peer.ours, sent + peer.says(b"more")) if each] == [b"data", b"more"]


def test_the_end_is_said() -> None:
    """`close_notify` is the end of the input; what comes behind it does not count."""
    peer = Peer()
    assert "cut off" in peer.ours.cut_off()
    assert read(peer.ours, peer.says(b"last") + peer.sends(ALERT, CLOSE_NOTIFY) + b"garbage") == [b"last"]
    assert peer.ours.ended
    assert peer.ours.waiting == 0


def test_this_side_says_the_end() -> None:
    """The last record is `close_notify`; and after a fault of the peer the alert that names it."""
    peer = Peer()
    out = memoryview(bytearray(limits.GOODBYE))
    assert read(peer.records, bytes(out[: peer.ours.goodbye(out)])) == []
    assert peer.records.ended
    peer = Peer()
    with pytest.raises(RecordError, match="do not decrypt"):
        read(peer.ours, peer.says(b"x")[:-1] + b"?")
    with pytest.raises(RecordError, match="refused the connection: bad record"):
        read(peer.records, bytes(out[: peer.ours.goodbye(out)]))


def test_a_cancelled_connection_goes_on_to_its_end() -> None:
    """`user_canceled` means nothing by itself."""
    peer = Peer()
    sent = peer.sends(ALERT, b"\x01\x5a") + peer.sends(ALERT, CLOSE_NOTIFY)
    assert read(peer.ours, sent) == [b""]
    assert peer.ours.ended


@pytest.mark.parametrize(
    ("alert", "words"), [(42, "does not accept our certificate"), (116, "certificate required"), (99, "alert 99")]
)
def test_alerts_are_told(alert: int, words: str) -> None:
    """Any other alert is an error that says what the peer says, whatever level it gives it."""
    for level in (1, 2):
        peer = Peer()
        with pytest.raises(RecordError, match=words):
            read(peer.ours, peer.sends(ALERT, bytes((level, alert))))


BAD: dict[str, Any] = {
    "not encrypted": lambda peer: b"\x16\x03\x03\x00\x05hello",
    "alert that is not encrypted": lambda peer: b"\x15\x03\x03\x00\x02\x02\x28",
    "change of the cipher": lambda peer: b"\x14\x03\x03\x00\x01\x01",
    "too short for a tag": lambda peer: b"\x17\x03\x03\x00\x10" + bytes(16),
    "longer than may be": lambda peer: b"\x17\x03\x03\x41\x01",
    "too much within": lambda peer: peer.sends(DATA, bytes(16385)),
    "garbage": lambda peer: b"\x17\x03\x03\x00\x40" + os.urandom(64),
    "no type": lambda peer: peer.sends(0, b""),
    "nothing but zeros": lambda peer: peer.sends(0, bytes(16384)),
    "unknown type": lambda peer: peer.sends(24, b"heartbeat"),
    "inner change of the cipher": lambda peer: peer.sends(20, b"\x01"),
    "empty handshake": lambda peer: peer.sends(HANDSHAKE, b""),
    "data within a message": lambda peer: peer.sends(HANDSHAKE, handshake(TICKET, bytes(99))[:50]) + peer.says(b"x"),
    "huge message": lambda peer: peer.sends(HANDSHAKE, b"\x04\xff\xff\xff"),
    "client hello": lambda peer: peer.sends(HANDSHAKE, handshake(1, bytes(100))),
    "hello request": lambda peer: peer.sends(HANDSHAKE, handshake(0, b"")),
    "request for a certificate": lambda peer: peer.sends(HANDSHAKE, handshake(13, b"\x00\x00\x00")),
    "finished": lambda peer: peer.sends(HANDSHAKE, handshake(20, bytes(32))),
    "something behind a key update": lambda peer: peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x00") + b"\x04"),
    "unknown key update": lambda peer: peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x02")),
    "key update of nothing": lambda peer: peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"")),
    "key update that is not followed": lambda peer: (
        peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x00")) + peer.says(b"x")
    ),
    "alert of nothing": lambda peer: peer.sends(ALERT, b""),
    "two alerts in one": lambda peer: peer.sends(ALERT, CLOSE_NOTIFY * 2),
}


@pytest.mark.parametrize("send", BAD.values(), ids=BAD.keys())
def test_what_a_peer_must_not_send(send: Any) -> None:
    """Each ends the connection with an error, and with an alert that tells the peer."""
    peer = Peer()
    with pytest.raises(RecordError):
        read(peer.ours, peer.says(b"good") + send(peer))
    out = memoryview(bytearray(limits.GOODBYE))
    with pytest.raises(RecordError, match="refused"):
        read(peer.records, bytes(out[: peer.ours.goodbye(out)]))


def test_clients_send_no_tickets() -> None:
    """A session ticket is a server's."""
    peer = Peer(client=True)
    with pytest.raises(RecordError, match="type 4"):
        read(peer.ours, peer.sends(HANDSHAKE, handshake(TICKET, bytes(99))))


def test_floods_are_counted() -> None:
    """Whatever brings no data comes out as at least one empty message: tickets, key updates, empty and padded data."""
    peer = Peer()
    tiny = handshake(TICKET, b"")
    assert len(read(peer.ours, peer.sends(HANDSHAKE, tiny * 1000))) >= 1000
    for number in range(1, 50):
        sent = peer.sends(HANDSHAKE, handshake(KEY_UPDATE, b"\x01"))
        peer.records._send.update()
        assert len(read(peer.ours, sent + peer.sends(DATA, b"") + peer.sends(DATA, b"", 16000))) >= 3, number


def test_short_records_are_taken_a_few_at_a_time() -> None:
    """A peer that sends single bytes has its turn no longer than one with full records."""
    peer = Peer()
    sent = b"".join(peer.says(b"x") for _ in range(100))
    assert [len(each) for each in read(peer.ours, sent)] == [limits.TLS_GATHER] * (100 // limits.TLS_GATHER)


def test_pieces_keep_no_memory_alive() -> None:
    """A message with little in it does not hold the buffer of a full one."""
    import sys

    peer = Peer()
    sent = peer.sends(DATA, b"x", 16000) * 1 + peer.sends(DATA, b"y", 16000)
    buffer = memoryview(bytearray(sent))
    (message,) = peer.ours.read(buffer, len(sent), Buffers())
    assert message == b"xy"
    assert sys.getsizeof(message) < 200
