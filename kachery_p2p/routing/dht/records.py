"""Value records and whether to believe them: `/pk/<peer ID>` and `/ipns/<peer ID>`, IDs in binary.

A public key must hash to its ID. An IPNS record is signed by the key of its name over a DAG-CBOR document (version 2
of the IPNS record specification); the older signature is not looked at, but fields that stand twice must agree. Of
several valid records the one with the greatest sequence number counts, then the one that is valid longest.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from kachery_p2p.errors import InvalidRecord
from kachery_p2p.peer_ids import is_peer_id, peer_id_of_key
from kachery_p2p.peer_keys import PublicKey, UnusableKey, read_public_key
from kachery_p2p.routing.dht import limits
from kachery_p2p.wire import BYTES, VARINT, WireError, read_field

PK = b"/pk/"
IPNS = b"/ipns/"

#: What stands before the document of an IPNS record where it is signed.
SIGNED_PREFIX = b"ipns-signature:"
#: Maps and lists in each other, in the part of a record that we do not read.
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class IpnsRecord:
    """What an IPNS record says.

    Attributes:
        value: the content path.
        sequence: version of the record.
        valid_until: nanoseconds since the epoch.
        ttl: how long it may be cached, nanoseconds.
    """

    value: bytes
    sequence: int
    valid_until: int
    ttl: int


# --- what the DHT asks ---------------------------------------------------------------------------------------------


def validate(key: bytes, value: bytes, now_wall: float) -> None:
    """Check a record.

    Args:
        key: with its name space.
        value: the record as it came.
        now_wall: seconds since the epoch.

    Raises:
        InvalidRecord: it is not to be stored or believed; says why.
    """
    if len(value) > limits.MAX_RECORD_SIZE:
        raise InvalidRecord(f"A record of {len(value)} bytes is larger than {limits.MAX_RECORD_SIZE}.")
    name = _name(key)
    if key.startswith(PK):
        if peer_id_of_key(value) != name:
            raise InvalidRecord("A public key does not have the ID it is stored under.")
        _read_key(value)
        return
    record = read_ipns(name, value)
    if record.valid_until <= now_wall * 1e9:
        raise InvalidRecord("An IPNS record has expired.")


def select(key: bytes, values: Sequence[bytes]) -> int:
    """Which of several valid records of a key is the best; the first of equal ones.

    Raises:
        InvalidRecord: none of them can be read.
    """
    name = _name(key)
    best = -1
    best_rank: tuple[int, int, bytes] = (-1, 0, b"")
    for index, value in enumerate(values):
        if key.startswith(PK):
            if peer_id_of_key(value) == name:
                return index
            continue
        try:
            record = read_ipns(name, value)
        except InvalidRecord:
            continue
        # As boxo does, so that all servers keep the same one.
        rank = (record.sequence, record.valid_until, value)
        if rank > best_rank:
            best, best_rank = index, rank
    if best < 0:
        raise InvalidRecord("None of the records can be read.")
    return best


def newest(name: bytes, values: Sequence[bytes]) -> bytes | None:
    """The IPNS record that counts, of some of which a few may be broken or expired; None where none can be read."""
    try:
        return values[select(IPNS + name, values)]
    except InvalidRecord:
        return None


def _name(key: bytes) -> bytes:
    name = key[len(PK) :] if key.startswith(PK) else key[len(IPNS) :] if key.startswith(IPNS) else b""
    if not is_peer_id(name):
        raise InvalidRecord("Only records under /pk/ and /ipns/, with the ID of a key, are known here.")
    return name


def _read_key(encoded: bytes) -> PublicKey:
    try:
        return read_public_key(encoded)
    except UnusableKey as error:
        raise InvalidRecord(f"A public key cannot be used: {error}.") from error


# --- IPNS ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def read_ipns(name: bytes, value: bytes) -> IpnsRecord:
    """Read an IPNS record and check all but its age. Remembered: a lookup meets the same record twenty times.

    Args:
        name: the binary peer ID of the key that must have signed it.
        value: the record as it came.

    Raises:
        InvalidRecord: it is not one, or not by that key.
    """
    if len(value) > limits.MAX_RECORD_SIZE:
        raise InvalidRecord(f"An IPNS record of {len(value)} bytes is larger than {limits.MAX_RECORD_SIZE}.")
    entry = _entry(value)
    data, signature, encoded_key = entry.get(9), entry.get(8), entry.get(7)
    if not isinstance(data, bytes) or not isinstance(signature, bytes) or not data or not signature:
        raise InvalidRecord("An IPNS record has no signature of version 2.")
    if not isinstance(encoded_key, bytes) or not encoded_key:
        if name[0] != 0:
            raise InvalidRecord("An IPNS record lacks the public key of its name.")
        encoded_key = name[2:]
    elif peer_id_of_key(encoded_key) != name:
        raise InvalidRecord("An IPNS record holds another key than that of its name.")
    if not _read_key(encoded_key).has_signed(SIGNED_PREFIX + data, signature):
        raise InvalidRecord("The signature of an IPNS record is wrong.")
    fields = _document(data)
    content, validity = fields.get("Value"), fields.get("Validity")
    if not isinstance(content, bytes) or not isinstance(validity, bytes):
        raise InvalidRecord("An IPNS record lacks one of its fields.")
    sequence, kind, ttl = (_uint(fields, name) for name in ("Sequence", "ValidityType", "TTL"))
    if kind != 0:
        raise InvalidRecord("An IPNS record has an unknown kind of validity.")
    if (entry.get(2) or entry.get(1)) and (
        entry.get(1, b"") != content
        or entry.get(4, b"") != validity
        or entry.get(3, 0) != kind
        or entry.get(5, 0) != sequence
        or entry.get(6, 0) != ttl
    ):
        raise InvalidRecord("The unsigned fields of an IPNS record differ from the signed ones.")
    return IpnsRecord(content, sequence, _nanoseconds(validity), ttl)


def _uint(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int):
        raise InvalidRecord("An IPNS record lacks one of its fields.")
    return value


def _entry(value: bytes) -> dict[int, int | bytes]:
    """The fields of an IpnsEntry; the last of doubled ones counts, as protobuf has it."""
    bytes_fields, number_fields = (1, 2, 4, 7, 8, 9), (3, 5, 6)
    entry: dict[int, int | bytes] = {}
    pos = 0
    try:
        while pos < len(value):
            number, wire, start, pos = read_field(value, pos, len(value))
            if wire == BYTES and number in bytes_fields:
                entry[number] = value[start:pos]
            elif wire == VARINT and number in number_fields:
                entry[number] = start
    except WireError as error:
        raise InvalidRecord("An IPNS record is not protobuf.") from error
    return entry


_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")


def _nanoseconds(text: bytes) -> int:
    """The time that a text of RFC 3339 names, in nanoseconds since the epoch."""
    match = _TIME.fullmatch(text)
    if match is None or len(text) > 64:
        raise InvalidRecord("The validity of an IPNS record is not a time.")
    zone = match[3].decode().replace("Z", "+00:00")
    try:
        moment = datetime.datetime.fromisoformat(match[1].decode() + zone)
    except ValueError as error:
        raise InvalidRecord("The validity of an IPNS record is not a time.") from error
    whole = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (whole.days * 86400 + whole.seconds) * 1_000_000_000 + int((match[2] or b"").ljust(9, b"0"))


# --- DAG-CBOR ------------------------------------------------------------------------------------------------------


def _document(data: bytes) -> dict[str, object]:
    """The top-level map of a DAG-CBOR document: numbers, bytes and texts; None stands for all other values."""
    try:
        fields, pos = _cbor(data, 0, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise InvalidRecord("The data of an IPNS record are not DAG-CBOR.") from error
    if not isinstance(fields, dict) or pos != len(data):
        raise InvalidRecord("The data of an IPNS record are not a DAG-CBOR map.")
    return fields


def _cbor(data: bytes, pos: int, depth: int) -> tuple[object, int]:
    """One item of DAG-CBOR: definite lengths, shortest numbers, texts as keys (IPLD DAG-CBOR specification)."""
    head = data[pos]
    major, info = head >> 5, head & 31
    pos += 1
    if info < 24:
        number = info
    elif info <= 27:
        size = 1 << (info - 24)
        number = int.from_bytes(data[pos : pos + size], "big")
        pos += size
        if pos > len(data):
            raise IndexError
        if major != 7 and number < (24, 1 << 8, 1 << 16, 1 << 32)[info - 24]:
            raise InvalidRecord("The data of an IPNS record are not in the shortest form.")
    else:
        raise InvalidRecord("The data of an IPNS record have a part of indefinite length.")
    if major == 0:
        return number, pos
    if major in (2, 3):
        end = pos + number
        if end > len(data):
            raise IndexError
        return (data[pos:end] if major == 2 else data[pos:end].decode()), end
    if major in (4, 5, 6) and depth >= _MAX_DEPTH:
        raise InvalidRecord("The data of an IPNS record are nested too deeply.")
    if major == 5:
        fields: dict[str, object] = {}
        for _ in range(number):
            key, pos = _cbor(data, pos, depth + 1)
            if not isinstance(key, str) or key in fields:
                raise InvalidRecord("The data of an IPNS record have a key that is doubled or no text.")
            fields[key], pos = _cbor(data, pos, depth + 1)
        return fields, pos
    # Negative numbers, lists, links, floats and constants may stand in parts that others defined.
    for _ in range(number if major == 4 else 1 if major == 6 else 0):
        _, pos = _cbor(data, pos, depth + 1)
    return None, pos
