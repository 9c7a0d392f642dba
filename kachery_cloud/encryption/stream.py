"""The payload of an age v1 file: STREAM, in chunks of 64 KiB that are each encrypted and authenticated.

    payload = nonce (16 bytes) 1*chunk
    chunk   = ChaCha20-Poly1305(HKDF(file key, nonce, "payload"), counter (11 bytes) || last (1 byte), plain bytes)

A chunk says by its place which it is, and the last one that it is the last. So what was cut off, put together anew or
appended is noticed; and where the last chunk was checked, the size of the file can be believed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kachery_cloud.encryption.header import Header, Stanza, encode64, signed_part
from kachery_cloud.errors import EncryptionError

#: Plain bytes of a chunk, bytes of its tag, and both.
CHUNK = 64 * 1024
TAG = 16
SEALED = CHUNK + TAG
NONCE = 16
FILE_KEY = 16


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def header_mac(file_key: bytes, signed: bytes) -> bytes:
    """The MAC of a header."""
    return hmac.digest(derived(file_key, b"", b"header"), signed, hashlib.sha256)


def check_header(header: Header, file_key: bytes) -> None:
    """See that the header was written by somebody who had the file key.

    Raises:
        EncryptionError: it was not, or was changed.
    """
    if not hmac.compare_digest(header_mac(file_key, header.signed), header.mac):
        raise EncryptionError("The header of the age file was changed: its MAC is wrong.")


def encode_header(stanzas: list[Stanza], file_key: bytes) -> bytes:
    """A header with its MAC."""
    signed = signed_part(stanzas)
    return signed + f" {encode64(header_mac(file_key, signed))}\n".encode("ascii")


class ChunkKey:
    """The key of a payload: encrypts and decrypts chunks of it."""

    def __init__(self, file_key: bytes, nonce: bytes) -> None:
        self._cipher = ChaCha20Poly1305(derived(file_key, nonce, b"payload"))

    def seal(self, number: int, data: bytes, *, last: bool) -> bytes:
        """A chunk, from its plain bytes."""
        return self._cipher.encrypt(_nonce(number, last), data, None)

    def open(self, number: int, chunk: bytes | memoryview, *, last: bool) -> bytes:
        """The plain bytes of a chunk.

        Raises:
            EncryptionError: it is not what was written there.
        """
        try:
            return self._cipher.decrypt(_nonce(number, last), chunk, None)
        except InvalidTag:
            raise EncryptionError(
                f"Chunk {number:,} of the age file{', the last one,' if last else ''} is not what was encrypted there: "
                "the file was changed, cut off or extended."
            ) from None


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


@dataclass(frozen=True)
class Layout:
    """Where the chunks of an age file lie.

    Attributes:
        start: of the first chunk, in bytes from the beginning of the file.
        end: of the last chunk: the size of the file.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        rest = (self.end - self.start) % SEALED
        # A last chunk without plain bytes is there only where it is the only one.
        if self.end - self.start < TAG or 0 < rest < TAG or (rest == TAG and self.chunks > 1):
            raise EncryptionError("The age file is cut off: its last chunk is not whole.")

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-(self.end - self.start) // SEALED)

    @property
    def size(self) -> int:
        """Plain bytes. Not to be believed before the last chunk was checked."""
        return self.end - self.start - self.chunks * TAG

    def chunks_of(self, start: int, end: int) -> tuple[int, int]:
        """The chunks that hold a range of plain bytes, as the first and one past the last."""
        return (start // CHUNK, -(-end // CHUNK)) if start < end else (0, 0)

    def place_of(self, first: int, end: int) -> tuple[int, int]:
        """Where the chunks `first` to `end` lie in the file, as a range of bytes."""
        return self.start + first * SEALED, min(self.start + end * SEALED, self.end)

    def open(self, key: ChunkKey, first: int, data: bytes) -> list[bytes]:
        """The plain bytes of each of the chunks from `first` on, which lie behind each other in `data`.

        Raises:
            EncryptionError: one is not what was written there.
        """
        view, last = memoryview(data), self.chunks - 1
        return [
            key.open(first + place, view[at : at + SEALED], last=first + place == last)
            for place, at in enumerate(range(0, len(data), SEALED))
        ]
