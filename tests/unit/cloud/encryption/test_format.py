"""The format of age: what is written is read, by us and by others; what was changed anywhere is refused."""

from __future__ import annotations

import io
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_cloud.encryption import bech32, stanzas
from kachery_cloud.encryption.header import MAX_HEADER, MAX_STANZAS, Header, Stanza, parse_header
from kachery_cloud.encryption.reading import at_once, decrypted, open_file, plain_size
from kachery_cloud.encryption.recipients import Recipients
from kachery_cloud.encryption.stanzas import Identity, Passphrase, X25519Identity, wrap_scrypt, wrap_x25519
from kachery_cloud.encryption.stream import CHUNK, SEALED, TAG, check_header, encode_header
from kachery_cloud.encryption.writing import add_recipient, encrypt, write_age
from kachery_cloud.errors import EncryptionError, InvalidArgument
from tests.helpers.encryption_helpers import encrypted_bytes

pyrage: Any = import_module("pyrage")  # it has no types
VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "age_headers.json").read_text())["vectors"]
FILE_KEY = b"YELLOW SUBMARINE"
ME = X25519Identity(bytes(range(32)))
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5]


class NoMatch(Exception):
    pass


class Ring:
    """Opens with these."""

    def __init__(self, *identities: Identity) -> None:
        self.identities = identities

    def file_key(self, header: Header, name: str) -> bytes:
        for identity in self.identities:
            for stanza in header.stanzas:
                key = identity.unwrap(stanza)
                if key is not None:
                    check_header(header, key)
                    return key
        raise NoMatch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases are stretched a little only; what is written is looked at in a test of its own."""
    monkeypatch.setattr(stanzas, "SCRYPT_WRITTEN", 10)


def sealed(data: bytes) -> bytes:
    return encrypted_bytes(data, Recipients((ME.recipient,)))


def opened(cipher: bytes, *identities: Identity) -> bytes:
    return b"".join(decrypted(open_file(io.BytesIO(cipher), Ring(*identities or (ME,)), "it"), "it"))


# --- the vectors of others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=[each["name"] for each in VECTORS])
def test_headers_of_the_public_vectors(vector: dict[str, Any]) -> None:
    """Each is read, refused, or opened by nobody, as is said of it; and what is read is written the same."""
    identity: Identity = Passphrase(vector["opens"])
    if vector["opens"].startswith("AGE-SECRET-KEY-1"):
        identity = X25519Identity.parse(vector["opens"])
    data = b"age-encryption.org/v1\n" + vector["header"].encode("ascii")

    def key() -> bytes:
        header = parse_header(data + bytes(32), is_all=True)
        assert header is not None
        assert header.size == len(data)
        return Ring(identity).file_key(header, "it")

    if vector["expect"] == "header failure":
        with pytest.raises(EncryptionError, match="age file"):
            key()
    elif vector["expect"] == "no match":
        with pytest.raises(NoMatch):
            key()
    else:
        assert key() == FILE_KEY
        header = parse_header(data, is_all=True)
        assert header is not None
        assert encode_header(list(header.stanzas), FILE_KEY) == data


def test_a_passphrase_of_the_public_vectors() -> None:
    """What scrypt makes of it is what age makes of it."""
    lines = next(each["header"] for each in VECTORS if each["name"] == "scrypt_double").split("\n")
    salt, factor = lines[0].split(" ")[2:]
    body = stanzas.decode64(lines[1])
    assert Passphrase("password").unwrap(Stanza("scrypt", (salt, factor), body)) == FILE_KEY
    assert Passphrase("Password").unwrap(Stanza("scrypt", (salt, factor), body)) is None


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_sizes_about_the_edges_of_chunks(size: int) -> None:
    """For keys and for passphrases, and read by the other library, too."""
    data = os.urandom(size)
    cipher = sealed(data)
    assert opened(cipher) == data
    assert plain_size(io.BytesIO(cipher)) == size
    assert pyrage.decrypt(cipher, [pyrage.x25519.Identity.from_str(ME.text)]) == data
    spoken = encrypted_bytes(data, Recipients(passphrase=Passphrase("pässword")))
    assert opened(spoken, Passphrase("pässword")) == data
    assert pyrage.passphrase.decrypt(spoken, "pässword") == data


@settings(max_examples=40)
@given(
    st.integers(0, 3 * CHUNK + 9), st.lists(st.tuples(st.integers(0, 4 * CHUNK), st.integers(0, 4 * CHUNK)), max_size=6)
)
def test_any_range(size: int, ranges: list[tuple[int, int]]) -> None:
    """As a slice of the plain bytes; and only the chunks that it touches are read."""
    data = os.urandom(1024) * (size // 1024) + os.urandom(size % 1024)
    file = Watched(sealed(data))
    reader = open_file(file, Ring(ME), "it")  # type: ignore[arg-type]
    for start, end in ranges:
        file.read_bytes = 0
        assert at_once(reader.read(start, end)) == data[start:end]
        touched = -(-min(end, size) // CHUNK) - start // CHUNK if start < min(end, size) else 0
        assert file.read_bytes <= touched * SEALED


class Watched(io.BytesIO):
    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


def test_the_work_of_a_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as age asks for is written; more than age does is not done, and is not begun."""
    monkeypatch.undo()
    assert stanzas.SCRYPT_WRITTEN == 18
    assert wrap_scrypt(FILE_KEY, "x").arguments[1] == "18"
    body = bytes(32)
    for factor in ("23", "60", "999999999"):
        with pytest.raises(EncryptionError, match=f"2\\*\\*{factor} rounds"):
            Passphrase("x").unwrap(Stanza("scrypt", ("A" * 22, factor), body))
    for factor in ("0", "01", "-1", "+10", "0x10", "1e1", "10 ", "", "9999999999999999999"):
        with pytest.raises(EncryptionError, match="damaged"):
            Passphrase("x").unwrap(Stanza("scrypt", ("A" * 22, factor), body))


def test_one_more_recipient_keeps_the_chunks() -> None:
    """What was encrypted for one is then for two; after the header it is the same, byte for byte."""
    other, data = X25519Identity.new(), os.urandom(CHUNK + 9)
    before, out = sealed(data), io.BytesIO()
    add_recipient(io.BytesIO(before), out, Ring(ME), other.public, "it")
    after = out.getvalue()
    assert opened(after) == opened(after, other) == data
    header, former = parse_header(after, is_all=True), parse_header(before, is_all=True)
    assert header is not None
    assert former is not None
    assert after[header.size :] == before[former.size :]
    assert header.stanzas[1:] == former.stanzas
    spoken, out = encrypted_bytes(data, Recipients(passphrase=Passphrase("x"))), io.BytesIO()
    add_recipient(io.BytesIO(spoken), out, Ring(Passphrase("x")), other.public, "it")
    assert opened(out.getvalue(), other) == data
    with pytest.raises(NoMatch):
        opened(out.getvalue(), Passphrase("x"))


# --- hostile files ---------------------------------------------------------------------------------------------------


def test_each_byte_of_a_header_counts() -> None:
    """Whichever is changed: it is refused, or nobody has a key for it; nothing is decrypted."""
    cipher = sealed(b"secret")
    header = parse_header(cipher, is_all=True)
    assert header is not None
    for at in range(header.size + TAG):
        changed = bytearray(cipher)
        changed[at] ^= 1
        with pytest.raises((EncryptionError, NoMatch)):
            opened(bytes(changed))


def test_a_file_that_is_cut_off_anywhere() -> None:
    """At each byte of the header, about each edge of a chunk, and within the last one."""
    data = os.urandom(2 * CHUNK + 100)
    cipher = sealed(data)
    header = parse_header(cipher, is_all=True)
    assert header is not None
    start = header.size + 16
    edges = [start + number * SEALED + off for number in range(3) for off in range(-18, 19)]
    for end in {
        *range(start + 20),
        *(edge for edge in edges if edge < len(cipher)),
        *range(len(cipher) - 40, len(cipher)),
    }:
        with pytest.raises(EncryptionError):
            opened(cipher[:end])


def test_chunks_in_another_order() -> None:
    """Swapped, doubled, left out, put behind, or taken from another file of the same key."""
    data = os.urandom(4 * CHUNK)
    cipher = sealed(data)
    header = parse_header(cipher, is_all=True)
    assert header is not None
    start = header.size + 16
    head, chunks = cipher[:start], [cipher[at : at + SEALED] for at in range(start, len(cipher), SEALED)]
    one, two, three, four = chunks
    for order in ([two, one, three, four], [one, one, three, four], [one, two, four], [one, two, three],
                  [one, two, three, four, four], [four], [one, two, three, four, b"x" * 40],
                  [one, two, three, four, b"x"], [one, two, three, four, bytes(TAG)]):  # fmt: skip
        with pytest.raises(EncryptionError, match=r"changed, cut off or extended|is cut off"):
            opened(head + b"".join(order))


def test_the_size_is_known_to_be_right_before_it_is_told() -> None:
    """A file that ends after a whole chunk looks like a shorter one: it is refused when it is opened."""
    cipher = sealed(os.urandom(3 * CHUNK))
    with pytest.raises(EncryptionError, match="the last one"):
        open_file(io.BytesIO(cipher[:-SEALED]), Ring(ME), "it")


def test_a_range_that_was_changed_is_refused_and_others_are_read() -> None:
    """Each chunk answers for itself."""
    data = os.urandom(3 * CHUNK)
    cipher = bytearray(sealed(data))
    cipher[-2 * SEALED - 5] ^= 1  # in the first chunk
    reader = open_file(io.BytesIO(bytes(cipher)), Ring(ME), "it")
    assert at_once(reader.read(CHUNK, 3 * CHUNK)) == data[CHUNK:]
    with pytest.raises(EncryptionError, match="Chunk 0 of"):
        at_once(reader.read(0, 2 * CHUNK))


def test_an_empty_last_chunk() -> None:
    """It is there only where there are no plain bytes at all; a file with one behind others is none of age's."""
    from kachery_cloud.encryption.stream import ChunkKey

    key, nonce = ChunkKey(FILE_KEY, bytes(16)), bytes(16)
    head = encode_header([wrap_x25519(FILE_KEY, ME.public, stanzas.X25519PrivateKey.generate())], FILE_KEY) + nonce
    assert opened(head + key.seal(0, b"", last=True)) == b""
    with pytest.raises(EncryptionError, match="cut off"):
        opened(head + key.seal(0, bytes(CHUNK), last=False) + key.seal(1, b"", last=True))


def test_headers_without_end() -> None:
    """Millions of recipients, a line without end, a body without end: refused within a bound."""
    magic = b"age-encryption.org/v1\n"
    many = magic + b"-> x\n\n" * (MAX_STANZAS + 1)
    with pytest.raises(EncryptionError, match=f"more than {MAX_STANZAS:,} recipients"):
        parse_header(many, is_all=False)
    for endless in (b"-> " + b"x" * MAX_HEADER, b"-> x\n" + (b"A" * 64 + b"\n") * (MAX_HEADER // 65 + 1)):
        with pytest.raises(EncryptionError, match="longer than"):
            parse_header(magic + endless, is_all=False)
    assert parse_header(magic + b"-> x\n", is_all=False) is None


@pytest.mark.parametrize(
    "data", [b"", b"age", b"age-encryption.org/v2\n", b"plain text", b"-----BEGIN AGE ENCRYPTED FILE"]
)
def test_what_is_no_age_file(data: bytes) -> None:
    """Says so, and how to load it as it is."""
    with pytest.raises(EncryptionError, match=r"no age file.*leave out encryption=age"):
        opened(data)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_behind_the_first_line(data: bytes) -> None:
    """Are a header, or refused; there is no other end."""
    try:
        header = parse_header(b"age-encryption.org/v1\n" + data, is_all=True)
    except EncryptionError:
        return
    assert header is not None


# --- errors of those who read and write ------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("recipients", [Recipients((ME.recipient,)), Recipients(passphrase=Passphrase("x"))])
def test_an_error_of_the_source_or_the_target_comes_through(
    failure: type[BaseException], recipients: Recipients
) -> None:
    """As it is, and not as one of the library."""

    class Broken(io.BytesIO):
        left = 3

        def _count(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise failure

        def read(self, size: int | None = -1, /) -> bytes:
            self._count()
            return super().read(size)

        def write(self, data: Any, /) -> int:
            self._count()
            return super().write(data)

    with pytest.raises(failure):
        encrypt(Broken(bytes(10 * CHUNK)), io.BytesIO(), recipients)
    with pytest.raises(failure):
        encrypt(io.BytesIO(bytes(10 * CHUNK)), Broken(), recipients)


def test_sources_that_give_little_at_a_time() -> None:
    """A pipe gives what is there; chunks are whole all the same."""

    class Drops(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7_777))

    data, out = os.urandom(2 * CHUNK + 1), io.BytesIO()
    write_age(
        Drops(data), out, FILE_KEY, [wrap_x25519(FILE_KEY, ME.public, stanzas.X25519PrivateKey.generate())], bytes(16)
    )
    assert opened(out.getvalue()) == data


# --- keys as text ----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_keys_as_text(secret: bytes) -> None:
    """As the other library writes and reads them."""
    identity = X25519Identity(secret)
    theirs = pyrage.x25519.Identity.from_str(identity.text)
    assert str(theirs) == identity.text
    assert str(theirs.to_public()) == identity.recipient
    assert X25519Identity.parse(identity.text) == identity
    assert bech32.decode(identity.recipient) == ("age", identity.public)
    assert secret.hex() not in repr(identity)
    assert identity.text not in repr(identity)


MISTYPED = [
    str.lower,
    str.title,
    lambda text: text[:-1],
    lambda text: text + "Q",
    lambda text: text[:20] + ("P" if text[20] == "Q" else "Q") + text[21:],
    lambda text: text.replace("KEY-1", "KEY-"),
    lambda text: "age1" + text[16:].lower(),
]


@pytest.mark.parametrize("change", MISTYPED)
def test_a_mistyped_key_is_not_repeated(change: Any) -> None:
    """The error says what is wrong and nothing of the key."""
    text = change(ME.text)
    with pytest.raises(InvalidArgument) as caught:
        X25519Identity.parse(text)
    assert ME.text[20:40] not in str(caught.value).upper()
