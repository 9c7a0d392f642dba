"""The search of a record finds each way in which a CID may stand there, and nothing else."""

from __future__ import annotations

import base64
import json
import os

import pytest
from multibase import encode

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.hashes import sha256_multihash
from tests.helpers.traces import Search

MULTIHASH = sha256_multihash(b"what nobody else may know of")
CIDS = [CID(0, DAG_PB, MULTIHASH), CID(1, DAG_PB, MULTIHASH), CID(1, RAW, MULTIHASH)]


def written() -> list[bytes]:
    """The hash in the ways that programs write it."""
    found = [MULTIHASH, MULTIHASH[2:], MULTIHASH.hex().encode(), MULTIHASH[2:].hex().upper().encode()]
    for cid in CIDS:
        found += [str(cid).encode(), bytes(cid), f"ipfs://{cid}".encode(), f"/ipfs/{cid}/x".encode()]
    for base in ("base16", "base32", "base32upper", "base32hex", "base36", "base58btc", "base64", "base64url"):
        found += [encode(base, bytes(CIDS[1])), encode(base, MULTIHASH)]
    found += [base64.b64encode(bytes(count) + MULTIHASH + b"more") for count in range(3)]
    found += [
        base64.b32encode(b"/ipns/" + MULTIHASH),
        json.dumps({"Key": base64.b64encode(MULTIHASH).decode()}).encode(),
    ]
    found.append(repr(MULTIHASH).encode())
    return found


@pytest.mark.parametrize("text", written(), ids=range(len(written())))
def test_it_is_found(text: bytes) -> None:
    """In the middle of other things."""
    record = os.urandom(1000) + text + os.urandom(1000)
    assert set(Search([MULTIHASH, sha256_multihash(b"another")]).named(record)) == {MULTIHASH}


def test_nothing_else_is_found() -> None:
    """Neither in other bytes, nor where only the beginning of it stands."""
    search = Search([MULTIHASH])
    assert search.named(os.urandom(10_000) + MULTIHASH[:-1] + os.urandom(2) + str(CIDS[2])[:-6].encode()) == {}
