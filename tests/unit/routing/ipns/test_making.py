"""IPNS records of ours: as the specification writes them, and never going back."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import InvalidRecord
from kachery_p2p.peer_ids import parse_peer_id, peer_bytes, peer_id_of_key, peer_text
from kachery_p2p.routing.dht import limits, records
from kachery_p2p.routing.dht.records import IpnsRecord, read_ipns
from kachery_p2p.routing.ipns.making import Terms, make_record, next_terms, public_key, time_text
from kachery_p2p.routing.ipns.names import name_text, parse_name, routing_key
from kachery_p2p.wire import BYTES, read_field
from tests.helpers.dht_ipns import cbor, document, ipns

SEED = bytes(range(32))
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
NAME = peer_id_of_key(public_key(KEY.public_key().public_bytes_raw()))
NOW = 1_800_000_000 * 10**9
HOUR = 3600 * 10**9
PATH = b"/ipfs/bafkqaddwgevxmmraojswg33smq"


def entry(record: bytes) -> dict[int, bytes | int]:
    """The fields of a record."""
    found: dict[int, bytes | int] = {}
    at = 0
    while at < len(record):
        number, wire, start, at = read_field(record, at, len(record))
        found[number] = record[start:at] if wire == BYTES else start
    return found


@settings(max_examples=30)
@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 2**64 - 1),
    st.integers(0, 4 * 10**18),
    st.integers(0, 2**63),
)
def test_a_record_says_what_was_meant(value: bytes, sequence: int, until: int, ttl: int) -> None:
    """Whatever is put into a record, a reader who checks its signature gets out again."""
    record = make_record(SEED, value, Terms(sequence, until), ttl)
    assert read_ipns(NAME, record) == IpnsRecord(value, sequence, until, ttl)


def test_the_bytes_are_those_of_the_specification() -> None:
    """The signed document is the DAG-CBOR that a plain writer of it makes; both signatures are those of the key."""
    until = 4_102_444_799_123_456_789  # 2099-12-31T23:59:59.123456789Z
    found = entry(make_record(SEED, PATH, Terms(7, until), 300_000_000_000))
    assert found[9] == cbor(document(Value=PATH))
    KEY.public_key().verify(bytes(found[8]), b"ipns-signature:" + bytes(found[9]))  # type: ignore[arg-type]
    KEY.public_key().verify(bytes(found[2]), PATH + b"2099-12-31T23:59:59.123456789Z" + b"EOL")  # type: ignore[arg-type]
    assert (found[1], found[3], found[4], found[5], found[6]) == (
        PATH,
        0,
        b"2099-12-31T23:59:59.123456789Z",
        7,
        300_000_000_000,
    )
    assert 7 not in found  # the key is in the name


def test_times_are_written_with_nanoseconds() -> None:
    """In UTC, with all nine digits, as every reader takes them."""
    assert time_text(0) == b"1970-01-01T00:00:00.000000000Z"
    assert time_text(NOW + 5) == b"2027-01-15T08:00:00.000000005Z"


def test_another_key_is_another_name() -> None:
    """A record that another key signed is no record of this name."""
    with pytest.raises(InvalidRecord, match="signature"):
        read_ipns(NAME, make_record(bytes(32), PATH, Terms(0, NOW), 0))


def test_a_path_that_is_too_long() -> None:
    """Ten KiB are the most that others take: a record beyond that is not made."""
    long = b"/ipfs/" + b"x" * (limits.MAX_RECORD_SIZE // 2)
    with pytest.raises(InvalidRecord, match="the most there may be"):
        make_record(SEED, long, Terms(0, NOW), 0)


# --- what follows what ------------------------------------------------------------------------------------------------


def test_numbers_go_up() -> None:
    """A new value has the next number; the same value keeps its number and is valid for longer."""
    assert next_terms(b"/a", None, NOW, HOUR) == Terms(0, NOW + HOUR)
    old = IpnsRecord(b"/a", 4, NOW + HOUR, 0)
    assert next_terms(b"/b", old, NOW, HOUR) == Terms(5, NOW + HOUR)
    assert next_terms(b"/a", old, NOW + 1, HOUR) == Terms(4, NOW + HOUR + 1)
    # Not valid for longer: only the number can make it count.
    assert next_terms(b"/a", old, NOW, HOUR) == Terms(5, NOW + HOUR)
    with pytest.raises(InvalidRecord, match="greatest sequence number"):
        next_terms(b"/b", IpnsRecord(b"/a", 2**64 - 1, NOW, 0), NOW, HOUR)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([b"/a", b"/b", b"/c"]), st.integers(-10, 10)), min_size=2, max_size=8))
def test_the_last_one_counts(history: list[tuple[bytes, int]]) -> None:
    """However the clock jumps from one to the next, whoever compares two records takes the later one."""
    newest = None
    for value, jump in history:
        terms = next_terms(value, None if newest is None else read_ipns(NAME, newest), NOW + jump * HOUR, 48 * HOUR)
        record = make_record(SEED, value, terms, 0)
        if newest is not None:
            assert records.select(routing_key(NAME), [newest, record]) == 1
        newest = record


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_written_form_is_the_same_name() -> None:
    """Base58, and a CID in base36 and base32, are read; it is written in base36, as Kubo does."""
    text = name_text(NAME)
    assert text.startswith("k51qzi5uqu5d")
    assert parse_name(text) == NAME
    assert parse_name(peer_text(NAME)) == NAME
    assert parse_name(text.upper()) is None or parse_name(text.upper()) == NAME
    assert peer_bytes(parse_peer_id(text)) == NAME
    assert parse_name("example.org") is None
    assert parse_name("") is None


def test_names_of_hashed_keys() -> None:
    """A name of an RSA key is a hash: Qm..., and a CID of it."""
    name = b"\x12\x20" + bytes(range(32))
    assert peer_text(name).startswith("Qm")
    assert parse_name(peer_text(name)) == name
    assert parse_name(name_text(name)) == name


def test_a_record_of_a_known_key() -> None:
    """The helper of the tests and the product make the same document from the same fields."""
    theirs = entry(ipns(KEY, legacy={}))
    ours = entry(make_record(SEED, PATH, Terms(7, 4_102_444_799_123_456_789), 300_000_000_000))
    assert (theirs[8], theirs[9]) == (ours[8], ours[9])
