"""Records that Kubo made, valid for a hundred years: with and without the fields of version 1, of two kinds of keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.errors import InvalidRecord
from kachery_p2p.routing.dht import records
from kachery_p2p.routing.dht.records import read_ipns
from kachery_p2p.routing.ipns.making import Terms, make_record
from kachery_p2p.routing.ipns.names import name_text, parse_name, routing_key
from tests.unit.routing.ipns.test_making import entry

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "vectors" / "ipns_records.json").read_text(encoding="utf-8")
)
NOW = 1_800_000_000.0
PATH = "/ipfs/bafkqaddwgevxmmraojswg33smq"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['key']}-{vector['v1']}")
def test_a_record_of_kubo(vector: dict[str, Any]) -> None:
    """It is valid under its own name, says what was published, and is refused under every other name."""
    name, record = parse_name(vector["name"]), bytes.fromhex(vector["record"])
    assert name is not None
    assert name_text(name) == vector["name"]
    records.validate(routing_key(name), record, NOW)
    found = read_ipns(name, record)
    assert (found.value.decode(), found.sequence, found.ttl) == (PATH, 0, 600 * 10**9)
    fields = entry(record)
    assert (1 in fields, 2 in fields) == (vector["v1"], vector["v1"])
    for other in VECTORS:
        if other["name"] != vector["name"]:
            binary = parse_name(other["name"])
            assert binary is not None
            with pytest.raises(InvalidRecord):
                records.validate(routing_key(binary), record, NOW)
    with pytest.raises(InvalidRecord, match="expired"):
        records.validate(routing_key(name), record, NOW + 101 * 365 * 86_400)


@pytest.mark.parametrize("vector", [each for each in VECTORS if each["key"] == "ed25519"], ids=["v1", "v2"])
def test_ours_is_written_like_theirs(vector: dict[str, Any]) -> None:
    """From the same values our document has the same bytes as Kubo's, and our record the same fields as its own."""
    name, record = parse_name(vector["name"]), bytes.fromhex(vector["record"])
    assert name is not None
    theirs, said = entry(record), read_ipns(name, record)
    ours = entry(make_record(bytes(32), said.value, Terms(said.sequence, said.valid_until), said.ttl))
    assert ours[9] == theirs[9]
    if vector["v1"]:
        assert {number for number in ours if ours[number]} == {number for number in theirs if theirs[number]}
        assert all(ours[number] == theirs[number] for number in (1, 4, 5, 6) if number in theirs)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['key']}-{vector['v1']}")
def test_each_byte_counts(vector: dict[str, Any]) -> None:
    """A record with any one byte changed says the same as before, or is refused."""
    name, record = parse_name(vector["name"]), bytes.fromhex(vector["record"])
    assert name is not None
    right = read_ipns(name, record)
    for at in range(len(record)):
        changed = record[:at] + bytes([record[at] ^ 0x40]) + record[at + 1 :]
        try:
            assert read_ipns(name, changed) == right
        except InvalidRecord:
            continue
