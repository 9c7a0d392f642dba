"""Value records: only what the owner of a name signed is believed, and of several the newest."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID

from kachery_p2p.errors import InvalidRecord
from kachery_p2p.peer_ids import peer_id_of_key
from kachery_p2p.routing.dht import limits, records
from tests.helpers.dht_ipns import PrivateKey, cbor, document, field, ipns, name_of, public_key, sign

NOW = 1_800_000_000.0
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NAME = name_of(KEY)
KEYS: dict[str, PrivateKey] = {
    "ed25519": KEY,
    "rsa": rsa.generate_private_key(65537, 2048),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_all_kinds_of_keys(kind: str) -> None:
    """Records and public keys of every kind in use are accepted, and refused under another's name."""
    key = KEYS[kind]
    other = b"/ipns/" + peer_id_of_key(public_key(ed25519.Ed25519PrivateKey.generate()))
    records.validate(name_of(key), ipns(key), NOW)
    with pytest.raises(InvalidRecord):
        records.validate(other, ipns(key), NOW)
    own = b"/pk/" + peer_id_of_key(public_key(key))
    records.validate(own, public_key(key), NOW)
    with pytest.raises(InvalidRecord):
        records.validate(b"/pk/" + other[6:], public_key(key), NOW)


def test_peer_ids_are_those_of_libp2p() -> None:
    """A small key is inlined in its ID, a large one hashed: as py-libp2p does it."""
    theirs = ID.from_pubkey(Ed25519PublicKey.from_bytes(KEY.public_key().public_bytes_raw()))
    assert peer_id_of_key(public_key(KEY)) == theirs.to_bytes()
    assert peer_id_of_key(public_key(KEYS["rsa"]))[:2] == b"\x12\x20"


def test_what_a_record_says() -> None:
    """Value, sequence, TTL and validity come from the signed part, to the nanosecond."""
    record = records.read_ipns(NAME[6:], ipns(KEY))
    assert record.value == b"/ipfs/bafkqaddwgevxmmraojswg33smq"
    assert (record.sequence, record.ttl) == (7, 300_000_000_000)
    assert record.valid_until == 4_102_444_799_123_456_789


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1970-01-01T00:00:01Z", 10**9),
        (b"1970-01-01T00:00:00.5Z", 5 * 10**8),
        (b"1970-01-01T02:00:00.000000001+02:00", 1),
    ],
)
def test_times(text: bytes, nanoseconds: int) -> None:
    """Any form of RFC 3339 is read."""
    assert records.read_ipns(NAME[6:], ipns(KEY, Validity=text)).valid_until == nanoseconds


@pytest.mark.parametrize(
    "changes",
    [
        {"Validity": b"2001-01-01T00:00:00Z"},  # expired
        {"Validity": b"soon"},
        {"Validity": b"2099-99-31T23:59:59Z"},
        {"Validity": b"2099-12-31T23:59:59+99:99"},
        {"Validity": None},
        {"Value": None},
        {"Value": "a text"},
        {"Sequence": None},
        {"Sequence": b"7"},
        {"Sequence": -1},
        {"ValidityType": 1},
        {"ValidityType": None},
    ],
)
def test_bad_documents(changes: dict[str, Any]) -> None:
    """A record that is signed right but expired, or without a field, or with a wrong one, is refused."""
    with pytest.raises(InvalidRecord):
        records.validate(NAME, ipns(KEY, **changes), NOW)


def test_old_fields_must_agree() -> None:
    """Unsigned fields of version 1 are accepted when they say the same, refused when one differs."""
    records.validate(NAME, ipns(KEY, legacy={}), NOW)
    for number, value in {1: b"/ipfs/other", 3: 1, 4: b"2098-12-31T23:59:59Z", 5: 8, 6: 1}.items():
        with pytest.raises(InvalidRecord, match="differ"):
            records.validate(NAME, ipns(KEY, legacy={number: value}), NOW)


def test_signatures() -> None:
    """A record without the new signature, or with a wrong one, is refused."""
    data = cbor(document())
    right = sign(KEY, b"ipns-signature:" + data)
    records.validate(NAME, field(8, right) + field(9, data), NOW)
    for entry in (
        field(9, data),
        field(8, right),
        field(8, sign(KEY, data)) + field(9, data),
        field(8, right[:-1]) + field(9, data),
        field(8, right) + field(9, cbor(document(Sequence=8))),
        field(7, public_key(KEYS["rsa"])) + field(8, right) + field(9, data),
        field(7, b"\x08\x09\x12\x01x") + field(8, right) + field(9, data),
    ):
        with pytest.raises(InvalidRecord):
            records.validate(NAME, entry, NOW)


def test_a_hashed_name_needs_its_key() -> None:
    """A record of an RSA name without the key cannot be checked, so it is refused; so are too short keys."""
    key = KEYS["rsa"]
    data = cbor(document())
    with pytest.raises(InvalidRecord, match="lacks the public key"):
        records.validate(name_of(key), field(8, sign(key, b"ipns-signature:" + data)) + field(9, data), NOW)
    short = rsa.generate_private_key(65537, 1024)
    with pytest.raises(InvalidRecord, match="too short"):
        records.validate(name_of(short), ipns(short), NOW)


def test_other_fields_are_ignored() -> None:
    """A record may hold more than we know: lists, maps, links, floats."""
    records.validate(NAME, ipns(KEY, _more={"a": [1, -5, b"x", {"b": []}], "c": "d"}), NOW)
    extra = cbor(document())
    extra = bytes([extra[0] + 2]) + extra[1:] + cbor("x") + b"\xfb" + bytes(8) + cbor("y") + b"\xd8\x2a\x41\x00"
    records.validate(NAME, field(8, sign(KEY, b"ipns-signature:" + extra)) + field(9, extra), NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xbf\xff",
        b"\xa1\x01\x01",
        b"\xa2\x61a\x01\x61a\x01",
        b"\xa1\x61a\x18\x01",
        b"\xa1\x61a" + b"\x81" * 200 + b"\x01",
        b"\xbb" + b"\xff" * 8,
        b"\xa1\x61a\x5b" + b"\xff" * 8,
        b"\xa1\x61\xff\x01",
        b"\xa0\x00",
    ],
)
def test_bad_cbor(data: bytes) -> None:
    """Signed data that are no DAG-CBOR map are refused, without deep recursion or great buffers."""
    with pytest.raises(InvalidRecord):
        records.validate(NAME, field(8, sign(KEY, b"ipns-signature:" + data)) + field(9, data), NOW)


def test_too_large() -> None:
    """10 KiB are accepted, more is not, for either kind of record."""
    room = limits.MAX_RECORD_SIZE - len(ipns(KEY, Value=b"x" * 9000))
    value = b"x" * (9000 + room)
    assert len(ipns(KEY, Value=value)) == limits.MAX_RECORD_SIZE
    records.validate(NAME, ipns(KEY, Value=value), NOW)
    with pytest.raises(InvalidRecord, match="larger"):
        records.validate(NAME, ipns(KEY, Value=value + b"x"), NOW)
    with pytest.raises(InvalidRecord, match="larger"):
        records.validate(b"/pk/" + NAME[6:], bytes(limits.MAX_RECORD_SIZE + 1), NOW)


@pytest.mark.parametrize("key", [b"", b"/", b"/ipns/", b"/ipns/abc", b"/pk/", b"/other/" + NAME[6:], NAME[6:]])
def test_unknown_names(key: bytes) -> None:
    """Other name spaces, and names that are no peer ID, are refused."""
    with pytest.raises(InvalidRecord):
        records.validate(key, ipns(KEY), NOW)


def test_the_newest_wins() -> None:
    """The greatest sequence, then the longest validity, then the greater bytes; unreadable ones never."""
    old, new = ipns(KEY, Sequence=1), ipns(KEY, Sequence=2)
    longer = ipns(KEY, Sequence=2, Validity=b"2100-01-01T00:00:00Z")
    assert records.select(NAME, [old, new, b"junk"]) == 1
    assert records.select(NAME, [longer, new, old]) == 0
    assert records.select(NAME, [new, new]) == 0
    tied = sorted([ipns(KEY, Sequence=2, Value=b"/a"), ipns(KEY, Sequence=2, Value=b"/b")])
    assert records.select(NAME, tied) == 1
    with pytest.raises(InvalidRecord):
        records.select(NAME, [b"", b"junk"])
    assert records.select(b"/pk/" + NAME[6:], [b"x", public_key(KEY)]) == 1


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_noise(junk: bytes, at: int, byte: int) -> None:
    """Any bytes, and a record with any byte changed, are valid or raise InvalidRecord; nothing else."""
    changed = bytearray(ipns(KEY))
    changed[at % len(changed)] = byte
    signed = field(8, sign(KEY, b"ipns-signature:" + junk)) + field(9, junk)
    for value in (junk, bytes(changed), signed):
        for key in (NAME, b"/pk/" + NAME[6:]):
            try:
                records.validate(key, value, NOW)
            except InvalidRecord:
                pass
