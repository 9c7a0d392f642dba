"""The public test vectors of age, whole files: read to their end, and in ranges."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from kachery_cloud.encryption.header import Header
from kachery_cloud.encryption.reading import at_once, decrypted, open_file, plain_size
from kachery_cloud.encryption.stanzas import Identity, Passphrase, X25519Identity
from kachery_cloud.encryption.stream import CHUNK, check_header
from kachery_cloud.errors import EncryptionError

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "age_files.json").read_text())["vectors"]
NOTHING = hashlib.sha256(b"").hexdigest()


class NoMatch(Exception):
    pass


class Ring:
    """Opens with what a vector names."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.opens = vector["opens"]

    def file_key(self, header: Header, name: str) -> bytes:
        for text in self.opens:
            identity: Identity = Passphrase(text)
            if text.startswith("AGE-SECRET-KEY-1"):
                identity = X25519Identity.parse(text)
            for stanza in header.stanzas:
                key = identity.unwrap(stanza)
                if key is not None:
                    check_header(header, key)
                    return key
        raise NoMatch


def file_of(vector: dict[str, Any]) -> io.BytesIO:
    data = base64.b64decode(vector["file"])
    return io.BytesIO(zlib.decompress(data) if vector.get("compressed") == "zlib" else data)


def read_all(vector: dict[str, Any]) -> tuple[bytes, str]:
    """What is given out, and what becomes of it in the end, in the words of the vectors."""
    given = bytearray()
    opened = False
    try:
        reader = open_file(file_of(vector), Ring(vector), vector["name"])
        opened = True
        for piece in decrypted(reader, vector["name"]):
            given += piece
    except NoMatch:
        return bytes(given), "no match"
    except EncryptionError:
        return bytes(given), "payload failure" if opened else "failure"
    return bytes(given), "success"


def test_all_are_here() -> None:
    """Those of headers, of passphrases, and of payloads: whole, cut off, changed, extended."""
    kinds = {each["expect"] for each in VECTORS}
    assert kinds == {"success", "no match", "HMAC failure", "header failure", "payload failure"}
    assert sum(each["name"].startswith("stream_") for each in VECTORS) == 28
    assert len(VECTORS) == 92


@pytest.mark.parametrize("vector", VECTORS, ids=[each["name"] for each in VECTORS])
def test_whole_files(vector: dict[str, Any]) -> None:
    """Each is opened or refused as is said of it; and no byte is given out that may not be."""
    given, end = read_all(vector)
    if vector["expect"] in ("success", "no match"):
        assert end == vector["expect"]
    else:
        assert end in ("failure", "payload failure")
    # Of a file that is refused, age's own program gives out what comes before; we look at its end first.
    assert hashlib.sha256(given).hexdigest() in {vector.get("payload", NOTHING), NOTHING}
    if end == "success":
        assert hashlib.sha256(given).hexdigest() == vector["payload"]
        assert plain_size(file_of(vector)) == len(given)


@pytest.mark.parametrize(
    "vector",
    [each for each in VECTORS if each["expect"] == "success"],
    ids=[each["name"] for each in VECTORS if each["expect"] == "success"],
)
def test_ranges(vector: dict[str, Any]) -> None:
    """About the edges of chunks and anywhere: what a slice of the whole is."""
    whole, _ = read_all(vector)
    reader = open_file(file_of(vector), Ring(vector), vector["name"])
    rng = random.Random(1)
    edges = [at + off for at in range(0, len(whole) + 1, CHUNK) for off in (-1, 0, 1)]
    some = rng.sample(edges, min(len(edges), 20)) + [rng.randrange(len(whole) + 1) for _ in range(20)]
    for start in some:
        start = max(0, start)
        for length in (0, 1, CHUNK, 3 * CHUNK + 7):
            assert at_once(reader.read(start, start + length)) == whole[start : start + length]
